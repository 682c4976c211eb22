from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgecnn.report.rows import Row
from edgecnn.report.table import natural_width, print_table, result_table
from edgecnn.spec import Format, Precision, Runtime, Status


def row(**changes: object) -> Row:
    values = {
        "model": "mobilenet_v2",
        "format": Format.ONNX,
        "precision": Precision.INT8,
        "runtime": Runtime.ONNXRUNTIME,
        "threads": 1,
        "latency_ms": 1.5,
        "latency_low": 1.4,
        "latency_high": 1.7,
        "top1": 0.9,
        "top1_low": 0.88,
        "top1_high": 0.92,
        "p90_ms": 2.0,
    }
    return Row(**(values | changes))


def printed(rows: list[Row], width: int) -> str:
    out = io.StringIO()
    print_table(rows, console=Console(file=out, width=width))
    return out.getvalue()


def test_figures_come_with_their_interval() -> None:
    text = printed([row()], 200)
    assert "90.00 ±2.00" in text
    assert "1.50 ±0.20" in text


def test_columns_without_a_figure_are_left_out() -> None:
    text = printed([row()], 200)
    assert "Load" not in text
    assert "Status" not in text
    assert "Load" in printed([row(load_ms=3.0)], 200)


def test_failing_rows_stand_in_the_table_with_their_reason_below() -> None:
    reason = "litert is not installed: pip install 'edgecnn[litert]'"
    failed = row(status=Status.UNAVAILABLE, note=reason, latency_ms=None, top1=None)
    text = printed([row(), failed, row(status=Status.FAILED)], 200)
    assert "unavailable" in text
    assert f"2: {reason}" in text
    assert "3: no reason was recorded" in text


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_the_table_fits_and_keeps_the_figures(width: int) -> None:
    rows = [row(model="mobilenet_v3_small", bundle="runs/quickstart/pruned-int8", size_bytes=12345, load_ms=2.0), row()]
    text = printed(rows, width)
    assert max(map(len, text.splitlines())) <= width
    assert all(words in text for words in ("90.00", "1.50", "onnxruntime", "12.3 kB"))


def test_names_are_not_read_as_rich_markup() -> None:
    assert "[red]roses[/red]" in printed([row(model="[red]roses[/red]")], 200)


def test_into_a_pipe_the_table_goes_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    rows = [row(bundle="a/long/path/to/a/bundle/that/no/terminal/of/eighty/columns/could/hold", load_ms=3.0)]
    print_table(rows)
    assert rows[0].bundle in capsys.readouterr().out
    assert natural_width(result_table(rows)) > 80
