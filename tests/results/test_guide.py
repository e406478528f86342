import numpy as np
import pytest

from nblib.data import datasets
from nblib.results import guide, store
from nblib.training import runs

COUNTS = {"train/0": 30, "train/unlabeled/0": 15, "train/unlabeled/1": 15, "test/0": 8, "test/1": 8}
METHODS = ("mean_intensity", "mean_image", "known_against_unlabeled")


@pytest.fixture
def results(make_set):
    dataset = datasets.load(make_set("guided", COUNTS))
    for method in METHODS:
        for seed in (0, 1):
            runs.run(method, dataset, "smoke", seed)
    return store.collect("guided", "smoke")


def test_aucp_stands_beside_the_test_auc_as_means_over_the_runs(results):
    table = guide.guides(results).set_index("method")
    assert tuple(table.index) == METHODS and (table["runs"] == 2).all()
    for method in METHODS:
        own = [r.metrics for r in results if r.config["method"] == method]
        for column, name in {"auc": "auc", "aucp": "aucp_held_out"}.items():
            expected = np.mean([found[name] for found in own])
            assert table.loc[method, column] == pytest.approx(expected)


def test_runs_that_did_not_note_it_take_their_last_checkpoints_or_are_left_out(results):
    for result in results:
        del result.metrics["aucp_held_out"]
    assert guide.guides(results).empty


def test_how_good_a_guide_is_says_what_the_highest_aucp_would_get(results):
    table = guide.guides(results)
    found = guide.how_good("smoke").loc["guided"]
    best = table.loc[table["aucp"].idxmax(), "auc"]
    assert found["AUC of the highest AUCp"] == pytest.approx(best, abs=1e-3)
    assert found["AUC of the best"] == pytest.approx(table["auc"].max(), abs=1e-3)
    ranks = np.corrcoef(table["aucp"].rank(), table["auc"].rank())[0, 1]
    assert found["rank correlation"] == pytest.approx(ranks, abs=1e-3)
    assert guide.how_good("laptop").empty
