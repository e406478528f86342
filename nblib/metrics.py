"""Scores and labels -> numbers with intervals; maps and masks -> localisation.

Scores: larger = more abnormal. Labels: 0 normal, 1 abnormal. Images of one patient are not
independent, so intervals resample patients, not images.
"""

import numpy as np
import pandas as pd
from scipy.stats import beta
from sklearn.metrics import average_precision_score, roc_auc_score

RESAMPLES = 2000


def auc(normal: np.ndarray, abnormal: np.ndarray) -> float:
    """Area under the ROC curve of the scores of normal against those of abnormal images."""
    labels = np.repeat([0, 1], [len(normal), len(abnormal)])
    return float(roc_auc_score(labels, np.concatenate([normal, abnormal])))


def auc_standard_error(area: float, n_normal: int, n_abnormal: int) -> float:
    """The standard error of an AUC of independent images (Hanley and McNeil 1982, eq. 2)."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (n_abnormal - 1) * (q1 - area**2) + (n_normal - 1) * (q2 - area**2)
    return float(np.sqrt(max(0.0, variance) / (n_normal * n_abnormal)))


def patient_weights(
    labels: np.ndarray, patients: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """How often each image is drawn in each resample of patients: (resamples, n) integers.

    Patients are drawn with replacement within strata: those with normal images only, with
    abnormal ones only, and with both. A patient's images are drawn together.
    """
    ids, patient_of = np.unique(patients, return_inverse=True)
    has = np.zeros((len(ids), 2), bool)
    has[patient_of, np.asarray(labels, int)] = True
    random = np.random.default_rng(seed)
    drawn = np.zeros((resamples, len(ids)), int)
    for stratum in ([True, False], [False, True], [True, True]):
        members = np.flatnonzero((has == stratum).all(1))
        if len(members):
            share = np.full(len(members), 1 / len(members))
            drawn[:, members] = random.multinomial(len(members), share, resamples)
    return drawn[:, patient_of]


def weighted_auc_ap(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray):
    """AUC and average precision for each row of whole-numbered `weights` (resamples, n).

    As scikit-learn's with `sample_weight`, but all resamples at once.
    """
    order = np.argsort(-scores, kind="stable")
    scores, weights = scores[order], weights[:, order]
    last_of_tie = np.append(np.diff(scores) != 0, True)
    true = np.cumsum(weights * (labels[order] == 1), 1)[:, last_of_tie]
    false = np.cumsum(weights * (labels[order] == 0), 1)[:, last_of_tie]
    true_step, false_step = np.diff(true, prepend=0, axis=1), np.diff(false, prepend=0, axis=1)
    area = (false_step * (true - true_step / 2)).sum(1) / (true[:, -1] * false[:, -1])
    precision = true / np.maximum(true + false, 1)
    return area, (true_step * precision).sum(1) / true[:, -1]


def interval(values: np.ndarray, level: float = 0.95) -> list[float]:
    """The percentile interval of bootstrap values."""
    return [float(v) for v in np.quantile(values, [(1 - level) / 2, (1 + level) / 2])]


def threshold(held_out: np.ndarray, specificity: float = 0.95) -> float:
    """The score above which an image is called abnormal, from held-out normal images alone.

    The score of rank ceil(specificity (n + 1)): a new normal image stays at or below it with at
    least that probability. NaN where there are too few held-out images for that (under 19 at 95 %).
    """
    rank = int(np.ceil(specificity * (len(held_out) + 1)))
    return float(np.sort(held_out)[rank - 1]) if rank <= len(held_out) else np.nan


def specificity_range(n_held_out: int, specificity: float = 0.95) -> list[float]:
    """Where the true specificity of `threshold` lies with 95 % probability: a beta distribution."""
    rank = int(np.ceil(specificity * (n_held_out + 1)))
    if rank > n_held_out:
        return [np.nan, np.nan]
    return [float(v) for v in beta(rank, n_held_out + 1 - rank).ppf([0.025, 0.975])]


def percentile(scores: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """The percentile, 0 to 100, of each score among the held-out normals (ties count half).

    NaN where none were held out.
    """
    if not len(held_out):
        return np.full(len(scores), np.nan)
    ordered = np.sort(held_out)
    below, upto = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return 50 * (below + upto) / len(ordered)


def detection(scores: pd.DataFrame, resamples: int = RESAMPLES) -> dict[str, float | list[float]]:
    """AUC, AP and sensitivity of the test part of a run's scores, with 95 % intervals.

    scores: columns image, patient, part (test, held_out_normal, ...), label, score.
    """
    test = scores[scores["part"] == "test"]
    held = scores.loc[scores["part"] == "held_out_normal", "score"].to_numpy()
    labels, values = test["label"].to_numpy(int), test["score"].to_numpy()
    weights = patient_weights(labels, test["patient"].to_numpy(str), resamples)
    areas, precisions = weighted_auc_ap(labels, values, weights)
    cut = threshold(held)
    above = values > cut
    normal, abnormal = labels == 0, labels == 1
    sensitivities = (weights * (above & abnormal)).sum(1) / (weights * abnormal).sum(1)
    specificities = (weights * (~above & normal)).sum(1) / (weights * normal).sum(1)
    found = {
        "auc": float(roc_auc_score(labels, values)),
        "auc_interval": interval(areas),
        "ap": float(average_precision_score(labels, values)),
        "ap_interval": interval(precisions),
        "threshold": cut,
        "sensitivity": float(above[abnormal].mean()),
        "sensitivity_interval": interval(sensitivities),
        "specificity": float((~above)[normal].mean()),
        "specificity_interval": interval(specificities),
        "specificity_expected": specificity_range(len(held)),
    }
    if np.isnan(cut):  # nothing held out, or too little: no threshold, and nothing behind it
        found |= {k: None for k in found if k.startswith(("threshold", "sens", "spec"))}
    return found | {"images": len(test), "patients": int(test["patient"].nunique())}


def localisation(
    maps: np.ndarray, masks: np.ndarray, annotated: np.ndarray
) -> dict[str, float | int]:
    """How well maps (n, H, W) find the lesions masks (n, H, W), over the annotated images.

    pixel_ap: average precision over all pixels, its chance level the share of lesion pixels.
    pointing: share of images with a lesion whose largest map value lies in it, its chance level
    the mean share of the image that the lesion takes. Nothing where no image has a lesion.
    """
    maps, masks = maps[annotated], masks[annotated]
    with_lesion = masks.any((1, 2))
    if not with_lesion.any():
        return {}
    flat_maps, flat_masks = maps[with_lesion].reshape(with_lesion.sum(), -1), masks[with_lesion]
    flat_masks = flat_masks.reshape(len(flat_masks), -1)
    hits = flat_masks[np.arange(len(flat_masks)), flat_maps.argmax(1)]
    return {
        "pixel_ap": float(average_precision_score(masks.ravel(), maps.ravel())),
        "pixel_ap_chance": float(masks.mean()),
        "pointing": float(hits.mean()),
        "pointing_chance": float(flat_masks.mean()),
        "images_with_lesion": int(with_lesion.sum()),
        "images_without": int((~with_lesion).sum()),
    }
