"""What every network of the zoo must do: be captured exactly, in full, and keep its function in int8."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgecnn import catalog
from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.prune import prune
from edgecnn.compress.quantize import quantize
from edgecnn.graph import real
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, Node, Op
from edgecnn.models.zoo import ModelSpec, build
from edgecnn.spec import Preprocess

SIZE = 64
UNIFORM = Preprocess(SIZE, (127 / 255,) * 3, (128 / 255,) * 3)
PER_CHANNEL = Preprocess(SIZE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TIMM = (
    "tf_efficientnet_lite0",
    "mobilenetv3_small_100",
    "resnet18",
    "efficientnet_b0",
    "tf_mobilenetv3_small_minimal_100",
)
# Between Lite0 and Lite4, made of the same blocks.
BETWEEN = ("efficientnet_lite1", "efficientnet_lite2", "efficientnet_lite3")
OWN = tuple(name for name in catalog.MODELS if name not in BETWEEN)
ROWS = (*OWN, *(f"timm:{name}" for name in TIMM if importlib.util.find_spec("timm")))

# Larger sisters of a network that is tested whole: a quarter of the width says as much in less time.
NARROW = {"efficientnet_lite4": 0.25, "shufflenet_v2_x1_5": 0.25}


def spec_of(name: str) -> ModelSpec:
    return ModelSpec(name, num_classes=10, image_size=SIZE, width=NARROW.get(name, 1.0))


@dataclass(frozen=True)
class Case:
    model: nn.Module
    graph: Graph


def pictures(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Blobs: the neighbouring pixels of noise are too independent for a deep network to tell its pictures apart."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, SIZE // 8, SIZE // 8, 1), np.uint8))


def normalized(images: np.ndarray[Any, Any], p: Preprocess) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(p.mean).view(3, 1, 1)) / torch.tensor(p.std).view(3, 1, 1)


def settled(model: nn.Module, p: Preprocess) -> nn.Module:
    """With the statistics of pictures in its batch normalizations: a fresh network's logits are all but constant."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(normalized(pictures(32), p))
    return model.eval()


@pytest.fixture(scope="module", params=ROWS)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    model = settled(build(spec_of(request.param)), UNIFORM)
    return Case(model, capture(model, SIZE, UNIFORM))


def logits(model: nn.Module, images: np.ndarray[Any, Any], p: Preprocess) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(normalized(images, p))
    return result


def close(got: Tensor, wanted: Tensor) -> bool:
    return float((got - wanted).norm() / wanted.norm()) < 1e-4


def test_the_graph_computes_what_the_module_computes(case: Case) -> None:
    images = pictures(4, seed=9)
    wanted = logits(case.model, images, UNIFORM)
    assert float(wanted.std(0).max()) > 1e-4
    assert close(run(case.graph, images), wanted)


def test_nothing_is_left_to_fold(case: Case) -> None:
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in case.model.modules())
    convolutions = sum(isinstance(module, nn.Conv2d) for module in case.model.modules())
    kinds = [node.op for node in case.graph.nodes]
    assert norms > 0
    assert kinds.count(Op.CONV) == convolutions
    assert not {Op.CLAMP, Op.PAD, Op.HARD_SIGMOID, Op.AFFINE} & set(kinds)


def test_names_are_module_paths(case: Case) -> None:
    paths = dict(case.model.named_modules())
    for node in case.graph.nodes[1:]:
        if node.op in (Op.CONV, Op.LINEAR):
            assert isinstance(paths[node.name], nn.Conv2d | nn.Linear)
    assert len(case.graph.by_name) == len(case.graph.nodes)


def test_every_integer_operator_is_the_real_one_to_half_a_step(case: Case) -> None:
    """Operator by operator, on what it really reads: a random network as a whole amplifies any rounding."""
    graph = quantize(case.graph, calibrate(case.graph, [pictures(16)]))
    kept = run(graph, pictures(4, seed=9), keep=True)
    for node in graph.nodes[1:]:
        wanted = real.compute(node, [kept[name] for name in node.inputs], *real_weights(graph, node))
        numbers = graph.qparams[node.name]
        low, high = ((end - numbers.zero_point) * numbers.scale for end in (-128, 127))
        error = (kept[node.name] - wanted.clamp(low, high)).abs().max() / numbers.scale
        assert float(error) < 0.51, node.name


def real_weights(graph: Graph, node: Node) -> list[Tensor | None]:
    """The real values of a node's integer weight and bias."""
    if node.op not in (Op.CONV, Op.LINEAR):
        return [None, None]
    scale = torch.from_numpy(graph.weight_scales[node.name]).double()
    weight, bias = (torch.from_numpy(graph.weights[f"{node.name}.{part}"]).double() for part in ("weight", "bias"))
    step = graph.qparams[node.inputs[0]].scale
    return [(weight * scale.view(-1, *([1] * (weight.ndim - 1)))).float(), (bias * scale * step).float()]


def test_int8_weights_are_the_float_ones_to_half_a_step(case: Case) -> None:
    graph = quantize(case.graph, calibrate(case.graph, [pictures(4)]))
    for name, scale in graph.weight_scales.items():
        weight, _ = real_weights(graph, graph.node(name))
        assert weight is not None
        error = (weight - torch.from_numpy(case.graph.weights[f"{name}.weight"])).abs().flatten(1).amax(1)
        assert bool((error <= torch.from_numpy(scale) * 0.501).all()), name


@pytest.mark.parametrize("name", OWN)
def test_a_normalization_per_channel_is_a_convolution_of_its_own(name: str) -> None:
    torch.manual_seed(0)
    model = settled(build(spec_of(name)), PER_CHANNEL)
    graph = capture(model, SIZE, PER_CHANNEL)
    assert graph.nodes[1].name == "normalize"
    assert close(run(graph, pictures(2, seed=9)), logits(model, pictures(2, seed=9), PER_CHANNEL))


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_pruned_networks_are_captured_with_their_small_shapes(name: str) -> None:
    torch.manual_seed(0)
    model = build(ModelSpec(name, num_classes=10, image_size=SIZE))
    before = capture(model, SIZE, UNIFORM)
    prune(model, SIZE, 0.3)
    model = settled(model, UNIFORM)
    after = capture(model, SIZE, UNIFORM)
    assert [node.name for node in after.nodes] == [node.name for node in before.nodes]
    assert sum(w.size for w in after.weights.values()) < sum(w.size for w in before.weights.values())
    assert close(run(after, pictures(4)), logits(model, pictures(4), UNIFORM))
