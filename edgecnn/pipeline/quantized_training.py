"""Quantization-aware training of the numbers that calibration decided, and which of the two are better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecnn.bundle import Bundle
from edgecnn.compress.qat import FakeQuantized, to_numbers
from edgecnn.data.items import ImageSet
from edgecnn.data.tensors import ImageTensors, load_split
from edgecnn.graph.interpret import GraphModule
from edgecnn.graph.ir import Graph
from edgecnn.pipeline.context import Context, is_streamed
from edgecnn.pipeline.loading import batched, load_module, preprocess_of
from edgecnn.pipeline.streaming import training_pictures
from edgecnn.pipeline.training import fit_watched
from edgecnn.spec import RIGHT, Preprocess, Split, Task
from edgecnn.tasks import mean_average_precision
from edgecnn.train import history
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.evaluate import loss_and_top1


def train_numbers(
    context: Context,
    parent: Bundle,
    stage: str,
    settings: TrainConfig,
    graphs: tuple[Graph, Graph],
    data: ImageSet,
    work: Path,
) -> tuple[Graph, dict[str, Any]]:
    """The better int8 graph on the validation pictures, of the given one and what training makes of it; and figures.

    Args:
        graphs: the float graph in the terms of the int8 graph, and the int8 graph that it starts from.
        parent: the float bundle that both were made from: the teacher.
        settings: how to train; a training that was interrupted goes on from ``work``.

    A tie is decided by the loss. The figures are ``qat_epochs``, ``qat_seconds``, ``qat_kept`` and ``val_*_ptq`` and
    ``val_*_qat``, computed in integers.
    """
    floating, quantized = graphs
    p = preprocess_of(parent)
    model = FakeQuantized(floating, quantized)
    training, val = training_pictures(data, p, is_streamed(parent)), load_split(data, Split.VAL, p)
    teacher = Teacher(load_module(parent), p, parent.task)
    reads = as_the_input_reads(floating, p)
    result = fit_watched(context, stage, model, training, val, reads, settings, work, teacher=teacher)
    learned = to_numbers(model)
    before, after = (_validated(graph, val, parent.task) for graph in (quantized, learned))
    better = _rank(after) > _rank(before)
    trained = f"{result.epochs} epoch{'s' * (result.epochs > 1)} of training"
    kept = "the trained numbers are kept" if better else "the calibrated numbers are kept (try a lower rate: qat.lr)"
    context.tell(
        f"{stage}: val {RIGHT[parent.task]} {before['val_top1']:.2%} as calibrated, {after['val_top1']:.2%} after "
        f"{trained}: {kept}"
    )
    figures = {"qat_epochs": result.epochs, "qat_seconds": round(result.seconds, 1), "qat_kept": better}
    figures |= {f"{name}_ptq": value for name, value in before.items()}
    figures |= {f"{name}_qat": value for name, value in after.items()}
    return learned if better else quantized, figures


def as_the_input_reads(graph: Graph, p: Preprocess) -> Preprocess:
    """``p`` with the normalization of the graph's input.

    Where mean and std differ by channel that is none (``capture``): pixels from 0 to 1, in which what augmentation
    blanks is black instead of the mean colour.
    """
    return replace(p, mean=tuple(graph.input.attrs["mean"]), std=tuple(graph.input.attrs["std"]))


def _validated(graph: Graph, val: ImageTensors, task: Task) -> history.Row:
    """What a history says of an epoch's validation, of the integer graph."""
    logits = batched(GraphModule(graph).eval(), val.images)
    loss, top1 = loss_and_top1(logits, val.labels, task)
    row = {"val_loss": loss, "val_top1": top1}
    return row | {"val_map": mean_average_precision(logits, val.labels)} if task is Task.MULTI_LABEL else row


def _rank(row: history.Row) -> tuple[float, float]:
    return history.score(row), -row["val_loss"]
