"""A finished run and a folder -> a table, in Python and from the command line."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from files import header_of
from nblib import metrics
from nblib.data import datasets
from nblib.data.dicom import ImageError
from nblib.training import runs, scoring
from nblib.training.runs import Run


@pytest.fixture(scope="module")
def run(session_root, set_writer, tmp_path_factory):
    """A finished run of a set of random pictures."""
    counts = dict.fromkeys(["train/0", "train/unlabeled/0", "train/unlabeled/1"], 40)
    folder = set_writer(tmp_path_factory.mktemp("sets") / "random", counts, size=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLIB_ROOT", str(session_root))
        dataset = datasets.load(folder)
        return runs.run("nearest_normals", dataset, "smoke"), dataset


def test_the_images_of_the_set_get_the_scores_they_have(run):
    run, dataset = run
    table = scoring.score(dataset.folder / "images", run).set_index("image")
    scores = run.scores.set_index("image")
    assert len(table) == len(list((dataset.folder / "images").iterdir()))
    assert np.allclose(table.loc[scores.index, "score"], scores["score"], rtol=1e-5)
    # A held-out image ties with itself, up to the last digit: half a rank of 20.
    away = (table.loc[scores.index, "percentile"] - scores["percentile"]).abs()
    held = scores["part"] == "held_out_normal"
    assert away[~held].max() < 1e-9 and away[held].max() <= 2.5
    assert (table["problem"] == "").all()


def test_decisions_are_those_of_the_threshold_from_held_out_normals(run, tmp_path, monkeypatch):
    run, dataset = run
    Image.new("L", (64, 64)).save(tmp_path / "black.png")
    tables = [scoring.score(folder, run) for folder in (dataset.folder / "images", tmp_path)]
    table = pd.concat(tables)
    held = np.sort(run.scores.loc[run.scores["part"] == "held_out_normal", "score"])
    # Of n = 20 the 20th: ceil(0.95 x 21), so that above it lies what exceeds them all.
    assert len(held) == 20 and run.metrics["threshold"] == pytest.approx(held[19])
    expected = np.where(table["score"] > held[19], "abnormal", "normal")
    assert (table["decision"] == expected).all() and set(expected) == {"abnormal", "normal"}
    # An image whose score is the threshold itself is not above it.
    file = dataset.folder / "images" / dataset.test.names[0]
    (score,) = scoring.score(file, run)["score"]
    monkeypatch.setattr(scoring.metrics, "threshold", lambda held_out: score)
    assert list(scoring.score(file, run)["decision"]) == ["normal"]


def test_a_picture_a_dicom_file_and_a_damaged_one_in_a_deep_folder(run, tmp_path):
    run, dataset = run
    name = dataset.test.names[0]
    pixels = np.asarray(Image.open(dataset.folder / "images" / name))
    (tmp_path / "a" / "b").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "a" / "picture.png")
    inverted = header_of(255 - pixels, PhotometricInterpretation="MONOCHROME1")
    inverted.save_as(tmp_path / "a" / "b" / "scan")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    table = scoring.score(tmp_path, run, tmp_path / "out.csv").set_index("image")
    assert list(table.index) == ["a/b/scan", "a/picture.png", "broken.png"]
    expected = run.scores.set_index("image").loc[name, "score"]
    assert table["score"].tolist()[:2] == pytest.approx([expected, expected], rel=1e-5)
    assert table.loc["broken.png", ["decision", "problem"]].tolist() == ["", "is no image."]
    assert np.isnan(table.loc["broken.png", "score"])
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert list(written) == ["image", "score", "percentile", "decision", "problem"]
    assert written["score"].tolist()[2] == ""
    said = scoring.summary(table.reset_index(), run)
    assert "2 of 3 images scored by nearest_normals" in said and "broken.png is no image" in said


def test_one_image_alone(run):
    run, dataset = run
    name = dataset.test.names[3]
    table = scoring.score(dataset.folder / "images" / name, run.folder)
    assert table["image"].tolist() == [name]
    expected = run.scores.set_index("image").loc[name, "score"]
    assert table["score"].item() == pytest.approx(expected, rel=1e-5)


def test_dicom_is_read_as_the_set_was(run, tmp_path):
    run, _ = run
    values = np.random.default_rng(0).integers(0, 4096, (64, 64), np.uint16)
    header_of(values, WindowCenter=100, WindowWidth=50).save_as(tmp_path / "scan.dcm")
    scores = {}
    for conversion in ("window", "benchmark"):
        copy = Run(run.folder)
        copy.config["conversion"] = conversion
        scores[conversion] = scoring.score(tmp_path, copy)["score"].item()
    assert scores["window"] != pytest.approx(scores["benchmark"], rel=1e-2)


def test_a_method_that_sees_larger_images_gets_them(set_writer, tmp_path):
    folder = set_writer(tmp_path / "set", size=80)
    run = runs.run("pretrained_knn", datasets.load(folder), "smoke")
    table = scoring.score(folder / "images", run).set_index("image")
    scores = run.scores.set_index("image")
    assert np.allclose(table.loc[scores.index, "score"], scores["score"], rtol=1e-3)


def test_too_few_held_out_normals_give_no_decision(set_writer, tmp_path):
    folder = set_writer(tmp_path / "few", size=64)
    run = runs.run("mean_image", datasets.load(folder), "smoke")
    table = scoring.score(folder / "images", run)
    assert run.metrics["threshold"] is None and (table["decision"] == "").all()
    assert table["percentile"].notna().all()
    assert "Too few known normals" in scoring.summary(table, run)


def test_names_that_are_no_unicode_and_folders_without_an_image(run, tmp_path):
    run, _ = run
    Image.new("L", (64, 64)).save(os.fsencode(tmp_path) + b"/M\xfcller.png", "PNG")
    table = scoring.score(tmp_path, run, tmp_path / "out" / "scores.csv")
    assert table["image"].tolist() == ["M?ller.png"] and table["score"].notna().all()
    with pytest.raises(FileNotFoundError, match="is a folder"):
        scoring.score(tmp_path, run, tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").touch()
    table = scoring.score(tmp_path / "bad", run)
    assert "0 of 1 images" in scoring.summary(table, run)
    assert "Too few" not in scoring.summary(table, run)
    with pytest.raises(ValueError, match="could be read"):
        scoring.highest(table, tmp_path / "bad")


def test_a_table_says_which_part_of_the_set_an_image_is_of(run):
    run, dataset = run
    table = scoring.score(dataset.folder / "images", run)
    parts = scoring.with_parts(table, dataset).set_index("image")["part"]
    assert parts["normal_0.png"] == "known normal" and parts["mixed_1_0.png"] == "unlabeled"
    assert parts["test_1_0.png"] == "test" and (parts != "").all()


def test_percentiles_count_ties_half(run):
    run, dataset = run
    table = scoring.score(dataset.folder / "images", run)
    held = run.scores.loc[run.scores["part"] == "held_out_normal", "score"].to_numpy()
    expected = metrics.percentile(table["score"].to_numpy(), held)
    assert np.allclose(table["percentile"], expected, atol=100 / len(held))


def command(*words):
    words = [sys.executable, "-m", "nblib", *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True)


def test_the_command_writes_the_same_table(run, tmp_path):
    run, dataset = run
    images, out = dataset.folder / "images", tmp_path / "scores.csv"
    done = command("score", images, "--run", run.folder, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "no medical device" in done.stdout
    table = scoring.score(images, run)
    written = pd.read_csv(out, keep_default_na=False)
    assert written["image"].tolist() == table["image"].tolist()
    assert np.allclose(written["score"], table["score"], rtol=1e-5)


@pytest.mark.parametrize("what", ["run", "folder", "images"])
def test_the_command_says_in_a_sentence_what_is_missing(run, tmp_path, what):
    run, dataset = run
    images = {"run": dataset.folder, "folder": tmp_path / "nowhere", "images": tmp_path}[what]
    done = command("score", images, "--run", tmp_path if what == "run" else run.folder)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr and str(tmp_path) in done.stderr


def test_a_run_is_loaded_from_its_folder_or_made(run):
    run, dataset = run
    assert scoring.chosen_run(str(run.folder), "sagan", dataset, "quick", 7).folder == run.folder
    made = scoring.chosen_run("", "mean_image", dataset, "smoke", 0)
    assert made.config["method"] == "mean_image" and made.config["set"] == dataset.name
    with pytest.raises(FileNotFoundError, match="no folder of a finished run"):
        scoring.chosen_run(str(dataset.folder), "sagan", dataset, "smoke", 0)


def test_one_image_is_looked_at_as_the_run_sees_it(run, tmp_path):
    run, dataset = run
    table = scoring.score(dataset.folder / "images", run)
    file = scoring.highest(table, dataset.folder / "images")
    assert table.set_index("image")["score"].idxmax() == file.name
    assert scoring.highest(table, file) == file
    pixels, detection = scoring.look(file, run)
    assert np.array_equal(pixels[0], np.asarray(Image.open(file)))
    assert detection.score == pytest.approx(table["score"].max(), rel=1e-5)
    assert detection.map.shape == (1, 64, 64)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.png is no image"):
        scoring.look(tmp_path / "text.png", run)
