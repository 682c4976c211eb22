"""How a trained network gets into its bundle, and where its checkpoints lie until then."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from edgecnn import bundle as bundles
from edgecnn import recipe as recipes
from edgecnn.bundle import Bundle
from edgecnn.pipeline.context import Context
from edgecnn.pipeline.loading import WEIGHTS


def finished(context: Context, target: Path, fingerprint: str) -> Bundle | None:
    """The step's bundle when it is at its place already, and then what an interruption left behind is removed."""
    done = bundles.existing(target, fingerprint)
    if done is not None:
        context.tell(f"{done.title} is there already: skipped")
        shutil.rmtree(_work_of(target), ignore_errors=True)
    return done


def work_folder(target: Path, fingerprint: str) -> Path:
    """Where an unfinished step keeps its checkpoints; leftovers of a step with other settings are removed."""
    work = _work_of(target)
    mark = work / "fingerprint"
    if work.exists() and (not mark.is_file() or mark.read_text() != fingerprint):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    bundles.write_atomically(mark, fingerprint)
    return work


def _work_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.work")


def write_weights(model: nn.Module, folder: Path) -> None:
    """The state dict as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)


def copy_history(work: Path, folder: Path) -> None:
    """Take the history of a training over into its bundle."""
    for name in ("history.csv", "curves.png"):
        if (work / name).is_file():
            shutil.copyfile(work / name, folder / name)
    if (work / "tensorboard").is_dir():
        shutil.copytree(work / "tensorboard", folder / "tensorboard")


def write_recipe(folder: Path, name: str, data: dict[str, Any], step: Any) -> None:
    """The step as it was resolved, as a recipe that can be run again on the ``data`` of the manifest."""
    made = recipes.Recipe(name=name, data=data["source"], data_seed=data["seed"], steps=(step,))
    (folder / "recipe.yaml").write_text(recipes.dump(made))
