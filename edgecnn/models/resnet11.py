"""A dense network that learns 32 px pictures in minutes: the shape of the CIFAR-10 speed records.

Page, "How to train your ResNet" (Myrtle AI, 2018) began with nine layers; Jordan, "94% on CIFAR-10 in 3.29 seconds on a
single GPU", arXiv:2404.00498, has three groups of convolutions with 64, 256 and 256 channels, each pooling after its
first (section 3), and for 96 % a third convolution in each group with a residual connection (appendix). This is the
latter at the former's width, with a trained first convolution in place of the whitening one, batch norm before the
pooling, so that it folds into the convolution, and average pooling at the end. It is meant as a teacher: ten
convolutions and a linear layer, 3.20 M parameters, 208 M multiply-adds at 32 px.
"""

from __future__ import annotations

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.blocks import conv_bn, initialize
from edgecnn.models.model_spec import ModelSpec, round_channels

STEM, CHANNELS = 32, (64, 256, 256)


class Group(nn.Module):
    """Widen, pool, refine by two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, act: str) -> None:
        """A group (N, inputs, H, W) -> (N, outputs, H / 2, W / 2)."""
        super().__init__()
        self.widen = conv_bn(inputs, outputs, 3, act=act)
        self.pool = nn.MaxPool2d(2)
        self.refine = nn.Sequential(conv_bn(outputs, outputs, 3, act=act), conv_bn(outputs, outputs, 3, act=act))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / 2, W / 2)."""
        x = self.pool(self.widen(x))
        y: torch.Tensor = x + self.refine(x)
        return y


class ResNet11(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec) -> None:
        """The network of that spec, with fresh weights."""
        super().__init__()
        act = spec.activation or "relu"
        stem, *widths = [round_channels(channels * spec.width) for channels in (STEM, *CHANNELS)]
        self.stem = conv_bn(spec.channels, stem, 3, stride=spec.stem_stride or 1, act=act)
        inputs = [stem, *widths[:-1]]
        self.groups = nn.Sequential(*[Group(*pair, act) for pair in zip(inputs, widths, strict=True)])
        self.dropout = nn.Dropout(spec.dropout or 0.0)
        self.classifier = nn.Linear(widths[-1], spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        logits: torch.Tensor = self.classifier(self.dropout(self.groups(self.stem(x)).mean((2, 3))))
        return logits


def resnet11(spec: ModelSpec) -> nn.Module:
    """The network of that spec. Raises ModelError on options of the MobileNets."""
    if spec.stages is not None or spec.head is not None or spec.strides is not None:
        raise ModelError("resnet11 has no stages, strides or head to set", hint="it takes width, stem_stride, dropout")
    return ResNet11(spec)
