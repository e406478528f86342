"""How well one could choose between methods without a label, from what is held out of training."""

import contextlib

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from nblib.files import root
from nblib.results import features, store
from nblib.results.store import Result


def guides(results: list[Result]) -> pd.DataFrame:
    """AUCp on held-out images beside the AUC of the test part, a row a method.

    Columns: method, runs, auc, aucp (of held-out known normals against held-out unlabeled images:
    means over the runs), aucp_error (the standard error of one run's). Runs from which nothing was
    held out, or which did not note it, are left out.
    """
    rows = []
    for result in results:
        found = result.metrics
        at = result.checkpoints
        aucp = found.get("aucp_held_out", at["aucp_held_out"].iloc[-1] if len(at) else np.nan)
        row = {"method": result.config["method"], "auc": found["auc"], "aucp": aucp}
        rows.append(row | {"aucp_error": found.get("aucp_held_out_error", np.nan)})
    table = pd.DataFrame(rows, columns=["method", "auc", "aucp", "aucp_error"])
    of_method = table.dropna(subset="aucp").groupby("method", sort=False)
    return of_method.mean().assign(runs=of_method.size()).reset_index()


def how_good(budget: str) -> pd.DataFrame:
    """Over every set with results at a budget: does what needs no label order methods as labels do?

    A row a set: Spearman's correlation over the methods of AUCp with the test AUC, the test AUC of
    the method with the highest AUCp and of the best; and where `features.study` has run, for each
    direction the AUC of known normals against the mix, cross-validated, beside its test AUC.
    """
    rows = {}
    for name in _sets(budget):
        table = pd.DataFrame()
        with contextlib.suppress(FileNotFoundError, ValueError):  # no run, or no labels
            table = guides(store.collect(name, budget))
        if len(table) < 3:
            continue
        row = {
            "methods": len(table),
            "rank correlation": spearmanr(table["aucp"], table["auc"])[0],
            "AUC of the highest AUCp": table.loc[table["aucp"].idxmax(), "auc"],
            "AUC of the best": table["auc"].max(),
            "error of an AUCp": table["aucp_error"].mean(),
        }
        studied = features.studied(name, budget)
        if len(studied):
            of = studied.groupby(["what", "direction"])["auc"].first()
            row |= {f"{d}, cross-validated": a for d, a in of["cross-validated"].items()}
            row |= {f"{d}, test": a for d, a in of["mix"].items()}
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("set").round(3)


def _sets(budget: str) -> list[str]:
    """Every set with runs or kept scores at a budget."""
    folders = [root() / "data" / name for name in ("runs", "scores")]
    return sorted({found.parent.name for here in folders for found in here.glob(f"*/{budget}")})
