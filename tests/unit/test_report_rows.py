from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from edgecnn.errors import UsageError
from edgecnn.report.rows import Confusion, Curves, ParityRow, Row, interval_fields, read_rows, write_rows, write_whole
from edgecnn.spec import Format, Interval, Precision, Runtime, Status


def row(**changes: object) -> Row:
    values = {
        "model": "m",
        "format": Format.ONNX,
        "precision": Precision.INT8,
        "runtime": Runtime.ONNXRUNTIME,
        "threads": 1,
    }
    return Row(**(values | changes))


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [
        row(top1=0.9, top1_low=0.88, top1_high=0.92, latency_ms=1.5, size_bytes=1234, parity_sqnr_db=math.inf),
        row(status=Status.FAILED, note="the worker died: “no such op”"),
    ]
    write_rows(tmp_path / "deep" / "report.json", rows)
    again = read_rows(tmp_path / "deep" / "report.json")
    assert again == rows
    assert [type(again[0].format), type(again[1].status)] == [Format, Status]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.json"]


def test_the_json_is_strict_and_every_row_has_the_promised_keys(tmp_path: Path) -> None:
    write_rows(tmp_path / "report.json", [row(latency_ms=math.nan, parity_sqnr_db=math.inf)])

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    (found,) = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    promised = {"model", "format", "precision", "runtime", "threads", "top1", "latency_ms", "size_bytes", "status"}
    assert promised <= found.keys()
    assert found["latency_ms"] is None
    assert found["parity_sqnr_db"] == "inf"
    assert found["status"] == "ok"


def test_fields_of_a_later_version_are_ignored() -> None:
    assert Row.from_dict({**row().to_dict(), "carbon_grams": 3}) == row()


@pytest.mark.parametrize(
    "damage", [{"runtime": "abacus"}, {"threads": None, "model": None, "top1": "good"}, {"top1": 97.2}, {"status": 7}]
)
def test_a_wrong_row_is_refused_with_a_way_out(damage: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="not a row") as caught:
        Row.from_dict(row().to_dict() | damage)
    assert caught.value.hint


def test_a_missing_field_is_refused() -> None:
    with pytest.raises(UsageError, match="threads"):
        Row.from_dict({"model": "m", "format": "onnx", "precision": "int8", "runtime": "null"})


@pytest.mark.parametrize("text", ["{", '{"rows": []}', "[1]"])
def test_a_file_that_is_no_list_of_rows_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"wrong\.json"):
        read_rows(path)
    with pytest.raises(UsageError, match=r"absent\.json"):
        read_rows(tmp_path / "absent.json")


def test_an_accuracy_in_percent_is_refused() -> None:
    with pytest.raises(ValueError, match="fraction"):
        row(top1=97.2)


def test_an_interval_is_spread_over_its_three_fields() -> None:
    measured = row(**interval_fields("top1", Interval(0.9, 0.8, 0.95, 100)), **interval_fields("latency", None))
    assert (measured.top1, measured.top1_interval) == (0.9, (0.8, 0.95))
    assert (measured.latency_ms, measured.latency_interval) == (None, None)


def test_parity_rows_survive_json() -> None:
    kept = ParityRow("onnx", "graph", "int8", 256, 1.0, 1.0, math.inf, 0.0, Status.FAILED, "features.3", "inf")
    assert ParityRow.from_dict(json.loads(json.dumps(kept.to_dict(), allow_nan=False))) == kept


def test_history_columns_are_numbers_whatever_the_csv_gave() -> None:
    curves = Curves("run", [{"epoch": "1", "loss": "0.5", "note": "x"}, {"epoch": "2", "loss": "nan"}, {"epoch": 3}])
    assert curves.columns() == ["epoch", "loss"]
    assert curves.column("loss") == [0.5, None, None]


@pytest.mark.parametrize("counts", [[[1]], [[1, 0], [0]], [[1, 0], [0, 1], [0, 0]]])
def test_a_confusion_matrix_must_fit_its_labels(counts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="2 labels"):
        Confusion("c", ["a", "b"], counts)


def test_an_undecodable_file_name_does_not_stop_the_report(tmp_path: Path) -> None:
    write_whole(tmp_path / "page.html", "bad \udce9 name")
    assert (tmp_path / "page.html").read_text() == "bad ? name"
