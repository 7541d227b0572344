"""python -m benchmarks.streaming: how far streamed audio is from offline audio, by chunk schedule.

The flow's attention sees its whole window, so a frame made before the rest of the utterance is known differs from the
frame an offline pass makes. This measures the difference: the same tokens, the same noise, cut by several schedules.
"""

import argparse
import json
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chatterbox_engine.checkpoint import S3GEN_FILE, find
from chatterbox_engine.s3gen.engine import S3GenModel
from chatterbox_engine.s3gen.flow import flow_noise
from chatterbox_engine.types import FRAMES_PER_TOKEN, TOKEN_RATE, S3GenVoice

_RESULTS = Path(__file__).parent / "results"
_WHOLE = (10**6,)
_CASES: tuple[tuple[tuple[int, ...], int | None], ...] = (
    ((20, 25, 50, 100), None),
    ((10, 20, 40, 80), None),
    ((25,), None),
    ((50,), None),
    ((25,), 50),
    ((25,), 25),
)
"""Chunk schedules, and the context window where it is bounded. The first is the default."""


def mel(model: S3GenModel, voice: S3GenVoice, tokens: list[int], seed: int, schedule: tuple[int, ...],
        window: int | None) -> torch.Tensor:  # fmt: skip
    """The mel (80, frames) that a stream cut by `schedule` commits, chunk after chunk."""
    prompt, lookahead = voice.prompt.shape[1], model.spec.encoder.lookahead
    parts: list[torch.Tensor] = []
    done = 0
    while done < len(tokens):
        size = schedule[min(len(parts), len(schedule) - 1)]
        final = len(tokens) - done < size + lookahead
        end = len(tokens) if final else done + size
        start = 0 if window is None else max(0, done - window)
        own = torch.tensor([tokens[start : end if final else end + lookahead]])
        noise = flow_noise(
            torch.tensor([seed]), FRAMES_PER_TOKEN * prompt, FRAMES_PER_TOKEN * start,
            FRAMES_PER_TOKEN * own.shape[1], model.spec.mel_bins,
        )  # fmt: skip
        row = torch.cat((voice.prompt, own), dim=1)
        with torch.inference_mode():
            made = model.flow(row, voice.feat, voice.speaker, noise, final=final)[0]
        parts.append(made[:, FRAMES_PER_TOKEN * (done - start) :])
        done = end
    return torch.cat(parts, dim=1)


def main() -> None:
    """Measure, print the table and write the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo", help="demo, dummy:chatterbox, a folder or a hub id")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of an utterance")
    parser.add_argument("--utterances", type=int, default=3)
    given = parser.parse_args()
    checkpoint = find(given.model, given.device)
    model = S3GenModel(checkpoint.spec.s3gen, checkpoint.weights(S3GEN_FILE), torch.float32, torch.device(given.device))
    built_in = checkpoint.voice()
    assert built_in is not None
    voice = built_in.for_s3gen()
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    for seed in range(given.utterances):
        tokens = torch.randint(0, 6561, (round(given.seconds * TOKEN_RATE),), generator=generator).tolist()
        if seed == 0:
            mel(model, voice, tokens[:50], seed, _WHOLE, None)  # warm-up
        begin = time.monotonic()
        offline = mel(model, voice, tokens, seed, _WHOLE, None)
        took = time.monotonic() - begin
        other = mel(model, voice, tokens, seed + 1000, _WHOLE, None)
        rows.append({"schedule": "another seed", "distance": float((other - offline).abs().mean())})
        for schedule, window in _CASES:
            begin = time.monotonic()
            streamed = mel(model, voice, tokens, seed, schedule, window)
            seconds = time.monotonic() - begin
            name = f"{list(schedule)}, context {'all' if window is None else window}"
            distance = float((streamed - offline).abs().mean())
            rows.append({"schedule": name, "distance": distance, "cost": seconds / took})
    names = list(dict.fromkeys(row["schedule"] for row in rows))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result: dict[str, Any] = {
        "benchmark": "streaming",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "model": checkpoint.model,
        "device": given.device,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "utterances": given.utterances,
        "seconds": given.seconds,
        "rows": rows,
    }
    print(f"{checkpoint.model}, {given.device}, float32, {given.utterances} utterances of {given.seconds:g} s\n")
    print("| schedule | mean absolute difference of the log-mel | the flow's time over offline |\n| --- | --- | --- |")
    for name in names:
        own = [row for row in rows if row["schedule"] == name]
        costs = [row["cost"] for row in own if "cost" in row]
        cost = f"{np.median(costs):.2f}" if costs else ""
        print(f"| {name} | {np.median([row['distance'] for row in own]):.3f} | {cost} |")
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / f"streaming-{checkpoint.model.replace(':', '-')}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}))


if __name__ == "__main__":
    main()
