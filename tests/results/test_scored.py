"""Finished runs and a folder -> what a reader gets, in Python and from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import rankdata

from files import all_bytes, header_of
from nblib import figures
from nblib.data import datasets, folders, shortcuts
from nblib.data.labels import load_labels
from nblib.files import DatasetError
from nblib.methods import catalogue
from nblib.results import choose, scored, store, tables
from nblib.training import runs, scoring


@pytest.fixture(scope="module")
def made(own_set):
    """Two finished runs of one set, and the set."""
    return list(scored.made(own_set, ("nearest_normals", "pca16"), "smoke", 0)), own_set


def test_it_leaves_a_table_most_conspicuous_first_and_says_what_its_columns_are(made, tmp_path):
    asked, dataset = made
    images = dataset.folder / "images"
    table, _, out = scored.write_scored(images, asked[:1], tmp_path / "out")
    written = pd.read_csv(out / "scores.csv", keep_default_na=False)
    assert list(written) == scored.COLUMNS and len(written) == len(list(images.iterdir()))
    assert (np.diff(written["score"]) <= 0).all()
    expected = scoring.score(images, asked[0]).set_index("image").loc[written["image"]]
    assert np.allclose(written["score"], expected["score"], rtol=1e-5)
    assert (written["decision"] == expected["decision"].to_numpy()).all()
    assert np.allclose(written["threshold"], asked[0].metrics["threshold"], rtol=1e-5)
    assert set(written["run"]) == {f"nearest_normals, {dataset.name}, smoke, seed 0"}
    text = (out / "README.txt").read_text()
    assert all(f"  {name} " in text for name in scored.COLUMNS)
    assert "of 20 known normal images" in text and "no medical device" in text
    assert sorted(f.name for f in out.iterdir()) == [
        *("README.txt", "pictures", "report.html", "scores.csv")
    ]
    called = (written["decision"] == "abnormal").sum()
    assert f"{called} are called abnormal" in scored.summary(table, asked[:1])


def test_of_several_runs_the_first_decides_and_each_has_its_columns(made, tmp_path):
    asked, dataset = made
    table, _, out = scored.write_scored(dataset.folder / "images", asked, tmp_path / "out")
    for run in asked:
        of = scoring.score(dataset.folder / "images", run).set_index("image").loc[table["image"]]
        for what in ("score", "percentile"):
            assert np.allclose(table[f"{what} {run.config['method']}"], of[what], rtol=1e-5)
    assert table["score"].equals(table["score nearest_normals"])
    assert "nearest_normals, pca16" in (out / "README.txt").read_text()
    disputed = scored.disputed(table, 3)
    apart = (table["percentile nearest_normals"] - table["percentile pca16"]).abs()
    assert set(disputed["image"]) <= set(table["image"][apart >= apart.nlargest(3).min()])


def test_two_runs_of_one_method_or_of_two_sets_are_refused(made, make_set, tmp_path):
    (run, _), dataset = made
    again = runs.run("nearest_normals", dataset, "smoke", 1)
    other = runs.run("pca16", datasets.load(make_set("other")), "smoke")
    for second, said in ((again, "are of one method"), (other, "are of two sets")):
        with pytest.raises(ValueError, match=f"{run.folder} and {second.folder} {said}"):
            scored.write_scored(dataset.folder / "images", [run, second], tmp_path / "out")


def test_a_network_that_was_trained_without_any_label_scores_a_folder(
    set_writer, tmp_path, project_root
):
    parts = {"train/0": 24, "train/unlabeled/0": 24, "test/0": 4, "test/1": 4}
    folder = set_writer(tmp_path / "unknown", parts, size=32)
    split = json.loads((folder / "data.json").read_text())
    split["test"] = [name for names in split["test"].values() for name in names]
    (folder / "data.json").write_text(json.dumps(split))
    run = runs.run("ganomaly", datasets.load(folder), "smoke")
    table, _, _ = scored.write_scored(folder / "images", [run], tmp_path / "out")
    assert (table["precision"] == run.config["precision"]).all()
    with pytest.raises(ValueError, match="have no labels to compare methods by"):
        store.collect("unknown", "smoke")
    with pytest.raises(ValueError, match="61_your_own_images"):
        tables.table([store.of(run)])
    assert scored.disputed(table).empty


def test_a_set_without_test_images_is_shown_by_its_unlabeled_ones(
    set_writer, tmp_path, project_root
):
    folder = set_writer(tmp_path / "none", {"train/0": 40, "train/unlabeled/0": 24}, size=16)
    split = json.loads((folder / "data.json").read_text())
    split["train"]["unlabeled"] = split["train"]["unlabeled"]["0"]
    (folder / "data.json").write_text(json.dumps(split | {"test": []}))
    dataset = datasets.load(folder, 16)
    run = runs.run("nearest_normals", dataset, "smoke")
    assert len(choose.typical(run.test)) == 0
    figure = figures.histogram(run)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == len(dataset.unlabeled)
    assert "unlabeled, label unknown" in {text.get_text() for text in figure.legends[0].texts}
    labels = load_labels(dataset)
    assert (
        figures.heat_maps(run, dataset, labels, choose.typical(run.test)).get_label() == "nothing"
    )
    with pytest.raises(DatasetError, match="none has no labelled test images"):
        shortcuts.check(dataset, labels)


def test_methods_are_named_with_commas_and_blanks_between_and_all_before_the_first_is_made():
    assert scored.named(" sagan , brainomaly,") == ["sagan", "brainomaly"] and not scored.named("")
    with pytest.raises(ValueError, match="no method 'sagn'"):
        scored.named("sagan, sagn")


def test_a_damaged_file_is_in_the_table_and_has_no_picture(made, tmp_path):
    asked, _ = made
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.new("L", (64, 40), 90).save(tmp_path / "in" / "deep" / "good.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    table, _, out = scored.write_scored(tmp_path / "in", asked, tmp_path / "out")
    assert table["image"].tolist() == ["deep/good.png", "bad.png"]
    assert table["problem"].tolist() == ["", "is no image."] and np.isnan(table["score"].iloc[1])
    assert "1 of 2 images scored" in scored.summary(table, asked)
    assert "bad.png is no image" in scored.summary(table, asked)
    files = {str(f.relative_to(out / "pictures")) for f in (out / "pictures").rglob("*.jpg")}
    assert files == {"0001-good.png.jpg", "0001-good.png.panel.jpg"}


def test_text_burned_in_is_said_of_its_image_and_of_all(made, tmp_path):
    asked, _ = made
    for name, word in {"with": "YES", "without": "NO"}.items():
        pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
        header_of(pixels, BurnedInAnnotation=word).save_as(tmp_path / f"{name}.dcm")
    table, _, out = scored.write_scored(tmp_path, asked, tmp_path / "out")
    notes = pd.read_csv(out / "scores.csv", keep_default_na=False).set_index("image")["note"]
    assert notes.to_dict() == {"with.dcm": "text is burned in", "without.dcm": ""}
    assert "text is burned in, which may name the patient: 1." in scored.summary(table, asked)


def test_an_earlier_result_is_replaced_whole_and_nothing_else_is_touched(made, tmp_path):
    asked, dataset = made
    Image.new("L", (64, 64)).save(tmp_path / "one.png")
    *_, out = scored.write_scored(dataset.folder / "images", asked[:1], tmp_path / "out")
    scored.write_scored(tmp_path / "one.png", asked[:1], out)
    pictures = {f.name for f in (out / "pictures").iterdir()}
    assert pictures == {"0001-one.png.jpg", "0001-one.png.panel.jpg"}
    assert len(pd.read_csv(out / "scores.csv")) == 1
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(FileNotFoundError, match="holds other files"):
        scored.write_scored(tmp_path / "one.png", asked[:1], mine)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("gone")
    for out in (tmp_path / "one.png", tmp_path / "pipe", tmp_path / "link", "/dev/null"):
        with pytest.raises(FileNotFoundError, match=f"{out} is no folder"):
            scored.write_scored(tmp_path / "one.png", asked[:1], out)
    before = all_bytes(asked[0].folder)
    with pytest.raises(FileNotFoundError, match="holds other files"):
        scored.write_scored(tmp_path / "one.png", asked[:1], asked[0].folder)
    assert all_bytes(asked[0].folder) == before
    assert [f.name for f in mine.iterdir()] == ["thesis.tex"]


def test_where_runs_agree_is_told_without_labels(made):
    asked, dataset = made
    found = scored.agreement(asked, dataset)
    assert list(found.index) == ["nearest_normals", "pca16", "their mean"]
    held = dataset.hold_out(0)
    scores = {r.config["method"]: r.scores.set_index("image")["score"] for r in asked}
    z = [(s - s[held.held_normal.names].mean()) / s[held.held_normal.names].std(ddof=0)
         for s in scores.values()]  # fmt: skip
    for name, of in [*scores.items(), ("their mean", sum(z) / 2)]:
        normal, mix = (
            of[held.held_normal.names].to_numpy(),
            of[held.held_unlabeled.names].to_numpy(),
        )
        wins = (mix[:, None] > normal).mean() + (mix[:, None] == normal).mean() / 2
        assert found.loc[name, "AUCp"] == pytest.approx(wins, abs=1e-6)
    first, second = (rankdata(s[dataset.unlabeled.names]) for s in scores.values())
    expected = np.corrcoef(first, second)[0, 1]
    assert found.loc["pca16", "rank correlation"] == pytest.approx(expected)
    # What the committed tables say of them, of methods that stand there.
    assert 0.6 < found.loc["nearest_normals", "AUC, nih"] < 0.67
    assert np.isnan(found.loc["their mean", "AUC, nih"])


def test_what_a_decision_means_follows_from_bayes():
    found = {"sensitivity": 0.8, "specificity": 0.93}
    rows = scored.predictive(SimpleNamespace(metrics=found)).set_index("abnormal")
    assert scored.predictive(SimpleNamespace(metrics={})).empty  # without labels
    assert list(rows.index) == [0.01, 0.05, 0.10]
    people = 1_000_000
    for share, row in rows.iterrows():
        ill, well = people * share, people * (1 - share)
        hits, false = found["sensitivity"] * ill, (1 - found["specificity"]) * well
        cleared, missed = well - false, ill - hits
        assert row["PPV"] == pytest.approx(hits / (hits + false))
        assert row["NPV"] == pytest.approx(cleared / (cleared + missed))


def test_the_table_is_there_before_the_second_run_is_asked_for(made, tmp_path):
    asked, dataset = made
    columns = []

    def one_by_one():
        for run in asked:
            yield run
            columns.append(list(pd.read_csv(tmp_path / "out" / "scores.csv").columns))

    scored.write_scored(dataset.folder / "images", one_by_one(), tmp_path / "out")
    assert columns[0] == scored.COLUMNS
    assert columns[1] == [
        *columns[0],
        *(f"{w} {m}" for m in ("nearest_normals", "pca16") for w in ("score", "percentile")),
    ]


def test_what_is_recommended_depends_on_what_is_at_hand(made, set_writer, tmp_path):
    _, dataset = made
    assert scored.recommended(dataset) == catalogue.RECOMMENDED
    assert "pretrained_mean" in scored.recommended(dataset)[0]
    folder = tmp_path / "normal"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(60):
        pixels = random.integers(0, 255, (32, 32), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    with pytest.raises(DatasetError, match="say 'none'"):
        folders.prepare(folder, "alone")
    alone = datasets.load(folders.prepare(folder, "alone", unlabeled="none"))
    assert len(alone.unlabeled) == len(alone.test) == 0 and len(alone.normal) == 60
    (run,) = asked = list(scored.made(alone, scored.recommended(alone), "smoke", 0))
    assert run.config["method"] == "pretrained_knn" and len(run.held_out) == 20
    assert "known normals alone" in scored.advice(asked, alone)
    assert list(scored.agreement(asked, alone).columns) == [
        "AUC, nih",
        "AUC, kermany",
        "AUC, fundus_dr",
    ]
    with pytest.raises(
        ValueError, match="learns from unlabeled images as well, and alone has none"
    ):
        runs.run("pretrained_mean", alone, "smoke")


def test_which_to_trust_is_said_with_what_the_real_sets_showed(made):
    asked, dataset = made
    said = scored.advice(asked, dataset)
    assert "Trust `nearest_normals` first" in said and "0.63 on nih" in said
    assert "cannot choose between methods" in said


def test_what_is_looked_at_first_was_called_normal_by_nobody(made, tmp_path):
    asked, dataset = made
    table, *_ = scored.write_scored(dataset.folder / "images", asked[:1], tmp_path / "out")
    first = scored.first_to_look_at(table, dataset, dataset.folder / "images", 5)
    assert len(first) == 5 and set(first["part"]) <= {"unlabeled", "test"}
    others = table[~table["image"].isin(dataset.normal.names)]
    assert first["score"].tolist() == others["score"].head(5).tolist()


def command(*words):
    words = [sys.executable, "-m", "nblib", "score", *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True)


def test_the_command_takes_runs_and_says_where_everything_is(made, tmp_path):
    asked, dataset = made
    where = [run.folder for run in asked]
    images = dataset.folder / "images"
    done = command(images, "--run", *where, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "no medical device" in done.stdout and str(tmp_path / "out") in done.stdout
    written = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert "score pca16" in written and (tmp_path / "out" / "report.html").exists()


def test_the_command_says_where_the_scores_of_a_folder_without_a_text_for_a_name_are(
    made, tmp_path, project_root
):
    (run, _), dataset = made
    images = Path(os.fsdecode(os.fsencode(tmp_path) + b"/R\xf6ntgen"))
    images.symlink_to(dataset.folder / "images")
    done = command(images, "--run", run.folder)
    assert done.returncode == 0, done.stderr
    assert f"R?ntgen-by-{dataset.name}: scores.csv" in done.stdout
    assert len(list(project_root.glob("data/scored/*/report.html"))) == 1


@pytest.mark.parametrize(
    "words, said",
    [
        (["--set", "nowhere"], "There is no set 'nowhere'"),
        ([], "Name the runs to score with"),
        (["--run", "nowhere"], "no folder of a finished run"),
        (["--run", "~nosuch/run"], "no folder of a finished run"),
    ],
)
def test_the_command_says_in_a_sentence_what_is_missing(made, words, said):
    _, dataset = made
    done = command(dataset.folder / "images", *words)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr and "Traceback" not in done.stderr
