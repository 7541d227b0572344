"""What each stage must read and compute at the least, counted from a model's dimensions alone.

Operations are those of matrix products and convolutions, two for each multiplication and addition; norms, activations
and softmax are not counted. A test compares the counts with torch's own counter on the modules.
"""

import math
from dataclasses import dataclass

from benchmarks.report import Column, Row, number, table
from chatterbox_engine.spec import SPECS, EncoderSpec, EstimatorSpec, HiFTSpec, ModelSpec, S3GenSpec, T3Spec, VocosSpec
from chatterbox_engine.types import FRAMES_PER_TOKEN, TOKEN_RATE

WEIGHT_BITS = {"fp32": 32, "bf16": 16, "int8": 8, "int4": 4}
_CONV, _EDGE, _F0_LAYERS = 3, 7, 5
"""Kernel of the flow's and of the F0 predictor's convolutions; of HiFT's first and last, and of Vocos's; layers of the
F0 predictor."""


@dataclass(frozen=True, slots=True)
class StepFloor:
    """The least time of a decode step, from the bytes that it must read."""

    weight_bytes: int
    kv_bytes: int
    seconds: float

    @classmethod
    def of(
        cls, weight_bytes: int, position_bytes: int, rows: int, context: float, bytes_a_second: float
    ) -> "StepFloor":
        """rows of the cache with `context` positions each."""
        kv = round(position_bytes * rows * context)
        return cls(weight_bytes, kv, (weight_bytes + kv) / bytes_a_second)


def rows_a_stream(spec: T3Spec, cfg_weight: float) -> int:
    """Rows of the KV cache that a stream takes."""
    return 2 if spec.cfg and cfg_weight > 0 else 1


def prompt_positions(spec: T3Spec, text_tokens: int) -> int:
    """Positions of a row before the first sampled token."""
    prompt = spec.perceiver_queries or spec.prompt_tokens
    return 1 + prompt + int(spec.emotion) + text_tokens + spec.start_tokens


def t3_matrices(spec: T3Spec) -> int:
    """Weights in the matrices that a step multiplies: the blocks' and the speech head's."""
    inner = spec.heads * spec.head_width
    mlp = 3 if spec.backbone == "llama" else 2
    return spec.layers * spec.width * (4 * inner + mlp * spec.mlp_width) + spec.width * spec.speech_vocab


def t3_position_bytes(spec: T3Spec, element_bytes: int) -> int:
    """Bytes of keys and values of one position of one row."""
    return 2 * spec.layers * spec.heads * spec.head_width * element_bytes


def t3_step_operations(spec: T3Spec, rows: int, context: float) -> float:
    """Of one token for each row, with so many positions in the cache."""
    return rows * (2 * t3_matrices(spec) + 4 * spec.layers * spec.heads * spec.head_width * context)


def flow_operations(spec: S3GenSpec, prompt: int, tokens: int, steps: int | None = None) -> float:
    """Of one call over a prompt and `tokens` speech tokens, as one row."""
    length, frames = prompt + tokens, FRAMES_PER_TOKEN * (prompt + tokens)
    width, bins = spec.encoder.width, spec.mel_bins
    projections = 2 * frames * width * bins + 2 * spec.speaker_width * bins
    passes = steps or spec.cfm_steps
    estimator = passes * (flow_rows(spec) * _estimator(spec.estimator, bins, frames) + _time(spec, bins))
    return _encoder(spec.encoder, length) + projections + estimator


def flow_rows(spec: S3GenSpec) -> int:
    """Rows of the estimator for each utterance: with guidance two."""
    return 1 if spec.meanflow else 2


def hift_operations(spec: HiFTSpec, mel_bins: int, frames: int) -> float:
    """Of the vocoder over so many mel frames."""
    f0 = 2 * frames * (_CONV * spec.f0_width * (mel_bins + (_F0_LAYERS - 1) * spec.f0_width) + spec.f0_width)
    samples, bins = frames * math.prod(spec.upsample_rates) * spec.hop, spec.n_fft + 2
    columns = samples // spec.hop + 1
    source = 2 * samples * (spec.harmonics + 1) + 2 * columns * bins * spec.n_fft
    total = f0 + source + 2 * _EDGE * frames * mel_bins * spec.base_width
    length, last = frames, len(spec.upsample_rates) - 1
    for stage, (rate, kernel) in enumerate(zip(spec.upsample_rates, spec.upsample_kernels, strict=True)):
        inputs, width = spec.base_width >> stage, spec.base_width >> (stage + 1)
        total += 2 * length * kernel * inputs * width
        length = length * rate + int(stage == last)
        down = math.prod(spec.upsample_rates[stage + 1 :])
        total += 2 * length * bins * width * (2 * down if down > 1 else 1)
        kernels = spec.source_kernels[stage] + sum(spec.kernels)
        total += 2 * length * width**2 * kernels * 2 * len(spec.dilations)
    width = spec.base_width >> (last + 1)
    return total + 2 * length * _EDGE * width * bins + 2 * columns * bins * spec.n_fft


def vocos_operations(spec: VocosSpec, mel_bins: int, frames: int) -> float:
    """Of the other vocoder over so many mel frames, without its inverse FFTs, which are few."""
    block = _EDGE * spec.width + 2 * spec.width * spec.mlp_width
    return 2 * frames * (_EDGE * mel_bins * spec.width + spec.layers * block + spec.width * (spec.n_fft + 2))


def s3gen_operations(spec: S3GenSpec, prompt: int, tokens: int, *, vocos: bool = False) -> float:
    """Of one utterance, offline: the flow once, then HiFT or Vocos."""
    frames = FRAMES_PER_TOKEN * tokens
    vocoder = (
        vocos_operations(spec.vocos, spec.mel_bins, frames)
        if vocos
        else hift_operations(spec.hift, spec.mel_bins, frames)
    )
    return flow_operations(spec, prompt, tokens) + vocoder


def _encoder(spec: EncoderSpec, length: int) -> float:
    width, frames = spec.width, FRAMES_PER_TOKEN * length
    front = 2 * length * width**2 * (1 + spec.lookahead + 1 + _CONV)
    up = 2 * frames * width**2 * (2 * FRAMES_PER_TOKEN + 1 + 1)
    return front + up + spec.blocks * _conformer(spec, length) + spec.up_blocks * _conformer(spec, frames)


def _conformer(spec: EncoderSpec, length: int) -> float:
    width, distances = spec.width, 2 * length - 1
    linear = 2 * width**2 * (4 * length + distances) + 4 * width * spec.mlp_width * length
    return linear + 2 * length * distances * width + 4 * length**2 * width


def _estimator(spec: EstimatorSpec, mel_bins: int, frames: int) -> float:
    """One pass over one row."""
    width, inner = spec.width, spec.heads * spec.head_width
    block = 2 * frames * width * (4 * inner + 8 * width) + 4 * frames**2 * inner
    inputs = (4 * mel_bins, *[width] * spec.mid_stages, 2 * width)
    total = 0.0
    for channels in inputs:
        resnet = 2 * frames * width * (_CONV * (channels + width) + channels) + 2 * 4 * width * width
        total += resnet + spec.stage_blocks * block
    convolutions = 3  # of the first stage, of the last, and the final block's
    return total + convolutions * 2 * frames * _CONV * width**2 + 2 * frames * width * mel_bins


def _time(spec: S3GenSpec, mel_bins: int) -> float:
    """Embedding a step's time, or both its ends, for all rows."""
    inner = 4 * spec.estimator.width
    one = 2 * inner * (4 * mel_bins + inner)
    return 2 * one + 4 * inner**2 if spec.meanflow else one


def dimensions() -> list[ModelSpec]:
    """Every full-size model of the family."""
    return [ModelSpec.load(path) for path in sorted(SPECS.glob("chatterbox*.json"))]


def tables(positions: tuple[int, int] = (300, 1100), seconds: float = 5.0, prompt_s: float = 10.0) -> str:
    """Markdown: both stages' ceilings for each model."""
    specs = dimensions()
    t3 = [_t3_row(spec, positions) for spec in specs]
    s3gen = [_s3gen_row(spec, round(prompt_s * TOKEN_RATE), seconds) for spec in specs]
    t3_columns = (
        Column("model", "T3"),
        *(Column(name, f"weights read a step, {name}") for name in WEIGHT_BITS),
        Column("position", "KV of a row and position, bf16"),
        *(Column(f"kv{count}", f"KV of a stream at {count:,} positions, bf16") for count in positions),
        Column("operations", f"operations a step, one stream at {positions[0]} positions"),
    )
    s3gen_columns = (
        Column("model", "S3Gen"),
        Column("flow", f"flow, {seconds:g} s of audio after a prompt of {prompt_s:g} s"),
        Column("hift", f"HiFT, {seconds:g} s"),
        Column("second", "both, a second of audio"),
        Column("samples", "passes of the estimator x rows"),
    )
    return f"{table(t3_columns, t3)}\n\n{table(s3gen_columns, s3gen)}"


def _t3_row(spec: ModelSpec, positions: tuple[int, int]) -> Row:
    t3, rows = spec.t3, rows_a_stream(spec.t3, 0.5)
    position = t3_position_bytes(t3, 2)
    return {
        "model": f"{spec.name} ({rows} row{'s' * (rows > 1)} a stream)",
        **{name: f"{number(t3_matrices(t3) * bits / 8 / 1e9)} GB" for name, bits in WEIGHT_BITS.items()},
        "position": f"{number(position / 1e3)} kB",
        **{f"kv{count}": f"{number(position * rows * count / 1e6)} MB" for count in positions},
        "operations": f"{number(t3_step_operations(t3, rows, positions[0]) / 1e9)} GFLOP",
    }


def _s3gen_row(spec: ModelSpec, prompt: int, seconds: float) -> Row:
    s3gen, tokens = spec.s3gen, round(seconds * TOKEN_RATE)
    flow = flow_operations(s3gen, prompt, tokens)
    hift = hift_operations(s3gen.hift, s3gen.mel_bins, FRAMES_PER_TOKEN * tokens)
    return {
        "model": spec.name,
        "flow": f"{number(flow / 1e12)} TFLOP",
        "hift": f"{number(hift / 1e12)} TFLOP",
        "second": f"{number((flow + hift) / seconds / 1e12)} TFLOP",
        "samples": f"{s3gen.cfm_steps} x {flow_rows(s3gen)}",
    }
