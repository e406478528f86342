"""`figures/html/index.html`: every notebook that was executed or will be, with its numbers."""

import json
import os
import re
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import nbformat

from nblib import plan
from nblib.figures.style import shown
from nblib.files import front_page, must_be_file, root, written_whole
from nblib.methods.catalogue import METHODS, order
from nblib.plan import Page

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"

TEMPLATE = Path(__file__).parent / "static" / "index.html"

PICTURES = {
    "qualitative": ("51_qualitative", "The same images through SAGAN's variants (figure 4.4)"),
    "auc": ("50_results", "AUC of all methods, with intervals"),
    "verdict_thesis": ("52_verdict", "Verdict: do encodings or Swin help?"),
    "verdict_others": ("52_verdict", "Verdict: GANs and what is simpler"),
}
"""File in `figures/<set>/<budget>/` -> the notebook that writes it, and what it shows."""

TABLES = ("results", "verdict", "localisation", "moved", "mirrored", "perceptual", "cost")


class Line(NamedTuple):
    """One execution of a notebook, as the page lists it."""

    words: str
    state: str
    link: str
    numbers: list[tuple[str, str]]
    trouble: str


class FrontPage:
    """What is known of every page, and the file that says it.

    pages: those of the batch that is running; what lies in `figures/html` is listed beside them.
    """

    def __init__(self, pages: list[Page] = ()):
        self.file = front_page()
        self.states = {page: DONE if page.html.exists() else WAITING for page in pages}
        self.left = ""

    def write(self) -> None:
        """Write the page as it stands now."""
        from jinja2 import Environment

        everything = dict.fromkeys(_on_disk(), DONE) | self.states
        places = {(page.data, page.budget): [] for page in [*self.states, *everything]}
        for page in everything:
            places[page.data, page.budget].append(page)
        sections = [
            {
                "title": f"{shown(data)}, {budget}",
                "notebooks": self._notebooks(pages, everything),
                "pictures": self._pictures(data, budget, pages),
                "tables": self._tables(data, budget),
            }
            for (data, budget), pages in places.items()
        ]
        states = list(self.states.values())
        template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
            TEMPLATE.read_text()
        )
        text = template.render(
            sections=sections,
            done=states.count(DONE) + states.count(FAILED),
            failed=states.count(FAILED),
            all=len(states),
            going_on=WAITING in states or RUNNING in states,
            left=self.left,
            now=time.strftime("%H:%M:%S"),
        )
        with written_whole(self.file, "w") as out:
            out.write(text)

    def _notebooks(self, pages: list[Page], states: dict[Page, str]) -> list[dict]:
        """One dictionary a notebook, by number: name, title, sentence, lines."""
        found = {}
        for page in sorted(pages, key=lambda page: (page.notebook, *map(order, page.methods))):
            found.setdefault(page.notebook, []).append(self._line(page, states[page]))
        about = titles()
        return [
            {"name": name, "lines": lines} | about.get(name, {"title": name, "sentence": ""})
            for name, lines in found.items()
        ]

    def _line(self, page: Page, state: str) -> Line:
        words = [*page.told_apart, *[f"seed {page.seed}"] * bool(page.seed)]
        there = page.html.exists()
        return Line(
            ", ".join(words) or "page",
            state,
            self._to(page.html) if there else "",
            [(m, n) for m, f in page.made.items() if (n := number(f))] if state == DONE else [],
            _trouble(page.executed) if state == FAILED else "",
        )

    def _pictures(self, data: str, budget: str, pages: list[Page]) -> list[dict]:
        """Thumbnails: the figures of the results, and the place code's, from its page."""
        folder, links = root() / "figures" / data / budget, {p.notebook: p.html for p in pages}
        found = [
            {"source": self._to(file), "link": self._to(links[notebook]), "words": words}
            for name, (notebook, words) in PICTURES.items()
            if (file := folder / f"{name}.png").exists() and notebook in links
        ]
        for page in pages:
            code = page.notebook == "30_place_code" and _first_picture(page.executed)
            if code:
                words = "What SAGAN's place code tells, and that it cannot act"
                found.append({"source": code, "link": self._to(page.html), "words": words})
                break
        return found

    def _tables(self, data: str, budget: str) -> list[tuple[str, list[tuple[str, str]]]]:
        """The written tables, each in the formats that there are."""
        folder = root() / "figures" / data / budget
        files = {
            name: [(f.suffix[1:], self._to(f)) for f in _formats(folder / name)] for name in TABLES
        }
        return [(name, formats) for name, formats in files.items() if formats]

    def _to(self, file: Path) -> str:
        return quote(os.path.relpath(file, self.file.parent))


def _formats(stem: Path) -> list[Path]:
    return [f for s in (".md", ".csv", ".tex") if (f := stem.with_suffix(s)).exists()]


def _on_disk() -> list[Page]:
    """The pages that were written, by this batch or another."""
    found = []
    for file in sorted((root() / "figures" / "html").glob("*/*/*.html")):
        data, budget = file.parts[-3:-1]
        named = re.fullmatch(r"(\w+?)(?:-(?!seed\d)(\w+?))?(?:-seed(\d+))?", file.stem)
        if not named or named[1] not in titles():
            continue
        notebook, method, seed = named.groups(default="")
        methods = (method,) * bool(method) or tuple(plan.RUNS.get(notebook, ())) * bool(seed)
        page = Page(data, budget, notebook, methods, seed)
        known = {*methods} <= {*METHODS} and (notebook in plan.RUNS) == bool(seed)
        if known and page.html == file:
            found.append(page)
    return found


def number(metrics: Path) -> str:
    """The AUC with its interval in the metrics.json of a run, '' where there is none."""
    try:
        must_be_file(metrics)
        found = json.loads(metrics.read_text())
        low, high = found["auc_interval"]
        return f"{found['auc']:.3f} [{low:.3f}, {high:.3f}]"
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def _outputs(executed: Path) -> list:
    """The outputs of an executed copy, in order; none where there is no such copy, or none."""
    try:
        must_be_file(executed)
        cells = nbformat.read(executed, 4).cells
        return [output for cell in cells for output in cell.get("outputs", [])]
    except Exception:  # a damaged copy makes nbformat raise nearly anything
        return []


def _trouble(executed: Path) -> str:
    """The last line of what stopped an execution, as its copy has it."""
    errors = [output for output in _outputs(executed) if output.output_type == "error"]
    return f"{errors[-1].ename}: {errors[-1].evalue}".splitlines()[-1] if errors else ""


def _first_picture(executed: Path) -> str:
    """The first figure in an executed copy, as the address of its own bytes; '' if none."""
    for output in _outputs(executed):
        if png := output.get("data", {}).get("image/png"):
            return "data:image/png;base64," + "".join(png.split())
    return ""


@cache
def titles() -> dict[str, dict]:
    """Title and sentence of each notebook: its first heading, and its row in `00_start_here`."""
    sentences, found = {}, {}
    for file in sorted(plan.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        cells = nbformat.read(file, 4).cells
        heading = re.search(r"^# (.+)$", cells[0].source, re.MULTILINE)
        found[file.stem] = heading[1] if heading else file.stem
        for cell in cells:
            if "index" in cell.metadata.get("tags", []):
                rows = re.findall(r"^\| \[`(\w+)`\]\S+ \| (.+) \|$", cell.source, re.MULTILINE)
                sentences = dict(rows) | {file.stem: "The question, and the simplest method first."}
    return {
        name: {"title": title, "sentence": sentences.get(name, "").replace("`", "")}
        for name, title in found.items()
    }
