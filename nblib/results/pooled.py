"""One answer over several sets of patients: does it help, and not only on one of them?

Random effects: the true difference varies between sets with a variance of its own (Paule and Mandel
1982), and the mean is tested with Hartung and Knapp's error (2001) and Student's t with one degree
of freedom less than there are sets. Where sets agree by chance that error is too small: it is never
taken below the plain one of random effects (Roever et al. 2015), without which families of equal
methods gave false alarms in up to 8 % of simulated experiments. With three sets that is wide.
"""

import contextlib
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.power import TTestPower

from nblib.files import root
from nblib.results import store, verdicts, write
from nblib.results.differences import LEVEL, POWER, holm
from nblib.results.questions import POOLED, pairs_of
from nblib.results.store import Result


class Pooled(NamedTuple):
    """The mean over sets of a difference of AUC.

    value; error: Hartung and Knapp's, or the plain one if larger; between: deviation of the true
    difference between sets; sets: how many; weights: of each set in the mean, their sum is 1.
    """

    value: float
    error: float
    between: float
    sets: int
    weights: tuple[float, ...]

    @property
    def p(self) -> float:
        """Of the two-sided test of no difference on average."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.sets - 1))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        half = stats.t.ppf((1 + level) / 2, self.sets - 1) * self.error
        return self.value - half, self.value + half

    def needed(self, tests: int = 1) -> int | None:
        """How many such sets would tell, with a power of 80 %, if the difference is as measured.

        As the hardest of `tests` in a family; None where 1,000 would not.
        """
        if self.value == 0 or self.error == 0:
            return None
        size = abs(self.value) / (self.error * np.sqrt(self.sets))
        power = TTestPower()
        for count in range(self.sets + 1, 1001):
            if power.power(size, count, LEVEL / tests) >= POWER:
                return count
        return None


def pool(differences: np.ndarray, errors: np.ndarray) -> Pooled:
    """The mean of differences (sets,) with these standard errors, of two sets at least."""
    with warnings.catch_warnings():
        # Of the intervals of single sets, which are taken from the verdicts.
        warnings.simplefilter("ignore")
        found = combine_effects(
            np.asarray(differences, float), np.square(errors), method_re="iterated", use_t=True
        )
    between = np.sqrt(max(0.0, found.tau2))
    error = float(max(found.sd_eff_w_re_hksj, found.sd_eff_w_re))
    weights = tuple(map(float, found.weights_rel_re))
    return Pooled(float(found.mean_effect_re), error, float(between), len(differences), weights)


def results_by_set(budget: str) -> dict[str, list[Result]]:
    """The results of each set of `POOLED` that has any at a budget."""
    found = {}
    for name in POOLED:
        with contextlib.suppress(FileNotFoundError):
            found[name] = store.collect(name, budget)
    return found


def answers_by_set(budget: str) -> tuple[dict[str, list[Result]], dict[str, pd.DataFrame]]:
    """Results and `verdicts.answers` of each set on which a pair that is asked has run."""
    results = results_by_set(budget)
    tables = {name: verdicts.answers(of_set) for name, of_set in results.items()}
    tables = {name: table for name, table in tables.items() if len(table)}
    return {name: results[name] for name in tables}, tables


def over_sets(answers: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Every pair that was tested on each of several sets, a row each; empty with fewer than two.

    answers: `verdicts.answers` of each set. In the table difference_<set>, error_<set>: of each;
    difference, low, high (95 %), between, largest and its weight: the set that counts most in the
    mean, p, p_holm (over all pairs of the family), answer: 'differs' or 'cannot tell', needed: how
    many sets would tell, NaN where 1,000 would not.
    """
    if len(answers) < 2:
        return pd.DataFrame()
    tables = [
        of_set.query("error == error")
        .set_index(["family", "question", "method", "against"])[["difference", "error"]]
        .add_suffix(f"_{name}")
        for name, of_set in answers.items()
    ]
    table = pd.concat(tables, axis=1, join="inner").reset_index()
    if table.empty:
        return table
    pooled = [
        pool(*([row[f"{what}_{name}"] for name in answers] for what in ("difference", "error")))
        for _, row in table.iterrows()
    ]
    family = pairs_of(next(iter(answers)))
    table["difference"] = [found.value for found in pooled]
    table[["low", "high"]] = [found.interval() for found in pooled]
    table["between"] = [found.between for found in pooled]
    table["largest"] = [list(answers)[int(np.argmax(found.weights))] for found in pooled]
    table["weight"] = [max(found.weights) for found in pooled]
    table["p"] = [found.p for found in pooled]
    adjusted = table.groupby("family")["p"]
    table["p_holm"] = adjusted.transform(lambda p: holm(p.to_numpy(), family[p.name]))
    table["answer"] = np.where(table["p_holm"] < LEVEL, verdicts.DIFFERS, verdicts.CANNOT_TELL)
    needed = [
        found.needed(family[name]) for found, name in zip(pooled, table["family"], strict=True)
    ]
    return table.assign(needed=pd.Series(needed, dtype=float))


def over_sets_in_words(table: pd.DataFrame) -> list[str]:
    """`over_sets` in words: a question, then a sentence for each of its pairs."""
    lines = []
    for question, rows in table.groupby("question", sort=False):
        lines.append(f"**{question}**")
        for row in rows.itertuples():
            numbers = (
                f"{row.difference:+.3f} AUC [{row.low:+.3f}, {row.high:+.3f}], Holm's p = "
                f"{row.p_holm:.2g}"
            )
            if row.answer == verdicts.DIFFERS:
                word = "better" if row.difference > 0 else "worse"
                lines.append(
                    f"`{row.method}` is {word} than `{row.against}` on average: {numbers}."
                )
                continue
            many = f"{row.needed:.0f} such sets" if row.needed == row.needed else "over 1,000 sets"
            lines.append(
                f"`{row.method}` against `{row.against}`: cannot tell ({numbers}). "
                f"{verdicts.at_most(row)} Needed: {many}, if the difference is as measured."
            )
    return lines


def _power(sets: int) -> str:
    """What so many sets could tell in made-up experiments, in a sentence; '' if none were made."""
    made = pd.read_csv(store.PROJECT / "data" / "simulated" / "pooled.csv").query("sets == @sets")
    if made.empty:
        return ""
    most = made["power for 0.05"].max()
    often = f"at most {most:.0%}" if most >= 0.005 else "none"
    return f"In made-up experiments {sets} sets told a true difference of 0.05 in {often} of them."


def write_pooled(budget: str) -> tuple[pd.DataFrame, list[str]]:
    """`over_sets` as `figures/pooled/<budget>/pooled`; what is printed, and it in words."""
    results, tables = answers_by_set(budget)
    table = over_sets(tables)
    if table.empty:
        return table, []
    printed = pd.DataFrame(
        {"method": table["method"], "against": table["against"]}
        | {name: table[f"difference_{name}"].map("{:+.3f}".format) for name in results}
        | {
            "over sets": [
                f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
                for row in table.itertuples()
            ],
            "largest weight": table["largest"] + table["weight"].map(" {:.2f}".format),
            "deviation between sets": table["between"].map("{:.3f}".format),
            "p": table["p"].map("{:.2g}".format),
            "p, Holm": table["p_holm"].map("{:.2g}".format),
            "verdict": table["answer"],
        }
    )
    family = pairs_of(next(iter(results)))
    counts = ", ".join(f"{n} in '{name}'" for name, n in family.items())
    words = (
        f"Sets {', '.join(results)}, budget {budget}: difference of the mean AUC over seeds, on "
        "each and on average. The average is weighted by 1 / (error² + deviation between sets²): "
        "where one set has nearly all the weight, it is nearly that set's. Random effects, Hartung "
        "and Knapp's 95 % interval (never narrower than the plain one) with "
        f"{len(results) - 1} degrees of freedom; p by Holm over all pairs of a family ({counts}), "
        f"tested on every set or not. Equivalence is not tested over sets. {_power(len(results))}"
    )
    every = [result for of_set in results.values() for result in of_set]
    for name, of_set in results.items():
        words += "".join(f" {name}: {said}" for said in write.precision_words(of_set))
    lines = over_sets_in_words(table)
    stem = root() / "figures" / "pooled" / budget / "pooled"
    write.save_files(stem, table, printed, words, every, "\n\n".join(lines))
    return printed, lines
