"""Which variants `ab` compares, and where the starting reports' optimisations stand among them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmarks.subject import configured, differences
from chatterbox_engine.config import PROFILES

Stage = Literal["t3", "s3gen", "e2e"]
Section = Literal["alone", "profile", "without"]

_GPU, _CPU = "a GPU", "a CPU"
_DEVICES = {_GPU: "cuda", _CPU: "cpu"}
_STAGES: tuple[Stage, ...] = ("t3", "s3gen", "e2e")


@dataclass(frozen=True, slots=True)
class Variant:
    """A configuration beside the one that it is compared with."""

    section: Section
    name: str
    stage: Stage
    """What is measured: a switch of T3 by T3 alone, and so on."""
    base: str
    """A profile."""
    profile: str
    switches: tuple[str, ...]
    waits: str | None = None
    """What must be there before it can be measured."""

    @property
    def key(self) -> tuple[str, str, str]:
        """No other variant has it."""
        return self.section, self.stage, self.name


_ALONE: tuple[tuple[Stage, str, tuple[str, ...], str | None], ...] = (
    ("t3", "t3.exact=false", (), None),
    ("t3", "t3.precision=bf16", (), None),
    ("t3", "t3.precision=fp16", (), None),
    ("t3", "t3.precision=tf32", (), _GPU),
    ("t3", "t3.quantization=int8", (), None),
    ("t3", "t3.quantization=int8_dynamic", (), None),
    ("t3", "t3.quantization=int4", (), None),
    ("t3", "t3.quantization=fp8", (), _GPU),
    ("t3", "t3.quantization=nf4", (), None),
    ("t3", "t3.kv_cache=full", (), None),
    ("t3", "t3.kv_precision=int8", (), None),
    ("t3", "t3.attention=math", (), None),
    ("t3", "t3.attention=efficient", (), _GPU),
    ("t3", "t3.attention=flash", (), None),
    ("t3", "t3.alignment_guard=on", (), None),
    ("t3", "t3.word_timings=on", (), None),
    ("t3", "t3.cuda_graphs=true", ("t3.exact=false",), _GPU),
    ("t3", "t3.gpu_kernels=plain", ("t3.exact=false", "t3.cuda_graphs=true"), _GPU),
    ("t3", "t3.compile=default", (), None),
    ("t3", "t3.compile=max-autotune-no-cudagraphs", (), _GPU),
    ("t3", "t3.cpu_kernels=packed", ("t3.precision=bf16",), _CPU),
    ("t3", "t3.cpu_kernels=plain", ("t3.precision=bf16",), _CPU),
    ("t3", "t3.voice_prefix=off", (), None),
    ("t3", "t3.voice_prefix=kv", ("t3.exact=false",), None),
    ("s3gen", "s3gen.precision=bf16", (), None),
    ("s3gen", "s3gen.precision=tf32", (), _GPU),
    ("s3gen", "s3gen.cuda_graphs=true", (), _GPU),
    ("s3gen", "s3gen.compile=default", (), None),
    ("s3gen", "s3gen.compile=max-autotune-no-cudagraphs", (), _GPU),
    ("s3gen", "s3gen.cpu_kernels=plain", ("s3gen.precision=bf16",), _CPU),
    ("s3gen", "s3gen.hift_precision=bf16x3", (), _CPU),
    ("s3gen", "s3gen.hift_precision=bf16", (), None),
    ("s3gen", "s3gen.f0_precision=fp64", (), None),
    ("s3gen", "s3gen.vocoder=vocos", (), None),
    ("s3gen", "s3gen.cfm_steps=5", (), None),
    ("s3gen", "s3gen.prompt_seconds=3", (), None),
    ("e2e", "s3gen.chunk_schedule=[10,20,40,80]", (), None),
    ("e2e", "s3gen.chunk_schedule=[25]", (), None),
    ("e2e", "s3gen.chunk_schedule=[100]", (), None),
    ("e2e", "s3gen.context_window=25", (), None),
    ("e2e", "s3gen.flow_attention=chunked", (), None),
    ("e2e", "s3gen.gpu_kernels=plain", ("s3gen.flow_attention=chunked", "s3gen.cuda_graphs=true"), _GPU),
    ("e2e", "warmup=none", (), None),
    ("e2e", "warmup=full", (), None),
    ("e2e", "watermark=false", (), None),
    ("e2e", "memory.expandable_segments=true", (), _GPU),
    ("e2e", "memory.limit=0.5", (), _GPU),
)
"""(stage, switch, switches that it needs, what it needs to be there)."""
_OF_LISTENERS = ("s3gen.hurry_s",)
"""Switches that change nothing where nobody listens in real time; `deadlines` measures them."""
_BESIDES = (
    ("t3.quantization=int8", None),
    ("t3.quantization=int8_dynamic", None),
    ("t3.quantization=int4", None),
    ("t3.kv_precision=int8", None),
    ("t3.kv_cache=full", None),
    ("t3.alignment_guard=on", None),
    ("t3.word_timings=off", None),
    ("t3.cpu_kernels=packed", _CPU),
    ("t3.cpu_kernels=plain", _CPU),
    ("t3.gpu_kernels=plain", _GPU),
    ("s3gen.cpu_kernels=plain", _CPU),
    ("s3gen.hift_precision=bf16", None),
    ("s3gen.vocoder=vocos", None),
)
"""Switches that `balanced` and `reference` share, and that may matter more to `balanced`."""


def variants(device_type: str) -> list[Variant]:
    """Every switch alone on `reference`, every profile beside it, and `balanced` with each of its own set back."""
    alone = [
        Variant("alone", " ".join((switch, *needs)), stage, "reference", "reference", (switch, *needs), waits)
        for stage, switch, needs, waits in _ALONE
    ]
    profiles = [
        Variant("profile", name, stage, "reference", name, ())
        for name in PROFILES
        if name != "reference"
        for stage in _STAGES
    ]  # fmt: skip
    found = [*alone, *profiles, *_without()]
    there = {waits for waits, device in _DEVICES.items() if device == device_type}
    return [replace(variant, waits=None) if variant.waits in there else variant for variant in found]


def _without() -> Iterator[Variant]:
    """`balanced` with one of the switches in which it differs from `reference` set back, and a few beside those."""
    balanced, reference = (configured(profile, ()).model_dump() for profile in ("balanced", "reference"))
    for name, value in differences(reference, balanced).items():
        if name in _OF_LISTENERS:
            continue
        waits = _GPU if name.endswith(".cuda_graphs") else None
        switch = f"{name}={_written(value)}"
        yield Variant("without", switch, stage_of(name), "balanced", "balanced", (switch,), waits)
    for switch, waits in _BESIDES:
        yield Variant("without", switch, stage_of(switch), "balanced", "balanced", (switch,), waits)


def stage_of(switch: str) -> Stage:
    """What shows a switch's effect, unless told otherwise."""
    stage = switch.partition(".")[0]
    return "t3" if stage == "t3" else "s3gen" if stage == "s3gen" else "e2e"


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Claim:
    """An optimisation of the starting reports."""

    name: str
    here: str
    """What became of it."""
    rows: tuple[str, ...] = ()
    """Variants that measure it, by name."""
    waits: str | None = None
    """Where no variant measures it: what it waits for. None: it cannot be switched off, and says so in `here`."""


CLAIMS = (
    Claim("alignment analyzer off", "a guard inside the step that reads three heads; off unless the model is meant to "
          "have it", ("t3.alignment_guard=on",)),
    Claim("output_attentions off", "nothing asks for attention weights, in any profile"),
    Claim("flash attention", "named by a switch; left to PyTorch otherwise",
          ("t3.attention=flash", "t3.attention=efficient", "t3.attention=math")),
    Claim("mixed precision", "a number format for each stage",
          ("t3.precision=bf16", "t3.precision=fp16", "t3.precision=tf32", "s3gen.precision=bf16",
           "s3gen.precision=tf32")),
    Claim("inference mode", "every step runs in it, in any profile; so does the reference"),
    Claim("channels last", "the CPU's own kernels of S3Gen keep a frame's channels together; PyTorch has no such "
          "layout for sequences"),
    Claim("warm-up", "first calls paid before the service is ready", ("warmup=none", "warmup=full")),
    Claim("Vocos", "distilled from HiFT by a command, for any model; off by default", ("s3gen.vocoder=vocos",)),
    Claim("text splitting", "always, at sentences, clauses, then words; a text that fits is not split",
          waits="a switch; it is always on"),
    Claim("quantisation", "weights in fewer bits",
          ("t3.quantization=int8", "t3.quantization=int8_dynamic", "t3.quantization=int4", "t3.quantization=fp8",
           "t3.quantization=nf4")),
    Claim("KV cache", "preallocated, read only as far as a stream has come", ("t3.kv_cache=full",)),
    Claim("CPU offloading", "the weights move to the host after `memory.idle_s` seconds without a request, not between "
          "two layers", waits=_GPU),
    Claim("CUDA cache management", "the allocator's settings, before anything lies on the device",
          ("memory.expandable_segments=true", "memory.limit=0.5")),
    Claim("compile", "torch.compile of T3's layers", ("t3.compile=default", "t3.compile=max-autotune-no-cudagraphs")),
    Claim("chunk size", "a schedule that starts small and grows",
          ("s3gen.chunk_schedule=[10,20,40,80]", "s3gen.chunk_schedule=[25]", "s3gen.chunk_schedule=[100]")),
)  # fmt: skip
"""In the order of the reports."""
