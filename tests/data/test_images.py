import numpy as np
import pytest
from PIL import Image
from sets import COLOUR, GREY, one_problem

from nblib.data.datasets import load

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
    "grey and alpha": (Image.fromarray(with_alpha(GREY)), "PNG", GREY, 0),
    "colour png": (Image.fromarray(COLOUR), "PNG", luminance(COLOUR), 0.51),
    "colour and alpha": (Image.fromarray(with_alpha(COLOUR)), "PNG", luminance(COLOUR), 0.51),
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
        (Image.fromarray(with_alpha(COLOUR)), "PNG", COLOUR, 0),
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
