import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score

from nblib.data import datasets
from nblib.data.labels import load_labels
from nblib.results import one_run, probes, store, tables, write
from nblib.training import runs

CRITIC = dict(critic_layers=4, steps=2)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), np.uint8)


@pytest.fixture
def results(make_set):
    """Runs of two methods with two seeds each on one small set, and the set."""
    dataset = datasets.load(make_set())
    for method in ("mean_image", "known_against_unlabeled"):
        for seed in (0, 1):
            runs.run(method, dataset, "smoke", seed)
    return store.collect(dataset.name, "smoke")


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


def test_a_run_whose_method_has_left_the_catalogue_is_named_and_left_out(results, capsys):
    for result in results:
        if result.config["method"] == "mean_image":
            file = result.run.folder / "config.json"
            file.write_text(file.read_text().replace("mean_image", "former"))
    left = store.collect(results[0].config["set"], "smoke")
    assert {result.config["method"] for result in left} == {"known_against_unlabeled"}
    said = "Left out, since the catalogue of methods no longer has it: former.\n"
    assert capsys.readouterr().out == said


def test_a_table_refuses_to_mix_budgets(results):
    other = results[0]._replace(config=results[0].config | {"budget": "thesis"})
    with pytest.raises(ValueError, match="several budgets"):
        tables.table([*results, other])


def test_kept_scores_make_the_same_table_without_the_runs(results, monkeypatch, tmp_path):
    before = tables.table(results)
    config = results[0].config
    store.keep(config["set"], "smoke")
    monkeypatch.setattr(store, "_runs_folder", lambda *_: tmp_path / "no runs here")
    after = tables.table(store.collect(config["set"], "smoke"))
    pd.testing.assert_frame_equal(before, after, rtol=1e-6)


def test_keeping_twice_gives_the_same_bytes(results):
    config = results[0].config
    first = [file.read_bytes() for file in store.keep(config["set"], "smoke")]
    assert first == [file.read_bytes() for file in store.keep(config["set"], "smoke")]


def test_the_table_is_written_three_times_with_a_record_of_its_runs(results, project_root):
    write.write_results(results)
    folder = project_root / "figures" / results[0].config["set"] / "smoke"
    record = json.loads((folder / "results.json").read_text())
    assert len(record["runs"]) == 4 and all("seed" in run for run in record["runs"])
    latex = (folder / "results.tex").read_text()
    assert r"\toprule" in latex and not any(
        "_" in line.replace(r"\_", "") or "%" in line.replace(r"\%", "")
        for line in latex.splitlines()
        if "&" in line or "caption" in line
    )
    words = (folder / "results.md").read_text()
    assert "known_against_unlabeled *" in words and "seeds 0, 1" in words


def test_latex_escapes_the_names_of_columns_too_and_fits_the_page(make_set, project_root):
    dataset = datasets.load(make_set("more", {"train/0": 60, "test/0": 20, "test/1": 20}))
    write.write_results([store.of(runs.run("mean_image", dataset, "smoke"))])
    latex = (project_root / "figures" / "more" / "smoke" / "results.tex").read_text()
    assert r"sensitivity at 90 \%" in latex and "%" not in latex.replace(r"\%", "")
    assert latex.count(r"\resizebox{\textwidth}{!}{\begin{tabular}") == 1
    assert latex.count("{") == latex.count("}")


def test_a_set_is_collected_by_the_path_of_its_folder_too(results, tmp_path):
    data = results[0].config["set"]
    again = store.collect(tmp_path / "anywhere" / data, "smoke")
    assert [r.config for r in again] == [r.config for r in results]


def test_what_is_empty_says_why():
    table = pd.DataFrame({"a": [1]})
    assert write.or_words(table, "why") is table
    assert write.or_words(table.iloc[:0], "why").index.tolist() == ["why"]


def test_what_is_missing_is_named_with_the_command_that_makes_it(project_root):
    with pytest.raises(FileNotFoundError, match="make figures DATA=nowhere BUDGET=quick"):
        store.collect("nowhere", "quick")


def test_the_drawn_set_says_that_it_ranks_nothing(results):
    drawn = [r._replace(config=r.config | {"set": "phantom"}) for r in results]
    assert "ranks nothing" in write.caption(drawn, tables.table(drawn))


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


def test_settings_name_what_is_not_published_with_the_published_value(make_set):
    run = runs.run("brainomaly", datasets.load(make_set()), "smoke")
    row = tables.settings([run]).set_index("method").loc["brainomaly"]
    assert row["steps"] == "8 (200,000)" and row["width"] == "4 (64)"
    assert row["lr"] == "0.0005 (0.0001)"
    assert row["critic_width"] == "4 (as G)"
    assert "lambda_id" not in row and "size" not in row
    other = datasets.load(make_set("another set", seed=1))
    assert tables.settings([runs.run("pca16", other, "smoke")]).empty


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


def test_what_lesions_add_to_a_maps_mean_is_counted_pixel_by_pixel(make_set):
    boxes = [("test_1_0.png", 2, 2, 4, 4), ("test_1_1.png", 0, 0, 8, 2)]
    dataset = datasets.load(make_set(boxes=boxes), size=16)
    labels = load_labels(dataset)
    run = runs.run("mean_image", dataset, "smoke")
    rows = one_run.lesions(run, labels)["value"]
    maps, added = run.maps["test_map"], []
    for i in (3, 4):  # of test/0 three images, then test/1
        lesion, rest = maps[i][labels.masks[i]], maps[i][~labels.masks[i]]
        assert lesion.size == 16
        added.append(maps[i].mean() - rest.mean())
    assert rows["what lesions add to a map's mean"] == pytest.approx(np.mean(added), abs=1e-4)
    assert rows["share of the image that is lesion"] == pytest.approx(16 / 256, abs=1e-4)
    without = datasets.load(make_set("no boxes", seed=1))
    other = runs.run("mean_image", without, "smoke")
    assert one_run.lesions(other, load_labels(without)).empty


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


def test_localisation_stands_below_chance_and_says_how_little_it_is_of(make_set, project_root):
    boxes = [(f"test_1_{i}.png", 2, 2, 4, 4) for i in range(3)]
    dataset = datasets.load(make_set("boxed", size=16, boxes=boxes))
    names = ("mean_intensity", "mean_image", "known_against_unlabeled")  # one gives maps
    found = [store.of(runs.run(name, dataset, "smoke")) for name in names]
    rows = tables.localisation_table(found)
    assert list(rows["method"]) == ["chance", "mean_image"]
    metrics = found[1].metrics
    assert rows["pixel_ap"][0] == metrics["pixel_ap_chance"] and rows["pro"][0] == 0.15
    assert [rows["pro_low"][1], rows["pro_high"][1]] == metrics["pro_interval"]
    printed = write.write_localisation(found)
    assert "[" in printed["PRO"][1] and "[" not in printed["PRO"][0]
    words = (project_root / "figures" / "boxed" / "smoke" / "localisation.md").read_text()
    assert "3 images with marked lesions" in words
    plain = [store.of(runs.run("mean_image", datasets.load(make_set("plain")), "smoke"))]
    assert write.write_localisation(plain).empty


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


def test_checkpoints_are_kept_with_the_scores(make_set, monkeypatch, tmp_path):
    counts = {"train/0": 40, "train/unlabeled/0": 12, "train/unlabeled/1": 12}
    run = runs.run("ganomaly", datasets.load(make_set("a mix", counts)), "smoke")
    store.keep("a mix", "smoke")
    monkeypatch.setattr(store, "_runs_folder", lambda *_: tmp_path / "no runs here")
    (kept,) = store.collect("a mix", "smoke")
    pd.testing.assert_frame_equal(kept.checkpoints, store.checkpoints(run), check_dtype=False)
    assert kept.run is None and kept.checkpoints["auc"].iloc[-1] == pytest.approx(
        run.metrics["auc"], abs=1e-6
    )


def test_a_record_names_each_run_by_a_hash_of_all_that_made_it(results):
    record = store.record(results)
    hashes = [run["hash"] for run in record["runs"]]
    assert len(set(hashes)) == 4
    other = results[0]._replace(config=results[0].config | {"threads": 99})
    assert store.record([other])["runs"][0]["hash"] not in hashes
    needed = {"seed", "code", "versions", "device", "arguments", "precision"}
    assert all(needed <= set(run) for run in record["runs"])


def test_runs_on_the_disk_are_given_in_the_order_asked_for_or_named_as_missing(results):
    found = store.runs_of(results, "known_against_unlabeled", "alad", "mean_image", seed=1)
    assert [run.config["method"] for run in found] == ["known_against_unlabeled", "mean_image"]
    assert {run.config["seed"] for run in found} == {1}
    gone = [result._replace(run=None) for result in results]
    with pytest.raises(FileNotFoundError, match=r"No run of mean_image .* make figures"):
        store.runs_of(gone, "mean_image")


def test_counts_stand_beside_those_of_the_thesis(make_set):
    dataset = datasets.load(make_set())
    table = tables.counts(dataset, load_labels(dataset))
    assert list(table.loc["a set"]) == [4, 3, 3, 3, 3, 0.5]
    assert table.loc["LAG (thesis)"].tolist()[:5] == [1500, 832, 900, 811, 811]
    assert table.loc["RSNA (thesis)", "abnormal in the mix"] == 0.56
