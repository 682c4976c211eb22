"""The embedded set: 1,797 handwritten digits of 8 x 8 grey pixels that come with scikit-learn; nothing is downloaded.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edgecnn.data.items import Item
from edgecnn.data.preprocess import Pixels
from edgecnn.data.splits import SPLIT_ORDER, split_stratified
from edgecnn.spec import Split


@dataclass(frozen=True)
class Digits:
    """The digits, held in memory as ``uint8`` (1797, 8, 8)."""

    name: str
    labels: tuple[str, ...]
    splits: Mapping[Split, tuple[Item, ...]]
    digest: str
    notes: tuple[str, ...]
    pixels: Pixels

    def read(self, item: Item) -> Image.Image:
        """The digit as an 8 x 8 RGB picture."""
        return Image.fromarray(self.pixels[int(item.id.removeprefix("digits/"))]).convert("RGB")


def open_digits(*, seed: int, fractions: tuple[float, float, float]) -> Digits:
    """The digits with their 0..16 ink levels spread over 0..255, split at random but stratified."""
    from sklearn.datasets import load_digits  # about a second: only when this set is really wanted

    levels, targets = load_digits(return_X_y=True)
    pixels = np.round(levels.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    items = [Item(f"digits/{index:04d}", int(label)) for index, label in enumerate(targets)]
    return Digits(
        name="digits",
        labels=tuple(str(digit) for digit in range(10)),
        splits=split_stratified(items, dict(zip(SPLIT_ORDER, fractions, strict=True)), seed),
        digest=hashlib.sha256(pixels.tobytes() + targets.astype(np.int64).tobytes()).hexdigest(),
        notes=(),
        pixels=pixels,
    )
