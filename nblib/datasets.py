"""A folder of images -> Dataset, in the layout of the Med-AD benchmark.

    <set>/images/*               or train_png_512/*; JPEG or PNG, 8 or 16 bit, grey, palette, colour
    <set>/data.json              {"train": {"0": [known normal], "unlabeled": {"0": [], "1": []}},
                                  "test": {"0": [], "1": []}}: file names by part and label
    <set>/metadata.csv           optional: image, patient
    <set>/boxes.csv              optional: image, x, y, width, height in pixels of the file
    <set>/masks/<image>.png      optional: lesions of test images
    <set>/lesions.csv            optional: image, kind, area

`load` gives the images, `load_labels` what is known about them: two objects, so that code which
is handed a Dataset has no label within reach.
"""

import json
import os
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nblib import phantom
from nblib.files import digest, root, write_json, written_whole
from nblib.progress import progress

COLOURS = {"grey": "L", "rgb": "RGB"}
LISTS = {
    "train/0": "normal",
    "train/unlabeled/0": "unlabeled",
    "train/unlabeled/1": "unlabeled",
    "test/0": "test",
    "test/1": "test",
}


class DatasetError(ValueError):
    """What is wrong with a set: all problems at once, a sentence each."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Part:
    """Some images of a set.

    images: uint8 (n, C, H, W); names: (n,) file names; patients: (n,), an image's own name where
    the set names no patients; sizes: (n, 2) width and height of the files in pixels.
    """

    images: np.ndarray
    names: np.ndarray
    patients: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index) -> "Part":
        return Part(self.images[index], self.names[index], self.patients[index], self.sizes[index])


@dataclass(frozen=True)
class HeldOut:
    """What trains (`normal`, `unlabeled`) and what is kept from training (`held_*`)."""

    normal: Part
    unlabeled: Part
    held_normal: Part
    held_unlabeled: Part


@dataclass(frozen=True)
class Dataset:
    """A set without its labels. `fingerprint` changes with any image, size, colour or list."""

    name: str
    folder: Path
    fingerprint: str
    normal: Part
    unlabeled: Part
    test: Part

    @property
    def size(self) -> int:
        return self.test.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.test.images.shape[1]

    def hold_out(self, seed: int, share: float = 0.1) -> HeldOut:
        """Keep `share` of known normals (20 at least) and of unlabeled images from training.

        Whole patients are held out, drawn by `seed`; `share=0` holds out nothing.
        """
        least = min(20, len(self.normal) // 2) if share else 0
        held = _whole_patients(self.normal.patients, max(least, share * len(self.normal)), seed)
        held_u = _whole_patients(self.unlabeled.patients, share * len(self.unlabeled), seed)
        return HeldOut(
            self.normal[~held], self.unlabeled[~held_u], self.normal[held], self.unlabeled[held_u]
        )


@dataclass(frozen=True)
class Labels:
    """What is known about the images of a Dataset; training never sees it.

    unlabeled, test: (n,) 0 normal, 1 abnormal, in the order of the parts. masks: bool
    (n_test, H, W), lesions at the set's size; annotated: (n_test,) whether the mask of an image
    says all (normal images are annotated: empty); both None where a set has neither masks nor
    boxes. lesions: image, kind, area, or None.
    """

    unlabeled: np.ndarray
    test: np.ndarray
    masks: np.ndarray | None
    annotated: np.ndarray | None
    lesions: pd.DataFrame | None


def find(path_or_name: str | Path) -> Path:
    """The folder of a set, named by path or by its name.

    A name is looked up in `data/sets/` and in the folders of the variable NBLIB_SETS; the set
    `phantom` is drawn where it is missing. Raises DatasetError, naming the places tried.
    """
    given = Path(path_or_name).expanduser()
    shelves = [root() / "data" / "sets"]
    shelves += [Path(p) for p in os.environ.get("NBLIB_SETS", "").split(os.pathsep) if p]
    tried = [given.absolute()] if len(given.parts) > 1 else [shelf / given for shelf in shelves]
    for folder in tried:
        if folder.is_dir():
            return folder
    if str(path_or_name) == "phantom":
        return phantom.write(tried[0])
    places = ", ".join(str(folder) for folder in tried)
    raise DatasetError(
        [f"There is no set '{path_or_name}': looked for {places}. Name a folder, or a set there."]
    )


def read_split(file: Path) -> dict[str, list[str]]:
    """The five lists of file names of a data.json, by their keys such as 'train/unlabeled/0'.

    Raises DatasetError where the file is missing, is no JSON, or a list is missing, is empty or
    names a file that is named already.
    """
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        raise DatasetError([f"{file} is missing: it lists the images of each part."]) from None
    except ValueError as error:
        raise DatasetError([f"{file} is no JSON: {error}."]) from None
    split, problems = {}, []
    for key in LISTS:
        names = content
        for word in key.split("/"):
            names = names.get(word) if isinstance(names, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            what = " (the labels of the test images)" if key.startswith("test") else ""
            problems.append(f"{file} has no list of file names at {key}{what}.")
        elif not names:
            problems.append(f"{file}: the list {key} is empty.")
        else:
            split[key] = names
    parts = {part: set() for part in LISTS.values()}
    for key, names in split.items():
        parts[LISTS[key]].update(names)
    problems += _shared({part: list(names) for part, names in parts.items()}, "file", file)
    twice = [name for names in split.values() for name, n in Counter(names).items() if n > 1]
    both = [n for p in ("train/unlabeled", "test") for n in _common(split, f"{p}/0", f"{p}/1")]
    if twice + both:
        problems.append(f"{file} lists {_some(twice + both)} twice in one part.")
    if problems:
        raise DatasetError(problems)
    return split


def load(
    path_or_name: str | Path,
    size: int = 64,
    colour: str = "grey",
    unlabeled_ratio: float | None = None,
    unlabeled_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read, check and cache a set.

    Images are decoded to `colour` ('grey' or 'rgb'), scaled to `size` x `size` (bilinear, the
    aspect is not kept, as the benchmark does) and kept as uint8. 16-bit grey is divided by 257.
    The unlabeled part is used whole; with `unlabeled_ratio` (share of abnormal images, 0 to 1)
    `unlabeled_size` images are drawn from it by `seed`, patient after patient, such that the
    abnormal ones of a smaller ratio are among those of a larger one.

    Raises DatasetError, which lists every problem: a missing folder or file, an image that cannot
    be read, a file, an image (by its pixels) or a patient in two of known normal, unlabeled, test.
    """
    if colour not in COLOURS:
        raise ValueError(f"colour is '{colour}', but must be one of {', '.join(COLOURS)}.")
    folder = find(path_or_name)
    split = read_split(folder / "data.json")
    files = sorted({name for names in split.values() for name in names})
    images = _image_folder(folder)
    missing = [name for name in files if not (images / name).is_file()]
    patients, problems = _patients(folder, files)
    if missing:
        problems.append(
            f"{images} lacks {len(missing)} of the {len(files)} files that data.json lists: "
            f"{_some(missing)}."
        )
        raise DatasetError(problems)

    pixels, pixel_digests, sizes, key, unreadable = _decoded(folder, images, files, size, colour)
    problems += unreadable
    place = {name: i for i, name in enumerate(files)}
    order = {part: [] for part in ("normal", "unlabeled", "test")}
    for list_key, names in split.items():
        order[LISTS[list_key]] += [place[name] for name in names]
    if not unreadable:
        by_pixels = {}
        for i, pixel_digest in enumerate(pixel_digests):
            by_pixels.setdefault(pixel_digest, files[i])
        problems += _shared(
            {p: [by_pixels[pixel_digests[i]] for i in index] for p, index in order.items()},
            "image (by its pixels)",
            folder,
        )
    problems += _shared(
        {p: [patients[i] for i in ix] for p, ix in order.items()}, "patient", folder
    )
    if problems:
        raise DatasetError(problems)

    names, patients = np.array(files), np.array(patients)
    parts = {
        part: Part(pixels[index], names[index], patients[index], sizes[index])
        for part, index in order.items()
    }
    if unlabeled_ratio is not None:
        abnormal = np.isin(parts["unlabeled"].names, split["train/unlabeled/1"])
        chosen = _mix(parts["unlabeled"], abnormal, unlabeled_ratio, unlabeled_size, seed)
        parts["unlabeled"] = parts["unlabeled"][chosen]
    elif unlabeled_size is not None:
        raise ValueError("unlabeled_size needs unlabeled_ratio: the share of abnormal images.")
    used = [name for part in parts.values() for name in (*part.names, "|")]
    fingerprint = digest(key.encode(), *(name.encode() for name in used))
    return Dataset(folder.name, folder, fingerprint, **parts)


def load_labels(dataset: Dataset) -> Labels:
    """The labels, masks or boxes, and lesions of a set, in the order of its parts."""
    split = read_split(dataset.folder / "data.json")
    unlabeled = np.isin(dataset.unlabeled.names, split["train/unlabeled/1"]).astype(np.int8)
    test = np.isin(dataset.test.names, split["test/1"]).astype(np.int8)
    masks = _masks(dataset)
    annotated = None
    if masks is not None:
        annotated = (test == 0) | masks.any((1, 2))
    lesions = dataset.folder / "lesions.csv"
    table = pd.read_csv(lesions, dtype={"image": str}) if lesions.exists() else None
    return Labels(unlabeled, test, masks, annotated, table)


def _image_folder(folder: Path) -> Path:
    for name in ("images", "train_png_512"):
        if (folder / name).is_dir():
            return folder / name
    raise DatasetError([f"{folder} has neither a folder images nor train_png_512."])


def _patients(folder: Path, files: list[str]) -> tuple[list[str], list[str]]:
    file = folder / "metadata.csv"
    if not file.exists():
        return files, []
    table = pd.read_csv(file, dtype=str)
    if "patient" not in table or "image" not in table:
        return files, [f"{file} needs the columns image and patient; it has {', '.join(table)}."]
    patient = dict(zip(table["image"], table["patient"], strict=True))
    unknown = [name for name in files if not isinstance(patient.get(name), str)]
    if unknown:
        return files, [f"{file} names no patient for {len(unknown)} images: {_some(unknown)}."]
    return [patient[name] for name in files], []


def _decoded(folder: Path, images: Path, files: list[str], size: int, colour: str):
    """Pixels, pixel digests and file sizes of `files`, from the cache where it has them."""
    contents = _contents(folder, images, files)
    key = digest(*(f"{f}\0{c}".encode() for f, c in contents.items()), f"{size} {colour}".encode())
    file = root() / "data" / "cache" / f"{folder.name}-{size}-{colour}-{key}.npz"
    try:
        with np.load(file) as cached:
            return *(cached[name] for name in ("pixels", "digests", "sizes")), key, []
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # no cache, or a damaged one: decode, and write it anew
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda name: _decode(images / name, size, colour), files)
        rows = [next(results) for _ in progress(len(files), f"decoding {folder.name}")]
    problems = [row for row in rows if isinstance(row, str)]
    if problems:
        return None, None, None, key, problems
    pixels, digests, sizes = (np.stack(column) for column in zip(*rows, strict=True))
    with written_whole(file) as out:
        np.savez(out, pixels=pixels, digests=digests, sizes=sizes)
    return pixels, digests, sizes, key, []


def _contents(folder: Path, images: Path, files: list[str]) -> dict[str, str]:
    """A digest of each file's bytes, read again only where the file's status has changed.

    Like git's index: size, time of modification and time of status change vouch for the content.
    """
    file = root() / "data" / "cache" / f"{folder.name}-{digest(str(images).encode())}.json"
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    index = {}
    for name in files:
        status = (images / name).stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        entry = known.get(name)
        same = entry is not None and entry[:3] == stamp
        index[name] = entry if same else [*stamp, digest((images / name).read_bytes())]
    if index != known:
        write_json(file, index)
    return {name: entry[3] for name, entry in index.items()}


def _decode(file: Path, size: int, colour: str) -> tuple[np.ndarray, str, tuple[int, int]] | str:
    """One image as uint8 (C, size, size), the digest of its full-size pixels, its file's size.

    Returns a sentence instead where the image cannot be read.
    """
    try:
        with Image.open(file) as image:
            image = _eight_bit(image).convert(COLOURS[colour])
    except Exception as error:  # Pillow raises many kinds for a damaged file
        return f"{file} cannot be read: {error}."
    pixel_digest = digest(repr(image.size).encode(), image.tobytes())
    small = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    small = small[None] if small.ndim == 2 else small.transpose(2, 0, 1)
    return small, pixel_digest, image.size


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image in 8 bits, grey or RGB; raises ValueError for pixels that are no 16-bit grey."""
    if image.mode in ("L", "RGB"):
        return image
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels are no 8- or 16-bit numbers")
    return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))


def _masks(dataset: Dataset) -> np.ndarray | None:
    """Lesions of the test images at the set's size, from masks/ or boxes.csv; None without."""
    size, folder, boxes_file = dataset.size, dataset.folder / "masks", dataset.folder / "boxes.csv"
    masks = np.zeros((len(dataset.test), size, size), bool)
    if folder.is_dir():
        for i, name in enumerate(dataset.test.names):
            file = folder / Path(name).with_suffix(".png").name
            if file.exists():
                with Image.open(file) as image:
                    image = image.convert("L").resize((size, size), Image.Resampling.BOX)
                share = np.asarray(image)
                # A lesion smaller than half a pixel is still a lesion.
                masks[i] = share >= 128 if (share >= 128).any() else share > 0
        return masks
    if boxes_file.exists():
        boxes = pd.read_csv(boxes_file, dtype={"image": str})
        for i, name in enumerate(dataset.test.names):
            width, height = dataset.test.sizes[i]
            for box in boxes[boxes["image"] == name].itertuples():
                left, top = int(box.x / width * size), int(box.y / height * size)
                right = int(np.ceil((box.x + box.width) / width * size))
                bottom = int(np.ceil((box.y + box.height) / height * size))
                masks[i, top:bottom, left:right] = True
        return masks
    return None


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


def _shared(values: dict[str, list], what: str, where: Path) -> list[str]:
    """A sentence for each two parts which have a value in common."""
    names, problems = list(values), []
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            common = _common(values, one, other)
            if common:
                problems.append(
                    f"{where}: {len(common)} {what}{'s' * (len(common) > 1)} stand in both the "
                    f"{one} and the {other} part: {_some(common)}."
                )
    return problems


def _common(values: dict[str, list], one: str, other: str) -> list:
    return sorted(set(values.get(one, [])) & set(values.get(other, [])))


def _some(names: list[str], at_most: int = 5) -> str:
    rest = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else "")
