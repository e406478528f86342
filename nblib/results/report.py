"""Many runs -> one tidy table -> .csv, .md, .tex, with a record of the runs beside it.

A table holds one set and one budget. AUC, AP, thresholds and intervals are made again from the
scores of every image: those of `data/runs`, or those kept in `data/scores` and committed.
Localisation and cost come from each run's metrics.json.
"""

import contextlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from nblib import __version__, metrics
from nblib.data import shortcuts
from nblib.data.datasets import Dataset
from nblib.data.labels import Labels
from nblib.files import digest, root, write_json, written_whole
from nblib.methods import catalogue
from nblib.methods.catalogue import entry
from nblib.training import budgets, runs
from nblib.training.runs import Run, read_scores, test_part

REFERENCES = {
    "known normals": "nearest_normals",
    "known normals + unlabeled": "known_against_unlabeled",
}
"""Fixed beforehand: one for methods that learn from known normals, one for those that use U."""

PRETRAINED = {"known normals": "pretrained_knn", "known normals + unlabeled": "pretrained_logistic"}
"""What one would use without training anything, for each of the two kinds."""

PROJECT = Path(__file__).parents[2]
PUBLISHED = PROJECT / "data" / "published.csv"


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


def collect(data: str | Path, budget: str, variants: str = "base") -> list[Result]:
    """The finished runs of a set at a budget, in the catalogue's order, then by variant and seed.

    data: the set's name, or the path of its folder. variants: the base runs, or those whose
    variant matches a pattern such as 'ratio*'. A run of `data/runs` takes precedence over its kept
    scores in `data/scores`. Runs of methods that the catalogue no longer has are named and left
    out. Raises FileNotFoundError, naming the command that makes them, where
    there is none, and ValueError where the test images have no labels.
    """
    data = Path(data).name
    found: dict[tuple[str, str, int], Result] = {}
    for file in sorted(_scores_folder(data, budget).glob(f"*/{_stem(variants, '*')}.json")):
        record = json.loads(file.read_text())
        scores = read_scores(file.with_suffix(".csv.gz"))
        checkpoints = pd.DataFrame(record.get("checkpoints", []))
        found[_key(record["config"])] = Result(
            record["config"], record["metrics"], scores, checkpoints
        )
    for file in sorted(_runs_folder(data, budget).glob(f"*/{variants}/seed*/metrics.json")):
        if ".aside" not in file.parent.name:
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
    if not all("auc" in result.metrics for result in results):
        raise ValueError(f"The test images of '{data}' have no labels to compare methods by.")
    return results


def one_set(results: list[Result], *same: str) -> None:
    """Raise ValueError where results differ in set, budget, size, images or what `same` names."""
    for name in ("set", "budget", "size", *same):
        values = {str(result.config[name]) for result in results}
        if len(values) > 1:
            raise ValueError(f"One table cannot hold runs of several {name}s: {sorted(values)}.")


class Resampled(NamedTuple):
    """The runs of one method on the test images, and on those of resampled patients.

    scores: (seeds, n); auc, ap: (seeds, resamples).
    """

    scores: np.ndarray
    auc: np.ndarray
    ap: np.ndarray


def resampled(results: list[Result]) -> tuple[np.ndarray, np.ndarray, dict[str, Resampled]]:
    """Labels and patients of the test images (n,), and `Resampled` of each method.

    All runs scored the same images: their patients are resampled once, for every method. Raises
    ValueError where results differ in set, budget or images.
    """
    one_set(results, "data")
    test = results[0].test
    labels, patients = test["label"].to_numpy(int), test["patient"].to_numpy(str)
    weights = metrics.patient_weights(labels, patients)
    methods = {}
    for method in dict.fromkeys(result.config["method"] for result in results):
        own = [r for r in results if r.config["method"] == method]
        scores = np.array([result.test["score"].to_numpy() for result in own])
        pairs = [metrics.weighted_auc_ap(labels, values, weights) for values in scores]
        methods[method] = Resampled(scores, *map(np.array, zip(*pairs, strict=True)))
    return labels, patients, methods


def table(results: list[Result]) -> pd.DataFrame:
    """A row a method: AUC, AP, decisions over the seeds, intervals over patients, cost.

    In the catalogue's order: first what learns from known normals, then what uses the unlabeled
    mix.

    auc, ap: means over the seeds; *_low, *_high: 95 % interval of that mean over resampled
    patients, for these very seeds; auc_seed_sd: deviation between seeds, NaN with one seed.
    Raises ValueError where results differ in set, budget or images.
    """
    labels, _, methods = resampled(results)
    rows = []
    for method, found in methods.items():
        own = [r for r in results if r.config["method"] == method]
        aucs = [metrics.auc(labels, values) for values in found.scores]
        auc_low, auc_high = metrics.interval(found.auc.mean(0))
        ap_low, ap_high = metrics.interval(found.ap.mean(0))
        row = {
            "method": method,
            "uses": entry(method).uses,
            "reference": method in REFERENCES.values(),
            "seeds": len(own),
            "auc": np.mean(aucs),
            "auc_low": auc_low,
            "auc_high": auc_high,
            "auc_seed_sd": np.std(aucs, ddof=1) if len(aucs) > 1 else np.nan,
            "ap": np.mean([average_precision_score(labels, v) for v in found.scores]),
            "ap_low": ap_low,
            "ap_high": ap_high,
        }
        at_90 = [metrics.decisions(r.scores, 0.9) for r in own]
        at_95 = [metrics.decisions(r.scores, 0.95) for r in own]
        row |= {f"{name}_at_90": _mean(at_90, name) for name in ("sensitivity", "specificity")}
        row |= {name: _mean(at_95, name) for name in ("sensitivity", "specificity", "f1")}
        numbers = [r.metrics for r in own]
        row |= {name: _mean(numbers, name) for name in COST}
        rows.append(row)
    return pd.DataFrame(rows)


LOCALISATION_WORDS = {
    "pixel_ap": "pixel AP", "dice": "best Dice", "pro": "PRO", "pointing": "pointing",
}  # fmt: skip
COST = ("seconds", "ms_per_image", "parameters")


def _mean(numbers: list[dict], name: str) -> float:
    values = [found.get(name) for found in numbers]
    return np.nan if None in values else float(np.mean(values))


def published() -> pd.DataFrame:
    """Published results: model, method, set, metric, percent, spread, source.

    The thesis does not say what its spread (±) is: of what, over how many runs.
    """
    return pd.read_csv(PUBLISHED)


def for_print(rows: pd.DataFrame) -> pd.DataFrame:
    """`table` with words for columns, intervals in brackets, and the published AUCs beside it."""
    thesis = published().query("metric == 'AUC' and source.str.startswith('thesis')")
    theirs = thesis.pivot(index="method", columns="set", values="percent")
    lines = []
    for _, row in rows.iterrows():
        line = {
            "method": row["method"] + (" *" if row["reference"] else ""),
            "learns from": row["uses"],
            "seeds": row["seeds"],
            "AUC": _between(row, "auc"),
            "sd of seeds": _number(row["auc_seed_sd"]),
            "AP": _between(row, "ap"),
            "sensitivity at 90 %": _number(row["sensitivity_at_90"], 2),
            "at 95 %": _number(row["sensitivity"], 2),
            "specificity": _number(row["specificity"], 2),
            "F1": _number(row["f1"], 2),
            "training s": _number(row["seconds"], 0),
            "ms an image": _number(row["ms_per_image"], 2),
        }
        for name in ("VinDr-CXR", "RSNA", "LAG"):
            known = row["method"] in theirs.index
            line[f"thesis, {name}"] = _number(theirs.loc[row["method"], name], 2) if known else ""
        lines.append(line)
    lines = pd.DataFrame(lines)
    return lines.loc[:, (lines != "").any()]


def caption(results: list[Result], rows: pd.DataFrame) -> str:
    """What the numbers of a table are, in words."""
    config, seeds = results[0].config, sorted({r.config["seed"] for r in results})
    lines = [
        f"Set {config['set']}, budget {config['budget']}, {config['size']} x {config['size']} "
        f"pixels, {results[0].metrics['images']} test images of "
        f"{results[0].metrics['patients']} patients, seeds {', '.join(map(str, seeds))}.",
        "AUC and AP: mean over the seeds, 95 % interval over resampled patients.",
        "Sensitivity at thresholds that held-out normals fix for 90 and 95 % specificity; F1 and "
        "the specificity that it really had at the latter.",
        "* reference, fixed beforehand.",
        "Within a run no test label chose a model, a step or a threshold.",
    ]
    if any(changed(result) for result in results):
        lines.append("Networks are smaller and trained shorter than published: see the settings.")
    if rows["method"].str.startswith("pretrained").any():
        lines.append("pretrained_knn and pretrained_logistic see 224 x 224 pixels, not these.")
    if config["budget"] == "smoke":
        lines.append("The numbers of the budget smoke mean nothing: it tests software.")
    if config["set"] == "phantom":
        lines.append("phantom is drawn by this project: it checks software, and ranks nothing.")
    if "thesis" in " ".join(for_print(rows).columns):
        lines.append("thesis: AUC in % of its table 4.1, on other sets, at full length.")
    return " ".join(lines)


def shortcut_warning(results: list[Result]) -> list[str]:
    """A sentence where a shortcut of the set, as kept, reaches what methods reach; else none."""
    found, chance = shortcuts.kept_shortcuts(results[0].config["set"])
    lows: dict[str, list[float]] = {}
    for result in results:
        if entry(result.config["method"]).uses != "nothing":
            lows.setdefault(result.config["method"], []).append(result.metrics["auc_interval"][0])
    if not found or not lows:
        return []
    name, area = max(found.items(), key=lambda item: item[1])
    reached = sum(np.mean(low) <= area for low in lows.values())
    if not reached or area <= chance:
        return []
    return [
        f"Shortcut: {name} alone reaches AUC {area:.2f} here (found with test labels; by chance "
        f"the best of as many numbers stays below {chance:.2f}). Of the {len(lows)} methods "
        f"that learn, {reached} are not clearly above."
    ]


def within_groups(results: list[Result], dataset: Dataset, column: str) -> pd.DataFrame:
    """AUC of each method within the groups of a column of metadata.csv, such as view.

    Means over the seeds. Empty for ''. Raises ValueError for a column that is not there, naming
    those that are.
    """
    if not column:
        return pd.DataFrame()
    known = shortcuts.metadata(dataset)
    if column not in known:
        there = ", ".join(known) or "none beside image and patient"
        raise ValueError(
            f"{dataset.name} has no column '{column}' in metadata.csv; it has {there}."
        )
    areas = [
        shortcuts.within(r.test, known[column])["auc"].rename(r.config["method"]) for r in results
    ]
    return pd.DataFrame(areas).groupby(level=0, sort=False).mean().round(3)


def changed(result: Result | Run) -> dict[str, str]:
    """The arguments of a run that are not the published ones, as 'run's (published)'."""
    published = budgets.arguments(result.config["method"], "thesis", result.config["size"])
    given = result.config["arguments"]
    return {
        name: f"{given[name]:,} ({'as G' if value is None else f'{value:,}'})"
        for name, value in published.items()
        if isinstance(given.get(name), int | float)
        and given[name] != value
        and name not in ("size", "channels")
    }


def settings(results: list[Result] | list[Run]) -> pd.DataFrame:
    """A row for each method that did not run at its published size: what differs, and how."""
    rows = {result.config["method"]: changed(result) for result in results}
    table = pd.DataFrame.from_dict({k: v for k, v in rows.items() if v}, orient="index").fillna("")
    if table.empty:
        return table
    table = table.rename_axis("method").reset_index()
    same = table.groupby([c for c in table if c != "method"], sort=False)["method"]
    return same.agg(", ".join).reset_index()[table.columns]


def write_results(results: list[Result], name: str = "results") -> pd.DataFrame:
    """`table` as `figures/<set>/<budget>/<name>.csv`, .md, .tex, and the record .json."""
    rows, below = table(results), settings(results)
    save_table(rows, for_print(rows), caption(results, rows), results, name, markdown(below))
    return rows


def save_table(
    rows: pd.DataFrame, printed: pd.DataFrame, caption: str, results: list[Result], name: str,
    below: str = "",
) -> None:  # fmt: skip
    """Write a table made of some results as `figures/<set>/<budget>/<name>` in four formats.

    .csv: `rows`, every digit; .md and .tex (booktabs): `printed`, with the caption and a warning of
    the set's shortcuts, in Markdown with `below` behind it; .json: the record of the runs.
    """
    config = results[0].config
    caption = " ".join([caption, *shortcut_warning(results)])
    stem = root() / "figures" / config["set"] / config["budget"] / name
    latex = printed.style.hide(axis="index").format(escape="latex")
    latex = latex.format_index(escape="latex", axis=1)
    words = re.sub(r"([%_&#$])", r"\\\1", caption)
    # As wide as the page, however many columns.
    tex = latex.to_latex(hrules=True, caption=words)
    tex = tex.replace(r"\begin{tabular}", r"\resizebox{\textwidth}{!}{\begin{tabular}")
    tex = tex.replace(r"\end{tabular}", r"\end{tabular}}")
    files = {
        ".csv": rows.to_csv(index=False, float_format="%.6g"),
        ".md": "\n\n".join(filter(None, (markdown(printed), caption, below))) + "\n",
        ".tex": tex,
    }
    for suffix, text in files.items():
        with written_whole(stem.with_suffix(suffix), "w") as file:
            file.write(text)
    write_json(stem.with_suffix(".json"), record(results))


def localisation_table(results: list[Result]) -> pd.DataFrame:
    """How well maps find lesions: a row a method that gives maps, below what chance reaches.

    Columns as `metrics.localisation` names them, each with _low and _high: means over the seeds
    of the values and of their 95 % intervals. Empty for a set without masks and boxes.
    """
    names = LOCALISATION_WORDS
    rows, mapped = [], [r.metrics for r in results if "pro_interval" in r.metrics]
    for method in dict.fromkeys(result.config["method"] for result in results):
        own = [r.metrics for r in results if r.config["method"] == method]
        if any("pro_interval" not in found for found in own):
            continue
        row = {"method": method, "seeds": len(own)}
        for name in names:
            low, high = np.mean([found[f"{name}_interval"] for found in own], 0)
            row |= {name: _mean(own, name), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    if rows:
        chance = {name: _mean(mapped, f"{name}_chance") for name in names}
        rows.insert(0, {"method": "chance"} | chance)
    return pd.DataFrame(rows)


def write_localisation(results: list[Result]) -> pd.DataFrame:
    """`localisation_table` as `figures/<set>/<budget>/localisation`; returns what is printed."""
    rows = localisation_table(results)
    if rows.empty:
        return rows
    counts = next(r.metrics for r in results if "pro_interval" in r.metrics)
    printed = pd.DataFrame({"method": rows["method"]})
    for name, word in LOCALISATION_WORDS.items():
        printed[word] = [_between(row, name) for _, row in rows.iterrows()]
    words = (
        f"Set {results[0].config['set']}, budget {results[0].config['budget']}: "
        f"{counts['images_with_lesion']} images with marked lesions, "
        f"{counts['images_without']} known to have none. Means over the seeds, with the mean of "
        "their 95 % intervals over patients (pointing: the binomial interval). PRO up to 0.3 false "
        "positives. The threshold of the best Dice was found by looking at the masks. Trivial "
        "maps: mean_image, pca16, pca64, nearest_normals."
    )
    save_table(rows, printed, words, results, "localisation")
    return printed


def _number(value: float, digits: int = 3) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def _between(row: pd.Series, name: str) -> str:
    """A value with its interval, as '0.712 [0.650, 0.770]', as far as they are known."""
    low, high = _number(row.get(f"{name}_low", np.nan)), _number(row.get(f"{name}_high", np.nan))
    return _number(row[name]) + (f" [{low}, {high}]" if low else "")


def markdown(table: pd.DataFrame) -> str:
    """A table of texts as Markdown, its numbers as they are written."""
    return table.to_markdown(index=False, disable_numparse=True)


def record(results: list[Result]) -> dict:
    """The runs behind a table or figure: what fixes each, and what it was made with."""
    runs_made = [
        {"hash": digest(json.dumps(r.config, sort_keys=True).encode())} | r.config for r in results
    ]
    return {"nblib": __version__, "runs": runs_made}


THESIS_COUNTS = {
    "VinDr-CXR (thesis)": (4000, 5606, 3394, 1000, 1000),
    "RSNA (thesis)": (3851, 4000, 5012, 1000, 1000),
    "LAG (thesis)": (1500, 832, 900, 811, 811),
}
"""Known normals; unlabeled normal, abnormal; test normal, abnormal: the thesis' section 4.1."""


def counts(dataset: Dataset, labels: Labels) -> pd.DataFrame:
    """How many images a set has of each part and class, beside the thesis' three sets."""
    own = [len(dataset.normal)]
    own += [
        int((part == label).sum()) for part in (labels.unlabeled, labels.test) for label in (0, 1)
    ]
    columns = ["known normal", "unlabeled normal", "unlabeled abnormal", "test normal",
               "test abnormal"]  # fmt: skip
    rows = {dataset.name: own} | THESIS_COUNTS
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("set")
    mix = table[["unlabeled normal", "unlabeled abnormal"]]
    table["abnormal in the mix"] = (mix["unlabeled abnormal"] / mix.sum(axis=1)).round(2)
    return table


def numbers(run: Run) -> pd.DataFrame:
    """The numbers of one run with their intervals, a row each; none without test labels."""
    found, rows = run.metrics, {}
    if "auc" in found:
        share = "chance: the share of abnormal images"
        rows["AUC"] = (found["auc"], found["auc_interval"], "chance: 0.5")
        rows["average precision"] = (found["ap"], found["ap_interval"], share)
    if found.get("sensitivity") is not None:
        expected = "{:.2f} to {:.2f}".format(*found["specificity_expected"])
        rows["sensitivity"] = (found["sensitivity"], found["sensitivity_interval"], "")
        rows["specificity"] = (
            found["specificity"],
            found["specificity_interval"],
            f"expected: {expected} with this many held-out normals",
        )
    for name, word in LOCALISATION_WORDS.items():
        if name in found:
            note = f"{found[f'{name}_chance']:.3f} by chance, {found['images_with_lesion']} images"
            rows[word] = (found[name], found[f"{name}_interval"], note)
    columns = {
        "value": {name: round(value, 3) for name, (value, _, _) in rows.items()},
        "low": {name: round(bounds[0], 3) for name, (_, bounds, _) in rows.items()},
        "high": {name: round(bounds[1], 3) for name, (_, bounds, _) in rows.items()},
        "note": {name: note for name, (_, _, note) in rows.items()},
    }
    return pd.DataFrame(columns)


def companions(method: str) -> tuple[str, ...]:
    """What a method is shown beside: the reference of its kind, pretrained features, controls."""
    kind = entry(method).uses
    return REFERENCES[kind], PRETRAINED[kind], *entry(method).against


def beside(run: Run, dataset: Dataset) -> pd.DataFrame:
    """A run beside those that `companions` names, on the same images, for print.

    Reference and pretrained features are made where they are missing: neither trains a network.
    Of the controls those stand there that are finished.
    """
    method, budget, seed = (run.config[name] for name in ("method", "budget", "seed"))
    controls = entry(method).against
    shown = [
        run.beside(name) if name in controls else runs.run(name, dataset, budget, seed)
        for name in companions(method)
        if name != method
    ]
    rows = table([of(r) for r in (*shown, run) if r])
    columns = ["method", "learns from", "AUC", "AP", "training s", "ms an image"]
    return for_print(rows)[columns].set_index("method")


def scores_beside(run: Run) -> pd.DataFrame:
    """AUC and AP on the test part of each score that a method gives; the first is its own."""
    scores = run.test
    known = ("image", "patient", "part", "label", "percentile")
    names = {n: run.metrics["score"] if n == "score" else n for n in scores if n not in known}
    rows = {}
    for column, name in names.items():
        labels, values = scores["label"].to_numpy(int), scores[column].to_numpy()
        area, ap = metrics.auc(labels, values), average_precision_score(labels, values)
        rows[name] = {"AUC": area, "AP": ap}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("score").round(3)


def lesions(run: Run, labels: Labels) -> pd.DataFrame:
    """What lesions add to the mean of a heat map, against how much that mean varies without any.

    Over the test images whose lesions are known; empty where none are. A method whose lesions add
    little to the mean is near chance by it, even where its map is brighter inside them.
    """
    if labels.masks is None or "test_map" not in run.maps:
        return pd.DataFrame({"value": {}})
    maps, masks = run.maps["test_map"], labels.masks
    ill = np.flatnonzero(masks.any((1, 2)))
    inside = np.array([maps[i][masks[i]].mean() for i in ill])
    outside = np.array([maps[i][~masks[i]].mean() for i in ill])
    share = masks[ill].mean((1, 2))
    rows = {
        "map inside lesions": inside.mean(),
        "map outside, same images": outside.mean(),
        "share of the image that is lesion": share.mean(),
        "what lesions add to a map's mean": ((inside - outside) * share).mean(),
        "deviation of the mean, normal images": maps[labels.test == 0].mean((1, 2)).std(),
    }
    return pd.DataFrame({"value": rows}).round(5)


def inside_unlabeled(run: Run, dataset: Dataset) -> pd.DataFrame:
    """AUC with its interval on the test part (inductive) and inside U (transductive).

    The labels of U are used for this number and for nothing else. Of U, what was trained on is
    told from what was held out.
    """
    scores = run.scores
    held = dataset.hold_out(run.config["seed"], run.config["held_out"]).held_unlabeled.names
    unlabeled = scores[scores["part"] == "unlabeled"]
    is_held = unlabeled["image"].isin(held)
    parts = {
        "test (inductive)": run.test,
        "unlabeled (transductive)": unlabeled,
        "unlabeled, trained on": unlabeled[~is_held],
        "unlabeled, held out": unlabeled[is_held],
    }
    rows = {}
    for name, part in parts.items():
        labels, values = part["label"].to_numpy(int), part["score"].to_numpy()
        if set(labels) != {0, 1}:
            continue
        weights = metrics.patient_weights(labels, part["patient"].to_numpy(str))
        low, high = metrics.interval(metrics.weighted_auc_ap(labels, values, weights)[0])
        area = metrics.auc(labels, values)
        rows[name] = {"images": len(part), "AUC": area, "low": low, "high": high}
    return pd.DataFrame.from_dict(rows, orient="index").round(3)


def checkpoints(run: Run) -> pd.DataFrame:
    """Test AUC and AUCp at each checkpoint: step, auc, aucp, aucp_held_out; empty if untrained.

    The AUC is worked out here, afterwards, from scores that were noted: nothing uses it. NaN for
    methods that optimise for each image, which are not scored at checkpoints.
    """
    if "aucp" not in run.history:
        return pd.DataFrame()
    test = run.test.set_index("image")["label"]
    labels = test.reindex(run.watched.index).to_numpy()
    areas = {step: metrics.auc(labels, scores) for step, scores in run.watched.items()}
    rows = run.history.dropna(subset="aucp")[["step", "aucp", "aucp_held_out"]]
    rows.insert(1, "auc", rows["step"].map(areas))
    return rows.reset_index(drop=True)


def over_training(run: Run) -> pd.DataFrame:
    """`checkpoints` by step, with words for columns, to be drawn."""
    words = {
        "auc": "test AUC, never used",
        "aucp": "AUCp, unlabeled images trained on",
        "aucp_held_out": "AUCp, unlabeled images held out",
    }
    return checkpoints(run).set_index("step").rename(columns=words)


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


THESIS_MODELS = (
    "sagan",
    "sagan_sinusoidal",
    "sagan_learned",
    "sagan_rope",
    "sagan_alibi",
    "sagan_attention_bias",
    "sagan_swin",
)
"""The models of the thesis' figure 4.4, in its order."""


def chosen_checkpoints(results: list[Result]) -> pd.DataFrame:
    """What choosing a checkpoint by test labels would add: a row a run that was scored at its own.

    last: AUC of the last checkpoint, which is what every table here shows; aucp: of that with the
    highest AUCp, which needs no label; oracle: the best on the test part, which is chosen by
    looking at its labels; flattery: oracle - last.
    """
    rows = []
    for result in results:
        at = result.checkpoints
        if at.empty or at[["auc", "aucp"]].isna().any(axis=None):
            continue
        chosen = {"last": at["auc"].iloc[-1], "aucp": at["auc"][at["aucp"].idxmax()]}
        row = {"method": result.config["method"], "seed": result.config["seed"]} | chosen
        rows.append(row | {"oracle": at["auc"].max(), "flattery": at["auc"].max() - row["last"]})
    columns = ["method", "seed", "last", "aucp", "oracle", "flattery"]
    return pd.DataFrame(rows, columns=columns)


def keep(data: str, budget: str) -> list[Path]:
    """Copy what tables need of finished runs to data/scores, to be committed: a few kB a run.

    Scores of every image, config, metrics, AUC at each checkpoint; of the base runs and of those
    at other anomaly ratios; and the scores of moved images, see `robustness`.
    """
    data, files = Path(data).name, []
    for result in [r for r in _all(data, budget) if r.run]:
        method, variant, seed = _key(result.config)
        stem = _scores_folder(data, budget) / method / _stem(variant, seed)
        _write_scores(stem.with_suffix(".csv.gz"), result.scores)
        kept = {"config": result.config, "metrics": result.metrics}
        if len(result.checkpoints):
            kept["checkpoints"] = json.loads(result.checkpoints.to_json(orient="records"))
        write_json(stem.with_suffix(".json"), kept)
        files.append(stem.with_suffix(".csv.gz"))
    for file in sorted(_runs_folder(data, budget).glob("moved-seed*.csv")):
        files.append(_scores_folder(data, budget) / f"{file.name}.gz")
        _write_scores(files[-1], read_scores(file))
    return files


def or_words(table: pd.DataFrame, words: str) -> pd.DataFrame:
    """The table, or where it is empty why."""
    return table if len(table) else pd.DataFrame({"": [words]}).set_index("")


def _all(data: str, budget: str) -> list[Result]:
    """The base runs, and those at other ratios where there are any."""
    with contextlib.suppress(FileNotFoundError):
        return collect(data, budget) + collect(data, budget, "ratio*")
    return collect(data, budget)


def _write_scores(path: Path, scores: pd.DataFrame) -> None:
    with written_whole(path) as file:
        # No time of making in the file: the same scores give the same bytes.
        how = {"method": "gzip", "mtime": 0}
        scores.to_csv(file, index=False, float_format="%.9g", compression=how)


def _stem(variant: str, seed: int | str) -> str:
    """How the kept scores of a run are called."""
    return f"seed{seed}" if variant == "base" else f"{variant}-seed{seed}"


def moved_file(data: str, budget: str, seed: int) -> Path:
    """Where the scores of moved test images lie, see `robustness.score_moved`."""
    return _runs_folder(data, budget) / f"moved-seed{seed}.csv"


def _runs_folder(data: str, budget: str) -> Path:
    return root() / "data" / "runs" / data / budget


def _scores_folder(data: str, budget: str) -> Path:
    return root() / "data" / "scores" / data / budget


def _key(config: dict) -> tuple[str, str, int]:
    return config["method"], config["variant"], config["seed"]
