"""What a step does with the weights: fp16's scaled loss. The CPU stands in for a GPU, whose arithmetic is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_train_loop import (
    CONFIG,
    TRAIN,
    VAL,
    P,
    assert_same_weights,
    ends_the_same_when_interrupted,
    tiny,
    train,
    without_times,
)
from torch import nn

from edgecnn.errors import UsageError
from edgecnn.train import checkpoint, machine
from edgecnn.train.config import TrainConfig
from edgecnn.train.history import Row
from edgecnn.train.loop import LAST, fit
from edgecnn.train.optimizer import make_optimizer
from edgecnn.train.precision import choose_precision
from edgecnn.train.update import LOWEST_SCALE, Update

CPU = torch.device("cpu")


def update_of(model: nn.Module, precision: str = "fp32", **settings: object) -> Update:
    config = replace(CONFIG, momentum=0.0, nesterov=False, weight_decay=0.0, **settings)  # type: ignore[arg-type]
    made = Update(model, make_optimizer(model, config), config)
    made.prepare(precision, CPU, {})
    return made


def line() -> nn.Linear:
    """w x without a bias, w = (3, -4)."""
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -4.0]]))
    return layer


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.5}, {"l1": 0.25}, {"clip_norm": 1.0, "l1": 0.5}])
def test_a_scaled_step_is_the_step_itself(settings: dict[str, float]) -> None:
    weights = []
    for precision in ("fp32", "fp16"):
        layer = line()
        update = update_of(layer, precision, lr=0.1, **settings)

        def gradients(update: Update = update, layer: nn.Linear = layer) -> tuple[float, int]:
            loss = (layer(torch.tensor([[1.0, 2.0]])) ** 2).mean()
            update.backward(loss)
            return loss.item(), 1

        assert update.step(gradients) == (25.0, 1)
        assert (update.scaler is None) == (precision == "fp32") and update.skipped == 0
        weights.append(layer.weight.detach().clone())
    assert not torch.equal(weights[0], line().weight)
    torch.testing.assert_close(weights[0], weights[1])


def test_a_step_whose_gradients_overflow_is_skipped_counted_and_halves_the_scale() -> None:
    layer = line()
    update = update_of(layer, "fp16")
    factors = iter([float("inf"), 1.0])

    def gradients() -> tuple[float, int]:
        update.backward(next(factors) * layer.weight.sum())
        return 0.0, 0

    update.step(gradients)
    assert torch.equal(layer.weight, line().weight)
    assert update.state()["skipped"] == 1 and update.state()["scale"] == 2.0**15
    update.step(gradients)
    assert not torch.equal(layer.weight, line().weight) and update.skipped == 1
    again = update_of(layer)
    again.prepare("fp16", CPU, update.state())
    assert again.state() == update.state()


def test_gradients_that_overflow_at_every_scale_end_the_training() -> None:
    update = update_of(layer := line(), "fp16")

    def gradients() -> tuple[float, int]:
        update.backward(torch.inf * layer.weight.sum())
        return 0.0, 0

    with pytest.raises(UsageError, match="overflow at every scale") as caught:
        for _ in range(100):
            update.step(gradients)
    assert update.skipped == 27 and update.state()["scale"] == LOWEST_SCALE / 2
    assert "bf16" in caught.value.hint


@pytest.fixture
def half_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "HALF", ("cpu", "cuda"))


@pytest.mark.usefixtures("half_on_a_cpu")
def test_a_training_in_fp16_learns_and_an_interrupted_one_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At this scale the first gradients overflow fp16.
    monkeypatch.setattr("torch.amp.GradScaler", lambda device: torch.amp.grad_scaler.GradScaler(device, 2.0**40))
    config, told = replace(CONFIG, precision="fp16", epochs=8), list[str]()
    whole = tiny()
    result = fit(whole, TRAIN, VAL, P, config, tmp_path / "whole", tell=told.append)
    assert result.precision == "fp16" and result.best_top1 > 0.9
    assert 0 < result.skipped_steps < 30
    assert told == [
        f"fp16: {result.skipped_steps} of 40 steps were skipped because gradients overflowed; "
        "a few at the start are normal"
    ]
    state = checkpoint.read(tmp_path / "whole" / LAST)[1]
    assert state["scaler"]["skipped"] == result.skipped_steps and state["scaler"]["scale"] < 2.0**40

    def interrupt(row: Row) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", config, on_epoch=interrupt)
    resumed, more = train(tmp_path / "cut", config, tell=told.append)
    assert_same_weights(whole, resumed)
    assert without_times(result.history) == without_times(more) and told[0] == told[1]


def test_fp16_on_a_cpu_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp16 was asked for, and this training runs on the CPU") as caught:
        machine.check(TrainConfig(epochs=1, precision="fp16", device="cpu"))
    assert "auto, bf16 or fp32" in caught.value.hint
    with pytest.raises(UsageError, match="fp16 was asked for"):
        train(tmp_path, replace(CONFIG, precision="fp16"))


@pytest.mark.parametrize(("has_bf16", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_a_gpu_takes_what_the_gpu_has(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, chosen: str) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation)
    elsewhere = torch.empty(1, 3, 8, 8, device="meta")  # no CPU: that is all that is looked at
    assert choose_precision("auto", tiny(), elsewhere, 2) == chosen


def test_a_sharpness_aware_step_goes_along_the_gradient_at_the_worst_place_nearby() -> None:
    curvature = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    for precision in ("fp32", "fp16"):
        layer = line()
        update = update_of(layer, precision, lr=0.1, sam=0.5)

        def gradients(update: Update = update, layer: nn.Linear = layer) -> tuple[float, int]:
            loss = (layer.weight @ curvature @ layer.weight.T).sum() / 2
            update.backward(loss)
            return loss.item(), 1

        start = line().weight.detach()
        slope = start @ curvature
        expected = start - 0.1 * (start + 0.5 * slope / slope.norm()) @ curvature
        loss, _ = update.step(gradients)
        torch.testing.assert_close(layer.weight.detach(), expected)
        assert loss == pytest.approx((start @ curvature @ start.T).item() / 2)


def test_a_sharpness_aware_step_that_overflows_at_the_weights_themselves_is_skipped() -> None:
    update = update_of(layer := line(), "fp16", sam=0.5)
    passes = []

    def gradients() -> tuple[float, int]:
        passes.append(1)
        update.backward(torch.inf * layer.weight.sum())
        return 0.0, 0

    update.step(gradients)
    assert torch.equal(layer.weight, line().weight) and update.skipped == len(passes) == 1


def test_both_passes_see_the_same_dropout_and_the_statistics_are_the_first_ones() -> None:
    images = torch.randn(16, 3, 8, 8)
    left = []
    for sam in (0.0, 0.5):
        torch.manual_seed(3)
        model = tiny().train()
        seen: list[torch.Tensor] = []
        model.dropout.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(output == 0))
        update = update_of(model, lr=0.0001, sam=sam)

        def gradients(update: Update = update, model: nn.Module = model) -> tuple[float, int]:
            update.backward(model(images).square().mean())
            return 0.0, 0

        update.step(gradients)
        assert len(seen) == (2 if sam else 1)
        # What relu made zero may differ between the passes; where dropout alone decides, nothing does.
        assert all(torch.equal(seen[0], each) for each in seen)
        left.append(({name: each.clone() for name, each in model.named_buffers()}, torch.get_rng_state()))
    (plain, plain_state), (aware, aware_state) = left
    assert all(torch.equal(plain[name], aware[name]) for name in plain) and torch.equal(plain_state, aware_state)
    assert int(plain["bn.num_batches_tracked"]) == 1


@pytest.mark.parametrize("settings", [{"ema": None}, {"accumulate": 2, "clip_norm": 1.0, "precision": "bf16"}])
def test_a_sharpness_aware_training_learns_and_goes_on_with_the_same_bits(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    config = replace(CONFIG, epochs=6, sam=0.05, **settings)  # type: ignore[arg-type]
    whole, rows = ends_the_same_when_interrupted(tmp_path, config, train)
    plain, _ = train(tmp_path / "plain", replace(config, sam=0.0))
    assert max(row["val_top1"] for row in rows) > 0.9
    assert not torch.equal(whole.conv.weight, plain.conv.weight)
