"""Results of all methods -> an answer to each question asked of a set, in a table and in words."""

from itertools import chain

import numpy as np
import pandas as pd

from nblib.methods.catalogue import parts
from nblib.results import store, tables, write
from nblib.results.differences import (
    FEWEST,
    LEVEL,
    MARGIN,
    Difference,
    Needed,
    between,
    delong,
    holm,
    needed,
    never_equivalent,
    placements,
)
from nblib.results.questions import KNOWN, asked_of, pairs_of
from nblib.results.store import Result
from nblib.results.sums import sums

DIFFERS, WITHIN = "differs", "differs, but within the margin"
EQUIVALENT, CANNOT_TELL, NOT_TESTED = "equivalent", "cannot tell", "not tested"


def verdict(found: Difference, adjusted_p: float, margin: float = MARGIN) -> str:
    """What a difference and its adjusted p say: DIFFERS, WITHIN, EQUIVALENT or CANNOT_TELL.

    Different: adjusted p below 5 %. Within the margin: the 90 % interval lies inside it, which is
    two one-sided tests at 5 % (TOST). With one seed of either method nothing can be told.
    """
    low, high = found.interval(0.9)
    inside = -margin < low and high < margin
    if adjusted_p < LEVEL:
        return WITHIN if inside else DIFFERS
    return EQUIVALENT if inside else CANNOT_TELL


def answers(results: list[Result], margin: float = MARGIN) -> pd.DataFrame:
    """Every pair that is asked of a set and of which both methods have run, a row each.

    difference: AUC of `method` minus that of `against`, with its 95 % interval (low, high), the
    error and its two parts, p and p_holm (over all pairs of the family), the answer, and
    what would be needed where it cannot be told. never_equivalent: see there. one_run and
    one_run_p: the difference and p of `delong` between the first seeds of both.
    NaN where a method has run with one seed. Not tested are networks that were trained in different
    precision: what differs would be the processor as well as the method. Raises ValueError where
    results differ in set, budget or images.
    """
    data = results[0].config["set"]
    pairs = [pair for question in asked_of(data) for pair in question.pairs]
    results = [*results, *sums(results, chain(*pairs))]
    labels, patients, scores = tables.by_method(results)
    placed = {name: placements(labels, patients, of) for name, of in scores.items()}
    precision_of = {
        name: store.precisions([r for r in results if r.config["method"] == name])
        for name in scores
    }
    rows, differences = [], []
    for question in asked_of(data):
        for pair in question.pairs:
            if not set(pair) <= set(scores):
                continue
            found = between(*(placed[name] for name in pair))
            own, others = (precision_of[name] for name in pair)
            comparable = not own or not others or len({*own, *others}) == 1
            if not comparable:
                found = found._replace(seed_variances=(np.nan, np.nan), patient_floor=np.nan)
            one_run = delong(labels, patients, *(scores[name][0] for name in pair))
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
                    "precision": ", ".join(own),
                    "precision_against": ", ".join(others),
                    "comparable": comparable,
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
    table["p_holm"] = families.transform(lambda p: holm(p.to_numpy(), pairs_of(data)[p.name]))
    tests = table["family"].map(pairs_of(data))
    table["answer"] = [
        verdict(d, p, margin) for d, p in zip(differences, table["p_holm"], strict=True)
    ]
    table.loc[~table["comparable"], "answer"] = NOT_TESTED
    missing = [
        needed(found, count, margin) if answer == CANNOT_TELL else None
        for found, count, answer in zip(differences, tests, table["answer"], strict=True)
    ]
    table["needed"] = [_in_words(m, d) for m, d in zip(missing, differences, strict=True)]
    table["never_equivalent"] = [never_equivalent(found, margin) for found in differences]
    table["patients"] = [found.patients for found in differences]
    return table.drop(columns="comparable")


def _in_words(missing: Needed | None, found: Difference) -> str:
    """What would be needed, as a sentence without its stop; empty where nothing is."""
    if min(found.seeds) < 2:
        which = "each" if max(found.seeds) < 2 else ("the first", "the second")[found.seeds[1] < 2]
        return f"{FEWEST} seeds of {which} at least, better five"
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
            f"{table['patients'].iloc[0]} patients are too few to show equivalence for {never} at "
            f"least of the {several} pairs with several seeds, even with any number of them."
        )
    for question, rows in table.groupby("question", sort=False):
        lines.append(f"**{question}**")
        lines += [_sentence(row) for row in rows.itertuples()]
    return lines


def _sentence(row) -> str:
    pair = f"`{row.method}` {{}} `{row.against}`"
    if row.answer == NOT_TESTED:
        return (
            f"{pair.format('against')}: not tested, since the one was trained in "
            f"{row.precision}, the other in {row.precision_against}."
        )
    if row.low != row.low and min(row.seeds, row.seeds_against) > 1:
        return (
            f"{pair.format('against')}: cannot tell, since all normal or all abnormal images are "
            "of one patient."
        )
    if row.low != row.low:
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
    against = pair.format("against")
    return f"{against}: cannot tell ({numbers}). {at_most(row)} Needed: {row.needed}."


def at_most(row) -> str:
    """The largest differences that an interval from `low` to `high` leaves, in a sentence."""
    sides = {"better": row.high, "worse": -row.low}
    most = [
        f"if it is {how}, then by at most {_upwards(end)}" for how, end in sides.items() if end > 0
    ]
    alone = " (its interval alone leaves 0 out, but it was not asked alone)" * (len(most) == 1)
    return f"{'; '.join(most).capitalize()}{alone}."


def _upwards(value: float) -> str:
    """A bound with three digits, which is not below it."""
    return f"{max(0, np.ceil(1000 * value - 1e-6)) / 1000:.3f}"


def summary(table: pd.DataFrame) -> list[str]:
    """`answers` in short: a sentence a family, which names what is told and counts the rest."""
    families = table.groupby("family", sort=False)
    return [f"**{name[0].upper()}{name[1:]}**: {counted(rows)}." for name, rows in families]


def told(rows: pd.DataFrame) -> str:
    """What was answered of each pair, those with the same answer and control together."""
    said = []
    keys = [rows["against"], rows.apply(word, axis=1)]
    for (against, said_of), of in rows.groupby(keys, sort=False):
        by = said_of.startswith(("better", "worse"))
        names = [f"`{row.method}`" + f" ({row.difference:+.3f})" * by for row in of.itertuples()]
        be = "is" if len(of) == 1 else "are"
        said.append(f"{_listed(names)} {IS[said_of].format(be=be, control=f'`{against}`')}")
    return "; ".join(said)


IS = {
    "better": "{be} better than {control}",
    "worse": "{be} worse than {control}",
    "better within the margin": "{be} better than {control}, by less than the margin",
    "worse within the margin": "{be} worse than {control}, by less than the margin",
    EQUIVALENT: "{be} equivalent to {control}",
    CANNOT_TELL: "cannot be told from {control}",
    NOT_TESTED: "{be} not tested against {control}",
    "one seed": "against {control}: one seed",
}
"""How an answer goes on after the names of methods."""


def word(row) -> str:
    """An answer in a word or two, a key of `IS`."""
    if row.answer in (DIFFERS, WITHIN):
        side = "better" if row.difference > 0 else "worse"
        return side + " within the margin" * (row.answer == WITHIN)
    return "one seed" if row.answer == CANNOT_TELL and row.low != row.low else row.answer


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def counted(rows: pd.DataFrame) -> str:
    """What is told by name, of how many nothing can be told, and the most that this leaves."""
    words = rows.apply(word, axis=1)
    clear = ~words.isin([CANNOT_TELL, NOT_TESTED, "one seed"])
    left = rows[words == CANNOT_TELL]
    said = [told(rows[clear])] if clear.any() else []
    if len(left):
        better, worse = max(0.0, left["high"].max()), max(0.0, -left["low"].min())
        said.append(
            f"{len(left)} of {len(rows)} cannot be told (at most {_upwards(better)} better or "
            f"{_upwards(worse)} worse)"
        )
    for few, how in {NOT_TESTED: "not tested", "one seed": "with one seed"}.items():
        if n := (words == few).sum():
            said.append(f"{n} {how}")
    return "; ".join(said)


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
    """What the numbers of some rows of `answers` are, in words, of the families among them."""
    done = table.groupby("family", sort=False)["p"].count()
    pairs = pairs_of(config["set"])
    counts = ", ".join(f"{pairs[name]} in '{name}', {n} tested" for name, n in done.items())
    words = [
        f"Set {config['set']}, budget {config['budget']}. Difference of the mean AUC over seeds, "
        "95 % interval from the error of patients (the same for both methods; clustered DeLong, "
        "mean over seeds) and that of seeds (their variance; Cochran and Cox). Equal seeds of two "
        "methods, which hold out the same images, are not taken for pairs: of features the error "
        "is rather too large.",
        f"p by Holm over all listed pairs of a family ({counts}); intervals, and equivalence "
        f"(within a margin of {margin:g}), pair by pair, are not corrected.",
        "Known when a family was written down: "
        + "; ".join(f"of '{name}' {KNOWN[name]}" for name in done.index)
        + ".",
        "What would be needed holds if the true difference is the measured one; what more seeds "
        "leave of the patients' error is itself estimated from these seeds, and taken to be all of "
        "it where they do not tell.",
        "p, one run: clustered DeLong between the first seeds of both, which says nothing of "
        "other seeds.",
    ]
    if any(len(parts(method)) > 1 for method in table["method"]):
        words.append(
            "a+b: the mean of both scores, each in deviations of held-out known normals. Its runs "
            "share those of the methods in it, so that its error is rather too large."
        )
    if config["set"] == "phantom":
        words.append("phantom is drawn by this project: no verdict is drawn from it.")
    return " ".join(words)


def write_verdicts(results: list[Result], margin: float = MARGIN) -> pd.DataFrame:
    """`answers` as `figures/<set>/<budget>/verdict`; below the .md the sentences.

    Raises ValueError where no pair that is asked of the set has run.
    """
    table = answers(results, margin)
    if table.empty:
        raise ValueError("No two methods that a question compares have finished runs.")
    below = "\n\n".join(sentences(table))
    words = legend(table, results[0].config, margin)
    words = " ".join([words, *write.shortcut_warning(results)])
    write.save_table(table, printed(table), words, results, "verdict", below)
    return table
