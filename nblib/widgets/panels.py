"""What views are built of: pictures whose Figure is kept, and small widgets.

Pictures are PNG bytes of a `Figure` that is kept: changing what it shows costs a tenth of building
it anew. Three widgets have a page of JavaScript each, in static/.
"""

import contextlib
import html
import io
import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import anywidget
import ipywidgets as widgets
import matplotlib
import numpy as np
import pandas as pd
import traitlets
from IPython import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from sklearn.metrics import roc_curve

from nblib.figures import ABNORMAL, HELD_OUT, NORMAL, STYLE

DIFFERENCE = "PuOr_r"
"""Colours of what may be positive and negative."""


def decided(test: pd.DataFrame, cut: float) -> dict[str, int]:
    """How many test images lie above a threshold: all, of the abnormal and of the normal ones.

    test: rows with score and label, which is NaN where it is not known.
    """
    above, label = test["score"] > cut, test["label"]
    return {
        "images": len(test),
        "above": int(above.sum()),
        "abnormal": int((label == 1).sum()),
        "abnormal above": int((above & (label == 1)).sum()),
        "normal": int((label == 0).sum()),
        "normal above": int((above & (label == 0)).sum()),
    }


def png(canvas: FigureCanvasAgg) -> bytes:
    """What is drawn on a canvas as PNG, compressed little: it only goes to the browser."""
    file = io.BytesIO()
    pixels = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def _edges(mask: np.ndarray) -> list[np.ndarray]:
    """The borders of the pixels of a mask (H, W), as segments ((x, y), (x, y)) in 0 to 1."""
    height, width = mask.shape
    padded = np.pad(mask, 1)
    y, x = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    across = np.stack([np.stack([x, y], 1), np.stack([x + 1, y], 1)], 1)
    y, x = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    down = np.stack([np.stack([x, y], 1), np.stack([x, y + 1], 1)], 1)
    return list(np.concatenate([across, down]) / (width, height))


class Picture:
    """A square Figure without margins: an image, a map over it, and edges."""

    def __init__(self):
        self._canvas = FigureCanvasAgg(Figure(figsize=(3.84, 3.84), dpi=100))
        axes = self._canvas.figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        square = dict(extent=(0, 1, 1, 0), interpolation="nearest")
        self._image = axes.imshow(np.zeros((1, 1)), cmap="gray", vmin=0, vmax=255, **square)
        self._map = axes.imshow(np.zeros((1, 1)), **square)
        self._edges = LineCollection([], colors=ABNORMAL, linewidths=2)
        axes.add_collection(self._edges, autolim=False)

    def draw(
        self,
        image: np.ndarray | None = None,
        map: np.ndarray | None = None,
        limit: float = 1.0,
        colours: str = "viridis",
        opacity: float = 1.0,
        mask: np.ndarray | None = None,
    ) -> bytes:
        """The picture as PNG.

        image: (C, H, W), uint8 or in [-1, 1]; map: (h, w), in 0 to `limit` or, in the colours of
        DIFFERENCE, -limit to limit; mask: (H, W), outlined.
        """
        self._image.set_visible(image is not None)
        if image is not None:
            if image.dtype != np.uint8:
                image = np.clip((image + 1) * 127.5, 0, 255).astype(np.uint8)
            self._image.set_data(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        self._map.set_visible(map is not None)
        if map is not None:
            self._map.set(data=map, alpha=opacity, cmap=colours)
            self._map.set_clim(-limit if colours == DIFFERENCE else 0, limit)
        self._edges.set_segments([] if mask is None else _edges(mask))
        self._canvas.draw()
        return png(self._canvas)


class Tile(widgets.VBox):
    """A picture between its title and a note: hidden until `show` draws it, and anew after that."""

    def __init__(self):
        self._drawing = Picture()
        self._title, self._note = widgets.HTML(), widgets.HTML()
        self.picture = widgets.Image(format="png", layout={"width": "100%"})
        super().__init__([self._title, self.picture, self._note], layout={"max_width": "400px"})
        self._what, self.title, self.note, self.framed = {}, "", "", False
        self.hide()

    def show(self, title: str, note: str = "", framed: bool = False, **drawn) -> None:
        """drawn: see `Picture.draw`; framed: whether the image is called abnormal."""
        self.layout.display = None
        self.frame(framed)
        what = drawn | {"title": title, "note": note}
        if _equal(what, self._what):
            return
        self._what, self.title, self.note = what, title, note
        has_picture = drawn.get("image") is not None or drawn.get("map") is not None
        bar = _colour_bar(**drawn) if drawn.get("map") is not None else ""
        self._title.value = f'<div class="nblib-title">{html.escape(title)}</div>'
        self._note.value = f'{bar}<div class="nblib-note">{html.escape(note)}</div>'
        self.picture.layout.display = None if has_picture else "none"
        self.picture.value = self._drawing.draw(**drawn) if has_picture else b""

    def frame(self, framed: bool) -> None:
        """Draw or take away the frame that says abnormal."""
        self.framed = framed
        (self.picture.add_class if framed else self.picture.remove_class)("nblib-framed")

    def hide(self) -> None:
        self.layout.display = "none"


def _equal(one: dict, other: dict) -> bool:
    """Whether two dictionaries, of arrays among other things, are the same."""
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def _colour_bar(limit: float, colours: str = "viridis", **_) -> str:
    """The colour scale of a map, from end to end, as HTML."""
    stops = ",".join(map(to_hex, matplotlib.colormaps[colours](np.linspace(0, 1, 9))))
    low = f"{-limit:.3g}" if colours == DIFFERENCE else "0"
    return (
        f'<div class="nblib-bar">{low}<i style="background:linear-gradient(90deg,{stops})"></i>'
        f"{limit:.3g}</div>"
    )


def together(tiles: list[Tile]) -> bytes:
    """Tiles with their titles and notes, four in a row, as one PNG."""
    columns = min(4, len(tiles))
    rows = -(-len(tiles) // columns)
    with matplotlib.rc_context(STYLE):
        size = (2.2 * columns, 2.8 * rows)
        canvas = FigureCanvasAgg(Figure(figsize=size, dpi=110, layout="constrained"))
        cells = canvas.figure.subplots(rows, columns, squeeze=False).flat
        for tile, cell in zip(tiles, cells, strict=False):
            note = textwrap.fill(tile.note, 36)
            cell.set(xticks=[], yticks=[], title=tile.title)
            cell.set_xlabel(note, fontsize=8)
            cell.spines[:].set(visible=tile.framed, color=ABNORMAL, linewidth=3)
            if tile.picture.value:
                cell.imshow(Image.open(io.BytesIO(tile.picture.value), formats=["PNG"]))
        for cell in cells:
            cell.axis("off")
        canvas.draw()
        return png(canvas)


class Curves:
    """Histogram of the scores and ROC curve of a run, and the threshold in both.

    What does not move with the threshold is drawn once a run.
    """

    def __init__(self):
        with matplotlib.rc_context(STYLE):
            self._canvas = FigureCanvasAgg(Figure(figsize=(9.6, 2.5), dpi=125))
            figure = self._canvas.figure
            self._scores, self._roc = figure.subplots(1, 2, width_ratios=(3, 1))
            figure.subplots_adjust(left=0.055, right=0.985, bottom=0.19, top=0.88, wspace=0.16)
            axes, none = self._scores, ([0], [0, 1])
            kinds = {"normal": (NORMAL, "//"), "abnormal": (ABNORMAL, None)}
            kinds |= {"label unknown": (HELD_OUT, None)}
            self._bars = [
                axes.stairs(*none, fill=True, alpha=0.5, color=c, hatch=h, label=f"test, {name}")
                for name, (c, h) in kinds.items()
            ]
            (self._held,) = axes.plot([], [], "|", ms=10, color="black", label="held-out normal")
            self._line = axes.axvline(0, color="black", ls="--", lw=1.2, label="threshold")
            axes.set(xlabel="score", ylabel="images")
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes = self._roc
            axes.plot([0, 1], [0, 1], color="black", lw=0.6, ls=":")
            (self._curve,) = axes.plot([], [], color="black", lw=1.2)
            (self._point,) = axes.plot([], [], "o", ms=8, color=ABNORMAL, mec="black")
            ticks, ends = (0, 0.5, 1), (-0.03, 1.03)
            axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=ends, ylim=ends)
            axes.set(xticks=ticks, yticks=ticks)
            words = "no ROC curve:\ntest labels are not known"
            self._no_roc = self._roc.text(0.5, 0.5, words, ha="center", va="center")
        self._marks = []
        for moving in (self._line, self._point):
            moving.set_animated(True)
        layout = {"width": "100%", "max_width": "1200px"}
        self.picture = widgets.Image(format="png", layout=layout)

    def show(self, test: pd.DataFrame, held: np.ndarray, low: float, high: float) -> None:
        """Take a run: its test images, rows with score and label, and held-out normals (n,)."""
        self._test, label = test, test["label"]
        edges, most = np.linspace(low, high, 41), 1
        for bars, rows in zip(self._bars, (label == 0, label == 1, label.isna()), strict=True):
            counts = np.histogram(test["score"][rows], edges)[0]
            bars.set_data(counts, edges)
            bars.set_visible(bool(rows.any()))
            most = max(most, counts.max())
        self._held.set_data(held, np.zeros(len(held)))
        self._scores.set(xlim=(low, high), ylim=(0, 1.05 * most))
        marks = [bars for bars in self._bars if bars.get_visible()] + [self._held, self._line]
        if marks != self._marks:
            self._marks = marks
            above = dict(loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=len(marks))
            self._scores.legend(handles=marks, fontsize=8, borderpad=0, frameon=False, **above)
        has_roc = {0, 1} <= set(label.dropna())
        self._no_roc.set_visible(not has_roc)
        for line in (self._curve, self._point):
            line.set_visible(has_roc)
        if has_roc:
            self._curve.set_data(*_roc(test))
        self._canvas.draw()
        self._still = self._canvas.copy_from_bbox(self._canvas.figure.bbox)

    def move(self, cut: float) -> None:
        """Draw the threshold at its place."""
        self._line.set_xdata([cut, cut])
        if self._point.get_visible():
            n = decided(self._test, cut)
            false, true = (n[f"{name} above"] / n[name] for name in ("normal", "abnormal"))
            self._point.set_data([false], [true])
        self._canvas.restore_region(self._still)
        for moving in (self._line, self._point):
            moving.axes.draw_artist(moving)
        self.picture.value = png(self._canvas)


def _roc(test: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every threshold, from none above to all."""
    labels, scores = test["label"].to_numpy(int), test["score"].to_numpy()
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    return false, true


class View(widgets.VBox):
    """What a view of a selection returns: widgets below each other, under the page's own style.

    tiles: those of its pictures that may be drawn; picture: of a view that has but one.
    """

    tiles: list[Tile] = []
    picture: widgets.Image | None = None

    def __init__(self, *children: widgets.Widget):
        super().__init__([*children, Style()])
        self.add_class("nblib")

    def __repr__(self) -> str:
        return "a widget for JupyterLab"

    def still(self) -> display.Image | None:
        """The view's pictures as they now look, as one; None where there are none."""
        if self.picture:
            return display.Image(self.picture.value, width=900) if self.picture.value else None
        shown = [tile for tile in self.tiles if tile.layout.display != "none"]
        return display.Image(together(shown)) if shown else None


STATIC = Path(__file__).parent / "static"
CSS = (
    f":root {{ --nblib-normal: {NORMAL}; --nblib-abnormal: {ABNORMAL}; }}\n"
    + (STATIC / "explore.css").read_text()
)


class Style(anywidget.AnyWidget):
    """Nothing to see: it brings the style sheet into a page that shows a view alone."""

    _css = CSS
    _esm = "export default { render() {} };"


class Ranking(anywidget.AnyWidget):
    """A page of a list of images; a click, or the arrow keys, choose one."""

    rows = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)
    page = traitlets.Int(0).tag(sync=True)
    pages = traitlets.Int(1).tag(sync=True)

    _esm = (STATIC / "ranking.js").read_text()


class Canvas(anywidget.AnyWidget):
    """A picture on which a rectangle can be dragged; it is reported while it grows."""

    png = traitlets.Bytes().tag(sync=True)
    size = traitlets.Int(64).tag(sync=True)
    """Pixels of the image along each side, in which the rectangle is counted."""

    rectangle = traitlets.List(traitlets.Int()).tag(sync=True)
    """left, top, width, height; empty for none."""

    ready = traitlets.Bool(True).tag(sync=True)

    _esm = (STATIC / "canvas.js").read_text()


class Timer(anywidget.AnyWidget):
    """A clock in the browser, which ticks while it is in the page and not stopped."""

    ticks = traitlets.Int().tag(sync=True)
    seconds = traitlets.Float(2.0).tag(sync=True)

    _css = CSS
    _esm = (STATIC / "timer.js").read_text()


class User:
    """Tells what a user changes from what a view sets itself, inside of `with user.waits:`."""

    def __init__(self):
        self._setting = False

    @property
    @contextlib.contextmanager
    def waits(self):
        self._setting = True
        try:
            yield
        finally:
            self._setting = False

    def changes(self, control: widgets.Widget, name: str, answer: Callable) -> None:
        """Call answer(change) when a user changes a trait of a control."""
        control.observe(lambda change: None if self._setting else answer(change), name)


def threshold(own: float, scores: np.ndarray) -> widgets.FloatSlider:
    """A slider over the range of some scores, that begins at a run's own threshold."""
    values = np.append(scores, own)
    step = (np.ptp(values) or max(abs(own), 1e-6)) / 1000
    return widgets.FloatSlider(
        own,
        # The run's own threshold lies on a step: the browser rounds to them.
        min=own - step * np.ceil((own - values.min()) / step + 20),
        max=own + step * np.ceil((values.max() - own) / step + 20),
        step=step,
        description="threshold",
        readout_format=".4g",
        style={"description_width": "initial"},
        layout={"flex": "1 1 320px", "max_width": "1000px"},
    )


def wrapped(*children) -> widgets.Box:
    """Side by side, in as many lines as the width needs."""
    flow = {"display": "flex", "flex_flow": "row wrap", "align_items": "flex-start"}
    return widgets.Box(children, layout=flow | {"width": "100%"})


def tile_grid(width: int, *tiles: "Tile", columns: str = "auto-fit") -> widgets.Box:
    """Tiles of one width, at least so many pixels, in as many columns as there is room for."""
    columns = f"repeat({columns}, minmax({width}px, 1fr))"
    grid = {"display": "grid", "grid_template_columns": columns, "grid_gap": "8px 10px"}
    return widgets.Box(tiles, layout=grid | {"width": "100%", "align_items": "flex-start"})


def dropdown(description: str, width: str, options: tuple = ()) -> widgets.Dropdown:
    style, layout = {"description_width": "initial"}, {"width": width}
    return widgets.Dropdown(options=options, description=description, style=style, layout=layout)


def slider(kind: type, description: str, **range) -> widgets.Widget:
    style = {"description_width": "initial"}
    return kind(description=description, min=0, style=style, layout={"width": "300px"}, **range)


def words(text: str) -> str:
    return f"<p>{html.escape(text)}</p>" if text else ""


def html_table(lines: list[list[str]]) -> str:
    """Cells of HTML, a line each."""
    rows = ("".join(f"<td>{cell}</td>" for cell in line) for line in lines)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def print_where_no_widget_shows(text: str) -> None:
    """JupyterLab names its session to the kernels that it starts, and shows the widget."""
    if not os.environ.get("JPY_SESSION_NAME"):
        print(text)
