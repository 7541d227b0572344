"""The watermark: the same length out as in, no seams, and found by Perth's own detector."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.accel import native
from chatterbox_engine.errors import ModelUnavailable
from chatterbox_engine.watermark import Watermarker


@pytest.fixture(scope="module", params=["PyTorch's", "own"])
def watermarker(request: pytest.FixtureRequest) -> Watermarker:
    own = request.param == "own"
    if own and not native.has_tiles():
        pytest.skip("no AMX here, or no C compiler")
    return Watermarker(kernels=own)


def hum(seconds: float) -> np.ndarray:
    """Harmonics of 120 Hz with a little noise, (n,) float32."""
    t = np.arange(int(seconds * 24_000)) / 24_000
    sound = sum(np.sin(2 * np.pi * 120 * k * t + k) / k for k in range(1, 20))
    return (0.08 * sound + 0.005 * np.random.default_rng(0).standard_normal(len(t))).astype(np.float32)


def noise(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(1).standard_normal(int(seconds * 24_000))).astype(np.float32)


SOUNDS = {"hum": hum, "noise": noise}


def whole_delta(watermarker: Watermarker, samples: np.ndarray) -> np.ndarray:
    """What is added to (n,) samples by who knows them all."""
    return watermarker.delta(samples[None], np.zeros(1, np.float32))[0][0]


def streamed(watermarker: Watermarker, samples: np.ndarray, chunk: int) -> list[np.ndarray]:
    stream = watermarker.stream()
    places = range(0, max(1, len(samples)), chunk)
    return [stream.push(samples[i : i + chunk], final=i + chunk >= len(samples)) for i in places]


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("seconds", [2, 5])
@pytest.mark.parametrize("chunk_s", [0.2, 1.0])
def test_it_is_found_in_the_stream(watermarker: Watermarker, sound: str, seconds: float, chunk_s: float) -> None:
    samples = SOUNDS[sound](seconds)
    marked = np.concatenate(streamed(watermarker, samples, int(chunk_s * 24_000)))
    assert watermarker.detect(samples) < 0.1
    assert watermarker.detect(marked) >= 0.99
    assert 10 * np.log10(np.mean(samples**2) / np.mean((marked - samples) ** 2)) > 12


@pytest.mark.parametrize(("chunk", "nearness_db"), [(4_800, 25), (24_000, 33)])
def test_the_stream_is_near_what_knows_the_whole(watermarker: Watermarker, chunk: int, nearness_db: float) -> None:
    samples = hum(3)
    whole = whole_delta(watermarker, samples)
    marked = np.concatenate(streamed(watermarker, samples, chunk))
    assert 10 * np.log10(np.mean(whole**2) / np.mean((marked - samples - whole) ** 2)) > nearness_db


def test_the_whole_at_once_is_what_perth_makes(watermarker: Watermarker) -> None:
    """But for Perth's resampling, which the band below 8 kHz hardly feels."""
    from perth import PerthImplicitWatermarker

    t = np.arange(48_000) / 24_000
    samples = (0.05 * sum(np.sin(2 * np.pi * 150 * k * t + k * k) for k in range(1, 40))).astype(np.float32)
    perth = PerthImplicitWatermarker().apply_watermark(samples, sample_rate=24_000)
    delta = whole_delta(watermarker, samples)
    inner = slice(2_000, -2_000)  # resampling a tone that begins at once rings at the edges
    difference = (perth - samples - delta)[inner]
    assert 10 * np.log10(np.mean(delta[inner] ** 2) / np.mean(difference**2)) > 25


@settings(max_examples=25)
@given(sizes=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 5_000)), min_size=1, max_size=12))
def test_as_many_samples_come_out_as_went_in(watermarker: Watermarker, sizes: list[int]) -> None:
    stream = watermarker.stream()
    samples = hum(2.6)[: sum(sizes)]
    ends = np.cumsum(sizes)
    out = [stream.push(samples[e - n : e], final=False) for n, e in zip(sizes, ends, strict=True)]
    out.append(stream.push(samples[:0], final=True))
    marked = np.concatenate(out)
    assert marked.dtype == np.float32
    assert len(marked) == len(samples)
    assert np.isfinite(marked).all()
    assert len(samples) == 0 or np.abs(marked - samples).max() < 0.3


@pytest.mark.parametrize("total", [0, 1, 240, 767, 769, 1_535, 4_000])
def test_single_samples_and_short_totals(watermarker: Watermarker, total: int) -> None:
    samples = hum(1)[:total]
    chunks = streamed(watermarker, samples, 1)
    assert sum(map(len, chunks)) == total
    if total == 4_000:
        assert np.allclose(np.concatenate(chunks), streamed(watermarker, samples, total)[0], atol=0.05)


def test_what_is_held_back_is_short(watermarker: Watermarker) -> None:
    stream, given_out = watermarker.stream(), 0
    for taken in range(1, 20):
        given_out += len(stream.push(noise(0.2), final=False))
        assert taken * 4_800 - given_out == 960
    assert len(stream._samples) < 24_000


@pytest.mark.parametrize("chunk", [1_000, 4_800, 12_000])
def test_seams_do_not_click(watermarker: Watermarker, chunk: int) -> None:
    samples = hum(3)
    chunks = streamed(watermarker, samples, chunk)
    marked = np.concatenate(chunks)
    seams = np.cumsum([len(c) for c in chunks])[:-1]
    seams = seams[(seams > 0) & (seams < len(samples))]
    steps = np.abs(np.diff(marked))
    assert steps[seams - 1].max() <= np.abs(np.diff(samples)).max()
    whole = whole_delta(watermarker, samples)
    bends = np.abs(np.diff(marked - samples, 2))  # of delta alone, where a click would stand out
    assert bends[np.r_[seams - 2, seams - 1]].max() <= 1.2 * np.abs(np.diff(whole, 2)).max()


def test_a_louder_past_decides_what_is_quiet(watermarker: Watermarker) -> None:
    """As in Perth, what is far below the utterance's loudest frame stays as it is, also in a chunk of its own."""
    quiet = noise(3) * np.float32(1e-10)
    stream = watermarker.stream()
    stream.push(noise(1), final=False)
    stream.push(quiet[:24_000], final=False)
    rest = stream.push(quiet[24_000:], final=True)
    assert np.array_equal(rest[-40_000:], quiet[-40_000:])
    assert not np.array_equal(streamed(watermarker, quiet, len(quiet))[0], quiet)


def test_streams_do_not_touch_each_other(watermarker: Watermarker) -> None:
    alone = np.concatenate(streamed(watermarker, hum(1), 4_800))
    one, two = watermarker.stream(), watermarker.stream()
    out = []
    for i in range(5):
        out.append(one.push(hum(1)[i * 4_800 : (i + 1) * 4_800], final=i == 4))
        two.push(noise(0.2), final=i == 4)
    assert np.array_equal(np.concatenate(out), alone)


@settings(max_examples=10)
@given(sizes=st.lists(st.sampled_from([0, 500, 4_800, 9_600]), min_size=3, max_size=3), pushes=st.integers(1, 4))
def test_pushed_together_each_is_what_it_is_alone(watermarker: Watermarker, sizes: list[int], pushes: int) -> None:
    sounds = [hum(2), noise(2), 0.3 * hum(2)]
    alone = [[stream.push(sound[i * size : (i + 1) * size], i == pushes - 1) for i in range(pushes)]
             for sound, size in zip(sounds, sizes, strict=True) for stream in [watermarker.stream()]]  # fmt: skip
    streams = [watermarker.stream() for _ in sounds]
    for i in range(pushes):
        chunks = [sound[i * size : (i + 1) * size] for sound, size in zip(sounds, sizes, strict=True)]
        together = watermarker.push(streams, chunks, [i == pushes - 1] * 3)
        for index, marked in enumerate(together):
            np.testing.assert_allclose(marked, alone[index][i], rtol=0, atol=1e-6)


@pytest.mark.skipif(not native.has_tiles(), reason="no AMX here, or no C compiler")
@pytest.mark.parametrize("sound", SOUNDS)
def test_own_kernels_add_what_pytorchs_add(sound: str) -> None:
    samples = SOUNDS[sound](2)
    own, exact = (whole_delta(Watermarker(kernels=kernels), samples) for kernels in (True, False))
    assert 10 * np.log10(np.mean(exact**2) / np.mean((own - exact) ** 2)) > 36


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("sound", SOUNDS)
def test_a_gpu_adds_what_a_cpu_adds(sound: str) -> None:
    samples = SOUNDS[sound](2)
    there, here = (whole_delta(Watermarker(device=device, kernels=False), samples) for device in ("cuda", "cpu"))
    assert 10 * np.log10(np.mean(here**2) / np.mean((there - here) ** 2)) > 60


def test_the_output_stays_within_full_scale(watermarker: Watermarker) -> None:
    loud = np.clip(hum(1) * 10, -1, 1)
    assert np.abs(streamed(watermarker, loud, 24_000)[0]).max() <= 1.0


def test_nothing_is_found_in_what_is_silent_or_short(watermarker: Watermarker) -> None:
    for samples in (np.zeros(0), np.zeros(48_000), np.ones(100)):
        assert watermarker.detect(samples.astype(np.float32)) == 0.0


def test_without_perth_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, watermarker: Any) -> None:
    import perth

    monkeypatch.setattr(perth, "PerthImplicitWatermarker", None)
    marks_alone = Watermarker()
    with pytest.raises(ModelUnavailable, match="setuptools<81"):
        marks_alone.detect(hum(1))
    monkeypatch.setattr("chatterbox_engine.watermark.find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match="resemble-perth"):
        Watermarker()
