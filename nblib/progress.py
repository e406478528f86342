"""Progress that reads well in a terminal, in JupyterLab and in the log of a batch run."""

import os
import sys
import time
from collections.abc import Iterator

SECONDS_BETWEEN_LINES = 60

STOPPED = "Stopped. Nothing is lost: the same command goes on from here."
"""What a batch says last that was told to stop, by Ctrl-C or SIGTERM, at whatever moment."""


def say(words: str) -> None:
    """A line for whoever watches. It goes where errors go: a batch hides what notebooks print."""
    print(words, file=sys.stderr, flush=True)


def progress(total: int, what: str, start: int = 0) -> Iterator[int]:
    """Count from `start` to `total`, showing how far the loop has come.

    A bar where somebody watches (JupyterLab, a terminal); elsewhere, as in papermill's log,
    one printed line a minute and none for a loop that is shorter.
    """
    # JupyterLab names its session to the kernels it starts; papermill does not.
    if os.environ.get("JPY_SESSION_NAME"):
        from tqdm.notebook import tqdm
    elif sys.stderr.isatty():
        from tqdm import tqdm
    else:
        yield from _printed_lines(total, what, start)
        return
    yield from tqdm(range(start, total), desc=what, initial=start, total=total, mininterval=0.5)


def _printed_lines(total: int, what: str, start: int) -> Iterator[int]:
    began = said = time.monotonic()
    shown = total
    for i in range(start, total):
        yield i
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            left = (now - began) / (i + 1 - start) * (total - i - 1)
            say(f"{what}: {i + 1} of {total}, about {left / 60:.0f} min left")
            said, shown = now, i + 1
    if shown < total:
        say(f"{what}: {total} of {total}")
