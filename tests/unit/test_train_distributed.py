"""Training in several processes against training in one. This file is also the program that torchrun starts."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import edgecnn
from edgecnn.data.items import Item
from edgecnn.data.stream import ImageStream, open_stream
from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import DataError, EdgecnnError, UsageError
from edgecnn.spec import Preprocess, Split, Task
from edgecnn.train import checkpoint, keeping, loop, run
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.distributed import World, joined, parts
from edgecnn.train.history import Row
from edgecnn.train.losses import loss_of_part
from edgecnn.train.schedule import WeightAverage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="torchrun's processes are only tried on Linux")

P = Preprocess(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
BASE = TrainConfig(
    epochs=3, batch_size=16, lr=0.05, shift=1, ema=0.9, clip_norm=1.0, precision="fp32", device="cpu", threads=1
)
CONFIGS = {
    "plain": replace(BASE, crop_scale=0.5, jitter=0.2, cutout=2),
    "uneven": replace(BASE, batch_size=15, accumulate=2, mixup=0.4, cutmix=1.0, loss="focal", balance=True),
    "taught": replace(BASE, balance=True, label_smoothing=0.1, views=2, low_size=6, low_epochs=1, accumulate=2),
    "taught_by_hints": replace(BASE, batch_size=15, hint_weight=0.5, accumulate=2, sam=0.05),
    "sync_bn": replace(BASE, sync_bn=True),
    "streamed": replace(BASE, batch_size=15, shuffle=24, mixup=0.4, repeat=3, crop_scale=0.5),
    "sharpness_aware_sync_bn": replace(BASE, sync_bn=True, sam=0.1, l1=1e-4),
    "labels": replace(BASE, task=Task.MULTI_LABEL, balance=True, mixup=0.4, accumulate=2),
    "own_bn": BASE,
}
"""``own_bn`` has no equal in one process: each process normalizes with its part of the batch."""


def network(norm: bool, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(7)
    normalized = nn.BatchNorm2d(8) if norm else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), normalized, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, 3),
    )  # fmt: skip


def pictures(n: int, seed: int) -> ImageTensors:
    """Three kinds of noise, the bright ones rare: classes whose weights differ."""
    generator = np.random.default_rng(seed)
    labels = np.minimum(np.arange(n, dtype=np.int64) % 5, 2)
    images = (generator.integers(0, 120, (n, 8, 8, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    return ImageTensors(images, labels, tuple(f"{seed}/{index}" for index in range(n)))


TRAIN, VAL = pictures(80, 0), pictures(37, 1)


@dataclass(frozen=True)
class Kept:
    """A set whose training pictures are those of ``TRAIN``, one of them broken."""

    name: str = "kept"
    labels: tuple[str, ...] = ("dark", "bright", "brighter")
    digest: str = "kept"
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> Mapping[Split, tuple[Item, ...]]:
        return {Split.TRAIN: tuple(Item(id, int(label)) for id, label in zip(TRAIN.ids, TRAIN.labels, strict=True))}

    def read(self, item: Item) -> Image.Image:
        if item.id == "0/17":
            raise DataError("0/17: torn")
        return Image.fromarray(TRAIN.images[TRAIN.ids.index(item.id)])


def streamed() -> ImageStream:
    """``TRAIN`` as if it lay in files of ten pictures."""
    places = np.arange(len(TRAIN))
    return replace(open_stream(Kept(), P), files=places // 10, offsets=places % 10)


def with_labels(part: ImageTensors) -> ImageTensors:
    """The same pictures with three labels of their own: bright, very bright, and any of the first."""
    marks = np.stack([part.labels > 0, part.labels > 1, np.arange(len(part)) % 2 == 0], axis=1)
    return replace(part, labels=marks.astype(np.uint8))


def train(case: str, workdir: Path, **options: Any) -> tuple[nn.Module, list[Row]]:
    model = network(norm="bn" in case, dropout=0.2 if case == "own_bn" else 0.0)
    teacher = Teacher(network(norm=False), P) if case.startswith("taught") else None
    train: Any = streamed() if case == "streamed" else TRAIN
    sets = [with_labels(part) if case == "labels" else part for part in (train, VAL)]
    told = {"tell": lambda line: None} | options
    return model, loop.fit(model, *sets, P, CONFIGS[case], workdir, teacher=teacher, **told).history


class Averages(WeightAverage):
    """Remembers the last one made, so that each process can show its own."""

    last: WeightAverage

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, decay)
        type(self).last = self


def work(folder: Path, kind: str, world: World) -> None:
    """What one of torchrun's processes does: train each case, or one of them until something happens to rank 1."""
    run.WeightAverage = Averages  # type: ignore[misc]

    keeping.KEEP_STEPS = 2  # where a training can be kept within an epoch
    started: list[str] = []

    def strike(epoch: int, step: int, steps: int) -> None:
        restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        if restarts and world.leader and not started:
            started.append(f"going on with epoch {epoch}, step {step}")
            print(started[0], flush=True)
        if world.rank == 1 and (epoch, step) == (2, 3) and not restarts:
            if kind != "failing":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("the disk under process 1 is gone")

    def show(row: Row) -> None:
        if world.leader:
            print("trained epoch", row["epoch"], flush=True)

    for case in {"all": list(CONFIGS), "streamed": ["streamed"]}.get(kind, ["own_bn"]):
        watched = {} if kind == "all" else {"on_step": strike, "on_epoch": show}
        _, history = train(case, folder / case, world=world, **watched)
        tensors = checkpoint.model_tensors(Averages.last.model, "")
        checkpoint.write(folder / f"{case}-{world.rank}.safetensors", tensors, {})
        if world.leader:
            (folder / f"{case}.json").write_text(json.dumps(history))


if __name__ == "__main__":
    try:
        with joined() as the_world:
            work(Path(sys.argv[1]), sys.argv[2], the_world)
    except EdgecnnError as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)


def start(*words: object, torchrun: tuple[str, ...] | None = ()) -> subprocess.CompletedProcess[str]:
    """Run a Python program in two processes of torchrun (or, for None, by itself) to its end."""
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if torchrun is not None else []
    environment = os.environ | {"PYTHONPATH": str(Path(edgecnn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *run, *(torchrun or ()), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)


def own_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The errors that the processes told, without torchrun's own report of how they ended."""
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes trained every case."""
    folder = tmp_path_factory.mktemp("together")
    done = start(__file__, folder, "all")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return folder


@pytest.mark.parametrize("case", [case for case in CONFIGS if case != "own_bn"])
def test_two_processes_learn_what_one_learns(together: Path, tmp_path: Path, case: str) -> None:
    _, alone = train(case, tmp_path)
    rows = json.loads((together / f"{case}.json").read_text())
    assert len(rows) == len(alone) == 3
    for ours, theirs in zip(alone, rows, strict=True):
        assert ours["lr"] == theirs["lr"]
        for name in ("train_loss", "val_loss", "train_top1", "val_top1"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4), (name, alone, rows)
    with (together / case / "history.csv").open(newline="") as file:
        assert [float(line["val_loss"]) for line in csv.DictReader(file)] == [row["val_loss"] for row in rows]
    assert len(list((together / case / "tensorboard").glob("events*"))) == 1


@pytest.mark.parametrize("case", CONFIGS)
def test_the_averaged_weights_are_the_same_in_every_process(together: Path, case: str) -> None:
    first, second = (load_file(together / f"{case}-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_process_that_is_killed_costs_one_epoch(together: Path, tmp_path: Path) -> None:
    done = start(__file__, tmp_path, "killed", torchrun=("--max-restarts", "1"))
    assert done.returncode == 0, done.stderr
    told = ["another of the 2 processes ended without a word", "stopped by SIGTERM"]  # torchrun's signal may be faster
    assert len(own_lines(done)) <= 1 and all(any(each in line for each in told) for line in own_lines(done))
    lines = ["trained epoch 1", "going on with epoch 2, step 1", "trained epoch 2", "trained epoch 3"]
    assert done.stdout.splitlines() == lines
    whole, resumed = (load_file(folder / "own_bn-1.safetensors") for folder in (together, tmp_path))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_process_that_is_killed_in_a_stream_costs_few_steps(together: Path, tmp_path: Path) -> None:
    done = start(__file__, tmp_path, "streamed", torchrun=("--max-restarts", "1"))
    assert done.returncode == 0, done.stderr
    lines = ["trained epoch 1", "going on with epoch 2, step 3", "trained epoch 2", "trained epoch 3"]
    assert done.stdout.splitlines() == lines
    whole, resumed = (load_file(folder / "streamed-1.safetensors") for folder in (together, tmp_path))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    rows = [json.loads((folder / "streamed.json").read_text()) for folder in (together, tmp_path)]
    assert [row["train_loss"] for row in rows[0]] == [row["train_loss"] for row in rows[1]]


def test_a_process_that_fails_is_the_only_one_heard(tmp_path: Path) -> None:
    done = start(__file__, tmp_path, "failing")
    assert done.returncode != 0
    assert own_lines(done) == ["error: the disk under process 1 is gone"]
    assert "RuntimeError" not in done.stderr


def draw_pictures(folder: Path) -> None:
    for number, (pixels, label) in enumerate(zip(TRAIN.images, TRAIN.labels, strict=True)):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.png")


def test_the_command_line_trains_in_two_processes_and_says_everything_once(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "data")
    words = [*("--model", "resnet8", "--image-size", "8", "--epochs", "2", "--batch-size", "16", "--lr", "0.01")]
    words += ["--precision", "fp32", "--device", "cpu", "--set", "sync_bn=true"]
    curves = []
    for name, torchrun in (("alone", None), ("both", ())):
        run = tmp_path / name
        done = start("-m", "edgecnn", "train", tmp_path / "data", "-o", run, *words, torchrun=torchrun)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{run}\n"
        assert sum("epoch   2/2" in line for line in done.stderr.splitlines()) == 1
        assert ("2 processes train together" in done.stderr) == (name == "both")
        assert [each.name for each in run.iterdir()] == ["float"]
        with (run / "float" / "history.csv").open(newline="") as file:
            curves.append([(float(row["train_loss"]), float(row["val_loss"])) for row in csv.DictReader(file)])
    np.testing.assert_allclose(curves[0], curves[1], atol=1e-4)


def test_what_all_processes_refuse_is_told_once(tmp_path: Path) -> None:
    done = start("-m", "edgecnn", "train", tmp_path / "nowhere", "-o", tmp_path / "run", "--device", "cpu")
    assert done.returncode != 0
    assert len(own_lines(done)) == 1, done.stderr


@pytest.mark.parametrize("case", ["plain", "uneven", "taught", "taught_by_hints"])
def test_parts_of_a_batch_learn_what_the_batch_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    rows = []
    for count in (1, 3):
        monkeypatch.setitem(CONFIGS, case, replace(CONFIGS[case], accumulate=count))
        rows.append(train(case, tmp_path / str(count))[1])
    for whole, divided in zip(*rows, strict=True):
        for name in ("train_loss", "val_loss", "train_top1", "val_top1"):
            assert whole[name] == pytest.approx(divided[name], abs=1e-5), name


@pytest.mark.parametrize("loss", ["ce", "focal", "bce"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_losses_of_the_parts_are_the_loss_of_the_whole(loss: str, soft: bool, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, wanted = torch.randn(2, 11, 3, generator=generator)
    target = torch.randn(11, 3, generator=generator).softmax(1) if soft else torch.arange(11) % 3
    weights = torch.tensor([0.5, 1.0, 3.0]) if weighted else None
    config = TrainConfig(epochs=1, loss=loss, label_smoothing=0.1)
    whole, divided = (
        sum(loss_of_part(logits[part], target, part, config, weights, wanted[part]) for part in parts(slice(0, 11), n))
        for n in (1, 3)
    )
    torch.testing.assert_close(whole, divided)


def test_shares_are_contiguous_and_cover_everything() -> None:
    shares = [World(rank, 3).share(11) for rank in range(3)]
    assert [each for share in shares for each in range(11)[share]] == list(range(11))
    assert {len(range(11)[share]) for share in shares} == {3, 4}


def test_too_few_pictures_for_the_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"accumulate=9"):
        replace(BASE, accumulate=9)
    with pytest.raises(UsageError, match="16 pictures per step are too few for 3 process"):
        World(0, 3).check_batch(16, 3)
    few = ImageTensors(TRAIN.images[:6], TRAIN.labels[:6], TRAIN.ids[:6])
    with pytest.raises(UsageError, match="6 pictures per step are too few"):
        loop.fit(network(norm=False), few, VAL, P, replace(BASE, accumulate=4), tmp_path)


def test_one_process_of_torchrun_needs_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with joined() as world:
        assert world == World() and not torch.distributed.is_initialized()


def test_what_torchrun_would_have_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set") as caught, joined():
        pass
    assert "torchrun --standalone" in caught.value.hint


def test_a_port_in_use_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        values = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(UsageError, match=f"could not meet at 127.0.0.1:{port}: .*address.*in use") as caught,
            joined(),
        ):
            pass
    assert "free port" in caught.value.hint
