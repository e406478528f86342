"""Scores of two methods on the same images -> difference of AUC, its test, what would be needed.

A difference has two sources of chance: which patients were tested (both methods saw the same, so
their errors partly cancel) and which seeds were trained (of two methods they are no pairs). Their
variances are added. Resampling three seeds instead would promise too much: such a 95 % interval
misses the truth 19 % of the time.
"""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, ndtri, stdtrit
from statsmodels.stats.multitest import multipletests

from nblib import metrics

MARGIN = 0.01
"""Two AUCs that differ by less than this are as good as equal: one point."""

LEVEL = 0.05
POWER = 0.8


class Difference(NamedTuple):
    """AUC of one method minus that of another.

    value: difference of the means over seeds. patient_variance: of that value over resampled
    patients, for these very seeds; patient_floor: what would be left of it with any number of
    seeds. seed_variances: of the mean over seeds, of each method. seeds: of each method. patients:
    how many were tested. NaN where it takes two seeds of each method and there is one.
    """

    value: float
    patient_variance: float
    patient_floor: float
    seed_variances: tuple[float, float]
    seeds: tuple[int, int]
    patients: int

    @property
    def error(self) -> float:
        """Standard error; NaN with one seed of either method.

        What a seed does to single patients is in both parts: the error is rather too large.
        """
        return float(np.sqrt(self.patient_variance + sum(self.seed_variances)))

    def critical(self, tail: float) -> float:
        """How many errors the value must lie from 0 to be in a tail of so much probability."""
        return float(_critical(tail, self.patient_variance, self.seed_variances, self.seeds))

    @property
    def p(self) -> float:
        """Of the two-sided test of no difference; NaN with one seed, or without any error."""
        if self.error == 0:
            return 1.0 if self.value == 0 else np.nan
        if np.isnan(self.error):
            return np.nan
        size = abs(self.value) / self.error
        if size >= self.critical(1e-100):
            return 0.0
        tail = brentq(lambda log: self.critical(10**log) - size, -100, np.log10(0.5))
        return float(2 * 10**tail)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the difference; NaN where `p` is."""
        if self.error == 0:
            return (0.0, 0.0) if self.value == 0 else (np.nan, np.nan)
        half = self.critical((1 - level) / 2) * self.error
        return float(self.value - half), float(self.value + half)


def _critical(tail: float, patient_variance, seed_variances, seeds: tuple[int, int]):
    """Cochran and Cox's critical value (1950, section 4.14), of numbers or of arrays of variances.

    Quantiles of Student's t, one for each part of the variance with that part's degrees of freedom
    (the patients' counts as known), weighted by the parts; NaN with one seed. Welch's own degrees
    of freedom come from the very variances that chance made small: with two or three seeds and many
    patients he is wrong up to six times too often (data/simulated/false_alarms.csv).
    """
    weighted, whole = patient_variance * -ndtri(tail), patient_variance
    for variance, k in zip(seed_variances, seeds, strict=True):
        weighted = weighted + variance * (-stdtrit(k - 1, tail) if k > 1 else np.nan)
        whole = whole + variance
    return weighted / whole


def difference(
    labels: np.ndarray, patients: np.ndarray, one: np.ndarray, other: np.ndarray,
    resamples: int = metrics.RESAMPLES,
) -> Difference:  # fmt: skip
    """The difference of AUC of two methods, from the scores (seeds, n) of the same n images."""
    weights = metrics.patient_weights(labels, patients, resamples)
    resampled = [[metrics.weighted_auc_ap(labels, s, weights)[0] for s in m] for m in (one, other)]
    aucs = [[metrics.auc(labels, of_seed) for of_seed in method] for method in (one, other)]
    return combined(aucs, resampled, len(np.unique(patients)))


def combined(aucs, resampled, patients: int) -> Difference:
    """As `difference`, of each method from AUCs (seeds,) and resampled ones (seeds, resamples)."""
    over_patients = np.mean(resampled[0], 0) - np.mean(resampled[1], 0)
    return Difference(
        float(np.mean(aucs[0]) - np.mean(aucs[1])),
        float(np.var(over_patients, ddof=1)),
        _between_seeds(*resampled),
        tuple(float(np.var(a, ddof=1) / len(a)) if len(a) > 1 else np.nan for a in aucs),
        tuple(map(len, aucs)),
        patients,
    )


def _between_seeds(one, other) -> float:
    """The patient variance without what one seed does to a patient, and another does not.

    From covariances of resampled AUCs between different seeds only.
    """
    k, m = len(one), len(other)
    if min(k, m) < 2:
        return np.nan
    covariance = np.cov(np.concatenate([one, other]))
    own, others, across = covariance[:k, :k], covariance[k:, k:], covariance[:k, k:]
    different = [(c.sum() - c.trace()) / (len(c) * (len(c) - 1)) for c in (own, others)]
    return float(max(0.0, sum(different) - 2 * across.mean()))


def delong(
    labels: np.ndarray, patients: np.ndarray, one: np.ndarray, other: np.ndarray
) -> tuple[float, float, float]:
    """Difference of AUC of two scores (n,) of the same images, its standard error, and p.

    DeLong et al. (1988) in the form for clustered data of Obuchowski (1997, eq. 6 to 9): the
    placement values of a patient's images are summed. With one image a patient it is DeLong's own.
    Says nothing about seeds: of two methods it compares two trained networks. NaN for error and p
    where the images of a kind are of one patient.
    """
    ids, patient = np.unique(patients, return_inverse=True)
    normal, abnormal = labels == 0, labels == 1
    n0, n1 = int(normal.sum()), int(abnormal.sum())
    ill, well = len(np.unique(patient[abnormal])), len(np.unique(patient[normal]))
    # Of each patient: how far its images' placement values lie from the mean, summed; x: abnormal.
    deviations = []
    for scores in (one, other):
        # A placement value is a percentile among the images of the other kind.
        among_normal = metrics.percentile(scores, scores[normal]) / 100
        among_abnormal = metrics.percentile(scores, scores[abnormal]) / 100
        placed = np.where(abnormal, among_normal, 1 - among_abnormal)
        area = placed[abnormal].mean()
        far = placed - area
        x = np.bincount(patient, far * abnormal, len(ids))
        y = np.bincount(patient, far * normal, len(ids))
        deviations.append((area, x, y))
    (a, x_a, y_a), (b, x_b, y_b) = deviations
    x, y = x_a - x_b, y_a - y_b
    if min(ill, well) < 2:
        return float(a - b), np.nan, np.nan
    variance = ill / (ill - 1) * (x @ x) / n1**2 + well / (well - 1) * (y @ y) / n0**2
    variance += 2 * len(ids) / (len(ids) - 1) * (x @ y) / (n0 * n1)
    error = float(np.sqrt(max(variance, 0)))
    p = float(2 * stats.norm.sf(abs(a - b) / error)) if error else float(a == b)
    return float(a - b), error, p


def holm(p: np.ndarray, family: int) -> np.ndarray:
    """Adjusted p (Holm 1979) of some tests of a family of so many; the others count as p = 1.

    NaN, where nothing could be tested, stays NaN. So what is tested later changes no verdict but
    for the better.
    """
    p = np.asarray(p, float)
    whole = np.append(np.nan_to_num(p, nan=1.0), np.ones(family - len(p)))
    return np.where(np.isnan(p), np.nan, multipletests(whole, method="holm")[1][: len(p)])


class Needed(NamedTuple):
    """What would tell, with a power of 80 %, if the difference is as measured.

    patients: with these seeds; seeds: of each method, with these patients; None where no number
    would do. both: patients and seeds together, None where not even that would do. shows: what
    would be shown, a difference or equivalence. Fewer than `FEWEST` seeds are never advised.
    """

    patients: int | None
    seeds: int | None
    both: tuple[int, int] | None
    shows: str


FEWEST = 3
"""Seeds below which no number of patients is asked for: two tell next to nothing of a method."""

MOST = 10**7, 1000
"""Patients and seeds beyond which nothing is looked for."""


def needed(found: Difference, tests: int = 1, margin: float = MARGIN) -> Needed | None:
    """Of a difference: how much more it takes to tell; None with one seed of either method.

    Either the measured difference is shown to be one, as the hardest of `tests` in a family, or to
    lie within the margin: what takes less. Variances are taken to fall with 1 / patients and, but
    for `patient_floor`, with 1 / seeds.
    """
    if np.isnan(found.error):
        return None

    def power(patients: float, seeds: int) -> tuple[float, float]:
        return _power(found, patients, seeds, tests, margin)

    n, own = found.patients, min(found.seeds)
    patients = None
    if own >= FEWEST:
        patients = _smallest(lambda count: max(power(count, own)) >= POWER, n + 1, MOST[0])
    more = max(own + 1, FEWEST)
    seeds = _smallest(lambda count: max(power(n, count)) >= POWER, more, MOST[1])
    both = None
    least = _smallest(lambda count: max(power(np.inf, count)) >= POWER, FEWEST, MOST[1])
    if least:
        # Twice the seeds that would do with all patients there are in the world.
        together = 2 * least
        enough = _smallest(lambda count: max(power(count, together)) >= POWER, 2, MOST[0])
        both = (max(enough, n), together) if enough else None
    at = (patients, own) if patients else (n, seeds) if seeds else both or (np.inf, MOST[1])
    shows = "a difference" if np.argmax(power(*at)) == 0 else "equivalence"
    return Needed(patients, seeds, both, shows)


def _power(found: Difference, patients: float, seeds: int, tests: int, margin: float):
    """The power to show a difference, and equivalence, with other numbers of patients and seeds.

    Over a grid of what the variances of the seeds may be measured as: chi-square each.
    """
    k = np.mean(found.seeds)
    of_seed = max(0.0, found.patient_variance - found.patient_floor) * k / seeds
    of_patients = (found.patient_floor + of_seed) * found.patients / patients
    of_seeds = np.multiply(found.seed_variances, found.seeds) / seeds
    true = np.sqrt(of_patients + of_seeds.sum())
    if true == 0:
        return float(found.value != 0), float(abs(found.value) < margin)
    factors = chdtri(seeds - 1, (np.arange(GRID) + 0.5) / GRID) / (seeds - 1)
    measured = [v.ravel() for v in np.meshgrid(*np.outer(of_seeds, factors))]
    error = np.sqrt(of_patients + sum(measured))

    def half(tail: float) -> np.ndarray:
        """Half the width of the interval."""
        return _critical(tail, of_patients, measured, (seeds, seeds)) * error

    size, wide, narrow = abs(found.value), half(LEVEL / tests / 2), half(LEVEL)
    room = np.maximum(margin - narrow, 0)
    differ = ndtr((size - wide) / true)
    within = ndtr((room - size) / true) - ndtr((-room - size) / true)
    return float(differ.mean()), float(within.mean())


GRID = 16
"""Points of the grid of `_power` along each side."""


def _smallest(enough, start: int, most: int) -> int | None:
    """The smallest number from `start` on that is enough; None where `most` is not."""
    low, high = start - 1, start
    while not enough(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    return low + 1 + bisect_left(range(low + 1, high), True, key=enough)


def never_equivalent(found: Difference, margin: float = MARGIN) -> bool:
    """Whether a difference has too few patients to show equivalence, with any number of seeds.

    False where that is not known: with one seed of either method.
    """
    return bool(stats.norm.ppf(1 - LEVEL) * np.sqrt(found.patient_floor) >= margin)
