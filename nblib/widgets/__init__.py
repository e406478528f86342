"""Widgets for JupyterLab: finished runs to look into, and a training to watch. Nothing here writes.

    selection = Selection(data, budget, method, seed)     a finished run on the disk
    Explorer(selection)                                    everything about it on one page
    views.scores(selection)                                a part of it, alone
    Watch()                                                the curves of trainings in progress

What a widget shows can be had as a still picture (`still`), which an executed copy keeps.
"""

from nblib.widgets import views
from nblib.widgets.explorer import Explorer
from nblib.widgets.found import Patch
from nblib.widgets.selection import Selection
from nblib.widgets.watch import Watch
