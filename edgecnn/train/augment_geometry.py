"""Where pixels go: rotation, zoom and shear of whole batches in one resampling, and vertical mirroring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = {"reflect": "reflection", "nearest": "border", "constant": "zeros"}
"""What stands outside of the picture -> what grid_sample calls it."""
GREY = (127.5,)


@dataclass(frozen=True)
class Border:
    """What comes into view beyond the picture.

    ``fill`` is ``reflect`` (its mirror image), ``nearest`` (the border pixel repeated) or ``constant``: ``colour``,
    a level of each channel, or one for all, in the units of the pixels.
    """

    fill: str = "reflect"
    colour: Sequence[float] = GREY


MIRRORED = Border()


def flip_vertical(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn half of the pictures upside down: images (N, H, W, C) of any type -> the same shape and type."""
    turned = torch.rand((len(images), 1, 1, 1), generator=generator) < 0.5
    return torch.where(turned.to(images.device), images.flip(1), images)


def random_affine(
    pixels: Tensor,
    rotate: float,
    zoom: float,
    shear: float,
    generator: torch.Generator,
    border: Border = MIRRORED,
) -> Tensor:
    """Rotate by up to ``rotate`` degrees, scale by 1 - ``zoom`` to 1 + ``zoom``, shear by up to ``shear`` degrees.

    All three are drawn per picture, evenly, and done in one bilinear resampling about the centre.
    pixels (N, C, H, W) float in 0..255 -> the same shape and range.
    """
    angle, scale, slant = 2 * torch.rand((3, len(pixels)), generator=generator) - 1
    return warp(pixels, affine_matrices(rotate * angle, 1 + zoom * scale, shear * slant), border=border)


def affine_matrices(angle: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """From places in the result to places in the picture: three (N,) -> (N, 2, 2), acting on (x right, y down).

    The picture is sheared along its rows by ``shear`` degrees, scaled by ``scale`` and then turned counterclockwise by
    ``angle`` degrees.
    """
    turn, slant = torch.deg2rad(angle), torch.tan(torch.deg2rad(shear))
    cos, sin = turn.cos() / scale, turn.sin() / scale
    first = torch.stack([cos - slant * sin, -sin - slant * cos], 1)
    return torch.stack([first, torch.stack([sin, cos], 1)], 1)


def warp(pixels: Tensor, matrices: Tensor, offsets: Tensor | None = None, border: Border = MIRRORED) -> Tensor:
    """Each pixel taken from ``matrix @ place + offset`` of its picture, places counted in pixels from the centre.

    Args:
        pixels: (N, C, H, W) float -> the same shape, stored channels last.
        matrices: (N, 2, 2), acting on (x right, y down).
        offsets: (N, 2), in pixels; ``None``: zero.
        border: what is outside of the picture.
    """
    n, _, height, width = pixels.shape
    # affine_grid counts from -1 to 1 along either side, so that x and y have different units unless H = W.
    theta = torch.zeros(n, 2, 3)
    theta[:, :, :2] = matrices * torch.tensor([[1.0, height / width], [width / height, 1.0]])
    if offsets is not None:
        theta[:, :, 2] = offsets * torch.tensor([2 / width, 2 / height])
    grid = F.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
    outside = torch.tensor(border.colour if border.fill == "constant" else (0.0,), device=pixels.device).view(-1, 1, 1)
    moved: Tensor = F.grid_sample(
        pixels - outside, grid, mode="bilinear", padding_mode=PADDING[border.fill], align_corners=False
    )
    return (moved + outside).contiguous(memory_format=torch.channels_last)
