"""Sets that this project draws: pictures in memory -> a folder in the layout of Med-AD."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from nblib.files import told_where_unwritable


class Drawn(NamedTuple):
    """Pictures in memory; entry i of images, masks, patients and views belongs together."""

    images: np.ndarray  # uint8, (n, size, size)
    masks: np.ndarray  # bool, (n, size, size), all False for a normal picture
    lesions: pd.DataFrame  # kind and area (share of the pixels), index i of the abnormal ones
    patients: list  # str, the patients' numbers, ascending
    views: list  # int, 0 or 1


def write_drawn(
    folder: str | Path, draw: Callable[[], list[Drawn]], seed: int, version: int
) -> Path:
    """Write a set and return its folder.

    draw: called for the parts known normal, unlabeled, test, with no patient in two of them; seed:
    shuffles the patients' numbers; version: of what is drawn, see `is_current`. The folder appears
    complete or not at all; a complete one that is there already, or that someone else finishes
    first, is kept. Raises OSError where writing fails, in a sentence where there is no room.
    """
    folder = Path(folder)
    if (folder / "data.json").is_file():
        return folder
    with told_where_unwritable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as draft:
            complete = Path(draft, folder.name)
            _fill(complete, draw(), seed, version)
            try:
                os.rename(complete, folder)
            except OSError:
                if not (folder / "data.json").is_file():
                    raise
    return folder


def is_current(folder: str | Path, version: int) -> bool:
    """Whether a folder holds a set that was drawn by this version."""
    try:
        return json.loads((Path(folder) / "data.json").read_text())["drawing"] == version
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _fill(folder: Path, parts: list[Drawn], seed: int, version: int) -> None:
    """Write every file of the set."""
    last = max(int(patient) for part in parts for patient in part.patients)
    # In drawing order a part's last patients share a class, so names use shuffled numbers.
    labels = [f"p{number:04d}" for number in np.random.default_rng(seed).permutation(last + 1)]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    groups, owners, lesions = [], [], []
    for part in parts:
        groups.append({"0": [], "1": []})
        for row, (patient, view) in enumerate(zip(part.patients, part.views, strict=True)):
            name = f"{labels[int(patient)]}_{view}.png"
            abnormal = row in part.lesions.index
            groups[-1][str(int(abnormal))].append(name)
            owners.append((name, labels[int(patient)]))
            Image.fromarray(part.images[row]).save(folder / "images" / name)
            if abnormal:
                lesions.append((name, *part.lesions.loc[row]))
                Image.fromarray(part.masks[row]).convert("L").save(folder / "masks" / name)
    groups = [{key: sorted(names) for key, names in group.items()} for group in groups]
    split = {"train": {"0": groups[0]["0"], "unlabeled": groups[1]}, "test": groups[2]}
    split |= {"size": parts[0].images.shape[-1], "drawing": version}
    (folder / "data.json").write_text(json.dumps(split, indent=1))
    _table(owners, ["image", "patient"], folder / "metadata.csv")
    _table(lesions, ["image", "kind", "area"], folder / "lesions.csv")


def _table(rows: list[tuple], columns: list[str], file: Path) -> None:
    pd.DataFrame(sorted(rows), columns=columns).to_csv(file, index=False)
