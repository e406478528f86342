import pandas as pd
import pytest

from nblib.data import datasets
from nblib.results import store, tables
from nblib.training import runs


def test_a_run_whose_method_has_left_the_catalogue_is_named_and_left_out(results, capsys):
    for result in results:
        if result.config["method"] == "mean_image":
            file = result.run.folder / "config.json"
            file.write_text(file.read_text().replace("mean_image", "former"))
    left = store.collect(results[0].config["set"], "smoke")
    assert {result.config["method"] for result in left} == {"known_against_unlabeled"}
    said = "Left out, since the catalogue of methods no longer has it: former.\n"
    assert capsys.readouterr().err == said


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


def test_a_set_is_collected_by_the_path_of_its_folder_too(results, tmp_path):
    data = results[0].config["set"]
    again = store.collect(tmp_path / "anywhere" / data, "smoke")
    assert [r.config for r in again] == [r.config for r in results]


def test_what_is_missing_is_named_with_the_command_that_makes_it(project_root):
    with pytest.raises(FileNotFoundError, match="make figures DATA=nowhere BUDGET=quick"):
        store.collect("nowhere", "quick")


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
