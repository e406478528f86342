import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score

from nblib import metrics
from nblib.data import datasets
from nblib.data.labels import load_labels
from nblib.results import store, tables
from nblib.training import runs

CRITIC = dict(critic_layers=4, steps=2)


def test_a_row_is_the_mean_over_the_seeds_of_what_scikit_learn_says(results):
    row = tables.table(results).set_index("method").loc["mean_image"]
    aucs, aps = [], []
    for result in results:
        if result.config["method"] == "mean_image":
            test = result.test
            aucs.append(roc_auc_score(test["label"], test["score"]))
            aps.append(average_precision_score(test["label"], test["score"]))
    assert row["seeds"] == 2
    assert np.isclose(row["auc"], np.mean(aucs)) and np.isclose(row["ap"], np.mean(aps))
    assert np.isclose(row["auc_seed_sd"], np.std(aucs, ddof=1))
    assert row["auc_low"] <= row["auc"] <= row["auc_high"]


def test_kinds_of_methods_are_told_apart_and_references_are_marked(results):
    rows = tables.table(results).set_index("method")
    assert rows.loc["mean_image", "uses"] == "known normals"
    assert rows.loc["known_against_unlabeled", "uses"] == "known normals + unlabeled"
    assert rows["reference"].to_dict() == {"mean_image": False, "known_against_unlabeled": True}


def test_a_table_refuses_to_mix_budgets(results):
    other = results[0]._replace(config=results[0].config | {"budget": "thesis"})
    with pytest.raises(ValueError, match="several budgets"):
        tables.table([*results, other])


def test_settings_name_what_is_not_published_with_the_published_value(make_set):
    run = runs.run("brainomaly", datasets.load(make_set()), "smoke")
    row = tables.settings([run]).set_index("method").loc["brainomaly"]
    assert row["steps"] == "8 (200,000)" and row["width"] == "4 (64)"
    assert row["lr"] == "0.0005 (0.0001)"
    assert row["critic_width"] == "4 (as G)"
    assert "lambda_id" not in row and "size" not in row
    other = datasets.load(make_set("another set", seed=1))
    assert tables.settings([runs.run("pca16", other, "smoke")]).empty


def test_methods_with_the_same_settings_share_a_row(make_set):
    dataset = datasets.load(make_set("family", {"train/0": 24}, size=32), size=32)
    names = ("sagan", "sagan_whole", "brainomaly")
    made = [runs.run(name, dataset, "smoke", **CRITIC) for name in names]
    rows = tables.settings(made)
    assert list(rows["method"]) == ["sagan, sagan_whole", "brainomaly"]


def test_decisions_of_the_table_are_means_over_the_seeds_of_scikit_learns_numbers(make_set):
    dataset = datasets.load(make_set("more", {"train/0": 60, "test/0": 20, "test/1": 20}))
    found = [store.of(runs.run("mean_image", dataset, "smoke", seed)) for seed in (0, 1)]
    row = tables.table(found).iloc[0]
    f1, at_90 = [], []
    for result in found:
        held = np.sort(result.scores.query("part == 'held_out_normal'")["score"])
        test = result.scores.query("part == 'test'")
        n = len(held)
        f1.append(f1_score(test["label"], test["score"] > held[int(np.ceil(0.95 * (n + 1))) - 1]))
        above = test["score"] > held[int(np.ceil(0.9 * (n + 1))) - 1]
        at_90.append(recall_score(test["label"], above))
    assert np.isclose(row["f1"], np.mean(f1)) and np.isclose(
        row["sensitivity_at_90"], np.mean(at_90)
    )


def test_model_choice_is_last_aucp_and_the_best_on_the_test_part():
    at = pd.DataFrame({"step": [2, 4, 6], "auc": [0.9, 0.7, 0.8], "aucp": [0.5, 0.6, 0.55]})
    config = dict(method="sagan", seed=0)
    results = [
        store.Result(config, {}, pd.DataFrame(), at),
        store.Result(config, {}, pd.DataFrame(), at.assign(auc=np.nan)),  # not scored on the way
        store.Result(config, {}, pd.DataFrame()),
    ]
    (row,) = tables.chosen_checkpoints(results).to_dict("records")
    assert (row["last"], row["aucp"], row["oracle"]) == (0.8, 0.7, 0.9)
    assert row["flattery"] == pytest.approx(0.1)


def test_counts_stand_beside_those_of_the_thesis(make_set):
    dataset = datasets.load(make_set())
    table = tables.counts(dataset, load_labels(dataset))
    assert list(table.loc["a set"]) == [4, 3, 3, 3, 3, 0.5]
    assert table.loc["LAG (thesis)"].tolist()[:5] == [1500, 832, 900, 811, 811]
    assert table.loc["RSNA (thesis)", "abnormal in the mix"] == 0.56


def test_intervals_that_other_code_made_are_not_remembered(results, monkeypatch, tmp_path):
    made, weights = [], metrics.patient_weights
    monkeypatch.setattr(metrics, "patient_weights", lambda *a: (made.append(a), weights(*a))[1])
    for text, times in (("", 1), ("", 1), ("RESAMPLES = 3\n", 2)):
        (tmp_path / "metrics.py").write_text(text)
        monkeypatch.setattr(metrics, "__file__", str(tmp_path / "metrics.py"))
        tables.resampled(results)
        assert len(made) == times
