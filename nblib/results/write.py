"""Data frames of results -> words for columns, captions, .csv, .md, .tex, a record of the runs."""

from pathlib import Path

import numpy as np
import pandas as pd

from nblib.data import shortcuts
from nblib.files import root, write_json, written_whole
from nblib.methods.catalogue import entry
from nblib.results.store import Result, passed, precisions, record
from nblib.results.tables import (
    LOCALISATION_WORDS,
    changed,
    localisation_table,
    published,
    settings,
    table,
)

LATEX = {character: f"\\{character}" for character in "#$%&_{}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
"""How characters are written that mean something to LaTeX."""


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
            "AUC": between(row, "auc"),
            "sd of seeds": number(row["auc_seed_sd"]),
            "AP": between(row, "ap"),
            "sensitivity at 90 %": number(row["sensitivity_at_90"], 2),
            "at 95 %": number(row["sensitivity"], 2),
            "specificity": number(row["specificity"], 2),
            "F1": number(row["f1"], 2),
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
        "Sensitivity at thresholds that held-out normals fix for 90 and 95 % specificity; F1 and "
        "the specificity that it really had at the latter.",
        "* reference, fixed beforehand.",
        "Within a run no test label chose a model, a step or a threshold.",
    ]
    if any(changed(result) for result in results):
        lines.append(
            "Networks are smaller and trained shorter than at the budget thesis, whose settings "
            "stand in brackets below; its length is the published one for SAGAN alone."
        )
    pixels = {r.config["arguments"].get("pixels", config["size"]) for r in results}
    if seen := max(pixels - {config["size"]}, default=None):
        lines.append(
            f"Pretrained features are of {seen} x {seen} pixels, not of these, but for _64."
        )
    if config["budget"] == "smoke":
        lines.append("The numbers of the budget smoke mean nothing: it tests software.")
    if config["set"] == "phantom":
        lines.append("phantom is drawn by this project: it checks software, and ranks nothing.")
    if "thesis" in " ".join(for_print(rows).columns):
        lines.append("thesis: AUC in % of its table 4.1, on other sets, at full length.")
    return " ".join([*lines, *shortcut_warning(results)])


def precision_words(results: list[Result]) -> list[str]:
    """A sentence with the precision that networks were trained in, by method where they differ."""
    trained = [r for r in results if precisions([r])]
    if not trained:
        return []
    of: dict[str, list[str]] = {}
    for method in dict.fromkeys(r.config["method"] for r in trained):
        own = precisions([r for r in trained if r.config["method"] == method])
        of.setdefault(" and ".join(own), []).append(method)
    usual = max(of, key=lambda name: len(of[name]))
    others = [f"{', '.join(names)} in {name}" for name, names in of.items() if name != usual]
    words = f"Networks were trained in {usual}"
    return [f"{words}, but {'; '.join(others)}." if others else f"{words}."]


def shortcut_warning(results: list[Result]) -> list[str]:
    """A sentence where a shortcut of the set, as kept, reaches what methods reach; else none.

    It speaks of AUCs of abnormal against normal images, and belongs under tables of these.
    """
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

    .csv: `rows`, every digit; .md and .tex (booktabs): `printed`, with the caption, in Markdown
    with `below` behind it; .json: the record of the runs.
    """
    config = results[0].config
    caption = " ".join([caption, *precision_words(results)])
    stem = root() / "figures" / config["set"] / config["budget"] / name
    save_files(stem, rows, printed, caption, results, below)


def save_pass(
    rows: pd.DataFrame, printed: pd.DataFrame, words: str, results: list[Result], name: str
) -> pd.DataFrame:
    """`save_table` of what a pass over finished runs found, see `store.PASSES`; returns `printed`.

    The record is of the runs that took part in it.
    """
    config = results[0].config
    words = f"Set {config['set']}, budget {config['budget']}. {words}"
    save_table(rows, printed, words, passed(name, results), name)
    return printed


def save_files(
    stem: Path, rows: pd.DataFrame, printed: pd.DataFrame, caption: str, results: list[Result],
    below: str = "",
) -> None:  # fmt: skip
    """The four files of `save_table`, with this caption, wherever `stem` says."""
    latex = printed.style.hide(axis="index").format(escape="latex")
    latex = latex.format_index(escape="latex", axis=1)
    words = caption.translate(str.maketrans(LATEX))
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


def write_localisation(results: list[Result]) -> pd.DataFrame:
    """`localisation_table` as `figures/<set>/<budget>/localisation`; returns what is printed."""
    rows = localisation_table(results)
    if rows.empty:
        return rows
    counts = next(r.metrics for r in results if "pro_interval" in r.metrics)
    printed = pd.DataFrame({"method": rows["method"]})
    for name, word in LOCALISATION_WORDS.items():
        printed[word] = [between(row, name) for _, row in rows.iterrows()]
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


def number(value: float, digits: int = 3) -> str:
    """A number with so many digits, empty where there is none."""
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def between(row: pd.Series, name: str) -> str:
    """A value with its interval, as '0.712 [0.650, 0.770]', as far as they are known."""
    low, high = number(row.get(f"{name}_low", np.nan)), number(row.get(f"{name}_high", np.nan))
    return number(row[name]) + (f" [{low}, {high}]" if low else "")


def markdown(table: pd.DataFrame) -> str:
    """A table of texts as Markdown, its numbers as they are written."""
    return table.to_markdown(index=False, disable_numparse=True)


def or_words(table: pd.DataFrame, words: str) -> pd.DataFrame:
    """The table, or where it is empty why."""
    return table if len(table) else pd.DataFrame({"": [words]}).set_index("")
