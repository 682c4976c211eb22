from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import MissingPackageError, UsageError
from edgecnn.spec import Preprocess
from edgecnn.train import augment_albumentations
from edgecnn.train.augment_albumentations import Pipeline, seeds_of
from edgecnn.train.config import TrainConfig
from edgecnn.train.loop import fit
from edgecnn.transforms import described

SIZE = 16
PIPELINE = described(
    [
        "HorizontalFlip",
        {"Affine": {"rotate": [-30, 30], "p": 0.7}},
        {"OneOf": [{"Blur": {"p": 1.0}}, {"GaussNoise": {"p": 1.0}}]},
        {"CoarseDropout": {"p": 0.5}},
    ]
)
P = Preprocess(SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    pytest.importorskip("albumentations", reason="albumentations is not installed: pip install edgecnn[albumentations]")


def pictures(n: int = 12) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)


def names(n: int = 12) -> list[str]:
    return [f"{at}.png" for at in range(n)]


def test_threads_and_order_change_nothing_and_seeds_do() -> None:
    seeds = seeds_of(0, 3, names())
    one = Pipeline(PIPELINE, threads=1)(pictures(), seeds, names())
    many = Pipeline(PIPELINE, threads=3)
    for _ in range(4):  # warm-up, one thread, all threads, the faster
        assert (many(pictures(), seeds, names()) == one).all()
    back = many(pictures()[::-1].copy(), seeds[::-1], names()[::-1])
    assert (back[::-1] == one).all()
    assert (one != pictures()).any((1, 2, 3)).sum() >= 8
    assert (Pipeline(PIPELINE, threads=1)(pictures(), seeds_of(0, 4, names()), names()) != one).any()


def test_a_picture_that_is_in_a_batch_twice_is_changed_in_two_ways() -> None:
    assert len(set(seeds_of(0, 0, ["a", "a", "b", "a"]))) == 4
    assert seeds_of(0, 0, ["b", "a"]) == seeds_of(0, 0, ["a", "b"])[::-1]
    assert len({tuple(seeds_of(seed, epoch, ["a"])) for seed in range(3) for epoch in range(3)}) == 9


def test_transforms_are_applied_independently_of_each_other() -> None:
    """Two transforms with p = 1/2: each pair of outcomes occurs a quarter of the time, within 5 standard errors."""
    corner = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    corner[:, 0, 0] = 200
    flips = Pipeline(described(["HorizontalFlip", "VerticalFlip"]), threads=1)
    n = 800
    seen = flips(np.repeat(corner, n, 0), seeds_of(0, 0, names(n)), names(n))
    places = [int(seen[:, row, column, 0].astype(bool).sum()) for row in (0, -1) for column in (0, -1)]
    assert sum(places) == n
    assert all(abs(count / n - 0.25) < 5 * (0.25 * 0.75 / n) ** 0.5 for count in places)


def test_the_library_and_its_saved_form_agree() -> None:
    import albumentations as library

    saved = library.to_dict(
        library.Compose([library.HorizontalFlip(p=0.5), library.OneOf([library.Blur(p=1.0)], p=0.9)])
    )
    seeds = seeds_of(0, 0, names())
    read = Pipeline(described(saved), threads=1)(pictures(), seeds, names())
    short = described([{"HorizontalFlip": {"p": 0.5}}, {"OneOf": {"transforms": [{"Blur": {"p": 1.0}}], "p": 0.9}}])
    assert (read == Pipeline(short, threads=1)(pictures(), seeds, names())).all()
    assert (read != pictures()).any()


@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        (["HorizontalFlop"], "no transform 'HorizontalFlop'.*did you mean HorizontalFlip"),
        (["to_dict"], "no transform 'to_dict'"),
        ([{"Blur": {"limit": 3}}], "Blur cannot be made.*limit"),
        ([{"Blur": {"p": 2}}], "Blur cannot be made.*less than or equal to 1"),
        ([{"OneOf": ["Blur", "Bluur"]}], "no transform 'Bluur'"),
        ([{"Resize": {"height": 8, "width": 8}}], r"makes uint8 \(8, 8, 3\)"),
        ([{"RandomCrop": {"height": 40, "width": 40, "p": 0.001}}], "fails on a trial picture"),
        ([{"Resize": {"height": 8, "width": 8, "p": 0.001}}], r"makes uint8 \(8, 8, 3\)"),
        (["Normalize"], "makes float32"),
        (["ToTensorV2"], "makes torch.uint8"),
    ],
)
def test_pipelines_that_cannot_work_are_told(pipeline: list[Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        Pipeline(described(pipeline), threads=1).check(SIZE)
    import re

    assert re.search(told, str(caught.value), re.DOTALL), caught.value


def test_a_result_of_another_size_is_told_with_the_picture() -> None:
    pipeline = Pipeline(described([{"Resize": {"height": 8, "width": 8}}]), threads=1)
    with pytest.raises(UsageError, match=r"of 0\.png"):
        pipeline(pictures(1), [0], ["0.png"])


def test_a_pipeline_may_change_sizes_on_its_way() -> None:
    steps = [{"Resize": {"height": 24, "width": 24}}, {"RandomCrop": {"height": SIZE, "width": SIZE}}]
    Pipeline(described(steps), threads=1).check(SIZE)


def test_a_training_goes_on_with_the_same_pictures(tmp_path: Path) -> None:
    def trained(folder: str, stop_after: int | None = None, **settings: Any) -> dict[str, Any]:
        data = ImageTensors(pictures(24), np.arange(24) % 3, tuple(names(24)))
        import torch

        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        config = TrainConfig(epochs=3, batch_size=8, albumentations=PIPELINE, precision="fp32", threads=1, **settings)

        class Stop(Exception):
            pass

        def on_epoch(row: dict[str, Any]) -> None:
            if row["epoch"] == stop_after:
                raise Stop

        try:
            fit(model, data, data, P, config, tmp_path / folder, on_epoch=on_epoch)
        except Stop:
            return trained(folder, **settings)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    whole, resumed, other = trained("whole"), trained("resumed", stop_after=1), trained("other", seed=1)
    assert all((whole[name] == resumed[name]).all() for name in whole)
    assert any((whole[name] != other[name]).any() for name in whole)


def test_a_missing_library_is_told_before_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, *, extra: str) -> Any:
        raise MissingPackageError(module, hint=extra)

    monkeypatch.setattr(augment_albumentations, "require", missing)
    with pytest.raises(MissingPackageError, match="albumentations"):
        Pipeline(PIPELINE)
