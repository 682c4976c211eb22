"""Shards that are never decoded as a whole: trained on, compressed and evaluated from the command line."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import PRUNE, TRAIN, Outcome

from edgecnn.bundle import open_bundle
from edgecnn.data.source import open_data
from edgecnn.pipeline import context, streaming
from edgecnn.spec import Split

Cli = Callable[..., Outcome]
STREAM = (*TRAIN, "--set", "stream=true", "--set", "shuffle=256")
SHARD = 300
TORN = 700  # of the training pictures, the one that is broken


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits in tar files."""
    root = tmp_path_factory.mktemp("digits")
    digits = open_data("digits")
    for split in Split:
        items = sorted(digits.splits[split], key=lambda item: item.id[::-1])  # not class by class
        for first in range(0, len(items), SHARD):
            with tarfile.open(root / f"{split}-{first // SHARD:03d}.tar", "w") as tar:
                for number, item in enumerate(items[first : first + SHARD], first):
                    content = io.BytesIO()
                    digits.read(item).save(content, "PNG")
                    torn = split is Split.TRAIN and number == TORN
                    members = {"png": content.getvalue()[: 60 if torn else None], "cls": str(item.label).encode()}
                    for kind, written in members.items():
                        entry = tarfile.TarInfo(f"{number:05d}.{kind}")
                        entry.size = len(written)
                        tar.addfile(entry, io.BytesIO(written))
    return root


@pytest.fixture(scope="module")
def streamed(cli: Cli, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    run = tmp_path_factory.mktemp("runs") / "streamed"
    outcome = cli("train", shards, "-o", run, *STREAM)
    assert outcome.code == 0, outcome.err
    return run, outcome


def test_a_streamed_training_learns_and_says_what_it_left_out(streamed: tuple[Path, Outcome]) -> None:
    run, outcome = streamed
    made = open_bundle(run / "float").manifest
    assert made.figures["test_top1"] > 0.9 and made.figures["skipped_images"] == 1
    assert made.data["streamed"] is True and made.config["stream"] is True and made.config["shuffle"] == 256
    assert "256 of 1797 pictures were decoded to check them" in outcome.err
    assert "1 training pictures are broken, others stand in for them: train-002/00700" in outcome.err


def test_a_streamed_bundle_is_compressed_and_evaluated_without_decoding_all(
    cli: Cli, streamed: tuple[Path, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = streamed
    context._opened.cache_clear()  # as in a new process
    outcome = cli("compress", run / "float", *PRUNE, "--quantize", "int8")  # opening all of it would fail: it is torn
    assert outcome.code == 0, outcome.err
    for name in ("pruned", "pruned-int8"):
        made = open_bundle(run / name).manifest
        assert made.figures["test_top1"] > 0.85 and made.data["streamed"] is True
    outcome = cli("evaluate", run / "pruned-int8")
    assert outcome.code == 0, outcome.err


def test_a_set_that_no_cache_holds_is_streamed_by_itself(
    cli: Cli, streamed: tuple[Path, Outcome], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = streamed
    monkeypatch.setattr(streaming, "DISK_LIMIT_BYTES", 1 << 20)
    outcome = cli("train", shards, "-o", run, *TRAIN, "--set", "shuffle=256", "--dry-run")
    assert "stream: null" in outcome.out
    outcome = cli("train", shards, "-o", run, *TRAIN, "--set", "shuffle=256")
    assert outcome.code == 0, outcome.err
    assert "the decoded pictures would take" in outcome.err and "they are streamed (stream: true)" in outcome.err
    assert "float is there already: skipped" in outcome.err  # the same training as the one that was told to


def test_what_needs_all_pictures_at_once_is_refused_before_any_is_opened(cli: Cli, tmp_path: Path) -> None:
    words = ("--set", "stream=true", "--pretrained", tmp_path / "weights", "--transfer", "two_stage")
    outcome = cli("train", tmp_path / "nowhere-{000..100}.tar", "-o", tmp_path / "run", *TRAIN, *words)
    assert outcome.code == 2
    assert "keeps features of all training pictures, which cannot be streamed; stream is true" in outcome.err
    assert "transfer: full" in outcome.err


def test_a_learning_rate_is_found_on_a_stream(cli: Cli, shards: Path, tmp_path: Path) -> None:
    outcome = cli("find-lr", shards, "-o", tmp_path / "rates", *STREAM)
    assert outcome.code == 0, outcome.err
    assert "highest learning rate" in outcome.out
