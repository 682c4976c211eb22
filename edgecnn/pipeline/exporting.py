"""The export step: a bundle -> files for other runtimes, each behind the parity gate."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgecnn import catalog, schemes
from edgecnn.bundle import Bundle, dump_json, sha256, write_atomically
from edgecnn.errors import GateError, UsageError
from edgecnn.export.meta import meta_of
from edgecnn.pipeline.context import Context
from edgecnn.pipeline.loading import is_quantized, preprocess_of, refused, scheme_of
from edgecnn.pipeline.verifying import Subject, export_row, subject_of
from edgecnn.report.rows import ParityRow
from edgecnn.spec import IO, Format, Precision, Status


@dataclass(frozen=True)
class Exported:
    """A rendered file and how it compared with the graph; ``parity`` is None when it was not asked for."""

    file: Path
    format: Format
    parity: ParityRow | None
    skipped: bool


def export(
    context: Context,
    bundle: Bundle,
    formats: tuple[Format, ...] | None = None,
    *,
    io: IO = IO.PICTURE,
    verify: bool = True,
    force: bool = False,
) -> list[Exported]:
    """Render a bundle into each format, by default into all that its precision and ``io`` have a form in.

    A file appears under ``exports/`` only after it passed the gate, or with ``force``. Raises ``UsageError`` for a
    format that cannot have the bundle's precision or ``io``, ``GateError`` naming the stage and the first layer that
    diverges.
    """
    formats = _with_io(bundle, formats, io)
    if formats is None:
        formats = _possible(context, bundle)
    elif is_quantized(bundle):
        for format in formats:
            scheme, group = scheme_of(bundle)
            schemes.check(scheme, format, group, who=str(bundle.path))
    results: list[Exported] = []
    subject: Subject | None = None
    for format in formats:
        row = catalog.row(catalog.FORMATS, format, "format")
        target = bundle.exports / f"model{row.extension}"
        if not force and is_current(bundle, target, verify, io):
            results.append(Exported(target, format, None, skipped=True))
            continue
        subject = subject or subject_of(context, bundle)
        results.append(_render(subject, format, target, io, verify=verify, force=force))
        context.tell(f"{target}: {target.stat().st_size:,} bytes{_says(results[-1].parity)}")
    return results


def _possible(context: Context, bundle: Bundle) -> tuple[Format, ...]:
    """The formats that can have the bundle's precision; of the others the reason is told."""
    reasons = {format: refused(bundle, format) for format in catalog.DEFAULT_FORMATS}
    for format, reason in reasons.items():
        if reason:
            context.tell(f"{bundle.path}: no {format} file: {reason}")
    return tuple(format for format, reason in reasons.items() if not reason)


def _with_io(bundle: Bundle, formats: tuple[Format, ...] | None, io: IO) -> tuple[Format, ...] | None:
    """The formats that were asked for, or where none were those that have this ``io``. Raises ``UsageError``."""
    if io is IO.PICTURE:
        return formats
    if bundle.manifest.precision != Precision.INT8:
        raise UsageError(
            f"{bundle.path} is {bundle.manifest.precision}: its files cannot have {io} pictures and logits",
            hint="only int8 bundles are integers throughout: name one (--integer-only keeps it so), or leave --io out",
        )
    able = tuple(format for format, row in catalog.FORMATS.items() if io in row.ios)
    if refused := [format for format in formats or () if format not in able]:
        raise UsageError(
            f"{refused[0]} files take uint8 pictures and give float32 logits, and {io} was asked for",
            hint=f"--io {io} is for: {', '.join(able)}",
        )
    return formats or able


def _render(subject: Subject, format: Format, target: Path, io: IO, *, verify: bool, force: bool) -> Exported:
    bundle = subject.bundle
    target.parent.mkdir(exist_ok=True)
    draft = target.with_name(f".draft-{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        meta = meta_of(bundle.manifest.labels, preprocess_of(bundle), bundle.task)
        options = {} if io is IO.PICTURE else {"io": io}
        catalog.load(catalog.FORMATS[format].target)(subject.graph, draft, meta=meta, **options)
        found = export_row(subject, format, draft) if verify else None
        if found is not None and not force:
            _gate(found)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    write_atomically(_note(target), dump_json(_facts(bundle, format, target, io, found)))
    return Exported(target, format, found, skipped=False)


def _gate(found: ParityRow) -> None:
    """Raise ``GateError`` for a file that failed its comparison, or could not be compared."""
    if found.status is Status.UNAVAILABLE:
        raise GateError(
            f"{found.bundle}: {found.stage} cannot be compared with the bundle: {found.note}",
            hint="the file was not kept; --no-verify writes it without the comparison",
        )
    if found.status is not Status.OK:
        raise GateError(
            f"{found.bundle}: {found.stage} does not compute what the bundle does: {found.note}",
            hint="the file was not kept; --force keeps it all the same",
        )


def is_current(bundle: Bundle, file: Path, verified: bool, io: IO) -> bool:
    """Whether a file was rendered so from this very bundle, is unchanged, and passed the gate if that is asked."""
    if not file.is_file() or not _note(file).is_file():
        return False
    try:
        facts = json.loads(_note(file).read_text())
    except ValueError:
        return False
    same = facts["fingerprint"] == bundle.manifest.fingerprint and facts["sha256"] == sha256(file)
    same = same and io == facts.get("io", IO.PICTURE)  # of a file from before there was a choice: pictures
    passed = facts["parity"] is not None and facts["parity"]["status"] == Status.OK
    return same and (passed or not verified)


def _note(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def _facts(bundle: Bundle, format: Format, file: Path, io: IO, found: ParityRow | None) -> dict[str, Any]:
    return {
        "file": file.name,
        "format": format.value,
        "io": io.value,
        "precision": bundle.manifest.precision,
        "fingerprint": bundle.manifest.fingerprint,
        "sha256": sha256(file),
        "size_bytes": file.stat().st_size,
        "created": datetime.now(UTC).isoformat(),
        "parity": None if found is None else found.to_dict(),
    }


def _says(found: ParityRow | None) -> str:
    if found is None or found.agreement is None:
        return ""
    what = "top-1 agreement" if found.equal_sets is None else "agreement of labels"
    return f", {what} {100 * found.agreement:.1f} % on {found.images} images"
