"""What six public archives hold, once downloaded: `SOURCES`, a reader each.

A reader returns three things: a table with a row an image

    stem      its name without the end               file     where it lies, NaN where it is missing
    label     0 normal, 1 abnormal, -1 neither       patient  '' unknown

(and part, view, sex, age where the archive says them); a table of boxes with stem, x, y, width and
height in pixels of the original, and what else is said of them, or None; and (file, why) of what
is wrong.
"""

import filecmp
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from nblib.data.folders import find_images
from nblib.files import DatasetError, read_table, some

COUNTS = {
    "rsna": {
        0: {"normal": 3851, "unlabeled": 4000, "test": 1000},
        1: {"unlabeled": 5012, "test": 1000},
    },
    "vindr": {
        0: {"normal": 4000, "unlabeled": 5606, "test": 1000},
        1: {"unlabeled": 3394, "test": 1000},
    },
    "lag": {
        0: {"normal": 1500, "unlabeled": 832, "test": 811},
        1: {"unlabeled": 900, "test": 811},
    },
}
"""Images by source, label and part in the published splits, which the thesis uses."""

ONE_PERSON = {
    "041": "040", "042": "040", "132": "104", "155": "058", "237": "067", "275": "107", "290": "107"
}  # fmt: skip
"""Patients of fundus_dr under a second number: the split in data/splits/ takes them for one."""

SIDES = ["x", "y", "width", "height"]


def _rsna(download: Path):
    """RSNA Pneumonia Detection Challenge: normal is 'Normal', abnormal is 'Lung Opacity'."""
    boxes = _columns(download / "stage_2_train_labels.csv", ["patientId", *SIDES])
    classes = _columns(download / "stage_2_detailed_class_info.csv", ["patientId", "class"])
    # Both have a row a box, so that an image stands in several.
    class_of = classes.drop_duplicates("patientId").set_index("patientId")["class"]
    table = pd.DataFrame({"stem": boxes["patientId"].unique()})
    label_of = {"Normal": 0, "Lung Opacity": 1}
    table["label"] = [label_of.get(word, -1) for word in table["stem"].map(class_of)]
    table, wrong = _with_files(table, find_images(download / "stage_2_train_images"))
    boxes = boxes.rename(columns={"patientId": "stem"})
    return table, _numbers(boxes, download / "stage_2_train_labels.csv"), wrong


def _vindr(download: Path):
    """VinDr-CXR: normal where all readers say 'No finding', abnormal where none does.

    The published split deals images out in the order in which train.csv first names them.
    """
    ends = ["x_min", "y_min", "x_max", "y_max"]
    rows = _columns(download / "train.csv", ["image_id", "class_name", "rad_id", *ends])
    none = rows["class_name"] == "No finding"
    readers = none.groupby(rows["image_id"], sort=False).agg(["all", "any"])
    labels = np.select([readers["all"], ~readers["any"]], [0, 1], -1)
    table = pd.DataFrame({"stem": readers.index, "label": labels, "part": ""})
    for label, counts in COUNTS["vindr"].items():
        is_of = table["label"] == label
        table.loc[is_of, "part"] = dealt(np.ones(is_of.sum(), int), counts)
    table, wrong = _with_files(table, find_images(download / "train"))
    names = ["stem", "class", "reader", *SIDES]
    boxes = rows[~none].set_axis(names, axis=1)[["stem", *SIDES, "class", "reader"]]
    boxes = _numbers(boxes, download / "train.csv")
    boxes["width"], boxes["height"] = boxes["width"] - boxes["x"], boxes["height"] - boxes["y"]
    return table, boxes, wrong


def _lag(download: Path):
    """LAG: the class of an image is its folder's, and its label/*.txt has to agree."""
    files = [file for file in find_images(download) if file.parent.name == "image"]
    table, wrong = _with_files(None, files)
    label_of, labels = {"non_glaucoma": 0, "suspicious_glaucoma": 1}, []
    for file in table["file"]:
        folder = file.parent.parent
        label, text = label_of.get(folder.name, -1), folder / "label" / f"{file.stem}.txt"
        if label == -1:
            wrong.append((file, "lies in neither non_glaucoma nor suspicious_glaucoma."))
        elif text.is_file() and text.read_text(errors="replace").strip() != str(label):
            wrong.append((file, f"has another label in label/{text.name}."))
            label = -1
        labels.append(label)
    return table.assign(label=labels), None, wrong


def _nih(download: Path):
    """NIH ChestX-ray8 and 14: normal is 'No Finding', abnormal has a pneumonia."""
    table, wrong = _with_files(None, find_images(download))
    table["patient"] = table["stem"].str.split("_").str[0]
    for file in sorted(download.glob("Data_Entry_2017*.csv"))[-1:]:
        names = {
            "Image Index": "stem", "Finding Labels": "findings", "View Position": "view",
            "Patient Gender": "sex", "Patient Age": "age",
        }  # fmt: skip
        entries = _columns(file, list(names)).rename(columns=names)
        entries["stem"] = _stems(entries["stem"])
        entries["age"] = entries["age"].map(_years)
        table = table.merge(entries.drop_duplicates("stem"), "left", on="stem")
        findings = table["findings"].fillna("")
        ill = findings.str.split("|").map(lambda found: "Pneumonia" in found)
        table["label"] = np.select([findings == "No Finding", ill], [0, 1], -1)
    boxes = None
    for file in sorted(download.glob("BBox_List_2017*.csv"))[-1:]:
        # Its header calls the sides 'Bbox [x', 'y', 'w' and 'h]'; empty columns follow.
        boxes = read_table(file).iloc[:, :6].set_axis(["stem", "label", *SIDES], axis=1)
        boxes = boxes.assign(stem=_stems(boxes["stem"]))[["stem", *SIDES, "label"]]
        boxes = _numbers(boxes, file)
    return table, boxes, wrong


def _kermany(download: Path):
    """Kermany's chest X-rays of children: normal and pneumonia, by folder."""
    table, wrong = _with_files(None, find_images(download))
    label_of = {"NORMAL": 0, "PNEUMONIA": 1}
    table["label"] = [label_of.get(file.parent.name, -1) for file in table["file"]]
    # person7_bacteria_12 is of person7; of NORMAL2-IM-0115-0001 the last number is the image's.
    # IM-0429-0001 and IM-0429-0001-0001 are two children by this rule; their films are no more
    # alike, in features of a pretrained network, than those of neighbouring numbers.
    parts = table["stem"].str.extract(r"^(person\d+)_|^(.+)-\d+$")
    table["patient"] = parts[0].fillna(parts[1]).fillna(table["stem"])
    return table, None, wrong


def _fundus_dr(download: Path):
    """Rahim's photographs of the eye, called such as Patient012_L."""
    table, wrong = _with_files(None, find_images(download))
    numbers = table["stem"].str.extract(r"^Patient(\d+)_")[0]
    table["patient"] = numbers.fillna(table["stem"]).replace(ONE_PERSON)
    return table, None, wrong


def _with_files(table: pd.DataFrame | None, files: list[Path]):
    """A table, by default with a row a file, with the files of its stems; and the doubtful ones."""
    found, wrong = {}, []
    for file in files:
        first = found.setdefault(file.stem, file)
        # Some archives hold a second copy of themselves.
        if first != file and not filecmp.cmp(first, file, shallow=False):
            wrong.append((file, f"is not the same as {first}."))
    if table is None:
        table = pd.DataFrame({"stem": pd.Series(list(found), dtype=str), "label": -1})
    return table.assign(file=table["stem"].map(found).astype(object), patient=""), wrong


def _columns(file: Path, columns: list[str]) -> pd.DataFrame:
    if not file.is_file():
        raise DatasetError([f"{file} is missing."])
    table = read_table(file)
    if not set(columns) <= set(table):
        needed, has = ", ".join(columns), ", ".join(table)
        raise DatasetError([f"{file} needs the columns {needed}; it has {has}."])
    return table[columns]


def _numbers(boxes: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The boxes of a file, with numbers; rows without are of images without a finding, left out.

    Raises DatasetError where something else than a number stands there.
    """
    sides = boxes[SIDES].apply(pd.to_numeric, errors="coerce")
    is_odd = (boxes[SIDES].map(str.strip) != "") & ~np.isfinite(sides)
    odd = boxes[SIDES].to_numpy()[is_odd.to_numpy()]
    if len(odd):
        raise DatasetError([f"{file} has boxes with what is no number: {some(list(odd))}."])
    return boxes.assign(**sides)[sides.notna().all(axis=1)]


def _stems(names: pd.Series) -> pd.Series:
    return names.map(lambda name: Path(name).stem)


def _years(age: str) -> str:
    """Years of '058Y' or '58', at most 90 as in `dicom`; '' of anything else."""
    years = re.fullmatch(r"(\d+)Y?", age.strip())
    return str(min(int(years[1]), 90)) if years else ""


def dealt(images: np.ndarray, wanted: dict[str, int]) -> np.ndarray:
    """A part for each patient, in order, by how many images each has; '' where all are full.

    wanted: images of each part, which are fewer in proportion where there are fewer in all.
    """
    share = min(1, images.sum() / sum(wanted.values()))
    ends = np.round(np.cumsum(list(wanted.values())) * share)
    before = np.cumsum(images) - images
    return np.array([*wanted, ""])[np.searchsorted(ends, before, side="right")]


# Images and boxes


def _bilinear(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BILINEAR)


def _grey(image: Image.Image, side: int) -> Image.Image:
    return image.convert("L").resize((side, side), Image.Resampling.LANCZOS)


def _eye(image: Image.Image, side: int) -> Image.Image:
    """The round field of a photograph of 3872 x 2592, with black above and below, as a square."""
    square = image.reduce(4).crop((55, -61, 825, 709))
    return square.resize((side, side), Image.Resampling.LANCZOS)


class Source(NamedTuple):
    """What understands a download, and how its images become those of the set.

    suffix: of names in the set where no list says them; side: pixels, 0 for files as they are;
    quality: of JPEG; dimensions: of every original.
    """

    understood: Callable[[Path], tuple]
    suffix: str
    scaled: Callable[[Image.Image, int], Image.Image]
    side: int
    quality: int = 90
    dimensions: tuple[int, int] | None = None


SOURCES = {
    "rsna": Source(_rsna, ".png", _bilinear, 512),
    "vindr": Source(_vindr, ".png", _bilinear, 512),
    "lag": Source(_lag, ".jpg", _bilinear, 0),
    "nih": Source(_nih, ".jpg", _grey, 256, 90, (1024, 1024)),
    "kermany": Source(_kermany, ".jpg", _grey, 224, 88),
    "fundus_dr": Source(_fundus_dr, ".jpg", _eye, 224, 90, (3872, 2592)),
}
