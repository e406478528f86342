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

    @property
    def dof(self) -> float:
        """Degrees of freedom, Welch and Satterthwaite; the patient part counts as known."""
        parts = zip(self.seed_variances, self.seeds, strict=True)
        below = sum(v**2 / (k - 1) if k > 1 else np.nan for v, k in parts)
        return float(np.inf) if below == 0 else float(self.error**4 / below)

    @property
    def p(self) -> float:
        """Of the two-sided test of no difference; NaN with one seed, or without any error."""
        if self.error == 0:
            return 1.0 if self.value == 0 else np.nan
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.dof))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the difference; NaN where `p` is."""
        if self.error == 0 and self.value != 0:
            return np.nan, np.nan
        half = stats.t.ppf((1 + level) / 2, self.dof) * self.error
        return float(self.value - half), float(self.value + half)


def difference(
    labels: np.ndarray, patients: np.ndarray, one: np.ndarray, other: np.ndarray,
    resamples: int = metrics.RESAMPLES,
) -> Difference:  # fmt: skip
    """The difference of AUC of two methods, from the scores (seeds, n) of the same n images."""
    weights = metrics.patient_weights(labels, patients, resamples)
    resampled = [[metrics.weighted_auc_ap(labels, s, weights)[0] for s in m] for m in (one, other)]
    return combined(labels, patients, (one, other), resampled)


def combined(labels: np.ndarray, patients: np.ndarray, scores, resampled) -> Difference:
    """As `difference`, from AUCs resampled already: of each method, by seed, (resamples,) each."""
    aucs = [[metrics.auc(labels, of_seed) for of_seed in method] for method in scores]
    over_patients = np.mean(resampled[0], 0) - np.mean(resampled[1], 0)
    return Difference(
        float(np.mean(aucs[0]) - np.mean(aucs[1])),
        float(np.var(over_patients, ddof=1)),
        _between_seeds(*resampled),
        tuple(float(np.var(a, ddof=1) / len(a)) if len(a) > 1 else np.nan for a in aucs),
        tuple(map(len, aucs)),
        len(np.unique(patients)),
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
    would be shown, a difference or equivalence.
    """

    patients: int | None
    seeds: int | None
    both: tuple[int, int] | None
    shows: str


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
    patients = _smallest(lambda count: max(power(count, own)) >= POWER, n + 1, MOST[0])
    seeds = _smallest(lambda count: max(power(n, count)) >= POWER, own + 1, MOST[1])
    both = None
    least = _smallest(lambda count: max(power(np.inf, count)) >= POWER, 2, MOST[1])
    if least:
        # Twice the seeds that would do with all patients there are in the world.
        together = 2 * least
        enough = _smallest(lambda count: max(power(count, together)) >= POWER, 2, MOST[0])
        both = (max(enough, n), together) if enough else None
    at = (patients, own) if patients else (n, seeds) if seeds else both or (np.inf, MOST[1])
    shows = "a difference" if np.argmax(power(*at)) == 0 else "equivalence"
    return Needed(patients, seeds, both, shows)


def _power(found: Difference, patients: float, seeds: int, tests: int, margin: float):
    """The power to show a difference, and equivalence, with other numbers of patients and seeds."""
    k = np.mean(found.seeds)
    of_seed = max(0.0, found.patient_variance - found.patient_floor) * k / seeds
    variances = tuple(
        v * own / seeds for v, own in zip(found.seed_variances, found.seeds, strict=True)
    )
    patient_variance = (found.patient_floor + of_seed) * found.patients / patients
    then = Difference(found.value, patient_variance, np.nan, variances, (seeds, seeds), 0)
    if then.error == 0:
        return float(found.value != 0), float(abs(found.value) < margin)
    size, dof = abs(found.value) / then.error, then.dof
    differ = stats.t.cdf(size - stats.t.ppf(1 - LEVEL / tests / 2, dof), dof)
    one_sided, width = stats.t.ppf(1 - LEVEL, dof), margin / then.error
    within = stats.t.cdf(width - size - one_sided, dof) + stats.t.cdf(width + size - one_sided, dof)
    return float(differ), float(max(0.0, within - 1))


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
