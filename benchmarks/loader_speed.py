"""Does the loader keep the network waiting? Pictures per second of either alone, and of both together.

    python benchmarks/loader_speed.py CIFAR10/train --size 32 --batch 256 --name 32px

* loader alone: batches are gathered in random order and augmented, and nothing is done with them;
* step alone: the training loop on a batch that was augmented before;
* both: the training loop as it is. If the loader were free, this would be the step alone.

The training loop is ``edgecnn.train.loop.fit`` each time, and its last epoch counts. The three alternate, and what is
reported is the median over the rounds, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
from figures import record, save_result

from edgecnn.data.source import open_data
from edgecnn.data.tensors import ImageTensors, load_split
from edgecnn.models import zoo
from edgecnn.pipeline.preparing import with_statistics
from edgecnn.spec import Interval, Preprocess, Split
from edgecnn.train.augment import augment
from edgecnn.train.config import TrainConfig
from edgecnn.train.loop import fit


def loader_rate(train: ImageTensors, p: Preprocess, config: TrainConfig) -> float:
    """Pictures per second that are gathered and augmented, over one epoch."""
    images = torch.from_numpy(train.images)
    generator = torch.Generator().manual_seed(0)
    steps = len(train) // config.batch_size
    since = time.perf_counter()
    for chosen in torch.randperm(len(train), generator=generator)[: steps * config.batch_size].split(config.batch_size):
        augment(images[chosen], config, p, generator)
    return steps * config.batch_size / (time.perf_counter() - since)


def loop_rate(spec: zoo.ModelSpec, train: ImageTensors, p: Preprocess, config: TrainConfig, *, fixed: bool) -> float:
    """Pictures per second of the training loop's last epoch; with ``fixed`` every batch is the same finished one."""
    torch.manual_seed(0)
    batch = augment(torch.from_numpy(train.images[: config.batch_size]), config, p, torch.Generator())
    val = ImageTensors(train.images[:2], train.labels[:2], train.ids[:2])
    with tempfile.TemporaryDirectory() as scratch, patch("edgecnn.train.run.augment") as replaced:
        replaced.side_effect = (lambda *_: batch) if fixed else augment
        result = fit(zoo.build(spec), train, val, p, config, Path(scratch))
    return float(result.history[-1]["images_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="class folders of pictures, or another source")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--name", default="32px", help="the figures are loader_alone_NAME, step_alone_NAME, both_NAME")
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--precision", default="fp32", choices=("bf16", "fp32"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=8000, help="so many of the training pictures")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="print, and keep no figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = open_data(str(args.folder))
    p = Preprocess(args.size, (0.0,) * 3, (1.0,) * 3)
    train = load_split(data, Split.TRAIN, p, limit=args.images)
    p = with_statistics(p, train, "uniform")
    spec = zoo.ModelSpec(args.model, len(data.labels), args.size)
    config = TrainConfig(
        epochs=args.epochs, batch_size=min(args.batch, len(train)), lr=0.01, crop_scale=0.08, jitter=0.4, ema=None,
        precision=args.precision, device="cpu", threads=args.threads,
    )  # fmt: skip
    rates: dict[str, list[float]] = {"loader_alone": [], "step_alone": [], "both": []}
    for number in range(args.rounds):
        rates["loader_alone"].append(loader_rate(train, p, config))
        rates["step_alone"].append(loop_rate(spec, train, p, config, fixed=True))
        rates["both"].append(loop_rate(spec, train, p, config, fixed=False))
        said = ", ".join(f"{name} {values[-1]:.0f}" for name, values in rates.items())
        print(f"round {number + 1}: {said} images/s", flush=True)
    if args.dry:
        return
    for name, values in rates.items():
        interval = Interval(statistics.median(values), min(values), max(values), len(values))
        record(f"{name}_{args.name}", interval, "images/s")
    settings = {key: value for key, value in vars(args).items() if key != "folder"}
    save_result(f"loader_{args.name}", {"settings": settings, "rates": rates})


if __name__ == "__main__":
    main()
