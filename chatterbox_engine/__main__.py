"""python -m chatterbox_engine say "text" -o out.wav: a first sound without a server."""

import argparse
import logging
import sys
from pathlib import Path

import soundfile

from chatterbox_engine.errors import ChatterboxError
from chatterbox_engine.tts import OptimizedChatterboxTTS
from chatterbox_engine.types import SAMPLE_RATE


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
    tts = OptimizedChatterboxTTS.from_pretrained(given.device, model=given.model)
    print(f"{tts.checkpoint.model} on {tts.device}. {tts.checkpoint.spec.note}", file=sys.stderr)
    stream = tts.generate_stream(given.text, audio_prompt_path=given.voice, seed=given.seed)
    with soundfile.SoundFile(given.output, "w", SAMPLE_RATE, channels=1) as file:
        for chunk, metrics in stream:
            file.write(chunk[0].numpy())
            seconds, first = metrics.total_audio_duration, metrics.latency_to_first_chunk
            print(f"\r{seconds:.2f} s of audio, the first after {first:.2f} s, real-time factor {metrics.rtf:.2f}",
                  end="", file=sys.stderr)  # fmt: skip
    print(file=sys.stderr)
    tts.close()


if __name__ == "__main__":
    sys.exit(main())
