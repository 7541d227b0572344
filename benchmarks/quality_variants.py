"""Which configurations `quality` listens to, by the names that --variants takes."""

from dataclasses import dataclass

from chatterbox_engine.config import PROFILES
from chatterbox_engine.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Voicing:
    """A configuration, and whether its audio is made as a stream, chunk by chunk, or each text in one pass."""

    name: str
    profile: str
    switches: tuple[str, ...] = ()
    streamed: bool = True
    base: str | None = None
    """The name of the one that it is compared with."""


_SWITCHES = (
    "t3.precision=fp32",
    "t3.precision=bf16",
    "t3.quantization=int8",
    "t3.quantization=int8_dynamic",
    "t3.quantization=int4",
    "t3.kv_precision=int8",
)
"""Those of T3 that may change which tokens come out."""
_STREAMS = (
    ("s3gen.chunk_schedule=[10]",),
    ("s3gen.chunk_schedule=[10,20,40,80]",),
    ("s3gen.chunk_schedule=[25]",),
    ("s3gen.chunk_schedule=[25]", "s3gen.context_window=25"),
)
"""Ways to cut a stream."""
_S3GEN = (
    "s3gen.flow_attention=full",
    "s3gen.precision=fp32",
    "s3gen.precision=bf16",
    "s3gen.cpu_kernels=plain",
    "s3gen.hift_precision=fp32",
    "s3gen.hift_precision=bf16",
    "s3gen.vocoder=vocos",
    "s3gen.cfm_steps=6",
    "s3gen.prompt_seconds=1",
)
"""Ways to make a stream's sound."""
VOICINGS: tuple[Voicing, ...] = (
    Voicing("reference", "reference"),
    *(Voicing(name, name, base="reference") for name in PROFILES if name != "reference"),
    Voicing("offline", "balanced", streamed=False, base="balanced"),
    *(Voicing(switch, "balanced", (switch,), streamed=False, base="offline") for switch in _SWITCHES),
    *(Voicing(" ".join(switches), "balanced", switches, base="balanced") for switches in _STREAMS),
    *(Voicing(switch, "balanced", (switch,), base="balanced") for switch in _S3GEN),
)
"""Each profile as it serves; `balanced` in one pass, and so with a switch of T3; `balanced` cut in other ways, and
its sound made in others."""


def chosen(names: str | None) -> list[Voicing]:
    """Those in a list with commas, in the order of VOICINGS; None is all, `none` is none. Raises InvalidRequest."""
    if names is None:
        return list(VOICINGS)
    if names == "none":
        return []
    wanted, known = _cut(names), [voicing.name for voicing in VOICINGS]
    for name in wanted:
        if name not in known:
            raise InvalidRequest(f"There is no variant {name!r}. Variants: {', '.join(known)}.", "variants")
    return [voicing for voicing in VOICINGS if voicing.name in wanted]


def _cut(names: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for character in names:
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
