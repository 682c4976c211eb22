"""``edgecnn diagnose`` on a bundle of the digits: table, JSON and page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from driving import Outcome

from edgecnn import api
from edgecnn.pipeline.context import Context

Cli = Callable[..., Outcome]


def test_the_worst_layers_are_told_with_their_reasons(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    told = cli("diagnose", finished_run / "pruned-int8", "--images", "32", "--worst", "3", "-o", page)
    assert told.code == 0, told.err
    assert "on 32 validation pictures" in told.out and "Reason" in told.out
    assert told.out.splitlines()[-1] == str(page)
    assert "sensitivity 1/" in told.err  # of progress
    text = page.read_text()
    assert "The worst layers, and why" in text and "<svg" in text and "http" not in text.replace("http-equiv", "")


def test_json_has_every_layer(cli: Cli, finished_run: Path) -> None:
    told = cli("diagnose", finished_run / "pruned-int8", "--images", "16", "--json")
    found = json.loads(told.out)
    assert told.code == 0 and found["images"] == 16
    assert sorted(layer["name"] for layer in found["layers"]) == sorted(found["order"])
    assert found["layers"][0]["only"]["db"] <= found["layers"][1]["only"]["db"]
    assert all(layer["reasons"][0]["repair"] for layer in found["layers"])


def test_the_python_function_does_the_same(finished_run: Path) -> None:
    silent = Context(finished_run, "digits", tell=lambda line: None)
    found = api.diagnose(finished_run / "pruned-int8", images=8, context=silent)
    assert found.found.images == 8 and found.headline.endswith("on 8 validation pictures")
