import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from files import full_disk
from nblib import notebooks
from nblib.methods.catalogue import METHODS, by_notebook

COMMITTED = Path(__file__).parent.parent / "notebooks"
PARAMETERS = 'data = "phantom"  # a set\nseed = 0'
WHERE = """import json
from ipykernel import get_connection_file
from pathlib import Path
import os
connection = json.loads(Path(get_connection_file()).read_text())
print(json.dumps({"connection": connection, "pid": os.getpid(), "folder": os.getcwd()}))"""


def write(file, *cells):
    """A notebook of a title, a parameters cell and some cells of code."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    tagged = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    nb = new_notebook(metadata={"kernelspec": kernel})
    nb.cells = [new_markdown_cell("# Title"), tagged, *map(new_code_cell, cells)]
    nbformat.write(nb, file)
    return file


def printed(executed):
    """The text that each code cell of an executed notebook printed."""
    cells = [cell for cell in nbformat.read(executed, 4).cells if cell.cell_type == "code"]
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]


@pytest.fixture
def short():
    """A folder with a short path: the path of a socket has room for about a hundred letters."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


def start(notebook, executed, *arguments, temporary):
    """`python -m nblib execute`, with temporary files of its own."""
    runtime = temporary / "runtime"
    environment = os.environ | {"TMPDIR": str(temporary), "JUPYTER_RUNTIME_DIR": str(runtime)}
    return subprocess.Popen(
        [sys.executable, "-m", "nblib", "execute", notebook, executed, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs are deaf to SIGINT, and hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_six_kernels_at_once_use_sockets_of_their_own_and_leave_nothing_behind(tmp_path, short):
    notebook = write(tmp_path / "01_a.ipynb", WHERE)
    copies = [tmp_path / "executed" / f"{i}.ipynb" for i in range(6)]
    running = [start(notebook, copy, "-p", "seed", "3", temporary=short) for copy in copies]
    for process in running:
        errors = process.communicate(timeout=120)[1]
        assert "in use" not in errors and "TCP" not in errors
        assert process.returncode == 0
    answers = [json.loads(printed(copy)[-1]) for copy in copies]
    assert {answer["connection"]["transport"] for answer in answers} == {"ipc"}
    assert len({answer["connection"]["ip"] for answer in answers}) == 6
    assert {answer["folder"] for answer in answers} == {str(tmp_path)}
    assert not any(psutil.pid_exists(answer["pid"]) for answer in answers)
    assert [f for f in short.rglob("*") if f.name != "runtime"] == []
    # Outputs of the run, and nothing beside the notebook.
    assert sorted(file.name for file in tmp_path.iterdir()) == ["01_a.ipynb", "executed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_process_takes_its_kernel_along_and_says_nothing(tmp_path, short, number):
    """SIGTERM is what Slurm sends at the time limit, SIGINT what all jobs of a batch hear."""
    pid = tmp_path / "pid"
    notebook = write(tmp_path / "01_a.ipynb", f"import os, time\nopen({str(pid)!r}, 'w').write(\n"
                     "    str(os.getpid()) + '.')\ntime.sleep(600)")  # fmt: skip
    process = start(notebook, tmp_path / "executed.ipynb", temporary=short)
    while not (pid.exists() and pid.read_text().endswith(".")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 128 + number
    assert not psutil.pid_exists(int(pid.read_text()[:-1]))
    assert [f for f in short.rglob("*") if f.name != "runtime"] == []


def test_what_a_kernel_logs_of_itself_is_not_shown(tmp_path, short):
    """A slow one is interrupted while it still ends a cell, and logs an error."""
    itself = "get_ipython().kernel.log"
    notebook = write(tmp_path / "01_a.ipynb", f"{itself}.error('KeyboardInterrupt caught')",
                     f"{itself}.critical('the worst'); print('end')")  # fmt: skip
    process = start(notebook, tmp_path / "executed.ipynb", temporary=short)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "end" in shown
    assert "caught" not in errors and "the worst" in errors


def test_parameters_reach_the_notebook_with_the_type_of_their_default(tmp_path, short):
    notebook = write(tmp_path / "01_a.ipynb", "print('data', repr(data), 'seed', repr(seed))")
    executed, html = tmp_path / "out.ipynb", tmp_path / "html" / "01_a.html"
    given = ["-p", "data", "007", "-p", "seed", "7", "--html"]
    shown, _ = start(notebook, executed, *given, html, temporary=short).communicate(timeout=60)
    assert printed(executed)[-1] == "data '007' seed 7\n"
    assert "data '007' seed 7" in html.read_text()
    assert "<title>01_a</title>" in html.read_text()
    assert "data '007' seed 7" in shown, "what a notebook prints shows while it runs"


def test_a_misspelt_parameter_stops_before_anything_runs(tmp_path):
    notebook = write(tmp_path / "01_a.ipynb", f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(SystemExit) as stop:
        notebooks.execute(notebook, tmp_path / "out.ipynb", {"sed": 3, "data": "x"})
    assert str(stop.value) == (
        "01_a.ipynb cannot be run: there is no parameter 'sed'. There are: data, seed."
    )
    # papermill alone finds the engine by its name, and stops as well.
    with pytest.raises(ValueError, match="no parameter 'sed'"):
        papermill.execute_notebook(
            notebook, tmp_path / "out.ipynb", {"sed": 3}, engine_name="nblib", progress_bar=False
        )
    assert not (tmp_path / "ran").exists()


def test_a_failed_cell_is_named_and_its_executed_copy_kept(tmp_path):
    cells = "print('fine')", "import sys\nprint('careful', file=sys.stderr)\n1 / 0", "print('no')"
    notebook = write(tmp_path / "01_a.ipynb", *cells)
    executed, html = tmp_path / "out.ipynb", tmp_path / "out.html"
    with pytest.raises(SystemExit) as stop:
        notebooks.execute(notebook, executed, {}, html)
    # A text as the code of SystemExit goes to stderr, and the process ends with 1.
    lines = stop.value.code.splitlines()
    assert lines[0] == "01_a.ipynb failed in its code cell 3: import sys"
    assert "careful" in lines
    assert lines[-2] == "ZeroDivisionError: division by zero"
    assert lines[-1] == f"Executed copy: {executed}"
    assert "\x1b" not in stop.value.code
    assert len(lines) <= notebooks.LINES_OF_AN_ERROR + 2
    outputs = [c.outputs for c in nbformat.read(executed, 4).cells if c.cell_type == "code"]
    assert printed(executed)[1] == "fine\n"
    assert outputs[2][-1].ename == "ZeroDivisionError"
    assert outputs[3] == [], "cells behind the failed one do not run"
    assert not html.exists()


def test_a_cell_that_fails_as_it_is_shown_is_named_though_others_ran_behind_it(tmp_path):
    shows = "from IPython.display import Image, display\ndisplay(Image(Path('none.png')))"
    notebook = write(tmp_path / "01_a.ipynb", "from pathlib import Path", shows, "print('on')")
    with pytest.raises(SystemExit) as stop:
        notebooks.execute(notebook, tmp_path / "out.ipynb", {})
    first = stop.value.code.splitlines()[0]
    assert first == f"01_a.ipynb failed in its code cell 3: {shows.splitlines()[0]}"


def test_a_dead_kernel_is_told_from_a_failed_cell(tmp_path):
    killed = (
        "import os, sys\nprint('last words', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 9)"
    )
    notebook = write(tmp_path / "01_a.ipynb", killed, "print('no')")
    with pytest.raises(SystemExit) as stop:
        notebooks.execute(notebook, tmp_path / "out.ipynb", {})
    head, *rest = stop.value.code.splitlines()
    assert head == "01_a.ipynb failed in its code cell 2: import os, sys"
    assert "DeadKernelError: Kernel died" in rest


@pytest.mark.parametrize("room", [100, 5000])  # for none of the copy; for it without the outputs
def test_a_full_disk_is_told_from_a_failed_cell_and_leaves_no_half_copy(tmp_path, room):
    notebook, executed = write(tmp_path / "01_a.ipynb", "print('x' * 9000)"), tmp_path / "out.ipynb"
    executed.write_text("of a run before")
    with pytest.raises(SystemExit) as stop, full_disk(room):
        notebooks.execute(notebook, executed, {})
    words = "cannot be written: File too large. What was there is unchanged."
    assert stop.value.code == f"01_a.ipynb cannot be run: {executed} {words}"
    assert executed.exists() == (room > 100)
    assert room == 100 or printed(executed) == ["", ""]
    left = {"01_a.ipynb", "out.ipynb", "out.lock"}
    assert {file.name for file in tmp_path.iterdir()} <= left
    notebooks.execute(notebook, executed, {})
    assert printed(executed)[-1] == "x" * 9000 + "\n"


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    (tmp_path / "01_a.ipynb").write_text("{")
    with pytest.raises(SystemExit, match=r"^01_a.ipynb cannot be run: "):
        notebooks.execute(tmp_path / "01_a.ipynb", tmp_path / "out.ipynb", {})


def last_cells(folder):
    found = {file.stem[:2]: nbformat.read(file, 4) for file in folder.glob("*.ipynb")}
    return {number: nb.cells[-1].source for number, nb in found.items()}


def test_links_lead_to_the_neighbours_and_are_written_once(tmp_path):
    write(tmp_path / "10_b.ipynb", "1")
    write(tmp_path / "00_a.ipynb", "1")
    other = write(tmp_path / "scratch.ipynb", "1").read_bytes()
    assert [f.name for f in notebooks.write_links(tmp_path)] == ["00_a.ipynb", "10_b.ipynb"]
    assert last_cells(tmp_path)["00"] == "[10_b](10_b.ipynb) →"
    assert last_cells(tmp_path)["10"] == "← [00_a](00_a.ipynb)"
    assert notebooks.write_links(tmp_path) == []

    write(tmp_path / "05_new.ipynb", "1")
    assert len(notebooks.write_links(tmp_path)) == 3
    assert last_cells(tmp_path)["05"] == "← [00_a](00_a.ipynb) · [10_b](10_b.ipynb) →"
    assert last_cells(tmp_path)["00"] == "[05_new](05_new.ipynb) →"
    assert (tmp_path / "scratch.ipynb").read_bytes() == other


def test_links_touch_no_other_cell_and_keep_the_format_of_the_file(tmp_path):
    file = write(tmp_path / "00_a.ipynb", "print('ä')")
    before = nbformat.read(file, 4).cells
    notebooks.write_links(tmp_path)
    # A cell that somebody wrote behind the links goes before them.
    nb = nbformat.read(file, 4)
    nb.cells.append(new_markdown_cell("behind"))
    nbformat.write(nb, file)
    notebooks.write_links(tmp_path)
    after = nbformat.read(file, 4).cells
    assert after[: len(before)] == before
    assert [cell.source for cell in after[len(before) :]] == ["behind", ""]
    assert after[-1].metadata.tags == ["navigation"]
    written = file.read_bytes()
    nbformat.write(nbformat.read(file, 4), file)
    assert file.read_bytes() == written


def test_committed_notebooks_have_their_links(tmp_path):
    for file in COMMITTED.glob("*.ipynb"):
        shutil.copy(file, tmp_path)
    stale = [
        file.name for file in notebooks.write_links(tmp_path) + notebooks.write_index(tmp_path)
    ]
    assert stale == [], "make links"


def test_the_table_of_notebooks_takes_what_the_catalogue_says_and_keeps_other_rows(tmp_path):
    rows = "| [`50_results`](a) | mine |\n| [`22_sagan`](b) | old |"
    table = f"| notebook | |\n| --- | --- |\n{rows}\n\nbehind"
    nb = new_notebook(cells=[new_markdown_cell(table, metadata={"tags": ["index"]})])
    nbformat.write(nb, tmp_path / "00_start_here.ipynb")
    assert [file.name for file in notebooks.write_index(tmp_path)] == ["00_start_here.ipynb"]
    first, _, *rows = nbformat.read(tmp_path / "00_start_here.ipynb", 4).cells[0].source.split("\n")
    assert first == "| notebook | |" and rows[-3:] == ["| [`50_results`](a) | mine |", "", "behind"]
    assert len(rows[:-3]) == len(by_notebook()) and rows[:-2] == sorted(rows[:-2])
    assert f"| [`22_sagan`](22_sagan.ipynb) | {METHODS['sagan'].what} |" in rows
    assert notebooks.write_index(tmp_path) == []
