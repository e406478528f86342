"""What importing the package does to a process."""

import os
import subprocess
import sys

import pytest

FIRST = "import numpy, scipy.linalg, torch; torch.set_num_threads(2)"
THREADS = """
from threadpoolctl import threadpool_info
import torch
print(torch.get_num_threads(), max(pool["num_threads"] for pool in threadpool_info()))
"""


def threads(before, **given):
    """PyTorch's threads, and the most that a library has, in a process that imports the package."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    code = f"{before}\nimport nblib\nimport numpy\n{THREADS}"
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment | given, capture_output=True, text=True
    )
    return out.stdout.split()


@pytest.mark.parametrize("before", ["", FIRST], ids=["before PyTorch", "after PyTorch"])
def test_a_process_computes_with_one_thread_whichever_is_imported_first(before):
    assert threads(before) == ["1", "1"]


def test_the_usual_variable_says_otherwise():
    assert threads("", OMP_NUM_THREADS="2") == ["2", "2"]
    assert threads(FIRST, OMP_NUM_THREADS="3")[0] == "2"  # what somebody set is left alone
