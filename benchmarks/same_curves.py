"""One training five ways: the loss curves must coincide.

    python benchmarks/same_curves.py

scikit-learn's digits, as PNG files, train a small network (a) in one process, (b) in two under torchrun with
synchronized batch norm, (c) in two of which one is killed after the third epoch and torchrun starts both again, (d) in
one process that is killed and started again by hand, (e) from WebDataset shards of the same pictures. Recorded is the
largest relative difference of a training loss from (a)'s over all epochs.
"""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from figures import record, save_result
from PIL import Image

from edgecnn.data.source import open_data

EPOCHS = 6
SETTINGS = (
    *("--model", "resnet8", "--image-size", "32", "--width", "0.5", "--epochs", str(EPOCHS), "--batch-size", "64"),
    *("--lr", "0.05", "--shift", "1", "--precision", "fp32", "--threads", "1", "--set", "sync_bn=true"),
)
ALONE = (sys.executable, "-m", "edgecnn")
TOGETHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def write_pictures(root: Path) -> tuple[Path, Path]:
    """The digits in class folders, and in two shards whose names sort the same way."""
    data = open_data("digits")
    folder, shards = root / "folder", root / "shards"
    shards.mkdir(parents=True)
    for split, items in data.splits.items():
        with tarfile.open(shards / f"{split}-000.tar", "w") as tar:
            for item in sorted(items, key=lambda item: (data.labels[item.label], item.id)):
                label, name = data.labels[item.label], item.id.replace("/", "_")
                (folder / split / label).mkdir(parents=True, exist_ok=True)
                content = io.BytesIO()
                data.read(item).resize((32, 32), Image.Resampling.BILINEAR).save(content, "PNG")
                (folder / split / label / f"{name}.png").write_bytes(content.getvalue())
                for kind, raw in (("png", content.getvalue()), ("cls", label.encode())):
                    entry = tarfile.TarInfo(f"{label}/{name}.{kind}")
                    entry.size = len(raw)
                    tar.addfile(entry, io.BytesIO(raw))
    return folder, shards


def train(data: Path, out: Path, launcher: tuple[str, ...] = ALONE, kill_after: int | None = None) -> list[float]:
    """Training losses by epoch; with ``kill_after`` a training process is killed once that epoch is in the history."""
    module = () if launcher is ALONE else ("-m", "edgecnn")
    command = [*launcher, *module, "train", str(data), "-o", str(out), *SETTINGS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        if kill_after is not None:
            os.kill(_wait_for(out / ".float.work" / "history.csv", kill_after, process), signal.SIGKILL)
        _, err = process.communicate()
    if process.returncode and launcher is ALONE and kill_after is not None:
        return train(data, out)
    if process.returncode:
        raise SystemExit(err.decode())
    with (out / "float" / "history.csv").open(newline="") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def _wait_for(history: Path, epoch: int, process: subprocess.Popen[bytes]) -> int:
    """The process to kill, once that many epochs are done: the training itself, or torchrun's second child."""
    while not history.is_file() or len(history.read_text().splitlines()) <= epoch:
        if process.poll() is not None:
            raise SystemExit("the training ended before it could be killed: give it more epochs")
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[-1]) if len(children) > 1 else process.pid


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folder, shards = write_pictures(root)
        elastic = (*TOGETHER, "--max-restarts", "1")
        curves = {
            "one process": train(folder, root / "a"),
            "two processes": train(folder, root / "b", TOGETHER),
            "two processes, one killed": train(folder, root / "c", elastic, kill_after=3),
            "killed and started again": train(folder, root / "d", kill_after=3),
            "webdataset": train(shards, root / "e"),
        }
    for name, losses in curves.items():
        print(f"{name:28}", *(f"{loss:.5f}" for loss in losses))
        largest = max(abs(loss / whole - 1) for loss, whole in zip(losses, curves["one process"], strict=True))
        if name != "one process":
            record(f"same_curve_{name.replace(',', '').replace(' ', '_')}", largest, "ratio")
    save_result("same_curves", curves)


if __name__ == "__main__":
    main()
