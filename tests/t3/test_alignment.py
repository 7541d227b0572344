"""The alignment guard against chatterbox-tts's analyzer, on the same attention."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.accel import native
from chatterbox_engine.spec import T3Spec
from chatterbox_engine.t3.alignment import AlignmentGuard

SPEC = T3Spec(aligned_heads=((0, 0),))
VOCABULARY = 6570
walks = st.lists(
    st.tuples(st.integers(-9, 9), st.floats(0.05, 1.0), st.integers(0, 5)), min_size=30, max_size=90
)  # step of the place attended to, how sharply, the token drawn


@pytest.fixture(scope="module")
def analyzer() -> Any:
    """Makes the reference's analyzer without the model whose layers it would listen to."""
    from chatterbox.models.t3.inference.alignment_stream_analyzer import AlignmentStreamAnalyzer

    class Deaf(AlignmentStreamAnalyzer):
        def _add_attention_spy(self, *_: object) -> None:
            pass

    return lambda begin, text: Deaf(None, None, (begin, begin + text), eos_idx=SPEC.stop_speech)


START = [SPEC.start_speech]
"""What a stream has before it has drawn anything."""


def attention(walk: list[tuple[int, float, int]], begin: int, text: int, seed: int) -> list[torch.Tensor]:
    """Rows (places so far,) of a wanderer through the text: two at first, then one a step."""
    generator = torch.Generator().manual_seed(seed)
    rows, at = [], 0
    for step, (move, sharp, _) in enumerate(walk):
        at = min(max(at + move, 0), text - 1) if move < 8 else text - 1
        length = begin + text + 2 + step
        row = torch.rand(length, generator=generator).softmax(-1) * (1 - sharp)
        row[begin + at] += sharp
        rows.append(row)
    return rows


@given(walk=walks, text=st.integers(6, 30), begin=st.integers(0, 40), slow=st.booleans(), seed=st.integers(0, 2**31))
@settings(max_examples=80)
def test_every_decision_is_the_analyzers(
    analyzer: Any, walk: list[tuple[int, float, int]], text: int, begin: int, slow: bool, seed: int
) -> None:
    """Two streams at once, the other one wandering elsewhere; the decisions are all in the logits."""
    if slow:  # one that goes on steadily, so that it gets to the end and stays there
        walk = [(int(step % 2 == 0), sharp, token) for step, (_, sharp, token) in enumerate(walk * 2)]
    rows = attention(walk, begin, text, seed)
    reference = analyzer(begin, text)
    guard = AlignmentGuard(SPEC, 3, torch.device("cpu"))
    guard.join(2, 5, 9, START)
    guard.join(1, begin, text, START)
    slots = torch.tensor([1, 2])
    token = SPEC.start_speech
    for step, (row, (_, _, drawn)) in enumerate(zip(rows, walk, strict=True)):
        logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(step))
        first = step == 0
        # The analyzer takes whole maps at first: rows up to the end of the text, which it drops, then the two.
        chunk = torch.cat((torch.zeros(begin + text, len(row)), row[None], row[None])) if first else row[None]
        reference.last_aligned_attns = [chunk] * 3
        expected = reference.step(logits.clone(), next_token=token)
        seen = row.expand(2, 2 if first else 1, -1)
        other = torch.cat((logits, torch.randn(1, VOCABULARY)))
        place = guard.apply(other, seen, slots, torch.tensor([token, 4]))[0]
        assert torch.equal(other[:1], expected)
        assert 0 <= place < text
        assert bool(guard.started[1]) == reference.started
        token = drawn


@pytest.mark.parametrize("kernels", [None, native.kernels()], ids=["PyTorch's", "own"])
def test_one_that_only_follows_leaves_the_logits(kernels: Any) -> None:
    guard = AlignmentGuard(SPEC, 1, torch.device("cpu"), kernels, decides=False)
    guard.join(0, 3, 12, START)
    walk = [(1, 0.9, 7)] * 40  # to the end, where one that decides would stop it
    for step, row in enumerate(attention(walk, 3, 12, 0)):
        logits = torch.randn(1, VOCABULARY)
        place = guard.apply(own := logits.clone(), row[None, None], torch.tensor([0]), torch.tensor([7]))
        assert torch.equal(own, logits)
        assert place <= step  # no more of the text than of the speech
    assert place == 11


def decided(guard: AlignmentGuard, logits: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
    """The logits as they may be sampled."""
    own = logits.clone()
    guard.apply(own, *rest)
    return own


def test_a_slot_begins_anew_with_each_stream() -> None:
    guard = AlignmentGuard(SPEC, 2, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, VOCABULARY, generator=generator)
    rows = attention([(1, 0.9, 0)] * 40, 3, 12, 0)
    slots, token = torch.tensor([0]), torch.tensor([7])

    def run() -> list[torch.Tensor]:
        guard.join(0, 3, 12, START)
        made = [decided(guard, logits, rows[0].expand(1, 2, -1), slots, token)]
        return made + [decided(guard, logits, row[None, None], slots, token) for row in rows[1:]]

    for own, again in zip(run(), run(), strict=True):
        assert torch.equal(own, again)


@pytest.mark.skipif(native.kernels() is None, reason="no AVX2 here, or no C compiler")
@given(
    pair=st.tuples(walks, walks),
    texts=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    begin=st.integers(1, 40),
    slow=st.booleans(),
    seed=st.integers(0, 2**31),
    spoken=st.lists(st.integers(0, 9), min_size=1, max_size=4),
)
@settings(max_examples=80)
def test_the_kernel_decides_as_the_operators_do(
    pair: tuple[list[tuple[int, float, int]], ...],
    texts: tuple[int, int],
    begin: int,
    slow: bool,
    seed: int,
    spoken: list[int],
) -> None:
    """Two streams in slots of their own, and nobody's twice; down to the last bit of what is kept of them."""
    steps = min(map(len, pair))
    if slow:
        steps *= 2
        pair = tuple([(int(step % 3 > 0), 1.0, token) for step, (_, _, token) in enumerate(walk * 2)] for walk in pair)
    length = begin + max(texts) + 2
    seen = [
        [torch.cat((row, torch.zeros(length + steps)))[: length + step] for step, row in enumerate(rows)]
        for rows in (attention(walk[:steps], begin, text, seed + text) for walk, text in zip(pair, texts, strict=True))
    ]
    guards = [AlignmentGuard(SPEC, 4, torch.device("cpu"), kernels) for kernels in (None, native.kernels())]
    for guard in guards:
        guard.join(2, begin, texts[0], START)
        guard.join(0, begin, texts[1], spoken)
    slots = torch.tensor([2, 0, 3, 3])
    for step in range(steps):
        rows = torch.stack([seen[0][step], seen[1][step], *2 * [torch.zeros(length + step)]])
        newest = torch.stack((rows / 2, rows), dim=1) if step == 0 else rows[:, None]
        tokens = torch.tensor([pair[0][step][2], pair[1][step][2], 0, 0])
        logits = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(step))
        changed = [logits.clone() for _ in guards]
        places = [guard.apply(own, newest, slots, tokens)[:2] for guard, own in zip(guards, changed, strict=True)]
        assert torch.equal(changed[1][:2], changed[0][:2])
        assert torch.equal(places[1], places[0])
        assert torch.equal(guards[1]._state[:3], guards[0]._state[:3])


@given(moves=st.lists(st.integers(0, 1), min_size=12, max_size=12), cut=st.integers(1, 11), seed=st.integers(0, 2**31))
@settings(max_examples=60)
def test_a_stream_that_began_elsewhere_stands_where_its_attention_is(moves: list[int], cut: int, seed: int) -> None:
    """As long as the text is not through, all decisions after the cut are those of the guard that saw everything."""
    tokens = [*START, *(7 + step % 2 for step in range(len(moves)))]
    rows = attention([(move, 0.95, 0) for move in moves], 4, 40, seed)
    rows[0] = rows[0].expand(2, -1)
    slots = torch.tensor([0])
    whole, later = (AlignmentGuard(SPEC, 1, torch.device("cpu")) for _ in range(2))
    whole.join(0, 4, 40, START)
    later.join(0, 4, 40, tokens[: cut + 1])
    for step, row in enumerate(rows):
        logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(step))
        drawn = torch.tensor([tokens[step]])
        seen = row.view(1, -1, row.shape[-1])
        expected = decided(whole, logits, seen, slots, drawn)
        if step >= cut:
            seen = seen.expand(1, 2, -1) if step == cut else seen
            assert torch.equal(decided(later, logits, seen, slots, drawn), expected)
            assert later._state[0, 4] == whole._state[0, 4] > 0
