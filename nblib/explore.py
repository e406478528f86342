"""Widgets for JupyterLab: finished runs to look into, and a training to watch. Nothing here writes.

    explorer(data, budget, method, seed)    the finished runs on the disk, one at a time
    watch()                                 the curves of trainings in progress

Pictures are PNG bytes of a `Figure` that is kept: changing what it shows costs a tenth of building
it anew. What a widget shows can be had as a still picture (`still`), which an executed copy keeps.
"""

import contextlib
import functools
import html
import io
import os
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anywidget
import ipywidgets as widgets
import matplotlib
import numpy as np
import pandas as pd
import torch
import traitlets
from IPython import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from nblib import datasets, figures, metrics, runs
from nblib.budgets import BUDGETS, arguments, method_class
from nblib.datasets import DatasetError
from nblib.figures import ABNORMAL, COLOURS, HELD_OUT, NORMAL, STYLE, map_limit
from nblib.files import root
from nblib.methods import METHODS
from nblib.methods.method import Detection, Method, detect_all
from nblib.runs import Run

ROWS = 14
"""Images on a page of the list."""

SECONDS = 2
"""Between two looks at a training in progress."""

DIFFERENCE = "PuOr_r"
"""Colours of what may be positive and negative."""

CONTROLS = ("data", "budget", "method", "seed")
NARROWED = ("all", "called abnormal", "called normal", "missed", "false alarms")


class Key(NamedTuple):
    """Which base run: the set's name, budget, method and seed."""

    data: str
    budget: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method} on {figures.shown(self.data)}, {self.budget}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        return runs.folder(self.data, self.budget, self.method, self.seed)


def finished() -> list[Key]:
    """The finished base runs on the disk, by set, budget, method (in METHODS' order) and seed."""
    return _runs_with("metrics.json")


def in_progress() -> list[Key]:
    """The base runs that have begun to train and are not finished, the last saved one first.

    A training that was cut off is among them: files alone do not tell.
    """
    done = set(finished())
    begun = [key for key in _runs_with("config.json") if key not in done]
    training = [key for key in begun if "steps" in arguments(key.method, key.budget)]
    return sorted(training, key=_saved_at, reverse=True)


def _runs_with(file: str) -> list[Key]:
    found = []
    for path in (root() / "data" / "runs").glob(f"*/*/*/base/seed*/{file}"):
        data, budget, method, _, seed = path.parent.parts[-5:]
        seed = seed.removeprefix("seed")
        # Not those that were set aside, nor of methods that are no more.
        if seed.isdecimal() and budget in BUDGETS and method in METHODS:
            found.append(Key(data, budget, method, int(seed)))
    budget_order, method_order = list(BUDGETS), list(METHODS)
    return sorted(
        found, key=lambda k: (k[0], budget_order.index(k[1]), method_order.index(k[2]), k[3])
    )


def _saved_at(key: Key) -> float:
    """When the last checkpoint of a training was written, or when it began."""
    for name in ("checkpoint.pt", "config.json"):
        with contextlib.suppress(FileNotFoundError):
            return (key.folder / name).stat().st_mtime
    return 0.0


def start(run: Run) -> tuple[float, str]:
    """The threshold that a run begins with, and where it comes from, in words."""
    scores = run.scores
    held = scores.loc[scores["part"] == "held_out_normal", "score"].to_numpy()
    cut = run.metrics.get("threshold")
    if cut is not None:
        return cut, f"fixed by {len(held)} held-out normals for 95 % specificity"
    if len(held):
        few = f"the 95th percentile of {len(held)} held-out normals, too few to promise anything"
        return float(np.quantile(held, 0.95)), few
    return float(scores["score"].median()), "the median of all scores: no normals were held out"


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


def painted(
    image: np.ndarray, rectangle: tuple[int, int, int, int], brightness: int, size: int
) -> np.ndarray:
    """A copy of an image (C, H, W) with a rectangle painted over it.

    rectangle: left, top, width, height in pixels of the image at size x size; the image itself
    may be larger. brightness: 0 to 255, in every channel.
    """
    scale = image.shape[-1] / size
    left, top, width, height = rectangle
    rows, columns = (
        slice(round(begin * scale), round((begin + length) * scale))
        for begin, length in ((top, height), (left, width))
    )
    copy = image.copy()
    copy[:, rows, columns] = brightness
    return copy


class Arrays(dict):
    """The arrays of an .npz file by name, as float32, each read when it is first asked for."""

    def __init__(self, file: Path):
        self.file = file
        with np.load(file) as found:
            self.names = found.files

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __missing__(self, name: str) -> np.ndarray:
        with np.load(self.file) as found:
            self[name] = found[name].astype(np.float32)
        return self[name]


class LazyRun(Run):
    """A run of which no more is read than is shown."""

    @functools.cached_property
    def maps(self) -> Arrays:
        return Arrays(self.folder / "maps.npz")


@contextlib.contextmanager
def _one_thread():
    """Small images gain nothing from threads, which beside other processes wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# ---------------------------------------------------------------------------------------- pictures


def _png(canvas: FigureCanvasAgg) -> bytes:
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
        return _png(self._canvas)


class Tile(widgets.VBox):
    """A picture between its title and a note; `show` draws it anew, or hides what has none."""

    def __init__(self):
        self._drawing = Picture()
        self._title, self._note = widgets.HTML(), widgets.HTML()
        self.picture = widgets.Image(format="png", layout={"width": "100%"})
        super().__init__([self._title, self.picture, self._note], layout={"max_width": "400px"})
        self._what, self.title, self.note, self.framed = {}, "", "", False

    def show(self, title: str, note: str = "", framed: bool = False, **drawn) -> None:
        """drawn: see `Picture.draw`; framed: whether the image is called abnormal."""
        self.frame(framed)
        what = drawn | {"title": title, "note": note}
        if _equal(what, self._what):
            return
        self._what, self.title, self.note = what, title, note
        has_picture = drawn.get("image") is not None or drawn.get("map") is not None
        bar = _bar(**drawn) if drawn.get("map") is not None else ""
        self._title.value = f'<div class="nblib-title">{html.escape(title)}</div>'
        self._note.value = f'{bar}<div class="nblib-note">{html.escape(note)}</div>'
        self.picture.layout.display = None if has_picture else "none"
        self.picture.value = self._drawing.draw(**drawn) if has_picture else b""

    def frame(self, framed: bool) -> None:
        """Draw or take away the frame that says abnormal."""
        self.framed = framed
        (self.picture.add_class if framed else self.picture.remove_class)("nblib-framed")

    def hide(self, hidden: bool = True) -> None:
        self.layout.display = "none" if hidden else None


def _equal(one: dict, other: dict) -> bool:
    """Whether two dictionaries, of arrays among other things, are the same."""
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def _bar(limit: float, colours: str = "viridis", **_) -> str:
    """The colour scale of a map, from end to end, as HTML."""
    stops = ",".join(map(to_hex, matplotlib.colormaps[colours](np.linspace(0, 1, 9))))
    low = f"{-limit:.3g}" if colours == DIFFERENCE else "0"
    return (
        f'<div class="nblib-bar">{low}<i style="background:linear-gradient(90deg,{stops})"></i>'
        f"{limit:.3g}</div>"
    )


def _together(tiles: list[Tile], columns: int = 4) -> bytes:
    """Tiles with their titles and notes, as one PNG."""
    columns = min(columns, len(tiles))
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
                cell.imshow(Image.open(io.BytesIO(tile.picture.value)))
        for cell in cells:
            cell.axis("off")
        canvas.draw()
        return _png(canvas)


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
        self.picture.value = _png(self._canvas)


def _roc(test: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every threshold, from none above to all."""
    cuts = np.append(np.sort(test["score"].unique())[::-1], -np.inf)
    normal, abnormal = (np.sort(test.loc[test["label"] == label, "score"]) for label in (0, 1))
    above = [1 - np.searchsorted(v, cuts, side="right") / len(v) for v in (normal, abnormal)]
    return above[0], above[1]


# ------------------------------------------------------------------------------- widgets of our own


CSS = f"""
.nblib, .nblib .widget-box {{ overflow: visible; }}
.nblib h4 {{ margin: 14px 0 2px; border-top: 1px solid var(--jp-border-color2, #ccc);
  padding-top: 8px; font-size: 15px; }}
.nblib .widget-html-content, .nblib p {{ font-size: 13px; line-height: 1.5; }}
.nblib p {{ margin: 0 0 2px; }}
.nblib .widget-image {{ box-sizing: border-box; margin: 0; border-radius: 0; }}
.nblib .nblib-framed {{ outline: 4px solid {ABNORMAL}; outline-offset: -4px; }}
.nblib-title {{ font-size: 13px; font-weight: 600; line-height: 1.3; }}
.nblib-note {{ font-size: 12px; line-height: 1.3; min-height: 1.3em; }}
.nblib-bar {{ display: flex; gap: 5px; font-size: 12px; line-height: 1.5;
  align-items: center; }}
.nblib-bar i {{ flex: 1; height: 8px; }}
.nblib .widget-html b {{ font-size: 17px; }}
.nblib-timer label {{ font-size: 13px; line-height: 32px; }}
.nblib-timer input {{ margin: 0 6px 0 2px; vertical-align: middle; }}
.nblib-count {{ display: inline-block; white-space: nowrap; margin-right: 22px; }}
.nblib .widget-html td {{ padding: 0 26px 0 0; text-align: left; vertical-align: baseline; }}
.nblib-ranking table {{ border-collapse: collapse; width: 100%; outline: none;
  font-size: 12px; font-variant-numeric: tabular-nums; table-layout: fixed; }}
.nblib-ranking td, .nblib-ranking th {{ padding: 3px 4px; text-align: right;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }}
.nblib-ranking td:first-child {{ padding-left: 0; }}
.nblib-ranking .words {{ text-align: left; }}
.nblib-ranking .name {{ direction: rtl; }}  /* the end of a long name tells more */
.nblib-ranking tbody tr {{ cursor: pointer; height: 25px;
  border-top: 1px solid var(--jp-border-color3, #eee); }}
.nblib-ranking tbody tr:hover {{ background: var(--jp-layout-color2, #eee); }}
.nblib-ranking tbody tr.chosen {{ background: var(--jp-brand-color3, #bde); }}
.nblib-ranking table:focus tr.chosen {{ box-shadow: inset 3px 0 var(--jp-brand-color1, #27c); }}
.nblib-ranking tr.cut {{ border-top: 2px dashed var(--jp-ui-font-color0, #000); }}
.nblib-ranking i {{ display: inline-block; width: 9px; height: 9px; margin-right: 5px;
  border-radius: 50%; border: 1px solid #8888; }}
.nblib-ranking i.normal {{ background: {NORMAL}; }}
.nblib-ranking i.abnormal {{ background: {ABNORMAL}; }}
.nblib-ranking .wrong {{ font-weight: 700; }}
.nblib-ranking footer {{ display: flex; gap: 4px; align-items: center; margin-top: 6px;
  font-size: 12px; }}
.nblib-ranking footer span {{ flex: 1; text-align: center; }}
.nblib-ranking button, .nblib-ranking button:disabled {{ min-width: 34px; height: 26px;
  border: none; cursor: pointer; background: var(--jp-layout-color2, #eee);
  color: var(--jp-ui-font-color1, #000); }}
.nblib-ranking button:disabled {{ opacity: 0.4; cursor: default; }}
.nblib-canvas {{ position: relative; line-height: 0; touch-action: none; user-select: none; }}
.nblib-canvas img {{ width: 100%; }}
.nblib-canvas.ready {{ cursor: crosshair; }}
.nblib-canvas div {{ position: absolute; box-sizing: border-box; pointer-events: none;
  outline: 1px dashed white; border: 1px dashed black; }}
"""


class Ranking(anywidget.AnyWidget):
    """A page of a list of images; a click, or the arrow keys, choose one."""

    rows = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)
    page = traitlets.Int(0).tag(sync=True)
    pages = traitlets.Int(1).tag(sync=True)

    _css = CSS

    _esm = """
    const columns = [["", "8%"], ["image", "24%", "words"], ["score", "16%"], ["pct.", "9%"],
      ["label", "24%", "words"], ["called", "19%", "words"]];
    function made(tag, text, name) {
      const element = document.createElement(tag);
      element.textContent = text ?? "";
      if (name) element.className = name;
      return element;
    }
    function render({ model, el }) {
      el.classList.add("nblib-ranking");
      el.dataset.lmSuppressShortcuts = "true";  // or the arrow keys would move through cells
      const table = made("table"), head = made("thead"), body = made("tbody");
      table.tabIndex = 0;
      const line = made("tr");
      for (const [text, width, name] of columns) {
        const cell = made("th", text, name);
        cell.style.width = width;
        line.append(cell);
      }
      head.append(line);
      table.append(head, body);
      const foot = made("footer"), where = made("span");
      const step = (text, title, page) => {
        const button = made("button", text);
        button.title = title;
        button.onclick = () => { model.set("page", page()); model.save_changes(); };
        return button;
      };
      const now = () => model.get("page"), last = () => model.get("pages") - 1;
      const back = [step("«", "first page", () => 0), step("‹", "page before", () => now() - 1)];
      const on = [step("›", "next page", () => now() + 1), step("»", "last page", last)];
      foot.append(...back, where, ...on);
      el.append(table, foot);
      function draw() {
        let before = null;
        body.replaceChildren(...model.get("rows").map((row) => {
          const line = made("tr");
          line.dataset.image = row.image;
          line.classList.toggle("chosen", row.index === model.get("chosen"));
          line.classList.toggle("cut", before === "abnormal" && row.called === "normal");
          before = row.called;
          const label = made("td", "", "words");
          label.append(made("i", "", row.label), row.label);
          const called = made("td", row.called, row.wrong ? "words wrong" : "words");
          const name = made("td", "", "words name");
          name.title = row.image;
          name.append(made("bdi", row.image.replace(/[.][^.]+$/, "")));
          line.append(made("td", row.rank), name, made("td", row.score),
            made("td", row.percentile), label, called);
          line.onclick = () => {
            model.set("chosen", row.index);
            model.save_changes();
            table.focus();
          };
          return line;
        }));
        where.textContent = `page ${now() + 1} of ${last() + 1}`;
        for (const button of back) button.disabled = now() <= 0;
        for (const button of on) button.disabled = now() >= last();
      }
      table.onkeydown = (event) => {
        const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        model.send({ move: by });
      };
      model.on("change:rows change:chosen change:pages", draw);
      draw();
    }
    export default { render };
    """


class Canvas(anywidget.AnyWidget):
    """A picture on which a rectangle can be dragged; it is reported while it grows."""

    png = traitlets.Bytes().tag(sync=True)
    size = traitlets.Int(64).tag(sync=True)
    """Pixels of the image along each side, in which the rectangle is counted."""

    rectangle = traitlets.List(traitlets.Int()).tag(sync=True)
    """left, top, width, height; empty for none."""

    ready = traitlets.Bool(True).tag(sync=True)

    _esm = """
    function render({ model, el }) {
      el.classList.add("nblib-canvas");
      const picture = document.createElement("img"), box = document.createElement("div");
      picture.draggable = false;
      el.append(picture, box);
      let url = null, from = null;
      function draw() {
        if (url) URL.revokeObjectURL(url);
        url = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
        picture.src = url;
        el.classList.toggle("ready", model.get("ready"));
      }
      function place() {
        const [left, top, width, height] = model.get("rectangle");
        box.hidden = width === undefined;
        const share = (value) => `${(100 * value) / model.get("size")}%`;
        Object.assign(box.style, { left: share(left), top: share(top),
          width: share(width), height: share(height) });
      }
      function at(event) {
        const r = picture.getBoundingClientRect(), n = model.get("size");
        const pixel = (share) => Math.min(n - 1, Math.max(0, Math.floor(share * n)));
        return [(event.clientX - r.left) / r.width, (event.clientY - r.top) / r.height].map(pixel);
      }
      function report(event) {
        const to = at(event);
        const rectangle = [Math.min(from[0], to[0]), Math.min(from[1], to[1]),
          Math.abs(from[0] - to[0]) + 1, Math.abs(from[1] - to[1]) + 1];
        if (String(rectangle) === String(model.get("rectangle"))) return;
        model.set("rectangle", rectangle);
        model.save_changes();
      }
      el.onpointerenter = () => model.send({ touched: true });
      el.onpointerdown = (event) => {
        if (!model.get("ready") || event.button !== 0) return;
        from = at(event);
        el.setPointerCapture(event.pointerId);
      };
      el.onpointermove = (event) => { if (from) report(event); };
      el.onpointerup = (event) => { if (from) report(event); from = null; };
      el.onpointercancel = () => { from = null; };
      model.on("change:png change:ready", draw);
      model.on("change:rectangle change:size", place);
      draw();
      place();
      return () => URL.revokeObjectURL(url);
    }
    export default { render };
    """


class Timer(anywidget.AnyWidget):
    """A clock in the browser, which ticks while it is in the page and not stopped."""

    ticks = traitlets.Int().tag(sync=True)
    seconds = traitlets.Float(SECONDS).tag(sync=True)

    _css = CSS
    _esm = """
    function render({ model, el }) {
      el.classList.add("nblib-timer");
      const label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      label.append(box, `look again every ${model.get("seconds")} s`);
      el.append(label);
      const clock = setInterval(() => {
        if (!box.checked) return;
        model.set("ticks", model.get("ticks") + 1);
        model.save_changes();
      }, 1000 * model.get("seconds"));
      return () => clearInterval(clock);
    }
    export default { render };
    """


def _wrapped(*children) -> widgets.Box:
    """Side by side, in as many lines as the width needs."""
    flow = {"display": "flex", "flex_flow": "row wrap", "align_items": "flex-start"}
    return widgets.Box(children, layout=flow | {"width": "100%"})


def _gallery(width: int, *tiles: "Tile", columns: str = "auto-fit") -> widgets.Box:
    """Tiles of one width, at least so many pixels, in as many columns as there is room for."""
    columns = f"repeat({columns}, minmax({width}px, 1fr))"
    grid = {"display": "grid", "grid_template_columns": columns, "grid_gap": "8px 10px"}
    return widgets.Box(tiles, layout=grid | {"width": "100%", "align_items": "flex-start"})


def _dropdown(description: str, width: str, options: tuple = ()) -> widgets.Dropdown:
    style, layout = {"description_width": "initial"}, {"width": width}
    return widgets.Dropdown(options=options, description=description, style=style, layout=layout)


def _slider(kind: type, description: str, **range) -> widgets.Widget:
    style = {"description_width": "initial"}
    return kind(description=description, min=0, style=style, layout={"width": "300px"}, **range)


def _words(text: str) -> str:
    return f"<p>{html.escape(text)}</p>" if text else ""


def _table(lines: list[list[str]]) -> str:
    """Cells of HTML, a line each."""
    rows = ("".join(f"<td>{cell}</td>" for cell in line) for line in lines)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _print_where_no_widget_shows(words: str) -> None:
    """JupyterLab names its session to the kernels that it starts, and shows the widget."""
    if not os.environ.get("JPY_SESSION_NAME"):
        print(words)


# ---------------------------------------------------------------------------------- the explorer


def explorer(
    data: str | Path = "phantom", budget: str = "quick", method: str = "sagan", seed: int = 0
) -> "Explorer":
    """A widget over the finished runs on the disk, beginning with the one that is named.

    data: the set's name, or the path of its folder. Where that run is not finished it begins with
    the nearest one that is, and says so; with no finished run at all it says what makes one.
    """
    made = Explorer(data, budget, method, seed)
    _print_where_no_widget_shows(made.said)
    return made


class Explorer(widgets.VBox):
    """See `explorer`. What is chosen stands in the controls, which can be set from code as well.

    data, budget, method, seed: which run. threshold. ranking: the list, of which `chosen` is the
    position of an image in the test part, and which `narrowed` shortens. opacity, outlined: of the
    pictures. others: a button for each method to compare with. canvas: its `rectangle` is the
    patch, painted in `brightness`. said: what is said of the run, in words.
    """

    def __init__(self, data: str | Path, budget: str, method: str, seed: int):
        self._paths = {Path(data).name: data}
        self._wanted = Key(Path(data).name, budget, method, seed)
        self._settling = False
        self._shown: Key | None = None
        self._forget()
        self._make()
        self._whole = self._laid_out()
        super().__init__()
        self.add_class("nblib")
        self._look()

    def __repr__(self) -> str:
        return self.said

    # From code

    @property
    def key(self) -> Key:
        """The run that is shown."""
        return Key(*(getattr(self, name).value for name in CONTROLS))

    @property
    def cut(self) -> float:
        """The threshold; within half a step of the slider the run's own."""
        chosen, own = self.threshold.value, self._start[0]
        return own if abs(chosen - own) <= self.threshold.step / 2 else chosen

    @property
    def listed(self) -> pd.DataFrame:
        """The images of the list, highest score first, a row each, and what they are called."""
        if not self._shown:
            return pd.DataFrame()
        table = self._test.sort_values("score", ascending=False, kind="stable")
        above, label = table["score"] > self.cut, table["label"]
        kept = {
            "all": pd.Series(True, table.index),
            "called abnormal": above,
            "called normal": ~above,
            "missed": ~above & (label == 1),
            "false alarms": above & (label == 0),
        }[self.narrowed.value]
        words = label.map({0: "normal", 1: "abnormal"}).fillna("unknown")
        table = table[["image", "score", "percentile"]].assign(
            label=words, called=np.where(above, "abnormal", "normal")
        )
        table.insert(0, "rank", np.arange(1, len(table) + 1))
        return table[kept.astype(bool)]

    def compare(self, *methods: str) -> None:
        """Add methods to those that are compared; what has no run here is left out."""
        with self._settled():
            for name in methods:
                if name in self.others:
                    self.others[name].value = True
        if self._shown:
            self._draw_methods()

    def paint(self, left: int, top: int, width: int, height: int, brightness: int = 255) -> None:
        """Paint a patch on the image that is shown, in pixels of the set's size."""
        if self._shown and self.canvas.ready:
            with self._settled():
                self.brightness.value = brightness
                self.canvas.rectangle = [left, top, width, height]
            self._draw_patch()

    def still(self, part: str) -> display.Image | None:
        """A part as it now looks, as a picture: threshold, image, methods or patch.

        None where there is nothing to show.
        """
        tiles = {"image": self._views, "methods": self._compared, "patch": self._patched}
        if part != "threshold" and part not in tiles:
            raise ValueError(f"part is '{part}', but must be threshold, {', '.join(tiles)}.")
        if not self._shown:
            return None
        if part == "threshold":
            return display.Image(self._curves.picture.value, width=900)
        shown = [tile for tile in tiles[part] if tile.layout.display != "none"]
        return display.Image(_together(shown)) if shown else None

    # Made once

    def _make(self) -> None:
        self.data, self.budget = _dropdown("set", "190px"), _dropdown("budget", "150px")
        self.method, self.seed = _dropdown("method", "270px"), _dropdown("seed", "100px")
        self.again = widgets.Button(
            icon="refresh", tooltip="look for runs again", layout={"width": "38px"}
        )
        self.said, self._about = "", widgets.HTML()
        self.threshold = widgets.FloatSlider(
            description="threshold",
            readout_format=".4g",
            style={"description_width": "initial"},
            layout={"flex": "1 1 320px", "max_width": "1000px"},
        )
        self.back = widgets.Button(description="back to the run's own", layout={"width": "170px"})
        self._numbers, self._curves = widgets.HTML(), Curves()
        self.narrowed = _dropdown("show", "200px", NARROWED)
        self.ranking, self._chosen_words = Ranking(), widgets.HTML()
        self._views = [Tile() for _ in range(4)]
        self.opacity = _slider(widgets.FloatSlider, "opacity", value=0.5, max=1.0, step=0.05)
        self.outlined = widgets.Checkbox(
            True, description="outline lesions", indent=False, layout={"width": "auto"}
        )
        self.others: dict[str, widgets.ToggleButton] = {}
        self._other_buttons, self._other_tiles = _wrapped(), _gallery(210, columns="auto-fill")
        self._compared: list[Tile] = []
        self.canvas, self._pad = Canvas(), Picture()
        self.brightness = _slider(widgets.IntSlider, "brightness", value=255, max=255)
        self.clear = widgets.Button(description="clear", layout={"width": "80px"})
        self._patch_words = widgets.HTML()
        self._patched = [Tile() for _ in range(3)]
        self._scored: tuple[Detection, Detection] | None = None

        for name in CONTROLS:
            self._on(getattr(self, name), "value", self._run_chosen)
        self.again.on_click(lambda _: self._look_again())
        self._on(self.threshold, "value", self._threshold_moved)
        self.back.on_click(lambda _: self.threshold.set_trait("value", self._start[0]))
        self._on(self.narrowed, "value", lambda: self._list(to_chosen=True))
        self._on(self.ranking, "page", self._list)
        self._on(self.ranking, "chosen", self._redraw)
        self.ranking.on_msg(lambda _, message, __: self._step(message["move"]))
        self._on(self.opacity, "value", self._draw_overlay)
        self._on(self.outlined, "value", self._redraw)
        self._on(self.canvas, "rectangle", self._draw_patch)
        self._on(self.brightness, "value", self._draw_patch)
        self.canvas.on_msg(lambda *_: self._warm())
        self.clear.on_click(lambda _: self.canvas.set_trait("rectangle", []))

    def _on(self, control: widgets.Widget, name: str, answer: Callable[[], None]) -> None:
        """Answer a change by the user, but none that the explorer itself makes."""
        control.observe(lambda _: None if self._settling else answer(), name)

    @contextlib.contextmanager
    def _settled(self):
        """The explorer itself sets controls, and draws afterwards."""
        before, self._settling = self._settling, True
        try:
            yield
        finally:
            self._settling = before

    def _laid_out(self) -> widgets.VBox:
        ranking = widgets.VBox(
            [self.narrowed, self.ranking],
            layout={"flex": "0 0 390px", "margin": "0 16px 0 0"},
        )
        image = widgets.VBox(
            [
                self._chosen_words,
                _wrapped(self.opacity, self.outlined),
                _gallery(190, *self._views),
            ],
            layout={"flex": "1 1 400px"},
        )
        pad = widgets.VBox(
            [widgets.HTML('<div class="nblib-title">drag a rectangle here</div>'), self.canvas],
            layout={"flex": "0 0 300px", "margin": "0 16px 8px 0"},
        )
        patched = widgets.VBox(
            [self._patch_words, _gallery(140, *self._patched)], layout={"flex": "1 1 400px"}
        )
        return widgets.VBox(
            [
                widgets.HTML("<h4>The threshold</h4>"),
                _wrapped(self.threshold, self.back),
                self._numbers,
                self._curves.picture,
                widgets.HTML("<h4>The test images, and one of them</h4>"),
                _wrapped(ranking, image),
                widgets.HTML("<h4>The same image through other methods</h4>"),
                self._other_buttons,
                self._other_tiles,
                widgets.HTML("<h4>The same image with a patch painted onto it</h4>"),
                _wrapped(self.brightness, self.clear),
                _wrapped(pad, patched),
            ]
        )

    # Which run

    def _forget(self) -> None:
        """Read runs, sets and methods anew when they are next needed."""
        self._run = functools.lru_cache(40)(lambda key: LazyRun(key.folder))
        self._set = functools.lru_cache(4)(self._read_set)
        self._method = functools.lru_cache(4)(self._read_method)
        self._unpainted = functools.lru_cache(64)(self._detect)

    def _look_again(self) -> None:
        self._wanted = self._shown or self._wanted
        self._forget()
        self._look()

    def _look(self) -> None:
        """Find the finished runs, and show the wanted one or the nearest to it."""
        self._keys, wanted = finished(), self._wanted
        command = f"make figures DATA={self._paths.get(wanted.data, wanted.data)} "
        command += f"BUDGET={wanted.budget}"
        if not self._keys:
            self._shown = None
            self.said = f"There is no finished run under {root()} yet. Make some: {command}"
            self._about.value = _words(self.said)
            self.children = [self._about, self.again]
            return
        # As many of set, budget, method and seed as can be had, in this order.
        nearest = max(
            self._keys, key=lambda key: [a == b for a, b in zip(key, wanted, strict=True)]
        )
        missing = ""
        if nearest != wanted:
            missing = f"There is no finished run of {wanted} ({command} SEEDS={wanted.seed}). "
        self._narrow(nearest)
        self._show_run(missing)
        choice = _wrapped(self.data, self.budget, self.method, self.seed, self.again)
        self.children = [choice, self._about, self._whole]

    def _run_chosen(self) -> None:
        self._narrow(self.key)
        self._show_run()

    def _narrow(self, wanted: Key) -> None:
        """Offer in each control what there is with the values of those before it."""
        keys = self._keys
        with self._settled():
            for place, (name, value) in enumerate(zip(CONTROLS, wanted, strict=True)):
                control, options = getattr(self, name), list(dict.fromkeys(k[place] for k in keys))
                if list(control.options) != options:
                    control.options = options
                control.value = value if value in options else options[0]
                keys = [key for key in keys if key[place] == control.value]

    def _show_run(self, missing: str = "") -> None:
        """Show the run that the controls name; first what needs no images."""
        before, self._shown = self._shown, self.key
        run = self._run(self.key)
        self._test = _test_part(run)
        self._held = run.scores.loc[run.scores["part"] == "held_out_normal", "score"].to_numpy()
        self._start = start(run)
        with self._settled():
            self._set_range()
            self.canvas.rectangle, self._scored = [], None
            same_images = before and before.data == self.key.data
            if not same_images or self.ranking.chosen >= len(self._test):
                # The list begins with it.
                self.ranking.chosen = int(self._test["score"].argmax()) if len(self._test) else -1
        self._moved(to_chosen=True)
        config = run.config
        self._dataset, self._masks, trouble = self._set(
            self.key.data, config["size"], config["channels"]
        )
        if self._dataset and list(self._dataset.test.names) != list(self._test["image"]):
            self._dataset = self._masks = None
            trouble = f"The test images of {self.key.data} are no longer those of this run."
        self.said = " ".join(filter(None, [missing + self._of_the_run(), trouble]))
        self._about.value = _words(self.said)
        self._offer_others()
        self._redraw()

    def _of_the_run(self) -> str:
        numbers = self._run(self.key).metrics
        words = f"{self.key}: {len(self._test)} test images, {len(self._held)} held-out normals"
        if "auc" in numbers:
            low, high = numbers["auc_interval"]
            words += f"; AUC {numbers['auc']:.2f}, 95 % interval {low:.2f} to {high:.2f}."
        else:
            words += "; test labels are not known."
        if self.key.budget == "smoke":
            words += " The budget smoke tests software: its numbers mean nothing."
        return words

    def _set_range(self) -> None:
        slider, cut = self.threshold, self._start[0]
        values = np.concatenate([self._test["score"], self._held, [cut]])
        step = (np.ptp(values) or max(abs(cut), 1e-6)) / 1000
        # The run's own threshold lies on a step: the browser rounds to them.
        low = cut - step * np.ceil((cut - values.min()) / step + 20)
        high = cut + step * np.ceil((values.max() - cut) / step + 20)
        with slider.hold_sync():
            # At no moment may the minimum lie above the maximum.
            slider.max = max(slider.max, high)
            slider.min, slider.max, slider.step, slider.value = low, high, step, cut
        self._curves.show(self._test, self._held, low, high)

    def _read_set(self, data: str, size: int, channels: int):
        """Images and masks of a set, and where they cannot be had why, in words."""
        try:
            colour = "grey" if channels == 1 else "rgb"
            dataset = datasets.load(self._paths.get(data, data), size, colour)
            return dataset, datasets.load_labels(dataset).masks, ""
        except DatasetError as error:
            return None, None, f"Its images are not shown: {error.problems[0]}"

    # The threshold

    def _threshold_moved(self) -> None:
        # The browser rounds what it is given, and sends it back.
        if self.cut != self._drawn_cut:
            self._moved()

    def _moved(self, to_chosen: bool = False) -> None:
        cut, (own, why) = self.cut, self._start
        self._drawn_cut = cut
        self._curves.move(cut)
        self.back.disabled = cut == own
        words = f"The threshold is {why}."
        if cut != own:
            words = "Moved by hand: a threshold that was chosen by looking is no result."
        rank = metrics.percentile(np.array([cut]), self._held)[0]
        if np.isfinite(rank):
            words += f" It lies above {rank:.0f} % of the held-out normals."
        self._numbers.value = self._counted(cut) + _words(words)
        self._list(to_chosen)
        self._describe()
        self._say_scores()
        if self._compared and self.ranking.chosen >= 0:
            self._compared[0].frame(self._test["score"][self.ranking.chosen] > cut)

    def _counted(self, cut: float) -> str:
        n = decided(self._test, cut)
        shares = {
            "sensitivity": (n["abnormal above"], n["abnormal"]),
            "specificity": (n["normal"] - n["normal above"], n["normal"]),
            "called abnormal": (n["above"], n["images"]),
        }
        return "".join(
            f'<span class="nblib-count">{name} <b>{part / whole:.2f}</b> ({part} of {whole})</span>'
            for name, (part, whole) in shares.items()
            if whole
        )

    # The list

    def _list(self, to_chosen: bool = False) -> None:
        """Show a page of the list; the one with the chosen image where that is asked for."""
        table, ranking = self.listed, self.ranking
        pages, page = max(1, -(-len(table) // ROWS)), ranking.page
        if to_chosen:
            place = np.flatnonzero(table.index == ranking.chosen)
            page = int(place[0]) // ROWS if len(place) else 0
        page = min(max(page, 0), pages - 1)
        rows = [
            {
                "index": row.Index,
                "rank": row.rank,
                "image": row.image,
                "score": f"{row.score:.4g}",
                "percentile": f"{row.percentile:.0f}" if np.isfinite(row.percentile) else "–",
                "label": row.label,
                "called": row.called,
                "wrong": row.label not in ("unknown", row.called),
            }
            for row in table.iloc[page * ROWS : (page + 1) * ROWS].itertuples()
        ]
        with self._settled(), ranking.hold_sync():
            ranking.rows, ranking.page, ranking.pages = rows, page, pages

    def _step(self, by: int) -> None:
        """Choose the next image of the list, or the one before."""
        order = self.listed.index
        place = np.flatnonzero(order == self.ranking.chosen)
        place = place[0] + by if len(place) else 0
        if 0 <= place < len(order):
            self.ranking.chosen = int(order[place])
            self._list(to_chosen=True)

    # One image

    def _redraw(self) -> None:
        """Draw everything that shows the chosen image."""
        self._describe()
        self._draw_views()
        self._draw_methods()
        self._draw_patch()

    def _describe(self) -> None:
        if self.ranking.chosen < 0:
            self._chosen_words.value = _words("This run has scored no test images.")
            return
        row = self._test.loc[self.ranking.chosen]
        words = [f"{row['image']}: score {row['score']:.4g}"]
        if np.isfinite(row["percentile"]):
            words[0] += f", above {row['percentile']:.0f} % of the held-out normals"
        words += [f"label {({0: 'normal', 1: 'abnormal'}).get(row['label'], 'not known')}"]
        words += [f"called {self._called(row['score'])}."]
        self._chosen_words.value = _words("; ".join(words))

    def _called(self, score: float) -> str:
        return "abnormal" if score > self.cut else "normal"

    def _stored(self, key: Key, name: str) -> np.ndarray | None:
        """What a run has stored of the chosen image, if it has: its map, or its restored image."""
        chosen, maps = self.ranking.chosen, self._run(key).maps
        return maps[name][chosen] if name in maps and chosen >= 0 else None

    def _chosen(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The chosen image (C, H, W), and its mask where there is one to outline."""
        if self._dataset is None or self.ranking.chosen < 0:
            return None, None
        mask = None
        if self._masks is not None and self.outlined.value:
            mask = self._masks[self.ranking.chosen]
        return self._dataset.test.images[self.ranking.chosen], mask

    def _draw_views(self) -> None:
        (image, mask), (seen, restored, heat, _) = self._chosen(), self._views
        made, map = (self._stored(self.key, f"test_{name}") for name in ("restored", "map"))
        for tile, drawn in ((seen, image), (restored, made), (heat, map)):
            tile.hide(drawn is None)
        outlined = mask is not None and bool(mask.any())
        seen.show("input", "outlined: lesion (mask or box)" * outlined, image=image, mask=mask)
        restored.show("restored", image=made)
        if map is not None:
            words = "the scale ends above 99.5 % of the pixels of held-out normals"
            heat.show("heat map", words, map=map, limit=self._limit(self.key), mask=mask)
        self._draw_overlay()

    def _draw_overlay(self) -> None:
        (image, mask), tile = self._chosen(), self._views[-1]
        map = self._stored(self.key, "test_map")
        tile.hide(image is None or map is None)
        if image is not None and map is not None:
            limit, opacity = self._limit(self.key), self.opacity.value
            tile.show("overlay", image=image, map=map, limit=limit, opacity=opacity, mask=mask)

    def _limit(self, key: Key) -> float:
        return map_limit(self._run(key))

    # Several methods

    def _offer_others(self) -> None:
        """A button for each method that has a run of this set, budget and seed."""
        here = [key for key in self._keys if key._replace(method=self.key.method) == self.key]
        names = [key.method for key in here]
        if names != list(self.others):
            pressed = [name for name, button in self.others.items() if button.value]
            self.others = {}
            for name in names:
                button = widgets.ToggleButton(name in pressed, description=name)
                button.layout = {"width": "auto", "border_left": f"6px solid {COLOURS[name]}"}
                self._on(button, "value", self._draw_methods)
                self.others[name] = button
            self._other_buttons.children = list(self.others.values())
        for name, button in self.others.items():
            button.disabled = name == self.key.method

    def _draw_methods(self) -> None:
        """The chosen image's heat map by the run that is shown and by those that were added."""
        pressed = [name for name, button in self.others.items() if button.value]
        names = list(dict.fromkeys([self.key.method, *pressed]))
        if names == [self.key.method] or self.ranking.chosen < 0:
            names = []  # its map is shown above
        self._compared = self._compared[: len(names)]
        self._compared += [Tile() for _ in names[len(self._compared) :]]
        for tile, name in zip(self._compared, names, strict=True):
            self._show_method(tile, self.key._replace(method=name))
        if list(self._other_tiles.children) != self._compared:
            self._other_tiles.children = self._compared

    def _show_method(self, tile: Tile, key: Key) -> None:
        run, image = self._run(key), self._test["image"][self.ranking.chosen]
        row = self._test if key == self.key else _test_part(run)
        row = row.loc[self.ranking.chosen] if self.ranking.chosen < len(row) else {"image": None}
        if row["image"] != image:
            tile.show(key.method, "has scored other images")
            return
        cut = self.cut if key == self.key else start(run)[0]
        words = f"called {'abnormal' if row['score'] > cut else 'normal'}"
        if np.isfinite(row["percentile"]):
            words = f"percentile {row['percentile']:.0f}; {words}"
        map, drawn = self._stored(key, "test_map"), {}
        if map is not None:
            drawn = {"map": map, "limit": self._limit(key), "mask": self._chosen()[1]}
        else:
            words = f"no heat map; {words}"
        tile.show(key.method, words, row["score"] > cut, **drawn)

    # A patch

    def _warm(self) -> None:
        """Load the method when the mouse comes near, before a rectangle is dragged."""
        if self.canvas.ready:
            with contextlib.suppress(OSError, RuntimeError, DatasetError):
                self._unpainted(self.key, self.ranking.chosen)

    def _read_method(self, key: Key) -> tuple[Method, np.ndarray]:
        """A method, and the test images at the size that it sees."""
        method = self._run(key).method()
        return method, self._dataset.at(method.image_size or self._dataset.size).test.images

    def _detect(
        self, key: Key, chosen: int, rectangle: list[int] | None = None, brightness: int = 0
    ) -> Detection:
        """What a method says of a test image, or of a painted one; a batch of one."""
        method, images = self._method(key)
        image = images[chosen]
        if rectangle:
            image = painted(image, rectangle, brightness, self._dataset.size)
        with _one_thread():
            return detect_all(method, image[None])

    def _draw_patch(self) -> None:
        image, rectangle = self._chosen()[0], self.canvas.rectangle
        optimises = method_class(self.key.method).optimises
        self.canvas.ready = image is not None and not optimises
        self._draw_canvas(image, rectangle)
        self._scored = None
        words = "The run's own method scores what is painted while the rectangle grows."
        if image is None:
            words = "There is no image to paint on."
        elif optimises:
            words = (
                f"{self.key.method} optimises for each image that it scores, for seconds to "
                "minutes: what is shown above is its stored result, and no painted image is scored."
            )
        elif rectangle:
            key, chosen = self.key, self.ranking.chosen
            try:
                before = self._unpainted(key, chosen)
                after = self._detect(key, chosen, rectangle, self.brightness.value)
                self._scored = before, after
            except (OSError, RuntimeError, DatasetError) as error:
                words = f"The method of this run cannot be loaded: {str(error).splitlines()[0]}"
        self._patch_words.value = _words(words)
        self._say_scores()
        self._draw_change()

    def _draw_canvas(self, image: np.ndarray | None, rectangle: list[int]) -> None:
        if image is None:
            self.canvas.png = b""
            return
        if rectangle:
            image = painted(image, rectangle, self.brightness.value, self._dataset.size)
        self.canvas.size = self._dataset.size
        self.canvas.png = self._pad.draw(image=image)

    def _say_scores(self) -> None:
        """The scores before and after painting, and what they are called at the threshold."""
        if not self._scored:
            return
        before, after = (next(iter(found.scores.values()))[0] for found in self._scored)
        lines = [["", "score", "above held-out normals", "called"]]
        for name, score in (("before", before), ("painted", after)):
            rank = metrics.percentile(np.array([score]), self._held)[0]
            words = f"{rank:.0f} %" if np.isfinite(rank) else "–"
            lines.append([name, f"<b>{score:.4g}</b>", words, self._called(score)])
        stored, words = self._test["score"][self.ranking.chosen], ""
        if not np.isclose(stored, before, rtol=0.01):
            words = f"The run has stored another score for this image, {stored:.4g}."
        self._patch_words.value = _table(lines) + _words(words)

    def _draw_change(self) -> None:
        """The maps before and after painting, and their difference."""
        has_maps = self._scored is not None and self._scored[0].map is not None
        for tile in self._patched:
            tile.hide(not has_maps)
        if has_maps:
            (before, after), limit = (found.map[0] for found in self._scored), self._limit(self.key)
            first, second, third = self._patched
            first.show("heat map before", map=before, limit=limit)
            second.show("heat map, painted", map=after, limit=limit)
            third.show("change", map=after - before, limit=limit, colours=DIFFERENCE)


def _test_part(run: Run) -> pd.DataFrame:
    """The rows of the test images, in their order, numbered from 0."""
    return run.scores[run.scores["part"] == "test"].reset_index(drop=True)


# ---------------------------------------------------------------------------- a training, watched


def watch() -> "Watch":
    """A widget with the curves of a run that is training, which looks again every few seconds."""
    made = Watch()
    _print_where_no_widget_shows(made.said)
    return made


class Watch(widgets.VBox):
    """See `watch`. `choice` holds the key of a run; `refresh` looks at the disk once.

    The timer is the browser's: where nobody looks, nothing runs in the kernel.
    """

    def __init__(self):
        self.choice, self.said = _dropdown("training", "420px"), ""
        self.timer = Timer()
        self._words = widgets.HTML()
        self.picture = widgets.Image(format="png", layout={"width": "100%", "max_width": "860px"})
        self._drawn, self._refreshing = None, False
        self.timer.observe(lambda _: self.refresh(), "ticks")
        self.choice.observe(lambda _: None if self._refreshing else self.refresh(), "value")
        super().__init__([_wrapped(self.choice, self.timer), self._words, self.picture])
        self.add_class("nblib")
        self.refresh()

    def __repr__(self) -> str:
        return self.said

    def refresh(self) -> None:
        """Look at the disk, and draw what has been saved since the last time."""
        keys, chosen = in_progress(), self.choice.value
        if chosen and chosen not in keys:
            keys.append(chosen)  # it has finished meanwhile
        if set(keys) != {key for _, key in self.choice.options}:
            self._refreshing = True
            self.choice.options = [(str(key), key) for key in keys]
            self.choice.value = chosen or keys[0]
            self._refreshing = False
        if keys:
            history, self.said = _training(self.choice.value)
            self._draw(history)
        else:
            self.said = f"No training is in progress under {root()}; one that begins shows up here."
        self._words.value = _words(self.said)
        self.choice.layout.display = None if keys else "none"
        self.picture.layout.display = None if self.picture.value else "none"

    def _draw(self, history: pd.DataFrame) -> None:
        key = self.choice.value
        if (key, len(history)) == self._drawn:
            return
        self._drawn = key, len(history)
        if history.empty:
            self.picture.value = b""
            return
        figure = figures.training_curves(history, str(key))
        figure.set_dpi(150)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self.picture.value = _png(canvas)

    def still(self) -> display.Image | None:
        """The curves as they now are; None where there are none."""
        return display.Image(self.picture.value, width=860) if self.picture.value else None


def _training(key: Key) -> tuple[pd.DataFrame, str]:
    """The history of a run as last saved, and how far it has come, in words."""
    if (key.folder / "metrics.json").exists():
        words = f"{key} has finished: the explorer finds it by the button beside its seed."
        return Run(key.folder).history, words
    try:
        # Mapped: of the file only what is looked at is read, and that is not the weights.
        saved = torch.load(
            key.folder / "checkpoint.pt", map_location="cpu", weights_only=True, mmap=True
        )
    except FileNotFoundError:
        return pd.DataFrame(), f"{key} has begun; its curves come with its first checkpoint."
    steps, ago = arguments(key.method, key.budget)["steps"], max(0, time.time() - _saved_at(key))
    words = f"step {saved['step']} of {steps} after {saved['seconds']:.0f} s, saved {ago:.0f} s ago"
    return pd.DataFrame(saved["rows"]), f"{key}: {words}."
