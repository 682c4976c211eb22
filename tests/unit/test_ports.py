"""Pictures become what a file's input takes, and outputs become logits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.errors import RuntimeFailure
from edgecnn.runtimes.exact_int8 import x86_without_vnni
from edgecnn.runtimes.ports import (
    InputPort,
    Normalization,
    OutputPort,
    choose_output,
    decode,
    encode,
    in_batches,
    input_port,
    only_input,
)

PICTURES = np.random.default_rng(0).integers(0, 256, size=(2, 4, 6, 3)).astype(np.uint8)
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("shape", "default", "layout", "height", "width"),
    [
        ((1, 3, 8, 9), "NHWC", "NCHW", 8, 9),
        ((None, 8, 9, 3), "NCHW", "NHWC", 8, 9),
        ((1, 3, 7, 3), "NCHW", "NCHW", 7, 3),
        ((1, 3, 7, 3), "NHWC", "NHWC", 3, 7),
        ((None, None, None, None), "NCHW", "NCHW", None, None),
        ((None, 3, None, None), "NHWC", "NCHW", None, None),
    ],
)
def test_the_layout_is_where_the_channels_are(
    shape: tuple[int | None, ...], default: str, layout: str, height: int | None, width: int | None
) -> None:
    port = input_port("x", shape, "float32", default_layout=default)
    assert (port.layout, port.batch, port.height, port.width) == (layout, shape[0], height, width)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 28, 28, 2), "uint8"), ((1, 10), "float32"), ((1, 8, 8, 3), "int64"), ((1, 4, 8, 8), "int8")],
)
def test_what_is_no_rgb_image_is_refused(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(RuntimeFailure, match=r"input 'x' is .*\n.*RGB image"):
        input_port("x", shape, dtype, default_layout="NHWC")


@pytest.mark.parametrize(
    ("shape", "layout", "channels"),
    [
        ((1, 28, 27, 1), "NHWC", 1),
        ((1, 1, 28, 27), "NCHW", 1),
        ((None, None, None, 1), "NHWC", 1),
        ((1, 1, 9, 3), "NHWC", 3),
    ],
)
def test_one_channel_is_grey(shape: tuple[int | None, ...], layout: str, channels: int) -> None:
    found = input_port("x", shape, "float32", default_layout="NCHW")
    assert (found.layout, found.channels) == (layout, channels)


def test_grey_pictures_go_where_grey_pictures_are_wanted() -> None:
    grey = InputPort("x", "float32", "NCHW", None, 4, 6, channels=1)
    for normalization in (Normalization((0.5,), (0.25,)), Normalization((0.5,) * 3, (0.25,) * 3)):
        found = encode(grey, PICTURES[..., :1], normalization)
        assert found.shape == (2, 1, 4, 6)
        np.testing.assert_allclose(found[:, 0], (PICTURES[..., 0] / 255 - 0.5) / 0.25, atol=1e-6)
    for pictures, wanted in ((PICTURES, grey), (PICTURES[..., :1], port("uint8"))):
        with pytest.raises(RuntimeFailure, match=r"pictures are uint8 .*\n.*wanted: uint8 \(N, H, W, "):
            encode(wanted, pictures, None)


def port(dtype: str, layout: str = "NHWC", scale: float = 0.0, zero_point: int = 0) -> InputPort:
    return InputPort("x", dtype, layout, None, 4, 6, scale, zero_point)


@pytest.mark.parametrize("normalization", [None, IMAGENET])
def test_uint8_inputs_take_the_pixels(normalization: Normalization | None) -> None:
    np.testing.assert_array_equal(encode(port("uint8"), PICTURES, normalization), PICTURES)
    planes = encode(port("uint8", "NCHW"), PICTURES, normalization)
    assert planes.flags.c_contiguous
    np.testing.assert_array_equal(planes, PICTURES.transpose(0, 3, 1, 2))


def test_int8_inputs_take_pixels_less_128() -> None:
    found = encode(port("int8", scale=0.1, zero_point=3), PICTURES, None)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found.astype(int), PICTURES.astype(int) - 128)


def test_int8_inputs_are_quantized_when_the_normalization_is_known() -> None:
    found = encode(port("int8", scale=0.02, zero_point=-14), PICTURES, IMAGENET)
    real = (PICTURES / 255 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    np.testing.assert_array_equal(found, np.clip(np.round(real / 0.02) - 14, -128, 127).astype(np.int8))


@pytest.mark.parametrize(("scale", "zero_point"), [(1.0, -128), (1 / 127, 0), (1 / 2550, -128)])
def test_a_normalization_that_does_not_fit_the_scale_is_another_networks(scale: float, zero_point: int) -> None:
    found = encode(port("int8", scale=scale, zero_point=zero_point), PICTURES, Normalization((0.0,) * 3, (1.0,) * 3))
    np.testing.assert_array_equal(found.astype(int), PICTURES.astype(int) - 128)


def test_a_uniform_normalization_gives_an_int8_input_its_pixels_less_128() -> None:
    mean, std = (128 / 255,) * 3, (0.5,) * 3
    found = encode(port("int8", scale=1 / (255 * 0.5), zero_point=0), PICTURES, Normalization(mean, std))
    np.testing.assert_array_equal(found.astype(int), PICTURES.astype(int) - 128)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float_inputs_are_normalized(dtype: str) -> None:
    found = encode(port(dtype, "NCHW"), PICTURES, IMAGENET)
    real = (PICTURES / 255 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    assert found.dtype == dtype and found.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(found, real.transpose(0, 3, 1, 2), rtol=1e-3 if dtype == "float16" else 1e-6)


def test_a_float_input_of_unknown_normalization_is_refused() -> None:
    with pytest.raises(RuntimeFailure, match="mean and std"):
        encode(port("float32"), PICTURES, None)


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(RuntimeFailure, match="pictures are 6 x 4, the file takes 4 x 6"):
        encode(port("uint8"), PICTURES.transpose(0, 2, 1, 3), None)


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 1, 1), (2, 1, 1, 5)])
def test_scores_become_rows(shape: tuple[int, ...]) -> None:
    raw = np.arange(10, dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(decode(OutputPort("y", "float32", shape), raw, 2), raw.reshape(2, 5))


def test_one_class_and_one_picture_are_rows_too() -> None:
    assert decode(OutputPort("y", "float32", (2, 1)), np.zeros((2, 1), np.float32), 2).shape == (2, 1)
    assert decode(OutputPort("y", "float32", (5,)), np.zeros(5, np.float32), 1).shape == (1, 5)


@pytest.mark.parametrize("raw", [np.array([[130, 128, 255]], np.uint8), np.array([[2, 0, 127]], np.int8)])
def test_integer_scores_are_dequantized(raw: NDArray[np.int8]) -> None:
    zero_point = 128 if raw.dtype == np.uint8 else 0
    found = decode(OutputPort("y", raw.dtype.name, (1, 3), 0.5, zero_point), raw, 1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1.0, 0.0, 63.5]])


@pytest.mark.parametrize("shape", [(1, 25, 85), (3, 5), (1, 2, 2, 5)])
def test_what_is_no_row_of_scores_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeFailure, match=r"one row of class scores per picture"):
        decode(OutputPort("y", "float32", shape), np.zeros(shape, np.float32), 1)


def test_batches_cover_every_picture_and_padding_is_dropped() -> None:
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    sizes: list[int] = []

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(batch))
        return batch.reshape(-1, 1).astype(np.float32)

    for pad, wanted in ((False, [3, 3, 1]), (True, [3, 3, 3])):
        sizes.clear()
        np.testing.assert_array_equal(in_batches(images, 3, pad, infer).ravel(), np.arange(7))
        assert sizes == wanted
    assert in_batches(images[:0], 3, True, infer).shape == (0, 0)


def test_which_output_and_input() -> None:
    assert choose_output(["whatever"]) == 0 and choose_output(["boxes", "logits"]) == 1
    with pytest.raises(RuntimeFailure, match="2 outputs: boxes, masks"):
        choose_output(["boxes", "masks"])
    with pytest.raises(RuntimeFailure, match="2 inputs: a, b"):
        only_input(["a", "b"])


@pytest.mark.parametrize(
    ("machine", "flags", "saturates"),
    [
        ("x86_64", "avx2 fma", True),
        ("AMD64", "avx2 avx512_vnni", False),
        ("x86_64", "avx_vnni", False),
        ("x86_64", None, True),
        ("aarch64", "asimd", False),
    ],
)
def test_which_cpus_saturate(machine, flags, saturates, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("platform.machine", lambda: machine)
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    assert x86_without_vnni(tmp_path / "cpuinfo") is saturates
