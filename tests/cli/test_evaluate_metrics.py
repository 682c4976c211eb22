"""``edgecnn evaluate`` with all figures of a classifier: as text, as JSON and as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from driving import Outcome

Cli = Callable[..., Outcome]


def test_the_table(cli: Cli, finished_run: Path) -> None:
    outcome = cli("evaluate", finished_run / "float", "--metrics")
    assert outcome.code == 0, outcome.err
    plain, *lines = outcome.out.splitlines()
    assert plain + "\n" == cli("evaluate", finished_run / "float").out
    figures = [line for line in lines if " to " in line]
    names = [line[2:].partition("  ")[0] for line in figures]
    assert names[:4] == ["top-1", "top-5", "precision, macro", "recall, macro"]
    assert names[-2:] == ["calibration error", "log loss"]
    assert all(re.search(r"\d+\.\d+( %)?  \(\d+\.\d+ to \d+\.\d+\)$", line) for line in figures)
    assert sum(bool(re.match(r"  \d +\d+ ", line)) for line in lines) == 10


def test_json_has_everything(cli: Cli, finished_run: Path) -> None:
    facts = json.loads(cli("evaluate", finished_run / "float", "--metrics", "--json").out)
    metrics = facts["metrics"]
    assert metrics["top1"]["value"] == facts["top1"] and metrics["top1"]["n"] == facts["images"]
    assert sum(map(sum, metrics["confusion"])) == facts["images"] == sum(each["pictures"] for each in metrics["bins"])
    assert [each["label"] for each in metrics["classes"]] == metrics["labels"] == [str(digit) for digit in range(10)]
    pooled, *worst = metrics["curves"]
    assert pooled["label"] is None and len(worst) == 6
    found = {each["label"]: each["average_precision"] for each in metrics["classes"]}
    assert [each["label"] for each in worst] == sorted(found, key=lambda name: (found[name], name))[:6]
    assert all(each["average_precision"] == pytest.approx(found[each["label"]]) for each in worst)
    assert all(len(each["roc"]) < 200 and each["roc"][-1] == [1.0, 1.0] for each in metrics["curves"])
    losses = [each["loss"] for each in metrics["worst"]]
    assert losses == sorted(losses, reverse=True) and metrics["worst"][0]["id"].startswith("digits/")
    assert "metrics" not in json.loads(cli("evaluate", finished_run / "float", "--json").out)


def test_the_page(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    outcome = cli("evaluate", finished_run / "pruned-int8", "--runtime", "litert", "--html", page)
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.splitlines()) == 1
    text = page.read_text()
    HTMLParser().feed(text)
    assert re.findall(r'<section id="(\w+)"', text) == [
        *("figures", "confusion", "calibration", "ranking", "classes", "worst"),
    ]
    assert text.count('class="ranked') == 2 * 7 and "the 6 worst classes" in text
    assert text.count('src="data:image/png;base64,iVBOR') == 24
    assert "Confusion matrix of" in text and "Reliability diagram of" in text
    assert re.findall(r'(?:src|href)="(?!data:|#)', text) == [] and "<script" not in text


def test_a_training_ends_with_what_stands_out(cli: Cli, tmp_path: Path) -> None:
    from driving import TRAIN

    outcome = cli("train", "digits", "-o", tmp_path / "run", *TRAIN, "--lr", "0.0005")
    assert outcome.code == 0, outcome.err
    told = outcome.err[outcome.err.index(": test top-1") :].splitlines()[1:]
    assert told[0].startswith("finding: learning rate too low: the training loss fell every epoch, but from 2.3")
    assert told[0].endswith("(highest rate 0.0004889); try 0.0049")
