"""What the training recipes gave, into figures.json.

    edgecnn run recipes/cifar10-distilled.yaml --data CIFAR10 -o runs/cifar10
    edgecnn run recipes/cifar10-98kb.yaml --data CIFAR10 -o runs/cifar10      # the teacher is there already
    edgecnn run recipes/efficientnet-lite0-twostage.yaml --data FLOWERS -o runs/flowers5-twostage
    python benchmarks/training_figures.py --cifar10 runs/cifar10 --twostage runs/flowers5-twostage --flowers FLOWERS

Accuracies are those of the test split, with Wilson intervals; the small record is that of the exported int8 file in
LiteRT. With ``--flowers`` the feature extractor is trained here, in a process of its own, and timed from its start to
its end, pictures decoded and weights loaded included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import record

from edgecnn import api
from edgecnn.bundle import Bundle, open_bundle
from edgecnn.spec import Interval

COMMAND = "python benchmarks/training_figures.py"


def top1(bundle: Bundle) -> Interval:
    """Test accuracy in the bundle's manifest."""
    figures = bundle.manifest.figures
    return Interval(*(figures[f"test_top1{end}"] for end in ("", "_low", "_high")), figures["test_images"])


def cifar10(run: Path) -> None:
    """The teacher, the network it taught, and the small one."""
    record("cifar10_teacher_top1", top1(open_bundle(run / "teacher")), "percent", command=COMMAND)
    mobile = open_bundle(run / "mobile")
    record("cifar10_mobile_top1", top1(mobile), "percent", command=COMMAND)
    record("cifar10_mobile_macs", mobile.manifest.figures["macs"], "MACs", command=COMMAND)
    for name in ("teacher", "mobile", "small"):
        record(f"cifar10_{name}_minutes", open_bundle(run / name).manifest.figures["seconds"] / 60, "minutes")
    record("cifar10_small_top1", top1(open_bundle(run / "small")), "percent", command=COMMAND)
    file = run / "small-int8" / "exports" / "model.tflite"
    found = api.evaluate(file, data=str(open_bundle(run / "small").manifest.data["source"]))
    record("record98k_int8_top1", found.accuracy.top1, "percent", command=COMMAND)
    record("record98k_bytes", file.stat().st_size, "bytes", command=COMMAND)


def features(flowers: Path) -> None:
    """The feature extractor, trained and timed."""
    with tempfile.TemporaryDirectory() as scratch:
        network = ("--model", "timm:tf_efficientnet_lite0", "--pretrained", "pip:efficientnet-lite0")
        command = [sys.executable, "-m", "edgecnn", "train", str(flowers), "-o", scratch, *network]
        since = time.perf_counter()
        subprocess.run([*command, "--image-size", "224", "--transfer", "features"], check=True)
        minutes = (time.perf_counter() - since) / 60
        record("flowers5_feature_top1", top1(open_bundle(Path(scratch) / "float")), "percent", command=COMMAND)
        record("flowers5_feature_minutes", minutes, "minutes", command=COMMAND)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="run of both cifar10 recipes")
    parser.add_argument("--twostage", type=Path, help="run of efficientnet-lite0-twostage")
    parser.add_argument("--flowers", type=Path, help="folder of the five flowers")
    args = parser.parse_args()
    if args.cifar10:
        cifar10(args.cifar10)
    if args.twostage:
        made = open_bundle(args.twostage / "float")
        record("flowers5_twostage_top1", top1(made), "percent", command=COMMAND)
        record("flowers5_twostage_minutes", made.manifest.figures["seconds"] / 60, "minutes", command=COMMAND)
    if args.flowers:
        features(args.flowers)


if __name__ == "__main__":
    main()
