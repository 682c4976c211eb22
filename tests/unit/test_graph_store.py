"""Graphs on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.quantize import quantize
from edgecnn.errors import BundleError
from edgecnn.graph import store
from edgecnn.graph.capture import capture
from edgecnn.graph.ir import Graph
from edgecnn.spec import Preprocess


@pytest.fixture(scope="module")
def quantized() -> Graph:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    graph = capture(model, 8, Preprocess(8, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return quantize(graph, calibrate(graph, [np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)]))


def test_round_trip_is_exact(quantized: Graph, tmp_path: Path) -> None:
    store.save(quantized, tmp_path)
    loaded = store.load(tmp_path)
    assert loaded.nodes == quantized.nodes
    assert loaded.output == quantized.output
    assert loaded.qparams == quantized.qparams
    for before, after in ((quantized.weights, loaded.weights), (quantized.weight_scales, loaded.weight_scales)):
        assert set(before) == set(after)
        assert all(before[key].dtype == after[key].dtype for key in before)
        assert all(np.array_equal(before[key], after[key]) for key in before)


def test_the_same_graph_gives_the_same_bytes(quantized: Graph, tmp_path: Path) -> None:
    store.save(quantized, tmp_path / "one")
    store.save(store.load(tmp_path / "one"), tmp_path / "two")
    for name in (store.JSON_NAME, store.TENSORS_NAME):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no readable graph"):
        store.load(tmp_path / "nothing")


@pytest.mark.parametrize("damage", ["truncated json", "truncated tensors", "schema", "op", "weights", "qparams"])
def test_damage_is_noticed(quantized: Graph, tmp_path: Path, damage: str) -> None:
    store.save(quantized, tmp_path)
    path = tmp_path / store.JSON_NAME
    document = json.loads(path.read_text())
    if damage == "truncated json":
        path.write_text(path.read_text()[:100])
    elif damage == "truncated tensors":
        tensors = tmp_path / store.TENSORS_NAME
        tensors.write_bytes(tensors.read_bytes()[:50])
    else:
        if damage == "schema":
            document["schema"] = 99
        elif damage == "op":
            document["nodes"][1]["op"] = "warp"
        elif damage == "weights":
            document["nodes"][1]["name"] = "other"
        else:
            document["qparams"].pop("image")
        path.write_text(json.dumps(document))
    with pytest.raises(BundleError):
        store.load(tmp_path)
