"""A student learns what its teacher says, and an interrupted distillation ends like an uninterrupted one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_train_loop import CONFIG, TRAIN, VAL, P, assert_same_weights, tiny, train

from edgecnn.data.tensors import ImageTensors
from edgecnn.train.distill import Teacher
from edgecnn.train.history import Row
from edgecnn.train.loop import fit
from edgecnn.train.optimizer import absolute_sum, make_optimizer


def test_a_student_follows_its_teacher_not_the_labels(tmp_path: Path) -> None:
    taught, _ = train(tmp_path / "teacher", replace(CONFIG, epochs=8))
    wrong = ImageTensors(TRAIN.images, np.random.default_rng(0).permutation(TRAIN.labels), TRAIN.ids)
    config = replace(CONFIG, epochs=10, distill_weight=1.0, temperature=2.0)
    student = tiny()
    assert fit(student, wrong, VAL, P, config, tmp_path / "student", teacher=Teacher(taught, P)).best_top1 > 0.9


@pytest.mark.parametrize("views", [0, 2])
def test_an_interrupted_distillation_ends_with_the_same_bits(tmp_path: Path, views: int) -> None:
    taught, _ = train(tmp_path / "teacher")
    config = replace(CONFIG, epochs=5, views=views, cutmix=1.0)
    whole = tiny()
    fit(whole, TRAIN, VAL, P, config, tmp_path / "whole", teacher=Teacher(taught, P))

    def interrupt(row: Row) -> None:
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), TRAIN, VAL, P, config, tmp_path / "cut", teacher=Teacher(taught, P), on_epoch=interrupt)
    resumed = tiny()
    fit(resumed, TRAIN, VAL, P, config, tmp_path / "cut", teacher=Teacher(taught, P))
    assert_same_weights(whole, resumed)


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": "focal"},
        {"loss": "bce"},
        {"balance": True},
        {"mixup": 0.2},
        {"clip_norm": 1.0},
        {"schedule": "one_cycle"},
        {"schedule": "plateau"},
        {"l1": 1e-5},
        {"layer_decay": 0.8},
        {"optimizer": "rmsprop", "lr": 0.01},
        {"optimizer": "timm:lamb", "lr": 0.02},
    ],
)
def test_each_way_to_train_learns_the_task(tmp_path: Path, changed: dict[str, object]) -> None:
    if str(changed.get("optimizer", "")).startswith("timm:"):
        pytest.importorskip("timm")
    model = tiny()
    result = fit(model, TRAIN, VAL, P, replace(CONFIG, epochs=10, **changed), tmp_path)  # type: ignore[arg-type]
    assert result.best_top1 > 0.9


def test_l1_makes_weights_small(tmp_path: Path) -> None:
    sizes = []
    for number, l1 in enumerate((0.0, 0.01)):
        model = tiny()
        fit(model, TRAIN, VAL, P, replace(CONFIG, l1=l1), tmp_path / str(number))
        sizes.append(absolute_sum(model).item())
    assert sizes[1] < 0.75 * sizes[0]


def test_earlier_blocks_learn_more_slowly() -> None:
    model = tiny()
    groups = make_optimizer(model, replace(CONFIG, layer_decay=0.5)).param_groups
    scales = {id(each): group["lr_scale"] for group in groups for each in group["params"]}
    assert len(scales) == len(list(model.parameters()))
    assert [scales[id(layer.weight)] for layer in (model.classifier, model.depthwise, model.bn, model.conv)] == [
        1.0, 0.5, 0.25, 0.125,
    ]  # fmt: skip
