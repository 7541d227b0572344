"""Where a replica runs."""

import logging
from dataclasses import dataclass

import torch

from chatterbox_engine.accel.device import pick_device
from chatterbox_engine.checkpoint import Checkpoint, find
from deployments.identity import Identity
from deployments.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the builder decided for a deployment's replicas."""

    device: str
    """cpu or cuda."""
    threads: int
    """CPU threads of torch."""
    why: str
    memory_fraction: float = 1.0
    """Share of the GPU's memory that one replica may take."""

    def enter(self, stage: str, settings: ServiceSettings) -> tuple[Checkpoint, torch.device]:
        """Set up the replica's process; returns the model and the device. Raises ModelUnavailable, InvalidRequest."""
        logging.getLogger("chatterbox_engine").setLevel(logging.INFO)
        for handler in logging.getLogger("ray.serve").handlers:
            logging.getLogger("chatterbox_engine").addHandler(handler)
        torch.set_num_threads(self.threads)
        device, _ = pick_device(self.device)
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(self.memory_fraction)
        checkpoint = find(settings.model, self.device)
        logging.getLogger("ray.serve").info(
            "%s: model %s on %s, %d threads (%s). %s",
            stage, checkpoint.model, device, self.threads, self.why, checkpoint.spec.note,
        )  # fmt: skip
        return checkpoint, device

    def identity(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Identity:
        """What to tell of a replica that has loaded."""
        return Identity(checkpoint.model, checkpoint.spec, str(device), str(dtype).removeprefix("torch."), self.why)
