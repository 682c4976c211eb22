"""A graph on disk: ``graph.json`` (nodes, activation numbers), ``graph.safetensors`` (weights, biases, weight scales).

4-bit weights lie two to a byte there; ``graph.json`` has their shapes. Nothing is pickled. The same graph always gives
the same bytes; floats survive the round trip exactly.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from edgecnn.errors import BundleError
from edgecnn.graph.ir import WEIGHTED, Array, Graph, Node, Op, QParams
from edgecnn.graph.weights import is_int4, pack_int4, unpack_int4

SCHEMA = 1
JSON_NAME, TENSORS_NAME = "graph.json", "graph.safetensors"
_SCALE = ".weight_scale"


def save(graph: Graph, folder: Path) -> None:
    """Write both files into ``folder``, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    scales = {f"{name}{_SCALE}": array for name, array in graph.weight_scales.items()}
    narrow = {f"{name}.weight" for name in graph.weight_scales if is_int4(graph, name)}
    tensors = {key: pack_int4(array) if key in narrow else array for key, array in graph.weights.items()} | scales
    save_file({key: tensors[key].copy(order="C") for key in sorted(tensors)}, folder / TENSORS_NAME)
    document = {
        "schema": SCHEMA,
        "output": graph.output,
        "nodes": [asdict(node) for node in graph.nodes],
        "qparams": {name: asdict(qparams) for name, qparams in graph.qparams.items()},
    }
    if narrow:
        document["int4"] = {key: graph.weights[key].shape for key in sorted(narrow)}
    (folder / JSON_NAME).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load(folder: Path) -> Graph:
    """The graph saved in ``folder``.

    Raises:
        BundleError: a file is missing, damaged, of a newer schema, or the two do not fit each other.
    """
    try:
        document = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS_NAME)
        return _assemble(document, tensors)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise BundleError(
            f"{folder} holds no readable graph: {error}", hint="write it again from its parent"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{folder / JSON_NAME} is damaged: {error!r}", hint="write it again from its parent"
        ) from error


def _assemble(document: dict[str, Any], tensors: dict[str, Array]) -> Graph:
    if document["schema"] != SCHEMA:
        raise BundleError(f"graph schema {document['schema']}, this version reads {SCHEMA}", hint="use a newer edgecnn")
    for key, shape in document.get("int4", {}).items():
        tensors[key] = unpack_int4(tensors[key], tuple(shape))
    graph = Graph(
        nodes=tuple(_node(entry) for entry in document["nodes"]),
        output=document["output"],
        weights={key: array for key, array in tensors.items() if not key.endswith(_SCALE)},
        qparams={name: QParams(**entry) for name, entry in document["qparams"].items()},
        weight_scales={key.removesuffix(_SCALE): array for key, array in tensors.items() if key.endswith(_SCALE)},
    )
    _check(graph)
    return graph


def _node(entry: dict[str, Any]) -> Node:
    inputs, shape = tuple(entry["inputs"]), tuple(entry["shape"])
    return Node(entry["name"], Op(entry["op"]), inputs, shape, entry["attrs"], entry.get("bits", 8))


def _check(graph: Graph) -> None:
    """Whether the two files belong together."""
    weighted = [node.name for node in graph.nodes if node.op in WEIGHTED]
    wanted = {f"{name}.{part}" for name in weighted for part in ("weight", "bias")}
    names = {node.name for node in graph.nodes}
    scaled = set(graph.weight_scales) == {name for name in weighted if graph.weights[f"{name}.weight"].dtype == np.int8}
    numbered = scaled and (not graph.quantized or all(_is_numbered(graph, node) for node in graph.nodes))
    if set(graph.weights) != wanted or not numbered or graph.output not in names:
        raise ValueError("weights, numbers and nodes do not belong together")


def _is_numbered(graph: Graph, node: Node) -> bool:
    """Whether a node of a quantized graph has the numbers that its bits want."""
    if node.op in WEIGHTED and (node.name in graph.weight_scales) == (node.bits == 32):
        return False
    return node.bits != 8 or graph.is_integer(node) or graph.is_open(node)
