"""What can be wrong with an int8 network, in words, and what repairs it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """What is wrong, in the words that are shown."""

    BIAS_SHIFT = "bias shift"
    UNFUSED_BN = "unfused BatchNorm"
    BLOWN_CHANNEL = "blown-up channel"
    PREPROCESSING = "preprocessing mismatch"
    FEW_IMAGES = "too few calibration images"
    SATURATED = "clipped range"
    DEPTHWISE = "depthwise range spread"
    RESIDUAL = "residual-scale mismatch"
    HARD_SWISH = "hard-swish tail"
    OUTLIERS = "outlier values"
    UNUSED = "unused range"
    SE_GATE = "squeeze-excite gate"
    FIRST = "first layer"
    LAST = "last layer"
    ROUNDING = "rounding"


REPAIRS: dict[Cause, str] = {
    Cause.BIAS_SHIFT: "quantize the float bundle again (edgecnn compress FLOAT --quantize int8), or --qat",
    Cause.UNFUSED_BN: "put the BatchNorm directly behind a convolution that nobody else reads: capture then folds it",
    Cause.BLOWN_CHANNEL: "compress with --repair (the default), which gives channels one range where it can; else train"
    " with --activation relu6, which bounds every channel, or with more --weight-decay",
    Cause.PREPROCESSING: "calibrate on pictures that are read as in training: edgecnn compress FLOAT --quantize int8"
    " reads them so, with --data where they are now",
    Cause.FEW_IMAGES: "--calibration-images 512",
    Cause.SATURATED: "more --calibration-images; --calibration-method minmax cuts nothing",
    Cause.DEPTHWISE: "compress with --repair (the default), which gives channels one range; else --qat",
    Cause.RESIDUAL: "--qat, which brings both branches to steps that fit each other",
    Cause.HARD_SWISH: "--calibration-method mse, which cuts the tail; or train with --activation relu6, which has none",
    Cause.OUTLIERS: "--calibration-method percentile or mse",
    Cause.UNUSED: "--calibration-method percentile or mse; edgecnn data check finds pictures that should not be there",
    Cause.SE_GATE: "--qat; or a network without gates, such as --model mobilenet_v2",
    Cause.FIRST: "--qat: every later layer reads what it loses",
    Cause.LAST: "--qat: nothing behind it averages its noise out",
    Cause.ROUNDING: "nothing is out of order here; --qat, or a wider network (--width), loses less",
}


@dataclass(frozen=True)
class Reason:
    """A cause with the numbers that show it."""

    cause: Cause
    evidence: str

    @property
    def repair(self) -> str:
        """What to do about it."""
        return REPAIRS[self.cause]

    def __str__(self) -> str:
        """One line."""
        return f"{self.cause}: {self.evidence}; {self.repair}"
