from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

from edgecnn.report.html import write_report
from edgecnn.report.rows import Confusion, Curves, Environment, ParityRow, Row
from edgecnn.spec import Format, Precision, Runtime, Status

NASTY = "</script><script>alert('x')</script><img src=http://evil.example/x>"
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


class Page(HTMLParser):
    """Collects the tags and attributes of a page and checks that every element is closed in order."""

    void = frozenset({"meta", "br", "link"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def having(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def row(**changes: object) -> Row:
    values = {
        "model": "mobilenet_v2",
        "format": Format.TFLITE,
        "precision": Precision.INT8,
        "runtime": Runtime.LITERT,
        "threads": 2,
    }
    return Row(**(values | changes))


ROWS = [
    row(
        top1=0.9, top1_low=0.88, top1_high=0.92, latency_ms=1.5, latency_low=1.4, latency_high=1.7, size_bytes=2_500_000
    ),
    row(
        precision=Precision.FP32,
        top1=0.91,
        latency_ms=3.0,
        p90_ms=3.5,
        load_ms=20.0,
        peak_memory_bytes=10**8,
        size_bytes=10**7,
    ),
    row(model=NASTY, bundle=NASTY, status=Status.FAILED, note=f"the worker died: {NASTY}"),
    row(runtime=Runtime.NULL, status=Status.UNAVAILABLE),
]


def full(path: Path) -> str:
    write_report(
        path,
        ROWS,
        title=f"title {NASTY}",
        subtitle=NASTY,
        parity=[
            ParityRow("int8", "float", "b", 256, 0.99, 0.999, 31.2, 0.5),
            ParityRow(NASTY, "int8", "b", 256, 0.5, 0.4, 1.0, 9.0, Status.FAILED, "features.3.conv", "agreement 50 %"),
        ],
        curves=[
            Curves(
                NASTY,
                [{"epoch": 1, "train_loss": 1.0, "val_top1": 0.5}, {"epoch": 2, "train_loss": 0.5, "val_top1": 0.6}],
            )
        ],
        confusions=[Confusion(NASTY, [NASTY, "dog"], [[3, 1], [0, 4]])],
        environment=Environment({"machine": {"cpu": NASTY, "flags": ["vnni", "amx"]}, "governor": None}),
        created=NOW,
    )
    return path.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_has_every_section(tmp_path: Path) -> None:
    page = Page(full(tmp_path / "report.html"))
    assert page.open == []
    assert [found["id"] for found in page.having("section")] == [
        "plot",
        "results",
        "parity",
        "training",
        "confusion",
        "environment",
    ]
    links = [found["href"] for found in page.having("a")]
    assert {link.removeprefix("#") for link in links if link} <= {found.get("id") for _, found in page.tags}


def test_nothing_is_fetched_and_nothing_foreign_runs(tmp_path: Path) -> None:
    source = full(tmp_path / "report.html")
    page = Page(source)
    assert len(page.having("script")) == 1  # edgecnn's own
    assert [
        tag for tag, _ in page.tags if tag in {"img", "link", "iframe", "object", "embed", "base", "image", "use"}
    ] == []
    assert [
        found for _, found in page.tags if {"src", "srcset", "xlink:href", "data", "action", "poster"} & found.keys()
    ] == []
    assert [found["href"] for found in page.having("a") if not (found["href"] or "").startswith("#")] == []
    assert [name for _, found in page.tags for name in found if name.startswith("on")] == []
    assert re.search(r"@import|url\(", source) is None
    (policy,) = [found["content"] or "" for found in page.having("meta") if "http-equiv" in found]
    assert policy.startswith("default-src 'none'")


def test_every_row_is_there_and_a_failing_one_says_why(tmp_path: Path) -> None:
    page = Page(full(tmp_path / "report.html"))
    assert [found["class"] for found in page.having("tr") if found.get("class")] == [
        "ok",
        "ok",
        "failed",
        "unavailable",
        "ok",
        "failed",
    ]
    assert f"the worker died: {NASTY}" in page.texts
    assert "no reason was recorded" in page.texts
    for words in (
        "90.00",
        "88.00 – 92.00",
        "1.50",
        "1.40 – 1.70",
        "3.50",
        "20.0",
        "100 MB",
        "2.50 MB",
        "features.3.conv",
        "31.2 dB",
    ):
        assert words in page.texts, words
    assert "1 failed, 1 unavailable" in page.texts
    assert any("2 rows without both figures not drawn" in words for words in page.texts)


def test_the_environment_is_flattened(tmp_path: Path) -> None:
    texts = Page(full(tmp_path / "report.html")).texts
    assert texts[texts.index("machine / flags") + 1] == "vnni, amx"
    assert texts[texts.index("governor") + 1] == "–"


def test_pictures_and_tables_have_names_and_headings_a_scope(tmp_path: Path) -> None:
    page = Page(full(tmp_path / "report.html"))
    assert all(found.get("aria-label") or found.get("aria-hidden") for found in page.having("svg"))
    assert all(found.get("aria-label") for found in page.having("table"))
    assert all(found.get("scope") in {"row", "col"} for found in page.having("th"))
    assert page.having("html")[0]["lang"] == "en"
    identities = [found["id"] for _, found in page.tags if "id" in found]
    assert len(identities) == len(set(identities))


def test_missing_figures_sort_as_empty_and_others_by_value(tmp_path: Path) -> None:
    page = Page(full(tmp_path / "report.html"))
    orders = [
        found["data-order"]
        for tag, found in page.tags
        if tag == "td" and found.get("class") == "figure-cell" and "data-order" in found
    ]
    assert orders[:4] == ["1", "2", "0.9", "1.5"]  # number, threads, top-1, latency of the first row
    assert orders[4] == ""  # its p90 was not measured


def test_empty_parts_are_left_out_and_no_rows_is_said(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", [], created=NOW)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [found["id"] for found in page.having("section")] == ["results"]
    assert "No rows were measured." in page.texts


def test_the_same_values_give_the_same_page(tmp_path: Path) -> None:
    assert full(tmp_path / "a.html") == full(tmp_path / "b.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]
