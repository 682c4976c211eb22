"""The wheel holds what a user needs, and runs away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_with_its_recipes_and_nothing_beside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgecnn"}
    shipped = {Path(name).name for name in names if name.startswith("edgecnn/recipes/")}
    assert shipped == {path.name for path in (ROOT / "recipes").iterdir()}
    assert "edgecnn/py.typed" in names


def test_the_installed_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True, timeout=600)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    where = "import edgecnn; print(edgecnn.__file__)"
    for arguments, wanted in (
        (["-c", where], str(target)),
        (["-m", "edgecnn", "recipes"], "quickstart"),
        (["-m", "edgecnn", "--help"], "benchmark"),
        (["-m", "edgecnn", "run", "quickstart", "-o", "r", "--dry-run"], "kind: benchmark"),
    ):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
        assert done.returncode == 0, done.stderr
        assert wanted in done.stdout
