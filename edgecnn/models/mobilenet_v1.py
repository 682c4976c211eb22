"""MobileNetV1: depthwise separable convolutions, one after the other.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
arXiv:1704.04861: the layers are Figure 3, the network Table 1, the width multiplier section 3.3. Width 1.0 at 224 px
and 1000 classes: 4.2 M parameters and 569 M multiply-adds in the paper, 4,231,976 parameters here (Keras's and timm's
count, timm's with the same tensors in the same order, so its weights load by order; those were trained with ReLU6).
Width 0.25 at 96 px with two classes is the visual wake words network of MLPerf Tiny (arXiv:2106.07597), without the
biases that it has beside its batch norms.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.blocks import conv_bn, initialize
from edgecnn.models.model_spec import ModelSpec, StageRow, plan_strides, round_channels

STEM_CHANNELS = 32

# Table 1 of the paper: channels and stride of each depthwise separable layer. The table prints stride 2 for the last
# layer, whose map is 7 px wide before and after it: the reference code has 1.
STAGES: tuple[tuple[int, int], ...] = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)


def _separable(inputs: int, outputs: int, stride: int, act: str) -> nn.Sequential:
    """Figure 3, right: depthwise 3x3, then pointwise; (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
    return nn.Sequential(
        OrderedDict(
            depthwise=conv_bn(inputs, inputs, 3, stride=stride, groups=inputs, act=act),
            pointwise=conv_bn(inputs, outputs, 1, act=act),
        )
    )


class MobileNetV1(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec) -> None:
        """The network of that spec, with fresh weights. Raises ModelError on a malformed table."""
        super().__init__()
        act = spec.activation or "relu"
        rows = [_checked(row) for row in spec.stages or STAGES]
        stem_stride, strides = plan_strides(spec, 2, [stride for _, stride in rows])
        channels = round_channels(STEM_CHANNELS * spec.width)
        self.stem = conv_bn(spec.channels, channels, 3, stride=stem_stride, act=act)
        blocks: list[nn.Module] = []
        for (wide, _), stride in zip(rows, strides, strict=True):
            outputs = round_channels(wide * spec.width)
            blocks.append(_separable(channels, outputs, stride, act))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(spec.dropout or 0.0)
        self.classifier = nn.Linear(channels, spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        logits: torch.Tensor = self.classifier(self.dropout(self.blocks(self.stem(x)).mean((2, 3))))
        return logits


def mobilenet_v1(spec: ModelSpec) -> nn.Module:
    """MobileNetV1 of that spec. Raises ModelError on a head: it has none."""
    if spec.head is not None:
        raise ModelError(
            "mobilenet_v1 has no head to set",
            hint="it takes width, stem_stride, strides, stages, dropout, activation; the last row of stages is its end",
        )
    return MobileNetV1(spec)


def _checked(row: StageRow) -> tuple[int, int]:
    """(channels, stride), if the row is that."""
    if len(row) != 2 or not all(isinstance(value, int) and value > 0 for value in row):
        raise ModelError(
            f"{list(row)} is not a MobileNetV1 layer", hint="a layer is [channels, stride], both whole and positive"
        )
    channels, stride = row
    return int(channels), int(stride)
