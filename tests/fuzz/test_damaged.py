"""Damaged files of every kind: an image or a sentence, a set or sentences, and nothing else.

The seed is fixed; NBLIB_FUZZ sets how many inputs are tried (`make fuzz`: more). `pytest -s` prints
how many of each kind were read and refused.
"""

import io
import json
import os
import shutil
import tempfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from files import LISTS, PLANTED, header_of, write_rows, write_set
from nblib.data import datasets, dicom
from nblib.data.dicom import ImageError
from nblib.data.images import read_image
from nblib.data.labels import load_labels
from nblib.files import DatasetError

INPUTS = int(os.environ.get("NBLIB_FUZZ", 800))
SETS = INPUTS // 5
"""Of the inputs, sets: each takes as long as some twenty images."""


def pictures(random):
    """name -> bytes of a valid small file."""
    grey = random.integers(0, 256, (12, 10), np.uint8)
    deep, colour = grey.astype(np.uint16) * 257, random.integers(0, 256, (12, 10, 4), np.uint8)
    made = {
        "png": (grey, "PNG", {}),
        "deep.png": (deep, "PNG", {}),
        "alpha.png": (colour, "PNG", {}),
        "jpg": (grey, "JPEG", {}),
        "colour.jpg": (colour[..., :3], "JPEG", {}),
        "tif": (deep, "TIFF", {}),
        "lzw.tif": (grey, "TIFF", {"compression": "tiff_lzw"}),
        "big.tif": (deep.astype(">u2"), "TIFF", {}),
        "bmp": (grey, "BMP", {}),
        "gif": (grey, "GIF", {}),
        "webp": (colour, "WEBP", {}),
        "pgm": (grey, "PPM", {}),
        "jp2": (grey, "JPEG2000", {}),
        "tiles.jp2": (grey, "JPEG2000", {"tile_size": (4, 4)}),
    }
    for name, (pixels, kind, how) in made.items():
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, kind, **how)
        yield name, out.getvalue()


def dicoms(random):
    """name -> bytes of a valid small DICOM file, with a header full of what nobody may see."""
    pixels = random.integers(0, 4096, (12, 10), np.uint16)
    syntaxes = {
        "explicit": ExplicitVRLittleEndian,
        "implicit": ImplicitVRLittleEndian,
        "deflated": DeflatedExplicitVRLittleEndian,
        "rle": ExplicitVRLittleEndian,
    }
    for name, syntax in syntaxes.items():
        header = header_of(pixels, syntax, BitsStored=12, HighBit=11, **PLANTED)
        if name == "rle":
            header.compress(RLELossless)
        out = io.BytesIO()
        header.save_as(out)
        yield f"{name}.dcm", out.getvalue()


def flipped(content, random, other):
    content = bytearray(content)
    for at in random.integers(0, len(content), random.integers(1, 9)):
        content[at] = random.integers(0, 256)
    return bytes(content)


def cut(content, random, other):
    return content[: random.integers(0, len(content))]


def zeroed(content, random, other):
    start = random.integers(0, len(content))
    length = min(random.integers(1, 65), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def swapped(content, random, other):
    """The beginning of one file and the rest of another."""
    at = random.integers(2, 200)
    return other[:at] + content[at:]


def doubled(content, random, other):
    start, end = sorted(random.integers(0, len(content), 2))
    return content[:end] + content[start:]


def same(content, random, other):
    return content


DAMAGES = (flipped, flipped, cut, zeroed, swapped, doubled, same)


def must_show(name, damage):
    """Whether a damaged file has to be refused or show what it did: a length or sums betray it."""
    return damage in (cut, same) or (name.endswith("png") and damage in (flipped, zeroed))


@pytest.fixture
def own_temporary(tmp_path, monkeypatch):
    """A temporary folder that has to be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert not os.listdir(folder)


def is_a_sentence(text):
    # A name of an exception alone, or a traceback, is none.
    return "\n" not in text and text.endswith(".") and " " in text and "Traceback" not in text


def printed(counts):
    for kind, outcomes in sorted(counts.items()):
        print(f"{kind:12}", ", ".join(f"{n} {how}" for how, n in sorted(outcomes.items())))


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_image_is_read_or_refused_in_a_sentence(tmp_path, own_temporary):
    random = np.random.default_rng(0)
    valid = [*pictures(random), *dicoms(random)]
    names, shown, counts = [name for name, _ in valid], {}, {}
    for name, content in valid:
        (tmp_path / name).write_bytes(content)
        for conversion in dicom.CONVERSIONS:
            shown[name, conversion] = np.asarray(read_image(tmp_path / name, conversion).image)
    for i in range(INPUTS - SETS):
        name, content = valid[i % len(valid)]
        damage = DAMAGES[random.integers(len(DAMAGES))]
        other = valid[random.integers(len(valid))][1]
        suffix = random.choice([name, *names[:2], names[-1], "x"]) if damage is same else name
        file = tmp_path / f"{i}.{suffix}"
        file.write_bytes(damage(content, random, other))
        outcomes, conversion = counts.setdefault(name, Counter()), dicom.CONVERSIONS[i % 2]
        try:
            with dicom.silent():
                found = read_image(file, conversion)
        except ImageError as error:
            outcomes["refused"] += 1
            assert str(error) == f"{file} {error.why}" and is_a_sentence(error.why), error.why
            assert not any(value in error.why for value in PLANTED.values()), error.why
        else:
            outcomes["read"] += 1
            assert found.image.mode in ("L", "RGB") and np.asarray(found.image).size
            if must_show(name, damage):
                assert np.array_equal(found.image, shown[name, conversion]), (name, damage)
        assert damage is not same or outcomes["read"], name
        file.unlink()
    printed(counts)


VALUES = (None, True, -1, 0, 1.5, 10**400, "", "x", "a\0b", "x" * 5000, "../x", [], {}, [1], [[]])
CELLS = (
    "",
    "x",
    "inf",
    "-inf",
    "nan",
    "1e308",
    "-1",
    "a\0b",
    "x" * 5000,
    '"',
    ",",
    "\n",
    "\r",
    "é",
)


def with_a_value_changed(text, random):
    """JSON with one value or key, at any depth, replaced."""
    content = json.loads(text)
    where = content
    while True:
        keys = list(where) if isinstance(where, dict) else range(len(where))
        key = keys[random.integers(len(keys))]
        deeper = where[key]
        if not isinstance(deeper, (dict, list)) or not deeper or random.random() < 0.3:
            break
        where = deeper
    where[key] = VALUES[random.integers(len(VALUES))]
    return json.dumps(content)


def with_a_cell_changed(text, random):
    rows = [line.split(",") for line in text.splitlines()]
    row = rows[random.integers(len(rows))]
    row[random.integers(len(row))] = CELLS[random.integers(len(CELLS))]
    return "\n".join(map(",".join, rows)) + "\n"


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_set_is_loaded_or_refused_in_sentences(tmp_path, own_temporary):
    random = np.random.default_rng(1)
    whole = write_set(
        tmp_path / "whole", dict.fromkeys(LISTS, 1), 8, boxes=[("test_1_0.png", 1, 1, 4, 4)]
    )
    names = sorted(os.listdir(whole / "images"))
    write_rows(whole / "metadata.csv", ["image", "patient"], [(n, n[:-4]) for n in names])
    write_rows(whole / "lesions.csv", ["image", "kind", "area"], [("test_1_0.png", "a", 0.1)])
    split = json.loads((whole / "data.json").read_text())
    (whole / "data.json").write_text(json.dumps(split | {"size": 8, "conversion": "window"}))
    files, counts = ("data.json", "metadata.csv", "boxes.csv", "lesions.csv"), {}
    for i in range(SETS):
        folder = tmp_path / "set"
        shutil.copytree(whole, folder)
        file = folder / files[i % len(files)]
        content = file.read_bytes()
        if random.random() < 0.4:
            damage = DAMAGES[random.integers(len(DAMAGES) - 1)]
            file.write_bytes(damage(content, random, (whole / files[(i + 1) % 4]).read_bytes()))
        else:
            changed = with_a_value_changed if file.suffix == ".json" else with_a_cell_changed
            # Not write_text, which would make one of all ends of lines.
            file.write_bytes(changed(content.decode(), random).encode())
        outcomes = counts.setdefault(file.name, Counter())
        try:
            load_labels(datasets.load(folder))
            outcomes["loaded"] += 1
        except DatasetError as error:
            outcomes["refused"] += 1
            assert all(map(is_a_sentence, error.problems)), error.problems
            assert len(str(error)) < 5000
        shutil.rmtree(folder)
    printed(counts)
    assert {"loaded", "refused"} <= sum(counts.values(), Counter()).keys()
