"""Trainings of one logit and of several labels: what they learn, choose and keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_loop import CONFIG, TRAIN, VAL, P, assert_same_weights, tiny, without_times

from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import DataError
from edgecnn.spec import Preprocess, Task
from edgecnn.tasks import mean_average_precision
from edgecnn.train.config import TrainConfig
from edgecnn.train.evaluate import loss_and_top1, predict_logits
from edgecnn.train.features import fit_head
from edgecnn.train.history import Row, write_csv
from edgecnn.train.loop import fit

LABELS = replace(CONFIG, task=Task.MULTI_LABEL, mixup=0.2, balance=True)


def labelled(part: ImageTensors) -> ImageTensors:
    """Bright or not, and a rare label that only some bright pictures have."""
    marks = np.stack([part.labels, part.labels * (np.arange(len(part)) % 5 == 0)], axis=1)
    return replace(part, labels=marks.astype(np.uint8))


def test_one_logit_learns_what_two_learn(tmp_path: Path) -> None:
    model = tiny(1)
    result = fit(model, TRAIN, VAL, P, replace(CONFIG, epochs=8, task=Task.BINARY, balance=True), tmp_path)
    assert result.best_top1 > 0.9
    logits = predict_logits(model, VAL.images, P)
    assert logits.shape == (len(VAL), 1)
    assert ((logits[:, 0] > 0) == (VAL.labels == 1)).mean() == result.best_top1
    assert loss_and_top1(logits, VAL.labels, Task.BINARY)[1] == result.best_top1


def test_labels_choose_the_epoch_by_mean_average_precision(tmp_path: Path) -> None:
    model, val = tiny(2), labelled(VAL)
    result = fit(model, labelled(TRAIN), val, P, replace(LABELS, epochs=8), tmp_path)
    ranked = [row["val_map"] for row in result.history]
    assert result.best_top1 == max(ranked) > 0.6 and result.best_epoch == ranked.index(max(ranked)) + 1
    logits = predict_logits(model, val.images, P)
    assert mean_average_precision(logits, val.labels) == pytest.approx(result.best_top1)
    assert (tmp_path / "history.csv").read_text().splitlines()[0].endswith(",seconds,val_map")


def test_an_interrupted_training_of_labels_ends_like_a_whole_one(tmp_path: Path) -> None:
    def interrupt(row: Row) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    sets = labelled(TRAIN), labelled(VAL)
    whole, resumed = tiny(2), tiny(2)
    rows = fit(whole, *sets, P, LABELS, tmp_path / "whole").history
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(2), *sets, P, LABELS, tmp_path / "cut", on_epoch=interrupt)
    assert without_times(fit(resumed, *sets, P, LABELS, tmp_path / "cut").history) == without_times(rows)
    assert_same_weights(whole, resumed)


def test_a_network_with_other_logits_is_refused(tmp_path: Path) -> None:
    cases = (
        (tiny(3), labelled(TRAIN), labelled(VAL), LABELS, r"labels are \(80, 2\), but the model has 3 logits"),
        (tiny(2), TRAIN, VAL, LABELS, r"labels are \(80,\)"),
        (tiny(2), TRAIN, VAL, replace(CONFIG, task=Task.BINARY), "has 2 logits"),
        (tiny(1), TRAIN, VAL, CONFIG, "label 1 occurs, but the model has 1 logits"),
    )
    for number, (model, train, val, config, words) in enumerate(cases):
        with pytest.raises(DataError, match=words):
            fit(model, train, val, P, config, tmp_path / str(number))


def test_grey_pictures_are_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = tiny(2)
    model.conv = torch.nn.Conv2d(1, 8, 3, padding=1, bias=False)
    train, val = (replace(part, images=part.images[..., :1]) for part in (TRAIN, VAL))
    config = replace(CONFIG, epochs=6, trivial=True, jitter=0.1, crop_scale=0.8)
    result = fit(model, train, val, Preprocess(8, (0.5,), (0.25,)), config, tmp_path)
    assert result.best_top1 > 0.8


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_heads_of_one_logit_and_of_labels(kind: str) -> None:
    dice = np.random.default_rng(0)
    features = dice.normal(size=(120, 6)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int64)
    head = fit_head(features, labels, (features, labels), 1, kind, task=Task.BINARY)
    assert head.weight.shape == (1, 6) and head.val_score > 0.9
    assert (((features @ head.weight.T + head.bias)[:, 0] > 0) == labels).mean() > 0.9
    many = np.stack([labels, features[:, 1] > 1, np.ones(120)], axis=1).astype(np.uint8)
    head = fit_head(features, many, (features, many), 3, kind, task=Task.MULTI_LABEL, refit=True)
    assert head.weight.shape == (3, 6) and head.val_score > 0.9
    assert not head.weight[2].any() and head.bias[2] > 3  # all have it


def test_an_empty_history_has_its_header(tmp_path: Path) -> None:
    write_csv(tmp_path / "h.csv", [])
    assert (tmp_path / "h.csv").read_text().startswith("epoch,lr,")
    assert TrainConfig(epochs=1).asked is Task.MULTI_CLASS
