"""The forward and backward pass of a training's steps, compiled by ``torch.compile``.

Only the steps are compiled: weights, their names, the average and what is validated stay those of the plain network.
Every shape is compiled by itself (``dynamic=False``), so a training that goes on after a kill computes with the same
kernels as one that was not interrupted. The depthwise convolutions keep torch's own backward pass then: what
``depthwise.py`` puts in its place is Python that would be compiled anew in every epoch.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from edgecnn.errors import UsageError

BACKEND = "inductor"
COMPILERS = ("g++", "clang++", "c++", "cl")
OFF = "leave compile out (compile: false): the results are the same but for rounding"


def check(device: str) -> None:
    """Raise UsageError where nothing is installed that could compile for this device."""
    if device == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise UsageError("compile was asked for, and triton, which compiles for GPUs, is not installed", hint=OFF)
        return
    wanted = [name for name in (os.environ.get("CXX"), *COMPILERS) if name]
    if not any(shutil.which(name) for name in wanted):
        raise UsageError(
            f"compile was asked for, and there is no C++ compiler ({', '.join(wanted)})", hint=f"install g++, or {OFF}"
        )


def compiled(network: nn.Module) -> Callable[..., Any]:
    """``network`` for the steps of a training; compiled when it is first called, which takes a minute or more."""
    made: Callable[..., Any] = torch.compile(network, backend=BACKEND, dynamic=False)
    return made


@contextmanager
def failures_told(wanted: bool) -> Iterator[None]:
    """If ``wanted``, turn what a compiler raises, in a forward or backward pass, into a UsageError."""
    if not wanted:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # takes as long to import as the rest of torch

    try:
        with warnings.catch_warnings():
            # Said on GPUs that could round float32 products to 10 bits: that is for the training's precision to say.
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores", category=UserWarning)
            yield
    except TorchDynamoException as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise UsageError(f"this network could not be compiled: {' '.join(lines[:2])}", hint=OFF) from error
