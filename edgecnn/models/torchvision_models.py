"""Any classifier of torchvision by its name, ``torchvision:<name>``: AlexNet, VGG, GoogLeNet, DenseNet, ViT ...."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from edgecnn.catalog import ModelRow, Published, require
from edgecnn.errors import ModelError
from edgecnn.models.model_spec import ModelSpec
from edgecnn.models.timm_models import refuse_foreign_options, replace_activations
from edgecnn.spec import Interpolation, Preprocess

PREFIX = "torchvision:"
PAPERS = {
    "alexnet": "Krizhevsky 2014, arXiv:1404.5997",
    "vgg": "Simonyan 2014, arXiv:1409.1556",
    "googlenet": "Szegedy 2014, arXiv:1409.4842",
    "inception": "Szegedy 2015, arXiv:1512.00567; counted with the second classifier of training",
    "densenet": "Huang 2016, arXiv:1608.06993",
    "efficientnet_v2": "Tan 2021, arXiv:2104.00298",
    "efficientnet": "Tan 2019, arXiv:1905.11946",
    "vit": "Dosovitskiy 2020, arXiv:2010.11929",
}
# These have further classifiers for training, and would give tuples of logits.
AUXILIARY = ("googlenet", "inception_v3")
HALF = (0.5, 0.5, 0.5)


def row(name: str) -> ModelRow:
    """The catalog's row of ``torchvision:<name>``: what torchvision says beside its weights (nothing is downloaded).

    Raises ModelError for a name it does not have; MissingPackageError without torchvision.
    """
    bare = known_name(name)
    weights = _weights(bare)
    papers = (paper for start, paper in PAPERS.items() if bare.startswith(start))
    published = Published(len(weights.meta["categories"]), weights.meta["num_params"], 1e9 * weights.meta["_ops"])
    return ModelRow(
        "edgecnn.models.torchvision_models:torchvision_model",
        next(papers, f"torchvision model {bare}"),
        weights.transforms().crop_size[0],
        published,
    )


def torchvision_model(spec: ModelSpec) -> nn.Module:
    """The torchvision network of that spec with fresh weights: nothing is downloaded.

    Raises ModelError for a name torchvision does not have, an option of edgecnn's own networks, or an image size that
    it cannot be built for; MissingPackageError without torchvision.
    """
    refuse_foreign_options(spec)
    if spec.channels != 3:
        raise ModelError(
            f"{spec.name} takes pictures of three channels, not {spec.channels}",
            hint="leave grey out, or take one of edgecnn's own networks or of timm's",
        )
    name = known_name(spec.name)
    if name.startswith("mnasnet"):  # it loads weights only with a version number that no safetensors file has
        raise ModelError(
            f"{spec.name} cannot be read back from a bundle", hint="take torchvision:mobilenet_v2 or timm:mnasnet_100"
        )
    try:
        model = create(name, weights=None, num_classes=spec.num_classes, **_sized(name, spec.image_size))
    except (AssertionError, TypeError, ValueError) as error:
        raise ModelError(
            f"{spec.name} cannot be built for {spec.image_size} px: {error}", hint="choose another image size"
        ) from error
    if spec.dropout is not None:
        _set_dropout(model, spec)
    if spec.activation is not None:
        replace_activations(model, spec.activation)
    return model


def create(name: str, **options: Any) -> nn.Module:
    """``torchvision.models.get_model`` of a network that gives logits and nothing else, and that knows its name."""
    if name in AUXILIARY:
        options |= {"aux_logits": False, "init_weights": True}
    model: Any = require("torchvision", extra="timm").models.get_model(name, **options)
    model.torchvision_name = name
    created: nn.Module = model
    return created


def known_name(name: str) -> str:
    """torchvision's own name for ``torchvision:<name>``. Raises ModelError with close matches where it has none."""
    torchvision = require("torchvision", extra="timm")
    names = torchvision.models.list_models(module=torchvision.models)
    bare = name.removeprefix(PREFIX)
    if bare in names:
        return bare
    close = difflib.get_close_matches(bare, names, n=3)
    hint = (
        f"did you mean {' or '.join(PREFIX + match for match in close)}?"
        if close
        else "torchvision.models.list_models() lists them"
    )
    raise ModelError(f"torchvision {torchvision.__version__} has no classifier {bare!r}", hint=hint)


def preprocess(name: str, image_size: int) -> Preprocess:
    """What the pretrained weights of ``torchvision:<name>`` expect, at ``image_size`` pixels (no download)."""
    bare = known_name(name)
    recipe = _weights(bare).transforms()
    # With weights, torchvision's own networks of these names take the usual pictures and turn them into these.
    mean, std = (HALF, HALF) if bare in AUXILIARY else (tuple(recipe.mean), tuple(recipe.std))
    return Preprocess(
        size=image_size,
        mean=mean,
        std=std,
        interpolation=Interpolation(recipe.interpolation.value),
        crop_fraction=recipe.crop_size[0] / recipe.resize_size[0],
    )


def _weights(bare: str) -> Any:
    """torchvision's entry for the best weights it has."""
    return require("torchvision", extra="timm").models.get_model_weights(bare).DEFAULT


def _sized(name: str, image_size: int) -> dict[str, int]:
    """Vision transformers learn one embedding per place of the picture."""
    return {"image_size": image_size} if name.startswith("vit_") else {}


def _set_dropout(model: nn.Module, spec: ModelSpec) -> None:
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    if not found:
        raise ModelError(f"{spec.name} has no dropout to set", hint="leave dropout out")
    for module in found:
        module.p = float(spec.dropout or 0.0)
