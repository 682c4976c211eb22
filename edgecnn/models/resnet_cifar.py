"""ResNets for 32 px pictures: three stages of 16, 32 and 64 channels, 6n + 2 layers.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, section 4.2; n is 3, 5 and 9 for
20, 32 and 56 layers. The paper counts 0.27, 0.46 and 0.85 M parameters (Table 6) with shortcuts that have none: where a
stage narrows the map they take every second pixel and add channels of zeros (option A: 269,722, 464,154 and 853,018).
Zeros out of nothing are no operator of an inference engine, so here those two shortcuts are 1x1 convolutions (option B,
equation 2), 2,752 parameters more. Such a convolution can do exactly what option A does: ``from_option_a`` gives the
weights of a network trained that way the convolutions they lack.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.blocks import activation, conv_bn, initialize
from edgecnn.models.model_spec import ModelSpec, plan_strides, round_channels

CHANNELS = (16, 32, 64)
STRIDES = [1, 2, 2]
NORM_EPS = 1e-5


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: str) -> None:
        """A block (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride=stride, act=act, eps=NORM_EPS)
        self.second = conv_bn(outputs, outputs, 3, eps=NORM_EPS)
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv_bn(inputs, outputs, 1, stride=stride, eps=NORM_EPS) if changes else nn.Identity()
        self.act = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: torch.Tensor = self.act(self.second(self.first(x)) + self.shortcut(x))
        return y


class CifarResNet(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec, blocks: int) -> None:
        """The network of that spec with that many blocks per stage, with fresh weights."""
        super().__init__()
        act = spec.activation or "relu"
        stem_stride, strides = plan_strides(spec, 1, STRIDES)
        channels = round_channels(CHANNELS[0] * spec.width)
        self.stem = conv_bn(spec.channels, channels, 3, stride=stem_stride, act=act, eps=NORM_EPS)
        stages: list[nn.Module] = []
        for wide, stride in zip(CHANNELS, strides, strict=True):
            outputs = round_channels(wide * spec.width)
            first = Block(channels, outputs, stride, act)
            stages.append(nn.Sequential(first, *[Block(outputs, outputs, 1, act) for _ in range(blocks - 1)]))
            channels = outputs
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(spec.dropout or 0.0)
        self.classifier = nn.Linear(channels, spec.num_classes)
        initialize(self)

    def translated(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The tensors as this network has them, where they are those of option A; any others as they are."""
        own = [name for name in self.state_dict() if not name.endswith("num_batches_tracked")]
        without = [name for name in own if ".shortcut." not in name]
        return from_option_a(self, tensors) if len(tensors) == len(without) < len(own) else tensors

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        logits: torch.Tensor = self.classifier(self.dropout(self.stages(self.stem(x)).mean((2, 3))))
        return logits


def resnet20(spec: ModelSpec) -> nn.Module:
    """ResNet-20 of that spec. Raises ModelError on options it does not have."""
    return _cifar_resnet(spec, 3)


def resnet32(spec: ModelSpec) -> nn.Module:
    """ResNet-32 of that spec. Raises ModelError on options it does not have."""
    return _cifar_resnet(spec, 5)


def resnet56(spec: ModelSpec) -> nn.Module:
    """ResNet-56 of that spec. Raises ModelError on options it does not have."""
    return _cifar_resnet(spec, 9)


def from_option_a(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict for ``model`` that computes what option A's does.

    Args:
        model: the network that the tensors are for, from ``zoo.build``.
        tensors: of the same network with shortcuts of option A, in order of execution, whatever their names.

    A projection becomes a convolution with ones and zeros (channel c of its input is channel ``c + (outputs - inputs)
    // 2`` of its output) under a batch norm that does nothing. Raises ModelError where the tensors are not such.
    """
    given = iter([item for item in tensors.items() if not item[0].endswith("num_batches_tracked")])
    state: dict[str, torch.Tensor] = {}
    for name, wanted in model.state_dict().items():
        if ".shortcut." in name or name.endswith("num_batches_tracked"):
            state[name] = _passing(name, wanted)
            continue
        other, tensor = next(given, ("nothing", torch.empty(0)))
        if name.rsplit(".", 1)[-1] != other.rsplit(".", 1)[-1] or tensor.shape != wanted.shape:
            raise ModelError(
                f"the weights are of another network: {other} {tuple(tensor.shape)} stands where this one has "
                f"{name} {tuple(wanted.shape)}",
                hint="they must be of the same depth, width and number of classes, with shortcuts of option A",
            )
        state[name] = tensor
    left = next(given, None)
    if left is not None:
        raise ModelError(f"the weights go on with {left[0]}", hint="they may be of a deeper network")
    return state


def _passing(name: str, wanted: torch.Tensor) -> torch.Tensor:
    """A shortcut's tensor that lets through what it is given: the middle channels are the input's."""
    if wanted.ndim == 4:
        outputs, inputs = wanted.shape[:2]
        channels = torch.arange(inputs)
        weight = torch.zeros_like(wanted)
        weight[channels + (outputs - inputs) // 2, channels] = 1.0
        return weight
    kind = name.rsplit(".", 1)[-1]
    fill = {"weight": 1.0, "running_var": 1.0 - NORM_EPS}.get(kind, 0.0)
    return torch.full_like(wanted, fill)


def _cifar_resnet(spec: ModelSpec, blocks: int) -> nn.Module:
    if spec.stages is not None or spec.head is not None:
        raise ModelError(
            f"{spec.name} has no stages and no head to set",
            hint="it takes width, stem_stride, strides, dropout, activation; resnet18 takes a table",
        )
    return CifarResNet(spec, blocks)
