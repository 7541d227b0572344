"""What a benchmark measures: a model on a device, under a profile with some switches changed."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from chatterbox_engine.accel.device import pick_device
from chatterbox_engine.checkpoint import Checkpoint, find
from chatterbox_engine.config import PROFILES, EngineConfig
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.voice import Voice

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Subject:
    """A model, where it runs, and how."""

    model: str
    device: torch.device
    profile: str
    switches: tuple[str, ...]
    """As given: KEY=VALUE with dots between the levels."""
    config: EngineConfig

    def checkpoint(self) -> Checkpoint:
        """Raises ModelUnavailable."""
        return find(self.model, self.device.type)

    def changed(self, *switches: str) -> "Subject":
        """The same with more switches changed. Raises InvalidRequest."""
        given = (*self.switches, *switches)
        return replace(self, switches=given, config=configured(self.profile, given))


def add_arguments(
    parser: argparse.ArgumentParser, *, profile: str = "balanced", model: str = "dummy:chatterbox"
) -> None:
    """Options of every benchmark of a model."""
    parser.add_argument("--model", default=model, help="demo, dummy:NAME, a folder or a hub id (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--profile", default=profile, choices=list(PROFILES))
    parser.add_argument("--switch", action="append", default=[], metavar="KEY=VALUE",
                        help="of EngineConfig, such as t3.quantization=int8; may be given again")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the raw JSON (default: %(default)s)")
    parser.add_argument("--date", help="stands in the conditions instead of now")


def of(options: argparse.Namespace) -> Subject:
    """From the parsed options. Raises InvalidRequest."""
    device, _ = pick_device(options.device)
    config = configured(options.profile, options.switch)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return Subject(options.model, device, options.profile, tuple(options.switch), config)


def configured(profile: str, switches: Sequence[str]) -> EngineConfig:
    """A profile with KEY=VALUE switches on top. A value is JSON, or else a word. Raises InvalidRequest."""
    changes: dict[str, Any] = {}
    for given in switches:
        key, sign, value = given.partition("=")
        if not sign:
            raise InvalidRequest(f"{given!r} is not KEY=VALUE, as in t3.quantization=int8.", "switch")
        *stages, name = key.split(".")
        level = changes
        for stage in stages:
            level = level.setdefault(stage, {})
        level[name] = _value(value)
    return EngineConfig.profile(profile, **changes)


def differences(config: Mapping[str, Any], base: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Switches by dotted name whose value in `config` is not that of `base`; both are dumped EngineConfigs."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= differences(value, base[name], f"{prefix}{name}.")
        elif value != base[name]:
            found[prefix + name] = value
    return found


def voice_of(checkpoint: Checkpoint) -> Voice:
    """The built-in voice. Raises InvalidRequest where there is none."""
    voice = checkpoint.voice()
    if voice is None:
        raise InvalidRequest(f"{checkpoint.model} has no built-in voice: measure a checkpoint with conds.pt.", "model")
    return voice


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
