"""The vocabulary: every word that crosses a module border is written here once.

Only the standard library is imported, so any module, and the stand-alone runtime worker, may import this one.

Conventions, valid everywhere:

* An image outside a network is ``uint8`` RGB in ``(N, H, W, 3)`` layout: what a camera gives; ``(N, H, W, 1)`` for a
  network of grey pictures.
* The network's real-valued input is ``(pixel / 255 - mean) / std`` per channel; mean and std are in units of [0, 1].
* A *drop* is accuracy lost against the parent, in percentage points; an accuracy in a result is a fraction in [0, 1].
* A *latency* is in milliseconds per call at the stated batch size; a size is in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Split(StrEnum):
    """Which part of a data set an image belongs to. The three never overlap."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class Task(StrEnum):
    """What a picture is asked; ``edgecnn.tasks`` says what the logits mean in each."""

    MULTI_CLASS = "multi_class"
    BINARY = "binary"
    MULTI_LABEL = "multi_label"


RIGHT = {Task.MULTI_CLASS: "top-1", Task.BINARY: "accuracy", Task.MULTI_LABEL: "exact match"}
"""What the share of pictures that are answered right is called."""
ACTIVATION = {Task.MULTI_CLASS: "softmax", Task.BINARY: "sigmoid", Task.MULTI_LABEL: "sigmoid"}
"""What makes probabilities of the logits."""


class Format(StrEnum):
    """How a network is written down."""

    TORCH = "torch"
    ONNX = "onnx"
    TFLITE = "tflite"
    PTE = "pte"


class IO(StrEnum):
    """What a file takes and gives: the pictures are uint8 pixels, or these minus 128; the logits real or integers.

    ``int8`` and ``uint8`` (TensorFlow's ``inference_input_type`` and ``inference_output_type``) leave nothing in the
    file that is not an integer, as accelerators and firmware want it; the logits' scale and zero point are in the file.
    """

    PICTURE = "picture"  # uint8 pictures, float32 logits
    UINT8 = "uint8"
    INT8 = "int8"


class Scheme(StrEnum):
    """How a float network is written in fewer bits; ``edgecnn.schemes`` says which files and engines can have which.

    ``int8``: int8 weights per output channel, int8 activations per tensor, integers throughout.
    ``mixed``: the same where accuracy allows, and in float32 where int8 loses most.
    ``16x8``: these int8 weights, 16-bit activations.
    ``int8-weights``: int8 weights per output channel, everything computed in float32.
    ``int8-dynamic``: these weights, and activations quantized while it runs, picture by picture.
    ``int4-weights``: 4-bit weights with a scale for each group of inputs, everything computed in float32.
    ``fp16``: weights in float16, computed in float32 or, where the hardware has it, in float16.
    """

    INT8 = "int8"
    MIXED = "mixed"
    INT16X8 = "16x8"
    INT8_WEIGHTS = "int8-weights"
    INT8_DYNAMIC = "int8-dynamic"
    INT4_WEIGHTS = "int4-weights"
    FP16 = "fp16"


class Precision(StrEnum):
    """What a network's numbers are: float32 as trained, or one of the schemes, by the same word."""

    FP32 = "fp32"
    INT8 = "int8"
    MIXED = "mixed"
    INT16X8 = "16x8"
    INT8_WEIGHTS = "int8-weights"
    INT8_DYNAMIC = "int8-dynamic"
    INT4_WEIGHTS = "int4-weights"
    FP16 = "fp16"


class Runtime(StrEnum):
    """An engine that executes a network. ``null`` executes nothing: it measures the harness itself."""

    TORCH = "torch"
    ONNXRUNTIME = "onnxruntime"
    LITERT = "litert"
    OPENVINO = "openvino"
    TFLM = "tflm"
    EXECUTORCH = "executorch"
    NULL = "null"


class Status(StrEnum):
    """How a measurement or a check ended. A failure is a row like any other."""

    OK = "ok"
    INCONCLUSIVE = "inconclusive"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


class Interpolation(StrEnum):
    """Pillow's resampling filters (they always antialias when shrinking)."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the input of a network; one value serves training, calibration, evaluation and deployment.

    The picture is decoded to RGB, its short side resized with Pillow to ``round(size / crop_fraction)`` and the centre
    ``size`` x ``size`` cut out: that is the ``uint8`` image every exported file takes. ``(pixel / 255 - mean) / std``
    happens inside the file.

    ``mean`` and ``std`` have one number per channel: three for RGB, or one for grey. A grey picture is Pillow's mode L
    of the decoded RGB one, ``L = (19595 R + 38470 G + 7471 B + 32768) >> 16`` (ITU-R BT.601), taken before it is
    resized; where R = G = B, as in a picture that is stored grey, it is that value.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = Interpolation.BILINEAR
    crop_fraction: float = 1.0

    @property
    def channels(self) -> int:
        """How many channels the picture has: 3, or 1 for grey."""
        return len(self.mean)

    @property
    def resize(self) -> int:
        """Length of the picture's short side before the centre crop, in pixels."""
        return round(self.size / self.crop_fraction)

    @property
    def uniform(self) -> bool:
        """Whether one mean and one std serve all channels, and 255 * mean is a whole number.

        Then normalization folds exactly into the scale and zero point of the quantized input.
        """
        one = len(set(self.mean)) == 1 and len(set(self.std)) == 1
        return one and abs(self.mean[0] * 255 - round(self.mean[0] * 255)) < 1e-6


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval, in the unit of the figure; ``n`` is the number of observations."""

    value: float
    low: float
    high: float
    n: int
