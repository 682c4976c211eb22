"""What the contract does not say of the plain networks: tables, options, foreign weights, and the rows of plain_cnn."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional

from edgecnn import catalog
from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.prune import prune
from edgecnn.compress.quantize import quantize
from edgecnn.errors import ModelError
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Op
from edgecnn.models.layers import layer_table, totals
from edgecnn.models.model_spec import StageRow
from edgecnn.models.plain_cnn import DEFAULT
from edgecnn.models.pretrained import load_pretrained
from edgecnn.models.resnet_cifar import from_option_a
from edgecnn.models.zoo import ModelSpec, build
from edgecnn.recipe import parse
from edgecnn.spec import Preprocess
from edgecnn.steps import TrainStep

NAMES = (
    "mobilenet_v1",
    "resnet18",
    "resnet20",
    "resnet50",
    "squeezenet",
    "shufflenet_v2_x1_0",
    "efficientnet_lite0",
    "plain_cnn",
)
UNIFORM = Preprocess(32, (127 / 255,) * 3, (128 / 255,) * 3)
# A textbook's habits: batch norm behind the activation, a kernel of 5, average pooling, two hidden dense layers.
TEXTBOOK: tuple[StageRow, ...] = (
    ("conv", 12, 5),
    ("relu",),
    ("bn",),
    ("pool", "avg", 2),
    ("conv", 20, 3, 2),
    ("silu",),
    ("pool", "max", 2),
    ("flatten",),
    ("dense", 50),
    ("hardswish",),
    ("dropout", 0.2),
    ("dense", 20),
    ("relu",),
)


def shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    return {row.name: row.output_shape for row in layer_table(build(spec), spec.image_size)}


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {row.name: row.output_shape for row in layer_table(model, 64)}


def shaken(model: nn.Module) -> nn.Module:
    """With running statistics as training leaves them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "shufflenet_v2_x0_5", "timm:mobilenetv1_100"])
def test_foreign_weights_load_by_order_and_give_the_same_numbers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        theirs = pytest.importorskip("timm").create_model(name[5:])
        spec = ModelSpec("mobilenet_v1", 1000, 96, activation="relu6")
    else:
        theirs = pytest.importorskip("torchvision.models").get_model(name, weights=None)
        spec = ModelSpec(name, 1000, 96)
    torch.save(shaken(theirs).state_dict(), tmp_path / "theirs.pth")
    ours = build(spec)
    assert load_pretrained(ours, str(tmp_path / "theirs.pth"), 1000).matched_by == "order"
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = theirs(images)
        assert expected.std() > 1e-3
        assert torch.equal(ours(images), expected)


@pytest.mark.parametrize("name", NAMES)
def test_one_activation_everywhere(name: str) -> None:
    kinds = {type(module) for module in build(ModelSpec(name, 10, 32, activation="silu")).modules()}
    assert nn.SiLU in kinds
    assert nn.ReLU not in kinds


@pytest.mark.parametrize("name", NAMES)
def test_half_the_width_is_a_good_quarter_of_the_work(name: str) -> None:
    whole, half = (totals(build(ModelSpec(name, 10, 64, width=width)), 64)[1] for width in (1.0, 0.5))
    assert 0.2 < half / whole < 0.4


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("mobilenet_v1", 10, 32, head=64),
        ModelSpec("mobilenet_v1", 10, 32, stages=((64, 1, 1),)),
        ModelSpec("mobilenet_v1", 10, 32, stages=((64, 1.5),)),
        ModelSpec("mobilenet_v1", 10, 32, strides=(1, 2)),
        ModelSpec("resnet18", 10, 32, head=64),
        ModelSpec("resnet50", 10, 32, stages=((64, 0, 1),)),
        ModelSpec("resnet20", 10, 32, stages=((64, 1, 1),)),
        ModelSpec("squeezenet", 10, 32, head=64),
        ModelSpec("squeezenet", 10, 32, stages=((16, "64", 1),)),
        ModelSpec("shufflenet_v2_x1_0", 10, 32, stages=((31, 2, 2),)),
        ModelSpec("shufflenet_v2_x1_0", 10, 32, stages=((32, 2),)),
        ModelSpec("shufflenet_v2_x1_0", 10, 32, strides=(2, 2, 2)),
        ModelSpec("efficientnet_lite0", 10, 32, stages=((4, 6, 16, 1, 1),)),
        ModelSpec("efficientnet_lite0", 10, 32, stages=((3, 16, 1, 1),)),
        ModelSpec("plain_cnn", 10, 32, stem_stride=1),
        ModelSpec("plain_cnn", 10, 32, strides=(1,)),
        ModelSpec("plain_cnn", 10, 32, head=64),
    ],
)
def test_options_they_do_not_have_are_refused(spec: ModelSpec) -> None:
    with pytest.raises(ModelError) as caught:
        build(spec)
    assert caught.value.hint


def test_the_visual_wake_words_network_of_mlperf_tiny() -> None:
    params, macs = totals(build(ModelSpec("mobilenet_v1", 2, 96, width=0.25)), 96)
    # Keras prints 221,794: with a bias beside every batch norm, and the running statistics.
    widths = [8, 16, 32, 32, 64, 64, *[128] * 6, 256, 256]
    normalized = 8 + sum(before + after for before, after in pairwise(widths))
    assert params == 221_794 - 3 * normalized
    assert macs == pytest.approx(7.5e6, rel=0.01)


def test_tables_and_strides_of_the_papers_can_be_replaced() -> None:
    assert shapes(ModelSpec("mobilenet_v1", 10, 96, stages=((24, 2), (40, 2))))["blocks.1.pointwise.conv"] == (
        40,
        12,
        12,
    )
    assert shapes(ModelSpec("resnet50", 10, 96, stages=((16, 1, 1), (32, 2, 2))))["stages.1.1.expand.conv"] == (
        128,
        12,
        12,
    )
    fires = shapes(ModelSpec("squeezenet", 10, 96, stages=((8, 16, 2), (8, 24, 1))))
    assert fires["fires.1.expand3.conv"] == (24, 23, 23)


def test_small_images_shrink_late_and_large_ones_as_in_the_papers() -> None:
    assert shapes(ModelSpec("resnet18", 10, 32))["stages.3.1.second.conv"] == (512, 4, 4)
    assert shapes(ModelSpec("resnet18", 10, 224))["stages.3.1.second.conv"] == (512, 7, 7)
    assert shapes(ModelSpec("resnet18", 10, 32, stem_stride=1, strides=(1, 1, 1, 2, 2)))["stages.3.1.second.conv"] == (
        512,
        8,
        8,
    )
    assert shapes(ModelSpec("resnet20", 10, 32))["stages.2.2.second.conv"] == (64, 8, 8)
    assert shapes(ModelSpec("squeezenet", 10, 224))["fires.7.expand3.conv"] == (256, 13, 13)


def test_shufflenets_other_widths_are_in_proportion() -> None:
    found = shapes(ModelSpec("shufflenet_v2_x1_0", 10, 64, width=0.3))
    assert found["stages.1.0.branch.project.conv"] == (35, 8, 8)
    assert found["head.conv"] == (1024, 4, 4)


def test_shufflenet_is_pruned_inside_its_branches() -> None:
    model = build(ModelSpec("shufflenet_v2_x1_0", 10, 64))
    before, after = shapes_of(model), (prune(model, 64, 0.5), shapes_of(model))[1]
    cut = {name for name in before if after[name][0] < before[name][0]}
    convolutions = {name for name in cut if name.endswith("conv")}
    assert {name.split(".")[-2] for name in convolutions} == {"stem", "expand", "depthwise", "head"}
    assert after["stages.2.3.branch.project.conv"] == before["stages.2.3.branch.project.conv"]
    assert after["stages.2.3.branch.expand.conv"][0] == 120  # the multiple of eight nearest to 232 / 2
    assert after["stages.1.0.shortcut.depthwise.conv"][0] == 116
    assert after["stages.0.0.shortcut.depthwise.conv"][0] == after["stem.conv"][0] < 24


@pytest.mark.parametrize(("size", "padding"), [(96, [0, 0, 1, 1]), (97, [1, 1, 1, 1])])
def test_efficientnet_lite_pads_as_tensorflow_does(size: int, padding: list[int]) -> None:
    graph = capture(build(ModelSpec("efficientnet_lite0", 3, size, width=0.25)), size, UNIFORM)
    assert graph.node("stem.conv").attrs["padding"] == padding
    assert [node.op for node in graph.nodes if node.op is Op.PAD] == []
    assert graph.node("stem.conv").shape[1:] == (-(-size // 2),) * 2


def test_squeezenet_folds_to_the_numbers_of_the_original() -> None:
    graph = capture(build(ModelSpec("squeezenet", 1000, 32)), 32, UNIFORM)
    assert sum(array.size for array in graph.weights.values()) == 1_235_496


class OptionA(nn.Module):
    """He et al., section 4.2, as published: shortcuts without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.ModuleList()
        for number in range(9):
            outputs, stride = 16 * 2 ** (number // 3), 2 if number in (3, 6) else 1
            block = nn.ModuleDict()
            block["conv1"] = nn.Conv2d(outputs // stride, outputs, 3, stride, 1, bias=False)
            block["bn1"] = nn.BatchNorm2d(outputs)
            block["conv2"] = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            block["bn2"] = nn.BatchNorm2d(outputs)
            self.blocks.append(block)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for block in self.blocks:
            y = block["bn2"](block["conv2"](block["bn1"](block["conv1"](x)).relu()))
            if y.shape != x.shape:
                more = (y.shape[1] - x.shape[1]) // 2
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
            x = (x + y).relu()
        return self.linear(x.mean((2, 3)))


def test_option_a_is_one_of_the_things_a_projection_can_do(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = shaken(OptionA())
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 269_722
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "weights.th")
    ours = build(ModelSpec("resnet20", 10, 32))
    report = load_pretrained(ours, str(tmp_path / "weights.th"), 10)
    assert not report.missing and not report.unexpected
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), atol=1e-5)


def test_weights_of_another_network_are_no_option_a() -> None:
    deeper, ours = build(ModelSpec("resnet32", 10, 32)), build(ModelSpec("resnet20", 10, 32))
    with pytest.raises(ModelError, match="another network"):
        from_option_a(ours, deeper.state_dict())
    tensors = {**OptionA().state_dict(), "more.weight": torch.zeros(1)}
    with pytest.raises(ModelError, match=r"go on with more\.weight"):
        from_option_a(ours, tensors)


def test_a_textbooks_list_is_built_row_by_row() -> None:
    found = shapes(ModelSpec("plain_cnn", 7, 32, stages=TEXTBOOK))
    assert found["layers.conv1"] == (12, 32, 32)
    assert found["layers.pool4"] == (12, 16, 16)
    assert found["layers.conv5"] == (20, 8, 8)
    assert found["layers.flatten8"] == (20 * 4 * 4,)
    assert found["layers.dense12"] == (20,)
    assert found["classifier"] == (7,)


def test_a_bias_stands_where_no_batch_norm_follows() -> None:
    model = build(ModelSpec("plain_cnn", 7, 32, stages=(("conv", 8, 3), ("bn",), ("conv", 8, 3), ("flatten",))))
    assert model.get_submodule("layers.conv1").bias is None
    assert model.get_submodule("layers.conv3").bias is not None


def test_a_list_goes_through_json_and_lists() -> None:
    spec = ModelSpec("plain_cnn", 7, 32, stages=TEXTBOOK)
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert ModelSpec("plain_cnn", 10, 32, stages=DEFAULT) != ModelSpec("plain_cnn", 10, 32)
    given = totals(build(ModelSpec("plain_cnn", 10, 32, stages=DEFAULT)), 32)
    assert given == totals(build(ModelSpec("plain_cnn", 10, 32)), 32)


def test_a_list_in_yaml_reaches_the_network_as_it_is() -> None:
    rows = "[[conv, 8, 3], [bn], [relu], [pool, max, 2], [dropout, 0.1], [flatten]]"
    raw = yaml.safe_load(f"{{name: r, steps: [{{kind: train, model: plain_cnn, stages: {rows}}}]}}")
    step = parse(raw, "r.yaml").steps[0]
    assert isinstance(step, TrainStep)
    assert step.stages == (("conv", 8, 3), ("bn",), ("relu",), ("pool", "max", 2), ("dropout", 0.1), ("flatten",))
    assert build(ModelSpec(step.model, 10, 32, stages=step.stages)).get_submodule("classifier").in_features == 8 * 16**2


def test_dropout_of_the_spec_is_one_more() -> None:
    model = build(ModelSpec("plain_cnn", 7, 32, stages=TEXTBOOK, dropout=0.4))
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.2, 0.4]


def test_a_textbooks_list_keeps_its_function_down_to_the_int8_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = shaken(build(ModelSpec("plain_cnn", 7, 32, stages=TEXTBOOK)))
    before = totals(model, 32)
    prune(model, 32, 0.4)
    assert totals(model, 32)[0] < 0.7 * before[0]
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    graph = capture(model, 32, UNIFORM)
    with torch.no_grad():
        wanted = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 128 - 127 / 128)
    assert torch.allclose(run(graph, images), wanted, atol=1e-4)
    integers = quantize(graph, calibrate(graph, [images]))
    for format_ in catalog.DEFAULT_FORMATS:
        row = catalog.FORMATS[format_]
        path = tmp_path / f"model{row.extension}"
        catalog.load(row.target)(integers, path, meta={})
        found = catalog.load(row.trace)(path, images)[integers.output]
        steps = np.abs(found - run(integers, images).numpy()) / integers.qparams[integers.output].scale
        assert steps.max() < 2.5, format_


@pytest.mark.parametrize(
    ("rows", "number", "what"),
    [
        ((("convolution", 8, 3),), 1, "no such layer"),
        ((("conv", 8),), 1, "channels, kernel"),
        ((("relu",), ("conv", 8, 3, 1, 1)), 2, "channels, kernel"),
        ((("conv", "8", 3),), 1, "channels, kernel"),
        ((("conv", 8.0, 3),), 1, "channels, kernel"),
        ((("conv", 8, 0),), 1, "channels, kernel"),
        ((("conv", 8, 4),), 1, "odd kernel"),
        ((("conv", 8, 3), ("bn", 8)), 2, "stands alone"),
        ((("conv", 8, 3), ("relu", 6)), 2, "stands alone"),
        ((("conv", 8, 3), ("tanh",)), 2, "no such layer"),
        ((("pool", "min", 2),), 1, "max or avg"),
        ((("pool", 2),), 1, "max or avg"),
        ((("pool", "max", 16), ("pool", "max", 4)), 2, "cannot pool 3 maps of 2x2"),
        ((("dropout", 1.0),), 1, "probability"),
        ((("dropout",),), 1, "probability"),
        ((("dropout", "0.5"),), 1, "probability"),
        ((("flatten", 1),), 1, "stands alone"),
        ((("conv", 8, 3), ("dense", 10)), 2, "reads a vector"),
        ((("flatten",), ("dense", 10, 10)), 2, "number of units"),
        ((("flatten",), ("conv", 8, 3)), 2, "reads maps, not a vector of 3072"),
        ((("flatten",), ("dense", 10), ("bn",)), 3, "reads maps"),
        ((("flatten",), ("global_pool",)), 2, "reads maps"),
        ((("flatten",), ("pool", "max", 2)), 2, "reads maps"),
        ((("conv", 8, 3), ("relu",)), 2, "the classifier reads a vector"),
        (((),), 1, "no such layer"),
        (((2, 3),), 1, "no such layer"),
    ],
)
def test_a_malformed_row_is_named_by_its_number(rows: tuple[StageRow, ...], number: int, what: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(ModelSpec("plain_cnn", 10, 32, stages=rows))
    assert caught.value.message.startswith(f"row {number} of stages")
    assert what in caught.value.message
    assert "[" in caught.value.hint
