"""What each operator of a torch.export graph means in the IR: one small function per operator, one table.

A rule gets the builder and the torch node and adds nodes or an alias. In-place variants (``relu_``) share the rule of
the plain one; the caller takes care of the overwriting. What pools, moves or regroups values without computing
anything of its own is in :mod:`edgecnn.graph.aten_moves`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from edgecnn.graph.aten_moves import MOVES
from edgecnn.graph.builder import GraphBuilder, value_shape
from edgecnn.graph.fx import Rule, arguments, pair, refused
from edgecnn.graph.ir import Array, Op


def conv(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.conv2d``, with numbers or ``"same"`` / ``"valid"`` as padding."""
    args = arguments(node)
    weight = cast(Array, builder.constant(args["weight"]))
    bias = builder.constant(args["bias"])
    stride, dilation = pair(args["stride"]), pair(args["dilation"])
    attrs = {
        "kernel": list(weight.shape[2:]),
        "stride": stride,
        "padding": _conv_padding(args["padding"], weight.shape[2:], dilation),
        "dilation": dilation,
        "groups": int(args["groups"]),
        "clamp": None,
    }
    builder.emit(node, Op.CONV, (builder.tensor(args["input"]),), attrs, weights=_with_bias(weight, bias))


def _conv_padding(padding: str | Sequence[int], kernel: tuple[int, ...], dilation: list[int]) -> list[int]:
    if padding == "valid":
        return [0, 0, 0, 0]
    if padding == "same":  # torch allows it with stride 1 only; the odd cell goes to the bottom and right
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2]
    return pair(cast(Sequence[int], padding)) * 2


def linear(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.linear`` on a vector."""
    args = arguments(node)
    if len(value_shape(node)) != 1:
        raise refused(node, f"a linear layer on shape {value_shape(node)}")
    weight = cast(Array, builder.constant(args["weight"]))
    weights = _with_bias(weight, builder.constant(args["bias"]))
    builder.emit(node, Op.LINEAR, (builder.tensor(args["input"]),), {"clamp": None}, weights=weights)


def batch_norm(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.batch_norm`` in evaluation: a per-channel scale and shift from the running statistics."""
    args = arguments(node)
    mean, var = builder.constant(args["running_mean"]), builder.constant(args["running_var"])
    if args["training"] or mean is None or var is None:
        raise refused(node, "batch normalization without running statistics")
    gamma, beta = builder.constant(args["weight"]), builder.constant(args["bias"])
    scale = 1.0 / np.sqrt(var.astype(np.float64) + args["eps"])
    scale = scale if gamma is None else scale * gamma
    shift = (0.0 if beta is None else beta) - mean * scale
    name = builder.fresh_name(node, Op.CONV)
    builder.alias(node, builder.scale_shift(name, builder.tensor(args["input"]), scale, shift))


def clamp(low: float | None, high: float | None) -> Rule:
    """A rule for an operator which is ``clamp(x, low, high)`` with fixed ends."""

    def rule(builder: GraphBuilder, node: torch.fx.Node) -> None:
        builder.emit(node, Op.CLAMP, (builder.tensor(node.args[0]),), {"clamp": [low, high]})

    return rule


def clamp_between(low_name: str, high_name: str) -> Rule:
    """A rule for an operator which is a clamp between two of its arguments."""

    def rule(builder: GraphBuilder, node: torch.fx.Node) -> None:
        args = arguments(node)
        ends = [None if args[key] is None else float(args[key]) for key in (low_name, high_name)]
        builder.emit(node, Op.CLAMP, (builder.tensor(node.args[0]),), {"clamp": ends})

    return rule


def unary(op: Op) -> Rule:
    """A rule for an operator of one tensor without attributes."""

    def rule(builder: GraphBuilder, node: torch.fx.Node) -> None:
        builder.emit(node, op, (builder.tensor(node.args[0]),))

    return rule


def add(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """Tensor + tensor of the same shape, or tensor + number."""
    left, right = node.args[:2]
    if arguments(node).get("alpha", 1) != 1:
        raise refused(node, "an addition with alpha")
    if isinstance(left, int | float) or isinstance(right, int | float):
        tensor, number = (right, left) if isinstance(left, int | float) else (left, right)
        return _affine(builder, node, tensor, 1.0, float(cast(float, number)))
    names = builder.tensor(left), builder.tensor(right)
    if builder.shape(names[0]) != builder.shape(names[1]):
        raise refused(node, f"an addition of shapes {builder.shape(names[0])} and {builder.shape(names[1])}")
    builder.emit(node, Op.ADD, names, {"clamp": None})


def mul(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """Tensor * tensor (one may be ``(C, 1, 1)``: it becomes the second), or tensor * number."""
    left, right = node.args[:2]
    if isinstance(left, int | float) or isinstance(right, int | float):
        tensor, number = (right, left) if isinstance(left, int | float) else (left, right)
        return _affine(builder, node, tensor, float(cast(float, number)), 0.0)
    names = [builder.tensor(left), builder.tensor(right)]
    if builder.shape(names[0]) != value_shape(node):
        names.reverse()
    main, gate = builder.shape(names[0]), builder.shape(names[1])
    if main != value_shape(node) or gate not in (main, (main[0], 1, 1)):
        raise refused(node, f"a product of shapes {main} and {gate}")
    builder.emit(node, Op.MUL, tuple(names))


def div(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """Tensor / number."""
    if not isinstance(node.args[1], int | float):
        raise refused(node, "a division by a tensor")
    _affine(builder, node, node.args[0], 1.0 / float(node.args[1]), 0.0)


def sub(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """Tensor - number."""
    if not isinstance(node.args[1], int | float):
        raise refused(node, "a difference of tensors")
    _affine(builder, node, node.args[0], 1.0, -float(node.args[1]))


def _affine(builder: GraphBuilder, node: torch.fx.Node, tensor: object, factor: float, offset: float) -> None:
    attrs = {"factor": factor, "offset": offset, "clamp": None}
    builder.emit(node, Op.AFFINE, (builder.tensor(tensor),), attrs)


def _with_bias(weight: Array, bias: Array | None) -> dict[str, Array]:
    return {"weight": weight, "bias": np.zeros(len(weight), np.float32) if bias is None else bias}


RULES: dict[str, Rule] = {
    "aten.conv2d.default": conv,
    "aten.conv2d.padding": conv,
    "aten.linear.default": linear,
    "aten.batch_norm.default": batch_norm,
    "aten.relu.default": clamp(0.0, None),
    "aten.relu6.default": clamp(0.0, 6.0),
    "aten.hardtanh.default": clamp_between("min_val", "max_val"),
    "aten.clamp.default": clamp_between("min", "max"),
    "aten.clamp_min.default": lambda b, n: clamp(float(cast(float, n.args[1])), None)(b, n),
    "aten.clamp_max.default": lambda b, n: clamp(None, float(cast(float, n.args[1])))(b, n),
    "aten.hardswish.default": unary(Op.HARD_SWISH),
    "aten.hardsigmoid.default": unary(Op.HARD_SIGMOID),
    "aten.sigmoid.default": unary(Op.SIGMOID),
    "aten.silu.default": unary(Op.SILU),
    "aten.add.Tensor": add,
    "aten.mul.Tensor": mul,
    "aten.div.Tensor": div,
    "aten.sub.Tensor": sub,
    **MOVES,
}
