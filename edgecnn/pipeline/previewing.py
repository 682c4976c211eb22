"""A sheet of augmented training pictures: what a network would be shown."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edgecnn.data.preprocess import Pixels, to_picture
from edgecnn.data.tensors import load_split
from edgecnn.pipeline.context import opened
from edgecnn.pipeline.preparing import check_augmentation, train_config
from edgecnn.pipeline.streaming import channels_of
from edgecnn.spec import Preprocess, Split
from edgecnn.steps import TrainStep
from edgecnn.train.augment import augment
from edgecnn.train.augment_albumentations import Pipeline, seeds_of

GAP = 2  # white pixels around each picture of the sheet
MEAN, STD = 0.5, 0.25  # mid grey is what blanked places and a constant border show


def preview(
    source: str, settings: TrainStep, *, size: int = 128, rows: int = 4, columns: int = 8, seed: int = 0
) -> Image.Image:
    """A sheet of ``rows`` training pictures: each one as it is, then ``columns - 1`` times augmented.

    Pictures and random numbers follow from ``seed``. Raises ``DataError`` for a folder that cannot be opened.
    """
    channels = channels_of(settings)
    p, config = Preprocess(size, (MEAN,) * channels, (STD,) * channels), train_config(settings, seed, "cpu", None)
    check_augmentation(config, size, channels)
    loaded = load_split(opened(source, seed, settings.task), Split.TRAIN, p, limit=rows, seed=seed)
    images = torch.from_numpy(loaded.images)
    copies = images.repeat_interleave(columns - 1, 0)
    if config.albumentations:
        ids = [name for name in loaded.ids for _ in range(columns - 1)]
        copies = torch.from_numpy(Pipeline(config.albumentations)(copies.numpy(), seeds_of(seed, 0, ids), ids))
    changed = augment(copies, config, p, torch.Generator().manual_seed(seed))
    samples = to_pixels(changed, p).view(len(images), columns - 1, size, size, channels)
    return to_picture(sheet(torch.cat([images[:, None], samples], 1).numpy()))


def to_pixels(batch: Tensor, p: Preprocess) -> Tensor:
    """The inverse of normalization: (N, C, H, W) float -> (N, H, W, C) uint8."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (p.mean, p.std))
    return (255 * (batch * std + mean)).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def sheet(pictures: Pixels) -> Pixels:
    """Pictures (rows, columns, H, W, C) side by side on white, as one (height, width, C)."""
    around = ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP), (0, 0))
    framed = np.pad(pictures, around, constant_values=255)
    rows, columns, height, width, channels = framed.shape
    return framed.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
