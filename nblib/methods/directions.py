"""Directions in a space of features along which the unlabeled mix lies apart from known normals.

Of the mix only the abnormal images differ from known normals, so what separates the two separates
normal from abnormal, provided that the normal images of both come from the same source: a
difference of scanner, view or year would be learnt as if it were disease.
"""

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

FOLDS = 5


def logistic(known: np.ndarray, mix: np.ndarray, depths: tuple[int, ...]) -> np.ndarray:
    """The weights (features,) of a logistic regression of known normals against the mix.

    known, mix: (n, features), of which known has mean 0 and deviation 1. depths: see `fisher`.
    """
    both = np.concatenate([known, mix])
    model = LogisticRegression(C=0.01, max_iter=5000, random_state=0)
    return model.fit(both, np.arange(len(both)) >= len(known)).coef_[0]


def fisher(known: np.ndarray, mix: np.ndarray, depths: tuple[int, ...]) -> np.ndarray:
    """Fisher's direction (features,), whitened by the known normals alone.

    For each depth w = S^-1 (mean of the mix - mean of the known normals), where S is the known
    normals' covariance, shrunk as Ledoit and Wolf (2004) do, over the deviation of w x among the
    known normals. With the mix in S, what is abnormal would be whitened away.

    known, mix: as for `logistic`. depths: how many features, side by side, are of each depth.
    """
    ends = np.cumsum(depths)[:-1]
    weights = []
    for normal, other in zip(np.split(known, ends, 1), np.split(mix, ends, 1), strict=True):
        # Of one or two images there is no covariance.
        covariance = (
            LedoitWolf().fit(normal).covariance_ if len(normal) > 2 else np.eye(len(normal.T))
        )
        weight = np.linalg.solve(covariance, other.mean(0) - normal.mean(0))
        weights.append(weight / max((normal @ weight).std(), 1e-6))
    return np.concatenate(weights)


def fitted(
    direction, known: np.ndarray, mix: np.ndarray, depths: tuple[int, ...]
) -> tuple[np.ndarray, float]:
    """A direction in terms of features as they are: x -> x weight + bias, 0 for the mean normal.

    Each feature is given mean 0 and deviation 1 over the known normals first.
    """
    mean, deviation = known.mean(0), known.std(0).clip(1e-6)
    weight = direction((known - mean) / deviation, (mix - mean) / deviation, depths) / deviation
    return weight, -float(mean @ weight)


def standardised(
    direction,
    known: np.ndarray,
    mix: np.ndarray,
    depths: tuple[int, ...],
    patients: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """`fitted`, with mean 0 and deviation 1 over known normals that it was not fitted on.

    Those are had by fitting it five times, each time without a fifth of the known normals, no
    patient's images on both sides. Images that a direction was fitted on lie closer together along
    it than others do.
    """
    weight, bias = fitted(direction, known, mix, depths)
    groups = np.arange(len(known)) if patients is None else patients
    folds = min(FOLDS, len(np.unique(groups)))
    if folds < 2:
        return weight, bias
    unseen = np.empty(len(known))
    for rest, fold in GroupKFold(folds).split(known, groups=groups):
        of_rest, at = fitted(direction, known[rest], mix, depths)
        unseen[fold] = known[fold] @ of_rest + at
    deviation = max(unseen.std(), 1e-6)
    return weight / deviation, (bias - unseen.mean()) / deviation
