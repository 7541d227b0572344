"""What the teacher says: WordNet's examples and definitions, and sentences from own templates."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

WORDNET = Path("/usr/share/wordnet")
"""Where Debian's package wordnet-base (WordNet 3.0, Princeton University; notice required) puts its files."""
_PARTS = ("noun", "verb", "adj", "adv")
_SPEAKABLE = re.compile(r"[A-Za-z][A-Za-z0-9 ,.'!?-]*")
_LONGEST_WORDS = 24
_SHORT_WORDS = 6
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("January", "March", "April", "June", "July", "September", "October", "December")
_TEMPLATES = (
    "Could you {verb} the {noun} before {n} o'clock?",
    "Did you see the {adj} {noun} on {day}?",
    "I would like to {verb} a {noun}, please.",
    "There are {n} {noun}s in the {adj} {noun2}.",
    "The {noun} costs {n} dollars and {m} cents.",
    "Why is the {noun} so {adj}?",
    "Please {verb} {n} {noun}s by {day}, {month} {day_n}.",
    "My {noun} is {adj}, but yours is {adj2}.",
    "We will {verb} at {hour}:{minute} in the {noun}.",
    "What happens when you {verb} a {adj} {noun}?",
    "It was {n} degrees in {month}, and the {noun} was {adj}.",
    "Thank you, the {noun} is {adj}.",
    "No, we never {verb} the {noun}.",
    "{Adj} {noun}s are {adj2}.",
    "The {noun} {noun2}.",
    "How many {noun}s did they {verb}?",
    "She said the {noun} number is {n} {m} {k}.",
    "Call me at {hour} if the {adj} {noun} arrives.",
    "About {percent} percent of the {noun}s {verb}.",
    "In {year}, the {adj} {noun} was {m} miles away.",
)
_OPENINGS = (
    "Hello.",
    "Hello there.",
    "Hi!",
    "Hi, {name}.",
    "Good evening.",
    "Good afternoon, {name}.",
    "Welcome.",
    "Okay.",
    "Sure.",
    "Of course.",
    "Yes.",
    "No.",
    "Well, no.",
    "Right.",
    "All right.",
    "I see.",
    "I am sorry.",
    "Sorry, {name}.",
    "Thanks.",
    "Thank you, {name}.",
    "Excuse me.",
    "One moment.",
    "Great!",
    "Perfect.",
    "No problem.",
    "Listen.",
    "It is {hour}:{minute}.",
    "Not today.",
    "Maybe {day}.",
    "Let me see.",
    "That is {adj}.",
    "Oh, the {noun}!",
    "What a {adj} {noun}!",
    "This is {name}.",
    "My name is {name}.",
    "And now?",
    "Really?",
    "Are you {adj}?",
)
_REMARKS = (
    "This is the {noun}.",
    "This is a {adj} {noun}.",
    "The {noun} is here.",
    "It is {adj}.",
    "How is the {noun}?",
    "What {noun}?",
    "I {verb} the {noun}.",
    "You may {verb} now.",
    "Can you {verb} it?",
    "We have {n}.",
    "Your {noun} is {adj}.",
    "I will {verb} it on {day}.",
    "That is {n} dollars.",
    "See you in {month}.",
    "The {adj} one is {adj2}.",
    "Where is {name}?",
    "Do not {verb} the {noun}.",
    "It starts at {hour}.",
)
_PLAIN_WORDS = {
    "noun": (
        "house",
        "river",
        "teacher",
        "window",
        "orange",
        "engine",
        "village",
        "mother",
        "shadow",
        "church",
        "garden",
        "picture",
        "journey",
        "thunder",
        "measure",
        "youth",
        "judge",
        "voice",
        "leather",
        "bread",
        "finger",
        "ship",
        "knife",
        "question",
        "weather",
        "cloud",
        "truth",
        "jacket",
        "valley",
        "branch",
        "oil",
        "beach",
        "moth",
        "vision",
    ),
    "verb": (
        "carry",
        "choose",
        "follow",
        "gather",
        "laugh at",
        "move",
        "notice",
        "open",
        "push",
        "reach",
        "search",
        "throw",
        "visit",
        "wash",
        "use",
        "join",
        "watch",
        "enjoy",
        "break",
        "draw",
        "think about",
        "shake",
        "fix",
    ),
    "adj": (
        "bright",
        "careful",
        "dirty",
        "early",
        "famous",
        "gentle",
        "heavy",
        "huge",
        "yellow",
        "narrow",
        "smooth",
        "strange",
        "thick",
        "usual",
        "warm",
        "young",
        "cheap",
        "loud",
        "royal",
        "quick",
        "fair",
        "poor",
        "other",
    ),
}
"""Of every sound of English, for sentences that need no dictionary."""
_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Julia", "Kevin", "Laura", "Martin")


def utterances(count: int, seed: int = 0, wordnet: Path = WORDNET) -> Iterator[str]:
    """`count` texts of one to three sentences, the same for one seed.

    Raises FileNotFoundError where WordNet's files are not at `wordnet`.
    """
    draw = random.Random(seed)
    sentences, words = _read(wordnet)
    draw.shuffle(sentences)
    for index in range(count):
        parts = []
        for _ in range(draw.choices((1, 2, 3), (0.72, 0.2, 0.08))[0]):
            made = draw.random() < 0.35
            parts.append(_filled(draw, words) if made else sentences[draw.randrange(len(sentences))])
        if index % 12 == 0:  # a word or two
            parts = [
                _sentence(" ".join(draw.choice(words[part]) for part in draw.choice((("noun",), ("adj", "noun")))))
            ]
        yield " ".join(parts)


def remarks(count: int, seed: int = 1, wordnet: Path = WORDNET) -> Iterator[str]:
    """`count` texts of two or three very short sentences, as people answer; the same for one seed.

    Raises FileNotFoundError where WordNet's files are not at `wordnet`.
    """
    draw = random.Random(seed)
    sentences, words = _read(wordnet)
    short = [sentence for sentence in sentences if len(sentence.split()) <= _SHORT_WORDS]
    for _ in range(count):
        parts = [_filled(draw, words, _OPENINGS)]
        wanted = draw.choice((2, 2, 3))
        while len(parts) < wanted:
            made = draw.random() < 0.6
            part = _filled(draw, words, (*_REMARKS, *_OPENINGS)) if made else draw.choice(short)
            if part not in parts:  # what is said twice is not to be learned
                parts.append(part)
        yield " ".join(parts)


def plain(count: int, seed: int = 2) -> Iterator[str]:
    """`count` texts of one to three sentences, long and short, from the templates and a few words; no WordNet."""
    draw = random.Random(seed)
    for _ in range(count):
        templates = draw.choice((_TEMPLATES, _TEMPLATES, (*_REMARKS, *_OPENINGS)))
        yield " ".join(_filled(draw, _PLAIN_WORDS, templates) for _ in range(draw.choice((1, 2, 3))))


def _filled(draw: random.Random, words: Mapping[str, Sequence[str]], templates: Sequence[str] = _TEMPLATES) -> str:
    values = {name: draw.choice(words[name.rstrip("2").lower()]) for name in ("noun", "noun2", "verb", "adj", "adj2")}
    numbers = {"n": draw.randint(1, 120), "m": draw.randint(1, 99), "k": draw.randint(1, 9999)}
    times = {"hour": draw.randint(1, 12), "minute": f"{draw.randrange(0, 60, 5):02d}", "day_n": draw.randint(1, 30)}
    dates = {"day": draw.choice(_DAYS), "month": draw.choice(_MONTHS), "year": draw.randint(1900, 2030)}
    # Drawn for remarks alone, so that the other texts stay those they were.
    name = {"name": draw.choice(_NAMES)} if templates is not _TEMPLATES else {}
    adjective = {"Adj": values["adj"].capitalize(), "percent": draw.randint(1, 99)}
    return draw.choice(templates).format(**values, **numbers, **times, **dates, **adjective, **name)


def _read(wordnet: Path) -> tuple[list[str], dict[str, list[str]]]:
    """All examples and definitions that can be read aloud as they are, and the words of each part of speech."""
    sentences: list[str] = []
    words: dict[str, list[str]] = {}
    for part in _PARTS:
        own = words.setdefault(part, [])
        for line in (wordnet / f"data.{part}").read_text().splitlines():
            if line.startswith(" "):
                continue
            fields, _, gloss = line.partition(" | ")
            word = fields.split(" ")[4]
            if word.isascii() and word.isalpha() and word.islower() and 2 < len(word) < 12:
                own.append(word)
            definition, *examples = gloss.strip().split('; "')
            for text in (definition, *(example.rstrip('"; ') for example in examples)):
                text = re.sub(r"\(.*?\)", "", text).strip(" ;")
                text = " ".join(text.replace(";", ",").split())
                if _SPEAKABLE.fullmatch(text) and 2 < len(text.split()) <= _LONGEST_WORDS:
                    sentences.append(_sentence(text))
    return sorted(set(sentences)), {part: sorted(set(own)) for part, own in words.items()}


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text.rstrip(",- ") + "."
