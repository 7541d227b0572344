"""The replicas that are there of stages whose number follows the load: how many streams they take, and who sleeps."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from ray import serve
from ray.serve.handle import DeploymentHandle

from chatterbox_engine.errors import ModelUnavailable
from deployments.admission import Gate
from deployments.faults import ask
from deployments.settings import ServiceSettings, Stage

logger = logging.getLogger("ray.serve")

_LOOK_S = 1.0
"""Between two looks at what Serve says; what a request sees is as old at most."""
_HERE = "RUNNING"
_GONE = ("STOPPING", "STOPPED")


@dataclass(frozen=True, slots=True)
class Count:
    """Replicas of a stage."""

    ready: int
    coming: int = 0


def places(each: int, counts: Mapping[Stage, Count]) -> int:
    """Streams to let in, where each replica of S3Gen takes `each`.

    A stage that waits for replicas is short of them by what its policy reckons with, and the other's are of no use
    beyond that share. While all sleep, one replica's are let in, for whom the first of them come.
    """
    s3gen = counts["s3gen"]
    wanted = s3gen.ready + s3gen.coming
    shares = [count.ready / (count.ready + count.coming) for count in counts.values() if count.coming]
    return each * max(1, min([s3gen.ready, *(int(wanted * share) for share in shares)]))


def followed(let_in: int, each: int, before: Mapping[Stage, Count], counts: Mapping[Stage, Count]) -> int:
    """Streams to let in from now on, where it was `let_in`. As long as no replica goes they do not become fewer: that
    a stage is to have more replicas than it has takes nothing from those that it serves."""
    gone = any(counts[stage].ready < count.ready for stage, count in before.items())
    return max(places(each, counts), 0 if gone else min(let_in, each * counts["s3gen"].ready))


class Fleet:
    """Looks once a second at how many replicas of each stage there are; the gate follows.

    Where no stage scales it does nothing: the gate keeps the places of the settings.
    """

    def __init__(self, settings: ServiceSettings, handles: Mapping[Stage, DeploymentHandle], gate: Gate) -> None:
        """`handles`: of the stages that have replicas of their own."""
        self._settings = settings
        self._each = settings.engine_config().s3gen.max_streams
        self._handles = handles
        self._gate = gate
        self._told = 0
        self._places = 0
        self._counts: dict[Stage, Count] = {}
        """Empty before the first look."""
        self._waking: asyncio.Task[None] | None = None
        self._watching = None
        if any(settings.scales(stage) for stage in handles):
            self._watching = asyncio.ensure_future(self._watch())

    @property
    def asleep(self) -> tuple[Stage, ...]:
        """Stages without a replica that takes streams."""
        return tuple(stage for stage, count in self._counts.items() if not count.ready)

    @property
    def resting(self) -> bool:
        """Some stage has no replica, and none that comes."""
        return any(not count.ready + count.coming for count in self._counts.values())

    def to_ask(self, live: int) -> list[DeploymentHandle]:
        """Stages that a call does not wake, or keep from falling asleep, for which Ray takes any call for a reason:
        those that never sleep and, while streams are live, those that are there."""
        return [
            handle
            for stage, handle in self._handles.items()
            if stage not in self.asleep and (live or not self._settings.may_sleep(stage))
        ]

    async def awake(self) -> None:
        """Wake whoever sleeps, all at once, and wait for it. Raises ModelUnavailable after `wake_wait_s`; they come
        all the same."""
        if not self.asleep:
            return
        if self._waking is None or self._waking.done():
            logger.info("Waking %s.", " and ".join(self.asleep))
            self._waking = asyncio.create_task(self._wake(self.asleep))
        try:
            await asyncio.wait_for(asyncio.shield(self._waking), self._settings.wake_wait_s)
        except TimeoutError:
            raise ModelUnavailable("The model was asleep and is being woken. Try again in a few seconds.") from None

    async def _wake(self, stages: tuple[Stage, ...]) -> None:
        """A call that waits for a replica makes Serve start one; S3Gen's own would come to T3 only when it is awake."""
        await asyncio.gather(*(ask(self._handles[stage], "identities") for stage in stages))

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:  # the controller may be away for a while; what was seen last holds
                logger.warning("How many replicas there are cannot be seen (%s).", type(error).__name__)
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        seen = await asyncio.to_thread(self._seen)
        if seen != self._counts:
            self._places = followed(self._places, self._each, self._counts, seen)
            self._counts = seen
            self._gate.resize(self._places)
        refused, self._told = self._gate.refused - self._told, self._gate.refused
        if refused:
            awake = [handle for stage, handle in self._handles.items() if seen[stage].ready]
            await asyncio.gather(*(ask(handle, "turned_away", refused) for handle in awake))

    def _seen(self) -> dict[Stage, Count]:
        """Blocks for as long as Serve's controller takes to answer."""
        deployments = serve.status().applications[serve.get_replica_context().app_name].deployments
        counts: dict[Stage, Count] = {}
        for stage, handle in self._handles.items():
            states = deployments[handle.deployment_name].replica_states.items()
            here = sum(count for state, count in states if state == _HERE)
            counts[stage] = Count(here, sum(count for state, count in states if state not in _GONE) - here)
        return counts
