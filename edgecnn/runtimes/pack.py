"""The worker as one file, for machines that have Python, numpy and an engine but not edgecnn."""

from __future__ import annotations

import zipfile
from pathlib import Path

PARTS = ("spec.py", "errors.py", "catalog.py")
RUNTIME_PARTS = ("__init__.py", "worker.py", "framing.py", "ports.py", "timing.py", "exact_int8.py")


def write_worker(path: Path) -> Path:
    """Write ``worker.pyz`` to ``path``; run it with ``python worker.pyz --runtime litert``.

    It holds the worker, every ``engine*.py`` and the vocabulary they use, all of it pure Python.
    """
    package = Path(__file__).resolve().parents[1]
    here = package / "runtimes"
    sources = [package / part for part in PARTS] + [here / part for part in RUNTIME_PARTS]
    sources += sorted(here.glob("engine*.py"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("edgecnn/__init__.py", "")
        archive.writestr("__main__.py", "from edgecnn.runtimes.worker import main\n\nmain()\n")
        for source in sources:
            archive.write(source, Path("edgecnn") / source.relative_to(package))
    return path
