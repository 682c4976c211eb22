"""Which precision a training computes in: on a CPU measured, not guessed."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

WORTHWHILE = 1.15  # bf16 must be this much faster; below, the coarser arithmetic is not worth it
TIMED_STEPS = 3


def choose_precision(asked: str, model: nn.Module, example: torch.Tensor, num_classes: int) -> str:
    """``fp32``, ``bf16`` or ``fp16``. ``auto`` is bf16 on a GPU that has it, and fp16 on an older one.

    On a CPU it times a few steps of fp32 and bf16 on a copy of ``model``; ``example`` is one batch. CPUs without
    AVX-512 only emulate bf16, slowly, so there it is not even tried.
    """
    if asked != "auto":
        return asked
    if example.device.type != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if torch.backends.cpu.get_cpu_capability() not in ("AVX512", "AMX"):
        return "fp32"
    seconds = {kind: _step_seconds(copy.deepcopy(model), example, num_classes, kind) for kind in ("fp32", "bf16")}
    return "bf16" if seconds["bf16"] * WORTHWHILE < seconds["fp32"] else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context a forward pass runs in."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def _step_seconds(model: nn.Module, example: torch.Tensor, num_classes: int, precision: str) -> float:
    """The fastest of a few forward and backward passes, after one to warm up."""
    labels = torch.arange(len(example), device=example.device) % num_classes
    model.train()
    fastest = float("inf")
    for step in range(1 + TIMED_STEPS):
        start = time.perf_counter()
        with autocast(precision, example.device):
            loss = nn.functional.cross_entropy(model(example).float(), labels)
        torch.autograd.backward(loss)
        if step > 0:
            fastest = min(fastest, time.perf_counter() - start)
    return fastest
