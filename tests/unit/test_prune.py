"""Structured pruning: how many channels go, which ones, what stays, and that it can be rebuilt."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgecnn.compress.prune import channels_to_keep, prune
from edgecnn.errors import ModelError, UsageError
from edgecnn.models import channel_plan
from edgecnn.models.layers import totals
from edgecnn.models.zoo import ModelSpec, build


def small_v2() -> nn.Module:
    torch.manual_seed(0)
    return build(ModelSpec("mobilenet_v2", 10, 32, width=0.5, head=128))


@pytest.mark.parametrize(
    ("channels", "ratio", "round_to", "groups", "kept"),
    [
        (96, 0.3, 8, 1, 64),
        (16, 0.25, 8, 1, 16),  # rounding down would halve it
        (16, 0.5, 8, 1, 8),
        (8, 0.9, 8, 1, 8),
        (10, 0.3, 1, 1, 7),
        (64, 0.5, 8, 4, 32),
        (24, 0.5, 8, 3, 24),  # three parts of eight cannot shrink in steps of eight channels each
        (12, 0.1, 8, 1, 12),
    ],
)
def test_how_many_stay(channels: int, ratio: float, round_to: int, groups: int, kept: int) -> None:
    assert channels_to_keep(channels, ratio, round_to, groups) == kept


def test_the_report_measures_what_was_done() -> None:
    model = small_v2()
    params, macs = totals(model, 32)
    report = prune(model, 32, 0.5)
    assert (report.params_before, report.macs_before) == (params, macs)
    assert (report.params_after, report.macs_after) == totals(model, 32)
    assert report.requested == 0.5
    assert 0.4 < report.achieved_channels < 0.6
    assert report.achieved_macs == pytest.approx(1 - report.macs_after / macs)
    assert report.to_dict()["achieved_params"] == report.achieved_params > 0.4


def test_widths_are_multiples_and_ends_are_kept() -> None:
    model = small_v2()
    prune(model, 32, 0.4)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.out_channels % 8 == 0 for conv in convolutions)
    assert all(conv.groups in (1, conv.out_channels) for conv in convolutions)
    assert convolutions[0].in_channels == 3
    assert model.get_submodule("classifier").out_features == 10


def test_the_weakest_channels_go() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 3, 1, 1))
        model[3].weight.fill_(1.0)
    prune(model, 4, 0.5, round_to=1)
    assert model[0].weight[:, 0, 0, 0].tolist() == [4.0, 5.0, 6.0, 7.0]


def test_channels_that_do_nothing_leave_the_logits_alone() -> None:
    """Dead channels (zero in every layer of their group) go first, and the function stays the same."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()
    dead = torch.arange(0, 16, 2)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight[dead] = 0.0
            layer.bias[dead] = 0.0
        model[5].weight[:, dead] = 0.0
    images = torch.randn(4, 3, 8, 8)
    expected = model(images)
    prune(model, 8, 0.5)
    assert model[0].out_channels == 8
    torch.testing.assert_close(model(images), expected)


def test_layers_named_in_keep_are_kept() -> None:
    model = small_v2()
    before = model.get_submodule("blocks.3.expand.conv").out_channels
    prune(model, 32, 0.5, keep=("blocks.3.expand.conv",))
    assert model.get_submodule("blocks.3.expand.conv").out_channels == before
    assert model.get_submodule("blocks.4.expand.conv").out_channels < before * 2


def test_nothing_asked_nothing_done() -> None:
    model = small_v2()
    before = copy.deepcopy(model.state_dict())
    report = prune(model, 32, 0.0)
    assert report.achieved_channels == report.achieved_macs == 0.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_frozen_layers_are_pruned_and_stay_frozen() -> None:
    model = small_v2().requires_grad_(False)
    assert prune(model, 32, 0.5).achieved_channels > 0.4
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_two_prunings_in_one_process_do_not_meet() -> None:
    """The library's default arguments are shared dictionaries; the second network must not see the first."""
    first, second = small_v2(), small_v2()
    prune(first, 32, 0.3)
    prune(build(ModelSpec("mobilenet_v3_small", 10, 32)), 32, 0.5)
    prune(second, 32, 0.3)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_grouped_convolutions_stay_divisible() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2)
    ).eval()
    prune(model, 16, 0.5)
    assert (model[1].out_channels, model[1].in_channels, model[1].groups) == (16, 16, 4)


def test_pruning_twice_is_possible() -> None:
    model = small_v2()
    first, second = prune(model, 32, 0.3), prune(model, 32, 0.3)
    assert second.macs_before == first.macs_after > second.macs_after


class Reshaping(nn.Module):
    """Depends on its number of channels in a way that no graph shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 1)
        self.classifier = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).mean((2, 3)).reshape(-1, 16)
        return self.classifier(y)


def test_a_network_that_cannot_be_pruned_is_left_untouched() -> None:
    model = Reshaping()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match="cannot be pruned"):
        prune(model, 8, 0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 2)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_an_impossible_ratio(ratio: float) -> None:
    with pytest.raises(UsageError, match="ratio"):
        prune(small_v2(), 32, ratio)


def test_keeping_what_is_not_there() -> None:
    with pytest.raises(UsageError, match="nothing_like_it"):
        prune(small_v2(), 32, 0.5, keep=("nothing_like_it",))


def test_an_importance_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="vibes"):
        prune(small_v2(), 32, 0.5, importance="vibes")  # type: ignore[arg-type]


def test_a_shuffle_that_cannot_be_followed_is_refused_in_words() -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            mixed = x.view(len(x), 2, x.shape[1] // 2, 4, 4).transpose(1, 2).reshape(x.shape)
            return self.last(mixed).mean((2, 3))

    theirs = pytest.importorskip("torchvision.models").shufflenet_v2_x0_5(weights=None).eval()
    for model, size in ((Shuffled().eval(), 4), (theirs, 32)):
        before = channel_plan.extract(model)
        with pytest.raises(ModelError, match="into groups by a reshape") as caught:
            prune(model, size, 0.5)
        assert "shufflenet_v2" in caught.value.hint
        assert channel_plan.extract(model) == before
