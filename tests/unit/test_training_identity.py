"""Which trainings are the same: a seed that splits the pictures otherwise makes another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.bundle import fingerprint
from edgecnn.data.source import open_data, split_ids
from edgecnn.pipeline.preparing import data_identity
from edgecnn.pipeline.preparing import identity as settings_of
from edgecnn.steps import QatTraining, QuantizeStep


def folder(root: Path, *splits: str) -> str:
    rng = np.random.default_rng(0)
    for split in splits or ("",):
        for label in ("a", "b"):
            for number in range(12):
                file = root / split / label / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    return str(root)


def identity(source: str, seed: int) -> str:
    return fingerprint(None, "train", data_identity(open_data(source, seed=seed), seed))


def test_two_seeds_that_split_in_two_ways_are_two_trainings(tmp_path: Path) -> None:
    source = folder(tmp_path)
    found = [identity(source, seed) for seed in (0, 1, 2, 1)]
    assert len(set(found[:3])) == 3 and found[1] == found[3]
    assert len({str(split_ids(open_data(source, seed=seed))) for seed in range(3)}) == 3


def test_the_default_seed_has_the_fingerprint_that_it_always_had(tmp_path: Path) -> None:
    source = folder(tmp_path)
    assert identity(source, 0) == fingerprint(None, "train", {"data": open_data(source).digest})


@pytest.mark.parametrize("seed", [1, 7])
def test_seeds_that_decide_nothing_are_one_training(tmp_path: Path, seed: int) -> None:
    source = folder(tmp_path, "train", "val", "test")
    assert identity(source, seed) == identity(source, 2)


def test_quantizing_without_training_is_what_it_was_before_there_was_any() -> None:
    assert "qat" not in settings_of(QuantizeStep(device="cpu", threads=1))
    assert settings_of(QuantizeStep(qat=QatTraining(epochs=2)))["qat"]["epochs"] == 2
