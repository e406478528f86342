"""Many runs -> one tidy table -> .csv, .md, .tex, with a record of the runs beside it.

A table holds one set and one budget. AUC, AP and their intervals are made again from the scores of
every image: those of `data/runs`, or those kept in `data/scores` and committed. Thresholds,
localisation and cost come from each run's metrics.json.

    python -m nblib.report keep SET BUDGET      copies the scores of finished runs to data/scores
    python -m nblib.report readme               puts the committed tables into README.md
"""

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score

from nblib import __version__, budgets, metrics, runs
from nblib.batches import to_float
from nblib.budgets import method_class
from nblib.datasets import Dataset, Labels
from nblib.files import root, write_json, written_whole
from nblib.methods import METHODS
from nblib.methods.method import Method, detect_all
from nblib.methods.sagan import with_swapped_codes, without_codes
from nblib.runs import Run, read_scores

REFERENCES = {
    "known normals": "nearest_normals",
    "known normals + unlabeled": "known_against_unlabeled",
}
"""Fixed beforehand: one for methods that learn from known normals, one for those that use U."""

PRETRAINED = {"known normals": "pretrained_knn", "known normals + unlabeled": "pretrained_logistic"}
"""What one would use without training anything, for each of the two kinds."""

_WHOLE = ("sagan", "sagan_whole", "sagan_attention")
CONTROLS = {
    **dict.fromkeys(("sagan_place_acts", "sagan_no_place"), ("sagan",)),
    "sagan_sinusoidal": ("sagan",),
    "sagan_sinusoidal_acts": ("sagan", "sagan_place_acts", "sagan_sinusoidal"),
    "sagan_learned": ("sagan",),
    "sagan_learned_acts": ("sagan", "sagan_place_acts", "sagan_learned"),
    **dict.fromkeys(("sagan_rope", "sagan_alibi", "sagan_attention_bias"), _WHOLE),
    "sagan_swin": ("sagan", "sagan_whole"),
    "sagan_whole": ("sagan",),
    "sagan_attention": ("sagan", "sagan_whole"),
    **dict.fromkeys(("sagan_no_gates", "sagan_no_skips"), ("sagan",)),
    **dict.fromkeys(("sagan_no_pseudo", "sagan_no_unlabeled"), ("sagan",)),
}
"""What a variant of SAGAN is held against, so that one thing at a time differs."""

PROJECT = Path(__file__).parent.parent
PUBLISHED = PROJECT / "data" / "published.csv"


class Result(NamedTuple):
    """One finished run, as a table needs it: config, metrics, and scores image by image."""

    config: dict
    metrics: dict
    scores: pd.DataFrame


def collect(data: str, budget: str) -> list[Result]:
    """The finished base runs of a set at a budget, in the order of METHODS, then by seed.

    A run of `data/runs` takes precedence over its kept scores in `data/scores`. Raises
    FileNotFoundError, naming the command that makes them, where there is none.
    """
    found: dict[tuple[str, int], Result] = {}
    for file in sorted(_scores_folder(data, budget).glob("*/seed*.json")):
        record = json.loads(file.read_text())
        scores = read_scores(file.with_suffix(".csv.gz"))
        found[_key(record["config"])] = Result(record["config"], record["metrics"], scores)
    for file in sorted(_runs_folder(data, budget).glob("*/base/seed*/metrics.json")):
        if ".aside" not in file.parent.name:
            run = Run(file.parent)
            found[_key(run.config)] = Result(run.config, run.metrics, run.scores)
    results = [found[key] for key in sorted(found, key=lambda k: (_order(k[0]), k[1]))]
    if not results:
        raise FileNotFoundError(
            f"There is no finished run of the set '{data}' at the budget '{budget}' under "
            f"{root()}. Make them: make figures DATA={data} BUDGET={budget}"
        )
    return results


def table(results: list[Result]) -> pd.DataFrame:
    """A row a method: AUC, AP, sensitivity over the seeds, intervals over patients, cost.

    In the order of METHODS: first what learns from known normals, then what uses the unlabeled mix.

    auc, ap: means over the seeds; *_low, *_high: 95 % interval of that mean over resampled
    patients, for these very seeds; auc_seed_sd: deviation between seeds, NaN with one seed.
    Raises ValueError where results differ in set, budget or images.
    """
    for name in ("set", "budget", "size", "data"):
        values = {str(result.config[name]) for result in results}
        if len(values) > 1:
            raise ValueError(f"One table cannot hold runs of several {name}s: {sorted(values)}.")
    # All runs scored the same images: their patients are resampled once, for every method.
    test = _test_part(results[0])
    labels, patients = test["label"].to_numpy(int), test["patient"].to_numpy(str)
    weights = metrics.patient_weights(labels, patients)
    rows = []
    by_method: dict[str, list[Result]] = {}
    for result in results:
        by_method.setdefault(result.config["method"], []).append(result)
    for method, own in by_method.items():
        values = [_test_part(run)["score"].to_numpy() for run in own]
        resampled = [metrics.weighted_auc_ap(labels, v, weights) for v in values]
        auc_low, auc_high = metrics.interval(np.mean([areas for areas, _ in resampled], 0))
        ap_low, ap_high = metrics.interval(np.mean([aps for _, aps in resampled], 0))
        aucs = [metrics.auc(v[labels == 0], v[labels == 1]) for v in values]
        row = {
            "method": method,
            "uses": uses(method),
            "reference": method in REFERENCES.values(),
            "seeds": len(own),
            "auc": np.mean(aucs),
            "auc_low": auc_low,
            "auc_high": auc_high,
            "auc_seed_sd": np.std(aucs, ddof=1) if len(aucs) > 1 else np.nan,
            "ap": np.mean([average_precision_score(labels, v) for v in values]),
            "ap_low": ap_low,
            "ap_high": ap_high,
        }
        for name in ("sensitivity", "specificity", "pixel_ap", "pixel_ap_chance", "pointing",
                     "pointing_chance", "seconds", "ms_per_image", "parameters"):  # fmt: skip
            numbers = [r.metrics.get(name) for r in own]
            row[name] = np.mean(numbers) if None not in numbers else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _test_part(result: Result) -> pd.DataFrame:
    return result.scores[result.scores["part"] == "test"].sort_values("image")


def uses(method: str) -> str:
    """Which images a method learns from, as tables say it."""
    arguments = budgets.arguments(method, "thesis")
    needs = arguments.get("needs", method_class(method).needs)
    if not needs:
        return "nothing"
    return "known normals + unlabeled" if "unlabeled" in needs else "known normals"


def published() -> pd.DataFrame:
    """Published results: model, method, set, metric, percent, spread, source.

    The thesis does not say what its spread (±) is: of what, over how many runs.
    """
    return pd.read_csv(PUBLISHED)


def for_print(rows: pd.DataFrame) -> pd.DataFrame:
    """`table` with words for columns, intervals in brackets, and the published AUCs beside it."""

    def number(value: float, digits: int = 3) -> str:
        return "" if pd.isna(value) else f"{value:.{digits}f}"

    def with_interval(row, name: str) -> str:
        low, high = number(row[f"{name}_low"]), number(row[f"{name}_high"])
        return f"{number(row[name])} [{low}, {high}]"

    thesis = published().query("metric == 'AUC' and source.str.startswith('thesis')")
    theirs = thesis.pivot(index="method", columns="set", values="percent")
    lines = []
    for _, row in rows.iterrows():
        line = {
            "method": row["method"] + (" *" if row["reference"] else ""),
            "learns from": row["uses"],
            "seeds": row["seeds"],
            "AUC": with_interval(row, "auc"),
            "sd of seeds": number(row["auc_seed_sd"]),
            "AP": with_interval(row, "ap"),
            "sensitivity": number(row["sensitivity"], 2),
            "specificity": number(row["specificity"], 2),
            "pixel AP": number(row["pixel_ap"]),
            "pointing": number(row["pointing"], 2),
            "training s": number(row["seconds"], 0),
            "ms an image": number(row["ms_per_image"], 2),
        }
        for name in ("VinDr-CXR", "RSNA", "LAG"):
            known = row["method"] in theirs.index
            line[f"thesis, {name}"] = number(theirs.loc[row["method"], name], 2) if known else ""
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
        "Sensitivity and specificity at the threshold for 95 % specificity from held-out normals.",
        "* reference, fixed beforehand.",
        "Within a run no test label chose a model, a step or a threshold.",
    ]
    if any(changed(result) for result in results):
        lines.append("Networks are smaller and trained shorter than published: see the settings.")
    if rows["method"].str.startswith("pretrained").any():
        lines.append("pretrained_knn and pretrained_logistic see 224 x 224 pixels, not these.")
    if config["budget"] == "smoke":
        lines.append("The numbers of the budget smoke mean nothing: it tests software.")
    if rows["pixel_ap_chance"].notna().any():
        chance = rows[["pixel_ap_chance", "pointing_chance"]].max()
        lines.append(f"By chance: pixel AP {chance.iloc[0]:.3f}, pointing {chance.iloc[1]:.2f}.")
    if config["set"] == "phantom":
        lines.append("phantom is drawn by this project: it checks software, and ranks nothing.")
    if "thesis" in " ".join(for_print(rows).columns):
        lines.append("thesis: AUC in % of its table 4.1, on other sets, at full length.")
    return " ".join(lines)


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


def write(results: list[Result], name: str = "results") -> pd.DataFrame:
    """Write the table as `figures/<set>/<budget>/<name>.csv`, .md, .tex, and the record .json."""
    rows = table(results)
    config = results[0].config
    stem = root() / "figures" / config["set"] / config["budget"] / name
    printed, words = for_print(rows), caption(results, rows)
    latex = printed.style.hide(axis="index").format(escape="latex")
    files = {
        ".csv": rows.to_csv(index=False, float_format="%.6g"),
        ".md": f"{markdown(printed)}\n\n{words}\n\n{markdown(settings(results))}\n",
        ".tex": latex.to_latex(hrules=True, caption=re.sub(r"([%_&#$])", r"\\\1", words)),
    }
    for suffix, text in files.items():
        with written_whole(stem.with_suffix(suffix), "w") as file:
            file.write(text)
    write_json(stem.with_suffix(".json"), record(results))
    return rows


def markdown(table: pd.DataFrame) -> str:
    """A table of texts as Markdown, its numbers as they are written."""
    return table.to_markdown(index=False, disable_numparse=True)


def record(results: list[Result]) -> dict:
    """The runs behind a table or figure: what fixes each, and what it was made with."""
    return {"nblib": __version__, "runs": [result.config for result in results]}


def numbers(run: Run) -> pd.DataFrame:
    """The numbers of one run with their intervals, a row each, for a notebook."""
    found = run.metrics
    rows = {
        "AUC": (found["auc"], found["auc_interval"], "chance: 0.5"),
        "average precision": (
            found["ap"],
            found["ap_interval"],
            "chance: the share of abnormal images",
        ),
    }
    if found["threshold"] is not None:
        expected = "{:.2f} to {:.2f}".format(*found["specificity_expected"])
        rows["sensitivity"] = (found["sensitivity"], found["sensitivity_interval"], "")
        rows["specificity"] = (
            found["specificity"],
            found["specificity_interval"],
            f"expected: {expected} with this many held-out normals",
        )
    for name in ("pixel_ap", "pointing"):
        if name in found:
            note = f"{found[f'{name}_chance']:.3f} by chance, {found['images_with_lesion']} images"
            rows[name.replace("_", " ")] = (found[name], [np.nan, np.nan], note)
    columns = {
        "value": {name: round(value, 3) for name, (value, _, _) in rows.items()},
        "low": {name: round(bounds[0], 3) for name, (_, bounds, _) in rows.items()},
        "high": {name: round(bounds[1], 3) for name, (_, bounds, _) in rows.items()},
        "note": {name: note for name, (_, _, note) in rows.items()},
    }
    return pd.DataFrame(columns)


def compared(method: str) -> tuple[str, ...]:
    """What a method is shown beside: the reference of its kind, pretrained features, controls."""
    kind = uses(method)
    return REFERENCES[kind], PRETRAINED[kind], *CONTROLS.get(method, ())


def beside(run: Run, dataset: Dataset) -> pd.DataFrame:
    """A run beside those that `compared` names, on the same images, for print.

    Reference and pretrained features are made where they are missing: neither trains a network.
    Of the controls those stand there that are finished.
    """
    method, budget, seed = (run.config[name] for name in ("method", "budget", "seed"))
    controls = CONTROLS.get(method, ())
    shown = [
        run.beside(name) if name in controls else runs.run(name, dataset, budget, seed)
        for name in compared(method)
        if name != method
    ]
    rows = table([Result(r.config, r.metrics, r.scores) for r in (*shown, run) if r])
    columns = ["method", "learns from", "AUC", "AP", "training s", "ms an image"]
    return for_print(rows)[columns].set_index("method")


def scores_beside(run: Run) -> pd.DataFrame:
    """AUC and AP on the test part of each score that a method gives; the first is its own."""
    scores = run.scores[run.scores["part"] == "test"]
    known = ("image", "patient", "part", "label", "percentile")
    names = {n: run.metrics["score"] if n == "score" else n for n in scores if n not in known}
    rows = {}
    for column, name in names.items():
        values = scores[column].to_numpy()
        normal = scores["label"].to_numpy() == 0
        area = metrics.auc(values[normal], values[~normal])
        rows[name] = {"AUC": area, "AP": average_precision_score(~normal, values)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("score").round(3)


def without_knowing_places(run: Run, images: np.ndarray) -> pd.DataFrame:
    """What becomes of test images (n, C, H, W) when patches hear false place codes, or none.

    Rows: every patch is told the code of the opposite one; the codes are taken out. Columns: the
    largest change of a pixel of the restored images (of 2), and of a score, as a share of it.
    """
    method = run.method()
    G, before = method.G, detect_all(method, images)
    rows = {}
    for what, change in {"swapped": with_swapped_codes, "taken out": without_codes}.items():
        method.G = change(G)
        after = detect_all(method, images)
        (one,), (other,) = before.scores.values(), after.scores.values()
        rows[run.config["method"], what] = {
            "largest change of a pixel": np.abs(after.restored - before.restored).max(),
            "largest change of a score": np.abs(other / one - 1).max(),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["method", "codes"])
    return table.map("{:.1e}".format)


def batch_statistics(
    method: Method, dataset: Dataset, labels: Labels, orders: dict[str, np.ndarray]
) -> pd.DataFrame:
    """AUC of GANomaly's score with running statistics, and by each batch's own, as its authors do.

    orders: the test images in some orders; batches of 64 are cut from each.
    """

    def area(scores: np.ndarray, of: np.ndarray) -> float:
        return metrics.auc(scores[of == 0], scores[of == 1])

    own = next(iter(detect_all(method, dataset.test.images).scores.values()))
    rows = {("running", "any"): area(own, labels.test)}
    for name, order in orders.items():
        images = to_float(torch.from_numpy(dataset.test.images[order]))
        with torch.no_grad():
            scores = torch.cat([method.authors_score(batch) for batch in images.split(64)])
        rows["of the batch", name] = area(scores.numpy(), labels.test[order])
    table = pd.DataFrame({"AUC": rows}).round(3)
    return table.rename_axis(["statistics of batch norm", "order of the test images"])


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
        "test (inductive)": scores[scores["part"] == "test"],
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
        area = metrics.auc(values[labels == 0], values[labels == 1])
        rows[name] = {"images": len(part), "AUC": area, "low": low, "high": high}
    return pd.DataFrame.from_dict(rows, orient="index").round(3)


def over_training(run: Run) -> pd.DataFrame:
    """AUCp and the AUC on the test part at each checkpoint, by step.

    The latter is worked out here, afterwards, from scores that were noted: nothing uses it.
    """
    test = run.scores[run.scores["part"] == "test"].set_index("image")["label"]
    labels = test[run.watched.index].to_numpy()
    areas = {
        step: metrics.auc(scores[labels == 0], scores[labels == 1])
        for step, scores in run.watched.items()
    }
    history = run.history.set_index("step")
    return pd.DataFrame(
        {
            "test AUC, never used": pd.Series(areas),
            "AUCp, unlabeled images trained on": history["aucp"].dropna(),
            "AUCp, unlabeled images held out": history["aucp_held_out"].dropna(),
        }
    ).rename_axis("step")


def with_tables(text: str) -> str:
    """A page whose blocks `<!-- table SET BUDGET -->` ... `<!-- end -->` hold the written tables.

    Nobody types a number: each block is made from `figures/<set>/<budget>/results.csv`.
    """

    def block(match: re.Match) -> str:
        rows = pd.read_csv(PROJECT / "figures" / match[1] / match[2] / "results.csv")
        printed = for_print(rows)[["method", "learns from", "seeds", "AUC", "sd of seeds", "AP"]]
        return f"<!-- table {match[1]} {match[2]} -->\n{markdown(printed)}\n<!-- end -->"

    return re.sub(r"<!-- table (\S+) (\S+) -->.*?<!-- end -->", block, text, flags=re.DOTALL)


def keep(data: str, budget: str) -> list[Path]:
    """Copy the scores, config and metrics of finished runs to data/scores, to be committed."""
    files = []
    for result in collect(data, budget):
        method, seed = _key(result.config)
        stem = _scores_folder(data, budget) / method / f"seed{seed}"
        with written_whole(stem.with_suffix(".csv.gz")) as file:
            # No time of making in the file: the same scores give the same bytes.
            how = {"method": "gzip", "mtime": 0}
            result.scores.to_csv(file, index=False, float_format="%.9g", compression=how)
        write_json(stem.with_suffix(".json"), {"config": result.config, "metrics": result.metrics})
        files.append(stem.with_suffix(".csv.gz"))
    return files


def _runs_folder(data: str, budget: str) -> Path:
    return root() / "data" / "runs" / data / budget


def _scores_folder(data: str, budget: str) -> Path:
    return root() / "data" / "scores" / data / budget


def _key(config: dict) -> tuple[str, int]:
    return config["method"], config["seed"]


def _order(method: str) -> int:
    return list(METHODS).index(method)


def main(words: list[str]) -> None:
    """The two commands of the module's docstring."""
    if words[:1] == ["keep"] and len(words) == 3:
        print(*keep(*words[1:]), sep="\n")
    elif words == ["readme"]:
        page = PROJECT / "README.md"
        text = with_tables(page.read_text())
        with written_whole(page, "w") as file:
            file.write(text)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
