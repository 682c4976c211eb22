"""timm's networks behind the same ModelSpec."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.layers import find_classifier
from edgecnn.models.pretrained import pretrained_preprocess
from edgecnn.models.timm_models import ACTIVATIONS, replace_activations
from edgecnn.models.zoo import ModelSpec, build
from edgecnn.spec import Interpolation

pytest.importorskip("timm")


def test_efficientnet_lite0() -> None:
    model = build(ModelSpec("timm:tf_efficientnet_lite0", 1000, 224))
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_652_008
    assert find_classifier(model) == "classifier"
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_dropout_and_activation_reach_timm() -> None:
    model = build(ModelSpec("timm:mobilenetv3_small_050", 10, 64, dropout=0.3, activation="relu6"))
    kinds = {type(module) for module in model.modules()}
    assert nn.ReLU6 in kinds and nn.Hardswish not in kinds
    assert model.drop_rate == 0.3


# Blocks that name their own activation, and activations inside norms.
@pytest.mark.parametrize(("name", "wanted"), [("mobilenetv3_small_050", "silu"), ("densenet121", "relu6")])
def test_an_activation_replaces_every_other(name: str, wanted: str) -> None:
    plain = build(ModelSpec(f"timm:{name}", 3, 64))
    model = build(ModelSpec(f"timm:{name}", 3, 64, activation=wanted))
    before, after = (
        [type(module).__name__ for module in net.modules() if type(module).__name__ in ACTIVATIONS]
        for net in (plain, model)
    )
    assert set(after) == {"ReLU6" if wanted == "relu6" else "SiLU"}
    assert len(after) == len(before)
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.train()(torch.randn(2, 3, 64, 64)).sum().backward()


def test_an_activation_that_cannot_be_replaced_is_told() -> None:
    with pytest.raises(ModelError, match="no activation 'gelu'"):
        build(ModelSpec("timm:mobilenetv3_small_050", 3, 64, activation="gelu"))
    with pytest.raises(ModelError, match="no activation module"):
        replace_activations(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid()), "relu")


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(ModelError) as caught:
        build(ModelSpec("timm:mobilenetv3_smal_100", 10, 64))
    assert "timm:mobilenetv3_small_100" in caught.value.hint


@pytest.mark.parametrize("option", [{"width": 0.5}, {"stem_stride": 1}, {"head": 64}, {"strides": [1]}])
def test_options_of_our_own_networks_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=next(iter(option))):
        build(ModelSpec.from_dict({"name": "timm:resnet18", "num_classes": 10, "image_size": 64, **option}))


def test_what_timm_says_about_pictures() -> None:
    p = pretrained_preprocess(ModelSpec("timm:mobilenetv3_small_100", 10, 160), "timm")
    assert p is not None
    assert (p.size, p.interpolation, p.crop_fraction) == (160, Interpolation.BICUBIC, 0.875)
    assert p.mean == (0.485, 0.456, 0.406)
