"""Checkpoints: one safetensors file each, replaced atomically, tensors and JSON together.

The file's header carries the JSON (epoch, history, settings), so tensors and numbers can never be of different epochs,
and no pickle is involved.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgecnn.errors import BundleError

STATE = "state"


def write(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and JSON state; after a crash at any moment ``path`` holds either the old or the new checkpoint."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, temporary, metadata={STATE: json.dumps(state)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and JSON state of a checkpoint. Raises BundleError if it is damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return tensors, json.loads(metadata[STATE])
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(
            f"{path} is not a usable checkpoint: {error}", hint="delete it to start training again"
        ) from error


def model_tensors(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Weights and buffers of a model, each name after ``prefix``."""
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """The inverse of ``model_tensors``, strict. Raises BundleError if names or shapes differ."""
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        model.load_state_dict(found, strict=True)
    except RuntimeError as error:
        raise BundleError(
            f"the checkpoint does not fit the model: {error}", hint="use another work directory"
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Momenta and step counts, named ``<prefix><parameter number>.<what>``."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}{number}.{key}": value for number, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """The inverse of ``optimizer_tensors``; learning rates and decays stay as they are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            number, _, key = name.removeprefix(prefix).partition(".")
            parameter = parameters[int(number)]
            # Same memory layout as the parameter, as if the optimizer had made it: then the arithmetic is the same too.
            same_shape = tensor.shape == parameter.shape
            value = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor) if same_shape else tensor
            state.setdefault(int(number), {})[key] = value.detach()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
