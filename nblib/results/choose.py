"""Which images are shown: chosen by rule, from scores alone."""

import numpy as np
import pandas as pd

from nblib.training.runs import Run


def typical(test: pd.DataFrame) -> np.ndarray:
    """Positions of six images of a run's test part, chosen by rule.

    The lowest, the median and the highest score of the normal and then of the abnormal images;
    without labels six from the lowest to the highest score; none of no images.
    """
    if test.empty:
        return np.array([], int)
    if test["label"].isna().any():
        order = test.sort_values("score", kind="stable").index
        return order[np.linspace(0, len(order) - 1, 6).round().astype(int)].to_numpy()
    chosen = []
    for label in (0, 1):
        order = test[test["label"] == label].sort_values("score", kind="stable").index
        chosen += [order[0], order[len(order) // 2], order[-1]]
    return np.array(chosen)


def told_apart(runs: list[Run]) -> dict[str, int]:
    """Positions in the test part of six or seven images, by what all of some runs say together.

    The mean percentile of an image over the runs ranks it. Of the normal and of the abnormal ones
    the best (told right most clearly), the median and the worst; and the abnormal image that is
    missed most, which even the run that ranks it highest ranks lowest: the nearest to "all models
    are wrong".
    """
    ranks = np.array([run.test["score"].rank(pct=True) for run in runs])
    labels, mean = runs[0].test["label"].to_numpy(), ranks.mean(0)
    found = {}
    for word, label in (("normal", 0), ("abnormal", 1)):
        order = np.flatnonzero(labels == label)
        order = order[np.argsort(mean[order], kind="stable")][:: 1 if label == 0 else -1]
        places = {"best": 0, "median": len(order) // 2, "worst": -1}
        found |= {f"{word}, {name}": int(order[place]) for name, place in places.items()}
    ill = np.flatnonzero(labels == 1)
    found["missed most"] = int(ill[ranks.max(0)[ill].argmin()])
    if found["missed most"] == found["abnormal, worst"]:
        del found["abnormal, worst"]
    return found
