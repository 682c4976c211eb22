"""Verbs that make something: train, compress, export, run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecnn import catalog, schemes
from edgecnn.spec import IO

if TYPE_CHECKING:
    from edgecnn.steps import QatTraining, Training

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the recipe that these flags mean, and stop.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads (default: torch's choice).", show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Moved = Annotated[str | None, typer.Option(metavar="FOLDER", help="Where the bundle's pictures are now.")]
TRAIN_SET = "Any other setting of training: --set cutout=8 --set ema=0.99; --dry-run shows them all."
STEP_SET = "Change a setting of the recipe: --set steps.0.epochs=5; --dry-run shows them all."
OPTIMIZATION = {
    *("optimizer", "momentum", "nesterov", "schedule", "ema", "l1", "layer_decay", "clip_norm", "sam"),
    *("patience", "low_size", "low_epochs", "frozen_bn", "sync_bn", "compile"),
}
"""Settings of a training that suited its network, and need not suit what is made of it."""
SOURCE = "A folder (train/ val/ test/ or class folders), a .csv, .parquet or datasets folder, digits, torchvision:NAME."
SCHEME = f"Fewer bits how: {'; '.join(f'{name} ({row.about})' for name, row in schemes.SCHEMES.items())}."
MAX_DROP = (
    "Points of accuracy that int8 may lose on validation pictures before dearer ways are tried: normalization "
    "estimated again, rounding learned, at last the worst layers kept in float."
)
INTEGER_ONLY = "Never keep a layer in float (for NPUs and kernels without any): int8 throughout, and what that loses."
MODEL = f"{', '.join(catalog.MODELS)} or timm:NAME, torchvision:NAME."


def train(
    data: Annotated[str, typer.Argument(help=SOURCE)],
    out: Annotated[Path, typer.Option("-o", "--out", help="The run's folder; the bundle is OUT/float.")],
    model: Annotated[str, typer.Option(help=MODEL)] = "mobilenet_v2",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training pictures.")] = 20,
    width: Annotated[float, typer.Option(help="Width multiplier.")] = 1.0,
    activation: Annotated[
        str | None, typer.Option(help="Everywhere: relu, relu6, hardswish or silu (default: the network's own).")
    ] = None,
    image_size: Annotated[int | None, typer.Option(min=8, help="Pixels (default: the paper's).")] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="Start from: timm, torchvision, hf:ORG/NAME, pip:efficientnet-lite0, or a .safetensors or .pth file."
        ),
    ] = None,
    transfer: Annotated[str, typer.Option(help="With --pretrained: full, two_stage or features.")] = "full",
    teacher: Annotated[
        str | None, typer.Option(help="Learn the logits of this bundle too, or of timm:NAME, torchvision:NAME.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Pictures per step.")] = 128,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="On weights of dense layers only.")] = 5e-4,
    warmup_epochs: Annotated[float, typer.Option(help="Epochs in which the learning rate rises.")] = 1.0,
    label_smoothing: Annotated[float, typer.Option(help="Share of the target spread over all classes.")] = 0.1,
    flip: Annotated[bool, typer.Option(help="Mirror left-right at random.")] = True,
    shift: Annotated[int, typer.Option(min=0, help="Shift by up to so many pixels at random.")] = 0,
    crop_scale: Annotated[float | None, typer.Option(help="Smallest area of a random resized crop, e.g. 0.5.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Stop after so many epochs without a gain.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or (on a GPU) fp16.")] = "auto",
    folds: Annotated[int | None, typer.Option(min=2, help="Cross-validate: OUT/fold-1/float ..., folds.json.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=TRAIN_SET)] = None,
    dry_run: DryRun = False,
) -> None:
    """Train or fine-tune on a folder of pictures. Run it again after an interruption: it goes on where it was."""
    from edgecnn.steps import TrainStep

    names = TrainStep.model_fields
    step = {"kind": "train", **{key: value for key, value in locals().items() if key in names}}
    changes = [setting if setting.startswith("data_seed=") else f"steps.0.{setting}" for setting in settings or []]
    _run({"name": out.resolve().name, "data": data, "data_seed": 0, "steps": [step]}, out, changes, dry_run, folds)


def compress(
    bundle: Annotated[Path, typer.Argument(help="A float bundle, or a run (its float stage is taken).")],
    prune: Annotated[float | None, typer.Option(help="Fraction of channels to remove, e.g. 0.3.")] = None,
    quantize: Annotated[
        str | None, typer.Option(metavar="int8|fp16|...", help="Quantize after training (and pruning), by this scheme.")
    ] = None,
    scheme: Annotated[str | None, typer.Option(metavar="NAME", help=SCHEME)] = None,
    runtime: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make mixed for this runtime, by time measured here.")
    ] = None,
    round_to: Annotated[int, typer.Option(min=1, help="Pruned channel counts are multiples of this.")] = 8,
    recovery_epochs: Annotated[int, typer.Option(min=0, help="Training after pruning; 0: none.")] = 5,
    recovery_lr: Annotated[float, typer.Option(help="Highest learning rate of it.")] = 0.02,
    calibration_images: Annotated[int, typer.Option(min=1, help="Training pictures that decide the ranges.")] = 512,
    calibration_method: Annotated[
        str, typer.Option(help="auto, minmax, moving_average, percentile, entropy or mse.")
    ] = "auto",
    repair: Annotated[bool, typer.Option(help="Equalize channels, round weights by what they meet, and more.")] = True,
    max_drop: Annotated[float, typer.Option(min=0, help=MAX_DROP)] = 0.5,
    integer_only: Annotated[bool, typer.Option("--integer-only", help=INTEGER_ONLY)] = False,
    qat: Annotated[
        bool, typer.Option("--qat", help="Train the quantized network too, taught by the float one.")
    ] = False,
    qat_epochs: Annotated[int, typer.Option(min=1, help="Passes of that training over the pictures.")] = 3,
    qat_lr: Annotated[float, typer.Option(help="Highest learning rate of it.")] = 1e-3,
    data: Moved = None,
    seed: Seed = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=STEP_SET)] = None,
    dry_run: DryRun = False,
) -> None:
    """Prune and/or quantize a float bundle into new bundles beside it: pruned, int8, pruned-int8, fp16, ..."""
    from edgecnn import api
    from edgecnn import recipe as recipes
    from edgecnn.bundle import open_bundle
    from edgecnn.spec import Precision

    parent = open_bundle(bundle)
    trained = parent.manifest.precision == Precision.FP32  # an int8 bundle was not, and is refused below
    recovery = (
        recovery_of(parent.manifest.config, recovery_epochs, recovery_lr) if trained and recovery_epochs else None
    )
    made = api.compress_recipe(
        parent,
        prune=prune,
        quantize=quantize,
        scheme=scheme,
        runtime=runtime,
        round_to=round_to,
        recovery=recovery,
        calibration={
            "calibration_images": calibration_images,
            "calibration_method": calibration_method,
            "repair": repair,
            "max_drop": max_drop,
            "integer_only": integer_only,
        },
        qat=qat_of(parent.manifest.config, qat_epochs, qat_lr) if trained and qat else None,
        seed=seed,
    )
    raw = recipes.parse_yaml(recipes.dump(made))
    if data is not None:
        raw["data"] = data
    _run(raw, parent.path.parent, settings, dry_run)


def recovery_of(config: dict[str, Any], epochs: int, lr: float) -> Training:
    """The parent's own training settings, shortened: what taught a network heals it. Raises ``UsageError``."""
    from edgecnn.errors import UsageError
    from edgecnn.steps import Training

    if not lr > 0:
        raise UsageError(f"--recovery-lr is {lr}", hint="a learning rate is above 0")
    taught = config.get("recovery") or config
    was = {key: value for key, value in taught.items() if key in Training.model_fields}
    short = {"warmup_epochs": 0.5, "patience": None, "low_size": None, "low_epochs": 0}
    return Training(**{**was, **short, "epochs": epochs, "lr": lr})


def qat_of(config: dict[str, Any], epochs: int, lr: float) -> QatTraining:
    """Quantization-aware training on pictures as the parent saw them in its training. Raises ``UsageError``."""
    from edgecnn.errors import UsageError
    from edgecnn.steps import QatTraining, Training

    if not lr > 0:
        raise UsageError(f"--qat-lr is {lr}", hint="a learning rate is above 0")
    taught = config.get("recovery") or config
    own = QatTraining.__annotations__.keys() | OPTIMIZATION
    seen = {key: value for key, value in taught.items() if key in Training.model_fields and key not in own}
    return QatTraining(**{**seen, "epochs": epochs, "lr": lr})


def export(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a run: all its bundles.")],
    format: Annotated[
        list[str] | None,
        typer.Option(
            metavar="onnx|tflite|pte", help="May be given twice (default: onnx and tflite, where they can be)."
        ),
    ] = None,
    io: Annotated[
        IO,
        typer.Option(
            help="Pictures and logits of .tflite files: uint8 pixels and float32, or integers (int8 bundles)."
        ),
    ] = IO.PICTURE,
    verify: Annotated[bool, typer.Option(help="Compare each file with the bundle before it is kept.")] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Write it again, and keep it even if it fails the comparison.")
    ] = False,
    data: Moved = None,
) -> None:
    """Render a bundle into files; each takes uint8 pictures and has passed the parity gate."""
    from edgecnn import api
    from edgecnn.cli.progress import context

    for made in api.export(bundle, format or None, io=io, verify=verify, force=force, context=context(bundle, data)):
        print(made.file)


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, or the name of a shipped one (see: edgecnn recipes).")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The run's folder.")],
    data: Annotated[str | None, typer.Option(metavar="FOLDER", help="Pictures to use, not the recipe's own.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=STEP_SET)] = None,
    dry_run: DryRun = False,
) -> None:
    """Run a recipe. What is there already is skipped, an interrupted training goes on, measurements are taken again."""
    from edgecnn import recipe as recipes

    raw = recipes.read(recipe)
    if data is not None:
        raw["data"] = data
    _run(raw, out, settings, dry_run)


def _run(raw: dict[str, Any], out: Path, settings: list[str] | None, dry_run: bool, folds: int | None = None) -> None:
    """Check a recipe against the bundles that are there, then print it or run it."""
    from edgecnn import recipe as recipes
    from edgecnn.bundle import stages

    for setting in settings or []:
        recipes.set_value(raw, setting)
    recipe = recipes.parse(raw, "the recipe").resolved(stages(out))
    if dry_run:
        if folds is not None:
            print(f"# {folds} times: with data: {recipe.data}#fold=1/{folds} and so on")
        print(recipes.dump(recipe), end="")
        return
    from edgecnn.cli.progress import context
    from edgecnn.pipeline.folding import cross_validate
    from edgecnn.pipeline.run import run as run_recipe
    from edgecnn.train.distributed import joined

    with joined() as world:
        where = context(out, recipe.data, recipe.data_seed, world)
        if folds is None:
            run_recipe(where, recipe)
        else:
            found = cross_validate(where, recipe, folds)
    if world.leader:
        if folds is not None:
            print("\n".join(found.lines()))
        print(out)
