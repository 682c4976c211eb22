"""A pipeline of Albumentations as plain data: every way to write one down, and the one form that edgecnn keeps.

What can be given:

* a short list, ``[HorizontalFlip, {Affine: {rotate: [-15, 15], p: 0.7}}, {OneOf: [Blur, {GaussNoise: {p: 1.0}}]}]``;
* what Albumentations itself writes, ``A.to_dict(pipeline)`` or the file of ``A.save(pipeline, path,
  data_format="yaml")`` (or "json");
* the path of a YAML or JSON file with one of the two.

What is kept is the list, in full: ``[{name: arguments}, ...]``, where the argument ``transforms`` of a composition is
such a list again. It is the pipeline's identity, wherever it came from, and travels in the bundle's recipe. Whether the
transforms exist and take these arguments is for the library to say (``train.augment_albumentations``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from edgecnn import yaml_text
from edgecnn.errors import UsageError

Pipeline = list[dict[str, Any]]

CLASS, NESTED = "__class_fullname__", "transforms"
HINT = "a list of transforms, e.g. [HorizontalFlip, {Rotate: {limit: 15}}], or the file that A.save wrote"


def described(given: Any) -> Pipeline:
    """Any of the ways to write a pipeline down, as the list of ``{name: arguments}``. Raises ``UsageError``.

    What is such a list already comes back as it is.
    """
    if isinstance(given, str | Path):
        return described(_read(Path(given)))
    if isinstance(given, Mapping) and isinstance(given.get("transform"), Mapping):
        given = given["transform"]  # beside it stands the version of Albumentations that wrote it
    items = given if isinstance(given, list | tuple) else [given]
    if not items:
        raise _wrong("a pipeline without transforms")
    return [_node(item) for item in items]


def _node(item: Any) -> dict[str, Any]:
    """One transform as ``{name: arguments}``."""
    if isinstance(item, str):
        return {item: {}}
    if isinstance(item, Mapping) and isinstance(item.get(CLASS), str):
        # Its own classes stand there by their last name; the full one of a file from elsewhere cannot be found here.
        item = {item[CLASS]: {key: value for key, value in item.items() if key != CLASS}}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise _wrong(repr(item))
    ((name, given),) = item.items()
    arguments = {NESTED: given} if isinstance(given, list | tuple) else {} if given is None else given
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise _wrong(repr(item))
    nested = arguments.get(NESTED)
    inside = {NESTED: [_node(each) for each in nested]} if isinstance(nested, list | tuple) else {}
    return {name: {**arguments, **inside}}


def _read(path: Path) -> Any:
    try:
        return yaml_text.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"albumentations: there is no file {path}", hint=HINT) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"albumentations: {path} cannot be read: {error}", hint=HINT) from error


def _wrong(found: str) -> UsageError:
    return UsageError(f"albumentations: {found} is no pipeline of transforms", hint=HINT)
