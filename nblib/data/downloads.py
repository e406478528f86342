"""Public sets as they are downloaded -> sets in the layout that `datasets` reads.

Three are those of the Med-AD benchmark (rsna, vindr, lag), three those behind the project's own
tables (nih, kermany, fundus_dr), whose splits lie in `data/splits/`. `data/README.md` says how to
get each, and under which terms. Originals are only read.

What a download holds is understood as three things: a table with a row an image

    stem      its name without the end               file     where it lies, NaN where it is missing
    label     0 normal, 1 abnormal, -1 neither       patient  '' unknown

(and part, view, sex, age where the source says them); a table of boxes with stem, x, y, width and
height in pixels of the original, and what else is said of them, or None; and (file, why) of what
is wrong.
"""

import filecmp
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from nblib.data.folders import (
    convert,
    find_images,
    is_there,
    lacking_parts,
    new_set,
    numbered,
    set_summary,
    without_twins,
    write_lists,
)
from nblib.data.split import part_of, read_split
from nblib.files import DatasetError, read_table, root, written_whole

SPLITS = Path(__file__).parents[2] / "data" / "splits"

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


def built(
    data: str, source: str, download: str | Path, split: str | Path = "", size: int = 0
) -> str:
    """For notebooks: `data` where `source` is ''; else the name of its set, made if not there."""
    if source and not is_there(source):
        build(source, download, split=split, size=size)
    return source or data


def build(
    source: str,
    download: str | Path,
    name: str = "",
    split: str | Path = "",
    size: int = 0,
    conversion: str = "benchmark",
    seed: int = 0,
    not_normal: bool = False,
) -> Path:
    """Make the set `data/sets/<name>` of a download, and print what was understood.

    source, and what the folder `download` then holds:
      - rsna: stage_2_train_images/*.dcm, stage_2_train_labels.csv, stage_2_detailed_class_info.csv;
      - vindr: train/*.dicom, train.csv;
      - lag: the folders non_glaucoma and suspicious_glaucoma, image/*.jpg and label/*.txt in each;
      - nih: *.png at any depth, and perhaps Data_Entry_2017*.csv and BBox_List_2017*.csv;
      - kermany: NORMAL/*.jpeg and PNEUMONIA/*.jpeg at any depth;
      - fundus_dr: the photographs at any depth.
    name: of the set; by default that of the source.
    split: a data.json, which is followed exactly. Without one nih, kermany and fundus_dr follow
        theirs in data/splits/, vindr follows the rule of the published split, and for rsna and lag
        `seed` draws one by patient: it is not the published one. Both have the sizes of the
        published splits, in proportion where a download is smaller.
    size: pixels of a side, the aspect not kept; 0 is 512 for rsna and vindr, 256 for nih, 224 for
        kermany and fundus_dr, and leaves the files of lag as they are.
    conversion: of DICOM files, 'benchmark' or 'window', see `dicom`.
    not_normal: when a split of rsna is drawn, whether images of its class 'No Lung Opacity / Not
        Normal' count as abnormal; by default they are left out, as in the benchmark.

    Where a list is followed, a file that is missing, cannot be read, or is not of the class or the
    dimensions that it should be, is an error. Otherwise such files are left out, and listed with
    the reason in left_out.csv. Raises DatasetError, which says all that is wrong and leaves no set,
    and ValueError for a source, a conversion or a switch that there is not.
    """
    if source not in SOURCES:
        raise ValueError(f"source is '{source}', but must be one of {', '.join(SOURCES)}.")
    if not_normal and (source != "rsna" or split):
        raise ValueError("not_normal is for drawing a split of rsna, and for nothing else.")
    if not os.path.isdir(os.path.expanduser(download)):
        raise DatasetError([f"There is no folder '{download}' to build {source} from."])
    kind, download, name = SOURCES[source], Path(download).expanduser(), name or source
    file = Path(split).expanduser() if split else SPLITS / f"{source}.json"
    is_given = bool(split) or source not in COUNTS
    side = size or kind.side
    with new_set(name) as folder:
        table, boxes, wrong = kind.understood(download)
        if is_given:
            table, wrong = _as_listed(table, wrong, file)
        else:
            table, neither = _of_known_label(table, not_normal)
            table["name"] = table["stem"] + kind.suffix
        missing = table["file"].isna()
        wrong += [(Path(stem), "is missing.") for stem in table["stem"][missing]]
        scale = partial(kind.scaled, side=side) if side else None
        table, unusable = convert(
            table[~missing], folder / "images", scale, conversion, kind.quality
        )
        wrong += unusable + _of_other_dimensions(table, kind.dimensions)
        table["patient"] = table["patient"].where(table["patient"] != "", table["header_patient"])
        if is_given:
            said = f"Split: that of {file}."
            if wrong:
                first = f"{download} does not hold all that {file} lists, so no set was written:"
                raise DatasetError([first, *_by_reason(wrong)])
        else:
            table, said = _with_parts(table, source, seed)
            said = neither + said
            table, twins = without_twins(table)
            wrong += twins
            if lacking := lacking_parts(table):
                problems = [f"{download} gives no {part} images." for part in lacking]
                raise DatasetError(problems + _by_reason(wrong))
        table["patient"] = numbered(table["patient"])
        if not side:
            _copy_jpegs(table, folder / "images")
        write_lists(folder, table, wrong, conversion)
        if boxes is not None:
            _write_boxes(folder / "boxes.csv", boxes, table, side)
    here = root() / "data" / "sets" / name
    print(set_summary(download, table, wrong, here), said, sep="\n")
    return here


# What a download holds: the table, the boxes, and what is wrong


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
    return table, _numbers(boxes.rename(columns={"patientId": "stem"})), wrong


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
        table.loc[is_of, "part"] = _dealt(np.ones(is_of.sum(), int), counts)
    table, wrong = _with_files(table, find_images(download / "train"))
    names = ["stem", "class", "reader", *SIDES]
    boxes = _numbers(rows[~none].set_axis(names, axis=1)[["stem", *SIDES, "class", "reader"]])
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
        boxes = _numbers(boxes.assign(stem=_stems(boxes["stem"]))[["stem", *SIDES, "label"]])
    return table, boxes, wrong


def _kermany(download: Path):
    """Kermany's chest X-rays of children: normal and pneumonia, by folder."""
    table, wrong = _with_files(None, find_images(download))
    label_of = {"NORMAL": 0, "PNEUMONIA": 1}
    table["label"] = [label_of.get(file.parent.name, -1) for file in table["file"]]
    # person7_bacteria_12 is of person7; of NORMAL2-IM-0115-0001 the last number is the image's.
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


def _numbers(boxes: pd.DataFrame) -> pd.DataFrame:
    """Boxes with numbers; rows without are of images without a finding, and left out."""
    sides = boxes[SIDES].apply(pd.to_numeric, errors="coerce")
    return boxes.assign(**sides)[sides.notna().all(axis=1)]


def _stems(names: pd.Series) -> pd.Series:
    return names.map(lambda name: Path(name).stem)


def _years(age: str) -> str:
    """Years of '058Y' or '58', at most 90 as in `dicom`; '' of anything else."""
    years = re.fullmatch(r"(\d+)Y?", age.strip())
    return str(min(int(years[1]), 90)) if years else ""


# Parts


def _as_listed(table: pd.DataFrame, wrong: list[tuple[Path, str]], file: Path):
    """A row for each name of a data.json, in its order; and what is wrong with these."""
    rows = []
    for key, names in read_split(file).items():
        part = part_of(key)
        label = {"0": 0, "1": 1}.get(key.split("/")[-1], -1)
        rows += [(name, Path(name).stem, part, label) for name in names]
    listed = pd.DataFrame(rows, columns=["name", "stem", "part", "listed"])
    table = listed.merge(table.drop(columns="part", errors="ignore"), "left", on="stem")
    labels = table["label"].fillna(-1).astype(int)
    other = (table["listed"] >= 0) & (labels >= 0) & (table["listed"] != labels)
    table["label"] = table["listed"]
    stems = set(table["stem"])
    wrong = [(path, why) for path, why in wrong if path.stem in stems]
    words = {0: "normal", 1: "abnormal"}
    wrong += [
        (Path(row.stem), f"is listed as {words[row.label]}, and is not that in the download.")
        for row in table[other].itertuples()
    ]
    return table, wrong


def _of_known_label(table: pd.DataFrame, not_normal: bool):
    """The normal and abnormal images, with `not_normal` the others as abnormal; and what to say."""
    neither = table["label"] == -1
    if not_normal:
        return table.assign(label=table["label"].where(~neither, 1)), ""
    said = f"Neither normal nor abnormal, and left out: {neither.sum()} images.\n"
    return table[~neither].copy(), said if neither.any() else ""


def _with_parts(table: pd.DataFrame, source: str, seed: int):
    """The table with the part of each image, without those that no part takes; and what to say."""
    if source == "vindr":
        said = "Split: by the rule of the published one, from the order of train.csv."
    else:
        table = table.assign(part=_drawn_parts(table, COUNTS[source], seed))
        said = (
            f"Split: drawn with seed {seed}. This is NOT the published split, so numbers do not "
            "compare with published\nones; give the published data.json as `split` for that."
        )
    is_used = table["part"] != ""
    if fewer := sum(sum(counts.values()) for counts in COUNTS[source].values()) - is_used.sum():
        said += f"\nIt has {fewer} images fewer than the published one."
    if not is_used.all():
        said += f"\nIt is full, and does not use {(~is_used).sum()} more."
    return table[is_used], said


def _drawn_parts(table: pd.DataFrame, counts: dict[int, dict[str, int]], seed: int) -> pd.Series:
    """A part for each image, '' where all are full; whoever has an abnormal image is abnormal."""
    patients = table["patient"].where(table["patient"] != "", table["name"])
    is_ill = table.groupby(patients)["label"].transform("max") == 1
    random = np.random.default_rng(seed)
    parts = pd.Series("", table.index)
    for label, wanted in counts.items():
        is_of = is_ill == bool(label)
        images = patients[is_of].value_counts()
        order = random.permutation(sorted(images.index))
        part_of = dict(zip(order, _dealt(images[order].to_numpy(), wanted), strict=True))
        parts[is_of] = patients[is_of].map(part_of)
    return parts


def _dealt(images: np.ndarray, wanted: dict[str, int]) -> np.ndarray:
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


def _of_other_dimensions(table: pd.DataFrame, dimensions: tuple[int, int] | None):
    if dimensions is None:
        return []
    width, height = dimensions
    return [
        (row.file, f"has {row.width} x {row.height} pixels, not {width} x {height}.")
        for row in table.itertuples()
        if (row.width, row.height) != dimensions
    ]


def _copy_jpegs(table: pd.DataFrame, images: Path) -> None:
    """Put the coded pixels of JPEG files in place of those that were decoded and coded again."""
    for row in table.itertuples():
        content = row.file.read_bytes()
        if content.startswith(b"\xff\xd8") and row.name.lower().endswith((".jpg", ".jpeg")):
            with written_whole(images / row.name) as file:
                file.write(_without_headers(content))


def _without_headers(jpeg: bytes) -> bytes:
    """A JPEG file without Exif, comments and the like.

    APP0 and APP14 stay, since they say how colours are coded. (ITU T.81, B.1.1.3.)
    """
    kept, start = [jpeg[:2]], 2
    while (marker := jpeg[start + 1]) != 0xDA:  # the scan: coded pixels to the end
        if jpeg[start] != 0xFF or marker in (0x00, 0xFF):  # what fills the space between segments
            start += 1
            continue
        end = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4])
        if marker != 0xFE and marker not in {*range(0xE1, 0xF0)} - {0xEE}:
            kept.append(jpeg[start:end])
        start = end
    return b"".join([*kept, jpeg[start:]])


def _write_boxes(to: Path, boxes: pd.DataFrame, table: pd.DataFrame, side: int) -> None:
    """boxes.csv of the images of a set, in pixels of its files."""
    of = table[["stem", "name", "width", "height"]]
    of = of.rename(columns={"name": "image", "width": "across", "height": "down"})
    boxes = boxes.merge(of, on="stem")
    for column, length in zip(SIDES, ["across", "down"] * 2, strict=True):
        boxes[column] = (boxes[column] * (side or boxes[length]) / boxes[length]).round(2)
    further = [column for column in boxes if column not in ("stem", "image", "across", "down")]
    with written_whole(to, "w") as file:
        boxes[["image", *further]].to_csv(file, index=False)


def _by_reason(wrong: list[tuple[Path, str]], at_most: int = 100) -> list[str]:
    """A sentence a file; where very many share a reason, their number for the rest."""
    reasons: dict[str, list[Path]] = {}
    for file, why in wrong:
        reasons.setdefault(why, []).append(file)
    sentences = []
    for why, files in reasons.items():
        sentences += [f"{file} {why}" for file in files[:at_most]]
        if len(files) > at_most:
            sentences.append(f"{len(files) - at_most} more of which each {why}")
    return sentences


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
