"""What each scheme of precision makes of a network's files: bytes, and latency against the float32 file.

    edgecnn compress RUN --scheme fp16            # and the others, each into a bundle of its name
    edgecnn export RUN
    python benchmarks/scheme_files.py --run RUN   # 1 thread, batch 1

Every ratio comes from interleaved blocks in fresh processes (``edgecnn.measure.latency.compare``), so that what slows
the machine for a while slows both sides. Figures: ``scheme_BUNDLE_RUNTIME_bytes`` and ``..._over_fp32``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from figures import RESULTS, record, save_result

from edgecnn import catalog
from edgecnn.bundle import find_bundles, open_bundle
from edgecnn.measure.latency import compare
from edgecnn.pipeline.loading import golden
from edgecnn.runtimes.session import Launch
from edgecnn.spec import Precision, Runtime


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="these bundles (default: all of the run)")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds per ratio")
    args = parser.parse_args()
    images = golden(open_bundle(args.run / "float"))["images"]
    kept = RESULTS / "scheme_files.json"
    content: dict[str, Any] = json.loads(kept.read_text())["result"] if args.only and kept.is_file() else {}
    for bundle in (each for each in find_bundles(args.run) if args.only is None or each.name in args.only):
        for runtime in (Runtime.ONNXRUNTIME, Runtime.LITERT):
            name = f"model{catalog.FORMATS[catalog.RUNTIMES[runtime].formats[0]].extension}"
            ours, theirs = bundle.exports / name, args.run / "float" / "exports" / name
            if not ours.is_file():
                continue
            key = f"scheme_{bundle.name}_{runtime}"
            record(f"{key}_bytes", ours.stat().st_size, "bytes")
            if bundle.manifest.precision == Precision.FP32:
                continue
            found = compare(Launch(runtime, ours), Launch(runtime, theirs), images, budget_s=args.budget)
            record(f"{key}_over_fp32", found.ratio, "ratio")
            content[key] = {"ratio": asdict(found.ratio), "a_ms": asdict(found.a_ms), "b_ms": asdict(found.b_ms)}
            content[key]["status"] = str(found.status)
    save_result("scheme_files", content)


if __name__ == "__main__":
    main()
