"""A second score of what is trained: how far restored images lie from theirs for a network's eye.

A difference of pixels counts an edge that is a pixel off as much as a lesion. Here f_d(x), the
features of an image at three depths d of EfficientNet-Lite0, which has seen photographs alone (see
`pretrained.feature_maps`), are compared with those of the restored image x':

    perceptual  mean over d of  sum |f_d(x) - f_d(x')| / sum |f_d(x)|,  over channels and places;
    whitened    mean over d of the mean over places of  sqrt(delta^T S_d^-1 delta / channels),
                delta = f_d(x) - f_d(x') at a place,  S_d the covariance of the features of single
                places of known normals, shrunk as Ledoit and Wolf (2004) do.

The first is like that of Tuluptceva et al. (2019), who train by it as well. Here nothing is trained
for it, and nothing of a finished run is changed.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from nblib import metrics
from nblib.data.batches import to_float
from nblib.data.datasets import Dataset
from nblib.methods.catalogue import METHODS
from nblib.methods.pretrained import PLACES, Pretrained, feature_maps
from nblib.results import store, write
from nblib.results.store import Result
from nblib.training.loop import best_device
from nblib.training.runs import Run

SCORES = ("residual", "perceptual", "whitened")


def feature_batches(images: np.ndarray, budget: str) -> Iterator[list[Tensor]]:
    """Feature maps (B, c, h, w) at three depths, batch by batch, at the pixels of a budget.

    images: (n, C, H, W), uint8, or floats in [-1, 1], over which a restored image may step.
    """
    network = Pretrained(**Pretrained.at_budget.get(budget, {}))
    for part in torch.from_numpy(images).split(32):
        yield feature_maps(to_float(part.to(best_device())), network.model, network.pixels)


def whitenings(known: np.ndarray, budget: str) -> list[Tensor]:
    """For each depth d a matrix A (c, c) with A A^T = S_d^-1, from known normals (n, C, H, W).

    From at most `PLACES` of all their places, evenly spaced, as those that `PretrainedKNN` keeps.
    """
    taken, before = ([], [], []), 0
    for maps in feature_batches(known, budget):
        for f, kept in zip(maps, taken, strict=True):
            places = f.flatten(2).transpose(1, 2).flatten(0, 1)
            of_all = len(known) * f[0, 0].numel()
            some = np.linspace(0, of_all - 1, min(PLACES, of_all)).round().astype(int)
            some -= before * f[0, 0].numel()
            kept.append(places[some[(some >= 0) & (some < len(places))]])
        before += len(maps[0])
    found = []
    for kept in taken:
        places = torch.cat(kept)
        inverse = LedoitWolf().fit(places.cpu().double().numpy()).precision_
        found.append(places.new_tensor(np.linalg.cholesky(inverse)))
    return found


def distances(maps: list[Tensor], restored: list[Tensor], whitenings: list[Tensor]) -> Tensor:
    """Perceptual and whitened score (B, 2), >= 0, from the features of images and restored ones."""
    plain, whitened = [], []
    for f, f_restored, whitening in zip(maps, restored, whitenings, strict=True):
        delta = f - f_restored
        plain.append(delta.abs().sum((1, 2, 3)) / f.abs().sum((1, 2, 3)))
        at_places = delta.flatten(2).transpose(1, 2) @ whitening
        whitened.append(at_places.square().mean(2).sqrt().mean(1))
    return torch.stack([torch.stack(plain).mean(0), torch.stack(whitened).mean(0)], 1)


def score_perceptual(dataset: Dataset, budget: str, seed: int) -> Path:
    """Score the test images that each finished run has restored, in one file.

    `data/runs/<set>/<budget>/perceptual-seed<k>.csv`: image, patient, label, score, method,
    `SCORES`. The residual is the run's own score or, where that is another one, |x - x'| / 2,
    averaged. Raises FileNotFoundError where no run of these images has restored them.
    """
    restoring = [
        run.folder
        for run in store.finished(dataset, budget, METHODS, seed)
        if run.test_restored is not None
    ]
    if not restoring:
        raise FileNotFoundError(
            f"There is no finished run that restored the images of '{dataset.name}' at {budget}, "
            f"seed {seed}. Make some: make figures DATA={dataset.name} BUDGET={budget} SEEDS={seed}"
        )
    x = to_float(torch.from_numpy(dataset.test.images)).numpy()
    seen = list(feature_batches(x, budget))
    whitening = whitenings(dataset.normal.images, budget)
    tables = []
    for run in map(Run, restoring):
        residual = np.abs(x - run.test_restored).mean((1, 2, 3)) / 2
        own = run.test["score"] if run.metrics["score"] == "residual" else residual
        pairs = zip(seen, feature_batches(run.test_restored, budget), strict=True)
        found = torch.cat([distances(*pair, whitening) for pair in pairs]).cpu().numpy()
        columns = dict(zip(SCORES, (own, *found.T), strict=True))
        table = run.test[["image", "patient", "label", "score"]]
        tables.append(table.assign(method=run.config["method"], **columns))
    return store.write_pass(store.pass_file("perceptual", dataset.name, budget, seed), tables)


def perceptual(results: list[Result]) -> pd.DataFrame:
    """AUC by each of `SCORES`: a row a method, means over the seeds. Empty where nothing is scored.

    Columns: method, seeds, `SCORES`.
    """
    rows = [
        {"method": result.config["method"]}
        | {name: metrics.auc(table["label"], table[name]) for name in SCORES}
        for result, table in store.of_pass("perceptual", results)
    ]
    return store.over_seeds(rows)


def write_perceptual(results: list[Result]) -> pd.DataFrame:
    """`perceptual` as `figures/<set>/<budget>/perceptual`; returns what is printed, or empty."""
    rows = perceptual(results)
    if rows.empty:
        return rows
    printed = rows[["method", "seeds"]].copy()
    for name in SCORES:
        printed[f"AUC by {name}"] = rows[name].map("{:.3f}".format)
    words = (
        "AUC by three scores of the same restored "
        "images, means over the seeds. Residual: mean difference of pixels. Perceptual: difference "
        "of a pretrained network's features, as a share of the image's own. Whitened: the same "
        "in units of how features vary among known normals. Nothing was trained for this, no "
        "score was chosen by it, and no error is given."
    )
    return write.save_pass(rows, printed, words, results, "perceptual")
