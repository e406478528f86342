"""All views of a selection on one page."""

import importlib
import threading

import ipywidgets as widgets
from IPython import display

from nblib.widgets import panels, views
from nblib.widgets.selection import Selection


class Explorer(panels.View):
    """The views of a selection below each other; of `still(name)` each as it now looks."""

    def __init__(self, selection: Selection):
        self.selection = selection
        self._views = {
            view.__name__: view(selection)
            for view in (
                views.choice, views.scores, views.ranking, views.image, views.methods, views.patch
            )
        }  # fmt: skip
        choice, scores, ranking, image, methods, patch = self._views.values()
        ranking.layout = {"flex": "0 0 390px", "margin": "0 16px 0 0"}
        image.layout = {"flex": "1 1 400px"}
        self._page = [
            choice,
            widgets.HTML("<h4>The threshold</h4>"),
            scores,
            widgets.HTML("<h4>The test images, and one of them</h4>"),
            panels.wrapped(ranking, image),
            widgets.HTML("<h4>The same image through other methods</h4>"),
            methods,
            widgets.HTML("<h4>The same image with a patch painted onto it</h4>"),
            patch,
        ]
        super().__init__()
        selection.observe(self._lay_out, "looked")
        self._lay_out()
        panels.print_where_no_widget_shows(selection.said)
        # Swin and the pretrained features take a second to import it: not when a patch is drawn.
        threading.Thread(target=importlib.import_module, args=("timm",), daemon=True).start()

    def __repr__(self) -> str:
        return self.selection.said

    def still(self, name: str) -> display.Image | None:
        """A view as it now looks, as a picture; None where there is nothing to show."""
        if name not in self._views:
            raise ValueError(f"There is no view '{name}', but {', '.join(self._views)}.")
        return self._views[name].still() if self.selection.key else None

    def _lay_out(self, _=None) -> None:
        """Without a run nothing but what makes one."""
        self.children = self._page if self.selection.key else self._page[:1]
