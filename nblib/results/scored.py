"""Finished runs and any images -> a folder: a table, what it means in words, pictures, a page."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from nblib import metrics
from nblib.data import datasets
from nblib.data.datasets import Dataset
from nblib.data.dicom import BURNED_IN
from nblib.files import at_home, root, write_for_people, written_whole
from nblib.methods import catalogue
from nblib.progress import say
from nblib.results import report, store
from nblib.results.questions import POOLED
from nblib.results.sums import standardised
from nblib.training import budgets, runs, scoring
from nblib.training.runs import Run

COLUMNS = ["image", "picture", "score", "percentile", "decision", "threshold"]
COLUMNS += ["run", "precision", "problem", "note"]

PREVALENCES = (0.01, 0.05, 0.10)

README = """What is in this folder
======================

scores.csv    a row an image, the most conspicuous first
report.html   the same images to look at, in any browser, without a network
pictures/     each image with its heat map over it, and (.panel.jpg) image, maps, restored images

The columns of scores.csv
  image        the file, below the folder that was scored
  picture      what its pictures are called: <picture>.jpg and <picture>.panel.jpg
  score        how unlike the known normal images it is; larger = more unusual. The numbers of two
               methods cannot be compared with each other
  percentile   of {held} known normal images that the method was not trained on, how many per cent
               lie below this score: 95 means that 95 in a hundred normal images score lower
  decision     abnormal: the score lies above the threshold; empty: there are too few known normals
  threshold    {threshold}: 95 in a hundred normal images like the known ones stay below it, so that
               5 in a hundred normal images are called abnormal
  run          what made the score: method, set, budget, seed
  precision    the numbers that its network was trained in; empty for what trains no network
  problem      why a file has no score
  note         what else is known of the file
{others}
This is research software and no medical device. A high percentile says that an image is unlike the
normal ones, in whatever respect: the scanner, a pacemaker, a hand on the chest. It is no diagnosis.
"""


def recommended(dataset: Dataset) -> tuple[str, ...]:
    """The methods to begin with: what our tables rank first, the method to trust first of all.

    They train no network. Without unlabeled images it is the best of those that need none.
    """
    return catalogue.RECOMMENDED if len(dataset.unlabeled) else catalogue.ONE_CLASS


def made(
    dataset: Dataset, methods: Iterable[str], budget: str, seed: int, precision: str = ""
) -> Iterator[Run]:
    """The finished runs of some methods, each made, where it is missing, when it is asked for."""
    return (runs.run(name, dataset, budget, seed, precision=precision) for name in methods)


def named(methods: str) -> list[str]:
    """The methods that a text names, with commas between. Raises as `catalogue.entry`."""
    names = [name.strip() for name in methods.split(",") if name.strip()]
    for name in names:
        catalogue.entry(name)
    return names


def of_set(name: str, budget: str) -> Iterator[Run]:
    """The runs of the `recommended` methods on a set, as `made` makes them: in seconds each."""
    dataset = datasets.load(name)
    return made(dataset, recommended(dataset), budget, seed=0)


def write_scored(
    source: str | Path, asked: Iterable[Run | str | Path], out: str | Path | None = None
) -> tuple[pd.DataFrame, list[Run], Path]:
    """Score a folder of images, or one image, by finished runs of one set.

    The first run is the one to trust: score, percentile and decision are its. Leaves in `out` (by
    default `data/scored/<folder>-by-<set>`, of a set's own images `data/scored/<set>`) scores.csv,
    README.txt, pictures/ and report.html; an earlier result there is replaced. The table is there
    as soon as the first run has scored, before the next is asked for, and grows. Returns table,
    runs and folder.

    Raises FileNotFoundError where there is no such run or image, or `out` is taken by others, and
    ValueError for runs of two sets, or two of one method.
    """
    files = scoring.files_in(source)
    found, tables, layers = [], [], []
    for run in map(scoring.finished_run, asked):
        if not found:
            out = at_home(out) if out else _folder(source, run)
            _must_be_ours(out)
        _must_stand_beside(run, found)
        layers.append(report.Layers(run))
        seen = map(layers[-1].noted, scoring.seen(files, run))
        tables.append(scoring.table(files, source, run, seen))
        found.append(run)
        table = joined(tables, found)
        _write_table(table, found, out)
        report.remove(out)  # that of an earlier table, should the disk be full before this one's
        say(f"{out / 'scores.csv'}: written, by {run.config['method']}")
    report.write(table, files, found, layers, out, predictive(found[0]))
    return table, found, out


def joined(tables: list[pd.DataFrame], asked: list[Run]) -> pd.DataFrame:
    """One table of what several runs found, `COLUMNS` and two more a run, the first's order."""
    first, run = tables[0], asked[0]
    told = {"threshold": metrics.threshold(run.held_out), "run": _name(run), "picture": ""}
    table = first.assign(**told, precision=_precision(run))[COLUMNS]
    if len(asked) > 1:
        for found, of in zip(tables, asked, strict=True):
            for what in ("score", "percentile"):
                table[f"{what} {of.config['method']}"] = found[what]
    table = table.sort_values("score", ascending=False, kind="stable", na_position="last")
    # Names alone may be too long, or that of a picture may be another's folder.
    ends = [name.split("/")[-1][:50] for name in table["image"]]
    table["picture"] = [f"{row:04d}-{end}" for row, end in enumerate(ends, 1)]
    return table


def agreement(asked: list[Run], dataset: Dataset) -> pd.DataFrame:
    """What can be known of several runs without labels, and what the real sets showed of them.

    A row a run, and one of the mean of their scores, each standardised by its held-out normals:
    AUCp of held-out known normals against held-out unlabeled images and its standard error, the
    rank correlation of its scores of the unlabeled images with the first run's, and the mean AUC
    that the method reached on each set of patients in our tables, where it has run there.
    """
    held = dataset.hold_out(asked[0].config["seed"], asked[0].config["held_out"]).held_unlabeled
    rows, scores = [], {}
    for run in asked:
        scores[run.config["method"]] = standardised(run.scores)
    scores = pd.DataFrame(scores)
    part = asked[0].scores.set_index("image")["part"].reindex(scores.index)
    if len(asked) > 1:
        scores["their mean"] = scores.mean(axis=1)
    known = _known()
    for name, of in scores.items():
        row = {"method": name}
        if len(held):
            aucp = metrics.aucp(of[part == "held_out_normal"], of[of.index.isin(held.names)])
            row |= dict(zip(("AUCp", "its error"), aucp, strict=True))
            mix = part == "unlabeled"
            row["rank correlation"] = spearmanr(of[mix], scores.iloc[:, 0][mix])[0]
        rows.append(row | {f"AUC, {s}": areas.get(name, np.nan) for s, areas in known.items()})
    return pd.DataFrame(rows).set_index("method").dropna(axis="columns", how="all")


def disputed(table: pd.DataFrame, many: int = 10) -> pd.DataFrame:
    """The images of a `joined` table on whose percentile its runs differ most; none of one run."""
    ranks = table.filter(regex="^percentile .")
    if ranks.shape[1] < 2:
        return pd.DataFrame()
    apart = (ranks.max(axis=1) - ranks.min(axis=1)).sort_values(ascending=False, kind="stable")
    return table.loc[apart.index[:many], ["image", *ranks]]


def advice(asked: list[Run], dataset: Dataset) -> str:
    """Which run to trust, and why, in words."""
    first, *others = (run.config["method"] for run in asked)
    held = dataset.hold_out(asked[0].config["seed"], asked[0].config["held_out"])
    known = _known()
    of = [f"{areas[first]:.2f} on {name}" for name, areas in known.items() if first in areas]
    words = f"Trust `{first}` first"
    words += f": its AUC was {', '.join(of)}, the real sets of this project." if of else "."
    if not len(dataset.unlabeled):
        lost = [areas[catalogue.RECOMMENDED[0]] - areas[first] for areas in known.values()]
        words += (
            " It learns from known normals alone. With unlabeled images as well, "
            f"`{catalogue.RECOMMENDED[0]}` reached {min(lost):.2f} to {max(lost):.2f} more there: "
            "images as they come, of which nobody has said anything, are worth collecting."
        )
    elif others:
        words += (
            f" AUCp, from {len(held.held_normal)} known normals and {len(held.held_unlabeled)} "
            "unlabeled images that were held out, cannot choose between methods: see its error."
        )
    return words


def first_to_look_at(
    table: pd.DataFrame, dataset: Dataset, source: str | Path, many: int = 6
) -> pd.DataFrame:
    """The highest scores among images of a source of which nobody said that they are normal."""
    parts = scoring.with_parts(table, dataset, source)
    return parts[parts["score"].notna() & (parts["part"] != "known normal")].head(many)


def predictive(run: Run) -> pd.DataFrame:
    """What a positive and a negative mean where one in a hundred, five or ten images are abnormal.

    By Bayes' rule from the run's sensitivity and specificity on its labelled test part; empty
    without one. Columns: abnormal (share), PPV, NPV.
    """
    found = run.metrics
    if found.get("sensitivity") is None:
        return pd.DataFrame()
    sensitivity, specificity = found["sensitivity"], found["specificity"]
    rows = []
    for share in PREVALENCES:
        hits, false = sensitivity * share, (1 - specificity) * (1 - share)
        missed, cleared = (1 - sensitivity) * share, specificity * (1 - share)
        ppv = hits / (hits + false) if hits + false else np.nan
        npv = cleared / (cleared + missed) if cleared + missed else np.nan
        rows.append({"abnormal": share, "PPV": ppv, "NPV": npv})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, asked: list[Run]) -> str:
    """What was found, in words."""
    scored = table["score"].notna()
    methods, config = ", ".join(run.config["method"] for run in asked), asked[0].config
    lines = [
        f"{scored.sum()} of {len(table)} images scored by {methods}, trained on {config['set']} at "
        f"the budget {config['budget']}, seed {config['seed']}."
    ]
    if (table["decision"] != "").any():
        called = (table["decision"] == "abnormal").sum()
        lines.append(
            f"{called} are called abnormal. Of normal images like those that were held out, 5 % "
            "would be."
        )
    elif scored.any():
        lines.append(
            f"{len(asked[0].held_out)} known normals were held out, too few for a decision, which "
            "takes 19: see score and percentile."
        )
    if noted := (table["note"] != "").sum():
        lines.append(f"{BURNED_IN} {noted}.")
    lines += [f"not scored: {row.image} {row.problem}" for row in table[~scored].itertuples()]
    return "\n".join(lines)


def _write_table(table: pd.DataFrame, asked: list[Run], out: Path) -> None:
    cut = metrics.threshold(asked[0].held_out)
    words = dict(held=len(asked[0].held_out), threshold="none" if np.isnan(cut) else f"{cut:.6g}")
    methods = ", ".join(run.config["method"] for run in asked)
    words["others"] = (
        f"  score ..., percentile ...   the same by each method: {methods}.\n"
        "               Columns without a name behind them are those of the first\n"
    ) * (len(asked) > 1)
    with written_whole(out / "README.txt", "w") as file:
        file.write(README.format(**words))
    write_for_people(out / "scores.csv", table)


def _must_be_ours(out: Path) -> None:
    """Raise FileNotFoundError where something else lies in the way."""
    # Also a pipe, a device, or a link to what is gone.
    if os.path.lexists(out) and not out.is_dir():
        raise FileNotFoundError(f"{out} is no folder: name one for scores, pictures and report.")
    there = {file.name for file in out.iterdir()} if out.is_dir() else set()
    # A run has a scores.csv as well, which is not to be lost.
    if there and ("scores.csv" not in there or there & {"config.json", "metrics.json"}):
        raise FileNotFoundError(f"{out} holds other files: name a new folder, or an empty one.")


def _must_stand_beside(run: Run, found: list[Run]) -> None:
    """Raise ValueError where a run cannot stand in one table with those before it."""
    for other in found:
        both = f"{other.folder} and {run.folder}"
        if run.config["set"] != other.config["set"]:
            raise ValueError(f"{both} are of two sets: name runs of one.")
        if run.config["method"] == other.config["method"]:
            raise ValueError(f"{both} are of one method: name one of them.")


def _folder(source: str | Path, run: Run) -> Path:
    of = at_home(source).absolute()
    inside = of.name == "images"  # of a set
    name = of.stem if of.is_file() else of.parent.name if inside else of.name
    of_set = run.config["set"]
    return root() / "data" / "scored" / (name if name == of_set else f"{name}-by-{of_set}")


def _name(run: Run) -> str:
    """What fixes a run, in a few words."""
    config = run.config
    return f"{config['method']}, {config['set']}, {config['budget']}, seed {config['seed']}"


def _precision(run: Run) -> str:
    return run.config["precision"] if budgets.trains(run.config["method"]) else ""


def _known() -> dict[str, pd.Series]:
    """Mean AUC by method on each set of patients in the committed tables."""
    files = {name: store.PROJECT / f"figures/{name}/laptop/results.csv" for name in POOLED}
    return {
        name: pd.read_csv(file).set_index("method")["auc"]
        for name, file in files.items()
        if file.exists()
    }
