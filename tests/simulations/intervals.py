"""How often the 95 % intervals of AUC and AP hold the truth.

    python tests/simulations/intervals.py [--times 1000] [--resamples 400]

Scores of patients with one or with one to four images each, of whom a tenth or half are abnormal,
go through `metrics.bounded_interval`; the truth is that of an infinite
population. Beside them the percentile interval. Writes data/simulated/intervals.csv.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import stats
from sklearn.metrics import average_precision_score

from nblib import metrics

SHARED = 0.5
"""Share of the variance of a score that all images of a patient have in common."""

FILE = Path(__file__).parents[2] / "data" / "simulated" / "intervals.csv"


def truth(area, prevalence):
    """AUC and AP of an infinite population: normal scores, shifted for abnormal images."""
    shift = np.sqrt(2) * stats.norm.ppf(area)
    cuts = np.linspace(-12, 14, 200_001)
    true, false = stats.norm.sf(cuts - shift), stats.norm.sf(cuts)
    precision = prevalence * true / np.maximum(prevalence * true + (1 - prevalence) * false, 1e-300)
    return area, -np.trapezoid(precision, true)


def holds(seed, patients, prevalence, views, area, resamples):
    """Whether each interval holds the truth: AUC, AP; percentile intervals of AUC, AP."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), random.integers(1, views + 1, patients))
    labels = (patient < round(prevalence * patients)).astype(int)
    shared = np.sqrt(SHARED) * random.standard_normal(patients)[patient]
    own = np.sqrt(1 - SHARED) * random.standard_normal(len(patient))
    scores = np.sqrt(2) * stats.norm.ppf(area) * labels + shared + own
    # With a seed of its own: from the same numbers would come the images and their resamples.
    weights = metrics.patient_weights(labels, patient.astype(str), resamples, 10**6 + seed)
    areas, precisions = metrics.weighted_auc_ap(labels, scores, weights)
    found = [
        metrics.bounded_interval(metrics.auc(labels, scores), areas, labels, patient),
        metrics.bounded_interval(
            average_precision_score(labels, scores), precisions, labels, patient
        ),
        metrics.interval(areas),
        metrics.interval(precisions),
    ]
    true = truth(area, prevalence) * 2
    return [low <= value <= high for (low, high), value in zip(found, true, strict=True)]


def cell(patients, prevalence, views, area, times, resamples, jobs=-1):
    """A row of the table: how often each interval holds the truth."""
    given = patients, prevalence, views, area, resamples
    shares = np.mean(Parallel(jobs)(delayed(holds)(seed, *given) for seed in range(times)), 0)
    names = ["AUC", "AP", "AUC, percentiles", "AP, percentiles"]
    return {
        "patients": patients,
        "abnormal": prevalence,
        "images a patient, at most": views,
        "true AUC": area,
        **{name: round(float(share), 3) for name, share in zip(names, shares, strict=True)},
        "experiments": times,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=400)
    given = parser.parse_args()
    rows = []
    for chosen in itertools.product((100, 300, 1500), (0.1, 0.5), (1, 4), (0.85, 0.98)):
        rows.append(cell(*chosen, given.times, given.resamples))
        print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(FILE, index=False)
