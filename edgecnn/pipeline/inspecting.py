"""The layer table of a bundle or of a model by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecnn import catalog
from edgecnn.bundle import open_bundle
from edgecnn.errors import UsageError
from edgecnn.models import zoo
from edgecnn.models.layers import LayerRow, layer_table, totals
from edgecnn.pipeline.loading import is_quantized, load_module, preprocess_of


@dataclass(frozen=True)
class Inspection:
    """A network's layers, its parameters and MACs, and the catalog's row of its family, which knows what is published.

    That count is the paper's network's, at full width and the row's image size: not that of a pruned or narrow one.
    """

    layers: tuple[LayerRow, ...]
    params: int
    macs: int
    row: catalog.ModelRow

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        known = self.row.published
        published = None if known is None else {"image_size": self.row.default_size, **asdict(known)}
        layers = [asdict(layer) for layer in self.layers]
        return {"layers": layers, "params": self.params, "macs": self.macs, "published": published}

    def published(self) -> str:
        """What the paper counts, in words; empty where the catalog does not know."""
        known, size = self.row.published, self.row.default_size
        if known is None:
            return ""
        counts = f"{known.params:,} parameters, {known.macs / 1e6:,.2f} M MACs"
        return f"published: {counts} at {size} px with {known.classes} classes ({self.row.paper})"


def inspect(target: str, image_size: int | None, width: float, classes: int, grey: bool = False) -> Inspection:
    """A bundle (a quantized one: its float parent, whose layers it has) or a named model.

    Raises ``ModelError`` for an unknown name, ``BundleError`` for a damaged bundle.
    """
    if Path(target).is_dir():
        bundle = open_bundle(Path(target))
        size, row = preprocess_of(bundle).size, catalog.model_row(str(bundle.manifest.builder["name"]))
        parent = bundle.parent()
        model = load_module(parent if is_quantized(bundle) and parent is not None else bundle)
    elif not target.endswith(".json") and any(mark in target.removeprefix("timm:") for mark in "/.\\"):
        raise UsageError(f"there is no bundle {target}", hint="give a bundle's folder, a run, or a model's name")
    else:
        spec = zoo.named(target, classes, image_size, width=width, channels=1 if grey else 3)
        size, row, model = spec.image_size, catalog.model_row(spec.name), zoo.build(spec)
    return Inspection(tuple(layer_table(model, size)), *totals(model, size), row)
