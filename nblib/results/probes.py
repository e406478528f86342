"""Looking into a trained method: what becomes of it when one thing in it is changed by hand."""

import copy

import numpy as np
import pandas as pd
import torch
from torch import nn

from nblib import metrics
from nblib.data.batches import to_float
from nblib.data.datasets import Dataset
from nblib.data.labels import Labels
from nblib.methods.encodings import Attention, LearnedPlace, Swapped
from nblib.methods.layers import Added, Concatenated, Placed
from nblib.methods.method import Method, detect_all
from nblib.methods.sagan import SAGAN, ConvEncoder, Generator
from nblib.training.runs import Run


def attention_of(method: SAGAN) -> Attention:
    """The self-attention in the generator's bottleneck; StopIteration if there is none."""
    return next(module for module in method.G.bottleneck if isinstance(module, Attention))


def learned_places(method: SAGAN) -> dict[str, LearnedPlace]:
    """The learned place codes of generator "G" and critic "D"; StopIteration if there are none."""
    return {
        name: next(module for module in network.modules() if isinstance(module, LearnedPlace))
        for name, network in (("G", method.G), ("D", method.D))
    }


def with_swapped_codes(G: Generator) -> Generator:
    """A copy of G in which every patch is told the place of the opposite one."""
    G = copy.deepcopy(G)
    for module in list(G.modules()):
        if isinstance(module, Concatenated | Added):
            module.place = Swapped(module.place)
    return G


def without_codes(G: Generator) -> Generator:
    """A copy of G with its place codes taken out, and the weights that they were read with."""
    G = copy.deepcopy(G)
    if isinstance(G.encoder, ConvEncoder):
        G.encoder.embed = nn.Identity()
    for placed in [module for module in G.modules() if isinstance(module, Placed)]:
        mix = placed.mix
        features = mix.out_channels
        placed.code, placed.mix = nn.Identity(), nn.Conv2d(features, features, 1).to(mix.weight)
        placed.mix.load_state_dict({"weight": mix.weight[:, :features], "bias": mix.bias})
    return G


def without_knowing_places(run: Run, images: np.ndarray) -> pd.DataFrame:
    """What becomes of test images (n, C, H, W) when patches hear false place codes, or none.

    Rows: every patch is told the code of the opposite one; the codes are taken out. Columns: the
    largest change of a pixel of the restored images (of 2), and of a score, as a share of it.
    """
    method = run.method()
    G, before = method.G, detect_all(method, images)
    rows = {}
    for what, change in {"swapped": with_swapped_codes, "taken out": without_codes}.items():
        method.G = change(G)
        after = detect_all(method, images)
        one, other = before.score, after.score
        rows[run.config["method"], what] = {
            "largest change of a pixel": np.abs(after.restored - before.restored).max(),
            "largest change of a score": np.abs(other / one - 1).max(),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["method", "codes"])
    return table.map("{:.1e}".format)


def batch_statistics(
    method: Method, dataset: Dataset, labels: Labels, orders: dict[str, np.ndarray]
) -> pd.DataFrame:
    """AUC of GANomaly's score with running statistics, and by each batch's own, as its authors do.

    orders: the test images in some orders; batches of 64 are cut from each.
    """
    own = detect_all(method, dataset.test.images).score
    rows = {("running", "any"): metrics.auc(labels.test, own)}
    for name, order in orders.items():
        images = to_float(torch.from_numpy(dataset.test.images[order]))
        with torch.no_grad():
            scores = torch.cat([method.authors_score(batch) for batch in images.split(64)])
        rows["of the batch", name] = metrics.auc(labels.test[order], scores.numpy())
    table = pd.DataFrame({"AUC": rows}).round(3)
    return table.rename_axis(["statistics of batch norm", "order of the test images"])


def finest_gates(runs: list[Run], image: np.ndarray) -> list[np.ndarray | None]:
    """How far the last attention gate of each run's method opens for an image (C, H, W), uint8.

    (h, w) in (0, 1) each; None for a method that has no gates.
    """
    x, gates = to_float(torch.from_numpy(image[None])), []
    for run in runs:
        method = run.method()
        with torch.no_grad():
            maps = method.gate_maps(x) if hasattr(method, "gate_maps") else None
        gates.append(maps and maps[-1][0].numpy())
    return gates
