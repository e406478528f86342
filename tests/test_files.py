import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from files import full_disk
from nblib import files


def test_root_is_the_variable_or_the_projects_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("NBLIB_ROOT", str(tmp_path / "x" / ".."))
    assert files.root() == tmp_path.resolve()
    for unset in ("", None):
        monkeypatch.setenv("NBLIB_ROOT", "") if unset == "" else monkeypatch.delenv("NBLIB_ROOT")
        assert (files.root() / "nblib" / "files.py").samefile(files.__file__)


def test_a_file_is_written_with_its_folders(tmp_path):
    target = tmp_path / "a" / "b" / "c.bin"
    with files.written_whole(target) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new" and os.listdir(target.parent) == ["c.bin"]


def test_the_old_file_stands_until_the_block_ends(tmp_path):
    target = tmp_path / "f"
    target.write_text("old")
    with files.written_whole(target, "w") as file:
        file.write("new")
        file.flush()
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [["f"], []])
def test_an_exception_leaves_what_was_there(tmp_path, kind, before):
    target = tmp_path / "f"
    for name in before:
        (tmp_path / name).write_text("old")
    with pytest.raises(kind), files.written_whole(target, "w") as file:
        file.write("half")
        raise kind
    assert os.listdir(tmp_path) == before
    assert all((tmp_path / name).read_text() == "old" for name in before)


def test_a_signal_just_after_the_new_file_is_there_is_no_missing_file(tmp_path, monkeypatch):
    replace = os.replace

    def replace_and_hear(one, other):
        replace(one, other)
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    monkeypatch.setattr(os, "replace", replace_and_hear)
    try:
        with pytest.raises(SystemExit), files.written_whole(tmp_path / "f", "w") as file:
            file.write("new")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert os.listdir(tmp_path) == ["f"] and (tmp_path / "f").read_text() == "new"


def test_a_target_that_cannot_be_replaced_leaves_no_temporary(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError), files.written_whole(tmp_path / "folder") as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["folder"]


NOISE = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)

WRITERS = {
    "bytes": lambda file: file.write(NOISE.tobytes()),
    "JSON": lambda file: file.write(files.as_json(NOISE.tolist()).encode()),
    "NumPy": lambda file: np.savez(file, a=NOISE),
    "NumPy, compressed": lambda file: np.savez_compressed(file, a=NOISE),
    "torch": lambda file: torch.save({"a": torch.from_numpy(NOISE)}, file),
    "pandas": lambda file: pd.DataFrame(NOISE).to_csv(file),
    "pandas, compressed": lambda file: pd.DataFrame(NOISE).to_csv(file, compression="gzip"),
    "matplotlib": lambda file: plt.imsave(file, NOISE, format="png"),
    "matplotlib, PDF": lambda file: figure_of_noise().savefig(file, format="pdf"),
    "Pillow": lambda file: Image.fromarray(NOISE).save(file, "PNG"),
}


def figure_of_noise():
    figure = Figure()
    figure.subplots().imshow(NOISE)
    return figure


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("before", [["f"], []])
def test_a_full_disk_is_said_in_a_sentence_and_leaves_what_was_there(tmp_path, before, write):
    for name in before:
        (tmp_path / name).write_text("old")
    whole = files.written_whole(tmp_path / "f")
    with pytest.raises(OSError) as error, full_disk(1000), whole as file:
        write(file)
    words = "cannot be written: File too large. What was there is unchanged."
    assert str(error.value) == f"{tmp_path / 'f'} {words}"
    assert os.listdir(tmp_path) == before
    assert all((tmp_path / name).read_text() == "old" for name in before)
    with files.written_whole(tmp_path / "f") as file:
        write(file)
    assert (tmp_path / "f").stat().st_size > 1000


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("where", ["tempfile.mkstemp", "pathlib.Path.mkdir", "os.replace"])
def test_what_the_system_refuses_is_said_in_a_sentence(tmp_path, monkeypatch, code, where):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code), "some temporary name")

    (tmp_path / "f.json").write_text("old")
    monkeypatch.setattr(where, refuse)
    with pytest.raises(OSError, match=os.strerror(code)) as error:
        files.write_json(tmp_path / "f.json", [])
    assert str(error.value).startswith(f"{tmp_path / 'f.json'} cannot be written")
    assert "temporary" not in str(error.value) and os.listdir(tmp_path) == ["f.json"]
    assert (tmp_path / "f.json").read_text() == "old"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_an_ordinary_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / "ordinary").write_text("x")
        with files.written_whole(tmp_path / "whole") as file:
            file.write(b"x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode for name in ("ordinary", "whole")}
    assert modes["whole"] == modes["ordinary"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    target = tmp_path / "f"
    target.write_text("0" * 100_000)
    code = (
        "import pathlib, sys; from nblib.files import written_whole\n"
        "for i in range(1, 60):\n"
        "    with written_whole(pathlib.Path(sys.argv[1]), 'w') as file:\n"
        "        file.write(str(i % 10) * 100_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(target)])
    seen = set()
    while writer.poll() is None:
        text = target.read_text()
        assert len(text) == 100_000 and len(set(text)) == 1
        seen.add(text[0])
    assert writer.returncode == 0 and len(seen) > 1


def test_json_reads_back_and_nan_is_refused(tmp_path):
    value = {"a": [1, 2.5, None, True], "é": {"b": "x"}}
    files.write_json(tmp_path / "v.json", value)
    assert json.loads((tmp_path / "v.json").read_text(encoding="utf-8")) == value
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "v.json", {"a": float("nan")})
    assert json.loads((tmp_path / "v.json").read_text(encoding="utf-8")) == value
    assert os.listdir(tmp_path) == ["v.json"]


def test_digest_is_sixteen_hexadecimal_digits_and_stable():
    assert len(files.digest(b"a")) == 16 and int(files.digest(b"a"), 16) >= 0
    assert files.digest(b"a", b"b") == files.digest(b"a", b"b")


def test_digest_is_not_confused_by_concatenation():
    parts = [(b"ab",), (b"a", b"b"), (b"", b"ab"), (b"ab", b""), (b"ab", b"", b""), (), (b"",)]
    assert len({files.digest(*part) for part in parts}) == len(parts)


@given(st.lists(st.binary(max_size=10)), st.lists(st.binary(max_size=10)))
def test_different_parts_have_different_digests(one, other):
    assert (files.digest(*one) == files.digest(*other)) == (one == other)


HOLD = """
import pathlib, sys, time
from nblib.files import one_writer
with one_writer(pathlib.Path(sys.argv[1])):
    print("held", time.time(), flush=True)
    sys.stdin.readline()
    print("done", time.time(), flush=True)
"""


@pytest.fixture
def hold():
    """Start processes which hold a lock until they read a line; none outlives the test."""
    started = []

    def start(lock):
        command = [sys.executable, "-c", HOLD, str(lock)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen(command, **pipes, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_one_writer_makes_two_processes_take_turns(tmp_path, hold):
    lock = tmp_path / "deep" / "seed0.lock"
    first = hold(lock)
    assert first.stdout.readline().startswith("held")
    second = hold(lock)
    assert second.stderr.readline().startswith("seed0: another process")
    time.sleep(0.1)
    done = first.communicate("\n", timeout=30)[0].split()
    held = second.communicate("\n", timeout=30)[0].split()
    assert (done[0], held[0], held[2]) == ("done", "held", "done")
    assert float(done[1]) <= float(held[1])
    assert first.returncode == second.returncode == 0


def test_a_killed_writer_leaves_no_stale_lock(tmp_path, hold):
    first = hold(tmp_path / "seed0.lock")
    assert first.stdout.readline().startswith("held")
    second = hold(tmp_path / "seed0.lock")
    assert "another process" in second.stderr.readline()
    first.kill()
    assert second.communicate("\n", timeout=30)[0].startswith("held")


def test_an_exception_frees_the_lock(tmp_path, hold):
    with pytest.raises(KeyError), files.one_writer(tmp_path / "x.lock"):
        raise KeyError
    assert hold(tmp_path / "x.lock").communicate("\n", timeout=30)[0].startswith("held")


def test_other_locks_do_not_wait(tmp_path, hold):
    with files.one_writer(tmp_path / "x.lock"):
        assert hold(tmp_path / "y.lock").communicate("\n", timeout=30)[0].startswith("held")


def test_a_passing_folder_goes_and_takes_with_it_what_a_killed_process_left(tmp_path):
    for name in (".own.abcdefgh", ".own.other.abcdefgh", ".other.abcdefgh", "own.abcdefgh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.png").write_bytes(b"")
    with pytest.raises(ZeroDivisionError), files.passing_folder(tmp_path, "own") as folder:
        assert folder.parent == tmp_path and not (tmp_path / ".own.abcdefgh").exists()
        (folder / "image.png").write_bytes(b"")
        raise ZeroDivisionError
    with files.passing_folder(tmp_path, "own") as folder:
        folder.rename(tmp_path / "kept")
    names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert names == {".own.other.abcdefgh", ".other.abcdefgh", "own.abcdefgh", "kept"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "a\r=", "a\n="])
def test_no_text_of_a_table_for_people_is_taken_for_a_formula(tmp_path, start):
    text, plain = f"{start}1+1", f"a{start}b"
    table = pd.DataFrame(
        {"text": [text, plain, ""], "number": [-0.5, 2.0, np.nan], "n": [-1, 0, 1]}
    )
    files.write_for_people(tmp_path / "t.csv", table)
    with open(tmp_path / "t.csv", newline="") as lines:
        rows = list(csv.reader(lines))[1:]
    told = f"'{text}" if len(start) == 1 else f"{start[:-2]}?=1+1"
    plain = plain if len(start) == 1 else files.as_text(plain)
    assert rows == [[told, "-0.5", "-1"], [plain, "2", "0"], ["", "", "1"]]


@given(st.lists(st.text(max_size=5), min_size=1))
def test_an_apostrophe_is_all_that_is_added(tmp_path_factory, cells):
    file = tmp_path_factory.mktemp("any") / "t.csv"
    cells = [*map(files.as_text, cells), "=x"]
    files.write_for_people(file, pd.DataFrame({"a": cells, "b": "b"}))
    for cell, found in zip(cells, files.read_table(file)["a"], strict=True):
        assert found.replace("'", "") == cell.replace("'", "")
        assert len(found) - len(cell) <= 1 + cell.count(";")


@given(st.lists(st.text("=+-@;,'\"\t\nx1", max_size=6), min_size=1))
@example(["x;=1+1;.png", 'x;"=1+1"'])
def test_no_formula_is_seen_whatever_parts_the_cells(tmp_path_factory, cells):
    file = tmp_path_factory.mktemp("any") / "t.csv"
    files.write_for_people(file, pd.DataFrame({"a": cells, "b": cells}))
    for delimiter in ",;":
        with open(file, newline="") as lines:
            found = [cell for row in csv.reader(lines, delimiter=delimiter) for cell in row]
        assert not [cell for cell in found if cell.startswith(tuple("=+-@"))]


def test_a_table_that_cannot_be_read_says_so_in_a_sentence(tmp_path):
    file = tmp_path / "t.csv"
    contents = {"a\0,b\n1,2\n": "NUL", "a,b\n1,2\0\n": "a cell of b", "x" * 5000: "the first line"}
    for content, words in contents.items():
        file.write_text(content)
        with pytest.raises(files.DatasetError, match=words) as error:
            files.read_table(file)
        assert len(error.value.problems) == 1 and len(str(error.value)) < 300
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(files.DatasetError, match=r"cannot be read: it is a pipe.*\.$"):
        files.read_table(file)


@pytest.mark.parametrize("depth", [1, 14, 16])
def test_what_may_be_a_path_can_hold_a_file_and_what_may_not_cannot(tmp_path, depth):
    """On the real disk, to a byte in each name."""
    for letters, bytes_ in (("é" * 127 + "x", 255), ("é" * 128, 256)):
        folder = tmp_path.joinpath(*[letters] * depth)
        if bytes_ < 256 and depth < 16:
            files.must_be_path(str(folder))
            folder.mkdir(parents=True)
            (folder / letters).touch()
        else:
            with pytest.raises(
                ValueError, match=r"is too long, with \d+ characters: .*\.$"
            ) as error:
                files.must_be_path(str(folder))
            assert len(str(error.value)) < 200
            with pytest.raises(OSError, match="File name too long"):
                (folder / letters).touch()


def test_a_path_with_a_nul_is_refused():
    with pytest.raises(ValueError, match=r"^a\?b holds a NUL character: leave it out\.$"):
        files.must_be_path("a\0b")


def test_some_names_are_a_line_of_text_that_can_be_read():
    assert files.some(["a", "", "b\nc"]) == "a, '', b?c"
    assert files.some(["x"] * 7, 3) == "x, x, x and 4 more"
    assert files.some(["x" * 101]) == "x" * 100 + "..."
