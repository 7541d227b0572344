"""What an engine and its device say of themselves, by the metrics' names."""

import torch

from chatterbox_engine.metrics import Readings
from chatterbox_engine.s3gen.engine import S3GenEngine
from chatterbox_engine.t3.engine import T3Engine
from chatterbox_engine.types import SAMPLE_RATE, TOKEN_RATE


def t3_readings(engine: T3Engine) -> Readings:
    """What T3's engine says of itself now; any thread may ask."""
    return {
        **_engine_readings("t3", engine),
        "t3_audio_seconds": engine.tokens / TOKEN_RATE,
        "t3_tokens": engine.tokens,
        "t3_queue_depth": engine.waiting,
        "t3_admitted": engine.placed,
        "t3_queue_seconds": engine.queue_seconds,
        "t3_kv_bytes": engine.live_bytes,
    }


def s3gen_readings(engine: S3GenEngine) -> Readings:
    """What S3Gen's engine says of itself now; any thread may ask."""
    return {
        **_engine_readings("s3gen", engine),
        "s3gen_audio_seconds": engine.samples / SAMPLE_RATE,
        "s3gen_heard_seconds": engine.heard / SAMPLE_RATE,
        "s3gen_begun": engine.begun,
        "s3gen_first_tokens_seconds": engine.first_tokens_seconds,
        "s3gen_first_sound_seconds": engine.first_sound_seconds,
        "s3gen_watermark_seconds": engine.watermark_seconds,
        "s3gen_stalls": engine.stalls,
        "s3gen_stalled_seconds": engine.stalled_seconds,
    }


def device_readings(device: torch.device) -> Readings:
    """Of a GPU; nothing of a CPU, whose memory is the process's. `gpu_busy` needs NVIDIA's management library."""
    if device.type != "cuda":
        return {}
    told = {
        "vram_allocated_bytes": torch.cuda.memory_allocated(device),
        "vram_reserved_bytes": torch.cuda.memory_reserved(device),
        "vram_peak_bytes": torch.cuda.max_memory_allocated(device),
        "vram_free_bytes": torch.cuda.mem_get_info(device)[0],
    }
    try:
        return {**told, "gpu_busy": torch.cuda.utilization(device) / 100}
    except Exception:  # torch passes on whatever the library raises
        return {**told}


def _engine_readings(stage: str, engine: T3Engine | S3GenEngine) -> Readings:
    return {
        f"{stage}_busy_seconds": engine.busy_seconds,
        f"{stage}_steps": engine.steps,
        f"{stage}_streams": engine.running,
        f"{stage}_places": engine.places,
        f"{stage}_batch_size": engine.batch if engine.running else 0,
    }
