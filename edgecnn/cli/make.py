"""Verbs that make something: train, compress, export, run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from edgecnn.spec import Format

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the recipe these flags mean, and stop.")]
Threads = Annotated[Optional[int], typer.Option(min=1, help="CPU threads (default: torch's choice).")]  # noqa: UP045
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def train(
    data: Annotated[str, typer.Argument(help="A folder of pictures (train/ val/ test/ or class folders), or: digits.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The run's folder; the bundle is OUT/float.")],
    model: Annotated[str, typer.Option(help="mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large, resnet8 or timm:NAME.")] = "mobilenet_v2",
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    width: Annotated[float, typer.Option(help="Width multiplier.")] = 1.0,
    image_size: Annotated[Optional[int], typer.Option(min=8, help="Pixels (default: the paper's).")] = None,  # noqa: UP045
    pretrained: Annotated[Optional[str], typer.Option(help="timm, pip:efficientnet-lite0, or a .safetensors/.pth file.")] = None,  # noqa: UP045
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.2,
    weight_decay: float = 5e-4,
    warmup_epochs: float = 1.0,
    label_smoothing: float = 0.1,
    flip: Annotated[bool, typer.Option(help="Mirror left-right at random.")] = True,
    shift: Annotated[int, typer.Option(min=0, help="Shift by up to so many pixels.")] = 0,
    crop_scale: Annotated[Optional[float], typer.Option(help="Smallest area of a random resized crop.")] = None,  # noqa: UP045
    patience: Annotated[Optional[int], typer.Option(min=1, help="Early stopping.")] = None,  # noqa: UP045
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    settings: Annotated[Optional[list[str]], typer.Option("--set", help="Any other field: --set cutout=8")] = None,  # noqa: UP045
    dry_run: DryRun = False,
) -> None:
    """Train or fine-tune on a folder of pictures. Run it again after an interruption: it goes on where it was."""
    from edgecnn import recipe as recipes

    names = recipes.TrainStep.model_fields
    step = {"kind": "train", **{key: value for key, value in locals().items() if key in names}}
    _run({"name": out.name, "data": data, "steps": [step]}, out, settings, dry_run, prefix="steps.0.")


def compress(
    bundle: Annotated[Path, typer.Argument(help="A float bundle, or a run (its float stage is taken).")],
    prune: Annotated[Optional[float], typer.Option(help="Fraction of channels to remove, e.g. 0.3.")] = None,  # noqa: UP045
    quantize: Annotated[Optional[str], typer.Option(help="int8.")] = None,  # noqa: UP045
    round_to: Annotated[int, typer.Option(min=1, help="Pruned channel counts are multiples of this.")] = 8,
    recovery_epochs: Annotated[int, typer.Option(min=0, help="Training after pruning; 0: none.")] = 5,
    recovery_lr: Annotated[float, typer.Option(help="Highest learning rate of it.")] = 0.02,
    calibration_images: Annotated[int, typer.Option(min=1)] = 512,
    calibration_method: Annotated[str, typer.Option(help="minmax, percentile or mse.")] = "minmax",
    data: Annotated[Optional[str], typer.Option(help="Where the bundle's pictures are now.")] = None,  # noqa: UP045
    seed: Seed = 0,
    dry_run: DryRun = False,
    settings: Annotated[Optional[list[str]], typer.Option("--set", help="--set steps.0.recovery.shift=4")] = None,  # noqa: UP045
) -> None:
    """Prune and/or quantize a float bundle into new bundles beside it."""
    from edgecnn import api
    from edgecnn import recipe as recipes
    from edgecnn.bundle import open_bundle

    parent = open_bundle(bundle)
    recovery = None
    if recovery_epochs:
        recovery = recovery_of(parent.manifest.config, recovery_epochs, recovery_lr)
    made = api.compress_recipe(
        parent,
        prune=prune,
        quantize=quantize,
        round_to=round_to,
        recovery=recovery,
        calibration={"calibration_images": calibration_images, "calibration_method": calibration_method},
        seed=seed,
    )
    raw = recipes.parse_yaml(recipes.dump(made))
    _run(raw, parent.path.parent, settings, dry_run, data=data, made={parent.name: "float"})


def recovery_of(config: dict[str, Any], epochs: int, lr: float) -> Any:
    """The parent's own training settings, shortened: what taught the network is what heals it."""
    from edgecnn.recipe import Training

    was = {key: value for key, value in config.items() if key in Training.model_fields}
    return Training(**{**was, "epochs": epochs, "lr": lr, "warmup_epochs": 0.5, "patience": None, "low_size": None, "low_epochs": 0})


def export(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a run: all its bundles.")],
    format: Annotated[Optional[list[Format]], typer.Option(help="Default: all.")] = None,  # noqa: UP045
    verify: Annotated[bool, typer.Option(help="Compare each file with the bundle before it is kept.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Write again, and keep a file that fails the comparison.")] = False,
    data: Annotated[Optional[str], typer.Option(help="Where the bundle's pictures are now.")] = None,  # noqa: UP045
) -> None:
    """Render ONNX and TFLite files from a bundle; each takes uint8 pictures and has passed the parity gate."""
    from edgecnn import api
    from edgecnn.cli.progress import context

    formats = tuple(format) if format else tuple(each for each in Format if each is not Format.TORCH)
    for made in api.export(bundle, formats, verify=verify, force=force, context=context(bundle, data)):
        print(made.file)


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, or the name of a shipped one (see: edgecnn recipes).")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The run's folder.")],
    data: Annotated[Optional[str], typer.Option(help="Pictures to use instead of the recipe's.")] = None,  # noqa: UP045
    settings: Annotated[Optional[list[str]], typer.Option("--set", help="--set steps.0.epochs=5")] = None,  # noqa: UP045
    dry_run: DryRun = False,
) -> None:
    """Run a recipe: steps that are done are skipped, an interrupted one goes on."""
    from edgecnn import recipe as recipes

    raw = recipes.read(recipe)
    if data is not None:
        raw["data"] = data
    _run(raw, out, settings, dry_run)


def _run(
    raw: dict[str, Any],
    out: Path,
    settings: list[str] | None,
    dry_run: bool,
    *,
    data: str | None = None,
    made: dict[str, str] | None = None,
    prefix: str = "",
) -> None:
    """Check a recipe, then print it or run it."""
    from edgecnn import recipe as recipes

    for setting in settings or []:
        recipes.set_value(raw, prefix + setting)
    recipe = recipes.parse(raw, "the recipe").resolved(made)
    if dry_run:
        print(recipes.dump(recipe), end="")
        return
    from edgecnn.cli.progress import context
    from edgecnn.pipeline.run import run as run_recipe

    run_recipe(context(out, data or recipe.data, recipe.data_seed), recipe)
    print(out)
