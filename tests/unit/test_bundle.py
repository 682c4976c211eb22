from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgecnn import bundle as bundles
from edgecnn.errors import BundleError, WriteError


def facts(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "step": "train", "fingerprint": "f" * 32, "parent": None, "parent_path": None, "precision": "fp32",
        "builder": {"name": "resnet8"}, "labels": ["a", "b"], "preprocess": {}, "data": {}, "config": {},
        "figures": {}, "seed": 0,
    }  # fmt: skip
    return {**base, **changes}


def write(path: Path, content: bytes = b"weights", **changes: Any) -> bundles.Bundle:
    with bundles.create(path, **facts(**changes)) as draft:
        (draft / "weights.bin").write_bytes(content)
    return bundles.open_bundle(path)


def test_what_is_written_is_read_back_with_hashes(tmp_path: Path) -> None:
    bundle = write(tmp_path / "run" / "float", figures={"top1": 0.5})
    assert bundle.manifest.figures == {"top1": 0.5}
    assert bundle.manifest.files == {"weights.bin": bundles.sha256(bundle.path / "weights.bin")}
    assert (bundle.name, bundle.title) == ("float", "run/float")
    bundle.check_hashes()


def test_figures_may_be_filled_while_the_draft_is_open(tmp_path: Path) -> None:
    figures: dict[str, Any] = {}
    with bundles.create(tmp_path / "b", **facts(figures=figures)):
        figures["late"] = 1
    assert bundles.open_bundle(tmp_path / "b").manifest.figures == {"late": 1}


def test_an_error_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"), bundles.create(tmp_path / "b", **facts()) as draft:
        (draft / "half").write_text("x")
        raise RuntimeError("boom")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="no limit on the size of files")
def test_a_system_that_really_refuses_to_write_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    import resource

    bundle = write(tmp_path / "run" / "float")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(WriteError, match=r"run/pruned could not be written: File too large; .* MB are free") as one:
            write(tmp_path / "run" / "pruned", b"x" * 100_000)
        with pytest.raises(WriteError, match=r"model\.onnx could not be written: File too large"):
            bundles.write_atomically(bundle.exports / "model.onnx", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "run the same command again" in one.value.hint
    assert sorted(str(each.relative_to(tmp_path / "run")) for each in (tmp_path / "run").rglob("*")) == [
        "float", "float/exports", "float/manifest.json", "float/weights.bin",
    ]  # fmt: skip


def test_what_cannot_be_read_while_a_bundle_is_written_is_not_called_unwritable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"photo\.jpg"), bundles.create(tmp_path / "b", **facts()):
        (tmp_path / "photo.jpg").read_bytes()
    with pytest.raises(WriteError, match="b could not be written: Is a directory"):  # noqa: SIM117
        with bundles.create(tmp_path / "b", **facts()) as draft:
            draft.write_bytes(b"")
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_is_not_a_number_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "b", figures={"top1": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_exports_and_measurements_are_not_hashed(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b")
    for folder in bundles.GROWING:
        bundles.write_atomically(bundle.path / folder / "new.json", "{}")
    bundles.open_bundle(bundle.path).check_hashes()


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    bundle = write(tmp_path / "b")
    if damage == "change":
        (bundle.path / "weights.bin").write_bytes(b"weightz")
    else:
        (bundle.path / "weights.bin").unlink()
        with pytest.raises(BundleError, match=r"lacks weights\.bin"):
            bundles.open_bundle(bundle.path)
    with pytest.raises(BundleError, match=r"damaged: weights\.bin"):
        bundle.check_hashes()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [("schema_number", 2, "schema 2, this edgecnn reads 1"), ("seed", "0", "seed"), ("surprise", 1, "surprise")],
)
def test_another_manifest_is_refused(tmp_path: Path, key: str, value: Any, told: str) -> None:
    manifest = write(tmp_path / "b").path / bundles.MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), key: value}))
    with pytest.raises(BundleError, match=told):
        bundles.open_bundle(tmp_path / "b")


def test_a_file_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no graph\.json") as caught:
        write(tmp_path / "b").file("graph.json")
    assert "weights.bin" in caught.value.hint


def test_parent_is_found_by_place_and_fingerprint(tmp_path: Path) -> None:
    first = write(tmp_path / "float", fingerprint="one")
    child = write(tmp_path / "pruned", fingerprint="two", parent="one", parent_path="../float")
    found = child.parent()
    assert found is not None
    assert found.path == first.path
    stranger = write(tmp_path / "int8", parent="another", parent_path="../float")
    lost = write(tmp_path / "lost", parent="one", parent_path="../gone")
    assert (first.parent(), stranger.parent(), lost.parent()) == (None, None, None)


def test_find_bundles_gives_parents_first_and_skips_drafts(tmp_path: Path) -> None:
    for name in ("zebra", "ant"):
        write(tmp_path / name, precision="int8" if name == "ant" else "fp32")
    write(tmp_path / ".ant.draft-1-x")
    assert [bundle.name for bundle in bundles.find_bundles(tmp_path)] == ["zebra", "ant"]
    assert [bundle.name for bundle in bundles.find_bundles(tmp_path / "ant")] == ["ant"]
    assert bundles.stages(tmp_path) == {"zebra": "float", "ant": "int8"}
    assert bundles.stages(tmp_path / "nothing") == {}


def test_a_run_stands_for_its_float_stage_and_a_dot_for_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "run" / "float")
    assert bundles.open_bundle(tmp_path / "run").name == "float"
    monkeypatch.chdir(tmp_path / "run" / "float")
    assert bundles.open_bundle(Path()).name == "float"


def test_existing_tells_the_same_from_another(tmp_path: Path) -> None:
    assert bundles.existing(tmp_path / "b", "f" * 32) is None
    (tmp_path / "b").mkdir()
    assert bundles.existing(tmp_path / "b", "f" * 32) is None
    write(tmp_path / "b")
    assert bundles.existing(tmp_path / "b", "f" * 32) is not None
    with pytest.raises(BundleError, match="other settings"):
        bundles.existing(tmp_path / "b", "e" * 32)


def test_existing_never_takes_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.doc").touch()
    (tmp_path / "file").touch()
    for name in ("folder", "file"):
        with pytest.raises(BundleError, match="is there and is no"):
            bundles.existing(tmp_path / name, "f")


def test_fingerprint_depends_on_parent_step_and_config_but_not_on_order() -> None:
    one = bundles.fingerprint("p", "prune", {"a": 1, "b": 2})
    assert one == bundles.fingerprint("p", "prune", {"b": 2, "a": 1})
    others = [("q", "prune", {"a": 1, "b": 2}), ("p", "train", {"a": 1, "b": 2}), ("p", "prune", {"a": 1, "b": 3})]
    assert len({one, *(bundles.fingerprint(*each) for each in others)}) == 4


def test_write_atomically_replaces_and_leaves_no_draft(tmp_path: Path) -> None:
    for content in ("one", b"two"):
        bundles.write_atomically(tmp_path / "deep" / "file", content)
    assert [(each.name, each.read_text()) for each in (tmp_path / "deep").iterdir()] == [("file", "two")]
