"""Receptive fields against values computed by hand, and against those of the article."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecnn.models.layers import layer_table
from edgecnn.models.zoo import ModelSpec, build


def fields(model: nn.Module, size: int = 32) -> dict[str, int | str]:
    return {row.name: row.receptive_field for row in layer_table(model, size)}


def conv(inputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, 4, kernel, stride, dilation * (kernel // 2), dilation)


class Residual(nn.Module):
    """Two 3x3 convolutions of stride 2 and 1 beside a 1x1 shortcut of stride 2, and a 5x5 behind their sum."""

    def __init__(self, gated: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = conv(3, 3, 2), conv(4), nn.Conv2d(3, 4, 1, 2)
        self.act, self.gate, self.behind = nn.ReLU(inplace=True), nn.Sigmoid() if gated else None, conv(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.second(self.first(x)) + self.shortcut(x))
        if self.gate is not None:
            x = x * self.gate(x.mean((2, 3), keepdim=True))
        return self.behind(x)


def test_a_stack_like_vgg() -> None:
    """conv 3x3 twice: 3, 5; pool 2: 6, jump 2; twice again: 10, 14; pool: 16, jump 4; the classifier sees it all."""
    pool = nn.MaxPool2d(2)
    layers = [conv(3), conv(4), pool, conv(4), nn.ReLU(), conv(4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)]
    found = list(fields(nn.Sequential(*layers)).values())
    assert found == [3, 5, 6, 10, 10, 14, 16, 16, "all"]


def test_strides_and_dilation() -> None:
    """5x5 /2: 5, jump 2; 3x3 /2: 9, jump 4; 3x3 /3: 17, jump 12; 3x3 of dilation 2 spans 5 places: 17 + 4 * 12."""
    layers = [conv(3, 5, 2), nn.BatchNorm2d(4), conv(4, 3, 2), conv(4, 3, 3), conv(4, 3, 1, 2)]
    assert list(fields(nn.Sequential(*layers)).values()) == [5, 5, 9, 17, 65]


def test_a_sum_has_the_largest_field_of_its_inputs() -> None:
    """Long way: 3, jump 2, then 7; shortcut: 1, jump 2; sum: 7; 5x5 behind it: 7 + 4 * 2."""
    found = fields(Residual())
    assert found == {"first": 3, "second": 7, "shortcut": 1, "act": 7, "behind": 15}


def test_a_gate_of_the_mean_shows_the_whole_picture() -> None:
    found = fields(Residual(gated=True))
    assert (found["act"], found["gate"], found["behind"]) == (7, "all", "all")


@pytest.mark.parametrize(
    "pool", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(8), nn.AdaptiveMaxPool2d(1), nn.AvgPool2d(9, 1, 4)]
)
def test_only_a_pooling_over_everything_is_global(pool: nn.Module) -> None:
    """The last one slides 9x9 windows over padding too: 3 + 8."""
    found = list(fields(nn.Sequential(conv(3), pool), 8).values())
    assert found == [3, 11 if isinstance(pool, nn.AvgPool2d) and pool.padding else "all"]


def test_a_dense_layer_for_each_place_mixes_no_places() -> None:
    class PerPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.dense, self.head = conv(3), nn.Linear(4, 6), nn.Linear(6 * 64, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.dense(self.conv(x).permute(0, 2, 3, 1))
            return self.head(x.flatten(1))

    assert fields(PerPlace(), 8) == {"conv": 3, "dense": 3, "head": "all"}


def test_what_does_not_depend_on_the_picture_sees_none_of_it() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.unseen = conv(3), nn.Sigmoid()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) * self.unseen(torch.ones(1, 4, 1, 1))

    assert fields(Constant(), 8) == {"unseen": 0, "conv": 3}


def test_mobilenet_v1_has_the_field_of_the_article() -> None:
    """315 px before the global pooling: the article's table of networks."""
    found = fields(build(ModelSpec("mobilenet_v1", 10, 224, width=0.25)), 224)
    assert [field for field in found.values() if field != "all"][-1] == 315
    assert found["classifier"] == "all"
