"""The paper files: options, shapes, and equality with torchvision where that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.layers import layer_table
from edgecnn.models.pretrained import load_pretrained
from edgecnn.models.zoo import ModelSpec, build


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"])
def test_the_same_numbers_as_torchvision(name: str, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = models.get_model(name, weights=None, num_classes=1000).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = build(ModelSpec(name, 1000, 96))
    report = load_pretrained(ours, str(tmp_path / "theirs.pth"), 1000)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = theirs(images)
        assert expected.std() > 1e-3
        assert torch.equal(ours(images), expected)
    assert report.matched_by == "order"


def test_module_names_say_what_a_layer_does() -> None:
    names = set(build(ModelSpec("mobilenet_v3_small", 10, 32)).state_dict())
    assert {
        "stem.conv.weight",
        "blocks.3.expand.bn.running_var",
        "blocks.3.depthwise.conv.weight",
        "blocks.3.squeeze_excite.reduce.bias",
        "blocks.3.project.bn.weight",
        "classifier.bias",
    } <= names


def test_small_images_shrink_late() -> None:
    def before_pooling(size: int, **options: object) -> tuple[int, ...]:
        spec = ModelSpec.from_dict({"name": "mobilenet_v2", "num_classes": 10, "image_size": size, **options})
        return {row.name: row.output_shape for row in layer_table(build(spec), size)}["head.conv"]

    assert before_pooling(32) == (1280, 4, 4)
    assert before_pooling(32, stem_stride=2, strides=[1, 1, 2, 2, 1, 1, 1], head=256) == (256, 4, 4)
    assert before_pooling(224) == (1280, 7, 7)


def test_a_custom_table_replaces_the_papers() -> None:
    stages = ((1, 16, 1, 1), (4, 32, 2, 2))
    model = build(ModelSpec("mobilenet_v2", 10, 32, width=0.5, stages=stages, head=64, stem_stride=1))
    rows = {row.name: row for row in layer_table(model, 32)}
    assert rows["stem.conv"].output_shape == (16, 32, 32)
    assert rows["blocks.1.expand.conv"].output_shape == (32, 32, 32)
    assert rows["blocks.2.project.conv"].output_shape == (16, 16, 16)
    assert "blocks.3.project.conv" not in rows
    assert rows["classifier"].params == 64 * 10 + 10


def test_a_custom_v3_table() -> None:
    stages = ((3, 16, 16, 0, "RE", 2), (5, 64, 24, 1, "HS", 1))
    model = build(ModelSpec("mobilenet_v3_small", 10, 32, stages=stages))
    kinds = [row.type for row in layer_table(model, 32)]
    assert kinds.count("Hardsigmoid") == 1
    assert {"ReLU", "Hardswish"} <= set(kinds)


def test_width_below_one_keeps_the_head_of_v2() -> None:
    model = build(ModelSpec("mobilenet_v2", 10, 32, width=0.5))
    assert model.get_submodule("classifier").in_features == 1280
    assert model.get_submodule("stem.conv").out_channels == 16


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "resnet8"])
def test_one_activation_everywhere(name: str) -> None:
    model = build(ModelSpec(name, 10, 32, activation="silu"))
    gates = 1 if "v3" in name else 0
    kinds = {type(module) for module in model.modules()}
    assert nn.SiLU in kinds
    assert not kinds & {nn.ReLU6, nn.Hardswish}
    assert (nn.Hardsigmoid in kinds) == bool(gates)


def test_dropout_of_zero_is_zero() -> None:
    assert build(ModelSpec("mobilenet_v2", 10, 32, dropout=0.0)).get_submodule("dropout").p == 0.0
    assert build(ModelSpec("mobilenet_v2", 10, 32)).get_submodule("dropout").p == 0.2


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("mobilenet_v2", 10, 32, stages=((6, 24, 2),)),
        ModelSpec("mobilenet_v2", 10, 32, stages=((6, "24", 2, 2),)),
        ModelSpec("mobilenet_v3_small", 10, 32, stages=((3, 16, 16, 1, "relu", 2),)),
        ModelSpec("mobilenet_v3_small", 10, 32, stages=((3, 16, 0, 1, "RE", 2),)),
        ModelSpec("resnet8", 10, 32, head=128),
        ModelSpec("mobilenet_v2", 10, 32, activation="tanh"),
    ],
)
def test_malformed_options_are_refused(spec: ModelSpec) -> None:
    with pytest.raises(ModelError) as caught:
        build(spec)
    assert caught.value.hint


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(ModelError) as caught:
        build(ModelSpec("mobilenetv2", 10, 32))
    assert "mobilenet_v2" in caught.value.hint
