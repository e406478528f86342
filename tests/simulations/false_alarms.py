"""How often the verdict says that two equal methods differ, over test sets, seeds and spreads.

    python tests/simulations/false_alarms.py [--times 200]

Made-up results of all methods that the family "the thesis' question" compares go through
`verdicts.answers`, as runs do: patients with one to three images each, seeds whose AUC varies, and
that of one method more than that of another. All methods have the same expected AUC, so that every
answer 'differs' is false. Then, by `differences.difference`, how often a true difference of 0.05
is found as the hardest of the family, and how often two methods that differ by the margin pass for
equivalent. Writes data/simulated/false_alarms.csv.
"""

import argparse
import gc
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import stats

from nblib.results import differences, questions, verdicts
from nblib.results.store import Result

PAIRS = [pair for q in questions.QUESTIONS if q.family == questions.THESIS for pair in q.pairs]
METHODS = sorted({name for pair in PAIRS for name in pair})
AREA = 0.9
"""The expected AUC of every method."""

SEED_DEVIATION = 0.008
"""Deviation of the AUC between seeds, of a method as most are."""

SHARED, OWN, NOISE = 0.9, 0.25, 0.35  # of a patient for all methods, for one; of an image
MARGIN = 0.03
"""Of equivalence, here: within one point nothing could ever be equivalent on these sets."""

FILE = Path(__file__).parents[2] / "data" / "simulated" / "false_alarms.csv"


class TestSet:
    """Images of patients: labels, patients (n,), and what makes an image hard for all methods."""

    def __init__(self, random, images):
        """images: of each class."""
        self.random = random
        count = random.integers(1, 4, images)
        patient = np.repeat(np.arange(images), count)[:images]
        self.labels = np.repeat([0, 1], images)
        self.patient = np.concatenate([patient, patient + images])
        self.patients = self.patient.astype(str)
        self.shared = SHARED * random.standard_normal(2 * images)[self.patient]

    def scores(self, seeds, deviation, difference=0.0):
        """A method's scores (seeds, n): `deviation` of its true AUC between seeds."""
        random, n = self.random, len(self.labels)
        area = AREA + difference + deviation * random.standard_normal((seeds, 1))
        spread = np.sqrt(2 * (SHARED**2 + OWN**2 + NOISE**2))
        separation = spread * stats.norm.ppf(np.clip(area, 0.5, 0.999))
        own = OWN * random.standard_normal(n)[self.patient]
        return (
            separation * self.labels
            + self.shared
            + own
            + NOISE * random.standard_normal((seeds, n))
        )


def results(test, seeds, spread):
    """Results of every method of the family, all with the same expected AUC."""
    made, images = [], [f"{i:05d}" for i in range(len(test.labels))]
    rows = {"image": images, "patient": test.patients, "part": "test", "label": test.labels}
    for method in METHODS:
        deviation = SEED_DEVIATION * np.exp(spread * test.random.standard_normal())
        for seed, scores in enumerate(test.scores(seeds, deviation)):
            config = dict(method=method, seed=seed, set="made up", budget="quick", size=8)
            config |= dict(data="x", precision="fp32")
            made.append(Result(config, {}, pd.DataFrame(rows | {"score": scores})))
    return made


def has_false_alarm(seed, images, seeds, spread):
    """Whether any of the family's answers is that two methods differ; and the patients' error."""
    test = TestSet(np.random.default_rng(seed), images)
    table = verdicts.answers(results(test, seeds, spread))
    table = table[table["family"] == questions.THESIS]
    alarm = table["answer"].isin([verdicts.DIFFERS, verdicts.WITHIN]).any()
    return alarm, table["patient_error"].median()


def told(seed, images, seeds, spread, difference):
    """Whether a true difference is found, as the hardest of a family, or passes for equivalent."""
    random = np.random.default_rng(seed)
    test = TestSet(random, images)
    own, others = SEED_DEVIATION * np.exp(spread * random.standard_normal(2))
    one, other = test.scores(seeds, own, difference), test.scores(seeds, others)
    found = differences.difference(test.labels, test.patients, one, other)
    answer = verdicts.verdict(found, min(1, len(PAIRS) * found.p), MARGIN)
    return answer == verdicts.DIFFERS, answer in (verdicts.EQUIVALENT, verdicts.WITHIN)


def cell(images, seeds, spread, times, jobs=-1):
    """A row of the table: shares of `times` experiments each."""
    # statsmodels collects garbage at each correction: of what is loaded already, which forked
    # processes share, there is none.
    gc.freeze()
    parallel = Parallel(jobs, backend="multiprocessing")
    given = images, seeds, spread
    alarms = parallel(delayed(has_false_alarm)(seed, *given) for seed in range(times))
    power = parallel(delayed(told)(seed, *given, 0.05) for seed in range(times))
    equal = parallel(delayed(told)(seed, *given, MARGIN) for seed in range(times))
    alarm, error = np.mean(alarms, 0)
    return {
        "pairs": len(PAIRS),
        "images a class": images,
        "seeds": seeds,
        "spread of the seeds' deviation": spread,
        "patients' error": round(error, 4),
        "false alarms": round(alarm, 3),
        "power for 0.05": np.mean(power, 0)[0].round(3),
        "wrongly equivalent": np.mean(equal, 0)[1].round(3),
        "experiments": times,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=200)
    given = parser.parse_args()
    grid = itertools.product((100, 700), (2, 3, 5, 8), (0.0, 0.5, 0.8))
    rows = []
    for row in itertools.starmap(cell, [(*c, given.times) for c in grid]):
        print(row, flush=True)
        rows.append(row)
        pd.DataFrame(rows).to_csv(FILE, index=False)
