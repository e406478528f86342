"""DICOM files made here, in every transfer syntax that radiographs come in."""

import io
import logging
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from files import PLANTED, header_of
from nblib.data import dicom
from nblib.data.dicom import ImageError


@pytest.fixture
def write(tmp_path):
    """write(pixels, ...) -> the path of a DICOM file."""

    def file(pixels, syntax=ExplicitVRLittleEndian, name="image.dcm", **elements):
        header_of(pixels, syntax, **elements).save_as(tmp_path / name)
        return tmp_path / name

    return file


def shades(file, conversion="window"):
    return np.asarray(dicom.read_dicom(file, conversion).image)


def words(values):
    return np.array([*values], np.uint16).tobytes()


def ramp(dtype=np.uint8, low=0, high=255, shape=(16, 16)):
    return np.linspace(low, high, shape[0] * shape[1]).round().astype(dtype).reshape(shape)


def test_eight_bit_pixels_stay_as_they_are(write):
    pixels = ramp(high=200)
    assert np.array_equal(shades(write(pixels)), pixels)
    assert np.array_equal(shades(write(pixels), "benchmark"), pixels)


@pytest.mark.parametrize("conversion", dicom.CONVERSIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_monochrome1_is_the_negative_of_monochrome2(write, dtype, conversion):
    pixels = ramp(dtype, np.iinfo(dtype).min, 255 if dtype == np.uint8 else 4095)
    as_2 = shades(write(pixels), conversion)
    as_1 = shades(write(pixels, PhotometricInterpretation="MONOCHROME1"), conversion)
    assert as_2[0, 0] == 0 and as_2[-1, -1] == 255
    # The benchmark inverts before it scales, so that what is rounded off is on the other side.
    assert np.abs(255 - as_1.astype(int) - as_2).max() <= (conversion == "benchmark")


@pytest.mark.parametrize(("low", "high"), [(-1000, 3000), (-3000, 30000), (-32768, 32767)])
@pytest.mark.parametrize("conversion", dicom.CONVERSIONS)
def test_signed_values_without_a_window_use_their_whole_range(write, conversion, low, high):
    values = ramp(np.int16, low, high)
    expected = np.floor((values - float(low)) / (high - low) * 255)
    assert np.array_equal(shades(write(values), conversion), expected)


def test_twelve_bit_values_without_a_window_use_their_whole_range(write):
    twelve = ramp(np.uint16, 500, 4095)
    elements = dict(BitsStored=12, HighBit=11)
    expected = np.floor((twelve - 500.0) / 3595 * 255)
    assert np.array_equal(shades(write(twelve, **elements)), expected)


def test_a_window_is_the_standards_formula(write):
    """DICOM PS3.3, C.11.2.1.2.1: center and width, on what the modality LUT gives."""
    values = ramp(np.uint16, 0, 4000)
    file = write(
        values, RescaleSlope=2, RescaleIntercept=-1000, RescaleType="US", WindowCenter=1500,
        WindowWidth=2000, BitsStored=12, HighBit=11,
    )  # fmt: skip
    share = (2.0 * values - 1000 - (1500 - 0.5)) / (2000 - 1) + 0.5
    expected = np.floor(np.clip(share, 0, 1) * 255)
    assert np.abs(shades(file).astype(int) - expected).max() <= 1
    assert shades(file).min() == 0 and shades(file).max() == 255
    # The benchmark knows no window.
    assert np.array_equal(shades(file, "benchmark"), np.floor(values / 4000 * 255))


def test_a_window_wider_than_the_values_leaves_them_pale(write):
    values = ramp(np.uint16, 1000, 2000)
    file = write(values, WindowCenter=2048, WindowWidth=4096, BitsStored=12, HighBit=11)
    assert 55 < shades(file).min() < 70 and 115 < shades(file).max() < 130


def test_a_negative_slope_turns_the_greys_round(write):
    values = ramp(np.uint16, 0, 4095)
    window = dict(WindowCenter=2048, WindowWidth=4096)
    file = write(values, RescaleSlope=-1, RescaleIntercept=4095, **window)
    plain = write(values[::-1, ::-1].copy(), name="plain.dcm", BitsStored=12, HighBit=11, **window)
    assert np.abs(shades(file).astype(int) - shades(plain)).max() <= 1


@pytest.mark.parametrize("width", [0, 0.5, None])
def test_a_window_without_a_width_is_none(write, width):
    values = ramp(np.uint16, 0, 4000)
    file = write(values, WindowCenter=100, WindowWidth=width)
    assert np.array_equal(shades(file), shades(write(values, name="plain.dcm")))


@pytest.mark.parametrize(
    "name", ["RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"]
)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300"])
def test_what_is_no_number_to_show_pixels_by_is_refused(tmp_path, name, value):
    header = header_of(ramp(np.uint16, 0, 4000), WindowCenter=2000, WindowWidth=4000)
    with dicom.silent():
        header.add_new(name, "DS", value)
        header.save_as(tmp_path / "image.dcm")
        assert refused(tmp_path / "image.dcm").startswith(f"has a {name} that is no number")


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_takes_no_part_in_the_scale(write, photometric):
    values = ramp(np.int16, 100, 1100, (20, 20))
    padded = values.copy()
    padded[:, :5] = -2000
    file = write(padded, PixelPaddingValue=-2000, PhotometricInterpretation=photometric)
    assert (shades(file)[:, :5] == 0).all()
    plain = write(padded[:, 5:].copy(), name="plain.dcm", PhotometricInterpretation=photometric)
    assert np.array_equal(shades(file)[:, 5:], shades(plain))


def test_eight_bits_under_a_rescale_that_changes_nothing_stay_as_they_are(write):
    pixels = ramp(high=100)
    file = write(pixels, RescaleSlope=1, RescaleIntercept=0)
    assert np.array_equal(shades(file), pixels)


def test_a_file_without_preamble_or_syntax_is_read(tmp_path):
    pixels = ramp()
    header = header_of(pixels, ImplicitVRLittleEndian)
    header.preamble = None
    del header.file_meta
    pydicom.dcmwrite(
        tmp_path / "old.dcm", header, implicit_vr=True, little_endian=True,
        enforce_file_format=False,
    )  # fmt: skip
    assert (tmp_path / "old.dcm").read_bytes()[128:132] != b"DICM"
    assert np.array_equal(shades(tmp_path / "old.dcm"), pixels)


def test_the_first_of_several_windows_counts(write):
    values = ramp(np.uint16, 0, 4000)
    one = write(values, name="one.dcm", WindowCenter=1000, WindowWidth=500)
    two = write(values, name="two.dcm", WindowCenter=[1000, 3000], WindowWidth=[500, 4000])
    assert np.array_equal(shades(one), shades(two))


def test_a_voi_lut_sequence_is_looked_up_and_then_inverted(write):
    values = ramp(np.uint16, 100, 355)
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [256, 100, 8]
    lut.LUTData = words(range(255, -1, -1))
    file = write(
        values, VOILUTSequence=Sequence([lut]), WindowCenter=1, WindowWidth=2,
        PhotometricInterpretation="MONOCHROME1",
    )  # fmt: skip
    # The table inverts, MONOCHROME1 inverts again; the window beside the table is not used.
    assert np.array_equal(shades(file), values - 100)


def test_a_modality_lut_comes_before_the_voi_lut(write):
    values = ramp(np.uint8, 0, 255)
    modality, voi = pydicom.Dataset(), pydicom.Dataset()
    modality.LUTDescriptor, modality.ModalityLUTType = [256, 0, 16], "US"
    modality.LUTData = words(1000 + value for value in range(256))
    voi.LUTDescriptor, voi.LUTData = [256, 1000, 8], words(value // 2 for value in range(256))
    file = write(values, ModalityLUTSequence=Sequence([modality]), VOILUTSequence=Sequence([voi]))
    # What the second table gives at most, 127, is white.
    assert np.array_equal(shades(file), np.floor(values // 2 / 127 * 255))


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
def test_uncompressed_syntaxes_hold_the_same_pixels(write, syntax):
    pixels = ramp(np.uint16, 0, 65535)
    assert np.array_equal(shades(write(pixels, syntax)), np.floor(pixels / 65535 * 255))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_syntaxes_hold_the_same_pixels(tmp_path, syntax, bits):
    dtype = np.uint8 if bits == 8 else np.uint16
    pixels = ramp(dtype, 0, 2**bits - 1, (64, 64))
    header = header_of(pixels, BitsStored=bits, HighBit=bits - 1)
    header.compress(syntax)
    header.save_as(tmp_path / "image.dcm")
    expected = pixels if bits == 8 else np.floor(pixels / (2**bits - 1) * 255)
    assert np.array_equal(shades(tmp_path / "image.dcm"), expected)


def encapsulated(pixels, stream, syntax, **elements):
    header = header_of(pixels, syntax, **elements)
    header.PixelData = encapsulate([stream])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True
    return header


def jpeg(pixels, kind="JPEG", **how):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **how)
    return out.getvalue()


def test_jpeg_holds_what_pillow_reads(tmp_path):
    pixels = ramp(shape=(32, 24))
    stream = jpeg(pixels, quality=90)
    encapsulated(pixels, stream, JPEGBaseline8Bit).save_as(tmp_path / "image.dcm")
    read = np.asarray(Image.open(io.BytesIO(stream)))
    assert np.abs(shades(tmp_path / "image.dcm").astype(int) - read).max() <= 1


def test_lossy_jpeg_2000_is_near(tmp_path):
    pixels = ramp(shape=(64, 64))
    stream = jpeg(pixels, "JPEG2000", irreversible=True, quality_layers=[5], no_jp2=True)
    encapsulated(pixels, stream, JPEG2000).save_as(tmp_path / "image.dcm")
    assert np.abs(shades(tmp_path / "image.dcm").astype(int) - pixels).max() < 12


def test_lossless_jpeg_goes_through_gdcm(tmp_path):
    gdcm = pytest.importorskip("gdcm")
    pixels = ramp(np.uint16, 0, 4095, (32, 24))
    header_of(pixels, BitsStored=12, HighBit=11).save_as(tmp_path / "plain.dcm")
    reader, change = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(tmp_path / "plain.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "image.dcm"))
    assert writer.Write()
    written = pydicom.dcmread(tmp_path / "image.dcm").file_meta.TransferSyntaxUID
    assert written == JPEGLosslessSV1
    expected = np.floor(pixels / 4095 * 255)
    assert np.array_equal(shades(tmp_path / "image.dcm"), expected)


def test_colour_stays_colour(tmp_path, write):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(shades(write(pixels)), pixels)
    smooth = np.stack([ramp(), ramp()[::-1], np.full((16, 16), 90, np.uint8)], -1)
    header = encapsulated(smooth, jpeg(smooth, quality=95, subsampling=0), JPEGBaseline8Bit)
    header.PhotometricInterpretation = "YBR_FULL"
    header.save_as(tmp_path / "ybr.dcm")
    assert np.abs(shades(tmp_path / "ybr.dcm").astype(int) - smooth).mean() < 4


def test_a_palette_is_looked_up(write):
    pixels = np.array([[0, 1], [2, 3]], np.uint8)
    table = {"Red": [0, 255, 0, 9], "Green": [0, 0, 255, 9], "Blue": [7, 0, 0, 9]}
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, values in table.items():
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, 8]
        elements[f"{colour}PaletteColorLookupTableData"] = bytes(values)
    expected = np.stack([np.array(values)[pixels] for values in table.values()], -1)
    assert np.array_equal(shades(write(pixels, **elements)), expected)


def test_view_sex_and_age_are_read_where_they_are_what_dicom_allows(write):
    given = dict(ViewPosition="pa", PatientSex="F", PatientAge="052Y", PatientID="7")
    found = dicom.read_dicom(write(ramp(), **given))
    assert found.facts == {"view": "PA", "sex": "F", "age": "52"} and found.patient == "7"
    assert found.mode == "DICOM, 8 bit, grey"


@pytest.mark.parametrize(
    ("age", "years"),
    [("018M", "1"), ("52", "52"), ("089Y", "89"), ("090Y", "90"), ("107Y", "90"), ("400D", "1"),
     ("", None), ("old", None)],
)  # fmt: skip
def test_ages_are_whole_years_up_to_90(write, age, years):
    assert dicom.read_dicom(write(ramp(), PatientAge=age)).facts.get("age") == years


def test_a_name_in_the_wrong_place_is_no_view_and_no_sex(write):
    file = write(ramp(), ViewPosition="PLANTED", PatientSex="JANE", PatientAge="19011231")
    assert dicom.read_dicom(file).facts == {}


def refused(file):
    with pytest.raises(ImageError) as error:
        dicom.read_dicom(file)
    assert str(error.value) == f"{file} {error.value.why}"
    return error.value.why


def test_what_is_no_single_image_is_refused_in_a_sentence(tmp_path, write):
    header = header_of(ramp(), **PLANTED)
    del header.PixelData
    header.save_as(tmp_path / "report.dcm")
    assert "without PixelData" in refused(tmp_path / "report.dcm")
    frames = header_of(np.zeros((3 * 16, 16), np.uint8), NumberOfFrames=3, Rows=16, **PLANTED)
    frames.save_as(tmp_path / "frames.dcm")
    assert "3 frames" in refused(tmp_path / "frames.dcm")
    huge = header_of(ramp(), Rows=60000, Columns=60000, **PLANTED)
    huge.save_as(tmp_path / "huge.dcm")
    assert refused(tmp_path / "huge.dcm") == dicom.TOO_LARGE


@pytest.mark.parametrize("conversion", dicom.CONVERSIONS)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_one_bit_is_black_or_white(write, photometric, conversion):
    bits = np.random.default_rng(0).integers(0, 2, (16, 16), np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    file = write(
        bits, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed,
        PhotometricInterpretation=photometric,
    )  # fmt: skip
    white = 1 if photometric == "MONOCHROME2" else 0
    assert np.array_equal(shades(file, conversion), np.where(bits == white, 255, 0))


@pytest.mark.parametrize("conversion", dicom.CONVERSIONS)
@pytest.mark.parametrize("bits", [5, 10, 12])
def test_colours_of_few_bits_use_the_whole_range(write, bits, conversion):
    most = 2**bits - 1
    dtype = np.uint8 if bits < 8 else np.uint16
    stored = ramp(dtype, 0, most, (16, 48)).reshape(16, 16, 3)
    allocated = 8 * stored.itemsize
    file = write(
        stored, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB",
        BitsAllocated=allocated, BitsStored=bits, HighBit=bits - 1,
    )  # fmt: skip
    assert np.array_equal(shades(file, conversion), stored * 255.0 // most)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("high", [11, 13, 15])
def test_bits_that_lie_higher_in_their_word_are_shifted_down(write, dtype, high):
    stored = ramp(dtype, 0 if dtype == np.uint16 else -2000, 2000)
    spare = high - 11
    word = (stored.astype(int) & 0xFFF) << spare
    # What lies below and above is something else, such as an overlay.
    noise = np.random.default_rng(0).integers(0, 2**16, stored.shape) & ~(0xFFF << spare)
    window = dict(BitsStored=12, WindowCenter=0, WindowWidth=3000)
    file = write((word | noise).astype(np.uint16), HighBit=high, **window,
                 PixelRepresentation=int(dtype == np.int16))  # fmt: skip
    plain = write(stored, name="plain.dcm", HighBit=11, **window)
    assert np.array_equal(shades(file), shades(plain))


@pytest.mark.parametrize(("stored", "high"), [(12, 7), (12, 16), (12, 400), (0, 0), (0, None)])
def test_bits_that_cannot_lie_where_they_are_said_to_are_refused(write, stored, high):
    assert "HighBit" in refused(write(ramp(np.uint16), BitsStored=stored, HighBit=high))


def test_bits_of_compressed_pixels_lie_where_the_standard_says(tmp_path):
    header = header_of(ramp(np.uint16), BitsStored=12, HighBit=11)
    header.compress(RLELossless)
    header.HighBit = 15
    header.save_as(tmp_path / "image.dcm")
    assert "HighBit" in refused(tmp_path / "image.dcm")


@pytest.mark.parametrize(
    "elements",
    [dict(Rows=6000, Columns=6000), dict(SamplesPerPixel=60000, PlanarConfiguration=0),
     dict(BitsAllocated=64, BitsStored=64, HighBit=63), dict(Columns=17)],
)  # fmt: skip
def test_more_pixels_than_the_file_holds_are_refused(write, elements):
    assert refused(write(ramp(), **elements)) == (
        "is cut off: it holds fewer pixels than its header says."
    )


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000, RLELossless])
def test_a_compressed_image_larger_than_its_header_says_is_not_decoded(
    tmp_path, syntax, monkeypatch
):
    if syntax == RLELossless:
        stream = words([1, 0, 64] + 29 * [0]) + b"\x81\0" * 1000
    elif syntax == JPEGLSLossless:
        large = header_of(np.zeros((64, 64), np.uint8))
        large.compress(syntax)
        stream = next(generate_frames(large.PixelData, number_of_frames=1))
    else:
        kind = ("JPEG2000", dict(no_jp2=True)) if syntax == JPEG2000 else ("JPEG", {})
        stream = jpeg(np.zeros((64, 64), np.uint8), kind[0], **kind[1])
    encapsulated(ramp(), stream, syntax).save_as(tmp_path / "image.dcm")
    monkeypatch.setattr(dicom, "_pixels", lambda *_: pytest.fail("decoded"))
    assert "of another size" in refused(tmp_path / "image.dcm")


def test_a_deflated_file_is_not_inflated_beyond_the_largest_image(write, monkeypatch):
    file = write(ramp(shape=(64, 64)), DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr(dicom, "MOST_PIXELS", 64 * 64)
    assert dicom.read_dicom(file)
    bomb = header_of(ramp(shape=(64, 64)), DeflatedExplicitVRLittleEndian)
    bomb.add_new(0x00091001, "OB", bytes(6 * 64 * 64))
    bomb.save_as(file)
    assert refused(file) == dicom.TOO_LARGE


@pytest.mark.parametrize(("word", "facts"), [("YES", {"burned_in": "YES"}), ("NO", {}), ("J", {})])
def test_text_that_is_burned_in_is_told_of(write, word, facts):
    assert dicom.read_dicom(write(ramp(), BurnedInAnnotation=word)).facts == facts


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_a_file_that_is_cut_off_is_refused_and_no_header_value_is_told(
    tmp_path, syntax, share, capfd
):
    pixels = np.random.default_rng(0).integers(0, 2**16, (64, 64), np.uint16)
    header = header_of(pixels, **PLANTED)
    if syntax.is_compressed:
        header.compress(syntax)
    header.save_as(tmp_path / "whole.dcm")
    content = (tmp_path / "whole.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(content[: int(share * len(content))])
    with dicom.silent():
        why = refused(tmp_path / "cut.dcm")
    told = why + "".join(capfd.readouterr())
    assert why and not any(value in told for value in PLANTED.values())


def test_damaged_header_values_are_told_to_nobody(write, capfd):
    """pydicom warns of values that are not valid, quoting them."""
    file = write(ramp(), **PLANTED)
    content = file.read_bytes().replace(b"19011231", b"PLANTED!")
    file.write_bytes(content)
    with dicom.silent():
        dicom.read_dicom(file)
        pydicom.dcmread(file).PatientBirthDate  # noqa: B018  the value is parsed here
        logging.getLogger("pydicom").error("PLANTED")
        warnings.warn("PLANTED", stacklevel=1)
    assert "PLANTED" not in "".join(capfd.readouterr())


def test_a_file_that_only_begins_as_dicom_is_refused(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 200)
    (tmp_path / "b.dcm").write_bytes(b"\0" * 128 + b"DICM")
    assert refused(tmp_path / "a.dcm") and refused(tmp_path / "b.dcm")
