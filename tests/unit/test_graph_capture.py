"""From torch modules to graphs: operators, names, refusals."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.errors import ModelError
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, Op
from edgecnn.spec import Preprocess

UNIFORM = Preprocess(12, (127 / 255,) * 3, (0.5,) * 3)
PER_CHANNEL = Preprocess(12, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pictures(count: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)


def normalized(images: np.ndarray[Any, Any], p: Preprocess) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    return ((x - torch.tensor(p.mean).view(3, 1, 1)) / torch.tensor(p.std).view(3, 1, 1)).float().contiguous()


def checked(model: nn.Module, p: Preprocess = UNIFORM) -> Graph:
    """The captured graph, after a comparison with the module on random pictures."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -1, 1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, -1, 1)
            nn.init.uniform_(module.bias, -1, 1)
    graph = capture(model, 12, p)
    model.eval()
    with torch.no_grad():
        wanted = model(normalized(pictures(), p))
    torch.testing.assert_close(run(graph, pictures()), wanted, rtol=1e-4, atol=1e-5)
    return graph


def kinds(graph: Graph) -> list[Op]:
    return [node.op for node in graph.nodes]


class Lambda(nn.Module):
    """Convolution, then a function, then the mean: what is under test is the function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(self.conv(x))
        return y.mean((2, 3)) if y.ndim == 4 else y


def test_conv_norm_relu_is_one_node_named_by_the_convolution() -> None:
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
    graph = checked(nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))
    assert [node.name for node in graph.nodes] == ["image", "0.0", "1", "2", "3"]
    assert graph.node("0.0").attrs["clamp"] == [0.0, 6.0]
    assert graph.node("0.0").shape == (8, 5, 5)
    assert graph.output == "3"


def test_normalization_of_the_input() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    uniform, per_channel = checked(model), checked(model, PER_CHANNEL)
    assert uniform.input.attrs["mean"] == [127 / 255] * 3
    assert [node.name for node in per_channel.nodes[:2]] == ["image", "normalize"]
    assert per_channel.input.attrs == {"mean": [0.0] * 3, "std": [1.0] * 3}


def test_normalization_first_in_the_model_becomes_a_convolution() -> None:
    graph = checked(
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    assert kinds(graph)[:3] == [Op.INPUT, Op.CONV, Op.CONV]
    assert graph.node("0").attrs["groups"] == 3


def test_normalization_after_a_linear_layer_is_folded() -> None:
    graph = checked(nn.Sequential(nn.Flatten(), nn.Linear(432, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)))
    assert kinds(graph) == [Op.INPUT, Op.FLATTEN, Op.LINEAR, Op.LINEAR]


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (F.relu, []),
        (F.relu6, []),
        (lambda x: x.clamp(min=0.1), []),
        (lambda x: x.clamp(-0.2, 0.3), []),
        (lambda x: x.clamp_max(0.2), []),
        (lambda x: F.hardtanh(x, -0.5, 0.5), []),
        (F.hardsigmoid, []),
        (F.hardswish, [Op.HARD_SWISH]),
        (F.silu, [Op.SILU]),
        (torch.sigmoid, [Op.SIGMOID]),
        (lambda x: x * torch.sigmoid(x), [Op.SILU]),
        (lambda x: x * F.relu6(x + 3) / 6, [Op.AFFINE, Op.MUL, Op.AFFINE]),
        (lambda x: x * (F.relu6(x + 3) / 6), [Op.HARD_SWISH]),
        (lambda x: (2 * x - 1) / 3, [Op.AFFINE] * 3),
        (lambda x: F.max_pool2d(x, 3, 2, 1), [Op.MAX_POOL]),
        (lambda x: F.avg_pool2d(x, 2), [Op.AVG_POOL]),
        (lambda x: F.avg_pool2d(x, 3, 1, 1), [Op.PAD, Op.AVG_POOL]),
        (lambda x: F.adaptive_avg_pool2d(x, 3), [Op.AVG_POOL]),
        (lambda x: F.adaptive_avg_pool2d(x, 12), []),
        (lambda x: F.pad(x, (1, 2, 3, 0)), [Op.PAD]),
        (lambda x: torch.cat([x, F.relu(x)], 1), [Op.CLAMP, Op.CONCAT]),
        (lambda x: F.dropout(x, 0.5, training=False), []),
        (lambda x: x.contiguous().clone(), []),
        (lambda x: x + F.relu(x), [Op.CLAMP, Op.ADD]),
        (lambda x: x * x.mean((2, 3), keepdim=True), [Op.MEAN, Op.MUL]),
        (lambda x: x.mean((2, 3), keepdim=True).sigmoid() * x, [Op.MEAN, Op.SIGMOID, Op.MUL]),
    ],
)
def test_operators(function: Any, wanted: list[Op]) -> None:
    graph = checked(Lambda(function))
    assert kinds(graph) == [Op.INPUT, Op.CONV, *wanted, Op.MEAN, Op.FLATTEN]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1),
        lambda x: x.view(x.shape[0], -1),
        lambda x: x.reshape(-1, 576),
        lambda x: F.adaptive_avg_pool2d(x, 1).squeeze((2, 3)),
    ],
)
def test_shapes_to_vectors(function: Any) -> None:
    graph = checked(Lambda(function))
    assert kinds(graph)[-1] is Op.FLATTEN


def test_same_padding_is_asymmetric_where_it_must_be() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, (2, 3), padding="same"), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
        graph = checked(model)
    assert graph.nodes[1].attrs["padding"] == [0, 1, 1, 1]


def test_padding_before_a_strided_convolution_is_merged() -> None:
    graph = checked(
        nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    assert graph.nodes[1].attrs["padding"] == [0, 0, 1, 1]


class InPlace(nn.Module):
    """What held the tensor before the in-place operator holds the new value after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        kept = F.dropout(y, training=False)
        y.relu_()
        return (kept + y).mean((2, 3))


def test_in_place_operators_change_what_was_there() -> None:
    graph = checked(InPlace())
    assert graph.node("conv").attrs["clamp"] == [0.0, None]


class Shared(nn.Module):
    """One activation module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        return (x + self.act(self.second(x))).mean((2, 3))


def test_names_are_unique_and_say_the_operator_where_a_composite_module_computes() -> None:
    graph = checked(Shared())
    assert [node.name for node in graph.nodes] == ["image", "first", "act", "second", "act_1", "add", "mean", "flatten"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.permute(0, 2, 3, 1).mean((2, 3)), r"a transposition .*aten.permute.default"),
        (lambda x: torch.cat([x, x], 2), "concatenation along dimension 2"),
        (lambda x: F.max_pool2d(x, 3, dilation=2), "max pooling"),
        (lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), "average pooling"),
        (lambda x: F.pad(x, (1, 1, 1, 1), value=2.0), "padding"),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "padding"),
        (lambda x: x / x.mean((2, 3), keepdim=True), "division by a tensor"),
        (lambda x: x.mean(2), "a mean"),
        (lambda x: x + x[:, 1], "select"),
    ],
)
def test_refusals_name_the_operator_and_what_is_supported(function: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        capture(Lambda(function), 12, UNIFORM)
    assert "conv2d" in str(caught.value)


def test_adaptive_pooling_that_does_not_divide_the_map_is_refused_with_the_sizes_that_would() -> None:
    with pytest.raises(ModelError, match="adaptive pooling from 12x12 to 5x5") as caught:
        capture(Lambda(lambda x: F.adaptive_avg_pool2d(x, 5)), 12, UNIFORM)
    assert "multiple of it" in str(caught.value)


def test_a_model_that_cannot_be_exported() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match="Branches"):
        capture(Branches(), 12, UNIFORM)


def test_a_model_with_two_outputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.mean((2, 3)), x

    with pytest.raises(ModelError, match="more than one"):
        capture(Two(), 12, UNIFORM)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    capture(model, 12, UNIFORM)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
