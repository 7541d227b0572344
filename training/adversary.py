"""HiFT against a discriminator: distances of spectra alone leave a blur, which a listener hears as a buzz."""

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from training import dimensions, loop
from training.corpus import Corpus
from training.vocoder import Batch, Windows, distances, inner, speak, trained, vocoder

STEPS = 2400
BATCH = 8
RATE = 3e-4
RESOLUTIONS = ((512, 120), (1024, 240), (2048, 480))
"""FFT sizes and hops of the spectra that the discriminator sees (multi-resolution: UnivNet, 2106.07889)."""
CHANNELS = 16
SPECTRAL_WEIGHT = 12.0
FEATURE_WEIGHT = 2.0
"""Of the distance of the discriminator's features (MelGAN, 1910.06711)."""
_FAINT = 1e-3
_SLOPE = 0.1

Features = list[Tensor]


class _Spectral(nn.Module):
    """Judges one resolution's complex spectrum (as EnCodec's, 2210.13438), its magnitudes compressed to their root."""

    def __init__(self, size: int, hop: int) -> None:
        super().__init__()
        self._size, self._hop = size, hop
        widths = (2, *(CHANNELS,) * 4)
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs, outputs, (3, 7), (1, 2), padding=(1, 3)) for inputs, outputs in pairwise(widths)
        )
        self.score = nn.Conv2d(CHANNELS, 1, 3, padding=1)

    def forward(self, wave: Tensor) -> tuple[Tensor, Features]:
        """wave (B, N) -> scores (B, M, bands), and what each layer made."""
        window = torch.hann_window(self._size)
        spectrum = torch.stft(wave, self._size, self._hop, window=window, return_complex=True)
        spectrum = spectrum * (spectrum.abs() + _FAINT).rsqrt()
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # (B, 2, M, bins)
        features = []
        with torch.autocast("cpu", torch.bfloat16):  # what it judges was made in fp32
            for layer in self.layers:
                x = F.leaky_relu(layer(x), _SLOPE)
                features.append(x.float())
            return self.score(x)[:, 0].float(), features


class Discriminator(nn.Module):
    """Tells the teacher's audio from what HiFT made."""

    def __init__(self) -> None:
        super().__init__()
        self.judges = nn.ModuleList(_Spectral(*resolution) for resolution in RESOLUTIONS)

    def forward(self, wave: Tensor) -> list[tuple[Tensor, Features]]:
        return [judge(wave) for judge in self.judges]


class Rivals(nn.Module):
    """The two that are trained against each other, in one step."""

    def __init__(self, start: Path | None) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.hift = vocoder(start=start)
        self.discriminator = Discriminator()

    def losses(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """What both minimise (hinge: 1705.02894); each one's part has no gradient for the other."""
        made = speak(self.hift, batch.mel, batch.f0, seed)
        parts = distances(self.hift, batch, made)
        parts["spectral"] = SPECTRAL_WEIGHT * parts["spectral"]
        real = self.discriminator(inner(batch.wave))
        caught = self.discriminator(inner(made).detach())
        fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        passed = functional_call(self.discriminator, fixed, (inner(made),))
        total = {name: made.new_zeros(()) for name in ("discriminator", "adversary", "features")}
        for (truth, wanted), (lie, _), (judged, had) in zip(real, caught, passed, strict=True):
            total["discriminator"] = total["discriminator"] + F.relu(1 - truth).mean() + F.relu(1 + lie).mean()
            total["adversary"] = total["adversary"] - judged.mean()
            apart = [F.l1_loss(own, like.detach()) for own, like in zip(had, wanted, strict=True)]
            total["features"] = total["features"] + FEATURE_WEIGHT * torch.stack(apart).mean()
        return parts | {name: value / len(RESOLUTIONS) for name, value in total.items()}


def run(corpus: Corpus, folder: Path, steps: int = STEPS, start: Path | None = None) -> None:
    """Train the HiFT of `folder/vocoder.pt`, or a checkpoint's, further; the state of both is `folder/adversary.pt`."""
    rivals = Rivals(start)
    if start is None:
        rivals.hift.load_state_dict(torch.load(folder / "vocoder.pt", weights_only=True)["model"])
    windows = Windows(corpus, folder)

    def validate() -> dict[str, float]:
        batch = windows.held_out(0, 2 * BATCH)
        parts = distances(rivals.hift, batch, speak(rivals.hift, batch.mel, batch.f0, 0))
        return {name: float(value) for name, value in parts.items()}

    loop.train(
        "adversary", rivals, lambda step: rivals.losses(windows.trained(step, BATCH, BATCH // 2), step), steps=steps,
        rate=RATE, folder=folder, log=dimensions.LOGS / "adversary.jsonl", validate=validate,
        parameters=[*trained(rivals.hift), *rivals.discriminator.parameters()], weight_decay=0.0,
    )  # fmt: skip
