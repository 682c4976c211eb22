"""The figures of a network on the test pictures, as manifests hold them, and in words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.measure.accuracy import accuracy
from edgecnn.measure.several_labels import measure_labels
from edgecnn.spec import RIGHT, Interval, Task
from edgecnn.tasks import Labels

RANKED = {
    "map": "mean_average_precision",
    "f1_micro": "f1_micro",
    "f1_macro": "f1_macro",
    "label_accuracy": "label_accuracy",
}
"""Names in a manifest, after ``test_``, of the figures that only several labels have."""


def split_figures(task: Task, logits: NDArray[np.float32], labels: Labels) -> dict[str, Any]:
    """Fractions with the ends of their 95 % intervals: ``test_top1`` (``tasks.right``), and mAP and F1 of labels."""
    found: dict[str, Interval] = {"top1": accuracy(logits, labels, task).top1}
    if task is Task.MULTI_LABEL:
        figures = measure_labels(logits, labels)
        found |= {name: getattr(figures, field) for name, field in RANKED.items()}
    ends = (("", "value"), ("_low", "low"), ("_high", "high"))
    values = {f"test_{name}{end}": getattr(each, field) for name, each in found.items() for end, field in ends}
    return {**values, "test_images": found["top1"].n}


def in_words(task: Task, figures: dict[str, Any], prefix: str = "") -> str:
    """Such figures for one line: ``top-1 91.20 %``, or ``mAP 95.10 %, exact match 80.00 %``."""
    right = f"{RIGHT[task]} {100 * figures[f'{prefix}test_top1']:.2f} %"
    return right if task is not Task.MULTI_LABEL else f"mAP {100 * figures[f'{prefix}test_map']:.2f} %, {right}"
