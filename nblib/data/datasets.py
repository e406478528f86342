"""A folder of images -> Dataset, in the layout of the Med-AD benchmark.

    <set>/images/*               or train_png_512/*; JPEG or PNG, 8 or 16 bit, grey, palette, colour
    <set>/data.json              {"train": {"0": [known normal], "unlabeled": {"0": [], "1": []}},
                                  "test": {"0": [], "1": []}}: file names by part and label;
                                  "unlabeled" and "test" may each be a plain list of names whose
                                  labels are not known, and the one of "test" may be empty;
                                  "conversion": how DICOM files became these images, see `dicom`;
                                  "size": the side that images are scaled to, if not 64
    <set>/metadata.csv           optional: image, patient
    <set>/boxes.csv              optional: image, x, y, width, height in pixels of the file
    <set>/masks/<image>.png      optional: lesions of test images
    <set>/lesions.csv            optional: image, kind, area

`load` gives the images; what is known about them is in `nblib.data.labels`, behind a wall.
"""

import json
import os
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nblib.data.batches import HeldOut, Part
from nblib.data.drawn import is_current
from nblib.data.drawn_sets import DRAWN
from nblib.data.folders import prepare as prepare
from nblib.data.images import MODES, ImageError, picture, pixel_digest, scaled
from nblib.data.split import LARGEST, PARTS, checked_settings, checked_split, in_both, part_of
from nblib.files import (
    DatasetError,
    as_text,
    at_home,
    digest,
    one_writer,
    read_table,
    root,
    some,
    unused,
    write_json,
    written_whole,
)
from nblib.progress import progress, say


@dataclass(frozen=True)
class Dataset:
    """A set without its labels. `fingerprint` changes with any image, size, colour or list.

    conversion: how its images were made of DICOM files, if they were, see `dicom`.
    """

    name: str
    folder: Path
    fingerprint: str
    normal: Part
    unlabeled: Part
    test: Part
    conversion: str

    @property
    def size(self) -> int:
        return self.normal.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.normal.images.shape[1]

    def at(self, size: int) -> "Dataset":
        """The same images of the same parts at another size, read again from the folder."""
        if size == self.size:
            return self
        whole = load(self.folder, size, "grey" if self.channels == 1 else "rgb")
        if np.array_equal(whole.unlabeled.names, self.unlabeled.names):
            return whole
        place = {name: i for i, name in enumerate(whole.unlabeled.names)}
        same = whole.unlabeled[[place[name] for name in self.unlabeled.names]]
        fingerprint = digest(self.fingerprint.encode(), whole.fingerprint.encode())
        return replace(whole, unlabeled=same, fingerprint=fingerprint)

    def hold_out(self, seed: int, share: float = 0.1) -> HeldOut:
        """Keep `share` of known normals (20 at least) and of unlabeled images from training.

        Whole patients are held out, drawn by `seed`; `share=0` holds out nothing.
        """
        if not 0 <= share < 1:
            raise ValueError(f"share is {share}, but must lie between 0 and 1.")
        least = min(20, len(self.normal) // 2) if share else 0
        held = _whole_patients(self.normal.patients, max(least, share * len(self.normal)), seed)
        held_u = _whole_patients(self.unlabeled.patients, share * len(self.unlabeled), seed)
        if held.all() or (len(held_u) and held_u.all()):
            raise ValueError("Holding out whole patients leaves none to train with.")
        return HeldOut(
            self.normal[~held], self.unlabeled[~held_u], self.normal[held], self.unlabeled[held_u]
        )


def find(path_or_name: str | Path) -> Path:
    """The folder of a set, named by path or by its name.

    A name is looked up in `data/sets/` and in the folders of the variable NBLIB_SETS; a set of
    `DRAWN` is drawn where it is missing or of another version, which is set aside with its runs.
    Raises DatasetError, naming the places tried.
    """
    given = at_home(path_or_name)
    shelves = [root() / "data" / "sets"]
    shelves += [Path(p) for p in os.environ.get("NBLIB_SETS", "").split(os.pathsep) if p]
    text = os.fspath(path_or_name)
    is_path = len(given.parts) != 1 or text in (".", "..") or os.sep in text
    tried = [given.absolute()] if is_path else [shelf.absolute() / given for shelf in shelves]
    for folder in tried:
        if text and os.path.isdir(folder) and (text not in DRAWN or _current(folder, text)):
            return folder
    if text in DRAWN:
        return _drawn(tried[0], text)
    name, places = as_text(path_or_name), ", ".join(map(as_text, tried))
    raise DatasetError(
        [f"There is no set '{name}': looked for {places}. Name a folder, or a set there."]
    )


def _current(folder: Path, name: str) -> bool:
    return is_current(folder, DRAWN[name][1])


def _drawn(folder: Path, name: str) -> Path:
    """A drawn set, made; one of another version, and the runs on it, are set aside, not lost."""
    with one_writer(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir() and not _current(folder, name):
            aside = unused(root() / "data" / "aside" / folder.name)
            aside.mkdir(parents=True)
            folder.rename(aside / "set")
            runs = root() / "data" / "runs" / folder.name
            if runs.is_dir():
                runs.rename(aside / "runs")
            say(f"{folder} was not drawn by this version: it is drawn anew, {aside} has the old.")
        return DRAWN[name][0](folder)


def load(
    path_or_name: str | Path,
    size: int | None = None,
    colour: str = "grey",
    unlabeled_ratio: float | None = None,
    unlabeled_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read, check and cache a set.

    Images are decoded to `colour` ('grey' or 'rgb'), scaled to `size` x `size` (None: the size
    that data.json names, or 64; bilinear, the aspect is not kept, as the benchmark does) and kept
    as uint8. 16-bit grey is divided by 257.
    The unlabeled part is used whole; with `unlabeled_ratio` (share of abnormal images, 0 to 1)
    `unlabeled_size` images are drawn from it by `seed`, patient after patient, such that the
    abnormal ones of a smaller ratio are among those of a larger one.

    Raises DatasetError, which lists every problem: a missing folder or file, an image that cannot
    be read, a file, an image (by its pixels) or a patient in two of known normal, unlabeled, test.
    """
    if colour not in MODES:
        raise ValueError(f"colour is '{colour}', but must be one of {', '.join(MODES)}.")
    folder = find(path_or_name)
    split, problems = checked_split(folder / "data.json")
    named_size, conversion, wrong = checked_settings(folder / "data.json")
    problems += wrong
    size = named_size if size is None else size
    if type(size) is not int or not 1 <= size <= LARGEST:
        must = f"must be a whole number of pixels, at most {LARGEST}"
        raise ValueError(f"size is {size!r}, but {must}.")
    if folder.name.encode(errors="ignore").decode() != folder.name:
        problems.append(f"{as_text(folder)} is a folder whose name is no text: rename it.")
    files = sorted({name for names in split.values() for name in names})
    images = image_folder(folder)
    if images is None:
        problems.append(f"{folder} has neither a folder images nor train_png_512.")
        raise DatasetError(problems)
    patients, unknown = _patient_of_each(folder, files)
    problems += unknown
    missing = [name for name in files if not os.path.isfile(images / name)]
    if missing:
        problems.append(
            f"{images} lacks {len(missing)} of the {len(files)} files that data.json lists: "
            f"{some(missing)}."
        )
    there = sorted(set(files) - set(missing))
    pixels, pixel_digests, sizes, key, unreadable = _decoded(folder, images, there, size, colour)
    problems += unreadable
    listed = {part: [] for part in PARTS.values()}
    for list_key, names in split.items():
        listed[part_of(list_key)] += names
    # A file in two parts has been told of; its pixels and its patient need not be told of again.
    parts_of = Counter(name for names in listed.values() for name in set(names))
    once = {part: [n for n in names if parts_of[n] == 1] for part, names in listed.items()}
    alike: dict[str, list[str]] = {}
    for name, pixels_of in pixel_digests.items():
        alike.setdefault(pixels_of, []).append(name)
    twins = {name: " = ".join(names) for names in alike.values() for name in names}
    by_pixels = {part: [twins[n] for n in names if n in twins] for part, names in once.items()}
    problems += in_both(by_pixels, "image (by its pixels)", folder)
    if not unknown and (folder / "metadata.csv").is_file():
        by_patient = {part: [patients[n] for n in names] for part, names in once.items()}
        problems += in_both(by_patient, "patient", folder)
    if problems:
        raise DatasetError(problems)

    place = {name: i for i, name in enumerate(files)}
    parts = {}
    for part, names in listed.items():
        index = [place[name] for name in names]
        whose = np.array([patients[name] for name in names], str)
        parts[part] = Part(pixels[index], np.array(names, str), whose, sizes[index])
    if unlabeled_ratio is not None:
        if "train/unlabeled" in split:
            raise ValueError(
                f"The unlabeled images of {folder} have no labels to draw a ratio of them by."
            )
        abnormal = np.isin(parts["unlabeled"].names, split["train/unlabeled/1"])
        chosen = _mix(parts["unlabeled"], abnormal, unlabeled_ratio, unlabeled_size, seed)
        parts["unlabeled"] = parts["unlabeled"][chosen]
    elif unlabeled_size is not None:
        raise ValueError("unlabeled_size needs unlabeled_ratio: the share of abnormal images.")
    lists = [[*map(list, (part.names, part.patients))] for part in parts.values()]
    fingerprint = digest(key.encode(), json.dumps([lists, split]).encode())
    return Dataset(folder.name, folder, fingerprint, **parts, conversion=conversion)


def image_folder(folder: Path) -> Path | None:
    for name in ("images", "train_png_512"):
        if (folder / name).is_dir():
            return folder / name
    return None


def _patient_of_each(folder: Path, files: list[str]) -> tuple[dict[str, str], list[str]]:
    """The patient of each file, itself where the set names none, and what is wrong with them."""
    file, own = folder / "metadata.csv", {name: name for name in files}
    if not os.path.lexists(file):
        return own, []
    try:
        table = read_table(file)
    except DatasetError as error:
        return own, error.problems
    if "patient" not in table or "image" not in table:
        return own, [f"{file} needs the columns image and patient; it has {some(list(table))}."]
    table = table[["image", "patient"]].drop_duplicates()
    two = list(table.loc[table["image"].duplicated(), "image"])
    if two:
        return own, [f"{file} names two patients for {some(two)}."]
    patient = dict(zip(table["image"], table["patient"], strict=True))
    unknown = [name for name in files if not patient.get(name)]
    if unknown:
        return own, [f"{file} names no patient for {len(unknown)} images: {some(unknown)}."]
    return patient, []


def _decoded(folder: Path, images: Path, files: list[str], size: int, colour: str):
    """Pixels, pixel digests and file sizes of `files`, from the cache where it has them."""
    contents, unreadable = _contents(folder, images, files)
    files = list(contents)
    listed = [f"{name}\0{content}" for name, content in contents.items()]
    key = digest(*map(os.fsencode, listed), f"{size} {colour}".encode())
    file = root() / "data" / "cache" / f"{_short(folder)}-{size}-{colour}-{key}.npz"
    try:
        with np.load(file) as cached:
            pixels, digests, sizes = (cached[name] for name in ("pixels", "digests", "sizes"))
        return pixels, dict(zip(files, digests.tolist(), strict=True)), sizes, key, unreadable
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        pass  # no cache, or a damaged one: decode, and write it anew
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda name: _decode(images / name, size, colour), files)
        rows = [next(results) for _ in progress(len(files), f"decoding {folder.name}")]
    problems = unreadable + [row for row in rows if isinstance(row, str)]
    decoded = zip(files, rows, strict=True)
    digests = {name: row[1] for name, row in decoded if not isinstance(row, str)}
    if problems or not rows:
        return None, digests, None, key, problems
    pixels, in_order, sizes = (np.stack(column) for column in zip(*rows, strict=True))
    with written_whole(file) as out:
        np.savez(out, pixels=pixels, digests=in_order, sizes=sizes)
    return pixels, digests, sizes, key, []


def _contents(folder: Path, images: Path, files: list[str]) -> tuple[dict[str, str], list[str]]:
    """A digest of each file's bytes, read again only where the file's status has changed.

    Like git's index: size, time of modification and time of status change vouch for the content.
    """
    file = root() / "data" / "cache" / f"{_short(folder)}-{digest(os.fsencode(images))}.json"
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    index, problems = {}, []
    for name in files:
        try:
            status = (images / name).stat()
            stamp = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            entry = known.get(name)
            same = isinstance(entry, list) and len(entry) == 5 and entry[:4] == stamp
            index[name] = entry if same else [*stamp, digest((images / name).read_bytes())]
        except OSError as error:
            problems.append(f"{images / name} cannot be read: {error.strerror}.")
    if index != known:
        write_json(file, index)
    return {name: entry[4] for name, entry in index.items()}, problems


def _short(folder: Path) -> str:
    """The name of a folder, short enough to be part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in folder.name)[:40]


def _decode(file: Path, size: int, colour: str) -> tuple[np.ndarray, str, tuple[int, int]] | str:
    """One image as uint8 (C, size, size), the digest of its full-size pixels, its file's size.

    Returns a sentence instead where the image cannot be read.
    """
    try:
        image = picture(file).convert(MODES[colour])
    except ImageError as error:
        return str(error)
    return scaled(image, size, colour), pixel_digest(image), image.size


def _whole_patients(patients: np.ndarray, images: float, seed: int) -> np.ndarray:
    """A mask over images: whole patients, drawn by `seed`, with at least `images` images."""
    held = np.zeros(len(patients), bool)
    for patient in np.random.default_rng(seed).permutation(np.unique(patients)):
        if held.sum() >= images:
            break
        held |= patients == patient
    return held


def _mix(part: Part, abnormal: np.ndarray, ratio: float, size: int | None, seed: int):
    """Indices of `size` images of which the share `ratio` is abnormal, nested by patient."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"unlabeled_ratio is {ratio}, but must lie between 0 and 1.")
    # By default the largest size at which every ratio from 0 to 1 can be had.
    size = min(abnormal.sum(), (~abnormal).sum()) if size is None else size
    if size < 1:
        raise ValueError(f"unlabeled_size is {size}, but must be at least 1.")
    wanted = {True: round(size * ratio), False: size - round(size * ratio)}
    order = np.random.default_rng(seed).permutation(np.unique(part.patients))
    rank = {patient: i for i, patient in enumerate(order)}
    chosen = []
    for kind, count in wanted.items():
        index = np.flatnonzero(abnormal == kind)
        if count > len(index):
            raise ValueError(
                f"{size} unlabeled images with a share of {ratio} abnormal need {count} "
                f"{'abnormal' if kind else 'normal'} ones, but the set has {len(index)}."
            )
        chosen += sorted(index, key=lambda i: rank[part.patients[i]])[:count]
    return np.sort(chosen).astype(int)
