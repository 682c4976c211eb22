"""Kill a training and a compression with SIGKILL, run the same commands again, and compare the weights with an
undisturbed run.

    python benchmarks/kill_resume.py --to runs/kill-resume

Prints and keeps the sha256 of every weight file of both runs, and what lay in the run's folder after each kill.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from figures import save_result

from edgecnn.bundle import MANIFEST, find_bundles, sha256

TRAIN = [
    "train",
    "digits",
    "--model",
    "mobilenet_v2",
    "--width",
    "0.35",
    "--image-size",
    "32",
    "--epochs",
    "6",
    "--lr",
    "0.05",
    "--threads",
    "1",
]
COMPRESS = ["--prune", "0.3", "--quantize", "int8", "--recovery-epochs", "4", "--set", "steps.0.threads=1"]


def edgecnn(*arguments: str) -> list[str]:
    """The command line of a verb."""
    return [sys.executable, "-m", "edgecnn", *arguments]


def killed_after(command: list[str], work: Path) -> list[str]:
    """Start a command, SIGKILL it after its first two checkpoints; returns what lies in the run's folder then."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    seen: set[int] = set()
    while len(seen) < 2 and process.poll() is None:
        last = work / "last.safetensors"
        if last.is_file():
            seen.add(last.stat().st_mtime_ns)
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return sorted(str(path.relative_to(work.parent)) for path in work.parent.iterdir())


def weights(run: Path) -> dict[str, str]:
    """sha256 of all weight files of a run."""
    return {
        f"{bundle.name}/{name}": sha256(bundle.path / name)
        for bundle in find_bundles(run)
        for name in bundle.manifest.files
        if name.endswith(".safetensors")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    shutil.rmtree(args.to, ignore_errors=True)
    calm, rough = args.to / "calm", args.to / "rough"
    for command in (edgecnn(*TRAIN, "-o", str(calm)), edgecnn("compress", str(calm), *COMPRESS)):
        subprocess.run(command, check=True)
    left = {}
    for name, command, work in (
        ("train", edgecnn(*TRAIN, "-o", str(rough)), rough / ".float.work"),
        ("compress", edgecnn("compress", str(rough), *COMPRESS), rough / ".pruned.work"),
    ):
        left[name] = killed_after(command, work)
        subprocess.run(command, check=True)
    whole = all((bundle.path / MANIFEST).is_file() for bundle in find_bundles(rough))
    same = weights(calm) == weights(rough)
    print(f"after the kills: {left}\nall bundles whole: {whole}\nsame weights: {same}")
    save_result(
        "kill_resume", {"left": left, "whole": whole, "same": same, "calm": weights(calm), "rough": weights(rough)}
    )
    sys.exit(0 if same and whole else 1)


if __name__ == "__main__":
    main()
