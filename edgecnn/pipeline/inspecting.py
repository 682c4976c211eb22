"""The layer table of a bundle or of a model by name."""

from __future__ import annotations

from pathlib import Path

from edgecnn.bundle import open_bundle
from edgecnn.errors import UsageError
from edgecnn.models import zoo
from edgecnn.models.layers import LayerRow, layer_table, totals
from edgecnn.pipeline.loading import is_int8, load_module, preprocess_of


def inspect(target: str, image_size: int | None, width: float, classes: int) -> tuple[list[LayerRow], int, int]:
    """Rows, parameters and MACs of a bundle (an int8 one: of its float parent, whose layers it has) or a named model.

    Raises ``ModelError`` for an unknown name, ``BundleError`` for a damaged bundle.
    """
    if Path(target).is_dir():
        bundle = open_bundle(Path(target))
        size = preprocess_of(bundle).size
        parent = bundle.parent()
        model = load_module(parent if is_int8(bundle) and parent is not None else bundle)
    elif not target.endswith(".json") and any(mark in target.removeprefix("timm:") for mark in "/.\\"):
        raise UsageError(f"there is no bundle {target}", hint="give a bundle's folder, a run, or a model's name")
    else:
        spec = zoo.named(target, classes, image_size, width=width)
        size, model = spec.image_size, zoo.build(spec)
    return layer_table(model, size), *totals(model, size)
