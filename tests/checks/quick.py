"""Whether methods can be seen to work on the drawn set at the budget `quick`, over three seeds.

    python tests/checks/quick.py [--drawing 2026] [--seeds 0,1,2] [--jobs 2]

On a drawing that is not the default one, since drawing and recipe were chosen while looking at that
one. Prints what was aimed at and what came out, writes it to figures/readme/drawn_set.csv and .md,
and ends with 1 where an aim was missed. Half an hour of processor time.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.supervised import scores_of_a_supervised_network
from nblib import plan
from nblib.data import datasets, phantom
from nblib.data.labels import load_labels
from nblib.files import written_whole
from nblib.methods.catalogue import order
from nblib.results import store, tables
from nblib.training import runs

FILE = Path(__file__).parents[2] / "figures" / "readme" / "drawn_set.csv"

AT_MOST = {"mean_intensity": 0.70, "vertical_gradient": 0.70, "mean_image": 0.70}
AT_MOST |= {"nearest_normals": 0.78, "pca64": 0.88, "known_against_unlabeled": 0.88}
"""AUC of what anyone would try first."""

ENCODED = ("sagan_rope", "sagan_alibi", "sagan_attention_bias", "sagan_swin")
AT_LEAST = dict.fromkeys(("brainomaly", "sagan", *ENCODED), 0.85)
AT_LEAST |= {"alad": 0.75, "ganomaly": 0.75, "supervised": 0.97}

POINTING = dict.fromkeys(("brainomaly", "sagan", "sagan_rope", "sagan_swin"), 0.75)
"""How often the highest place of a map lies in a lesion, at least."""


def make(method, folder, seed):
    torch.set_num_threads(1)
    runs.run(method, datasets.load(folder), "quick", int(seed))


def main(drawing, seeds, jobs):
    with tempfile.TemporaryDirectory() as root:
        os.environ["NBLIB_ROOT"], os.environ["OMP_NUM_THREADS"] = root, "1"
        folder = phantom.write_phantom(Path(root) / "drawn", seed=drawing)
        datasets.load(folder)  # decoded once
        methods = sorted(plan.methods("quick"), key=lambda name: name not in plan.NETWORKS)
        work = [delayed(make)(name, folder, seed) for name in methods for seed in seeds.split(",")]
        Parallel(n_jobs=jobs, backend="loky", verbose=10)(work)
        results = store.collect(folder, "quick")
        rows = tables.table(results).set_index("method")
        maps = tables.localisation_table(results).set_index("method")
        dataset = datasets.load(folder)
        labels = load_labels(dataset).test
        supervised = roc_auc_score(labels, scores_of_a_supervised_network(dataset.test.images))
    write(rows, maps, supervised)


def write(rows, maps, supervised):
    table = rows[["uses", "seeds", "auc", "auc_seed_sd", "seconds"]].join(maps["pointing"])
    table = table.loc[sorted(table.index, key=order)]
    table.loc["supervised", ["uses", "auc"]] = "test-like images with labels", supervised
    table.loc["chance", ["auc", "pointing"]] = 0.5, maps.loc["chance", "pointing"]
    at = table.index
    table["aim"] = [
        f"<= {AT_MOST[name]:.2f}" if name in AT_MOST else f">= {AT_LEAST[name]:.2f}"
        if name in AT_LEAST else "" for name in at
    ]  # fmt: skip
    table["pointing_aim"] = [f">= {POINTING[n]:.2f}" if n in POINTING else "" for n in at]
    auc, pointing = table["auc"].astype(float), table["pointing"].astype(float)
    kept = [
        auc[name].round(3) <= AT_MOST.get(name, 1)
        and auc[name].round(3) >= AT_LEAST.get(name, 0)
        and not pointing[name] < POINTING.get(name, 0)
        for name in at
    ]
    aimed = [name in AT_MOST | AT_LEAST | POINTING for name in at]
    table["reached"] = np.where(aimed, np.where(kept, "yes", "no"), "")
    table = table.reset_index(names="method")
    with written_whole(FILE, "w") as file:
        table.to_csv(file, index=False, float_format="%.4g")
    printed = table.assign(
        **{name: table[name].astype(float).round(3) for name in ("auc", "auc_seed_sd", "pointing")},
        seconds=table["seconds"].astype(float).round(0),
    ).astype(object)
    text = printed.where(printed.notna(), "").to_markdown(index=False, disable_numparse=True)
    with written_whole(FILE.with_suffix(".md"), "w") as file:
        file.write(text + "\n")
    print(text)
    sys.exit(int("no" in set(table["reached"])))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drawing", type=int, default=2026, help="seed of the drawing")
    parser.add_argument("--seeds", default="0,1,2", help="of the trainings")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    main(**vars(parser.parse_args()))
