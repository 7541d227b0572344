"""Texts of a wanted length, so that a stream has a wanted number of positions."""

from benchmarks.ceilings import prompt_positions
from chatterbox_engine.checkpoint import Checkpoint
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.text import normalise

_TEXT = (
    "the quick brown fox jumps over a lazy dog while seven kind wizards watch from their old stone tower "
    "and nobody knows how the river found its way down to the sea on such a calm and cloudless morning"
)
_WORDS = _TEXT.split()
_VARIANTS = 8


def of_positions(checkpoint: Checkpoint, positions: int, index: int = 0) -> str:
    """A text whose prompt takes about `positions` positions, never more; another one for each `index`.

    Texts of different index differ in length by a word or two, as those of real requests do, so that a batch is ragged.
    Raises InvalidRequest where even one word takes more.
    """
    tokenizer, spec = checkpoint.tokenizer(), checkpoint.spec
    start = index % len(_WORDS)
    words: list[str] = []
    while True:
        word = _WORDS[(start + len(words)) % len(_WORDS)]
        tokens = tokenizer.encode(normalise(_sentence([*words, word]), spec.family), spec.language)
        if prompt_positions(spec.t3, len(tokens)) > positions:
            break
        words.append(word)
    kept = len(words) - min(index % _VARIANTS // 4, len(words) - 1)
    if kept <= 0:
        raise InvalidRequest(
            f"No text fits into {positions} positions: raise --positions, or lower --tokens or --repeats.", "positions"
        )
    return _sentence(words[:kept])


def _sentence(words: list[str]) -> str:
    return " ".join(words).capitalize() + "."
