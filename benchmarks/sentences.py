"""What is spoken to judge speech: two sets that share no run of five words, one to choose by and one to score by.

Both are written for this project. A setting is chosen on `choosing`; `scoring` is held out and only reported.
"""

from pathlib import Path
from typing import Literal, get_args

Set = Literal["choosing", "scoring"]
SETS: tuple[Set, ...] = get_args(Set)
KINDS = ("short", "medium", "long", "numbers", "questions")

_FOLDER = Path(__file__).parent / "data"


def by_kind(name: Set) -> dict[str, list[str]]:
    """The sentences of a set under their kinds, in the file's order."""
    found: dict[str, list[str]] = {}
    own: list[str] = []
    for line in (_FOLDER / f"{name}.txt").read_text().splitlines():
        if line.startswith("#"):
            own = found.setdefault(line.removeprefix("#").strip(), [])
        elif line.strip():
            own.append(line.strip())
    return found


def sentences(name: Set, count: int | None = None) -> list[str]:
    """`count` sentences of a set, or all: kinds in turns, so that any count has some of each in the set's shares."""
    kinds = by_kind(name).values()
    placed = [((index + 0.5) / len(own), text) for own in kinds for index, text in enumerate(own)]
    return [text for _, text in sorted(placed, key=lambda pair: pair[0])][:count]
