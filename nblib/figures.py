"""Everything that is drawn. Functions return a Figure; `save` writes it for print.

One colour a method everywhere (see the catalogue), from a colour-blind safe palette; maps in
viridis. A heat map's colours mean the same in every image of a method: the scale comes from
held-out normals. Whatever shows the drawn set says "phantom".
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import NullFormatter

from nblib import metrics
from nblib.data.batches import to_float
from nblib.data.datasets import Dataset
from nblib.data.labels import Labels
from nblib.files import root, write_json, written_whole
from nblib.methods.catalogue import FAMILIES, entry
from nblib.methods.method import Detection
from nblib.training.runs import Run

_PALETTE = (
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"),
    *("#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9"),
)
"""Seaborn's "colorblind"; it is imported where it draws, which takes most of a second."""

NORMAL, ABNORMAL, HELD_OUT = _PALETTE[0], _PALETTE[1], _PALETTE[7]
"""Colours of normal and abnormal test images and of held-out known normals."""

LINES = (
    (_PALETTE[3], "-"),
    (_PALETTE[0], "--"),
    ("#000000", ":"),
    (_PALETTE[8], "-."),
    (_PALETTE[2], (0, (5, 1))),
    (_PALETTE[4], (0, (1, 1))),
)
"""Colours and styles of the lines of a plot, such as the terms of a loss, in this order."""


MARKERS = {"nothing": "D", "known normals": "s", "known normals + unlabeled": "o"}
"""A marker for what a method learns from, as the catalogue's `uses` says it."""

WIDTH = 6.3
"""Inches: the text width of an A4 page, so that letters print at the size they are set in."""

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 110,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "image.interpolation": "nearest",
}


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the project's style, and leave the style of the user's own figures alone."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        with plt.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def _figure(rows: int = 1, columns: int = 1, height: float = 2.4):
    """A figure and its axes, known to no window: it is shown once, where it is returned."""
    size = (WIDTH, height)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    plt.close(figure)
    return figure, axes


def save(
    figure: Figure, data: str | Path, budget: str, name: str, record: dict, caption: str = ""
) -> None:
    """Write `figures/<set>/<budget>/<name>` as .pdf and .png.

    data: the set's name, or the path of its folder. Beside them `record` as .json, and the caption
    as .txt. A figure of nothing is not written.
    """
    if figure.get_label() == "nothing":
        return
    stem = root() / "figures" / Path(data).name / budget / name
    for kind in ("pdf", "png"):
        # No time of making: the same runs give the same bytes.
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        with written_whole(stem.with_suffix(f".{kind}")) as file:
            figure.savefig(file, format=kind, dpi=300, metadata=metadata)
    if caption:
        with written_whole(stem.with_suffix(".txt"), "w") as file:
            file.write(f"{caption}\n")
    write_json(stem.with_suffix(".json"), record)


def shown(data: str | Path) -> str:
    """How a set, by name or path, is called in a title: the drawn one says so."""
    data = Path(data).name
    return "phantom (drawn, no patients)" if data == "phantom" else data


def _image(axes, image: np.ndarray) -> None:
    """Show (C, H, W) or (H, W), uint8 or in [-1, 1], on axes without ticks."""
    image = image.transpose(1, 2, 0) if image.ndim == 3 else image
    image = image if image.dtype == np.uint8 else np.clip((image + 1) / 2, 0, 1)
    grey = dict(cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
    axes.imshow(image, **({} if image.shape[-1] == 3 else grey))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _outline(axes, mask: np.ndarray) -> None:
    if mask.any():
        axes.contour(mask, levels=[0.5], colors=[ABNORMAL], linewidths=1)


@_styled
def gallery(rows: dict[str, np.ndarray], title: str = "") -> Figure:
    """Named rows of as many images (n, C, H, W) each."""
    columns = len(next(iter(rows.values())))
    figure, axes = _figure(len(rows), columns, height=0.3 + len(rows) * WIDTH / columns)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for cell, image in zip(line, images, strict=True):
            _image(cell, image)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return figure


@_styled
def parts(dataset: Dataset, labels: Labels, columns: int = 8) -> Figure:
    """A page of a set: evenly spaced images of each part; lesions are outlined where known."""
    rows = {
        "known\nnormal": (dataset.normal.images, None),
        "unlabeled": (dataset.unlabeled.images, None),
    }
    for label, name in {0: "test,\nnormal", 1: "test,\nabnormal", -1: "test"}.items():
        of_label = labels.test == label
        if of_label.any():
            masks = None if labels.masks is None else labels.masks[of_label]
            rows[name] = (dataset.test.images[of_label], masks)
    figure, axes = _figure(len(rows), columns, height=len(rows) * WIDTH / columns * 1.1)
    for line, (name, (images, masks)) in zip(axes, rows.items(), strict=True):
        chosen = np.linspace(0, len(images) - 1, columns).round().astype(int)
        for cell, i in zip(line, chosen, strict=True):
            _image(cell, images[i])
            if masks is not None:
                _outline(cell, masks[i])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(shown(dataset.name))
    return figure


@_styled
def training_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """Losses of each network, norms of their gradients, what else was logged, and AUCp."""
    networks = list(dict.fromkeys(c.split(".")[0] for c in history if "." in c))
    logged = [c for c in history if "." not in c and not c.startswith(("step", "aucp"))]
    at = history.dropna(subset=["aucp"])
    panels = len(networks) + 1 + bool(logged) + bool(len(at))
    rows = -(-panels // 2)
    figure, axes = _figure(rows, 2, height=2.0 * rows)
    axes = iter(axes.flat)
    for network in networks:
        cell = next(axes)
        terms = [c for c in history if c.startswith(f"{network}.") and "gradient_norm" not in c]
        _line_a_column(cell, history, {term: term.split(".")[1] for term in terms})
        large = max(abs(history[term]).max() for term in terms) > 10
        cell.set(title=f"terms of {network}", yscale="symlog" if large else "linear")
    cell = next(axes)
    _line_a_column(cell, history, {f"{network}.gradient_norm": network for network in networks})
    cell.set(title="norm of the gradient", yscale="log")
    cell.yaxis.set_minor_formatter(NullFormatter())
    if logged:
        cell = next(axes)
        _line_a_column(cell, history, {name: name for name in logged})
        cell.set(title="also logged", ylim=(0, 1))
    if len(at):
        cell = next(axes)
        error = 1.96 * at["aucp_held_out_error"]
        held = at["aucp_held_out"]
        cell.fill_between(at["step"], held - error, held + error, color=HELD_OUT, alpha=0.3, lw=0)
        cell.plot(at["step"], held, "o--", ms=3, color=HELD_OUT, label="held-out unlabeled")
        cell.plot(at["step"], at["aucp"], "o-", ms=3, color="black", label="trained-on unlabeled")
        cell.set(title="AUCp (no measure of quality)", xlabel="step", ylim=(0, 1))
        cell.legend(fontsize=7)
    for cell in axes:
        cell.axis("off")
    figure.suptitle(title)
    return figure


def _line_a_column(axes, table: pd.DataFrame, names: dict[str, str]) -> None:
    """Columns of a table, by name and label, over its steps."""
    for (colour, style), (name, label) in zip(itertools.cycle(LINES), names.items(), strict=False):
        values = table[["step", name]].dropna()
        axes.plot(*values.to_numpy().T, ls=style, color=colour, label=label)
    axes.set_xlabel("step")
    axes.legend(fontsize=7)


@_styled
def curves(
    table: pd.DataFrame, title: str, ylabel: str = "AUC", marks: dict[str, float] | None = None
) -> Figure:
    """Each column of a table over its index, which names the x axis; named places on it marked."""
    figure, axes = _figure(height=2.6)
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
    axes.legend(fontsize=7)
    return figure


@_styled
def scatter(points: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    """Points (n, 2) of normal and abnormal test images, such as an embedding; axes mean nothing."""
    figure, axes = _figure(height=3.6)
    axes = axes[0, 0]
    kinds = {"normal": (0, NORMAL, "o"), "abnormal": (1, ABNORMAL, "^")}
    for name, (label, colour, marker) in kinds.items():
        chosen = points[labels == label]
        axes.plot(*chosen.T, marker, ms=3.5, color=colour, alpha=0.7, mew=0, label=f"test, {name}")
    axes.set(xticks=[], yticks=[], title=title)
    axes.legend(fontsize=7)
    return figure


@_styled
def histogram(run: Run) -> Figure:
    """Scores of normal and abnormal test images and of held-out normals, and the threshold."""
    test, held, numbers = run.test, run.held_out, run.metrics
    figure, axes = _figure(height=2.4)
    axes = axes[0, 0]
    bins = np.histogram_bin_edges(np.concatenate([test["score"], held]), 30)
    kinds = {"normal": (0, NORMAL, "//"), "abnormal": (1, ABNORMAL, None)}
    kinds |= {"label unknown": (-1, HELD_OUT, None)}
    for name, (label, colour, hatch) in kinds.items():
        values = test.loc[test["label"].fillna(-1) == label, "score"]
        if len(values):
            axes.hist(values, bins, alpha=0.5, color=colour, label=f"test, {name}", hatch=hatch)
    # Their density as a rug: too few for a histogram of their own.
    axes.plot(held, np.zeros(len(held)), "|", ms=10, color="black", label="held-out normal")
    if numbers["threshold"] is not None:
        axes.axvline(numbers["threshold"], color="black", ls="--", lw=1, label="threshold")
    axes.set(xlabel="score", ylabel="images", title=f"{run.config['method']}, {_where(run)}")
    axes.legend(fontsize=7)
    return figure


@_styled
def distributions(statistics: dict[str, np.ndarray], labels: np.ndarray, title: str) -> Figure:
    """One number of each image, of normal and of abnormal ones, with the AUC it reaches alone.

    labels: 0 normal, 1 abnormal, -1 unknown.
    """
    import seaborn as sns

    figure, axes = _figure(1, len(statistics), height=2.2)
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


def _where(run: Run) -> str:
    return f"{shown(run.config['set'])}, {run.config['budget']}, seed {run.config['seed']}"


def typical(test: pd.DataFrame) -> np.ndarray:
    """Positions of six images of a run's test part, chosen by rule.

    The lowest, the median and the highest score of the normal and then of the abnormal images;
    without labels six from the lowest to the highest score.
    """
    if test["label"].isna().any():
        order = test.sort_values("score", kind="stable").index
        return order[np.linspace(0, len(order) - 1, 6).round().astype(int)].to_numpy()
    chosen = []
    for label in (0, 1):
        order = test[test["label"] == label].sort_values("score", kind="stable").index
        chosen += [order[0], order[len(order) // 2], order[-1]]
    return np.array(chosen)


def map_limit(run: Run) -> float:
    """Where a run's colour scale ends: the 99.5th percentile of its held-out normals' pixels."""
    maps = run.maps
    return float(np.quantile(maps["held_map" if "held_map" in maps else "test_map"], 0.995))


@_styled
def heat_maps(run: Run, dataset: Dataset, labels: Labels, chosen: np.ndarray) -> Figure:
    """Input (lesion outlined), restored image and heat map of some test images, in columns.

    A method without maps or restored images shows the rows it has.
    """
    maps, test = run.maps, run.test
    rows = {"input": dataset.test.images[chosen]}
    if "test_restored" in maps:
        rows["restored"] = maps["test_restored"][chosen]
    if "test_map" in maps:
        rows["heat map"] = maps["test_map"][chosen]
    figure, axes = _figure(len(rows), len(chosen), height=len(rows) * WIDTH / len(chosen) * 1.15)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for cell, image, i in zip(line, images, chosen, strict=True):
            if name == "heat map":
                shade = _heat(cell, image, map_limit(run))
            else:
                _image(cell, image)
            if labels.masks is not None and name != "restored":
                _outline(cell, labels.masks[i])
    for cell, i in zip(axes[0], chosen, strict=True):
        title = {0: "normal", 1: "abnormal"}.get(labels.test[i], "")
        rank = test.loc[i, "percentile"]
        title += f"\npercentile {rank:.0f}" if np.isfinite(rank) else ""
        cell.set_title(title, fontsize=7)
    if "heat map" in rows:
        bar = figure.colorbar(shade, ax=axes[-1].tolist(), fraction=0.02, extend="max")
        bar.ax.tick_params(labelsize=7)
    figure.suptitle(f"{run.config['method']}, {_where(run)}")
    return figure


@_styled
def one_image(image: np.ndarray, detection: Detection, run: Run, title: str = "") -> Figure:
    """One image (C, H, W), uint8, and what a run's method says of it: restored image, heat map.

    Over it stand the percentile of its score among the run's held-out normals, and the decision.
    """
    score = detection.score
    rank, cut = metrics.percentile(score, run.held_out)[0], metrics.threshold(run.held_out)
    called = "" if np.isnan(cut) else f", called {'abnormal' if score[0] > cut else 'normal'}"
    shown = {"input": image, "restored": detection.restored, "heat map": detection.map}
    shown = {k: v if k == "input" else v[0] for k, v in shown.items() if v is not None}
    figure, axes = _figure(1, 3, height=2.4)
    for cell in axes.flat:
        cell.axis("off")
    for cell, (name, values) in zip(axes.flat, shown.items(), strict=False):
        cell.axis("on")
        if name == "heat map":
            shade = _heat(cell, values, map_limit(run))
            figure.colorbar(shade, ax=cell, fraction=0.046, extend="max")
        else:
            _image(cell, values)
        cell.set_title(name)
    figure.suptitle(f"{title}: percentile {rank:.0f}{called}")
    return figure


@_styled
def gate_maps(images: np.ndarray, gates: list[np.ndarray], title: str = "") -> Figure:
    """Inputs (n, C, H, W) above how far each gate opens for them, (n, h, w) in (0, 1) each."""
    n = len(images)
    figure, axes = _figure(len(gates) + 1, n, height=(len(gates) + 1) * WIDTH / n * 1.05)
    for cell, image in zip(axes[0], images, strict=True):
        _image(cell, image)
    for line, gate in zip(axes[1:], gates, strict=True):
        for cell, one in zip(line, gate, strict=True):
            shade = cell.imshow(one, cmap="viridis", vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[])
        line[0].set_ylabel(f"gate at\n{gate.shape[-2]} x {gate.shape[-1]}")
    axes[0, 0].set_ylabel("input")
    figure.colorbar(shade, ax=axes[1:].ravel().tolist(), fraction=0.02, label="alpha")
    figure.suptitle(title)
    return figure


@_styled
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
    figure, axes = _figure(rows, columns, height=0.4 + rows * WIDTH / columns * 0.95)
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


@_styled
def forest(table: pd.DataFrame, title: str) -> Figure:
    """AUC with its interval for each row of `report.table`, a colour a method, chance marked.

    Methods that use the unlabeled mix stand below those that do not, apart from them.
    """
    uses_mix = table["uses"].str.contains("unlabeled").to_numpy()
    rows = -np.arange(len(table)) - 0.8 * uses_mix
    figure, axes = _figure(height=1.1 + 0.22 * len(table))
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
    axes.set(yticks=rows, yticklabels=names, xlabel="AUC, 95 % interval over patients", title=title)
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
}
"""Marker and its fill for each verdict."""

ONE_SEED = ("+", "black")


def _interval_bar(axes, low: float, high: float, y: float, colour: str) -> None:
    """An interval, with a rim so that light colours print."""
    axes.plot([low, high], [y, y], color="black", lw=2.6, solid_capstyle="butt")
    axes.plot([low, high], [y, y], color=colour, lw=1.9, solid_capstyle="butt")


@_styled
def differences(table: pd.DataFrame, margin: float, title: str) -> Figure:
    """Difference of AUC with its 95 % interval for each row of `verdicts.answers`, by question.

    The margin is a band. With one seed there is no interval, only a plus.
    """
    if table.empty:
        return _nothing(title)
    figure, axes = _figure(height=1.1 + 0.19 * (len(table) + 1.3 * table["question"].nunique()))
    axes = axes[0, 0]
    axes.axvspan(-margin, margin, color="#e4e4e4", lw=0)
    axes.axvline(0, color="black", lw=0.6)
    places, names, y = [], [], 0.0
    left = np.nanmin([table["low"].min(), table["difference"].min(), -2 * margin])
    for question, rows in table.groupby("question", sort=False):
        y -= 1.3
        box = dict(fc="white", ec="none", pad=1)
        axes.text(left, y + 0.95, question, fontsize=7.5, style="italic", va="top", bbox=box)
        for row in rows.itertuples():
            marker, fill = ANSWERS[row.answer] if np.isfinite(row.low) else ONE_SEED
            _interval_bar(axes, row.low, row.high, y, entry(row.method).colour)
            edge = dict(mec="black", mew=0.9 if marker not in "x+" else 1.4)
            axes.plot(row.difference, y, marker, ms=5, mfc=fill, **edge)
            places.append(y)
            names.append(f"{row.method} − {row.against}")
            y -= 1
    axes.set(yticks=places, xlabel="difference of AUC, 95 % interval (uncorrected)", title=title)
    axes.set_yticklabels(names, fontsize=7)
    axes.set_ylim(y + 0.4, 0)
    for answer, (marker, fill) in (ANSWERS | {"one seed: cannot tell": ONE_SEED}).items():
        axes.plot([], [], marker, ms=5, mfc=fill, mec="black", label=answer)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    return figure


@_styled
def model_choice(table: pd.DataFrame, title: str) -> Figure:
    """AUC of the last checkpoint, of that chosen by AUCp, and of the best on the test part.

    A row a method of `report.chosen_checkpoints`, means over its seeds; the oracle is marked.
    """
    if table.empty:
        return _nothing(title)
    means = table.groupby("method", sort=False)[["last", "aucp", "oracle"]].mean()
    figure, axes = _figure(height=1.2 + 0.19 * len(means))
    axes = axes[0, 0]
    y = -np.arange(len(means))
    for low, high, at in zip(means["last"], means["oracle"], y, strict=True):
        axes.plot([low, high], [at, at], color=HELD_OUT, lw=2.5, solid_capstyle="butt")
    axes.plot(means["last"], y, "o", ms=5, color="black", label="last checkpoint (all tables here)")
    free = dict(ms=4.5, mfc="white", mec="black", label="highest AUCp, no label")
    axes.plot(means["aucp"], y + 0.27, "d", **free)
    oracle = dict(ms=6, color=ABNORMAL, mec="black", mew=0.5, label="oracle, looks at test labels")
    axes.plot(means["oracle"], y - 0.2, "*", **oracle)
    axes.set(yticks=y, xlabel="AUC on the test part", title=title)
    axes.set_yticklabels(means.index, fontsize=7)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    return figure


def _nothing(title: str) -> Figure:
    """A figure that only says so, and that `save` does not write."""
    figure, axes = _figure(height=0.8)
    figure.set_label("nothing")
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.5, f"{title}: nothing finished to show", ha="center", va="center")
    return figure


@_styled
def matrix(table: pd.DataFrame, title: str, label: str, middle: float = 0.0) -> Figure:
    """A table of numbers, written into cells whose colour goes from `middle` to both sides."""
    import seaborn as sns

    if table.empty:
        return _nothing(title)
    figure, axes = _figure(height=1.1 + 0.2 * len(table))
    axes = axes[0, 0]
    reach = np.nanmax(np.abs(table.to_numpy(float) - middle)) or 1
    sns.heatmap(
        table.astype(float), cmap="PuOr_r", vmin=middle - reach, vmax=middle + reach, annot=True,
        fmt="+.3f" if middle == 0 else ".2f", annot_kws={"size": 7}, ax=axes, linewidths=0.5,
        cbar_kws={"label": label},
    )  # fmt: skip
    axes.tick_params(labelsize=7, length=0)
    axes.set(title=title, xlabel="", ylabel="")
    axes.tick_params(axis="x", rotation=0 if table.shape[1] < 9 else 30)
    return figure


@_styled
def over_ratios(table: pd.DataFrame, title: str) -> Figure:
    """AUC and AP over the share of abnormal images in the unlabeled mix, a line a method."""
    if table.empty:
        return _nothing(title)
    figure, axes = _figure(1, 2, height=2.8)
    for cell, (name, word) in zip(axes[0], {"auc": "AUC", "ap": "AP"}.items(), strict=True):
        lines = zip(table.groupby("method", sort=False), ("o-", "s--", "^:", "D-."), strict=False)
        for (method, rows), style in lines:
            colour = entry(method).colour
            cell.plot(rows["percent"], rows[name], style, ms=4, color=colour, label=method)
        chance = 0.5 if name == "auc" else table["abnormal"].iloc[0]
        cell.axhline(chance, color="black", lw=0.6)
        cell.set(xlabel="abnormal among the unlabeled, %", ylabel=word)
    figure.suptitle(title)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@_styled
def cost(table: pd.DataFrame, title: str) -> Figure:
    """AUC against the times to train and to score of `costs.cost_table`; a marker a family."""
    figure, axes = _figure(1, 2, height=3.3)
    families = table["method"].map(lambda method: entry(method).family)
    what = {"seconds": "training, s (0 as 0.1)", "ms_per_image": "scoring an image, ms"}
    for cell, (name, word) in zip(axes[0], what.items(), strict=True):
        for kind, (marker, colour, _) in FAMILIES.items():
            rows = table[families == kind]
            values = rows[name].clip(lower=0.1 if name == "seconds" else 0.001)
            style = dict(ms=7 if marker == "*" else 5, color=colour, mec="black", mew=0.5)
            cell.plot(
                values, rows["auc"], marker, ls="", label=kind if len(rows) else None, **style
            )
        for row in table[table["method"].isin(("sagan", "brainomaly"))].itertuples():
            at = (max(getattr(row, name), 0.001), row.auc)
            cell.annotate(row.method, at, (4, -9), textcoords="offset points", fontsize=6.5)
        cell.axhline(0.5, color="black", lw=0.6, ls=":")
        cell.set(xscale="log", xlabel=word, ylabel="AUC")
    figure.suptitle(title)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=7)
    return figure


def told_apart(runs: list[Run]) -> dict[str, int]:
    """Positions in the test part of six or seven images, by what all of some runs say together.

    The mean percentile of an image over the runs ranks it. Of the normal and of the abnormal ones
    the best (told right most clearly), the median and the worst; and the abnormal image that is
    missed most, which even the run that ranks it highest ranks lowest: the nearest to "all models
    are wrong".
    """
    ranks = np.array([run.test["score"].rank(pct=True) for run in runs])
    labels, mean = runs[0].test["label"].to_numpy(), ranks.mean(0)
    found = {}
    for word, label in (("normal", 0), ("abnormal", 1)):
        order = np.flatnonzero(labels == label)
        order = order[np.argsort(mean[order], kind="stable")][:: 1 if label == 0 else -1]
        places = {"best": 0, "median": len(order) // 2, "worst": -1}
        found |= {f"{word}, {name}": int(order[place]) for name, place in places.items()}
    ill = np.flatnonzero(labels == 1)
    found["missed most"] = int(ill[ranks.max(0)[ill].argmin()])
    if found["missed most"] == found["abnormal, worst"]:
        del found["abnormal, worst"]
    return found


@_styled
def through_models(
    runs: list[Run], dataset: Dataset, labels: Labels, chosen: dict[str, int]
) -> Figure:
    """Named test images and the heat maps of several runs: a row an image, a column a run.

    Each run has a colour scale of its own, from its held-out normals. Under a map stands the
    percentile of its score among them; framed where the threshold for 95 % specificity is passed.
    """
    rows, columns = len(chosen), len(runs) + 1
    figure, axes = _figure(rows, columns, height=0.5 + rows * WIDTH / columns * 1.2)
    for line, (name, i) in zip(axes, chosen.items(), strict=True):
        _image(line[0], dataset.test.images[i])
        if labels.masks is not None:
            _outline(line[0], labels.masks[i])
        line[0].set_ylabel(name.replace(", ", ",\n"), fontsize=7)
        for cell, run in zip(line[1:], runs, strict=True):
            _heat(cell, run.maps["test_map"][i], map_limit(run))
            if labels.masks is not None:
                _outline(cell, labels.masks[i])
            _percentile(cell, run, i)
    _name_columns(axes[0], runs)
    return figure


@_styled
def one_through_models(
    runs: list[Run], dataset: Dataset, labels: Labels, name: str, chosen: int
) -> Figure:
    """One test image through several runs: restored, heat map, and the finest gate; a column a run.

    A run without gates leaves that place empty.
    """
    columns = len(runs) + 1
    figure, axes = _figure(3, columns, height=0.5 + 3 * WIDTH / columns * 1.15)
    for cell in axes.flat:
        cell.axis("off")
    _image(axes[0, 0], dataset.test.images[chosen])
    axes[0, 0].axis("on")
    axes[0, 0].set_xlabel(name, fontsize=7)
    if labels.masks is not None:
        _outline(axes[0, 0], labels.masks[chosen])
    for word, line in zip(("restored", "heat map", "gate"), axes, strict=True):
        line[1].set_ylabel(word, fontsize=7)
    x = to_float(torch.from_numpy(dataset.test.images[[chosen]]))
    for line, run in zip(axes[:, 1:].T, runs, strict=True):
        _image(line[0], run.maps["test_restored"][chosen])
        _heat(line[1], run.maps["test_map"][chosen], map_limit(run))
        method = run.method()
        if hasattr(method, "gate_maps"):
            with torch.no_grad():
                gate = method.gate_maps(x)[-1][0].numpy()
            _heat(line[2], gate, 1)
        for cell in line[: 2 + hasattr(method, "gate_maps")]:
            cell.axis("on")
        _percentile(line[1], run, chosen)
    _name_columns(axes[0], runs)
    return figure


def _heat(axes, values: np.ndarray, limit: float):
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes.imshow(values, cmap="viridis", vmin=0, vmax=limit)


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


LAYER, CODE, GATE = "#dce9f2", "#f7e0bd", "#cfe8dd"
"""Fills of the boxes in diagrams."""


def _box(axes, x: float, y: float, text: str, colour: str, width: float = 1.0) -> None:
    box = FancyBboxPatch(
        (x - width / 2, y - 0.28), width, 0.56, "round,pad=0.02", fc=colour, ec="black", lw=0.8
    )
    axes.add_patch(box)
    axes.text(x, y, text, ha="center", va="center", fontsize=7)


def _arrow(axes, start, end, bend: float = 0.0) -> None:
    style = dict(arrowstyle="-|>", mutation_scale=8, lw=0.8, color="black")
    axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **style))


@_styled
def generator_diagram(width: int = 64, patch: int = 32) -> Figure:
    """SAGAN's generator: one patch on its way through encoder, bottleneck, gates and fusion."""
    figure, axes = _figure(height=3.4)
    axes = axes[0, 0]
    scales = [f"{width * 2**k} @ {patch // 2**k}" for k in range(4)]
    for k, scale in enumerate(scales):
        y = 3 - k
        _box(axes, 0, y, f"{'conv 4x4, / 2' if k else 'conv 7x7'}\n{scale}", LAYER, 1.4)
        _box(axes, 6.9, y, f"fuse, x 2\n{scale}" if k else f"fuse\n{scale}", LAYER, 1.1)
        if k:
            _box(axes, 1.9, y, "place code,\nconv 1x1", CODE, 1.4)
            _box(axes, 5.3, y, f"gate {4 - k}", GATE, 0.8)
            _arrow(axes, (0.72, y), (1.18, y))
            _arrow(axes, (5.72, y), (6.33, y))
            _arrow(axes, (6.9, y + 0.3), (6.9, y + 0.7))
    _arrow(axes, (0, 2.7), (0, 2.3))
    for y in (2, 1):
        _arrow(axes, (1.7, y - 0.3), (0.3, y - 0.7))
        _arrow(axes, (2.62, y), (4.88, y))
        _arrow(axes, (6.45, y - 0.7), (5.45, y - 0.3))
    # The maps of the two coarser scales, widened, join the last fusion.
    for y, bend in ((1, 0.35), (0, 0.4)):
        _arrow(axes, (7.47, y), (7.3, 2.68), bend)
    axes.text(8.5, 1.3, "widened", fontsize=7)
    _box(axes, 3.75, 0, "6 residual\nblocks", LAYER, 1.4)
    _arrow(axes, (2.62, 0), (3.03, 0))
    _arrow(axes, (4.47, 0), (4.88, 0))
    _box(axes, 8.3, 3, "conv 7x7\nr", LAYER, 0.9)
    _arrow(axes, (7.47, 3), (7.83, 3))
    _box(axes, 9.85, 3, "x' = tanh(r + x)", GATE, 1.6)
    _arrow(axes, (8.77, 3), (9.03, 3))
    axes.text(0, 3.6, "patch of x", ha="center", fontsize=7)
    _arrow(axes, (0, 3.52), (0, 3.3))
    axes.text(3.75, 1.1, "skip", ha="center", fontsize=7)
    axes.text(3.75, 2.1, "skip", ha="center", fontsize=7)
    axes.set(xlim=(-0.8, 10.8), ylim=(-0.5, 3.8))
    axes.axis("off")
    return figure


@_styled
def gate_diagram() -> Figure:
    """An attention gate: what of a skip is let through."""
    figure, axes = _figure(height=1.5)
    axes = axes[0, 0]
    for y, name in ((1, "deeper g"), (0, "skip f")):
        axes.text(-0.2, y, name, ha="right", va="center", fontsize=8)
        _box(axes, 0.9, y, "conv 1x1, norm", LAYER, 1.5)
        _arrow(axes, (-0.15, y), (0.13, y))
        _arrow(axes, (1.67, y), (2.15, 0.6 if y else 0.4))
    _box(axes, 2.65, 0.5, "+, ReLU", LAYER, 0.9)
    _box(axes, 4.25, 0.5, "conv 1x1 to\n1 map, norm", LAYER, 1.5)
    _box(axes, 5.85, 0.5, "sigmoid", LAYER, 0.9)
    _box(axes, 7.5, 0.5, "alpha * f", GATE, 0.9)
    for start, end in ((3.12, 3.48), (5.02, 5.38), (6.32, 7.03)):
        _arrow(axes, (start, 0.5), (end, 0.5))
    axes.text(6.67, 0.6, "alpha", ha="center", fontsize=7)
    axes.plot([-0.6, -0.6, 7.5], [-0.2, -0.55, -0.55], color="black", lw=0.8)
    _arrow(axes, (7.5, -0.55), (7.5, 0.2))
    axes.set(xlim=(-1.4, 8.2), ylim=(-0.8, 1.4))
    axes.axis("off")
    return figure
