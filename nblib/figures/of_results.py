"""Figures of many runs: intervals, differences, costs, the same images through several models."""

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nblib.data.datasets import Dataset
from nblib.data.labels import Labels
from nblib.figures.of_a_run import map_limit
from nblib.figures.style import (
    ABNORMAL,
    HELD_OUT,
    MARKERS,
    WIDTH,
    blank,
    nothing,
    outline,
    show_image,
    show_map,
    styled,
)
from nblib.methods.catalogue import BAR, FAMILIES, entry, parts
from nblib.training.runs import Run


@styled
def forest(table: pd.DataFrame, title: str) -> Figure:
    """AUC with its interval for each row of `tables.table`, a colour a method, chance marked.

    Methods that use the unlabeled mix stand below those that do not, apart from them.
    """
    uses_mix = table["uses"].str.contains("unlabeled").to_numpy()
    rows = -np.arange(len(table)) - 0.8 * uses_mix
    figure, axes = blank(height=1.1 + 0.22 * len(table))
    axes = axes[0, 0]
    for y, row in zip(rows, table.itertuples(), strict=True):
        colour = entry(row.method).colour
        low, high = row.auc_low, row.auc_high
        _interval_bar(axes, low, high, y, colour)
        axes.plot(row.auc, y, MARKERS[row.uses], color=colour, ms=6, mec="black", mew=0.6)
    names = [f"{row.method}{' *' if row.reference else ''}" for row in table.itertuples()]
    if uses_mix.any() and not uses_mix.all():
        axes.axhline(rows[uses_mix].max() + 0.9, color=HELD_OUT, lw=0.8)
    axes.axvline(0.5, color="black", ls=":", lw=1)
    axes.set(yticks=rows, yticklabels=names, xlabel="AUC, 95 % interval over patients")
    figure.suptitle(title)
    axes.set_ylim(rows.min() - 0.6, 0.6)
    for uses, marker in MARKERS.items():
        axes.plot([], [], marker, color="black", label=f"learns from {uses}")
    axes.plot([], [], " ", label="* reference, fixed beforehand")
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    return figure


ANSWERS = {
    "differs": ("o", "black"),
    "differs, but within the margin": ("D", "#777777"),
    "equivalent": ("s", "white"),
    "cannot tell": ("x", "black"),
    "not tested": ("1", "black"),
}
"""Marker and its fill for each verdict."""

ONE_SEED = ("+", "black")


def _interval_bar(axes, low: float, high: float, y: float, colour: str) -> None:
    """An interval, with a rim so that light colours print."""
    axes.plot([low, high], [y, y], color="black", lw=2.6, solid_capstyle="butt")
    axes.plot([low, high], [y, y], color=colour, lw=1.9, solid_capstyle="butt")


@styled
def differences(table: pd.DataFrame, margin: float, title: str) -> Figure:
    """Difference of AUC with its 95 % interval for each row of `verdicts.answers`, by question.

    The margin is a band. With one seed there is no interval, only a plus; of two seeds it may be so
    wide that it leaves the frame. In sums the features that all of them have in common are `bar`.
    """
    if table.empty:
        return nothing(title)
    figure, axes = blank(height=1.1 + 0.19 * (len(table) + 1.3 * table["question"].nunique()))
    axes = axes[0, 0]
    axes.axvspan(-margin, margin, color="#e4e4e4", lw=0)
    axes.axvline(0, color="black", lw=0.6)
    places, names, y = [], [], 0.0
    reach = max(0.15, 1.5 * table["difference"].abs().max())
    left = max(-reach, np.nanmin([table["low"].min(), table["difference"].min(), -2 * margin]))
    right = min(reach, np.nanmax([table["high"].max(), table["difference"].max(), 2 * margin]))
    for question, rows in table.groupby("question", sort=False):
        y -= 1.3
        box = dict(fc="white", ec="none", pad=1)
        axes.text(left, y + 0.95, question, fontsize=7.5, style="italic", va="top", bbox=box)
        for row in rows.itertuples():
            told = np.isfinite(row.low) or row.answer == "not tested"
            marker, fill = ANSWERS[row.answer] if told else ONE_SEED
            _interval_bar(axes, row.low, row.high, y, entry(parts(row.method)[-1]).colour)
            edge = dict(mec="black", mew=0.9 if marker not in "x+1" else 1.4)
            axes.plot(row.difference, y, marker, ms=5, mfc=fill, **edge)
            places.append(y)
            name = f"{row.method} − {row.against}"
            names.append(name.replace(BAR, "bar") if len(parts(row.method)) > 1 else name)
            y -= 1
    axes.set(yticks=places, xlabel="difference of AUC, 95 % interval (uncorrected)")
    figure.suptitle(title)  # of the figure, as everywhere: names at the left leave axes little room
    axes.set_yticklabels(names, fontsize=7)
    axes.set_ylim(y + 0.4, 0)
    axes.set_xlim(left - 0.03 * (right - left), right + 0.03 * (right - left))
    if any("bar" in name for name in names):
        axes.set_xlabel(f"{axes.get_xlabel()}\nbar: {BAR}")
    for answer, (marker, fill) in (ANSWERS | {"one seed: cannot tell": ONE_SEED}).items():
        axes.plot([], [], marker, ms=5, mfc=fill, mec="black", label=answer)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    return figure


@styled
def model_choice(table: pd.DataFrame, title: str) -> Figure:
    """AUC of the last checkpoint, of that chosen by AUCp, and of the best on the test part.

    A row a method of `tables.chosen_checkpoints`, means over its seeds; the oracle is marked.
    """
    if table.empty:
        return nothing(title)
    means = table.groupby("method", sort=False)[["last", "aucp", "oracle"]].mean()
    figure, axes = blank(height=1.2 + 0.19 * len(means))
    axes = axes[0, 0]
    y = -np.arange(len(means))
    for low, high, at in zip(means["last"], means["oracle"], y, strict=True):
        axes.plot([low, high], [at, at], color=HELD_OUT, lw=2.5, solid_capstyle="butt")
    axes.plot(means["last"], y, "o", ms=5, color="black", label="last checkpoint (all tables here)")
    free = dict(ms=4.5, mfc="white", mec="black", label="highest AUCp, no label")
    axes.plot(means["aucp"], y + 0.27, "d", **free)
    oracle = dict(ms=6, color=ABNORMAL, mec="black", mew=0.5, label="oracle, looks at test labels")
    axes.plot(means["oracle"], y - 0.2, "*", **oracle)
    axes.set(yticks=y, xlabel="AUC on the test part")
    figure.suptitle(title)
    axes.set_yticklabels(means.index, fontsize=7)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    return figure


@styled
def guide(table: pd.DataFrame, title: str) -> Figure:
    """The AUC of the test part over AUCp on held-out images, a point a method of `guide.guides`."""
    if table.empty:
        return nothing(title)
    figure, axes = blank(height=3.4)
    axes = axes[0, 0]
    for row in table.itertuples():
        found = entry(row.method)
        look = dict(fmt=FAMILIES[found.family].marker, color=found.colour, mec="black", mew=0.5)
        axes.errorbar(row.aucp, row.auc, xerr=row.aucp_error, ms=6, ecolor=HELD_OUT, lw=0.8, **look)
    for family in dict.fromkeys(entry(method).family for method in table["method"]):
        axes.plot([], [], FAMILIES[family].marker, color="black", label=family)
    bounds = [min(table["auc"].min(), table["aucp"].min()) - 0.03, 1]
    axes.plot(bounds, bounds, ":", color="black", lw=0.6)
    axes.set(xlabel="AUCp on held-out images, and the error of one run", ylabel="AUC, test part")
    figure.suptitle(title)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    return figure


CONDITIONS = {
    "zeros": ("o", "zeros around the image"),
    "reflect": ("s", "a mirror around it"),
    "circular": ("D", "the image itself around it"),
    "middle": ("^", "a border through the patches"),
    "outer": ("v", "the outer quarters are normal"),
}
"""A marker, and some words, for each condition of `placement.PREDICTIONS`."""


@styled
def predicted(table: pd.DataFrame, title: str) -> Figure:
    """AUC with its interval for each row of `placement.outcome`, and where it was predicted.

    What was predicted is a grey bar; what came out otherwise is filled with white.
    """
    if table.empty:
        return nothing(title)
    figure, axes = blank(height=1.1 + 0.22 * len(table))
    axes = axes[0, 0]
    names = [f"{row.method}, {row.condition}" for row in table.itertuples()]
    for y, row in zip(-np.arange(len(table)), table.itertuples(), strict=True):
        colour = entry(row.method).colour
        least, most = row.least - 0.006, row.most + 0.006  # so that a point can be seen
        axes.barh(y, most - least, left=least, height=0.8, color="#dddddd")
        _interval_bar(axes, row.auc_low, row.auc_high, y, colour)
        axes.plot(row.areas, [y] * len(row.areas), "|", color="black", ms=9)
        fill = colour if row.right else "white"
        axes.plot(row.auc, y, CONDITIONS[row.condition][0], mfc=fill, ms=6, mec="black", mew=0.9)
    axes.set(yticks=-np.arange(len(table)), xlabel="AUC, 95 % interval over pairs of twins")
    lowest = min(area for areas in table["areas"] for area in areas)
    axes.set(xlim=(min(0.4, lowest - 0.03), 1.03), ylim=(-len(table) + 0.4, 0.6))
    figure.suptitle(title)
    axes.set_yticklabels(names, fontsize=7)
    for condition, (marker, words) in CONDITIONS.items():
        axes.plot([], [], marker, color="black", label=f"{condition}: {words}")
    axes.plot([], [], "o", mfc="white", mec="black", label="not as predicted (grey)")
    axes.plot([], [], "|", color="black", label="one seed")
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    return figure


@styled
def over_steps(table: pd.DataFrame, title: str) -> Figure:
    """AUC over the steps of a training: a panel a condition, a line a run of `curves`."""
    if table.empty:
        return nothing(title)
    there = [condition for condition in CONDITIONS if condition in set(table["condition"])]
    figure, axes = blank(1, len(there), height=3.2)
    bottom = min(0.38, table["auc"].min() - 0.03)
    for panel, condition in zip(axes[0], there, strict=True):
        for method, rows in table[table["condition"] == condition].groupby("method", sort=False):
            for number, (_, run) in enumerate(rows.groupby("seed")):
                label = method if number == 0 else None
                panel.plot(run["step"], run["auc"], color=entry(method).colour, lw=1, label=label)
        panel.axhline(0.5, color="black", ls=":", lw=1)
        panel.set(title=condition, xlabel="critic steps", ylim=(bottom, 1.03))
    axes[0, 0].set_ylabel("AUC")
    entries = {}
    for panel in axes[0]:
        entries |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=4, fontsize=7)
    figure.suptitle(title, fontsize=9)
    return figure


@styled
def twins(kept: tuple[np.ndarray, dict[str, np.ndarray]] | None, title: str) -> Figure:
    """Pictures (n, H, W), a twin behind each, and below them the maps (n, H, W) of some methods."""
    if kept is None:
        return nothing(title)
    images, maps = kept
    figure, axes = blank(1 + len(maps), len(images), height=0.5 + 1.05 * (1 + len(maps)))
    for number, (cell, image) in enumerate(zip(axes[0], images, strict=True)):
        show_image(cell, image)
        cell.set_title(("normal", "its twin")[number % 2])
    limit = max(of_method.max() for of_method in maps.values())
    for line, (name, of_method) in zip(axes[1:], maps.items(), strict=True):
        for cell, values in zip(line, of_method, strict=True):
            show_map(cell, values, limit)
        line[0].set_ylabel(name.replace("_", "\n", 1), fontsize=8)
    axes[0, 0].set_ylabel("input", fontsize=8)
    figure.suptitle(title)
    return figure


@styled
def matrix(table: pd.DataFrame, title: str, label: str, middle: float = 0.0) -> Figure:
    """A table of numbers, written into cells whose colour goes from `middle` to both sides."""
    import seaborn as sns

    if table.empty:
        return nothing(title)
    figure, axes = blank(height=1.1 + 0.2 * len(table))
    axes = axes[0, 0]
    reach = np.nanmax(np.abs(table.to_numpy(float) - middle)) or 1
    sns.heatmap(
        table.astype(float), cmap="PuOr_r", vmin=middle - reach, vmax=middle + reach, annot=True,
        fmt="+.3f" if middle == 0 else ".2f", annot_kws={"size": 7}, ax=axes, linewidths=0.5,
        cbar_kws={"label": label},
    )  # fmt: skip
    axes.tick_params(labelsize=7, length=0)
    axes.set(xlabel="", ylabel="")
    figure.suptitle(title)
    axes.tick_params(axis="x", rotation=0 if table.shape[1] < 9 else 30)
    return figure


@styled
def over_ratios(table: pd.DataFrame, title: str) -> Figure:
    """AUC and AP over the share of abnormal images in the unlabeled mix, a line a method.

    With their intervals over patients, those of methods side by side.
    """
    if table.empty:
        return nothing(title)
    figure, axes = blank(1, 2, height=3.2)
    methods = table["method"].unique()
    aside = dict(zip(methods, np.linspace(-4, 4, len(methods)), strict=True))
    for cell, (name, word) in zip(axes[0], {"auc": "AUC", "ap": "AP"}.items(), strict=True):
        styles = cycle(("o-", "s--", "^:", "D-.", "v-", "P--", "X:"))
        lines = zip(table.groupby("method", sort=False), styles, strict=False)
        for (method, rows), style in lines:
            colour = entry(method).colour
            at = rows["percent"] + aside[method]
            cell.vlines(at, rows[f"{name}_low"], rows[f"{name}_high"], color=colour, lw=0.8)
            cell.plot(at, rows[name], style, ms=3.5, lw=1, color=colour, label=method)
        chance = 0.5 if name == "auc" else table["abnormal"].iloc[0]
        cell.axhline(chance, color="black", lw=0.6)
        cell.set(xlabel="abnormal among the unlabeled, %", ylabel=word)
        cell.set_xticks(sorted(table["percent"].unique()))
    figure.suptitle(title)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled
def cost(table: pd.DataFrame, title: str) -> Figure:
    """AUC, and the times to train and to score, of `costs.cost_table`: a row a method, by AUC."""
    rows = table.sort_values("auc").reset_index(drop=True)
    figure, axes = blank(1, 3, height=1.4 + 0.16 * len(rows))
    families = rows["method"].map(lambda method: entry(method).family)
    what = {"auc": "AUC", "seconds": "training, s (0 as 0.1)", "ms_per_image": "an image, ms"}
    for cell, (name, word) in zip(axes[0], what.items(), strict=True):
        least = {"auc": 0, "seconds": 0.1, "ms_per_image": 0.001}[name]
        for kind in dict.fromkeys(families):
            look = dict(ms=7 if FAMILIES[kind].marker == "*" else 5, color=FAMILIES[kind].colour)
            of = rows.loc[families == kind, name].clip(lower=least)
            cell.plot(of, of.index, FAMILIES[kind].marker, mec="black", mew=0.5, label=kind, **look)
        cell.set(xlabel=word, xscale="linear" if name == "auc" else "log", yticks=rows.index)
        cell.set_ylim(-0.7, len(rows) - 0.3)
        cell.set_yticklabels(rows["method"] if name == "auc" else [], fontsize=6.5)
        cell.grid(axis="y", color="#e4e4e4", lw=0.5)
    axes[0, 0].axvline(0.5, color="black", lw=0.6, ls=":")
    figure.suptitle(title)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=7)
    return figure


@styled
def through_models(
    runs: list[Run], dataset: Dataset, labels: Labels, chosen: dict[str, int]
) -> Figure:
    """Named test images and the heat maps of several runs: a row an image, a column a run.

    Each run has a colour scale of its own, from its held-out normals. Under a map stands the
    percentile of its score among them; framed where the threshold for 95 % specificity is passed.
    """
    rows, columns = len(chosen), len(runs) + 1
    figure, axes = blank(rows, columns, height=0.5 + rows * WIDTH / columns * 1.2)
    limits = [map_limit(run) for run in runs]
    for line, (name, i) in zip(axes, chosen.items(), strict=True):
        show_image(line[0], dataset.test.images[i])
        if labels.masks is not None:
            outline(line[0], labels.masks[i])
        line[0].set_ylabel(name.replace(", ", ",\n"), fontsize=7)
        for cell, run, limit in zip(line[1:], runs, limits, strict=True):
            show_map(cell, run.test_map[i], limit)
            if labels.masks is not None:
                outline(cell, labels.masks[i])
            _percentile(cell, run, i)
    _name_columns(axes[0], runs)
    return figure


@styled
def one_through_models(
    runs: list[Run],
    gates: list[np.ndarray | None],
    dataset: Dataset,
    labels: Labels,
    name: str,
    chosen: int,
) -> Figure:
    """One test image through several runs: restored, heat map, and the finest gate; a column a run.

    gates: of each run (h, w) in (0, 1), see `probes.finest_gates`; None leaves that place empty.
    """
    columns = len(runs) + 1
    figure, axes = blank(3, columns, height=0.5 + 3 * WIDTH / columns * 1.15)
    for cell in axes.flat:
        cell.axis("off")
    show_image(axes[0, 0], dataset.test.images[chosen])
    axes[0, 0].axis("on")
    axes[0, 0].set_xlabel(name, fontsize=7)
    if labels.masks is not None:
        outline(axes[0, 0], labels.masks[chosen])
    for word, line in zip(("restored", "heat map", "gate"), axes, strict=True):
        line[1].set_ylabel(word, fontsize=7)
    for line, run, gate in zip(axes[:, 1:].T, runs, gates, strict=True):
        show_image(line[0], run.test_restored[chosen])
        show_map(line[1], run.test_map[chosen], map_limit(run))
        if gate is not None:
            show_map(line[2], gate, 1)
        for cell in line[: 2 + (gate is not None)]:
            cell.axis("on")
        _percentile(line[1], run, chosen)
    _name_columns(axes[0], runs)
    return figure


def _percentile(axes, run: Run, i: int) -> None:
    test = run.test.loc[i]
    cut = run.metrics["threshold"]
    above = cut is not None and test["score"] > cut
    if np.isfinite(test["percentile"]):
        axes.set_xlabel(f"{test['percentile']:.0f}", fontsize=7, labelpad=1)
    if above:
        axes.spines[:].set(visible=True, color=ABNORMAL, linewidth=1.5)


def _name_columns(line, runs: list[Run]) -> None:
    line[0].set_title("input", fontsize=7)
    for cell, run in zip(line[1:], runs, strict=True):
        name = run.config["method"].removeprefix("sagan_").replace("_", "\n")
        cell.set_title(name, fontsize=7)
