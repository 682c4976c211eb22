from __future__ import annotations

import json

import pytest

from edgecnn.errors import UsageError
from edgecnn.train.config import TrainConfig


def test_settings_survive_json() -> None:
    config = TrainConfig(epochs=3, ema=None, crop_scale=0.4, patience=2, low_size=24, low_epochs=1)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_all_impossible_settings_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig(epochs=0, lr=-1.0, optimizer="adam", ema=1.0)
    for word in ("epochs=0", "lr=-1.0", "optimizer='adam'", "ema=1.0"):
        assert word in str(caught.value)


def test_a_misspelt_setting_is_told_the_closest_one() -> None:
    with pytest.raises(UsageError, match="did you mean batch_size"):
        TrainConfig.from_dict({"epochs": 1, "batchsize": 4})


def test_epochs_must_be_given() -> None:
    with pytest.raises(UsageError, match="epochs"):
        TrainConfig.from_dict({"lr": 0.1})
