import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sets import COLOUR, GREY, one_problem

from nblib.data.datasets import load
from nblib.data.dicom import TOO_LARGE
from nblib.data.images import ImageError, may_be_image, read_image

SMOOTH = np.add.outer(np.arange(16) * 8, np.arange(16) * 6).astype(np.uint8)
SMOOTH_COLOUR = np.stack([SMOOTH, SMOOTH.T, 255 - SMOOTH], 2)


def luminance(colour):
    return colour @ np.array([0.299, 0.587, 0.114])


def with_alpha(array):
    alpha = np.full((*array.shape[:2], 1), 128, np.uint8)
    return np.concatenate([array.reshape(*array.shape[:2], -1), alpha], 2)


def palette():
    """An image of 256 indices into a palette of random colours."""
    colours = np.random.default_rng(9).integers(0, 256, (256, 3), np.uint8)
    image = Image.fromarray(GREY, "L").copy()
    image.putpalette(colours.tobytes())
    return image, colours[GREY]


def sixteen_bit(multiple, offset):
    return GREY.astype(np.uint16) * multiple + offset


FORMATS = {
    # name: (image, format, grey values, largest difference)
    "png": (Image.fromarray(GREY), "PNG", GREY, 0),
    "bmp": (Image.fromarray(GREY), "BMP", GREY, 0),
    "tiff": (Image.fromarray(GREY), "TIFF", GREY, 0),
    "jpeg": (Image.fromarray(SMOOTH), "JPEG", SMOOTH, 4),
    "16-bit png": (Image.fromarray(sixteen_bit(257, 0)), "PNG", GREY, 0),
    "16-bit png, uneven": (
        Image.fromarray(sixteen_bit(200, 99)), "PNG", (GREY * 200.0 + 99) / 257, 0.51,
    ),
    "16-bit tiff": (Image.fromarray(sixteen_bit(257, 0)), "TIFF", GREY, 0),
    "16-bit tiff, big-endian": (
        Image.fromarray(sixteen_bit(257, 0).astype(">u2")), "TIFF", GREY, 0,
    ),
    "1-bit png": (Image.fromarray(GREY > 127), "PNG", 255.0 * (GREY > 127), 0),
    "palette png": (palette()[0], "PNG", luminance(palette()[1]), 0.51),
    "palette gif": (palette()[0], "GIF", luminance(palette()[1]), 0.51),
    "grey and alpha": (Image.fromarray(with_alpha(GREY)), "PNG", GREY * (128 / 255), 0.51),
    "colour png": (Image.fromarray(COLOUR), "PNG", luminance(COLOUR), 0.51),
    "colour and alpha": (
        Image.fromarray(with_alpha(COLOUR)), "PNG", luminance(COLOUR) * 128 / 255, 1.01,
    ),
    "colour jpeg": (Image.fromarray(SMOOTH_COLOUR), "JPEG", luminance(SMOOTH_COLOUR), 8),
    "cmyk jpeg": (
        Image.fromarray(np.dstack([255 - SMOOTH] * 3 + [0 * SMOOTH]), "CMYK"), "JPEG", SMOOTH, 6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_every_kind_of_file_is_read_as_grey(make_set, kind):
    image, file_format, expected, tolerance = FORMATS[kind]
    folder = make_set()
    image.save(folder / "images" / "normal_0.png", file_format, **jpeg_options(file_format))
    found = load(folder, 16).normal.images[0]
    assert found.shape == (1, 16, 16)
    assert np.abs(found[0] - np.asarray(expected, float)).max() <= tolerance


def jpeg_options(file_format):
    return {"quality": 98, "subsampling": 0} if file_format == "JPEG" else {}


@pytest.mark.parametrize(
    ("image", "file_format", "expected", "tolerance"),
    [
        (Image.fromarray(COLOUR), "PNG", COLOUR, 0),
        (Image.fromarray(with_alpha(COLOUR)), "PNG", COLOUR * (128 / 255), 0.51),
        (palette()[0], "PNG", palette()[1], 0),
        (Image.fromarray(SMOOTH_COLOUR), "JPEG", SMOOTH_COLOUR, 8),
        (Image.fromarray(GREY), "PNG", np.dstack([GREY] * 3), 0),
        (Image.fromarray(sixteen_bit(257, 0)), "PNG", np.dstack([GREY] * 3), 0),
    ],
)
def test_colour_is_kept_where_it_is_asked_for(make_set, image, file_format, expected, tolerance):
    folder = make_set()
    image.save(folder / "images" / "normal_0.png", file_format, **jpeg_options(file_format))
    dataset = load(folder, 16, "rgb")
    assert dataset.channels == 3 and dataset.normal.images.shape == (4, 3, 16, 16)
    found = dataset.normal.images[0].transpose(1, 2, 0).astype(int)
    assert np.abs(found - expected).max() <= tolerance


@pytest.mark.parametrize("colour", ["gray", "L", "", None])
def test_an_unknown_colour_mode_is_an_error(make_set, colour):
    with pytest.raises(ValueError, match="colour"):
        load(make_set(), 16, colour)


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", -1), ("I", 70_000)])
def test_pixels_that_are_no_16_bit_numbers_are_an_error(make_set, mode, value):
    folder = make_set()
    Image.new(mode, (16, 16), value).save(folder / "images" / "normal_0.png", "TIFF")
    one_problem(folder, "normal_0.png", "16-bit")


def triangle(line, size):
    """Bilinear resampling of one line: a triangle as wide as the reduction, at most."""
    scale = len(line) / size
    width = max(scale, 1.0)
    middles, places = (np.arange(size) + 0.5) * scale, np.arange(len(line)) + 0.5
    weights = np.maximum(0, 1 - np.abs(np.subtract.outer(middles, places)) / width)
    return weights / weights.sum(1, keepdims=True) @ line


@pytest.mark.parametrize("shape", [(64, 64), (50, 21), (16, 40), (5, 7), (1, 1), (300, 1)])
def test_images_are_scaled_bilinearly_to_a_square(make_set, shape):
    folder = make_set()
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(folder / "images" / "normal_0.png")
    expected = triangle(triangle(pixels.astype(float), 16).T, 16).T
    assert np.abs(load(folder, 16).normal.images[0, 0] - expected).max() <= 1.01


ALPHA = np.random.default_rng(10).integers(0, 256, (16, 16), np.uint8)


def transparent(alpha):
    """Kinds of pictures with this alpha: the picture, and its pixels over black."""
    share = alpha / 255
    is_seen = alpha > 0
    keyed = np.where(is_seen, np.maximum(GREY, 1), 0)
    deep = np.where(is_seen, sixteen_bit(257, 0) | 1, 0).astype(np.uint16)
    colours = np.random.default_rng(9).integers(0, 256, (256, 3), np.uint8)
    indexed = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16), "P")
    indexed.putpalette(colours.tobytes())
    of_palette = colours.reshape(16, 16, 3) * share[..., None]
    return {
        "RGBA": (Image.fromarray(np.dstack([COLOUR, alpha])), {}, COLOUR * share[..., None]),
        "LA": (Image.fromarray(np.dstack([GREY, alpha])), {}, GREY * share),
        "P": (indexed, {"transparency": alpha.tobytes()}, of_palette),
        "L": (Image.fromarray(keyed), {"transparency": 0}, keyed),
        "I;16": (Image.fromarray(deep), {"transparency": 0}, np.round(deep / 257)),
    }


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16"])
def test_black_shows_through_what_is_transparent_and_the_mode_says_so(tmp_path, mode):
    picture, how, expected = transparent(ALPHA // 2 * (ALPHA > 60))[mode]
    picture.save(tmp_path / "image.png", **how)
    found = read_image(tmp_path / "image.png")
    assert found.mode == f"{mode}, transparent"
    values = np.asarray(found.image.convert("RGB" if expected.ndim == 3 else "L")).astype(float)
    assert np.abs(values - expected).max() <= 0.51


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_an_opaque_alpha_changes_nothing(tmp_path, mode):
    picture, how, expected = transparent(np.full((16, 16), 255, np.uint8))[mode]
    picture.save(tmp_path / "image.png", **how)
    found = read_image(tmp_path / "image.png")
    assert found.mode == mode and found.image.mode == "RGB"
    expected = expected if expected.ndim == 3 else np.dstack([expected] * 3)
    assert np.array_equal(found.image, expected)


@pytest.mark.parametrize("high", [4000, 65535])
def test_both_orders_of_bytes_give_the_same_picture(tmp_path, high):
    values = np.random.default_rng(0).integers(0, high, (20, 16), np.uint16)
    read = []
    for order in "<>":
        Image.fromarray(values.astype(f"{order}u2")).save(tmp_path / f"{ord(order)}.tif")
        read.append(read_image(tmp_path / f"{ord(order)}.tif"))
    assert np.array_equal(read[0].image, read[1].image)
    assert read[1].mode == read[0].mode.replace("I;16", "I;16B")


def refused(file):
    with pytest.raises(ImageError) as error:
        read_image(file)
    assert str(error.value) == f"{file} {error.value.why}" and "\n" not in error.value.why
    return error.value.why


def test_formats_that_would_start_a_program_are_no_images(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "image.png").write_bytes(eps)
    assert refused(tmp_path / "image.png") == "is no image."


def listening(file):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(file))


@pytest.mark.parametrize("name", ["odd.png", "odd", "odd.dcm"])
@pytest.mark.parametrize("make", [os.mkfifo, listening, lambda file: file.symlink_to("/dev/zero")])
def test_nobody_waits_for_a_pipe_a_socket_or_a_device(tmp_path, monkeypatch, name, make):
    monkeypatch.chdir(tmp_path)  # a socket's whole path has to be short
    make(Path(name))
    assert refused(Path(name)) == "cannot be read: it is a pipe, a socket or a device."
    assert may_be_image(Path(name)) == (name != "odd")


def test_a_wrong_sum_in_a_png_is_found_where_inflating_stops_before_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10), np.uint8)
    file = tmp_path / "image.png"
    Image.fromarray(pixels).save(file)
    content = bytearray(file.read_bytes())
    first = content.index(b"IDAT") + 6  # behind zlib's header: a stored block, which is the last
    assert content[first] & 7 == 1
    content[first] = 0  # so that more has to follow
    content[first + 50] ^= 255
    file.write_bytes(content)
    assert refused(file) == "cannot be read: broken PNG file (bad header checksum in b'IDAT')."


@pytest.mark.parametrize("how", [{"no_jp2": True}, {"tile_size": (8, 8)}])
def test_jpeg_2000_is_cut_short_wherever_it_is_cut(tmp_path, how):
    file, pixels = tmp_path / "image.jp2", np.random.default_rng(0).integers(0, 256, (16, 16))
    Image.fromarray(pixels.astype(np.uint8)).save(file, **how)
    whole = file.read_bytes()
    assert np.array_equal(read_image(file).image, pixels)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        refused(file)


@pytest.mark.parametrize(
    ("head", "numbers", "expected"),
    [
        ("P1\n4 1\n", "1 0 1 0", [0, 255, 0, 255]),
        ("P2\n4 1\n255\n", "1 22 3 123", [1, 22, 3, 123]),
        ("P3\n1 1\n255\n", "22 3 123", [22, 3, 123]),
    ],
)
def test_a_plain_picture_is_cut_short_wherever_it_is_cut(tmp_path, head, numbers, expected):
    file = tmp_path / "image.pgm"
    file.write_text(f"{head}{numbers}\n")
    image = read_image(file).image.convert("RGB" if "P3" in head else "L")
    assert np.asarray(image).ravel().tolist() == expected
    for length in range(len(numbers)):
        file.write_text(f"{head}{numbers[:length]}")
        refused(file)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 300 + ".png", "nowhere.dcm"])
def test_a_name_that_no_file_has_is_refused_in_a_sentence(tmp_path, name):
    assert refused(tmp_path / name).startswith("cannot be read: ")


def of_chunks(width, height, rows, bits=8, colour=0, **before):
    """A PNG with the chunks `before` its rows."""

    def chunk(kind, data):
        size, check = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return size + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    begin = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    begin += b"".join(chunk(kind.encode(), data) for kind, data in before.items())
    return begin + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "colour", "row", "key", "expected"),
    [
        (1, 0, [0b10100000], [0], [255, 0, 255, 0, 0, 0, 0, 0]),
        (2, 0, [0b00011011], [1], None),
        (4, 0, [0x07, 0x8F], [8], None),
        (8, 0, [4, 7, 8, 15], [8], [4, 7, 0, 15]),
        (16, 0, [0, 7, 0, 8, 128, 0, 255, 255], [8], [0, 0, 128, 255]),
        (8, 2, [1, 2, 3, 1, 2, 4], [1, 2, 3], [0, 0, 0, 1, 2, 4]),
        (16, 2, [128, 0, 64, 0, 32, 0, 1, 0, 2, 0, 3, 0], [0x8000, 0x4000, 0x2000], None),
        (16, 2, [128, 1, 64, 2, 32, 3, 1, 0, 2, 0, 3, 0], [0x8001, 0x4002, 0x2003], None),
    ],
)
def test_a_transparent_colour_is_black_or_the_file_is_refused(
    tmp_path, bits, colour, row, key, expected
):
    """PNG, 11.3.2.1: the key has the depth of the pixels, which Pillow makes 8 bits of."""
    file, width = tmp_path / "image.png", 8 * len(row) // bits // len(key)
    keyed = struct.pack(f">{len(key)}H", *key)
    file.write_bytes(of_chunks(width, 1, bytes([0, *row]), bits, colour, tRNS=keyed))
    if expected is None:
        assert "transparent: save it in 8 bits" in refused(file)
    else:
        image = read_image(file).image.convert("RGB" if colour else "L")
        assert np.asarray(image).ravel().tolist() == expected


def png(width, height, before=b""):
    text = {"zTXt": b"a\0\0" + before} if before else {}
    return of_chunks(width, height, bytes(10_000_000), **text)


def claiming(kind, before, after):
    """A small picture of 16 x 16 in which some bytes that say so are others."""
    out = io.BytesIO()
    Image.new("L", (16, 16)).save(out, kind)
    assert before in out.getvalue()
    return out.getvalue().replace(before, after)


BOMBS = {
    "png": lambda: png(50_000, 50_000),
    "png, just too large": lambda: png(10_000, 5_001),
    "text in a png": lambda: png(16, 16, zlib.compress(bytes(400_000_000), 9)),
    "gif": lambda: claiming("GIF", struct.pack("<HH", 16, 16), struct.pack("<HH", 60_000, 60_000)),
    "jpeg": lambda: claiming("JPEG", struct.pack(">HH", 16, 16), struct.pack(">HH", 9000, 9000)),
    "jpeg 2000": lambda: claiming(
        "JPEG2000", struct.pack(">II", 16, 16), struct.pack(">II", 13_000, 13_000)
    ),
    "tiff": lambda: claiming(
        "TIFF", struct.pack("<HHII", 256, 4, 1, 16), struct.pack("<HHII", 256, 4, 1, 4_000_000)
    ),
    "webp": lambda: claiming(
        "WEBP", struct.pack("<HH", 16, 16), struct.pack("<HH", 16_383, 16_383)
    ),
}
PEAK = """
import pathlib, resource, sys
from nblib.data.images import ImageError, read_image
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = used()
for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        read_image(file)
        print("read")
    except ImageError as error:
        print(error.why)
print((used() - before) // 1024)
"""


def test_a_small_file_that_claims_to_be_huge_is_refused_before_it_takes_the_memory(tmp_path):
    for kind, make in BOMBS.items():
        (tmp_path / kind).write_bytes(make())
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    told = dict(zip(sorted(BOMBS), said[:-1], strict=True))
    assert "too large" in told.pop("text in a png")
    assert set(told.values()) == {TOO_LARGE}
    assert int(said[-1]) < 100  # MB


def test_the_largest_image_is_still_read(tmp_path, monkeypatch):
    Image.new("L", (60, 50)).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    assert read_image(tmp_path / "image.png").image.size == (60, 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1499)
    assert refused(tmp_path / "image.png") == TOO_LARGE
