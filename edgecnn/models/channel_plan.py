"""Channel plans: how a cut network differs from what its builder gives, as plain data.

Pruning makes layers narrower than any width multiplier could, so the builder alone cannot rebuild them. The plan
holds, by module path, the shape of every tensor and the numbers a module keeps about itself (``Conv2d.groups`` of a
depthwise layer shrinks with its channels). Builder + plan + strictly loaded weights is the same network, to the last
bit, in a fresh process; no module is ever pickled. It works on any network made of modules that own their tensors,
timm's included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgecnn.errors import ModelError

ATTRIBUTES = (
    "in_channels",
    "out_channels",
    "groups",
    "num_features",
    "in_features",
    "out_features",
    "num_channels",
    "num_groups",
    "normalized_shape",
)
"""What torch's layers remember about their shape beside the tensors themselves."""


def extract(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The plan of a network, JSON: module path -> ``{"shapes": {tensor: [sizes]}, "attributes": {name: number}}``."""
    return {path: _entry(module) for path, module in model.named_modules() if _tensors(module)}


def apply(model: nn.Module, plan: Mapping[str, Mapping[str, Any]]) -> None:
    """Cut a freshly built network to the plan, in place; tensors that change are zero until weights are loaded.

    Afterwards ``load_state_dict(strict=True)`` accepts the weights that belong to the plan. Raises ModelError, before
    anything is changed, where the plan belongs to another network or contradicts itself.
    """
    modules = {path: module for path, module in model.named_modules() if _tensors(module)}
    problems = _other_modules(modules, plan)
    if not problems:
        for path, module in modules.items():
            problems += [f"{path}: {problem}" for problem in _contradictions(module, plan[path])]
    if problems:
        raise ModelError(
            f"the channel plan does not fit the network: {'; '.join(problems[:3])}"
            + (f" and {len(problems) - 3} more" if len(problems) > 3 else ""),
            hint="a plan belongs to the model, width, stages and number of classes it was made from",
        )
    for path, module in modules.items():
        _cut(module, plan[path])


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and saved buffers that the module itself owns."""
    return {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if "." not in name}


def _entry(module: nn.Module) -> dict[str, Any]:
    shapes = {name: list(tensor.shape) for name, tensor in _tensors(module).items()}
    attributes = {}
    for name in ATTRIBUTES:
        value = getattr(module, name, None)
        if value is not None:
            attributes[name] = list(value) if isinstance(value, tuple) else value
    return {"shapes": shapes, "attributes": attributes}


def _other_modules(modules: Mapping[str, nn.Module], plan: Mapping[str, Any]) -> list[str]:
    absent, foreign = sorted(set(modules) - set(plan)), sorted(set(plan) - set(modules))
    problems = [f"{path} is not in the plan" for path in absent]
    return problems + [f"the network has no {path}" for path in foreign]


def _contradictions(module: nn.Module, planned: Mapping[str, Any]) -> list[str]:
    """What is wrong with one entry: names, ranks, growth, or attributes that the shapes deny."""
    if not isinstance(planned, Mapping) or set(planned) != {"shapes", "attributes"}:
        return ["an entry holds 'shapes' and 'attributes'"]
    built, shapes, attributes = _entry(module), planned["shapes"], planned["attributes"]
    problems = []
    for part, wanted, given in (
        ("tensors", built["shapes"], shapes),
        ("attributes", built["attributes"], attributes),
    ):
        if set(wanted) != set(given):
            problems.append(f"{part} {sorted(given)} instead of {sorted(wanted)}")
    if problems:
        return problems
    for name, now in built["shapes"].items():
        if not _cut_of(now, shapes[name]):
            problems.append(f"{name} {shapes[name]} cannot be cut out of {now}")
    return problems or _denied(module, shapes, attributes)


def _cut_of(now: list[int], planned: Any) -> bool:
    """Whether the planned shape has the same rank and no side that is longer or empty."""
    if not isinstance(planned, list | tuple) or len(planned) != len(now):
        return False
    return all(isinstance(size, int) and 0 < size <= most for size, most in zip(planned, now, strict=True))


def _denied(module: nn.Module, shapes: Mapping[str, Any], attributes: Mapping[str, Any]) -> list[str]:
    """Attributes of a convolution, linear or batch-norm layer that its planned weight contradicts."""
    expected: dict[str, Any] = {}
    if isinstance(module, nn.Conv2d):
        outputs, per_group = shapes["weight"][:2]
        expected = {"out_channels": outputs, "in_channels": per_group * attributes["groups"]}
    elif isinstance(module, nn.Linear):
        expected = {"out_features": shapes["weight"][0], "in_features": shapes["weight"][1]}
    elif isinstance(module, nn.BatchNorm2d) and "weight" in shapes:
        expected = {"num_features": shapes["weight"][0]}
    wrong = {name: value for name, value in expected.items() if attributes[name] != value}
    return [f"{name} is {attributes[name]}, its weight says {value}" for name, value in wrong.items()]


def _cut(module: nn.Module, planned: Mapping[str, Any]) -> None:
    for name, value in planned["attributes"].items():
        before = getattr(module, name)
        setattr(module, name, tuple(value) if isinstance(before, tuple) else value)
    for name, tensor in _tensors(module).items():
        shape = tuple(planned["shapes"][name])
        if shape == tuple(tensor.shape):
            continue
        fresh = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(fresh, requires_grad=tensor.requires_grad))
        else:
            setattr(module, name, fresh)
