"""The one reference implementation of decoding and preprocessing; everything that feeds a network goes through here."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from edgecnn.errors import DataError
from edgecnn.spec import Interpolation, Preprocess

Pixels = NDArray[np.uint8]

_FILTERS = {
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
}
# EXIF tag 274: how to turn the stored picture so that it stands upright (1 is upright already).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WITH_ALPHA = {"RGBA", "LA", "PA", "La", "RGBa"}
_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N", "I"}


def load_picture(source: Path | str | IO[bytes]) -> Image.Image:
    """Decode a picture file completely, to upright 8-bit RGB.

    The EXIF orientation is applied; of 16-bit samples the high byte is kept; alpha and transparent palettes are laid
    over white; CMYK is converted by Pillow's formula, colour profiles are ignored; of an animation the first frame is
    taken.

    Raises ``DataError`` if the file is missing, empty, broken, truncated or of a kind that has no defined 8-bit range.
    """
    name = str(source) if isinstance(source, str | Path) else getattr(source, "name", "the picture")
    problem = ""
    try:
        content = Path(source).read_bytes() if isinstance(source, str | Path) else source.read()
        if content:
            return decode(content)
        problem = "the file is empty (0 bytes)"
    except DataError as error:
        problem = error.message
    except OSError as error:
        problem = error.strerror or str(error)
    raise DataError(f"{name}: {problem}", hint="replace or remove the file")


def decode(content: bytes) -> Image.Image:
    """As ``load_picture``, from the bytes of a file. Raises ``DataError`` whose message is the reason alone."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return _upright(image, to_rgb(image))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError("not a picture of a known format") from error
    except Exception as error:
        # Pillow's plugins raise nearly anything on damaged bytes (SyntaxError, struct.error, KeyError, zlib.error ...).
        raise DataError(f"broken picture ({type(error).__name__}: {error})") from error


def _upright(stored: Image.Image, picture: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(stored.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Cameras and editors leave damaged EXIF blocks beside good pixels (any exception, as in decode): nothing is
        # known about the orientation then, and every viewer shows the picture as it is stored.
        return picture
    return picture if turn is None else picture.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """An 8-bit RGB copy of a decoded picture of any mode (itself if it is RGB already).

    Raises ``DataError`` for modes without a fixed range (32-bit and floating-point samples).
    """
    if image.mode in _SIXTEEN_BIT:
        image = _high_byte(image)
    elif image.mode == "F":
        raise DataError("floating-point samples have no fixed range; save the picture with 8 or 16 bits")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" and type(image) is Image.Image else image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit grey as Pillow does it for 16-bit colour: the high byte."""
    samples = np.asarray(image)
    if samples.min(initial=0) < 0 or samples.max(initial=0) > 0xFFFF:
        raise DataError("32-bit samples have no fixed range; save the picture with 8 or 16 bits")
    return Image.fromarray((samples.astype(np.uint16) >> 8).astype(np.uint8))


def apply(p: Preprocess, image: Image.Image) -> Pixels:
    """Resize the short side to ``p.resize``, cut out the centre: picture of any size -> ``uint8`` (size, size, 3).

    A grey preprocessing gives (size, size, 1): the picture is turned grey first (``spec.Preprocess``).

    The long side becomes ``int(p.resize * long / short)`` and the crop starts at ``round((side - size) / 2)``: the
    numbers of torchvision's Resize and CenterCrop on Pillow images, so either may be used to check the other.
    """
    image = to_rgb(image) if p.channels == 3 else to_rgb(image).convert("L")
    width, height = image.size
    short = min(width, height)
    target = (p.resize * width // short, p.resize * height // short)
    if target != image.size:
        image = image.resize(target, _FILTERS[p.interpolation])
    if target != (p.size, p.size):
        left, top = round((target[0] - p.size) / 2.0), round((target[1] - p.size) / 2.0)
        image = image.crop((left, top, left + p.size, top + p.size))
    return np.array(image, dtype=np.uint8).reshape(p.size, p.size, p.channels)


def to_picture(pixels: Pixels) -> Image.Image:
    """The picture of pixels (H, W, 3) or, grey, (H, W, 1)."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def to_dict(p: Preprocess) -> dict[str, Any]:
    """Plain JSON values; ``from_dict`` gives an equal ``Preprocess`` back."""
    plain = dataclasses.asdict(p)
    return plain | {"mean": list(p.mean), "std": list(p.std), "interpolation": str(p.interpolation)}


def from_dict(d: dict[str, Any]) -> Preprocess:
    """Build and check a ``Preprocess`` from JSON values. Raises ``DataError`` naming the field that is wrong."""
    fields = {field.name for field in dataclasses.fields(Preprocess)}
    if unknown := sorted(set(d) - fields):
        raise _bad(f"unknown field {', '.join(unknown)}")
    if missing := sorted({"size", "mean", "std"} - set(d)):
        raise _bad(f"missing field {', '.join(missing)}")
    if d.get("interpolation", Interpolation.BILINEAR) not in list(Interpolation):
        raise _bad(f"interpolation is {d['interpolation']!r}, wanted one of {', '.join(Interpolation)}")
    if not isinstance(d["size"], int) or isinstance(d["size"], bool) or d["size"] < 1:
        raise _bad(f"size is {d['size']!r}, wanted a whole number of pixels")
    crop = d.get("crop_fraction", 1.0)
    if not _is_number(crop) or not 0 < crop <= 1:
        raise _bad(f"crop_fraction is {crop!r}, wanted a number in (0, 1]")
    mean, std = _per_channel("mean", d["mean"]), _per_channel("std", d["std"])
    if len(mean) != len(std):
        raise _bad(f"mean is {d['mean']!r} and std {d['std']!r}, wanted as many numbers")
    return Preprocess(
        size=d["size"],
        mean=mean,
        std=std,
        interpolation=Interpolation(d.get("interpolation", Interpolation.BILINEAR)),
        crop_fraction=float(crop),
    )


def _per_channel(name: str, values: Any) -> tuple[float, ...]:
    good = isinstance(values, list | tuple) and len(values) in (1, 3) and all(map(_is_number, values))
    if not good or (name == "std" and min(values) <= 0):
        above = " above 0" if name == "std" else ""
        raise _bad(f"{name} is {values!r}, wanted three numbers{above}, one per channel, or one for grey")
    return tuple(map(float, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _bad(problem: str) -> DataError:
    return DataError(f"preprocessing: {problem}", hint="see edgecnn.spec.Preprocess for the fields and their units")
