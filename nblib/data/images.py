"""A file -> one 8-bit image, grey or RGB: `picture` by Pillow, `read_image` also of DICOM.

All that Pillow opens it opens here (`opened`), and by importing this page it refuses more than
`MOST_PIXELS` pixels.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nblib.data import dicom
from nblib.data.dicom import MOST_PIXELS, TOO_LARGE, ImageError, Read
from nblib.files import digest, must_be_file

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp",
    ".pgm", *dicom.DICOM_SUFFIXES,
)  # fmt: skip
BEGINNINGS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
"""Of PNG, JPEG and TIFF files, whatever they are called."""
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
"""What Pillow may take a file for: others start programs, or hold no pictures of patients."""
MODES = {"grey": "L", "rgb": "RGB"}


# Pillow refuses twice this many, in some formats before a canvas is made, and warns from half on.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """A picture of one of `FORMATS` and of at most `MOST_PIXELS` pixels, which is not decoded yet.

    Raises ImageError, a sentence, for what is none, and for whatever goes wrong in the block.
    """
    try:
        must_be_file(file)
        with Image.open(file, formats=FORMATS) as image:
            _verify(file, image.format)
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(file, TOO_LARGE) from None
    except UnidentifiedImageError:
        raise ImageError(file, "is no image.") from None
    except Exception as error:  # Pillow raises many kinds for a damaged file
        said = str(error) if isinstance(error, (OSError, ValueError, SyntaxError)) else ""
        why = " ".join((getattr(error, "strerror", None) or said or "it is damaged").split())
        raise ImageError(file, f"cannot be read: {why.rstrip('.')}.") from None


def _verify(file: Path, kind: str) -> None:
    """Raise where Pillow would read on: at wrong sums in a PNG, at missing tiles of JPEG 2000.

    And at a colour that a PNG calls transparent, where it makes 8 bits of the pixels alone, and at
    a number that may have lost its last digits.
    """
    if kind == "PNG":
        with Image.open(file, formats=[kind]) as image:
            if "transparency" in image.info and image.tile[0].args in ("L;2", "L;4", "RGB;16B"):
                why = "calls one colour of 2, 4 or 3 x 16 bits transparent: save it in 8 bits."
                raise ImageError(file, why)
            image.verify()
    elif kind == "PPM":
        with open(file, "rb") as content:
            is_plain = content.read(2) in (b"P2", b"P3")
            content.seek(-1, os.SEEK_END)
            if is_plain and content.read().isdigit():
                raise ImageError(file, "ends within a number: it may be cut short.")
    # EOC, the end, is in no data, which SOD begins (ISO 15444-1, annex A).
    elif kind == "JPEG2000" and b"\xff\xd9" not in file.read_bytes().partition(b"\xff\x93")[2]:
        raise ImageError(file, "cannot be read: it is cut short.")


def picture(file: Path) -> Image.Image:
    """The picture in a file that Pillow reads, its first where there are several, upright.

    In 8 bits, L or RGB; 16-bit grey is divided by 257; black shows through where it is transparent.
    Raises ImageError as `opened` does, and for pixels that are no 8- or 16-bit numbers.
    """
    with opened(file) as image:
        return _picture_and_mode(image)[0]


def _picture_and_mode(image: Image.Image) -> tuple[Image.Image, str]:
    """A picture as `picture` gives it, and what its file says of it.

    That is Pillow's name of the mode, how many of 16 bits are used where it is fewer, and whether
    some pixels are transparent.
    """
    # TIFF, WhiteIsZero: at 16 bits Pillow leaves it to us.
    is_negative = image.mode.startswith("I") and getattr(image, "tag_v2", {}).get(262) == 0
    image = ImageOps.exif_transpose(image)
    alpha, mode = _alpha(image), image.mode
    if mode.startswith(("I", "F")):
        values = np.asarray(image)
        if mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels are no 8- or 16-bit numbers")
        bits = int(values.max()).bit_length()
        mode += f", {bits} bits used" if bits < 15 else ""
        values = values.astype(np.uint32)
        values = 65535 - values if is_negative else values
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif mode not in ("L", "RGB"):
        image = image.convert("RGB")
    if alpha is not None:
        mode += ", transparent"
        image = Image.composite(image, Image.new(image.mode, image.size), alpha)
    return image, mode


def _alpha(image: Image.Image) -> Image.Image | None:
    """How opaque each pixel is, 0 to 255; None where all are opaque."""
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I"):  # one value is called transparent
        alpha = Image.fromarray(np.asarray(image) != image.info["transparency"]).convert("L")
    else:
        alpha = image.convert("RGBA").getchannel("A")
    return alpha if alpha.getextrema()[0] < 255 else None


def scaled(image: Image.Image, size: int, colour: str) -> np.ndarray:
    """An image as methods see it: uint8 (C, size, size), bilinear, the aspect not kept."""
    small = image.convert(MODES[colour]).resize((size, size), Image.Resampling.BILINEAR)
    small = np.array(small)  # a copy: torch wants to own what it reads
    return small[None] if small.ndim == 2 else small.transpose(2, 0, 1)


def pixel_digest(image: Image.Image) -> str:
    """Equal for two images of equal size and pixels."""
    return digest(repr(image.size).encode(), image.tobytes())


def read_image(file: Path, conversion: str = "window") -> Read:
    """The image in a file, picture or DICOM, whatever the file is called.

    Raises ImageError where there is none, or more than one.
    """
    if conversion not in dicom.CONVERSIONS:
        raise ValueError(f"conversion is '{conversion}', but must be window or benchmark.")
    try:
        is_dicom = looks_like_dicom(file)
    except (OSError, ValueError) as error:  # ValueError: of a name with a NUL
        why = getattr(error, "strerror", None) or error
        raise ImageError(file, f"cannot be read: {why}.") from None
    if is_dicom:
        return dicom.read_dicom(file, conversion)
    with opened(file) as image:
        # MPO: the photograph of a camera, and its preview.
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise ImageError(file, f"holds {image.n_frames} pictures, not one.")
        return Read(*_picture_and_mode(image), "", {})


def read_all(
    files: list[Path], conversion: str, use: Callable[[Path, Read], object]
) -> Iterator[object | ImageError]:
    """What `use` makes of each file and its image, or the error of a file that has none, in order.

    `use` is called on several threads.
    """

    def one(file: Path):
        try:
            return use(file, read_image(file, conversion))
        except ImageError as error:
            return error

    with dicom.silent(), ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(one, files)


def may_be_image(file: Path) -> bool:
    """Whether a file is called or begins as an image does; false of a folder.

    A pipe or a device that is called as an image may be one: reading it gives a sentence.
    """
    if file.is_dir():
        return False
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return True
    with contextlib.suppress(OSError):
        head = _head(file)
        return _is_dicom(head) or head.startswith(BEGINNINGS)
    return False


def looks_like_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM files do, or is called as one and is no picture.

    Raises OSError for what is no file, or cannot be read.
    """
    if _is_dicom(_head(file)):
        return True
    if file.suffix.lower() not in dicom.DICOM_SUFFIXES:
        return False
    with contextlib.suppress(ImageError), opened(file):
        return False
    return True


def _head(file: Path) -> bytes:
    must_be_file(file)
    with open(file, "rb") as begin:
        return begin.read(132)


def _is_dicom(head: bytes) -> bool:
    return head[128:] == b"DICM"
