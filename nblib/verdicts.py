"""Two methods on the same images -> difference of AUC, test, equivalence, verdict.

What is asked is listed in `QUESTIONS`, before any result. A difference has two sources of chance:
which patients were tested (both methods saw the same, so their errors partly cancel) and which
seeds were trained (of two methods they are no pairs). Their variances are added. Resampling three
seeds instead would promise too much: such a 95 % interval misses the truth 19 % of the time.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nblib import metrics, report
from nblib.report import Result

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
"""What is asked of every set, fixed before the runs."""


class Difference(NamedTuple):
    """AUC of one method minus that of another.

    value: difference of the means over seeds. patient_variance: of that value over resampled
    patients, for these very seeds. seed_variances: of the mean over seeds, of each method; NaN
    where there is one seed. seeds: of each method. patients: how many were tested.
    """

    value: float
    patient_variance: float
    seed_variances: tuple[float, float]
    seeds: tuple[int, int]
    patients: int

    @property
    def error(self) -> float:
        """Standard error; NaN with one seed of either method."""
        return float(np.sqrt(self.patient_variance + sum(self.seed_variances)))

    @property
    def dof(self) -> float:
        """Degrees of freedom, Welch and Satterthwaite; the patient part counts as known."""
        parts = zip(self.seed_variances, self.seeds, strict=True)
        below = sum(v**2 / (k - 1) if k > 1 else np.nan for v, k in parts)
        return float(np.inf) if below == 0 else float(self.error**4 / below)

    @property
    def p(self) -> float:
        """Of two-sided test of no difference; NaN with one seed."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.dof))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the difference; NaN with one seed."""
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
    normal = labels == 0
    aucs = [[metrics.auc(s[normal], s[~normal]) for s in method] for method in scores]
    over_patients = np.mean(resampled[0], 0) - np.mean(resampled[1], 0)
    return Difference(
        float(np.mean(aucs[0]) - np.mean(aucs[1])),
        float(np.var(over_patients, ddof=1)),
        tuple(float(np.var(a, ddof=1) / len(a)) if len(a) > 1 else np.nan for a in aucs),
        tuple(map(len, aucs)),
        len(np.unique(patients)),
    )


def delong(
    labels: np.ndarray, patients: np.ndarray, one: np.ndarray, other: np.ndarray
) -> tuple[float, float, float]:
    """Difference of AUC of two scores (n,) of the same images, its standard error, and p.

    DeLong et al. (1988) in the form for clustered data of Obuchowski (1997, eq. 6 to 9): the
    placement values of a patient's images are summed. With one image a patient it is DeLong's own.
    Says nothing about seeds: of two methods it compares two trained networks.
    """
    ids, patient = np.unique(patients, return_inverse=True)
    normal, abnormal = labels == 0, labels == 1
    n0, n1 = int(normal.sum()), int(abnormal.sum())
    ill, well = len(np.unique(patient[abnormal])), len(np.unique(patient[normal]))
    # Of each patient: how far its images' placement values lie from the mean, summed; x: abnormal.
    deviations = []
    for scores in (one, other):
        placed = np.where(abnormal, _placement(scores, scores[normal]),
                          1 - _placement(scores, scores[abnormal]))  # fmt: skip
        area = placed[abnormal].mean()
        far = placed - area
        x = np.bincount(patient, far * abnormal, len(ids))
        y = np.bincount(patient, far * normal, len(ids))
        deviations.append((area, x, y))
    (a, x_a, y_a), (b, x_b, y_b) = deviations
    x, y = x_a - x_b, y_a - y_b
    variance = ill / (ill - 1) * (x @ x) / n1**2 + well / (well - 1) * (y @ y) / n0**2
    variance += 2 * len(ids) / (len(ids) - 1) * (x @ y) / (n0 * n1)
    error = float(np.sqrt(max(variance, 0)))
    p = float(2 * stats.norm.sf(abs(a - b) / error)) if error else float(a == b)
    return float(a - b), error, p


def _placement(scores: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The share of `among` below each score; ties count half."""
    ordered = np.sort(among)
    below, upto = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return (below + upto) / (2 * len(ordered))


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p of a family (Holm 1979); NaN, where nothing could be tested, is left out."""
    p = np.asarray(p, float)
    adjusted, tested = p.copy(), ~np.isnan(p)
    if tested.any():
        adjusted[tested] = multipletests(p[tested], method="holm")[1]
    return adjusted


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
    """What would have told, if the difference is as measured.

    patients: with these seeds; seeds: of each method, with these patients; None where no number
    would do. both: patients and seeds, the error shared between them.
    """

    patients: int | None
    seeds: int | None
    both: tuple[int, int]


def needed(found: Difference, tests: int = 1, margin: float = MARGIN) -> Needed | None:
    """How much more it takes to tell, with a power of 80 %; None with one seed.

    Either the measured difference is shown to be one, as the hardest of `tests` in a family, or,
    where it is smaller than the margin, to lie within it: what takes less. Variances are taken to
    fall with 1 / patients and 1 / seeds.
    """
    seed_variance = sum(found.seed_variances)
    if np.isnan(seed_variance):
        return None
    z = stats.norm.ppf
    to_differ = abs(found.value) / (z(1 - LEVEL / tests / 2) + z(POWER))
    to_lie_within = (margin - abs(found.value)) / (z(1 - LEVEL) + z((1 + POWER) / 2))
    target = max(to_differ, to_lie_within) ** 2
    for_patients, for_seeds = target - seed_variance, target - found.patient_variance
    n, k = found.patients, max(found.seeds)
    return Needed(
        _more(n, found.patient_variance / for_patients) if for_patients > 0 else None,
        _more(k, seed_variance / for_seeds) if for_seeds > 0 else None,
        (
            _more(n, 2 * found.patient_variance / target),
            _more(k, 2 * seed_variance / target),
        ),
    )


def never_equivalent(found: Difference, margin: float = MARGIN) -> bool:
    """Whether these patients are too few to show equivalence, with any number of seeds."""
    return bool(stats.norm.ppf(1 - LEVEL) * np.sqrt(found.patient_variance) >= margin)


def _more(now: int, times: float) -> int:
    """At least one more than now: what there is did not tell."""
    return max(now + 1, int(np.ceil(now * times)))


def answers(results: list[Result], margin: float = MARGIN) -> pd.DataFrame:
    """Every pair of `QUESTIONS` of which both methods have run, a row each.

    difference: AUC of `method` minus that of `against`, with its 95 % interval (low, high), the
    error and its two parts, p and p_holm (over the tested pairs of the family), the answer, and
    what would be needed where it cannot be told. never_equivalent: see there. one_run_p: `delong`
    of the first seed of each.
    NaN where a method has run with one seed. Raises ValueError where results differ in set, budget
    or images.
    """
    labels, patients, methods = report.resampled(results)
    rows, differences = [], []
    for question in QUESTIONS:
        for pair in question.pairs:
            if not set(pair) <= set(methods):
                continue
            one, other = (methods[name] for name in pair)
            found = combined(labels, patients, (one.scores, other.scores), (one.auc, other.auc))
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
                    "one_run_p": delong(labels, patients, one.scores[0], other.scores[0])[2],
                }
            )
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    families = table.groupby("family")["p"]
    table["p_holm"] = families.transform(lambda p: holm(p.to_numpy()))
    tests = families.transform("count").clip(lower=1)
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
        return "a second seed of each method at least, better three"
    if missing is None:
        return ""
    ways = []
    if missing.seeds:
        ways.append(f"{missing.seeds:,} seeds with these patients")
    if missing.patients:
        ways.append(f"{missing.patients:,} patients with these seeds")
    return ", or ".join(ways) or "{:,} patients and {:,} seeds".format(*missing.both)


def sentences(table: pd.DataFrame) -> list[str]:
    """`answers` in words: a question, then a sentence for each of its pairs."""
    never, lines = int(table["never_equivalent"].sum()), []
    if never:
        lines.append(
            f"With these {table['patients'].iloc[0]} patients {never} of the {len(table)} pairs "
            "could not be shown to be equivalent even if they were, however many seeds."
        )
    for question, rows in table.groupby("question", sort=False):
        lines.append(f"**{question}**")
        lines += [_sentence(row) for row in rows.itertuples()]
    return lines


def _sentence(row) -> str:
    pair = f"`{row.method}` {{}} `{row.against}`"
    if row.low != row.low:  # one seed
        return (
            f"{pair.format('against')}: cannot tell from one seed ({row.difference:+.3f} AUC; "
            f"between these two runs alone p = {row.one_run_p:.2g}). Needed: {row.needed}."
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


def for_print(table: pd.DataFrame) -> pd.DataFrame:
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


def caption(table: pd.DataFrame, results: list[Result], margin: float = MARGIN) -> str:
    """What the numbers of `answers` are, in words."""
    config = results[0].config
    counts = ", ".join(f"{n} in '{name}'" for name, n in table.groupby("family").size().items())
    words = [
        f"Set {config['set']}, budget {config['budget']}. Difference of AUC of the means over the "
        "seeds, 95 % interval from the error of patients (resampled, the same for both methods) "
        "and that of seeds (their variance, Welch).",
        f"p by Holm over the pairs of a family, listed beforehand: {counts}.",
        f"Margin of equivalence: {margin:g}.",
        "p, one run: clustered DeLong between the first seeds of both, which says nothing of "
        "other seeds.",
    ]
    if config["set"] == "phantom":
        words.append("phantom is drawn by this project: no verdict is drawn from it.")
    return " ".join(words + report.shortcut_warning(report.table(results), config["set"]))


def write(results: list[Result], margin: float = MARGIN) -> pd.DataFrame:
    """`answers` as `figures/<set>/<budget>/verdict`; below the .md the sentences.

    Raises ValueError where no pair of `QUESTIONS` has run.
    """
    table = answers(results, margin)
    if table.empty:
        raise ValueError("No two methods that a question compares have finished runs.")
    below = "\n\n".join(sentences(table))
    report.save(table, for_print(table), caption(table, results, margin), results, "verdict", below)
    return table
