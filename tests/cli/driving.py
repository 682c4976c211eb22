"""How tests drive the command line, and the flags of a network that is small enough to be trained in seconds."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import edgecnn

SHAPE = ("stem_stride=2", "head=64", "stages=[[1,16,1,1],[4,24,2,1],[4,32,2,2]]", "ema=null", "label_smoothing=0")
TRAIN = (
    *("--image-size", "16", "--epochs", "3", "--batch-size", "32", "--lr", "0.1", "--no-flip"),
    *("--precision", "fp32", "--threads", "1"),
    *(word for setting in SHAPE for word in ("--set", setting)),
)
PRUNE = ("--prune", "0.3", "--round-to", "4", "--recovery-epochs", "2", "--set", "steps.0.threads=1")


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(edgecnn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
"""Of a process that is started from a test: this checkout, one thread."""


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit code and what it printed."""

    code: int
    out: str
    err: str


def edgecnn_cli(*arguments: object) -> Outcome:
    """Run the command line in this process, as ``edgecnn ARGUMENTS`` would."""
    from edgecnn import cli

    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["edgecnn", *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return Outcome(code, out.getvalue(), err.getvalue())


def start_cli(*arguments: object) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, with one thread."""
    command = [sys.executable, "-m", "edgecnn", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
