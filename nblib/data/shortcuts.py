"""What of a set can be told without looking at a lesion: image statistics, and metadata alone.

A number here is an AUC, of statistics in whichever direction is better, found by looking at test
labels: a check of the set, and no method. Where it reaches a method, that method may have learned
no more.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from nblib import metrics
from nblib.data.datasets import Dataset
from nblib.data.labels import Labels
from nblib.files import DatasetError, must_be_file, read_table, root, write_json

FOLDS, LOTS = 5, 200

RIM = 0.05
"""Width of the rim of an image, as a share of its side."""


def _rim(images: np.ndarray) -> np.ndarray:
    width = max(1, round(RIM * images.shape[-1]))
    inner = images[:, width:-width, width:-width]
    outside = images.sum((1, 2)) - inner.sum((1, 2))
    return outside / (images[0].size - inner[0].size)


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda x: x.mean((1, 2)),
    "contrast": lambda x: x.std((1, 2)),
    "vertical gradient": lambda x: np.abs(np.diff(x, axis=1)).mean((1, 2)),
    "horizontal gradient": lambda x: np.abs(np.diff(x, axis=2)).mean((1, 2)),
    "darkest pixel": lambda x: x.min((1, 2)),
    "brightest pixel": lambda x: x.max((1, 2)),
    "black pixels": lambda x: (x < 8).mean((1, 2)),
    "white pixels": lambda x: (x > 247).mean((1, 2)),
    "rim": _rim,
    "left against right": lambda x: np.abs(x - x[:, :, ::-1]).mean((1, 2)),
}
"""Of grey images (n, H, W), 0 to 255 -> (n,)."""


def check(dataset: Dataset, labels: Labels) -> tuple[dict[str, float], float]:
    """AUC on the test part of each statistic, in the better direction, and of metadata alone.

    And what the best of the statistics stays below in 95 % of cases when patients are called normal
    and abnormal by lot.

    'width', 'height': of the files. 'metadata (columns)': a logistic regression on the columns of
    metadata.csv beside image and patient, fitted to test labels and judged on patients that it
    did not see (5 folds); left out where there are none, or too few patients. Raises DatasetError
    where the test part does not have images known to be normal and such known to be abnormal.
    """
    if {*labels.test} != {0, 1}:
        raise DatasetError(
            [f"{dataset.name} has no labelled test images: what tells of them without a lesion is "
             "not known."]
        )  # fmt: skip
    grey = dataset.test.images.astype(np.float64).mean(1)
    values = {name: of(grey) for name, of in STATISTICS.items()}
    values |= dict(
        zip(("width of the file", "height of the file"), dataset.test.sizes.T, strict=True)
    )
    normal = labels.test == 0
    # An AUC is a sum of ranks, so that all lots are one product of matrices.
    ranks = rankdata(np.array(list(values.values())), axis=1)
    random = np.random.default_rng(0)
    patients = dataset.test.patients
    lots = np.stack([normal, *(_by_lot(normal.sum(), patients, random) for _ in range(LOTS))])
    n0, n1 = lots.sum(1), (~lots).sum(1)
    areas = (ranks @ ~lots.T - n1 * (n1 + 1) / 2) / np.maximum(n0 * n1, 1)
    areas = np.maximum(areas, 1 - areas)
    found = {name: float(area) for name, area in zip(values, areas[:, 0], strict=True)}
    by_lot = areas[:, 1:].max(0)
    known = metadata(dataset)
    fewest = min(len(set(patients[normal])), len(set(patients[~normal])))
    if known.shape[1] and fewest >= FOLDS:
        scores = _by_metadata(known, labels.test, dataset.test.patients)
        name = f"metadata ({', '.join(known)})"
        found[name] = metrics.auc(labels.test, scores)
    return dict(sorted(found.items(), key=lambda item: -item[1])), float(np.quantile(by_lot, 0.95))


def _by_lot(n_normal: int, patients: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Which images are called normal if patients are called so by lot, until there are as many."""
    ids, patient = np.unique(patients, return_inverse=True)
    order = random.permutation(len(ids))
    many = np.bincount(patient)[order].cumsum()
    return np.isin(patient, order[: np.searchsorted(many, n_normal) + 1][: len(ids) - 1])


def metadata(dataset: Dataset) -> pd.DataFrame:
    """The columns of metadata.csv beside image and patient, for the test images; numbers as such.

    Without columns where there is no such file, or nothing else in it. What is all different or
    all the same is left out.
    """
    file = dataset.folder / "metadata.csv"
    if not file.exists():
        return pd.DataFrame(index=dataset.test.names)
    # Read twice: as the set is, and by pandas, which knows what is a number or missing.
    text = io.StringIO(read_table(file).to_csv(index=False))
    table = pd.read_csv(text, dtype={"image": str, "patient": str}).drop_duplicates("image")
    table = table.set_index("image").reindex(dataset.test.names).replace([np.inf, -np.inf], np.nan)
    table = table.drop(columns="patient", errors="ignore")
    words = table.select_dtypes(exclude="number")
    dull = [name for name in table if table[name].nunique() < 2]
    dull += [name for name in words if table[name].nunique() > len(table) / 2]
    return table.drop(columns=dull)


def _by_metadata(known: pd.DataFrame, labels: np.ndarray, patients: np.ndarray) -> np.ndarray:
    numbers = list(known.select_dtypes("number"))
    words = [name for name in known if name not in numbers]
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore"), words),
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=1000))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    known = known.astype(dict.fromkeys(words, str))
    return cross_val_predict(
        model, known, labels, groups=patients, cv=folds, method="predict_proba"
    )[:, 1]


def keep_shortcuts(name: str, found: dict[str, float], chance: float) -> None:
    """Write what `check` found to data/scores/<set>/shortcuts.json, for captions of tables."""
    areas = {k: round(v, 4) for k, v in found.items()}
    write_json(_file(name), {"auc": areas, "by_lot_95": round(chance, 4)})


def kept_shortcuts(name: str) -> tuple[dict[str, float], float]:
    """What was kept of a set; empty where nothing was. Raises DatasetError where it is damaged."""
    file = _file(name)
    if not file.exists():
        return {}, 1.0
    try:
        must_be_file(file)
        written = json.loads(file.read_text())
        return {k: float(v) for k, v in written["auc"].items()}, float(written["by_lot_95"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        again = "Remove it, or make it again by the notebook 54_datasets"
        raise DatasetError([f"{file} holds no shortcuts of a set. {again}."]) from None


def _file(name: str) -> Path:
    return root() / "data" / "scores" / name / "shortcuts.json"


def within(test: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """AUC of a run's test scores within each group of images: images, abnormal, auc, a row each.

    groups: a column of `metadata`, by image name. Last row: all pairs of images of one group,
    which no difference between groups can help; NaN where a group is of one kind.
    """
    test = test.set_index("image")
    test = test.assign(group=groups.reindex(test.index).fillna("unknown").astype(str))
    rows, pairs, right = {}, 0, 0.0
    for group, part in test.groupby("group"):
        normal = part["label"].to_numpy() == 0
        values = part["score"].to_numpy()
        row = {"images": len(part), "abnormal": int((~normal).sum()), "auc": np.nan}
        if normal.any() and not normal.all():
            row["auc"] = metrics.auc(~normal, values)
            pairs += normal.sum() * (~normal).sum()
            right += row["auc"] * normal.sum() * (~normal).sum()
        rows[group] = row
    whole = {"images": len(test), "abnormal": int(test["label"].sum())}
    rows["within all groups"] = whole | {"auc": right / pairs if pairs else np.nan}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(groups.name)
