"""The machine's description holds what a figure needs beside it."""

from __future__ import annotations

import json
from importlib import metadata

from edgecnn.measure.machine import describe, state


def test_the_description_is_complete_and_goes_into_json() -> None:
    machine = describe()
    assert machine.cpu and machine.cores >= 1 and machine.memory_bytes > 2**28
    assert machine.versions["numpy"] == metadata.version("numpy")
    assert json.loads(json.dumps(machine.as_dict()))["architecture"] == machine.architecture


def test_the_state_goes_into_json() -> None:
    found = json.loads(json.dumps(state().as_dict()))
    assert set(found) == {"load_1min", "clock_mhz", "governor", "temperature_c", "affinity"}
    assert found["load_1min"] is None or found["load_1min"] >= 0
