"""One training loop for every stage: resumable, seeded by step, with a progress bar and a log that is committed."""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from chatterbox_engine.accel import native
from chatterbox_engine.files import whole

LOG_EVERY = 20
"""Steps of a line in the log."""
SAVE_EVERY_S = 120.0
WARM_STEPS = 50
WORTH_COMPILING = 200
"""Steps from which on half a minute of compiling pays."""
_LAST_RATE = 0.03
"""Share of the learning rate left at the end."""
_CLIP = 1.0


def train(
    name: str,
    model: nn.Module,
    losses: Callable[[int], dict[str, Tensor]],
    *,
    steps: int,
    rate: float,
    folder: Path,
    log: Path,
    validate: Callable[[], dict[str, float]] | None = None,
    weight_decay: float = 0.01,
    parameters: Iterable[nn.Parameter] | None = None,
    continued: bool = False,
) -> None:
    """Train for `steps` steps by AdamW (1711.05101) with a warm-up and a cosine's decline.

    Args:
        name: of the stage; its state is `folder/name.pt`, from which it goes on where it was stopped.
        losses: what a step adds up and minimises, by name; a function of the step, so that a resumed run is the same.
        rate: the highest learning rate.
        log: a file of JSON lines, one every LOG_EVERY steps: step, seconds, rate, each loss averaged since the last.
        validate: losses on what is held out, for the last line.
        parameters: those to train; None: all of the model's.
        continued: the model began from a checkpoint, whose making the log tells already; this run's lines follow.
    """
    trained = list(model.parameters() if parameters is None else parameters)
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    path = folder / f"{name}.pt"
    first, seconds = 0, 0.0

    def keep(step: int, seconds: float) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
        with whole(path) as part:
            torch.save(state, part)

    if path.is_file():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]
        _forget(log, first)
    else:
        if not continued:
            log.write_text("")
        keep(0, 0.0)
    begin = saved = time.monotonic()
    sums: dict[str, list[float]] = {}
    bar = tqdm(range(first, steps), name, initial=first, total=steps, unit="step", disable=None)
    model.train()
    for step in bar:
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * _share(step, steps)
        parts = losses(step)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(trained, _CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for part, value in parts.items():
            sums.setdefault(part, []).append(float(value.detach()))
        now = time.monotonic()
        if (step + 1) % LOG_EVERY == 0:
            own = {part: round(statistics.fmean(values), 4) for part, values in sums.items()}
            _note(log, {"step": step + 1, "seconds": round(seconds + now - begin), **own})
            bar.set_postfix(own)
            sums.clear()
        if now - saved > SAVE_EVERY_S or step + 1 == steps:
            saved = now
            keep(step + 1, seconds + now - begin)
    model.eval()
    if validate is not None and first < steps:
        with torch.no_grad():
            _note(log, {"step": steps, "held_out": {part: round(value, 4) for part, value in validate().items()}})


def _forget(log: Path, step: int) -> None:
    """Take the lines of steps after `step`, which are done again, from the log's end; not those of a run that ended."""
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
    while lines and (last := json.loads(lines[-1]))["step"] > step and "held_out" not in last:
        lines.pop()
    log.write_text("".join(lines))


def reduced() -> torch.autocast:
    """Products in bf16 where the CPU has tiles for them, as a context or a decorator; weights and sums stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=native.has_tiles())


def _share(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARM_STEPS)
    return warm * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _note(log: Path, entry: dict[str, object]) -> None:
    with log.open("a") as file:
        file.write(json.dumps(entry) + "\n")
