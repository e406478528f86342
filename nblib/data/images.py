"""A file -> one 8-bit image, grey or RGB: `picture` by Pillow, `read_image` also of DICOM."""

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nblib.data import dicom
from nblib.data.dicom import ImageError, Read
from nblib.files import digest

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp",
    ".pgm", *dicom.DICOM_SUFFIXES,
)  # fmt: skip
BEGINNINGS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
"""Of PNG, JPEG and TIFF files, whatever they are called."""
MODES = {"grey": "L", "rgb": "RGB"}


def picture(file: Path) -> Image.Image:
    """The picture in a file that Pillow reads, its first where there are several, upright."""
    with Image.open(file) as image:
        return eight_bit(image)


def eight_bit(image: Image.Image) -> Image.Image:
    """The image in 8 bits, L or RGB, turned as its Exif says; 16-bit grey is divided by 257.

    Raises ValueError for pixels that are no 16-bit grey.
    """
    # TIFF, WhiteIsZero: at 16 bits Pillow leaves it to us.
    is_negative = image.mode.startswith("I") and getattr(image, "tag_v2", {}).get(262) == 0
    image = ImageOps.exif_transpose(image)
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels are no 8- or 16-bit numbers")
    values = 65535 - values.astype(np.int64) if is_negative else values
    return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))


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
    except OSError as error:
        raise ImageError(file, f"cannot be read: {error.strerror}.") from None
    if is_dicom:
        return dicom.read_dicom(file, conversion)
    try:
        with Image.open(file) as image:
            # MPO: the photograph of a camera, and its preview.
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                raise ValueError(f"it holds {image.n_frames} pictures, not one")
            return Read(eight_bit(image), _mode(image), "", {})
    except UnidentifiedImageError:
        raise ImageError(file, "is no image.") from None
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise ImageError(file, f"cannot be read: {error}.") from None


def _mode(image: Image.Image) -> str:
    """Pillow's name of the mode, and how many of 16 bits are used where it is fewer."""
    bits = int(image.getextrema()[1]).bit_length() if image.mode.startswith("I") else 16
    return f"{image.mode}, {bits} bits used" if bits < 15 else image.mode


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
    """Whether a file is called or begins as an image does; false of what is no file."""
    if file.exists() and not file.is_file():
        return False
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return True
    with contextlib.suppress(OSError):
        head = _head(file)
        return _is_dicom(head) or head.startswith(BEGINNINGS)
    return False


def looks_like_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM files do, or is called as one and is no picture."""
    if _is_dicom(_head(file)):
        return True
    if file.suffix.lower() not in dicom.DICOM_SUFFIXES:
        return False
    with contextlib.suppress(Exception), Image.open(file):
        return False
    return True


def _head(file: Path) -> bytes:
    with open(file, "rb") as begin:
        return begin.read(132)


def _is_dicom(head: bytes) -> bool:
    return head[128:] == b"DICM"
