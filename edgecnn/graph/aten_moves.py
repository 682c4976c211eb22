"""Operators of a torch.export graph that pool, move or regroup values: the other half of :mod:`edgecnn.graph.aten`.

A channel shuffle written out is a view with the channels in groups, a transposition and a view back: the first two make
no node, they are remembered until the last one does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch

from edgecnn.graph.builder import GraphBuilder, Grouped, value_shape
from edgecnn.graph.fx import Rule, arguments, pair, refused
from edgecnn.graph.ir import Op

WHOLE = [(start, end) for start in (0, None) for end in (2**63 - 1, None)]  # as torch says ``:``


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
        raise refused(
            node,
            f"adaptive pooling from {height}x{width} to {rows}x{columns}",
            hint=f"choose an image size at which the map is {rows}x{columns}, as at the paper's, or a multiple of it",
        )


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
    """``aten.max_pool2d`` without dilation; with ``ceil_mode`` the last window hangs over, as if padded."""
    args = arguments(node)
    kernel, padding = pair(args["kernel_size"]), pair(args["padding"])
    if pair(args["dilation"]) != [1, 1]:
        raise refused(node, "max pooling with dilation")
    stride = pair(args["stride"]) if args["stride"] else kernel
    name = builder.tensor(args["self"])
    sizes = zip(builder.shape(name)[1:], value_shape(node)[1:], kernel, stride, padding, strict=True)
    after = [max((made - 1) * step + side - size - before, before) for size, made, side, step, before in sizes]
    attrs = {"kernel": kernel, "stride": stride, "padding": [*padding, *after]}
    builder.emit(node, Op.MAX_POOL, (name,), attrs)


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
    """To a vector: a FLATTEN. To the same shape: nothing. From and to channels in groups: half of a SHUFFLE."""
    source, shape = cast(torch.fx.Node, node.args[0]), value_shape(node)
    if source in builder.grouped:
        return _ungroup(builder, node, builder.grouped[source])
    name = builder.tensor(source)
    whole = builder.shape(name)
    if shape == whole:
        builder.alias(node, name)
    elif len(shape) == 1:
        builder.emit(node, Op.FLATTEN, (name,))
    elif len(shape) == 4 and shape[2:] == whole[1:]:
        builder.grouped[node] = Grouped(name, shape[0])
    else:
        raise refused(node, f"a change of shape from {whole} to {shape}")


def _ungroup(builder: GraphBuilder, node: torch.fx.Node, grouped: Grouped) -> None:
    if value_shape(node) != builder.shape(grouped.tensor):
        raise refused(node, f"a change of shape to {value_shape(node)} of channels in groups")
    if grouped.swapped:
        builder.emit(node, Op.SHUFFLE, (grouped.tensor,), {"groups": grouped.groups})
    else:
        builder.alias(node, grouped.tensor)


def transpose(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.transpose.int`` and ``aten.permute``, between the groups of channels and the channels of a group."""
    args = arguments(node)
    source, rank = cast(torch.fx.Node, args["self"]), len(value_shape(node)) + 1
    order = list(range(rank))
    if "dims" in args:
        order = [dim % rank for dim in args["dims"]]
    else:
        one, other = args["dim0"] % rank, args["dim1"] % rank
        order[one], order[other] = order[other], order[one]
    grouped = builder.grouped.get(source)
    if grouped is None or order != [0, 2, 1, 3, 4]:
        raise refused(node, "a transposition other than that of a channel shuffle")
    builder.grouped[node] = replace(grouped, swapped=not grouped.swapped)


def shuffle(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.channel_shuffle``."""
    args = arguments(node)
    builder.emit(node, Op.SHUFFLE, (builder.tensor(args["self"]),), {"groups": int(args["groups"])})


def split(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.chunk``, ``aten.split`` along channels; each part becomes a SLICE where it is taken out."""
    name = builder.tensor(node.args[0])
    if arguments(node)["dim"] % (len(builder.shape(name)) + 1) != 1:
        raise refused(node, f"a split along dimension {arguments(node)['dim']}")
    start, parts = 0, []
    for value in node.meta["val"]:
        parts.append((name, start, start + int(value.shape[1])))
        start = parts[-1][2]
    builder.parts[node] = parts


def take(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``operator.getitem``: one part of a split."""
    source, index = cast(tuple[torch.fx.Node, int], node.args)
    if source not in builder.parts:
        raise refused(node, f"one of the results of {source.target}")
    name, start, stop = builder.parts[source][index]
    builder.emit(node, Op.SLICE, (name,), {"start": start, "stop": stop})


def slice_(builder: GraphBuilder, node: torch.fx.Node) -> None:
    """``aten.slice``: neighbouring channels; the whole of any dimension is nothing."""
    args = arguments(node)
    name = builder.tensor(args["self"])
    shape = builder.shape(name)
    if args["step"] != 1 or args["dim"] not in range(len(shape) + 1):
        raise refused(node, f"a slice with step {args['step']} along dimension {args['dim']}")
    if args["dim"] == 0 and (args["start"], args["end"]) not in WHOLE:
        raise refused(node, "a slice of the batch")
    if value_shape(node) == shape:
        builder.alias(node, name)
    elif args["dim"] == 1:
        start, stop, _ = slice(args["start"], args["end"]).indices(shape[0])
        builder.emit(node, Op.SLICE, (name,), {"start": start, "stop": stop})
    else:
        raise refused(node, f"a slice along dimension {args['dim']}")


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
    source = cast(torch.fx.Node, node.args[0])
    if source in builder.grouped:
        builder.grouped[node] = builder.grouped[source]
    else:
        builder.alias(node, builder.tensor(source))


MOVES: dict[str, Rule] = {
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
    "aten.transpose.int": transpose,
    "aten.permute.default": transpose,
    "aten.channel_shuffle.default": shuffle,
    "aten.chunk.default": split,
    "aten.split.Tensor": split,
    "aten.split_with_sizes.default": split,
    "<built-in function getitem>": take,
    "aten.slice.Tensor": slice_,
    "aten.cat.default": concat,
    "aten.dropout.default": identity,
    "aten.feature_dropout.default": identity,
    "aten.contiguous.default": identity,
    "aten.clone.default": identity,
    "aten.detach.default": identity,
    "aten.alias.default": identity,
    "aten.to.dtype": identity,
}
