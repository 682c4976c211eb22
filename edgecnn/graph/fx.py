"""Small questions about a node of a torch.export graph that every rule asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from edgecnn.errors import ModelError
from edgecnn.graph.builder import GraphBuilder, module_path

Rule = Callable[[GraphBuilder, torch.fx.Node], None]


def arguments(node: torch.fx.Node) -> dict[str, Any]:
    """Arguments of a torch node by name, defaults filled in."""
    schema = cast(torch._ops.OpOverload, node.target)._schema
    values = {arg.name: arg.default_value for arg in schema.arguments if arg.has_default_value()}
    values |= dict(zip((arg.name for arg in schema.arguments), node.args, strict=False))
    return values | dict(node.kwargs)


def pair(value: int | Sequence[int]) -> list[int]:
    """``[height, width]`` from one number or two."""
    values = [value] if isinstance(value, int) else [int(item) for item in value]
    return values * 2 if len(values) == 1 else values


def refused(node: torch.fx.Node, what: str, hint: str = "") -> ModelError:
    """The error for something the IR has no counterpart for."""
    from edgecnn.graph.aten import RULES  # which is made of functions that raise this

    place = f"module '{module_path(node)}'" if module_path(node) else "the model's own forward"
    kinds = ", ".join(sorted({name.split(".")[1] for name in RULES if name.startswith("aten.")}))
    return ModelError(
        f"{what} ({node.target} in {place}) has no counterpart", hint=hint or f"supported torch operators: {kinds}"
    )
