"""Views of a selection: each is a function, and can be shown alone in a notebook's cell.

A view builds its widgets, says what they change in the selection, and follows what it draws. One
of your own is made the same way: `selection.follow(draw, "image")` calls draw() when there is
another image, or another run.
"""

import contextlib

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets

from nblib import metrics
from nblib.data.datasets import DatasetError
from nblib.methods.catalogue import entry
from nblib.widgets import panels
from nblib.widgets.found import Key, Patch, nearest, painted, start
from nblib.widgets.panels import Tile, View
from nblib.widgets.selection import NARROWED, Selection

ROWS = 14
"""Images on a page of the list."""

CANNOT_LOAD = (OSError, RuntimeError, DatasetError)
"""What is raised where a run's method or its images are gone."""


def choice(selection: Selection) -> View:
    """Which run: set, budget, method and seed, each offering what there is with those before it."""
    widths = {"set": "190px", "budget": "150px", "method": "270px", "seed": "100px"}
    controls = [panels.dropdown(name, width) for name, width in widths.items()]
    again = widgets.Button(icon="refresh", tooltip="look for runs again", layout={"width": "38px"})
    about, line, user = widgets.HTML(), panels.wrapped(), panels.User()

    def chosen(change) -> None:
        place = controls.index(change.owner)
        wanted = [*selection.key[:place], change.new, *selection.key[place + 1 :]]
        selection.key = nearest(selection.keys, Key(*wanted))

    def draw() -> None:
        say()
        with user.waits:
            for place, control in enumerate(controls):
                here = [key for key in selection.keys if key[:place] == selection.key[:place]]
                offered = tuple(dict.fromkeys(key[place] for key in here))
                if control.options != offered:
                    control.options = offered
                control.value = selection.key[place]

    def say(_=None) -> None:
        about.value = panels.words(selection.said)
        line.children = [*controls, again] if selection.key else [again]

    for control in controls:
        user.changes(control, "value", chosen)
    again.on_click(lambda _: selection.look())
    selection.follow(draw)
    selection.observe(say, "looked")  # without a run as well
    say()
    return View(line, about)


def scores(selection: Selection) -> View:
    """The threshold, to be moved: among the scores, on the ROC curve, and what it then decides."""
    line, numbers, curves = panels.wrapped(), widgets.HTML(), panels.Curves()
    back = widgets.Button(description="back to the run's own", layout={"width": "170px"})
    back.on_click(lambda _: selection.set_trait("threshold", selection.start[0]))
    slider = widgets.FloatSlider()

    def dragged(change) -> None:
        # The browser rounds what it is given to a step, and sends it back.
        half, own = slider.step / 2, selection.start[0]
        value = own if abs(change.new - own) <= half else change.new
        if abs(value - selection.threshold) > half:
            selection.threshold = value

    def another_run() -> None:
        nonlocal slider
        # A new slider: the browser moves the handle of an old one into the new range, and sends
        # where it came to lie as if somebody had dragged it.
        slider.close()
        test, held = selection.test, selection.run.held_out
        slider = panels.threshold(selection.start[0], np.concatenate([test["score"], held]))
        slider.observe(dragged, "value")
        line.children = [slider, back]
        curves.show(test, held, slider.min, slider.max)

    def moved() -> None:
        cut, (own, why) = selection.threshold, selection.start
        slider.value = cut
        curves.move(cut)
        back.disabled = cut == own
        words = f"The threshold is {why}."
        if cut != own:
            words = "Moved by hand: a threshold that was chosen by looking is no result."
        rank = metrics.percentile(np.array([cut]), selection.run.held_out)[0]
        if np.isfinite(rank):
            words += f" It lies above {rank:.0f} % of the held-out normals."
        numbers.value = _shares(selection.test, cut) + panels.words(words)

    selection.follow(another_run)
    selection.follow(moved, "threshold")
    view = View(line, numbers, curves.picture)
    view.picture = curves.picture
    return view


def _shares(test: pd.DataFrame, cut: float) -> str:
    """Sensitivity, specificity and share called abnormal at a threshold, as HTML."""
    n = panels.decided(test, cut)
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


def ranking(selection: Selection) -> View:
    """The list of test images, to choose one from by a click or the arrow keys."""
    narrowed, pages = panels.dropdown("show", "200px", NARROWED), panels.Ranking()
    traitlets.link((selection, "narrowed"), (narrowed, "value"))
    traitlets.link((selection, "image"), (pages, "chosen"))

    def turn() -> None:
        """To the page with the chosen image."""
        place = np.flatnonzero(selection.listed.index == selection.image)
        pages.page = int(place[0]) // ROWS if len(place) else 0

    def draw(_=None) -> None:
        table = selection.listed
        with pages.hold_sync():
            pages.pages = max(1, -(-len(table) // ROWS))
            pages.page = min(max(pages.page, 0), pages.pages - 1)
            pages.rows = [
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
                for row in table[pages.page * ROWS :][:ROWS].itertuples()
            ]

    def walk(_, message, __) -> None:
        """To the next image of the list, or the one before."""
        order = selection.listed.index
        place = np.flatnonzero(order == selection.image)
        place = place[0] + message["move"] if len(place) else 0
        if 0 <= place < len(order):
            selection.image = int(order[place])

    pages.observe(draw, "page")
    pages.on_msg(walk)
    selection.follow(turn, "image", "narrowed")
    selection.follow(draw, "threshold", "narrowed")
    return View(narrowed, pages)


def image(selection: Selection) -> View:
    """The chosen image: input, what was restored, heat map, and the map over the image."""
    words, tiles = widgets.HTML(), [Tile() for _ in range(4)]
    opacity = panels.slider(widgets.FloatSlider, "opacity", value=0.5, max=1.0, step=0.05)
    outlined = widgets.Checkbox(
        description="outline lesions", indent=False, layout={"width": "auto"}
    )
    traitlets.link((selection, "opacity"), (opacity, "value"))
    traitlets.link((selection, "outlined"), (outlined, "value"))

    def describe() -> None:
        words.value = panels.words(_described(selection))

    def draw() -> None:
        pixels, mask, run = selection.pixels, selection.mask, selection.run
        restored, map = (_of(stored, selection) for stored in (run.test_restored, run.test_map))
        seen, made, heat, over = tiles
        for tile in tiles:
            tile.hide()
        if pixels is not None:
            note = "outlined: lesion (mask or box)" if mask is not None and mask.any() else ""
            seen.show("input", note, image=pixels, mask=mask)
        if restored is not None:
            made.show("restored", image=restored)
        if map is not None:
            note = "the scale ends above 99.5 % of the pixels of held-out normals"
            heat.show("heat map", note, map=map, limit=selection.limit, mask=mask)
        if pixels is not None and map is not None:
            at = {"opacity": selection.opacity, "limit": selection.limit}
            over.show("overlay", image=pixels, map=map, mask=mask, **at)

    selection.follow(describe, "image", "threshold")
    selection.follow(draw, "image", "outlined", "opacity")
    view = View(words, panels.wrapped(opacity, outlined), panels.tile_grid(190, *tiles))
    view.tiles = tiles
    return view


def _described(selection: Selection) -> str:
    """Score, percentile, label and decision of the chosen image, in words."""
    row = selection.row
    if row is None:
        return "This run has scored no test images."
    words = [f"{row['image']}: score {row['score']:.4g}"]
    if np.isfinite(row["percentile"]):
        words[0] += f", above {row['percentile']:.0f} % of the held-out normals"
    words += [f"label {({0: 'normal', 1: 'abnormal'}).get(row['label'], 'not known')}"]
    words += [f"called {_called(row['score'], selection.threshold)}."]
    return "; ".join(words)


def methods(selection: Selection) -> View:
    """The chosen image's heat map by the run and by other methods, each with its own threshold."""
    buttons, grid = panels.wrapped(), panels.tile_grid(210, columns="auto-fill")
    view = View(buttons, grid)

    def pressed(name: str, value: bool) -> None:
        others = [other for other in selection.beside if other != name]
        selection.beside = (*others, name) if value else tuple(others)

    def button(name: str) -> widgets.ToggleButton:
        layout = {"width": "auto", "border_left": f"6px solid {entry(name).colour}"}
        made = widgets.ToggleButton(name in selection.beside, description=name, layout=layout)
        made.observe(lambda change: pressed(name, change.new), "value")
        return made

    def offer() -> None:
        """A button for each method that has a run of this set, budget and seed."""
        here = [k.method for k in selection.keys if k == selection.key._replace(method=k.method)]
        if here != [made.description for made in buttons.children]:
            buttons.children = [button(name) for name in here]
        for made in buttons.children:
            made.disabled = made.description == selection.key.method
            if made.value != (made.description in selection.beside):
                made.value = made.description in selection.beside

    def draw() -> None:
        here = [made.description for made in buttons.children]
        others = [
            name for name in here if name in selection.beside and name != selection.key.method
        ]
        # Alone, the run's own map is shown above.
        names = [selection.key.method, *others] if others and selection.image >= 0 else []
        view.tiles = view.tiles[: len(names)] + [Tile() for _ in names[len(view.tiles) :]]
        for tile, name in zip(view.tiles, names, strict=True):
            _show_method(tile, selection, selection.key._replace(method=name))
        if list(grid.children) != view.tiles:
            grid.children = view.tiles

    selection.follow(offer, "beside")
    selection.follow(draw, "beside", "image", "threshold", "outlined")
    return view


def _show_method(tile: Tile, selection: Selection, key: Key) -> None:
    """The chosen image as another run has seen it."""
    run, at = selection.read.run(key), selection.image
    if at >= len(run.test) or run.test["image"][at] != selection.row["image"]:
        tile.show(key.method, "has scored other images")
        return
    row, map = run.test.loc[at], _of(run.test_map, selection)
    called = _called(row["score"], selection.threshold if key == selection.key else start(run)[0])
    words = [f"percentile {row['percentile']:.0f}"] if np.isfinite(row["percentile"]) else []
    words = [*words, f"called {called}"]
    if map is None:
        tile.show(key.method, "; ".join(["no heat map", *words]), called == "abnormal")
        return
    drawn = {"map": map, "limit": selection.read.limit(key), "mask": selection.mask}
    tile.show(key.method, "; ".join(words), called == "abnormal", **drawn)


def patch(selection: Selection) -> View:
    """The chosen image with a patch dragged onto it, scored by the run's own method."""
    canvas, pad, words = panels.Canvas(), panels.Picture(), widgets.HTML()
    brightness = panels.slider(widgets.IntSlider, "brightness", value=255, max=255)
    clear = widgets.Button(description="clear", layout={"width": "80px"})
    tiles, user = [Tile() for _ in range(3)], panels.User()

    def dragged(_) -> None:
        is_patch = len(canvas.rectangle) == 4
        selection.patch = Patch(*canvas.rectangle, brightness.value) if is_patch else None

    def paint() -> None:
        pixels = selection.pixels
        canvas.ready = pixels is not None and not entry(selection.key.method).kind.optimises
        patch = selection.patch if canvas.ready else None
        with user.waits:
            canvas.rectangle = list(patch[:4]) if patch else []
            brightness.value = patch.brightness if patch else brightness.value
        if pixels is None:
            canvas.png = b""
            return
        canvas.size = selection.dataset.size
        canvas.png = pad.draw(painted(pixels, patch, canvas.size) if patch else pixels)

    def draw() -> None:
        words.value, maps = _patched(selection)
        for tile in tiles[len(maps) :]:
            tile.hide()
        for tile, (title, drawn) in zip(tiles, maps.items(), strict=False):
            tile.show(title, limit=selection.limit, **drawn)

    def warm(*_) -> None:
        """Load the method when the mouse comes near, before a rectangle is dragged."""
        if canvas.ready:
            with contextlib.suppress(*CANNOT_LOAD):
                selection.read.detect(selection.key, selection.image)

    user.changes(canvas, "rectangle", dragged)
    user.changes(brightness, "value", dragged)
    canvas.on_msg(warm)
    clear.on_click(lambda _: selection.set_trait("patch", None))
    selection.follow(paint, "image", "patch")
    selection.follow(draw, "image", "patch", "threshold")
    title = widgets.HTML('<div class="nblib-title">drag a rectangle here</div>')
    left = widgets.VBox([title, canvas], layout={"flex": "0 0 300px", "margin": "0 16px 8px 0"})
    right = widgets.VBox([words, panels.tile_grid(140, *tiles)], layout={"flex": "1 1 400px"})
    view = View(panels.wrapped(brightness, clear), panels.wrapped(left, right))
    view.tiles = tiles
    return view


def _patched(selection: Selection) -> tuple[str, dict[str, dict]]:
    """What the run's method says of the painted image: HTML, and maps by their titles."""
    key, image, patch = selection.key, selection.image, selection.patch
    words = "The run's own method scores what is painted while the rectangle grows."
    if selection.pixels is None:
        return panels.words("There is no image to paint on."), {}
    if entry(key.method).kind.optimises:
        words = (
            f"{key.method} optimises for each image that it scores, for seconds to minutes: what "
            "is shown above is its stored result, and no painted image is scored."
        )
    if not patch or entry(key.method).kind.optimises:
        return panels.words(words), {}
    try:
        before, after = selection.read.detect(key, image), selection.read.detect(key, image, patch)
    except CANNOT_LOAD as error:
        words = f"The method of this run cannot be loaded: {str(error).splitlines()[0]}"
        return panels.words(words), {}
    lines = [["", "score", "above held-out normals", "called"]]
    for name, found in (("before", before), ("painted", after)):
        rank = metrics.percentile(found.score, selection.run.held_out)[0]
        above = f"{rank:.0f} %" if np.isfinite(rank) else "–"
        called = _called(found.score[0], selection.threshold)
        lines.append([name, f"<b>{found.score[0]:.4g}</b>", above, called])
    stored, words = selection.row["score"], ""
    if not np.isclose(stored, before.score[0], rtol=0.01):
        words = f"The run has stored another score for this image, {stored:.4g}."
    maps = {}
    if before.map is not None:
        first, second = before.map[0], after.map[0]
        maps = {"heat map before": {"map": first}, "heat map, painted": {"map": second}}
        maps["change"] = {"map": second - first, "colours": panels.DIFFERENCE}
    return panels.html_table(lines) + panels.words(words), maps


def _called(score: float, cut: float) -> str:
    return "abnormal" if score > cut else "normal"


def _of(stored: np.ndarray | None, selection: Selection) -> np.ndarray | None:
    """Of what a run has stored of each test image, that of the chosen one."""
    return stored[selection.image] if stored is not None and selection.image >= 0 else None
