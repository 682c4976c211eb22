"""The fake-quantized network: what it starts from, what it shares and what it trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.qat import FakeQuantized, shared_numbers, to_numbers
from edgecnn.compress.quantize import SIGMOID, UNIT, decompose, quantize
from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import UsageError
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, Op
from edgecnn.pipeline.quantized_training import as_the_input_reads
from edgecnn.spec import Preprocess
from edgecnn.train.augment import normalize
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.loop import fit
from edgecnn.train.optimizer import make_optimizer

P = Preprocess(16, (127 / 255,) * 3, (0.25,) * 3)
PER_CHANNEL = Preprocess(16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Net(nn.Module):
    """A stem, a depthwise layer with a residual, gates of two kinds, a concatenation and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.classifier = nn.Linear(24, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        y = F.hardswish(self.point(F.relu(self.depthwise(x)))) + x
        parts = torch.cat([y, F.max_pool2d(y, 3, 1, 1), F.silu(self.point(x))], 1)
        logits: Tensor = self.classifier(parts.mean((2, 3)))
        return logits


def pictures(count: int, seed: int) -> ImageTensors:
    """Squares of four colours in noise: four classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = random.integers(60, 180, (count, 16, 16, 3))
    colours = np.array([[90, 0, 0], [0, 90, 0], [0, 0, 90], [60, 60, 60]])
    images[:, 4:12, 4:12] += colours[labels][:, None, None]
    return ImageTensors(images.clip(0, 255).astype(np.uint8), labels, tuple(f"{seed}-{at}" for at in range(count)))


def graphs(p: Preprocess = P) -> tuple[Graph, Graph]:
    """The float graph in the terms of the int8 graph, and that."""
    graph = capture(Net().eval(), 16, p)
    return decompose(graph), quantize(graph, calibrate(graph, [pictures(32, 0).images]))


def logits_of(module: FakeQuantized, p: Preprocess, images: np.ndarray) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(normalize(torch.from_numpy(images), p))
    return found


@pytest.mark.parametrize("p", [P, PER_CHANNEL])
def test_it_starts_as_the_integers_that_were_decided(p: Preprocess) -> None:
    floating, quantized = graphs(p)
    images = pictures(64, 1).images
    apart = logits_of(FakeQuantized(floating, quantized), as_the_input_reads(floating, p), images) - run(
        quantized, images
    )
    assert float(apart.abs().max()) < 3.01 * quantized.qparams[quantized.output].scale


def test_integers_that_are_no_roundings_of_the_weights_are_started_from_too() -> None:
    floating, quantized = graphs()
    moved = quantized.weights["stem.0.weight"].clip(-100, 100) + np.int8(3)
    quantized = replace(quantized, weights=quantized.weights | {"stem.0.weight": moved})
    assert np.array_equal(to_numbers(FakeQuantized(floating, quantized)).weights["stem.0.weight"], moved)


def test_what_is_shared_has_one_step_and_what_is_fixed_has_none_to_learn() -> None:
    floating, quantized = graphs()
    module, owners = FakeQuantized(floating, quantized), shared_numbers(quantized)
    assert {quantized.qparams[name] == quantized.qparams[owner] for name, owner in owners.items()} == {True}
    pool, concat = (next(node for node in quantized.nodes if node.op is op) for op in (Op.MAX_POOL, Op.CONCAT))
    assert owners[pool.name] == owners[pool.inputs[0]] == owners[concat.name]
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.3)
    learned = to_numbers(module)
    for node in quantized.nodes:
        before, after = quantized.qparams[node.name], learned.qparams[node.name]
        assert before.zero_point == after.zero_point
        assert (before == after) == (node.op is Op.INPUT or before in (UNIT, SIGMOID)), node.name


def test_numbers_stay_what_runtimes_can_take_whatever_was_learned() -> None:
    floating, quantized = graphs()
    module = FakeQuantized(floating, quantized)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.mul_(1e-12 if "weight_step" in name else 1e6 if name.endswith("bias") else 1)
    learned = to_numbers(module)
    for node in (node for node in learned.nodes if node.name in learned.weight_scales):
        assert np.abs(learned.weights[f"{node.name}.bias"].astype(np.int64)).max() <= 2**30 * 1.001
        source, target = (learned.qparams[name].scale for name in (node.inputs[0], node.name))
        assert (source * learned.weight_scales[node.name] / target >= 2.0**-25).all()


def test_steps_and_biases_do_not_decay() -> None:
    module = FakeQuantized(*graphs())
    decayed, free = make_optimizer(module, TrainConfig(epochs=1)).param_groups
    assert {id(each) for each in decayed["params"]} == {
        id(each)
        for name, each in module.named_parameters()
        if name.endswith("layer.weight") and "depthwise" not in name
    }
    assert len(free["params"]) > len(decayed["params"])


def test_graphs_that_do_not_belong_together_are_refused() -> None:
    floating, quantized = graphs()
    with pytest.raises(UsageError, match="a float graph and its int8 form"):
        FakeQuantized(quantized, floating)
    with pytest.raises(UsageError, match="not in the terms of the int8 graph"):
        FakeQuantized(capture(Net().eval(), 16, P), quantized)


def test_training_teaches_it_the_float_network_and_the_integers_have_learned_it(tmp_path: Path) -> None:
    """From numbers that are far too coarse, over a training that is interrupted by nothing but its end."""
    floating, quantized = graphs()
    coarse = {
        name: replace(q, scale=q.scale * (1 if q in (UNIT, SIGMOID) or name == "image" else 8))
        for name, q in quantized.qparams.items()
    }
    quantized = replace(quantized, qparams=coarse)
    module, images = FakeQuantized(floating, quantized), pictures(256, 2)
    config = TrainConfig(
        2, 16, lr=0.01, weight_decay=0.0, ema=None, flip=False, precision="fp32", distill_weight=1.0, threads=1
    )
    config = replace(config, temperature=1.0)
    wanted = run(floating, images.images)
    before = float((run(quantized, images.images) - wanted).square().mean())
    fit(module, images, pictures(64, 3), P, config, tmp_path, teacher=Teacher(Net().eval(), P))
    learned = to_numbers(module)
    ours, integer = logits_of(module, P, images.images), run(learned, images.images)
    assert float((integer - wanted).square().mean()) < 0.5 * before
    assert float((ours - integer).abs().max()) < 3.01 * learned.qparams[learned.output].scale
    assert float((ours.argmax(1) == integer.argmax(1)).float().mean()) >= 0.99
