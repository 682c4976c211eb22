"""The page of a diagnosis and its table, drawn from values made by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgecnn.report.console import print_losses
from edgecnn.report.diagnosis_page import DiagnosisPage, LossRow, TensorHistogram, render, write_diagnosis_page

NASTY = "</title><script>alert('x')</script>"
ROWS = [
    LossRow(NASTY, "conv 8 x 4 x 4", 30.0, 15.0, -3.0, 12.0, 20.0, "blown-up channel", "channel 5", "train again"),
    LossRow("gate", "mul 8 x 4 x 4", None, 200.0, 18.0, None, None, "rounding", "256 levels", "nothing"),
]
HISTOGRAM = TensorHistogram(NASTY, [4, 0, 1], [-1.0, 0.0, 1.0, 2.0], (-1.0, 1.0), "words")


def page(rows: list[LossRow] = ROWS) -> DiagnosisPage:
    findings = [("preprocessing mismatch", "ranges differ", "calibrate again")]
    return DiagnosisPage(NASTY, "sub", [("Answers", "12 dB", "noise")], findings, rows, [NASTY, "gate"], [HISTOGRAM])


def test_the_page_is_whole_and_escaped(tmp_path: Path) -> None:
    write_diagnosis_page(tmp_path / "page.html", page())
    text = (tmp_path / "page.html").read_text()
    assert "<script>" not in text
    assert "<strong>blown-up channel</strong>: channel 5" in text and "train again" in text
    assert 'badge failed">preprocessing mismatch</span> ranges differ. <em>calibrate again.</em>' in text


def test_bars_are_as_long_as_the_ratio_and_stay_in_their_cell() -> None:
    widths = re.findall(r'<span style="width: ([\d.]+)%">', render(page()))
    assert widths == ["50.0", "25.0", "1.0", "20.0", "33.3", "100.0", "30.0"]


def test_values_beyond_the_levels_stand_out() -> None:
    text = render(page())
    assert text.count('<g class="right"><rect') == 1 and text.count('<g class="wrong"><rect') == 1
    assert "-128: -1" in text and "127: 1.00" in text


def test_many_layers_are_cut() -> None:
    rows = [LossRow(f"layer{at}", "conv", 30.0, 30.0, 30.0, 30.0, 30.0, "rounding", "e", "r") for at in range(20)]
    many = DiagnosisPage("t", "s", [], [], rows, [row.name for row in rows], [])
    assert "8 layers more" in render(many) and "The whole network" not in render(many)


def test_the_table_says_reasons_once(capsys: pytest.CaptureFixture[str]) -> None:
    print_losses([ROWS[1], ROWS[1]])
    told = capsys.readouterr().out
    assert told.count("rounding: nothing") == 1 and "2. gate: rounding: 256 levels" in told
