"""The train step: pictures -> a float bundle."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from edgecnn import bundle as bundles
from edgecnn import recipe as recipes
from edgecnn.bundle import Bundle
from edgecnn.data import preprocess
from edgecnn.data.items import ImageSet
from edgecnn.data.source import split_ids, with_val_share
from edgecnn.data.tensors import ImageTensors, count_levels, load_split, stats_of_levels
from edgecnn.errors import UsageError
from edgecnn.models import layers, pretrained, zoo
from edgecnn.pipeline import diagnosing, teaching
from edgecnn.pipeline.context import SPLITS, Context, describe_data, opened_for
from edgecnn.pipeline.figuring import in_words, split_figures
from edgecnn.pipeline.loading import WEIGHTS, save_golden
from edgecnn.pipeline.transferring import fit_classifier
from edgecnn.spec import Precision, Preprocess, Split, Task
from edgecnn.steps import Settings, Training, TrainStep
from edgecnn.tasks import outputs
from edgecnn.train.augment import refuse_colour
from edgecnn.train.config import TrainConfig, without_later
from edgecnn.train.distill import Teacher
from edgecnn.train.distributed import World
from edgecnn.train.evaluate import predict_logits
from edgecnn.train.freezing import train_only_last
from edgecnn.train.loop import TrainResult, fit

GOLDEN_IMAGES = 8
NOT_IDENTITY = {"output", "input", "device", "threads"}
"""Settings that say where, not what: they do not change a step's fingerprint."""


def train(context: Context, step: TrainStep) -> Bundle:
    """Train (or fine-tune) and write a float bundle. Does nothing when the same bundle is already there.

    Raises ``DataError``, ``ModelError``, ``BundleError``.
    """
    source = context.data or "digits"
    data, task = opened_for(step, source, context.data_seed)
    step = with_task(step, task)
    config = identity(step)
    teacher = teaching.find_for(step, context.run, data.labels, task)
    if teacher is not None:
        config["teacher"] = teacher.identity
    facts = describe_data(data, source, context.data_seed)
    fingerprint = bundles.fingerprint(None, "train", {**config, "data": data.digest})
    target = context.run / step.output
    if (done := finished(context, target, fingerprint)) is not None:
        return done

    for note in data.notes:
        context.tell(note)
    if step.val_share is not None:
        data = with_val_share(data, step.val_share)
    # What can be refused is tried before the pictures are loaded, which takes a while.
    settings = train_config(step, step.seed, step.device, step.threads)
    refuse_colour(settings, channels_of(step))
    spec = model_spec(step, outputs(task, len(data.labels)))
    model = prepared(context, step, spec)
    world = context.world or World()
    with world.leader_first():
        work = work_folder(target, fingerprint)
    if world.size > 1:
        context.tell(f"{world.size} processes train together, {settings.batch_size} pictures per step over all of them")
    p, sets = load_pictures(step, spec, data)
    taught_by = teaching.load(teacher, spec.num_classes, spec.image_size) if teacher else None
    result = _fitted(context, step, model, sets, p, settings, work, taught_by, world)
    if not world.leader:
        world.barrier()  # until the leader has written the bundle
        return bundles.open_bundle(target)
    figures = _figures(task, result, model, spec, p, sets[Split.TEST])
    with bundles.create(
        target,
        step="train",
        fingerprint=fingerprint,
        parent=None,
        parent_path=None,
        precision=Precision.FP32.value,
        builder=spec.to_dict(),
        labels=list(data.labels),
        task=task.value,
        preprocess=preprocess.to_dict(p),
        data=facts,
        config=config,
        figures=figures,
        seed=step.seed,
    ) as draft:
        write_weights(model, draft)
        copy_history(work, draft)
        (draft / SPLITS).write_text(bundles.dump_json(split_ids(data)))
        write_recipe(draft, target.name, facts, step)
        keep = sets[Split.VAL].images[:GOLDEN_IMAGES], sets[Split.VAL].ids[:GOLDEN_IMAGES]
        save_golden(draft, lambda images: predict_logits(model, images, p), *keep)
    world.barrier()
    shutil.rmtree(work)
    context.tell(f"{target}: test {in_words(task, figures)}")
    for finding in diagnosing.findings(result.history, step.model_dump(), model, sets[Split.VAL], p, data.labels):
        context.tell(f"finding: {finding}")
    return bundles.open_bundle(target)


def with_task(step: TrainStep, task: Task) -> TrainStep:
    """The step with the task that it means; the usual one is never written down: it was there before the choice."""
    return step.model_copy(update={"task": None if task is Task.MULTI_CLASS else task})


def prepared(context: Context, step: TrainStep, spec: zoo.ModelSpec) -> nn.Module:
    """The network of that spec with the weights it starts from."""
    seed_everything(step.seed)
    model = zoo.build(spec)
    check_transfer(step)
    if step.pretrained:
        context.tell(str(pretrained.load_pretrained(model, step.pretrained, spec.num_classes)))
    return model


def _fitted(
    context: Context,
    step: TrainStep,
    model: nn.Module,
    sets: dict[Split, ImageTensors],
    p: Preprocess,
    settings: TrainConfig,
    work: Path,
    teacher: Teacher | None,
    world: World,
) -> TrainResult:
    """Train in place: the classifier on features where ``transfer`` says so, then, unless that is all, the network."""
    training, val = sets[Split.TRAIN], sets[Split.VAL]
    if step.transfer != "full":
        with world.leader_first():  # the others find its features
            result = fit_classifier(context, step, model, training, val, p)
        if step.transfer == "features":
            return result
    if step.train_last is not None:
        train_only_last(model, step.train_last)
    return fit_watched(context, step.output, model, training, val, p, settings, work, teacher=teacher)


def check_transfer(step: TrainStep) -> None:
    """Refuse settings that contradict each other before anything is loaded. Raises UsageError."""
    if step.pretrained is None and (step.transfer != "full" or step.train_last is not None):
        raise UsageError(
            "a frozen network must have learned something before",
            hint="say where its weights come from with pretrained, or leave transfer and train_last out",
        )
    if step.transfer == "features" and (step.teacher or step.train_last is not None):
        raise UsageError(
            "transfer: features trains the classifier alone, so it takes neither teacher nor train_last",
            hint="use transfer: two_stage",
        )


def load_pictures(step: TrainStep, spec: zoo.ModelSpec, data: ImageSet) -> tuple[Preprocess, dict[Split, ImageTensors]]:
    """All splits, and the preprocessing with the mean and std that training uses."""
    p, normalized = first_preprocess(step, spec)
    sets = {split: load_split(data, split, p) for split in Split}
    return (p if normalized else with_statistics(p, sets[Split.TRAIN], step.normalization)), sets


def finished(context: Context, target: Path, fingerprint: str) -> Bundle | None:
    """The step's bundle when it is at its place already, and then what an interruption left behind is removed."""
    done = bundles.existing(target, fingerprint)
    if done is not None:
        context.tell(f"{done.title} is there already: skipped")
        shutil.rmtree(_work_of(target), ignore_errors=True)
    return done


def fit_watched(
    context: Context,
    stage: str,
    model: nn.Module,
    training: ImageTensors,
    val: ImageTensors,
    p: Preprocess,
    settings: TrainConfig,
    work: Path,
    teacher: Teacher | None = None,
) -> TrainResult:
    """Train in place, with checkpoints in ``work``, while the context's watcher is told how it goes on."""
    watcher = context.watch(stage, settings.epochs)
    try:
        return fit(
            model,
            training,
            val,
            p,
            settings,
            work,
            teacher=teacher,
            on_epoch=watcher.on_epoch,
            on_step=watcher.on_step,
            tell=context.tell,
            world=context.world,
        )
    finally:
        watcher.close()


def identity(step: Settings) -> dict[str, Any]:
    """The settings of a step that decide its result, as JSON values."""
    settings = without_later(step.model_dump(mode="json"))
    return {key: value for key, value in settings.items() if key not in NOT_IDENTITY}


def model_spec(step: TrainStep, num_classes: int) -> zoo.ModelSpec:
    """The network that a train step asks for."""
    names = {field.name for field in fields(zoo.ModelSpec)} - {"name", "num_classes", "image_size"}
    options = {key: value for key, value in step.model_dump().items() if key in names and value is not None}
    return zoo.named(step.model, num_classes, step.image_size, channels=channels_of(step), **options)


def channels_of(step: TrainStep) -> int:
    """The channels of the pictures that a train step asks for."""
    return 1 if step.grey else 3


def first_preprocess(step: TrainStep, spec: zoo.ModelSpec) -> tuple[Preprocess, bool]:
    """How pictures are resized, and whether mean and std are known: pretrained nets keep those they came with."""
    theirs = pretrained.pretrained_preprocess(spec, step.pretrained) if step.pretrained else None
    if theirs is not None:
        return theirs, step.normalization == "auto"
    return Preprocess(spec.image_size, (0.5,) * spec.channels, (0.25,) * spec.channels), False


def with_statistics(p: Preprocess, training: ImageTensors, normalization: str) -> Preprocess:
    """The same resizing with mean and std of the training pictures."""
    mode = "per_channel" if normalization == "per_channel" else "uniform"
    mean, std = stats_of_levels(count_levels(training.images), mode)
    return replace(p, mean=mean, std=std)


def train_config(settings: Training, seed: int, device: str, threads: int | None) -> TrainConfig:
    """The training loop's own settings from a step's."""
    names = {field.name for field in fields(TrainConfig)}
    values = {key: value for key, value in settings.model_dump().items() if key in names}
    return TrainConfig(**{**values, "seed": seed, "device": device, "threads": threads})


def seed_everything(seed: int) -> None:
    """Seed torch, whose generator initializes weights."""
    torch.manual_seed(seed)


def work_folder(target: Path, fingerprint: str) -> Path:
    """Where an unfinished step keeps its checkpoints; leftovers of a step with other settings are removed."""
    work = _work_of(target)
    mark = work / "fingerprint"
    if work.exists() and (not mark.is_file() or mark.read_text() != fingerprint):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    bundles.write_atomically(mark, fingerprint)
    return work


def _work_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.work")


def write_weights(model: nn.Module, folder: Path) -> None:
    """The state dict as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)


def copy_history(work: Path, folder: Path) -> None:
    """Take the history of a training over into its bundle."""
    for name in ("history.csv", "curves.png"):
        if (work / name).is_file():
            shutil.copyfile(work / name, folder / name)
    if (work / "tensorboard").is_dir():
        shutil.copytree(work / "tensorboard", folder / "tensorboard")


def write_recipe(folder: Path, name: str, data: dict[str, Any], step: Any) -> None:
    """The step as it was resolved, as a recipe that can be run again on the ``data`` of the manifest."""
    made = recipes.Recipe(name=name, data=data["source"], data_seed=data["seed"], steps=(step,))
    (folder / "recipe.yaml").write_text(recipes.dump(made))


def val_figures(result: TrainResult) -> dict[str, float]:
    """What chose the epoch: top-1 on the validation pictures, or mean average precision, with top-1 (exact match)."""
    best = result.history[result.best_epoch - 1] if result.history else {}
    if "val_map" in best:
        return {"val_map": result.best_top1, "val_top1": best["val_top1"]}
    return {"val_top1": result.best_top1}


def _figures(
    task: Task, result: TrainResult, model: nn.Module, spec: zoo.ModelSpec, p: Preprocess, test: ImageTensors
) -> dict[str, Any]:
    params, macs = layers.totals(model, spec.image_size)
    return {
        **split_figures(task, predict_logits(model, test.images, p), test.labels),
        **val_figures(result),
        "epochs": result.epochs,
        "seconds": round(result.seconds, 1),
        "params": params,
        "macs": macs,
    }
