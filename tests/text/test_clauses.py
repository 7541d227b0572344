"""Text in pieces: nothing is lost, and what can be spoken comes soon."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.text import Clauses

TEXT = (
    "Well, hello there. Dr. Smith paid 3.5 dollars for it! Did he? Since nobody was there to see what he did, it is "
    "hard to tell, and harder still to prove, what came of it in the end. Yes."
)


def fed(pieces: list[str]) -> list[str]:
    clauses = Clauses()
    return [clause for piece in pieces for clause in clauses.push(piece)] + clauses.flush()


@given(st.lists(st.text(alphabet="ab .,!?;:\n-\"'3", max_size=12), max_size=30))
def test_nothing_is_lost_or_added(pieces: list[str]) -> None:
    assert "".join("".join(fed(pieces)).split()) == "".join("".join(pieces).split())


@given(st.lists(st.integers(0, len(TEXT)), max_size=40))
def test_sentences_are_whole_however_they_arrive(cuts: list[int]) -> None:
    ends = sorted({0, len(TEXT), *cuts})
    made = fed([TEXT[begin:end] for begin, end in pairwise(ends)])
    assert " ".join(made) == TEXT
    assert all(clause[-1] in ".!?," for clause in made)
    assert not any(clause.endswith(("Dr.", "3.")) for clause in made)
    assert all(len(clause) >= 12 for clause in made[:-1])


def test_a_long_run_of_marks_is_read_once() -> None:
    """Were it looked through from each of its marks, this would not end."""
    marks = "," * 200_000
    assert fed([marks, " and then."]) == [marks, "and then."]


def test_words_as_a_language_model_writes_them() -> None:
    """A sentence is out with the next one's first word; a clause of a long sentence, before the sentence ends."""
    clauses, heard, written = Clauses(), [], 0
    for word in TEXT.split(" "):
        written += len(word) + 1
        heard += [(clause, written) for clause in clauses.push(word + " ")]
    assert heard[0] == ("Well, hello there.", len("Well, hello there. Dr. "))
    assert any(clause.endswith("hard to tell,") for clause, _ in heard)
    assert clauses.flush() == ["Yes."]
    assert clauses.flush() == []
