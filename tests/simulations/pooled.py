"""How often the answer over several sets says that two equal methods differ.

    python tests/simulations/pooled.py [--times 4000]

Families of as many pairs as "the thesis' question" has, of methods that are equal on average: the
true difference of a pair is another one on each set (normal, with a deviation), and is measured
there with an error of 0.01 to 0.04, which is what the verdicts of single sets have. Goes through
`pooled.pool` and Holm's correction. Then how often a true mean difference of 0.05 is found, as the
hardest of the family. Writes data/simulated/pooled.csv.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from nblib.results import questions
from nblib.results.differences import LEVEL
from nblib.results.pooled import pool

PAIRS = sum(len(q.pairs) for q in questions.QUESTIONS if q.family == questions.THESIS)
FILE = Path(__file__).parents[2] / "data" / "simulated" / "pooled.csv"


def measured(random, sets, between, mean=0.0):
    """Differences and their errors on each set."""
    errors = random.uniform(0.01, 0.04, sets)
    return mean + between * random.standard_normal(sets) + errors * random.standard_normal(
        sets
    ), errors


def has_false_alarm(random, sets, between):
    """Whether any pair of a family of equal ones differs."""
    p = [pool(*measured(random, sets, between)).p for _ in range(PAIRS)]
    return PAIRS * min(p) < LEVEL  # Holm's first step, which decides whether there is any


def cell(sets, between, times):
    random = np.random.default_rng(0)
    alarms = [has_false_alarm(random, sets, between) for _ in range(times)]
    found = [pool(*measured(random, sets, between, 0.05)) for _ in range(times)]
    inside = [low <= 0.05 <= high for low, high in (one.interval() for one in found)]
    return {
        "sets": sets,
        "deviation between sets": between,
        "false alarms": np.mean(alarms).round(3),
        "power for 0.05": np.mean([PAIRS * one.p < LEVEL for one in found]).round(3),
        "intervals that hold it": np.mean(inside).round(3),
        "experiments": times,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=4000)
    times = parser.parse_args().times
    grid = itertools.product((3, 5, 10), (0.0, 0.02, 0.05))
    rows = [cell(*at, times) for at in grid]
    pd.DataFrame(rows).to_csv(FILE, index=False)
    print(pd.DataFrame(rows))
