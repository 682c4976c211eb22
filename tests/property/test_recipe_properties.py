"""A recipe survives YAML, resolving and overriding, whatever its numbers."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn import recipe as recipes

rates = st.floats(1e-12, 1e6, allow_nan=False)
trainings = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 10**6),
        "lr": rates,
        "momentum": st.floats(0, 1, exclude_max=True),
        "ema": st.none() | st.floats(0.001, 0.999),
        "crop_scale": st.none() | st.floats(0.01, 1),
        "precision": st.sampled_from(["auto", "fp32", "bf16"]),
    },
)
words = st.text(max_size=20) | st.sampled_from(["1e5", "0E0", "1e-3", "\x85", "yes", "null", "2024-01-01"])


@settings(deadline=None, max_examples=60)
@given(trainings, trainings, words, words)
def test_dump_and_parse_are_inverse(train: dict[str, Any], recovery: dict[str, Any], name: str, about: str) -> None:
    steps = [{"kind": "train", **train}, {"kind": "prune", "recovery": recovery}, {"kind": "quantize"}]
    made = recipes.parse({"name": name, "about": about, "steps": steps}, "test").resolved()
    assert recipes.parse(recipes.parse_yaml(recipes.dump(made)), "test") == made
    assert made.resolved() == made


@settings(deadline=None, max_examples=60)
@given(rates)
def test_an_override_sets_the_very_number(rate: float) -> None:
    raw: dict[str, Any] = {"name": "r", "steps": [{"kind": "train"}]}
    recipes.set_value(raw, f"steps.0.lr={rate!r}")
    assert recipes.parse(raw, "test").steps[0].lr == rate
