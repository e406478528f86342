"""Where the project keeps its files, and how they are read and written: whole or not at all."""

import contextlib
import csv
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from nblib.progress import say


def root() -> Path:
    """The folder that holds `data/` and `figures/`: `NBLIB_ROOT`, else the project's own."""
    return Path(os.environ.get("NBLIB_ROOT") or Path(__file__).parent.parent).resolve()


def front_page() -> Path:
    """The page that lists all executed notebooks."""
    return root() / "figures" / "html" / "index.html"


UNWRITABLE = {
    getattr(errno, name) for name in ("ENOSPC", "EFBIG", "EDQUOT", "EROFS", "EACCES", "EPERM")
}
"""No room on the disk, for a file of this size or for this user; no right to write."""


@contextlib.contextmanager
def written_whole(path: Path, mode: str = "wb"):
    """Open a temporary neighbour of `path`, moved onto `path` when the block ends well.

    A reader sees the old file or the new one, never half of one, whatever kills the writer. Raises
    OSError as `told_where_unwritable` does; the old file then stays.
    """
    temporary = None
    with told_where_unwritable(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, mode) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files for the owner alone; results are as readable as any other file.
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            if temporary:  # unless a signal came just after it was moved
                Path(temporary).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def told_where_unwritable(path: Path):
    """Around what writes `path`, a file or a folder, whole or not at all.

    Raises OSError, in a sentence that names it, where there is no room or no right to write.
    """
    try:
        yield
    except BaseException as error:
        if why := _unwritable(error):
            sentence = f"{path} cannot be written: {why.strerror}. What was there is unchanged."
            raise type(why)(sentence) from None
        raise


def _unwritable(error: BaseException | None) -> OSError | None:
    """The error of the disk behind an error: torch raises one of its own after it."""
    while error and not (isinstance(error, OSError) and error.errno in UNWRITABLE):
        error = error.__context__
    return error


def unused(path: Path) -> Path:
    """The first of `path`1, `path`2, ... that is not there."""
    numbers = itertools.count(1)
    return next(p for n in numbers if not (p := path.with_name(f"{path.name}{n}")).exists())


def write_json(path: Path, value) -> None:
    """Write `value` as indented JSON; NaN is refused, since JSON has none."""
    with written_whole(path, "w") as file:
        file.write(as_json(value))


def as_json(value) -> str:
    """The text that `write_json` writes."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def in_a_line(error: Exception) -> str:
    """What an error of a library says, in a line of at most 200 characters without a full stop."""
    words = as_text(" ".join(str(error).split())) or type(error).__name__
    return words[:200].rstrip(".")


class DatasetError(ValueError):
    """What is wrong with a set: all problems at once, a sentence each."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


class RunError(RuntimeError):
    """What is wrong with a run, in one sentence that names the file and says what to do."""


def must_be_file(file: Path) -> None:
    """Raise OSError for a pipe, a socket or a device: who opens one may wait for ever.

    Also, as opening it would, for what is not there, and ValueError for a name with a NUL.
    """
    kind = os.stat(file).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device", os.fspath(file))


def must_be_path(text: str) -> None:
    """Raise ValueError, in a sentence, for what no file or folder can be called here.

    That is what holds a NUL, or is so long that no file can lie in it.
    """
    if "\0" in text:
        raise ValueError(f"{some([text])} holds a NUL character: leave it out.")
    whole = os.fsencode(os.path.abspath(text))
    of_a_name, of_all = os.pathconf("/", "PC_NAME_MAX"), os.pathconf("/", "PC_PATH_MAX")
    if len(whole) > of_all - of_a_name or max(map(len, whole.split(b"/"))) > of_a_name:
        words = f"is too long, with {len(text)} characters: choose a shorter one."
        raise ValueError(f"{some([text])} {words}")


def at_home(path: str | Path) -> Path:
    """A path with the user's folder for a leading ~; of a user that there is not it stays.

    pathlib's own raises RuntimeError there.
    """
    return Path(os.path.expanduser(path))


def as_text(path: str | Path) -> str:
    """A path as a line of text: what is no character, or would end a line, becomes a '?'."""
    unfit = ("Cc", "Cs", "Zl", "Zp")
    return "".join("?" if unicodedata.category(c) in unfit else c for c in os.fspath(path))


def some(names: list[str], at_most: int = 5) -> str:
    """The first of some names, each as far as one wants to read it, and how many more there are."""
    rest = len(names) - at_most
    shown = (as_text(name[:100]) + "..." * (len(name) > 100) for name in names[:at_most])
    return ", ".join(name or "''" for name in shown) + (f" and {rest} more" if rest > 0 else "")


MOST_CHARACTERS = 1000
"""Of a cell: longer ones are no name, patient or number, and a column of them fills the memory."""


def read_table(file: Path) -> pd.DataFrame:
    """A CSV file as text, its cells parted by commas or, where the first line has none, semicolons.

    An empty cell is ''. Raises DatasetError where it is no table, two columns share a name, or a
    cell holds a NUL or more than `MOST_CHARACTERS`.
    """
    try:
        must_be_file(file)
        with open(file, errors="replace") as lines:
            first = lines.readline()
        between = ";" if ";" in first and "," not in first else ","
        # Pandas calls the second of two columns of one name otherwise, and says nothing.
        names = [name.strip() for name in next(csv.reader([first], delimiter=between), [])]
        table = pd.read_csv(file, sep=between, dtype=str, keep_default_na=False, index_col=False)
    except OSError as error:
        raise DatasetError([f"{file} cannot be read: {error.strerror}."]) from None
    except (ValueError, csv.Error) as error:  # pandas' own errors are ValueErrors
        problem = f"{file} is no table of comma-separated values: {in_a_line(error)}."
        raise DatasetError([problem]) from None
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise DatasetError([f"{file} has several columns {some(twice)}: keep one."])
    for name, cells in [("the first line", table.columns.to_series()), *table.items()]:
        if cells.str.contains("\0", regex=False).any() or cells.str.len().max() > MOST_CHARACTERS:
            where = some([name])
            what = f"a NUL character or more than {MOST_CHARACTERS} characters"
            raise DatasetError([f"{file}: a cell of {where} holds {what}."])
    return table


def no_formula(text: str, mark: str = "'") -> str:
    """A text with a mark before what a spreadsheet would take for a formula.

    Also behind a semicolon, which some part cells by.
    """
    return re.sub(r'(^|;)(?="*[=+\-@])', rf"\1{mark}", text)


def write_for_people(file: Path, table: pd.DataFrame, exact: Iterable[str] = ()) -> None:
    """Write a table that people open in a spreadsheet: none of its text is taken for a formula.

    Text becomes a line (`as_text`), see `no_formula`; numbers stay as they are, with six digits.
    exact: columns that the project reads back, whose names have to be those of the files; so are
    those of a run's scores.csv and watched.csv. Sets that the project makes hold no such names.
    """

    def safe(cell):
        return no_formula(as_text(cell)) if isinstance(cell, str) else cell

    others = table.columns.difference(exact)
    with written_whole(file, "w") as out:
        table.assign(**table[others].map(safe)).to_csv(out, index=False, float_format="%.6g")


def digest(*parts: bytes) -> str:
    """SHA-256 of some bytes, as 16 hexadecimal digits."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()[:16]


@contextlib.contextmanager
def one_writer(path: Path):
    """Hold an exclusive lock on `path`, waiting for whoever holds it.

    The kernel frees the lock when its holder dies, so that none is ever stale.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{path.stem}: another process is writing this; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def passing_folder(where: Path, name: str):
    """A hidden folder in `where` that goes when the block ends, if it is still there by then.

    One process has one of a name at a time; what a killed one has left is removed first.
    """
    where.mkdir(parents=True, exist_ok=True)
    place = digest(os.fsencode(where.resolve()))
    with one_writer(root() / "data" / "locks" / f"{name}-{place}.lock"):
        for path in where.iterdir():
            if re.fullmatch(rf"\.{re.escape(name)}\.\w{{8}}", path.name) and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            dir=where, prefix=f".{name}.", ignore_cleanup_errors=True
        ) as folder:
            yield Path(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
