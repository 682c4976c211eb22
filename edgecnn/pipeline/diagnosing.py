"""What a finished training says about itself: the rules of ``train.diagnosis`` on a run's history and pictures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from edgecnn.bundle import Bundle
from edgecnn.data.tensors import ImageTensors
from edgecnn.measure.accuracy import confusion
from edgecnn.spec import Preprocess, Task
from edgecnn.tasks import class_logits
from edgecnn.train.diagnosis import Finding, confused_pairs, diagnose, setup_of
from edgecnn.train.evaluate import predict_logits


def findings(
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    model: nn.Module,
    val: ImageTensors,
    p: Preprocess,
    labels: Sequence[str],
) -> list[Finding]:
    """Findings on a history, and the classes that ``model`` confuses on the validation pictures (not on those of the
    test split: what is changed because of a finding must not be chosen by them).
    """
    task = settings.get("task") or Task.MULTI_CLASS
    found = diagnose(rows, setup_of(settings, len(val)))
    if task is Task.MULTI_LABEL:  # labels do not exclude each other: none is taken for another
        return found
    counts = confusion(class_logits(task, predict_logits(model, val.images, p)), val.labels)
    return [*found, *confused_pairs(counts, labels)]


def findings_of(bundle: Bundle) -> list[Finding]:
    """Findings on the history of a bundle that a train step made; none for other bundles."""
    if bundle.manifest.step != "train" or not bundle.has("history.csv"):
        return []
    with bundle.file("history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return diagnose(rows, setup_of(bundle.manifest.config, bundle.manifest.data["counts"].get("val")))
