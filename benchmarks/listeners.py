"""python -m benchmarks listeners: how many hear the engine in real time without a stall, and how soon they hear it.

So many listeners in one process with the engine, without Ray or HTTP (the load tests go through both): each has a text
spoken, plays it as it comes, and asks again when all of it has been heard, for as long as is asked for. On a GPU the
raw figures have what the device tells meanwhile, by the names of the metrics.
"""

import argparse
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np
from tqdm import tqdm

from benchmarks import conditions, subject
from benchmarks.e2e import TEXT
from benchmarks.report import Column, Report, Row, file_name, number, percent
from benchmarks.subject import Subject
from benchmarks.t3 import counts
from chatterbox_engine.errors import Overloaded
from chatterbox_engine.metrics import Readings
from chatterbox_engine.readings import device_readings
from chatterbox_engine.stages import S3GenStage, T3Stage
from chatterbox_engine.text import split
from chatterbox_engine.types import SAMPLE_RATE
from chatterbox_engine.utterance import Utterance
from loadtest.playback import Playback

_AGAIN_S = 1.0
"""After a refusal."""
_ROOM = 2
"""Places beyond the listeners: one that is just over may still have its own."""

COLUMNS = (
    Column("listeners", "listeners"),
    Column("heard", "utterances"),
    Column("refused", "refused"),
    Column("stalled", "of these stalled"),
    Column("stalled_s", "silence, s", number),
    Column("first_p50_s", "first audio p50, s", number),
    Column("first_p95_s", "p95", number),
    Column("first_p99_s", "p99", number),
    Column("carried", "audio s a second", number),
    Column("t3_busy", "T3 busy", percent),
    Column("s3gen_busy", "S3Gen busy", percent),
    Column("gpu_busy", "GPU busy", percent),
)


class Engine:
    """Both stages in one process, and what they are asked for."""

    def __init__(self, given: Subject, text: str, tokens: int) -> None:
        checkpoint = given.checkpoint()
        spec = checkpoint.spec
        self._voice = subject.voice_of(checkpoint)
        self._pieces = split(text, spec.piece_characters, "en")
        self._params = spec.sampling.model_copy(update={"max_new_tokens": tokens})
        self.t3 = T3Stage(checkpoint, given.config, given.device)
        self.s3gen = S3GenStage(checkpoint, given.config, given.device)
        self.t3.warm_up(self._voice)
        self.s3gen.warm_up(self._voice)

    def speak(self, seed: int) -> Utterance:
        """To a listener in real time. Raises Overloaded."""
        params = self._params.model_copy(update={"seed": seed})
        return Utterance(self.t3, self.s3gen, self._voice, self._pieces, params, "en", None, None, paced=True)

    def close(self) -> None:
        self.t3.engine.stop()
        self.s3gen.engine.stop()


@dataclass
class Crowd:
    """What so many listeners heard; each writes to it."""

    heard: list[Playback] = field(default_factory=list)
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def listen(engine: Engine, crowd: Crowd, until: float, index: int) -> None:
    """One listener, who begins within the first second, at another moment than the others."""
    time.sleep(0.61803 * index % 1.0)
    for utterance in count():
        if time.monotonic() >= until:
            return
        player = Playback(time.monotonic(), SAMPLE_RATE)
        try:
            for chunk, _ in engine.speak(1000 * index + utterance).chunks():
                player.received(chunk.shape[1], time.monotonic())
        except Overloaded:
            with crowd.lock:
                crowd.refused += 1
            time.sleep(_AGAIN_S)
            continue
        with crowd.lock:
            crowd.heard.append(player)
        time.sleep(max(0.0, player.ends_at - time.monotonic()))


def measure(engine: Engine, listeners: int, seconds: float) -> Row:
    """Let so many listen for so many seconds, and to what they have begun until its end."""
    t3, s3gen = engine.t3.engine, engine.s3gen.engine
    crowd, begin = Crowd(), time.monotonic()
    before = t3.busy_seconds, s3gen.busy_seconds, s3gen.samples
    device: Readings = {}
    amid = threading.Timer(seconds / 2, lambda: device.update(device_readings(engine.s3gen.model.device)))
    with ThreadPoolExecutor(listeners) as pool:
        amid.start()
        list(pool.map(partial(listen, engine, crowd, begin + seconds), range(listeners)))
    amid.join()
    took = max((player.last_at for player in crowd.heard), default=time.monotonic()) - begin
    firsts = [player.first_at - player.begin for player in crowd.heard if player.first_at is not None]
    row: Row = {
        "listeners": listeners,
        "heard": len(crowd.heard),
        "refused": crowd.refused,
        "stalled": sum(player.stalls > 0 for player in crowd.heard),
        "stalled_s": sum(player.stall_seconds for player in crowd.heard),
        "carried": (s3gen.samples - before[2]) / SAMPLE_RATE / took,
        "t3_busy": (t3.busy_seconds - before[0]) / took,
        "s3gen_busy": (s3gen.busy_seconds - before[1]) / took,
    } | device  # by the metrics' names, as an exporter would tell them
    if firsts:
        row |= {f"first_p{share}_s": float(np.percentile(firsts, share)) for share in (50, 95, 99)}
    return row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser)
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--tokens", type=int, default=250, help="at most so many; 25 a second (default: %(default)s)")
    parser.add_argument("--listeners", type=counts, default=(1, 2, 4, 8), metavar="N,...", help="default: 1,2,4,8")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    given = subject.of(options)
    places = max(options.listeners) + _ROOM
    own = given.config.t3.max_streams, given.config.s3gen.max_streams
    wide = [f"{stage}.max_streams={places}" for stage, most in zip(("t3", "s3gen"), own, strict=True) if most < places]
    given = given.changed(*wide)
    told = conditions.gather(given, 1, options.date, tokens=options.tokens, seconds=options.seconds)
    engine = Engine(given, options.text, options.tokens)
    measure(engine, 1, 1.0)  # first calls
    crowds = tqdm(options.listeners, desc="Listeners", disable=None)
    rows = [measure(engine, listeners, options.seconds) for listeners in crowds]
    told["peak_bytes"] = conditions.peak_bytes(given.device)
    Report(file_name("listeners", given.model, given.device.type), told, COLUMNS, rows).emit(options.output)
    engine.close()
