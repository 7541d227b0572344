"""The bundled voice's speech tokens: every sound in its order and its place, and how high it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpus import MEL_BINS, Corpus, Utterance
from training.speech_tokenizer import BEGINNINGS, PITCHES, SOUNDS, encode, paused

PHONEMES = "ðə kˈɪʧən ɪz wˈɔɹm, ˌɪzənt ɪt?"


def spoken(counts: list[int], f0: float = 200.0) -> Utterance:
    """PHONEMES, each symbol as many frames long as `counts` says, with the silences around them."""
    symbols = np.repeat(np.arange(len(counts)), counts)
    symbols = np.append(symbols, [len(counts) - 1] * (len(symbols) % 2)).astype(np.int16)
    frames = len(symbols)
    mel = np.zeros((frames, MEL_BINS), np.float16)
    return Utterance(mel, symbols, np.full(frames, f0, np.float32), PHONEMES, 0.5)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 6), min_size=len(PHONEMES) + 2, max_size=len(PHONEMES) + 2))
def test_no_sound_is_left_out_or_out_of_order(counts: list[int]) -> None:
    codes, places = encode(spoken(counts))
    assert len(codes) == len(places) == len(spoken(counts).symbols) // 2
    assert (codes >= 0).all()
    assert (codes < SOUNDS * BEGINNINGS * PITCHES).all()
    assert (np.diff(places) >= 0).all()
    said = {place for place, symbol in enumerate(PHONEMES, 1) if symbol not in "ˈˌ ,?"}
    if len(codes) >= 2 * len(said):
        assert said <= set(places.tolist())


def test_each_sound_stands_where_it_is_heard() -> None:
    utterance = spoken([4] * (len(PHONEMES) + 2))
    codes, places = encode(utterance)
    whole = utterance.symbols[::2] == places
    stressed = [place for place, symbol in enumerate(PHONEMES, 1) if symbol in "ˈˌ"]
    assert set(np.flatnonzero(~whole)) == {2 * place + half for place in stressed for half in (0, 1)}
    assert (codes % PITCHES == codes[0] % PITCHES).all()
    assert paused(codes)[[0, -1]].all()


@pytest.mark.parametrize(("low", "high"), [(120.0, 180.0), (180.0, 300.0)])
def test_a_higher_voice_has_higher_levels_and_the_same_sounds(low: float, high: float) -> None:
    counts = [4] * (len(PHONEMES) + 2)
    lower, higher = (encode(spoken(counts, f0))[0] for f0 in (low, high))
    assert (lower // PITCHES == higher // PITCHES).all()
    assert (lower % PITCHES < higher % PITCHES).all()


def test_silence_at_the_end_is_a_pause(corpus: Corpus) -> None:
    for index in range(10):
        codes, places = encode(corpus[index])
        assert paused(codes)[-4:].all()
        assert not paused(codes).all()
        assert places[-1] >= len(corpus[index].phonemes)
