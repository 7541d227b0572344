"""python -m chatterbox_engine say "text" -o out.wav: a first sound without a server."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Generator
from pathlib import Path

import soundfile
from torch import Tensor

from chatterbox_engine.errors import ChatterboxError, InvalidRequest
from chatterbox_engine.tts import OptimizedChatterboxTTS
from chatterbox_engine.types import SAMPLE_RATE
from chatterbox_engine.utterance import StreamingMetrics


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after saying what was wrong."""
    parser = argparse.ArgumentParser(prog="python -m chatterbox_engine", description="Chatterbox text-to-speech")
    say = parser.add_subparsers(dest="command", required=True).add_parser("say", help="speak a text into a file")
    say.add_argument("text")
    say.add_argument("-o", "--output", type=Path, required=True, help="a .wav, .flac or .ogg file")
    say.add_argument("--model", default="auto", help="auto, demo, dummy:chatterbox, a folder or a hub id")
    say.add_argument("--device", default="auto")
    say.add_argument("--voice", type=Path, help="a clip of 3 to 30 s of the voice to speak with")
    say.add_argument("--seed", type=int)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _say(given)
    except ChatterboxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _say(given: argparse.Namespace) -> None:
    with contextlib.closing(OptimizedChatterboxTTS.from_pretrained(given.device, model=given.model)) as tts:
        print(f"{tts.checkpoint.model} on {tts.device}. {tts.checkpoint.spec.note}", file=sys.stderr)
        stream = tts.generate_stream(given.text, audio_prompt_path=given.voice, seed=given.seed)
        with _opened(given.output) as file:
            _write(stream, file)


def _opened(path: Path) -> soundfile.SoundFile:
    """Raises InvalidRequest where no audio file can be made there."""
    try:
        return soundfile.SoundFile(path, "w", SAMPLE_RATE, channels=1)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be written as .wav, .flac or .ogg: {error}", "output") from error


def _write(stream: Generator[tuple[Tensor, StreamingMetrics], None, None], file: soundfile.SoundFile) -> None:
    with contextlib.closing(stream):
        for chunk, metrics in stream:
            file.write(chunk[0].numpy())
            seconds, first = metrics.total_audio_duration, metrics.latency_to_first_chunk
            print(f"\r{seconds:.2f} s of audio, the first after {first:.2f} s, real-time factor {metrics.rtf:.2f}",
                  end="", file=sys.stderr)  # fmt: skip
    print(file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
