"""A minute of the teacher's speech, and a model of every stage trained on it for a few steps."""

import json
from pathlib import Path

import numpy as np
import pytest

from training import checkpoint, dimensions, flow, loop, speech_tokenizer, t3, vocoder
from training.corpus import Corpus, make

GLOSSES = {
    "noun": ('00001740 03 n 01 entity 0 000 | that which is perceived; "the small things in the box"',
             '00001930 03 n 01 garden 0 000 | a plot of ground where plants are grown (for food)'),
    "verb": ('00001740 29 v 01 breathe 0 000 | draw air into the lungs; "I can breathe better when the air is clean"',),
    "adj": ('00001740 00 a 01 quiet 0 000 | making little noise; "a quiet street in the evening"',),
    "adv": ('00001740 02 r 01 slowly 0 000 | without speed; "he spoke slowly to the children"',),
}  # fmt: skip


@pytest.fixture(scope="session")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary of five entries, in WordNet's form."""
    folder = tmp_path_factory.mktemp("wordnet")
    for part, lines in GLOSSES.items():
        (folder / f"data.{part}").write_text("  1 licence text\n" + "\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, wordnet: Path) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    make(folder, 30, 1.0, wordnet, workers=1)
    return Corpus(folder)


@pytest.fixture(scope="session")
def made(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of every stage after two steps of it; each stage's log is checked."""
    folder = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dimensions, "LOGS", folder)
        patch.setattr(loop, "LOG_EVERY", 2)
        patch.setattr(t3, "BATCH_POSITIONS", 600)
        patch.setattr(flow, "WINDOWS", ((2, 16),))
        patch.setattr(flow, "SPOKEN", 3)
        patch.setattr(vocoder, "BATCH", 2)
        patch.setattr(vocoder, "MADE_FROM", 1)
        speech_tokenizer.run(corpus, folder)
        for stage in (flow, vocoder, t3):
            stage.run(corpus, folder, 2)
            name = stage.__name__.rpartition(".")[2]
            first, *_, last = map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
            assert first["step"] == 2
            assert all(np.isfinite(value) for value in last["held_out"].values())
    checkpoint.write(corpus, folder, folder / "made")
    return folder / "made"
