from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from edgecnn import recipe as recipes
from edgecnn.cli import make
from edgecnn.errors import UsageError
from edgecnn.recipe import Recipe, parse
from edgecnn.spec import Format
from edgecnn.steps import TrainStep


def recipe_of(*steps: dict[str, Any] | str) -> Recipe:
    return parse({"name": "r", "steps": [{"kind": s} if isinstance(s, str) else s for s in steps]}, "test")


def io_of(recipe: Recipe) -> list[tuple[str | None, str | None]]:
    return [(getattr(step, "input", None), getattr(step, "output", None)) for step in recipe.steps]


def test_inputs_and_outputs_are_written_out() -> None:
    resolved = recipe_of(
        "train", {"kind": "quantize", "input": "float"}, {"kind": "prune", "input": "float"}, "quantize", "export"
    ).resolved()
    assert io_of(resolved) == [
        (None, "float"), ("float", "int8"), ("float", "pruned"), ("pruned", "pruned-int8"), (None, None),
    ]  # fmt: skip
    assert resolved.resolved() == resolved


@pytest.mark.parametrize(
    ("steps", "existing", "told"),
    [
        (["prune"], {}, "does not say which bundle it reads"),
        (["prune"], {"float": "float", "pruned": "float"}, "does not say which bundle it reads"),
        ([{"kind": "quantize", "input": "best"}], {"float": "float"}, "'best', which is not there"),
        (["train", "quantize", "prune"], {}, "'int8' is int8 already"),
        (["train", "quantize", {"kind": "quantize", "input": "float"}], {}, "writes 'int8' a second time"),
        (["export"], {}, "has nothing to read"),
        (["report"], {}, "has nothing to read"),
    ],
)
def test_chains_that_cannot_work_are_refused(steps: list[Any], existing: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        recipe_of(*steps).resolved(existing)


def test_one_bundle_in_the_run_is_the_default_input() -> None:
    assert io_of(recipe_of("prune").resolved({"float": "float"})) == [("float", "pruned")]
    assert io_of(recipe_of({"kind": "benchmark", "input": "int8"}).resolved({"int8": "int8"})) == [("int8", None)]


def scheme(name: str, **settings: Any) -> dict[str, Any]:
    return {"kind": "quantize", "scheme": name, **settings}


@pytest.mark.parametrize(
    ("steps", "existing", "told"),
    [
        (["train", scheme("int8-dynamic"), {"kind": "export", "formats": ["onnx"]}], {}, "onnx cannot have: Dynamic"),
        (["train", scheme("int4-weights"), {"kind": "export", "formats": ["tflite"]}], {}, "one scale per output"),
        ([{"kind": "export", "formats": ["onnx"], "input": "d"}], {"d": "int8-dynamic"}, "'d' is int8-dynamic"),
        (["train", scheme("fp16", qat={})], {}, "trains quantized numbers"),
        (["train", scheme("mixed", integer_only=True)], {}, "is to stay in integers"),
        (["train", scheme("fp16"), scheme("int8")], {}, "'fp16' is fp16 already"),
    ],
)
def test_what_a_precision_cannot_be_is_refused(steps: list[Any], existing: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        recipe_of(*steps).resolved(existing)


def test_schemes_name_their_bundles_and_take_the_files_that_can_be() -> None:
    rows = {"weight_group": 0, "output": "rows"}
    made = recipe_of(
        "train", scheme("int8-dynamic"), scheme("int4-weights", input="float", **rows), "export"
    ).resolved()
    assert io_of(made)[1:] == [("float", "int8-dynamic"), ("float", "rows"), (None, None)]
    tflite = {"kind": "export", "formats": ["tflite"]}
    assert recipe_of("train", scheme("int4-weights", **rows), tflite).resolved().steps[2].formats == (Format.TFLITE,)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"epochs": "five"}, "steps.0.epochs: Input should be a valid integer.*found 'five'"),
        ({"epochs": 2.5}, "steps.0.epochs"),
        ({"epochs": True}, "steps.0.epochs"),
        ({"momentun": 0.9}, "steps.0.momentun: there is no such setting, did you mean momentum?"),
        ({"kind": "trian"}, "steps.0: .*'trian'"),
        ({"output": "a/b"}, "steps.0.output"),
        ({"output": ".hidden"}, "steps.0.output"),
    ],
)
def test_wrong_settings_are_told_with_their_place(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        recipe_of({"kind": "train", **change})
    assert "1 problem" in caught.value.message


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        parse({"steps": [{"kind": "prune", "ratio": 2, "recovery": {"epoch": 1}}], "nam": "x"}, "r.yaml")
    text = caught.value.message
    assert "r.yaml has 4 problem(s)" in text
    for each in ("name: Field required", "nam: there is no such setting, did you mean name?", "steps.0.ratio"):
        assert each in text
    assert "steps.0.recovery.epoch: there is no such setting, did you mean epochs?" in text


def test_torch_is_no_file_format() -> None:
    assert recipe_of({"kind": "export", "formats": ["tflite"]}).steps[0].formats == (Format.TFLITE,)
    with pytest.raises(UsageError, match=r"steps\.0\.formats"):
        recipe_of({"kind": "export", "formats": ["torch"]})
    with pytest.raises(UsageError, match=r"steps\.0\.formats"):
        recipe_of({"kind": "export", "formats": []})


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "1.0e-3"])
def test_numbers_are_read_as_everybody_writes_them(text: str) -> None:
    raw = recipes.parse_yaml(f"{{name: r, steps: [{{kind: train, lr: {text}}}]}}")
    assert parse(raw, "r").steps[0].lr == 0.001


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("epochs", "has no '='"),
        ("steps.0.lr=[", "is not YAML"),
        ("steps.1.lr=1", "there is no item '1'"),
        ("steps.x.lr=1", "there is no item 'x'"),
        ("steps.0.recovery.lr=1", "there is no 'recovery'"),
        ("name.first=1", "holds a value, not keys"),
    ],
)
def test_overrides_that_lead_nowhere_are_refused(override: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        recipes.set_value({"name": "r", "steps": [{"kind": "train"}]}, override)


def test_overrides_reach_values_lists_and_items() -> None:
    raw: dict[str, Any] = {"name": "r", "steps": [{"kind": "train"}, {"kind": "benchmark", "threads": [1, 2]}]}
    for override in ("steps.0.lr=1e-2", "steps.0.strides=[1, 2]", "steps.1.threads.1=4", "data=pictures"):
        recipes.set_value(raw, override)
    made = parse(raw, "r")
    assert (made.steps[0].lr, made.steps[0].strides, made.steps[1].threads) == (0.01, (1, 2), (1, 4))
    assert made.data == "pictures"


@pytest.mark.parametrize("text", ["- 1", "words", "", "a: [", "a: b: c"])
def test_other_yaml_is_no_recipe(text: str) -> None:
    with pytest.raises(UsageError, match=r"not YAML|not a recipe"):
        recipes.parse_yaml(text)


def test_shipped_recipes_are_sound_and_explain_themselves() -> None:
    assert "quickstart" in recipes.shipped()
    for name in recipes.shipped():
        found = recipes.load(Path(name)).resolved()
        assert found.about, name
        assert parse(recipes.parse_yaml(recipes.dump(found)), name) == found


def test_the_flags_of_train_have_the_defaults_of_the_step() -> None:
    flags = {name: each.default for name, each in inspect.signature(make.train).parameters.items()}
    defaults = TrainStep().model_dump()
    shared = flags.keys() & defaults.keys()
    assert len(shared) > 15
    assert {name: flags[name] for name in shared} == {name: defaults[name] for name in shared}
