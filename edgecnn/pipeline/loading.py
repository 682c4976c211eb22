"""From a bundle to something that computes: a torch module, a graph, a predictor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from edgecnn import schemes
from edgecnn.bundle import Bundle, open_bundle
from edgecnn.compress import equalize
from edgecnn.compress.bits import bits_of, with_bits
from edgecnn.compress.quantize import decompose
from edgecnn.data import preprocess
from edgecnn.errors import BundleError
from edgecnn.graph import store
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import GraphModule
from edgecnn.graph.ir import Graph
from edgecnn.models import channel_plan, zoo
from edgecnn.spec import Format, Precision, Preprocess, Runtime, Scheme
from edgecnn.train.evaluate import predict_logits

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

WEIGHTS = "weights.safetensors"
PLAN = "channel_plan.json"
GOLDEN = "golden.npz"


def preprocess_of(bundle: Bundle) -> Preprocess:
    """The bundle's preprocessing."""
    return preprocess.from_dict(bundle.manifest.preprocess)


def is_quantized(bundle: Bundle) -> bool:
    """Whether the bundle holds the numbers of a scheme, as a graph, and not a float network."""
    return bundle.manifest.precision != Precision.FP32


def scheme_of(bundle: Bundle) -> tuple[Scheme, int]:
    """The scheme of a quantized bundle, and how many of its weights share a scale (0: an output channel)."""
    return Scheme(bundle.manifest.precision), int(bundle.manifest.config.get("weight_group", 0))


def refused(bundle: Bundle, where: Format | Runtime) -> str:
    """Why a format or a runtime cannot have the bundle's precision; empty where it can."""
    if not is_quantized(bundle):
        return ""
    scheme, group = scheme_of(bundle)
    return schemes.refusal(scheme, where, group)


def load_module(bundle: Bundle) -> nn.Module:
    """The float network of a bundle, rebuilt from its description, its channel plan and its weights, loaded strictly.

    Raises ``BundleError`` for a quantized bundle, a damaged one, or weights that do not fit.
    """
    if is_quantized(bundle):
        raise BundleError(
            f"{bundle.path} is quantized: it has no float weights", hint="use the bundle it was made from"
        )
    bundle.check_hashes()
    model = zoo.build(zoo.ModelSpec.from_dict(bundle.manifest.builder))
    if bundle.has(PLAN):
        channel_plan.apply(model, bundle.read_json(PLAN))
    try:
        model.load_state_dict(load_file(bundle.file(WEIGHTS)), strict=True)
    except RuntimeError as error:
        raise BundleError(f"the weights of {bundle.path} do not fit its network: {error}") from error
    return model.eval()


def load_graph(bundle: Bundle) -> Graph:
    """The graph of a bundle: stored once quantized, captured from the torch module before. Raises ``BundleError``."""
    if is_quantized(bundle):
        bundle.check_hashes()
        return store.load(bundle.path)
    p = preprocess_of(bundle)
    return capture(load_module(bundle), p.size, p)


def float_twin(bundle: Bundle) -> Graph:
    """The float graph that a quantized bundle was made from, in its terms: the same nodes by name, real weights,
    channels equalized as it has them.

    Raises ``BundleError`` for a float bundle, or where the float bundle is not there any more.
    """
    if not is_quantized(bundle):
        raise BundleError(f"{bundle.path} is not quantized", hint="give a quantized one")
    parent = open_bundle(bundle.path / str(bundle.manifest.parent_path))
    if parent.manifest.fingerprint != bundle.manifest.parent:
        raise BundleError(
            f"{parent.path} is not the bundle that {bundle.path} was made from", hint="quantize it again from there"
        )
    bundle.check_hashes()
    graph = equalize.rewrite(load_graph(parent), equalize.load(bundle.path))
    bits = {name: width for name, width in bits_of(store.load(bundle.path)).items() if name in graph.by_name}
    return decompose(with_bits(graph, bits), hard_swish=bundle.manifest.config["hard_swish"])


def predictor(bundle: Bundle) -> Predict:
    """A function images (N, H, W, C) uint8 -> logits (N, K) float32, computed by torch."""
    p = preprocess_of(bundle)
    if is_quantized(bundle):
        model: nn.Module = GraphModule(load_graph(bundle)).eval()
        return lambda images: batched(model, images)
    module = load_module(bundle)
    return lambda images: predict_logits(module, images, p)


def batched(model: nn.Module, images: NDArray[np.uint8], batch_size: int = 128) -> NDArray[np.float32]:
    """Logits of a module that takes uint8 pictures, batch by batch."""
    import torch

    with torch.inference_mode():
        parts = [model(torch.from_numpy(images[at : at + batch_size])) for at in range(0, len(images), batch_size)]
    return torch.cat(parts).numpy()


def torch_predictor(path: Path) -> Predict:
    """What the torch runtime calls in its worker: a bundle's folder -> its predictor."""
    return predictor(open_bundle(path))


def save_golden(folder: Path, predict: Predict, images: NDArray[np.uint8], ids: tuple[str, ...]) -> None:
    """Keep a few real inputs with the logits they give, so that anybody can check the bundle later."""
    np.savez_compressed(folder / GOLDEN, images=images, logits=predict(images), ids=np.array(ids))


def golden(bundle: Bundle) -> dict[str, Any]:
    """The arrays ``images``, ``logits`` and ``ids`` of ``golden.npz``."""
    with np.load(bundle.file(GOLDEN)) as arrays:
        return {name: arrays[name] for name in arrays.files}
