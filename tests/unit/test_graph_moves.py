"""What moves values without changing them: channels taken, joined and shuffled, and pooling over the border."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_graph_capture import UNIFORM, Lambda, checked, kinds
from torch import Tensor, nn

from edgecnn.errors import ModelError
from edgecnn.graph.capture import capture
from edgecnn.graph.ir import Op


def _shuffled_by_hand(x: Tensor, groups: int = 2) -> Tensor:
    count, channels, height, width = x.shape
    x = x.view(count, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(count, channels, height, width)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), [Op.SLICE, Op.SLICE, Op.CONCAT]),
        (lambda x: torch.split(x, 3, dim=1)[1], [Op.SLICE]),
        (lambda x: torch.split(x, [1, 2, 1], dim=1)[1], [Op.SLICE]),
        (lambda x: x[:, 1:3], [Op.SLICE]),
        (lambda x: x[:, -2:], [Op.SLICE]),
        (lambda x: x[:, :], []),
        (_shuffled_by_hand, [Op.SHUFFLE]),
        (lambda x: x.reshape(-1, 2, 2, 12, 12).permute(0, 2, 1, 3, 4).flatten(1, 2), [Op.SHUFFLE]),
        (lambda x: x.view(-1, 2, 2, 12, 12).transpose(1, 2).transpose(2, 1).reshape(-1, 4, 12, 12), []),
        (nn.ChannelShuffle(2), [Op.SHUFFLE]),
    ],
)
def test_channels_are_split_taken_and_shuffled(function: Any, wanted: list[Op]) -> None:
    graph = checked(Lambda(function))
    assert kinds(graph)[2:-2] == wanted


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda x: x.chunk(2, 2)[0], "dimension 2"),
        (lambda x: x[:, ::2], "step 2"),
        (lambda x: x[:, :, 1:], "dimension 2"),
        (lambda x: x.transpose(2, 3), "transposition"),
        (lambda x: x.view(-1, 2, 2, 12, 12).transpose(1, 2).relu().reshape(-1, 4, 12, 12), "groups or parts"),
        (lambda x: x.view(-1, 2, 2, 144).mean(3), "change of shape"),
        (lambda x: torch.cat([x, x[:, :2].relu_()], 1), "in place"),
        (lambda x: x.cumsum(1).cos(), r"aten.cumsum \(and aten.cos\)"),
    ],
)
def test_what_is_no_shuffle_is_refused_by_name(function: Any, what: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        capture(Lambda(function), 12, UNIFORM)
    assert caught.value.hint


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 0), (3, 2, 1), (2, 3, 1), (3, 3, 0)])
def test_a_max_pooling_that_hangs_over(kernel: int, stride: int, padding: int) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)  # 10 px
            self.pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.conv(x)).flatten(1)

    assert Op.MAX_POOL in kinds(checked(Pooled()))
