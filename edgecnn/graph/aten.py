"""What each operator of a torch.export graph means in the IR: one small function per operator, one table.

A rule gets the builder and the torch node and adds nodes or an alias. In-place variants (``relu_``) share the rule of
the plain one; the caller takes care of the overwriting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch

from edgecnn.errors import ModelError
from edgecnn.graph.builder import GraphBuilder, module_path, value_shape
from edgecnn.graph.ir import Array, Op

Rule = Callable[[GraphBuilder, torch.fx.Node], None]


def arguments(node: torch.fx.Node) -> dict[str, Any]:
    """Arguments of a torch node by name, defaults filled in."""
    schema = cast(torch._ops.OpOverload, node.target)._schema
    values = {arg.name: arg.default_value for arg in schema.arguments if arg.has_default_value()}
    values |= dict(zip((arg.name for arg in schema.arguments), node.args, strict=False))
    return values | dict(node.kwargs)


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


def mean(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.mean.dim`` over height and width, with or without keepdim."""
    args = arguments(node)
    name = builder.tensor(args["self"])
    shape = builder.shape(name)
    if len(shape) != 3 or sorted(dim % 4 for dim in args["dim"]) != [2, 3]:
        raise refused(node, f"a mean of shape {shape} over dimensions {args['dim']}")
    pooled = builder.emit(node, Op.MEAN, (name,), shape=(shape[0], 1, 1))
    if not args["keepdim"]:
        builder.emit(node, Op.FLATTEN, (pooled,))


def adaptive_avg_pool(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """To 1x1: a global mean. To a divisor of the size: a plain average pooling. To the same size: nothing."""
    args = arguments(node)
    name = builder.tensor(args["self"])
    (height, width), (rows, columns) = builder.shape(name)[1:], value_shape(node)[1:]
    if (rows, columns) == (1, 1):
        builder.emit(node, Op.MEAN, (name,))
    elif (rows, columns) == (height, width):
        builder.alias(node, name)
    elif height % rows == 0 and width % columns == 0:
        kernel = [height // rows, width // columns]
        builder.emit(node, Op.AVG_POOL, (name,), {"kernel": kernel, "stride": kernel})
    else:
        raise refused(node, f"adaptive pooling from {height}x{width} to {rows}x{columns}")


def avg_pool(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.avg_pool2d``; padded zeros must count, as they do by default."""
    args = arguments(node)
    name, kernel, padding = builder.tensor(args["self"]), pair(args["kernel_size"]), pair(args["padding"])
    stride = pair(args["stride"]) if args["stride"] else kernel
    if args["ceil_mode"] or args["divisor_override"] or (any(padding) and not args["count_include_pad"]):
        raise refused(node, "average pooling with ceil_mode, a divisor or uncounted padding")
    if any(padding):
        channels, height, width = builder.shape(name)
        shape = (channels, height + 2 * padding[0], width + 2 * padding[1])
        name = builder.emit(node, Op.PAD, (name,), {"padding": padding * 2}, shape=shape)
    builder.emit(node, Op.AVG_POOL, (name,), {"kernel": kernel, "stride": stride})


def max_pool(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.max_pool2d`` without dilation."""
    args = arguments(node)
    kernel = pair(args["kernel_size"])
    if args["ceil_mode"] or pair(args["dilation"]) != [1, 1]:
        raise refused(node, "max pooling with ceil_mode or dilation")
    stride = pair(args["stride"]) if args["stride"] else kernel
    attrs = {"kernel": kernel, "stride": stride, "padding": pair(args["padding"]) * 2}
    builder.emit(node, Op.MAX_POOL, (builder.tensor(args["self"]),), attrs)


def pad(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.pad`` with zeros around height and width (torch lists left, right, top, bottom)."""
    args = arguments(node)
    sides = [int(side) for side in args["pad"]]
    if args["mode"] != "constant" or (args["value"] or 0.0) != 0.0 or len(sides) not in (2, 4) or min(sides) < 0:
        raise refused(node, f"padding {sides} with mode {args['mode']} and value {args['value']}")
    left, right, top, bottom = [*sides, 0, 0][:4]
    name = builder.tensor(args["self"])
    if not any(sides):
        return builder.alias(node, name)
    builder.emit(node, Op.PAD, (name,), {"padding": [top, left, bottom, right]})


def reshape(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """Anything that only changes the shape: to a vector it is a FLATTEN, to the same shape it is nothing."""
    name = builder.tensor(node.args[0])
    shape = value_shape(node)
    if shape == builder.shape(name):
        builder.alias(node, name)
    elif len(shape) == 1:
        builder.emit(node, Op.FLATTEN, (name,))
    else:
        raise refused(node, f"a change of shape from {builder.shape(name)} to {shape}")


def concat(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.cat`` along channels."""
    args = arguments(node)
    names = tuple(builder.tensor(value) for value in args["tensors"])
    rank = len(value_shape(node)) + 1
    if args["dim"] % rank != 1:
        raise refused(node, f"concatenation along dimension {args['dim']}")
    builder.emit(node, Op.CONCAT, names)


def identity(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """What changes nothing in evaluation."""
    args = arguments(node)
    if args.get("train"):
        raise refused(node, "dropout in training mode")
    builder.alias(node, builder.tensor(node.args[0]))


def pair(value: int | Sequence[int]) -> list[int]:
    """``[height, width]`` from one number or two."""
    values = [value] if isinstance(value, int) else [int(item) for item in value]
    return values * 2 if len(values) == 1 else values


def refused(node: torch.fx.Node, what: str) -> ModelError:
    """The error for something the IR has no counterpart for."""
    place = f"module '{module_path(node)}'" if module_path(node) else "the model's own forward"
    kinds = ", ".join(sorted({name.split(".")[1] for name in RULES}))
    return ModelError(
        f"{what} ({node.target} in {place}) has no counterpart", hint=f"supported torch operators: {kinds}"
    )


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
    "aten.mean.dim": mean,
    "aten.adaptive_avg_pool2d.default": adaptive_avg_pool,
    "aten.avg_pool2d.default": avg_pool,
    "aten.max_pool2d.default": max_pool,
    "aten.pad.default": pad,
    "aten.flatten.using_ints": reshape,
    "aten.view.default": reshape,
    "aten.reshape.default": reshape,
    "aten.squeeze.dims": reshape,
    "aten.squeeze.dim": reshape,
    "aten.cat.default": concat,
    "aten.dropout.default": identity,
    "aten.feature_dropout.default": identity,
    "aten.contiguous.default": identity,
    "aten.clone.default": identity,
    "aten.detach.default": identity,
    "aten.alias.default": identity,
    "aten.to.dtype": identity,
}
