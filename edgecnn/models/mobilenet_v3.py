"""MobileNetV3: searched inverted residuals with squeeze-excite and hard-swish.

Howard et al., "Searching for MobileNetV3", ICCV 2019, arXiv:1905.02244, Tables 1 (large) and 2 (small).
At 224 px and 1000 classes: small 2.54 M parameters and 56 M multiply-adds, large 5.48 M and 219 M (here 2,542,856 and
5,483,032 parameters; torchvision has the same tensors in the same order, so its weights load by order).

Hard-swish is ``x * relu6(x + 3) / 6`` and the gate of squeeze-excite is ``relu6(x + 3) / 6`` (section 5.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.blocks import activation, conv_bn, initialize
from edgecnn.models.model_spec import ModelSpec, StageRow, plan_strides, round_channels

STEM_CHANNELS = 16
LAST_EXPANSION = 6
DROPOUT = 0.2
EPS = 1e-3

# Columns of the paper's tables: kernel, expansion size, output channels, squeeze-excite, nonlinearity, stride.
SMALL: tuple[StageRow, ...] = (
    (3, 16, 16, 1, "RE", 2),
    (3, 72, 24, 0, "RE", 2),
    (3, 88, 24, 0, "RE", 1),
    (5, 96, 40, 1, "HS", 2),
    (5, 240, 40, 1, "HS", 1),
    (5, 240, 40, 1, "HS", 1),
    (5, 120, 48, 1, "HS", 1),
    (5, 144, 48, 1, "HS", 1),
    (5, 288, 96, 1, "HS", 2),
    (5, 576, 96, 1, "HS", 1),
    (5, 576, 96, 1, "HS", 1),
)
LARGE: tuple[StageRow, ...] = (
    (3, 16, 16, 0, "RE", 1),
    (3, 64, 24, 0, "RE", 2),
    (3, 72, 24, 0, "RE", 1),
    (5, 72, 40, 1, "RE", 2),
    (5, 120, 40, 1, "RE", 1),
    (5, 120, 40, 1, "RE", 1),
    (3, 240, 80, 0, "HS", 2),
    (3, 200, 80, 0, "HS", 1),
    (3, 184, 80, 0, "HS", 1),
    (3, 184, 80, 0, "HS", 1),
    (3, 480, 112, 1, "HS", 1),
    (3, 672, 112, 1, "HS", 1),
    (5, 672, 160, 1, "HS", 2),
    (5, 960, 160, 1, "HS", 1),
    (5, 960, 160, 1, "HS", 1),
)
SMALL_HEAD, LARGE_HEAD = 1024, 1280
NONLINEARITIES = {"RE": "relu", "HS": "hardswish"}


@dataclass(frozen=True)
class Row:
    """One line of the paper's table, at width 1."""

    kernel: int
    expanded: int
    channels: int
    squeeze_excite: bool
    nonlinearity: str
    stride: int


class SqueezeExcite(nn.Module):
    """Channels weighted by a gate that sees the whole picture (Hu et al., arXiv:1709.01507, equations 2 to 4).

    The bottleneck has a quarter of the expanded channels, and the gate is a hard sigmoid (V3 paper, sections 5.2 and
    5.3).
    """

    def __init__(self, channels: int) -> None:
        """A gate on (N, channels, H, W)."""
        super().__init__()
        squeezed = round_channels(channels / 4)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = activation("relu")
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) -> the same shape."""
        scale: torch.Tensor = self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * scale


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, squeeze-excite, project 1x1; added to its input where the shapes allow (Figure 4)."""

    def __init__(self, inputs: int, expanded: int, outputs: int, row: Row, stride: int, act: str) -> None:
        """A block (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        super().__init__()
        self.expand = conv_bn(inputs, expanded, 1, act=act, eps=EPS) if expanded != inputs else nn.Identity()
        self.depthwise = conv_bn(expanded, expanded, row.kernel, stride=stride, groups=expanded, act=act, eps=EPS)
        self.squeeze_excite = SqueezeExcite(expanded) if row.squeeze_excite else nn.Identity()
        self.project = conv_bn(expanded, outputs, 1, eps=EPS)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: torch.Tensor = self.project(self.squeeze_excite(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class MobileNetV3(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec, paper: tuple[StageRow, ...], head: int) -> None:
        """The network of that spec over that table, with fresh weights. Raises ModelError on a malformed table."""
        super().__init__()
        act = spec.activation or "hardswish"
        rows = [_row(row) for row in spec.stages or paper]
        stem_stride, strides = plan_strides(spec, 2, [row.stride for row in rows])
        channels = round_channels(STEM_CHANNELS * spec.width)
        self.stem = conv_bn(spec.channels, channels, 3, stride=stem_stride, act=act, eps=EPS)
        blocks: list[nn.Module] = []
        for row, stride in zip(rows, strides, strict=True):
            expanded, outputs = round_channels(row.expanded * spec.width), round_channels(row.channels * spec.width)
            row_act = spec.activation or NONLINEARITIES[row.nonlinearity]
            blocks.append(InvertedResidual(channels, expanded, outputs, row, stride, row_act))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        features = LAST_EXPANSION * channels
        self.features = conv_bn(channels, features, 1, act=act, eps=EPS)
        # After pooling: the "efficient last stage" of section 5.1.
        width = spec.head or round_channels(head * spec.width)
        self.head = nn.Linear(features, width)
        self.head_act = activation(act)
        self.dropout = nn.Dropout(DROPOUT if spec.dropout is None else spec.dropout)
        self.classifier = nn.Linear(width, spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        x = self.features(self.blocks(self.stem(x)))
        x = self.head_act(self.head(x.mean((2, 3))))
        logits: torch.Tensor = self.classifier(self.dropout(x))
        return logits


def mobilenet_v3_small(spec: ModelSpec) -> nn.Module:
    """MobileNetV3-Small of that spec (Table 2)."""
    return MobileNetV3(spec, SMALL, SMALL_HEAD)


def mobilenet_v3_large(spec: ModelSpec) -> nn.Module:
    """MobileNetV3-Large of that spec (Table 1)."""
    return MobileNetV3(spec, LARGE, LARGE_HEAD)


def _row(row: StageRow) -> Row:
    """One row of a table, checked."""
    numbers = [value for index, value in enumerate(row) if index != 4]
    fine = (
        len(row) == 6 and all(isinstance(value, int) and value >= 0 for value in numbers) and row[4] in NONLINEARITIES
    )
    if not fine or 0 in (row[0], row[1], row[2], row[5]):
        raise ModelError(
            f"{list(row)} is not a MobileNetV3 block",
            hint='a block is [kernel, expanded, channels, squeeze_excite 0|1, "RE"|"HS", stride]',
        )
    return Row(int(row[0]), int(row[1]), int(row[2]), bool(row[3]), str(row[4]), int(row[5]))
