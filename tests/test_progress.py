import re
import sys

import pytest

from nblib import progress as module
from nblib.progress import SECONDS_BETWEEN_LINES, progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns on by hand."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    monkeypatch.setattr(module, "time", Clock())
    return module.time


@pytest.fixture
def bars(monkeypatch):
    """What was handed to tqdm, by the surroundings it is made for."""
    made = {}

    def bar(kind):
        def make(iterable, **settings):
            made[kind] = settings
            return iter(iterable)

        return make

    import tqdm
    import tqdm.notebook

    monkeypatch.setattr(tqdm, "tqdm", bar("terminal"))
    monkeypatch.setattr(tqdm.notebook, "tqdm", bar("notebook"))
    return made


def surroundings(monkeypatch, session=None, terminal=False):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if session is not None:
        monkeypatch.setenv("JPY_SESSION_NAME", session)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)


@pytest.mark.parametrize(
    "session, terminal, kind",
    [
        ("story.ipynb", False, "notebook"),
        ("story.ipynb", True, "notebook"),
        (None, True, "terminal"),
        ("", True, "terminal"),
    ],
)
def test_a_bar_is_shown_where_somebody_watches(monkeypatch, bars, capsys, session, terminal, kind):
    surroundings(monkeypatch, session, terminal)
    assert list(progress(10, "training")) == list(range(10))
    assert list(bars) == [kind]
    assert bars[kind]["total"] == 10 and bars[kind]["initial"] == 0
    assert bars[kind]["desc"] == "training"
    assert capsys.readouterr().out == ""


def test_a_bar_of_a_resumed_loop_starts_where_the_loop_does(monkeypatch, bars):
    surroundings(monkeypatch, terminal=True)
    assert list(progress(10, "training", start=6)) == [6, 7, 8, 9]
    assert bars["terminal"]["initial"] == 6 and bars["terminal"]["total"] == 10


def test_a_real_bar_in_a_terminal_counts_to_the_total(monkeypatch, capsys):
    surroundings(monkeypatch, terminal=True)
    assert list(progress(8, "training", start=2)) == [2, 3, 4, 5, 6, 7]
    assert "8/8" in capsys.readouterr().err


@pytest.mark.parametrize("start, total", [(0, 5), (3, 5), (5, 5), (0, 0)])
def test_a_log_counts_from_start_to_total(monkeypatch, bars, start, total):
    surroundings(monkeypatch)
    assert list(progress(total, "training", start)) == list(range(start, total))
    assert not bars


def test_a_log_has_no_line_of_a_short_loop(monkeypatch, clock, capsys):
    surroundings(monkeypatch)
    for _ in progress(1000, "training"):
        clock.now += (SECONDS_BETWEEN_LINES - 1) / 1000
    assert capsys.readouterr() == ("", "")


def test_a_log_has_a_line_a_minute_whatever_the_steps_take(monkeypatch, clock, capsys):
    surroundings(monkeypatch)
    for _ in progress(6000, "training"):
        clock.now += 0.1
    *lines, last = capsys.readouterr().err.splitlines()
    assert 9 <= len(lines) <= 10 and last == "training: 6000 of 6000"
    counts = [int(re.match(r"training: (\d+) of 6000, ", line)[1]) for line in lines]
    assert all(590 <= b - a <= 610 for a, b in zip([0, *counts], counts, strict=False))


def test_a_log_tells_the_minutes_left(monkeypatch, clock, capsys):
    """Of 10 steps of 60 seconds 9, then 8, ... are left after each; a line a step."""
    surroundings(monkeypatch)
    for _ in progress(10, "training"):
        clock.now += 60
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"training: {i} of 10, about {10 - i} min left" for i in range(1, 11)]


def test_a_resumed_loop_tells_the_minutes_left_from_its_own_pace(monkeypatch, clock, capsys):
    surroundings(monkeypatch)
    for _ in progress(10, "training", start=8):
        clock.now += 120
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 9 of 10, about 2 min left",
        "training: 10 of 10, about 0 min left",
    ]


def test_a_loop_may_be_left_early(monkeypatch):
    surroundings(monkeypatch)
    seen = []
    for i in progress(10, "training"):
        seen.append(i)
        if i == 3:
            break
    assert seen == [0, 1, 2, 3]


def test_a_log_does_not_end_in_the_middle(monkeypatch, clock, capsys):
    surroundings(monkeypatch)
    for _ in progress(60, "pictures"):
        clock.now += 1.2
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["pictures: 50 of 60, about 0 min left", "pictures: 60 of 60"]
