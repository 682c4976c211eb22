"""Learning curves of finished runs, as one small picture and the numbers beside it, in recipes/README.md.

    python benchmarks/curves.py runs/cifar10/teacher runs/cifar10/mobile runs/cifar10/small runs/flowers5-twostage/float

Every argument is a float bundle that a recipe trained; its history.csv is drawn, and every few epochs are written out.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

from edgecnn.bundle import Bundle, open_bundle

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RECIPES = Path(__file__).parent.parent / "recipes"
SHOWN = 8
"""Rows of the table of one training."""


def history(bundle: Bundle) -> list[dict[str, str]]:
    """The rows that the training wrote, one per epoch."""
    with bundle.file("history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def draw(trainings: dict[str, list[dict[str, str]]], path: Path) -> None:
    """Top-1 on training (augmented) and validation pictures over the epochs, one panel per training."""
    figure, panels = plt.subplots(1, len(trainings), figsize=(3.2 * len(trainings), 2.6), squeeze=False)
    for panel, (name, rows) in zip(panels[0], trainings.items(), strict=True):
        epochs = [int(row["epoch"]) for row in rows]
        for part, label in (("train", "train, augmented"), ("val", "validation")):
            panel.plot(epochs, [100 * float(row[f"{part}_top1"]) for row in rows], label=label)
        panel.set(title=name, xlabel="epoch")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("top-1 %")
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def table(name: str, rows: list[dict[str, str]]) -> list[str]:
    """About ``SHOWN`` epochs of one training, the last one among them."""
    every = max(1, -(-len(rows) // SHOWN))
    chosen = [row for row in rows if int(row["epoch"]) % every == 0 or row is rows[-1]]
    lines = [f"**{name}**", "", "| epoch | learning rate | train loss | train % | val loss | val % | images/s |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in chosen:
        tops = (100 * float(row[f"{part}_top1"]) for part in ("train", "val"))
        train, val = (f"{top:.2f}" for top in tops)
        losses = float(row["train_loss"]), float(row["val_loss"])
        rate, speed = float(row["lr"]), float(row["images_per_second"])
        lines.append(
            f"| {row['epoch']} | {rate:.4f} | {losses[0]:.3f} | {train} | {losses[1]:.3f} | {val} | {speed:.0f} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    bundles = [open_bundle(path) for path in parser.parse_args().bundles]
    trainings = {f"{each.path.parent.name}/{each.name}": history(each) for each in bundles}
    draw(trainings, RECIPES / "curves.png")
    page = RECIPES / "README.md"
    head, _, _ = page.read_text().partition("<!-- curves -->")
    lines = [line for name, rows in trainings.items() for line in table(name, rows)]
    page.write_text(head + "<!-- curves -->\n\n![learning curves](curves.png)\n\n" + "\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
