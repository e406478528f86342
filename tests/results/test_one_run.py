import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from nblib.data import datasets
from nblib.data.labels import load_labels
from nblib.results import one_run
from nblib.training import runs

CRITIC = dict(critic_layers=4, steps=2)


def test_a_method_is_shown_beside_the_reference_and_the_pretrained_features_of_its_kind(make_set):
    dataset = datasets.load(make_set())
    for method, reference, pretrained in (
        ("mean_image", "nearest_normals *", "pretrained_knn"),
        ("brainomaly", "known_against_unlabeled *", "pretrained_logistic"),
    ):
        finished = runs.run(method, dataset, "smoke")
        beside = one_run.beside(finished, runs.made_beside(finished, dataset))
        assert set(beside.index) == {method, reference, pretrained}
        assert beside["learns from"].nunique() == 1


def test_the_scores_of_a_method_stand_beside_each_other_its_own_first(make_set):
    run = runs.run("alocc", datasets.load(make_set()), "smoke")
    beside = one_run.scores_beside(run)
    assert list(beside.index) == ["OCC2", "OCC1", "residual"]
    test = run.test
    for name, column in (("OCC2", "score"), ("OCC1", "OCC1")):
        expected = roc_auc_score(test["label"], test[column])
        assert beside.loc[name, "AUC"] == pytest.approx(expected, abs=5e-4)
        assert beside.loc[name, "AP"] == pytest.approx(
            average_precision_score(test["label"], test[column]), abs=5e-4
        )


def test_the_transductive_auc_is_that_of_the_unlabeled_images_and_their_labels(make_set):
    counts = {"train/0": 40, "train/unlabeled/0": 20, "train/unlabeled/1": 20}
    dataset = datasets.load(make_set("a mix", counts))
    run = runs.run("known_against_unlabeled", dataset, "smoke", seed=1)
    rows = one_run.inside_unlabeled(run, dataset)
    unlabeled = run.scores[run.scores["part"] == "unlabeled"]
    expected = roc_auc_score(unlabeled["label"], unlabeled["score"])
    assert rows.loc["unlabeled (transductive)", "AUC"] == pytest.approx(expected, abs=5e-4)
    assert rows.loc["test (inductive)", "AUC"] == pytest.approx(run.metrics["auc"], abs=5e-4)
    held = dataset.hold_out(1).held_unlabeled.names
    of_trained = unlabeled[~unlabeled["image"].isin(held)]
    assert rows.loc["unlabeled, trained on", "images"] == len(of_trained) == 36
    expected = roc_auc_score(of_trained["label"], of_trained["score"])
    assert rows.loc["unlabeled, trained on", "AUC"] == pytest.approx(expected, abs=5e-4)


def test_the_auc_over_training_follows_from_the_noted_scores(make_set):
    counts = {"train/0": 40, "train/unlabeled/0": 12, "train/unlabeled/1": 12}
    run = runs.run("alocc", datasets.load(make_set("a mix", counts)), "smoke", rho=0.0)
    over = one_run.over_training(run)
    assert list(over.index) == list(run.watched) == [4, 8]
    test = run.test
    at_the_end = roc_auc_score(test["label"], test["score"])
    assert over["test AUC, never used"].iloc[-1] == pytest.approx(at_the_end)
    history = run.history.set_index("step")["aucp"].dropna()
    assert over["AUCp, unlabeled images trained on"].tolist() == history.tolist()


def test_what_lesions_add_to_a_maps_mean_is_counted_pixel_by_pixel(make_set):
    boxes = [("test_1_0.png", 2, 2, 4, 4), ("test_1_1.png", 0, 0, 8, 2)]
    dataset = datasets.load(make_set(boxes=boxes), size=16)
    labels = load_labels(dataset)
    run = runs.run("mean_image", dataset, "smoke")
    rows = one_run.lesions(run, labels)["value"]
    maps, added = run.test_map, []
    for i in (3, 4):  # of test/0 three images, then test/1
        lesion, rest = maps[i][labels.masks[i]], maps[i][~labels.masks[i]]
        assert lesion.size == 16
        added.append(maps[i].mean() - rest.mean())
    assert rows["what lesions add to a map's mean"] == pytest.approx(np.mean(added), abs=1e-4)
    assert rows["share of the image that is lesion"] == pytest.approx(16 / 256, abs=1e-4)
    without = datasets.load(make_set("no boxes", seed=1))
    other = runs.run("mean_image", without, "smoke")
    assert one_run.lesions(other, load_labels(without)).empty


def test_a_variant_is_shown_beside_those_of_its_controls_that_are_finished(make_set):
    dataset = datasets.load(make_set("variants", {"train/0": 24}, size=32), size=32)
    overrides = dict(seed=1, **CRITIC)
    for name in ("sagan", "sagan_attention"):
        runs.run(name, dataset, "smoke", **overrides)
    run = runs.run("sagan_rope", dataset, "smoke", **overrides)
    assert run.beside("sagan").config["method"] == "sagan" and run.beside("sagan_whole") is None
    shown = list(one_run.beside(run, runs.made_beside(run, dataset)).index)
    assert shown[2:] == ["sagan", "sagan_attention", "sagan_rope"]
    assert shown[:2] == ["known_against_unlabeled *", "pretrained_logistic"]


def test_no_note_is_too_long_for_a_table(make_set):
    dataset = datasets.load(make_set("noted"))
    run = runs.run("mean_image", dataset, "smoke")
    numbers = one_run.numbers(run)
    assert len(numbers) and numbers["note"].str.len().max() < pd.get_option("max_colwidth")
