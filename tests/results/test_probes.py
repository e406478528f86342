import numpy as np
import pandas as pd
import pytest

from nblib.data import datasets
from nblib.data.labels import load_labels
from nblib.results import probes
from nblib.training import runs

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), np.uint8)

CRITIC = dict(critic_layers=4, steps=2)


def test_scoring_by_the_statistics_of_the_batch_depends_on_the_order_of_the_images(make_set):
    counts = {"test/0": 40, "test/1": 40}
    dataset = datasets.load(make_set("long", counts))
    labels = load_labels(dataset)
    run = runs.run("ganomaly", dataset, "smoke")
    index = np.arange(80)
    orders = {"as listed": index, "turned round": index[::-1], "again": index}
    rows = probes.batch_statistics(run.method(), dataset, labels, orders)["AUC"]
    assert rows["running", "any"] == pytest.approx(run.metrics["auc"], abs=5e-4)
    assert rows["of the batch", "as listed"] == rows["of the batch", "again"]
    assert rows["of the batch", "as listed"] != rows["of the batch", "turned round"]


def test_a_published_code_changes_rounding_and_one_that_acts_changes_images(make_set):
    dataset = datasets.load(make_set("places", {"train/0": 24}, size=32), size=32)
    table = pd.concat(
        probes.without_knowing_places(runs.run(name, dataset, "smoke", **CRITIC), IMAGES)
        for name in ("sagan", "sagan_place_acts", "sagan_no_place")
    ).astype(float)
    assert list(table.index.get_level_values("codes").unique()) == ["swapped", "taken out"]
    pixel, score = table.iloc[:, 0], table.iloc[:, 1]
    assert (pixel.loc["sagan"] < 1e-3).all() and (score.loc["sagan"] < 1e-4).all()
    assert (pixel.loc["sagan_place_acts"] > 1e-2).all()
    assert (pixel.loc["sagan_no_place"] == 0).all(), "there is nothing to swap or take out"
