"""Pipelines of Albumentations on the pictures of a batch: uint8 in, uint8 of the same shape out.

All that a picture's transforms draw comes from one generator per picture, seeded by (seed, epoch, picture id, how often
it was in the batch before): neither the order of the pictures nor the number of threads changes a pixel, and a training
that goes on draws what it would have drawn. (``Compose.set_random_seed`` gives every transform the same seed, so that
all with one ``p`` would be applied to the same pictures; here they share one generator, as they do unseeded.)
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import os
import random
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.catalog import require
from edgecnn.data.parallel import usable_cores
from edgecnn.errors import UsageError
from edgecnn.transforms import NESTED

Pictures = NDArray[np.uint8]

TRIALS = 6  # random draws of the pipeline that ``check`` makes as it is, and again with every transform applied
LONGEST = 300  # letters of somebody else's error message


class Pipeline:
    """A pipeline, from its description, and copies of it for threads: one computes on one picture at a time."""

    def __init__(self, described: Sequence[dict[str, Any]], threads: int | None = None) -> None:
        """Build it. Raises UsageError for unknown transforms and arguments, MissingPackageError."""
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks the network for its version
        self._library = require("albumentations", extra="albumentations")
        whole = [self._build(node) for node in described]
        alone = len(whole) == 1 and isinstance(whole[0], self._library.Compose)
        first = whole[0] if alone else self._library.Compose(whole)
        self._copies = [first, *(copy.deepcopy(first) for _ in range((threads or usable_cores()) - 1))]
        self._pace = _Pace(len(self._copies))

    def check(self, size: int) -> None:
        """Try it on a picture of ``size`` pixels, so that what cannot work is told before a training.

        Every transform is tried: with those that are on by chance switched on too. Raises UsageError where one fails,
        the result has another size or type, or the same seed does not give the same picture.
        """
        picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        always = copy.deepcopy(self._copies[0])
        for transform in _all(always):
            transform.p = 1.0 if transform.p else 0.0
        for pipeline in (self._copies[0], always):
            for seed in range(TRIALS):
                first, again = (_apply(pipeline, picture, seed, "a trial picture") for _ in range(2))
                if (first != again).any():
                    raise UsageError(
                        "albumentations: the pipeline does not give the same picture for the same seed",
                        hint="a transform in it draws its numbers elsewhere: leave it out, trainings are repeatable",
                    )

    def __call__(self, images: Pictures, seeds: Sequence[int], names: Sequence[str]) -> Pictures:
        """Each picture of (N, H, W, 3) changed as its seed says: the same shape. ``names`` are for errors.

        Raises UsageError for a picture whose result has another size or type.
        """
        result = np.empty_like(images)

        def work(pipeline: Any, part: range) -> None:
            for at in part:
                result[at] = _apply(pipeline, np.ascontiguousarray(images[at]), seeds[at], names[at])

        used = self._pace.start()
        parts = [range(first, len(images), used) for first in range(used)]
        if used == 1:
            work(self._copies[0], parts[0])
        else:
            with ThreadPoolExecutor(used) as pool:
                list(pool.map(work, self._copies, parts))
        self._pace.stop(used, len(images))
        return result

    def _build(self, node: dict[str, Any]) -> Any:
        """One transform with all that is inside it."""
        ((name, arguments),) = node.items()
        inside = {NESTED: [self._build(each) for each in arguments[NESTED]]} if NESTED in arguments else {}
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # that is how it tells an argument that a transform does not have
            try:
                return self._class(name)(**{**arguments, **inside})
            except (ValueError, TypeError, AttributeError, KeyError, Warning) as error:
                raise UsageError(
                    f"albumentations: {name} cannot be made of {arguments}: {_one_line(error)}",
                    hint=f"its arguments are those of the library's version {self._library.__version__}",
                ) from error

    def _class(self, name: str) -> type:
        """The library's class of that name. Raises UsageError with the closest ones."""
        bases = (self._library.BasicTransform, self._library.BaseCompose)
        found = getattr(self._library, name, None)
        if isinstance(found, type) and issubclass(found, bases):
            return found
        names = [each for each, value in vars(self._library).items() if isinstance(value, type)]
        close = difflib.get_close_matches(name, [each for each in names if each[0].isupper()], n=3)
        raise UsageError(
            f"albumentations: there is no transform {name!r}",
            hint=f"did you mean {' or '.join(close)}?" if close else "names are those of the library's classes",
        )


class _Pace:
    """Whether threads are faster, which depends on pictures and transforms: tried on some batches, then kept.

    The first batch warms up, the second is timed in one thread, the third in all.
    """

    def __init__(self, threads: int) -> None:
        self._candidates = [1, 1, threads] if threads > 1 else [1]
        self._seconds: dict[int, float] = {}
        self._since = 0.0

    def start(self) -> int:
        """How many threads the next batch takes."""
        self._since = time.perf_counter()
        return self._candidates[0]

    def stop(self, used: int, pictures: int) -> None:
        """The batch is done."""
        self._seconds[used] = (time.perf_counter() - self._since) / max(pictures, 1)
        if len(self._candidates) > 1:
            del self._candidates[0]
        elif used > 1 and self._seconds[used] > self._seconds.get(1, float("inf")):
            self._candidates = [1]


def seeds_of(seed: int, epoch: int, ids: Sequence[str]) -> list[int]:
    """A seed for every picture of a batch; the same picture has another one each time it is in it."""
    met: Counter[str] = Counter()
    seeds = []
    for name in ids:
        digest = hashlib.sha256(f"{seed} {epoch} {met[name]} {name}".encode()).digest()
        seeds.append(int.from_bytes(digest[:7], "big"))
        met[name] += 1
    return seeds


def _apply(pipeline: Any, picture: Pictures, seed: int, name: str) -> Pictures:
    """One picture through the pipeline."""
    numbers, choices = np.random.default_rng(seed), random.Random(seed)
    for transform in _all(pipeline):
        transform.set_random_state(numbers, choices)
    try:
        changed = pipeline(image=picture)["image"]
    except Exception as error:  # whatever a transform raises, it is one of the pipeline's
        raise UsageError(
            f"albumentations: the pipeline fails on {name} of {len(picture)} pixels: {_one_line(error)}",
            hint="try it with edgecnn data preview, and take transforms out until it works",
        ) from error
    if not isinstance(changed, np.ndarray) or changed.dtype != np.uint8 or changed.shape != picture.shape:
        found = f"{getattr(changed, 'dtype', type(changed).__name__)} {tuple(changed.shape)}"
        raise UsageError(
            f"albumentations: the pipeline makes {found} of {name}, which was uint8 {picture.shape}",
            hint=f"its last word on size must be {len(picture)} pixels (image_size); leave Normalize and ToTensorV2 "
            "out, edgecnn does both",
        )
    return changed


def _all(transform: Any) -> Iterator[Any]:
    """The transform and all that are inside it."""
    yield transform
    for each in getattr(transform, "transforms", None) or ():
        yield from _all(each)


def _one_line(error: Exception) -> str:
    """What the library says, without pydantic's headline and its address on the network."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and "validation error" not in line and "further information" not in line]
    return (": ".join(kept) or type(error).__name__)[:LONGEST]
