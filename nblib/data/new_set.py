"""A set in the making: images written anew, lists, and what is said of it.

It is a table with a row an image:

    file      where the original lies                name   what it is called in the set
    part      normal, unlabeled, test, or '' to be drawn
    label     0 normal, 1 abnormal, -1 unknown       patient '' unknown

Images are written without headers, as 8-bit PNG (or JPEG, where a split names them so). A new set
appears whole or not at all.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from PIL import Image

from nblib.data.dicom import BURNED_IN
from nblib.data.drawn_sets import DRAWN
from nblib.data.images import IMAGE_SUFFIXES, ImageError, Read, pixel_digest, read_all
from nblib.files import (
    DatasetError,
    as_text,
    no_formula,
    passing_folder,
    root,
    some,
    write_for_people,
    write_json,
    written_whole,
)
from nblib.progress import progress

FACTS = ["view", "sex", "age"]
"""Further columns of metadata.csv: what DICOM headers or a download's tables say of an image."""


def is_there(name: str) -> bool:
    """Whether there is a set of that name, which is then said to be taken as it is."""
    here = root() / "data" / "sets" / name
    is_there = os.path.exists(here)  # false of what can be no name
    if is_there:
        print(f"{here} is there, and is taken as it is: choose another name, or move it.")
    return is_there


def must_be_size(size) -> None:
    """Raise ValueError where a size is no whole number of pixels."""
    if type(size) is not int or size < 1:
        raise ValueError(f"size is {size!r}, but must be a whole number of pixels, at least 1.")


@contextlib.contextmanager
def new_set(name: str) -> Iterator[Path]:
    """A temporary folder that becomes `data/sets/<name>` when the block ends well.

    Raises DatasetError where there is such a set, or the name is none of a folder.
    """
    here = root() / "data" / "sets" / name
    is_name = re.fullmatch(r"\w[\w .-]{0,59}", name) and name not in DRAWN
    # Files are called by it, with more behind it, and 255 bytes is the longest name of a file.
    if not is_name or len(name.encode()) > 200:
        raise DatasetError([f"'{some([name])}' is no name for a set: give it one such as my_set."])
    with passing_folder(here.parent, name) as folder:
        if here.exists():  # perhaps made by another, while this one waited
            raise DatasetError([f"There is a set {here}: choose another name."])
        (folder / "images").mkdir()
        yield folder
        folder.chmod(0o755)
        folder.rename(here)


def convert(table: pd.DataFrame, images: Path, size, conversion: str, quality: int = 90):
    """Write the images of `table` into a folder; returns the table of those, and (file, why).

    size: see `prepare`, or a function of the image, such as of a crop. Rows without a `name` get
    one: that of the file, with a number where two files share it. To the table come
    digest (of the pixels in grey, as `datasets.load` compares them), width, height, mode,
    header_patient, and view, sex, age, burned_in where a DICOM header has them.
    """
    table = table.reset_index(drop=True)
    if "name" not in table:
        table["name"] = _names(list(table["file"]))
    name_of = dict(zip(table["file"], table["name"], strict=True))

    def write(file: Path, found: Read) -> dict:
        image = size(found.image) if callable(size) else _reduced(found.image, size)
        image.info = {}  # profiles and comments, which would be written too
        with written_whole(images / name_of[file]) as out:
            is_jpeg = name_of[file].lower().endswith((".jpg", ".jpeg"))
            # Fast rather than small: level 1 is a third of the time of Pillow's 6.
            how = dict(quality=quality) if is_jpeg else dict(compress_level=1)
            image.save(out, "JPEG" if is_jpeg else "PNG", **how)
        width, height = found.image.size
        return {
            "digest": pixel_digest(image.convert("L")),
            "width": width,
            "height": height,
            "mode": found.mode,
            "header_patient": found.patient,
        } | found.facts

    written = read_all(list(table["file"]), conversion, write)
    rows, left_out = [], []
    for i, row in zip(progress(len(table), "reading images"), written, strict=True):
        if isinstance(row, ImageError):
            left_out.append((table["file"][i], row.why))
        else:
            rows.append({"file": table["file"][i]} | row)
    columns = ["file", "digest", "width", "height", "mode", "header_patient"]
    facts = pd.DataFrame(rows, columns=None if rows else columns)
    return table.merge(facts, on="file"), left_out


def _names(files: list[Path]) -> list[str]:
    """A name in the set for each file: its own, with a number from the second of a name on.

    Where a spreadsheet would take it for a formula, there is a '_' before it.
    """
    names, used, last = [], set(), {}
    for file in files:
        stem = file.stem if file.suffix.lower() in IMAGE_SUFFIXES else file.name
        stem = no_formula(as_text(stem), "_").encode()[:100].decode(errors="ignore")
        name, number = stem, last.get(stem.lower(), 1)
        while name.lower() in used:
            number += 1
            name = f"{stem}_{number}"
        last[stem.lower()] = number
        used.add(name.lower())
        names.append(f"{name}.png")
    return names


def _reduced(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or max(image.size) <= size:
        return image
    share = size / max(image.size)
    width, height = (max(1, round(side * share)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)


def numbered(patients: pd.Series) -> pd.Series:
    """Patients by number, in the order of what they are called; each '' is one of its own."""
    known = sorted(set(patients) - {""})
    total = len(known) + int((patients == "").sum())
    digits = len(str(total))
    number = {patient: f"{i:0{digits}}" for i, patient in enumerate(known, 1)}
    alone = iter(range(len(known) + 1, total + 1))
    return patients.map(lambda p: number[p] if p else f"{next(alone):0{digits}}")


def without_twins(table: pd.DataFrame):
    """Of images with the same pixels the first of test, of the known normals, of the others.

    None where one is called normal and the other abnormal. Returns the table and (file, why).
    """
    rank = table["part"].map({"test": 0, "normal": 1}).fillna(2)
    first = table.assign(rank=rank).sort_values("rank", kind="stable").drop_duplicates("digest")
    twin_of = first.set_index("digest")["file"]
    labels = table["label"].where(table["label"] >= 0).groupby(table["digest"]).nunique()
    torn = table["digest"].map(labels) > 1
    left_out = [
        (row.file, "has the same pixels as another, which is called otherwise.")
        for row in table[torn].itertuples()
    ]
    twins = ~torn & ~table.index.isin(first.index)
    left_out += [
        (row.file, f"has the same pixels as {as_text(twin_of[row.digest].name)}.")
        for row in table[twins].itertuples()
    ]
    return table[~torn & ~twins], left_out


def lacking_parts(table: pd.DataFrame, alone: bool = False) -> list[str]:
    """The parts that must not be empty, and are; with known normals `alone` one part may be."""
    parts = {"normal": "known normal"} | ({} if alone else {"unlabeled": "unlabeled"})
    return [word for part, word in parts.items() if part not in set(table["part"])]


def write_lists(
    folder: Path, table: pd.DataFrame, left_out: list[tuple[Path, str]], conversion: str
) -> None:
    """data.json, metadata.csv and left_out.csv of a set; lists keep the order of the table.

    Where the labels of a part are not all known, or all the same, they are left out. Images that
    are not in the table are deleted.
    """

    def names(part: str, label: int | None = None) -> list[str]:
        rows = table["part"] == part
        return list(table["name"][rows if label is None else rows & (table["label"] == label)])

    def by_label(part: str) -> list[str] | dict[str, list[str]]:
        known = set(table["label"][table["part"] == part]) == {0, 1}
        return {"0": names(part, 0), "1": names(part, 1)} if known else names(part)

    train = {"0": names("normal"), "unlabeled": by_label("unlabeled")}
    split = {"train": train, "test": by_label("test")}
    if table["mode"].str.startswith("DICOM").any():
        split["conversion"] = conversion
    write_json(folder / "data.json", split)
    columns = {"name": "image", "patient": "patient"} | {f: f for f in FACTS if f in table}
    metadata = table[[*columns]].rename(columns=columns).fillna("")
    write_for_people(folder / "metadata.csv", metadata, exact=("image",))
    write_for_people(folder / "left_out.csv", of_files(left_out, "why"))
    for other in set(os.listdir(folder / "images")) - set(table["name"]):
        os.unlink(folder / "images" / other)


def of_files(rows, what: str) -> pd.DataFrame:
    """A table with the column file and one more: what is said of each. It names paths."""
    return pd.DataFrame([(as_text(f), said) for f, said in rows], columns=["file", what])


def listed(left_out: list[tuple[Path, str]], at_most: int = 10) -> list[str]:
    """A line for each file that was left out, as far as one wants to read them."""
    lines = [f"{as_text(file)[:300]} {why}" for file, why in left_out[:at_most]]
    return lines + [f"and {len(left_out) - at_most} more"] * (len(left_out) > at_most)


def doubts(table: pd.DataFrame) -> list[str]:
    """What may have been misunderstood."""
    lines, of_one = [], table["patient"].value_counts()
    if len(of_one) and of_one.iloc[0] > max(10, len(table) / 4):
        lines.append(f"{of_one.iloc[0]} of {len(table)} images are of one patient: is that so?")
    if "moved" in table and (n := int(table["moved"].sum())):
        lines.append(f"{n} known normals moved to the mix, where their patients have images.")
    if "alone" in table and (n := int(table["alone"].sum())):
        lines.append(f"{n} images name no patient: each is taken for the only one of its patient.")
    if "burned_in" in table and (n := int(table["burned_in"].notna().sum())):
        lines.append(f"{BURNED_IN} {n}.")
    if table["mode"].str.contains("used").any():
        lines.append("Pictures that use fewer than 16 bits of 16 come out nearly black: hand over "
                     "8 bits, or DICOM.")  # fmt: skip
    return lines


def set_summary(
    source: Path, table: pd.DataFrame, left_out: list[tuple[Path, str]], to: Path
) -> str:
    """What was understood of a source, in words."""
    lines = [f"{as_text(source)}:"]
    for part, word in {"normal": "known normal", "unlabeled": "unlabeled", "test": "test"}.items():
        rows = table[table["part"] == part]
        kinds = {label: int((rows["label"] == label).sum()) for label in (0, 1, -1)}
        words = zip(("normal", "abnormal", "of unknown label"), kinds.values(), strict=True)
        said = ", ".join(f"{count} {kind}" for kind, count in words if count)
        said = f" ({said})" if part != "normal" and len(rows) else ""
        lines.append(f"  {word}: {len(rows)} images of {rows['patient'].nunique()} patients{said}")
    sizes = table["width"].astype(str) + " x " + table["height"].astype(str)
    lines += [f"  sizes: {_most(sizes)}", f"  modes: {_most(table['mode'])}"]
    lines += [f"  {doubt}" for doubt in doubts(table)]
    if set(table["label"][table["part"] == "test"]) != {0, 1}:
        lines.append("  no normal and abnormal test images to compare: scores, and no AUC")
    if left_out:
        lines.append(f"Left out, and listed in {to / 'left_out.csv'}: {len(left_out)} files")
        lines += [f"  {line}" for line in listed(left_out)]
    lines.append(f"Written to {to}; the originals are as they were.")
    return "\n".join(lines)


def _most(values: pd.Series) -> str:
    counts = values.value_counts()
    said = ", ".join(f"{value} ({n})" for value, n in counts.head(3).items())
    return said + (f" and {len(counts) - 3} others" if len(counts) > 3 else "")
