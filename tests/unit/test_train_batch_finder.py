"""The search for the largest batch, on machines whose memory is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_train_loop import CONFIG, P, tiny

from edgecnn.errors import UsageError
from edgecnn.spec import Preprocess, Task
from edgecnn.train.batch_finder import FIRST, SLOW_S, Prober, Trial, first_batch, same_picture, search

MB = 10**6


def machine(base: int, each: int, tried: list[int], seconds: float = 0.1) -> Callable[[int], Trial]:
    """A training that takes ``base`` bytes and ``each`` per picture."""

    def measure(size: int) -> Trial:
        if size:
            tried.append(size)
        return Trial(size, base + each * size, 100.0, seconds)

    return measure


@given(st.integers(1, 1000), st.integers(1, 50), st.integers(1, 20_000), st.integers(8, 5000))
def test_what_is_found_fits_and_twice_as_much_would_not_and_is_never_tried(
    base: int, each: int, budget: int, most: int
) -> None:
    tried: list[int] = []
    found = search(machine(base * MB, each * MB, tried), 8, most, budget * MB)
    if not found.trials:
        # Only the very first batch is tried without knowing.
        assert (base + 8 * each > budget and tried == [8]) or not tried
        with pytest.raises(UsageError, match="not even the smallest batch fits"):
            _ = found.largest
        return
    largest = found.largest
    assert base + each * largest <= budget and largest <= most
    assert tried == [trial.batch_size for trial in found.trials]
    if 2 * largest <= most:  # it was refused, with no more than the margin to spare
        assert base + each * largest + 1.1 * each * largest > budget
    else:
        assert f"more than the {most} training pictures" in found.reason


def test_after_a_slow_trial_the_rest_is_predicted() -> None:
    tried: list[int] = []
    found = search(machine(100 * MB, MB, tried, seconds=SLOW_S + 1), 8, 10_000, 1000 * MB)
    assert tried == [8, 16]
    assert found.largest == 512 and [trial.predicted for trial in found.trials] == [False] * 2 + [True] * 5
    assert found.trials[-1].peak_bytes == pytest.approx((100 + 512) * MB, rel=0.1)
    assert found.as_dict()["largest"] == 512 and found.as_dict()["trials"][-1]["images_per_second"] is None


def test_what_is_the_same_for_all_batches_does_not_make_larger_ones_look_small() -> None:
    """Validation takes 400 MB, which hides what the first batches take: their peaks hardly differ."""

    def measure(size: int) -> Trial:
        return Trial(size, 100 * MB if not size else max(500 * MB, (100 + 2 * size) * MB), 1.0, SLOW_S + 1)

    found = search(measure, 128, 10_000, 3000 * MB)
    assert [trial.predicted for trial in found.trials] == [False, False, True, True]
    assert all((100 + 2 * trial.batch_size) * MB <= trial.peak_bytes for trial in found.trials)


def test_a_gpu_is_asked_until_it_is_full() -> None:
    found = search(lambda size: None if size > 100 else Trial(size, size, 1.0, 0.1), 8, 10_000, None)
    assert found.largest == 64 and found.reason == "128 does not fit"


def test_memory_that_jumps_past_the_budget_is_noticed_when_it_was_tried() -> None:
    found = search(lambda size: Trial(size, 10 if size < 64 else 10_000, 1.0, 0.1), 8, 10_000, 100)
    assert found.largest == 32 and found.reason == "64 does not fit"


@pytest.mark.parametrize(
    ("settings", "first"),
    [({}, FIRST), ({"repeat": 3, "batch_size": 18}, 6), ({"accumulate": 8}, 16), ({"repeat": 16}, 16)],
)
def test_the_first_batch_suits_repeat_and_accumulate(settings: dict[str, int], first: int) -> None:
    config = replace(CONFIG, **settings)
    assert first_batch(config) == first
    for size in (first, 2 * first, 64 * first):
        replace(config, batch_size=size)  # raises where it does not suit


def test_pictures_of_a_trial_take_the_memory_of_one() -> None:
    pictures = same_picture(10_000, replace(P, size=9_999), 3, Task.MULTI_CLASS)  # three terabytes
    assert pictures.images.shape == (10_000, 9_999, 9_999, 3) and sorted(set(pictures.labels.tolist())) == [0, 1, 2]
    assert torch.equal(torch.from_numpy(pictures.images)[5], torch.from_numpy(pictures.images)[9_999])
    marks = same_picture(5, Preprocess(8, (0.5,), (0.5,)), 3, Task.MULTI_LABEL)
    assert marks.images.shape == (5, 8, 8, 1) and marks.labels.shape == (5, 3) and (marks.labels.sum(1) == 1).all()


def test_a_trial_takes_the_steps_of_a_training_and_leaves_the_network_alone() -> None:
    model = tiny()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    passes: list[int] = []
    model.conv.register_forward_hook(
        lambda module, inputs, output: passes.append(len(inputs[0])) if module.training else None
    )
    prober = Prober(model, P, replace(CONFIG, sam=0.05, accumulate=2), None, 2, iter([5, 9]).__next__)
    trials = [prober.try_batch(size) for size in (64, 100)]
    assert [trial and (trial.batch_size, trial.peak_bytes) for trial in trials] == [(64, 5), (100, 9)]
    assert all(trial and trial.images_per_second and trial.seconds > 0 for trial in trials)
    # Two steps of two passes, each in two parts.
    assert passes == [32] * 8 + [50] * 8
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


def test_a_full_gpu_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = tiny()
    prober = Prober(model, P, CONFIG, None, 2, lambda: 0)
    monkeypatch.setattr("edgecnn.train.run.Run.step", full)
    assert prober.try_batch(8) is None
