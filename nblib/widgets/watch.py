"""The curves of a run that another process trains."""

import time

import ipywidgets as widgets
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nblib import figures
from nblib.files import RunError, root
from nblib.training.budgets import arguments
from nblib.training.folder import CHECKPOINT, glance
from nblib.training.runs import Run
from nblib.widgets import panels
from nblib.widgets.found import Key, in_progress, saved_at


class Watch(panels.View):
    """Looks at the disk every few seconds. `choice` holds the key of a run; `refresh` looks once.

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
        super().__init__(panels.wrapped(self.choice, self.timer), self._words, self.picture)
        self.refresh()
        panels.print_where_no_widget_shows(self.said)

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
            try:
                history, self.said = training(self.choice.value)
            except RunError as error:
                history, self.said = pd.DataFrame(), str(error)
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


def training(key: Key) -> tuple[pd.DataFrame, str]:
    """The history of a run as last saved, and how far it has come, in words.

    Raises RunError where a file of it is damaged.
    """
    if (key.folder / "metrics.json").exists():
        words = f"{key} has finished: the explorer finds it by the button beside its seed."
        return Run(key.folder).history, words
    file = key.folder / CHECKPOINT
    if not file.exists():
        return pd.DataFrame(), f"{key} has begun; its curves come with its first checkpoint."
    saved = glance(file)
    steps, ago = arguments(key.method, key.budget)["steps"], max(0, time.time() - saved_at(key))
    words = f"step {saved['step']} of {steps} after {saved['seconds']:.0f} s, saved {ago:.0f} s ago"
    return pd.DataFrame(saved["rows"]), f"{key}: {words}."
