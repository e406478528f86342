"""The answer to the thesis' question, in seven paragraphs, from the verdicts of all sets.

Each is made of `verdicts.answers` on the sets of patients, of `pooled.over_sets`, of the set
`places`, whose truth is known, and of `robustness.moved`: nobody types a number or a conclusion.
"""

import contextlib

import pandas as pd

from nblib.files import root, write_json, written_whole
from nblib.methods.catalogue import BAR
from nblib.results import placement, pooled, robustness, store, verdicts
from nblib.results.questions import (
    GAN_ADDS,
    GAN_ON_FEATURES,
    POOLED,
    QUESTIONS,
    THESIS,
    pairs_of,
)

PIXELS = 8
"""How far the shifted images are shifted of which the answer speaks."""


def answer(
    tables: dict[str, pd.DataFrame],
    places: pd.DataFrame,
    moved: dict[str, pd.DataFrame],
) -> list[str]:
    """What is known, a paragraph each: what acts, helps, costs, and what nobody can tell.

    Its first line is a sentence that says most of it; README shows that alone.

    tables: of each set of patients `verdicts.answers`; places: those of the set `places`, empty
    where it has not run; moved: of each set `robustness.moved`.
    """
    over = pooled.over_sets(tables)
    lines = []
    if len(places):
        published = places["against"] == "sagan_no_place"
        top = places["against"].isin(["sagan_whole", "sagan_attention"])
        lines += [
            "**What acts.** Where nothing but a place decides (set `places`), "
            f"{verdicts.told(places[published])}.",
            f"**What helps where place decides.** {verdicts.told(places[~published & ~top])}.\n"
            f"Of what is not cut, {verdicts.told(places[top])}.",
        ]
    asked = {f"on `{name}`": _asked(table) for name, table in tables.items()}
    asked["on average over these sets"] = average = _asked(over)
    helps = [
        f"{where} {verdicts.counted(rows)}{_not_run(rows)}"
        for where, rows in asked.items()
        if len(rows)
    ]
    shifts = ", ".join(filter(None, (_shifted(*of_set) for of_set in moved.items())))
    shifting = (
        f"\nShifting images by {PIXELS} pixels changes the AUC of `sagan`, and of what is not cut, "
        f"{shifts}."
    ) * bool(shifts)
    lines += [
        "**What helps on images of patients.** Encodings, and Swin, against their controls: "
        f"{'; '.join(helps)}.",
        f"**What cutting costs.** {_pair(tables, over, 'sagan_whole', 'sagan')}.{shifting}",
        f"**What attention alone does.** {_pair(tables, over, 'sagan_attention', 'sagan_whole')}.",
        f"**What a GAN adds to features.** {_on_features(tables, over)}.",
        f"**What nobody can tell.** {_untold(_asked(pd.concat(tables.values())), average)}",
    ]
    return lines


def _asked(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the thesis' question."""
    return table[table["family"] == THESIS] if len(table) else table


def _not_run(rows: pd.DataFrame) -> str:
    """How many pairs of the thesis' question are missing."""
    missing = pairs_of(POOLED[0])[THESIS] - len(rows)
    return f", {missing} have not run" if missing else ""


def _pair(tables: dict[str, pd.DataFrame], over: pd.DataFrame, method: str, against: str) -> str:
    """What a pair is on each set and on average."""
    found = []
    for name, table in [*tables.items(), ("on average", over)]:
        if len(table):
            of = table.query("method == @method and against == @against")
            found += [f"{name} {_measured(row)}" for row in of.itertuples()]
    return f"`{method}` against `{against}`: " + ("; ".join(found) or "has not run")


def _on_features(tables: dict[str, pd.DataFrame], over: pd.DataFrame) -> str:
    """The largest difference from the bar, of GANs on features and of sums, on each set; and what
    training adds to the same features in closed form.
    """
    best = []
    for name, table in tables.items():
        asked = table["family"].isin([GAN_ON_FEATURES, GAN_ADDS]) & (table["against"] == BAR)
        of = table[asked].dropna(subset="low").sort_values("difference").tail(1)
        best += [f"on {name} `{row.method}` {_measured(row)}" for row in of.itertuples()]
    asked = [q for q in QUESTIONS if q.family in (GAN_ON_FEATURES, GAN_ADDS)]
    many = sum(against == BAR for question in asked for _, against in question.pairs)
    twins = _pair(tables, over, "brainomaly_features", "patch_fisher")
    found = "; ".join(best) or "none has run"
    picked = "picked as the best, which no interval is corrected for"
    return f"Of {many} GANs and sums the best against `{BAR}` ({picked}): {found}.\n{twins}"


def _measured(row) -> str:
    interval = "" if row.low != row.low else f" [{row.low:+.3f}, {row.high:+.3f}]"
    return f"{row.difference:+.3f}{interval} ({verdicts.word(row)})"


def _shifted(name: str, rows: pd.DataFrame) -> str:
    """What shifting does on a set to SAGAN, and to what sees images whole."""
    if rows.empty or "sagan" not in set(rows["method"]):
        return ""
    change = rows.set_index("method")[f"shift {PIXELS}"]
    whole = change[placement.not_cut(change.index)]
    if whole.empty:
        return ""
    ends = dict.fromkeys(f"{end:+.2f}" for end in (whole.min(), whole.max()))
    return f"by {change['sagan']:+.2f} and {' to '.join(ends)} on `{name}`"


def _untold(asked: pd.DataFrame, average: pd.DataFrame) -> str:
    """How little these sets can tell, and what it would take.

    asked: the verdicts of all sets on the thesis' question; average: those over the sets.
    """
    several = asked.dropna(subset="low")
    if several.empty:
        return "What chance makes of them cannot be said: no pair has run with several seeds."
    said = (
        f"{(several['answer'] == verdicts.CANNOT_TELL).sum()} of these {len(several)} differences"
    )
    open_still = average[average["answer"] == verdicts.CANNOT_TELL] if len(average) else average
    if len(open_still):
        some, more = open_still["needed"].dropna(), open_still["needed"].isna().sum()
        counts = [f"{some.min():.0f} to {some.max():.0f} such sets"] * bool(len(some))
        counts += [f"for {more} of them more than 1,000"] * bool(more)
        said += f"; their average, if it is as measured, would take {', '.join(counts)}"
    return (
        f"{said}.\nAn error of {several['patient_error'].median():.3f} comes from patients, of "
        f"{several['seed_error'].median():.3f} from seeds (medians), and for "
        f"{several['never_equivalent'].sum()} at least no number of seeds could show equivalence."
    )


def write_answer(budget: str) -> list[str]:
    """`answer` as `figures/pooled/<budget>/answer.md`; its lines, none without results."""
    results, tables = pooled.answers_by_set(budget)
    if not results:
        return []
    of_places = []
    with contextlib.suppress(FileNotFoundError):
        of_places = store.collect(placement.SET, placement.BUDGET)
    places = verdicts.answers(of_places) if of_places else pd.DataFrame()
    moved = {name: robustness.moved(of_set) for name, of_set in results.items()}
    lines = answer(tables, places, moved)
    stem = root() / "figures" / "pooled" / budget / "answer"
    with written_whole(stem.with_suffix(".md"), "w") as file:
        file.write("\n\n".join(lines) + "\n")
    every = [result for of_set in (*results.values(), of_places) for result in of_set]
    write_json(stem.with_suffix(".json"), store.record(every))
    return lines
