"""Scores of two methods on the same images -> difference of AUC, its test, what would be needed.

A difference has two sources of chance: which patients were tested (both methods saw the same, so
their errors partly cancel) and which seeds were trained (of two methods they are no pairs). Their
variances are added. Resampling three seeds instead would promise too much: such a 95 % interval
misses the truth 19 % of the time. Equal seeds of two methods hold out the same images, which of
features makes their AUCs go together: there the error is rather too large.
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

    value: difference of the means over seeds. patient_variance: of that value over patients, for
    these very seeds; patient_floor: what would be left of it with any number of seeds, 0 where
    these seeds do not tell. seed_variances: of the mean over seeds, of each method. seeds: of each
    method. patients: how many were tested; rarer: with images of the kind that fewer of them have,
    0 if not known. NaN where it takes two seeds of each method and there is one.
    """

    value: float
    patient_variance: float
    patient_floor: float
    seed_variances: tuple[float, float]
    seeds: tuple[int, int]
    patients: int
    rarer: int = 0

    @property
    def _unvaried(self) -> float:
        """p where nothing varied."""
        return min(1.0, 2 * (1 - abs(self.value)) ** self.rarer)

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
        """Of the two-sided test of no difference; NaN with one seed.

        Where nothing varied: see `interval`.
        """
        if self.error == 0:
            return self._unvaried
        if np.isnan(self.error):
            return np.nan
        size = abs(self.value) / self.error
        if size >= self.critical(1e-100):
            return 0.0
        tail = brentq(lambda log: self.critical(10**log) - size, -100, np.log10(0.5))
        return float(2 * 10**tail)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the difference; NaN where `p` is.

        Where nothing varied, from patient to patient or seed to seed, it is as wide as that of a
        perfect value (`metrics.bounded_interval`): so many patients show no more.
        """
        tail = (1 - level) / 2
        if self.error == 0:
            half = 1 - tail ** (1 / self.rarer) if self.rarer else 1.0
        else:
            half = self.critical(tail) * self.error
        return float(self.value - half), float(self.value + half)


def _critical(tail: float, patient_variance, seed_variances, seeds: tuple[int, int]):
    """Cochran and Cox's critical value (1950, section 4.14), of numbers or of arrays of variances.

    Quantiles of Student's t, one for each part of the variance with that part's degrees of freedom
    (the patients' counts as known), weighted by the parts; NaN with one seed. Welch's own degrees
    of freedom come from the very variances that chance made small: with two or three seeds and many
    patients he was wrong up to six times too often, in trials that are not kept.
    """
    weighted, whole = patient_variance * -ndtri(tail), patient_variance
    for variance, k in zip(seed_variances, seeds, strict=True):
        weighted = weighted + variance * (-stdtrit(k - 1, tail) if k > 1 else np.nan)
        whole = whole + variance
    return weighted / whole


def difference(
    labels: np.ndarray, patients: np.ndarray, one: np.ndarray, other: np.ndarray
) -> Difference:
    """The difference of AUC of two methods, from the scores (seeds, n) of the same n images."""
    return between(*(placements(labels, patients, scores) for scores in (one, other)))


class Placements(NamedTuple):
    """What each patient of a test part does to the AUC of some scores of it.

    area: AUC (k,). abnormal, normal: (k, patients), how far the placement values of a patient's
    images of that kind lie from their mean, summed, over the number of such images of all patients.
    patients: with abnormal images, with normal ones, and all.
    """

    area: np.ndarray
    abnormal: np.ndarray
    normal: np.ndarray
    patients: tuple[int, int, int]


def placements(labels: np.ndarray, patients: np.ndarray, scores: np.ndarray) -> Placements:
    """`Placements` of the scores (k, n) of n images."""
    ids, patient = np.unique(patients, return_inverse=True)
    normal, abnormal = labels == 0, labels == 1
    areas, of_kind = [], ([], [])
    for of in scores:
        # A placement value is a percentile among the images of the other kind.
        among_normal = metrics.percentile(of, of[normal]) / 100
        among_abnormal = metrics.percentile(of, of[abnormal]) / 100
        placed = np.where(abnormal, among_normal, 1 - among_abnormal)
        areas.append(placed[abnormal].mean())
        for found, own in zip(of_kind, (abnormal, normal), strict=True):
            found.append(np.bincount(patient, (placed - areas[-1]) * own / own.sum()))
    counts = *(len(np.unique(patient[own])) for own in (abnormal, normal)), len(ids)
    return Placements(np.array(areas), *map(np.array, of_kind), counts)


def between(one: Placements, other: Placements) -> Difference:
    """As `difference`, of two methods from the placements of their scores."""
    x = one.abnormal.mean(0) - other.abnormal.mean(0)
    y = one.normal.mean(0) - other.normal.mean(0)
    areas = one.area, other.area
    return Difference(
        float(one.area.mean() - other.area.mean()),
        float(np.maximum(_covariance(x[None], y[None], one.patients), 0).item()),
        _between_seeds(one, other),
        tuple(float(np.var(a, ddof=1) / len(a)) if len(a) > 1 else np.nan for a in areas),
        (len(one.area), len(other.area)),
        one.patients[-1],
        min(one.patients[:2]),
    )


def _covariance(
    abnormal: np.ndarray, normal: np.ndarray, patients: tuple[int, int, int]
) -> np.ndarray:
    """Covariances over patients (k, k) of AUCs, or of their sums, by what is in `Placements`.

    Obuchowski (1997, eq. 6 to 9): DeLong et al. (1988) where patients have several images. NaN
    where the images of a kind are of one patient.
    """
    ill, well, every = patients
    if min(ill, well) < 2:
        return np.full((len(abnormal), len(abnormal)), np.nan)
    across = every / (every - 1) * abnormal @ normal.T
    found = ill / (ill - 1) * abnormal @ abnormal.T + well / (well - 1) * normal @ normal.T
    return found + across + across.T


def _between_seeds(one: Placements, other: Placements) -> float:
    """The patient variance without what one seed does to a patient, and another does not.

    From covariances between different seeds only. 0 where what these leave is negative, as it may
    be by chance: then they do not tell.
    """
    k, m = len(one.area), len(other.area)
    if min(k, m) < 2:
        return np.nan
    x, y = np.append(one.abnormal, other.abnormal, 0), np.append(one.normal, other.normal, 0)
    covariance = _covariance(x, y, one.patients)
    own, others, across = covariance[:k, :k], covariance[k:, k:], covariance[:k, k:]
    different = [(c.sum() - c.trace()) / (len(c) * (len(c) - 1)) for c in (own, others)]
    return float(np.maximum(sum(different) - 2 * across.mean(), 0))


def delong(
    labels: np.ndarray, patients: np.ndarray, one: np.ndarray, other: np.ndarray
) -> tuple[float, float, float]:
    """Difference of AUC of two scores (n,) of the same images, its standard error, and p.

    The test of DeLong et al. (1988) in the form for clustered data, see `_covariance`: of
    `difference` with one seed each. Says nothing about seeds: of two methods it compares two
    trained networks. NaN for error and p where the images of a kind are of one patient.
    """
    found = difference(labels, patients, one[None], other[None])
    error = float(np.sqrt(found.patient_variance))
    if not error:
        return found.value, error, found._unvaried
    return found.value, error, float(2 * stats.norm.sf(abs(found.value) / error))


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
    for `patient_floor`, with 1 / seeds; where that is not known, all of the patients' stays.
    """
    if np.isnan(found.error):
        return None
    if found.error == 0:
        return _needed_of_unvaried(found, tests, margin)
    if not found.patient_floor:
        found = found._replace(patient_floor=found.patient_variance)

    def power(patients: float, seeds: int) -> tuple[float, float]:
        """With as many seeds of each method, or those that there are already."""
        of_each = tuple(max(seeds, k) for k in found.seeds)
        return _power(found, patients, of_each, tests, margin)

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


def _needed_of_unvaried(found: Difference, tests: int, margin: float) -> Needed:
    """As `needed`, where so many patients more would have to be without a mistake, too."""
    size, shows = abs(found.value), "equivalence"
    rarer = np.log(LEVEL) / np.log1p(-margin)
    if size >= margin:
        rarer, shows = np.log(LEVEL / tests / 2) / np.log1p(-min(size, 0.999)), "a difference"
    most = found.patients * (rarer // 1 + 1) / found.rarer if found.rarer else np.inf
    return Needed(int(np.ceil(most)) if most < MOST[0] else None, None, None, shows)


def _power(
    found: Difference, patients: float, seeds: tuple[int, int], tests: int, margin: float
) -> tuple[float, float]:
    """The power to show a difference, and equivalence, with other numbers of patients and seeds.

    Over a grid of what the variances of the seeds may be measured as: chi-square each.
    """
    now, then = (np.divide(1, of_each) for of_each in (found.seeds, seeds))
    of_seed = max(0.0, found.patient_variance - found.patient_floor) * then.sum() / now.sum()
    of_patients = (found.patient_floor + of_seed) * found.patients / patients
    of_seeds = np.multiply(found.seed_variances, found.seeds) / seeds
    true = np.sqrt(of_patients + of_seeds.sum())
    if true == 0:
        return float(found.value != 0), float(abs(found.value) < margin)
    free, at = np.subtract(seeds, 1)[:, None], (np.arange(GRID) + 0.5) / GRID
    measured = np.meshgrid(*(of_seeds[:, None] * chdtri(free, at) / free))
    measured = [of_each.ravel() for of_each in measured]
    error = np.sqrt(of_patients + sum(measured))

    def half(tail: float) -> np.ndarray:
        """Half the width of the interval."""
        return _critical(tail, of_patients, measured, seeds) * error

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
