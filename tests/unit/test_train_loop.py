from __future__ import annotations

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import BundleError, DataError, UsageError, WriteError
from edgecnn.spec import Preprocess
from edgecnn.train import checkpoint
from edgecnn.train.augment import augment
from edgecnn.train.config import TrainConfig
from edgecnn.train.evaluate import loss_and_top1, predict_logits
from edgecnn.train.history import Row, format_epoch
from edgecnn.train.loop import BEST, LAST, PREVIOUS, fit
from edgecnn.train.optimizer import make_optimizer

P = Preprocess(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CONFIG = TrainConfig(
    epochs=4, batch_size=16, lr=0.1, shift=1, cutout=2, ema=0.9, precision="fp32", device="cpu", threads=1
)


class Tiny(nn.Module):
    """Dense and depthwise convolution, batch norm and dropout: one of everything that carries state or randomness."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.bn(self.conv(x)))))
        logits: torch.Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return logits


def tiny(classes: int = 2) -> Tiny:
    torch.manual_seed(7)
    return Tiny(classes)


def pictures(n: int, seed: int = 0) -> ImageTensors:
    """Dark and bright pictures with noise: a task that a few epochs solve."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % 2
    noise = generator.integers(0, 120, (n, 8, 8, 3))
    images = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
    return ImageTensors(images, labels, tuple(f"{seed}/{index}" for index in range(n)))


TRAIN, VAL = pictures(80), pictures(40, 1)


def train(workdir: Path, config: TrainConfig = CONFIG, **options: object) -> tuple[Tiny, list[Row]]:
    model = tiny()
    result = fit(model, TRAIN, VAL, P, config, workdir, **options)  # type: ignore[arg-type]
    return model, result.history


def without_times(rows: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    other = second.state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, other[name]), name


def test_it_learns_and_leaves_its_files(tmp_path: Path) -> None:
    model = tiny()
    rows: list[Row] = []
    steps: list[tuple[int, int, int]] = []
    result = fit(
        model, TRAIN, VAL, P, replace(CONFIG, epochs=8), tmp_path,
        on_epoch=rows.append, on_step=lambda *place: steps.append(place),
    )  # fmt: skip
    assert result.best_top1 > 0.9
    assert result.history == rows and result.epochs == 8
    assert steps[:2] == [(1, 1, 5), (1, 2, 5)] and len(steps) == 40
    _, top1 = loss_and_top1(predict_logits(model, VAL.images, P), VAL.labels)
    assert top1 == result.best_top1 == max(row["val_top1"] for row in rows)
    assert not model.training
    with (tmp_path / "history.csv").open(newline="") as file:
        assert [float(line["val_top1"]) for line in csv.DictReader(file)] == [row["val_top1"] for row in rows]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert "8/8" in format_epoch(rows[-1], 8)
    assert not list(tmp_path.glob(".*"))


def ends_the_same_when_interrupted(
    tmp_path: Path, config: TrainConfig, run: Callable[..., tuple[Any, list[Row]]]
) -> tuple[Any, list[Row]]:
    """Assert that ``run`` ends with the same bits when it is stopped after two epochs; gives the whole one's result."""
    whole, rows = run(tmp_path / "whole", config)

    def interrupt(row: Row) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", config, on_epoch=interrupt)
    resumed, more = run(tmp_path / "cut", config)
    assert_same_weights(whole, resumed)
    assert without_times(rows) == without_times(more)
    return whole, rows


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path, optimizer: str, ema: float | None) -> None:
    config = replace(CONFIG, optimizer=optimizer, ema=ema, lr=0.02, low_size=6, low_epochs=2)
    ends_the_same_when_interrupted(tmp_path, config, train)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_train_loop import CONFIG, P, TRAIN, VAL, tiny
from edgecnn.train.loop import fit
fit(tiny(), TRAIN, VAL, P, CONFIG, Path(sys.argv[1]), on_step=lambda *place: print(*place, flush=True))
"""


def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, rows = train(tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(Path(__file__).parent)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        reached = next((line for line in process.stdout if line.startswith("3 2 ")), None)
        process.send_signal(signal.SIGKILL)
    assert reached is not None
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / LAST).is_file()
    resumed, more = train(tmp_path / "killed")
    assert_same_weights(whole, resumed)
    assert without_times(rows) == without_times(more)
    for name in (LAST, BEST):
        first, second = load_file(tmp_path / "whole" / name), load_file(tmp_path / "killed" / name)
        assert all(torch.equal(first[key], second[key]) for key in first | second)


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    first, rows = train(tmp_path)
    again, same = train(tmp_path, on_epoch=lambda row: pytest.fail("trained again"))
    assert_same_weights(first, again)
    assert same == rows


def test_another_training_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    train(tmp_path, replace(CONFIG, epochs=1))
    with pytest.raises(UsageError, match="other settings"):
        train(tmp_path, CONFIG)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(tmp_path, replace(CONFIG, epochs=1))
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:100])
    with pytest.raises(BundleError, match=r"last\.safetensors"):
        train(tmp_path, replace(CONFIG, epochs=1))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def changed(path: Path) -> None:
    """One bit of a weight: the file can be read as before."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def another_epoch(path: Path) -> None:
    """A digit of the JSON in the header."""
    content = path.read_bytes()
    assert b'\\"best_epoch\\": ' in content
    at = content.index(b'\\"best_epoch\\": ') + 16
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut_short, "not a usable"),
        (emptied, "not a usable"),
        (Path.unlink, "is missing"),
        (changed, "not a usable checkpoint: its contents changed since it was written"),
        (another_epoch, "not a usable checkpoint: its contents changed since it was written"),
    ],
)
def test_a_damaged_last_checkpoint_costs_one_epoch(tmp_path: Path, damage: Callable[[Path], None], told: str) -> None:
    whole, rows = train(tmp_path / "whole")
    stop_after(tmp_path / "cut", 3)
    assert [len(checkpoint.read(tmp_path / "cut" / name)[1]["history"]) for name in (LAST, PREVIOUS)] == [3, 2]
    damage(tmp_path / "cut" / LAST)
    lines: list[str] = []
    again: list[Row] = []
    resumed, more = train(tmp_path / "cut", tell=lines.append, on_epoch=again.append)
    assert len(lines) == 1 and told in lines[0] and "going on from previous.safetensors" in lines[0]
    assert [row["epoch"] for row in again] == [3, 4]
    assert_same_weights(whole, resumed)
    assert without_times(rows) == without_times(more)
    assert [len(checkpoint.read(tmp_path / "cut" / name)[1]["history"]) for name in (LAST, PREVIOUS)] == [4, 3]


def test_a_damaged_last_checkpoint_never_becomes_the_previous_one(tmp_path: Path) -> None:
    stop_after(tmp_path, 2)
    emptied(tmp_path / LAST)
    good = (tmp_path / PREVIOUS).read_bytes()
    with pytest.warns(UserWarning, match=r"previous\.safetensors"), pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_step=interrupt)
    assert not (tmp_path / LAST).exists() and (tmp_path / PREVIOUS).read_bytes() == good


def test_a_checkpoint_without_a_checksum_is_an_older_one_and_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    checkpoint.save_file({"a": torch.ones(2)}, path, metadata={"state": json.dumps({"epoch": 1})})
    assert checkpoint.read(path)[1] == {"epoch": 1}


def test_two_damaged_checkpoints_are_both_named(tmp_path: Path) -> None:
    stop_after(tmp_path, 2)
    emptied(tmp_path / LAST)
    emptied(tmp_path / PREVIOUS)
    with pytest.raises(BundleError, match=r"last\.safetensors.*previous\.safetensors") as caught:
        train(tmp_path)
    assert caught.value.hint == f"delete {tmp_path} to start training again"


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def stop_after(workdir: Path, epoch: int) -> None:
    """Train, and leave with the checkpoint of ``epoch``."""
    with pytest.raises(KeyboardInterrupt):
        train(workdir, on_epoch=lambda row: interrupt() if row["epoch"] == epoch else None)


@pytest.mark.parametrize("victim", [LAST, BEST])
def test_a_full_disk_is_told_and_costs_one_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str) -> None:
    whole, rows = train(tmp_path / "whole")
    work = tmp_path / "full"
    stop_after(work, 2)
    before = {name: (work / name).read_bytes() for name in (LAST, PREVIOUS)}
    save_file = checkpoint.save_file
    halves: list[Path] = []

    def fill(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata=metadata)
        if victim in path.name:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            halves.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(WriteError) as caught:
        patch.setattr(checkpoint, "save_file", fill)
        train(work)
    assert f"{work / victim} could not be written: No space left on device" in caught.value.message
    assert "MB are free" in caught.value.message and "run the same command again" in caught.value.hint
    assert halves and not list(work.glob(".*"))
    assert before == {name: (work / name).read_bytes() for name in (LAST, PREVIOUS)}
    resumed, more = train(work)
    assert_same_weights(whole, resumed)
    assert without_times(rows) == without_times(more)


@pytest.mark.skipif(os.name != "posix", reason="no limit on the size of files")
def test_a_system_that_really_refuses_to_write_is_told_in_its_words(tmp_path: Path) -> None:
    import resource

    path, previous = tmp_path / LAST, tmp_path / PREVIOUS
    checkpoint.write(path, {"a": torch.ones(2)}, {"epoch": 1}, previous=previous)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(WriteError, match=r"last\.safetensors could not be written: .*File too large.* MB"):
            checkpoint.write(path, {"a": torch.ones(100_000)}, {"epoch": 2}, previous=previous)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in tmp_path.iterdir()] == [LAST]
    assert checkpoint.read(path)[1] == {"epoch": 1}


def test_order_and_augmentation_follow_the_seed(tmp_path: Path) -> None:
    first, _ = train(tmp_path / "a")
    torch.rand(3)
    second, _ = train(tmp_path / "b")
    third, _ = train(tmp_path / "c", replace(CONFIG, seed=1))
    assert_same_weights(first, second)
    assert not torch.equal(first.conv.weight, third.conv.weight)


def test_the_callers_random_state_and_threads_stay_as_they_were(tmp_path: Path) -> None:
    model = tiny()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    fit(model, TRAIN, VAL, P, CONFIG, tmp_path)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_early_stopping_waits_for_patience_and_keeps_the_best(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=60, patience=3)
    model, rows = train(tmp_path, config)
    best = max(rows, key=lambda row: (row["val_top1"], -row["epoch"]))
    assert len(rows) == best["epoch"] + 3 < 60
    _, top1 = loss_and_top1(predict_logits(model, VAL.images, P), VAL.labels)
    assert top1 == best["val_top1"]


def test_a_loss_that_is_no_number_stops_with_the_place_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        train(tmp_path, replace(CONFIG, lr=1e30, warmup_epochs=0))
    assert "epoch 1, step" in caught.value.message and "learning rate" in caught.value.hint
    assert not (tmp_path / LAST).exists()


class Allergic(Tiny):
    """A network that gives inf for white pictures, once ``from_now`` is set: their loss is no number."""

    from_now = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        white = (x.mean((1, 2, 3)) > 1.9) & self.from_now
        return torch.where(white[:, None], torch.inf, super().forward(x))


def with_a_white_one(images: ImageTensors) -> ImageTensors:
    pixels = images.images.copy()
    pixels[5] = 255
    return replace(images, images=pixels)


@pytest.mark.parametrize(("batch_size", "shown"), [(4, 4), (16, 5)])
def test_a_picture_that_breaks_the_loss_is_among_the_named_ones(tmp_path: Path, batch_size: int, shown: int) -> None:
    torch.manual_seed(7)
    model = Allergic()
    config = replace(CONFIG, batch_size=batch_size, shift=0, cutout=0, flip=False)

    def sicken(row: Row) -> None:
        model.from_now = row["epoch"] == 2

    with pytest.raises(UsageError) as caught:
        fit(model, with_a_white_one(TRAIN), VAL, P, config, tmp_path, on_epoch=sicken)
    place = r"the loss became nan in epoch 3, step (\d+) of \d+, at learning rate 0\.0\d+, "
    found = re.match(place + r"on (\d+) pictures \((.*)\); (.*)", caught.value.message)
    assert found is not None, caught.value.message
    assert int(found[2]) == batch_size and found[4] == "the last good checkpoint is that of epoch 2"
    named = found[3].removesuffix(", ...").split(", ")
    assert len(named) == shown and set(named) <= set(TRAIN.ids)
    assert "0/5" in named or batch_size > shown
    assert len(checkpoint.read(tmp_path / LAST)[1]["history"]) == 2


def test_an_epoch_whose_validation_loss_is_no_number_is_not_kept(tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = Allergic()
    model.from_now = True
    with pytest.raises(UsageError, match=r"validation loss is nan after epoch 1.*no epoch was finished before"):
        fit(model, TRAIN, with_a_white_one(VAL), P, replace(CONFIG, ema=None), tmp_path)
    assert not (tmp_path / LAST).exists()


def test_more_classes_than_logits_is_found_before_training(tmp_path: Path) -> None:
    wrong = ImageTensors(TRAIN.images, TRAIN.labels + 3, TRAIN.ids)
    with pytest.raises(DataError, match="label 4"):
        fit(tiny(), wrong, VAL, P, CONFIG, tmp_path)


def test_fewer_pictures_than_a_batch_are_one_batch(tmp_path: Path) -> None:
    few = ImageTensors(TRAIN.images[:6], TRAIN.labels[:6], TRAIN.ids[:6])
    assert fit(tiny(), few, VAL, P, replace(CONFIG, epochs=1), tmp_path).epochs == 1


def test_only_dense_weights_are_decayed() -> None:
    model = tiny()
    decayed, free = make_optimizer(model, replace(CONFIG, weight_decay=0.5)).param_groups
    assert {id(p) for p in decayed["params"]} == {id(model.conv.weight), id(model.classifier.weight)}
    assert decayed["weight_decay"] == 0.5 and free["weight_decay"] == 0.0
    assert len(free["params"]) == len(list(model.parameters())) - 2


def test_frozen_weights_stay(tmp_path: Path) -> None:
    model = tiny()
    model.conv.weight.requires_grad_(False)
    before = model.conv.weight.clone()
    fit(model, TRAIN, VAL, P, replace(CONFIG, epochs=2), tmp_path)
    assert torch.equal(before, model.conv.weight)


def test_bf16_is_not_chosen_by_name_of_auto_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    for fast, expected in (("bf16", "bf16"), ("fp32", "fp32")):
        timings = {fast: 1.0}
        monkeypatch.setattr(
            "edgecnn.train.precision._step_seconds", lambda model, example, k, kind, t=timings: t.get(kind, 2.0)
        )
        model = tiny()
        result = fit(model, TRAIN, VAL, P, replace(CONFIG, epochs=1, precision="auto"), tmp_path / fast)
        assert result.precision == expected


def test_checkpoint_writing_replaces_in_one_go(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.write(path, {"a": torch.ones(2)}, {"epoch": 1})
    checkpoint.write(path, {"a": torch.zeros(2)}, {"epoch": 2})
    tensors, state = checkpoint.read(path)
    assert state == {"epoch": 2} and torch.equal(tensors["a"], torch.zeros(2))
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_logits_do_not_depend_on_the_batch_size_and_training_mode_is_put_back() -> None:
    model = tiny().train()
    one = predict_logits(model, VAL.images, P, batch_size=7)
    assert model.training
    np.testing.assert_allclose(one, predict_logits(model, VAL.images, P, batch_size=40), atol=1e-5)


def test_on_epoch_sees_the_checkpoint_already_written(tmp_path: Path) -> None:
    times: list[float] = []
    train(tmp_path, on_epoch=lambda row: times.append(time.time() - (tmp_path / LAST).stat().st_mtime))
    assert len(times) == 4 and all(age < 60 for age in times)


def test_repeated_augmentation_keeps_steps_and_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def noted(images: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(images)
        return augment(images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("edgecnn.train.run.augment", noted)
    _, rows = train(tmp_path, replace(CONFIG, epochs=1, repeat=4))
    assert len(rows) == 1
    batches = seen[-5:]
    assert [len(batch) for batch in batches] == [16] * 5
    assert all(len(batch.flatten(1).unique(dim=0)) == 4 for batch in batches)
    assert len(torch.cat(batches).flatten(1).unique(dim=0)) == 20


def test_too_few_pictures_to_repeat_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few"):
        fit(tiny(), pictures(6), VAL, P, replace(CONFIG, repeat=8), tmp_path)
