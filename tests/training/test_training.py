"""The bundled voice's texts, teacher and corpus, and the training loop."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from chatterbox_engine.text.normalise import normalise
from chatterbox_engine.text.phonemes import Phonemizer
from chatterbox_engine.types import SAMPLES_PER_FRAME
from training import dimensions, flow, speech_tokenizer, symbols, texts
from training.corpus import MEL_BINS, Corpus
from training.teacher import Teacher


def test_texts_are_the_same_for_a_seed_and_can_be_read_aloud(wordnet: Path) -> None:
    said = list(texts.utterances(200, wordnet=wordnet))
    assert said == list(texts.utterances(200, wordnet=wordnet))
    assert said != list(texts.utterances(200, seed=1, wordnet=wordnet))
    assert any("I can breathe better when the air is clean." in text for text in said)
    assert not any("(" in text or "licence" in text for text in said)
    assert {text[-1] for text in said} <= set(".?!")


def test_remarks_are_short_and_say_nothing_twice(wordnet: Path) -> None:
    said = list(texts.remarks(200, wordnet=wordnet))
    assert said == list(texts.remarks(200, wordnet=wordnet))
    for text in said:
        sentences = re.findall(r"[^.?!]+[.?!]", text)
        assert 2 <= len(sentences) <= 4
        assert len({sentence.strip() for sentence in sentences}) == len(sentences)


def test_the_teacher_says_when_each_phoneme_is_heard_and_swings_its_pitch() -> None:
    teacher = Teacher()
    flat, own, lively = (teacher.say("The weather will be fine. Are you coming?", swing) for swing in (0.0, 0.5, 1.0))
    assert len(own.durations) == len(own.phonemes) + 2
    assert own.durations.sum() * 600 == len(own.audio) == 300 * len(own.f0)
    spreads = [np.log(spoken.f0[spoken.f0 > 0]).std() for spoken in (flat, own, lively)]
    assert spreads[0] < 0.7 * spreads[1] < spreads[1] < 0.8 * spreads[2]
    assert symbols.encode(own.phonemes)


def test_the_teacher_says_the_phonemes_that_t3_will_read() -> None:
    text = "It's 9:30 at Dr. Smith's; bring 12 apples - or none... Fine?"
    assert Teacher().say(text).phonemes == Phonemizer()(normalise(text, dimensions.spec().family))


def test_the_corpus_keeps_mel_pitch_and_phonemes_in_step(corpus: Corpus) -> None:
    assert len(corpus) > 20
    assert corpus.with_audio == len(corpus)
    assert len(corpus.audio) == SAMPLES_PER_FRAME * corpus.start(len(corpus))
    for index in range(len(corpus)):
        utterance = corpus[index]
        assert utterance.mel.shape == (len(utterance.symbols), MEL_BINS)
        assert len(utterance.mel) % 2 == 0
        assert (np.diff(utterance.symbols.astype(int)) >= 0).all()
        assert utterance.symbols[-1] == len(utterance.phonemes) + 1


def test_a_stage_goes_on_where_it_stopped(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps in one run are those of one run of two and one more, but for the schedule's end."""
    monkeypatch.setattr(dimensions, "LOGS", tmp_path)
    monkeypatch.setattr(flow, "WINDOWS", ((1, 16),))
    monkeypatch.setattr(flow, "SPOKEN", 1)
    monkeypatch.setattr("training.loop._share", lambda step, steps: 1.0)
    for name, stops in (("whole", (3,)), ("parts", (2, 3))):
        (tmp_path / name).mkdir()
        speech_tokenizer.run(corpus, tmp_path / name)
        for steps in stops:
            flow.run(corpus, tmp_path / name, steps)
    whole, parts = (torch.load(tmp_path / name / "flow.pt")["model"] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
