"""The one command line: what it lists, and what it says where it is misused."""

import re
import subprocess
import sys

import pytest

from nblib.__main__ import commands

COMMANDS = [
    *("score", "batch", "execute", "ratio", "place", "moved", "mirrored", "perceptual"),
    *("features", "keep", "links", "readme", "draw"),
]


def nblib(*words):
    return subprocess.run([sys.executable, "-m", "nblib", *words], capture_output=True, text=True)


def test_it_lists_its_commands_with_a_line_each():
    said = commands().format_help()
    for name in COMMANDS:
        assert re.search(rf"\n    {name}\s+\w", said)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_an_example_that_it_takes(name, capsys):
    with pytest.raises(SystemExit) as stop:
        commands().parse_args([name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    example = said.split(f"example: python -m nblib {name}")[1].split()
    assert stop.value.code == 0
    assert commands().parse_args([name, *example]).command == name


@pytest.mark.parametrize(
    "words, sentence",
    [
        ((), "python -m nblib: the following arguments are required: COMMAND."),
        (("scor",), "python -m nblib: argument COMMAND: invalid choice: 'scor'"),
        (
            ("score", "images"),
            "Name the runs to score with (--run), or a set and take its own (--set).",
        ),
        (
            ("ratio", "phantom", "quick", "sagan", "many", "0"),
            "argument percent: invalid int value",
        ),
        (("moved", "no\nwhere", "smoke", "0"), "There is no set 'no?where'"),
        (("perceptual", "nowhere", "smoke", "0"), "There is no set 'nowhere'"),
        (("execute", "none.ipynb", "out.ipynb"), "No such file or directory: 'none.ipynb'"),
    ],
)
def test_misuse_is_one_sentence_and_ends_with_2(words, sentence):
    done = nblib(*words)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert sentence in done.stderr


@pytest.mark.parametrize("name", ["images", "--run", "--out"])
@pytest.mark.parametrize("path", ["x" * 300, "a/" * 2500, "\0"], ids=["name", "path", "NUL"])
def test_what_can_be_no_path_is_one_short_sentence_that_names_the_argument(name, path, capsys):
    words = [path] if name == "images" else ["images", name, path]
    with pytest.raises(SystemExit) as stop:
        commands().parse_args(["score", *words])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(line) < 300
    assert line.startswith(f"python -m nblib score: argument {name}: ")
    assert ("holds a NUL" if path == "\0" else "is too long") in line


def test_a_second_batch_in_the_same_root_is_refused(project_root):
    """Where another process holds the lock."""
    hold = "import sys; from filelock import FileLock; "
    hold += "lock = FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); "
    hold += "sys.stdin.read()"
    lock = project_root / "data" / ".batch.lock"
    lock.parent.mkdir()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold, lock], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        done = nblib("batch", "all")
        other.communicate("")
    assert done.returncode == 2
    assert done.stderr.startswith(f"Another batch is running in {project_root}")
