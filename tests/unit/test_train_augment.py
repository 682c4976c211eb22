from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgecnn.spec import Preprocess
from edgecnn.train.augment import (
    augment,
    color_jitter,
    cutout,
    flip_and_shift,
    normalize,
    random_resized_crop,
    shrink,
)
from edgecnn.train.config import TrainConfig

P = Preprocess(8, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def pictures(n: int = 16, size: int = 8) -> Tensor:
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_normalize_is_the_formula_of_the_vocabulary() -> None:
    images = pictures()
    real = (images.numpy() / 255 - np.array(P.mean)) / np.array(P.std)
    batch = normalize(images, P)
    assert batch.shape == (16, 3, 8, 8)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(batch.numpy(), real.transpose(0, 3, 1, 2), atol=1e-6)


def test_nothing_asked_for_is_plain_normalization() -> None:
    config = TrainConfig(epochs=1, flip=False)
    assert torch.equal(augment(pictures(), config, P, rng()), normalize(pictures(), P))


def test_flip_mirrors_about_half_and_leaves_the_others() -> None:
    images = pictures(200)
    flipped = flip_and_shift(images, True, 0, rng())
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(2)).flatten(1).all(1)
    assert bool((same | mirrored).all())
    assert 70 < int(mirrored.sum()) < 130


def test_every_shift_up_to_the_limit_occurs_and_equals_a_crop_of_the_reflect_padded_picture() -> None:
    images = pictures(150)
    shifted = flip_and_shift(images, False, 2, rng())
    padded = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect"))
    found = set()
    for index in range(len(images)):
        crops = {(y, x): padded[index, y : y + 8, x : x + 8] for y in range(5) for x in range(5)}
        matching = [place for place, crop in crops.items() if torch.equal(crop, shifted[index])]
        assert len(matching) == 1
        found.add(matching[0])
    assert found == {(y, x) for y in range(5) for x in range(5)}


def test_a_shift_larger_than_the_picture_still_reflects() -> None:
    images = pictures(20, size=3)
    assert set(flip_and_shift(images, False, 10, rng()).flatten().tolist()) <= set(images.flatten().tolist())


def test_whole_picture_is_a_possible_crop_and_windows_stay_inside() -> None:
    ramp = torch.arange(8.0).expand(64, 3, 8, 8).contiguous()
    cropped = random_resized_crop(ramp, 0.2, rng())
    assert cropped.shape == ramp.shape
    assert float(cropped.min()) >= 0.0 and float(cropped.max()) <= 7.0
    steps = cropped[:, 0, 4, 4] - cropped[:, 0, 4, 3]  # width of the window / width of the picture
    assert 0.3 < float(steps.min()) < 0.6 and float(steps.max()) <= 1.0 + 1e-5


def test_crops_of_the_full_area_with_square_aspect_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.train.augment.MAX_ASPECT", 1.0)
    pixels = pictures().permute(0, 3, 1, 2).float()
    torch.testing.assert_close(random_resized_crop(pixels, 1.0, rng()), pixels, atol=1e-2, rtol=0)


def test_jitter_stays_in_range_keeps_grey_grey_and_differs_per_picture() -> None:
    grey = torch.full((32, 3, 4, 4), 100.0)
    changed = color_jitter(grey, 0.4, rng())
    torch.testing.assert_close(changed[:, 0], changed[:, 2], atol=1e-3, rtol=0)
    assert 59.0 <= float(changed.min()) < 75 and 125 < float(changed.max()) <= 141
    wild = color_jitter(pictures().permute(0, 3, 1, 2).float(), 0.9, rng())
    assert float(wild.min()) >= 0 and float(wild.max()) <= 255


def test_cutout_blanks_one_square_per_picture() -> None:
    hidden = cutout(torch.ones(100, 3, 12, 12), 4, rng()) == 0
    areas = hidden[:, 0].flatten(1).sum(1)
    assert int(areas.max()) == 16
    assert int(areas.min()) >= 4
    assert torch.equal(hidden[:, 0], hidden[:, 2])
    assert len({tuple(row.flatten().tolist()) for row in hidden[:, 0]}) > 30


def test_shrink_averages_and_leaves_the_right_size_alone() -> None:
    batch = torch.rand(2, 3, 8, 8)
    assert shrink(batch, 8) is batch
    small = shrink(batch, 4)
    assert small.shape == (2, 3, 4, 4)
    torch.testing.assert_close(small.mean(), batch.mean(), atol=0.02, rtol=0)


def test_the_generator_alone_decides() -> None:
    config = TrainConfig(epochs=1, shift=2, crop_scale=0.5, jitter=0.3, cutout=3)
    torch.manual_seed(1)
    first = augment(pictures(), config, P, rng(5))
    torch.manual_seed(2)
    assert torch.equal(first, augment(pictures(), config, P, rng(5)))
    assert not torch.equal(first, augment(pictures(), config, P, rng(6)))
