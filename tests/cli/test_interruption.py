"""A process that is killed leaves no half-written bundle, and the same command ends with the very same weights."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import ENVIRONMENT, PRUNE, TRAIN, Outcome, digest, start_cli

from edgecnn import bundle as bundles
from edgecnn.pipeline import training

Cli = Callable[..., Outcome]


def kill_after(line_start: str, *arguments: object) -> None:
    """Start a command and SIGKILL it as soon as it prints a line that starts so on stderr."""
    with start_cli(*arguments) as process:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith(line_start):
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL, "".join(seen)


def test_a_killed_training_goes_on_and_ends_the_same(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "tiny"
    kill_after("float  epoch   1/3", "train", "digits", "-o", run, *TRAIN)
    assert [each.name for each in run.iterdir()] == [".float.work"]
    assert "is not a bundle" in cli("evaluate", run).err
    outcome = cli("train", "digits", "-o", run, *TRAIN)
    assert outcome.code == 0, outcome.err
    assert "epoch   1/3" not in outcome.err
    assert digest(run / "float" / "weights.safetensors") == digest(finished_run / "float" / "weights.safetensors")
    assert [each.name for each in run.iterdir()] == ["float"]


def test_a_killed_pruning_goes_on_and_ends_the_same(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "tiny"
    shutil.copytree(finished_run / "float", run / "float")
    kill_after("pruned  epoch   1/2", "compress", run, *PRUNE)
    assert sorted(each.name for each in run.iterdir()) == [".pruned.work", "float"]
    outcome = cli("compress", run, *PRUNE)
    assert outcome.code == 0, outcome.err
    assert "epoch   1/2" not in outcome.err
    assert digest(run / "pruned" / "weights.safetensors") == digest(finished_run / "pruned" / "weights.safetensors")
    assert sorted(each.name for each in run.iterdir()) == ["float", "pruned"]


def arrange(monkeypatch: pytest.MonkeyPatch, place: str, happen: Callable[[], None]) -> None:
    """Let something happen, once, in front of this function of the train step."""
    whole = getattr(training, place)

    def interrupted(*arguments: object, **options: object) -> object:
        monkeypatch.setattr(training, place, whole)
        happen()
        return whole(*arguments, **options)

    monkeypatch.setattr(training, place, interrupted)


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.skipif(os.name != "posix", reason="no SIGTERM that a process could answer")
@pytest.mark.parametrize(
    ("place", "left"), [("load_pictures", [".float.work"]), ("write_weights", [".float.work"]), ("opened_for", [])]
)
def test_sigterm_outside_the_epochs_is_told_and_leaves_nothing_half_written(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, left: list[str]
) -> None:
    run = tmp_path / "tiny"
    arrange(monkeypatch, place, sigterm)
    outcome = cli("train", "digits", "-o", run, *TRAIN, "--epochs", "1")
    assert outcome.code == 143 and "Traceback" not in outcome.err and outcome.out == ""
    last = outcome.err.splitlines()[-1]
    assert last == "stopped by SIGTERM; what was finished is kept, run the same command again to go on from there"
    assert [each.name for each in run.iterdir()] == left if left else not run.exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    again = cli("train", "digits", "-o", run, *TRAIN, "--epochs", "1")
    assert again.code == 0 and ("epoch   1/1" in again.err) == (place != "write_weights")
    assert [each.name for each in run.iterdir()] == ["float"]


def test_a_disk_that_is_full_when_the_bundle_is_written_costs_no_epoch(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = tmp_path / "tiny"
    arrange(monkeypatch, "save_golden", full)
    outcome = cli("train", "digits", "-o", run, *TRAIN, "--epochs", "1")
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert f"error: {run / 'float'} could not be written: No space left on device; " in outcome.err
    assert [each.name for each in run.iterdir()] == [".float.work"]
    again = cli("train", "digits", "-o", run, *TRAIN, "--epochs", "1")
    assert again.code == 0 and "epoch" not in again.err
    assert [each.name for each in run.iterdir()] == ["float"]


def test_int8_and_pruned_logits_are_the_same_bits_in_a_fresh_process(finished_run: Path) -> None:
    script = Path(__file__).with_name("golden_check.py")
    command = [sys.executable, script, *(finished_run / name for name in ("float", "pruned", "pruned-int8"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["float", "0.0", "pruned", "0.0", "pruned-int8", "0.0"]


def test_a_draft_of_a_dead_process_is_removed_and_that_of_a_living_one_kept(tmp_path: Path) -> None:
    dead, living = tmp_path / ".float.draft-99999999-ab", tmp_path / f".float.draft-{os.getppid()}-cd"
    dead.mkdir()
    living.mkdir()
    facts = {"step": "train", "fingerprint": "f", "parent": None, "parent_path": None, "precision": "fp32"}
    facts |= {"builder": {}, "labels": [], "preprocess": {}, "data": {}, "config": {}, "figures": {}, "seed": 0}
    with bundles.create(tmp_path / "float", **facts):
        assert not dead.exists()
    assert living.exists()
