"""A compiled training is the plain one with other kernels: the same weights under the same names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train_loop import CONFIG, assert_same_weights, train, without_times

from edgecnn.errors import UsageError
from edgecnn.train import compiling, machine
from edgecnn.train.config import TrainConfig
from edgecnn.train.history import Row
from edgecnn.train.loop import LAST

COMPILED = replace(CONFIG, compile=True)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that traces the network and runs what it traced."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")


@pytest.mark.usefixtures("cheap")
def test_a_compiled_training_learns_the_same_under_the_same_names(tmp_path: Path) -> None:
    plain, rows = train(tmp_path / "plain", replace(CONFIG, low_size=6, low_epochs=2))

    def interrupt(row: Row) -> None:
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    config = replace(COMPILED, low_size=6, low_epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "compiled", config, on_epoch=interrupt)
    compiled, more = train(tmp_path / "compiled", config)
    first, second = load_file(tmp_path / "plain" / LAST), load_file(tmp_path / "compiled" / LAST)
    assert first.keys() == second.keys()
    # The plain one has its own backward pass of depthwise convolutions, which sums in another order.
    for ours, theirs in zip(rows, more, strict=True):
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-4)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(tensor, compiled.state_dict()[name], atol=1e-3, rtol=1e-3)


@pytest.mark.usefixtures("cheap")
def test_sharpness_and_parts_are_compiled_too_and_repeat_with_the_same_bits(tmp_path: Path) -> None:
    config = replace(COMPILED, epochs=2, sam=0.05, accumulate=3)
    first, rows = train(tmp_path / "a", config)
    second, more = train(tmp_path / "b", config)
    assert_same_weights(first, second)
    assert without_times(rows) == without_times(more)


def test_a_network_that_cannot_be_compiled_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise OSError("no such instruction")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    with pytest.raises(UsageError, match=r"could not be compiled: .*no such instruction") as caught:
        train(tmp_path, COMPILED)
    assert "compile: false" in caught.value.hint


def test_a_machine_without_a_compiler_is_told_early(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = TrainConfig(epochs=1, compile=True, device="cpu")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "clang++" else None)
    assert machine.check(asked) == "cpu"
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UsageError, match=r"no C\+\+ compiler") as caught:
        machine.check(asked)
    assert "install g++" in caught.value.hint
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="triton"):
        compiling.check("cuda")


@pytest.mark.slow
def test_the_real_compiler_trains(tmp_path: Path) -> None:
    machine.check(COMPILED)
    _, rows = train(tmp_path, replace(COMPILED, epochs=8))
    assert max(row["val_top1"] for row in rows) > 0.9
