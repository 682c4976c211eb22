"""From a name to a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgecnn import catalog
from edgecnn.models.model_spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelSpec", "build", "names"]


def names() -> tuple[str, ...]:
    """The networks that are edgecnn's own; ``timm:<any timm model>`` is the other way to name one."""
    return tuple(catalog.MODELS)


def build(spec: ModelSpec) -> nn.Module:
    """The network of that spec with fresh random weights (from torch's global seed), in eval mode.

    The module takes normalized images (N, 3, H, W) float32 and gives logits (N, num_classes) float32.
    Raises ModelError for an unknown name or an option the network does not have; MissingPackageError where timm is
    not there.
    """
    builder: Callable[[ModelSpec], nn.Module] = catalog.load(catalog.model_row(spec.name).target)
    return builder(spec).eval()
