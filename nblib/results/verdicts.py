"""Two methods on the same images -> difference of AUC, test, equivalence, verdict.

What is asked is listed in `QUESTIONS`. A difference has two sources of chance:
which patients were tested (both methods saw the same, so their errors partly cancel) and which
seeds were trained (of two methods they are no pairs). Their variances are added. Resampling three
seeds instead would promise too much: such a 95 % interval misses the truth 19 % of the time.
"""

from bisect import bisect_left
from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nblib import metrics
from nblib.results import tables, write
from nblib.results.store import Result

MARGIN = 0.01
"""Two AUCs that differ by less than this are as good as equal: one point."""

LEVEL = 0.05
POWER = 0.8

DIFFERS, WITHIN = "differs", "differs, but within the margin"
EQUIVALENT, CANNOT_TELL = "equivalent", "cannot tell"


class Question(NamedTuple):
    """A question, the pairs of methods that answer it, and the family that Holm corrects over."""

    text: str
    pairs: tuple[tuple[str, str], ...]
    family: str


def _each(methods: str, against: str) -> tuple[tuple[str, str], ...]:
    return tuple((method, against) for method in methods.split())


QUESTIONS = (
    Question(
        "Does the published place code act?", _each("sagan", "sagan_no_place"), "inside SAGAN"
    ),
    Question(
        "Do other place codes help, as the thesis builds them?",
        _each("sagan_sinusoidal sagan_learned", "sagan"),
        "inside SAGAN",
    ),
    Question(
        "Do place codes help when they act?",
        _each("sagan_place_acts sagan_sinusoidal_acts sagan_learned_acts", "sagan"),
        "inside SAGAN",
    ),
    Question("Does it help not to cut?", _each("sagan_whole", "sagan"), "inside SAGAN"),
    Question(
        "Does attention without an encoding help?",
        _each("sagan_attention", "sagan_whole"),
        "inside SAGAN",
    ),
    Question(
        "Do encodings inside the attention help?",
        _each("sagan_rope sagan_alibi sagan_attention_bias", "sagan_attention"),
        "inside SAGAN",
    ),
    Question(
        "Does Swin help?",
        (("sagan_swin", "sagan"), ("sagan_swin", "sagan_whole")),
        "inside SAGAN",
    ),
    Question("Do the gates help?", _each("sagan", "sagan_no_gates"), "inside SAGAN"),
    Question("Do the skips help?", _each("sagan", "sagan_no_skips"), "inside SAGAN"),
    Question("Do pseudo-anomalies help?", _each("sagan", "sagan_no_pseudo"), "inside SAGAN"),
    Question("Do the unlabeled images help?", _each("sagan", "sagan_no_unlabeled"), "inside SAGAN"),
    Question(
        "Is SAGAN better than the GANs before it?",
        (("sagan", "ganomaly"), ("sagan", "healthygan"), ("sagan", "brainomaly")),
        "GANs and others",
    ),
    Question(
        "Is a GAN better than the trivial reference of its kind?",
        _each("anogan alad alocc ganomaly sagan_no_unlabeled", "nearest_normals")
        + _each("healthygan brainomaly sagan sagan_rope sagan_swin", "known_against_unlabeled"),
        "GANs and others",
    ),
    Question(
        "Is a GAN better than features of a network trained on photographs?",
        _each("anogan alad alocc ganomaly sagan_no_unlabeled", "pretrained_knn")
        + _each("healthygan brainomaly sagan sagan_rope sagan_swin", "pretrained_logistic"),
        "GANs and others",
    ),
)
"""What is asked of every set. A pair follows from what a variant changes, never from a result. When
the list was written, results of the family 'GANs and others' were known, and of the family 'inside
SAGAN' one seed on the set nih: on the committed sets the former is exploratory."""

PAIRS = Counter(question.family for question in QUESTIONS for _ in question.pairs)
"""How many pairs each family has, run or not."""


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


def verdict(found: Difference, adjusted_p: float, margin: float = MARGIN) -> str:
    """DIFFERS, WITHIN, EQUIVALENT or CANNOT_TELL.

    Different: adjusted p below 5 %. Within the margin: the 90 % interval lies inside it, which is
    two one-sided tests at 5 % (TOST). With one seed of either method nothing can be told.
    """
    low, high = found.interval(0.9)
    inside = -margin < low and high < margin
    if adjusted_p < LEVEL:
        return WITHIN if inside else DIFFERS
    return EQUIVALENT if inside else CANNOT_TELL


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
    """How much more it takes to tell; None with one seed of either method.

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
    """Whether these patients are too few to show equivalence, with any number of seeds.

    False where that is not known: with one seed of either method.
    """
    return bool(stats.norm.ppf(1 - LEVEL) * np.sqrt(found.patient_floor) >= margin)


def answers(results: list[Result], margin: float = MARGIN) -> pd.DataFrame:
    """Every pair of `QUESTIONS` of which both methods have run, a row each.

    difference: AUC of `method` minus that of `against`, with its 95 % interval (low, high), the
    error and its two parts, p and p_holm (over all pairs of the family), the answer, and
    what would be needed where it cannot be told. never_equivalent: see there. one_run and
    one_run_p: the difference and p of `delong` between the first seeds of both.
    NaN where a method has run with one seed. Raises ValueError where results differ in set, budget
    or images.
    """
    labels, patients, methods = tables.resampled(results)
    rows, differences = [], []
    for question in QUESTIONS:
        for pair in question.pairs:
            if not set(pair) <= set(methods):
                continue
            one, other = (methods[name] for name in pair)
            found = combined(labels, patients, (one.scores, other.scores), (one.auc, other.auc))
            one_run = delong(labels, patients, one.scores[0], other.scores[0])
            low, high = found.interval()
            low_90, high_90 = found.interval(0.9)
            differences.append(found)
            rows.append(
                {
                    "question": question.text,
                    "family": question.family,
                    "method": pair[0],
                    "against": pair[1],
                    "seeds": found.seeds[0],
                    "seeds_against": found.seeds[1],
                    "difference": found.value,
                    "low": low,
                    "high": high,
                    "low_90": low_90,
                    "high_90": high_90,
                    "error": found.error,
                    "patient_error": np.sqrt(found.patient_variance),
                    "seed_error": np.sqrt(sum(found.seed_variances)),
                    "p": found.p,
                    "one_run": one_run[0],
                    "one_run_p": one_run[2],
                }
            )
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    families = table.groupby("family")["p"]
    table["p_holm"] = families.transform(lambda p: holm(p.to_numpy(), PAIRS[p.name]))
    tests = table["family"].map(PAIRS)
    table["answer"] = [
        verdict(d, p, margin) for d, p in zip(differences, table["p_holm"], strict=True)
    ]
    missing = [
        needed(found, count, margin) if answer == CANNOT_TELL else None
        for found, count, answer in zip(differences, tests, table["answer"], strict=True)
    ]
    table["needed"] = [_in_words(m, d) for m, d in zip(missing, differences, strict=True)]
    table["never_equivalent"] = [never_equivalent(found, margin) for found in differences]
    table["patients"] = [found.patients for found in differences]
    return table


def _in_words(missing: Needed | None, found: Difference) -> str:
    """What would be needed, as a sentence without its stop; empty where nothing is."""
    if min(found.seeds) < 2:
        which = "each" if max(found.seeds) < 2 else ("the first", "the second")[found.seeds[1] < 2]
        return f"a second seed of {which} at least, better three"
    if missing is None:
        return ""
    ways = []
    if missing.seeds:
        ways.append(f"{missing.seeds:,} seeds of each with these patients")
    if missing.patients:
        ways.append(f"{missing.patients:,} patients with these seeds")
    if not ways and missing.both:
        ways = ["{:,} patients and {:,} seeds of each".format(*missing.both)]
    return f"{', or '.join(ways)} to show {missing.shows}" if ways else "more than can be had"


def sentences(table: pd.DataFrame) -> list[str]:
    """`answers` in words: a question, then a sentence for each of its pairs."""
    never, several, lines = int(table["never_equivalent"].sum()), int(table["low"].count()), []
    if never:
        lines.append(
            f"{table['patients'].iloc[0]} patients are too few to show equivalence for {never} of "
            f"the {several} pairs with several seeds, even with any number of them."
        )
    for question, rows in table.groupby("question", sort=False):
        lines.append(f"**{question}**")
        lines += [_sentence(row) for row in rows.itertuples()]
    return lines


def _sentence(row) -> str:
    pair = f"`{row.method}` {{}} `{row.against}`"
    if row.low != row.low:  # one seed
        return (
            f"{pair.format('against')}: cannot tell from one seed ({row.one_run:+.3f} AUC between "
            f"the first runs of both, whose p alone is {row.one_run_p:.2g}). Needed: {row.needed}."
        )
    numbers = (
        f"{row.difference:+.3f} AUC [{row.low:+.3f}, {row.high:+.3f}], Holm's p = {row.p_holm:.2g}"
    )
    if row.answer == DIFFERS:
        word = "is better than" if row.difference > 0 else "is worse than"
        return f"{pair.format(word)}: {numbers}."
    if row.answer == WITHIN:
        word = "differs from"
        return f"{pair.format(word)}, but by less than the margin: {numbers}."
    if row.answer == EQUIVALENT:
        return f"{pair.format('is equivalent to')}, within the margin: {numbers}."
    return f"{pair.format('against')}: cannot tell ({numbers}). Needed: {row.needed}."


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """`answers` with words for columns."""

    def number(value: float, form: str = "+.3f") -> str:
        return "" if pd.isna(value) else format(value, form)

    rows = [
        {
            "method": row.method,
            "against": row.against,
            "seeds": f"{row.seeds} / {row.seeds_against}",
            "difference of AUC": f"{row.difference:+.3f}"
            + (f" [{row.low:+.3f}, {row.high:+.3f}]" if row.low == row.low else ""),
            "error: patients": number(row.patient_error, ".3f"),
            "error: seeds": number(row.seed_error, ".3f"),
            "p": number(row.p, ".2g"),
            "p, Holm": number(row.p_holm, ".2g"),
            "p, one run": number(row.one_run_p, ".2g"),
            "verdict": row.answer,
        }
        for row in table.itertuples()
    ]
    return pd.DataFrame(rows)


def legend(table: pd.DataFrame, config: dict, margin: float = MARGIN) -> str:
    """What the numbers of `answers` are, in words."""
    done = table.groupby("family")["p"].count()
    counts = ", ".join(f"{n} in '{name}', {done.get(name, 0)} tested" for name, n in PAIRS.items())
    words = [
        f"Set {config['set']}, budget {config['budget']}. Difference of AUC of the means over the "
        "seeds, 95 % interval from the error of patients (resampled, the same for both methods) "
        "and that of seeds (their variance, Welch).",
        f"p by Holm over all listed pairs of a family ({counts}); intervals, and equivalence "
        f"(within a margin of {margin:g}), pair by pair, are not corrected.",
        "What would be needed holds if the true difference is the measured one.",
        "p, one run: clustered DeLong between the first seeds of both, which says nothing of "
        "other seeds.",
    ]
    if config["set"] == "phantom":
        words.append("phantom is drawn by this project: no verdict is drawn from it.")
    return " ".join(words)


def write_verdicts(results: list[Result], margin: float = MARGIN) -> pd.DataFrame:
    """`answers` as `figures/<set>/<budget>/verdict`; below the .md the sentences.

    Raises ValueError where no pair of `QUESTIONS` has run.
    """
    table = answers(results, margin)
    if table.empty:
        raise ValueError("No two methods that a question compares have finished runs.")
    below = "\n\n".join(sentences(table))
    write.save_table(
        table,
        printed(table),
        legend(table, results[0].config, margin),
        results,
        "verdict",
        below,
    )
    return table
