"""A job of a long text, with the whole service killed on the way, against the same one undisturbed.

    python -m drills.job --profile reference --characters 5000 --kills 3
    python -m drills.job --characters 100000 --kills 0 --chapters 5

Starts a service of its own. Some chapters of the file are compared with what requests for their pieces, one by one and
with the pieces' seeds, sound like. With kills, the same job is done again. The last line is JSON.
"""

import argparse
import io
import itertools
import json
import random
import time
from typing import Any

import httpx
import numpy as np
import soundfile
from tqdm import tqdm

from chatterbox_engine.checkpoint import find
from chatterbox_engine.seeds import derive_seed
from chatterbox_engine.types import SAMPLE_RATE
from deployments.book import chapters
from loadtest.local_service import LocalService
from loadtest.texts import LONG, MEDIUM

_SEED = 11
_LOOK_AGAIN_S = 0.2


def text_of(characters: int) -> str:
    """Chapters of sentences that are all different."""
    parts: list[str] = []
    for number in itertools.count(1):
        if sum(map(len, parts)) >= characters:
            return "\n\n".join(parts)[:characters].rsplit(" ", 1)[0]
        if number % 10 == 1:
            parts.append(f"# Chapter {number // 10 + 1}")
        parts.append(f"This is paragraph {number}. {random.Random(number).choice(LONG + MEDIUM)}")
    raise AssertionError("itertools.count ended")


def done(service: LocalService, text: str, kills: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The job's samples, (n,) int16, and what is told of it. The service is killed `kills` times on the way, at pieces
    evenly apart, and started again. Raises RuntimeError where the job fails."""
    body = {"input": text, "seed": _SEED, "response_format": "wav"}
    job = httpx.post(f"{service.url}/v1/audio/jobs", json=body, timeout=60).raise_for_status().json()
    at = [job["pieces"] * (kill + 1) // (kills + 1) for kill in range(kills)]
    with tqdm(total=job["pieces"], unit="piece", disable=None) as bar:
        while job["status"] not in ("done", "failed", "cancelled"):
            bar.update(job["pieces_done"] - bar.n)
            if at and job["pieces_done"] >= at[0]:
                at.pop(0)
                service.kill()
                service.start()
            time.sleep(_LOOK_AGAIN_S)
            job = httpx.get(f"{service.url}/v1/audio/jobs/{job['id']}", timeout=60).raise_for_status().json()
    if job["status"] != "done" or at:
        raise RuntimeError(f"The job is {job['status']} ({job['error']}), with {len(at)} kills to come.")
    file = httpx.get(f"{service.url}/v1/audio/jobs/{job['id']}/file", timeout=600).raise_for_status().content
    samples, rate = soundfile.read(io.BytesIO(file), dtype="int16")
    assert rate == SAMPLE_RATE
    return samples, job


def compared(service: LocalService, text: str, samples: np.ndarray, job: dict[str, Any], count: int) -> dict[str, Any]:
    """The file must be as long as its chapters; `count` of them are spoken again, piece by piece, by requests of their
    own. Tells how many pieces that were, and the greatest difference of a sample, of 32,768."""
    (model,) = httpx.get(f"{service.url}/v1/models", timeout=60).json()["data"]
    parts = chapters(text, job["title"], find(model["id"], "cpu").spec.piece_characters, model["language"])
    marks = [(round(one["start"] * SAMPLE_RATE), round(one["end"] * SAMPLE_RATE)) for one in job["chapters"]]
    ends = [0, *(end for _, end in marks)]
    assert len(marks) == len(parts)
    assert [begin for begin, _ in marks] == ends[:-1]
    assert ends[-1] == len(samples)
    first = [0, *itertools.accumulate(len(part.pieces) for part in parts)]
    pieces, greatest = 0, 0
    for number in sorted(random.Random(_SEED).sample(range(len(parts)), min(count, len(parts)))):
        sounds = []
        for place, piece in enumerate(tqdm(parts[number].pieces, unit="piece", disable=None), first[number]):
            body = {"input": piece.text, "seed": derive_seed(_SEED, place), "response_format": "pcm"}
            spoken = httpx.post(f"{service.url}/v1/audio/speech", json=body, timeout=600).raise_for_status()
            sounds.append(np.frombuffer(spoken.content, "<i2"))
            sounds.append(np.zeros(round(piece.pause_s * SAMPLE_RATE), np.int16))
            pieces += 1
        alone, (begin, end) = np.concatenate(sounds), marks[number]
        assert len(alone) == end - begin, (number, len(alone), end - begin)
        greatest = max(greatest, int(np.abs(alone.astype(int) - samples[begin:end]).max()))
    return {"pieces_compared": pieces, "greatest_difference": greatest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--profile", default="balanced")
    parser.add_argument("--characters", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--chapters", type=int, default=1, help="so many are spoken again, alone")
    given = parser.parse_args()
    text = text_of(given.characters)
    told: dict[str, Any] = {"model": given.model, "profile": given.profile, "characters": len(text)}
    with LocalService(model=given.model, device="cpu", profile=given.profile) as service:
        begin = time.monotonic()
        samples, job = done(service, text, 0)
        told |= {"pieces": job["pieces"], "seconds": job["seconds"], "took_s": round(time.monotonic() - begin, 1)}
        told |= compared(service, text, samples, job, given.chapters)
        if given.kills:
            disturbed, _ = done(service, text, given.kills)
            told |= {"kills": given.kills, "same_samples": np.array_equal(samples, disturbed)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
