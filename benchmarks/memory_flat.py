"""Memory of ``edgecnn train`` on many pictures: it must not grow with the set.

    python benchmarks/memory_flat.py SCRATCH --images 4000 --limit 1000000
    python benchmarks/memory_flat.py SCRATCH --images 200000
    python benchmarks/memory_flat.py SCRATCH --images 200000 --stream

Writes so many random JPEGs of 96 pixels into ten class folders under SCRATCH (once; for 200,000 about 1 GB, and 5.5 GB
for the decoded pictures), trains a tiny network on them for one epoch in a process of its own, and reads that
process's memory every second. Decoded pictures above ``--limit`` lie in a mapped file (``edgecnn/data/mapped.py``);
pages of files are the kernel's to drop when memory is short, so that what counts is RssAnon, the memory that only this
process can give back. The whole curve is kept in ``benchmarks/results``.

With ``--stream`` the pictures lie in WebDataset shards of 1,000 and are decoded while the network is trained
(``edgecnn/data/stream.py``); what is decoded once are the fifth of them that are validated and tested on.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from figures import record, save_result
from PIL import Image

SIZE, CLASSES, COARSE = 96, 10, 12
SHARD = 1000
STAGES = "[[conv, 8, 3, 4], [bn], [relu], [conv, 16, 3, 4], [bn], [relu], [global_pool]]"
FIELDS = {"RssAnon:": "anon_mb", "RssFile:": "file_mb"}


def make_pictures(folder: Path, images: int) -> Path:
    """A folder of so many pictures, in a folder for each class. What an earlier call wrote is kept."""
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
    for number in range(images):
        file = folder / f"class{number % CLASSES}" / f"{number:07d}.jpg"
        if file.is_file() and file.stat().st_size:
            continue
        file.write_bytes(picture(number))
        if (number + 1) % 20000 == 0:
            print(f"{number + 1} of {images} pictures", flush=True)
    return folder


def picture(number: int) -> bytes:
    """A JPEG: a coarse random pattern, tinted by class."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 200, (COARSE, COARSE, 3), dtype=np.uint8)
    coarse[..., number % 3] += np.uint8(5 * (number % CLASSES))
    content = io.BytesIO()
    Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BILINEAR).save(content, "JPEG", quality=85)
    return content.getvalue()


def make_shards(folder: Path, images: int) -> Path:
    """The same pictures in tar files. What an earlier call wrote is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, images, SHARD):
        file = folder / f"shard-{first // SHARD:06d}.tar"
        if file.is_file():
            continue
        unfinished = file.with_suffix(".part")
        with tarfile.open(unfinished, "w") as tar:
            for number in range(first, min(first + SHARD, images)):
                for kind, content in (("jpg", picture(number)), ("cls", str(number % CLASSES).encode())):
                    member = tarfile.TarInfo(f"{number:07d}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        unfinished.replace(file)
        if (first + SHARD) % 20000 == 0:
            print(f"{first + SHARD} of {images} pictures", flush=True)
    return folder


def memory_of(pid: int) -> dict[str, float]:
    """Resident memory of a process in MB, by kind; nothing once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {FIELDS[each[0]]: int(each[1]) * 1024 / 1e6 for each in words if each and each[0] in FIELDS}


def watch(command: list[str], environment: dict[str, str]) -> list[dict[str, float]]:
    """Run a command to its end; its memory at every second."""
    since = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **environment})
    samples: list[dict[str, float]] = []
    while process.poll() is None:
        if found := memory_of(process.pid):
            samples.append({"seconds": round(time.perf_counter() - since, 1), **found})
        time.sleep(1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scratch", type=Path, help="a folder with room for the pictures, the cache and the run")
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--limit", type=int, default=256_000_000, help="bytes of a split that may lie in memory")
    parser.add_argument("--model", default="plain_cnn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stream", action="store_true", help="from shards, decoded during the training")
    parser.add_argument("--dry", action="store_true", help="print, and keep no figures")
    args = parser.parse_args()
    if args.stream:
        pictures = make_shards(args.scratch / f"shards-{args.images}", args.images)
    else:
        pictures = make_pictures(args.scratch / f"pictures-{args.images}", args.images)
    run = args.scratch / "run"
    shutil.rmtree(run, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "edgecnn", "train", str(pictures), "-o", str(run), "--model", args.model),
        *("--image-size", str(SIZE), "--epochs", "1", "--batch-size", "256", "--threads", str(args.threads)),
        *("--device", "cpu", "--precision", "fp32", "--set", f"stages={STAGES}", "--set", "ema=null"),
        *(("--set", "stream=true") if args.stream else ()),
    ]
    environment = {"EDGECNN_MEMORY_LIMIT": str(args.limit), "EDGECNN_CACHE": str(args.scratch / "cache")}
    samples = watch(command, environment)
    peak = {kind: max(sample[kind] for sample in samples) for kind in FIELDS.values()}
    decoded = args.images * SIZE * SIZE * 3 / 1e6
    print(
        f"peak: {peak['anon_mb']:.0f} MB, files {peak['file_mb']:.0f} MB; decoded pictures: {decoded:.0f} MB",
        flush=True,
    )
    if args.dry:
        return
    name = f"memory_{args.images // 1000}k{'_streamed' if args.stream else ''}"
    for what, value in (("peak_anon", peak["anon_mb"]), ("peak_file", peak["file_mb"]), ("decoded", decoded)):
        record(f"{name}_{what}_mb", value, "MB", n=args.images)
    settings = {key: value for key, value in vars(args).items() if key != "scratch"}
    save_result(name, {"settings": settings, "samples": samples})


if __name__ == "__main__":
    main()
