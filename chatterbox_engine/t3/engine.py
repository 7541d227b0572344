"""T3's loop: continuous batching of requests, a token a step for each."""

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatterbox_engine.config import T3Switches
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.mailbox import Mailbox
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.t3.runner import Runner
from chatterbox_engine.t3.sampling import draw, draw_reference, guide, process
from chatterbox_engine.t3.scheduler import Scheduler, Sequence
from chatterbox_engine.types import VALID_TOKENS, SamplingParams, T3Voice
from chatterbox_engine.worker import Worker

_VOICES = 64
"""Voices whose prompt stays computed."""


@dataclass(eq=False, slots=True)
class _Job:
    """One request: its place in the scheduler, its outbox, and what sampling needs."""

    text: list[int]
    voice: T3Voice
    params: SamplingParams
    tokens_wanted: int | None
    """Valid tokens after which to stop, for weights that never sample the stop token."""
    sequence: Sequence
    stream: Mailbox[int]
    generator: torch.Generator | None
    prompts: list[Tensor] = field(default_factory=list)
    """Embeddings (P, W) of each row."""
    seen: Tensor | None = None
    """(V,) bool: ids sampled so far, and the start token; the repetition penalty is theirs."""
    last_token: int = 0
    valid: int = 0


class T3Engine(Worker):
    """Text tokens in, a stream of valid speech tokens out, for many requests at once."""

    def __init__(self, model: T3Model, switches: T3Switches, max_waiting: int = 1024) -> None:
        super().__init__("t3")
        self._model = model
        self._switches = switches
        self._runner = Runner(model, 2 * switches.max_streams, switches.max_positions)
        self._scheduler = Scheduler(switches.max_streams, switches.prefill_positions, max_waiting)
        self._jobs: dict[Sequence, _Job] = {}
        self._arrivals: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._prefixes: OrderedDict[str, Tensor] = OrderedDict()
        self.tokens = 0
        """Tokens sampled since the start."""
        self.batch = 0
        """Streams of the last decode step."""

    @property
    def running(self) -> int:
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        return len(self._scheduler.waiting) + len(self._arrivals)

    def submit(
        self, text: list[int], voice: T3Voice, params: SamplingParams, tokens_wanted: int | None = None
    ) -> Mailbox[int]:
        """Queue framed text tokens; returns the stream of valid speech tokens. Close it to cancel.

        Raises InvalidRequest where text and max_new_tokens do not fit a row or the voice is another model's, EngineDead
        if the loop has ended.
        """
        spec = self._model.spec
        if voice.speaker.shape[1] != spec.speaker_width or voice.prompt.shape[1] > spec.max_speech_tokens:
            raise InvalidRequest("The voice was made for another model: make it again from its clip.", "voice")
        if len(text) > spec.max_text_tokens:
            raise InvalidRequest(f"The text has {len(text)} tokens; this model takes {spec.max_text_tokens}.", "input")
        length = self._model.prompt_length(len(text))
        if length + params.max_new_tokens > self._switches.max_positions:
            raise InvalidRequest(
                f"The text takes {length} positions and max_new_tokens asks for {params.max_new_tokens} more, "
                f"but a row has {self._switches.max_positions}. Shorten one of them, or raise t3.max_positions.",
                "input",
            )
        exact = self._switches.exact
        job = _Job(
            text=text,
            voice=voice,
            params=params,
            tokens_wanted=tokens_wanted,
            sequence=Sequence(2 if params.cfg_weight > 0 else 1, length),
            stream=Mailbox(self.wake),
            generator=torch.Generator(self._model.device).manual_seed(params.seed) if exact else None,
        )
        with self._lock:
            self.check_alive()
            self._arrivals.append(job)
        self.wake()
        return job.stream

    def step(self) -> bool:
        self._take_arrivals()
        self._drop_closed()
        for sequence in self._scheduler.admit():
            self._prepare(self._jobs[sequence])
        decoding = [
            job
            for sequence in self._scheduler.running
            if not sequence.prefilling and not (job := self._jobs[sequence]).stream.full(self._switches.queue_tokens)
        ]
        prefill = self._scheduler.prefill()
        if decoding:
            self._decode(decoding)
        if prefill:
            self._prefill(prefill)
        return bool(decoding or prefill)

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
                job.stream.fail(error)

    def _drop_closed(self) -> None:
        for job in [job for job in self._jobs.values() if job.stream.closed]:
            self._release(job)

    def _release(self, job: _Job) -> None:
        for move in self._scheduler.release(job.sequence):
            self._runner.cache.move(*move)
        del self._jobs[job.sequence]

    def _prepare(self, job: _Job) -> None:
        """Embed the prompt of each of the job's rows."""
        spec = self._model.spec
        prefix = self._prefix(job.voice)
        job.prompts = [
            self._model.prompt(prefix, job.params.exaggeration, job.text, conditioned=row == 0)
            for row in range(job.sequence.width)
        ]
        job.seen = torch.zeros(spec.speech_vocab, dtype=torch.bool, device=self._model.device)
        job.seen[spec.start_speech] = True

    def _prefix(self, voice: T3Voice) -> Tensor:
        if voice.id not in self._prefixes:
            device = self._model.device
            self._prefixes[voice.id] = self._model.voice_prefix(voice.speaker.to(device), voice.prompt.to(device))
            if len(self._prefixes) > _VOICES:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(voice.id)
        return self._prefixes[voice.id]

    def _prefill(self, plan: list[tuple[Sequence, int]]) -> None:
        groups = [[item] for item in plan] if self._switches.exact else [plan]
        for group in groups:
            rows, starts, prompts = [], [], []
            for sequence, count in group:
                begin = sequence.prefilled
                rows += sequence.rows
                starts += [begin] * sequence.width
                prompts += [prompt[begin : begin + count] for prompt in self._jobs[sequence].prompts]
            logits = self._runner.prefill(rows, starts, prompts)
            finished, first, last, row = [], [], [], 0
            for sequence, count in group:
                sequence.prefilled += count
                if not sequence.prefilling:
                    finished.append(self._jobs[sequence])
                    first.append(row)
                    last.append(row + sequence.width - 1)
                row += sequence.width
            if finished:
                self._sample(finished, logits, first, last)
            for job in finished:
                job.prompts = []

    def _decode(self, jobs: list[_Job]) -> None:
        self.batch = len(jobs)
        if self._switches.exact:
            for job in jobs:
                rows = job.sequence.rows
                self._sample([job], self._decode_rows(rows, [job.sequence] * len(rows)), [0], [len(rows) - 1])
            return
        # Every live row takes part, so that the cache is read as one block. A row whose stream waits writes at the
        # place that its next real step overwrites.
        owners = self._scheduler.owners
        logits = self._decode_rows(list(range(len(owners))), owners)
        self._sample(jobs, logits, [job.sequence.rows[0] for job in jobs], [job.sequence.rows[-1] for job in jobs])

    def _decode_rows(self, rows: list[int], owners: list[Sequence]) -> Tensor:
        """Feed each row its stream's last token; returns logits (R, V)."""
        device = self._model.device
        return self._runner.decode(
            rows,
            [sequence.length for sequence in owners],
            torch.tensor([self._jobs[sequence].last_token for sequence in owners], device=device),
            torch.tensor([sequence.steps for sequence in owners], device=device),
        )

    def _sample(self, jobs: list[_Job], logits: Tensor, conditioned: list[int], unconditioned: list[int]) -> None:
        """Draw the next token of each job from its two rows of logits (R, V), or its one, and hand it on."""
        device = logits.device
        column = {
            name: torch.tensor([[getattr(job.params, name)] for job in jobs], device=device)
            for name in ("cfg_weight", "repetition_penalty", "temperature", "min_p")
        }
        top_p = [[job.params.top_p] for job in jobs]
        guided = guide(
            logits,
            torch.tensor(conditioned, device=device),
            torch.tensor(unconditioned, device=device),
            column["cfg_weight"],
        )
        seen = torch.stack([job.seen for job in jobs if job.seen is not None])
        probabilities = process(
            guided,
            seen,
            column["repetition_penalty"],
            column["temperature"],
            column["min_p"],
            None if min(top_p) == [1.0] else torch.tensor(top_p, dtype=torch.float64, device=device),
        )
        if self._switches.exact:
            generators = [job.generator for job in jobs if job.generator is not None]
            drawn = torch.cat([draw_reference(p[None], g) for p, g in zip(probabilities, generators, strict=True)])
        else:
            drawn = draw(
                probabilities,
                torch.tensor([job.params.seed for job in jobs], device=device),
                torch.tensor([job.sequence.steps for job in jobs], device=device),
            )
        self.tokens += len(jobs)
        for job, token in zip(jobs, drawn.tolist(), strict=True):
            self._hand_on(job, token)

    def _hand_on(self, job: _Job, token: int) -> None:
        job.sequence.steps += 1
        job.last_token = token
        assert job.seen is not None
        job.seen[token] = True
        stopped = token == self._model.spec.stop_speech and job.tokens_wanted is None
        valid = [token] if token < VALID_TOKENS and not stopped else []
        job.valid += len(valid)
        final = stopped or job.sequence.steps >= job.params.max_new_tokens or job.valid == job.tokens_wanted
        job.stream.put(valid, final=final)
        if final:
            self._release(job)
