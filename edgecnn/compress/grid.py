"""Which integers a layer's weights become, and at which scale.

int8 per output channel is what all runtimes compute. Fewer bits, or one scale for a whole tensor, say what a network
stands and how well it is repaired (``benchmarks/stress_4bit.py``): the integers are still int8's, so such a graph runs
everywhere too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecnn.graph.ir import Array

SHARES = np.linspace(1.0, 0.3, 36)  # of the largest magnitude: where the range may end


@dataclass(frozen=True)
class Grid:
    """Symmetric integers of so many ``bits``, 8 at most, at a scale per output channel or one ``per_tensor``.

    ``clipped``: not the largest magnitude decides the scale but the squared error of all weights, which with few levels
    is less where the largest are cut off (Banner et al. 2019, arXiv 1810.05723, on the clipping that minimizes it).
    """

    bits: int = 8
    per_tensor: bool = False
    clipped: bool = False

    @property
    def largest(self) -> int:
        """Integers lie in [-largest, largest]: the most negative one is not used, so any can be negated."""
        return int(2 ** (self.bits - 1)) - 1

    def scales(self, weight: Array) -> Array:
        """The scale of each output channel of a real weight (O, ...), float64 (O,); 0 where there are only zeros."""
        rows = weight.astype(np.float64).reshape(1 if self.per_tensor else len(weight), -1)
        found = clipped_scales(rows, self.largest) if self.clipped else np.abs(rows).max(1) / self.largest
        return np.broadcast_to(found, len(weight))


def clipped_scales(rows: Array, largest: int) -> Array:
    """For each row (R, D) the scale (R,) at which rounding to [-largest, largest] has the least squared error."""
    full = np.abs(rows).max(1) / largest
    best: Array = full
    least = np.full(len(rows), np.inf)
    for share in SHARES:
        scale = np.where(full > 0, share * full, 1.0)[:, None]
        error = np.square(np.clip(np.rint(rows / scale), -largest, largest) * scale - rows).sum(1)
        best, least = np.where(error < least, share * full, best), np.minimum(error, least)
    return best
