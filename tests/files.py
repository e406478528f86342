"""Files that tests write: sets in the layout of Med-AD, DICOM."""

import contextlib
import csv
import json
import resource
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from nblib.files import digest

LISTS = {"train/0": 4, "train/unlabeled/0": 3, "train/unlabeled/1": 3, "test/0": 3, "test/1": 3}

PLANTED = {
    "PatientName": "Planted^Name",
    "PatientID": "PLANTED-ID",
    "PatientBirthDate": "19011231",
    "InstitutionName": "Planted Hospital",
    "ReferringPhysicianName": "Planted^Doctor",
    "StudyDate": "20010203",
    "AccessionNumber": "PLANTED-7",
}


def write_set(
    folder, counts=None, size=16, images="images", seed=0, patients=None, boxes=None, masks=None
) -> Path:
    """Write random grey PNGs in the layout of Med-AD.

    counts: images a list, by keys such as 'train/unlabeled/0'. patients: {image: patient};
    boxes: rows (image, x, y, width, height); masks: {file name: array}. Images are named
    normal_0.png, mixed_0_0.png, mixed_1_0.png, test_0_0.png, test_1_0.png and so on.
    """
    random = np.random.default_rng(seed)
    stems = dict(zip(LISTS, ("normal", "mixed_0", "mixed_1", "test_0", "test_1"), strict=True))
    split = {"train": {"0": [], "unlabeled": {"0": [], "1": []}}, "test": {"0": [], "1": []}}
    (folder / images).mkdir(parents=True)
    for key, count in (LISTS | (counts or {})).items():
        names = split
        for word in key.split("/"):
            names = names[word]
        names += [f"{stems[key]}_{i}.png" for i in range(count)]
        for name in names:
            pixels = random.integers(0, 256, (size, size), np.uint8)
            Image.fromarray(pixels).save(folder / images / name)
    (folder / "data.json").write_text(json.dumps(split))
    if patients:
        write_rows(folder / "metadata.csv", ["image", "patient"], patients.items())
    if boxes:
        write_rows(folder / "boxes.csv", ["image", "x", "y", "width", "height"], boxes)
    for name, mask in (masks or {}).items():
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / "masks" / name)
    return folder


def write_rows(file, header, rows):
    with open(file, "w", newline="") as out:
        csv.writer(out).writerows([header, *rows])


def header_of(pixels, syntax=ExplicitVRLittleEndian, **elements):
    """A data set of grey (H, W) or colour (H, W, 3) pixels, with further elements."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    header = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID = meta.MediaStorageSOPClassUID
    header.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    header.Rows, header.Columns = pixels.shape[:2]
    header.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    header.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        header.PlanarConfiguration = 0
    header.BitsAllocated = header.BitsStored = 8 * pixels.itemsize
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    header.PixelData = pixels.tobytes()
    header["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    for name, value in elements.items():
        setattr(header, name, value)
    return header


def folder_digest(folder):
    """A digest of the names and the bytes of all files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest(*(str(path).encode() + path.read_bytes() for path in files))


@contextlib.contextmanager
def full_disk(room):
    """No file can grow over so many bytes, as on a disk that is full. (Python ignores SIGXFSZ.)"""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def all_bytes(folder):
    """The content of every file in a folder, also of temporary ones, by path."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
