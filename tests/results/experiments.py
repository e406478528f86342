"""Made-up experiments whose truth is known."""

import numpy as np
from scipy import stats

SHARED = 0.6  # of a patient, for both methods
OWN = 0.4  # of a patient, for one method
NOISE = 0.7  # of an image


def experiment(random, patients, shift=0.0, seeds=3, seed_noise=0.1, views=3, base=1.0):
    """Two methods on the same patients: labels, patients, and scores (seeds, n) of each.

    The separation of a run is that of its method and noise of its seed; `shift` is what the first
    method has more. Half of the patients are ill; each has 1 to `views` images.
    """
    count = random.integers(1, views + 1, patients)
    patient = np.repeat(np.arange(patients), count)
    labels = (np.arange(patients) % 2)[patient]
    n = len(labels)
    both = SHARED * random.standard_normal(patients)[patient]
    scores = []
    for more in (shift, 0):
        own = OWN * random.standard_normal(patients)[patient]
        separation = base + more + seed_noise * random.standard_normal((seeds, 1))
        noise = NOISE * random.standard_normal((seeds, n))
        scores.append(separation * labels + both + own + noise)
    return labels, patient.astype(str), *scores


def true_auc(separation):
    """The AUC of an infinite population: differences of two patients are normal."""
    spread = np.sqrt(2 * (SHARED**2 + OWN**2 + NOISE**2))
    return stats.norm.cdf(separation / spread)
