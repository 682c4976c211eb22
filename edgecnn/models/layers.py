"""The layer table: what each layer gives, holds, costs and sees. The only counter of multiply-adds in edgecnn.

Counted the papers' way: one MAC is one multiplication with its addition, in convolutions and linear layers; biases,
batch norm, activations, pooling and additions count nothing. MobileNetV2 1.0 at 224 px has 300.8 M (paper: 300 M).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.model_spec import INPUT_CHANNELS
from edgecnn.models.receptive import ReceptiveFields


@dataclass(frozen=True)
class LayerRow:
    """One layer. ``output_shape`` has no batch dimension: (C, H, W) or (C,); ``params`` are trained numbers.

    ``receptive_field``: of how many pixels along a side one place of the output knows, or ``all`` (``receptive.py``).
    """

    name: str
    type: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    receptive_field: int | str


def layer_table(model: nn.Module, image_size: int) -> list[LayerRow]:
    """The layers in order of execution, for one (C, image_size, image_size) image.

    Layers without effect at inference (identity, dropout) are left out; additions and means written as functions have
    no row. A layer that runs twice has two rows, the second without its parameters. The model is left as it was
    found.
    """
    rows: list[LayerRow] = []
    seen: set[str] = set()
    fields = ReceptiveFields()
    handles = [model.register_forward_pre_hook(lambda _, inputs: fields.start(inputs[0]))]
    for name, module in model.named_modules():
        if _has_row(module):
            handles.append(module.register_forward_hook(_recorder(name, rows, seen, fields)))
    try:
        with fields:
            run_once(model, image_size)
    finally:
        for handle in handles:
            handle.remove()
    return rows


def totals(model: nn.Module, image_size: int) -> tuple[int, int]:
    """(parameters, MACs) of the network for one (C, image_size, image_size) image. Buffers are not parameters."""
    params = sum(parameter.numel() for parameter in model.parameters())
    return params, sum(row.macs for row in layer_table(model, image_size))


def input_channels(model: nn.Module) -> int:
    """How many channels the pictures of a network have: what ``zoo.build`` noted on it, 3 for other networks."""
    return int(getattr(model, INPUT_CHANNELS, 3))


def run_once(model: nn.Module, image_size: int) -> torch.Tensor:
    """Logits (1, K) of a black image, in eval mode and without gradients; the training mode of each module is restored.

    Raises ModelError where the network cannot take an image of that size.
    """
    modes = {module: module.training for module in model.modules()}
    parameter = next(model.parameters(), torch.empty(0))
    shape = (1, input_channels(model), image_size, image_size)
    image = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    try:
        with torch.no_grad():
            logits: torch.Tensor = model.eval()(image)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the network cannot take {image_size} px images: {error}", hint="try a larger size"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    return logits


def find_classifier(model: nn.Module) -> str:
    """The path of the layer that gives the logits. Raises ModelError where there is none.

    Our own networks call it ``classifier``; timm's know theirs; of others it is the last linear layer, or else the last
    convolution.
    """
    own = getattr(model, "get_classifier", None)
    candidate = own() if callable(own) else getattr(model, "classifier", None)
    paths: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    if isinstance(candidate, nn.Linear | nn.Conv2d) and candidate in paths:
        return paths[candidate]
    for kind in (nn.Linear, nn.Conv2d):
        found: list[str] = [name for name, module in model.named_modules() if isinstance(module, kind)]
        if found:
            return found[-1]
    raise ModelError("the network has no classifier: no linear layer and no convolution", hint="give it one")


def _has_row(module: nn.Module) -> bool:
    if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
        return False
    direct = next(module.parameters(recurse=False), None) is not None
    return direct or next(module.children(), None) is None


def _recorder(
    name: str, rows: list[LayerRow], seen: set[str], fields: ReceptiveFields
) -> Callable[[nn.Module, Any, Any], None]:
    """A forward hook that appends the layer's row."""

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if not isinstance(output, torch.Tensor):
            return
        params = 0 if name in seen else sum(parameter.numel() for parameter in module.parameters(recurse=False))
        seen.add(name)
        shape, kind = tuple(output.shape[1:]), type(module).__name__
        rows.append(LayerRow(name, kind, shape, params, _macs(module, output), fields.of(output)))

    return record


def _macs(module: nn.Module, output: torch.Tensor) -> int:
    """Multiply-adds of one call: each number that comes out sums one product per weight it sees."""
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        return output[0].numel() * (module.in_channels // module.groups) * height * width
    if isinstance(module, nn.Linear):
        return output[0].numel() * module.in_features
    return 0
