"""What is known about the images of a set: labels, masks or boxes, lesions.

The wall stands here: nothing that trains may import this page, directly or through others.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nblib.data.datasets import Dataset, image_folder
from nblib.data.images import ImageError, opened
from nblib.data.split import read_split
from nblib.files import DatasetError, read_table, some

LARGEST = 1e9
"""Of the numbers of a box or a lesion: what is larger, such as inf, is none."""
STRETCHED = 0.02
"""How much the shape of a mask may differ from its image's, as a share: sides are whole pixels."""
PLURALS = {"box": "boxes", "lesion": "lesions"}


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
    """The labels, masks or boxes, and lesions of a set, in the order of its parts.

    Raises DatasetError, which lists all that is wrong with masks, boxes.csv and lesions.csv.
    """
    split = read_split(dataset.folder / "data.json")
    unlabeled, test = (
        np.isin(part.names, split[f"{key}/1"]).astype(np.int8)
        if f"{key}/1" in split
        else np.full(len(part), -1, np.int8)
        for key, part in (("train/unlabeled", dataset.unlabeled), ("test", dataset.test))
    )
    masks, problems = _masks(dataset)
    lesions, wrong = _rows(dataset, "lesion", ["image", "kind"], ["area"])
    if problems + wrong:
        raise DatasetError(problems + wrong)
    annotated = None
    if masks is not None:
        annotated = (test == 0) | masks.any((1, 2))
    return Labels(unlabeled, test, masks, annotated, lesions)


def _masks(dataset: Dataset) -> tuple[np.ndarray | None, list[str]]:
    """Lesions of the test images at the set's size, from masks/ or boxes.csv, and what is wrong.

    None where there are neither.
    """
    size, folder, problems = dataset.size, dataset.folder / "masks", []
    masks = np.zeros((len(dataset.test), size, size), bool)
    if os.path.lexists(folder):
        if not folder.is_dir():
            return None, [f"{folder} is no folder."]
        for i, name in enumerate(dataset.test.names):
            file = folder / _of(name)
            if os.path.lexists(file):
                try:
                    masks[i] = _mask(file, size, *dataset.test.sizes[i])
                except ImageError as error:
                    problems.append(str(error))
        of_images = {_of(name) for name in os.listdir(image_folder(dataset.folder))}
        unknown = sorted(name for name in os.listdir(folder) if name not in of_images)
        if unknown := [name for name in unknown if not name.startswith(".")]:
            problems.append(
                f"{folder}: {some(unknown)} is called as no image is (that of a.jpg is a.png)."
            )
        return masks, problems
    boxes, problems = _rows(dataset, "box", ["image"], ["x", "y", "width", "height"])
    if boxes is None or problems:
        return None, problems
    places = pd.Series(range(len(masks)), dataset.test.names)
    boxes["place"] = boxes["image"].map(places)
    boxes = boxes.dropna(subset="place")
    starts, sides = boxes[["x", "y"]].to_numpy(), boxes[["width", "height"]].to_numpy()
    ends = dataset.test.sizes[boxes["place"].astype(int)]
    outside = ((starts >= ends) | (starts + sides <= 0)).any(1)
    if outside.any():
        first = some([boxes["image"][outside].iloc[0]])
        return None, [
            f"{dataset.folder / 'boxes.csv'}: {outside.sum()} boxes lie outside of their image, "
            f"such as that of {first}: a box is in pixels of the file that it is of."
        ]
    for box in boxes.itertuples():
        width, height = dataset.test.sizes[int(box.place)]
        left = max(0, int(box.x / width * size))
        top = max(0, int(box.y / height * size))
        right = int(np.ceil((box.x + box.width) / width * size))
        bottom = int(np.ceil((box.y + box.height) / height * size))
        masks[int(box.place), top : max(0, bottom), left : max(0, right)] = True
    return masks, []


def _of(image: str) -> str:
    """What the mask of an image is called."""
    return Path(image).with_suffix(".png").name


def _mask(file: Path, size: int, width: int, height: int) -> np.ndarray:
    """The pixels of size x size that a mask, whatever is not black, covers at least by half.

    Raises ImageError where it is shaped otherwise than its image, of width x height.
    """
    with opened(file) as image:
        own = image.width * height, image.height * width
        if abs(own[0] - own[1]) > STRETCHED * max(own):
            shapes = f"{image.width} x {image.height} pixels, its image {width} x {height}"
            raise ImageError(file, f"has {shapes}: another shape.")
        colours = np.asarray(image.convert("RGBA"))
    lesion = colours[..., :3].any(2) & (colours[..., 3] > 0)
    image = Image.fromarray((lesion * 255).astype(np.uint8))
    share = np.asarray(image.resize((size, size), Image.Resampling.BOX))
    # A lesion smaller than half a pixel is still a lesion.
    return share >= 128 if (share >= 128).any() else share > 0


def _rows(
    dataset: Dataset, what: str, words: list[str], numbers: list[str]
) -> tuple[pd.DataFrame | None, list[str]]:
    """boxes.csv or lesions.csv with its numbers as such, and what is wrong with it; None without.

    what: box or lesion; words, numbers: the columns it needs, whose sizes are above 0. Rows without
    any number are of images without a finding, and left out.
    """
    file = dataset.folder / f"{PLURALS[what]}.csv"
    if not os.path.lexists(file):
        return None, []
    try:
        table = read_table(file)
    except DatasetError as error:
        return None, error.problems
    if not {*words, *numbers} <= set(table):
        needed = ", ".join(words + numbers)
        return None, [f"{file} needs the columns {needed}; it has {some(list(table))}."]
    table = table[(table[numbers] != "").any(axis=1)]
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")
    sizes = table[[name for name in numbers if name not in ("x", "y")]]
    bad = ~(table[numbers].abs() < LARGEST).all(axis=1) | (sizes <= 0).any(axis=1)
    images = image_folder(dataset.folder)
    unknown = [name for name in table["image"].unique() if not os.path.isfile(images / name)]
    problems = []
    if bad.any():
        first = some([table["image"][bad].iloc[0]])
        problems.append(f"{file}: {bad.sum()} rows hold no {what}, such as that of {first}.")
    if unknown:
        problems.append(f"{file} names images that are not there: {some(unknown)}.")
    return table, problems
