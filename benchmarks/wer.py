"""Word errors: both sides brought to one spelling, what differs counted, and how sure the rate is.

The normaliser is Whisper's (contractions, titles, hyphens, punctuation, British spellings), except that numbers become
words: it would make "nine thirty" and "9:30" differ, and make one word of "two hundred five".
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks import extras

RESAMPLES = 2000
_TIME = re.compile(r"\b(\d{1,2}):([0-5]\d)(?!\d)")
_NUMBER = re.compile(r"([$£€]?)((?:\d{1,3}(?:,\d{3})+|\d+))(\.\d+)?(st\b|nd\b|rd\b|th\b|%|)")
_DATE = re.compile(
    r"\b(january|february|march|april|may|june|july|august|september|october|november|december) (\d{1,2})\b(?!:)"
)
_UNITS = {"$": ("dollar", "cent"), "£": ("pound", "pence"), "€": ("euro", "cent")}
_SMALL = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
)
_AND = re.compile(rf"\b(hundred|thousand|million) and (?={_SMALL})")
_A_HUNDRED = re.compile(r"\ba (?=hundred\b|thousand\b|million\b)")
_LEFT_OVER = re.compile(r"[^\w ]")
"""Whisper's normaliser keeps a dot of three."""
_HALF_OF_DAY = re.compile(r"\b([ap])\.?m\b\.?")


@dataclass(frozen=True, slots=True)
class WordErrors:
    """What has to be changed, put in or left out to make what was heard of what was asked for."""

    words: int
    """Asked for."""
    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0

    @property
    def total(self) -> int:
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per word; above 1 where more was put in than was asked for. NaN of no words."""
        return self.total / self.words if self.words else float("nan")

    def __add__(self, other: "WordErrors") -> "WordErrors":
        return WordErrors(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
        )


def compare(wanted: str, heard: str) -> WordErrors:
    """The fewest errors between two texts once both are `plain`. Raises ModelUnavailable without the packages."""
    extras.need("jiwer")
    import jiwer

    reference, hypothesis = plain(wanted), plain(heard)
    if not reference:
        return WordErrors(0, insertions=len(hypothesis.split()))
    found = jiwer.process_words(reference, hypothesis)
    return WordErrors(len(reference.split()), found.substitutions, found.insertions, found.deletions)


def plain(text: str) -> str:
    """Lower-case words with a space between: no digits, symbols or contractions."""
    spelled = spell_numbers(_HALF_OF_DAY.sub(r"\1m", text.lower().replace("cannot", "can not")))
    return " ".join(_LEFT_OVER.sub(" ", _normaliser()(spelled)).split())


def spell_numbers(text: str) -> str:
    """Digits as words: amounts, times, ordinals, decimals, percentages; 1100..1999 and 2010..2099 as years.

    A day after its month is an ordinal, since Whisper writes "May 4th" and "May 4" of the same sound.
    """
    text = _DATE.sub(lambda match: f"{match[1]} {_words(int(match[2]), 'ordinal')}", _TIME.sub(_time, text))
    return _NUMBER.sub(_spelled, text)


def interval(errors: Sequence[WordErrors]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the rate, by drawing sentences: (low, high).

    An entry is all that was heard of one sentence; different seeds of a sentence are not independent.
    """
    return _middle(_drawn_rates(errors))


def difference(own: Sequence[WordErrors], base: Sequence[WordErrors]) -> tuple[float, float, float]:
    """The own rate minus the base's, and that difference's 95 % interval: (difference, low, high).

    Both speak the same sentences in the same order, and each draw takes the same ones of both. Raises ValueError where
    there are not as many of each.
    """
    if len(own) != len(base):
        raise ValueError(f"{len(own)} sentences beside {len(base)}")
    apart = sum(own, WordErrors(0)).rate - sum(base, WordErrors(0)).rate
    return apart, *_middle(_drawn_rates(own) - _drawn_rates(base))


def _drawn_rates(errors: Sequence[WordErrors]) -> np.ndarray:
    """(RESAMPLES,): the rate over as many sentences, drawn with replacement; the same draws for the same number."""
    total = np.array([each.total for each in errors], dtype=float)
    words = np.array([each.words for each in errors], dtype=float)
    drawn = np.random.default_rng(0).integers(len(errors), size=(RESAMPLES, len(errors)))
    rates: np.ndarray = total[drawn].sum(axis=1) / np.maximum(1, words[drawn].sum(axis=1))
    return rates


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _time(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), int(match[2])
    return str(hour) if minute == 0 else f"{hour} oh {minute}" if minute < 10 else f"{hour} {minute}"


def _spelled(match: re.Match[str]) -> str:
    unit, whole, part, after = match[1], match[2], match[3] or "", match[4]
    number = int(whole.replace(",", ""))
    if unit:
        return f" {_amount(unit, number, part)} "
    if after and after != "%":
        return f" {_words(number, 'ordinal')} "
    is_year = not part and not after and len(whole) == 4 and (1100 <= number < 2000 or 2010 <= number < 2100)
    said = _words(number, "year" if is_year else "cardinal")
    if part:
        said += " point " + " ".join(_words(int(digit)) for digit in part[1:])
    return f" {said}{' percent' if after else ''} "


def _amount(unit: str, number: int, part: str) -> str:
    """$2.50: two dollars fifty cents."""
    large, small = _UNITS[unit]
    said = f"{_words(number)} {large}{'' if number == 1 else 's'}"
    hundredths = int(part[1:3].ljust(2, "0")) if part else 0
    if hundredths:
        said += f" {_words(hundredths)} {small}{'' if hundredths == 1 or small == 'pence' else 's'}"
    return said


def _words(number: int, form: str = "cardinal") -> str:
    from num2words import num2words

    return str(num2words(number, to=form)).replace(",", "").replace("-", " ").replace(" and ", " ")


@cache
def _normaliser() -> Callable[[str], str]:
    for package in ("whisper_normalizer", "num2words"):
        extras.need(package)
    from whisper_normalizer.english import EnglishTextNormalizer

    normaliser = EnglishTextNormalizer()
    normaliser.standardize_numbers = lambda text: _A_HUNDRED.sub("one ", _AND.sub(r"\1 ", text))
    return normaliser
