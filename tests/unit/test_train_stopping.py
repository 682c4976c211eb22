"""SIGTERM ends a training with a sentence and exit code 143, and the same command ends with the very same weights."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from torch import nn

import edgecnn
from edgecnn.data.tensors import ImageTensors
from edgecnn.errors import StoppedError
from edgecnn.spec import Preprocess
from edgecnn.train import checkpoint
from edgecnn.train.config import TrainConfig
from edgecnn.train.loop import LAST, PREVIOUS, OnStep, TrainResult, fit
from edgecnn.train.stopping import stopping_on_sigterm

CONFIG = TrainConfig(epochs=3, batch_size=8, flip=True, ema=0.9, precision="fp32", device="cpu", threads=1)
STEPS = 4


def train(workdir: Path, on_step: OnStep | None = None) -> tuple[nn.Module, TrainResult]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    generator = np.random.default_rng(0)
    labels = np.arange(8 * STEPS, dtype=np.int64) % 2
    images = (generator.integers(0, 120, (len(labels), 8, 8, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    data = ImageTensors(images, labels, tuple(map(str, range(len(labels)))))
    p = Preprocess(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return model, fit(model, data, data, p, CONFIG, workdir, on_step=on_step)


def sigterm_at(*place: int) -> OnStep:
    """A watcher that has this process sent SIGTERM when the training is at ``place``: epoch, step."""

    def on_step(epoch: int, step: int, steps: int) -> None:
        if (epoch, step) == place:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


@pytest.mark.parametrize(
    ("place", "kept", "sentence"),
    [
        (
            (1, 1),
            0,
            "stopped by SIGTERM after epoch 1, step 1 of 4; run the same command again to go on from epoch 1",
        ),
        (
            (3, 2),
            2,
            "stopped by SIGTERM after epoch 3, step 2 of 4; run the same command again to go on from epoch 3",
        ),
        ((2, 4), 2, "stopped by SIGTERM after epoch 2 of 3, which is kept; run the same command again to go on"),
        ((3, 4), 3, "stopped by SIGTERM after epoch 3 of 3, which is kept; run the same command again to go on"),
    ],
)
def test_sigterm_ends_the_step_and_nothing_is_lost(
    tmp_path: Path, place: tuple[int, int], kept: int, sentence: str
) -> None:
    whole, _ = train(tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError) as caught:
        train(tmp_path / "stopped", sigterm_at(*place))
    assert signal.getsignal(signal.SIGTERM) == before
    assert str(caught.value) == sentence and caught.value.exit_code == 143
    epochs = [
        len(checkpoint.read(tmp_path / "stopped" / name)[1]["history"])
        for name in (LAST, PREVIOUS)
        if (tmp_path / "stopped" / name).is_file()
    ]
    assert epochs == [epoch for epoch in (kept, kept - 1) if epoch > 0]
    resumed, result = train(tmp_path / "stopped")
    assert result.epochs == 3
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_signal_too_late_for_the_training_goes_to_whoever_is_in_charge_then() -> None:
    received: list[int] = []

    def mine(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with stopping_on_sigterm() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked and not received
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_ignored_sigterm_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stopping_on_sigterm() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.asked
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_training_in_another_thread_leaves_the_handler_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []
    thread = threading.Thread(
        target=lambda: train(tmp_path, lambda *place: seen.append(signal.getsignal(signal.SIGTERM)))
    )
    thread.start()
    thread.join()
    assert len(seen) == 3 * STEPS and set(seen) == {before}


def command(run: Path) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, on a network that is small enough for seconds."""
    words = [*("--image-size", "16", "--epochs", "6", "--batch-size", "32", "--precision", "fp32", "--threads", "1")]
    for setting in ("stem_stride=2", "head=64", "stages=[[1,16,1,1],[4,24,2,1]]", "ema=null"):
        words += ["--set", setting]
    environment = os.environ | {"PYTHONPATH": str(Path(edgecnn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "edgecnn", "train", "digits", "-o", str(run), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(run: Path) -> str:
    """Run the command to its end; what it said on the way."""
    with command(run) as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


@pytest.mark.skipif(os.name != "posix", reason="no SIGTERM that a process could answer")
def test_the_command_line_says_where_it_stopped_and_goes_on_from_there(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    with command(stopped) as process:
        assert process.stderr is not None
        reached = next((line for line in process.stderr if line.startswith("float  epoch   2/6")), None)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
    assert reached is not None and process.returncode == 143, err
    last = err.splitlines()[-1]
    middle = r"stopped by SIGTERM after epoch (\d), step \d+ of 44; run the same command again to go on from epoch \1"
    border = r"stopped by SIGTERM after epoch \d of 6, which is kept; run the same command again to go on"
    assert re.fullmatch(f"{middle}|{border}", last), err
    assert "Traceback" not in err and "error" not in err
    assert [each.name for each in stopped.iterdir()] == [".float.work"]
    assert {LAST, PREVIOUS} <= {each.name for each in (stopped / ".float.work").iterdir()}
    more = finish(stopped)
    assert "epoch   1/6" not in more and "epoch   2/6" not in more and "epoch   6/6" in more
    finish(tmp_path / "whole")
    weights = [(run / "float" / "weights.safetensors").read_bytes() for run in (stopped, tmp_path / "whole")]
    assert weights[0] == weights[1]
    assert [each.name for each in stopped.iterdir()] == ["float"]
