"""Images per second of ``edgecnn train`` beside a loop of timm's pieces, put together as its train.py does.

    python benchmarks/train_throughput.py CIFAR10/train --size 32 --batch 256 --name 32px
    python benchmarks/train_throughput.py FLOWERS/train --size 128 --batch 64 --name 128px

The same network (timm's, built by name in both), batch size, picture size, bf16 or fp32, SGD with Nesterov momentum,
label smoothing 0.1 and the same kinds of augmentation (random resized crop, flip, colour jitter 0.4). timm reads files
with its default four workers and its prefetching loader; edgecnn decodes each picture once, to the network's size, and
augments tensors. Processes alternate, each trains ``--epochs`` epochs on the same folder, and the last epoch's rate
counts, so that neither's first steps nor edgecnn's decoding (stated beside it) are in the ratio. What is reported is
the median over the rounds of the ratio of a round, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import record, save_result

from edgecnn.spec import Interval


def timm_rate(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Images per second in the last epoch of timm's loop."""
    import torch
    from timm import create_model
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2

    device = torch.device("cpu")
    classes = sum(each.is_dir() for each in folder.iterdir())
    model = create_model(args.model, num_classes=classes)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    config = resolve_data_config({"input_size": (3, args.size, args.size)}, model=model)
    dataset = create_dataset("", root=str(folder), split="train", is_training=True, batch_size=args.batch)
    loader = create_loader(
        dataset, input_size=config["input_size"], batch_size=args.batch, is_training=True, color_jitter=0.4,
        interpolation="random", mean=config["mean"], std=config["std"], num_workers=args.workers, pin_memory=False,
        device=device,
    )  # fmt: skip
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, weight_decay=5e-4, momentum=0.9)
    loss_of = LabelSmoothingCrossEntropy(0.1)
    rate = 0.0
    for _ in range(args.epochs):
        model.train()
        since, seen = time.perf_counter(), 0
        for pictures, labels in loader:
            if args.channels_last:
                pictures = pictures.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
                loss = loss_of(model(pictures), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # its progress line reads the loss of each step
            seen += len(labels)
        rate = seen / (time.perf_counter() - since)
    return {"images_per_second": rate}


def edgecnn_rate(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Images per second in the last epoch of ``edgecnn train``, and the seconds before its first epoch."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        command = [
            *(sys.executable, "-m", "edgecnn", "train", str(folder), "-o", str(out), "--model", f"timm:{args.model}"),
            *("--image-size", str(args.size), "--batch-size", str(args.batch), "--epochs", str(args.epochs)),
            *("--lr", "0.05", "--precision", args.precision, "--crop-scale", "0.08", "--set", "jitter=0.4"),
            *("--set", "ema=null", "--set", "val_share=0.02", "--device", "cpu"),
        ]
        since = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, text=True)
        whole = time.perf_counter() - since
        with (out / "float" / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    before = whole - sum(float(row["seconds"]) for row in rows)
    return {"images_per_second": float(rows[-1]["images_per_second"]), "seconds_outside_epochs": before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="class folders of pictures")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--name", required=True, help="the figure is train_over_timm_NAME")
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--channels-last", action="store_true", help="as timm's train.py with --channels-last")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=8000, help="so many pictures of the folder, evenly over classes")
    parser.add_argument("--timm-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.timm_only:
        print(json.dumps(timm_rate(args.folder, args)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = subset(args.folder, Path(scratch) / "pictures", args.images)
        rounds = []
        for number in range(args.rounds):
            command = [sys.executable, __file__, "--timm-only", *sys.argv[1:]]
            command[command.index(str(args.folder))] = str(folder)
            theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            mine = edgecnn_rate(folder, args)
            rounds.append({"timm": theirs, "edgecnn": mine})
            print(f"round {number + 1}: edgecnn {mine}, timm {theirs}", flush=True)
    ratios = [each["edgecnn"]["images_per_second"] / each["timm"]["images_per_second"] for each in rounds]
    name = f"train_over_timm_{args.name}"
    record(name, Interval(statistics.median(ratios), min(ratios), max(ratios), len(ratios)), "ratio")
    settings = {key: str(value) for key, value in vars(args).items() if key != "folder"}
    save_result(name, {"settings": settings, "rounds": rounds})


def subset(folder: Path, to: Path, images: int) -> Path:
    """A folder of links to about so many pictures, the first ones of each class."""
    classes = sorted(each for each in folder.iterdir() if each.is_dir())
    for each in classes:
        (to / each.name).mkdir(parents=True)
        for file in sorted(each.iterdir())[: images // len(classes)]:
            (to / each.name / file.name).symlink_to(file.resolve())
    return to


if __name__ == "__main__":
    main()
