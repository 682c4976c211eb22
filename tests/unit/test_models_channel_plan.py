"""A channel plan cuts a fresh network to the shapes of another, or says why not and changes nothing."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models import channel_plan


def net(width: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 3, padding=1, groups=width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 5),
    )


def test_the_plan_of_a_narrow_net_cuts_a_wide_one() -> None:
    torch.manual_seed(0)
    narrow, wide = net(6).eval(), net(16).eval()
    channel_plan.apply(wide, json.loads(json.dumps(channel_plan.extract(narrow))))
    wide.load_state_dict(narrow.state_dict(), strict=True)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(wide(images), narrow(images))
    depthwise = wide[2]
    assert isinstance(depthwise, nn.Conv2d)
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (6, 6, 6)
    assert repr(wide) == repr(narrow)


def test_tensors_keep_their_type_and_whether_they_are_trained() -> None:
    wide = net(16).to(torch.float64)
    wide[0].weight.requires_grad_(False)
    channel_plan.apply(wide, channel_plan.extract(net(6)))
    assert wide[0].weight.dtype == wide[1].running_mean.dtype == torch.float64
    assert not wide[0].weight.requires_grad and wide[5].weight.requires_grad


def test_the_plan_of_itself_changes_nothing() -> None:
    model = net(6)
    before = copy.deepcopy(model.state_dict())
    channel_plan.apply(model, channel_plan.extract(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def edit(path: str, part: str, name: str, value: Any) -> dict[str, Any]:
    plan = channel_plan.extract(net(8))
    plan[path][part][name] = value
    return plan


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (channel_plan.extract(net(32)), "cannot be cut"),
        (channel_plan.extract(net(8, kernel=5)), "cannot be cut"),
        ({key: value for key, value in channel_plan.extract(net(8)).items() if key != "2"}, "2 is not in the plan"),
        ({**channel_plan.extract(net(8)), "9": {}}, "no 9"),
        (edit("2", "attributes", "groups", 4), "in_channels"),
        (edit("5", "attributes", "in_features", 4), "in_features"),
        (edit("1", "attributes", "num_features", 4), "num_features"),
        (edit("0", "shapes", "weight", [8, 3, 3]), "cannot be cut"),
        (edit("0", "shapes", "weight", [0, 3, 3, 3]), "cannot be cut"),
        (edit("0", "shapes", "bias", [8]), "tensors"),
        (edit("0", "attributes", "stride", 2), "attributes"),
        ({**channel_plan.extract(net(8)), "0": {"shapes": {}}}, "holds"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_changes(plan: dict[str, Any], named: str) -> None:
    model = net(16)
    before = repr(model)
    with pytest.raises(ModelError, match=named):
        channel_plan.apply(model, plan)
    assert repr(model) == before
    assert model[0].weight.shape == (16, 3, 3, 3)
