"""A plain convolutional network, layer by layer as a textbook writes it, from a list.

LeCun et al., "Gradient-based learning applied to document recognition", Proceedings of the IEEE 1998, is the pattern:
convolutions and pooling, then dense layers. The list is ``stages``, in a recipe:

    model: plain_cnn
    stages:
      - [conv, 32, 3, 1]   # channels, kernel, stride; 1 where the stride is left out
      - [bn]               # batch normalization of the maps
      - [relu]             # or relu6, hardswish, silu
      - [pool, max, 2]     # or avg; size, which is the stride too
      - [dropout, 0.25]
      - [flatten]          # or [global_pool]: the mean of every map
      - [dense, 128]       # units
      - [relu]

A classifier with one output per class is added behind the last row. Convolutions are padded so that only a stride
shrinks the map. Without a list it is DEFAULT, of pairs of 3x3 convolutions as in Simonyan & Zisserman, "Very Deep
Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, arXiv:1409.1556: 305,258 parameters and 38.7 M
multiply-adds at 32 px and 10 classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.blocks import ACTIVATIONS, activation, initialize
from edgecnn.models.model_spec import ModelSpec, StageRow, round_channels

DEFAULT: tuple[StageRow, ...] = (
    *(("conv", 32, 3, 1), ("bn",), ("relu",)) * 2,
    ("pool", "max", 2),
    *(("conv", 64, 3, 1), ("bn",), ("relu",)) * 2,
    ("pool", "max", 2),
    *(("conv", 128, 3, 1), ("bn",), ("relu",)) * 2,
    ("pool", "max", 2),
    ("global_pool",),
    ("dense", 128),
    ("relu",),
    ("dropout", 0.5),
)
POOLS: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
HINT = (
    'a row is ["conv", channels, odd kernel, stride], ["bn"], ["pool", "max" or "avg", size], ["dropout", p], '
    '["flatten"], ["global_pool"], ["dense", units], or an activation alone: ' + ", ".join(ACTIVATIONS)
)


class GlobalPool(nn.Module):
    """The mean of every map, (N, C, H, W) -> (N, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C)."""
        return x.mean((2, 3))


@dataclass(frozen=True)
class Shape:
    """What a row reads: ``channels`` maps of ``side`` x ``side`` pixels, or a vector, whose side is None."""

    channels: int
    side: int | None

    def __str__(self) -> str:
        """As a message says it."""
        if self.side is None:
            return f"a vector of {self.channels}"
        return f"{self.channels} maps of {self.side}x{self.side} pixels"


class PlainCNN(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32; layers are called by kind and row: ``conv1``."""

    def __init__(self, spec: ModelSpec) -> None:
        """The network of that spec, with fresh weights. Raises ModelError naming the row that cannot be."""
        super().__init__()
        rows = spec.stages or DEFAULT
        shape = Shape(spec.channels, spec.image_size)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, row in enumerate(rows, 1):
            try:
                # A bias before a batch norm would be taken off again.
                layer, shape = _layer(row, shape, spec, bias=rows[number : number + 1] != (("bn",),))
            except ValueError as error:
                raise ModelError(f"row {number} of stages, {list(row)}: {error}", hint=HINT) from error
            layers[f"{row[0]}{number}"] = layer
        if shape.side is not None:
            raise ModelError(
                f"row {len(rows)} of stages, {list(rows[-1])}, is the last and leaves {shape}: the classifier reads a "
                "vector",
                hint='end with ["global_pool"] or ["flatten"], and dense layers if you like',
            )
        self.layers = nn.Sequential(layers)
        self.dropout = nn.Dropout(spec.dropout or 0.0)
        self.classifier = nn.Linear(shape.channels, spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        logits: torch.Tensor = self.classifier(self.dropout(self.layers(x)))
        return logits


def plain_cnn(spec: ModelSpec) -> nn.Module:
    """The network of that list. ``width`` multiplies channels and units, ``dropout`` is one more before the classifier.

    Raises ModelError on a malformed row, and on strides and heads: those are rows.
    """
    given = [key for key in ("stem_stride", "strides", "head") if getattr(spec, key) is not None]
    if given:
        raise ModelError(
            f"plain_cnn does not take {', '.join(given)}",
            hint='strides stand in the rows of stages, ["conv", channels, kernel, stride], and a head is ["dense", '
            "units]; it takes width, stages, dropout, activation",
        )
    return PlainCNN(spec)


def _layer(row: StageRow, shape: Shape, spec: ModelSpec, bias: bool) -> tuple[nn.Module, Shape]:
    """One row's layer and what comes out of it. Raises ValueError saying what is wrong."""
    kind, values = (row[0], row[1:]) if row else ("", ())
    if kind in ACTIVATIONS:
        _expect("stands alone", not values)
        return activation(spec.activation or str(kind)), shape
    if kind not in BUILDERS:
        raise ValueError("there is no such layer")
    return BUILDERS[str(kind)](values, shape, spec, bias)


def _conv(values: StageRow, shape: Shape, spec: ModelSpec, bias: bool) -> tuple[nn.Module, Shape]:
    numbers = _whole(values)
    _expect("needs channels, kernel and perhaps a stride, all whole and positive", len(numbers) in (2, 3))
    channels, kernel, stride = [*numbers, 1][:3]
    _expect("needs an odd kernel", kernel % 2 == 1)
    side = _side(shape)
    outputs = _widened(channels, spec)
    conv = nn.Conv2d(shape.channels, outputs, kernel, stride, kernel // 2, bias=bias)
    return conv, Shape(outputs, (side - 1) // stride + 1)


def _bn(values: StageRow, shape: Shape, spec: ModelSpec, bias: bool) -> tuple[nn.Module, Shape]:
    _expect("stands alone", not values)
    _side(shape)
    return nn.BatchNorm2d(shape.channels), shape


def _pool(values: StageRow, shape: Shape, spec: ModelSpec, bias: bool) -> tuple[nn.Module, Shape]:
    size = _whole(values[1:])
    _expect("needs max or avg, and a size", len(values) == 2 and values[0] in POOLS and len(size) == 1)
    side = _side(shape)
    _expect(f"cannot pool {shape}", size[0] <= side)
    return POOLS[str(values[0])](size[0]), Shape(shape.channels, side // size[0])


def _dropout(values: StageRow, shape: Shape, spec: ModelSpec, bias: bool) -> tuple[nn.Module, Shape]:
    share = values[0] if len(values) == 1 else ""
    if isinstance(share, str) or not 0 <= share < 1:
        raise ValueError("needs a probability in [0, 1)")
    return nn.Dropout(share), shape


def _flatten(values: StageRow, shape: Shape, spec: ModelSpec, bias: bool) -> tuple[nn.Module, Shape]:
    _expect("stands alone", not values)
    return nn.Flatten(), Shape(shape.channels * _side(shape) ** 2, None)


def _global_pool(values: StageRow, shape: Shape, spec: ModelSpec, bias: bool) -> tuple[nn.Module, Shape]:
    _expect("stands alone", not values)
    _side(shape)
    return GlobalPool(), Shape(shape.channels, None)


def _dense(values: StageRow, shape: Shape, spec: ModelSpec, bias: bool) -> tuple[nn.Module, Shape]:
    units = _whole(values)
    _expect("needs a number of units, whole and positive", len(units) == 1)
    _expect(f'reads a vector, not {shape}: put ["flatten"] or ["global_pool"] before', shape.side is None)
    outputs = _widened(units[0], spec)
    return nn.Linear(shape.channels, outputs), Shape(outputs, None)


BUILDERS: dict[str, Callable[[StageRow, Shape, ModelSpec, bool], tuple[nn.Module, Shape]]] = {
    "conv": _conv,
    "bn": _bn,
    "pool": _pool,
    "dropout": _dropout,
    "flatten": _flatten,
    "global_pool": _global_pool,
    "dense": _dense,
}


def _expect(otherwise: str, fine: bool) -> None:
    if not fine:
        raise ValueError(otherwise)


def _whole(values: StageRow) -> list[int]:
    """The values if all are whole and positive, else none."""
    numbers = [value for value in values if type(value) is int and value > 0]
    return numbers if len(numbers) == len(values) else []


def _side(shape: Shape) -> int:
    """The side of the maps that the layer reads."""
    if shape.side is None:
        raise ValueError(f"reads maps, not {shape}")
    return shape.side


def _widened(channels: int, spec: ModelSpec) -> int:
    """At width 1 exactly what the row says: a textbook's 10 channels stay 10."""
    return channels if spec.width == 1.0 else round_channels(channels * spec.width)
