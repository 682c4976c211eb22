"""ModelSpec: JSON both ways, refusals, strides of small images."""

from __future__ import annotations

import json

import pytest

from edgecnn.errors import ModelError
from edgecnn.models.model_spec import ModelSpec, plan_strides, round_channels

V2_STRIDES = [1, 2, 2, 2, 1, 2, 1]


def test_a_full_spec_survives_json() -> None:
    spec = ModelSpec(
        "mobilenet_v2",
        10,
        32,
        width=0.5,
        stem_stride=1,
        strides=(1, 2),
        stages=((1, 16, 1, 1), (6, 24, 2, 2)),
        head=320,
        dropout=0.1,
        activation="relu",
    )
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_options_left_alone_are_not_written() -> None:
    assert ModelSpec("resnet8", 10, 32).to_dict() == {
        "name": "resnet8",
        "num_classes": 10,
        "image_size": 32,
        "width": 1.0,
    }


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"name": "resnet8", "num_classes": 10}, "image_size"),
        ({"name": "resnet8", "num_classes": 10, "image_size": 32, "depth": 3}, "depth"),
    ],
)
def test_a_description_that_is_none_is_refused_by_key(values: dict[str, object], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        ModelSpec.from_dict(values)


@pytest.mark.parametrize(
    ("option", "value"),
    [("num_classes", 0), ("width", 0.0), ("stem_stride", 0), ("head", -8), ("strides", (1, 0)), ("dropout", 1.0)],
)
def test_numbers_no_network_can_have_are_refused(option: str, value: object) -> None:
    with pytest.raises(ModelError, match=option):
        ModelSpec.from_dict({"name": "mobilenet_v2", "num_classes": 10, "image_size": 32, option: value})


@pytest.mark.parametrize(("size", "total"), [(224, 32), (96, 32), (64, 16), (48, 8), (32, 8), (16, 4), (8, 2)])
def test_small_images_keep_a_final_map_of_four_pixels(size: int, total: int) -> None:
    stem, stages = plan_strides(ModelSpec("mobilenet_v2", 10, size), 2, V2_STRIDES)
    product = stem
    for stride in stages:
        product *= stride
    assert product == total


def test_early_strides_go_first() -> None:
    assert plan_strides(ModelSpec("mobilenet_v2", 10, 32), 2, V2_STRIDES) == (1, [1, 1, 2, 2, 1, 2, 1])


def test_explicit_strides_are_never_touched() -> None:
    spec = ModelSpec("mobilenet_v2", 10, 32, stem_stride=2, strides=(1, 2, 2, 2, 1, 1, 1))
    assert plan_strides(spec, 2, V2_STRIDES) == (2, [1, 2, 2, 2, 1, 1, 1])


def test_what_is_not_given_is_still_reduced() -> None:
    assert plan_strides(ModelSpec("mobilenet_v2", 10, 32, stem_stride=2), 2, V2_STRIDES) == (2, [1, 1, 1, 2, 1, 2, 1])
    strides = (1, 2, 2, 2, 1, 1, 1)
    assert plan_strides(ModelSpec("mobilenet_v2", 10, 32, strides=strides), 2, V2_STRIDES) == (1, list(strides))


def test_as_many_strides_as_stages() -> None:
    with pytest.raises(ModelError, match="7 stages, but 2 strides"):
        plan_strides(ModelSpec("mobilenet_v2", 10, 32, strides=(1, 2)), 2, V2_STRIDES)


@pytest.mark.parametrize(
    ("channels", "rounded"), [(32, 32), (24 * 0.35, 8), (16 * 0.7, 16), (18, 24), (67.2, 64), (1, 8)]
)
def test_channels_round_as_in_the_papers_code(channels: float, rounded: int) -> None:
    assert round_channels(channels) == rounded
