"""EfficientNet-Lite0 to 4: EfficientNet for integer hardware, without squeeze-excite and with ReLU6.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, arXiv:1905.11946,
Table 1 is the network that is scaled; the Lite variants are those of the TensorFlow TPU repository (Liu, "Higher
accuracy on vision models with EfficientNet-Lite", TensorFlow blog, March 2020): stem, head, and the number of blocks in
the first and the last stage are the same in all. Published: 4.7, 5.4, 6.1, 8.2 and 13.0 M parameters, 407, 631, 899,
1,440 and 2,640 M multiply-adds at 224, 240, 260, 280 and 300 px; convolutions and linear layers alone have 3 to 6 %
less.

Strided convolutions pad as TensorFlow's SAME does, more at the bottom and right, because the published weights were
trained so. The tensors stand in the order of those weights, which load by order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from edgecnn.errors import ModelError
from edgecnn.models.blocks import conv_bn, initialize
from edgecnn.models.model_spec import ModelSpec, StageRow, plan_strides, round_channels

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
NORM_EPS = 1e-3

# Table 1: kernel, expansion, channels, repeats, stride of the first repeat.
STAGES: tuple[tuple[int, int, int, int, int], ...] = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)


@dataclass(frozen=True)
class Variant:
    """How much wider and deeper than Table 1, and the probability of dropout."""

    width: float
    depth: float
    dropout: float


VARIANTS = (
    Variant(1.0, 1.0, 0.2),
    Variant(1.0, 1.1, 0.2),
    Variant(1.1, 1.2, 0.3),
    Variant(1.2, 1.4, 0.3),
    Variant(1.4, 1.8, 0.3),
)


class SameConv2d(nn.Conv2d):
    """A convolution that pads so that the output has ``ceil(size / stride)`` places, the odd cell at the end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))."""
        sides: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            sides += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, sides) if any(sides) else x)


class Block(nn.Module):
    """Expand 1x1, depthwise, project 1x1 linearly; added to its input where the shapes allow."""

    def __init__(self, inputs: int, expansion: int, outputs: int, kernel: int, stride: int, act: str) -> None:
        """A block (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv_bn(inputs, hidden, 1, act=act, eps=NORM_EPS) if expansion > 1 else nn.Identity()
        self.depthwise = _conv_bn(hidden, hidden, kernel, stride, act, groups=hidden)
        self.project = conv_bn(hidden, outputs, 1, eps=NORM_EPS)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec, variant: Variant) -> None:
        """That variant of that spec, with fresh weights. Raises ModelError on a malformed table."""
        super().__init__()
        act = spec.activation or "relu6"
        rows = [_checked(row) for row in spec.stages] if spec.stages else _table(variant)
        stem_stride, strides = plan_strides(spec, 2, [row[4] for row in rows])
        channels = round_channels(STEM_CHANNELS * spec.width)
        self.stem = _conv_bn(spec.channels, channels, 3, stem_stride, act)
        blocks: list[nn.Module] = []
        for (kernel, expansion, base, repeats, _), stage_stride in zip(rows, strides, strict=True):
            outputs = round_channels(base * spec.width)
            for repeat in range(repeats):
                stride = stage_stride if repeat == 0 else 1
                blocks.append(Block(channels, expansion, outputs, kernel, stride, act))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        head = spec.head or round_channels(HEAD_CHANNELS * max(1.0, spec.width))
        self.head = conv_bn(channels, head, 1, act=act, eps=NORM_EPS)
        self.dropout = nn.Dropout(variant.dropout if spec.dropout is None else spec.dropout)
        self.classifier = nn.Linear(head, spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        x = self.head(self.blocks(self.stem(x)))
        logits: torch.Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return logits


def efficientnet_lite(spec: ModelSpec) -> nn.Module:
    """EfficientNet-Lite of that spec, whose name ends in which one. Raises ModelError on a malformed table."""
    return EfficientNetLite(spec, VARIANTS[int(spec.name[-1])])


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int, act: str, groups: int = 1) -> nn.Sequential:
    """As ``conv_bn``; where it strides, it pads as TensorFlow does."""
    parts = conv_bn(inputs, outputs, kernel, stride=stride, groups=groups, act=act, eps=NORM_EPS)
    if stride > 1:
        parts.conv = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return parts


def _table(variant: Variant) -> list[tuple[int, int, int, int, int]]:
    """Table 1, wider and deeper; the first and the last stage keep their one block."""
    table = []
    for number, (kernel, expansion, channels, repeats, stride) in enumerate(STAGES):
        inner = 0 < number < len(STAGES) - 1
        deep = math.ceil(repeats * variant.depth) if inner else repeats
        table.append((kernel, expansion, round_channels(channels * variant.width), deep, stride))
    return table


def _checked(row: StageRow) -> tuple[int, int, int, int, int]:
    """(kernel, expansion, channels, repeats, stride), if the row is that."""
    numbers = [value for value in row if isinstance(value, int) and value > 0]
    if len(row) != 5 or len(numbers) != 5 or numbers[0] % 2 == 0:
        raise ModelError(
            f"{list(row)} is not an EfficientNet stage",
            hint="a stage is [kernel, expansion, channels, repeats, stride], whole and positive, the kernel odd",
        )
    return numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
