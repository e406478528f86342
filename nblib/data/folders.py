"""Any folder of images, or a csv of them -> a set in the layout that `datasets` reads.

`prepare` is for images of one's own; `downloads` builds the public sets. Both go through the table
that `new_set` describes. Originals are only read.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from nblib.data.drawn_sets import DRAWN
from nblib.data.images import may_be_image
from nblib.data.new_set import (
    convert,
    doubts,
    is_there,
    lacking_parts,
    listed,
    must_be_size,
    new_set,
    numbered,
    of_files,
    set_summary,
    without_twins,
    write_lists,
)
from nblib.data.split import checked_settings
from nblib.files import DatasetError, as_text, at_home, read_table, root, some, write_for_people
from nblib.progress import say

NORMAL_WORDS, ABNORMAL_WORDS = ("0", "0.0", "normal"), ("1", "1.0", "abnormal")
NONE = "none"
"""In place of the folder of unlabeled images: there are none."""

NOBODY = ("", "na", "n/a", "nan", "none", "unknown", "anon", "anonymous", "anonymized")
"""What headers and tables call a patient who is not known."""


def prepare(
    source: str | Path,
    name: str,
    unlabeled: str | Path = "",
    test: str | Path = "",
    size: int | None = None,
    patient: str = "",
    conversion: str = "window",
    seed: int = 0,
) -> Path:
    """Make the set `data/sets/<name>` of images of one's own; prints what was understood.

    source: one of
      - a folder of normal images, with `unlabeled` (a folder, or 'none' where there are known
        normals alone) and perhaps `test`: a folder, or one with the folders normal and abnormal in
        it;
      - a folder which holds the folders normal, unlabeled and perhaps test (or test/normal and
        test/abnormal); with abnormal in place of the last two, parts are drawn;
      - a csv file with the columns image (a path, from where the csv lies) and label (0 or normal,
        1 or abnormal, or empty), and perhaps patient and split (normal, unlabeled, test; or train,
        whose normal images are known normals and whose others are unlabeled).

    Folders are searched at any depth, for pictures and DICOM files. Where no split is given,
    `seed` draws one by patient: a quarter of normal and of abnormal patients to test, and of the
    other normal ones half as known normals, unless unlabeled images are given. Without test labels
    there will be scores, and no AUC.

    size: pixels of the longer side, to which larger images are reduced; None keeps their own.
    patient: a regular expression whose first group (or whole match) in a file's name, or else in
    the name of the nearest folder where it matches, is the patient, such as '^([0-9]+)_'; else
    patients are those of the csv or of the DICOM headers, and an image without one is a patient of
    its own. Patients are numbered, whatever they are called.
    conversion: of DICOM files, 'window' or 'benchmark', see `dicom`.

    Files that cannot be used, and images that stand in two places, are left out, and listed with
    the reason in left_out.csv; originals.csv says which file each image was. Raises DatasetError
    where nothing can be made of the source, or there is a set of that name.
    """
    if size is not None:
        must_be_size(size)
    source = at_home(source)
    table, left_out = _understood(source, unlabeled, test)
    table["patient"] = _patients_by_pattern(table, patient)
    with new_set(name) as folder:
        table, unusable = convert(table, folder / "images", size, conversion)
        own, of_header = _known(table["patient"]), _known(table["header_patient"])
        patients = own.where(own != "", of_header)
        table = table.assign(patient=numbered(patients), alone=patients == "")
        table, twins = without_twins(table)
        table = _drawn_split(table, seed)
        table, unclear = _without_unclear_tests(table)
        table, torn = _one_part_a_patient(table)
        left_out += unusable + twins + unclear + torn
        if lacking := lacking_parts(table, unlabeled == NONE):
            problems = [f"{source} gives no {part} images." for part in lacking]
            raise DatasetError(problems + doubts(table) + listed(left_out))
        write_lists(folder, table, left_out, conversion)
        originals = of_files(table[["file", "name"]].to_numpy(), "image")
        write_for_people(folder / "originals.csv", originals)
    print(set_summary(source, table, left_out, root() / "data" / "sets" / name))
    return root() / "data" / "sets" / name


def ready(name: str, source: str | Path = "", conversion: str = "window", **how) -> str:
    """The name of a set that is there, or is made of `source` now, as `prepare` does with `how`.

    Raises DatasetError as `prepare` does, and where the DICOM files of the set that is there were
    converted otherwise.
    """
    if source and (name in DRAWN or not is_there(name)):
        prepare(source, name, conversion=conversion, **how)
    elif source:
        lists = root() / "data" / "sets" / name / "data.json"
        if (before := checked_settings(lists, conversion)[1]) != conversion:
            why = f"its DICOM files were read as '{before}', not as '{conversion}'"
            raise DatasetError([f"The set {name} is there, and {why}: name another."])
        say(f"The set {name} is there: {source} was not read. Another set needs another name.")
    return name


def find_images(folder: Path) -> list[Path]:
    """Pictures and DICOM files in a folder, at any depth and through links, sorted.

    A file is taken for an image by the end of its name, or by how it begins; what is no file, such
    as a pipe, as well: whoever reads it says what it is. What is hidden is left alone. Raises
    DatasetError where there is no folder, or it must not be read.
    """

    def stop(error: OSError) -> None:
        raise DatasetError([f"{error.filename} cannot be read: {error.strerror}."])

    if not os.path.isdir(folder):
        raise DatasetError([f"There is no folder {folder.absolute()}."])
    found, seen = [], set()
    for where, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        seen.add(os.path.realpath(where))
        folders[:] = [name for name in folders if not name.startswith(".")]
        folders[:] = [n for n in folders if os.path.realpath(Path(where, n)) not in seen]
        paths = (Path(where, name) for name in files if not name.startswith("."))
        found += [path for path in paths if may_be_image(path) or not path.is_file()]
    return sorted(found)


def _understood(source: Path, unlabeled: str | Path, test: str | Path):
    """The table of a source, without names, and (file, why) of what it lists in vain."""
    if os.path.isfile(source):
        if unlabeled or test:
            raise DatasetError([f"{source} says itself what is unlabeled and test: name it alone."])
        return _from_csv(source)
    if not os.path.isdir(source):
        raise DatasetError([f"There is no file or folder {source.absolute()}."])
    inside = {path.name.lower(): path for path in sorted(source.iterdir()) if path.is_dir()}
    left_out = []
    if "normal" in inside:
        names = {"normal", "unlabeled", "abnormal", "test"}
        parts = {name: path for name, path in inside.items() if name in names}
        left_out = _unread(source, [*parts.values()], names)
    else:
        parts = {"normal": source}
    given = unlabeled and unlabeled != NONE
    parts |= {"unlabeled": at_home(unlabeled)} if given else {}
    parts |= {"test": at_home(test)} if test else {}
    others = [path.name for name, path in inside.items() if name not in parts]
    if len(parts) == 1 and unlabeled != NONE and "normal" in inside and others:
        raise DatasetError(
            [f"{source} has a folder normal, and beside it {some(others)}: call a folder abnormal "
             "if all its images are, unlabeled if nobody says which are."]
        )  # fmt: skip
    if len(parts) == 1 and unlabeled != NONE:
        raise DatasetError(
            [f"{source} has no folders normal and unlabeled: name the folder of unlabeled images, "
             f"or say '{NONE}' in its place where all that you have is normal."]
        )  # fmt: skip
    is_open = "abnormal" in parts
    meant = {"normal": ("" if is_open else "normal", 0), "abnormal": ("", 1)}
    meant |= {"unlabeled": ("unlabeled", -1), "test": ("test", -1)}
    places = [(parts[name], *how) for name, how in meant.items() if name in parts]
    if "test" in parts:
        of_test, beside = _places_of_test(parts["test"])
        places, left_out = places[:-1] + of_test, left_out + beside
    rows = [(f, os.path.realpath(d), *how, "") for d, *how in places for f in find_images(d)]
    table = pd.DataFrame(rows, columns=["file", "place", "part", "label", "patient"])
    table = table[_in_its_deepest_place(table)].drop(columns="place")
    twice = table["file"].duplicated()
    left_out += [(f, "lies in a folder that was named twice.") for f in table["file"][twice]]
    return table[~twice], left_out


def _in_its_deepest_place(table: pd.DataFrame) -> np.ndarray:
    """Whether each row's place is the innermost that holds its file.

    So a folder within another has its own files, however the two were written. What a place has by
    a link alone stays, and is a twin of the file that it leads to.
    """
    file = table["file"].map(os.path.realpath)
    holds = [f.startswith(place + os.sep) for f, place in zip(file, table["place"], strict=True)]
    # Places that hold the same file lie in each other: the longer, the deeper.
    depth = table["place"].str.len().where(holds, -1)
    return (depth == -1) | (depth == depth.groupby(file).transform("max"))


def _places_of_test(folder: Path) -> tuple[list[tuple[Path, str, int]], list[tuple[Path, str]]]:
    """The folders of test images, with part and label; and what lies beside them, and why not."""
    if not os.path.isdir(folder):
        raise DatasetError([f"There is no folder {folder.absolute()}."])
    inside = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    classes = [name for name in ("normal", "abnormal") if name in inside]
    if len(classes) == 1:
        raise DatasetError([f"{folder} holds {classes[0]}, but not both of normal and abnormal."])
    if not classes:
        return [(folder, "test", -1)], []
    places = [(inside[name], "test", label) for label, name in enumerate(classes)]
    return places, _unread(folder, [place for place, *_ in places], classes)


def _unread(folder: Path, read: list[Path], names: Iterable[str]) -> list[tuple[Path, str]]:
    """What in a folder is neither read nor anything else than images, and why."""
    why = f"is none of the folders {', '.join(sorted(names))}, and was not read."
    rest = [path for path in sorted(folder.iterdir()) if path not in read]
    return [(path, why) for path in rest if path.is_dir() or may_be_image(path)]


LIST_COLUMNS = ("image", "label", "patient", "split")


def _from_csv(file: Path):
    given = read_table(file)
    given.columns = given.columns.str.strip().str.lower()
    if given.columns.has_duplicates:
        twice = some(list(given.columns[given.columns.duplicated()]))
        raise DatasetError([f"{file} has several columns {twice}: keep one."])
    if not {"image", "label"} <= set(given):
        has = ", ".join(given)
        raise DatasetError([f"{file} needs the columns image and label; it has {has}."])
    for column in ("patient", "split"):
        like = [name for name in given if column in name]
        if like and column not in like:
            raise DatasetError([f"{file} has a column {like[0]}: call it {column}, or remove it."])
    if given.empty:
        raise DatasetError([f"{file} names no image: it has a first line alone."])
    given = given.reindex(columns=LIST_COLUMNS, fill_value="").apply(
        lambda cells: cells.str.strip()
    )
    words, splits = given["label"].str.lower(), given["split"].str.lower()
    labels = np.select([words.isin(NORMAL_WORDS), words.isin(ABNORMAL_WORDS), words == ""],
                       [0, 1, -1], -2)  # fmt: skip
    parts = splits.where(splits != "train", np.where(labels == 0, "normal", "unlabeled"))
    problems = [
        f"{file}: {column} is '{value}' in a row, but must be {allowed}."
        for column, values, bad, allowed in (
            ("label", words, labels == -2, "0, normal, 1, abnormal or empty"),
            ("split", splits, ~parts.isin(["normal", "unlabeled", "test", ""]),
             "normal, unlabeled, test, train or empty"),
        )
        for value in sorted(set(values[bad]))
    ]  # fmt: skip
    if problems:
        raise DatasetError(problems)
    table = pd.DataFrame({
        "file": [file.parent / name.replace("\\", "/") for name in given["image"]],
        "part": parts,
        "label": labels,
        "patient": given["patient"],
    })  # fmt: skip
    known = table["part"] == "normal"
    wrong = known & (table["label"] == 1)
    table.loc[known, "label"] = 0
    real = table["file"].map(os.path.realpath)
    kinds = table.drop(columns="file").assign(real=real).drop_duplicates()["real"].value_counts()
    torn = real.map(kinds) > 1
    twice = real.duplicated() & ~torn
    left_out = [(f, "is called a known normal and abnormal.") for f in table["file"][wrong]]
    left_out += [
        (f, "stands in rows that say different things of it.") for f in table["file"][torn & ~wrong]
    ]
    return table[~wrong & ~torn & ~twice], left_out


def _patients_by_pattern(table: pd.DataFrame, pattern: str) -> pd.Series:
    """What a pattern, or else the csv, calls the patient of each image, '' where they do not."""
    patients = table["patient"]
    if pattern:
        try:
            found = table["file"].map(lambda file: _matched(pattern, file))
        except (re.error, OverflowError, RecursionError) as error:
            problem = f"patient='{some([pattern])}' is no regular expression: {error}."
            raise DatasetError([problem]) from None
        if len(table) and not found.any():
            example = as_text(table["file"].iloc[0])
            raise DatasetError([f"patient='{pattern}' matches no file, such as {example}."])
        patients = found.where(found != "", patients)
    return patients


def _known(patients: pd.Series) -> pd.Series:
    """Patients without those who are called unknown in some way: they are ''."""
    return patients.where(~patients.str.lower().isin(NOBODY), "")


def _matched(pattern: str, file: Path) -> str:
    """What a pattern finds in the name of a file, or of the nearest folder where it matches."""
    for part in reversed(file.parts):
        if match := re.search(pattern, part):
            return match[1 if match.re.groups else 0] or ""
    return ""


def _drawn_split(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The table with a part for each row: those without one are drawn by patient, see `prepare`."""
    part, open_ = table["part"].copy(), table["part"] == ""
    part[open_ & (table["label"] == -1)] = "unlabeled"
    is_ill = table.groupby("patient")["label"].transform("max") == 1
    mixed = (part == "unlabeled").any()
    random = np.random.default_rng(seed)
    for ill in (False, True):
        rows = open_ & (table["label"] >= 0) & (is_ill == ill)
        patients = random.permutation(np.unique(table["patient"][rows].astype(str)))
        n_test = round(len(patients) / 4)
        n_normal = 0 if ill else len(patients) - n_test
        n_normal = n_normal if mixed else round(n_normal / 2)
        of = dict.fromkeys(patients, "unlabeled")
        of |= dict.fromkeys(patients[:n_test], "test")
        of |= dict.fromkeys(patients[n_test : n_test + n_normal], "normal")
        part[rows] = table["patient"][rows].map(of)
    return table.assign(part=part)


def _without_unclear_tests(table: pd.DataFrame):
    """Where test images of both classes are known, those of unknown label are left out."""
    of_test = table["part"] == "test"
    unclear = of_test & (table["label"] == -1)
    if not {0, 1} <= set(table["label"][of_test]):
        return table, []
    return table[~unclear], [
        (f, "is a test image without a label.") for f in table["file"][unclear]
    ]


def _one_part_a_patient(table: pd.DataFrame):
    """No patient in two parts: test has the first claim; known normals of a mix join the mix."""
    parts = table.groupby("patient")["part"].agg(set)
    of = table["patient"].map(parts)
    torn = (table["part"] != "test") & of.map(lambda found: "test" in found)
    left_out = [(f, "is of a patient who also has test images.") for f in table["file"][torn]]
    moved = ~torn & (table["part"] == "normal") & of.map(lambda found: "unlabeled" in found)
    part = table["part"].where(~moved, "unlabeled")
    return table.assign(part=part, moved=moved)[~torn], left_out
