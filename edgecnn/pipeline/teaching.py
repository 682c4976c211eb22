"""A teacher by name: a bundle of this run, a bundle elsewhere, or a network of timm or torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecnn.bundle import MANIFEST, open_bundle
from edgecnn.errors import UsageError
from edgecnn.models import pretrained, zoo
from edgecnn.pipeline.loading import load_module, preprocess_of
from edgecnn.spec import Task
from edgecnn.steps import TrainStep
from edgecnn.train.distill import Teacher

FOREIGN = ("timm:", "torchvision:")


@dataclass(frozen=True)
class Named:
    """Who teaches: a bundle's folder, or a foreign model where ``folder`` is ``None``; ``identity``: which weights."""

    name: str
    folder: Path | None
    identity: str


def find(name: str, run: Path, labels: tuple[str, ...], task: Task = Task.MULTI_CLASS) -> Named:
    """The teacher called ``name``: a bundle in ``run``, else a path to one, else ``timm:<model>`` or
    ``torchvision:<model>``.

    Two classes may be taught by a network with one logit or with two; several labels only by one of several labels.
    Raises UsageError where there is none or its classes or task are others, BundleError where it is damaged.
    """
    if name.startswith(FOREIGN):
        if task is not Task.MULTI_CLASS:
            raise UsageError(f"{name} has classes of its own: it cannot teach the task {task}", hint="name a bundle")
        return Named(name, None, name)
    folder = next((path for path in (run / name, Path(name)) if (path / MANIFEST).is_file()), None)
    if folder is None:
        raise UsageError(
            f"there is no teacher {name!r}",
            hint=f"name a bundle in {run}, the folder of one elsewhere, timm:<model> or torchvision:<model>",
        )
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    if (bundle.task is Task.MULTI_LABEL) != (task is Task.MULTI_LABEL):
        raise UsageError(
            f"the teacher {folder} is for the task {bundle.task}, this training for {task}",
            hint="train the teacher for the same task first",
        )
    if tuple(manifest.labels) != labels:
        raise UsageError(
            f"the teacher {folder} knows the classes {', '.join(manifest.labels)}, these pictures have "
            f"{', '.join(labels)}",
            hint="train the teacher on pictures of the same classes first",
        )
    return Named(name, folder, manifest.fingerprint)


def find_for(step: TrainStep, run: Path, labels: tuple[str, ...]) -> Named | None:
    """The teacher of a training, if it has one. Raises as ``find``, and UsageError where it sees less than its student.

    A grey student may have a teacher of RGB pictures, which is shown the grey value in all three channels.
    """
    if not step.teacher:
        return None
    found = find(step.teacher, run, labels, step.task or Task.MULTI_CLASS)
    if found.folder is not None and not step.grey and preprocess_of(open_bundle(found.folder)).channels == 1:
        raise UsageError(f"the teacher {found.folder} knows grey pictures only", hint="train with grey=true as well")
    return found


def load(named: Named, num_classes: int, image_size: int) -> Teacher:
    """The teacher with its weights. Raises BundleError for an int8 bundle, ModelError where the weights do not fit."""
    if named.folder is not None:
        bundle = open_bundle(named.folder)
        return Teacher(load_module(bundle), preprocess_of(bundle), bundle.task)
    source = named.name.partition(":")[0]
    spec = zoo.ModelSpec(named.name, num_classes, image_size)
    model = zoo.build(spec)
    report = pretrained.load_pretrained(model, source, num_classes)
    p = pretrained.pretrained_preprocess(spec, source)
    if report.missing or p is None:
        raise UsageError(
            f"{named.name} was trained on other classes than these {num_classes}: it cannot teach them",
            hint=f"fine-tune it first (edgecnn train --model {named.name} --pretrained {source}) and name that bundle",
        )
    return Teacher(model, p)
