from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgecnn import recipe as recipes
from edgecnn.errors import UsageError
from edgecnn.pipeline.preparing import check_transfer, identity
from edgecnn.steps import Training, TrainStep
from edgecnn.transforms import described

SHORT = ["HorizontalFlip", {"Rotate": {"limit": 15, "p": 0.7}}, {"OneOf": ["Blur", {"GaussNoise": {"p": 1.0}}]}]
FULL: list[dict[str, Any]] = [
    {"HorizontalFlip": {}},
    {"Rotate": {"limit": 15, "p": 0.7}},
    {"OneOf": {"transforms": [{"Blur": {}}, {"GaussNoise": {"p": 1.0}}]}},
]
SAVED = {
    "__version__": "2.0.8",
    "transform": {
        "__class_fullname__": "Compose",
        "p": 1.0,
        "transforms": [
            {"__class_fullname__": "HorizontalFlip", "p": 0.5},
            {"__class_fullname__": "OneOf", "p": 0.5, "transforms": [{"__class_fullname__": "Blur", "p": 1.0}]},
        ],
    },
}
READ = [
    {
        "Compose": {
            "p": 1.0,
            "transforms": [
                {"HorizontalFlip": {"p": 0.5}},
                {"OneOf": {"p": 0.5, "transforms": [{"Blur": {"p": 1.0}}]}},
            ],
        }
    }
]

NAMES = st.text("ABCdef", min_size=1, max_size=4)
ARGUMENTS = st.dictionaries(st.sampled_from(["p", "limit", "fill"]), st.floats(0, 1) | st.integers(0, 9), max_size=3)
NODES = st.recursive(
    NAMES | st.dictionaries(NAMES, ARGUMENTS | st.none(), min_size=1, max_size=1),
    lambda inside: st.builds(lambda name, items: {name: items}, NAMES, st.lists(inside, min_size=1, max_size=3)),
    max_leaves=6,
)


def test_a_short_list_is_written_out() -> None:
    assert described(SHORT) == FULL


def test_what_the_library_saves_is_read_too() -> None:
    assert described(SAVED) == READ


@given(st.lists(NODES, min_size=1, max_size=3))
def test_the_one_form_is_its_own(pipeline: list[Any]) -> None:
    once = described(pipeline)
    assert described(once) == once
    assert described(json.loads(json.dumps(once))) == once


@pytest.mark.parametrize("given", [[], 3, [3], [{"A": {}, "B": {}}], [{"A": 3}], {"p": 1.0, "transforms": []}, [[]]])
def test_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match=r"no pipeline of transforms|without transforms"):
        described(given)


def test_files_that_are_not_there_or_not_yaml_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        described(str(tmp_path / "none.yaml"))
    (tmp_path / "broken.yaml").write_text("- {a: [")
    with pytest.raises(UsageError, match="cannot be read"):
        described(str(tmp_path / "broken.yaml"))


def test_the_content_of_a_file_is_the_identity_and_not_its_name(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one.yaml", tmp_path / "two.json", tmp_path / "other.yaml"
    one.write_text(yaml.safe_dump(SHORT))
    two.write_text(json.dumps(FULL))
    other.write_text(yaml.safe_dump(SHORT[:1]))
    steps = [TrainStep(albumentations=str(path)) for path in (one, two, other)]  # type: ignore[arg-type]
    assert identity(steps[0]) == identity(steps[1]) != identity(steps[2])
    assert steps[0].albumentations == FULL
    assert "albumentations" not in identity(TrainStep())


def test_a_recipe_finds_the_file_beside_it_and_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text("- Rotate: {limit: 15, p: 5e-1}\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: r\nsteps:\n- {kind: train, albumentations: light.yaml}\n"
        "- {kind: prune, recovery: {epochs: 1, albumentations: light.yaml}}\n"
    )
    loaded = recipes.load(recipe)
    wanted = [{"Rotate": {"limit": 15, "p": 0.5}}]
    train, prune = loaded.steps
    assert isinstance(train, TrainStep) and train.albumentations == wanted
    assert isinstance(healing := getattr(prune, "recovery", None), Training) and healing.albumentations == wanted
    assert recipes.parse(recipes.parse_yaml(recipes.dump(loaded)), "again") == loaded
    assert "light.yaml" not in recipes.dump(loaded)


def test_features_of_unchanged_pictures_take_no_pipeline() -> None:
    step = TrainStep(pretrained="w.pth", transfer="features", albumentations=SHORT)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="takes no albumentations"):
        check_transfer(step)
    check_transfer(step.model_copy(update={"transfer": "two_stage"}))
