"""The pieces that the paper files share: convolution + batch norm + activation, and how weights start."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from edgecnn.errors import ModelError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "hardswish": lambda: nn.Hardswish(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
}


def activation(name: str) -> nn.Module:
    """A new activation module. Raises ModelError for a name that is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise ModelError(f"there is no activation {name!r}", hint=f"choose one of: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    act: str | None = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Convolution ("conv", zero padding (kernel - 1) / 2, no bias), batch norm ("bn"), perhaps activation ("act")."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    parts["bn"] = nn.BatchNorm2d(outputs, eps=eps)
    if act is not None:
        parts["act"] = activation(act)
    return nn.Sequential(parts)


def initialize(model: nn.Module) -> None:
    """He initialization by fan-out for convolutions, a narrow normal distribution for linear layers; biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
