"""Frames survive the wire, and what is not a frame is noticed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.runtimes.framing import Frame, FramingError, read_frame, write_frame


def sent(*frames: Frame) -> io.BytesIO:
    stream = io.BytesIO()
    for frame in frames:
        write_frame(stream, frame)
    stream.seek(0)
    return stream


def test_what_is_written_is_read() -> None:
    arrays: dict[str, NDArray[Any]] = {
        "images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(2, 0, 1),
        "none": np.zeros((0, 5), np.float32),
        "one": np.full((), 0.1),
    }
    stream = sent(Frame({"verb": "infer", "word": "é"}, arrays), Frame({"verb": "memory"}))
    first, second, end = read_frame(stream), read_frame(stream), read_frame(stream)
    assert first is not None and second is not None and end is None
    assert first.header == {"verb": "infer", "word": "é"} and second.header == {"verb": "memory"}
    for name, array in arrays.items():
        found = first.arrays[name]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_an_object_array_does_not_travel() -> None:
    with pytest.raises(FramingError, match="array 'x' is object"):
        write_frame(io.BytesIO(), Frame({}, {"x": np.array([None])}))


def test_other_bytes_are_not_a_frame() -> None:
    with pytest.raises(FramingError, match="something else is writing"):
        read_frame(io.BytesIO(b"Hello, world, I am a warning"))


@pytest.mark.parametrize("kept", [3, 10, -1])
def test_half_a_frame_is_noticed(kept: int) -> None:
    whole = sent(Frame({"verb": "infer"}, {"x": np.ones(100)})).getvalue()
    with pytest.raises(FramingError, match="the stream ended after"):
        read_frame(io.BytesIO(whole[:kept]))


def test_a_frame_cannot_ask_for_python_objects() -> None:
    whole = sent(Frame({}, {"x": np.ones(1, np.int64)})).getvalue()
    with pytest.raises(FramingError, match="array type 'void0'"):
        read_frame(io.BytesIO(whole.replace(b'"int64"', b'"void0"')))
