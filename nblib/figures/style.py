"""What all figures share: sizes, colours, how one is begun, and how it is written for print.

One colour a method everywhere (see the catalogue), from a colour-blind safe palette; maps in
viridis. Whatever shows the drawn set says "phantom".
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nblib.files import root, write_json, written_whole

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


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the project's style, and leave the style of the user's own figures alone.

    Titles and labels are shown as they are: names of sets and images may hold dollars. What stands
    at the ticks of a logarithmic axis is mathematics.
    """

    @functools.wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        words = [*figure.texts]
        for axes in figure.axes:
            words += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for text in words:
            text.set_parse_math(False)
        return figure

    return drawn


def blank(rows: int = 1, columns: int = 1, height: float = 2.4):
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
    as .txt, which begins with set and budget. A figure of nothing is not written.
    """
    if figure.get_label() == "nothing":
        return
    stem = root() / "figures" / Path(data).name / budget / name
    for kind in ("pdf", "png"):
        # No time of making: the same runs give the same bytes.
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        with written_whole(stem.with_suffix(f".{kind}")) as file:
            figure.savefig(file, format=kind, dpi=300, metadata=metadata)
    where = f"Set {Path(data).name}, budget {budget}. "
    with written_whole(stem.with_suffix(".txt"), "w") as file:
        file.write(f"{where}{caption.removeprefix(where)}\n")
    write_json(stem.with_suffix(".json"), record)


def shown(data: str | Path) -> str:
    """How a set, by name or path, is called in a title: the drawn one says so."""
    data = Path(data).name
    return "phantom (drawn)" if data == "phantom" else data


def show_image(axes, image: np.ndarray) -> None:
    """Show (C, H, W) or (H, W), uint8 or in [-1, 1], on axes without ticks."""
    image = image.transpose(1, 2, 0) if image.ndim == 3 else image
    image = image if image.dtype == np.uint8 else np.clip((image + 1) / 2, 0, 1)
    grey = dict(cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
    axes.imshow(image, **({} if image.shape[-1] == 3 else grey))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def outline(axes, mask: np.ndarray) -> None:
    """Draw the border of a mask (H, W) onto axes: white in black, seen on images and on maps."""
    if mask.any():
        for colour, width in (("black", 2.2), ("white", 1)):
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=width)


def line_a_column(axes, table: pd.DataFrame, names: dict[str, str]) -> None:
    """Columns of a table, by name and label, over its steps."""
    for (colour, style), (name, label) in zip(itertools.cycle(LINES), names.items(), strict=False):
        values = table[["step", name]].dropna()
        axes.plot(*values.to_numpy().T, ls=style, color=colour, label=label)
    axes.set_xlabel("step")
    legend_below(axes)


def legend_below(axes, columns: int = 3) -> None:
    """The legend below the axis, where it hides nothing."""
    at = dict(loc="upper center", bbox_to_anchor=(0.5, -0.3), borderaxespad=0)
    axes.legend(fontsize=7, ncols=columns, **at)


def nothing(title: str) -> Figure:
    """A figure that only says so, and that `save` does not write."""
    figure, axes = blank(height=0.8)
    figure.set_label("nothing")
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.5, f"{title}: nothing finished to show", ha="center", va="center")
    return figure


def show_map(axes, values: np.ndarray, limit: float):
    """Show a heat map (h, w) in 0 to `limit`; returns what a colour bar needs."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes.imshow(values, cmap="viridis", vmin=0, vmax=limit)
