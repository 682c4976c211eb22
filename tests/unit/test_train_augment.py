from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from edgecnn.errors import UsageError
from edgecnn.spec import Preprocess
from edgecnn.train import augment_randaug, augment_trivial
from edgecnn.train.augment import (
    augment,
    color_jitter,
    cutout,
    flip_and_shift,
    normalize,
    random_resized_crop,
    refuse_colour,
    repeated,
    shrink,
    standardize,
)
from edgecnn.train.augment_color import (
    LUMA,
    add_noise,
    gaussian_blur,
    random_blur,
    random_erase,
    rotate_hue,
    shift_channels,
    shift_hue,
)
from edgecnn.train.augment_geometry import MIRRORED, Border, affine_matrices, flip_vertical, random_affine, warp
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


OFF: dict[str, Any] = {"epochs": 1, "flip": False}
STRONG: tuple[dict[str, Any], ...] = (
    {"flip_vertical": True},
    {"rotate": 40.0},
    {"zoom": 0.5},
    {"shear": 30.0},
    {"rotate": 40.0, "fill": "nearest"},
    {"rotate": 40.0, "fill": "constant"},
    {"hue": 0.5},
    {"channel_shift": 200.0},
    {"noise": 90.0},
    {"blur": 1.0},
    {"erase": 1.0},
    {"trivial": True},
    {"randaug": 2, "randaug_strength": 15},
)


def planes(n: int = 16, size: int = 8) -> Tensor:
    return pictures(n, size).permute(0, 3, 1, 2).float()


def test_settings_that_are_off_draw_no_random_number() -> None:
    """Trainings of before these settings keep their random streams."""
    config = TrainConfig(epochs=1, shift=2, crop_scale=0.5, jitter=0.3, cutout=3)
    now, then = rng(5), rng(5)
    pixels = flip_and_shift(pictures(), True, 2, then).permute(0, 3, 1, 2).float()
    pixels = color_jitter(random_resized_crop(pixels, 0.5, then), 0.3, then)
    expected = cutout(standardize(pixels, P), 3, then)
    assert torch.equal(augment(pictures(), config, P, now), expected)
    assert torch.equal(now.get_state(), then.get_state())


@pytest.mark.parametrize("settings", STRONG, ids=str)
def test_every_operation_keeps_shape_type_layout_and_range_and_follows_the_generator(settings: dict[str, Any]) -> None:
    config = TrainConfig(**OFF, **settings)
    torch.manual_seed(1)
    batch = augment(pictures(64, 12), config, P, rng(5))
    torch.manual_seed(2)
    assert torch.equal(batch, augment(pictures(64, 12), config, P, rng(5)))
    assert not torch.equal(batch, augment(pictures(64, 12), config, P, rng(6)))
    assert not torch.equal(batch, normalize(pictures(64, 12), P))
    assert batch.shape == (64, 3, 12, 12) and batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    levels = batch * torch.tensor(P.std).view(3, 1, 1) + torch.tensor(P.mean).view(3, 1, 1)
    assert float(levels.min()) >= -1e-4 and float(levels.max()) <= 1 + 1e-4


def test_strength_zero_changes_nothing() -> None:
    pixels = planes()
    close = {"atol": 0.02, "rtol": 0.0}
    torch.testing.assert_close(random_affine(pixels, 0, 0, 0, rng()), pixels, **close)
    torch.testing.assert_close(shift_hue(pixels, 0, rng()), pixels, **close)
    assert torch.equal(shift_channels(pixels, 0, rng()), pixels)
    assert torch.equal(add_noise(pixels, 0, rng()), pixels)
    assert torch.equal(random_blur(pixels, 0, rng()), pixels)
    assert torch.equal(random_erase(pixels, 0, rng()), pixels)


def affine(angle: float = 0, scale: float = 1, shear: float = 0, n: int = 16) -> Tensor:
    return affine_matrices(*(torch.full((n,), float(value)) for value in (angle, scale, shear)))


def test_a_quarter_turn_is_counterclockwise_and_a_half_turn_mirrors_both_sides() -> None:
    pixels = planes()
    torch.testing.assert_close(warp(pixels, affine(90)), pixels.rot90(1, (2, 3)), atol=0.02, rtol=0)
    torch.testing.assert_close(warp(pixels, affine(180)), pixels.flip(2, 3), atol=0.02, rtol=0)


def test_pictures_that_are_not_square_turn_without_being_stretched() -> None:
    wide = torch.zeros(1, 3, 9, 21)
    wide[:, :, 4, 8:13] = 255  # a bar of five pixels lies in the middle
    upright = warp(wide, affine(90, n=1), border=Border("constant", (0.0, 0.0, 0.0)))
    expected = torch.zeros(1, 3, 9, 21)
    expected[:, :, 2:7, 10] = 255
    torch.testing.assert_close(upright, expected, atol=0.1, rtol=0)


def test_scale_two_spreads_the_middle_and_shear_moves_rows_by_their_distance() -> None:
    ramp = torch.arange(8.0).expand(1, 3, 8, 8).contiguous()
    near = warp(ramp, affine(scale=2, n=1))
    torch.testing.assert_close(near[0, 0, 3], 3.5 + (torch.arange(8.0) - 3.5) / 2)
    slanted = warp(ramp, affine(shear=45, n=1), border=Border("nearest"))
    expected = (torch.arange(8.0) - (torch.arange(8.0)[:, None] - 3.5)).clamp(0, 7)
    torch.testing.assert_close(slanted[0, 0], expected, atol=1e-3, rtol=0)


def test_offsets_are_pixels_right_and_down() -> None:
    pixels = planes(1)
    moved = warp(pixels, affine(n=1), torch.tensor([[2.0, 1.0]]))
    torch.testing.assert_close(moved[:, :, :7, :6], pixels[:, :, 1:, 2:], atol=0.02, rtol=0)


@pytest.mark.parametrize("fill", ["reflect", "nearest"])
def test_a_turned_bright_picture_has_no_dark_corners(fill: str) -> None:
    bright = torch.full((32, 3, 16, 16), 200.0)
    turned = random_affine(bright, 45, 0.5, 20, rng(), Border(fill))
    torch.testing.assert_close(turned, bright, atol=0.01, rtol=0)


def test_constant_fill_shows_the_mean_colour_in_the_corners() -> None:
    turned = warp(torch.full((1, 3, 16, 16), 200.0), affine(45, n=1), border=Border("constant", (10.0, 20.0, 30.0)))
    torch.testing.assert_close(turned[0, :, 0, 0], torch.tensor([10.0, 20.0, 30.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(turned[0, :, 8, 8], torch.full((3,), 200.0), atol=1e-3, rtol=0)
    batch = augment(
        torch.full((64, 16, 16, 3), 200, dtype=torch.uint8), TrainConfig(**OFF, zoom=0.9, fill="constant"), P, rng()
    )
    assert float(batch[:, :, 0, 0].abs().min()) < 1e-4  # zero after normalization


def test_random_affine_uses_the_whole_range_both_ways() -> None:
    down = torch.arange(32.0).view(1, 1, 32, 1).expand(300, 3, 32, 32).contiguous()
    turned = random_affine(down, 30, 0, 0, rng())
    slope = turned[:, 0, 16, 17] - turned[:, 0, 16, 16]  # the sine of the angle
    assert -0.5 <= float(slope.min()) < -0.45 and 0.45 < float(slope.max()) <= 0.5


def test_vertical_flips_turn_about_half_upside_down() -> None:
    images = pictures(200)
    flipped = flip_vertical(images, rng())
    same, turned = ((flipped == other).flatten(1).all(1) for other in (images, images.flip(1)))
    assert bool((same | turned).all())
    assert 70 < int(turned.sum()) < 130


def test_hue_keeps_luma_and_grey_and_comes_round() -> None:
    pixels = 100 + 20 * torch.rand(8, 3, 4, 4, generator=rng())
    luma = torch.tensor(LUMA).view(3, 1, 1)
    turned = rotate_hue(pixels, torch.full((8,), 0.3))
    assert float((turned - pixels).abs().max()) > 5
    torch.testing.assert_close((turned * luma).sum(1), (pixels * luma).sum(1), atol=0.05, rtol=0)
    torch.testing.assert_close(rotate_hue(pixels, torch.ones(8)), pixels, atol=0.01, rtol=0)
    grey = torch.full((8, 3, 4, 4), 90.0)
    torch.testing.assert_close(shift_hue(grey, 0.5, rng()), grey, atol=0.2, rtol=0)


def test_channels_move_by_at_most_the_limit_each_on_its_own() -> None:
    moved = shift_channels(torch.full((200, 3, 2, 2), 100.0), 20, rng()) - 100
    assert -20 <= float(moved.min()) < -18 and 18 < float(moved.max()) <= 20
    assert torch.equal(moved[..., 0, 0], moved[..., 1, 1])
    assert not torch.equal(moved[:, 0], moved[:, 1])


def test_noise_has_the_standard_deviation_asked_for() -> None:
    noisy = add_noise(torch.full((20, 3, 16, 16), 128.0), 10, rng())
    assert 9.7 < float(noisy.std()) < 10.3
    assert 127.5 < float(noisy.mean()) < 128.5


def test_blur_spreads_a_point_into_its_gaussian_and_leaves_plain_pictures_alone() -> None:
    point = torch.zeros(2, 3, 15, 15)
    point[..., 7, 7] = 255
    blurred = gaussian_blur(point, torch.tensor([0.8, 1.5]))
    torch.testing.assert_close(blurred.sum((2, 3)), torch.full((2, 3), 255.0), atol=0.1, rtol=0)
    ratio = blurred[:, 0, 7, 8] / blurred[:, 0, 7, 7]
    torch.testing.assert_close(ratio, torch.exp(-0.5 / torch.tensor([0.8, 1.5]) ** 2))
    plain = torch.full((4, 3, 5, 5), 77.0)
    torch.testing.assert_close(random_blur(plain, 1.0, rng()), plain)


def test_blur_and_erasing_hit_as_many_pictures_as_their_probability_says() -> None:
    pixels = planes(300, 64)
    for changed in (random_blur(pixels, 0.3, rng()), random_erase(pixels, 0.3, rng())):
        assert 60 < int((changed != pixels).flatten(1).any(1).sum()) < 120


def test_erasing_replaces_one_rectangle_of_2_to_40_percent() -> None:
    pixels = torch.full((200, 3, 32, 32), -1.0)  # no level that is drawn
    erased = random_erase(pixels, 1.0, rng()) != -1
    assert torch.equal(erased[:, 0], erased[:, 2])
    hidden = erased[:, 0]
    areas = hidden.sum((1, 2))
    assert torch.equal(areas, hidden.any(1).sum(1) * hidden.any(2).sum(1))  # full rectangles
    assert 0.01 < float(areas.min()) / 1024 < 0.05 and 0.33 < float(areas.max()) / 1024 < 0.43


def test_trivial_augment_uses_every_operation_and_one_for_each_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}
    plainly = augment_trivial.apply

    def counted(name: str, pixels: Tensor, *rest: Any) -> Tensor:
        seen[name] = len(pixels)
        return plainly(name, pixels, *rest)

    monkeypatch.setattr(augment_trivial, "apply", counted)
    changed = augment_trivial.trivial_augment(planes(1400), rng())
    assert seen.keys() == augment_trivial.OPERATIONS.keys() - {"identity"}
    assert all(60 < count < 140 for count in seen.values())
    assert int((changed == planes(1400)).flatten(1).all(1).sum()) > 60


@pytest.mark.parametrize("name", sorted(augment_trivial.OPERATIONS.keys() - {"autocontrast", "equalize"}))
def test_trivial_operations_of_strength_zero_change_nothing(name: str) -> None:
    none = torch.zeros(16)
    kept = augment_trivial.apply(name, planes(), none, none, MIRRORED)
    torch.testing.assert_close(kept, planes(), atol=0.02, rtol=0)


def test_rand_augment_applies_operations_one_after_the_other_at_its_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Tensor]] = {}

    def noted(name: str, pixels: Tensor, strength: Tensor, signed: Tensor, *rest: Any) -> Tensor:
        seen.setdefault(name, []).append(signed)
        assert torch.equal(strength, signed.abs())
        return pixels + 1

    monkeypatch.setattr(augment_trivial, "apply", noted)
    changed = augment_randaug.rand_augment(planes(1400) * 0, 3, 15, rng())
    assert seen.keys() == augment_trivial.OPERATIONS.keys() - {"identity"}
    assert all(len(calls) == 3 for calls in seen.values())
    counts = changed[:, 0, 0, 0]
    assert {1, 2, 3} <= set(counts.tolist()) <= {0, 1, 2, 3}  # how often it was not the identity
    assert 2.6 < float(counts.mean()) < 2.95
    largest = {name: float(torch.cat(calls).abs().max()) for name, calls in seen.items()}
    smallest = {name: float(torch.cat(calls).abs().min()) for name, calls in seen.items()}
    assert smallest == largest  # one strength for all
    assert largest["rotate"] * augment_trivial.MAX_ROTATION == pytest.approx(15)  # half of 30 degrees
    assert largest["shear_x"] * augment_trivial.MAX_SHEAR == pytest.approx(0.15)
    assert largest["translate_y"] * 8 / 3 == pytest.approx(0.5 * 8 * 150 / 331)
    assert largest["brightness"] * augment_trivial.MAX_FACTOR == pytest.approx(0.45)
    assert largest["posterize"] * 6 == pytest.approx(2)  # bits
    assert largest["solarize"] == pytest.approx(0.5)
    assert all(len(torch.cat(seen[name]).unique()) == 2 for name in ("rotate", "color"))  # either sign


def test_rand_augment_of_strength_zero_changes_only_what_has_no_strength() -> None:
    kept = augment_randaug.rand_augment(planes(200), 1, 0, rng())
    same = ((kept - planes(200)).abs() < 0.1).flatten(1).all(1)
    assert 0.75 < float(same.float().mean()) < 0.95  # two of fourteen: autocontrast and equalize


def test_repeated_pictures_fill_their_batch_and_leave_others_out() -> None:
    order = torch.randperm(26, generator=rng())
    assert repeated(order, 8, 1) is order
    batches = repeated(order, 8, 4).view(3, 8)
    for batch in batches:
        assert torch.equal(batch.unique(return_counts=True)[1], torch.tensor([4, 4]))
        assert all(len(part.unique()) == 2 for part in batch.view(4, 2))  # each part has different pictures
    assert len(batches.unique()) == 6


def test_trivial_operations_do_what_pillow_does() -> None:
    pixels = planes(4, 16) / 2 + 40
    pixels = pixels.round()
    one = torch.ones(4)
    shown = [Image.fromarray(each.permute(1, 2, 0).byte().numpy()) for each in pixels]
    for name, theirs, within in (
        ("autocontrast", ImageOps.autocontrast, 1.01),
        ("solarize", lambda image: ImageOps.solarize(image, 0), 0.01),
        ("posterize", lambda image: ImageOps.posterize(image, 2), 0.01),
        ("brightness", lambda image: ImageEnhance.Brightness(image).enhance(1.99), 1.01),
        ("color", lambda image: ImageEnhance.Color(image).enhance(1.99), 1.6),
        ("contrast", lambda image: ImageEnhance.Contrast(image).enhance(1.99), 1.6),
    ):
        ours = augment_trivial.apply(name, pixels, one, one, MIRRORED)
        expected = torch.from_numpy(np.stack([np.array(theirs(image)) for image in shown])).permute(0, 3, 1, 2).float()
        torch.testing.assert_close(ours, expected, atol=within, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_equalize_makes_levels_equally_frequent_and_leaves_plain_pictures_alone() -> None:
    none = torch.zeros(1)
    ramp = (torch.arange(64.0) // 2 + 100).view(1, 1, 8, 8).expand(1, 3, 8, 8).contiguous()
    spread = augment_trivial.apply("equalize", ramp, none, none, MIRRORED)
    torch.testing.assert_close(spread[0, 1].flatten().unique(), torch.linspace(0, 255, 32))
    plain = torch.full((1, 3, 4, 4), 9.0)
    assert torch.equal(augment_trivial.apply("equalize", plain, none, none, MIRRORED), plain)


GREY = Preprocess(8, (0.4,), (0.25,))


@pytest.mark.parametrize("settings", STRONG, ids=str)
def test_every_operation_on_a_grey_picture_is_that_on_three_equal_channels(settings: dict[str, Any]) -> None:
    if "hue" in settings or "noise" in settings or "channel_shift" in settings or "erase" in settings:
        # These draw numbers for each channel: shape and range are what can be compared.
        if "hue" not in settings:
            batch = augment(pictures()[..., :1], TrainConfig(epochs=1, **settings), GREY, rng())
            assert batch.shape == (16, 1, 8, 8) and standardize(torch.zeros(1, 1, 1, 1), GREY) <= batch.min()
        return
    config = TrainConfig(epochs=1, **settings)
    images = pictures()[..., :1]
    same = Preprocess(8, GREY.mean * 3, GREY.std * 3)
    grey, coloured = augment(images, config, GREY, rng()), augment(images.repeat(1, 1, 1, 3), config, same, rng())
    assert grey.shape == (16, 1, 8, 8) and grey.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(grey, coloured[:, :1], rtol=1e-4, atol=1e-3)


def test_grey_pictures_have_no_hue_to_turn() -> None:
    with pytest.raises(UsageError, match="grey pictures have no hue"):
        refuse_colour(TrainConfig(epochs=1, hue=0.1), 1)
    refuse_colour(TrainConfig(epochs=1, hue=0.1), 3)
    refuse_colour(TrainConfig(epochs=1, jitter=0.3, channel_shift=9, trivial=True), 1)
