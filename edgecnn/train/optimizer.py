"""The optimizer and which weights it decays."""

from __future__ import annotations

import torch
from torch import nn

from edgecnn.train.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW, with weight decay on dense convolutions and linear layers only."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    dense = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    dense |= {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d) and not m.groups == m.in_channels > 1}
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if id(parameter) in dense else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
