import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from nblib import datasets, report, runs


@pytest.fixture
def results(make_set):
    """Runs of two methods with two seeds each on one small set, and the set."""
    dataset = datasets.load(make_set())
    for method in ("mean_image", "known_against_unlabeled"):
        for seed in (0, 1):
            runs.run(method, dataset, "smoke", seed)
    return report.collect(dataset.name, "smoke")


def test_a_row_is_the_mean_over_the_seeds_of_what_scikit_learn_says(results):
    row = report.table(results).set_index("method").loc["mean_image"]
    aucs, aps = [], []
    for result in results:
        if result.config["method"] == "mean_image":
            test = result.scores[result.scores["part"] == "test"]
            aucs.append(roc_auc_score(test["label"], test["score"]))
            aps.append(average_precision_score(test["label"], test["score"]))
    assert row["seeds"] == 2
    assert np.isclose(row["auc"], np.mean(aucs)) and np.isclose(row["ap"], np.mean(aps))
    assert np.isclose(row["auc_seed_sd"], np.std(aucs, ddof=1))
    assert row["auc_low"] <= row["auc"] <= row["auc_high"]


def test_kinds_of_methods_are_told_apart_and_references_are_marked(results):
    rows = report.table(results).set_index("method")
    assert rows.loc["mean_image", "uses"] == "known normals"
    assert rows.loc["known_against_unlabeled", "uses"] == "known normals + unlabeled"
    assert rows["reference"].to_dict() == {"mean_image": False, "known_against_unlabeled": True}


def test_a_table_refuses_to_mix_budgets(results):
    other = results[0]._replace(config=results[0].config | {"budget": "thesis"})
    with pytest.raises(ValueError, match="several budgets"):
        report.table([*results, other])


def test_kept_scores_make_the_same_table_without_the_runs(results, monkeypatch, tmp_path):
    before = report.table(results)
    config = results[0].config
    report.keep(config["set"], "smoke")
    monkeypatch.setattr(report, "_runs_folder", lambda *_: tmp_path / "no runs here")
    after = report.table(report.collect(config["set"], "smoke"))
    pd.testing.assert_frame_equal(before, after, rtol=1e-6)


def test_keeping_twice_gives_the_same_bytes(results):
    config = results[0].config
    first = [file.read_bytes() for file in report.keep(config["set"], "smoke")]
    assert first == [file.read_bytes() for file in report.keep(config["set"], "smoke")]


def test_the_table_is_written_three_times_with_a_record_of_its_runs(results, project_root):
    report.write(results)
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


def test_what_is_missing_is_named_with_the_command_that_makes_it(project_root):
    with pytest.raises(FileNotFoundError, match="make figures DATA=nowhere BUDGET=quick"):
        report.collect("nowhere", "quick")


def test_the_drawn_set_says_that_it_ranks_nothing(results):
    drawn = [r._replace(config=r.config | {"set": "phantom"}) for r in results]
    assert "ranks nothing" in report.caption(drawn, report.table(drawn))


def test_the_tables_in_the_readme_are_those_that_were_written():
    text = (report.PROJECT / "README.md").read_text()
    assert report.with_tables(text) == text
    assert text.count("<!-- table ") == 3
