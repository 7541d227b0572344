"""Speech tokens: 3^8 = 6,561 codes of what is heard in 40 ms, from the teacher's own durations and pitch.

As with FSQ (2309.15505) a code's eight digits of three levels stand for quantities of their own: four for the sound,
one for where it begins, three for how high it is. No network has to find them, since the teacher tells them: whatever
of a code T3 must guess is then what a text leaves open, and the flow hears each sound for at least one token.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from chatterbox_engine.types import FRAMES_PER_TOKEN
from training.corpus import Corpus, Utterance

SOUNDS, BEGINNINGS, PITCHES = 81, 3, 27
_VOWELS = "əɪiɛʌæɔIAɑuɐᵊOɜᵻWʊY"
_CONSONANTS = "ɹntsldkzmpðvfwbŋTjʃɡθʤhʧʒ"
_PAUSE, _SPACE = 0, 1
_STRESSES, _PRIMARY = "ˈˌ", "ˈ"
_SILENT, _SILENT_FRAMES = -9.5, 5
"""A mean log mel below it for so many frames is a pause, to whatever sound the teacher counts it."""
_LOWEST_HZ, _HIGHEST_HZ = 110.0, 400.0
_SKIPPED = 50.0
"""Cost of a sound without a token, in frames beside its place; a space may go without."""


@cache
def _sounds() -> dict[str, int]:
    """Number of each sound: pauses, the space between words, consonants, vowels, vowels under the primary stress."""
    said = [*_CONSONANTS, *_VOWELS, *(_PRIMARY + vowel for vowel in _VOWELS)]
    return {" ": _SPACE, **{sound: number for number, sound in enumerate(said, _SPACE + 1)}}


def run(corpus: Corpus, folder: Path) -> None:
    """Write the corpus's codes and the places in the phonemes that they speak (`codes.npz`), one after the other."""
    made = [encode(corpus[index]) for index in tqdm(range(len(corpus)), "Speech tokens", disable=None)]
    codes, places = (np.concatenate(parts) for parts in zip(*made, strict=True))
    np.savez(folder / "codes.npz", codes=codes, places=places)


def tokens(corpus: Corpus, folder: Path) -> tuple[list[NDArray[np.int16]], list[NDArray[np.int16]]]:
    """What `run` wrote, by utterance."""
    ends = np.cumsum([corpus.frames(index) // FRAMES_PER_TOKEN for index in range(len(corpus))])[:-1]
    with np.load(folder / "codes.npz") as arrays:
        return np.split(arrays["codes"], ends), np.split(arrays["places"], ends)


def encode(utterance: Utterance) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Codes (F / 2,) of an utterance, and the places of their sounds, numbered as `Utterance.symbols`."""
    sounds, places, starts = _units(utterance)
    unit = _aligned(sounds, starts, len(utterance.symbols) // FRAMES_PER_TOKEN)
    first = np.diff(unit, prepend=-1) > 0
    late = starts[unit] - FRAMES_PER_TOKEN * np.arange(len(unit))
    beginning = np.where(first, np.sign(late) + 1, 1)
    codes = (sounds[unit] * BEGINNINGS + beginning) * PITCHES + _pitches(utterance.f0)
    return codes.astype(np.int16), places[unit].astype(np.int16)


def paused(codes: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Which codes say nothing."""
    return codes // (BEGINNINGS * PITCHES) == _PAUSE


def _units(utterance: Utterance) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sounds of the utterance in order, their places among its symbols, and the frames (U,) at which they begin."""
    counts = np.bincount(utterance.symbols, minlength=len(utterance.phonemes) + 2)
    begins = np.cumsum(counts) - counts
    sounds, places, starts = [_PAUSE], [0], [0]
    stress = None
    for place, symbol in enumerate(utterance.phonemes, 1):
        if symbol in _STRESSES:
            stress = place
            continue
        sound = _sounds().get(symbol, _PAUSE)
        if stress is not None and utterance.phonemes[stress - 1] == _PRIMARY:
            sound = _sounds().get(_PRIMARY + symbol, sound)
        sounds.append(sound)
        places.append(place)
        starts.append(int(begins[place if stress is None else stress]))
        stress = None
    sounds.append(_PAUSE)
    places.append(len(utterance.phonemes) + 1)
    starts.append(int(begins[-1]))
    return np.array(sounds), np.array(places), _without_pauses(np.array(sounds), np.array(starts), utterance.mel)


def _without_pauses(
    sounds: NDArray[np.int64], starts: NDArray[np.int64], mel: NDArray[np.float16]
) -> NDArray[np.int64]:
    """`starts`, where pauses begin as soon as it is silent: the teacher counts that to the sound before."""
    silent = mel.astype(np.float32).mean(1) < _SILENT
    moved = starts.copy()
    for unit in range(1, len(sounds)):
        if sounds[unit] == _PAUSE and sounds[unit - 1] != _PAUSE:
            heard = np.flatnonzero(~silent[starts[unit - 1] : starts[unit]])
            begin = starts[unit - 1] + (heard[-1] + 1 if len(heard) else 1)
            if starts[unit] - begin >= _SILENT_FRAMES:
                moved[unit] = begin
    return moved


def _aligned(sounds: NDArray[np.int64], starts: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The unit (T,) that each token speaks: in order, none left out but spaces, as near to their frames as can be."""
    units = len(sounds)
    ends = np.append(starts[1:], FRAMES_PER_TOKEN * count)
    frames = np.arange(FRAMES_PER_TOKEN * count)[:, None]
    away = np.maximum(np.maximum(starts - frames, frames - ends + 1), 0)  # of each frame from each unit
    cost = away.reshape(count, FRAMES_PER_TOKEN, units).sum(1).astype(float)
    skipping = np.append(0.0, np.where(np.isin(sounds[:-1], (_SPACE, _PAUSE)), 0.0, _SKIPPED)[1:])
    best = np.full(units, np.inf)
    best[0] = cost[0, 0]
    steps = np.zeros((count, units), np.int8)
    for token in range(1, count):
        following = np.append(np.inf, best[:-1])
        over = np.append((np.inf, np.inf), best[:-2] + skipping[1:])[:units]
        ways = np.stack((best, following, over))
        steps[token] = ways.argmin(0)
        best = ways.min(0) + cost[token]
    unit = units - 1 if best[-1] <= best[-2] else units - 2  # the pause at the end may have no token either
    path = [unit]
    for token in range(count - 1, 0, -1):
        unit -= int(steps[token, unit])
        path.append(unit)
    return np.array(path[::-1])


def _pitches(f0: NDArray[np.float32]) -> NDArray[np.int64]:
    """Hz (F,) -> levels (F / 2,) of the logarithm; where unvoiced, between those of the voiced ones around."""
    pairs = f0.reshape(-1, FRAMES_PER_TOKEN)
    voiced = pairs > 0
    said = voiced.any(1)
    if not said.any():
        return np.full(len(pairs), PITCHES // 2)
    logs = np.log(np.where(voiced, pairs, 1.0)).sum(1)[said] / voiced.sum(1)[said]
    heights = np.interp(np.arange(len(pairs)), np.flatnonzero(said), logs)
    low, high = math.log(_LOWEST_HZ), math.log(_HIGHEST_HZ)
    return np.rint((heights - low) / (high - low) * (PITCHES - 1)).clip(0, PITCHES - 1).astype(np.int64)
