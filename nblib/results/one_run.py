"""One finished run -> its numbers, beside those that it is to be held against."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from nblib import metrics
from nblib.data.datasets import Dataset
from nblib.data.labels import Labels
from nblib.results.store import checkpoints, of
from nblib.results.tables import LOCALISATION_WORDS, table
from nblib.results.write import for_print
from nblib.training.runs import Run


def numbers(run: Run) -> pd.DataFrame:
    """The numbers of one run with their intervals, a row each; none without test labels."""
    found, rows = run.metrics, {}
    if "auc" in found:
        share = "chance: the share of abnormal images"
        rows["AUC"] = (found["auc"], found["auc_interval"], "chance: 0.5")
        rows["average precision"] = (found["ap"], found["ap_interval"], share)
    if found.get("sensitivity") is not None:
        expected = "{:.2f} to {:.2f}".format(*found["specificity_expected"])
        rows["sensitivity"] = (found["sensitivity"], found["sensitivity_interval"], "")
        rows["specificity"] = (
            found["specificity"],
            found["specificity_interval"],
            f"{expected} expected of {len(run.held_out)} held-out normals",
        )
    for name, word in LOCALISATION_WORDS.items():
        if name in found:
            note = f"{found[f'{name}_chance']:.3f} by chance, {found['images_with_lesion']} images"
            rows[word] = (found[name], found[f"{name}_interval"], note)
    columns = {
        "value": {name: round(value, 3) for name, (value, _, _) in rows.items()},
        "low": {name: round(bounds[0], 3) for name, (_, bounds, _) in rows.items()},
        "high": {name: round(bounds[1], 3) for name, (_, bounds, _) in rows.items()},
        "note": {name: note for name, (_, _, note) in rows.items()},
    }
    return pd.DataFrame(columns)


def beside(run: Run, others: Iterable[Run]) -> pd.DataFrame:
    """A run below others on the same images, for print: see `runs.made_beside`."""
    return side_by_side((*others, run))


def side_by_side(runs: Iterable[Run]) -> pd.DataFrame:
    """Some runs on the same images, for print."""
    rows = table([of(run) for run in runs])
    columns = ["method", "learns from", "AUC", "AP", "training s", "ms an image"]
    return for_print(rows)[columns].set_index("method")


def scores_beside(run: Run) -> pd.DataFrame:
    """AUC and AP on the test part of each score that a method gives; the first is its own."""
    scores = run.test
    known = ("image", "patient", "part", "label", "percentile")
    names = {n: run.metrics["score"] if n == "score" else n for n in scores if n not in known}
    rows = {}
    for column, name in names.items():
        labels, values = scores["label"].to_numpy(int), scores[column].to_numpy()
        area, ap = metrics.auc(labels, values), average_precision_score(labels, values)
        rows[name] = {"AUC": area, "AP": ap}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("score").round(3)


def lesions(run: Run, labels: Labels) -> pd.DataFrame:
    """What lesions add to the mean of a heat map, against how much that mean varies without any.

    Over the test images whose lesions are known; empty where none are. A method whose lesions add
    little to the mean is near chance by it, even where its map is brighter inside them.
    """
    if labels.masks is None or run.test_map is None:
        return pd.DataFrame({"value": {}})
    maps, masks = run.test_map, labels.masks
    ill = np.flatnonzero(masks.any((1, 2)))
    inside = np.array([maps[i][masks[i]].mean() for i in ill])
    outside = np.array([maps[i][~masks[i]].mean() for i in ill])
    share = masks[ill].mean((1, 2))
    rows = {
        "map inside lesions": inside.mean(),
        "map outside, same images": outside.mean(),
        "share of the image that is lesion": share.mean(),
        "what lesions add to a map's mean": ((inside - outside) * share).mean(),
        "deviation of the mean, normal images": maps[labels.test == 0].mean((1, 2)).std(),
    }
    return pd.DataFrame({"value": rows}).round(5)


def inside_unlabeled(run: Run, dataset: Dataset) -> pd.DataFrame:
    """AUC with its interval on the test part (inductive) and inside U (transductive).

    The labels of U are used for this number and for nothing else. Of U, what was trained on is
    told from what was held out.
    """
    scores = run.scores
    held = dataset.hold_out(run.config["seed"], run.config["held_out"]).held_unlabeled.names
    unlabeled = scores[scores["part"] == "unlabeled"]
    is_held = unlabeled["image"].isin(held)
    parts = {
        "test (inductive)": run.test,
        "unlabeled (transductive)": unlabeled,
        "unlabeled, trained on": unlabeled[~is_held],
        "unlabeled, held out": unlabeled[is_held],
    }
    rows = {}
    for name, part in parts.items():
        labels, values = part["label"].to_numpy(int), part["score"].to_numpy()
        if set(labels) != {0, 1}:
            continue
        patients, area = part["patient"].to_numpy(str), metrics.auc(labels, values)
        weights = metrics.patient_weights(labels, patients)
        areas, _ = metrics.weighted_auc_ap(labels, values, weights)
        low, high = metrics.bounded_interval(area, areas, labels, patients)
        rows[name] = {"images": len(part), "AUC": area, "low": low, "high": high}
    return pd.DataFrame.from_dict(rows, orient="index").round(3)


def over_training(run: Run) -> pd.DataFrame:
    """`checkpoints` by step, with words for columns, to be drawn."""
    words = {
        "auc": "test AUC, never used",
        "aucp": "AUCp, unlabeled images trained on",
        "aucp_held_out": "AUCp, unlabeled images held out",
    }
    return checkpoints(run).set_index("step").rename(columns=words)
