"""TrivialAugment: one operation per picture, at random strength (Müller and Hutter, arXiv:2103.10158).

The fourteen operations and the ranges of the paper's "wide" space, each on the whole group of pictures that drew it.
All pictures are (N, C, H, W) float in 0..255, before and after; on grey ones "color" changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecnn.train.augment_color import luma
from edgecnn.train.augment_geometry import MIRRORED, Border, affine_matrices, warp

LEVELS = 31  # strengths are 0, 1/30, ... 1
MAX_SHEAR, MAX_TRANSLATION, MAX_ROTATION, MAX_FACTOR = 0.99, 32.0, 135.0, 0.99
MIN_BITS = 2
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def trivial_augment(pixels: Tensor, generator: torch.Generator, border: Border = MIRRORED) -> Tensor:
    """Each picture changed by one operation, drawn evenly, at a strength drawn evenly."""
    n = len(pixels)
    operation = torch.randint(len(OPERATIONS), (n,), generator=generator)
    strength = torch.randint(LEVELS, (n,), generator=generator) / (LEVELS - 1)
    signed = strength * (2 * torch.randint(2, (n,), generator=generator) - 1)
    return apply_each(pixels, operation, strength, signed, border)


def apply_each(pixels: Tensor, operation: Tensor, strength: Tensor, signed: Tensor, border: Border) -> Tensor:
    """Each picture changed by its ``operation`` (N,), a number into ``OPERATIONS``; for the rest see ``apply``."""
    changed = pixels.clone()
    for number, name in enumerate(OPERATIONS):
        group = (operation == number).nonzero()[:, 0]
        if name == "identity" or not len(group):
            continue
        place = group.to(pixels.device)
        changed[place] = apply(name, pixels[place], strength[group], signed[group], border)
    return changed


def apply(name: str, pixels: Tensor, strength: Tensor, signed: Tensor, border: Border) -> Tensor:
    """One operation on all pictures: ``strength`` (N,) in 0..1, ``signed`` (N,) the same with a random sign."""
    if name in GEOMETRIC:
        return warp(pixels, *_geometry(name, signed, min(pixels.shape[2:])), border=border)
    amount = signed if name in ("brightness", "color", "contrast", "sharpness") else strength
    return OPERATIONS[name](pixels, amount.to(pixels.device).view(-1, 1, 1, 1)).clamp(0, 255)


def _geometry(name: str, signed: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Matrices (N, 2, 2) and offsets (N, 2) for ``warp``; translations are at most a third of the picture."""
    matrices, offsets = torch.eye(2).repeat(len(signed), 1, 1), torch.zeros(len(signed), 2)
    axis = int(name.endswith("_y"))
    if name == "rotate":
        matrices = affine_matrices(MAX_ROTATION * signed, torch.ones_like(signed), torch.zeros_like(signed))
    elif name.startswith("shear"):
        matrices[:, axis, 1 - axis] = MAX_SHEAR * signed
    else:
        offsets[:, axis] = min(MAX_TRANSLATION, side / 3) * signed
    return matrices, offsets


def _identity(pixels: Tensor, amount: Tensor) -> Tensor:
    return pixels


def _blend(pixels: Tensor, other: Tensor, amount: Tensor) -> Tensor:
    """``pixels`` moved away from ``other`` (amount above 0) or towards it (below)."""
    return other + (pixels - other) * (1 + MAX_FACTOR * amount)


def _brightness(pixels: Tensor, amount: Tensor) -> Tensor:
    return _blend(pixels, torch.zeros_like(pixels), amount)


def _color(pixels: Tensor, amount: Tensor) -> Tensor:
    return _blend(pixels, luma(pixels), amount)


def _contrast(pixels: Tensor, amount: Tensor) -> Tensor:
    return _blend(pixels, luma(pixels).mean((2, 3), keepdim=True), amount)


def _sharpness(pixels: Tensor, amount: Tensor) -> Tensor:
    """Away from or towards the picture smoothed by Pillow's filter: 5 in the middle, 1 around."""
    if min(pixels.shape[2:]) < 2:
        return pixels
    padded = F.pad(pixels, (1, 1, 1, 1), mode="reflect")
    smooth = (9 * F.avg_pool2d(padded, 3, stride=1) + 4 * pixels) / 13
    return _blend(pixels, smooth, amount)


def _posterize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Only the 8 (weakest) to 2 (strongest) highest bits of each value kept."""
    step = 2.0 ** ((8 - MIN_BITS) * strength).round()
    return (pixels.round() / step).floor() * step


def _solarize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Values above a threshold inverted; it falls from 255 to 0 with the strength."""
    return torch.where(pixels > 255 * (1 - strength), 255 - pixels, pixels)


def _autocontrast(pixels: Tensor, strength: Tensor) -> Tensor:
    """Each channel stretched to 0..255; plain ones are left alone."""
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    return torch.where(high > low, (pixels - low) * 255 / (high - low).clamp(min=1e-3), pixels)


def _equalize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Each channel's levels spread so that all are equally frequent; plain channels are left alone."""
    n, channels, height, width = pixels.shape
    levels = pixels.round().long().reshape(n * channels, height * width)
    offset = 256 * torch.arange(n * channels, device=pixels.device)[:, None]
    counts = torch.bincount((levels + offset).flatten(), minlength=256 * n * channels).view(-1, 256)
    below = counts.cumsum(1)
    first = below.gather(1, levels.amin(1, keepdim=True))  # how many pixels have the lowest level
    table = 255 * (below - first) / (height * width - first).clamp(min=1)
    spread = table.gather(1, levels).view(pixels.shape)
    plain = (first == height * width).view(n, channels, 1, 1)
    return torch.where(plain, pixels, spread)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": _identity,
    **dict.fromkeys(GEOMETRIC, _identity),  # done by ``warp``
    "brightness": _brightness,
    "color": _color,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
