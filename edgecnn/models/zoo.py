"""From a name to a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn import catalog
from edgecnn.models import mcunet
from edgecnn.models.model_spec import INPUT_CHANNELS, ModelSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelSpec", "build", "named", "names"]


def names() -> tuple[str, ...]:
    """The networks that are edgecnn's own; ``timm:<name>`` and ``torchvision:<name>`` name others."""
    return tuple(catalog.MODELS)


def named(name: str, num_classes: int, image_size: int | None, **options: Any) -> ModelSpec:
    """The spec of a network by its name, or by an MCUNet's JSON file, at its paper's image size unless one is given.

    Raises ModelError for an unknown name, UsageError for a file that is not there.
    """
    if name.endswith(".json"):
        rows, size = mcunet.read_json(Path(name))
        return ModelSpec("mcunet", num_classes, image_size or size, **{"stages": rows, **options})
    size = image_size or catalog.model_row(name).default_size
    return ModelSpec(name, num_classes, size, **options)


def build(spec: ModelSpec) -> nn.Module:
    """The network of that spec with fresh random weights (from torch's global seed), in eval mode.

    The module takes normalized images (N, spec.channels, H, W) float32 and gives logits (N, num_classes) float32; what
    it takes stands in its attribute ``input_channels`` (``layers.input_channels``).
    Raises ModelError for an unknown name or an option the network does not have; MissingPackageError where timm is
    not there.
    """
    builder: Callable[[ModelSpec], nn.Module] = catalog.load(catalog.model_row(spec.name).target)
    model = builder(spec).eval()
    model.__dict__[INPUT_CHANNELS] = spec.channels
    return model
