"""doctor: what hardware, model and switches would be taken here, and why."""

import argparse
import os
import platform
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
import yaml
from pydantic import ValidationError

from benchmarks import conditions
from chatterbox_engine.accel import native
from chatterbox_engine.accel.device import pick_device, s3gen_dtype, t3_dtype
from chatterbox_engine.accel.quantization import applicable
from chatterbox_engine.checkpoint import find
from chatterbox_engine.config import PROFILES, EngineConfig
from chatterbox_engine.errors import ChatterboxError, InvalidRequest, reason
from chatterbox_engine.s3gen.native_solver import NativeSolver
from deployments import keys
from deployments.settings import ServiceSettings

Finding = tuple[str, str]
"""What it is about, and what there is to say."""
_IMPORT_PATH = "deployments.app:build"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="?", type=Path, help="as for `serve run`: what it says is looked at, and held to"
    )
    parser.add_argument("--model", help="instead of the configuration's")
    parser.add_argument("--device")
    parser.add_argument("--profile", choices=list(PROFILES))


def run(given: argparse.Namespace) -> None:
    """Raises InvalidRequest where the configuration does not hold or the device is not there, ModelUnavailable where
    the model is not to be had."""
    settings = ServiceSettings() if given.config is None else settings_of(given.config)
    named = {name: getattr(given, name) for name in ("model", "device", "profile") if getattr(given, name) is not None}
    settings = settings.model_copy(update=named)
    config = settings.engine_config()
    for about, told in chain(machine(settings), choices(settings.model, settings.device, config)):
        print(f"{about:<20} {told}")


def settings_of(path: Path) -> ServiceSettings:
    """Of this service in a file of Ray Serve's. Raises InvalidRequest where it has none, or they do not hold."""
    try:
        told = yaml.safe_load(path.read_text())
        given = [one.get("args") or {} for one in told["applications"] if one["import_path"] == _IMPORT_PATH]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidRequest(f"{path} cannot be read: {reason(error)}.", "config") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"{path} is no configuration of Ray Serve.", "config") from error
    if not given:
        raise InvalidRequest(f"{path} has no application whose import_path is {_IMPORT_PATH}.", "config")
    try:
        return ServiceSettings.model_validate(given[0])
    except ValidationError as error:
        raise InvalidRequest.of(error) from error


def machine(settings: ServiceSettings) -> Iterator[Finding]:
    """What is here."""
    yield "Python, torch", f"{platform.python_version()}, {torch.__version__}"
    here = conditions.machine(torch.device("cpu"))
    features = " ".join(here["features"]) or "nothing that multiplies small numbers fast"
    yield "processor", f"{here['processor']}, {here['cores']} cores; {features}"
    if native.kernels() is not None:
        yield "own CPU kernels", f"run, and multiply by {native.instructions()}"
    elif not torch.cpu._is_avx2_supported():
        yield "own CPU kernels", "do not run: they need AVX2, which is x86's; PyTorch's run instead"
    elif shutil.which(os.environ.get("CC", "gcc")) is None and shutil.which("cc") is None:
        yield "own CPU kernels", "do not run: there is no C compiler (install gcc)"
    else:
        yield "own CPU kernels", "do not run: they could not be compiled, see above; PyTorch's run instead"
    if not torch.cuda.is_available():
        yield "GPU", "none that torch sees"
    for index in range(torch.cuda.device_count()):
        free, there = torch.cuda.mem_get_info(index)
        yield f"GPU {index}", f"{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {there / 2**30:.1f} GiB free"
    voices = settings.voices_folder
    yield "voices", voices if "://" in voices else _writable(Path(voices), "voices_folder")
    yield "jobs", _writable(settings.jobs_folder, "jobs_folder")
    if settings.keys_file is not None:
        yield "keys", _keys(settings.keys_file)


def _writable(folder: Path, name: str) -> str:
    above = next(parent for parent in (folder, *folder.parents) if parent.exists())
    able = above.is_dir() and os.access(above, os.W_OK)
    return f"{folder}, {'can be written' if able else f'CANNOT be written: set {name}'}"


def _keys(path: Path) -> str:
    try:
        return f"{len(keys.read(path))} in {path}"
    except (OSError, InvalidRequest) as error:
        return f"CANNOT be read: {reason(error)}"


def choices(model: str, device: str, config: EngineConfig) -> Iterator[Finding]:
    """What would be taken. Raises InvalidRequest, ModelUnavailable."""
    picked, why = pick_device(device)
    yield "device", f"{picked} ({why})"
    try:
        checkpoint = find(model, picked.type)
    except ChatterboxError:
        yield "model", f"{model} is not to be had"
        raise
    spec = checkpoint.spec
    yield "model", f"{checkpoint.model}: {spec.note or spec.family}"
    yield "voice", "has one built in" if checkpoint.voice() else "needs one: upload a clip"
    yield "T3", f"computes in {t3_dtype(config.t3.precision, picked, config.t3.cpu_kernels)}".replace("torch.", "")
    dtype = s3gen_dtype(config.s3gen.precision, picked)
    own = NativeSolver.runs(spec.s3gen, config.s3gen, dtype, picked)
    shorts = ", the flow's products in whole numbers of 16 bits" if own and dtype == torch.float32 else ""
    yield "S3Gen", f"computes in {dtype}{shorts}".replace("torch.", "")
    yield "quantization", f"{applicable(config.t3.quantization, picked)} (asked for: {config.t3.quantization})"
    on = config.s3gen.goes_on(spec.s3gen.chunked)
    kept = spec.s3gen.second_bytes(config.s3gen.cfm_steps, 2 if own or dtype != torch.float32 else 4)
    goes_on = f"goes on from chunk to chunk, and keeps {kept / 1e6:.1f} MB of each second of a stream"
    yield "flow", goes_on if on else "computes all before it again with each chunk"
    yield (
        "streams",
        f"{config.t3.max_streams} in T3, {config.s3gen.max_streams} in S3Gen, fewer where others would stall",
    )
