"""The optimizer, which weights it decays, and how fast each block of the network learns."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgecnn.catalog import require
from edgecnn.errors import UsageError
from edgecnn.train.config import TrainConfig
from edgecnn.train.freezing import units


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD, RMSprop, AdamW, or ``timm:<name>``: whatever timm's factory has (``timm:lamb``).

    Weights of dense convolutions and linear layers decay, nothing else does. With ``layer_decay`` below 1 each block
    before the classifier has ``layer_decay`` times the rate of the one behind it (Clark et al., ELECTRA,
    arXiv:2003.10555, section 3.1): a group's ``lr_scale``. Raises UsageError for a name timm does not have.
    """
    dense = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    dense |= {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d) and not m.groups == m.in_channels > 1}
    blocks = units(model) if config.layer_decay < 1 else []
    members: list[list[nn.Parameter]] = [[] for _ in range(max(1, len(blocks)))]
    for name, parameter in model.named_parameters():
        block = next((at for at, path in enumerate(blocks) if name.startswith(f"{path}.")), 0)
        if parameter.requires_grad:
            members[block].append(parameter)
    groups: list[dict[str, Any]] = []
    for depth, parameters in enumerate(reversed(members)):
        decayed = [parameter for parameter in parameters if id(parameter) in dense]
        free = [parameter for parameter in parameters if id(parameter) not in dense]
        scale = {"lr_scale": config.layer_decay**depth} if blocks else {}
        groups.append({"params": decayed, "weight_decay": config.weight_decay, **scale})
        groups.append({"params": free, "weight_decay": 0.0, **scale})
    return _make(groups, config)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of every group, scaled as its block is."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def absolute_sum(model: nn.Module) -> torch.Tensor:
    """The sum of the absolute values of all convolution and linear weights: what L1 regularization keeps small."""
    layers = (module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    return torch.stack([layer.weight.abs().sum() for layer in layers]).sum()


def _make(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    if config.optimizer == "rmsprop":
        # As the MobileNet papers have it, with TensorFlow's epsilon.
        return torch.optim.RMSprop(groups, lr=config.lr, alpha=0.9, eps=1e-3, momentum=config.momentum)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    factory = require("timm.optim", extra="timm")
    try:
        made: torch.optim.Optimizer = factory.create_optimizer_v2(
            groups, opt=config.optimizer.removeprefix("timm:"), lr=config.lr, momentum=config.momentum
        )
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"timm has no optimizer {config.optimizer!r}: {error}", hint="timm:lamb, timm:adan and timm:lion are some"
        ) from error
    return made
