"""What is needed to build a network again: a name and a few numbers, all JSON.

A bundle stores this beside the channel plan and the weights; the three together rebuild the network without a pickle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgecnn.errors import ModelError

StageRow = tuple[int | float | str, ...]

INPUT_CHANNELS = "input_channels"
"""The attribute in which a built network says how many channels its pictures have."""
SMALL_IMAGE = 64
"""Up to this size, in pixels, the early strides of a network made for 224 px are reduced by default."""
SMALLEST_MAP = 4
"""The last feature map of a small-image variant has at least this side, in pixels."""


@dataclass(frozen=True)
class ModelSpec:
    """A network by name and options; every ``None`` means "what the paper (or timm) does".

    Attributes:
        name: a row of the catalog (``mobilenet_v2``), ``timm:<any timm model>`` or ``torchvision:<name>``.
        num_classes: number of logits.
        image_size: side of the square input, in pixels.
        width: width multiplier on the channels of all convolutions (MobileNetV2 and V3; ResNet-8 too).
        stem_stride: stride of the first convolution; 2 by default, or less for small images (``plan_strides``).
        strides: stride of each stage (V2: 7 numbers, V3: one per block), in the order of the paper's table.
        stages: the whole table of the paper, replaced. V2 rows are ``(expansion, channels, repeats, stride)``; V3
            rows are ``(kernel, expanded, channels, squeeze_excite 0|1, "RE"|"HS", stride)``.
        head: channels of the layer before the classifier (paper: V2 1280, V3-small 1024, V3-large 1280).
        dropout: probability before the classifier.
        activation: replaces the network's activation everywhere: relu, relu6, hardswish or silu.
        channels: of the picture: 3, or 1 for grey.
    """

    name: str
    num_classes: int
    image_size: int
    width: float = 1.0
    stem_stride: int | None = None
    strides: tuple[int, ...] | None = None
    stages: tuple[StageRow, ...] | None = None
    head: int | None = None
    dropout: float | None = None
    activation: str | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        """Refuse numbers no network can have. Raises ModelError."""
        wrong = [
            f"{key}={getattr(self, key)}" for key in ("num_classes", "image_size", "width") if getattr(self, key) <= 0
        ]
        for key in ("stem_stride", "head"):
            value = getattr(self, key)
            wrong += [f"{key}={value}"] if value is not None and value < 1 else []
        if self.strides is not None and any(stride < 1 for stride in self.strides):
            wrong.append(f"strides={self.strides}")
        if self.dropout is not None and not 0.0 <= self.dropout < 1.0:
            wrong.append(f"dropout={self.dropout}")
        if self.channels not in (1, 3):
            wrong.append(f"channels={self.channels}")
        if wrong:
            raise ModelError(
                f"{self.name} cannot be built with {', '.join(wrong)}",
                hint="sizes, widths and strides are positive; dropout is in [0, 1); channels are 3 (RGB) or 1 (grey)",
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON values; options left at ``None`` are absent, and so are three channels."""
        values = {key: _jsonable(value) for key, value in asdict(self).items() if value is not None}
        if self.channels == 3:
            del values["channels"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """The inverse of ``to_dict``. Raises ModelError on unknown or missing keys."""
        known = {field.name for field in fields(cls)}
        unknown, missing = set(values) - known, {"name", "num_classes", "image_size"} - set(values)
        if unknown or missing:
            found = f"unknown {sorted(unknown)}" if unknown else f"missing {sorted(missing)}"
            raise ModelError(f"this is no model description: {found}", hint=f"it may hold: {', '.join(sorted(known))}")
        changed = dict(values)
        if changed.get("strides") is not None:
            changed["strides"] = tuple(changed["strides"])
        if changed.get("stages") is not None:
            changed["stages"] = tuple(tuple(row) for row in changed["stages"])
        return cls(**changed)


def _jsonable(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    return [_jsonable(item) for item in value] if isinstance(value, tuple) else value


def plan_strides(spec: ModelSpec, stem: int, stages: list[int]) -> tuple[int, list[int]]:
    """The strides of the stem and of each stage: as asked for, else the paper's, reduced early on for small images.

    Of a small image (at most 64 px) the first strides become 1, one after the other, until the last feature map is at
    least 4 px wide: 32 px keeps 8 of MobileNet's total stride of 32, 64 px keeps 16. Strides that the spec gives, in
    ``stem_stride``, ``strides`` or a ``stages`` table, are never touched. Raises ModelError where the number of strides
    is not the number of stages.
    """
    if spec.strides is not None and len(spec.strides) != len(stages):
        raise ModelError(
            f"{spec.name} has {len(stages)} stages, but {len(spec.strides)} strides were given",
            hint=f"without this option they are: {', '.join(map(str, stages))}",
        )
    planned = [spec.stem_stride or stem, *(spec.strides or stages)]
    if spec.image_size <= SMALL_IMAGE:
        free = [0] if spec.stem_stride is None else []
        if spec.strides is None and spec.stages is None:
            free += range(1, len(planned))
        for index in free:
            if spec.image_size / math.prod(planned) >= SMALLEST_MAP:
                break
            planned[index] = 1
    return planned[0], planned[1:]


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor``, but never less than 90 % of ``channels``.

    This is the ``make_divisible`` of the MobileNet papers' reference code: widths that engines like, without
    shrinking a layer much.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
