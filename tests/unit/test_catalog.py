from __future__ import annotations

import sys

import pytest

from edgecnn import catalog
from edgecnn.errors import MissingPackageError, ModelError, UsageError


@pytest.mark.parametrize("table", [catalog.MODELS, catalog.RUNTIMES], ids=["models", "runtimes"])
def test_every_row_names_something_that_can_be_called(table: dict[str, catalog.ModelRow | catalog.RuntimeRow]) -> None:
    assert all(callable(catalog.load(row.target)) for row in table.values())


def test_every_format_renders_and_traces() -> None:
    for format, row in catalog.FORMATS.items():
        assert callable(catalog.load(row.target))
        assert not row.trace or callable(catalog.load(row.trace))
        assert row.extension == f".{format}"


def test_every_format_has_a_runtime_and_every_extra_exists() -> None:
    read = {format for row in catalog.RUNTIMES.values() if row.package for format in row.formats}
    assert read >= set(catalog.FORMATS)


def test_unknown_names_get_the_closest_and_all() -> None:
    with pytest.raises(ModelError) as caught:
        catalog.model_row("mobilenetv2")
    assert "did you mean 'mobilenet_v2'?" in caught.value.hint
    assert all(name in caught.value.hint for name in catalog.MODELS)
    with pytest.raises(UsageError, match="unknown format 'xyz'"):
        catalog.row(catalog.FORMATS, "xyz", "format")


def test_any_foreign_name_has_a_row() -> None:
    assert "resnet18" in catalog.model_row("timm:resnet18").paper
    pytest.importorskip("torchvision")
    assert "1409.1556" in catalog.model_row("torchvision:vgg16").paper


def test_a_missing_package_is_told_with_the_extra() -> None:
    assert catalog.require("json", extra="x").__name__ == "json"
    with pytest.raises(MissingPackageError) as caught:
        catalog.require("no_such_package_at_all.part", extra="plots")
    assert caught.value.message == "no_such_package_at_all is not installed"
    assert "edgecnn[plots]" in caught.value.hint


def test_an_import_that_breaks_inside_a_package_is_not_hidden(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken_package.py").write_text("import something_it_needs_that_is_gone\n")
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(ModuleNotFoundError, match="something_it_needs"):
        catalog.require("broken_package", extra="x")
    assert "broken_package" not in sys.modules


def test_engines_say_how_to_get_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = catalog.engines()
    assert found["onnxruntime"] == "not installed: pip install 'edgecnn[onnxruntime]'"
    assert found["null"] == "ready"
