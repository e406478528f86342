"""A DICOM file -> one 8-bit image, grey or RGB, through pydicom.

The conversion 'window' shows what a viewer shows: modality LUT, then VOI LUT or the first window
(the whole range of values where the file has neither), then MONOCHROME1 inverted, last. 'benchmark'
is what the sets RSNA and VinDr-CXR of the Med-AD benchmark were made with: MONOCHROME1 inverted,
then the whole range of values, without any LUT.

Of a header only view, sex, age and whether text is burned into the pixels leave this module, and
what it calls the patient, which `folders.prepare` replaces by a number. No sentence repeats what a
header says.
"""

import contextlib
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CONVERSIONS = ("window", "benchmark")
DICOM_SUFFIXES = (".dcm", ".dicom")

MOST_PIXELS = 50_000_000
"""Of an image in any file, twice those of a mammogram: a small file may claim to hold far more."""
TOO_LARGE = f"has more than {MOST_PIXELS // 10**6} million pixels: make it smaller."

LARGEST = 1e9
"""Of the numbers that say how pixels are shown: what is larger, such as inf, is none."""

VIEWS = ("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO")
"""Values of ViewPosition that DICOM defines; a header may hold anything else, such as a name."""

BURNED_IN = "Images whose header says that text is burned in, which may name the patient:"
"""Said before their number."""


class ImageError(ValueError):
    """A file that is no image which can be used; `why` is the sentence behind its name."""

    def __init__(self, file: Path, why: str):
        super().__init__(f"{file} {why}")
        self.why = why


class Read(NamedTuple):
    """An image and what its file says about it.

    image: mode L or RGB; mode: that of the file, as Pillow or DICOM calls it, such as 'I;16';
    patient: as the header has it, '' if it has none; facts: view (AP, PA, ...), sex (M, F, O),
    age (years, at most 90), as far as they are known, and burned_in (YES) where a header says that
    text is burned into the pixels.
    """

    image: Image.Image
    mode: str
    patient: str
    facts: dict[str, str]


def read_dicom(file: Path, conversion: str = "window") -> Read:
    """The image in a DICOM file, of at most `MOST_PIXELS` pixels.

    Raises ImageError where there is none that can be used; one that is too large is not decoded.
    """
    import pydicom

    try:
        if _inflates_too_far(file):
            raise ImageError(file, TOO_LARGE)
        header = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in header.file_meta:  # older exports: the header shows which
            implicit = header.original_encoding[0]
            syntax = pydicom.uid.ImplicitVRLittleEndian if implicit else None
            header.file_meta.TransferSyntaxUID = syntax or pydicom.uid.ExplicitVRLittleEndian
        if why := _unusable(header):
            raise ImageError(file, why)
        mode = f"DICOM, {int(header.BitsStored)} bit, "
        image = Image.fromarray(_pixels(header, conversion))
        mode += "grey" if image.mode == "L" else "colour"
        return Read(image, mode, str(header.get("PatientID") or "").strip(), _facts(header))
    except ImageError:
        raise
    except Exception as error:  # pydicom and decoders raise many kinds, and quote the header
        why = f"cannot be read as DICOM ({type(error).__name__})."
        raise ImageError(file, why) from None


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep pydicom from warning, since its warnings quote values of the header."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _inflates_too_far(file: Path) -> bool:
    """Whether a deflated file is larger than any image: pydicom would inflate the whole of it."""
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    with open(file, "rb") as content:
        read_preamble(content, force=True)
        syntax = _read_file_meta_info(content).get("TransferSyntaxUID")
        if syntax != DeflatedExplicitVRLittleEndian:
            return False
        inflating, left, size = zlib.decompressobj(-zlib.MAX_WBITS), content.read(), 0
        # Three colours of 16 bits.
        while left and size <= 6 * MOST_PIXELS:
            size += len(inflating.decompress(left, 2**24))
            left = inflating.unconsumed_tail
    return size > 6 * MOST_PIXELS


def _unusable(header) -> str | None:
    """Why a DICOM file holds no image that can be used, if it does not."""
    from pydicom.pixels.utils import get_expected_length

    if "PixelData" not in header:
        return "is a DICOM file without PixelData."
    frames = int(header.get("NumberOfFrames") or 1)
    if frames != 1:
        return f"is a DICOM file of {frames} frames, not of one image."
    if int(header.Rows) * int(header.Columns) > MOST_PIXELS:
        return TOO_LARGE
    is_compressed = header.file_meta.TransferSyntaxUID.is_encapsulated
    bits, spare = int(header.BitsStored), _spare_bits(header)
    is_odd = spare and (is_compressed or spare < 0 or bits + spare > int(header.BitsAllocated))
    if is_odd or bits < 1:
        return "says where its bits lie, and they cannot lie there (BitsStored, HighBit)."
    for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"):
        numbers = np.array(header.get(name) or 0, float)  # of several windows, several
        if not (abs(numbers) < LARGEST).all():
            return f"has a {name} that is no number to show pixels by."
    if is_compressed:
        return _unusable_stream(header)
    if get_expected_length(header) > len(header.PixelData):
        return "is cut off: it holds fewer pixels than its header says."
    return None


def _spare_bits(header) -> int:
    """How many bits of a word lie below those that are stored, such as those of an overlay."""
    high = header.get("HighBit")
    return 0 if high is None else int(high) + 1 - int(header.BitsStored)


def _unusable_stream(header) -> str | None:
    """Why compressed pixels cannot be used: cut off, or of another size than the header says."""
    from pydicom.encaps import generate_frames
    from pydicom.pixels.utils import get_expected_length
    from pydicom.uid import RLELossless

    frame = next(generate_frames(header.PixelData, number_of_frames=1))
    if header.file_meta.TransferSyntaxUID == RLELossless:
        # Runs never take twice the room.
        is_other = len(frame) > 64 + 2 * get_expected_length(header)
    elif b"\xff\xd9" not in frame[-64:]:  # decoders fill with zeros; a few bytes may follow
        return "is cut off: its compressed pixels have no end."
    else:
        said = tuple(int(header[n].value) for n in ("Rows", "Columns", "SamplesPerPixel"))
        is_other = _coded_shape(frame) != said
    return "holds a compressed image of another size than its header says." if is_other else None


def _coded_shape(stream: bytes) -> tuple[int, int, int]:
    """Rows, columns and samples of a JPEG, JPEG-LS or JPEG 2000 stream, as decoders see them.

    ITU T.81, B.2.2; T.87, C.2.2; T.800, A.5.1.
    """
    if (start := stream[:200].find(b"\xff\x4f\xff\x51")) >= 0:  # JPEG 2000, perhaps as a JP2
        right, bottom, left, top = struct.unpack_from(">4I", stream, start + 8)
        return bottom - top, right - left, *struct.unpack_from(">H", stream, start + 40)
    at = 2
    # Frame headers are C0 to CF but for tables and F7; FF fills the space between segments.
    while (marker := stream[at + 1]) != 0xF7 and (marker & 0xF0 != 0xC0 or marker in (0xC4, 0xCC)):
        at += 1 if marker == 0xFF else 2 + int.from_bytes(stream[at + 2 : at + 4])
    return struct.unpack_from(">HHB", stream, at + 5)


def _pixels(header, conversion: str) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3)."""
    from pydicom.pixels import apply_color_lut, pixel_array

    bits, spare = int(header.BitsStored), _spare_bits(header)
    # The spare bits are read as if they were stored, and then shifted out.
    header.BitsStored = bits + spare
    values = pixel_array(header) >> spare
    header.BitsStored = bits
    if header.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, header)
        bits = 8 * values.itemsize
    if values.ndim == 3:
        return values if bits == 8 else _stretched(values, 0, 2**bits - 1)
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    if conversion == "benchmark":
        if values.dtype == np.uint8:
            return _of_8_bits(values.max() - values if inverted else values, bits)
        low, high = values.min(), values.max()
        return _stretched(values, *((high, low) if inverted else (low, high)))
    padding = _padding(header, values)
    shades = _windowed(header, values, padding)
    shades = 255 - shades if inverted else shades
    return np.where(padding, np.uint8(0), shades)


def _padding(header, values: np.ndarray) -> np.ndarray:
    """Which pixels (H, W) only fill the frame, and are black in every viewer (C.7.5.1.1.2)."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(values.shape, bool)
    last = header.get("PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last is None else last)))
    padding = (values >= low) & (values <= high)
    return padding if not padding.all() else np.zeros(values.shape, bool)


def _windowed(header, values: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Modality LUT, then VOI LUT or window, as uint8; 8-bit values without either stay as they are.

    DICOM PS3.3, C.11.1 and C.11.2. A window without a width is none.
    """
    from pydicom.multival import MultiValue
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    for name in ("RescaleSlope", "RescaleIntercept"):
        if name in header and header[name].value is None:
            del header[name]
    scaled = apply_modality_lut(values, header)
    table = header.get("VOILUTSequence")
    if table:
        count, first = (int(number) for number in table[0].LUTDescriptor[:2])
        # All that the table gives: files declare 16 bits and fill 12.
        whole = apply_voi_lut(np.arange(first, first + (count or 2**16)), header)
        return _stretched(apply_voi_lut(scaled, header), 0, whole.max())
    width, center = (header.get(f"Window{name}") for name in ("Width", "Center"))
    width = width[0] if isinstance(width, MultiValue) else width
    if width is not None and center is not None and width >= 1:
        # What lies below and above every window, to know where black and white are.
        shown = apply_voi_lut(np.append(scaled.astype(float), [-1e12, 1e12]), header)
        return _stretched(shown[:-2].reshape(scaled.shape), *shown[-2:])
    if values.dtype == np.uint8 and np.array_equal(scaled, values):
        return _of_8_bits(values, int(header.BitsStored))
    seen = scaled[~padding]
    return _stretched(scaled, seen.min(), seen.max())


def _of_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """uint8 values as they are; where fewer than 8 bits are stored, such as 1, as 0 to 255."""
    return values if bits >= 8 else _stretched(values, 0, 2**bits - 1)


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from `low` (which may be above `high`) to `high` as 0 to 255."""
    share = values.astype(float)
    # In place: an image may be large. As floats: two words may differ by more than one can hold.
    share -= low
    share /= float(high) - float(low) or 1
    np.clip(share, 0, 1, out=share)
    share *= 255
    return share.astype(np.uint8)


def _facts(header) -> dict[str, str]:
    """view, sex, age in years and burned_in, where the header holds what DICOM allows there."""
    view, sex, age, burned_in = (
        str(header.get(name) or "").strip().upper()
        for name in ("ViewPosition", "PatientSex", "PatientAge", "BurnedInAnnotation")
    )
    facts = {"view": view} if view in VIEWS else {}
    if sex in ("M", "F", "O"):
        facts["sex"] = sex
    if re.fullmatch(r"\d{1,3}[DWMY]?", age):
        unit = {"D": 365, "W": 52, "M": 12}.get(age[-1], 1)
        # As in de-identified data everywhere: who is older than 89 is few, and known by it.
        facts["age"] = str(min(int(age.rstrip("DWMY")) // unit, 90))
    if burned_in == "YES":
        facts["burned_in"] = burned_in
    return facts
