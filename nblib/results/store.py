"""Finished runs and kept scores -> results, as tables need them; and back to data/scores.

A run of `data/runs` takes precedence over its kept scores, which are committed. What finished runs
were asked afterwards, all with one seed, is called a pass, and lies in a file beside them.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nblib import __version__, metrics
from nblib.data.datasets import Dataset
from nblib.files import RunError, digest, root, write_json, written_whole
from nblib.methods import catalogue
from nblib.progress import say
from nblib.training import budgets
from nblib.training.folder import read
from nblib.training.runs import (
    Run,
    check_config,
    check_metrics,
    read_scores,
    run_folder,
    scores_of,
    test_part,
)

PROJECT = Path(__file__).parents[2]

PASSES = {
    "moved": ("as it is",),
    "mirrored": ("score", "mirrored"),
    "perceptual": ("score", "residual", "perceptual", "whitened"),
}
"""Each with its own columns, of which the first is the run's score, see `robustness.score_moved`,
`robustness.score_mirrored`, `perceptual.score_perceptual`."""

FEATURES = "features.csv"
"""What `features.study` found of a set at a budget, beside its runs."""

PASS_AGAIN = "Move it away, or where it is kept take it from the repository again."

KEEP_AGAIN = "Take it from the repository again, or keep the run again (make keep)."


class Result(NamedTuple):
    """One finished run, as a table needs it.

    checkpoints: AUC, aucp and aucp_held_out by step, see `checkpoints`; empty for methods that
    do not train. run: its folder, where it is still on the disk.
    """

    config: dict
    metrics: dict
    scores: pd.DataFrame
    checkpoints: pd.DataFrame = pd.DataFrame()
    run: Run | None = None

    @property
    def test(self) -> pd.DataFrame:
        """The rows of `scores` of the test images, in their order, numbered from 0."""
        return test_part(self.scores)


def of(run: Run) -> Result:
    """A finished run as a result."""
    return Result(run.config, run.metrics, run.scores, checkpoints(run), run)


def collect(
    data: str | Path, budget: str, variants: str = "base", project: Path | None = None
) -> list[Result]:
    """The finished runs of a set at a budget, in the catalogue's order, then by variant and seed.

    data: the set's name, or the path of its folder. variants: the base runs, or those whose
    variant matches a pattern such as 'ratio*'. project: whose kept scores are read, by default the
    root's. A run of `data/runs` takes precedence over its kept
    scores in `data/scores`. Runs of methods that the catalogue no longer has are named and left
    out. Raises FileNotFoundError, naming the command that makes them, where
    there is none, ValueError where the test images have no labels, and RunError where a file of a
    run or of kept scores is missing or damaged.
    """
    data = Path(data).name
    found: dict[tuple[str, str, int], Result] = {}
    kept = _scores_folder(data, budget, project)
    for file in sorted(kept.glob(f"*/{_stem(variants, '*')}.json")):
        result = _kept(file)
        found[_key(result.config)] = result
    for file in sorted(_runs_folder(data, budget).glob(f"*/{variants}/seed*/metrics.json")):
        if file.parent.name.removeprefix("seed").isdecimal():  # none that was put aside
            run = Run(file.parent)
            found[_key(run.config)] = of(run)
    known = catalogue.known(method for method, *_ in found)
    keys = [key for key in found if key[0] in known]
    results = [found[key] for key in sorted(keys, key=lambda k: (catalogue.order(k[0]), *k[1:]))]
    if not results:
        target = "figures" if variants == "base" else "ratios"
        raise FileNotFoundError(
            f"There is no finished run of the set '{data}' at the budget '{budget}' under "
            f"{root()}. Make them: make {target} DATA={data} BUDGET={budget}"
        )
    must_be_labelled(results)
    return results


def must_be_labelled(results: list[Result]) -> None:
    """Raise ValueError where the set has no labelled test images."""
    for result in results:
        if result.test.empty or result.test["label"].isna().any():
            raise ValueError(
                f"The test images of '{result.config['set']}' have no labels to compare methods "
                "by: 61_your_own_images trains and scores with it."
            )


def one_set(results: list[Result], *same: str) -> None:
    """Raise ValueError where results differ in set, budget, size, images or what `same` names."""
    for name in ("set", "budget", "size", *same):
        values = {str(result.config[name]) for result in results}
        if len(values) > 1:
            raise ValueError(f"One table cannot hold runs of several {name}s: {sorted(values)}.")


def precisions(results: list[Result]) -> list[str]:
    """The precisions that some results were trained in, 'bf16' before 'fp32'; none if in none."""
    trained = [
        r.config for r in results if any(map(budgets.trains, catalogue.parts(r.config["method"])))
    ]
    return sorted({config["precision"] for config in trained})


def record(results: list[Result]) -> dict:
    """Of results, a dictionary for json: what fixes each run, and what it was made with."""
    runs_made = [
        {"hash": digest(json.dumps(r.config, sort_keys=True).encode())} | r.config for r in results
    ]
    return {"nblib": __version__, "runs": runs_made}


def checkpoints(run: Run) -> pd.DataFrame:
    """Test AUC and AUCp at each checkpoint: step, auc, aucp, aucp_held_out; empty if untrained.

    The AUC is worked out here, afterwards, from scores that were noted: nothing uses it. NaN where
    images have no labels, and for methods that optimise for each image, which are not scored then.
    """
    if "aucp" not in run.history:
        return pd.DataFrame()
    test = run.test.set_index("image")["label"]
    labels = test.reindex(run.watched.index).to_numpy()
    areas = {}
    if np.isin(labels, (0, 1)).all():
        areas = {step: metrics.auc(labels, scores) for step, scores in run.watched.items()}
    rows = run.history.dropna(subset="aucp")[["step", "aucp", "aucp_held_out"]]
    rows.insert(1, "auc", rows["step"].map(areas))
    return rows.reset_index(drop=True)


def runs_of(results: list[Result], *methods: str, seed: int = 0) -> list[Run]:
    """The folders of the runs of some methods with one seed, in that order; missing ones left out.

    Raises FileNotFoundError where none is on the disk: maps and weights are not committed.
    """
    there = {r.config["method"]: r.run for r in results if r.run and r.config["seed"] == seed}
    found = [there[method] for method in methods if method in there]
    if not found:
        config = results[0].config
        raise FileNotFoundError(
            f"No run of {', '.join(methods)} with seed {seed} is on this disk, and maps are not "
            "among the scores that are kept. Make them: "
            f"make figures DATA={config['set']} BUDGET={config['budget']} SEEDS={seed}"
        )
    return found


def keep(data: str, budget: str) -> list[Path]:
    """Copy what tables need of finished runs to data/scores, to be committed: a few kB a run.

    Scores of every image, config, metrics, AUC at each checkpoint; of the base runs and of those
    at other anomaly ratios; what was found in `PASSES`, and by `features.study`.
    """
    data, files = Path(data).name, []
    for result in [r for r in _all(data, budget) if r.run]:
        files.append(_keep(result, _scores_folder(data, budget)))
    for pattern in (*(f"{name}-seed*.csv" for name in PASSES), FEATURES):
        for file in sorted(_runs_folder(data, budget).glob(pattern)):
            files.append(_scores_folder(data, budget) / f"{file.name}.gz")
            _write_scores(files[-1], _with_others(read_found(file), files[-1]))
    return files


def _with_others(fresh: pd.DataFrame, kept: Path) -> pd.DataFrame:
    """What a pass found, and what is kept of methods that took no part in it, in one order."""
    if "method" not in fresh or not kept.exists():
        return fresh
    others = read_found(kept)
    both = pd.concat([others[~others["method"].isin(fresh["method"])], fresh])
    return both.sort_values("method", key=lambda m: m.map(catalogue.order), kind="stable")


def finished(dataset: Dataset, budget: str, methods: Iterable[str], seed: int) -> Iterator[Run]:
    """The finished base runs of some methods on a set with one seed, in that order.

    Left out, and said, are those of other images that the set once had.
    """
    for method in methods:
        run = Run(run_folder(dataset.name, budget, method, seed))
        if not (run.folder / "metrics.json").exists():
            continue
        if run.config["data"] == dataset.fingerprint:
            yield run
        else:
            say(f"Left out, since the set has changed since: {run.folder}.")


def pass_file(name: str, data: str, budget: str, seed: int) -> Path:
    """Where the scores of a pass over finished runs lie."""
    return _runs_folder(data, budget) / f"{name}-seed{seed}.csv"


def write_pass(path: Path, tables: list[pd.DataFrame]) -> Path:
    """Write what a pass found, a table a run with the columns image, patient, label, method."""
    with written_whole(path, "w") as file:
        pd.concat(tables).to_csv(file, index=False, float_format="%.6g")
    return path


def of_pass(name: str, results: list[Result]) -> list[tuple[Result, pd.DataFrame]]:
    """What a pass found, kept or fresh, of each of some results of one set that took part in it.

    Left out, and said, is what was found by a network that is no longer the result's: such a run
    has been made again since.
    """
    found = {}
    for data, budget, seed in {
        tuple(map(r.config.get, ("set", "budget", "seed"))) for r in results
    }:
        fresh = pass_file(name, data, budget, seed)
        kept = _scores_folder(data, budget) / f"{fresh.name}.gz"
        for file in filter(Path.exists, (kept, fresh)):
            found |= {(of, seed): table for of, table in read_found(file).groupby("method")}
    pairs = [(r, found.get((r.config["method"], r.config["seed"]))) for r in results]
    return [pair for pair in pairs if pair[1] is not None and _same_network(name, *pair)]


def passed(name: str, results: list[Result]) -> list[Result]:
    """Which of some results `of_pass` has something of."""
    return [result for result, _ in of_pass(name, results)]


def _same_network(name: str, result: Result, table: pd.DataFrame) -> bool:
    """Whether what a pass noted as a run's score is that, as near as another processor has it."""
    own = result.test.set_index("image")["score"].reindex(table["image"])
    noted = table[PASSES[name][0]]
    same = np.allclose(noted, own, rtol=0, atol=0.01 * own.std())
    if not same:
        method, seed = result.config["method"], result.config["seed"]
        say(f"{name}-seed{seed}: {method} is left out, since its run has been made again since.")
    return same


def read_found(file: Path) -> pd.DataFrame:
    """The table of a pass, or of `FEATURES`, kept or fresh. Raises RunError as `read_scores`."""
    own = PASSES.get(file.name.split("-seed")[0])
    words = ("image", "patient", "method") if own else ("direction", "what", "division")
    numbers = ("label", *own) if own else ("auc",)
    return read_scores(file, PASS_AGAIN, (*words, *numbers), words)


def over_seeds(rows: list[dict]) -> pd.DataFrame:
    """Rows of (method, number, ...), one a run -> method, seeds, means over the seeds.

    In the catalogue's order; empty without rows.
    """
    if not rows:
        return pd.DataFrame()
    found = pd.DataFrame(rows).groupby("method")
    table = found.mean()
    table.insert(0, "seeds", found.size())
    return table.sort_index(key=lambda methods: methods.map(catalogue.order)).reset_index()


def _all(data: str, budget: str) -> list[Result]:
    """The base runs, and those at other ratios or of another padding where there are any."""
    found = collect(data, budget)
    for variants in ("ratio*", "circular", "reflect"):
        with contextlib.suppress(FileNotFoundError):
            found += collect(data, budget, variants)
    return found


def _keep(result: Result, folder: Path) -> Path:
    """Keep the scores of a run among those of its set and budget, and return their .csv.gz."""
    method, variant, seed = _key(result.config)
    stem = folder / method / _stem(variant, seed)
    scores = stem.with_suffix(".csv.gz")
    _write_scores(scores, result.scores)
    kept = {"config": result.config, "metrics": result.metrics}
    if len(result.checkpoints):
        kept["checkpoints"] = json.loads(result.checkpoints.to_json(orient="records"))
    write_json(stem.with_suffix(".json"), kept | {"digest": _digest(kept, stem)})
    return scores


def _kept(file: Path) -> Result:
    """The kept scores of a run, from its .json and the .csv.gz beside it."""

    def load(file: Path) -> dict:
        kept = json.loads(file.read_text())
        check_config(kept["config"])
        check_metrics(kept["metrics"])
        own = [kept["config"][name] for name in ("set", "budget", "method", "seed")]
        if [*file.parts[-4:-1], file.stem.split("-")[-1]] != [*own[:3], f"seed{own[3]}"]:
            raise ValueError(f"it is of another run, {', '.join(map(str, own))}")
        return kept

    kept = read(file, load, KEEP_AGAIN)
    beside = file.with_suffix(".csv.gz")
    scores = scores_of(beside, kept["metrics"], file.name, KEEP_AGAIN)
    if kept.pop("digest", None) != _digest(kept, file):
        raise RunError(f"{file} or {beside.name} is not as it was written. {KEEP_AGAIN}")
    checkpoints = pd.DataFrame(kept.get("checkpoints", []))
    return Result(kept["config"], kept["metrics"], scores, checkpoints)


def _digest(kept: dict, stem: Path) -> str:
    """A digest of what is kept of a run, and of the scores beside it."""
    return digest(json.dumps(kept).encode(), stem.with_suffix(".csv.gz").read_bytes())


def _write_scores(path: Path, scores: pd.DataFrame) -> None:
    with written_whole(path) as file:
        # No time of making in the file: the same scores give the same bytes.
        how = {"method": "gzip", "mtime": 0}
        scores.to_csv(file, index=False, float_format="%.9g", compression=how)


def _stem(variant: str, seed: int | str) -> str:
    """How the kept scores of a run are called."""
    return f"seed{seed}" if variant == "base" else f"{variant}-seed{seed}"


def _runs_folder(data: str, budget: str) -> Path:
    return root() / "data" / "runs" / data / budget


def _scores_folder(data: str, budget: str, project: Path | None = None) -> Path:
    return (project or root()) / "data" / "scores" / data / budget


def _key(config: dict) -> tuple[str, str, int]:
    return config["method"], config["variant"], config["seed"]
