"""A process that is killed leaves no half-written bundle, and the same command ends with the very same weights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from driving import ENVIRONMENT, PRUNE, TRAIN, Outcome, digest, start_cli

from edgecnn import bundle as bundles

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
