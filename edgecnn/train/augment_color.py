"""What pixels are: hue, channel levels, noise, blur and random erasing of whole batches.

All functions take pixels (N, C, H, W) float in 0..255, of 3 channels or 1, and give the same shape and range; a hue
have only pictures of 3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: how bright each channel looks
# From RGB to one luma and two colour axes (NTSC 1953, as in the Python module colorsys's rgb_to_yiq).
YIQ = (LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
MIN_SIGMA, MAX_SIGMA = 0.1, 2.0  # of the blur, in pixels of a 224 x 224 picture (Chen et al., arXiv:2002.05709, app. A)
SIGMA_SIDE = 224
ERASED_AREA = (0.02, 0.4)  # of random erasing, and its largest aspect ratio (Zhong et al., arXiv:1708.04896, sec. 4.2)
ERASED_ASPECT = 1 / 0.3


def luma(pixels: Tensor) -> Tensor:
    """How bright each pixel looks, (N, 1, H, W); of grey ones their value."""
    if pixels.shape[1] == 1:
        return pixels
    return (pixels * torch.tensor(LUMA, device=pixels.device).view(3, 1, 1)).sum(1, keepdim=True)


def shift_hue(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Turn all colours of a picture by up to ``strength`` of a full circle, either way; luma is kept up to clipping."""
    turns = strength * (2 * torch.rand(len(pixels), generator=generator) - 1)
    return rotate_hue(pixels, turns)


def rotate_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the two colour axes of YIQ by ``turns`` (N,), 1 being the full circle: one 3 x 3 matrix per picture."""
    to_yiq = torch.tensor(YIQ, dtype=torch.float64)
    angle = 2 * math.pi * turns.double()
    turn = torch.zeros(len(pixels), 3, 3, dtype=torch.float64)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    matrices = (torch.linalg.inv(to_yiq) @ turn @ to_yiq).float().to(pixels.device)
    turned = torch.einsum("nij,njhw->nihw", matrices, pixels).clamp(0, 255)
    return turned.contiguous(memory_format=torch.channels_last)


def shift_channels(pixels: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Add up to ``most`` levels, either way, to each channel of each picture."""
    levels = most * (2 * torch.rand((len(pixels), pixels.shape[1], 1, 1), generator=generator) - 1)
    return (pixels + levels.to(pixels.device)).clamp(0, 255)


def add_noise(pixels: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise of ``std`` levels, independently to every value."""
    noise = torch.randn(pixels.shape, generator=_near(generator, pixels), device=pixels.device)
    return (pixels + std * noise).clamp(0, 255)


def random_blur(pixels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Blur pictures with ``probability``, each by its own Gaussian (Chen et al., SimCLR, arXiv:2002.05709)."""
    n, _, height, width = pixels.shape
    most = max(0.7, MAX_SIGMA * min(height, width) / SIGMA_SIDE)
    chance, share = torch.rand((2, n), generator=generator)
    chosen = (chance < probability).nonzero()[:, 0]
    if not len(chosen):
        return pixels
    sigma = (MIN_SIGMA + (most - MIN_SIGMA) * share)[chosen]
    chosen = chosen.to(pixels.device)
    blurred = pixels.index_copy(0, chosen, gaussian_blur(pixels[chosen], sigma))
    return blurred.contiguous(memory_format=torch.channels_last)


def gaussian_blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Each picture convolved with a Gaussian of its ``sigma`` (N,) in pixels, cut off at three, borders reflected."""
    height, width = pixels.shape[2:]
    radius = min(math.ceil(3 * float(sigma.max())), height - 1, width - 1)
    distance = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).to(pixels.device)
    taps = weights.T[:, :, None, None, None]
    padded = F.pad(pixels, (radius,) * 4, mode="reflect")
    # One multiply-add per tap: there is a kernel per picture, and convolutions with as many groups are slow.
    rows = sum((tap * padded[:, :, start : start + height] for start, tap in enumerate(taps)), torch.zeros(()))
    return sum((tap * rows[..., start : start + width] for start, tap in enumerate(taps)), torch.zeros(()))


def random_erase(pixels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """With ``probability``, a rectangle of each picture overwritten with random levels (arXiv:1708.04896).

    It has 2 to 40 % of the area and lies inside the picture; sides longer than the picture's are cut to it.
    """
    n, _, height, width = pixels.shape
    chance, size, shape, down, right = torch.rand((5, n, 1), generator=generator)
    area = height * width * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * size)
    aspect = ERASED_ASPECT ** (2 * shape - 1)
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top, left = (down * (height - tall + 1)).floor(), (right * (width - wide + 1)).floor()
    row, column = torch.arange(height), torch.arange(width)
    rows = (row >= top) & (row < top + tall) & (chance < probability)
    columns = (column >= left) & (column < left + wide)
    erased = (rows[:, :, None] & columns[:, None, :])[:, None].to(pixels.device)
    levels = 255 * torch.rand(pixels.shape, generator=_near(generator, pixels), device=pixels.device)
    return torch.where(erased, levels, pixels).contiguous(memory_format=torch.channels_last)


def _near(generator: torch.Generator, pixels: Tensor) -> torch.Generator:
    """``generator`` itself on the CPU; elsewhere one on the pixels' device that starts from a number it gives."""
    if pixels.device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return torch.Generator(pixels.device).manual_seed(seed)
