import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions.uniform import Uniform

from chatterbox_engine.errors import ModelUnavailable
from chatterbox_engine.s3gen.hift import HiFT, initial_phases, source_noise
from chatterbox_engine.spec import HiFTSpec
from tests.s3gen.conftest import MEL_BINS, TOLERANCE, assert_speech, speech_mel

FRAMES = 30
HARMONICS = 9
SAMPLES = 480
SEEDS = torch.tensor([11, 12])


@pytest.fixture(scope="module")
def hift(reference_hift: Any) -> HiFT:
    return HiFT.from_state_dict(HiFTSpec(), MEL_BINS, reference_hift.state_dict())


@pytest.fixture(scope="module")
def mel(reference_hift: Any) -> Tensor:
    return torch.cat([speech_mel(FRAMES, reference_hift.voiced, seed) for seed in (0, 1)])


def drawn(frames: int = FRAMES) -> tuple[Tensor, Tensor, Tensor]:
    """Carried phase, initial phases and noise of an utterance's start, for two rows."""
    start = torch.zeros(2, HARMONICS, dtype=torch.float64)
    noise = source_noise(SEEDS, torch.zeros(2, dtype=torch.int64), frames * SAMPLES, HARMONICS)
    return start, initial_phases(SEEDS, HARMONICS), noise


@pytest.fixture
def same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reference draw our numbers. Its second noise, of the shape of one harmonic, is never used."""
    _, offsets, noise = drawn()
    monkeypatch.setattr(Uniform, "sample", lambda self, sample_shape: offsets[:, :, None].clone())
    monkeypatch.setattr(torch, "randn_like", lambda x: noise if x.shape == noise.shape else torch.zeros_like(x))


def float64_predictor(reference_hift: Any) -> Any:
    """The reference's F0 predictor, run in float64."""
    predictor = copy.deepcopy(reference_hift.f0_predictor).double()
    return lambda mel: predictor(mel.double()).float()


def test_f0_equals_the_reference(hift: HiFT, reference_hift: Any, mel: Tensor) -> None:
    expected = reference_hift.f0_predictor(mel)
    torch.testing.assert_close(hift.f0(mel), expected, atol=1e-4, rtol=2e-6)
    exact = float64_predictor(reference_hift)(mel)
    torch.testing.assert_close(hift.f0(mel), exact, atol=1e-6, rtol=2e-7)


@pytest.mark.usefixtures("same_draws")
def test_source_equals_the_reference(hift: HiFT, reference_hift: Any, mel: Tensor) -> None:
    f0 = reference_hift.f0_predictor(mel)
    expected, _, _ = reference_hift.m_source(reference_hift.f0_upsamp(f0[:, None]).transpose(1, 2))
    source, _ = hift.source(f0, *drawn())
    torch.testing.assert_close(source, expected.transpose(1, 2), atol=TOLERANCE, rtol=0)


def test_decode_equals_the_reference(hift: HiFT, reference_hift: Any, mel: Tensor) -> None:
    source = 0.1 * torch.randn(2, 1, FRAMES * SAMPLES, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(hift.decode(mel, source), reference_hift.decode(mel, source), atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("same_draws")
def test_audio_equals_the_reference(
    hift: HiFT, reference_hift: Any, mel: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    f0 = hift.f0(mel)
    source, _ = hift.source(f0, *drawn())
    audio = hift.decode(mel, source)
    assert_speech(f0, audio)
    assert (hift.decode(mel, torch.zeros_like(source)) - audio).std() > 0.01, "the source must be heard"
    # In float32 F0 is 7e-7 off that of the same weights in float64, which these weights make 5e-4 of audio.
    monkeypatch.setattr(reference_hift.f0_predictor, "forward", float64_predictor(reference_hift))
    torch.testing.assert_close(audio, reference_hift.inference(mel)[0], atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("same_draws")
def test_audio_equals_the_unmodified_reference_with_its_own_precision_of_f0(
    hift: HiFT, reference_hift: Any, mel: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile `reference`."""
    monkeypatch.setattr(hift.f0_predictor, "dtype", torch.float32)
    f0 = hift.f0(mel)
    source, _ = hift.source(f0, *drawn())
    audio = hift.decode(mel, source)
    assert_speech(f0, audio)
    torch.testing.assert_close(audio, reference_hift.inference(mel)[0], atol=TOLERANCE, rtol=0)


def test_older_names_of_weight_norm_are_read(reference_hift: Any, hift: HiFT) -> None:
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in reference_hift.state_dict().items()
    }
    loaded = HiFT.from_state_dict(HiFTSpec(), MEL_BINS, old)
    torch.testing.assert_close(loaded.state_dict(), hift.state_dict(), atol=0, rtol=0)


def test_every_reference_tensor_has_its_place(reference_hift: Any, hift: HiFT) -> None:
    names = {
        name.replace("parametrizations.weight.original0", "weight").replace(
            "parametrizations.weight.original1", "weight"
        )
        for name in reference_hift.state_dict()
    }
    assert names == set(hift.state_dict())


def test_a_missing_tensor_is_named(reference_hift: Any) -> None:
    state = dict(reference_hift.state_dict())
    del state["conv_pre.bias"]
    with pytest.raises(ModelUnavailable, match=r"conv_pre\.bias"):
        HiFT.from_state_dict(HiFTSpec(), MEL_BINS, state)


def test_stft_and_its_inverse_equal_torch(hift: HiFT) -> None:
    signal = torch.randn(2, 1, 960)
    window = torch.hann_window(16)
    expected = torch.stft(signal[:, 0], 16, 4, window=window, return_complex=True)
    spectrum = hift.stft(signal)
    torch.testing.assert_close(spectrum, torch.cat((expected.real, expected.imag), dim=1), atol=1e-5, rtol=0)
    changed = expected * torch.rand(expected.shape)
    torch.testing.assert_close(
        hift.stft.inverse(torch.cat((changed.real, changed.imag), dim=1)),
        torch.istft(changed, 16, 4, window=window),
        atol=1e-5,
        rtol=0,
    )


def test_source_in_two_parts_equals_the_whole(hift: HiFT, mel: Tensor) -> None:
    f0 = hift.f0(mel)
    phase, offsets, noise = drawn()
    whole, end = hift.source(f0, phase, offsets, noise)
    first, phase = hift.source(f0[:, :13], phase, offsets, noise[:, :, : 13 * SAMPLES])
    rest_noise = source_noise(SEEDS, torch.full((2,), 13 * SAMPLES), 17 * SAMPLES, HARMONICS)
    assert torch.equal(rest_noise, noise[:, :, 13 * SAMPLES :])
    second, phase = hift.source(f0[:, 13:], phase, offsets, rest_noise)
    torch.testing.assert_close(torch.cat((first, second), dim=2), whole, atol=1e-6, rtol=0)
    assert (phase - end).abs().max() < 1e-9
    assert ((end >= 0) & (end < 1)).all()


@pytest.mark.parametrize("start", [0, 7, 2**33 // 9 * 9 + 3])
def test_what_is_excited_is_the_source_with_its_own_noise(hift: HiFT, start: int) -> None:
    """Voiced and unvoiced, at rows of their own places; whichever kernel makes it."""
    generator = torch.Generator().manual_seed(2)
    f0 = 80 + 300 * torch.rand(3, 30, generator=generator) * (torch.arange(30) % 7 > 1)
    f0[:, 3:6] = 0.0
    seeds, starts = torch.tensor([5, 2**40 + 1, 0]), torch.tensor([start, start + 960, 0])
    phase = torch.rand(3, hift.harmonics, dtype=torch.float64, generator=generator)
    noise = source_noise(seeds, starts, 30 * SAMPLES, hift.harmonics)
    expected, end = hift.source(f0, phase, initial_phases(seeds, hift.harmonics), noise)
    made, after = hift.excite(f0, phase, seeds, starts)
    assert expected.std() > 0.01
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    assert torch.equal(after, end)
    alone, _ = hift.excite(f0[1:2], phase[1:2], seeds[1:2], starts[1:2])
    assert torch.equal(alone[0], made[1])


def test_phase_stays_exact_over_a_minute(hift: HiFT) -> None:
    f0 = torch.full((1, 1), 187.5)  # 3.75 cycles a frame: exact in binary
    phase, silence = torch.zeros(1, HARMONICS, dtype=torch.float64), torch.zeros(1, HARMONICS, SAMPLES)
    offsets = torch.zeros(1, HARMONICS)
    first, after = hift.source(f0, phase, offsets, silence)
    for _ in range(3000 - 1):
        after = (after + 480 * (187.5 / 24_000) * torch.arange(1, 10, dtype=torch.float64)).frac()
    later, _ = hift.source(f0, after, offsets, silence)
    torch.testing.assert_close(later, first, atol=1e-6, rtol=0)


def test_draws_are_functions_of_seed_and_place() -> None:
    start, phases, noise = drawn()
    assert start.shape == phases.shape == (2, HARMONICS)
    assert not phases[:, 0].any()
    assert phases.abs().max() < math.pi
    assert phases[:, 1:].std() > 1.0
    alone = source_noise(SEEDS[1:], torch.tensor([100]), 50, HARMONICS)
    assert torch.equal(alone[0], noise[1, :, 100:150])
    assert abs(noise.std() - 1) < 0.02
    assert abs(torch.corrcoef(noise[0]) - torch.eye(HARMONICS)).max() < 0.05


def test_decoder_alone_is_cast(hift: HiFT, mel: Tensor) -> None:
    half = copy.deepcopy(hift)
    half.cast_decoder(torch.bfloat16)
    assert torch.equal(half.f0(mel), hift.f0(mel))
    source, _ = hift.source(hift.f0(mel), *drawn())
    assert torch.equal(half.source(hift.f0(mel), *drawn())[0], source)
    audio, expected = half.decode(mel, source), hift.decode(mel, source)
    assert audio.dtype == torch.float32
    assert (audio - expected).std() < 0.2 * expected.std()
