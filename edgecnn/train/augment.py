"""Augmentation of whole batches: uint8 pictures in, normalized float batch out.

Every random number comes from the generator that is passed in, and every operation works on the whole batch at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecnn.errors import UsageError
from edgecnn.spec import Preprocess
from edgecnn.train.augment_color import add_noise, luma, random_blur, random_erase, shift_channels, shift_hue
from edgecnn.train.augment_geometry import Border, flip_vertical, random_affine
from edgecnn.train.augment_randaug import rand_augment
from edgecnn.train.augment_trivial import trivial_augment
from edgecnn.train.config import TrainConfig

# Aspect ratios of random resized crops; the usual 3/4 to 4/3 (Szegedy et al., arXiv:1409.4842, section 6).
MAX_ASPECT = 4 / 3


def normalize(images: Tensor, p: Preprocess) -> Tensor:
    """``(pixel / 255 - mean) / std``: (N, H, W, C) uint8 -> (N, C, H, W) float32, stored channels last."""
    return standardize(images.permute(0, 3, 1, 2).float(), p)


def standardize(pixels: Tensor, p: Preprocess) -> Tensor:
    """``(pixel / 255 - mean) / std`` on (N, C, H, W) float32 pixels in 0..255."""
    mean = torch.tensor(p.mean, device=pixels.device).view(-1, 1, 1) * 255
    std = torch.tensor(p.std, device=pixels.device).view(-1, 1, 1) * 255
    return (pixels - mean) / std


def augment(images: Tensor, config: TrainConfig, p: Preprocess, generator: torch.Generator) -> Tensor:
    """Augmented and normalized: (N, H, W, C) uint8 -> (N, C, H, W) float32. ``generator`` is on the CPU.

    An operation that is off draws no random number, so that adding one leaves trainings without it as they were. On
    grey pictures (C = 1) saturation changes nothing, and there is no hue to turn (``refuse_colour``).
    """
    if config.flip or config.shift:
        images = flip_and_shift(images, config.flip, config.shift, generator)
    if config.flip_vertical:
        images = flip_vertical(images, generator)
    pixels = images.permute(0, 3, 1, 2).float()
    border = Border(config.fill, [255 * level for level in p.mean])
    if config.rotate or config.zoom or config.shear:
        pixels = random_affine(pixels, config.rotate, config.zoom, config.shear, generator, border)
    if config.crop_scale is not None:
        pixels = random_resized_crop(pixels, config.crop_scale, generator)
    if config.jitter:
        pixels = color_jitter(pixels, config.jitter, generator)
    if config.hue:
        pixels = shift_hue(pixels, config.hue, generator)
    if config.channel_shift:
        pixels = shift_channels(pixels, config.channel_shift, generator)
    if config.trivial:
        pixels = trivial_augment(pixels, generator, border)
    if config.randaug:
        pixels = rand_augment(pixels, config.randaug, config.randaug_strength, generator, border)
    if config.blur:
        pixels = random_blur(pixels, config.blur, generator)
    if config.noise:
        pixels = add_noise(pixels, config.noise, generator)
    if config.erase:
        pixels = random_erase(pixels, config.erase, generator)
    batch = standardize(pixels, p)
    return cutout(batch, config.cutout, generator) if config.cutout else batch


def refuse_colour(config: TrainConfig, channels: int) -> None:
    """Raise UsageError where the settings turn the hue of pictures that have none."""
    if channels == 1 and config.hue:
        raise UsageError(
            f"hue={config.hue}: grey pictures have no hue",
            hint="leave hue out; jitter (brightness, contrast) and channel_shift work on grey",
        )


def repeated(order: Tensor, batch_size: int, repeat: int) -> Tensor:
    """The order of an epoch's pictures in which each batch has ``batch_size / repeat`` of them, ``repeat`` times each.

    As many batches as before; pictures that none is left for are not in this epoch. The copies lie apart, so that the
    parts of a batch that is divided get different pictures (Hoffer et al., arXiv:1901.09335).
    """
    if repeat == 1:
        return order
    batches, different = len(order) // batch_size, batch_size // repeat
    return order[: batches * different].view(batches, different).repeat(1, repeat).flatten()


def shrink(batch: Tensor, size: int) -> Tensor:
    """The batch (N, C, H, W) resized to ``size`` x ``size``, antialiased; unchanged if it has that size."""
    if batch.shape[2:] == (size, size):
        return batch
    small = F.interpolate(batch, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return small.contiguous(memory_format=torch.channels_last)


def flip_and_shift(images: Tensor, flip: bool, shift: int, generator: torch.Generator) -> Tensor:
    """Mirror half of the pictures and shift each by up to ``shift`` pixels with reflected borders, in one gather.

    images (N, H, W, C) of any type -> the same shape and type.
    """
    n, height, width, _ = images.shape
    down = torch.randint(-shift, shift + 1, (n, 1), generator=generator)
    right = torch.randint(-shift, shift + 1, (n, 1), generator=generator)
    rows = _reflect(torch.arange(height) + down, height)
    columns = _reflect(torch.arange(width) + right, width)
    if flip:
        mirrored = torch.rand((n, 1), generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    number = torch.arange(n, device=images.device)
    return images[number[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_resized_crop(pixels: Tensor, smallest: float, generator: torch.Generator) -> Tensor:
    """A window of ``smallest`` to 1 of the area, aspect ratio 3/4 to 4/3, scaled back to full size (bilinear).

    pixels (N, C, H, W) float -> the same shape. A window longer than the picture is cut to its side.
    """
    n = pixels.shape[0]
    area = smallest + (1 - smallest) * torch.rand(n, generator=generator)
    aspect = MAX_ASPECT ** (2 * torch.rand(n, generator=generator) - 1)
    height, width = (area / aspect).sqrt().clamp(max=1), (area * aspect).sqrt().clamp(max=1)
    # grid_sample's coordinates run from -1 to 1, so a window of half the picture may be moved by half of that.
    x = (1 - width) * (2 * torch.rand(n, generator=generator) - 1)
    y = (1 - height) * (2 * torch.rand(n, generator=generator) - 1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2], theta[:, 1, 1], theta[:, 1, 2] = width, x, height, y
    grid = F.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
    cropped: Tensor = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cropped.contiguous(memory_format=torch.channels_last)


def color_jitter(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation scaled by factors from ``1 - strength`` to ``1 + strength``.

    pixels (N, C, H, W) float in 0..255 -> the same shape and range.
    """
    factors = 1 + strength * (2 * torch.rand((3, pixels.shape[0], 1, 1, 1), generator=generator) - 1)
    brightness, contrast, saturation = factors.to(pixels.device)
    pixels = pixels * brightness
    grey = luma(pixels)
    pixels = grey + (pixels - grey) * saturation
    level = grey.mean((2, 3), keepdim=True)
    contrasted: Tensor = level + (pixels - level) * contrast
    return contrasted.clamp(0, 255)


def cutout(batch: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A ``side`` x ``side`` square set to zero (the mean colour) around a random point, cut off at the border.

    batch (N, C, H, W) normalized -> the same shape.
    """
    n, _, height, width = batch.shape
    top = torch.randint(height, (n, 1), generator=generator) - side // 2
    left = torch.randint(width, (n, 1), generator=generator) - side // 2
    row, column = torch.arange(height), torch.arange(width)
    rows = (row >= top) & (row < top + side)
    columns = (column >= left) & (column < left + side)
    hidden = (rows[:, :, None] & columns[:, None, :]).to(batch.device)
    return batch.masked_fill(hidden[:, None], 0.0)


def _reflect(index: Tensor, length: int) -> Tensor:
    """Positions outside 0..length-1 mirrored at the border pixels (which are not repeated), any distance."""
    if length == 1:
        return torch.zeros_like(index)
    index = index.abs() % (2 * length - 2)
    return torch.minimum(index, 2 * length - 2 - index)
