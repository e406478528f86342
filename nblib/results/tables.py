"""Results -> data frames: detection, localisation, settings, what choosing by labels would add.

A table holds one set and one budget. AUC, AP, thresholds and intervals are made again from the
scores of every image; localisation and cost come from each run's metrics.json.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from joblib import Memory
from sklearn.metrics import average_precision_score

from nblib import metrics
from nblib.data import shortcuts
from nblib.data.datasets import Dataset
from nblib.data.labels import Labels
from nblib.files import digest, root
from nblib.methods.catalogue import REFERENCES, entry
from nblib.results import store
from nblib.results.store import PROJECT, Result, one_set
from nblib.training import budgets
from nblib.training.runs import Run

PUBLISHED = PROJECT / "data" / "published.csv"


class Resampled(NamedTuple):
    """The runs of one method on the test images, and on those of resampled patients.

    scores: (seeds, n); area: AUC (seeds,); auc, ap: of resampled patients, (seeds, resamples).
    """

    scores: np.ndarray
    area: np.ndarray
    auc: np.ndarray
    ap: np.ndarray


def by_method(
    results: list[Result],
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Labels and patients of the test images (n,), and each method's scores of them (seeds, n).

    Raises ValueError where results differ in set, budget or images, or test images have no labels.
    """
    one_set(results, "data")
    store.must_be_labelled(results[:1])  # all are of the same images
    test = results[0].test
    scores: dict[str, list[np.ndarray]] = {}
    for result in results:
        scores.setdefault(result.config["method"], []).append(result.test["score"].to_numpy())
    methods = {method: np.array(of_seeds) for method, of_seeds in scores.items()}
    return test["label"].to_numpy(int), test["patient"].to_numpy(str), methods


def resampled(
    results: list[Result],
) -> tuple[np.ndarray, np.ndarray, dict[str, Resampled]]:
    """Labels and patients of the test images (n,), and `Resampled` of each method.

    All runs scored the same images: their patients are resampled once, for every method; and once
    for all notebooks, since it is remembered in data/cache. Raises as `by_method`.
    """
    labels, patients, scores = by_method(results)
    memory = Memory(root() / "data" / "cache" / "resampled", verbose=0)
    code = digest(Path(metrics.__file__).read_bytes())
    found = memory.cache(_resampled)(labels, patients, np.concatenate([*scores.values()]), code)
    memory.reduce_size(CACHE_BYTES)
    ends = np.cumsum([len(of) for of in scores.values()])[:-1]
    of_each = zip(*(np.split(values, ends) for values in found), strict=True)
    methods = {
        name: Resampled(of, *own) for (name, of), own in zip(scores.items(), of_each, strict=True)
    }
    return labels, patients, methods


CACHE_BYTES = 2 * 10**8
"""What remembered resamples may take on the disk; those of a hundred runs are 3 MB."""


def _resampled(labels: np.ndarray, patients: np.ndarray, scores: np.ndarray, code: str):
    """AUC (runs,); AUC and AP of resampled patients (runs, resamples), of the scores (runs, n).

    code: a digest of what they are worked out by, so that no other's are remembered.
    """
    weights = metrics.patient_weights(labels, patients)
    areas = np.array([metrics.auc(labels, values) for values in scores])
    pairs = [metrics.weighted_auc_ap(labels, values, weights) for values in scores]
    return areas, *map(np.array, zip(*pairs, strict=True))


def table(results: list[Result]) -> pd.DataFrame:
    """A row a method: AUC, AP, decisions over the seeds, intervals over patients, cost.

    In the catalogue's order: first what learns from known normals, then what uses the unlabeled
    mix.

    auc, ap: means over the seeds; *_low, *_high: 95 % interval of that mean over resampled
    patients, for these very seeds; auc_seed_sd: deviation between seeds, NaN with one seed.
    Raises ValueError where results differ in set, budget or images.
    """
    labels, patients, methods = resampled(results)
    rows = []
    for method, found in methods.items():
        own = [r for r in results if r.config["method"] == method]
        row = {
            "method": method,
            "uses": entry(method).uses,
            "reference": method in REFERENCES.values(),
            "seeds": len(own),
            "precision": ", ".join(store.precisions(own)),
        }
        areas = with_intervals(found, labels, patients)
        row |= {name: areas.pop(name) for name in ("auc", "auc_low", "auc_high")}
        row["auc_seed_sd"] = np.std(found.area, ddof=1) if len(own) > 1 else np.nan
        row |= areas
        at_90 = [metrics.decisions(r.scores, 0.9) for r in own]
        at_95 = [metrics.decisions(r.scores, 0.95) for r in own]
        row |= {f"{name}_at_90": _mean(at_90, name) for name in ("sensitivity", "specificity")}
        row |= {name: _mean(at_95, name) for name in ("sensitivity", "specificity", "f1")}
        numbers = [r.metrics for r in own]
        row |= {name: _mean(numbers, name) for name in COST}
        rows.append(row)
    return pd.DataFrame(rows)


def with_intervals(found: Resampled, labels: np.ndarray, patients: np.ndarray) -> dict[str, float]:
    """auc and ap, means over a method's runs; *_low, *_high: the 95 % interval over patients."""
    precision = np.mean([average_precision_score(labels, v) for v in found.scores])
    row = {}
    for name, value, drawn in (("auc", found.area.mean(), found.auc), ("ap", precision, found.ap)):
        low, high = metrics.bounded_interval(value, drawn.mean(0), labels, patients)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row


LOCALISATION_WORDS = {
    "pixel_ap": "pixel AP", "dice": "best Dice", "pro": "PRO", "pointing": "pointing",
}  # fmt: skip

COST = ("seconds", "ms_per_image", "parameters")


def _mean(numbers: list[dict], name: str) -> float:
    values = [found.get(name) for found in numbers]
    return np.nan if None in values else float(np.mean(values))


def published() -> pd.DataFrame:
    """Published results: model, method, set, metric, percent, spread, source.

    The thesis does not say what its spread (±) is: of what, over how many runs.
    """
    return pd.read_csv(PUBLISHED)


def within_groups(results: list[Result], dataset: Dataset, column: str) -> pd.DataFrame:
    """AUC of each method within the groups of a column of metadata.csv, such as view.

    Means over the seeds. Empty for ''. Raises ValueError for a column that is not there, naming
    those that are.
    """
    if not column:
        return pd.DataFrame()
    known = shortcuts.metadata(dataset)
    if column not in known:
        there = ", ".join(known) or "none beside image and patient"
        raise ValueError(
            f"{dataset.name} has no column '{column}' in metadata.csv; it has {there}."
        )
    areas = [
        shortcuts.within(r.test, known[column])["auc"].rename(r.config["method"]) for r in results
    ]
    return pd.DataFrame(areas).groupby(level=0, sort=False).mean().round(3)


def changed(result: Result | Run) -> dict[str, str]:
    """The arguments of a run that are not the published ones, as 'run's (published)'."""
    published = budgets.arguments(result.config["method"], "thesis", result.config["size"])
    given = result.config["arguments"]
    return {
        name: f"{given[name]:,} ({'as G' if value is None else f'{value:,}'})"
        for name, value in published.items()
        if isinstance(given.get(name), int | float)
        and given[name] != value
        and name not in ("size", "channels")
    }


def settings(results: list[Result] | list[Run]) -> pd.DataFrame:
    """A row for each method that did not run at its published size: what differs, and how."""
    rows = {result.config["method"]: changed(result) for result in results}
    table = pd.DataFrame.from_dict({k: v for k, v in rows.items() if v}, orient="index").fillna("")
    if table.empty:
        return table
    table = table.rename_axis("method").reset_index()
    same = table.groupby([c for c in table if c != "method"], sort=False)["method"]
    return same.agg(", ".join).reset_index()[table.columns]


def localisation_table(results: list[Result]) -> pd.DataFrame:
    """How well maps find lesions: a row a method that gives maps, below what chance reaches.

    Columns as `metrics.localisation` names them, each with _low and _high: means over the seeds
    of the values and of their 95 % intervals. Empty for a set without masks and boxes.
    """
    names = LOCALISATION_WORDS
    rows, mapped = [], [r.metrics for r in results if "pro_interval" in r.metrics]
    for method in dict.fromkeys(result.config["method"] for result in results):
        own = [r.metrics for r in results if r.config["method"] == method]
        if any("pro_interval" not in found for found in own):
            continue
        row = {"method": method, "seeds": len(own)}
        for name in names:
            low, high = np.mean([found[f"{name}_interval"] for found in own], 0)
            row |= {name: _mean(own, name), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    if rows:
        chance = {name: _mean(mapped, f"{name}_chance") for name in names}
        rows.insert(0, {"method": "chance"} | chance)
    return pd.DataFrame(rows)


THESIS_COUNTS = {
    "VinDr-CXR (thesis)": (4000, 5606, 3394, 1000, 1000),
    "RSNA (thesis)": (3851, 4000, 5012, 1000, 1000),
    "LAG (thesis)": (1500, 832, 900, 811, 811),
}
"""Known normals; unlabeled normal, abnormal; test normal, abnormal: the thesis' section 4.1."""


def counts(dataset: Dataset, labels: Labels) -> pd.DataFrame:
    """How many images a set has of each part and class, beside the thesis' three sets."""
    own = [len(dataset.normal)]
    own += [
        int((part == label).sum()) for part in (labels.unlabeled, labels.test) for label in (0, 1)
    ]
    columns = ["known normal", "unlabeled normal", "unlabeled abnormal", "test normal",
               "test abnormal"]  # fmt: skip
    rows = {dataset.name: own} | THESIS_COUNTS
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("set")
    mix = table[["unlabeled normal", "unlabeled abnormal"]]
    table["abnormal in the mix"] = (mix["unlabeled abnormal"] / mix.sum(axis=1)).round(2)
    return table


THESIS_MODELS = (
    "sagan",
    "sagan_sinusoidal",
    "sagan_learned",
    "sagan_rope",
    "sagan_alibi",
    "sagan_attention_bias",
    "sagan_swin",
)
"""The models of the thesis' figure 4.4, in its order."""


def chosen_checkpoints(results: list[Result]) -> pd.DataFrame:
    """What choosing a checkpoint by test labels would add: a row a run that was scored at its own.

    last: AUC of the last checkpoint, which is what every table here shows; aucp: of that with the
    highest AUCp, which needs no label; oracle: the best on the test part, which is chosen by
    looking at its labels; flattery: oracle - last. All three on the test images that are scored
    at checkpoints, at most `runs.WATCHED`: the tables' AUC is that of all.
    """
    rows = []
    for result in results:
        at = result.checkpoints
        if at.empty or at[["auc", "aucp"]].isna().any(axis=None):
            continue
        chosen = {"last": at["auc"].iloc[-1], "aucp": at["auc"][at["aucp"].idxmax()]}
        row = {"method": result.config["method"], "seed": result.config["seed"]} | chosen
        rows.append(row | {"oracle": at["auc"].max(), "flattery": at["auc"].max() - row["last"]})
    columns = ["method", "seed", "last", "aucp", "oracle", "flattery"]
    return pd.DataFrame(rows, columns=columns)
