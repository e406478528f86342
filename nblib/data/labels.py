"""What is known about the images of a set: labels, masks or boxes, lesions.

The wall stands here: nothing that trains may import this page, directly or through others.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nblib.data.datasets import Dataset, image_folder
from nblib.data.split import read_split, some
from nblib.files import DatasetError, read_table


@dataclass(frozen=True)
class Labels:
    """What is known about the images of a Dataset; training never sees it.

    unlabeled, test: (n,) 0 normal, 1 abnormal, -1 unknown, in the order of the parts. masks: bool
    (n_test, H, W), lesions at the set's size; annotated: (n_test,) whether the mask of an image
    says all (normal images are annotated: empty); both None where a set has neither masks nor
    boxes. lesions: image, kind, area, or None.
    """

    unlabeled: np.ndarray
    test: np.ndarray
    masks: np.ndarray | None
    annotated: np.ndarray | None
    lesions: pd.DataFrame | None


def load_labels(dataset: Dataset) -> Labels:
    """The labels, masks or boxes, and lesions of a set, in the order of its parts."""
    split = read_split(dataset.folder / "data.json")
    unlabeled, test = (
        np.isin(part.names, split[f"{key}/1"]).astype(np.int8)
        if f"{key}/1" in split
        else np.full(len(part), -1, np.int8)
        for key, part in (("train/unlabeled", dataset.unlabeled), ("test", dataset.test))
    )
    masks = _masks(dataset)
    annotated = None
    if masks is not None:
        annotated = (test == 0) | masks.any((1, 2))
    file = dataset.folder / "lesions.csv"
    lesions = read_table(file).astype({"area": float}) if file.exists() else None
    return Labels(unlabeled, test, masks, annotated, lesions)


def _masks(dataset: Dataset) -> np.ndarray | None:
    """Lesions of the test images at the set's size, from masks/ or boxes.csv; None without."""
    size, folder, boxes_file = dataset.size, dataset.folder / "masks", dataset.folder / "boxes.csv"
    masks = np.zeros((len(dataset.test), size, size), bool)
    if folder.is_dir():
        for i, name in enumerate(dataset.test.names):
            file = folder / Path(name).with_suffix(".png").name
            if file.exists():
                masks[i] = _mask(file, size)
        return masks
    if boxes_file.exists():
        places = pd.Series(range(len(masks)), dataset.test.names)
        boxes = _boxes(dataset, boxes_file)
        boxes["place"] = boxes["image"].map(places)
        for box in boxes.dropna(subset="place").itertuples():
            width, height = dataset.test.sizes[int(box.place)]
            left = max(0, int(box.x / width * size))
            top = max(0, int(box.y / height * size))
            right = int(np.ceil((box.x + box.width) / width * size))
            bottom = int(np.ceil((box.y + box.height) / height * size))
            masks[int(box.place), top : max(0, bottom), left : max(0, right)] = True
        return masks
    return None


def _mask(file: Path, size: int) -> np.ndarray:
    """The pixels of size x size that a mask, whatever is not black, covers at least by half."""
    try:
        with Image.open(file) as image:
            lesion = np.asarray(image.convert("RGB")).any(2)
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise DatasetError([f"{file} cannot be read: {error}."]) from None
    image = Image.fromarray((lesion * 255).astype(np.uint8))
    share = np.asarray(image.resize((size, size), Image.Resampling.BOX))
    # A lesion smaller than half a pixel is still a lesion.
    return share >= 128 if (share >= 128).any() else share > 0


def _boxes(dataset: Dataset, file: Path) -> pd.DataFrame:
    """boxes.csv with numbers; rows without any are images without a finding, and left out."""
    table, sides = read_table(file), ["x", "y", "width", "height"]
    if not {"image", *sides} <= set(table):
        needed = ", ".join(sides)
        raise DatasetError(
            [f"{file} needs the columns image, {needed}; it has {', '.join(table)}."]
        )
    table = table[(table[sides] != "").any(axis=1)]
    table[sides] = table[sides].apply(pd.to_numeric, errors="coerce")
    bad = table[sides].isna().any(axis=1) | (table[["width", "height"]] <= 0).any(axis=1)
    images = image_folder(dataset.folder)
    unknown = [name for name in table["image"].unique() if not (images / name).is_file()]
    problems = []
    if bad.any():
        first = table["image"][bad].iloc[0]
        problems.append(f"{file}: {bad.sum()} rows hold no box, such as that of {first}.")
    if unknown:
        problems.append(f"{file} names images that are not there: {some(unknown)}.")
    if problems:
        raise DatasetError(problems)
    return table
