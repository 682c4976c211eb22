"""The settings of the process that a training changes are what they were when it is over."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_train_loop import CONFIG, TRAIN, VAL, P, assert_same_weights, tiny, train

from edgecnn.errors import UsageError
from edgecnn.train.loop import fit
from edgecnn.train.machine import CUBLAS, own_settings

ASKED = replace(CONFIG, deterministic=True, epochs=1)


def state() -> tuple[object, ...]:
    backend = torch.backends.cudnn
    modes = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return *modes, backend.deterministic, backend.benchmark, os.environ.get(CUBLAS), torch.get_num_threads()


@pytest.mark.parametrize("before", [None, ":16:8", "nonsense"])
def test_deterministic_lasts_as_long_as_the_training(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    monkeypatch.delenv(CUBLAS, raising=False)
    if before is not None:
        monkeypatch.setenv(CUBLAS, before)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    was = state()
    with own_settings(ASKED):
        inside = (True, False, True, False, before if before == ":16:8" else ":4096:8", 1)
        assert state() == inside
    assert state() == was
    with pytest.raises(KeyboardInterrupt), own_settings(ASKED):
        raise KeyboardInterrupt
    assert state() == was
    with own_settings(CONFIG):
        assert state()[:5] == was[:5]


def test_an_operation_without_a_deterministic_algorithm_is_named(tmp_path: Path) -> None:
    model = tiny()
    words = "scatter does not have a deterministic implementation, but you set 'torch.use_deterministic'. You can turn"
    model.depthwise.register_forward_hook(lambda *_: _raise(RuntimeError(words)))
    with pytest.raises(UsageError, match="torch says: scatter does not have a deterministic implementation"):
        fit(model, TRAIN, VAL, P, ASKED, tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"), own_settings(ASKED):
        raise RuntimeError("out of memory")
    assert not torch.are_deterministic_algorithms_enabled()


def _raise(error: Exception) -> None:
    raise error


def test_on_a_cpu_it_changes_nothing(tmp_path: Path) -> None:
    first, _ = train(tmp_path / "a", ASKED)
    second, _ = train(tmp_path / "b", replace(ASKED, deterministic=False))
    assert_same_weights(first, second)
