"""Time ``make quickstart`` in a fresh clone, environment included, and take its figures.

python benchmarks/quickstart.py --to /tmp/edgecnn-quickstart
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

from figures import record, save_result

from edgecnn.spec import Interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="an empty place for the clone")
    args = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    subprocess.run(["git", "clone", "--quiet", str(here), str(args.to)], check=True)
    began = time.monotonic()
    subprocess.run(["make", "quickstart"], cwd=args.to, check=True)
    minutes = (time.monotonic() - began) / 60
    rows = json.loads((args.to / "runs/quickstart/report.json").read_text())
    record("quickstart_minutes", minutes, "minutes", command="make quickstart")
    best = next(row for row in rows if row["bundle"] == "quickstart/int8" and row["runtime"] == "litert")
    top1 = Interval(best["top1"], best["top1_low"], best["top1_high"], 179)
    record("digits_int8_top1", top1, "percent", command="make quickstart")
    save_result("quickstart", {"minutes": minutes, "rows": rows})


if __name__ == "__main__":
    main()
