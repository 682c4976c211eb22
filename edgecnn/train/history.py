"""What a run leaves to look at: history.csv, curves.png and TensorBoard scalars."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgecnn import disk
from edgecnn.catalog import require

COLUMNS = ("epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "images_per_second", "seconds")
ONLY_SOME = ("val_map",)
"""Columns that only some tasks have: the mean average precision of several labels."""
Row = dict[str, Any]


def columns(row: Row) -> list[str]:
    """The columns of a history with such rows, in their order."""
    return [*COLUMNS, *(name for name in ONLY_SOME if name in row)]


def score(row: Row) -> float:
    """The figure of an epoch that chooses the best one: top-1, or mean average precision where there is one."""
    return float(row["val_map"] if "val_map" in row else row["val_top1"])


def format_epoch(row: Row, epochs: int) -> str:
    """One line for a log."""
    ranked = f"  mAP {row['val_map']:7.2%}" if "val_map" in row else ""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  lr {row['lr']:.4f}  loss {row['train_loss']:.4f}"
        f"  train {row['train_top1']:7.2%}  val loss {row['val_loss']:.4f}  val {row['val_top1']:7.2%}{ranked}"
        f"  {row['images_per_second']:.0f} img/s  {row['seconds']:.1f} s"
    )


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """The whole history, one line per epoch, replaced atomically. Raises WriteError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows[0]) if rows else COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with disk.replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def draw_curves(path: Path, rows: Sequence[Row]) -> bool:
    """Loss and accuracy over the epochs as a PNG; False where matplotlib is not installed. Raises WriteError."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    figure_module = require("matplotlib.figure", extra="plots")
    figure = figure_module.Figure(figsize=(9, 3.6), layout="constrained")
    loss, top1 = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for part, label in (("train", "training"), ("val", "validation")):
        loss.plot(epochs, [row[f"{part}_loss"] for row in rows], label=label)
        top1.plot(epochs, [100 * row[f"{part}_top1"] for row in rows], label=label)
    loss.set(xlabel="epoch", ylabel="loss")
    top1.set(xlabel="epoch", ylabel="top-1 [%]")
    for axes in (loss, top1):
        axes.grid(alpha=0.3)
        axes.legend()
    with disk.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return True


class Scalars:
    """TensorBoard scalars in a folder; a writer that does nothing where tensorboard is not installed or not wanted."""

    def __init__(self, folder: Path, next_epoch: int, wanted: bool = True) -> None:
        """Go on in ``folder``; what an earlier run logged from ``next_epoch`` on no longer counts."""
        self._folder = folder
        self._writer: Any = None
        if wanted and importlib.util.find_spec("tensorboard") is not None:
            tensorboard = require("torch.utils.tensorboard", extra="tensorboard")
            self._writer = tensorboard.SummaryWriter(str(folder), purge_step=next_epoch)

    def add(self, row: Row) -> None:
        """Log one epoch. Raises WriteError."""
        if self._writer is not None:
            with disk.told(self._folder):
                for name in columns(row)[1:]:
                    self._writer.add_scalar(name, row[name], row["epoch"])
                self._writer.flush()

    def __enter__(self) -> Self:
        """Use as ``with Scalars(...) as scalars``."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file. Each epoch was flushed: a full disk has nothing to add here to the error that it caused."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
