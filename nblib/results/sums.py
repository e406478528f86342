"""Two methods together: the mean of their scores, each standardised by held-out known normals."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from nblib.methods.catalogue import parts
from nblib.results import store
from nblib.results.store import Result


def standardised(scores: pd.DataFrame) -> pd.Series:
    """The scores of a run by image, in deviations of its held-out known normals from their mean."""
    of = scores.set_index("image")["score"]
    held = of[(scores["part"] == "held_out_normal").to_numpy()]
    return (of - held.mean()) / (held.std(ddof=0) or 1.0)


def sums(results: list[Result], names: Iterable[str]) -> list[Result]:
    """A result for each sum of methods among some names, `one+other`, and each seed of both.

    Names of single methods, sums of which one has not run, and runs that held nothing out are
    passed over. Of what belongs to a run, metrics and checkpoints, a sum has nothing.
    """
    runs = {
        (result.config["method"], result.config["seed"]): result
        for result in results
        if (result.scores["part"] == "held_out_normal").any()
    }
    seeds = sorted({seed for _, seed in runs})
    return [
        _sum(name, [runs[method, seed] for method in parts(name)])
        for name in dict.fromkeys(names)
        for seed in seeds
        if len(parts(name)) > 1 and all((method, seed) in runs for method in parts(name))
    ]


def _sum(name: str, of: list[Result]) -> Result:
    """Its precision is that of what was trained."""
    mean = np.mean([standardised(r.scores).reindex(of[0].scores["image"]) for r in of], axis=0)
    precision = max((r.config["precision"] for r in of if store.precisions([r])), default="")
    config = of[0].config | {"method": name, "precision": precision}
    return Result(config, {}, of[0].scores.assign(score=mean))
