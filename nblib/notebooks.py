"""Notebooks in a batch: executed by papermill, copied to HTML, linked with each other."""

import ast
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import nbformat

from nblib.files import one_writer, written_whole

# papermill looks up `Engine` here while it is imported itself: it is imported where it is used.

LINES_OF_AN_ERROR = 15

HERE = Path(__file__).parent.parent / "notebooks"


class Engine:
    """The engine `nblib` of papermill (`papermill --engine nblib`).

    Each kernel has sockets in a temporary folder of its own: over TCP, kernels that start at the
    same moment take each other's ports. Kernels are interrupted as they end, and call that an
    error where they are slow: what they log of themselves is left out. A parameter that the
    notebook's cell tagged `parameters` does not define stops it: papermill would only warn, and
    run with the default.
    """

    @staticmethod
    def execute_notebook(nb, kernel_name, **options):
        """Called by papermill, which has written the parameters into `nb`; see its engines."""
        from papermill.engines import NBClientEngine
        from traitlets.config import Config

        defined = _parameters(nb)
        for name in nb.metadata.papermill.get("parameters", {}):
            if name not in defined:
                names = ", ".join(defined) or "none"
                raise ValueError(f"there is no parameter '{name}'. There are: {names}.")
        with tempfile.TemporaryDirectory(prefix="nblib-") as folder:
            connection = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
            options["config"] = Config(ConnectionFileMixin=connection)
            options["extra_arguments"] = ["--log-level=CRITICAL"]
            return NBClientEngine.execute_notebook(nb, kernel_name, **options)

    # Which papermill also asks an engine for: the kernel of the environment it runs in.
    nb_kernel_name = staticmethod(lambda nb, name=None: name or "python3")
    nb_language = staticmethod(lambda nb, language=None: language or "python")


def typed(notebook: Path, words: list[tuple[str, str]]) -> dict:
    """Parameters given as text -> what their defaults in the notebook are.

    A set named 007 stays text. Raises ValueError for a seed that is no number, and
    FileNotFoundError where there is no such notebook.
    """
    defaults = _parameters(nbformat.read(notebook, 4))
    return {name: type(defaults.get(name, ""))(word) for name, word in words}


def execute(notebook: Path, executed: Path, parameters: dict, html: Path | None = None) -> None:
    """Run a notebook in its own folder, keep the executed copy, and write it as HTML.

    The copy is written while the notebook runs, and kept when it fails. Then notebook, cell and
    the end of the error, or where there is no room for the copy, are printed and the process ends
    with 1. One process writes a copy at a time; a second waits.
    """
    import papermill
    from papermill.iorw import papermill_io

    notebook, executed = Path(notebook).absolute(), Path(executed).absolute()
    with one_writer(executed.with_suffix(".lock")):
        executed.unlink(missing_ok=True)  # an old copy must not pass for that of a failed start
        # papermill writes as the first of these writers does that takes the beginning of a path.
        copier = SimpleNamespace(write=_write_copy, pretty_path=str)
        papermill_io.register(str(executed), copier)
        try:
            papermill.execute_notebook(
                notebook, executed, parameters, "nblib", progress_bar=False,
                stdout_file=sys.stdout, stderr_file=sys.stderr, cwd=notebook.parent,
            )  # fmt: skip
        except Exception as error:  # a failed cell, a dead kernel, a parameter, a broken file
            sys.exit(_failure(notebook.name, executed, error))
        if html:
            from nblib.pages import write_page

            write_page(executed, Path(html), notebook.stem)


def write_links(folder: Path = HERE) -> list[Path]:
    """Write the links to the previous and the next notebook into the numbered notebooks.

    They are the last cell of each, tagged `navigation`; other cells stay as they are. Returns
    the notebooks that were changed.
    """
    files = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    changed = []
    for before, file, after in zip([None, *files], files, [*files[1:], None], strict=False):
        nb = nbformat.read(file, nbformat.NO_CONVERT)
        links = [before and f"← [{before.stem}]({before.name})"]
        links += [after and f"[{after.stem}]({after.name}) →"]
        others = _without_navigation(nb)
        # nbstripout numbers the cells: the one that is there keeps its id.
        ids = [cell.id for cell in nb.cells if cell not in others] or ["navigation"]
        cell = nbformat.v4.new_markdown_cell(" · ".join(filter(None, links)), id=ids[0])
        cell.metadata.tags = ["navigation"]
        nb.cells = [*others, cell]
        if _rewritten(file, nb):
            changed.append(file)
    return changed


def _rewritten(file: Path, nb) -> bool:
    """Write a notebook where it differs from its file; whether it did."""
    new = nbformat.writes(nb).rstrip("\n") + "\n"
    if new == file.read_text(encoding="utf-8"):
        return False
    with written_whole(file) as out:
        out.write(new.encode())
    return True


def write_index(folder: Path = HERE) -> list[Path]:
    """Write what each notebook with methods is about into the table of `00_start_here`.

    In its cell tagged `index`, a row a notebook by number; rows of other notebooks stay as they
    are written there. Returns the notebook, if it was changed.
    """
    from nblib.methods.catalogue import in_words

    file, words = folder / "00_start_here.ipynb", in_words()
    nb = nbformat.read(file, nbformat.NO_CONVERT)
    (cell,) = [cell for cell in nb.cells if "index" in cell.metadata.get("tags", [])]
    lines = cell.source.splitlines()
    rows = [line for line in lines if line.startswith("| [")]
    before, after = cell.source.split("\n".join(rows))
    rows = [row for row in rows if row.split("`")[1] not in words]
    rows += [f"| [`{name}`]({name}.ipynb) | {what} |" for name, (what, _) in words.items()]
    cell.source = before + "\n".join(sorted(rows)) + after
    return [file] if _rewritten(file, nb) else []


def _parameters(nb) -> dict:
    """Name and default of each parameter, from the lines `name = literal` of the tagged cell."""
    tagged = [c.source for c in nb.cells if "parameters" in c.metadata.get("tags", [])]
    lines = [line for line in ast.parse("\n".join(tagged)).body if isinstance(line, ast.Assign)]
    return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}


def _without_navigation(nb) -> list:
    return [cell for cell in nb.cells if "navigation" not in cell.metadata.get("tags", [])]


def _write_copy(text: str, path: str) -> None:
    with written_whole(Path(path)) as file:
        file.write(text.encode())


def _failure(name: str, executed: Path, error: Exception) -> str:
    """What failed, in which cell, and the last lines of the error."""
    from nbconvert.filters import strip_ansi

    if isinstance(error, OSError):  # of the disk, and of no cell
        return f"{name} cannot be run: {error}"
    copy = nbformat.read(executed, 4).cells if executed.exists() else []
    started = [c for c in copy if c.cell_type == "code" and c.metadata.papermill.start_time]
    if not started:
        return f"{name} cannot be run: {error}"
    numbered = list(enumerate(started, 1))
    # A cell that fails as its result is shown lets those behind it run.
    failed = [(n, c) for n, c in numbered if any(o.output_type == "error" for o in c.outputs)]
    number, cell = (failed[:1] or numbered[-1:])[0]
    lines = getattr(error, "traceback", [f"{type(error).__name__}: {error}"])
    first = (cell.source.strip().splitlines() or [""])[0]
    printed = [output.text for output in cell.outputs if output.get("name") == "stderr"]
    text = strip_ansi("\n".join([*printed, *lines])).strip()
    shown = text.splitlines()[-LINES_OF_AN_ERROR:]
    head = f"{name} failed in its code cell {number}: {first}"
    return "\n".join([head, *shown, f"Executed copy: {executed}"])
