"""What is looked at. Set one of its values, and every view that shows it follows.

selection = Selection("phantom", "quick", "sagan", 0)
views.scores(selection)         # a view, shown in a cell; any number of them
selection.threshold = 0.12      # moves in all of them
"""

from pathlib import Path

import numpy as np
import pandas as pd
import traitlets

from nblib.data.datasets import Dataset
from nblib.files import root
from nblib.training.runs import Run
from nblib.widgets.found import Key, Patch, Reader, finished, nearest, start

NARROWED = ("all", "called abnormal", "called normal", "missed", "false alarms")


class Selection(traitlets.HasTraits):
    """A finished run, one of its test images, a threshold, and how they are looked at.

    data: the set's name, or the path of its folder. Where the named run is not finished, the
    nearest one that is stands in, and `said` says so; with no finished run at all `key` is None,
    and `said` says what makes one.

    Who draws it should `follow` it. Raises traitlets.TraitError for a run that is not finished,
    and for an image that is not there.
    """

    key = traitlets.Instance(Key, allow_none=True, help="which run is looked into")
    beside = traitlets.Tuple(help="names of methods that are shown beside it")
    image = traitlets.Int(-1, help="position of an image in the test part; -1 where there is none")
    threshold = traitlets.Float(help="above it an image is called abnormal")
    patch = traitlets.Instance(Patch, allow_none=True, help="what is painted onto the image")
    narrowed = traitlets.Enum(NARROWED, "all", help="which images are listed")
    outlined = traitlets.Bool(True, help="whether lesions are outlined")
    opacity = traitlets.Float(0.5, min=0.0, max=1.0, help="of a map that lies over an image")
    looked = traitlets.Int(0, help="how often the disk was looked at")

    def __init__(
        self,
        data: str | Path = "phantom",
        budget: str = "quick",
        method: str = "sagan",
        seed: int = 0,
    ):
        super().__init__()
        self._paths = {Path(data).name: data}
        self._wanted = Key(Path(data).name, budget, method, seed)
        self.look()

    def look(self) -> None:
        """Look at the disk (again): read everything anew, keep the run or take the nearest."""
        self.read, self.keys = Reader(self._paths), finished()
        if self.key:
            self._wanted = self.key
        key = nearest(self.keys, self._wanted) if self.keys else None
        if key == self.key:
            self._run_chosen()
        self.key = key
        self._missing = "" if key == self._wanted else self._how_to_make(self._wanted)
        self.looked += 1

    def follow(self, draw, *names: str) -> None:
        """Call draw() now and whenever the run or one of the named traits has changed.

        Each state is drawn once, in the order in which views began to follow: those of a new run
        are called for it before its threshold is moved. Without a run nothing is drawn.
        """
        names, drawn = ("looked", "key", *names), None

        def again(_=None):
            nonlocal drawn
            now = [getattr(self, name) for name in names]
            if self.key and now != drawn:
                drawn = now
                draw()

        self.observe(again)
        again()

    @traitlets.validate("key")
    def _is_finished(self, proposal):
        key = proposal["value"]
        if key and not (key.folder / "metrics.json").exists():
            raise traitlets.TraitError(f"There is no finished run of {key} under {root()}.")
        return key

    @traitlets.validate("image")
    def _is_there(self, proposal):
        image = proposal["value"]
        if not -1 <= image < len(self.test):
            raise traitlets.TraitError(f"There is no image {image} among {len(self.test)}.")
        return image

    @traitlets.observe("key")
    def _run_chosen(self, change=None) -> None:
        """A new run brings its own threshold; the image stays where the set does."""
        self._missing = ""
        if not self.key:
            return
        with self.hold_trait_notifications():
            self.threshold, self.patch = self.start[0], None
            before = change.old if change else self.key
            if not before or before.data != self.key.data or not 0 <= self.image < len(self.test):
                # The list begins with it.
                self.image = int(self.test["score"].argmax()) if len(self.test) else -1

    # Plain values of what is chosen

    @property
    def run(self) -> Run:
        return self.read.run(self.key)

    @property
    def test(self) -> pd.DataFrame:
        """The run's test images, a row each; empty without a run."""
        return self.run.test if self.key else pd.DataFrame()

    @property
    def row(self) -> pd.Series | None:
        """Of these the chosen one."""
        return self.test.loc[self.image] if self.image >= 0 else None

    @property
    def start(self) -> tuple[float, str]:
        """The run's own threshold, and where it comes from, in words."""
        return start(self.run)

    @property
    def dataset(self) -> Dataset | None:
        """The run's set, where its images can be had."""
        return self.read.images(self.key).dataset

    @property
    def pixels(self) -> np.ndarray | None:
        """The chosen image (C, H, W), uint8, where it can be had."""
        has_image = self.image >= 0 and self.dataset is not None
        return self.dataset.test.images[self.image] if has_image else None

    @property
    def mask(self) -> np.ndarray | None:
        """Its lesions (H, W), where they are known and to be outlined."""
        masks = self.read.images(self.key).masks
        has_mask = masks is not None and self.outlined and self.pixels is not None
        return masks[self.image] if has_mask else None

    @property
    def limit(self) -> float:
        """Where the colour scale of the run's heat maps ends; the same for all its images."""
        return self.read.limit(self.key)

    @property
    def listed(self) -> pd.DataFrame:
        """The images of the list, highest score first, a row each, and what they are called."""
        if not self.key:
            return pd.DataFrame()
        table = self.test.sort_values("score", ascending=False, kind="stable")
        above, label = table["score"] > self.threshold, table["label"]
        kept = {
            "all": pd.Series(True, table.index),
            "called abnormal": above,
            "called normal": ~above,
            "missed": ~above & (label == 1),
            "false alarms": above & (label == 0),
        }[self.narrowed]
        words = label.map({0: "normal", 1: "abnormal"}).fillna("unknown")
        table = table[["image", "score", "percentile"]].assign(
            label=words, called=np.where(above, "abnormal", "normal")
        )
        table.insert(0, "rank", np.arange(1, len(table) + 1))
        return table[kept.astype(bool)]

    @property
    def said(self) -> str:
        """What is to be said of the run, in words."""
        if not self.key:
            return f"There is no finished run under {root()} yet. Make some: {self._command()}"
        test, held, numbers = self.test, self.run.held_out, self.run.metrics
        words = f"{self.key}: {len(test)} test images, {len(held)} held-out normals"
        if "auc" in numbers:
            low, high = numbers["auc_interval"]
            words += f"; AUC {numbers['auc']:.2f}, 95 % interval {low:.2f} to {high:.2f}."
        else:
            words += "; test labels are not known."
        if self.key.budget == "smoke":
            words += " The budget smoke tests software: its numbers mean nothing."
        return " ".join(filter(None, [self._missing, words, self.read.images(self.key).trouble]))

    def _how_to_make(self, key: Key) -> str:
        return f"There is no finished run of {key} ({self._command()} SEEDS={key.seed})."

    def _command(self) -> str:
        data = self._paths.get(self._wanted.data, self._wanted.data)
        return f"make figures DATA={data} BUDGET={self._wanted.budget}"
