"""Scores and labels -> numbers with intervals; maps and masks -> localisation.

Scores: larger = more abnormal. Labels: 0 normal, 1 abnormal. Images of one patient are not
independent, so intervals resample patients, not images.
"""

import numpy as np
import pandas as pd
from scipy.ndimage import label as label_regions
from scipy.special import expit, logit, stdtrit
from scipy.stats import beta, binomtest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

RESAMPLES = 2000

BLOCK = 2**17
"""Numbers that `weighted_auc_ap` works on at a time."""


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve of images (n,), 0 normal, 1 abnormal."""
    return float(roc_auc_score(labels, scores))


def auc_standard_error(area: float, n_normal: int, n_abnormal: int) -> float:
    """The standard error of an AUC of independent images (Hanley and McNeil 1982, eq. 2)."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (n_abnormal - 1) * (q1 - area**2) + (n_normal - 1) * (q2 - area**2)
    return float(np.sqrt(max(0.0, variance) / (n_normal * n_abnormal)))


def aucp(normal: np.ndarray, unlabeled: np.ndarray) -> tuple[float, float]:
    """AUC of scores of known normals (0) against unlabeled images (1), and its standard error."""
    labels = np.repeat([0, 1], [len(normal), len(unlabeled)])
    area = auc(labels, np.concatenate([normal, unlabeled]))
    return area, auc_standard_error(area, len(normal), len(unlabeled))


def patient_weights(
    labels: np.ndarray, patients: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """How often each image is drawn in each resample of patients: (resamples, n), uint16.

    Patients are drawn with replacement within strata: those with normal images only, with
    abnormal ones only, and with both. A patient's images are drawn together.
    """
    ids, patient_of = np.unique(patients, return_inverse=True)
    has = np.zeros((len(ids), 2), bool)
    has[patient_of, np.asarray(labels, int)] = True
    random = np.random.default_rng(seed)
    drawn = np.zeros((resamples, len(ids)), np.uint16)
    for stratum in ([True, False], [False, True], [True, True]):
        members = np.flatnonzero((has == stratum).all(1))
        if len(members):
            share = np.full(len(members), 1 / len(members))
            drawn[:, members] = random.multinomial(len(members), share, resamples)
    return drawn[:, patient_of]


def weighted_auc_ap(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray):
    """AUC and average precision for each row of whole-numbered `weights` (resamples, n).

    As scikit-learn's with `sample_weight`, but many resamples at once: as many as stay in the
    processor's cache.
    """
    order = np.argsort(-scores, kind="stable")
    normal, ends = labels[order] == 0, np.append(np.diff(scores[order]) != 0, True)
    areas, precisions = np.empty(len(weights)), np.empty(len(weights))
    size = max(1, BLOCK // len(scores))
    for rows in (slice(start, start + size) for start in range(0, len(weights), size)):
        drawn = weights[rows, order].astype(float)
        above = drawn.cumsum(1)
        drawn[:, normal] = 0
        true = drawn.cumsum(1)
        if not ends.all():  # of images with the same score all at once
            above, true = above[:, ends], true[:, ends]
        false = above - true
        true_step, false_step = np.diff(true, prepend=0), np.diff(false, prepend=0)
        pairs = np.einsum("rn,rn->r", false_step, true - true_step / 2)
        areas[rows] = pairs / (true[:, -1] * false[:, -1])
        precision = true / np.maximum(above, 1)
        precisions[rows] = np.einsum("rn,rn->r", true_step, precision) / true[:, -1]
    return areas, precisions


def bounded_interval(
    value: float, resampled: np.ndarray, labels: np.ndarray, patients: np.ndarray,
    level: float = 0.95,
) -> list[float]:  # fmt: skip
    """The interval of an AUC or average precision, or of a mean of some, in 0 to 1.

    resampled: its values over resampled patients. On the logit scale, with Student's t of the class
    with fewer patients. What resampling says of the spread there is too wide near 1, and its linear
    approximation too narrow: their mean is taken. Few patients flatter average precision: as much
    as resampled values lie above `value` on average, it is taken to lie above the truth. Percentile
    intervals hold the truth in down to 76 % where 95 are promised, these do about as promised
    (data/simulated/intervals.csv).

    Of a perfect value nothing varies: its other end is where so many patients in a row would be
    without a mistake with the probability that the interval leaves on that side.
    """
    normal, abnormal = (len(np.unique(patients[labels == label])) for label in (0, 1))
    count, tail = min(normal, abnormal), (1 - level) / 2
    if count < 2:
        return [0.0, 1.0]
    if value in (0, 1):
        end = tail ** (1 / count)
        return [end, 1.0] if value else [0.0, 1 - end]
    ends = 1 / (4 * normal * abnormal)  # a quarter of what a pair of patients is worth
    logits = logit(np.clip(resampled, ends, 1 - ends))
    linear = np.std(resampled, ddof=1) / (value * (1 - value))
    # Resampled patients vary less than patients do, by one degree of freedom.
    spread = (logits.std(ddof=1) + linear) / 2 * np.sqrt(count / (count - 1))
    middle, half = 2 * logit(value) - logits.mean(), stdtrit(count - 1, 1 - tail) * spread
    return [float(expit(middle - half)), float(expit(middle + half))]


def _with_doubt(share: float, resampled: np.ndarray, patients: np.ndarray) -> list[float]:
    """The percentile interval of a share; of 0 or 1, where nothing varies, the binomial one."""
    return _binomial(share, patients) if share in (0, 1) else interval(resampled)


def _binomial(share: float, patients: np.ndarray) -> list[float]:
    """The exact interval of a share of as many trials as there are patients."""
    trials = len(np.unique(patients))
    exact = binomtest(round(share * trials), trials).proportion_ci()
    return [float(exact.low), float(exact.high)]


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


def decisions(scores: pd.DataFrame, specificity: float = 0.95) -> dict[str, float | None]:
    """Threshold from held-out normals; sensitivity, specificity and F1 of the test part at it.

    scores: columns part (test, held_out_normal, ...), label, score. None where too few images are
    held out for a threshold.
    """
    held = scores.loc[scores["part"] == "held_out_normal", "score"].to_numpy()
    test = scores[scores["part"] == "test"]
    cut = threshold(held, specificity)
    if np.isnan(cut):
        return dict.fromkeys(("threshold", "sensitivity", "specificity", "f1"))
    above, abnormal = test["score"].to_numpy() > cut, test["label"].to_numpy() == 1
    return {
        "threshold": cut,
        "sensitivity": float(above[abnormal].mean()),
        "specificity": float((~above)[~abnormal].mean()),
        "f1": float(f1_score(abnormal, above, zero_division=0)),
    }


def detection(scores: pd.DataFrame, resamples: int = RESAMPLES) -> dict[str, float | list[float]]:
    """AUC, AP and sensitivity of the test part of a run's scores, with 95 % intervals.

    scores: columns image, patient, part (test, held_out_normal, ...), label, score. Without
    labels of the test part: images, patients and the threshold alone.
    """
    test = scores[scores["part"] == "test"]
    held = scores.loc[scores["part"] == "held_out_normal", "score"].to_numpy()
    counts = {"images": len(test), "patients": int(test["patient"].nunique())}
    if test["label"].isna().any() or not len(test):
        cut = threshold(held)
        return counts | {"threshold": None if np.isnan(cut) else cut}
    labels, values = test["label"].to_numpy(int), test["score"].to_numpy()
    patients = test["patient"].to_numpy(str)
    weights = patient_weights(labels, patients, resamples)
    areas, precisions = weighted_auc_ap(labels, values, weights)
    area, precision = auc(labels, values), float(average_precision_score(labels, values))
    found = {
        "auc": area,
        "auc_interval": bounded_interval(area, areas, labels, patients),
        "ap": precision,
        "ap_interval": bounded_interval(precision, precisions, labels, patients),
    }
    found |= counts
    decided = decisions(scores)
    intervals = ("sensitivity_interval", "specificity_interval", "specificity_expected")
    if decided["threshold"] is None:
        return found | decided | dict.fromkeys(intervals)
    above, normal, abnormal = values > decided["threshold"], labels == 0, labels == 1
    sensitivities = (weights * (above & abnormal)).sum(1) / (weights * abnormal).sum(1)
    specificities = (weights * (~above & normal)).sum(1) / (weights * normal).sum(1)
    ranges = [
        _with_doubt(decided["sensitivity"], sensitivities, patients[abnormal]),
        _with_doubt(decided["specificity"], specificities, patients[normal]),
        specificity_range(len(held)),
    ]
    return found | decided | dict(zip(intervals, ranges, strict=True))


LEVELS = 800
"""Thresholds of curves over pixels, dense at the top: the highest is passed by one pixel."""

PRO_LIMIT = 0.3
"""PRO is averaged up to this share of false positive pixels."""


def localisation(
    maps: np.ndarray,
    masks: np.ndarray,
    annotated: np.ndarray,
    patients: np.ndarray,
    resamples: int = 500,
) -> dict[str, float | int | list[float]]:
    """How well maps (n, H, W) find the lesions masks (n, H, W), over the annotated images.

    pixel_ap: average precision over all pixels; by chance the share of lesion pixels.
    dice: the best Dice coefficient that one threshold for all images can reach, found by looking
    at the masks; by chance that of marking everything.
    pro: per-region overlap (Bergmann et al. 2019): the share of a lesion that lies above a
    threshold, averaged over lesions (connected regions) and over the shares 0 to 0.3 of false
    positive pixels; by chance 0.15.
    pointing: share of images with a lesion that `pointing_hits` finds; by chance the mean share of
    the image that the lesion takes.

    Each with a 95 % interval, over resampled patients; of pointing the exact binomial one of as
    many trials as patients, since with no hit, or only hits, resampling would see no doubt.
    Nothing where no image has a lesion.
    """
    maps, masks, patients = maps[annotated], masks[annotated], patients[annotated]
    ill = masks.any((1, 2))
    if not ill.any():
        return {}
    counts = _pixel_counts(maps, masks)
    ones = np.ones((1, len(maps)))
    found = {k: float(v[0]) for k, v in _over_pixels(*counts, ones).items()}
    found["pixel_ap"] = float(average_precision_score(masks.ravel(), maps.ravel()))
    weights = patient_weights(ill, patients, resamples)
    for name, values in _over_pixels(*counts, weights).items():
        found[f"{name}_interval"] = interval(values)
    share = float(masks.mean())
    pointing = float(pointing_hits(maps[ill], masks[ill]).mean())
    return found | {
        "pointing": pointing,
        "pointing_interval": _binomial(pointing, patients[ill]),
        "pixel_ap_chance": share,
        "dice_chance": 2 * share / (1 + share),
        "pro_chance": PRO_LIMIT / 2,
        "pointing_chance": float(masks[ill].mean()),
        "images_with_lesion": int(ill.sum()),
        "images_without": int((~ill).sum()),
    }


def pointing_hits(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Whether the largest value of each map (n, H, W) lies in its mask; of several, their share."""
    highest = maps == maps.max((1, 2), keepdims=True)
    return (highest & masks).sum((1, 2)) / highest.sum((1, 2))


def _pixel_counts(maps: np.ndarray, masks: np.ndarray):
    """How many pixels of each image lie above each level, from the highest level down.

    Returns false and true ones (n, levels), the share above of each region (regions, levels),
    and the image of each region.
    """
    cuts = np.quantile(maps, 1 - np.geomspace(1, 1 / maps.size, LEVELS))[::-1]

    def above(values: np.ndarray) -> np.ndarray:
        return len(values) - np.searchsorted(np.sort(values), cuts, side="left")

    # Floats, whose products are a library's, and exact: integers are multiplied one by one.
    false = np.array([above(m[~mask]) for m, mask in zip(maps, masks, strict=True)], float)
    true = np.array([above(m[mask]) for m, mask in zip(maps, masks, strict=True)], float)
    shares, image_of = [], []
    for i in np.flatnonzero(masks.any((1, 2))):
        regions, count = label_regions(masks[i], np.ones((3, 3)))
        for region in range(1, count + 1):
            shares.append(above(maps[i][regions == region]) / (regions == region).sum())
            image_of.append(i)
    return false, true, np.array(shares), np.array(image_of)


def _over_pixels(false, true, shares, image_of, weights: np.ndarray) -> dict[str, np.ndarray]:
    """pixel_ap, dice and pro for each row of `weights` (resamples, n) of the images."""
    weights = weights.astype(float)
    false, true = weights @ false, weights @ true
    lesion = true[:, -1:]
    precision = true / np.maximum(true + false, 1)
    steps = np.diff(true / lesion, prepend=0, axis=1)
    of_regions = weights[:, image_of]
    overlap = of_regions @ shares / of_regions.sum(1, keepdims=True)
    rate = false / false[:, -1:]
    at = np.linspace(0, PRO_LIMIT, 301)
    both = zip(rate, overlap, strict=True)
    curve = [np.interp(at, np.append(0, x), np.append(0, y)) for x, y in both]
    return {
        "pixel_ap": (steps * precision).sum(1),
        "dice": (2 * true / (true + false + lesion)).max(1),
        "pro": np.trapezoid(curve, at, axis=1) / PRO_LIMIT,
    }
