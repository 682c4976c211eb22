"""What the machine is to a training: its device, what it cannot do, and the settings that are changed for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from edgecnn.errors import UsageError
from edgecnn.train import compiling
from edgecnn.train.config import TrainConfig

HALF = ("cuda",)
"""Devices on which a training may run in fp16."""


CUBLAS, CUBLAS_SIZES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
"""The environment variable with which cuBLAS is deterministic, and its values that make it so."""


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
    if config.compile:
        compiling.check(device)
    return device


@contextmanager
def own_settings(config: TrainConfig) -> Iterator[None]:
    """Threads and algorithms as asked for; they, and torch's global random state, are put back afterwards.

    Raises UsageError where ``deterministic`` is asked for and an operation has no deterministic algorithm.
    """
    threads = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng(), _deterministic() if config.deterministic else nullcontext():
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Deterministic algorithms only, in torch, cuDNN and cuBLAS (torch's notes on reproducibility name all three)."""
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    cublas = os.environ.get(CUBLAS)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    os.environ[CUBLAS] = CUBLAS_SIZES[0] if cublas not in CUBLAS_SIZES else cublas
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise UsageError(
            f"deterministic was asked for, and torch says: {str(error).partition('. ')[0]}",
            hint="train without deterministic, on a CPU, or change the layer that needs this operation",
        ) from error
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        if cublas is None:
            del os.environ[CUBLAS]
        else:
            os.environ[CUBLAS] = cublas
