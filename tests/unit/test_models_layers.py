"""The layer table counts the papers' way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.layers import LayerRow, find_classifier, layer_table, totals


class Tiny(nn.Module):
    """A convolution, a depthwise one called twice, a classifier in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.skipped = nn.Sequential(nn.Identity(), nn.Dropout())
        self.logits = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.depthwise(self.conv(x)))
        return self.logits(self.skipped(x.mean((2, 3))))


def test_rows_by_hand() -> None:
    assert layer_table(Tiny(), 8) == [
        LayerRow("conv", "Conv2d", (4, 4, 4), 3 * 4 * 9 + 4, 4 * 4 * 4 * 3 * 9, 3),
        LayerRow("depthwise", "Conv2d", (4, 4, 4), 4 * 9, 4 * 4 * 4 * 9, 7),
        LayerRow("depthwise", "Conv2d", (4, 4, 4), 0, 4 * 4 * 4 * 9, 11),
        LayerRow("logits", "Linear", (5,), 25, 20, "all"),
    ]


def test_totals_are_the_sums_of_the_rows() -> None:
    rows = layer_table(Tiny(), 8)
    assert totals(Tiny(), 8) == (sum(row.params for row in rows), sum(row.macs for row in rows))


def test_the_model_is_left_as_it_was() -> None:
    model = Tiny().train()
    model.conv.eval()
    layer_table(model, 8)
    assert model.training and model.logits.training and not model.conv.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_image_too_small_is_explained() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 7), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ModelError, match="4 px"):
        layer_table(model, 4)


def test_the_classifier_is_found_without_a_name() -> None:
    assert find_classifier(Tiny()) == "logits"
    assert find_classifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1))) == "1"
    with pytest.raises(ModelError, match="no classifier"):
        find_classifier(nn.Sequential(nn.ReLU()))
