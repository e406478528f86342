"""What scores on pretrained features rest on: whitening, the mix, and chance.

Features alone, in closed form: nothing is trained, and all of it takes a pass over the images.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.covariance import LedoitWolf
from sklearn.model_selection import GroupKFold

from nblib import metrics
from nblib.data.datasets import Dataset
from nblib.data.labels import load_labels
from nblib.files import root, written_whole
from nblib.methods import directions
from nblib.methods.brainomaly_features import LEVELS
from nblib.methods.catalogue import METHODS
from nblib.methods.directions import fisher, fitted, logistic
from nblib.methods.method import Method
from nblib.methods.pretrained import widths
from nblib.results import store
from nblib.results.questions import POOLED
from nblib.training import budgets
from nblib.training.encoded import encode_all
from nblib.training.loop import best_device
from nblib.training.runs import Run

DIVISIONS = 20
"""How often all normal images are divided anew."""

BY_DEPTH = "vertical_gradient", "patch_fisher", "brainomaly_features"
"""Whose scores `by_depth` takes apart, and the roughness beside them."""

METHOD = "pretrained_mean"
"""Whose features all of this is about, and whose directions."""


def _made(budget: str) -> Method:
    """The method as it is at a budget: it says at which size it sees images."""
    return METHODS[METHOD].make(**budgets.arguments(METHOD, budget))


def mean_features(method: Method, images: np.ndarray) -> np.ndarray:
    """Features (n, 472) of uint8 images (n, C, H, W), as the method sees them."""
    return encode_all(method, images, best_device()).mean((2, 3)).astype(float)


class Whitening(NamedTuple):
    """Known normals and the mix along the principal components of the known normals, at one depth.

    deviation, difference: (components,), largest deviation first: of the known normals, and
    between the means of mix and known normals. along: by direction, 'plain' (the difference of the
    means) and 'whitened', the values of (held-out known normals, held-out mix), with mean 0 and
    deviation 1 among the former.
    """

    deviation: np.ndarray
    difference: np.ndarray
    along: dict[str, tuple[np.ndarray, np.ndarray]]


def whitening(run: Run, dataset: Dataset) -> Whitening:
    """Why whitening helps, on the images of a run, at the second of `pretrained.DEPTHS`.

    No label.
    """
    config = run.config
    method = _made(config["budget"])
    held = dataset.at(method.image_size).hold_out(config["seed"], config["held_out"])
    first, second, _ = widths(config["arguments"]["model"])
    known, mix, held_known, held_mix = (
        mean_features(method, part.images)[:, first : first + second]
        for part in (held.normal, held.unlabeled, held.held_normal, held.held_unlabeled)
    )
    mean, scale = known.mean(0), known.std(0).clip(1e-6)
    known, mix, held_known, held_mix = (
        (x - mean) / scale for x in (known, mix, held_known, held_mix)
    )
    covariance, difference = LedoitWolf().fit(known).covariance_, mix.mean(0)
    variances, axes = np.linalg.eigh(covariance)
    along = {}
    for name, weight in {
        "plain": difference,
        "whitened": np.linalg.solve(covariance, difference),
    }.items():
        normal, other = held_known @ weight, held_mix @ weight
        along[name] = tuple((x - normal.mean()) / normal.std() for x in (normal, other))
    return Whitening(np.sqrt(variances[::-1]), np.abs(difference @ axes)[::-1], along)


def by_ranks(run: Run) -> pd.DataFrame:
    """AUC of the mean of standardised scores, and of the mean of ranks over the test part.

    The latter would make the score of an image depend on those that it is scored with.
    """
    test, parts = run.test, [direction.__name__ for direction in (logistic, fisher)]
    ranks = sum(rankdata(test[part]) for part in parts)
    areas = {part: metrics.auc(test["label"], test[part]) for part in parts}
    areas |= {"mean of both, standardised": metrics.auc(test["label"], test["score"])}
    areas |= {"mean of their ranks": metrics.auc(test["label"], ranks)}
    return pd.DataFrame({"AUC": areas}).rename_axis("score").round(4)


def study(dataset: Dataset, budget: str) -> Path:
    """What the two directions rest on, of all known normals of a set, in one file.

    `data/runs/<set>/<budget>/features.csv`: direction, what, division, auc. what:

        mix              AUC on the test part, learnt from the unlabeled mix as it is
        normals only     from the normal images of the mix alone: what is left is no abnormality
        cross-fitted, mix; cross-fitted, normals only    Fisher's, with the covariance from one half
                         of the known normals and their mean from the other, both ways round
        divided anew     all normal images divided at random, by patient, into as many known and
                         unlabeled ones as before, in `DIVISIONS` ways
        cross-validated  AUC of known normals against the mix, of images that were not fitted on,
                         five folds by patient: needs no label
    """
    method = _made(budget)
    seen = dataset.at(method.image_size)
    labels = load_labels(dataset)
    depths = widths(budgets.arguments(METHOD, budget)["model"])
    known, mix, test = (
        mean_features(method, part.images) for part in (seen.normal, seen.unlabeled, seen.test)
    )
    is_normal = labels.unlabeled == 0
    given = {"mix": mix} | ({"normals only": mix[is_normal]} if is_normal.any() else {})
    rows = []

    def note(direction: str, what: str, scores: np.ndarray, division: int = 0) -> None:
        area = metrics.auc(labels.test, scores)
        rows.append({"direction": direction, "what": what, "division": division, "auc": area})

    for direction in (logistic, fisher):
        for what, other in given.items():
            weight, bias = fitted(direction, known, other, depths)
            note(direction.__name__, what, test @ weight + bias)
        for k, (one, other) in enumerate(_divided(known, mix, seen, is_normal)):
            weight, bias = fitted(direction, one, other, depths)
            note(direction.__name__, "divided anew", test @ weight + bias, k)
        whose = seen.normal.patients, seen.unlabeled.patients
        area = cross_validated(direction, (known, mix), whose, depths)
        row = {"direction": direction.__name__, "what": "cross-validated", "division": 0}
        rows.append(row | {"auc": area})
    for what, other in given.items():
        weight = cross_fitted(known, other, seen.normal.patients, depths)
        note("fisher", f"cross-fitted, {what}", test @ weight)
    file = root() / "data" / "runs" / dataset.name / budget / store.FEATURES
    with written_whole(file, "w") as opened:
        pd.DataFrame(rows).to_csv(opened, index=False, float_format="%.6g")
    return file


def _divided(
    known: np.ndarray, mix: np.ndarray, seen: Dataset, is_normal: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All normal images, by patient, as often as `DIVISIONS` into two parts of sizes as before."""
    if not is_normal.any():
        return
    both = np.concatenate([known, mix[is_normal]])
    patients = np.concatenate([seen.normal.patients, seen.unlabeled.patients[is_normal]])
    for k in range(DIVISIONS):
        order = np.random.default_rng(k).permutation(np.unique(patients))
        place = pd.Series(range(len(order)), order)[patients].to_numpy()
        first = place <= np.sort(place)[len(known) - 1]
        yield both[first], both[~first]


def cross_fitted(
    known: np.ndarray, mix: np.ndarray, patients: np.ndarray, depths: tuple[int, ...]
) -> np.ndarray:
    """Fisher's direction, its covariance of other known normals than their mean."""
    folds = list(GroupKFold(2, shuffle=True, random_state=0).split(known, groups=patients))
    weights = []
    for of_covariance, of_mean in folds:
        # As `directions.fisher` does, but for the mean: the mix is moved by what differs.
        moved = mix - known[of_mean].mean(0) + known[of_covariance].mean(0)
        weights.append(fitted(fisher, known[of_covariance], moved, depths)[0])
    return np.mean(weights, 0)


def cross_validated(
    direction,
    parts: tuple[np.ndarray, np.ndarray],
    patients: tuple[np.ndarray, np.ndarray],
    depths: tuple[int, ...],
) -> float:
    """AUC of known normals (0) against the mix (1), each scored by a fit to four fifths of both.

    parts: known, mix (n, features); patients: (n,) of both. A patient is in one fold alone.
    """
    both, is_mix = np.concatenate(parts), np.repeat([0, 1], [len(part) for part in parts])
    folds = GroupKFold(directions.FOLDS, shuffle=True, random_state=0)
    scores = np.empty(len(both))
    for rest, fold in folds.split(both, groups=np.concatenate(patients)):
        known, mix = both[rest[is_mix[rest] == 0]], both[rest[is_mix[rest] == 1]]
        weight, bias = directions.standardised(direction, known, mix, depths)
        scores[fold] = both[fold] @ weight + bias
    return metrics.auc(is_mix, scores)


def studied(data: str | Path, budget: str) -> pd.DataFrame:
    """What `study` found, or what was kept of it; empty where neither is there."""
    data = Path(data).name
    here = [root() / "data" / name / data / budget / store.FEATURES for name in ("runs", "scores")]
    for file in (here[0], here[1].with_suffix(".csv.gz")):
        if file.exists():
            return store.read_found(file)
    return pd.DataFrame()


def by_depth(budget: str) -> pd.DataFrame:
    """AUC of each depth alone on whitened features, a row a method and score, a column a set.

    Means over the seeds, on the sets of patients; `score` is the method's own. Beside them the
    roughness of an image, the simplest of all scores. Empty where none has run.
    """
    rows = []
    for name in POOLED:
        with contextlib.suppress(FileNotFoundError):
            for result in store.collect(name, budget):
                method, test = result.config["method"], result.test
                shown = [s for s in ("score", "unsigned", *LEVELS) if s in test]
                rows += [
                    (method, score, name, metrics.auc(test["label"], test[score]))
                    for score in shown * (method in BY_DEPTH)
                ]
    table = pd.DataFrame(rows, columns=["method", "score", "set", "AUC"])
    table = table.groupby(["method", "score", "set"], sort=False)["AUC"].mean().unstack()
    return table.reindex(columns=[name for name in POOLED if name in table])


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """`studied` for print: a row a way, a column a direction; of divisions mean and deviation."""
    if found.empty:
        return found
    of = found.groupby(["what", "direction"], sort=False)["auc"]
    words = of.mean().map("{:.3f}".format)
    several = of.std().dropna()
    words.loc[several.index] += " ± " + several.map("{:.3f}".format)
    return words.unstack().reindex(found["what"].unique()).fillna("")


def studied_in_words(found: pd.DataFrame) -> list[str]:
    """What a mix of normal images alone says of the scores, a sentence a direction."""
    if found.empty:
        return []
    lines = []
    for direction, rows in found.groupby("direction", sort=False):
        areas = rows.groupby("what")["auc"].mean()
        if "normals only" not in areas:
            continue
        anew = rows.loc[rows["what"] == "divided anew", "auc"]
        low, high = anew.mean() - 2 * anew.std(), anew.mean() + 2 * anew.std()
        alone = areas["normals only"]
        why = (
            "these normal images of the mix differ from the known ones as abnormal images do: that "
            "much of the score is no abnormality"
            if alone > high
            else "no more than chance gives"
        )
        lines.append(
            f"`{direction}`: AUC {areas['mix']:.3f} learnt from the mix, {alone:.3f} from its "
            f"normal images alone; of all normal images divided anew {low:.2f} to {high:.2f} (mean "
            f"and two deviations): {why}."
        )
        if "cross-fitted, mix" in areas:
            lines.append(
                "Cross-fitted, with covariance and mean of different images, the two are "
                f"{areas['cross-fitted, mix']:.3f} and {areas['cross-fitted, normals only']:.3f}."
            )
    return lines
