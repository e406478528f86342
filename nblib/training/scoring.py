"""A finished run and any images -> a score, a percentile and a decision for each."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from nblib import metrics
from nblib.data.datasets import Dataset
from nblib.data.dicom import Read
from nblib.data.folders import find_images
from nblib.data.images import ImageError, read_all, scaled
from nblib.data.new_set import as_text
from nblib.files import root, written_whole
from nblib.methods.method import Detection, Method, detect_all
from nblib.progress import progress
from nblib.training import runs
from nblib.training.loop import best_device
from nblib.training.runs import Run

TABLE_COLUMNS = ["image", "score", "percentile", "decision", "problem"]


def score(source: str | Path, run: Run | str | Path, out: str | Path | None = None) -> pd.DataFrame:
    """Score a folder of images at any depth, or one image, by a finished run.

    Pictures and DICOM files are read as those of the run's set were. Returns, and writes to `out`
    as .csv, a row an image: image (its path in the folder), score (larger = more abnormal),
    percentile (0 to 100, among the held-out normals of the run), decision ('abnormal' or 'normal'
    at the threshold for 95 % specificity, '' where too few normals are held out for one), problem
    (why a file could not be scored). Labels play no part.

    Raises FileNotFoundError where there is no such run, no such folder, or no image in it.
    """
    run, source = _finished_run(run), Path(source).expanduser()
    out = Path(out).expanduser() if out else None
    if out and out.is_dir():
        raise FileNotFoundError(f"{out} is a folder: name a file in it, such as scores.csv.")
    files = [source] if source.is_file() else _images_in(source)
    method = run.method().to(best_device())
    read = read_all(files, _conversion(run), _as_seen(run, method))
    counted = zip(progress(len(files), "scoring"), _scored(method, read), strict=True)
    rows = [row for _, row in counted]
    table = pd.DataFrame(rows, columns=["score", "problem"])
    folder = source.parent if source.is_file() else source
    table["image"] = [as_text(file.relative_to(folder)) for file in files]
    known = table["score"].notna()
    table["percentile"] = np.nan
    table.loc[known, "percentile"] = metrics.percentile(
        table["score"][known].to_numpy(), run.held_out
    )
    cut = metrics.threshold(run.held_out)
    words = np.where(table["score"] > cut, "abnormal", "normal")
    table["decision"] = np.where(known & ~np.isnan(cut), words, "")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(out, "w") as file:
            table[TABLE_COLUMNS].to_csv(file, index=False, float_format="%.6g")
    return table[TABLE_COLUMNS]


def chosen_run(
    run: str, method: str, dataset: Dataset, budget: str, seed: int, precision: str = ""
) -> Run:
    """The finished run in the folder `run` or, where that is '', one of `dataset`, made if need be.

    Raises FileNotFoundError where there is no finished run in the folder.
    """
    return (
        _finished_run(run) if run else runs.run(method, dataset, budget, seed, precision=precision)
    )


def table_file(run: Run, source: str | Path) -> Path:
    """Where a table of the images in a folder, scored by a run, is written by default."""
    names = (run.config[name] for name in ("set", "budget", "method"))
    of = "-".join([Path(source).absolute().name, "by", *names, f"seed{run.config['seed']}"])
    return root() / "data" / "scored" / f"{of}.csv"


def with_parts(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The table with the part of each image of a set, '' of others.

    What a run was trained on is no test of it: most known normals, and unlabeled images too.
    """
    parts = {"known normal": dataset.normal, "unlabeled": dataset.unlabeled, "test": dataset.test}
    part_of = {name: part for part, images in parts.items() for name in images.names}
    return table.assign(part=table["image"].map(part_of).fillna(""))


def look(image: str | Path, run: Run) -> tuple[np.ndarray, Detection]:
    """The pixels (C, H, W) of one image as a run's method sees them, and what it says of them."""
    method = run.method().to(best_device())
    (found,) = read_all([Path(image)], _conversion(run), _as_seen(run, method))
    if isinstance(found, ImageError):
        raise found
    return found, detect_all(method, found[None])


def highest(table: pd.DataFrame, source: str | Path) -> Path:
    """The file with the highest score of a table that `score` made of a folder or an image.

    Raises ValueError where none has a score.
    """
    source = Path(source).expanduser()
    if table["score"].isna().all():
        raise ValueError(f"No image in {source} could be read.")
    return source if source.is_file() else source / table.loc[table["score"].idxmax(), "image"]


def summary(table: pd.DataFrame, run: Run | str | Path) -> str:
    """What `score` found, in words."""
    config = _finished_run(run).config
    scored = table["score"].notna()
    lines = [
        f"{scored.sum()} of {len(table)} images scored by {config['method']}, trained on "
        f"{config['set']} at the budget {config['budget']}, seed {config['seed']}."
    ]
    if (table["decision"] != "").any():
        called = (table["decision"] == "abnormal").sum()
        lines.append(
            f"{called} are called abnormal. Of normal images like those that were held out, 5 % "
            "would be."
        )
    elif scored.any():
        lines.append("Too few known normals were held out for a decision: see score, percentile.")
    lines += [f"not scored: {row.image} {row.problem}" for row in table[~scored].itertuples()]
    return "\n".join(lines)


def _conversion(run: Run) -> str:
    return run.config.get("conversion", "window")


def _as_seen(run: Run, method: Method) -> Callable[[Path, Read], np.ndarray]:
    size = method.image_size or run.config["size"]
    colour = "grey" if run.config["channels"] == 1 else "rgb"
    return lambda file, found: scaled(found.image, size, colour)


def _scored(method, read: Iterator) -> Iterator[tuple[float, str]]:
    """Score and problem of each image, in order, 64 at a time."""
    while some := list(islice(read, 64)):
        images = [pixels for pixels in some if not isinstance(pixels, ImageError)]
        scores = iter(())
        if images:
            scores = iter(detect_all(method, np.stack(images)).score)
        for pixels in some:
            failed = isinstance(pixels, ImageError)
            yield (np.nan, pixels.why) if failed else (float(next(scores)), "")


def _finished_run(run: Run | str | Path) -> Run:
    run = run if isinstance(run, Run) else Run(Path(run).expanduser())
    if not (run.folder / "metrics.json").exists():
        raise FileNotFoundError(
            f"{run.folder} is no folder of a finished run, such as "
            "data/runs/my_set/laptop/sagan/base/seed0."
        )
    return run


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no file or folder {folder}.")
    files = find_images(folder)
    if not files:
        raise FileNotFoundError(f"There is no image in {folder}.")
    return files
