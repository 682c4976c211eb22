"""YAML as edgecnn reads and writes it: plain values only, never objects, and 1e-3 is a number.

YAML 1.1 wants 1.0e-3 and takes 1e-3 for a text, which nobody who writes a learning rate expects.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Safe: what it reads can name no class and run no code."""


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that ``_Loader`` would take for numbers."""


for _end in (_Loader, _Dumper):
    _end.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def load(text: str) -> Any:
    """The value of a YAML text. Raises ``yaml.YAMLError`` where it is none."""
    return yaml.load(text, _Loader)


def dump(value: Any) -> str:
    """A plain value as YAML, keys in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120)
