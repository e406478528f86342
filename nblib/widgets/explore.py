"""Widgets for JupyterLab: finished runs to look into, and a training to watch. Nothing here writes.

    explorer(data, budget, method, seed)    the finished runs on the disk, one at a time
    watch()                                 the curves of trainings in progress

What a widget shows can be had as a still picture (`still`), which an executed copy keeps.
"""

import contextlib
import functools
import importlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from IPython import display
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nblib import figures, metrics
from nblib.data import datasets
from nblib.data.datasets import DatasetError
from nblib.data.labels import load_labels
from nblib.figures import map_limit
from nblib.files import root
from nblib.methods.catalogue import METHODS, entry
from nblib.methods.method import Detection, Method, detect_all
from nblib.training import runs
from nblib.training.budgets import BUDGETS, arguments
from nblib.training.runs import Run
from nblib.widgets import panels

ROWS = 14
"""Images on a page of the list."""

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
        return runs.run_folder(self.data, self.budget, self.method, self.seed)


def finished() -> list[Key]:
    """The finished base runs on the disk, in order: set, budget, method, seed."""
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
    held = run.held_out
    cut = run.metrics.get("threshold")
    if cut is not None:
        return cut, f"fixed by {len(held)} held-out normals for 95 % specificity"
    if len(held):
        few = f"the 95th percentile of {len(held)} held-out normals, too few to promise anything"
        return float(np.quantile(held, 0.95)), few
    return float(run.scores["score"].median()), "the median of all scores: no normals were held out"


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
        # Swin and the pretrained features take a second to import it: not when a patch is drawn.
        threading.Thread(target=importlib.import_module, args=("timm",), daemon=True).start()

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
        return display.Image(panels.together(shown)) if shown else None

    # Made once

    def _make(self) -> None:
        widths = {"set": "190px", "budget": "150px", "method": "270px", "seed": "100px"}
        self.data, self.budget, self.method, self.seed = (
            panels.dropdown(name, width) for name, width in widths.items()
        )
        self.again = widgets.Button(
            icon="refresh", tooltip="look for runs again", layout={"width": "38px"}
        )
        self.said, self._about = "", widgets.HTML()
        self.threshold, self._threshold_line = widgets.FloatSlider(), panels.wrapped()
        self.back = widgets.Button(description="back to the run's own", layout={"width": "170px"})
        self._numbers, self._curves = widgets.HTML(), panels.Curves()
        self.narrowed = panels.dropdown("show", "200px", NARROWED)
        self.ranking, self._chosen_words = panels.Ranking(), widgets.HTML()
        self._views = [panels.Tile() for _ in range(4)]
        self.opacity = panels.slider(widgets.FloatSlider, "opacity", value=0.5, max=1.0, step=0.05)
        self.outlined = widgets.Checkbox(
            True, description="outline lesions", indent=False, layout={"width": "auto"}
        )
        self.others: dict[str, widgets.ToggleButton] = {}
        self._other_buttons = panels.wrapped()
        self._other_tiles = panels.tile_grid(210, columns="auto-fill")
        self._compared: list[panels.Tile] = []
        self.canvas, self._pad = panels.Canvas(), panels.Picture()
        self.brightness = panels.slider(widgets.IntSlider, "brightness", value=255, max=255)
        self.clear = widgets.Button(description="clear", layout={"width": "80px"})
        self._patch_words = widgets.HTML()
        self._patched = [panels.Tile() for _ in range(3)]
        self._scored: tuple[Detection, Detection] | None = None

        for name in CONTROLS:
            self._on(getattr(self, name), "value", self._run_chosen)
        self.again.on_click(lambda _: self._look_again())
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
                panels.wrapped(self.opacity, self.outlined),
                panels.tile_grid(190, *self._views),
            ],
            layout={"flex": "1 1 400px"},
        )
        pad = widgets.VBox(
            [widgets.HTML('<div class="nblib-title">drag a rectangle here</div>'), self.canvas],
            layout={"flex": "0 0 300px", "margin": "0 16px 8px 0"},
        )
        patched = widgets.VBox(
            [self._patch_words, panels.tile_grid(140, *self._patched)], layout={"flex": "1 1 400px"}
        )
        return widgets.VBox(
            [
                widgets.HTML("<h4>The threshold</h4>"),
                self._threshold_line,
                self._numbers,
                self._curves.picture,
                widgets.HTML("<h4>The test images, and one of them</h4>"),
                panels.wrapped(ranking, image),
                widgets.HTML("<h4>The same image through other methods</h4>"),
                self._other_buttons,
                self._other_tiles,
                widgets.HTML("<h4>The same image with a patch painted onto it</h4>"),
                panels.wrapped(self.brightness, self.clear),
                panels.wrapped(pad, patched),
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
            self._about.value = panels.words(self.said)
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
        choice = panels.wrapped(self.data, self.budget, self.method, self.seed, self.again)
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
        self._test, self._held = run.test, run.held_out
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
        self._about.value = panels.words(self.said)
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
        cut = self._start[0]
        values = np.concatenate([self._test["score"], self._held, [cut]])
        step = (np.ptp(values) or max(abs(cut), 1e-6)) / 1000
        # The run's own threshold lies on a step: the browser rounds to them.
        low = cut - step * np.ceil((cut - values.min()) / step + 20)
        high = cut + step * np.ceil((values.max() - cut) / step + 20)
        # A new slider: the browser moves the handle of an old one into the new range, and sends
        # where it came to lie as if somebody had dragged it.
        self.threshold.close()
        self.threshold = widgets.FloatSlider(
            cut,
            min=low,
            max=high,
            step=step,
            description="threshold",
            readout_format=".4g",
            style={"description_width": "initial"},
            layout={"flex": "1 1 320px", "max_width": "1000px"},
        )
        self._on(self.threshold, "value", self._threshold_moved)
        self._threshold_line.children = [self.threshold, self.back]
        self._curves.show(self._test, self._held, low, high)

    def _read_set(self, data: str, size: int, channels: int):
        """Images and masks of a set, and where they cannot be had why, in words."""
        try:
            colour = "grey" if channels == 1 else "rgb"
            dataset = datasets.load(self._paths.get(data, data), size, colour)
            return dataset, load_labels(dataset).masks, ""
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
        self._numbers.value = self._counted(cut) + panels.words(words)
        self._list(to_chosen)
        self._describe()
        self._say_scores()
        if self._compared and self.ranking.chosen >= 0:
            self._compared[0].frame(self._test["score"][self.ranking.chosen] > cut)

    def _counted(self, cut: float) -> str:
        n = panels.decided(self._test, cut)
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
            self._chosen_words.value = panels.words("This run has scored no test images.")
            return
        row = self._test.loc[self.ranking.chosen]
        words = [f"{row['image']}: score {row['score']:.4g}"]
        if np.isfinite(row["percentile"]):
            words[0] += f", above {row['percentile']:.0f} % of the held-out normals"
        words += [f"label {({0: 'normal', 1: 'abnormal'}).get(row['label'], 'not known')}"]
        words += [f"called {self._called(row['score'])}."]
        self._chosen_words.value = panels.words("; ".join(words))

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
                button.layout = {"width": "auto", "border_left": f"6px solid {entry(name).colour}"}
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
        self._compared += [panels.Tile() for _ in names[len(self._compared) :]]
        for tile, name in zip(self._compared, names, strict=True):
            self._show_method(tile, self.key._replace(method=name))
        if list(self._other_tiles.children) != self._compared:
            self._other_tiles.children = self._compared

    def _show_method(self, tile: panels.Tile, key: Key) -> None:
        run, image = self._run(key), self._test["image"][self.ranking.chosen]
        row = self._test if key == self.key else run.test
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
        optimises = entry(self.key.method).kind.optimises
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
        self._patch_words.value = panels.words(words)
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
        before, after = (found.score[0] for found in self._scored)
        lines = [["", "score", "above held-out normals", "called"]]
        for name, score in (("before", before), ("painted", after)):
            rank = metrics.percentile(np.array([score]), self._held)[0]
            words = f"{rank:.0f} %" if np.isfinite(rank) else "–"
            lines.append([name, f"<b>{score:.4g}</b>", words, self._called(score)])
        stored, words = self._test["score"][self.ranking.chosen], ""
        if not np.isclose(stored, before, rtol=0.01):
            words = f"The run has stored another score for this image, {stored:.4g}."
        self._patch_words.value = panels.html_table(lines) + panels.words(words)

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
            third.show("change", map=after - before, limit=limit, colours=panels.DIFFERENCE)


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
        self.choice, self.said = panels.dropdown("training", "420px"), ""
        self.timer = panels.Timer()
        self._words = widgets.HTML()
        self.picture = widgets.Image(format="png", layout={"width": "100%", "max_width": "860px"})
        self._drawn, self._refreshing = None, False
        self.timer.observe(lambda _: self.refresh(), "ticks")
        self.choice.observe(lambda _: None if self._refreshing else self.refresh(), "value")
        super().__init__([panels.wrapped(self.choice, self.timer), self._words, self.picture])
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
        self._words.value = panels.words(self.said)
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
        self.picture.value = panels.png(canvas)

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
