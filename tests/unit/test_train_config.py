from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from edgecnn.errors import UsageError
from edgecnn.spec import Task
from edgecnn.steps import QuantizeStep, Training, TrainStep
from edgecnn.train.config import LATER, TrainConfig, without_later


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


def test_settings_that_came_later_and_are_off_do_not_make_another_training() -> None:
    old = {name: value for name, value in TrainConfig(epochs=2).to_dict().items() if name not in LATER}
    assert without_later(TrainConfig(epochs=2).to_dict()) == old
    assert without_later({"recovery": TrainConfig(epochs=2, repeat=2).to_dict()}) == {"recovery": {**old, "repeat": 2}}
    defaults = QuantizeStep().model_dump() | TrainStep().model_dump()
    assert all(defaults[name] == value for name, value in LATER.items())


def test_the_task_is_a_word_that_is_known() -> None:
    read = TrainConfig.from_dict(json.loads(json.dumps(TrainConfig(epochs=1, task=Task.BINARY).to_dict())))
    assert read.asked is Task.BINARY and TrainConfig(epochs=1).asked is Task.MULTI_CLASS
    with pytest.raises(UsageError, match="task='both'"):
        TrainConfig(epochs=1, task="both")  # type: ignore[arg-type]


def test_a_batch_is_a_multiple_of_repeat() -> None:
    assert TrainConfig(epochs=1, batch_size=12, repeat=4).repeat == 4
    with pytest.raises(UsageError, match="repeat=5") as caught:
        TrainConfig(epochs=1, batch_size=12, repeat=5)
    assert "multiple of repeat" in caught.value.hint


def test_settings_that_contradict_each_other_are_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="sync_bn exchanges numbers inside the network, which compile cannot do"):
        TrainConfig(epochs=1, compile=True, sync_bn=True)
    for other in ({"compile": True}, {"views": 2}, {"low_size": 4, "low_epochs": 1}):
        with pytest.raises(UsageError, match=f"contradict each other: .*{next(iter(other))}"):
            TrainConfig(epochs=1, hint_weight=0.5, **other)  # type: ignore[arg-type]


AUGMENTATION = ("flip_vertical", "rotate", "zoom", "shear", "fill", "hue", "channel_shift", "noise", "blur", "erase")


@pytest.mark.parametrize("name", [*AUGMENTATION, "trivial", "randaug"])
def test_augmentation_is_off_by_default_in_recipes_and_in_the_loop_alike(name: str) -> None:
    value = getattr(TrainConfig(epochs=1), name)
    assert value == getattr(Training(), name)
    assert not value or value == "reflect"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotate", -1.0),
        ("rotate", 181.0),
        ("zoom", 1.0),
        ("zoom", float("nan")),
        ("shear", 61.0),
        ("fill", "mirror"),
        ("hue", 0.6),
        ("channel_shift", 256.0),
        ("noise", -0.1),
        ("noise", 256.0),
        ("blur", 1.1),
        ("erase", -0.1),
        ("randaug", -1),
        ("randaug_strength", 31),
        ("repeat", 0),
        ("sam", -0.1),
    ],
)
def test_impossible_augmentation_is_refused_in_recipes_and_in_the_loop_alike(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name}="):
        TrainConfig(epochs=1, **{name: value})
    with pytest.raises(ValidationError, match=name):
        Training(**{name: value})
