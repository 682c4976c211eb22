"""The steps a recipe is made of: each verb's settings, typed, strict, immutable.

``consumes`` says which kinds of bundle (``float``, or a scheme of precision) a step reads; ``output`` names the bundle
it writes inside the run, ``input`` the one it reads (default: the bundle written last).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from edgecnn import transforms
from edgecnn.spec import IO, Format, Runtime, Scheme, Task

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Of a bundle: its folder in the run, so no path."""


class Settings(BaseModel):
    """Base of everything in a recipe: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_enum_values=False)


class Training(Settings):
    """How weights are fitted; the same words train from scratch, fine-tune, and recover after pruning."""

    epochs: Positive = 20
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimizer: Annotated[str, Field(pattern=r"^(sgd|adamw|rmsprop|timm:\w+)$")] = "sgd"
    schedule: Literal["cosine", "linear", "step", "one_cycle", "constant", "plateau"] = "cosine"
    lr: Rate = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    momentum: Share = 0.9
    nesterov: bool = True
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    label_smoothing: Share = 0.1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = 0.998
    flip: bool = True
    shift: Annotated[int, Field(ge=0)] = 0
    crop_scale: Annotated[float, Field(gt=0, le=1)] | None = None
    jitter: Share = 0.0
    cutout: Annotated[int, Field(ge=0)] = 0
    flip_vertical: bool = False
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    zoom: Share = 0.0
    shear: Annotated[float, Field(ge=0, le=60)] = 0.0
    fill: Literal["reflect", "nearest", "constant"] = "reflect"
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    channel_shift: Annotated[float, Field(ge=0, le=255)] = 0.0
    noise: Annotated[float, Field(ge=0, le=255)] = 0.0
    blur: Annotated[float, Field(ge=0, le=1)] = 0.0
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0
    trivial: bool = False
    randaug: Annotated[int, Field(ge=0)] = 0
    randaug_strength: Annotated[int, Field(ge=0, le=30)] = 9
    repeat: Positive = 1
    shuffle: Positive = 16384
    albumentations: list[dict[str, Any]] | None = None
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    low_size: Positive | None = None
    low_epochs: Annotated[int, Field(ge=0)] = 0
    loss: Literal["ce", "focal", "bce"] = "ce"
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    balance: bool = False
    l1: Annotated[float, Field(ge=0)] = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    clip_norm: Rate | None = None
    accumulate: Positive = 1
    sync_bn: bool = False
    frozen_bn: bool = False
    sam: Annotated[float, Field(ge=0)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    deterministic: bool = False
    patience: Positive | None = None

    @field_validator("albumentations", mode="before")
    @classmethod
    def _described(cls, given: Any) -> Any:
        """The pipeline in its one form: what counts is its content, not the file that it was read from."""
        return None if given is None else transforms.described(given)


class TrainStep(Training):
    """Train a model, or fine-tune one when ``pretrained`` says where its weights come from.

    ``task`` is found from the pictures when it is not given: ``multi_label`` where they have several labels each. With
    ``grey`` the network takes pictures of one channel (``spec.Preprocess``).
    """

    kind: Literal["train"] = "train"
    output: Name = "float"
    model: str = "mobilenet_v2"
    width: Rate = 1.0
    stem_stride: Positive | None = None
    strides: tuple[Positive, ...] | None = None
    stages: tuple[tuple[int | float | str, ...], ...] | None = None
    head: Positive | None = None
    dropout: Share | None = None
    activation: Literal["relu", "relu6", "hardswish", "silu"] | None = None
    image_size: Positive | None = None
    pretrained: str | None = None
    normalization: Literal["auto", "uniform", "per_channel"] = "auto"
    transfer: Literal["full", "two_stage", "features"] = "full"
    classifier: Literal["logistic", "svm"] = "logistic"
    task: Task | None = None
    grey: bool = False
    train_last: Annotated[int, Field(ge=0)] | None = None
    stream: bool | None = None
    val_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    teacher: str | None = None
    distill_weight: Annotated[float, Field(ge=0, le=1)] = 0.9
    temperature: Rate = 4.0
    hint_weight: Annotated[float, Field(ge=0)] = 0.0
    hints: str = "auto"
    views: Annotated[int, Field(ge=0)] = 0
    seed: int = 0
    device: str = "auto"
    threads: Positive | None = None
    mlflow: bool | None = None

    consumes: ClassVar[tuple[str, ...]] = ()


class PruneStep(Settings):
    """Remove channels (structured), then train shortly to recover."""

    kind: Literal["prune"] = "prune"
    input: Name | None = None
    output: Name | None = None
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
    round_to: Positive = 8
    recovery: Training | None = Training(epochs=5, lr=0.02, warmup_epochs=0.5)
    seed: int = 0
    device: str = "auto"
    threads: Positive | None = None

    consumes: ClassVar[tuple[str, ...]] = ("float",)


class QatTraining(Training):
    """Quantization-aware training, with the float parent as the teacher: by default its logits are all that is learned.

    float32 throughout; see ``compress/qat.py`` for that and for the rate.
    """

    epochs: Positive = 3
    lr: Rate = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.2
    label_smoothing: Share = 0.0
    precision: Literal["fp32"] = "fp32"
    distill_weight: Annotated[float, Field(ge=0, le=1)] = 1.0
    temperature: Rate = 1.0


class QuantizeStep(Settings):
    """Fewer bits by a ``scheme``: numbers decided once for every format.

    They are decided after training, on calibration pictures; ``repair`` equalizes channels and rounds weights by what
    they meet; ``qat`` trains the numbers further (``int8`` only). ``weight_group``: of 4-bit weights so many neighbours
    share a scale, 0: all of an output channel. ``max_drop``: percentage points of accuracy that may be lost on the
    validation pictures; where it is more, the step goes on to dearer ways, at last to keeping layers in more bits, so
    that the scheme ``int8`` may end as ``mixed``, unless it is ``integer_only``: see ``pipeline/climbing.py``.

    ``mixed`` keeps layers at ``kept_bits`` (32: float; 16: 16-bit activations, weights int8) until ``max_drop`` is met.
    The weights may grow by the share ``max_growth`` of their bytes in int8, and the share ``max_float`` of the
    multiply-adds may leave int8. With a ``runtime`` they are also made for that one: what it computes faster otherwise
    than in int8, by time measured on this machine.
    """

    kind: Literal["quantize"] = "quantize"
    input: Name | None = None
    output: Name | None = None
    scheme: Scheme = Scheme.INT8
    weight_group: Annotated[int, Field(ge=0)] = 32
    kept_bits: Literal[16, 32] = 32
    max_growth: Rate = 1.0
    max_float: Annotated[float, Field(gt=0, le=1)] = 0.5
    runtime: Runtime | None = None
    calibration_images: Positive = 512
    calibration_method: Literal["auto", "minmax", "moving_average", "percentile", "entropy", "mse"] = "auto"
    repair: bool = True
    max_drop: Annotated[float, Field(ge=0)] = 0.5
    integer_only: bool = False
    hard_swish: Literal["decompose", "native"] = "decompose"
    qat: QatTraining | None = None
    seed: int = 0
    device: str = "auto"
    threads: Positive | None = None

    consumes: ClassVar[tuple[str, ...]] = ("float",)


class ExportStep(Settings):
    """Render files from bundles (all of the run when ``input`` is not given) and verify them unless told not to.

    ``formats``: what every one of these bundles must be written in; ``None``: whatever its precision has a form for.
    ``io``: what the files take and give (``spec.IO``); other than ``picture`` for TFLite files of int8 bundles only.
    """

    kind: Literal["export"] = "export"
    input: Name | None = None
    formats: Annotated[tuple[Literal[Format.ONNX, Format.TFLITE, Format.PTE], ...], Field(min_length=1)] | None = None
    io: IO = IO.PICTURE
    verify: bool = True
    force: bool = False

    consumes: ClassVar[tuple[str, ...]] = ("float", *Scheme)


class BenchmarkStep(Settings):
    """Measure latency, memory, size and accuracy of every bundle and export of the run."""

    kind: Literal["benchmark"] = "benchmark"
    input: Name | None = None
    runtimes: tuple[Runtime, ...] = Field((Runtime.TORCH, Runtime.ONNXRUNTIME, Runtime.LITERT), min_length=1)
    threads: tuple[Positive, ...] = Field((1,), min_length=1)
    restarts: Positive = 5
    budget_s: Rate = 30.0

    consumes: ClassVar[tuple[str, ...]] = ("float", *Scheme)


class ReportStep(Settings):
    """Write ``report.html`` and ``report.json`` of the run."""

    kind: Literal["report"] = "report"

    consumes: ClassVar[tuple[str, ...]] = ("float", *Scheme)


STEPS: tuple[type[Settings], ...] = (TrainStep, PruneStep, QuantizeStep, ExportStep, BenchmarkStep, ReportStep)
Step = Annotated[
    TrainStep | PruneStep | QuantizeStep | ExportStep | BenchmarkStep | ReportStep, Field(discriminator="kind")
]
