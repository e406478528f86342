"""What is handed to make reaches the program as it was given, whatever is in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

WORDS = (
    "it's",
    "a set",
    "$(shell touch made)",
    "$$HOME ${HOME} `touch made`",
    '"; touch made; "',
    "'; touch made; '",
    "x\ntouch made",
    "{a: 1} #b",
)


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.parametrize("word", WORDS)
def test_a_set_may_be_called_anything_and_nothing_of_it_is_executed(word, tmp_path):
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; print(sys.argv)" "$@"\n')
    program.chmod(0o755)
    command = ["make", "-s", "-f", PROJECT / "Makefile", "-o", ".venv/installed", f"DATA={word}"]
    environment = {k: v for k, v in os.environ.items() if k != "MAKEFLAGS"}
    for target in ("report", "figures", "keep"):
        found = subprocess.run(
            [*command, f"BIN={program.parent}", target],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert repr(word) in found.stdout, found.stdout
    assert not (tmp_path / "made").exists()
