"""Calls from one deployment to another, and the errors that cross with them.

An error raised in a replica is logged there by Ray as a crash. What the engine raises on purpose is none: it travels
as a value, and is raised again on the caller's side.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, cast

from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from chatterbox_engine.errors import ChatterboxError, EngineDead

Given = ParamSpec("Given")
Result = TypeVar("Result")


GONE = (EngineDead, RayActorError, ObjectLostError, DeploymentUnavailableError)
"""What the end of a replica looks like to whoever reads from it."""
LIVES = 4
"""Replicas that what is spoken may take with it before it gets on: what kills one may kill the next."""
AGAIN_S = 0.5
"""Until Serve has heard of a replica's death, it may send the stream there again."""


class StoreUnavailable(ChatterboxError):
    """Where the service keeps voices or jobs cannot be used now."""


class ServiceEnding(ChatterboxError):
    """It lets its streams end and takes no new ones."""

    def __init__(self) -> None:
        super().__init__("The service is ending and takes no new streams. Try again in a few seconds.")


def answers(method: Callable[Given, Awaitable[Result]]) -> Callable[Given, Awaitable[Result | ChatterboxError]]:
    """A deployment's method whose errors of purpose come back as values, for `ask`."""

    @functools.wraps(method)
    async def answering(*args: Given.args, **kwargs: Given.kwargs) -> Result | ChatterboxError:
        try:
            return await method(*args, **kwargs)
        except ChatterboxError as error:
            return error

    return answering


def streams(
    method: Callable[Given, AsyncIterator[Result]],
) -> Callable[Given, AsyncIterator[Result | ChatterboxError]]:
    """A deployment's streaming method whose errors of purpose come as its last item, for `Stream`."""

    @functools.wraps(method)
    async def streaming(*args: Given.args, **kwargs: Given.kwargs) -> AsyncIterator[Result | ChatterboxError]:
        items = method(*args, **kwargs)
        try:
            async for item in items:
                yield item
        except ChatterboxError as error:
            yield error
        finally:
            await items.aclose()  # type: ignore[attr-defined]

    return streaming


async def ask(handle: DeploymentHandle, method: str, *arguments: Any) -> Any:
    """Call another deployment's method; raises what was raised there."""
    try:
        answer = await handle.options(method_name=method).remote(*arguments)
    except RayTaskError as error:
        raise unwrap(error) from None
    if isinstance(answer, ChatterboxError):
        raise answer
    return answer


class Stream:
    """A call of another deployment's streaming method: its items, and what was raised there."""

    def __init__(self, handle: DeploymentHandle, method: str, *arguments: Any) -> None:
        call = handle.options(method_name=method, stream=True).remote(*arguments)
        self._items = cast(DeploymentResponseGenerator, call)

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Any:
        try:
            item = await self._items.__anext__()
        except RayTaskError as error:
            raise unwrap(error) from None
        if isinstance(item, ChatterboxError):
            raise item
        return item

    def cancel(self) -> None:
        """End the call there, too. Safe after its end."""
        self._items.cancel()

    async def aclose(self) -> None:
        """`cancel`, by the name that generators have for it."""
        self.cancel()


def unwrap(error: BaseException) -> BaseException:
    """The error as it was raised, without the wrappers that Ray put around it on each hop."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error
