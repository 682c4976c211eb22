"""MCUNet from the JSON files of its authors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgecnn.errors import ModelError, UsageError
from edgecnn.models.layers import totals
from edgecnn.models.mcunet import read_json
from edgecnn.models.zoo import build, named


def block(inputs: int, outputs: int, kernel: int, stride: int, expand: int, **more: Any) -> dict[str, Any]:
    inside = None if expand == 1 else inputs * expand
    described = {
        "name": "MBInvertedConvLayer", "in_channels": inputs, "out_channels": outputs, "kernel_size": kernel,
        "stride": stride, "expand_ratio": expand, "mid_channels": inside, "act_func": "relu6", "use_se": False,
    }  # fmt: skip
    return {"name": "MobileInvertedResidualBlock", "mobile_inverted_conv": described | more, "shortcut": None}


def write(path: Path, *blocks: dict[str, Any], **more: Any) -> Path:
    described = {
        "name": "ProxylessNASNets", "first_conv": {"name": "ConvLayer", "out_channels": 16}, "blocks": list(blocks),
        "feature_mix_layer": None, "classifier": {"in_features": 24, "out_features": 1000}, "resolution": 48,
    }  # fmt: skip
    path.write_text(json.dumps(described | more))
    return path


def test_a_file_is_its_table(tmp_path: Path) -> None:
    file = write(tmp_path / "net.json", block(16, 8, 3, 1, 1), block(8, 24, 7, 2, 3), block(24, 24, 5, 1, 4))
    assert read_json(file) == (((3, 0, 8, 1), (7, 24, 24, 2), (5, 96, 24, 1)), 48)
    spec = named(str(file), 10, None)
    assert spec.name == "mcunet" and spec.image_size == 48
    # Convolutions and, for each, two numbers per channel of batch norm; the classifier.
    convolutions = 3 * 16 * 9 + (16 * 9 + 16 * 8) + (8 * 24 + 24 * 49 + 24 * 24) + (24 * 96 + 96 * 25 + 96 * 24)
    norms = 2 * (16 + 16 + 8 + 24 + 24 + 24 + 96 + 96 + 24)
    assert totals(build(spec), 48)[0] == convolutions + norms + 24 * 10 + 10


@pytest.mark.parametrize(
    ("blocks", "more", "told"),
    [
        ([block(16, 8, 3, 1, 1, use_se=True)], {}, "squeeze-excite"),
        ([block(16, 8, 3, 1, 1)], {"first_conv": {"out_channels": 32}}, "a stem of 32 channels"),
        ([block(16, 8, 3, 1, 1)], {"feature_mix_layer": {}}, "before the pooling"),
        ([{"name": "ZeroLayer"}], {}, "KeyError: 'mobile_inverted_conv'"),
    ],
)
def test_what_is_not_built_is_told(
    tmp_path: Path, blocks: list[dict[str, Any]], more: dict[str, Any], told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        read_json(write(tmp_path / "net.json", *blocks, **more))


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_json(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("nothing")
    with pytest.raises(ModelError, match="JSONDecodeError"):
        read_json(tmp_path / "text.json")


@pytest.mark.parametrize("row", [(3, 0, 8), (3, 0, 0, 1), ("3", 0, 8, 1)])
def test_a_row_that_is_none(row: tuple[Any, ...]) -> None:
    with pytest.raises(ModelError, match="is not an MCUNet block"):
        build(named("mcunet", 10, None, stages=(row,)))
