"""`make kills` with ten kills, without the batch, which `test_snakefile` kills."""

import os
import subprocess
import sys

from checks import kills


def test_ten_kills_change_nothing(tmp_path):
    command = [sys.executable, kills.__file__, "--kills", "10", "--few"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    hits = [int(line.split(": ")[1].split()[0]) for line in found.stdout.splitlines()]
    assert len(hits) == 4 and sum(hits) >= 5  # a kill may come too late
