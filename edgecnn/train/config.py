"""What a training run is told: plain numbers, JSON both ways, checked before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgecnn.errors import UsageError
from edgecnn.spec import Task

OPTIMIZERS = ("sgd", "adamw", "rmsprop")
SCHEDULES = ("cosine", "linear", "step", "one_cycle", "constant", "plateau")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")
LOSSES = ("ce", "focal", "bce")
FILLS = ("reflect", "nearest", "constant")
NOT_NEGATIVE = (
    *("l1", "weight_decay", "warmup_epochs", "shift", "cutout", "randaug", "mixup"),
    *("cutmix", "views", "focal_gamma", "hint_weight", "sam", "low_epochs"),
)
LATER = {
    "randaug": 0,
    "randaug_strength": 9,
    "repeat": 1,
    "stream": None,
    "shuffle": 16384,
    "frozen_bn": False,
    "albumentations": None,
    "compile": False,
    "deterministic": False,
    "sam": 0.0,
    "hint_weight": 0.0,
    "hints": "auto",
    "task": None,
    "grey": False,
    "qat": None,
    "runtime": None,
}
"""Settings that came when trainings were under way, and their values where nothing changed for those."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The learning rate rises linearly for ``warmup_epochs`` and then follows half a cosine to zero.

    Attributes:
        epochs: passes over the training pictures.
        batch_size: pictures per step, over all processes; a last, incomplete batch is left out (unless it is the only
            one).
        optimizer: ``sgd`` (with ``momentum`` and ``nesterov``) or ``adamw``.
        lr: highest learning rate, at the end of the warm-up.
        weight_decay: applied to the weights of dense convolutions and linear layers only, never to biases, batch
            normalization or depthwise convolutions.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al., arXiv:1512.00567,
            section 7).
        ema: decay per step of the averaged weights; ``None``: no averaging.
        flip: mirror left and right with probability 1/2.
        shift: shift by up to so many pixels each way, the border reflected.
        crop_scale: smallest area of a random resized crop, as a fraction of the picture; ``None``: no such crop.
        jitter: brightness, contrast and saturation are each changed by a factor from 1 - jitter to 1 + jitter.
        cutout: side, in pixels, of a square blanked at a random place (DeVries and Taylor, arXiv:1708.04552); 0: none.
        flip_vertical: mirror up and down with probability 1/2.
        rotate: turn by up to so many degrees, either way.
        zoom: scale by a factor from 1 - zoom to 1 + zoom.
        shear: shear by up to so many degrees, either way.
        fill: what comes into view beyond the border: ``reflect`` (the picture mirrored), ``nearest`` (its border pixels
            repeated) or ``constant`` (the mean colour of the normalization).
        hue: turn the colours by up to this fraction of the colour circle, either way.
        channel_shift: add up to so many of 255 levels to each channel, either way.
        noise: standard deviation, in 255 levels, of Gaussian noise.
        blur: probability of a Gaussian blur (Chen et al., arXiv:2002.05709).
        erase: probability of random erasing (Zhong et al., arXiv:1708.04896).
        trivial: one random operation at random strength per picture, TrivialAugment (Müller and Hutter,
            arXiv:2103.10158).
        randaug: so many random operations per picture, all at one strength, RandAugment (Cubuk et al.,
            arXiv:1909.13719); 0: none.
        randaug_strength: of RandAugment, 0 to 30.
        repeat: each picture of a batch is in it so many times, augmented differently each time (Hoffer et al.,
            arXiv:1901.09335). Batch and number of steps stay, so an epoch sees 1 / ``repeat`` of the pictures.
        shuffle: pictures that are shuffled at a time where the set is streamed (``order.streamed_order``); where it
            is not, all are.
        albumentations: a pipeline of Albumentations that the uint8 pictures go through one by one, before all of the
            other operations that are on (``flip`` is by default), as a list of ``{name: arguments}``
            (``transforms.described`` makes it of other forms); ``None``: none.
        mixup: alpha of the Beta distribution that mixup draws its shares from (arXiv:1710.09412); 0: none.
        cutmix: the same for CutMix (arXiv:1905.04899); with both, each batch takes one of them.
        views: the augmentation of the pictures repeats after so many epochs, so that a teacher's logits can be kept;
            0: every epoch is augmented anew.
        low_size: picture side, in pixels, during the first ``low_epochs`` epochs: cheaper steps while the weights are
            still coarse (progressive resizing). ``None``: full size throughout.
        low_epochs: see ``low_size``.
        loss: ``ce``, ``focal`` or ``bce``, see ``losses.label_loss``; with several labels ``ce`` is ``bce``.
        focal_gamma: how much the focal loss turns away from what is right already.
        balance: weight each class by the inverse of how often it occurs.
        distill_weight: share of the loss against the teacher's logits, where there is a teacher.
        temperature: softens both before they are compared (``losses.distillation_loss``).
        hint_weight: weight of the loss against maps inside the teacher (``hints.py``); 0: none.
        hints: which maps: ``student.block=teacher.block``, several joined by commas; ``auto`` takes the last block of
            both at each size that both have.
        accumulate: each step's batch goes through the network in so many parts, one after the other, to save memory:
            the gradient is that of the whole batch, but batch normalization sees one part at a time.
        sync_bn: where several processes train (``distributed.py``), batch normalization sees the pictures of all of
            them, as one process would; otherwise its own part, and the running statistics are averaged.
        frozen_bn: batch normalization keeps the statistics it starts with, see ``freezing.set_training``.
        schedule: how the learning rate goes after the warm-up, see ``schedule.lr_factor``.
        l1: weight of the sum of absolute weights in the loss; it drives weights to zero, where pruning finds them.
        layer_decay: each block has this times the rate of the block behind it; 1: all learn alike.
        clip_norm: gradients longer than this, over all weights, are scaled down to it; ``None``: never.
        sam: radius rho of sharpness-aware minimization (Foret et al., arXiv:2010.01412), see ``update.py``; 0: none.
            Each step takes twice as long.
        precision: ``bf16`` and ``fp16`` run under autocast. fp16 is for GPUs, and scales the loss (``update.py``).
            ``auto`` is bf16 on a GPU that has it and else fp16; on a CPU it is bf16 where a few timed steps show that
            it is faster.
        compile: ``torch.compile`` the steps (``compiling.py``). It takes minutes at the start and needs a C++ compiler,
            on a GPU triton.
        deterministic: only algorithms that give the same bits each time on a GPU, too, where most have a faster
            one that does not; operations that have no such algorithm are refused. A CPU needs none of it.
        patience: stop after so many epochs without a better validation accuracy; ``None``: never.
        task: what the logits mean (``edgecnn.tasks``); ``None``: ``multi_class``.
        seed: decides order, augmentation and dropout.
        device: ``auto`` is CUDA where there is one.
        threads: CPU threads; ``None``: torch's own choice.
    """

    epochs: int
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    momentum: float = 0.9
    nesterov: bool = True
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    ema: float | None = 0.998
    flip: bool = True
    shift: int = 0
    crop_scale: float | None = None
    jitter: float = 0.0
    cutout: int = 0
    flip_vertical: bool = False
    rotate: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    fill: str = "reflect"
    hue: float = 0.0
    channel_shift: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    erase: float = 0.0
    trivial: bool = False
    randaug: int = 0
    randaug_strength: int = 9
    repeat: int = 1
    shuffle: int = 16384
    albumentations: list[dict[str, Any]] | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    views: int = 0
    low_size: int | None = None
    low_epochs: int = 0
    loss: str = "ce"
    focal_gamma: float = 2.0
    balance: bool = False
    distill_weight: float = 0.9
    temperature: float = 4.0
    hint_weight: float = 0.0
    hints: str = "auto"
    schedule: str = "cosine"
    l1: float = 0.0
    layer_decay: float = 1.0
    clip_norm: float | None = None
    accumulate: int = 1
    sync_bn: bool = False
    frozen_bn: bool = False
    sam: float = 0.0
    precision: str = "auto"
    compile: bool = False
    deterministic: bool = False
    patience: int | None = None
    task: Task | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse values no run can have, alone or together. Raises UsageError naming all of them."""
        wrong = [name for name, fine in _checks(self).items() if not fine]
        if wrong:
            raise UsageError(
                "these training settings cannot work: "
                + ", ".join(f"{name}={getattr(self, name)!r}" for name in wrong),
                hint="counts and rates are positive, probabilities and decays below 1; "
                f"optimizer: {'|'.join(OPTIMIZERS)}|timm:NAME, schedule: {'|'.join(SCHEDULES)}, "
                f"precision: {'|'.join(PRECISIONS)}, device: {'|'.join(DEVICES)}, "
                f"loss: {'|'.join(LOSSES)}, fill: {'|'.join(FILLS)}, task: {'|'.join(Task)}; "
                "rotate is at most 180, shear 60, hue 0.5, noise and channel_shift 255, "
                "randaug_strength 30; batch_size is a multiple of repeat; "
                "each of accumulate's parts has at least 2 pictures",
            )

        if trouble := _contradiction(self):
            raise UsageError(f"these training settings contradict each other: {trouble[0]}", hint=trouble[1])

    @property
    def asked(self) -> Task:
        """The task, ``multi_class`` where none is named."""
        return Task(self.task or Task.MULTI_CLASS)  # read from JSON it is a plain text

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of ``to_dict``. Raises UsageError on unknown keys, with the closest known one."""
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
                raise UsageError(f"there is no training setting {key!r}", hint=hint)
        if "epochs" not in values:
            raise UsageError("the number of epochs is missing", hint="set epochs, e.g. epochs: 20")
        return cls(**values)


def without_later(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that identify a training, also inside others: without those of ``LATER`` that change nothing.

    So a training, or what was made by one, is still the same after edgecnn has learned to do something else.
    """
    kept = {name: value for name, value in settings.items() if name not in LATER or value != LATER[name]}
    return {name: without_later(value) if isinstance(value, Mapping) else value for name, value in kept.items()}


def _contradiction(c: TrainConfig) -> tuple[str, str] | None:
    """What two settings that are each possible cannot do together, and the way out."""
    if c.compile and c.sync_bn:
        return "sync_bn exchanges numbers inside the network, which compile cannot do", "leave one of them out"
    if c.hint_weight and c.compile:
        return "hint_weight takes maps out of the network, which compile cannot do", "leave one of them out"
    if c.hint_weight and c.views:
        return "views keeps the teacher's logits, and hint_weight needs its maps at every step", "set views to 0"
    if c.hint_weight and c.low_size is not None:
        return "low_size makes the student's maps smaller than the teacher's hints", "leave low_size out"
    return None


def _checks(c: TrainConfig) -> dict[str, bool]:
    """Setting name -> whether its value is possible."""
    return {
        **{name: getattr(c, name) >= 0 for name in NOT_NEGATIVE},
        "epochs": c.epochs >= 1,
        "batch_size": c.batch_size >= 2,
        "optimizer": c.optimizer in OPTIMIZERS or c.optimizer.startswith("timm:"),
        "schedule": c.schedule in SCHEDULES,
        "layer_decay": 0 < c.layer_decay <= 1,
        "lr": c.lr > 0,
        "momentum": 0 <= c.momentum < 1,
        "nesterov": not c.nesterov or c.momentum > 0,
        "label_smoothing": 0 <= c.label_smoothing < 1,
        "ema": c.ema is None or 0 < c.ema < 1,
        "crop_scale": c.crop_scale is None or 0 < c.crop_scale <= 1,
        "jitter": 0 <= c.jitter < 1,
        "rotate": 0 <= c.rotate <= 180,
        "zoom": 0 <= c.zoom < 1,
        "shear": 0 <= c.shear <= 60,
        "fill": c.fill in FILLS,
        "hue": 0 <= c.hue <= 0.5,
        "channel_shift": 0 <= c.channel_shift <= 255,
        "noise": 0 <= c.noise <= 255,
        "blur": 0 <= c.blur <= 1,
        "erase": 0 <= c.erase <= 1,
        "randaug_strength": 0 <= c.randaug_strength <= 30,
        "repeat": c.repeat >= 1 and c.batch_size % c.repeat == 0,
        "shuffle": c.shuffle >= 1,
        "loss": c.loss in LOSSES,
        "distill_weight": 0 <= c.distill_weight <= 1,
        "temperature": c.temperature > 0,
        "accumulate": 1 <= c.accumulate <= max(1, c.batch_size // 2),
        "clip_norm": c.clip_norm is None or c.clip_norm > 0,
        "low_size": c.low_size is None or c.low_size >= 1,
        "precision": c.precision in PRECISIONS,
        "patience": c.patience is None or c.patience >= 1,
        "task": c.task is None or c.task in list(Task),
        "device": c.device in DEVICES,
        "threads": c.threads is None or c.threads >= 1,
    }
