"""Which part of a network is trained: everything, or its last blocks."""

from __future__ import annotations

from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.layers import find_classifier


def units(model: nn.Module) -> list[str]:
    """Paths of the network's blocks in their order, the classifier last: what "the last N blocks" counts.

    A sequence without convolutions of its own (a stage) is taken apart into its blocks; what has no weights is no unit.
    """
    classifier = find_classifier(model)
    found = [name for name in _blocks(model, "") if name != classifier]
    return [*found, classifier]


def train_only_last(model: nn.Module, blocks: int) -> list[str]:
    """Freeze all but the last ``blocks`` units before the classifier, and it; returns what is trained.

    Frozen batch norms keep their statistics (``set_training``). Raises ModelError where the network has fewer.
    """
    paths = units(model)
    if blocks >= len(paths):
        raise ModelError(
            f"the last {blocks} blocks are to be trained, and the network has {len(paths) - 1} before the classifier",
            hint="leave train_last out to train all of it",
        )
    trained = paths[len(paths) - 1 - blocks :]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(f"{path}.") for path in trained))
    return trained


def set_training(model: nn.Module, *, frozen_bn: bool = False) -> None:
    """Training mode, but for batch norms that are frozen: those go on using, and keep, the statistics they have.

    With ``frozen_bn`` that is all of them, while their scales and shifts are trained. A pretrained network then starts
    from the features its classifier was fitted to; with the statistics of a small batch of other pictures it would not.
    """
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        frozen = frozen_bn or (own and not any(each.requires_grad for each in own))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and frozen:
            module.eval()


def _blocks(module: nn.Module, prefix: str) -> list[str]:
    found: list[str] = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if not any(True for _ in child.parameters()):
            continue
        is_stage = isinstance(child, nn.Sequential) and not any(isinstance(each, nn.Conv2d) for each in child)
        found += _blocks(child, f"{path}.") if is_stage else [path]
    return found
