"""Structured pruning: whole channels go, so that every engine runs the smaller network without knowing.

Channels are cut group by group: a group is everything that must lose the same channels together (a convolution, its
batch norm, the depthwise layer behind it, the squeeze-excite gate, both sides of an addition, the inputs of the next
layers), found by Torch-Pruning's dependency graph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR
2023, arXiv:2301.12900). A channel's importance is the squared L2 norm of its weights, averaged over
the group's layers (section 3.3).

What is decided here and not by Torch-Pruning:

* How many channels stay: the multiple of ``round_to`` nearest to ``channels * (1 - ratio)`` that is not below 90 % of
  it, the rule by which the MobileNets round their widths. Rounding down instead, as the library does, would halve a
  layer of 16 channels when 25 % were asked for. What was achieved is measured and reported beside what was requested.
* The classifier keeps its outputs, and the network its input channels.
* The cut is made on a copy, which must run; then the network takes over its channel plan and weights. So a network that
  cannot be pruned is left untouched, and one that was pruned is known to be rebuildable from its plan.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import nn

from edgecnn.catalog import require
from edgecnn.errors import ModelError, UsageError
from edgecnn.models import channel_plan
from edgecnn.models.layers import find_classifier, input_channels, run_once, totals
from edgecnn.models.model_spec import round_channels

Importance = Literal["group_magnitude", "random"]

REGROUPED = "its channels are put into groups by a reshape, and nothing says which they are afterwards"


@runtime_checkable
class InParts(Protocol):
    """A network whose channels keep their places between parts, as a channel shuffle wants: each is pruned inside."""

    def parts(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What each part gives, computed from the images (N, 3, H, W) without a gradient from part to part."""

    def fixed_layers(self) -> tuple[str, ...]:
        """Paths of the layers whose outputs go from part to part."""


@dataclass(frozen=True)
class PruneReport:
    """What was asked for and what came out; fractions are of what was there before, MACs are for one image."""

    requested: float
    round_to: int
    channels_before: int
    channels_after: int
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int

    @property
    def achieved_channels(self) -> float:
        """Fraction of the channels removed (outputs of all convolutions and linear layers but the classifier)."""
        return 1 - self.channels_after / self.channels_before

    @property
    def achieved_params(self) -> float:
        """Fraction of the parameters removed."""
        return 1 - self.params_after / self.params_before

    @property
    def achieved_macs(self) -> float:
        """Fraction of the multiply-adds removed."""
        return 1 - self.macs_after / self.macs_before

    def to_dict(self) -> dict[str, float | int]:
        """JSON values, the achieved fractions included."""
        achieved = {
            "achieved_channels": self.achieved_channels,
            "achieved_params": self.achieved_params,
            "achieved_macs": self.achieved_macs,
        }
        return {**self.__dict__, **achieved}


def prune(
    model: nn.Module,
    image_size: int,
    ratio: float,
    *,
    round_to: int = 8,
    importance: Importance = "group_magnitude",
    keep: tuple[str, ...] = (),
) -> PruneReport:
    """Remove about ``ratio`` of the channels of every group, in place.

    Args:
        model: the network, (N, 3, H, W) -> (N, K); its weights decide which channels go.
        image_size: side of the image it is traced with, in pixels.
        ratio: fraction of the channels to remove, in [0, 1).
        round_to: the channels that stay are a multiple of this; 8 suits the engines' kernels.
        importance: "group_magnitude", or "random" (torch's global seed), the baseline every criterion must beat.
        keep: module paths whose outputs stay as they are, beside the classifier.

    Raises UsageError on a ratio or a path that cannot be, ModelError where the network cannot be pruned (it is then
    unchanged), MissingPackageError without Torch-Pruning.
    """
    if not 0.0 <= ratio < 1.0 or round_to < 1:
        raise UsageError(
            f"cannot remove {ratio:g} of the channels, rounded to {round_to}",
            hint="the ratio is in [0, 1), round_to at least 1",
        )
    kept = _kept_modules(model, keep)
    channels, (params, macs) = _channels(model), totals(model, image_size)
    if ratio > 0.0:
        _cut_on_a_copy(model, image_size, ratio, round_to, importance, kept)
    params_after, macs_after = totals(model, image_size)
    return PruneReport(ratio, round_to, channels, _channels(model), params, params_after, macs, macs_after)


def channels_to_keep(channels: int, ratio: float, round_to: int, groups: int = 1) -> int:
    """How many of ``channels`` stay: near ``channels * (1 - ratio)``, a multiple of ``round_to`` and of ``groups``.

    Never fewer than 90 % of what was asked for, never more than there are.
    """
    size = channels // groups
    step = round_to // math.gcd(round_to, groups)
    return min(size, round_channels(size * (1.0 - ratio), step)) * groups


def _kept_modules(model: nn.Module, keep: tuple[str, ...]) -> tuple[str, ...]:
    paths = {name for name, _ in model.named_modules()}
    unknown = [path for path in keep if path not in paths]
    if unknown:
        raise UsageError(f"the network has no layer {', '.join(unknown)}", hint="the layer table lists their names")
    fixed = model.fixed_layers() if isinstance(model, InParts) else ()
    return (find_classifier(model), *fixed, *keep)


def _channels(model: nn.Module) -> int:
    """Output channels of all convolutions and linear layers but the classifier."""
    classifier = find_classifier(model)
    total = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and name != classifier:
            total += module.weight.shape[0]
    return total


def _cut_on_a_copy(
    model: nn.Module, image_size: int, ratio: float, round_to: int, importance: Importance, kept: tuple[str, ...]
) -> None:
    before = run_once(model, image_size).shape
    trial = copy.deepcopy(model).requires_grad_(True).eval()
    try:
        _cut_groups(trial, image_size, ratio, round_to, importance, kept)
        after = run_once(trial, image_size).shape
    except (
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        AssertionError,
        ZeroDivisionError,
        ModelError,
    ) as error:
        raise ModelError(
            f"{type(model).__name__} cannot be pruned: {_reason(error)}",
            hint="convolutional networks can; attention layers and reshapes across channels cannot, and a channel "
            "shuffle only in edgecnn's own shufflenet_v2",
        ) from error
    if after != before:
        raise ModelError(
            f"pruning changed the logits from {tuple(before)} to {tuple(after)}", hint="keep the last layer"
        )
    channel_plan.apply(model, channel_plan.extract(trial))
    model.load_state_dict(trial.state_dict(), strict=True)


def _reason(error: Exception) -> str:
    if isinstance(error, ZeroDivisionError):  # of Torch-Pruning, at a reshape where it expects a flattening
        return REGROUPED
    return error.message if isinstance(error, ModelError) else str(error)


def _refuse_regrouped(graph: Any) -> None:
    """Torch-Pruning takes a shuffle for nothing at all, and would cut other channels than it chose."""
    for node in graph.module2node.values():
        sizes = getattr(node.grad_fn, "_saved_self_sym_sizes", ())
        if len(sizes) > 4 and "View" in node.grad_fn.name():
            raise ModelError(REGROUPED, hint="leave pruning out")


def _cut_groups(
    model: nn.Module, image_size: int, ratio: float, round_to: int, importance: Importance, kept: tuple[str, ...]
) -> None:
    """Choose the channels of every group first, on the uncut weights, then cut."""
    tp = require("torch_pruning", extra="all")
    parameter = next(model.parameters())
    shape = (1, input_channels(model), image_size, image_size)
    image = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    with warnings.catch_warnings():
        # Free parameters (ConvNeXt's layer scale) are cut along their last axis: right for those, checked by running
        # the result.
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
        apart = (lambda _, images: model.parts(images)) if isinstance(model, InParts) else None
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=image, forward_fn=apart)
    if apart is None:
        _refuse_regrouped(graph)
    score = _scorer(tp, importance)
    ignored = [module for path in kept for module in model.get_submodule(path).modules()]
    cuts: list[tuple[nn.Module, Any, int, list[int]]] = []
    for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=[nn.Conv2d, nn.Linear]):
        root = group[0].dep.target.module
        worst = _least_important(score(group), ratio, round_to, _grouping(group))
        if worst:
            cuts.append((root, group[0].dep.handler, graph.get_out_channels(root), worst))
    for root, function, channels, indices in cuts:
        # Where a concatenation ties two groups together, cutting one cuts the other: its places are then no longer
        # these.
        if graph.get_out_channels(root) == channels:
            graph.get_pruning_group(root, function, indices).prune()


def _scorer(tp: Any, importance: Importance) -> Callable[[Any], torch.Tensor]:
    """Group -> importance (channels,) float32."""
    scorers = {
        "group_magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "random": tp.importance.RandomImportance,
    }
    if importance not in scorers:
        raise UsageError(f"there is no importance {importance!r}", hint=f"choose one of: {', '.join(scorers)}")
    scorer: Callable[[Any], torch.Tensor] = scorers[importance]()
    return scorer


def _grouping(group: Any) -> int:
    """Into how many equal parts the channels must stay divisible, for grouped (not depthwise) convolutions."""
    parts = [1]
    for member in group:
        module = member.dep.target.module
        if isinstance(module, nn.Conv2d) and module.groups not in (1, module.out_channels):
            parts.append(module.groups)
    return max(parts)


def _least_important(scores: torch.Tensor, ratio: float, round_to: int, groups: int) -> list[int]:
    """The channels to remove, in order; with grouped convolutions the same places in every part, by their mean."""
    size = scores.numel() // groups
    drop = size - channels_to_keep(scores.numel(), ratio, round_to, groups) // groups
    order = torch.argsort(scores.detach().reshape(groups, size).mean(dim=0).cpu(), stable=True)
    return sorted(int(place) + part * size for part in range(groups) for place in order[:drop])
