"""A finished run and a folder -> a table."""

import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from files import header_of
from nblib import metrics
from nblib.data import datasets, images
from nblib.data.dicom import ImageError
from nblib.training import runs, scoring
from nblib.training.runs import Run
from nblib.training.scoring import Seen


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
    table = scoring.score(tmp_path, run).set_index("image")
    assert list(table.index) == ["a/b/scan", "a/picture.png", "broken.png"]
    expected = run.scores.set_index("image").loc[name, "score"]
    assert table["score"].tolist()[:2] == pytest.approx([expected, expected], rel=1e-5)
    assert table.loc["broken.png", ["decision", "problem"]].tolist() == ["", "is no image."]
    assert np.isnan(table.loc["broken.png", "score"])


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


def test_a_score_that_is_no_number_is_a_problem_of_its_image(run, tmp_path, monkeypatch):
    run, dataset = run
    files = [dataset.folder / "images" / name for name in dataset.test.names[:3]]
    found = scoring.detect_all(run.method(), dataset.test[:3].images)
    for wrong in (np.nan, np.inf):
        odd = found._replace(scores={"distance": np.where([0, 1, 0], wrong, found.score)})
        monkeypatch.setattr(scoring, "detect_all", lambda method, images, odd=odd: odd)
        table = scoring.table(files, files[0].parent, run, scoring.seen(files, run))
        assert table["problem"].tolist() == ["", scoring.NOT_FINITE, ""]
        assert table["score"].isna().tolist() == [False, True, False]
        assert table["decision"][1] == "" and np.isnan(table["percentile"][1])


def test_names_that_are_no_unicode_and_files_without_an_image(run, tmp_path):
    run, _ = run
    Image.new("L", (64, 64)).save(os.fsencode(tmp_path) + b"/M\xfcller.png", "PNG")
    table = scoring.score(tmp_path, run)
    assert table["image"].tolist() == ["M?ller.png"] and table["score"].notna().all()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").touch()
    table = scoring.score(tmp_path / "bad", run)
    assert table["score"].isna().all() and table["decision"].tolist() == [""]


def test_a_table_says_which_part_of_the_set_an_image_is_of(run):
    run, dataset = run
    table = scoring.score(dataset.folder / "images", run)
    own = dataset.folder / "images"
    parts = scoring.with_parts(table, dataset, own).set_index("image")["part"]
    assert parts["normal_0.png"] == "known normal" and parts["mixed_1_0.png"] == "unlabeled"
    assert parts["test_1_0.png"] == "test" and (parts != "").all()
    # Images of another folder may be called as those of the set are.
    assert (scoring.with_parts(table, dataset, dataset.folder.parent)["part"] == "").all()
    one = scoring.with_parts(table[table["image"] == "test_1_0.png"], dataset, own / "test_1_0.png")
    assert one["part"].tolist() == ["test"]


def test_no_more_images_are_read_than_are_about_to_be_scored(run, monkeypatch):
    run, dataset = run
    read, read_image = [], images.read_image
    monkeypatch.setattr(images, "read_image", lambda *a: (read.append(a), read_image(*a))[1])
    files = scoring.files_in(dataset.folder / "images")
    whole = [of.score for of in scoring.seen(files, run)]
    assert len(read) == len(whole) == len(files) > 70
    read.clear()
    monkeypatch.setattr(scoring, "READ_AHEAD", 3)
    found = scoring.seen(files, run)
    some = [next(found).score]
    assert len(read) <= 64 + 3  # a batch, and what was begun beyond it
    assert np.allclose([*some, *(of.score for of in found)], whole)


def test_percentiles_count_ties_half(run):
    run, dataset = run
    table = scoring.score(dataset.folder / "images", run)
    held = run.scores.loc[run.scores["part"] == "held_out_normal", "score"].to_numpy()
    expected = metrics.percentile(table["score"].to_numpy(), held)
    assert np.allclose(table["percentile"], expected, atol=100 / len(held))


def test_each_image_is_seen_with_its_map_and_restored_image(run, set_writer, tmp_path):
    run, dataset = run
    files = sorted((dataset.folder / "images").iterdir())[:3]
    Image.new("L", (5, 5)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    found = list(scoring.seen([*files, tmp_path / "text.png", tmp_path / "small.png"], run))
    assert [type(of) for of in found] == [*[Seen] * 3, ImageError, Seen]
    alone = [scoring.score(file, run)["score"].item() for file in files]
    assert [of.score for of in found[:3]] == pytest.approx(alone, rel=1e-5)
    assert {of.map.shape for of in found if isinstance(of, Seen)} == {(64, 64)}
    restoring = runs.run("pca16", dataset, "smoke")
    (one,) = scoring.seen(files[:1], restoring)
    assert one.restored.shape == (1, 64, 64)
    x = np.asarray(Image.open(files[0])) / 127.5 - 1
    assert one.score == pytest.approx(np.abs(x - one.restored[0]).mean() / 2, rel=1e-3)


@pytest.mark.parametrize("what", ["run", "folder", "images"])
@pytest.mark.parametrize("home", [False, True])
def test_what_is_missing_is_said(run, tmp_path, what, home):
    run, dataset = run
    where = "~nosuch" if home else tmp_path
    images = {"run": dataset.folder, "folder": f"{where}/nowhere", "images": where}[what]
    with pytest.raises(FileNotFoundError, match=str(where)):
        scoring.score(images, where if what == "run" else run.folder)
