"""The report step: what the bundles of a run have measured -> one HTML page and one JSON list of rows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecnn.bundle import MANIFEST, Bundle, find_bundles
from edgecnn.errors import BundleError, UsageError
from edgecnn.pipeline import benchmarking, parity_log
from edgecnn.pipeline.diagnosing import findings_of
from edgecnn.report.html import write_report
from edgecnn.report.rows import Confusion, Curves, Environment, ParityRow, Row, write_rows


def report(run: Path) -> tuple[Path, list[Row]]:
    """Write ``report.html`` and ``report.json`` into the run. Returns the page's path and the rows.

    Raises ``BundleError`` when nothing in the run was benchmarked yet, ``UsageError`` for a single bundle.
    """
    if (run / MANIFEST).is_file():
        raise UsageError(f"{run} is one bundle; a report is of a run", hint=f"run: edgecnn report {run.parent}")
    bundles = find_bundles(run)
    measured = {bundle.name: found for bundle in bundles if (found := benchmarking.latest(bundle)) is not None}
    if not measured:
        raise BundleError(f"nothing in {run} was benchmarked yet", hint=f"run: edgecnn benchmark {run}")
    checks = [row for bundle in bundles for row in parity_log.latest(bundle)]
    rows = [with_parity(Row.from_dict(row), checks) for found in measured.values() for row in found["rows"]]
    page = run / "report.html"
    write_report(
        page,
        rows,
        title=run.resolve().name,
        curves=[curves for bundle in bundles if (curves := curves_of(bundle)) is not None],
        confusions=[counts for bundle in bundles if (counts := confusion_of(bundle, measured.get(bundle.name)))],
        parity=checks,
        environment=environment(bundles, measured),
    )
    write_rows(run / "report.json", rows)
    return page, rows


def with_parity(row: Row, checks: list[ParityRow]) -> Row:
    """The row with the agreement of its file with the graph, when that was checked."""
    stage = f"{row.format} in {row.runtime}"
    for check in checks:
        if check.bundle == row.bundle and check.stage == stage:
            return replace(row, agreement=check.agreement, parity_sqnr_db=check.sqnr_db)
    return row


def curves_of(bundle: Bundle) -> Curves | None:
    """The training history of a bundle that has one, and what stands out in it."""
    if not bundle.has("history.csv"):
        return None
    with bundle.file("history.csv").open(newline="") as file:
        return Curves(bundle.title, list(csv.DictReader(file)), [str(finding) for finding in findings_of(bundle)])


def confusion_of(bundle: Bundle, measured: dict[str, Any] | None) -> Confusion | None:
    """The confusion matrix that the last benchmark recorded."""
    if measured is None or measured["confusion"] is None:
        return None
    return Confusion(bundle.title, bundle.manifest.labels, measured["confusion"])


def environment(bundles: list[Bundle], measured: dict[str, Any]) -> Environment:
    """Machine, versions and data behind the rows."""
    last = next(reversed(measured.values()))
    data = bundles[0].manifest.data
    return Environment(
        {
            "measured": last["created"],
            "machine": last["machine"],
            "versions": bundles[-1].manifest.versions,
            "data": {key: data[key] for key in ("source", "seed", "counts", "digest")},
        }
    )
