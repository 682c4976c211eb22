"""Batch normalization over the pictures of all processes, on any device.

torch's own ``SyncBatchNorm`` refuses CPU tensors, and turning modules into it changes the network that is handed back.
This one replaces the forward pass for as long as an epoch lasts, as ``depthwise.py`` does. The statistics are those of
the whole batch in exact arithmetic: with n_r pictures, mean m_r and variance v_r in process r, and N = sum n_r,

    m = sum n_r m_r / N,    v = sum n_r (v_r + (m_r - m)^2) / N

(Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1, for any number of parts),
which does not cancel as E[x^2] - E[x]^2 does. One exchange per layer and direction: (processes, 2 C + 1) numbers.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgecnn.errors import UsageError
from edgecnn.train.distributed import World, sum_over_all

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d)


@contextmanager
def synchronized(model: nn.Module, world: World, wanted: bool) -> Iterator[int]:
    """Inside, the batch normalizations of ``model`` use the batch of all processes if ``wanted``; yields how many do.

    Nothing is changed where a process is alone: its batch is the whole batch. Raises UsageError for unknown kinds.
    """
    active = wanted and world.size > 1
    changed = [each for each in model.modules() if isinstance(each, _BatchNorm)] if active else []
    strange = sorted({type(each).__name__ for each in changed if type(each) not in PLAIN and not _activates(each)})
    if strange:
        raise UsageError(
            f"sync_bn does not know what {', '.join(strange)} does besides batch normalization",
            hint="train without sync_bn: each process then normalizes with its own part of the batch",
        )

    def forward(module: _BatchNorm, x: Tensor) -> Tensor:
        if not module.training:
            return type(module).forward(module, x)
        y = normalize_over_all(module, x, world)
        if not _activates(module):
            return y
        drop, act = cast(nn.Module, module.drop), cast(nn.Module, module.act)
        activated: Tensor = act(drop(y))
        return activated

    for each in changed:
        each.__dict__["forward"] = types.MethodType(forward, each)
    try:
        yield len(changed)
    finally:
        for each in changed:
            del each.__dict__["forward"]


def _activates(module: _BatchNorm) -> bool:
    """Whether it is timm's batch normalization that drops and activates afterwards."""
    return type(module).__name__ == "BatchNormAct2d" and hasattr(module, "act") and hasattr(module, "drop")


def normalize_over_all(module: _BatchNorm, x: Tensor, world: World) -> Tensor:
    """What ``module`` in training mode would give for this process's part of the whole batch: x (n, C, ...) -> same.

    Computed in float32, also under autocast. The running statistics take the whole batch's, as if in one process.
    """
    each = x.float()
    dims = [0, *range(2, x.dim())]
    var, mean = torch.var_mean(each, dims, correction=0)
    count = torch.full_like(mean[:1], x.numel() // x.shape[1])
    own = torch.cat([mean, var, count])[None]
    before, after = own.new_zeros(world.rank, own.shape[1]), own.new_zeros(world.size - world.rank - 1, own.shape[1])
    table = sum_over_all(torch.cat([before, own, after]))
    means, variances, counts = table[:, : len(mean)], table[:, len(mean) : -1], table[:, -1:]
    n = counts.sum()
    mean = (counts * means).sum(0) / n
    var = (counts * (variances + (means - mean) ** 2)).sum(0) / n
    _remember(module, mean.detach(), (var * n / (n - 1)).detach())
    shape = [1, -1, *([1] * (x.dim() - 2))]
    scale = (var + module.eps).rsqrt() * (1 if module.weight is None else module.weight)
    shift = (0 if module.bias is None else module.bias) - mean * scale
    return (each * scale.view(shape) + shift.view(shape)).to(x.dtype)


def _remember(module: _BatchNorm, mean: Tensor, var: Tensor) -> None:
    """Move the running statistics as ``F.batch_norm`` does; momentum ``None`` is the plain average over all steps."""
    if module.running_mean is None or module.running_var is None:
        return
    assert module.num_batches_tracked is not None
    module.num_batches_tracked += 1
    momentum = module.momentum if module.momentum is not None else 1 / float(module.num_batches_tracked)
    module.running_mean.lerp_(mean, momentum)
    module.running_var.lerp_(var, momentum)
