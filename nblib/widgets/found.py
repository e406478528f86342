"""What lies on this disk: finished runs, their images and methods, trainings in progress."""

import contextlib
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nblib.data import datasets
from nblib.data.datasets import Dataset, DatasetError
from nblib.data.labels import load_labels
from nblib.figures import map_limit, shown
from nblib.files import root
from nblib.methods.catalogue import METHODS
from nblib.methods.method import Detection, Method, detect_all
from nblib.training import runs
from nblib.training.budgets import BUDGETS, trains
from nblib.training.folder import CHECKPOINT
from nblib.training.runs import Run


class Key(NamedTuple):
    """Which base run: the set's name, budget, method and seed."""

    data: str
    budget: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method} on {shown(self.data)}, {self.budget}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        return runs.run_folder(self.data, self.budget, self.method, self.seed)


class Patch(NamedTuple):
    """A rectangle painted over an image, in pixels of the set's size; brightness 0 to 255."""

    left: int
    top: int
    width: int
    height: int
    brightness: int = 255


def finished() -> tuple[Key, ...]:
    """The finished base runs on the disk, in order: set, budget, method, seed."""
    return _runs_with("metrics.json")


def in_progress() -> list[Key]:
    """The base runs that have begun to train and are not finished, the last saved one first.

    A training that was cut off is among them: files alone do not tell.
    """
    done = set(finished())
    begun = [key for key in _runs_with("config.json") if key not in done]
    training = [key for key in begun if trains(key.method)]
    return sorted(training, key=saved_at, reverse=True)


def _runs_with(file: str) -> tuple[Key, ...]:
    found = []
    for path in (root() / "data" / "runs").glob(f"*/*/*/base/seed*/{file}"):
        data, budget, method, _, seed = path.parent.parts[-5:]
        seed = seed.removeprefix("seed")
        # Not those that were set aside, nor of methods that are no more.
        if seed.isdecimal() and budget in BUDGETS and method in METHODS:
            found.append(Key(data, budget, method, int(seed)))
    budget_order, method_order = list(BUDGETS), list(METHODS)
    return tuple(
        sorted(
            found, key=lambda k: (k[0], budget_order.index(k[1]), method_order.index(k[2]), k[3])
        )
    )


def saved_at(key: Key) -> float:
    """When the last checkpoint of a training was written, or when it began; seconds since 1970."""
    for name in (CHECKPOINT, "config.json"):
        with contextlib.suppress(FileNotFoundError):
            return (key.folder / name).stat().st_mtime
    return 0.0


def nearest(keys: tuple[Key, ...], wanted: Key) -> Key:
    """Of some runs the first that shares most with a key: set before budget, method and seed."""
    return max(keys, key=lambda key: [a == b for a, b in zip(key, wanted, strict=True)])


def start(run: Run) -> tuple[float, str]:
    """The threshold that a run begins with, and where it comes from, in words."""
    held = run.held_out
    cut = run.metrics.get("threshold")
    if cut is not None:
        return cut, f"fixed by {len(held)} held-out normals for 95 % specificity"
    if len(held):
        few = f"the 95th percentile of {len(held)} held-out normals, too few to promise anything"
        return float(np.quantile(held, 0.95)), few
    return float(run.scores["score"].median()), "the median of all scores: no normals were held out"


def painted(image: np.ndarray, patch: Patch, size: int) -> np.ndarray:
    """A copy of an image (C, H, W), uint8, with a patch painted over it in every channel.

    The patch counts in pixels of the image at size x size; the image itself may be larger.
    """
    scale = image.shape[-1] / size
    rows, columns = (
        slice(round(begin * scale), round((begin + length) * scale))
        for begin, length in ((patch.top, patch.height), (patch.left, patch.width))
    )
    copy = image.copy()
    copy[:, rows, columns] = patch.brightness
    return copy


class Images(NamedTuple):
    """The images of a run's set; where they cannot be had, None and why, in words."""

    dataset: Dataset | None
    masks: np.ndarray | None
    trouble: str = ""


class Reader:
    """Runs, images and methods by the key of a run, each read once and then remembered.

    paths: name of a set -> where it lies, for sets that were named by their folder.

    run(key) -> Run; images(key) -> Images; limit(key) -> where the run's colour scale ends;
    detect(key, image, patch) -> what the run's method says of the test image at that place,
    painted where there is a patch.
    """

    def __init__(self, paths: dict[str, str | Path]):
        self._paths = paths
        self.run = functools.lru_cache(40)(lambda key: Run(key.folder))
        self.images = functools.lru_cache(40)(self._images)
        self.detect = functools.lru_cache(64)(self._detect)
        self.limit = functools.lru_cache(40)(lambda key: map_limit(self.run(key)))
        self._set = functools.lru_cache(4)(self._read_set)
        self._method = functools.lru_cache(4)(self._read_method)

    def _images(self, key: Key) -> Images:
        run = self.run(key)
        found = self._set(key.data, run.config["size"], run.config["channels"])
        if found.dataset and list(found.dataset.test.names) != list(run.test["image"]):
            words = f"The test images of {key.data} are no longer those of this run."
            return Images(None, None, words)
        return found

    def _read_set(self, data: str, size: int, channels: int) -> Images:
        try:
            colour = "grey" if channels == 1 else "rgb"
            dataset = datasets.load(self._paths.get(data, data), size, colour)
            return Images(dataset, load_labels(dataset).masks)
        except DatasetError as error:
            return Images(None, None, f"Its images are not shown: {error.problems[0]}")

    def _read_method(self, key: Key) -> tuple[Method, np.ndarray]:
        """A method, and the test images at the size that it sees."""
        method, dataset = self.run(key).method(), self.images(key).dataset
        return method, dataset.at(method.image_size or dataset.size).test.images

    def _detect(self, key: Key, image: int, patch: Patch | None = None) -> Detection:
        method, images = self._method(key)
        x = images[image]
        if patch:
            x = painted(x, patch, self.images(key).dataset.size)
        return detect_all(method, x[None])
