"""Faults planted in an int8 network are found, in their layer and by their name."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.cli import make
from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.diagnose import Diagnosis, diagnose
from edgecnn.compress.quantize import decompose, quantize
from edgecnn.compress.reasons import REPAIRS, Cause
from edgecnn.errors import UsageError
from edgecnn.graph.capture import capture
from edgecnn.graph.ir import Graph, Op
from edgecnn.spec import Preprocess

SIZE = 16
UNIFORM = Preprocess(SIZE, (127 / 255,) * 3, (64 / 255,) * 3)
IMAGENET = Preprocess(SIZE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Pictures = NDArray[np.uint8]


class Net(nn.Module):
    """A little of everything: a depthwise layer, a residual, a gate, a hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.project = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.squeeze, self.expand = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.last = nn.Sequential(nn.Conv2d(16, 24, 1, bias=False), nn.BatchNorm2d(24), nn.Hardswish())
        self.head = nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project(self.depthwise(x))
        x = x * F.hardsigmoid(self.expand(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        logits: Tensor = self.head(self.last(x).mean((2, 3)))
        return logits


def pictures(count: int, seed: int) -> Pictures:
    """Smooth pictures (N, 16, 16, 3), some bright and some dark, with more red than blue."""
    random = np.random.default_rng(seed)
    coarse = np.kron(random.random((count, 4, 4, 3)), np.ones((1, 4, 4, 1)))
    light = random.uniform(0.2, 1.0, (count, 1, 1, 1)) * np.array([1.0, 0.8, 0.5])
    pixels: Pictures = np.clip(255 * coarse * light + random.normal(0, 8, (count, SIZE, SIZE, 3)), 0, 255).astype(
        np.uint8
    )
    return pixels


CALIBRATION, OTHERS = pictures(64, 1), pictures(32, 2)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return settled(UNIFORM)


@cache
def settled(p: Preprocess) -> Graph:
    """The net after a few passes that settle its normalization, so that its logits depend on the picture."""
    torch.manual_seed(3)
    net = Net().train()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (p.mean, p.std))
    with torch.no_grad():
        for seed in range(8):
            net((torch.from_numpy(pictures(64, 10 + seed)).permute(0, 3, 1, 2) / 255 - mean) / std)
    return capture(net.eval(), SIZE, p)


def int8(graph: Graph, images: Pictures = CALIBRATION) -> Graph:
    return quantize(graph, calibrate(graph, [images]))


def diagnosed(graph: Graph, integer: Graph, calibration: Pictures | None = CALIBRATION) -> Diagnosis:
    return diagnose(decompose(graph), integer, OTHERS, calibration=calibration)


def causes(found: Diagnosis, name: str) -> list[Cause]:
    layer = next(layer for layer in found.layers if layer.facts.name == name)
    return [reason.cause for reason in layer.reasons]


def changed(graph: Graph, **weights: Any) -> Graph:
    return replace(
        graph, weights={**graph.weights, **{key.replace("__", "."): value for key, value in weights.items()}}
    )


def conv_names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op is Op.CONV]


def test_a_sound_network_has_no_findings(graph: Graph) -> None:
    found = diagnosed(graph, int8(graph))
    assert found.findings == () and found.whole.db > 20 and found.whole.agreement > 0.9
    faults = {Cause.BIAS_SHIFT, Cause.UNFUSED_BN, Cause.BLOWN_CHANNEL, Cause.UNUSED, Cause.PREPROCESSING}
    assert not faults & {reason.cause for layer in found.layers for reason in layer.reasons}


def test_figures_of_a_layer_fit_together(graph: Graph) -> None:
    found = diagnosed(graph, int8(graph))
    for layer in found.layers:
        facts = layer.facts
        assert layer.only is not None and layer.without is not None
        assert facts.own_db <= min(facts.activation_db, facts.weights_db or np.inf) + 0.5
        assert facts.observed[0] <= facts.bulk[0] <= facts.bulk[1] <= facts.observed[1]
        assert (facts.weights_db is None) == (facts.node.op not in (Op.CONV, Op.LINEAR))
        assert len(facts.peaks) == facts.node.shape[0]
    costs = [layer.only.db for layer in found.layers if layer.only]
    assert costs == sorted(costs)
    last = next(layer for layer in found.layers if layer.facts.name == graph.output)
    assert last.facts.accumulated_db == pytest.approx(found.whole.db, abs=1.0)


def test_a_blown_up_channel_is_found_in_its_layer_and_in_its_reader(graph: Graph) -> None:
    writer, reader = "depthwise.0", "project.0"
    assert {writer, reader} <= set(conv_names(graph))
    weights = {key: graph.weights[key].copy() for key in (f"{writer}.weight", f"{writer}.bias", f"{reader}.weight")}
    weights[f"{writer}.weight"][5] *= 100
    weights[f"{writer}.bias"][5] *= 100
    weights[f"{reader}.weight"][:, 5] /= 100
    planted = replace(graph, weights={**graph.weights, **weights})
    found = diagnosed(planted, int8(planted))
    assert causes(found, writer)[0] is causes(found, reader)[0] is Cause.BLOWN_CHANNEL
    worst = found.layers[0]
    assert worst.facts.name == writer and "channel 5 reaches" in worst.reasons[0].evidence
    assert worst.without is not None and worst.without.db > found.whole.db + 6
    assert found.findings == ()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("p", "words"), [(Preprocess(SIZE, (0.0,) * 3, (1 / 255,) * 3), "pixels in [0, 255]"), (IMAGENET, "ImageNet")]
)
def test_a_wrong_mean_and_std_at_calibration_is_named(p: Preprocess, words: str, known: bool) -> None:
    graph = settled(Preprocess(SIZE, (127 / 255,) * 3, (128 / 255,) * 3))
    ranges = calibrate(graph_reading(graph, p), [CALIBRATION])
    found = diagnosed(graph, quantize(graph, ranges), CALIBRATION if known else None)
    assert [reason.cause for reason in found.findings] == [Cause.PREPROCESSING]
    assert words in found.findings[0].evidence
    assert Cause.PREPROCESSING in causes(found, "stem.0")


def graph_reading(graph: Graph, p: Preprocess) -> Graph:
    first = replace(graph.input, attrs={"mean": list(p.mean), "std": list(p.std)})
    return graph.with_nodes((first, *graph.nodes[1:]))


def test_another_mean_in_the_int8_network_itself_is_found(graph: Graph) -> None:
    other = graph_reading(graph, Preprocess(SIZE, (0.0,) * 3, (1.0,) * 3))
    found = diagnosed(graph, int8(other))
    assert [reason.cause for reason in found.findings] == [Cause.PREPROCESSING]
    assert "mean or std differ" in found.findings[0].evidence
    per_channel, wrong = settled(IMAGENET), settled(replace(IMAGENET, mean=(0.5, 0.5, 0.4), std=(0.5, 0.5, 0.4)))
    wrong = replace(
        wrong, weights={**per_channel.weights, **{k: wrong.weights[k] for k in wrong.weights if "norm" in k}}
    )
    found = diagnosed(per_channel, int8(wrong))
    assert "mean or std differ" in found.findings[0].evidence


def test_a_normalization_that_nobody_knows_is_found_too(graph: Graph) -> None:
    odd = graph_reading(graph, Preprocess(SIZE, (0.3, 0.9, 0.1), (0.07, 0.3, 0.11)))
    found = diagnosed(graph, quantize(graph, calibrate(odd, [CALIBRATION])))
    assert [reason.cause for reason in found.findings] == [Cause.PREPROCESSING]
    assert "most first ranges" in found.findings[0].evidence


@pytest.mark.parametrize("p", [UNIFORM, IMAGENET])
def test_swapped_red_and_blue_at_calibration_are_named(p: Preprocess) -> None:
    graph = settled(p)
    found = diagnosed(graph, int8(graph, np.ascontiguousarray(CALIBRATION[..., ::-1])))
    assert [reason.cause for reason in found.findings] == [Cause.PREPROCESSING]
    assert "red and blue exchanged" in found.findings[0].evidence


@pytest.mark.parametrize("one", [True, False])
def test_a_bias_shift_is_found_in_its_layer(graph: Graph, one: bool) -> None:
    integer = int8(graph)
    bias = integer.weights["project.0.bias"].copy()
    two = 2.0 / (integer.qparams["depthwise.0"].scale * integer.weight_scales["project.0"])  # real 2, in steps of each
    bias[: 1 if one else None] += two.astype(np.int32)[: 1 if one else None]
    planted = changed(integer, project__0__bias=bias)
    found = diagnosed(graph, planted)
    assert causes(found, "project.0")[0] is Cause.BIAS_SHIFT
    others = {layer.facts.name for layer in found.layers if layer.reasons[0].cause is Cause.BIAS_SHIFT}
    assert others == {"project.0"}


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_calibration_images_are_told(graph: Graph, count: int) -> None:
    few = CALIBRATION[:count]
    found = diagnosed(graph, int8(graph, few), few)
    assert [reason.cause for reason in found.findings] == [Cause.FEW_IMAGES]
    assert found.findings[0].evidence.startswith(f"{count} calibration picture")
    assert any(layer.reasons[0].cause is Cause.FEW_IMAGES for layer in found.layers[:5])


class Unfused(nn.Module):
    """A normalization that cannot be folded: the relu stands between it and the convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.norm.running_var[:] = torch.logspace(-2, 2, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.norm(F.relu(self.conv(x)))).mean((2, 3)))
        return logits


def test_a_normalization_that_was_not_folded_is_named() -> None:
    graph = capture(Unfused().eval(), SIZE, UNIFORM)
    found = diagnosed(graph, int8(graph))
    assert causes(found, "norm")[0] is causes(found, "conv")[0] is Cause.UNFUSED_BN
    first = next(layer for layer in found.layers if layer.facts.name == "norm").reasons[0]
    assert "'norm' behind 'conv' only scales channels" in first.evidence


def test_the_normalization_of_the_picture_is_no_batch_norm() -> None:
    graph = settled(IMAGENET)
    found = diagnosed(graph, int8(graph))
    assert not any(Cause.UNFUSED_BN in causes(found, layer.facts.name) for layer in found.layers)


def widened(graph: Graph, name: str, factor: float) -> Graph:
    """The int8 graph with another range of one tensor."""
    ranges = calibrate(graph, [CALIBRATION])
    low, high = ranges[name]
    return quantize(graph, {**ranges, name: (factor * low, factor * high)})


def test_a_range_that_is_too_wide_or_too_narrow_is_told(graph: Graph) -> None:
    assert causes(diagnosed(graph, widened(graph, "project.0", 4.0)), "project.0")[0] is Cause.UNUSED
    assert causes(diagnosed(graph, widened(graph, "project.0", 0.5)), "project.0")[0] is Cause.SATURATED
    add = next(node.name for node in graph.nodes if node.op is Op.ADD)
    assert causes(diagnosed(graph, widened(graph, "project.0", 8.0)), add)[0] is Cause.RESIDUAL


def test_structure_explains_what_figures_do_not(graph: Graph) -> None:
    found = diagnosed(graph, int8(graph))
    assert Cause.FIRST in causes(found, "stem.0") and Cause.LAST in causes(found, "head")
    assert all(Cause.SE_GATE in causes(found, name) for name in ("squeeze", "expand"))


def spread(graph: Graph, name: str, high: float) -> Graph:
    """Another weight per channel of a layer, from 1 to ``high`` times its own."""
    weight = graph.weights[f"{name}.weight"]
    factors = np.geomspace(1, high, len(weight), dtype=np.float32)
    weights = {
        f"{name}.weight": weight * factors.reshape(-1, 1, 1, 1),
        f"{name}.bias": graph.weights[f"{name}.bias"] * factors,
    }
    return replace(graph, weights={**graph.weights, **weights})


def test_a_spread_of_channels_and_a_tail_are_told(graph: Graph) -> None:
    planted = spread(graph, "depthwise.0", 64.0)
    assert causes(diagnosed(planted, int8(planted)), "depthwise.0")[0] is Cause.DEPTHWISE
    planted = spread(graph, "last.0", 300.0)
    found = diagnosed(planted, int8(planted))
    assert Cause.HARD_SWISH in causes(found, "last.2")


def test_graphs_that_do_not_belong_together_are_refused(graph: Graph) -> None:
    other = changed(graph, last__0__weight=-graph.weights["last.0.weight"])
    with pytest.raises(UsageError, match=r"int8 weights of 'last\.0' are not those"):
        diagnosed(graph, int8(other))
    with pytest.raises(UsageError, match="no pictures"):
        diagnose(decompose(graph), int8(graph), OTHERS[:0])


def test_every_cause_has_a_repair_of_options_that_exist() -> None:
    assert REPAIRS.keys() == set(Cause)
    known = {f"--{name.replace('_', '-')}" for verb in (make.train, make.compress) for name in verb.__annotations__}
    named = {flag for words in REPAIRS.values() for flag in re.findall(r"--[a-z-]+", words)}
    assert named - known <= {"--qat"}
