"""MobileNetV2: inverted residuals and linear bottlenecks.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381, Table 2.
Width 1.0 at 224 px and 1000 classes: 3.50 M parameters and 300 M multiply-adds in the paper, 3,504,872 parameters here
(torchvision has the same tensors in the same order, so its weights load by order).
"""

from __future__ import annotations

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.blocks import conv_bn, initialize
from edgecnn.models.model_spec import ModelSpec, plan_strides, round_channels

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
DROPOUT = 0.2

# Table 2 of the paper: expansion t, channels c, repeats n, stride s of the first repeat.
STAGES: tuple[tuple[int, int, int, int], ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1 linearly; added to its input where the shapes allow (Figure 3)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int, act: str) -> None:
        """A block (N, inputs, H, W) -> (N, outputs, H / stride, W / stride) with ``hidden`` channels inside."""
        super().__init__()
        self.expand = conv_bn(inputs, hidden, 1, act=act) if hidden != inputs else nn.Identity()
        self.depthwise = conv_bn(hidden, hidden, kernel, stride=stride, groups=hidden, act=act)
        self.project = conv_bn(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec) -> None:
        """The network of that spec, with fresh weights. Raises ModelError on a malformed table."""
        super().__init__()
        act = spec.activation or "relu6"
        table = _table(spec)
        stem_stride, strides = plan_strides(spec, 2, [row[3] for row in table])
        channels = round_channels(STEM_CHANNELS * spec.width)
        self.stem = conv_bn(spec.channels, channels, 3, stride=stem_stride, act=act)
        blocks: list[nn.Module] = []
        for (expansion, base, repeats, _), stage_stride in zip(table, strides, strict=True):
            outputs = round_channels(base * spec.width)
            for repeat in range(repeats):
                stride = stage_stride if repeat == 0 else 1
                blocks.append(InvertedResidual(channels, round(channels * expansion), outputs, 3, stride, act))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        # The paper keeps the head at 1280 for widths below 1.
        head = spec.head or round_channels(HEAD_CHANNELS * max(1.0, spec.width))
        self.head = conv_bn(channels, head, 1, act=act)
        self.dropout = nn.Dropout(DROPOUT if spec.dropout is None else spec.dropout)
        self.classifier = nn.Linear(head, spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        x = self.head(self.blocks(self.stem(x)))
        x = self.dropout(x.mean((2, 3)))
        logits: torch.Tensor = self.classifier(x)
        return logits


def mobilenet_v2(spec: ModelSpec) -> nn.Module:
    """MobileNetV2 of that spec."""
    return MobileNetV2(spec)


def _table(spec: ModelSpec) -> list[tuple[float, int, int, int]]:
    """The stage table, the paper's or the spec's own, checked."""
    table: list[tuple[float, int, int, int]] = []
    for row in spec.stages or STAGES:
        if len(row) != 4 or any(isinstance(value, str) or value <= 0 for value in row):
            raise ModelError(
                f"{list(row)} is not a MobileNetV2 stage",
                hint="a stage is [expansion, channels, repeats, stride], all positive",
            )
        expansion, channels, repeats, stride = row
        table.append((float(expansion), int(channels), int(repeats), int(stride)))
    return table
