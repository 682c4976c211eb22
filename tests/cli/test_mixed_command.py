"""Mixed precision and 16-bit activations from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from driving import Outcome, digest
from safetensors.numpy import load_file, save_file

from edgecnn.bundle import open_bundle
from edgecnn.pipeline.loading import load_graph

Cli = Callable[..., Outcome]
QUICK = ("--no-repair", "--calibration-images", 64, "--set", "steps.0.threads=1")
WRITER, READER = "blocks.0.project", "blocks.1.expand"


def blow_up(bundle: Path) -> None:
    """Make a channel of a tensor a thousand times as large, and its reader's weights as much smaller."""
    path = bundle / "weights.safetensors"
    tensors = {key: np.array(value) for key, value in load_file(path).items()}
    for part in ("weight", "bias"):
        tensors[f"{WRITER}.bn.{part}"][0] *= 1000
    tensors[f"{READER}.conv.weight"][:, 0] /= 1000
    save_file(tensors, path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][path.name] = digest(path)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_what_int8_breaks_stays_float_in_every_file(cli: Cli, run: Path) -> None:
    blow_up(run / "float")
    outcome = cli("compress", run / "float", "--scheme", "mixed", *QUICK, "--max-drop", 1)
    assert outcome.code == 0, outcome.err
    line = next(line for line in outcome.err.splitlines() if "kept in float" in line)
    bundle = open_bundle(run / "mixed")
    assert bundle.manifest.precision == "mixed"
    assert {f"{WRITER}.conv", f"{READER}.conv"} <= set(line.replace(",", "").split())
    plain, mixed = bundle.manifest.figures["ladder"]
    assert mixed["kl"] < plain["kl"] / 5
    exported = cli("export", run / "mixed")
    assert exported.code == 0, exported.err
    assert exported.err.count("top-1 agreement") >= 2
    assert cli("verify", run / "mixed").code == 0


def test_16_bit_activations_in_every_file(cli: Cli, run: Path) -> None:
    outcome = cli("compress", run / "float", "--scheme", "16x8", *QUICK)
    assert outcome.code == 0, outcome.err
    assert {q.bits for q in load_graph(open_bundle(run / "16x8")).qparams.values()} == {8, 16}
    exported = cli("export", run / "16x8")
    assert exported.code == 0, exported.err
    assert cli("verify", run / "16x8").code == 0


def test_training_is_for_int8(cli: Cli, run: Path) -> None:
    refused = cli("compress", run / "float", "--scheme", "mixed", "--qat")
    assert refused.code == 2 and "leave qat out" in refused.err
