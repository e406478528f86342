"""Puts the written tables and verdicts into README.md: nobody types a number."""

import re
from pathlib import Path

import pandas as pd

from nblib.files import written_whole
from nblib.methods import catalogue
from nblib.results import store, verdicts, write

PAGE = store.PROJECT / "README.md"


def filled(text: str) -> str:
    """The page with its blocks made from the catalogue and from `figures/<set>/<budget>/`.

    `<!-- methods -->` ... `<!-- end -->` from the catalogue, `<!-- table SET BUDGET -->` ...
    `<!-- end -->` from results.csv, `<!-- verdict SET BUDGET -->` ... `<!-- end -->` from
    verdict.csv.
    """
    rows = [
        f"| `{name}` | {what} | {uses} |" for name, (what, uses) in catalogue.in_words().items()
    ]
    table = "\n".join(["| notebook | methods | learn from |", "| --- | --- | --- |", *rows])
    block = f"<!-- methods -->\n{table}\n<!-- end -->"
    text = re.sub("<!-- methods -->.*?<!-- end -->", lambda _: block, text, flags=re.S)
    return re.sub(r"<!-- (table|verdict) (\S+) (\S+) -->.*?<!-- end -->", _block, text, flags=re.S)


def _block(match: re.Match) -> str:
    what, data, budget = match.groups()
    folder = store.PROJECT / "figures" / data / budget
    if what == "table":
        rows = write.for_print(pd.read_csv(folder / "results.csv"))
        rows = rows[["method", "learns from", "seeds", "AUC", "sd of seeds", "AP"]]
        inside = write.markdown(rows)
    else:
        inside = "\n".join(_listed(verdicts.sentences(pd.read_csv(folder / "verdict.csv"))))
    return f"<!-- {what} {data} {budget} -->\n{inside}\n<!-- end -->"


def _listed(lines: list[str]) -> list[str]:
    """Questions as paragraphs, the sentences below each as a list."""
    listed = []
    for line in lines:
        listed += ["", line, ""] if line.startswith("**") else [line.replace("`", "- `", 1)]
    return listed


def fill() -> Path:
    """Write README.md with its blocks filled; returns its path."""
    page = filled(PAGE.read_text())
    with written_whole(PAGE, "w") as file:
        file.write(page)
    return PAGE
