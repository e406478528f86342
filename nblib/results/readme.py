"""Puts the written tables into README.md: nobody types a number."""

import re
import textwrap
from pathlib import Path

import pandas as pd

from nblib.files import written_whole
from nblib.methods import catalogue
from nblib.results import store, write

PAGE = store.PROJECT / "README.md"

ROWS = (
    "nearest_normals",
    "known_against_unlabeled",
    "pretrained_logistic",
    "pretrained_mean",
    "ganomaly",
    "brainomaly",
    "sagan",
    "sagan_rope",
)
"""Of the small table of results. `pretrained_mean`, found by a search, and the reference
`known_against_unlabeled` came later; the others were fixed before it was first written."""


def filled(text: str) -> str:
    """The page with its blocks made anew, each between `<!-- WORDS -->` and `<!-- end -->`.

    `methods`: from the catalogue; `results SETS BUDGET`: `ROWS` of each set's results.csv, the sets
    with commas between; `drawn`: from `figures/readme/drawn_set.csv`; `answer BUDGET`: from what
    `answer.write_answer` wrote; `ratios SET BUDGET`: from what `robustness.write_ratios` wrote.
    """
    block = r"<!-- (methods|results|drawn|answer|ratios)((?: \S+)*) -->.*?<!-- end -->"
    return re.sub(block, _block, text, flags=re.S)


def _block(match: re.Match) -> str:
    what, words = match[1], match[2].split()
    makers = {
        "methods": _methods,
        "results": _results,
        "drawn": _drawn,
        "answer": _answer,
        "ratios": _ratios,
    }
    inside = makers[what](*words)
    return f"<!-- {' '.join([what, *words])} -->\n{inside}\n<!-- end -->"


def _methods() -> str:
    rows = catalogue.in_words().items()
    table = [{"notebook": f"`{name}`", "methods": what} for name, (what, _) in rows]
    return write.markdown(pd.DataFrame(table))


def _results(sets: str, budget: str) -> str:
    """AUC with its interval, a row a method, a column a set, which links to all of its methods."""
    columns = {"method": list(ROWS)}
    for name in sets.split(","):
        folder = f"figures/{name}/{budget}"
        rows = pd.read_csv(store.PROJECT / folder / "results.csv").set_index("method")
        links = f"{name} ([all]({folder}/results.md), [verdicts]({folder}/verdict.md))"
        columns[links] = [write.between(rows.loc[method], "auc") for method in ROWS]
    return write.markdown(pd.DataFrame(columns))


def _drawn() -> str:
    """AUC and pointing on the drawn set of the same rows, and of a network that saw labels."""
    rows = pd.read_csv(store.PROJECT / "figures" / "readme" / "drawn_set.csv").set_index("method")
    rows = rows.loc[["nearest_normals", "pca64", *ROWS[1:], "supervised", "chance"]]
    table = pd.DataFrame(
        {
            "method": rows.index,
            "AUC": [f"{value:.2f}" for value in rows["auc"]],
            "highest place of the map in a lesion": [
                write.number(value, 2) for value in rows["pointing"]
            ],
        }
    )
    return write.markdown(table)


def _answer(budget: str) -> str:
    """The first sentences of the answer's paragraphs, in lines as long as the page's."""
    text = (store.PROJECT / "figures" / "pooled" / budget / "answer.md").read_text()
    lines = [paragraph.split("\n")[0] for paragraph in text.strip().split("\n\n")]
    return "\n".join(_lines(f"- {line}", subsequent_indent="  ") for line in lines)


def _ratios(name: str, budget: str) -> str:
    """What each method reaches with a mix without abnormal images, and with nothing else."""
    folder = f"figures/{name}/{budget}"
    rows = pd.read_csv(store.PROJECT / folder / "ratios.csv")
    ends = rows[rows["percent"].isin([0, 100])].groupby("method", sort=False)["auc"]
    said = [f"`{method}` {area.iloc[0]:.2f}, {area.iloc[1]:.2f}" for method, area in ends]
    return _lines(
        f"AUC on `{name}` with no abnormal image in the mix, and with nothing else "
        f"([between]({folder}/ratios.md); seeds: {rows['seeds'].min()}, one drawing of the mix): "
        f"{'; '.join(said)}."
    )


def _lines(text: str, **indent) -> str:
    """In lines as long as the page's."""
    return textwrap.fill(text, width=160, break_long_words=False, break_on_hyphens=False, **indent)


def fill() -> Path:
    """Write README.md with its blocks filled; returns its path."""
    page = filled(PAGE.read_text())
    with written_whole(PAGE, "w") as file:
        file.write(page)
    return PAGE
