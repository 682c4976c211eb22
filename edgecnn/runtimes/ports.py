"""What goes into a network file and what comes out, whatever the file's layout and number types.

Every engine describes its file's one input and one output here, and this module turns pictures into that input and that
output into logits. Conventions for files that edgecnn did not write:

* ``uint8`` inputs take the pixels as they are, ``int8`` inputs ``pixel - 128``: that is how integer image classifiers
  are built, and it is exact for every network whose input scale maps the 256 pixel levels onto the 256 integer levels.
  If a normalization is given and fills the input's range of integers (one made for another network does not), an
  ``int8`` input with a scale takes ``round(normalized / scale) + zero_point`` instead.
* Floating-point inputs take ``(pixel / 255 - mean) / std``, so mean and std must be known: no guess is made.
* Integer outputs are dequantized; outputs of shape ``(N, K, 1, 1)`` and the like become ``(N, K)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import RuntimeFailure

Pictures = NDArray[np.uint8]
Logits = NDArray[np.float32]
INPUT_TYPES = ("uint8", "int8", "float32", "float16")


@dataclass(frozen=True)
class Normalization:
    """``(pixel / 255 - mean) / std`` per channel, RGB or grey, mean and std in units of [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class InputPort:
    """The image input of a file; ``None`` is a size the file leaves open. ``scale`` 0 means not quantized.

    ``channels`` is 3 for RGB and 1 for grey pictures.
    """

    name: str
    dtype: str
    layout: str
    batch: int | None
    height: int | None
    width: int | None
    scale: float = 0.0
    zero_point: int = 0
    channels: int | None = 3

    def as_dict(self) -> dict[str, Any]:
        """For the wire."""
        return asdict(self)


@dataclass(frozen=True)
class OutputPort:
    """The class-score output of a file; ``scale`` 0 means not quantized."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    scale: float = 0.0
    zero_point: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For the wire."""
        return asdict(self)


def input_port(
    name: str,
    shape: Sequence[int | None],
    dtype: str,
    *,
    default_layout: str,
    scale: float = 0.0,
    zero_point: int = 0,
) -> InputPort:
    """Recognize an image input of three channels, or of one; ``shape`` has ``None`` for open dimensions.

    The channels are where the 3 is, or else the 1; ``default_layout`` decides when both ends could be it. Raises
    ``RuntimeFailure`` for anything that is neither an RGB nor a grey image.
    """
    found = f"input {name!r} is {dtype} {_words(shape)}"
    wanted = "an image classifier takes one RGB image, (N, H, W, 3) or (N, 3, H, W), or a grey one with 1 for 3"
    if len(shape) != 4 or dtype not in INPUT_TYPES:
        raise RuntimeFailure(found, hint=f"{wanted}, of type {', '.join(INPUT_TYPES)}")
    ends = (shape[1], shape[3])
    channels = next((count for count in (3, 1) if count in ends), 3)
    if channels not in ends and None not in ends:
        raise RuntimeFailure(found, hint=wanted)
    exact_first, exact_last = (end == channels for end in ends)
    layout = default_layout if exact_first == exact_last else ("NCHW" if exact_first else "NHWC")
    height, width = (shape[2], shape[3]) if layout == "NCHW" else (shape[1], shape[2])
    return InputPort(name, dtype, layout, shape[0], height, width, scale, zero_point, channels)


def encode(port: InputPort, images: Pictures, normalization: Normalization | None) -> NDArray[Any]:
    """Pictures ``(N, H, W, C)`` uint8 -> what the file's input takes, contiguous.

    Raises ``RuntimeFailure`` when the size is not the file's, or a float input has no normalization.
    """
    check_pictures(port, images)
    values = _values(port, images, normalization)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if port.layout == "NCHW" else values)


def check_pictures(port: InputPort, images: Pictures) -> None:
    """Raises ``RuntimeFailure`` unless ``images`` is uint8 ``(N, H, W, C)`` of the file's size and channels."""
    wanted = (port.channels,) if port.channels is not None else (3, 1)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in wanted:
        shapes = " or ".join(f"(N, H, W, {channels})" for channels in wanted)
        raise RuntimeFailure(f"pictures are {images.dtype} {images.shape}", hint=f"wanted: uint8 {shapes}")
    height, width = images.shape[1:3]
    if port.height not in (None, height) or port.width not in (None, width):
        raise RuntimeFailure(
            f"pictures are {height} x {width}, the file takes {port.height} x {port.width}",
            hint="resize the pictures to the size that the file was made for",
        )


def _values(port: InputPort, images: Pictures, normalization: Normalization | None) -> NDArray[Any]:
    if port.dtype == "uint8":
        return images
    if port.dtype == "int8":
        if normalization is None or port.scale == 0:
            return (images ^ 0x80).view(np.int8)  # pixel - 128 in two's complement
        levels = np.round(_table(normalization) / port.scale) + port.zero_point
        if not _fills_int8(levels):
            return (images ^ 0x80).view(np.int8)
        return _look_up(np.clip(levels, -128, 127).astype(np.int8), images)
    if normalization is None:
        raise RuntimeFailure(
            f"input {port.name!r} is {port.dtype}: how pixels become numbers is not written in the file",
            hint="give the mean and std that the network was trained with (for plain 0..255 pixels: mean 0, std 1/255)",
        )
    return _look_up(_table(normalization).astype(port.dtype), images)


def _table(normalization: Normalization) -> NDArray[np.float64]:
    """Real value of every pixel level: (256, C). A table is exact and quicker than arithmetic on pictures."""
    levels = np.arange(256, dtype=np.float64)[:, None] / 255
    mean, std = np.asarray(normalization.mean, np.float64), np.asarray(normalization.std, np.float64)
    return np.asarray((levels - mean) / std)


def _fills_int8(levels: NDArray[np.float64]) -> bool:
    """Whether a normalization is the one that an input scale was chosen for.

    A scale is chosen so that the input's range takes up the 256 integers. A normalization that uses few of them, or
    runs far out of them, is another network's.
    """
    low, high = float(levels.min()), float(levels.max())
    return high - low >= 192 and low >= -136 and high <= 135


def _look_up(table: NDArray[Any], images: Pictures) -> NDArray[Any]:
    """A table with one column serves all channels."""
    columns = np.arange(images.shape[-1]) % table.shape[1]
    return np.stack([table[images[..., channel], column] for channel, column in enumerate(columns)], axis=-1)


def decode(port: OutputPort, raw: NDArray[Any], count: int) -> Logits:
    """The file's output for ``count`` pictures -> logits (count, K). Raises ``RuntimeFailure`` for other shapes."""
    shape = raw.shape if raw.ndim > 1 else (1, *raw.shape)
    if shape[0] != count or sum(length != 1 for length in shape[1:]) > 1:
        raise RuntimeFailure(
            f"output {port.name!r} is {raw.dtype} {_words(raw.shape)} for {count} picture(s)",
            hint="a classifier gives one row of class scores per picture: (N, K)",
        )
    rows = raw.reshape(count, -1).astype(np.float32)
    if port.scale == 0 or raw.dtype.kind == "f":
        return np.ascontiguousarray(rows)
    return np.ascontiguousarray((rows - np.float32(port.zero_point)) * np.float32(port.scale))


def choose_output(names: Sequence[str]) -> int:
    """Which output holds the class scores: the only one, or the one called logits. Raises ``RuntimeFailure``."""
    if len(names) == 1:
        return 0
    if "logits" in names:
        return list(names).index("logits")
    raise RuntimeFailure(
        f"the file has {len(names)} outputs: {', '.join(names[:5])}", hint="wanted: one output, or one called 'logits'"
    )


def only_input(names: Sequence[str]) -> None:
    """Raises ``RuntimeFailure`` unless there is exactly one input."""
    if len(names) != 1:
        raise RuntimeFailure(f"the file has {len(names)} inputs: {', '.join(names[:5])}", hint="wanted: one image")


def in_batches(images: Pictures, size: int, pad: bool, infer: Callable[[Pictures], Logits]) -> Logits:
    """Logits of any number of pictures, ``size`` at a time.

    With ``pad`` the last batch is filled up with copies of its last picture, for files of a fixed batch size.
    """
    parts = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        missing = size - len(part) if pad else 0
        full = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        parts.append(infer(full)[: len(part)])
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _words(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("?" if length is None else str(length) for length in shape) + ")"
