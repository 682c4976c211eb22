"""A student is led to its teacher's maps through a regressor that stays behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train_loop import (
    CONFIG,
    TRAIN,
    VAL,
    P,
    assert_same_weights,
    ends_the_same_when_interrupted,
    tiny,
)
from torch import nn

from edgecnn.errors import UsageError
from edgecnn.models.zoo import ModelSpec, build
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.freezing import units
from edgecnn.train.hints import Hints, Pair, attach, find_pairs, maps_of
from edgecnn.train.history import Row
from edgecnn.train.loop import BEST, LAST, fit

HINTED = replace(CONFIG, hint_weight=2.0, distill_weight=0.0, clip_norm=5.0)


def guide(channels: int = 5) -> nn.Module:
    """A teacher with other channels than the student, and the same sizes."""
    torch.manual_seed(11)
    maps = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1))
    return nn.Sequential(maps[0], maps[1], maps[2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))


def taught(workdir: Path, config: TrainConfig = HINTED, **options: object) -> tuple[nn.Module, list[Row]]:
    model = tiny()
    result = fit(model, TRAIN, VAL, P, config, workdir, teacher=Teacher(guide(), P), **options)  # type: ignore[arg-type]
    return model, result.history


def test_the_loss_is_half_the_mean_squared_difference_of_the_maps() -> None:
    student, teacher = tiny().eval(), guide()
    hints = Hints(student, teacher, [Pair("depthwise", "2", (8, 5))], seed=0)
    images = torch.randn(6, 3, 8, 8)
    with hints.watching():
        teacher(images)
    logits, regressed = hints(images[2:5])
    assert torch.equal(logits, student(images[2:5]))
    relu = torch.relu(student.bn(student.conv(images[2:5])))
    guided, hint = student.depthwise(relu), teacher[:3](images[2:5])
    expected = (hint - hints.regressors[0](guided)).square().sum() / 2 / hint.numel()
    torch.testing.assert_close(hints.loss(regressed, slice(2, 5)), expected)


def test_regressors_are_the_same_for_a_seed_and_leave_the_random_state_alone() -> None:
    student, teacher, pair = tiny(), guide(), [Pair("conv", "0", (8, 5))]
    state = torch.get_rng_state()
    first, second, third = (Hints(student, teacher, pair, seed).regressors for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert_same_weights(first, second)
    assert not torch.equal(first[0].weight, third[0].weight)  # type: ignore[union-attr]


def test_a_training_with_hints_follows_them_and_leaves_only_the_student(tmp_path: Path) -> None:
    model, rows = taught(tmp_path)
    assert model.state_dict().keys() == tiny().state_dict().keys() == load_file(tmp_path / BEST).keys()
    assert not any(module._forward_hooks for module in model.modules())
    kept = load_file(tmp_path / LAST)
    assert {name for name in kept if name.startswith("regressors/")} == {"regressors/0.weight", "regressors/0.bias"}
    unhinted, _ = taught(tmp_path / "plain", replace(HINTED, hint_weight=0.0))
    assert not torch.equal(model.conv.weight, unhinted.conv.weight)  # type: ignore[arg-type,union-attr]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


@pytest.mark.parametrize("changed", [{}, {"sam": 0.05, "accumulate": 2, "precision": "bf16", "optimizer": "adamw"}])
def test_an_interrupted_training_with_hints_ends_with_the_same_bits(tmp_path: Path, changed: dict[str, object]) -> None:
    config = replace(HINTED, lr=0.02, **changed)  # type: ignore[arg-type]
    ends_the_same_when_interrupted(tmp_path, config, taught)


def test_hints_alone_make_the_maps_alike(tmp_path: Path) -> None:
    """All that is learned is the map: the weight of the labels is drowned."""
    teacher = guide()

    def distance(workdir: Path, weight: float) -> float:
        model = tiny()
        config = replace(HINTED, hint_weight=weight, epochs=6, lr=0.01, ema=None, cutout=0)
        fit(model, TRAIN, VAL, P, config, workdir, teacher=Teacher(teacher, P))
        left = load_file(workdir / LAST)
        images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        model.load_state_dict({name[6:]: each for name, each in left.items() if name.startswith("model/")})
        hints = attach(model, 8, Teacher(teacher, P), config)
        assert hints is not None
        hints.regressors.load_state_dict({n[11:]: each for n, each in left.items() if n.startswith("regressors/")})
        with torch.no_grad(), hints.watching():
            teacher(images)
        with torch.no_grad():
            return hints.loss(hints(images)[1], slice(None)).item()

    assert distance(tmp_path / "strong", 100.0) < 0.5 * distance(tmp_path / "weak", 1e-6)


def test_blocks_are_paired_by_the_size_of_their_maps() -> None:
    student, teacher = build(ModelSpec("mobilenet_v2", 10, 32)), build(ModelSpec("resnet8", 10, 32))
    pairs = find_pairs(student, 32, Teacher(teacher, replace(P, size=32)), "auto")
    ours, theirs = maps_of(student, 32, units(student)), maps_of(teacher, 32, units(teacher))
    sides = [ours[pair.guided][1:] for pair in pairs]
    assert sides == [theirs[pair.hint][1:] for pair in pairs] and len(set(sides)) == len(sides) >= 2
    assert all(pair.channels == (ours[pair.guided][0], theirs[pair.hint][0]) for pair in pairs)
    for pair in pairs:  # the last of that size
        after = units(student)[units(student).index(pair.guided) + 1]
        assert ours.get(after, (0, 0, 0))[1:] != ours[pair.guided][1:]


@pytest.mark.parametrize(
    ("hints", "told"),
    [
        ("conv", "hints has 'conv', which is no pair"),
        ("conv=0,depthwise=", "hints has 'depthwise=', which is no pair"),
        ("stem=0", "the student has no block 'stem'"),
        ("conv=layer1", "the teacher has no block 'layer1'"),
        ("classifier=0", "the student's classifier gives no map"),
        ("conv=3", "the teacher's 3 gives no map"),
    ],
)
def test_what_is_no_pair_is_told(hints: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        find_pairs(tiny(), 8, Teacher(guide(), P), hints)
    assert caught.value.hint


def test_maps_of_different_sizes_are_refused_with_both() -> None:
    larger = Teacher(guide(), replace(P, size=16))
    with pytest.raises(UsageError, match=r"one size: conv \(8 x 8\) of the student against 2 \(16 x 16\) of the"):
        find_pairs(tiny(), 8, larger, "conv=2")
    with pytest.raises(UsageError, match=r"no maps of one size: conv \(8 x 8\), bn \(8 x 8\), .* against 0 \(16 x 16"):
        find_pairs(tiny(), 8, larger, "auto")


def test_hints_without_a_teacher_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no teacher"):
        fit(tiny(), TRAIN, VAL, P, HINTED, tmp_path)
