"""Transfer learning's first stage: a head on the features of the pretrained network, which are kept in the run."""

from __future__ import annotations

import hashlib
import json
import time

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn

from edgecnn import disk
from edgecnn.data import preprocess
from edgecnn.data.tensors import ImageTensors
from edgecnn.models.layers import find_classifier, run_once
from edgecnn.pipeline.context import Context
from edgecnn.spec import Preprocess, Task
from edgecnn.steps import TrainStep
from edgecnn.train.features import Floats, extract, fit_head, put_head
from edgecnn.train.loop import TrainResult
from edgecnn.train.machine import pick_device

FEATURES = ".features"
BLOCK = 512  # pictures that are hashed at once


def fit_classifier(
    context: Context, step: TrainStep, model: nn.Module, train: ImageTensors, val: ImageTensors, p: Preprocess
) -> TrainResult:
    """Fit the network's classifier, in place, on features of its frozen rest; with ``flip`` on mirrored pictures too.

    The features are kept in the run's ``.features`` folder: another classifier, or the second stage, finds them there.
    Raises ModelError where the classifier is no linear layer.
    """
    since = time.perf_counter()
    threads = torch.get_num_threads()
    if step.threads is not None:
        torch.set_num_threads(step.threads)
    try:
        model.to(pick_device(step.device)).to(memory_format=torch.channels_last)
        turns = (False, True) if step.flip else (False,)
        features = np.concatenate([_kept(context, model, train, p, turn) for turn in turns])
        labels = np.concatenate([train.labels] * len(turns))
        seen = _kept(context, model, val, p, False)
        # Where the network trains on, the validation pictures choose the best epoch, and must not be known by then.
        refit = step.transfer == "features"
        classes = run_once(model, p.size).shape[1]
        task = step.task or Task.MULTI_CLASS
        head = fit_head(features, labels, (seen, val.labels), classes, step.classifier, refit=refit, task=task)
        put_head(model, head)
    finally:
        torch.set_num_threads(threads)
        model.cpu().eval()
    seconds = time.perf_counter() - since
    context.tell(
        f"{step.classifier} classifier on {features.shape[1]} features of {len(features)} pictures in {seconds:.0f} s: "
        f"val {100 * head.val_score:.2f} % (C = {head.strength:g})"
    )
    return TrainResult(head.val_score, 0, 0, [], seconds, "fp32")


def _kept(context: Context, model: nn.Module, part: ImageTensors, p: Preprocess, mirrored: bool) -> Floats:
    """The features of these pictures, from the run's folder if they were computed before."""
    file = context.run / FEATURES / f"{_key(model, part, p, mirrored)}.safetensors"
    try:
        return load_file(file)["features"]
    except (OSError, SafetensorError, KeyError):  # not there yet, or damaged: computed, and written whole
        pass
    watcher = context.watch("features", 1)
    try:
        features = extract(
            model, part.images, p, mirrored=mirrored, on_batch=lambda done, all: watcher.on_step(1, done, all)
        )
    finally:
        watcher.close()
    file.parent.mkdir(parents=True, exist_ok=True)
    with disk.replacing(file) as temporary:
        save_file({"features": features}, temporary)
    return features


def _key(model: nn.Module, part: ImageTensors, p: Preprocess, mirrored: bool) -> str:
    """Names the features by all they depend on: weights but the classifier's, pictures, preprocessing."""
    digest = hashlib.sha256(json.dumps([preprocess.to_dict(p), mirrored, part.images.shape]).encode())
    classifier = find_classifier(model) + "."
    for name, tensor in model.state_dict().items():
        if not name.startswith(classifier):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for start in range(0, len(part), BLOCK):  # they may be more than fit into memory
        digest.update(part.images[start : start + BLOCK].tobytes())
    return digest.hexdigest()[:32]
