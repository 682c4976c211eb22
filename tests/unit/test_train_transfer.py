"""A head on frozen features, frozen blocks, and how much of the pictures validates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_loop import CONFIG, TRAIN, VAL, P, pictures, tiny
from torch import nn

from edgecnn.data.source import open_data, with_val_share
from edgecnn.errors import ModelError
from edgecnn.models.zoo import ModelSpec, build
from edgecnn.spec import Preprocess, Split
from edgecnn.train.evaluate import predict_logits
from edgecnn.train.features import extract, fit_head, put_head
from edgecnn.train.freezing import set_training, train_only_last, units
from edgecnn.train.loop import fit


def clusters(classes: int, n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features around one far point per class, on very different scales."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % classes
    points = 5 * np.random.default_rng(9).standard_normal((classes, 6))
    features = (points[labels] + generator.standard_normal((n, 6))) * [1, 10, 100, 0.1, 1, 1] + 3
    return features.astype(np.float32), labels


@pytest.mark.parametrize("kind", ["logistic", "svm"])
@pytest.mark.parametrize("classes", [2, 5])
def test_a_head_separates_what_can_be_separated(kind: str, classes: int) -> None:
    features, labels = clusters(classes)
    head = fit_head(features, labels, clusters(classes, seed=1), classes, kind)
    assert head.weight.shape == (classes, 6) and head.bias.shape == (classes,)
    assert head.val_score > 0.95
    assert ((features @ head.weight.T + head.bias).argmax(1) == labels).mean() > 0.95


def test_a_class_without_pictures_is_never_chosen() -> None:
    features, labels = clusters(3)
    head = fit_head(features, labels, clusters(3, seed=1), 4, "logistic")
    assert (features @ head.weight.T + head.bias)[:, 3].max() < -1000


def test_features_are_what_enters_the_classifier() -> None:
    model = tiny().eval()
    features = extract(model, TRAIN.images, P, batch_size=7)
    logits = features @ model.classifier.weight.detach().numpy().T + model.classifier.bias.detach().numpy()
    np.testing.assert_allclose(logits, predict_logits(model, TRAIN.images, P), rtol=1e-4, atol=1e-5)
    mirrored = extract(model, np.ascontiguousarray(TRAIN.images[:, :, ::-1]), P, mirrored=True)
    np.testing.assert_allclose(mirrored, features, rtol=1e-4, atol=1e-5)


def test_the_head_is_the_classifier_afterwards() -> None:
    model = tiny().eval()
    features, seen = extract(model, TRAIN.images, P), extract(model, VAL.images, P)
    head = fit_head(features, TRAIN.labels, (seen, VAL.labels), 2, "logistic")
    put_head(model, head)
    top1 = (predict_logits(model, VAL.images, P).argmax(1) == VAL.labels).mean()
    assert top1 == pytest.approx(head.val_score)
    again = fit_head(features, TRAIN.labels, (seen, VAL.labels), 2, "logistic", refit=True)
    assert (again.val_score, again.strength) == (head.val_score, head.strength)
    assert not np.allclose(again.weight, head.weight)


def test_a_convolution_is_no_linear_classifier() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="classifier"):
        extract(model, pictures(4).images, P)


def test_blocks_are_counted_from_the_classifier() -> None:
    model = build(ModelSpec("mobilenet_v2", 3, 32, width=0.25))
    paths = units(model)
    assert paths[0] == "stem" and paths[-2:] == ["head", "classifier"] and len(paths) == 1 + 17 + 2
    assert train_only_last(model, 2) == ["blocks.16", "head", "classifier"]
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"blocks", "head", "classifier"}
    set_training(model)
    assert model.training and not model.stem.bn.training and model.head.bn.training
    with pytest.raises(ModelError, match="has 19 before"):
        train_only_last(model, 20)


def test_frozen_blocks_come_out_as_they_went_in(tmp_path: Path) -> None:
    model = tiny()
    train_only_last(model, 1)  # the depthwise convolution and the classifier
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(model, TRAIN, VAL, P, replace(CONFIG, epochs=2), tmp_path)
    changed = {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {"depthwise", "classifier"}


def test_frozen_batch_norm_is_trained_and_keeps_its_statistics(tmp_path: Path) -> None:
    def changed(frozen: bool) -> set[str]:
        model = build(ModelSpec("mobilenet_v2", 2, 16, width=0.25))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        fit(model, TRAIN, VAL, P, replace(CONFIG, epochs=1, frozen_bn=frozen), tmp_path / str(frozen))
        return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}

    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert any(name.endswith(statistics) for name in changed(False))
    kept = changed(True)
    assert "head.bn.weight" in kept and not any(name.endswith(statistics) for name in kept)


def test_a_smaller_share_validates() -> None:
    data = open_data("digits")
    narrowed = with_val_share(data, 0.02)
    sizes = {split: len(items) for split, items in narrowed.splits.items()}
    assert sum(sizes.values()) == sum(len(items) for items in data.splits.values())
    assert narrowed.splits[Split.TEST] == data.splits[Split.TEST]
    assert 20 <= sizes[Split.VAL] <= 40
    ids = [item.id for items in narrowed.splits.values() for item in items]
    assert len(set(ids)) == len(ids)


def test_preprocess_is_followed() -> None:
    other = Preprocess(8, (0.1, 0.2, 0.3), (0.25, 0.25, 0.25))
    assert not np.allclose(extract(tiny(), VAL.images, P), extract(tiny(), VAL.images, other))
