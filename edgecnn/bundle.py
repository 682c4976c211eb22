"""The one artifact: a folder that exists whole or not at all.

    manifest.json        what it is, where it came from, what was asked and what was achieved, sha256 of every file
    weights.safetensors  or graph.json + graph.safetensors once quantized
    channel_plan.json    the shapes of a pruned net
    golden.npz           a few real inputs and the logits they give
    recipe.yaml          the step as it was resolved
    exports/             files rendered from the bundle, each with a .json beside it
    measurements/        one JSON per measurement, only ever added to

A bundle is written under a temporary name and renamed. A process that is killed can leave ``.NAME.draft-PID-...``,
which the next one to write that bundle removes, and ``.NAME.work`` with the checkpoints of a training, which the next
one goes on from. Everything the manifest lists is immutable and hashed; ``exports`` and ``measurements`` are the two
places that grow afterwards, file by file, each written whole. Nothing is pickled.

The fingerprint is the hash of (parent fingerprint, step, config): the same fingerprint on disk means the step is done.
A *run* is a folder of bundles; the name of a bundle in it says the stage: ``float``, ``pruned``, ``int8``,
``pruned-int8``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from edgecnn import disk
from edgecnn.errors import BundleError
from edgecnn.spec import Precision, Task
from edgecnn.versions import versions

SCHEMA = 1
MANIFEST = "manifest.json"
GROWING = ("exports", "measurements")


class Manifest(BaseModel):
    """The contents of ``manifest.json``; unknown or missing keys are an error, not a warning."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_number: int
    step: str
    fingerprint: str
    parent: str | None
    parent_path: str | None
    precision: str
    builder: dict[str, Any]
    labels: list[str]
    task: str = Task.MULTI_CLASS.value
    preprocess: dict[str, Any]
    data: dict[str, Any]
    config: dict[str, Any]
    figures: dict[str, Any]
    versions: dict[str, str]
    seed: int
    created: str
    files: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The stage, which is the folder's name."""
        return self.path.name

    @property
    def title(self) -> str:
        """What people call it in a table: run/stage."""
        return f"{self.path.resolve().parent.name}/{self.path.name}"

    @property
    def task(self) -> Task:
        """What its logits mean; bundles of before there was a choice have classes. Raises ``BundleError``."""
        try:
            return Task(self.manifest.task)
        except ValueError as error:
            raise BundleError(
                f"{self.path} has the task {self.manifest.task!r}, which this edgecnn does not know",
                hint=f"known: {', '.join(Task)}; install the edgecnn that wrote it",
            ) from error

    @property
    def exports(self) -> Path:
        """Where rendered files go."""
        return self.path / "exports"

    def file(self, name: str) -> Path:
        """A file that the manifest lists. Raises ``BundleError``."""
        if name not in self.manifest.files:
            raise BundleError(
                f"{self.path} has no {name}", hint=f"a {self.manifest.step} bundle holds {sorted(self.manifest.files)}"
            )
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether the manifest lists the file."""
        return name in self.manifest.files

    def read_json(self, name: str) -> Any:
        """A JSON file of the bundle."""
        return json.loads(self.file(name).read_text())

    def check_hashes(self) -> None:
        """Compare every listed file with its sha256. Raises ``BundleError`` naming all that differ."""
        wrong = [
            name
            for name, digest in self.manifest.files.items()
            if not (self.path / name).is_file() or sha256(self.path / name) != digest
        ]
        if wrong:
            raise BundleError(
                f"{self.path} is damaged: {', '.join(wrong)} changed or missing since it was written",
                hint="make the bundle again from its parent (delete the folder, run the same command)",
            )

    def parent(self) -> Bundle | None:
        """The bundle this one was made from, when it is still where it was."""
        if self.manifest.parent_path is None:
            return None
        where = (self.path / self.manifest.parent_path).resolve()
        if not (where / MANIFEST).is_file():
            return None
        found = open_bundle(where)
        return found if found.manifest.fingerprint == self.manifest.parent else None


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(parent: str | None, step: str, config: Mapping[str, Any]) -> str:
    """Identity of a step's result: what it starts from, what it does, with which settings."""
    text = json.dumps({"parent": parent, "step": step, "config": config}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all. Raises ``WriteError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk.replacing(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def dump_json(value: Any) -> str:
    """JSON as bundles write it: indented, keys in the order given, no NaN."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def open_bundle(path: Path) -> Bundle:
    """Open a bundle (or the ``float`` stage of a run folder) and check that its files are there.

    Raises ``BundleError`` when the folder is not a bundle, was written by another schema, or lacks a file.
    """
    if not (path / MANIFEST).is_file() and (path / "float" / MANIFEST).is_file():
        path = path / "float"
    if not (path / MANIFEST).is_file():
        found = "is not a bundle: it has no " + MANIFEST if path.exists() else "is not there"
        raise BundleError(f"{path} {found}", hint="a bundle is made by: edgecnn train DATA -o RUN")
    path = path if path.name else path.resolve()  # "." has no name and no parent
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path / MANIFEST} cannot be read: {_first_line(error)}",
            hint="it was edited or written by another version of edgecnn: make the bundle again",
        ) from error
    if manifest.schema_number != SCHEMA:
        raise BundleError(
            f"{path} has schema {manifest.schema_number}, this edgecnn reads {SCHEMA}",
            hint="install the edgecnn that wrote it",
        )
    missing = [name for name in manifest.files if not (path / name).is_file()]
    if missing:
        raise BundleError(f"{path} lacks {', '.join(missing)}", hint="make the bundle again from its parent")
    return Bundle(path, manifest)


def _first_line(error: ValidationError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not text"
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def find_bundles(path: Path) -> list[Bundle]:
    """The bundle at ``path``, or all bundles of a run folder, parents before children. Raises ``BundleError``."""
    if (path / MANIFEST).is_file():
        return [open_bundle(path)]
    folders = [each.parent for each in sorted(path.glob(f"*/{MANIFEST}")) if not each.parent.name.startswith(".")]
    if not folders:
        return [open_bundle(path)]  # raises, with the reason
    return sorted(map(open_bundle, folders), key=lambda bundle: bundle.manifest.created)


def stages(run: Path) -> dict[str, str]:
    """The bundles that are in a run's folder: name -> "float" or a scheme, as ``Recipe.resolved`` wants it."""
    found = find_bundles(run) if any(run.glob(f"*/{MANIFEST}")) else []
    kinds = {bundle.name: bundle.manifest.precision for bundle in found}
    return {name: "float" if kind == Precision.FP32 else kind for name, kind in kinds.items()}


def existing(path: Path, wanted: str) -> Bundle | None:
    """The bundle at ``path`` if its fingerprint is the wanted one; None when nothing is there.

    Raises ``BundleError`` when something else is there: it is never overwritten.
    """
    if not path.exists():
        return None
    if not path.is_dir():
        raise BundleError(f"{path} is there and is no folder", hint="choose another place with -o")
    if (path / MANIFEST).is_file():
        bundle = open_bundle(path)
        if bundle.manifest.fingerprint == wanted:
            return bundle
        raise BundleError(
            f"{path} already holds a {bundle.manifest.step} bundle made with other settings",
            hint="write into another run, or remove that folder (and what was made from it)",
        )
    if any(path.iterdir()):
        raise BundleError(f"{path} is there and is no bundle", hint="choose another place with -o")
    return None


@contextmanager
def create(path: Path, **facts: Any) -> Iterator[Path]:
    """Write a bundle: yields a draft folder to fill; on leaving it is hashed, described and renamed to ``path``.

    ``facts`` are the manifest's fields that are not computed here; ``figures`` may be a dict that is still being filled
    while the draft is open. On an exception the draft is removed and nothing appears at ``path``. Raises
    ``WriteError`` when the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.draft-*"):
        _remove_if_abandoned(leftover)
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with disk.told(path, draft):
            draft.mkdir()
            yield draft
            files = {
                str(file.relative_to(draft).as_posix()): sha256(file)
                for file in sorted(draft.rglob("*"))
                if file.is_file() and file.relative_to(draft).parts[0] not in GROWING
            }
            manifest = Manifest(
                schema_number=SCHEMA, files=files, versions=versions(), created=datetime.now(UTC).isoformat(), **facts
            )
            (draft / MANIFEST).write_text(dump_json(manifest.model_dump()))
            if path.exists():
                path.rmdir()  # only an empty folder may be in the way; anything else raises
            os.replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_if_abandoned(draft: Path) -> None:
    """Remove the draft of a process that was killed; its number is in the name."""
    number = draft.name.rpartition(".draft-")[2].partition("-")[0]
    if number.isdigit() and os.name == "posix" and not _runs(int(number)):
        shutil.rmtree(draft, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
