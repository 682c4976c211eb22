"""Small questions about quantized numbers that every format asks."""

from __future__ import annotations

from collections.abc import Sequence

from edgecnn.errors import ModelError
from edgecnn.graph.ir import Graph, QParams


def integer_clamp(qparams: QParams, clamp: Sequence[float | None] | None) -> tuple[int, int] | None:
    """``clamp`` (real bounds, ``None`` = open) in steps of ``qparams``; ``None`` when their range implies it."""
    low, high = clamp or (None, None)
    bottom, top = qparams.ends
    bottom = bottom if low is None else _step(qparams, low)
    top = top if high is None else _step(qparams, high)
    return None if (bottom, top) == qparams.ends else (bottom, top)


def _step(qparams: QParams, real: float) -> int:
    bottom, top = qparams.ends
    return min(top, max(bottom, qparams.zero_point + round(real / qparams.scale)))


def pixel_qparams(graph: Graph) -> tuple[float, int]:
    """Scale and uint8 zero point that read a pixel as the network's input: ``scale * (pixel - zero_point)``.

    Raises ``ModelError`` when the input's normalization is not of that form, or a quantized graph has other numbers
    for it.
    """
    mean, std = graph.input.attrs["mean"], graph.input.attrs["std"]
    zero_point = round(255 * mean[0])
    if len(set(mean)) > 1 or len(set(std)) > 1 or abs(255 * mean[0] - zero_point) > 1e-3 or not 0 <= zero_point <= 255:
        raise ModelError(
            f"the input's normalization (mean {mean}, std {std}) does not fold into a scale and a zero point",
            hint="give the input mean 0 and std 1, and normalize in a depthwise 1x1 convolution",
        )
    scale = 1 / (255 * std[0])
    given = graph.qparams.get(graph.input.name)
    if given is not None and (given.zero_point != zero_point - 128 or abs(given.scale / scale - 1) > 1e-5):
        raise ModelError(
            f"the quantized input has scale {given.scale}, zero point {given.zero_point}",
            hint=f"pixels need scale {scale}, zero point {zero_point - 128}: the input is not calibrated, it is known",
        )
    return (scale if given is None else given.scale), zero_point


def folds(graph: Graph) -> bool:
    """Whether the float input is one scale and one whole zero point for all channels."""
    mean, std = graph.input.attrs["mean"], graph.input.attrs["std"]
    return len(set(mean)) == 1 and len(set(std)) == 1 and abs(255 * mean[0] - round(255 * mean[0])) <= 1e-3
