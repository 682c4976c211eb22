"""ResNet-8 of MLPerf Tiny: the CIFAR-10 network of microcontroller benchmarks.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, in the small shape of Banbury
et al., "MLPerf Tiny Benchmark", NeurIPS 2021, arXiv:2106.07597: one residual stack per resolution with 16, 32 and 64
channels. 78,666 parameters and 12.5 M multiply-adds at 32 px and 10 classes. Like the reference (a Keras model),
convolutions carry a bias beside their batch norm, and the shortcut convolutions have no batch norm.
"""

from __future__ import annotations

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.blocks import activation, initialize
from edgecnn.models.model_spec import ModelSpec, plan_strides, round_channels

CHANNELS = (16, 32, 64)
STRIDES = [1, 2, 2]


class ResidualStack(nn.Module):
    """Two 3x3 convolutions around a shortcut: identity, or a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: str) -> None:
        """A stack (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act1 = activation(act)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if changes else nn.Identity()
        self.act2 = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        result: torch.Tensor = self.act2(y + self.shortcut(x))
        return result


class ResNet8(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec) -> None:
        """The network of that spec, with fresh weights."""
        super().__init__()
        act = spec.activation or "relu"
        stem_stride, strides = plan_strides(spec, 1, STRIDES)
        widths = [round_channels(channels * spec.width) for channels in CHANNELS]
        self.conv = nn.Conv2d(spec.channels, widths[0], 3, stem_stride, 1)
        self.bn = nn.BatchNorm2d(widths[0], eps=1e-3)
        self.act = activation(act)
        inputs = [widths[0], *widths[:-1]]
        stacks = zip(inputs, widths, strides, strict=True)
        self.stacks = nn.Sequential(*[ResidualStack(before, after, stride, act) for before, after, stride in stacks])
        self.dropout = nn.Dropout(spec.dropout or 0.0)
        self.classifier = nn.Linear(widths[-1], spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        x = self.stacks(self.act(self.bn(self.conv(x))))
        logits: torch.Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return logits


def resnet8(spec: ModelSpec) -> nn.Module:
    """ResNet-8 of that spec. Raises ModelError on options of the MobileNets."""
    if spec.stages is not None or spec.head is not None:
        raise ModelError(
            "resnet8 has no stages and no head to set", hint="it takes width, stem_stride, strides, dropout, activation"
        )
    return ResNet8(spec)
