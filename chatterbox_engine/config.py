"""EngineConfig: every choice of the engine is a named switch here, and profiles name sets of them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from chatterbox_engine.errors import InvalidRequest

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Attention = Literal["auto", "flash", "efficient", "math"]
Quantization = Literal["none", "int8", "int8_dynamic", "int4", "fp8", "nf4"]
HiFTPrecision = Literal["auto", "fp32", "bf16x3", "bf16"]
CpuKernels = Literal["auto", "packed", "plain"]
Compile = Literal["off", "default", "max-autotune-no-cudagraphs"]
Warmup = Literal["none", "first", "full"]


class _Switches(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class T3Switches(_Switches):
    """Text -> speech tokens."""

    precision: Precision = "auto"
    """auto: bf16 where the device multiplies it (GPUs, CPUs with AMX or AVX512-BF16) or the engine's own kernels read
    it (CPUs with AVX2), fp32 elsewhere."""
    attention: Attention = "auto"
    """auto: whichever of PyTorch's kernels fits; the others name one, and fall back to auto where it is not there."""
    kv_cache: Literal["bucketed", "full"] = "bucketed"
    """bucketed: a step reads the cache as far as its longest stream has come. full: all of it, always."""
    kv_precision: Literal["auto", "int8"] = "auto"
    """auto: the step's own. int8: half of bf16's bytes, a scale for each head and position. On a CPU that saves time
    where many streams are read; on a GPU it costs some, since what is read is first widened."""
    alignment_guard: Literal["auto", "on", "off"] = "auto"
    """End or hold a stream by where its attention stands in the text. auto: where the model is meant to have it."""
    word_timings: Literal["auto", "on", "off"] = "auto"
    """Tell at which speech token each word begins, where heads are known that follow the text. auto: where that costs
    nothing beside what runs already, with the guard or on the engine's own CPU kernels."""
    cuda_graphs: bool = True
    """Capture the whole step, sampling included, by batch and length. No-op on a CPU."""
    compile: Compile = "off"
    """torch.compile of the layers."""
    quantization: Quantization = "none"
    """Weights of the transformer and of the speech head; activations keep the precision (int8_dynamic: 8 bits)."""
    cpu_kernels: CpuKernels = "auto"
    """On a CPU, in bf16. auto: the engine's own (AVX2, AVX512 or AMX), a whole step in one call; packed:
    PyTorch's, over weights that oneDNN has laid out; plain: PyTorch's over weights as they are."""
    gpu_kernels: Literal["auto", "plain"] = "auto"
    """On a GPU. auto: the engine's own (Triton) between a step's products, where the cache is not in 8 bits and nothing
    is compiled; plain: PyTorch's."""
    voice_prefix: Literal["off", "embeddings", "kv"] = "kv"
    """What is kept of a voice's conditioning: nothing, its embeddings, or its keys and values too."""
    max_streams: int = Field(8, ge=1, le=1024)
    """Requests decoded at the same time; each has one row of the KV cache, or two with CFG."""
    max_positions: int | None = Field(None, ge=64, le=8192)
    """Positions of a row: conditioning, text and speech tokens together. None: room for 1,000 speech tokens."""
    prefill_positions: int = Field(64, ge=8)
    """Positions (rows x tokens) prefilled in one step beside running streams, so that they do not stall."""
    exact: bool = False
    """Compute each stream at the reference's own shapes and sample as the reference does."""
    queue_tokens: int = Field(1000, ge=1)
    """A stream whose reader is this many tokens behind is not decoded until it reads."""


class S3GenSwitches(_Switches):
    """Speech tokens -> waveform."""

    precision: Precision = "auto"
    """Of the flow. auto: bf16 on GPUs that multiply it and on CPUs with AMX, fp32 elsewhere; with AVX2 alone the Euler
    steps' products are then of whole numbers of 16 bits, far nearer to fp32's than bf16's are."""
    vocoder: Literal["hift", "vocos"] = "hift"
    """hift: the model's own. vocos: one that was trained to speak as HiFT does (`python -m training vocos`)."""
    vocos_file: str | None = None
    """Where Vocos's weights are. None: vocos.safetensors in the model's own folder."""
    hift_precision: HiFTPrecision = "auto"
    """Of HiFT's convolutions; F0 and source are fp32 or better. bf16x3: three products of bf16 for one, within 1e-5 of
    fp32's, on CPUs with AMX. auto: bf16x3 there, fp32 elsewhere. With AVX2 alone bf16 is no faster than fp32."""
    f0_precision: Literal["fp32", "fp64"] = "fp64"
    """fp32 is the reference's own; fp64 keeps a streamed utterance on its offline pass however long it is."""
    max_streams: int = Field(16, ge=1, le=4096)
    max_batch: int = Field(8, ge=1, le=256)
    """Streams in one call of the flow or of the vocoder."""
    chunk_schedule: tuple[PositiveInt, ...] = Field((25, 25, 50, 100), min_length=1)
    """Tokens of the 1st, 2nd, ... chunk; the last entry repeats."""
    hurry_s: float | None = Field(0.5, gt=0)
    """A listener this close to running dry gets the tokens that are here, in parts of the schedule's first size. None:
    chunks end where the schedule says, whenever their tokens come."""
    admission: Literal["auto", "places"] = "auto"
    """auto: refuse a listener who would make those who listen run dry, by what has been seen of the speed, and whoever
    would find no memory for what chunked attention keeps. places: let in max_streams."""
    context_window: int | None = Field(None, ge=0)
    """Earlier tokens that the flow sees again with each chunk. None: all of them."""
    flow_attention: Literal["auto", "full", "chunked"] = "auto"
    """full: a chunk is computed with all before it, again, as the published weights were trained. chunked: a chunk
    attends to itself and to what is kept of those before it, and costs no more than itself; for weights that were not
    trained so an approximation. auto: chunked for models that were."""
    prompt_seconds: float | None = Field(None, ge=1)
    """How much of a voice's prompt the flow sees with each call: its first seconds. None: all of it."""
    cfm_steps: int | None = Field(None, ge=1, le=100)
    """Euler steps. None: the model's own number."""
    cuda_graphs: bool = True
    """Capture an Euler step, the encoder and HiFT's convolutions for the shapes that come again. No-op on a CPU. Of
    chunked attention an Euler step, with gpu_kernels auto."""
    compile: Compile = "off"
    """torch.compile of the flow's blocks."""
    cpu_kernels: Literal["auto", "plain"] = "auto"
    """On a CPU with AMX, or with AVX2 and no AVX512. auto: the engine's own, all Euler steps in one call unless the
    flow's precision is fp32; plain: PyTorch's."""
    gpu_kernels: Literal["auto", "plain"] = "auto"
    """On a GPU, for chunked attention. auto: what is kept of a stream lies in pages, which its voice's streams share
    and the engine's own attention (Triton) reads; plain: in tensors that grow, by PyTorch's."""
    max_lead_s: float = Field(30.0, gt=0)
    """A stream this far ahead of its listener's playback waits."""
    queue_chunks: int = Field(8, ge=1)
    """A stream with this many unread audio chunks waits."""

    def goes_on(self, trained: bool) -> bool:
        """Chunks go on from what is kept of those before; `trained`: the model was, to speak so."""
        return self.flow_attention == "chunked" or (self.flow_attention == "auto" and trained)


class MemorySwitches(_Switches):
    """What the engine may keep of the device's memory. On a CPU only idle_s has an effect: on the KV cache."""

    expandable_segments: bool = False
    """PyTorch's allocator grows its segments instead of keeping holes between them."""
    limit: float | None = Field(None, gt=0, le=1)
    """Share of the device's memory that this process may take. None: all of it."""
    idle_s: float | None = Field(None, gt=0)
    """Seconds without a request after which the weights move to the host; the next request brings them back."""


class EngineConfig(_Switches):
    """The one configuration of the engine, built once and passed whole.

    Raises (in `profile`):
        InvalidRequest: an unknown profile or switch, or a value out of range.
    """

    t3: T3Switches = T3Switches()
    s3gen: S3GenSwitches = S3GenSwitches()
    memory: MemorySwitches = MemorySwitches()
    warmup: Warmup = "first"
    """What runs before the service calls itself ready. first: one utterance; full: every batch and length bucket."""
    watermark: bool = True
    """Perth's watermark on every stream."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of torch in this process, for each stage. None: all cores, as torch has it: best in one pass. Where
    both stages stream in one process, half of them is far better."""

    @classmethod
    def profile(cls, name: str = "balanced", /, **switches: Any) -> "EngineConfig":
        """The named set of switches, with some of them changed: `profile("reference", watermark=False)`.

        A stage's switches are given as a dictionary (`t3={"max_streams": 4}`) and change only what they name.
        """
        if name not in PROFILES:
            raise InvalidRequest(f"There is no profile {name!r}. Profiles: {', '.join(PROFILES)}.", "profile")
        merged: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in PROFILES[name].items()}
        for key, value in switches.items():
            if isinstance(value, BaseModel):
                value = value.model_dump(exclude_unset=True)
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise InvalidRequest.of(error) from error


PROFILES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "reference": {
        "t3": {"precision": "fp32", "exact": True, "cuda_graphs": False, "voice_prefix": "embeddings"},
        "s3gen": {
            "precision": "fp32",
            "cuda_graphs": False,
            "hift_precision": "fp32",
            "f0_precision": "fp32",
            "flow_attention": "full",
            "hurry_s": None,
        },
    },
    "latency": {"t3": {"quantization": "int8"}, "s3gen": {"chunk_schedule": (10, 20, 40, 80)}, "warmup": "full"},
    "throughput": {
        "t3": {"quantization": "int8_dynamic", "max_streams": 64, "prefill_positions": 512},
        "s3gen": {"max_streams": 64, "max_batch": 16, "chunk_schedule": (25, 50, 100, 200)},
        "warmup": "full",
    },
    "low-vram": {
        "t3": {"quantization": "int8", "max_streams": 1},
        "s3gen": {"max_streams": 1, "max_batch": 1},
        "memory": {"expandable_segments": True, "idle_s": 300.0},
    },
}
"""Chosen from docs/performance.md; `balanced` is the default."""
