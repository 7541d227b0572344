"""The flow's estimator: the velocity of a noisy mel spectrogram at a time between noise (0) and speech (1).

The U-Net of Matcha-TTS (2309.03199) without its down- and upsampling and with causal convolutions, as CosyVoice 2
(2412.10117) uses it. Parameters carry the names of the reference's `flow.decoder.estimator.*`; where those names count
positions in a sequence that also holds layers without parameters, a ModuleDict has the positions as its keys.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.s3gen.past import Before, Nothing
from chatterbox_engine.spec import EstimatorSpec, S3GenSpec

_TIME_SCALE = 1000.0


def _mish(x: Tensor) -> Tensor:
    """x tanh(log(1 + e^x)) (1908.08681), on a CPU by e^x alone, in fp32: PyTorch's takes 2.5 times as long there."""
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return F.mish(x)
    power = x.float().clamp(max=20.0).exp_()  # beyond, the factor is 1
    factor = power.mul_(power + 2.0)
    return factor.div_(factor + 2.0).mul_(x).to(x.dtype)


class _Pointwise(nn.Conv1d):
    """Convolution of kernel 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (R, T, inputs) -> (R, T, outputs)"""
        return F.linear(x, self.weight[:, :, 0], self.bias)


class _CausalConv(nn.Conv1d):
    """Convolution of kernel 3 over the present frame and the two before it."""

    before = 2

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1 + self.before)

    def forward(self, x: Tensor, before: Before) -> Tensor:  # type: ignore[override]
        """x (R, T, inputs) -> (R, T, outputs): one product of each frame's window, since a convolution's kernel would
        turn both x and its weights over."""
        frames = x.shape[1]
        x = before.extend(x, self.before)
        windows = torch.cat([x[:, place : place + frames] for place in range(1 + self.before)], dim=2)
        return F.linear(windows, self.weight.transpose(1, 2).flatten(1), self.bias)


class _TimeMLP(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, outputs)
        self.linear_2 = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class _ConvBlock(nn.Module):
    """Causal convolution, norm over channels, Mish."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"0": _CausalConv(inputs, outputs), "2": nn.LayerNorm(outputs)})

    def forward(self, x: Tensor, before: Before) -> Tensor:
        """x (R, T, inputs) -> (R, T, outputs)"""
        return _mish(self.block["2"](self.block["0"](x, before)))


class _ResnetBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, time_width: int) -> None:
        super().__init__()
        self.mlp = nn.ModuleDict({"1": nn.Linear(time_width, outputs)})
        self.block1 = _ConvBlock(inputs, outputs)
        self.block2 = _ConvBlock(outputs, outputs)
        self.res_conv = _Pointwise(inputs, outputs)

    def forward(self, x: Tensor, time: Tensor, before: Before) -> Tensor:
        """x (R, T, inputs), time (1 or R, time_width) -> (R, T, outputs)"""
        h = self.block1(x, before) + self.mlp["1"](time)[:, None]
        return self.block2(h, before) + self.res_conv(x)


class _Attention(nn.Module):
    def __init__(self, spec: EstimatorSpec) -> None:
        super().__init__()
        inner = spec.heads * spec.head_width
        self.heads = spec.heads
        self.to_q = nn.Linear(spec.width, inner, bias=False)
        self.to_k = nn.Linear(spec.width, inner, bias=False)
        self.to_v = nn.Linear(spec.width, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, spec.width)])

    def forward(self, x: Tensor, before: Before) -> Tensor:
        """x (B, T, W) -> (B, T, W)"""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out[0](before.attend(q, k, v))


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        project = nn.ModuleDict({"proj": nn.Linear(width, 4 * width)})
        self.net = nn.ModuleDict({"0": project, "2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        project = self.net["0"]
        assert isinstance(project, nn.ModuleDict)
        return self.net["2"](F.gelu(project["proj"](x)))


class _TransformerBlock(nn.Module):
    def __init__(self, spec: EstimatorSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width)
        self.attn1 = _Attention(spec)
        self.norm3 = nn.LayerNorm(spec.width)
        self.ff = _FeedForward(spec.width)

    def forward(self, x: Tensor, before: Before) -> Tensor:
        x = x + self.attn1(self.norm1(x), before)
        return x + self.ff(self.norm3(x))


class _Stage(nn.ModuleList):
    """A resnet block (0), transformer blocks (1) and, in the first and the last stage, a convolution (2)."""

    def __init__(self, spec: EstimatorSpec, inputs: int, *, with_conv: bool) -> None:
        super().__init__()
        self.append(_ResnetBlock(inputs, spec.width, 4 * spec.width))
        self.append(nn.ModuleList(_TransformerBlock(spec) for _ in range(spec.stage_blocks)))
        if with_conv:
            self.append(_CausalConv(spec.width, spec.width))

    def forward(self, x: Tensor, time: Tensor, before: Before) -> Tensor:
        """The stage without its convolution: x (R, T, inputs), time (1 or R, 4W) -> (R, T, W)"""
        x = self[0](x, time, before)
        blocks = self[1]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            x = block(x, before)
        return x


class Estimator(nn.Module):
    """Velocity (B, mel_bins, T) of a mel spectrogram, given what to speak (mu), who speaks and the known frames."""

    def __init__(self, spec: S3GenSpec) -> None:
        super().__init__()
        width = spec.estimator.width
        self.inputs = 4 * spec.mel_bins
        self.time_mlp = _TimeMLP(self.inputs, 4 * width)
        self.time_embed_mixer = nn.Linear(8 * width, 4 * width, bias=False) if spec.meanflow else None
        self.down_blocks = nn.ModuleList([_Stage(spec.estimator, self.inputs, with_conv=True)])
        self.mid_blocks = nn.ModuleList(
            _Stage(spec.estimator, width, with_conv=False) for _ in range(spec.estimator.mid_stages)
        )
        self.up_blocks = nn.ModuleList([_Stage(spec.estimator, 2 * width, with_conv=True)])
        self.final_block = _ConvBlock(width, width)
        self.final_proj = _Pointwise(width, spec.mel_bins)

    def blocks(self) -> list[nn.Module]:
        """Where the time goes: resnet and transformer blocks."""
        return [module for module in self.modules() if isinstance(module, _ResnetBlock | _TransformerBlock)]

    @property
    def kept(self) -> int:
        """Numbers that its convolutions keep of a row, from one chunk to the next."""
        return sum(conv.before * conv.in_channels for conv in self.modules() if isinstance(conv, _CausalConv))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        mu: Tensor,
        t: Tensor,
        speaker: Tensor,
        cond: Tensor,
        until: Tensor | None = None,
    ) -> Tensor:
        """`velocity` at times t (B,) or (1,) in [0, 1]; of a mean-flow model, the mean one from t `until` a time."""
        return self.velocity(x, mask, mu, self.embed_time(t, until), speaker, cond)

    def embed_time(self, t: Tensor, until: Tensor | None = None) -> Tensor:
        """Times (N,) in [0, 1] -> (N, 4 width), Mish included, with which every stage begins.

        A mean-flow model takes both ends of the step, t and `until` (N,); others heed t alone.
        """
        embedded = self._embed(t)
        if self.time_embed_mixer is not None:
            assert until is not None
            embedded = self.time_embed_mixer(torch.cat((embedded, self._embed(until)), dim=1))
        return _mish(embedded)

    def _embed(self, t: Tensor) -> Tensor:
        half = self.inputs // 2
        frequency = torch.exp(torch.arange(half, device=t.device) * (-math.log(10_000.0) / (half - 1)))
        angle = _TIME_SCALE * t.float()[:, None] * frequency
        waves = torch.cat((angle.sin(), angle.cos()), dim=-1)
        return self.time_mlp(waves.to(self.final_proj.weight.dtype))

    def velocity(
        self,
        x: Tensor,
        mask: Tensor | None,
        mu: Tensor,
        time: Tensor,
        speaker: Tensor,
        cond: Tensor,
        before: Before | None = None,
    ) -> Tensor:
        """The velocity at one time.

        Args:
            x: noisy mel (B, mel_bins, T).
            mask: (B, 1, T), 1 or True at a row's own frames, which come first, and 0 at its padding. None: no padding.
                Or (1, T, T), True where a frame (row) may attend to another (column).
            mu: encoded tokens (B, mel_bins, T).
            time: `embed_time` of the step, (B, 4 width), or (1, 4 width) for all rows.
            speaker: (B, mel_bins).
            cond: known mel frames, else zero (B, mel_bins, T).
            before: frames that came before x's; then there is no mask. None: x begins at its rows' first frames.

        Returns:
            (B, mel_bins, T), zero at padding.
        """
        # Every convolution is causal, so padding on the right reaches a row's own frames through attention alone.
        if before is None:
            before = Nothing(None if mask is None else mask[:, None].bool())
        down, up = self.down_blocks[0], self.up_blocks[0]
        assert isinstance(down, _Stage)
        assert isinstance(up, _Stage)
        x = torch.cat((x, mu, speaker[:, :, None].expand_as(x), cond), dim=1).transpose(1, 2)
        skip = down(x, time, before)
        x = down[2](skip, before)
        for stage in self.mid_blocks:
            x = stage(x, time, before)
        x = up[2](up(torch.cat((x, skip), dim=2), time, before), before)
        x = self.final_proj(self.final_block(x, before)).transpose(1, 2)
        return x * mask if mask is not None and mask.shape[1] == 1 else x
