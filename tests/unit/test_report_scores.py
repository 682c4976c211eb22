"""The page of an evaluation, drawn from values made by hand."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgecnn.report.ranking import RankedClass, draw_ranking
from edgecnn.report.reliability import FRAME, ReliabilityBin, draw_reliability
from edgecnn.report.rows import Confusion
from edgecnn.report.scores_page import ClassRow, ScoresPage, WorstPicture, write_scores_page

NASTY = "</title><script>alert('x')</script><img src=http://evil.example/x>"
BINS = [
    ReliabilityBin(0.0, 0.5, 0, None, None),
    ReliabilityBin(0.5, 0.75, 10, 0.7, 0.5),
    ReliabilityBin(0.75, 1.0, 40, 0.9, 1.0),
]


def test_bars_are_as_high_as_the_share_of_right_answers() -> None:
    drawing = ElementTree.fromstring(draw_reliability(BINS, "a & b"))
    low, high = drawing.findall("g/rect")
    full = FRAME.bottom - FRAME.top
    assert [float(bar.get("height", 0)) for bar in (low, high)] == [full / 2, full]
    assert [bar.get("fill-opacity") for bar in (low, high)] == ["0.41", "0.9"]
    told = [float(line.get("y1", 0)) for line in drawing.findall("g/line")]
    assert told == pytest.approx([FRAME.bottom - 0.7 * full, FRAME.bottom - 0.9 * full])
    assert drawing.findtext("g/title") == "10 pictures at 70.00 % confidence on average: 50.00 % right"


def test_a_diagram_without_pictures_is_empty() -> None:
    assert ElementTree.fromstring(draw_reliability(BINS[:1], "x")).findall("g/rect") == []


def test_curves_end_where_they_should_and_the_pooled_one_lies_on_top() -> None:
    pooled = RankedClass("all", True, 0.7, 0.8, [(0.0, 1.0), (1.0, 0.5)], [(0.0, 0.0), (0.25, 1.0), (1.0, 1.0)])
    classes = [pooled, *(RankedClass(name, False, 0.5, 0.6, [(0, 1), (1, 0)], [(0, 0), (1, 1)]) for name in "ab")]
    drawing = ElementTree.fromstring(f"<div>{draw_ranking(classes, 'x')}</div>")
    precision, roc = drawing.findall("div/svg")
    for plot in (precision, roc):
        assert [line.get("class") for line in plot.findall("g[@class]")] == [
            "ranked colour-2",
            "ranked colour-1",
            "ranked neutral",
        ]
    path = roc.findall("g[@class='ranked neutral']/path")[0].get("d")
    middle = FRAME.left + 0.25 * (FRAME.right - FRAME.left)
    assert path == (
        f"M{FRAME.left:.2f} {FRAME.bottom:.2f} L{middle:.2f} {FRAME.top:.2f} L{FRAME.right:.2f} {FRAME.top:.2f}"
    )
    assert len(roc.findall("path[@class='frontier']")) == 1 and not precision.findall("path[@class='frontier']")
    assert [item.findtext(".") or "".join(item.itertext()) for item in drawing.findall("ul/li")] == [
        "all: 70.00 % / 80.00 %",
        "a: 50.00 % / 60.00 %",
        "b: 50.00 % / 60.00 %",
    ]


def test_nothing_foreign_enters_the_page(tmp_path: Path) -> None:
    page = ScoresPage(
        title=NASTY,
        subtitle=NASTY,
        figures=[("F1, macro", "90.00 %", "88.00 to 92.00")],
        confusion=Confusion(NASTY, [NASTY, "dog"], [[3, 1], [0, 4]]),
        bins=BINS,
        columns=["F1", "ROC AUC"],
        classes=[ClassRow(NASTY, 4, (0.9, None)), ClassRow("dog", 4, (0.8, 0.7))],
        ranked=[RankedClass(NASTY, False, 0.5, 0.5, [(0.0, 1.0), (1.0, 0.5)], [(0.0, 0.0), (1.0, 1.0)])],
        worst=[WorstPicture(NASTY, NASTY, "dog", 2.3, b"\xff\xd8content", 0.1, 0.8)],
    )
    write_scores_page(tmp_path / "page.html", page)
    source = (tmp_path / "page.html").read_text()
    assert "<script" not in source and "<img src=http" not in source
    assert source.count('src="data:image/jpeg;base64,/9hjb250ZW50"') == 1
    assert all(words in source for words in ("90.00 %", "88.00 to 92.00", "70.00", "loss 2.30"))
