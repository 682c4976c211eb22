"""The verb ``find-batch``: a process of its own tries, and nothing of a run is touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import TRAIN, Outcome

from edgecnn.errors import RuntimeFailure
from edgecnn.pipeline import batch_finding
from edgecnn.pipeline.batch_finding import _Trials


def test_it_names_a_batch_that_fits_and_a_rate_for_it(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    # Of the 1437 training pictures there are 89 % here, so that six doublings are enough.
    outcome = cli("find-batch", "digits", "-o", tmp_path, *TRAIN, "--set", "accumulate=64")
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "batch.json").read_text())
    sizes = [trial["batch_size"] for trial in found["trials"]]
    assert sizes == [128 * 2**step for step in range(len(sizes))] and found["largest"] == sizes[-1] == 1024
    assert "2048 is more than the 14" in found["reason"]
    peaks = [trial["peak_bytes"] for trial in found["trials"]]
    assert peaks == sorted(peaks) and peaks[-1] < found["budget_bytes"]
    assert outcome.out.startswith("largest batch: 1024 (")
    assert "learning rate: 3.2 by the linear scaling rule, from 0.1 at 32 (Goyal" in outcome.out
    assert [each.name for each in tmp_path.iterdir()] == ["batch.json"]
    assert "batch 128: " in outcome.err


def test_a_machine_without_memory_is_told_and_nothing_is_tried_twice(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_finding, "available_bytes", lambda: 50_000_000)
    outcome = cli("find-batch", "digits", *TRAIN)
    assert outcome.code == 2 and "error: not even the smallest batch fits: 8 does not fit" in outcome.err
    monkeypatch.setattr(batch_finding, "available_bytes", lambda: None)
    outcome = cli("find-batch", "digits", *TRAIN)
    assert outcome.code == 2 and "does not say how much memory" in outcome.err


@pytest.mark.parametrize("words", [("--transfer", "features", "--pretrained", "timm"), ("--precision", "fp16")])
def test_what_has_no_batch_or_cannot_be_is_refused(cli: Callable[..., Outcome], words: tuple[str, ...]) -> None:
    outcome = cli("find-batch", "digits", *TRAIN, "--device", "cpu", *words)
    assert outcome.code == 2 and "error: " in outcome.err and "Traceback" not in outcome.err


class Ended:
    """A process that is gone before it has answered."""

    def __init__(self, code: int) -> None:
        self.returncode = code
        self.stdin, self.stdout = self, self

    def write(self, text: str) -> None:
        raise BrokenPipeError

    def wait(self) -> int:
        return self.returncode


@pytest.mark.parametrize("code", [-9, 1])
def test_a_process_that_the_kernel_ended_had_no_memory_and_another_end_is_told(code: int) -> None:
    with _Trials({"step": "{}", "labels": [], "run": "."}) as trials:
        trials._process.kill()
        trials._process.communicate()
        trials._process = Ended(code)  # type: ignore[assignment]
        if code == -9:
            assert trials.try_batch(8) is None
        else:
            with pytest.raises(RuntimeFailure, match="batch 8 broke"):
                trials.try_batch(8)
        trials._process = type("Gone", (), {"kill": lambda self: None, "communicate": lambda self: None})()
