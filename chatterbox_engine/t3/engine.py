"""T3's loop: continuous batching of requests, a token a step for each."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from chatterbox_engine.accel.quantization import stored_bytes
from chatterbox_engine.config import T3Switches
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.t3.job import Job
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.t3.runner import Drawn, Runner, Shape
from chatterbox_engine.t3.sampling import draw_reference
from chatterbox_engine.t3.scheduler import Scheduler, Sequence, grouped
from chatterbox_engine.t3.token_stream import TokenStream
from chatterbox_engine.t3.voice_prefix import VoicePrefixes
from chatterbox_engine.types import TOKEN_RATE, VALID_TOKENS, SamplingParams, T3Voice
from chatterbox_engine.worker import Worker

_PREFILL_TOGETHER = {"cpu": 512, "cuda": 1 << 30}
"""Positions (rows x positions) in one call: on a CPU those of many prompts leave the caches between two layers."""

_Part = tuple[int, int, Tensor]
"""To be prefilled: a row of the cache, the position where it goes on, and embeddings (C, W)."""


class T3Engine(Worker):
    """Text tokens in, a stream of valid speech tokens out, for many requests at once.

    On a GPU the host is one step behind: it launches a step, then reads the tokens of the one before.
    """

    def __init__(
        self, model: T3Model, switches: T3Switches, max_waiting: int = 1024, idle_s: float | None = None
    ) -> None:
        super().__init__("t3", idle_s, model.device, urgent=True)
        self._model = model
        self._switches = switches
        guard = switches.alignment_guard
        self.runner = Runner(model, switches, model.spec.alignment_guard if guard == "auto" else guard == "on")
        self._scheduler = Scheduler(switches.max_streams, switches.prefill_positions, max_waiting)
        self._prefill_together = 1 if switches.exact else _PREFILL_TOGETHER[model.device.type]
        self._jobs: dict[Sequence, Job] = {}
        self._arrivals: deque[Job] = deque()
        self._lock = threading.Lock()
        self._prefixes = VoicePrefixes(model)
        self._flying: deque[tuple[Drawn, list[Job]]] = deque()
        self._ahead = 1 if model.device.type == "cuda" and not switches.exact else 0
        """Steps that may be on the device while the host goes on."""
        self.tokens = 0
        """Tokens sampled since the start."""
        self.batch = 0
        """Streams of the last decode step."""
        self.admitted = 0
        """Requests since the start, and those for which the queue had no room."""
        self.refused = 0
        self.placed = 0
        """Requests that got a place, and the seconds that they had waited for it."""
        self.queue_seconds = 0.0

    @property
    def running(self) -> int:
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        return len(self._scheduler.waiting) + len(self._arrivals)

    @property
    def live_bytes(self) -> int:
        """Of keys and values of the streams that run."""
        return self.position_bytes * sum(s.width * s.length for s in tuple(self._scheduler.running))

    @property
    def places(self) -> int:
        return self._switches.max_streams

    @property
    def carries(self) -> int | None:
        """Not known: how fast steps are says little of how many streams a step may have."""
        return None

    def full(self) -> bool:
        """A stream would wait for a place."""
        return self.running + self.waiting >= self.places

    def wait_s(self) -> float:
        """Seconds that the listener of whoever waits longest has had nothing to play."""
        return max((time.monotonic() - sequence.due for sequence in tuple(self._scheduler.waiting)), default=0.0)

    def slacks_s(self) -> list[float]:
        """Seconds until each listener would run dry if T3 alone kept them waiting, least first; below 0: is dry."""
        now, limit = time.monotonic(), self._switches.queue_tokens
        jobs = [job for job in tuple(self._jobs.values()) if not job.stream.full(limit)]
        return sorted(job.drawn / TOKEN_RATE - (now - job.since) for job in jobs if job.since is not None)

    @property
    def position_bytes(self) -> int:
        """Bytes of the KV cache that a position of one row takes."""
        return self.runner.cache.position_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one decode step reads."""
        return stored_bytes(self._model.layers) + stored_bytes(self._model.speech_head)

    @torch.inference_mode()
    def capture(self, progress: Callable[[str, list[Shape]], Iterable[Shape]]) -> None:
        """Capture the steps of every batch and length, the largest first; before `start`. No-op without graphs."""
        if self.runner.graphs.enabled:
            for shape in progress("CUDA graphs", self.runner.shapes()):
                self.runner.capture(shape)

    def submit(
        self,
        text: list[int],
        voice: T3Voice,
        params: SamplingParams,
        tokens_wanted: int | None = None,
        spoken: tuple[int, ...] = (),
        slack_s: float = 0.0,
    ) -> TokenStream:
        """Queue framed text tokens; returns the stream of valid speech tokens. Close it to cancel.

        `spoken`: the tokens with which another engine began; the stream has those after them, drawn as it would have,
        but for marks. `slack_s`: what its listener has still to play; of those who wait the least goes first.

        Raises InvalidRequest where text and max_new_tokens do not fit a row or the model's positions, or the voice is
        another model's, EngineDead if the loop has ended.
        """
        spec = self._model.spec
        if voice.speaker.shape[1] != spec.speaker_width or voice.prompt.shape[1] > spec.max_speech_tokens:
            raise InvalidRequest("The voice was made for another model: make it again from its clip.", "voice")
        if len(text) > spec.max_text_tokens:
            raise InvalidRequest(f"The text has {len(text)} tokens; this model takes {spec.max_text_tokens}.", "input")
        spec.check(params)
        voice_positions = self._model.voice_positions(voice.prompt.shape[1])
        length = self._model.prompt_length(voice_positions, len(text))
        most = self.runner.cache.scratch
        if length + params.max_new_tokens > most:
            raise InvalidRequest(
                f"The text takes {length} positions and max_new_tokens asks for {params.max_new_tokens} more, "
                f"but a row has {most}. Shorten one of them, or raise t3.max_positions.",
                "input",
            )
        exact = self._switches.exact
        job = Job(
            text=text,
            voice=voice,
            params=params,
            tokens_wanted=tokens_wanted,
            sequence=Sequence(
                2 if spec.cfg and params.cfg_weight > 0 else 1, length + len(spoken), due=time.monotonic() + slack_s
            ),
            stream=TokenStream(self.wake),
            spoken=spoken,
            generator=self._generator(params.seed, len(spoken)) if exact else None,
            drawn=len(spoken),
            valid=len(spoken),
            since=time.monotonic() + slack_s - len(spoken) / TOKEN_RATE if slack_s else None,
        )
        with self._lock:
            self.check_alive()
            self._arrivals.append(job)
            self.admitted += 1
        self.wake()
        return job.stream

    def step(self) -> bool:
        self._take_arrivals()
        self._drop_closed()
        for sequence in self._scheduler.admit():
            job = self._jobs[sequence]
            self.placed += 1
            self.queue_seconds += time.monotonic() - job.asked
            try:
                self._prepare(job)
            except Exception as error:
                self._drop([job], error)
        limit = self._switches.queue_tokens
        decoding = [
            job
            for sequence in self._scheduler.running
            if not sequence.prefilling
            and sequence.steps + len((job := self._jobs[sequence]).spoken) < job.params.max_new_tokens
            and not job.stream.full(limit)
        ]
        prefill = self._scheduler.prefill()
        if decoding:
            self._decode(decoding)
        if prefill:
            self._prefill(prefill, self._prefill_together)
        worked = bool(self._flying)  # a step that waits for its tokens is work, too
        while len(self._flying) > (self._ahead if decoding else 0):
            self._land(*self._flying.popleft())
        return worked or bool(prefill)

    def has_work(self) -> bool:
        return bool(self._jobs or self._arrivals)

    def rest(self) -> None:
        self._prefixes.clear()
        self.runner.rest()

    def resume(self) -> None:
        self.runner.resume()

    def fail_all(self, error: BaseException) -> None:
        with self._lock:
            jobs = [*self._jobs.values(), *self._arrivals]
            self._arrivals.clear()
        for job in jobs:
            job.stream.fail(error)

    def _take_arrivals(self) -> None:
        with self._lock:
            arrivals = list(self._arrivals)
            self._arrivals.clear()
        for job in arrivals:
            try:
                self._scheduler.submit(job.sequence)
                self._jobs[job.sequence] = job
            except Exception as error:
                self.refused += 1
                job.stream.fail(error)

    def _drop_closed(self) -> None:
        for job in [job for job in self._jobs.values() if job.stream.closed]:
            self._release(job)

    def _drop(self, jobs: list[Job], error: Exception) -> None:
        """Their call failed: they end, and the others go on. Raises `error` where nothing can."""
        ending = self.outlived(error, len(jobs))
        for job in jobs:
            job.stream.fail(ending)
            self._release(job)

    def _release(self, job: Job) -> None:
        job.released = True
        for move in self._scheduler.release(job.sequence):
            self.runner.cache.move(*move)
        del self._jobs[job.sequence]

    def _prepare(self, job: Job) -> None:
        """Embed the prompt of each of the job's rows, and begin them with what is kept of the voice."""
        sequence, kept = job.sequence, self._switches.voice_prefix
        prefix = self._prefixes.embeddings(job.voice, keep=kept != "off")
        job.prompts = [
            self._model.prompt(prefix, job.params.exaggeration, job.text, row == 0, job.spoken)
            for row in range(sequence.width)
        ]
        text = self._model.text_place(len(prefix)), len(job.text)
        self.runner.batch.join(sequence.slot, job.params, sequence.prompt_length, text, job.spoken)
        saved = self._prefixes.keys_values(job.voice.id) if self._keeps_keys_values else None
        if saved is not None:
            for row in sequence.rows:
                self.runner.cache.restore(row, saved)
            sequence.prefilled = saved.shape[3]
        if sequence.width == 2 and self._keeps_keys_values:
            wordless = self._prefixes.wordless(job.voice.id, job.params.exaggeration, sum(text))
            if wordless is not None:
                self.runner.cache.restore(sequence.rows[1], wordless)
                sequence.wordless = sum(text)

    @property
    def _keeps_keys_values(self) -> bool:
        return self._switches.voice_prefix == "kv" and not self._switches.exact

    def _prefill(self, plan: list[tuple[Sequence, int]], together: int) -> None:
        """`together`: positions in one call. Of a call that fails each prompt is tried by itself, and whose prompt
        fails ends alone."""
        for group in grouped(plan, together):
            made = None
            try:
                made = self._prompted(group)
            except Exception as error:
                if len(group) == 1:
                    self._drop([self._jobs[sequence] for sequence, _ in group], error)
            if made is None:
                if len(group) > 1:  # here, where no error holds on to what the call had made
                    self._prefill(group, 1)
                continue
            self.went_well()
            place, logits, attention = made
            finished = [self._jobs[sequence] for sequence, _ in group if not sequence.prefilling]
            if finished:
                pairs = [(place[job.sequence.rows[0]], place[job.sequence.rows[-1]]) for job in finished]
                try:
                    self._draw_first(finished, pairs, logits, attention)
                except Exception as error:
                    self._drop(finished, error)

    def _prompted(self, group: list[tuple[Sequence, int]]) -> tuple[dict[int, int], Tensor, Tensor | None]:
        """The next positions of these prompts: where each row's logits lie, and what Runner.prefill returns."""
        parts: list[_Part] = []
        ends: list[_Part] = []  # of unconditioned rows whose keys and values were kept
        for sequence, count in group:
            prompts, begin = self._jobs[sequence].prompts, sequence.prefilled
            for row, prompt in zip(sequence.rows, prompts, strict=True):
                if row == sequence.rows[0] or not sequence.wordless:
                    parts.append((row, begin, prompt[begin : begin + count]))
                elif begin + count == sequence.prompt_length:
                    ends.append((row, sequence.wordless, prompt[sequence.wordless :]))
        logits, attention = self.runner.prefill(*zip(*parts, strict=True))
        if ends:  # the guard looks at conditioned rows alone
            logits = torch.cat((logits, self.runner.prefill(*zip(*ends, strict=True))[0]))
        for sequence, count in group:
            sequence.prefilled += count
        return {row: index for index, (row, _, _) in enumerate((*parts, *ends))}, logits, attention

    def _draw_first(
        self, jobs: list[Job], pairs: list[tuple[int, int]], logits: Tensor, attention: Tensor | None
    ) -> None:
        slots = [job.sequence.slot for job in jobs]
        sort = any(job.sort for job in jobs)
        drawn = self.runner.draw_first(slots, pairs, logits, attention, sort, self._generators(jobs))
        self._launched(drawn, jobs)
        for job in jobs:
            job.prompts = []
            if self._keeps_keys_values:
                self._keep(job)

    def _keep(self, job: Job) -> None:
        """Keep the keys and values of a prompt that other requests of its voice have in common with it."""
        sequence, voice, cache = job.sequence, job.voice, self.runner.cache
        positions = self._model.voice_positions(voice.prompt.shape[1])
        if self._prefixes.keys_values(voice.id) is None:
            self._prefixes.keep_keys_values(voice.id, cache.save(sequence.rows[0], positions))
        if sequence.width == 2 and not sequence.wordless:
            made = cache.save(sequence.rows[1], self._model.text_place(positions) + len(job.text))
            self._prefixes.keep_wordless(voice.id, job.params.exaggeration, made)

    def _decode(self, jobs: list[Job]) -> None:
        self.batch = len(jobs)
        if self._switches.exact:
            for job in jobs:
                rows = job.sequence.rows
                drawn = self.runner.decode(
                    [job.sequence.slot] * len(rows), [job.sequence.slot], [(0, len(rows) - 1)],
                    job.sequence.length + 1, False, job.sort, first_row=rows[0], generators=self._generators([job]),
                )  # fmt: skip
                self._launched(drawn, [job])
            return
        # Every live row takes part, so that the cache is read as one block. A row whose stream waits writes at the
        # place that its next real step overwrites.
        lengths = {sequence.length for sequence in self._scheduler.running}
        drawn = self.runner.decode(
            [sequence.slot for sequence in self._scheduler.owners],
            [job.sequence.slot for job in jobs],
            [(job.sequence.rows[0], job.sequence.rows[-1]) for job in jobs],
            max(lengths) + 1,
            len(lengths) > 1,
            any(job.sort for job in jobs),
        )
        self._launched(drawn, jobs)

    def _generator(self, seed: int, draws: int) -> torch.Generator:
        """The reference's, after so many draws, which take the same from it whatever is drawn."""
        generator = torch.Generator(self._model.device).manual_seed(seed)
        for _ in range(draws):
            draw_reference(torch.ones(1, self._model.spec.speech_vocab, device=self._model.device), generator)
        return generator

    def _generators(self, jobs: list[Job]) -> list[torch.Generator] | None:
        if not self._switches.exact:
            return None
        return [job.generator for job in jobs if job.generator is not None]

    def _launched(self, drawn: Drawn, jobs: list[Job]) -> None:
        for job in jobs:
            job.sequence.steps += 1
        self._flying.append((drawn, jobs))

    def _land(self, drawn: Drawn, jobs: list[Job]) -> None:
        """Hand on the tokens of a step that is through; those of a stream that ended meanwhile are nobody's."""
        self.tokens += len(jobs)
        for job, (token, place) in zip(jobs, drawn.tolist(), strict=True):
            if not job.released:
                self._hand_on(job, token, place)

    def _hand_on(self, job: Job, token: int, place: int | None) -> None:
        spec = self._model.spec
        job.drawn += 1
        if job.since is None and job.drawn == TOKEN_RATE:
            job.since = time.monotonic()
        stopped = token == spec.stop_speech and job.tokens_wanted is None and (job.drawn > 1 or spec.stop_at_first)
        valid = [token] if token < VALID_TOKENS and not stopped else []
        job.valid += len(valid)
        if valid and place is not None:
            job.stream.places.append(place)
        final = stopped or job.drawn >= job.params.max_new_tokens or job.valid == job.tokens_wanted
        job.stream.put(valid, final=final)
        if final:
            self._release(job)
