"""Every kind of picture becomes upright RGB, every damaged one a DataError; the geometry is the documented one."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.preprocess import apply, decode, from_dict, load_picture, to_dict
from edgecnn.errors import DataError
from edgecnn.spec import Interpolation, Preprocess

PLAIN = Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, depth: int, colour: int, row: bytes, extra: bytes = b"") -> bytes:
    """A PNG of one row, for the kinds that Pillow reads but does not write."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    content = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def pixels(content: bytes) -> list[tuple[int, ...]]:
    image = decode(content)
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def test_lossless_colour_comes_back_exactly() -> None:
    image = noise(9, 7)
    for content in (encode(image, "PNG"), encode(image, "WEBP", lossless=True), encode(image, "BMP")):
        assert np.array_equal(np.asarray(decode(content)), np.asarray(image))


def test_jpeg_is_decoded_at_full_size_and_close() -> None:
    image = Image.linear_gradient("L").convert("RGB")
    decoded = decode(encode(image, "JPEG", quality=95))
    assert decoded.size == (256, 256)
    assert np.abs(np.asarray(decoded, float) - np.asarray(image, float)).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_grey_has_three_equal_channels(kind: str) -> None:
    assert pixels(encode(Image.fromarray(np.array([[0, 77, 255]], np.uint8)), kind)) == [
        (0,) * 3,
        (77,) * 3,
        (255,) * 3,
    ]


def test_black_and_white_spans_the_full_range() -> None:
    assert pixels(encode(Image.fromarray(np.array([[False, True]])), "PNG")) == [(0, 0, 0), (255, 255, 255)]


def test_palette_colours_are_looked_up() -> None:
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0]))
    assert pixels(png(2, 8, 3, bytes([1, 0]), palette)) == [(0, 255, 0), (255, 0, 0)]


def test_transparent_palette_entries_show_white() -> None:
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0])) + chunk(b"tRNS", bytes([0, 255]))
    assert pixels(png(2, 8, 3, bytes([0, 1]), palette)) == [(255, 255, 255), (0, 255, 0)]


def test_alpha_is_laid_over_white() -> None:
    image = Image.fromarray(np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8))
    assert pixels(encode(image, "PNG")) == [(10, 20, 30), (255, 255, 255), (204, 204, 204)]


def test_transparent_colour_of_rgb_shows_white() -> None:
    marked = chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3]))
    assert pixels(png(2, 8, 2, bytes([1, 2, 3, 4, 5, 6]), marked)) == [(255, 255, 255), (4, 5, 6)]


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_has_ink_on_white_paper(kind: str) -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = pixels(encode(image, kind))[0]
    assert red <= 3 and green >= 252 and blue >= 252


def test_sixteen_bit_colour_and_grey_keep_the_same_high_byte() -> None:
    samples = np.array([0x8001, 0x00FF, 0xFFFF], ">u2")
    colour = pixels(png(1, 16, 2, samples.tobytes()))
    grey = pixels(png(3, 16, 0, samples.tobytes()))
    assert colour == [(0x80, 0x00, 0xFF)]
    assert [pixel[0] for pixel in grey] == [0x80, 0x00, 0xFF]


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_tiff_of_either_byte_order(order: str) -> None:
    image = Image.fromarray(np.array([[0x1234, 0xFFFF]], order))
    assert image.mode.startswith("I;16")
    assert pixels(encode(image, "TIFF")) == [(0x12,) * 3, (0xFF,) * 3]


def test_sixteen_bit_alpha() -> None:
    samples = np.array([0, 0, 0, 0x3333], ">u2")
    assert pixels(png(1, 16, 6, samples.tobytes())) == [(204, 204, 204)]


@pytest.mark.parametrize("samples", [np.array([[0, 1 << 20]], np.int32), np.array([[0.0, 1.0]], np.float32)])
def test_samples_without_a_range_are_refused(samples: np.ndarray) -> None:
    with pytest.raises(DataError, match="no fixed range"):
        decode(encode(Image.fromarray(samples), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixels(content)[0] == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_undone(orientation: int, kind: str) -> None:
    upright = np.asarray(noise(6, 4))
    # How a camera stores the scene for each value of the tag (EXIF 2.32, table 4, tag 274).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    content = encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    assert np.array_equal(np.asarray(decode(content)), upright)


def test_exif_orientation_of_jpeg_swaps_the_sides() -> None:
    exif = Image.Exif()
    exif[274] = 6
    assert decode(encode(noise(6, 4), "JPEG", exif=exif)).size == (4, 6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\xff\xff"])
def test_damaged_exif_leaves_the_picture_as_stored(exif: bytes) -> None:
    assert decode(encode(noise(6, 4), "JPEG", exif=exif)).size == (6, 4)


def test_empty_file_missing_file_and_folder_name_the_path(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    for path, reason in ((empty, "0 bytes"), (tmp_path / "gone.png", "No such file"), (tmp_path, "directory")):
        with pytest.raises(DataError, match=reason) as caught:
            load_picture(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_truncated_file_is_broken(kind: str) -> None:
    content = encode(noise(64, 64), kind)
    with pytest.raises(DataError):
        decode(content[: len(content) // 2])


def test_flipped_bit_in_a_png_is_broken() -> None:
    content = bytearray(encode(noise(64, 64), "PNG"))
    content[len(content) // 2] ^= 1
    with pytest.raises(DataError, match="broken picture"):
        decode(bytes(content))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_damage_gives_a_picture_or_a_data_error_and_nothing_else(kind: str) -> None:
    content = encode(noise(24, 24), kind)
    rng = np.random.default_rng(1)
    failed = 0
    for _ in range(100):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            damaged[place] = rng.integers(256)
        try:
            assert decode(bytes(damaged[: rng.integers(1, len(content) + 1)])).mode == "RGB"
        except DataError:
            failed += 1
    assert failed > 10


def test_picture_of_the_right_size_passes_untouched() -> None:
    image = noise(32, 32)
    result = apply(PLAIN, image)
    assert result.dtype == np.uint8 and np.array_equal(result, np.asarray(image))


def test_result_is_a_writable_copy() -> None:
    image = noise(32, 32)
    apply(PLAIN, image)[:] = 0
    assert np.asarray(image).any()


@pytest.mark.parametrize("size", [(200, 100), (100, 200), (31, 33), (640, 427), (8, 8), (1, 40)])
@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_geometry_is_short_side_then_centre(size: tuple[int, int], interpolation: Interpolation) -> None:
    p = Preprocess(32, (0.5,) * 3, (0.25,) * 3, interpolation, crop_fraction=0.875)
    image = noise(*size)
    short, long = 37, int(37 * max(size) / min(size))
    width, height = (short, long) if size[0] <= size[1] else (long, short)
    pillow = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    resized = np.asarray(image.resize((width, height), pillow))
    top, left = round((height - 32) / 2), round((width - 32) / 2)
    assert np.array_equal(apply(p, image), resized[top : top + 32, left : left + 32])


def test_shrinking_antialiases() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    result = apply(Preprocess(8, (0.5,) * 3, (0.25,) * 3), Image.fromarray(stripes))
    assert np.abs(result.astype(int) - 128).max() <= 6


def test_apply_converts_grey_pictures() -> None:
    assert apply(PLAIN, Image.new("L", (40, 40), 9)).tolist() == np.full((32, 32, 3), 9).tolist()


def test_dict_round_trip_through_json() -> None:
    p = Preprocess(96, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), Interpolation.BICUBIC, 0.875)
    assert from_dict(json.loads(json.dumps(to_dict(p)))) == p


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"size": 0}, "size"),
        ({"size": "32"}, "size"),
        ({"size": True}, "size"),
        ({"mean": [0.5, 0.5]}, "mean"),
        ({"std": [0.5, 0.5, 0.0]}, "std"),
        ({"mean": [0.5, 0.5, float("nan")]}, "mean"),
        ({"interpolation": "lanczos"}, "interpolation"),
        ({"crop_fraction": 1.5}, "crop_fraction"),
        ({"colour": "BGR"}, "colour"),
    ],
)
def test_wrong_field_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(DataError, match=named):
        from_dict(to_dict(PLAIN) | change)


def test_missing_field_is_named() -> None:
    with pytest.raises(DataError, match="std"):
        from_dict({"size": 32, "mean": [0.5, 0.5, 0.5]})


def test_grey_is_the_formula_of_the_vocabulary_and_comes_before_resizing() -> None:
    image = noise(32, 32)
    red, green, blue = np.asarray(image).astype(np.int64).transpose(2, 0, 1)
    wanted = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    grey = Preprocess(32, (0.5,), (0.25,))
    np.testing.assert_array_equal(apply(grey, image), wanted[..., None].astype(np.uint8))
    small = Preprocess(12, (0.5,), (0.25,))
    resized = Image.fromarray(wanted.astype(np.uint8)).resize((12, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(apply(small, image), np.asarray(resized)[..., None])
    stored = Image.fromarray(wanted.astype(np.uint8))
    np.testing.assert_array_equal(apply(grey, stored)[..., 0], wanted)  # what is grey already stays as it is


def test_grey_survives_json_and_channels_must_agree() -> None:
    grey = Preprocess(12, (0.5,), (0.25,))
    assert from_dict(json.loads(json.dumps(to_dict(grey)))) == grey and grey.channels == 1 and PLAIN.channels == 3
    for wrong in ({"mean": [0.5], "std": [0.2] * 3}, {"mean": [0.5] * 2, "std": [0.2] * 2}):
        with pytest.raises(DataError):
            from_dict({"size": 8, **wrong})
