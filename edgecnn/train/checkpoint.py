"""Checkpoints: one safetensors file each, replaced atomically, tensors and JSON together.

The file's header carries the JSON (epoch, history, settings), so tensors and numbers can never be of different epochs,
and no pickle is involved. It also carries a checksum of both: a disk or a copy can change a file without making it
shorter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgecnn import disk
from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import BundleError
from edgecnn.spec import Preprocess
from edgecnn.train.config import TrainConfig, without_later
from edgecnn.train.feed import Pictures

STATE, CHECKSUM = "state", "sha256"

Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and JSON state."""


def identity(model: nn.Module, train: Pictures, val: ImageTensors, p: Preprocess, config: TrainConfig) -> str:
    """A digest of all that must be the same for a run to be continued (but not of the pixels: they may be many)."""
    digest = hashlib.sha256()
    shapes: dict[str, Any] = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    digest.update(json.dumps([without_later(config.to_dict()), asdict(p), shapes], sort_keys=True).encode())
    for part in (train, val):
        digest.update("\n".join(part.ids).encode())
        digest.update(np.ascontiguousarray(part.labels).tobytes())
        form = part.images.shape if isinstance(part, ImageTensors) else ("streamed", *part.shape)
        digest.update(str(form).encode())
    return digest.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, previous: Path | None = None) -> None:
    """Write tensors and JSON state; the checkpoint that was at ``path`` becomes ``previous``, when that is given.

    After a crash at any moment the old or the new checkpoint is there, whole: at ``path``, or, between the two
    renamings, the old one as ``previous``. Raises WriteError, with both as they were, when there is no room.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(state)
    with disk.replacing(path, previous) as temporary:
        save_file(plain, temporary, metadata={STATE: text, CHECKSUM: checksum(plain, text)})


def read(path: Path) -> Checkpoint:
    """Tensors (on the CPU) and JSON state of a checkpoint. Raises BundleError if it is damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        text = metadata[STATE]
        if CHECKSUM in metadata and checksum(tensors, text) != metadata[CHECKSUM]:  # older ones have none
            raise ValueError("its contents changed since it was written (the checksum is another)")
        return tensors, json.loads(text)
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(
            f"{path} is not a usable checkpoint: {error}", hint=f"delete {path.parent} to start training again"
        ) from error


def checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, which are contiguous and on the CPU, and the text."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_newest(last: Path, previous: Path, tell: Callable[[str], None]) -> Checkpoint | None:
    """What ``read`` gives for ``last`` or, told in words, for ``previous`` when that one cannot be used.

    None when there is neither. Raises BundleError when nothing that is there can be used.
    """
    if not previous.is_file():
        return read(last) if last.is_file() else None
    try:
        if last.is_file():
            return read(last)
        trouble = f"{last} is missing"
    except BundleError as error:
        trouble = error.message
    try:
        found = read(previous)
    except BundleError as error:
        raise BundleError(f"{trouble}; {error.message}", hint=error.hint) from error
    last.unlink(missing_ok=True)  # or it would become the previous one and push the whole one out
    tell(f"{trouble}; going on from {previous.name}, the checkpoint of the epoch before")
    return found


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
