"""The HTTP API on a running service: what clients get for good and for bad input."""

import base64
import concurrent.futures
import io
import json
import struct
import time
from typing import Any

import av
import httpx
import numpy as np
import pytest
import soundfile
import torch

from chatterbox_engine.accel.device import s3gen_dtype, t3_dtype
from loadtest.sounds import clip
from tests.service import Service

pytestmark = pytest.mark.service
TEXT = "Hello there. This is streamed speech."
LONG = " ".join(f"Sentence number {i} is here to be spoken." for i in range(12))


def speak(service: Service, **body: Any) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/audio/speech", json=body, timeout=120)


def test_health_and_models_say_what_runs_and_why(service: Service) -> None:
    health = httpx.get(f"{service.url}/health", timeout=30)
    assert health.status_code == 200
    cpu = torch.device("cpu")
    for stage, dtype in (("t3", t3_dtype("auto", cpu)), ("s3gen", s3gen_dtype("auto", cpu))):
        told = health.json()["stages"][stage]
        assert (told["model"], told["device"], f"torch.{told['dtype']}") == ("dummy:tiny", "cpu", str(dtype))
        assert "configured" in told["why"]
    (model,) = httpx.get(f"{service.url}/v1/models", timeout=30).json()["data"]
    assert model["id"] == "dummy:tiny"
    assert "noise" in model["note"]
    assert (model["family"], model["languages"], model["language"]) == ("chatterbox", ["en"], "en")
    assert (model["defaults"]["cfg_weight"], model["defaults"]["max_new_tokens"]) == (0.5, 1000)
    assert model["lacking"] == ["top_k"]
    assert "top_k" not in model["defaults"]
    assert (model["clip"]["min_s"], model["clip"]["max_s"]) == (3.0, 30.0)


def test_wav_plays_and_equals_pcm_of_the_same_seed(service: Service) -> None:
    wav = speak(service, input=TEXT, voice="default", seed=7, response_format="wav")
    assert wav.status_code == 200
    assert wav.headers["content-type"] == "audio/wav"
    riff, size, wave = struct.unpack("<4sI4s", wav.content[:12])
    assert (riff, size, wave) == (b"RIFF", 0xFFFFFFFF, b"WAVE")
    samples, rate = soundfile.read(io.BytesIO(wav.content), dtype="int16")
    assert rate == 24_000
    tokens = round(len(TEXT) * 1.7)  # the demo's rule
    assert len(samples) == tokens * 960
    assert np.abs(samples).max() > 300
    pcm = speak(service, input=TEXT, response_format="pcm", seed=7)
    assert pcm.headers["content-type"] == "audio/pcm"
    # Chunks fall alike whatever the timing, so one seed is one sound up to rounding in other batches.
    assert np.abs(np.frombuffer(pcm.content, "<i2").astype(int) - samples).max() <= 32


@pytest.mark.parametrize(
    ("form", "kind"),
    [("mp3", "audio/mpeg"), ("opus", "audio/ogg"), ("aac", "audio/aac"), ("flac", "audio/flac")],
)
def test_every_format_is_as_long_as_pcm(service: Service, form: str, kind: str) -> None:
    answer = speak(service, input=TEXT, seed=7, response_format=form)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    with av.open(io.BytesIO(answer.content)) as container:
        rate = container.streams.audio[0].rate
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / rate
    assert seconds == pytest.approx(round(len(TEXT) * 1.7) * 0.04, abs=0.12)


def test_speed_and_events(service: Service) -> None:
    fast = speak(service, input=TEXT, seed=7, response_format="pcm", speed=2)
    whole = round(len(TEXT) * 1.7) * 960
    assert len(fast.content) / 2 == pytest.approx(whole / 2, rel=0.05)
    told = speak(service, input=TEXT, seed=7, response_format="pcm", stream_format="sse")
    assert told.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in told.text.strip().split("\n\n")]
    audio = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert len(audio) == 2 * whole
    assert events[-1]["usage"]["output_tokens"] == round(len(TEXT) * 1.7)


def test_a_file_that_does_not_stream_tells_its_length(service: Service) -> None:
    streamed = speak(service, input=TEXT, seed=7, response_format="wav")
    whole = speak(service, input=TEXT, seed=7, response_format="wav", stream=False)
    assert "content-length" not in streamed.headers
    assert int(whole.headers["content-length"]) == len(whole.content) == len(streamed.content)
    assert soundfile.info(io.BytesIO(whole.content)).frames == round(len(TEXT) * 1.7) * 960
    a, b = (np.frombuffer(r.content[44:], "<i2").astype(int) for r in (whole, streamed))
    assert np.abs(a - b).max() <= 32
    refused = speak(service, input=TEXT, stream=False, stream_format="sse")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")


def test_words_that_nobody_knows_are_not_made_up(service: Service) -> None:
    """This model has no heads that are known to follow the text."""
    told = speak(service, input=TEXT, response_format="pcm", stream_format="sse", word_timings=True)
    assert told.status_code == 200
    assert "speech.audio.word" not in told.text
    refused = speak(service, input=TEXT, word_timings=True)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "word_timings")


def test_a_seed_is_told_and_can_be_given_again(service: Service) -> None:
    first = speak(service, input=TEXT, response_format="pcm")
    again = speak(service, input=TEXT, response_format="pcm", seed=int(first.headers["x-seed"]))
    other = speak(service, input=TEXT, response_format="pcm")
    assert first.headers["x-seed"] != other.headers["x-seed"]
    a, b = (np.frombuffer(r.content, "<i2").astype(int) for r in (first, again))
    assert np.abs(a - b).max() <= 32


def test_null_and_zero_are_as_if_not_given(service: Service) -> None:
    plain = speak(service, input=TEXT, seed=3, response_format="pcm")
    given = {"language": "EN", "top_k": 0, "temperature": None, "cfg_weight": None, "model": "chatterbox"}
    same = speak(service, input=TEXT, seed=3, response_format="pcm", **given)
    assert same.status_code == 200
    a, b = (np.frombuffer(r.content, "<i2").astype(int) for r in (plain, same))
    assert np.abs(a - b).max() <= 32


def test_audio_comes_while_it_is_made(service: Service) -> None:
    begin, times = time.monotonic(), []
    with httpx.stream("POST", f"{service.url}/v1/audio/speech", json={"input": LONG}, timeout=120) as response:
        for _ in response.iter_raw():
            times.append(time.monotonic() - begin)
    assert len(times) > 5
    assert times[0] < 0.5 * times[-1]


def test_long_text_is_one_utterance(service: Service) -> None:
    from chatterbox_engine.text import normalise, split

    pieces = split(LONG)
    assert len(pieces) > 1
    expected = sum(round(len(normalise(p.text)) * 1.7) * 960 + round(p.pause_s * 24_000) for p in pieces)
    content = speak(service, input=LONG, response_format="pcm").content
    assert len(content) == 2 * expected


def test_several_at_once(service: Service) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: speak(service, input=TEXT, seed=i, cfg_weight=i % 2 * 0.5), range(4)))
    assert [a.status_code for a in answers] == [200] * 4
    assert len({a.content for a in answers}) == 4


BAD: list[tuple[Any, str | None]] = [
    ({"input": ""}, "input"),
    ({"input": " \n "}, "input"),
    ({"input": "a" * 100_000}, "input"),
    ({"input": "bell\a"}, "input"),
    ({"input": "🎉🎉"}, "input"),
    ({"input": "...!?"}, "input"),
    ('{"input": "\\ud800 half"}', "input"),
    ({"input": 5}, "input"),
    ({}, "input"),
    ('{"input": "x", "temperature": NaN}', "temperature"),
    ('{"input": "x", "temperature": Infinity}', "temperature"),
    ({"input": "x", "temperature": "0.8"}, "temperature"),
    ({"input": "x", "temperature": 50}, "temperature"),
    ({"input": "x", "top_p": 0}, "top_p"),
    ({"input": "x", "min_p": -0.1}, "min_p"),
    ({"input": "x", "cfg_weight": 6}, "cfg_weight"),
    ({"input": "x", "exaggeration": -1}, "exaggeration"),
    ({"input": "x", "repetition_penalty": 0.5}, "repetition_penalty"),
    ({"input": "x", "seed": -1}, "seed"),
    ({"input": "x", "seed": 1.5}, "seed"),
    ({"input": "x", "speed": 4.1}, "speed"),
    ({"input": "x", "speed": 0.2}, "speed"),
    ({"input": "x", "response_format": "mp4"}, "response_format"),
    ({"input": "x", "stream_format": "tape"}, "stream_format"),
    ({"input": "x", "language": "tlh"}, "language"),
    ({"input": "x", "language": "fr"}, "language"),
    ({"input": "x", "language": 1}, "language"),
    ({"input": "x", "top_k": 50}, "top_k"),
    ({"input": "x", "top_k": -1}, "top_k"),
    ({"input": "x", "max_new_tokens": 0}, "max_new_tokens"),
    ({"input": "x", "voice": 5}, "voice"),
    ({"input": "x", "colour": "red"}, "colour"),
    ("{not json", None),
    ("[]", None),
    ("", None),
    (b"\xff\xfe{}", None),
]


@pytest.mark.parametrize(("body", "param"), BAD)
def test_bad_input_is_a_clear_400(service: Service, body: Any, param: str | None) -> None:
    content = json.dumps(body) if isinstance(body, dict) else body
    answer = httpx.post(
        f"{service.url}/v1/audio/speech", content=content, headers={"content-type": "application/json"}, timeout=30
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert len(error["message"]) > 10


def test_other_refusals(service: Service) -> None:
    unknown = speak(service, input="x", voice="../../etc/passwd")
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "voice")
    for model in ("chatterbox-turbo", "gpt-9"):
        other = speak(service, input="x", model=model)
        assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
    stretched = httpx.post(
        f"{service.url}/v1/audio/speech", json={"input": "x"}, headers={"x-request-disconnect-disabled": "1"}
    )
    assert stretched.status_code == 400
    large = httpx.post(f"{service.url}/v1/audio/speech", content=b" " * (2**20 + 1))
    assert large.status_code == 413
    nowhere = httpx.get(f"{service.url}/v1/nothing")
    assert (nowhere.status_code, nowhere.json()["error"]["type"]) == (404, "invalid_request_error")


def upload(service: Service, data: bytes, name: str) -> httpx.Response:
    files = {"file": ("clip", data, "application/octet-stream")}
    return httpx.post(f"{service.url}/v1/voices", files=files, data={"name": name}, timeout=120)


def test_a_voice_from_a_clip_speaks_and_goes(service: Service) -> None:
    made = upload(service, clip(), "Ålice")
    assert made.status_code == 201, made.text
    voice = made.json()
    assert upload(service, clip(), "Ålice").json() == voice
    assert upload(service, clip(pitch=220), "Ålice").json()["error"]["param"] == "name"
    listed = httpx.get(f"{service.url}/v1/voices", timeout=30).json()["data"]
    assert [v["name"] for v in listed] == ["default", "Ålice"]
    assert httpx.get(f"{service.url}/v1/voices/{voice['id']}", timeout=30).json() == voice
    own, builtin = (speak(service, input=TEXT, voice=v, seed=1).content for v in ("Ålice", "default"))
    assert own != builtin
    assert [path.name for path in service.voices_folder.glob("*.safetensors")] == [f"{voice['id']}.safetensors"]
    gone = httpx.delete(f"{service.url}/v1/voices/{voice['id']}", timeout=30)
    assert gone.json()["deleted"] is True
    assert httpx.get(f"{service.url}/v1/voices/{voice['id']}", timeout=30).status_code == 404
    assert speak(service, input=TEXT, voice="Ålice").status_code == 404
    assert list(service.voices_folder.glob("*.safetensors")) == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"this is no audio", 400),
        (b"", 400),
        (clip(2.0), 400),
        (clip(31.0), 400),
        (clip()[:60_000], 400),
        (b"\0" * (200 * 2**20), 413),
    ],
    ids=["text", "empty", "short", "long", "truncated", "200 MB"],
)
def test_bad_clips_are_refused(service: Service, data: bytes, status: int) -> None:
    answer = upload(service, data, "bad")
    assert answer.status_code == status
    assert answer.json()["error"]["param"] in ("file", None)
    assert list(service.voices_folder.glob("*.safetensors")) == []


def test_bad_names_are_refused(service: Service) -> None:
    for name in ("", "x" * 65, "default", "voice_0123456789abcdef", "a\nb"):
        answer = upload(service, clip(), name)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name"), name
    assert httpx.delete(f"{service.url}/v1/voices/default", timeout=30).status_code == 400
