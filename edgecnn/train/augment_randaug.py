"""RandAugment: some operations per picture, one after the other, all at one strength (Cubuk et al., arXiv:1909.13719).

The operations are those of TrivialAugment, on the whole group of pictures that drew them, in the ranges of AutoAugment
(Cubuk et al., arXiv:1805.09501, table 6), which are smaller. Strength 9 of 31 levels, 0 to 30, and two operations are
what the paper took for ResNet-50.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgecnn.train import augment_trivial as trivial
from edgecnn.train.augment_geometry import MIRRORED, Border

SHEAR, TRANSLATION, ROTATION, FACTOR, POSTERIZED_BITS = 0.3, 150 / 331, 30.0, 0.9, 4


def rand_augment(
    pixels: Tensor, operations: int, strength: int, generator: torch.Generator, border: Border = MIRRORED
) -> Tensor:
    """Each picture changed ``operations`` times, by an operation drawn evenly: (N, C, H, W) float in 0..255 before and
    after. ``strength`` is 0 to 30, its sign is drawn where there is one.
    """
    n, level = len(pixels), strength / (trivial.LEVELS - 1)
    shares = level * ranges(min(pixels.shape[2:]))
    for _ in range(operations):
        operation = torch.randint(len(trivial.OPERATIONS), (n,), generator=generator)
        sign = 2 * torch.randint(2, (n,), generator=generator) - 1
        amount = shares[operation]
        pixels = trivial.apply_each(pixels, operation, amount, amount * sign, border)
    return pixels


def ranges(side: int) -> Tensor:
    """AutoAugment's largest strength of each operation, as a multiple of TrivialAugment's; pictures have ``side``."""
    shift = TRANSLATION * side / min(trivial.MAX_TRANSLATION, side / 3)
    ratios = {
        "rotate": ROTATION / trivial.MAX_ROTATION,
        **dict.fromkeys(("shear_x", "shear_y"), SHEAR / trivial.MAX_SHEAR),
        **dict.fromkeys(("translate_x", "translate_y"), shift),
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), FACTOR / trivial.MAX_FACTOR),
        "posterize": (8 - POSTERIZED_BITS) / (8 - trivial.MIN_BITS),
    }
    return torch.tensor([ratios.get(name, 1.0) for name in trivial.OPERATIONS])
