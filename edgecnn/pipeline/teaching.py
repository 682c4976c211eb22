"""A teacher by name: a bundle of this run, a bundle elsewhere, or a network of timm or torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecnn.bundle import MANIFEST, open_bundle
from edgecnn.errors import UsageError
from edgecnn.models import pretrained, zoo
from edgecnn.pipeline.loading import load_module, preprocess_of
from edgecnn.train.distill import Teacher

FOREIGN = ("timm:", "torchvision:")


@dataclass(frozen=True)
class Named:
    """Who teaches: a bundle's folder, or a foreign model where ``folder`` is ``None``; ``identity``: which weights."""

    name: str
    folder: Path | None
    identity: str


def find(name: str, run: Path, labels: tuple[str, ...]) -> Named:
    """The teacher called ``name``: a bundle in ``run``, else a path to one, else ``timm:<model>`` or
    ``torchvision:<model>``.

    Raises UsageError where there is none or its classes are others, BundleError where it is damaged.
    """
    if name.startswith(FOREIGN):
        return Named(name, None, name)
    folder = next((path for path in (run / name, Path(name)) if (path / MANIFEST).is_file()), None)
    if folder is None:
        raise UsageError(
            f"there is no teacher {name!r}",
            hint=f"name a bundle in {run}, the folder of one elsewhere, timm:<model> or torchvision:<model>",
        )
    manifest = open_bundle(folder).manifest
    if tuple(manifest.labels) != labels:
        raise UsageError(
            f"the teacher {folder} knows the classes {', '.join(manifest.labels)}, these pictures have "
            f"{', '.join(labels)}",
            hint="train the teacher on pictures of the same classes first",
        )
    return Named(name, folder, manifest.fingerprint)


def load(named: Named, num_classes: int, image_size: int) -> Teacher:
    """The teacher with its weights. Raises BundleError for an int8 bundle, ModelError where the weights do not fit."""
    if named.folder is not None:
        bundle = open_bundle(named.folder)
        return Teacher(load_module(bundle), preprocess_of(bundle))
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
