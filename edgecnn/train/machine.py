"""What the machine is to a training: its device, what it cannot do, and the settings that are changed for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgecnn.errors import UsageError
from edgecnn.train.config import TrainConfig

HALF = ("cuda",)
"""Devices on which a training may run in fp16."""


def pick_device(asked: str) -> str:
    """``cpu`` or ``cuda``. Raises UsageError if CUDA was asked for and is not there."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda was asked for, but torch finds none", hint="use device auto or cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def check(config: TrainConfig) -> str:
    """The device of a training. Raises UsageError where this machine cannot do what ``config`` asks for."""
    device = pick_device(config.device)
    if config.precision == "fp16" and device not in HALF:
        raise UsageError(
            f"precision fp16 was asked for, and this training runs on the {device.upper()}, which has no fast fp16",
            hint="use precision auto, bf16 or fp32 there; fp16 is for GPUs",
        )
    return device


@contextmanager
def own_settings(config: TrainConfig) -> Iterator[None]:
    """Threads as asked for, and torch's global random state put back afterwards."""
    threads = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)
