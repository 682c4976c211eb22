"""SqueezeNet 1.1: few parameters, by squeezing the channels before every 3x3 convolution.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016,
arXiv:1602.07360; the fire module is Figure 1, the order of the layers Table 1, the numbers those of the authors'
release 1.1, which costs 2.4 times less than the paper's. At 1000 classes torchvision counts 1,235,496 parameters. Two
things differ here, neither of them in an exported file's size:

* Every convolution has a batch norm in place of its bias: without one the network learns only at small learning rates.
  It is folded away at export, which leaves the original's 1,235,496 numbers; in training there are 2,944 more.
* The last convolution, 1x1 with one channel per class, has no ReLU behind it. Then it may be applied to the mean of the
  map instead of to each of its 13 x 13 places, which gives the same logits for 86 M multiply-adds less, and is a linear
  classifier like that of every other network.
"""

from __future__ import annotations

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.blocks import conv_bn, initialize
from edgecnn.models.model_spec import ModelSpec, StageRow, plan_strides, round_channels

STEM_CHANNELS = 64
DROPOUT = 0.5

# Fire modules 2 to 9: channels squeezed to, channels of each of the two expansions, stride of the pooling before.
STAGES: tuple[tuple[int, int, int], ...] = (
    (16, 64, 2),
    (16, 64, 1),
    (32, 128, 2),
    (32, 128, 1),
    (48, 192, 2),
    (48, 192, 1),
    (64, 256, 1),
    (64, 256, 1),
)


class Fire(nn.Module):
    """Pooling where there is a stride, squeeze 1x1, expand 1x1 and 3x3 side by side (Figure 1)."""

    def __init__(self, inputs: int, squeezed: int, expanded: int, stride: int, act: str) -> None:
        """A module (N, inputs, H, W) -> (N, 2 * expanded, about H / stride, about W / stride)."""
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride) if stride > 1 else nn.Identity()
        self.squeeze = conv_bn(inputs, squeezed, 1, act=act)
        self.expand1 = conv_bn(squeezed, expanded, 1, act=act)
        self.expand3 = conv_bn(squeezed, expanded, 3, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, 2 * expanded, about H / stride, about W / stride)."""
        x = self.squeeze(self.pool(x))
        return torch.cat([self.expand1(x), self.expand3(x)], 1)


class SqueezeNet(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec) -> None:
        """The network of that spec, with fresh weights. Raises ModelError on a malformed table."""
        super().__init__()
        act = spec.activation or "relu"
        rows = [_checked(row) for row in spec.stages or STAGES]
        stem_stride, strides = plan_strides(spec, 2, [stride for *_, stride in rows])
        channels = round_channels(STEM_CHANNELS * spec.width)
        # Padded, other than the original: 112 px wide instead of 111, and from the first pooling on the same.
        self.stem = conv_bn(spec.channels, channels, 3, stride=stem_stride, act=act)
        fires: list[nn.Module] = []
        for (narrow, wide, _), stride in zip(rows, strides, strict=True):
            squeezed, expanded = round_channels(narrow * spec.width), round_channels(wide * spec.width)
            fires.append(Fire(channels, squeezed, expanded, stride, act))
            channels = 2 * expanded
        self.fires = nn.Sequential(*fires)
        self.dropout = nn.Dropout(DROPOUT if spec.dropout is None else spec.dropout)
        self.classifier = nn.Linear(channels, spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        logits: torch.Tensor = self.classifier(self.dropout(self.fires(self.stem(x)).mean((2, 3))))
        return logits


def squeezenet(spec: ModelSpec) -> nn.Module:
    """SqueezeNet 1.1 of that spec. Raises ModelError on a head: it has none."""
    if spec.head is not None:
        raise ModelError(
            "squeezenet has no head to set", hint="it takes width, stem_stride, strides, stages, dropout, activation"
        )
    return SqueezeNet(spec)


def _checked(row: StageRow) -> tuple[int, int, int]:
    """(squeezed, expanded, stride), if the row is that."""
    if len(row) != 3 or not all(isinstance(value, int) and value > 0 for value in row):
        raise ModelError(
            f"{list(row)} is not a fire module",
            hint="a fire module is [squeezed channels, channels of each expansion, stride of the pooling before it], "
            "whole and positive",
        )
    squeezed, expanded, stride = row
    return int(squeezed), int(expanded), int(stride)
