"""The notebooks as they are committed, and the files that say what the project needs."""

import os
import subprocess
import sys
import tokenize
import tomllib
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from nblib.data import phantom
from nblib.methods.catalogue import METHODS
from nblib.results import store, tables, verdicts

PROJECT = Path(__file__).parent.parent
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("[0-9]*.ipynb"))
each_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def cells(file, tag=None):
    found = nbformat.read(file, as_version=4).cells
    return [c for c in found if tag is None or tag in c.metadata.get("tags", [])]


@each_notebook
def test_outputs_are_committed_only_where_a_test_compares_them(file):
    for cell in cells(file):
        if cell.get("outputs"):
            tags = cell.metadata.get("tags", [])
            assert {"keep_output", "nbval-check-output"} <= set(tags)
            kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
            assert kinds <= {"text/plain"}


@each_notebook
def test_the_parameters_cell_holds_plain_literals_with_a_comment_each(file):
    (cell,) = cells(file, "parameters")
    for line in cell.source.splitlines():
        name, value = line.split(" = ", 1)
        tokens = [t for t in tokenize.tokenize(BytesIO(value.encode()).readline) if t.string]
        literal, comment = tokens[1], tokens[2]
        assert name.isidentifier() and literal.type in (tokenize.STRING, tokenize.NUMBER)
        assert comment.type == tokenize.COMMENT and len(comment.string) > 5
    known = papermill.inspect_notebook(str(file))
    assert set(known) == {line.split(" = ")[0] for line in cell.source.splitlines()}


@each_notebook
def test_a_notebook_holds_no_logic(file):
    code = "\n".join(c.source for c in cells(file) if c.cell_type == "code")
    assert not any(line.startswith(("def ", "class ", "if ")) for line in code.splitlines())


ONE_AFTER_THE_OTHER = """
import sys, nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats

shell, failed = InteractiveShell.instance(), []
show = shell.showtraceback
# Also of what fails as it is shown, after which a cell counts as a success.
shell.showtraceback = lambda *of, **how: (failed.append(of), show(*of, **how))
select_figure_formats(shell, {"png"})  # figures are drawn, as in a page
for file in sys.argv[1:]:
    shell.reset()
    for cell in nbformat.read(file, 4).cells:
        if cell.cell_type == "code":
            done = shell.run_cell(cell.source)
            if not done.success or failed:
                sys.exit(f"{file} failed in: {cell.source}")
"""


NO_PICTURE = """from pathlib import Path
from IPython.display import Image, display
display(Image(Path("none.png")))"""


@pytest.mark.parametrize("cell", ["1 / 0", "1 +", NO_PICTURE])
def test_a_cell_that_fails_to_run_or_to_show_is_noticed(cell, tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell(cell)]), tmp_path / "a.ipynb")
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, tmp_path / "a.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "failed in: " in done.stderr


def test_every_notebook_runs_and_compared_outputs_are_the_same(tmp_path):
    """On copies that hold the parameters of the smoke budget, in a root of their own.

    Those with compared outputs by nbval; the others in one process, each with names of its own: a
    kernel for each would spend most of its time importing. On a small set that is drawn as the
    phantom is; the notebook of the data counts the phantom.
    """
    small = dict(size=64, known_normal=60, unlabeled=(30, 30), test=(24, 24))
    phantom.write_phantom(tmp_path / "root" / "data" / "sets" / "small", **small)
    for file in NOTEBOOKS:
        data = "phantom" if file.stem == "01_data" else "small"
        parameters = {"data": data, "budget": "smoke"}
        copy = str(tmp_path / file.name)
        papermill.execute_notebook(str(file), copy, parameters=parameters, prepare_only=True)
    compared = [file.name for file in NOTEBOOKS if cells(file, "nbval-check-output")]
    others = [file.name for file in NOTEBOOKS if file.name not in compared]
    assert len(compared) >= 3
    nbval = ["-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    environment = os.environ | {"NBLIB_ROOT": str(tmp_path / "root"), "OMP_NUM_THREADS": "1"}
    environment["MPLBACKEND"] = "agg"
    for words in ([*nbval, "--rootdir", tmp_path, *compared], ["-c", ONE_AFTER_THE_OTHER, *others]):
        done = subprocess.run(
            [sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert (tmp_path / "root" / "figures" / "small" / "smoke" / "results.tex").exists()


def test_a_wrong_committed_output_would_fail(tmp_path):
    """What nbval compares is really compared: a notebook with a false output does not pass."""
    notebook = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("print(1 + 1)", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="3\n")]
    cell.metadata["tags"] = ["keep_output", "nbval-check-output"]
    notebook.cells.append(cell)
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env"]
    done = subprocess.run([*command, "wrong.ipynb"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "1 failed" in done.stdout


def test_conda_takes_everything_but_python_from_the_one_list():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert conda == [f"python{project['requires-python']}", "pip"]
    assert pip == {"pip": ["-e .[dev]"]}


def test_every_dependency_has_a_lower_bound():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    for needed in project["dependencies"] + project["optional-dependencies"]["dev"]:
        assert ">=" in needed


def test_published_numbers_name_their_source_and_thesis_table_has_eleven_rows():
    published = tables.published()
    assert published["source"].notna().all()
    assert set(published["method"]) <= set(METHODS)  # else it stands beside nothing
    thesis = published[published["source"] == "thesis, table 4.1"]
    assert thesis.groupby("set")["model"].nunique().to_dict() == {
        "VinDr-CXR": 11,
        "RSNA": 11,
        "LAG": 11,
    }
    row = published.query("method == 'sagan' and set == 'RSNA' and metric == 'AUC'")
    assert sorted(row["percent"]) == [92.21, 92.45]


def from_kept_scores(table, monkeypatch):
    """What a committed table was made of, from the scores that were kept, without any run."""
    data, budget = table.parts[-3:-1]
    if not (PROJECT / "data" / "scores" / data / budget).exists():
        pytest.skip(f"the table of {data} is made on this machine, not committed")
    monkeypatch.setattr(store, "_runs_folder", lambda *_: Path("/nowhere"), raising=True)
    monkeypatch.setenv("NBLIB_ROOT", str(PROJECT))
    return store.collect(data, budget)


@pytest.mark.parametrize("table", sorted((PROJECT / "figures").glob("*/*/results.csv")), ids=str)
def test_a_committed_table_follows_from_committed_scores(table, monkeypatch):
    again = tables.table(from_kept_scores(table, monkeypatch)).replace("", np.nan)
    pd.testing.assert_frame_equal(again, pd.read_csv(table), rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize("table", sorted((PROJECT / "figures").glob("*/*/verdict.csv")), ids=str)
def test_a_committed_verdict_follows_from_committed_scores(table, monkeypatch):
    again = verdicts.answers(from_kept_scores(table, monkeypatch)).replace("", np.nan)
    pd.testing.assert_frame_equal(again, pd.read_csv(table), rtol=1e-4, check_dtype=False)
