"""Any network of timm (github.com/huggingface/pytorch-image-models) by its name, ``timm:<name>``."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from edgecnn.catalog import require
from edgecnn.errors import ModelError
from edgecnn.models.blocks import activation
from edgecnn.models.model_spec import ModelSpec
from edgecnn.spec import Interpolation, Preprocess

PREFIX = "timm:"
ACTIVATIONS = {"ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "CELU", "SELU", "SiLU", "Swish", "Hardswish", "HardSwish"}
ACTIVATIONS |= {"Mish", "HardMish", "GELU", "GELUTanh", "QuickGELU"}
"""Module types, torch's and timm's, that the option ``activation`` replaces; the sigmoids of gates are none of them."""


def timm_model(spec: ModelSpec) -> nn.Module:
    """The timm network of that spec with fresh weights: nothing is downloaded.

    Raises ModelError for a name timm does not have, or an option of edgecnn's own networks; MissingPackageError
    without timm.
    """
    refuse_foreign_options(spec)
    name = known_name(spec.name)
    options: dict[str, Any] = {}
    if spec.channels != 3:
        options["in_chans"] = spec.channels
    if spec.dropout is not None:
        options["drop_rate"] = spec.dropout
    timm = require("timm", extra="timm")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=spec.num_classes, **options)
    except TypeError as error:
        raise ModelError(
            f"{spec.name} does not take {', '.join(options)}: {error}", hint="leave the option out"
        ) from error
    if spec.activation is not None:
        replace_activations(model, spec.activation)
    return model


def replace_activations(model: nn.Module, name: str) -> None:
    """Put the activation called ``name`` in the place of all there are, in place where the old one was so.

    Every activation that is a module is found, also where timm's own option (``act_layer``) does not reach: in blocks
    that name theirs, and in networks without that option. Raises ModelError for an unknown name, and where the network
    has none, because it writes them as functions.
    """
    modules = model.named_modules(remove_duplicate=False)
    found = [path for path, module in modules if type(module).__name__ in ACTIVATIONS]
    for path in found:
        new: Any = activation(name)
        new.inplace = getattr(model.get_submodule(path), "inplace", False)
        model.set_submodule(path, new)
    if not found:
        activation(name)  # a wrong name is told first
        raise ModelError(
            f"{type(model).__name__} has no activation module that {name} could replace", hint="leave activation out"
        )


def known_name(name: str) -> str:
    """timm's own name for ``timm:<name>``. Raises ModelError with close matches where timm has none."""
    timm = require("timm", extra="timm")
    bare = name.removeprefix(PREFIX)
    if timm.is_model(bare):
        return bare
    close = difflib.get_close_matches(bare, timm.list_models(), n=3)
    hint = (
        f"did you mean {' or '.join(PREFIX + match for match in close)}?" if close else "timm.list_models() lists them"
    )
    raise ModelError(f"timm {timm.__version__} has no model {bare!r}", hint=hint)


def preprocess(spec: ModelSpec) -> Preprocess:
    """What that network's pretrained weights expect, at the spec's image size, from timm's table (no download)."""
    timm = require("timm", extra="timm")
    config = timm.models.get_pretrained_cfg(known_name(spec.name))
    if config is None:
        raise ModelError(f"timm has no pretrained weights for {spec.name}", hint="leave the pretrained source out")
    known = {item.value for item in Interpolation}
    interpolation = config.interpolation if config.interpolation in known else Interpolation.BILINEAR
    return Preprocess(
        size=spec.image_size,
        mean=_three(config.mean),
        std=_three(config.std),
        interpolation=Interpolation(interpolation),
        crop_fraction=float(config.crop_pct),
    )


def refuse_foreign_options(spec: ModelSpec) -> None:
    """Raise ModelError on options that a foreign network would silently ignore: its name carries width and strides."""
    given = [key for key in ("stem_stride", "strides", "stages", "head") if getattr(spec, key) is not None]
    given += ["width"] if spec.width != 1.0 else []
    if given:
        raise ModelError(
            f"{spec.name} does not take {', '.join(given)}",
            hint="choose a model of that width, or one of edgecnn's own networks",
        )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
