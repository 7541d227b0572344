"""S3Gen's loop: chunks of many streams through the flow and the vocoder, in batches."""

import threading
import time

import numpy as np
import torch
from torch import Tensor

from chatterbox_engine.accel.memory import give_back
from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.errors import InvalidRequest, Overloaded
from chatterbox_engine.s3gen.capacity import Capacity
from chatterbox_engine.s3gen.mels import ChunkedMels, Mels, WindowMels
from chatterbox_engine.s3gen.model import S3GenModel
from chatterbox_engine.s3gen.scheduler import Work, batch, ready
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.trend import Trend
from chatterbox_engine.types import SAMPLE_RATE, SAMPLES_PER_TOKEN, TOKEN_RATE, Interrupted, S3GenVoice
from chatterbox_engine.watermark import Watermarker
from chatterbox_engine.worker import Worker

_FADE = np.concatenate(
    (np.zeros(SAMPLE_RATE // 50), (1 + np.cos(np.linspace(np.pi, 0, SAMPLE_RATE // 50))) / 2)
).astype(np.float32)
"""20 ms of silence, then 20 ms of fade-in, at the start of what T3 speaks in one go (S3Token2Wav.trim_fade)."""


class S3GenEngine(Worker):
    """Speech tokens in, a stream of audio out, for many utterances at once."""

    def __init__(
        self,
        model: S3GenModel,
        switches: S3GenSwitches,
        watermarker: Watermarker | None,
        idle_s: float | None = None,
    ) -> None:
        super().__init__("s3gen", idle_s, model.device)
        self._model = model
        self._switches = switches
        self._watermarker = watermarker
        self._streams: list[SpeechStream] = []
        self._lock = threading.Lock()
        self.lookahead = model.spec.encoder.lookahead
        kind = ChunkedMels if switches.goes_on(model.spec.chunked) else WindowMels
        self._mels: Mels = kind(model, switches.cfm_steps)
        self._call_seconds = Trend()
        """Of a call, by its tokens."""
        auto = switches.admission == "auto"
        self._capacity = Capacity(switches.queue_chunks) if auto else None
        self._room = model.room(switches) if auto else None
        self.samples = 0
        """Samples of audio made since the start, and those for listeners who play them as they come."""
        self.heard = 0
        self.batch = 0
        """Streams of the last call."""
        self.watermark_seconds = 0.0
        self.begun = 0
        """Streams whose first sound was made; the seconds that they waited for their first tokens, and from then on."""
        self.first_tokens_seconds = 0.0
        self.first_sound_seconds = 0.0
        self.stalls = 0
        """Times that a listener ran dry, and seconds of it."""
        self.stalled_seconds = 0.0
        self.admitted = 0
        """Utterances begun since the start, and listeners that were turned away."""
        self.refused = 0

    @property
    def running(self) -> int:
        """Streams whose listener is there; whoever hangs up gives the place back at once, in the middle of a call."""
        return sum(not stream.audio.closed for stream in tuple(self._streams))

    @property
    def waiting(self) -> int:
        """None: whoever finds no place is turned away."""
        return 0

    @property
    def places(self) -> int:
        return self._switches.max_streams

    @property
    def carries(self) -> int | None:
        """Listeners that this engine has been seen to keep supplied; None where it is not known, or not looked at."""
        return None if self._capacity is None else self._capacity.carries()

    def full(self) -> bool:
        """A listener would be turned away: all places are taken, those who have one are about to run dry, or there is
        no memory for another."""
        return self._dry() or self._crowded()

    def wait_s(self) -> float:
        """None waits, see `waiting`."""
        return 0.0

    def slacks_s(self) -> list[float]:
        """Seconds until each listener whose audio is still being made runs dry, least first; below 0: is dry."""
        now = time.monotonic()
        live = [s for s in tuple(self._streams) if s.paced and s.playing and not s.audio.closed and not s.over()]
        return sorted(stream.due - now for stream in live)

    def open(
        self,
        voice: S3GenVoice,
        *,
        schedule: tuple[int, ...] | None = None,
        context_window: int | None = None,
        paced: bool = True,
        speed: float = 1.0,
        goes_on: bool = False,
        interrupted: Interrupted | None = None,
    ) -> SpeechStream:
        """Begin an utterance. `schedule` and `context_window` None: the configuration's; `paced` False: no listener
        plays it in real time, so it is made as fast as it can be; `speed`: of one who does; `goes_on`: for a listener
        who has been let in before, and finds a place beyond all; so does one whose utterance was `interrupted`: the
        stream has what is missing, once it is fed with the pieces from the one on that was being heard.

        Raises InvalidRequest where the voice is another model's, Overloaded where all places are taken, EngineDead if
        the loop has ended.
        """
        switches, spec = self._switches, self._model.spec
        if voice.feat.shape[2] != spec.mel_bins or voice.speaker.shape[1] != spec.speaker_width:
            raise InvalidRequest("The voice was made for another model: make it again from its clip.", "voice")
        if switches.prompt_seconds is not None:
            voice = voice.of(round(switches.prompt_seconds * TOKEN_RATE))
        with self._lock:
            self.check_alive()
            if not (goes_on or interrupted) and ((paced and self._dry()) or self._crowded(voice)):
                self.refused += paced
                raise Overloaded
            self.admitted += 1
            stream = SpeechStream(
                voice,
                self.lookahead,
                schedule or switches.chunk_schedule,
                switches.context_window if context_window is None else context_window,
                switches.max_lead_s if paced else None,
                self._watermarker.stream() if self._watermarker else None,
                self.wake,
                spec.opening_tokens,
                spec.closing_tokens,
                speed,
                switches.hurry_s if paced else None,
                interrupted,
            )
            self._streams.append(stream)
        return stream

    def step(self) -> bool:
        with self._lock:
            self._streams = [stream for stream in self._streams if not stream.audio.closed]
            streams = list(self._streams)
        over = [stream for stream in streams if stream.over()]
        if over:
            self._emit(over, [np.zeros(0, np.float32)] * len(over), final=True)
            self._let_go(over)
        work = ready(streams, time.monotonic(), self._mels.length, self._switches.queue_chunks)
        if not work:
            return bool(over)
        begin = time.monotonic()
        work, spare_s = batch(work, begin, self._switches.max_batch, self._mels.fits, self._call_seconds)
        if not work[0].chunk.piece.tokens:  # T3 had nothing to say
            self._emit([work[0].stream], [self._shaped(work[0], np.zeros(0, np.float32))], final=False)
            return True
        self.batch = len(work)
        samples = self._call(work)
        if self.failed:
            return True
        now = time.monotonic()
        self._call_seconds.see(len(work) * max(item.tokens for item in work), now - begin)
        if self._capacity is not None:
            self._capacity.observe(now, streams, samples, spare_s, (now - begin) / len(work))
        return True

    def has_work(self) -> bool:
        return bool(self._streams)

    def rest(self) -> None:
        self._mels.rest()
        self._model.to(torch.device("cpu"))
        give_back(self._model.device)

    def resume(self) -> None:
        self._model.to(self._model.device)

    def fail_all(self, error: BaseException) -> None:
        with self._lock:
            streams, self._streams = self._streams, []
        for stream in streams:
            stream.audio.fail(error)

    def _dry(self) -> bool:
        """Another would let those who listen run dry."""
        return self._capacity is not None and not self._capacity.admits(time.monotonic(), tuple(self._streams))

    def _crowded(self, voice: S3GenVoice | None = None) -> bool:
        """No place is left for another, or no memory."""
        return self.running >= self.places or not (self._room is None or self._room.admits(tuple(self._streams), voice))

    def _drop(self, work: list[Work], error: Exception) -> None:
        """Their call failed: these streams end, and give back what they kept; the others go on. Raises `error` where
        nothing can."""
        ending = self.outlived(error, len(work))
        self._let_go([item.stream for item in work])
        for item in work:
            item.stream.audio.fail(ending)

    def _let_go(self, ended: list[SpeechStream]) -> None:
        with self._lock:
            self._streams = [stream for stream in self._streams if stream not in ended]

    def _call(self, work: list[Work]) -> int:
        """Make and hand on the audio of chunks, one of each stream; returns its samples. Where that fails the streams
        end, or only those whose chunk fails by itself."""
        try:
            mels = self._mels(work)
        except Exception as error:
            if len(work) == 1 or not self._mels.repeats:
                self._drop(work, error)
                return 0
            mels = []
        if not mels:  # here, where no error holds on to what the call had made
            return sum(self._call([item]) for item in work)
        try:
            sounds = self._vocoded(work, mels)
            shaped = [self._shaped(item, sound.cpu().numpy()) for item, sound in zip(work, sounds, strict=True)]
            self._emit([item.stream for item in work], shaped, final=False)
        except Exception as error:
            self._drop(work, error)
            return 0
        self.went_well()
        return sum(map(len, sounds))

    def _vocoded(self, work: list[Work], mels: list[Tensor]) -> list[Tensor]:
        """The samples that each chunk's mel settles."""
        vocoder, pieces = self._model.vocoder, [item.chunk.piece for item in work]
        for piece in pieces:
            if piece.vocoder is None:
                piece.vocoder = vocoder.open(piece.seed)
        return vocoder.advance([piece.vocoder for piece in pieces], mels, [item.chunk.final for item in work])

    def _shaped(self, item: Work, sound: np.ndarray) -> np.ndarray:
        """A chunk's sound faded in at a piece's start, cropped at its end where the model asks so, then the pause."""
        stream, piece = item.stream, item.chunk.piece
        if item.chunk.final and self._model.spec.crop_last_token:
            kept = SAMPLES_PER_TOKEN * max(1, len(piece.tokens) - 1)
            sound = sound[: max(0, kept - piece.samples)]
        fade = _FADE[piece.samples : piece.samples + len(sound)]
        sound[: len(fade)] *= fade
        piece.samples += len(sound)
        if item.chunk.final and piece.pause_s:
            sound = np.concatenate((sound, np.zeros(round(piece.pause_s * SAMPLE_RATE), np.float32)))
        stream.commit(item.chunk, len(sound))
        return sound

    def _emit(self, streams: list[SpeechStream], sounds: list[np.ndarray], *, final: bool) -> None:
        """Hand each stream its sound, watermarked."""
        self.samples += sum(map(len, sounds))
        if self._watermarker is not None:
            begin = time.monotonic()
            marks = [stream.watermark for stream in streams if stream.watermark is not None]
            sounds = self._watermarker.push(marks, sounds, [final] * len(marks))
            self.watermark_seconds += time.monotonic() - begin
        for stream, sound in zip(streams, sounds, strict=True):
            before = stream.stalls, stream.stalled_s
            if len(sound) and not stream.playing:
                self.begun += 1
                self.first_tokens_seconds += stream.fed - stream.opened
                self.first_sound_seconds += time.monotonic() - stream.fed
            stream.emit(sound, final=final)
            if stream.paced:
                self.heard += len(sound)
                self.stalls += stream.stalls - before[0]
                self.stalled_seconds += stream.stalled_s - before[1]
