"""MobileNetV4-Conv-Small: universal inverted bottlenecks.

Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", ECCV 2024, arXiv:2404.10518: the block is Figure
4, the network Table 11. The paper counts 3.8 M parameters and 0.2 G multiply-adds at 224 px, timm 3,774,024 parameters,
the same tensors in the same order, so timm's weights load by order.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.blocks import conv_bn, initialize
from edgecnn.models.model_spec import ModelSpec, StageRow, plan_strides, round_channels

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
DROPOUT = 0.2

# One row per block: ("conv", kernel, channels, stride) or ("uib", kernel of the depthwise layer before the expansion,
# kernel of the one after it, expansion, channels, stride), where kernel 0 leaves a depthwise layer out.
SMALL: tuple[StageRow, ...] = (
    ("conv", 3, 32, 2),
    ("conv", 1, 32, 1),
    ("conv", 3, 96, 2),
    ("conv", 1, 64, 1),
    ("uib", 5, 5, 3, 96, 2),
    ("uib", 0, 3, 2, 96, 1),
    ("uib", 0, 3, 2, 96, 1),
    ("uib", 0, 3, 2, 96, 1),
    ("uib", 0, 3, 2, 96, 1),
    ("uib", 3, 0, 4, 96, 1),
    ("uib", 3, 3, 6, 128, 2),
    ("uib", 5, 5, 4, 128, 1),
    ("uib", 0, 5, 4, 128, 1),
    ("uib", 0, 5, 3, 128, 1),
    ("uib", 0, 3, 4, 128, 1),
    ("uib", 0, 3, 4, 128, 1),
    ("conv", 1, 960, 1),
)


class UniversalInvertedBottleneck(nn.Module):
    """Perhaps depthwise, expand 1x1, perhaps depthwise, project 1x1 linearly; added to its input where shapes allow.

    Both depthwise layers make it the paper's ExtraDW, the second alone an inverted bottleneck (MobileNetV2), the first
    alone a ConvNext block, none a feed-forward network. The stride is the second's, or without it the first's.
    """

    def __init__(self, inputs: int, outputs: int, kernels: tuple[int, int], expansion: float, stride: int, act: str):
        """A block (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        super().__init__()
        start, middle = kernels
        hidden = round_channels(inputs * expansion)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if start:
            layers["start"] = conv_bn(inputs, inputs, start, stride=1 if middle else stride, groups=inputs)
        layers["expand"] = conv_bn(inputs, hidden, 1, act=act)
        if middle:
            layers["middle"] = conv_bn(hidden, hidden, middle, stride=stride, groups=hidden, act=act)
        layers["project"] = conv_bn(hidden, outputs, 1)
        self.layers = nn.Sequential(layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: torch.Tensor = self.layers(x)
        return x + y if self.residual else y


class MobileNetV4(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec, paper: tuple[StageRow, ...]) -> None:
        """The network of that spec over that table, with fresh weights. Raises ModelError on a malformed table."""
        super().__init__()
        act = spec.activation or "relu"
        rows = [_checked(row) for row in spec.stages or paper]
        stem_stride, strides = plan_strides(spec, 2, [int(row[-1]) for row in rows])
        channels = round_channels(STEM_CHANNELS * spec.width)
        self.stem = conv_bn(spec.channels, channels, 3, stride=stem_stride, act=act)
        blocks: list[nn.Module] = []
        for row, stride in zip(rows, strides, strict=True):
            outputs = round_channels(int(row[-2]) * spec.width)
            blocks.append(_block(row, channels, outputs, stride, act))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        # After pooling, where a wide layer costs next to nothing.
        head = spec.head or HEAD_CHANNELS
        self.head = conv_bn(channels, head, 1, act=act)
        self.dropout = nn.Dropout(DROPOUT if spec.dropout is None else spec.dropout)
        self.classifier = nn.Linear(head, spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        x = self.blocks(self.stem(x)).mean((2, 3), keepdim=True)
        logits: torch.Tensor = self.classifier(self.dropout(self.head(x).flatten(1)))
        return logits


def mobilenet_v4_small(spec: ModelSpec) -> nn.Module:
    """MobileNetV4-Conv-Small of that spec."""
    return MobileNetV4(spec, SMALL)


def _block(row: tuple[str | float, ...], inputs: int, outputs: int, stride: int, act: str) -> nn.Module:
    if row[0] == "conv":
        return conv_bn(inputs, outputs, int(row[1]), stride=stride, act=act)
    kernels = int(row[1]), int(row[2])
    return UniversalInvertedBottleneck(inputs, outputs, kernels, float(row[3]), stride, act)


def _checked(row: StageRow) -> StageRow:
    """The row, if it is one."""
    kind, *numbers = row
    sized = (kind, len(row)) in (("conv", 4), ("uib", 6)) and all(not isinstance(value, str) for value in numbers)
    kernels = numbers[: 1 if kind == "conv" else 2]
    whole = [*kernels, *numbers[-2:]]
    fine = sized and all(isinstance(value, int) for value in whole) and all(k == 0 or int(k) % 2 for k in kernels)
    positive = numbers if kind == "conv" else numbers[2:]
    idle = fine and kind == "uib" and not any(kernels) and numbers[-1] != 1
    if not fine or idle or any(float(value) <= 0 for value in positive):
        raise ModelError(
            f"{list(row)} is not a MobileNetV4 block",
            hint='a block is ["conv", kernel, channels, stride] or ["uib", first kernel, second kernel, expansion, '
            "channels, stride]; kernels are odd, 0 leaves a depthwise layer out, and a stride needs one of the two",
        )
    return row
