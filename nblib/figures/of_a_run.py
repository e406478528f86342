"""Figures of a set, of a training, and of one finished run.

A heat map's colours mean the same in every image of a method: the scale comes from held-out
normals.
"""

import itertools

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from nblib import metrics
from nblib.data.datasets import Dataset
from nblib.data.labels import Labels
from nblib.figures.style import (
    ABNORMAL,
    HELD_OUT,
    LINES,
    NORMAL,
    WIDTH,
    blank,
    legend_below,
    line_a_column,
    nothing,
    outline,
    show_image,
    show_map,
    shown,
    styled,
)
from nblib.training.runs import Run


@styled
def gallery(rows: dict[str, np.ndarray], title: str = "") -> Figure:
    """Named rows of as many images (n, C, H, W) each."""
    columns = len(next(iter(rows.values())))
    figure, axes = blank(len(rows), columns, height=0.3 + len(rows) * WIDTH / columns)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for cell, image in zip(line, images, strict=True):
            show_image(cell, image)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return figure


@styled
def parts(dataset: Dataset, labels: Labels) -> Figure:
    """A page of a set: evenly spaced images of each part; lesions are outlined where known."""
    rows = {
        "known\nnormal": (dataset.normal.images, None),
        "unlabeled": (dataset.unlabeled.images, None),
    }
    rows = {name: of for name, of in rows.items() if len(of[0])}
    for label, name in {0: "test,\nnormal", 1: "test,\nabnormal", -1: "test"}.items():
        of_label = labels.test == label
        if of_label.any():
            masks = None if labels.masks is None else labels.masks[of_label]
            rows[name] = (dataset.test.images[of_label], masks)
    columns = 8
    figure, axes = blank(len(rows), columns, height=len(rows) * WIDTH / columns * 1.1)
    for line, (name, (images, masks)) in zip(axes, rows.items(), strict=True):
        chosen = np.linspace(0, len(images) - 1, columns).round().astype(int)
        for cell, i in zip(line, chosen, strict=True):
            show_image(cell, images[i])
            if masks is not None:
                outline(cell, masks[i])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(shown(dataset.name))
    return figure


@styled
def training_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """A history: losses of each network, norms of their gradients, what else was logged, AUCp."""
    networks = list(dict.fromkeys(c.split(".")[0] for c in history if "." in c))
    logged = [c for c in history if "." not in c and not c.startswith(("step", "aucp"))]
    at = history.dropna(subset=["aucp"])
    panels = len(networks) + 1 + bool(logged) + bool(len(at))
    rows = -(-panels // 2)
    figure, axes = blank(rows, 2, height=2.3 * rows)
    axes = iter(axes.flat)
    for network in networks:
        cell = next(axes)
        terms = [c for c in history if c.startswith(f"{network}.") and "gradient_norm" not in c]
        line_a_column(cell, history, {term: term.split(".")[1] for term in terms})
        large = max(abs(history[term]).max() for term in terms) > 10
        cell.set(title=f"terms of {network}", yscale="symlog" if large else "linear")
    cell = next(axes)
    line_a_column(cell, history, {f"{network}.gradient_norm": network for network in networks})
    cell.set(title="norm of the gradient", yscale="log")
    cell.yaxis.set_minor_formatter(NullFormatter())
    if logged:
        cell = next(axes)
        line_a_column(cell, history, {name: name for name in logged})
        cell.set(title="also logged", ylim=(0, 1))
    if len(at):
        cell = next(axes)
        error = 1.96 * at["aucp_held_out_error"]
        held = at["aucp_held_out"]
        cell.fill_between(at["step"], held - error, held + error, color=HELD_OUT, alpha=0.3, lw=0)
        cell.plot(at["step"], held, "o--", ms=3, color=HELD_OUT, label="held-out unlabeled")
        cell.plot(at["step"], at["aucp"], "o-", ms=3, color="black", label="trained-on unlabeled")
        cell.set(title="AUCp (no measure of quality)", xlabel="step", ylim=(0, 1))
        legend_below(cell, 2)
    for cell in axes:
        cell.axis("off")
    figure.suptitle(title)
    return figure


@styled
def curves(
    table: pd.DataFrame, title: str, ylabel: str = "AUC", marks: dict[str, float] | None = None
) -> Figure:
    """Each column of a table over its index, which names the x axis; named places on it marked."""
    figure, axes = blank(height=2.6)
    axes = axes[0, 0]
    for (colour, style), name in zip(itertools.cycle(LINES), table, strict=False):
        values = table[name].dropna()
        marker = "o" if len(values) < 50 else None
        axes.plot(values.index, values, marker=marker, ms=3, ls=style, color=colour, label=name)
    if ylabel == "AUC":
        axes.axhline(0.5, color="black", lw=0.6)
    for name, place in (marks or {}).items():
        axes.axvline(place, color="black", lw=1, label=name)
    axes.set(xlabel=table.index.name, ylabel=ylabel, title=title)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    return figure


@styled
def scatter(points: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    """Points (n, 2) of normal and abnormal test images, such as an embedding; axes mean nothing."""
    figure, axes = blank(height=3.6)
    axes = axes[0, 0]
    kinds = {"normal": (0, NORMAL, "o"), "abnormal": (1, ABNORMAL, "^")}
    for name, (label, colour, marker) in kinds.items():
        chosen = points[labels == label]
        axes.plot(*chosen.T, marker, ms=3.5, color=colour, alpha=0.7, mew=0, label=f"test, {name}")
    axes.set(xticks=[], yticks=[], title=title)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    return figure


@styled
def whitening(found, title: str) -> Figure:
    """Known normals and the mix along principal components, and held-out ones along directions.

    found: of one depth, a `Whitening` of `results.features`.
    """
    figure, axes = blank(1, 1 + len(found.along), height=2.4)
    first, *others = axes[0]
    components = np.arange(1, len(found.deviation) + 1)
    first.plot(components, found.deviation, color=NORMAL, label="known normals (their deviation)")
    mix = dict(ms=3, color=ABNORMAL, label="unlabeled mix (its difference from them)")
    first.plot(components, found.difference, ".", **mix)
    first.set_xlabel("component of known normals", fontsize=7)
    first.set(yscale="log", title="one depth")
    for cell, (name, (normal, other)) in zip(others, found.along.items(), strict=True):
        bins = np.histogram_bin_edges(np.concatenate([normal, other]), 20)
        for values, colour, hatch in ((normal, NORMAL, "//"), (other, ABNORMAL, None)):
            cell.hist(values, bins, color=colour, alpha=0.5, density=True, hatch=hatch)
        cell.set_xlabel("in deviations of known normals", fontsize=7)
        cell.set(yticks=[], title=f"held out, {name}")
    figure.suptitle(title)
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def histogram(run: Run) -> Figure:
    """A run's scores of normal and abnormal test images and held-out normals, and its threshold.

    Without test images, of the unlabeled ones.
    """
    part = "test" if len(run.test) else "unlabeled"
    test, held, numbers = run.scores[run.scores["part"] == part], run.held_out, run.metrics
    figure, axes = blank(height=2.4)
    axes = axes[0, 0]
    bins = np.histogram_bin_edges(np.concatenate([test["score"], held]), 30)
    kinds = {"normal": (0, NORMAL, "//"), "abnormal": (1, ABNORMAL, None)}
    kinds |= {"label unknown": (-1, HELD_OUT, None)}
    for name, (label, colour, hatch) in kinds.items():
        values = test.loc[test["label"].fillna(-1) == label, "score"]
        if len(values):
            axes.hist(values, bins, alpha=0.5, color=colour, label=f"{part}, {name}", hatch=hatch)
    # Their density as a rug: too few for a histogram of their own.
    axes.plot(held, np.zeros(len(held)), "|", ms=10, color="black", label="held-out normal")
    if numbers["threshold"] is not None:
        axes.axvline(numbers["threshold"], color="black", ls="--", lw=1, label="threshold")
    axes.set(xlabel="score", ylabel="images", title=f"{run.config['method']}, {where(run)}")
    figure.legend(loc="outside lower center", ncols=5, fontsize=7)
    return figure


@styled
def distributions(statistics: dict[str, np.ndarray], labels: np.ndarray, title: str) -> Figure:
    """One number of each image, of normal and of abnormal ones, with the AUC it reaches alone.

    labels: 0 normal, 1 abnormal, -1 unknown.
    """
    import seaborn as sns

    if not len(labels):
        return nothing(title)
    figure, axes = blank(1, len(statistics), height=2.2)
    for cell, (name, values) in zip(axes[0], statistics.items(), strict=True):
        words = np.select([labels == 0, labels == 1], ["normal", "abnormal"], "label unknown")
        table = {"value": values, "test images": words}
        colours = {"normal": NORMAL, "abnormal": ABNORMAL, "label unknown": HELD_OUT}
        sns.histplot(table, x="value", hue="test images", palette=colours, bins=30, ax=cell)
        cell.set(xlabel=name, ylabel="images")
        if (labels >= 0).all():
            area = metrics.auc(labels, values)
            cell.set(title=f"alone: AUC {area:.2f}")
    figure.suptitle(title)
    return figure


def where(run: Run) -> str:
    """Set, budget and seed of a run, as titles name them."""
    return f"{shown(run.config['set'])}, {run.config['budget']}, seed {run.config['seed']}"


def map_limit(run: Run) -> float:
    """Where a run's colour scale ends: the 99.5th percentile of its held-out normals' pixels."""
    maps = run.test_map if run.held_map is None else run.held_map
    return float(np.quantile(maps, 0.995))


@styled
def heat_maps(run: Run, dataset: Dataset, labels: Labels, chosen: np.ndarray) -> Figure:
    """A run's input (lesion outlined), restored image and heat map of test images (n,), in columns.

    A method without maps or restored images shows the rows it has.
    """
    if not len(chosen):
        return nothing(f"{run.config['method']}, {where(run)}")
    test, rows = run.test, {"input": dataset.test.images[chosen]}
    if run.test_restored is not None:
        rows["restored"] = run.test_restored[chosen]
    if run.test_map is not None:
        rows["heat map"], limit = run.test_map[chosen], map_limit(run)
    figure, axes = blank(len(rows), len(chosen), height=len(rows) * WIDTH / len(chosen) * 1.15)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for cell, image, i in zip(line, images, chosen, strict=True):
            if name == "heat map":
                shade = show_map(cell, image, limit)
            else:
                show_image(cell, image)
            if labels.masks is not None and name != "restored":
                outline(cell, labels.masks[i])
    for cell, i in zip(axes[0], chosen, strict=True):
        title = {0: "normal", 1: "abnormal"}.get(labels.test[i], "")
        rank = test.loc[i, "percentile"]
        title += f"\npercentile {rank:.0f}" if np.isfinite(rank) else ""
        cell.set_title(title, fontsize=7)
    if "heat map" in rows:
        bar = figure.colorbar(shade, ax=axes[-1].tolist(), fraction=0.02, extend="max")
        bar.ax.tick_params(labelsize=7)
    figure.suptitle(f"{run.config['method']}, {where(run)}")
    return figure


@styled
def gate_maps(images: np.ndarray, gates: list[np.ndarray], title: str = "") -> Figure:
    """Inputs (n, C, H, W) above how far each gate opens for them, (n, h, w) in (0, 1) each."""
    n = len(images)
    figure, axes = blank(len(gates) + 1, n, height=(len(gates) + 1) * WIDTH / n * 1.05)
    for cell, image in zip(axes[0], images, strict=True):
        show_image(cell, image)
    for line, gate in zip(axes[1:], gates, strict=True):
        for cell, one in zip(line, gate, strict=True):
            shade = cell.imshow(one, cmap="viridis", vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[])
        line[0].set_ylabel(f"gate at\n{gate.shape[-2]} x {gate.shape[-1]}")
    axes[0, 0].set_ylabel("input")
    figure.colorbar(shade, ax=axes[1:].ravel().tolist(), fraction=0.02, label="alpha")
    figure.suptitle(title)
    return figure


@styled
def fields(
    maps: dict[str, np.ndarray],
    title: str,
    label: str,
    at: tuple[int, int] | None = None,
    columns: int = 4,
) -> Figure:
    """Named maps (h, w) of one quantity, on one colour scale, zero in the middle where signs mix.

    label: what the quantity is called; at: row and column of a place that is marked.
    """
    low, high = (float(f([f(m) for m in maps.values()])) for f in (np.min, np.max))
    mixed = low < 0 < high
    low, high = (-max(-low, high), max(-low, high)) if mixed else (low, high)
    colours = dict(cmap="PuOr" if mixed else "viridis", vmin=low, vmax=high)
    rows = -(-len(maps) // columns)
    figure, axes = blank(rows, columns, height=0.4 + rows * WIDTH / columns * 0.95)
    for cell in axes.flat:
        cell.axis("off")
    for cell, (name, values) in zip(axes.flat, maps.items(), strict=False):
        shade = cell.imshow(values, **colours)
        cell.set(title=name)
        if at:
            cell.plot(at[1], at[0], "+", color="black", ms=9, mew=3)
            cell.plot(at[1], at[0], "+", color="white", ms=7, mew=1)
    figure.colorbar(shade, ax=axes.ravel().tolist(), fraction=0.02, label=label)
    figure.suptitle(title)
    return figure
