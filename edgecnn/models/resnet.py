"""ResNets for ImageNet: residual blocks of two or three convolutions.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, Table 1 and Figure 5. As in
torchvision, the stride of a bottleneck is its 3x3 convolution's (the paper has it at the first 1x1, which reads one
pixel in four). torchvision counts 11,689,512, 21,797,672 and 25,557,032 parameters for 18, 34 and 50 layers and has the
same tensors in the same order, so its weights load by order. The paper counts 1.8, 3.6 and 3.8 G multiply-adds at 224
px; with the stride where it is here, ResNet-50 has 4.1 G.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.blocks import activation, conv_bn, initialize
from edgecnn.models.model_spec import ModelSpec, StageRow, plan_strides, round_channels

STEM_CHANNELS = 64
POOL_STRIDE = 2
BOTTLENECK = 4
"""A bottleneck gives four times the channels of its 3x3 convolution."""

# Table 1 of the paper: channels of the 3x3 convolutions, blocks, stride of the first block.
SHALLOW: tuple[StageRow, ...] = ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2))
DEEP: tuple[StageRow, ...] = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


class Basic(nn.Module):
    """Two 3x3 convolutions around a shortcut (Figure 5, left), which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, channels: int, stride: int, act: str) -> None:
        """A block (N, inputs, H, W) -> (N, channels, H / stride, W / stride)."""
        super().__init__()
        self.outputs = channels
        self.first = conv_bn(inputs, channels, 3, stride=stride, act=act)
        self.second = conv_bn(channels, channels, 3)
        self.shortcut = _shortcut(inputs, channels, stride)
        self.act = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, channels, H / stride, W / stride)."""
        y: torch.Tensor = self.act(self.second(self.first(x)) + self.shortcut(x))
        return y


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (Figure 5, right)."""

    def __init__(self, inputs: int, channels: int, stride: int, act: str) -> None:
        """A block (N, inputs, H, W) -> (N, 4 * channels, H / stride, W / stride)."""
        super().__init__()
        self.outputs = BOTTLENECK * channels
        self.reduce = conv_bn(inputs, channels, 1, act=act)
        self.middle = conv_bn(channels, channels, 3, stride=stride, act=act)
        self.expand = conv_bn(channels, self.outputs, 1)
        self.shortcut = _shortcut(inputs, self.outputs, stride)
        self.act = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, 4 * channels, H / stride, W / stride)."""
        y: torch.Tensor = self.act(self.expand(self.middle(self.reduce(x))) + self.shortcut(x))
        return y


Block = Callable[[int, int, int, str], Basic | Bottleneck]


class ResNet(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec, block: Block, paper: tuple[StageRow, ...]) -> None:
        """The network of that spec over that table, with fresh weights. Raises ModelError on a malformed table."""
        super().__init__()
        act = spec.activation or "relu"
        rows = [_checked(row) for row in spec.stages or paper]
        # The pooling is the first "stage": it has a stride like the others, and no row of its own in a table.
        stem_stride, (pool_stride, *strides) = plan_strides(spec, 2, [POOL_STRIDE, *[stride for *_, stride in rows]])
        channels = round_channels(STEM_CHANNELS * spec.width)
        self.stem = conv_bn(spec.channels, channels, 7, stride=stem_stride, act=act)
        self.pool = nn.MaxPool2d(3, pool_stride, 1) if pool_stride > 1 else nn.Identity()
        stages: list[nn.Module] = []
        for (wide, repeats, _), stride in zip(rows, strides, strict=True):
            blocks = []
            for number in range(repeats):
                made = block(channels, round_channels(wide * spec.width), stride if number == 0 else 1, act)
                channels = made.outputs
                blocks.append(made)
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(spec.dropout or 0.0)
        self.classifier = nn.Linear(channels, spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        logits: torch.Tensor = self.classifier(self.dropout(self.stages(self.pool(self.stem(x))).mean((2, 3))))
        return logits


def resnet18(spec: ModelSpec) -> nn.Module:
    """ResNet-18 of that spec. Raises ModelError on a head: it has none."""
    return _resnet(spec, Basic, SHALLOW)


def resnet34(spec: ModelSpec) -> nn.Module:
    """ResNet-34 of that spec. Raises ModelError on a head: it has none."""
    return _resnet(spec, Basic, DEEP)


def resnet50(spec: ModelSpec) -> nn.Module:
    """ResNet-50 of that spec. Raises ModelError on a head: it has none."""
    return _resnet(spec, Bottleneck, DEEP)


def _resnet(spec: ModelSpec, block: Block, paper: tuple[StageRow, ...]) -> nn.Module:
    if spec.head is not None:
        raise ModelError(
            f"{spec.name} has no head to set",
            hint="it takes width, stem_stride, strides, stages, dropout, activation",
        )
    return ResNet(spec, block, paper)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Identity, or the projection of equation 2 where the shape changes (option B)."""
    return conv_bn(inputs, outputs, 1, stride=stride) if stride != 1 or inputs != outputs else nn.Identity()


def _checked(row: StageRow) -> tuple[int, int, int]:
    """(channels, blocks, stride), if the row is that."""
    if len(row) != 3 or not all(isinstance(value, int) and value > 0 for value in row):
        raise ModelError(
            f"{list(row)} is not a stage of a ResNet",
            hint="a stage is [channels, blocks, stride of the first block], whole and positive",
        )
    channels, blocks, stride = row
    return int(channels), int(blocks), int(stride)
