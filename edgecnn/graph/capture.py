"""From a torch module to the IR, through ``torch.export``.

Tensors are named by the module that computes them. Batch normalization, paddings and activations end up inside the
convolution they belong to, and that convolution's name is the name of the fused tensor.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.graph.aten import RULES
from edgecnn.graph.builder import GraphBuilder
from edgecnn.graph.fx import refused
from edgecnn.graph.ir import Graph, Op
from edgecnn.graph.simplify import simplify
from edgecnn.spec import Preprocess


def capture(model: nn.Module, image_size: int, p: Preprocess) -> Graph:
    """The float graph of ``model`` in evaluation: uint8 pictures (N, ``image_size``, ``image_size``, C) -> logits (N,
    K).

    Args:
        model: takes normalized float32 images (N, C, H, W), C = ``p.channels``, and returns logits (N, K). It is not
            changed.
        image_size: height and width of the picture, pixels.
        p: the normalization that becomes part of the graph. When ``p.uniform`` it stays in the input node (and later
            in its scale and zero point); otherwise the input reads ``pixel / 255`` and a 1x1 depthwise convolution
            "normalize" does the rest. It is not folded into the first convolution, because that is wrong at padded
            borders.

    Raises:
        ModelError: the model cannot be exported, or holds an operator without a counterpart (named, with its module).
    """
    return simplify(translate(_export(model, image_size, p.channels), image_size, p))


def translate(exported: torch.export.ExportedProgram, image_size: int, p: Preprocess) -> Graph:
    """The exported program node by node, nothing fused yet."""
    _refuse_unknown(exported)
    leaves = _leaf_modules(exported)
    builder = GraphBuilder(_constants(exported), leaves)
    picture = exported.graph_signature.user_inputs[0]
    result = ""
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name == picture:
            builder.alias(node, builder.start(image_size, p))
        elif node.op == "call_function":
            _translate_call(builder, node)
        elif node.op == "output":
            result = builder.tensor(_only_output(node))
    return builder.finish(result)


def _refuse_unknown(exported: torch.export.ExportedProgram) -> None:
    """Raise ModelError where operators have no rule: the first, with its module, and which others."""
    unknown: dict[str, torch.fx.Node] = {}
    for node in exported.graph.nodes:
        if node.op == "call_function" and _rule_name(node)[0] not in RULES:
            unknown.setdefault(str(node.target).rpartition(".")[0], node)
    if unknown:
        first, *others = unknown
        also = f" (and {', '.join(others)})" if others else ""
        raise refused(unknown[first], f"operator {first}{also}")


def _rule_name(node: torch.fx.Node) -> tuple[str, bool]:
    """The name of the node's rule, and whether the operator works in place."""
    packet, _, overload = str(node.target).rpartition(".")
    return (f"{packet.removesuffix('_')}.{overload}" if packet else overload), packet.endswith("_")


def _translate_call(builder: GraphBuilder, node: torch.fx.Node) -> None:
    name, in_place = _rule_name(node)
    before = builder.tensor(node.args[0]) if in_place else ""
    if in_place and builder.op(before) is Op.SLICE:
        raise refused(node, "an operator that changes some channels of a tensor in place", hint="use inplace=False")
    RULES[name](builder, node)
    if in_place:
        builder.overwrite(before, builder.tensor(node))


def _export(model: nn.Module, image_size: int, channels: int) -> torch.export.ExportedProgram:
    twin = copy.deepcopy(model).cpu().float().eval()
    example = torch.zeros(1, channels, image_size, image_size)
    try:
        with torch.no_grad():
            return torch.export.export(twin, (example,), strict=False)
    except (RuntimeError, TypeError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "forward must take one float image batch and branch on nothing but shapes"
        raise ModelError(f"torch.export cannot capture {type(model).__name__}: {first_line}", hint=hint) from error


def _constants(exported: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    """Placeholder name -> parameter, buffer or lifted constant."""
    signature = exported.graph_signature
    state = {**exported.state_dict, **exported.constants}
    owners = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return {name: state[owner] for name, owner in owners.items() if isinstance(state.get(owner), torch.Tensor)}


def _leaf_modules(exported: torch.export.ExportedProgram) -> set[str]:
    """Paths of modules which contain no other module that computes something."""
    paths: set[str] = set()
    parents: set[str] = set()
    for node in exported.graph.nodes:
        stack = [entry[0].split("@")[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
        paths.update(stack)
        parents.update(stack[:-1])
    return paths - parents - {""}


def _only_output(node: torch.fx.Node) -> torch.fx.Node:
    values = node.args[0]
    if not isinstance(values, tuple | list) or len(values) != 1 or not isinstance(values[0], torch.fx.Node):
        raise ModelError(
            "the model returns more than one tensor", hint="a classifier returns its logits (N, K) and nothing else"
        )
    return values[0]
