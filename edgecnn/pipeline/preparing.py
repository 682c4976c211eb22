"""What a training step asks for, made ready: network, pictures, settings; and what identifies its result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from edgecnn.data.items import ImageSet
from edgecnn.data.source import split_ids
from edgecnn.data.tensors import ImageTensors, count_levels, load_split, stats_of_levels
from edgecnn.errors import UsageError
from edgecnn.models import pretrained, zoo
from edgecnn.pipeline import teaching
from edgecnn.pipeline.context import Context
from edgecnn.pipeline.streaming import channels_of, divided, training_pictures
from edgecnn.pipeline.teaching import Named
from edgecnn.spec import Preprocess, Split, Task
from edgecnn.steps import PruneStep, QuantizeStep, Settings, Training, TrainStep
from edgecnn.tasks import outputs
from edgecnn.train import hints, machine
from edgecnn.train.augment import refuse_colour
from edgecnn.train.augment_albumentations import Pipeline
from edgecnn.train.config import TrainConfig, without_later
from edgecnn.train.distill import Teacher
from edgecnn.train.feed import Pictures

NOT_IDENTITY = {"output", "input", "device", "threads", "mlflow"}
"""Settings that say where, not what: they do not change a step's fingerprint."""


def task_of(step: TrainStep) -> Task:
    """The task of a step whose pictures are open (``opened_for``)."""
    return step.task or Task.MULTI_CLASS


@dataclass(frozen=True)
class Ready:
    """All that a training needs but its pictures: ``data`` are those in the splits that it uses, not loaded yet."""

    settings: TrainConfig
    spec: zoo.ModelSpec
    data: ImageSet
    model: nn.Module
    teacher: Teacher | None


def ready(context: Context, step: TrainStep, data: ImageSet, named: Named | None) -> Ready:
    """What a step asks for on pictures that are open (``opened_for``), taught by ``named``.

    All that can be refused is tried here, before the pictures are loaded, which takes a while. Raises what it consists
    of raises.
    """
    settings = train_config(step, step.seed, step.device, step.threads)
    spec = model_spec(step, outputs(task_of(step), len(data.labels)))
    check_augmentation(settings, spec.image_size, channels_of(step))
    model = prepared(context, step, spec)
    teacher = teaching.load(named, spec.num_classes, spec.image_size) if named else None
    hints.attach(model, first_preprocess(step, spec)[0].size, teacher, settings)
    return Ready(settings, spec, divided(step, data, spec.image_size), model, teacher)


def prepared(context: Context, step: TrainStep, spec: zoo.ModelSpec) -> nn.Module:
    """The network of that spec with the weights it starts from."""
    seed_everything(step.seed)
    model = zoo.build(spec)
    check_transfer(step)
    if step.pretrained:
        context.tell(str(pretrained.load_pretrained(model, step.pretrained, spec.num_classes)))
    return model


def check_transfer(step: TrainStep) -> None:
    """Refuse settings that contradict each other before anything is loaded. Raises UsageError."""
    if step.pretrained is None and (step.transfer != "full" or step.train_last is not None):
        raise UsageError(
            "a frozen network must have learned something before",
            hint="say where its weights come from with pretrained, or leave transfer and train_last out",
        )
    if step.transfer == "features" and step.albumentations:
        raise UsageError(
            "transfer: features sees every picture as it is, so it takes no albumentations",
            hint="use transfer: two_stage, whose second stage augments, or leave albumentations out",
        )
    if step.transfer == "features" and (step.teacher or step.train_last is not None):
        raise UsageError(
            "transfer: features trains the classifier alone, so it takes neither teacher nor train_last",
            hint="use transfer: two_stage",
        )
    if step.hint_weight and step.teacher is None:
        raise UsageError("hint_weight is set, and there is no teacher to give hints", hint="name a teacher")


def load_pictures(
    step: TrainStep, spec: zoo.ModelSpec, data: ImageSet
) -> tuple[Preprocess, Pictures, dict[Split, ImageTensors]]:
    """The preprocessing with the mean and std that training uses, the training pictures, and the other splits."""
    p, normalized = first_preprocess(step, spec)
    training = training_pictures(data, p, bool(step.stream))
    sets = {split: load_split(data, split, p) for split in (Split.VAL, Split.TEST)}
    return (p if normalized else with_statistics(p, training, step.normalization)), training, sets


def identity(step: Settings) -> dict[str, Any]:
    """The settings of a step that decide its result, as JSON values."""
    settings = without_later(step.model_dump(mode="json"))
    return {key: value for key, value in settings.items() if key not in NOT_IDENTITY}


def data_identity(data: ImageSet, seed: int) -> dict[str, str]:
    """What decides a training on the side of its pictures: which they are, and how they are split.

    The digest of a set does not see its splits. Those of the default seed have always been left out of fingerprints;
    those of any other are in it, so that two seeds that split a set in two ways make two trainings.
    """
    if seed == 0:
        return {"data": data.digest}
    splits = hashlib.sha256(json.dumps(split_ids(data), sort_keys=True).encode()).hexdigest()
    return {"data": data.digest, "splits": splits}


def model_spec(step: TrainStep, num_classes: int) -> zoo.ModelSpec:
    """The network that a train step asks for."""
    names = {field.name for field in fields(zoo.ModelSpec)} - {"name", "num_classes", "image_size"}
    options = {key: value for key, value in step.model_dump().items() if key in names and value is not None}
    return zoo.named(step.model, num_classes, step.image_size, channels=channels_of(step), **options)


def first_preprocess(step: TrainStep, spec: zoo.ModelSpec) -> tuple[Preprocess, bool]:
    """How pictures are resized, and whether mean and std are known: pretrained nets keep those they came with."""
    theirs = pretrained.pretrained_preprocess(spec, step.pretrained) if step.pretrained else None
    if theirs is not None:
        return theirs, step.normalization == "auto"
    return Preprocess(spec.image_size, (0.5,) * spec.channels, (0.25,) * spec.channels), False


def with_statistics(p: Preprocess, training: Pictures, normalization: str) -> Preprocess:
    """The same resizing with mean and std of the training pictures, or of a sample of those that are streamed."""
    mode = "per_channel" if normalization == "per_channel" else "uniform"
    seen = training if isinstance(training, ImageTensors) else training.sample()
    mean, std = stats_of_levels(count_levels(seen.images), mode)
    return replace(p, mean=mean, std=std)


def train_config(settings: Training, seed: int, device: str, threads: int | None) -> TrainConfig:
    """The training loop's own settings from a step's. Raises UsageError for those this machine cannot follow."""
    names = {field.name for field in fields(TrainConfig)}
    values = {key: value for key, value in settings.model_dump().items() if key in names}
    config = TrainConfig(**{**values, "seed": seed, "device": device, "threads": threads})
    machine.check(config)
    return config


def retraining(step: PruneStep | QuantizeStep, training: Training, task: Task, p: Preprocess) -> TrainConfig:
    """How a network of that task is trained again after ``step`` changed it. Raises what it consists of raises."""
    settings = train_config(training, step.seed, step.device, step.threads)
    check_augmentation(settings, p.size, p.channels)
    return replace(settings, task=None if task is Task.MULTI_CLASS else task)


def check_augmentation(settings: TrainConfig, size: int, channels: int = 3) -> None:
    """Refuse what pictures of these channels cannot have, and try a pipeline of Albumentations on one of that size.

    Raises UsageError, MissingPackageError.
    """
    refuse_colour(settings, channels)
    if settings.albumentations:
        if channels != 3:
            raise UsageError("albumentations takes pictures of three channels, and grey is true", hint="leave one out")
        Pipeline(settings.albumentations, threads=1).check(size)


def seed_everything(seed: int) -> None:
    """Seed torch, whose generator initializes weights."""
    torch.manual_seed(seed)
