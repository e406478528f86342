"""What a run and its numbers cost beside the training, at 2,000 and 20,000 images: `make bench`.

- a batch of known normal, unlabeled and pseudo-abnormal images;
- the scoring of test images at a checkpoint;
- AUC and AP of a run's scores over resampled patients;
- localisation of its maps;
- masks from boxes;
- counting SAGAN's operations at the published size, which does not grow.

Each is the fastest of three turns, after one to warm up.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nblib import metrics
from nblib.data import labels
from nblib.data.batches import Batches, Part
from nblib.data.datasets import Dataset
from nblib.methods.catalogue import entry
from nblib.results import costs
from nblib.training import budgets, runs

SIZE = 32


def fastest(work) -> float:
    """Seconds."""
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def a_batch(images: np.ndarray):
    batches = Batches(images, images, ("normal", "unlabeled", "pseudo"), 16, 0)
    return lambda: [batches(step) for step in range(100)]


def a_checkpoint(dataset: Dataset, folder: Path):
    method = entry("sagan").make(**budgets.arguments("sagan", "smoke", SIZE))
    return lambda: runs._watch(folder, dataset, method, 1)


def resampling(of: np.ndarray, patients: np.ndarray):
    scores = np.random.default_rng(0).normal(size=len(of)) + of

    def work():
        weights = metrics.patient_weights(of, patients, 500)
        metrics.weighted_auc_ap(of, scores, weights)

    return work


def localising(n: int, of: np.ndarray, patients: np.ndarray):
    random = np.random.default_rng(0)
    maps = random.random((n, SIZE, SIZE), np.float32)
    masks = np.zeros((n, SIZE, SIZE), bool)
    masks[of == 1, 4:10, 4:10] = True
    return lambda: metrics.localisation(maps, masks, np.ones(n, bool), patients, 100)


def boxes(dataset: Dataset, folder: Path):
    (folder / "images").mkdir(exist_ok=True)
    names = dataset.test.names
    for name in names:
        (folder / "images" / name).touch()
    rows = pd.DataFrame({"image": names, "x": 2, "y": 2, "width": 9, "height": 9})
    rows.to_csv(folder / "boxes.csv", index=False)
    return lambda: labels._masks(dataset)


def measured(n: int) -> dict[str, float]:
    """Milliseconds of each, with n images."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (n, 1, SIZE, SIZE), np.uint8)
    names = np.array([f"{i}.png" for i in range(n)])
    of, patients = np.arange(n) % 2, np.char.add("p", (np.arange(n) // 2).astype(str))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        part = Part(images, names, patients, np.full((n, 2), SIZE))
        dataset = Dataset("made", folder, "", part, part, part, "window")
        work = {
            "a batch": (a_batch(images), 100),
            "scoring at a checkpoint": (a_checkpoint(dataset, folder), 1),
            "500 resamples of a run": (resampling(of, patients), 1),
            "localisation": (localising(n, of, patients), 1),
            "masks from boxes": (boxes(dataset, folder), 1),
        }
        return {name: 1000 * fastest(do) / times for name, (do, times) in work.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = pd.DataFrame({f"{n:,} images, ms": measured(n) for n in (2_000, 20_000)})
    print(table.round(2).to_string())
    counting = fastest(lambda: costs._totals("sagan", "thesis", 64, 1, ""))
    print(f"counting SAGAN at the published size: {counting:.2f} s")
