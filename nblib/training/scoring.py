"""A finished run and any images -> a score, a percentile and a decision for each."""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nblib import metrics
from nblib.data.datasets import Dataset, image_folder
from nblib.data.dicom import Read
from nblib.data.folders import find_images
from nblib.data.images import ImageError, read_all, scaled
from nblib.files import as_text, at_home
from nblib.methods.method import Method, detect_all
from nblib.progress import progress
from nblib.training.loop import best_device
from nblib.training.runs import Run

TABLE_COLUMNS = ["image", "score", "percentile", "decision", "problem", "note"]

READ_AHEAD = 256
"""Images that are in memory at once: those of a large folder are not."""

NOT_FINITE = "has no score: what the run makes of it is no finite number."


class Seen(NamedTuple):
    """What a run says of one image.

    score: larger = more abnormal; map (h, w), >= 0, and restored (C, h, w), in [-1, 1], as large as
    the method sees images, or None. note: what its file says that one should know, or ''.
    """

    score: float
    map: np.ndarray | None
    restored: np.ndarray | None
    note: str = ""


def score(source: str | Path, run: Run | str | Path) -> pd.DataFrame:
    """Score a folder of images at any depth, or one image, by a finished run.

    DICOM files are converted as those of the run's set were; what else was done to its images when
    the set was made, such as reducing or cropping them, is not. Returns a row an image: see
    `table`. Raises FileNotFoundError where there is no such run, no such folder, or no image in it.
    """
    run = finished_run(run)
    files = files_in(source)
    return table(files, source, run, seen(files, run))


def table(
    files: list[Path], source: str | Path, run: Run, found: Iterable[Seen | ImageError]
) -> pd.DataFrame:
    """What a run found in the files of a source, in their order, a row an image.

    Columns: image (its path in the folder), score (larger = more abnormal), percentile (0 to 100,
    among the held-out normals of the run), decision ('abnormal' or 'normal' at the threshold for
    95 % specificity, '' where too few normals are held out for one), problem (why a file could not
    be scored), note (where a DICOM header says that text is burned in). Labels play no part.
    """
    source = at_home(source)
    folder = source.parent if source.is_file() else source
    rows = [
        (np.nan, of.why, "") if isinstance(of, ImageError) else (of.score, "", of.note)
        for of in found
    ]
    rows = pd.DataFrame(rows, columns=["score", "problem", "note"])
    rows["image"] = [as_text(file.relative_to(folder)) for file in files]
    known = rows["score"].notna()
    rows["percentile"] = np.nan
    rows.loc[known, "percentile"] = metrics.percentile(
        rows["score"][known].to_numpy(), run.held_out
    )
    cut = metrics.threshold(run.held_out)
    words = np.where(rows["score"] > cut, "abnormal", "normal")
    rows["decision"] = np.where(known & ~np.isnan(cut), words, "")
    return rows[TABLE_COLUMNS]


def with_parts(table: pd.DataFrame, dataset: Dataset, source: str | Path) -> pd.DataFrame:
    """The table of a source with the part of each image of a set, '' of others.

    What a run was trained on is no test of it: most known normals, and unlabeled images too. Images
    of another folder are none of the set's, whatever they are called.
    """
    parts = {"known normal": dataset.normal, "unlabeled": dataset.unlabeled, "test": dataset.test}
    own = at_home(source)
    folder = own.parent if own.is_file() else own
    if os.path.realpath(folder) != os.path.realpath(image_folder(dataset.folder)):
        parts = {}
    part_of = {name: part for part, images in parts.items() for name in images.names}
    return table.assign(part=[part_of.get(name, "") for name in table["image"]])


def conversion_of(run: Run) -> str:
    """How the DICOM files of a run's set were read."""
    return run.config.get("conversion", "window")


def _as_seen(run: Run, method: Method) -> Callable[[Path, Read], tuple[np.ndarray, str]]:
    """Pixels as the method sees them, and the note, of what was read of a file."""
    size = method.image_size or run.config["size"]
    colour = "grey" if run.config["channels"] == 1 else "rgb"

    def of(file: Path, found: Read) -> tuple[np.ndarray, str]:
        note = "text is burned in" if "burned_in" in found.facts else ""
        return scaled(found.image, size, colour), note

    return of


def seen(files: list[Path], run: Run) -> Iterator[Seen | ImageError]:
    """What a run says of each file, in order, or why it has no score. 64 at a time.

    At most `READ_AHEAD` are read before they are scored.
    """
    method = run.method().to(best_device())
    starts = range(0, len(files), READ_AHEAD)
    slices = (files[start : start + READ_AHEAD] for start in starts)
    how = conversion_of(run), _as_seen(run, method)
    read = chain.from_iterable(read_all(some, *how) for some in slices)
    counted = progress(len(files), f"scoring by {run.config['method']}")
    names = iter(files)
    while some := list(islice(read, 64)):
        could_be_read = [of for of in some if not isinstance(of, ImageError)]
        rows = iter(())
        if could_be_read:
            images, notes = zip(*could_be_read, strict=True)
            found = detect_all(method, np.stack(images))
            nothing = [None] * len(images)
            maps = nothing if found.map is None else found.map
            restored = nothing if found.restored is None else found.restored
            rows = map(Seen, found.score, maps, restored, notes)
        for of, file in zip(some, names, strict=False):
            next(counted, None)
            of = of if isinstance(of, ImageError) else next(rows)
            is_finite = isinstance(of, ImageError) or np.isfinite(of.score)
            yield of if is_finite else ImageError(file, NOT_FINITE)
    next(counted, None)  # says that it is at its end


def finished_run(run: Run | str | Path) -> Run:
    """A run, or the one in a folder. Raises FileNotFoundError where none has finished there."""
    run = run if isinstance(run, Run) else Run(at_home(run))
    if not (run.folder / "metrics.json").exists():
        raise FileNotFoundError(
            f"{run.folder} is no folder of a finished run, such as "
            "data/runs/my_set/laptop/sagan/base/seed0."
        )
    return run


def files_in(source: str | Path) -> list[Path]:
    """The images of a folder, or the one image. Raises FileNotFoundError where there is none."""
    source = at_home(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"There is no file or folder {source}.")
    files = find_images(source)
    if not files:
        raise FileNotFoundError(f"There is no image in {source}.")
    return files
