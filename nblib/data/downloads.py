"""Public sets as they are downloaded -> sets in the layout that `datasets` reads.

Three are those of the Med-AD benchmark (rsna, vindr, lag), three those behind the project's own
tables (nih, kermany, fundus_dr), whose splits lie in `data/splits/`. `data/README.md` says how to
get each, and under which terms; `archives` reads what they hold. Originals are only read.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from nblib.data.archives import COUNTS, SIDES, SOURCES, dealt
from nblib.data.new_set import (
    convert,
    is_there,
    lacking_parts,
    must_be_size,
    new_set,
    numbered,
    set_summary,
    without_twins,
    write_lists,
)
from nblib.data.split import part_of, read_split
from nblib.files import DatasetError, as_text, at_home, root, write_for_people, written_whole

SPLITS = Path(__file__).parents[2] / "data" / "splits"


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
    if size != 0:
        must_be_size(size)
    if not os.path.isdir(os.path.expanduser(download)):
        raise DatasetError([f"There is no folder '{download}' to build {source} from."])
    kind, download, name = SOURCES[source], at_home(download), name or source
    file = at_home(split) if split else SPLITS / f"{source}.json"
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
            said = f"Split: that of {as_text(file)}."
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
        part_of = dict(zip(order, dealt(images[order].to_numpy(), wanted), strict=True))
        parts[is_of] = patients[is_of].map(part_of)
    return parts


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
    write_for_people(to, boxes[["image", *further]], exact=("image",))


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
