"""What a batch makes: notebooks, methods and sets, and where the files that come of it lie."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from nblib.data import datasets
from nblib.data.split import read_split
from nblib.files import DatasetError, as_text, at_home, root
from nblib.methods import catalogue
from nblib.methods.catalogue import METHODS
from nblib.notebooks import HERE as NOTEBOOKS
from nblib.training import budgets, runs

RUNS = catalogue.by_notebook()
"""Notebook -> the methods that it makes runs of."""

IN_ONE_GO = ("02_trivial_baselines", "03_pretrained_features")
"""These make all their runs in one execution: each takes less time than a kernel takes to start."""

PAGES = {
    "00_start_here": ["nearest_normals"],
    "01_data": [],
    "04_how_a_method_trains": [],
    "37_where_place_decides": [],
    "61_your_own_images": ["pretrained_mean"],
}
"""Notebook that makes no runs for the results -> the methods whose finished runs it shows."""

REPORTS = ("50_results", "52_verdict", "53_cost", "55_robustness")
WITH_IMAGES, WITH_MAPS = ("54_datasets",), ("51_qualitative", "60_explore")
"""Notebooks made of finished runs. The first ones need scores alone, which may be kept ones."""

NETWORKS = tuple(name for name in METHODS if budgets.trains(name))


class Page(NamedTuple):
    """One execution of a notebook, and what comes of it.

    data: the set's name; methods: of which it makes runs, if it makes any; seed: theirs, "" where
    the page is of all seeds or of none.
    """

    data: str
    budget: str
    notebook: str
    methods: tuple[str, ...] = ()
    seed: str = ""

    @property
    def told_apart(self) -> tuple[str, ...]:
        """Its method, where others of the same notebook have executions of their own."""
        return self.methods if len(self.methods) == 1 < len(RUNS.get(self.notebook, ())) else ()

    @property
    def name(self) -> str:
        """What its executed copy and its page are called."""
        return "-".join([self.notebook, *self.told_apart, *[f"seed{self.seed}"] * bool(self.seed)])

    @property
    def executed(self) -> Path:
        return root() / "data" / "executed" / self.data / self.budget / f"{self.name}.ipynb"

    @property
    def html(self) -> Path:
        return root() / "figures" / "html" / self.data / self.budget / f"{self.name}.html"

    @property
    def made(self) -> dict[str, Path]:
        """Method -> the file of its run that is written last."""
        return {
            method: runs.run_folder(self.data, self.budget, method, int(self.seed)) / "metrics.json"
            for method in self.methods
        }


def there(notebook: str) -> bool:
    return (NOTEBOOKS / f"{notebook}.ipynb").exists()


def methods(budget: str, every: bool = False) -> list[str]:
    """The methods that a batch makes runs of.

    `quick`, which a newcomer waits for, leaves out what is not the first of its notebook (the
    second form of a place code), and the controls, unless `every` method is asked for.
    """
    present = [name for name, entry in METHODS.items() if there(entry.notebook)]
    if every or budget != "quick":
        return present
    first = {names[0] for names in RUNS.values()}
    return [
        name
        for name in present
        if METHODS[name].notebook in IN_ONE_GO
        or (name in first and METHODS[name].family != "SAGAN, controls")
    ]


def page_of(method: str, data: str, budget: str, seed: str) -> Page:
    """The execution that makes a run."""
    notebook = METHODS[method].notebook
    made = tuple(RUNS[notebook]) if notebook in IN_ONE_GO else (method,)
    return Page(data, budget, notebook, made, seed)


def pages(sets: Iterable[str], budget: str, seeds: list[str], every: bool = False) -> list[Page]:
    """Every execution of a batch, by set, notebook, seed."""
    plain = [name for name in (*PAGES, *REPORTS, *WITH_IMAGES, *WITH_MAPS) if there(name)]
    found = [
        page_of(method, data, budget, seed)
        for data in sets
        for method in methods(budget, every)
        for seed in seeds
    ]
    found += [Page(data, budget, name) for data in sets for name in plain]
    return sorted(dict.fromkeys(found), key=lambda page: (page.data, page.notebook))


def chosen_sets(words: list[str], here: Path, as_it_is: bool = False) -> dict[str, Path | str]:
    """Name of each set -> its folder; a drawn set, which a rule makes, goes by its name.

    words: names or folders, relative ones to `here`. as_it_is: kept scores will do where a set's
    images are not at hand; then its folder is ''. Raises DatasetError in a sentence.
    """
    sets = {}
    for word in words:
        path = word
        if word not in datasets.DRAWN:
            path = at_home(word)
            if as_it_is and len(path.parts) == 1 and not _at_hand(word) and _kept(word):
                sets[word] = ""
                continue
            path = datasets.find(here / path if len(path.parts) > 1 else word).resolve()
            if "test/1" not in read_split(path / "data.json"):
                raise DatasetError(
                    [f"{path} has no labelled test images to compare methods by: train and score "
                     "with the notebook 61_your_own_images."]
                )  # fmt: skip
        name = Path(path).name
        if sets.setdefault(name, path) != path:
            raise DatasetError([f"{sets[name]} and {path} share a name: rename one."])
    for path in map(as_text, (root(), *sets.values(), *sets)):
        if "{" in path or "}" in path:  # Snakemake takes what is in them for a wildcard
            raise DatasetError([f"A batch takes no braces in the names of folders: rename {path}."])
    return sets


def chosen_seeds(seeds: str) -> list[str]:
    """Seeds with commas between, each once; raises ValueError for what are none."""
    words = [word for word in seeds.split(",") if word]
    if not words or not all(word.isdecimal() for word in words):
        raise ValueError(f"seeds={seeds}: seeds are whole numbers with commas between, as 0,1,2.")
    return list(dict.fromkeys(str(int(word)) for word in words))


def checked_budget(budget: str) -> str:
    """A budget; raises ValueError, naming those that there are, for what is none."""
    if budget not in budgets.BUDGETS:
        raise ValueError(f"There is no budget '{budget}'. There are: {', '.join(budgets.BUDGETS)}.")
    return budget


def _at_hand(name: str) -> bool:
    try:
        return bool(datasets.find(name))
    except DatasetError:
        return False


def _kept(name: str) -> bool:
    """Whether scores of a set were kept, from which tables can be made without its images."""
    return (root() / "data" / "scores" / name).is_dir()
