"""The page of ``edgecnn diagnose`` for a network with a planted fault, and a picture of it.

    python benchmarks/diagnosis_page.py -o runs/diagnosis

MobileNetV3-small on scikit-learn's digits (some minutes). One channel of a depthwise convolution is made 100 times
larger and its reader's weights 100 times smaller: the float network computes the same, but all other channels of that
tensor are left with one or two of 256 levels. ``-o/page.html`` is written, and, where there is a Chromium,
``benchmarks/results/diagnosis_v3s.png``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from figures import RESULTS
from PIL import Image

from edgecnn import api
from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.diagnose import diagnose
from edgecnn.compress.quantize import decompose, quantize
from edgecnn.data.tensors import choose_calibration, load_items, load_split
from edgecnn.graph.ir import Graph
from edgecnn.pipeline.context import data_of
from edgecnn.pipeline.explaining import page_of
from edgecnn.pipeline.loading import load_graph, preprocess_of
from edgecnn.report.diagnosis_page import write_diagnosis_page
from edgecnn.spec import Split

WRITER, READER, CHANNEL, FACTOR = "blocks.1.depthwise.conv", "blocks.1.project.conv", 5, 100
WINDOW = (1360, 2360)
SCALE, COLOURS = 0.6, 128  # of the picture, which keeps it small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the run's folder")
    args = parser.parse_args()
    net = {"model": "mobilenet_v3_small", "image_size": 32, "width": 0.5, "stem_stride": 1}
    bundle = api.train("digits", args.out, **net, epochs=12, batch_size=64, lr=0.05, flip=False, threads=1)
    data, p = data_of(bundle), preprocess_of(bundle)
    calibration = load_items(data, choose_calibration(data, 256, seed=0), p).images
    graph = plant(load_graph(bundle))
    found = diagnose(
        decompose(graph),
        quantize(graph, calibrate(graph, [calibration])),
        load_split(data, Split.VAL, p, limit=64, seed=1).images,
        calibration=calibration,
        tell=print,
    )
    page = args.out / "page.html"
    write_diagnosis_page(page, page_of(found, "MobileNetV3-small with a blown-up channel"))
    print(page)
    if (browser := shutil.which("chromium")) is not None:
        print(photograph(browser, page, RESULTS / "diagnosis_v3s.png"))


def plant(graph: Graph) -> Graph:
    """The graph with a channel blown up: it computes the same."""
    weights = {key: array.copy() for key, array in graph.weights.items()}
    weights[f"{WRITER}.weight"][CHANNEL] *= FACTOR
    weights[f"{WRITER}.bias"][CHANNEL] *= FACTOR
    weights[f"{READER}.weight"][:, CHANNEL] /= FACTOR
    return replace(graph, weights=weights)


def photograph(browser: str, page: Path, picture: Path) -> Path:
    """The top of the page as a PNG of few colours."""
    window = ",".join(map(str, WINDOW))
    options = ("--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={window}", f"--screenshot={picture}")
    subprocess.run([browser, *options, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(picture) as image:
        size = (round(SCALE * image.width), round(SCALE * image.height))
        small = (
            image.convert("RGB")
            .resize(size, Image.Resampling.LANCZOS)
            .quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        )
    small.save(picture, optimize=True)
    return picture


if __name__ == "__main__":
    main()
