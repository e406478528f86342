"""Where place decides: runs on the drawn set `places`, what was predicted of them, what came out.

The set's true answer is known: a method that cannot tell places is at AUC 0.5, one that can may
reach 1. `PREDICTIONS` were written before the runs, from a trial with one or two seeds, and kept.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nblib import metrics
from nblib.data import datasets
from nblib.files import root, written_whole
from nblib.methods.catalogue import METHODS
from nblib.results import store, tables, verdicts, write
from nblib.results.store import PROJECT, Result
from nblib.training import runs
from nblib.training.runs import Run

SET = BUDGET = "places"


class Prediction(NamedTuple):
    """Between which AUCs the mean over the seeds of a method is to lie, and why.

    condition: what pads the generator's convolutions (see `layers.pad`) on the set places, or, with
    zeros, the harder set whose border is 'middle' or 'outer'.
    """

    method: str
    condition: str
    low: float
    high: float
    why: str


DEAD, ACTS = (0.499, 0.501), (0.95, 1.0)
CHANCE = (0.45, 0.55)

_CUT_DEAD = "cut, and the code is constant over a patch: the norm takes it away"
_CUT_ACTS = "cut, and the code acts"
_SINES = "cut, but sinusoids are not constant over a patch: only their mean over it is taken away"
_ENDS = "not cut: {} tells where the image ends"
_NO_ENDS = "not cut, and a circular image has no end"
_RELATIVE = "a circular image has no end, and relative encodings know distances, not places"

PREDICTIONS = (
    Prediction("nearest_normals", "zeros", 0.93, 1.0, "pixels know where they are"),
    Prediction("sagan", "zeros", *DEAD, _CUT_DEAD),
    Prediction("sagan_no_place", "zeros", *DEAD, "cut, and there is no code"),
    Prediction("sagan_learned", "zeros", *DEAD, _CUT_DEAD),
    Prediction("sagan_place_acts", "zeros", *ACTS, _CUT_ACTS),
    Prediction("sagan_learned_acts", "zeros", *ACTS, _CUT_ACTS),
    Prediction("sagan_sinusoidal", "zeros", *ACTS, _SINES),
    Prediction("sagan_sinusoidal_acts", "zeros", *ACTS, _CUT_ACTS),
    Prediction("sagan_whole", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_attention", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_rope", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_alibi", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_attention_bias", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_swin", "zeros", *ACTS, _ENDS.format("zero padding")),
    Prediction("sagan_whole", "reflect", *ACTS, _ENDS.format("a mirror")),
    Prediction("sagan_attention", "reflect", *ACTS, _ENDS.format("a mirror")),
    Prediction("sagan_whole", "circular", *CHANCE, _NO_ENDS),
    Prediction("sagan_attention", "circular", *CHANCE, _NO_ENDS),
    Prediction("sagan_rope", "circular", *CHANCE, _RELATIVE),
    Prediction("sagan_alibi", "circular", *CHANCE, _RELATIVE),
    Prediction("sagan_attention_bias", "circular", *CHANCE, _RELATIVE),
    Prediction("sagan_swin", "circular", *ACTS, "Swin's shifted windows mark the border"),
    Prediction("sagan", "middle", *ACTS, "the padding inside a patch tells its halves apart"),
    Prediction("sagan_place_acts", "middle", *ACTS, "the padding inside a patch tells"),
    Prediction("sagan", "outer", *CHANCE, "the padding tells halves, but no code tells patches"),
    Prediction("sagan_place_acts", "outer", 0.6, 1.0, "code and padding together, a harder task"),
    Prediction("sagan_whole", "outer", *ACTS, _ENDS.format("zero padding")),
)


CONDITIONS = tuple(dict.fromkeys(prediction.condition for prediction in PREDICTIONS))

BORDERS = ("middle", "outer")


def set_of(condition: str) -> str:
    """The set that runs of this condition see."""
    return f"{SET}_{condition}" if condition in BORDERS else SET


def variant(condition: str) -> str:
    """What a run of this condition is called."""
    return "base" if condition in ("zeros", *BORDERS) else condition


def condition(data: str, variant: str) -> str:
    """The condition of a run on this set that is called so: what `set_of` and `variant` undo."""
    if data != SET:
        return data.removeprefix(f"{SET}_")
    return "zeros" if variant == "base" else variant


def condition_of(result: Result) -> str:
    return condition(result.config["set"], result.config["variant"])


def run_place(method: str, condition: str, seed: int) -> Run:
    """Train a method under this condition, or take the finished run."""
    name = variant(condition)
    given = {} if name == "base" else {"padding": condition}
    return runs.run(method, datasets.load(set_of(condition)), BUDGET, seed, variant=name, **given)


def collected() -> list[Result]:
    """The runs on the set `places` that are finished here or whose scores are kept, if any.

    Kept scores are the project's own, whatever the root: the notebook shows them beside any set.
    """
    found = []
    for name in CONDITIONS:
        with contextlib.suppress(FileNotFoundError):
            found += store.collect(set_of(name), BUDGET, variant(name), PROJECT)
    return found


def outcome(results: list[Result]) -> pd.DataFrame:
    """A row a prediction with what came out of it, as far as it has run.

    auc, auc_low, auc_high: as in `tables.table`; areas: the AUC of each seed; auc_by_maximum: by
    the highest value of the map in place of its mean; twins: the largest difference between the
    scores of two twins, as a share of their mean; right: whether the mean AUC, to three digits, is
    where it was predicted.
    """
    rows = []
    for name in CONDITIONS:
        own = [result for result in results if condition_of(result) == name]
        if not own:
            continue
        for row in tables.table(own).itertuples():
            of_method = [r.test for r in own if r.config["method"] == row.method]
            areas = tuple(metrics.auc(test["label"], test["score"]) for test in of_method)
            by_maximum = [
                metrics.auc(t["label"], t["map maximum"]) for t in of_method if "map maximum" in t
            ]
            rows.append(
                {
                    "method": row.method,
                    "condition": name,
                    "seeds": row.seeds,
                    "auc": row.auc,
                    "areas": areas,
                    "auc_low": row.auc_low,
                    "auc_high": row.auc_high,
                    "auc_seed_sd": row.auc_seed_sd,
                    "auc_by_maximum": np.mean(by_maximum) if by_maximum else np.nan,
                    "twins": max(_between_twins(test) for test in of_method),
                }
            )
    predicted = pd.DataFrame(PREDICTIONS).rename(columns={"low": "least", "high": "most"})
    if not rows:
        return predicted.iloc[:0]
    table = predicted.merge(pd.DataFrame(rows), on=["method", "condition"])
    table["right"] = table["auc"].round(3).between(table["least"], table["most"])
    return table


def _between_twins(test: pd.DataFrame) -> float:
    pairs = test.groupby("patient")["score"]
    return float(((pairs.max() - pairs.min()) / pairs.mean()).max())


def curves(results: list[Result]) -> pd.DataFrame:
    """AUC over the steps of the training: method, condition, seed, step, auc."""
    tables_of = [
        result.checkpoints[["step", "auc"]].assign(
            method=result.config["method"],
            condition=condition_of(result),
            seed=result.config["seed"],
        )
        for result in results
        if len(result.checkpoints)
    ]
    return pd.concat(tables_of) if tables_of else pd.DataFrame(columns=["method", "condition"])


def answered(results: list[Result]) -> pd.DataFrame:
    """`verdicts.answers` of the runs with zero padding; empty where there are none."""
    zeros = [result for result in results if condition_of(result) == "zeros"]
    return verdicts.answers(zeros) if zeros else pd.DataFrame()


def write_outcome(results: list[Result]) -> pd.DataFrame:
    """`outcome` as `figures/places/places/placement`; returns what is printed of it."""
    table = outcome(results)
    if table.empty:
        return table
    printed = for_print(table)
    words = (
        f"Set {SET}, budget {BUDGET}: 500 pairs of twins, a normal picture and the same with its "
        "halves exchanged. Mean AUC over the seeds with its 95 % interval over pairs; by the map's "
        "maximum in place of its mean; the largest difference between the scores of two twins, as "
        "a share of their mean. Predictions were written before the runs. middle and outer: other "
        "sets, whose twins have the halves of each patch exchanged."
    )
    write.save_table(table.drop(columns="areas"), printed, words, results, "placement")
    return printed


def for_print(table: pd.DataFrame) -> pd.DataFrame:
    """`outcome` in words."""
    rows = [
        {
            "method": row.method,
            "condition": row.condition,
            "predicted": f"{row.least:.3f} to {row.most:.3f}",
            "seeds": row.seeds,
            "AUC": write.between(row, "auc"),
            "sd of seeds": write.number(row.auc_seed_sd),
            "by the map's maximum": write.number(row.auc_by_maximum),
            "twins differ by": f"{row.twins:.1g}",
            "right": "yes" if row.right else "no",
        }
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows)


TWINS = ("sagan", "sagan_place_acts")
"""Whose maps of the same twins are kept: a code that is dead, and one that acts."""


def keep_twins() -> None:
    """Keep three pairs of twins and the maps of them by `TWINS`, seed 0, beside the kept scores.

    The images are drawn, so that they may be committed. Nothing is done where no such run is there.
    """
    found = [Run(runs.run_folder(SET, BUDGET, method, 0)) for method in TWINS]
    if not all((run.folder / "maps.npz").exists() for run in found):
        return
    dataset, test = datasets.load(SET), found[0].test
    chosen = [
        rows.sort_values("label").index.to_list() for _, rows in list(test.groupby("patient"))[:3]
    ]
    index = np.ravel(chosen)
    maps = {run.config["method"]: run.test_map[index].astype(np.float16) for run in found}
    with written_whole(root() / _TWINS) as file:
        np.savez_compressed(file, images=dataset.test.images[index, 0], **maps)


_TWINS = Path("data", "scores", SET, BUDGET, "twins.npz")


def kept_twins() -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """What `keep_twins` kept: images (n, H, W), each behind its twin, and maps by method."""
    file = PROJECT / _TWINS
    if not file.exists():
        return None
    with np.load(file) as kept:
        return kept["images"], {name: kept[name].astype(np.float32) for name in TWINS}


def conclusions(table: pd.DataFrame, verdict: pd.DataFrame) -> list[str]:
    """What follows for the thesis, in sentences made of `outcome` and of `verdicts.answers`."""
    if table.empty:
        return ["Nothing has run on the set places. Make it: make places"]
    zeros = table[table["condition"] == "zeros"].set_index("method")
    dead = [name for name in ("sagan", "sagan_learned", "sagan_no_place") if name in zeros.index]
    lines = [
        f"**SAGAN's code cannot act.** {_listed(zeros, dead)}: twins differ in their scores by at "
        f"most {zeros.loc[dead, 'twins'].max():.1g} of them."
    ]
    acting = [name for name in zeros.index if name.endswith("_acts")]
    answers = verdict[verdict["method"].isin(acting)]
    told = [said for said in verdicts.sentences(answers) if said.startswith("`")]
    lines.append(
        f"**Made to act, it does what it should where place decides.** {_listed(zeros, acting)}. "
        + " ".join(told)
    )
    if "sagan_sinusoidal" in zeros.index:
        lines.append(
            "**Published sinusoids act as well**, since they change within a patch: "
            f"{_listed(zeros, ['sagan_sinusoidal'])}."
        )
    whole = _listed(zeros, not_cut(zeros.index))
    lines.append(f"**What is not cut knows places anyway:** {whole}.")
    circular = table[table["condition"] == "circular"].set_index("method")
    if len(circular):
        lines.append(
            f"**Around a circular image:** {_listed(circular, circular.index)}. A generator that "
            "only convolves cannot tell where it is. Swin's windows and an attention over a grid "
            "that does have an end can, but need not learn it."
        )
    lines.append(f"**Whether X-rays need it is another question.** {_on_images()}")
    return lines


def not_cut(names: Iterable[str]) -> list[str]:
    """Those of some methods that see the image whole, where SAGAN cuts it."""
    return [name for name in names if METHODS[name].fixed.get("grid") == 1]


def _listed(rows: pd.DataFrame, names) -> str:
    return ", ".join(f"`{name}` {rows.loc[name, 'auc']:.3f}" for name in names)


def _on_images() -> str:
    """What the committed verdicts say of the acting code on sets of patients."""
    said = []
    for file in sorted((PROJECT / "figures").glob("*/laptop/verdict.csv")):
        rows = pd.read_csv(file).query("method == 'sagan_place_acts' and against == 'sagan'")
        said += [
            f"{file.parts[-3]}: {row.answer} ({row.difference:+.3f} AUC)"
            for row in rows.itertuples()
        ]
    return "`sagan_place_acts` against `sagan`: " + "; ".join(said) + "." if said else ""
