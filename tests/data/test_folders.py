"""Folders, tables and files of every kind -> a set, and what is said about it."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from files import PLANTED, header_of
from nblib.data import datasets, folders, images
from nblib.data.datasets import prepare
from nblib.data.folders import ready
from nblib.data.labels import load_labels
from nblib.files import DatasetError, root
from nblib.training import runs

random = np.random.default_rng(0)


def draw(file, shape=(20, 16), dtype=np.uint8):
    """A random picture, unlike all others."""
    file.parent.mkdir(parents=True, exist_ok=True)
    high = 256 if dtype == np.uint8 else 65536
    Image.fromarray(random.integers(0, high, shape, dtype)).save(file)
    return file


def draw_dicom(file, patient=None, shape=(20, 16), **elements):
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = random.integers(0, 4096, shape, np.uint16)
    elements |= {} if patient is None else {"PatientID": patient}
    header_of(pixels, BitsStored=12, HighBit=11, **elements).save_as(file)
    return file


def split_of(folder):
    return json.loads((folder / "data.json").read_text())


def left_out_of(folder):
    table = pd.read_csv(folder / "left_out.csv")
    return {Path(file).name: why for file, why in table.to_numpy()}


def metadata_of(folder):
    return pd.read_csv(folder / "metadata.csv", dtype=str, keep_default_na=False)


def contents(folder):
    """Every file below a folder, with its bytes and times."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in paths}


def sets():
    """All that lies where sets do."""
    return [path.name for path in (root() / "data" / "sets").glob("*")]


@pytest.fixture
def layout(tmp_path):
    """layout({"normal/a": 3, ...}) -> a folder with as many pictures in each of its folders."""

    def make(counts, name="mine"):
        for where, count in counts.items():
            for i in range(count):
                draw(tmp_path / name / where / f"{where.replace('/', '_')}{i}.png")
        return tmp_path / name

    return make


def test_two_folders_are_enough(layout, capsys):
    layout({"healthy": 4}), layout({"x": 2, "deeper/still": 1}, "all")
    source = layout({}, "mine")
    folder = prepare(source / "healthy", "first", source.parent / "all")
    split = split_of(folder)
    assert split["train"]["0"] == [f"healthy{i}.png" for i in range(4)]
    assert len(split["train"]["unlabeled"]) == 3 and split["test"] == []
    dataset = datasets.load("first", 16)
    assert (len(dataset.normal), len(dataset.unlabeled), len(dataset.test)) == (4, 3, 0)
    said = capsys.readouterr().out
    for words in ("known normal: 4 images of 4 patients", "unlabeled: 3 images", "test: 0 images",
                  "16 x 20 (7)", "L (7)", "no AUC", "as they were"):  # fmt: skip
        assert words in said
    assert list(left_out_of(folder)) == []


def test_a_folder_of_parts_with_a_labelled_test(layout):
    counts = {"normal": 3, "unlabeled": 4, "test/normal": 2, "test/abnormal": 3}
    folder = prepare(layout(counts), "parts")
    split = split_of(folder)
    assert [len(split["test"][k]) for k in "01"] == [2, 3]
    dataset = datasets.load("parts", 16)
    labels = load_labels(dataset)
    assert labels.test.tolist() == [0, 0, 1, 1, 1] and labels.unlabeled.tolist() == [-1] * 4
    assert [name[:8] for name in dataset.test.names] == ["test_nor"] * 2 + ["test_abn"] * 3


def test_a_test_folder_without_labels_gives_scores_only(layout, capsys):
    prepare(layout({"normal": 25, "unlabeled": 25, "test": 3}), "flat")
    assert "no AUC" in capsys.readouterr().out
    dataset = datasets.load("flat", 64)
    run = runs.run("nearest_normals", dataset, "smoke")
    test = run.test
    assert len(test) == 3 and test["label"].isna().all() and test["score"].notna().all()
    assert "auc" not in run.metrics and run.metrics["images"] == 3
    assert "threshold" in run.metrics and np.isfinite(test["percentile"]).all()


@pytest.mark.parametrize("method", ["ganomaly", "sagan"])
def test_a_network_trains_on_a_set_without_any_test_image(layout, method):
    prepare(layout({"normal": 25, "unlabeled": 25}), "none")
    run = runs.run(method, datasets.load("none", 64), "smoke")
    assert set(run.scores["part"]) == {"held_out_normal", "unlabeled"}
    assert run.metrics["images"] == 0 and run.metrics["steps"] == 8


def test_normal_and_abnormal_folders_are_split_by_patient_and_seed(layout):
    source = layout({"normal": 40, "abnormal": 20})
    first, again, other = (
        split_of(prepare(source, name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again and first != other
    train = first["train"]
    assert [len(first["test"][k]) for k in "01"] == [10, 5]
    assert (len(train["0"]), len(train["unlabeled"]["0"]), len(train["unlabeled"]["1"])) == (
        15, 15, 15,
    )  # fmt: skip


def csv_of(folder, rows, columns=("image", "label", "patient", "split")):
    file = folder / "images.csv"
    pd.DataFrame(rows, columns=columns).to_csv(file, index=False)
    return file


def test_a_table_says_labels_patients_and_parts(layout):
    source = layout({"pictures": 8})
    name = "pictures/pictures{}.png".format
    rows = [
        (name(5), "normal", "Smith", "train"),
        (name(1), "0", "Jones", "normal"),
        (name(2), "", "Brown", "train"),
        (name(3), "abnormal", "Clark", "train"),
        (name(4), "0", "Adams", "unlabeled"),
        (name(0), "0", "Evans", "test"),
        (name(6), "1", "Evans", "test"),
        (name(7), "NORMAL", "Young", "test"),
    ]
    folder = prepare(csv_of(source, rows), "table")
    split = split_of(folder)
    assert split["train"]["0"] == ["pictures5.png", "pictures1.png"]
    assert split["train"]["unlabeled"] == [f"pictures{i}.png" for i in (2, 3, 4)]
    assert split["test"] == {"0": ["pictures0.png", "pictures7.png"], "1": ["pictures6.png"]}
    # Adams, Brown, Clark, Evans, Jones, Smith, Young
    patients = metadata_of(folder).set_index("image")["patient"]
    assert [patients[f"pictures{i}.png"] for i in range(8)] == list("45231647")


def test_a_table_without_a_split_is_split(layout):
    source = layout({"p": 60})
    rows = [(f"p/p{i}.png", "01"[i >= 40], f"patient{i // 2}") for i in range(60)]
    folder = prepare(csv_of(source, rows, ("image", "label", "patient")), "drawn")
    dataset = datasets.load("drawn", 16)  # which refuses a patient in two parts
    labels = load_labels(dataset)
    assert np.bincount(labels.test).tolist() == [10, 4]
    assert len(dataset.normal) == 14 or len(dataset.normal) == 16
    assert len(dataset.normal) + len(dataset.unlabeled) == 46
    assert split_of(folder)["train"]["unlabeled"].keys() == {"0", "1"}


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([("a.png", "0")], ("file", "label"), "needs the columns image and label"),
        ([("a.png", "ill")], ("image", "label"), "label is 'ill'"),
        ([("a.png", "0", "valid")], ("image", "label", "split"), "split is 'valid'"),
        ([("a.png", "0")], ("image", "label"), "a.png cannot be read: No such file"),
        ([("a.png", "0", "1")], ("image", "label", "Label"), "several columns label: keep one"),
        ([("a.png", "0", *"12")], ("image", "label", "patient", "Patient "), "columns patient:"),
        ([], ("image", "label"), "names no image"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path, rows, columns, words):
    with pytest.raises(DatasetError, match=words):
        prepare(csv_of(tmp_path, rows, columns), "refused")
    assert sets() == []


def test_a_table_may_name_damaged_and_contradictory_rows(layout):
    source = layout({"p": 9})
    rows = [(f"p/p{i}.png", "0", "", "normal" if i < 4 else "unlabeled") for i in range(8)]
    rows += [("p/p0.png", "1", "", "test"), ("p/p8.png", "1", "", "normal")]
    rows += [("p/p1.png", "0", "", "normal")]  # says nothing new
    rows += [("missing.png", "", "", "unlabeled")]
    left_out = left_out_of(prepare(csv_of(source, rows), "some"))
    assert left_out.keys() == {"p0.png", "p8.png", "missing.png"}
    assert "different things" in left_out["p0.png"]
    assert "called a known normal and abnormal" in left_out["p8.png"]


def test_dicom_of_any_depth_with_patients_from_the_headers(tmp_path, capsys):
    for i in range(6):
        draw_dicom(
            tmp_path / "n" / f"{i % 2}" / "study" / f"IM{i}", f"P{5 - i // 2}", ViewPosition="PA"
        )
        draw_dicom(tmp_path / "u" / f"scan{i}.dcm", f"Q{i}", PatientSex="M", PatientAge="061Y")
    folder = prepare(tmp_path / "n", "dicom", tmp_path / "u")
    metadata = metadata_of(folder).set_index("image")
    assert metadata.loc["IM0.png"].to_dict() == {"patient": "3", "view": "PA", "sex": "", "age": ""}
    assert metadata.loc["scan5.png"].to_dict() == {
        "patient": "9", "view": "", "sex": "M", "age": "61",
    }  # fmt: skip
    assert "known normal: 6 images of 3 patients" in capsys.readouterr().out
    assert split_of(folder)["conversion"] == "window"
    assert datasets.load("dicom", 16).conversion == "window"


def test_a_real_set_as_dicom_files_is_the_same_set(tmp_path, real_sets):
    """Pixels, patients, hold-out and scores; every other file is MONOCHROME1."""
    folder = real_sets("nih")
    whole = datasets.load(folder)
    labels = load_labels(whole).test
    parts = {"normal": whole.normal, "unlabeled": whole.unlabeled}
    parts |= {"test/normal": whole.test[labels == 0], "test/abnormal": whole.test[labels == 1]}
    for where, part in parts.items():
        (tmp_path / "dicom" / where).mkdir(parents=True)
        for i, (name, patient) in enumerate(zip(part.names, part.patients, strict=True)):
            with Image.open(folder / "images" / name) as image:
                pixels = np.asarray(image.convert("L"))
            negative = i % 2 == 1
            header = header_of(
                255 - pixels if negative else pixels, PatientID=patient,
                PhotometricInterpretation=f"MONOCHROME{1 if negative else 2}",
            )  # fmt: skip
            header.save_as(tmp_path / "dicom" / where / Path(name).with_suffix(".dcm"))
    again = datasets.load(prepare(tmp_path / "dicom", "again"))
    for one, other in ((whole.normal, again.normal), (whole.test, again.test)):
        order = {Path(name).stem: i for i, name in enumerate(other.names)}
        same = other[[order[Path(name).stem] for name in one.names]]
        assert np.array_equal(one.images, same.images)
        # Numbered anew, in the same order.
        assert len(set(zip(one.patients, same.patients, strict=True))) == len(set(one.patients))
    held, held_again = (
        {Path(name).stem for name in dataset.hold_out(0).held_normal.names}
        for dataset in (whole, again)
    )
    assert held == held_again
    scores = [
        runs.run("nearest_normals", d, "smoke").scores.query("part == 'test'")
        for d in (whole, again)
    ]
    scores = [s.set_index(s["image"].map(lambda name: Path(name).stem))["score"] for s in scores]
    assert np.allclose(scores[0], scores[1].loc[scores[0].index], rtol=1e-5)


@pytest.mark.parametrize("conversion", ["window", "benchmark"])
def test_the_conversion_is_kept_with_the_set_and_with_its_runs(tmp_path, conversion):
    for i in range(25):
        window = dict(WindowCenter=1000, WindowWidth=500)
        draw_dicom(tmp_path / "n" / f"{i}.dcm", f"{i}", **window)
        draw_dicom(tmp_path / "u" / f"u{i}.dcm", f"u{i}", **window)
    prepare(tmp_path / "n", "set", tmp_path / "u", conversion=conversion)
    dataset = datasets.load("set", 64)
    assert dataset.conversion == conversion
    assert runs.run("mean_image", dataset, "smoke").config["conversion"] == conversion


def test_a_set_that_is_there_is_not_taken_for_one_of_another_conversion(tmp_path, capsys):
    for name in ("n", "u"):
        draw_dicom(tmp_path / name / "1.dcm", name)
        draw(tmp_path / "pictures" / name / "1.png")
    how = dict(unlabeled=tmp_path / "u")
    for _ in range(2):
        assert ready("own", tmp_path / "n", "benchmark", **how) == "own"
    assert f"{tmp_path / 'n'} was not read" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="read as 'benchmark', not as 'window': name another"):
        ready("own", tmp_path / "n", **how)
    # Nothing to say of a set without DICOM files, or of one whose source nobody names.
    for conversion in ("window", "benchmark"):
        source = tmp_path / "pictures"
        assert ready("drawn", source / "n", conversion, unlabeled=source / "u") == "drawn"
        assert ready("own", conversion=conversion) == "own"


def test_no_header_value_reaches_what_is_written_or_said(tmp_path, capfd, monkeypatch):
    for i in range(12):
        healthy, planted = (
            PLANTED | {"PatientID": f"{PLANTED['PatientID']}-{part}{i}"} for part in "nu"
        )
        draw_dicom(tmp_path / "n" / f"{i}.dcm", shape=(64, 64), **healthy)
        draw_dicom(tmp_path / "u" / f"u{i}.dcm", shape=(64, 64), **planted)
        damaged = draw_dicom(tmp_path / "u" / f"damaged{i}.dcm", **planted)
        damaged.write_bytes(damaged.read_bytes()[: -100 * i - 1])
    (tmp_path / "u" / "name.dcm").write_bytes(
        draw_dicom(tmp_path / "u" / "name.dcm", **PLANTED)
        .read_bytes()
        .replace(b"MONOCHROME2", b"PLANTED    ")
    )
    prepare(tmp_path / "n", "planted", tmp_path / "u")
    dataset = datasets.load("planted", 64)
    run = runs.run("nearest_normals", dataset, "smoke")
    written = [p for p in root().rglob("*") if p.is_file()]
    assert {"data.json", "metadata.csv", "left_out.csv", "scores.csv"} <= {p.name for p in written}
    secrets = [value.encode() for value in PLANTED.values()]
    # Compressed files are looked at unpacked: pixels alone.
    for file in written:
        content = file.read_bytes()
        if file.suffix == ".png":
            with Image.open(file) as image:
                assert not image.info
        assert not any(secret in content for secret in secrets), file
    assert not any(value in "".join(capfd.readouterr()) for value in PLANTED.values())
    assert run.scores["patient"].astype(str).str.fullmatch(r"\d+").all()


def test_a_pattern_finds_the_patient_in_a_file_name(tmp_path):
    for name in ("007_a", "007_b", "12_a", "none"):
        draw(tmp_path / "n" / f"{name}.png")
    draw(tmp_path / "u" / "99_x.png")
    folder = prepare(tmp_path / "n", "pattern", tmp_path / "u", patient=r"^(\d+)_")
    patients = metadata_of(folder).set_index("image")["patient"].to_dict()
    assert patients == {
        "007_a.png": "1", "007_b.png": "1", "12_a.png": "2", "99_x.png": "3", "none.png": "4",
    }  # fmt: skip
    with pytest.raises(DatasetError, match="no regular expression"):
        prepare(tmp_path / "n", "broken", tmp_path / "u", patient="(")


def test_a_patient_stands_in_one_part(tmp_path, capsys):
    for name in ("normal/a_0", "normal/b_0", "normal/c_0", "unlabeled/b_1", "unlabeled/d_0",
                 "test/normal/c_1", "test/abnormal/c_2", "test/abnormal/e_0"):  # fmt: skip
        draw(tmp_path / "mine" / f"{name}.png")
    folder = prepare(tmp_path / "mine", "torn", patient="^(.)_")
    split = split_of(folder)
    assert split["train"]["0"] == ["a_0.png"]
    assert split["train"]["unlabeled"] == ["b_0.png", "b_1.png", "d_0.png"]
    assert list(left_out_of(folder)) == ["c_0.png"]
    assert "1 known normals moved" in capsys.readouterr().out
    datasets.load("torn", 16)


def test_an_image_stands_in_one_place(tmp_path):
    one = draw(tmp_path / "mine" / "normal" / "one.png")
    draw(tmp_path / "mine" / "normal" / "two.png"), draw(tmp_path / "mine" / "unlabeled" / "u.png")
    # The same pixels in other files: colour, 16 bit.
    Image.open(one).convert("RGB").save(tmp_path / "mine" / "unlabeled" / "colour.png")
    deep = np.asarray(Image.open(one)).astype(np.uint16) * 257
    (tmp_path / "mine" / "test").mkdir()
    Image.fromarray(deep).save(tmp_path / "mine" / "test" / "deep.png")
    os.symlink(tmp_path / "mine" / "normal" / "two.png", tmp_path / "mine" / "normal" / "link.png")
    folder = prepare(tmp_path / "mine", "twins")
    split = split_of(folder)
    assert split == {
        "train": {"0": ["link.png"], "unlabeled": ["u.png"]}, "test": ["deep.png"],
    }  # fmt: skip
    assert left_out_of(folder).keys() == {"one.png", "colour.png", "two.png"}
    datasets.load("twins", 16)


def test_files_of_one_name_get_numbers_and_no_name_of_a_folder(tmp_path):
    for name in ("n/1/scan.png", "n/2/scan.png", "n/2/scan.tif", "n/3/other.png"):
        draw(tmp_path / name)
    draw(tmp_path / "u" / "Scan.png")
    folder = prepare(tmp_path / "n", "names", tmp_path / "u")
    split = split_of(folder)
    assert split["train"]["0"] == ["scan.png", "scan_2.png", "scan_3.png", "other.png"]
    assert split["train"]["unlabeled"] == ["Scan_4.png"]
    originals = dict(pd.read_csv(folder / "originals.csv")[["image", "file"]].to_numpy())
    assert originals["scan_3.png"] == str(tmp_path / "n" / "2" / "scan.tif")
    assert len(originals) == 5


def test_larger_images_are_reduced_and_pixels_kept_else(tmp_path):
    draw(tmp_path / "n" / "small.png", (30, 20))
    draw(tmp_path / "n" / "deep.png", (20, 16), np.uint16)
    draw(tmp_path / "n" / "wide.png", (50, 200))
    draw(tmp_path / "n" / "colour.png", (20, 20, 3)), draw(tmp_path / "u" / "u.png")
    folder = prepare(tmp_path / "n", "sizes", tmp_path / "u", size=40) / "images"
    read = {
        name: Image.open(folder / f"{name}.png") for name in ("small", "deep", "wide", "colour")
    }
    assert read["wide"].size == (40, 10) and read["colour"].mode == "RGB"
    assert np.array_equal(read["small"], Image.open(tmp_path / "n" / "small.png"))
    deep = np.asarray(Image.open(tmp_path / "n" / "deep.png")).astype(int)
    assert np.array_equal(read["deep"], (deep + 128) // 257)


def png_bomb(width=50000, height=50000):
    """A small file that claims to hold a huge picture."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 10_000_000, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_what_cannot_be_used_is_named_and_left_out(tmp_path, capsys):
    for name in ("n/good.png", "n/also good.png", "u/ünïcödé.png"):
        draw(tmp_path / name)
    (tmp_path / "n" / "empty.png").touch()
    (tmp_path / "n" / "bomb.png").write_bytes(png_bomb())
    (tmp_path / "n" / "text.jpg").write_text("no picture")
    (tmp_path / "n" / "notes.txt").write_text("not an image, and not named")
    (tmp_path / "n" / ".hidden.png").touch()
    whole = draw(tmp_path / "n" / "cut.png", (200, 200)).read_bytes()
    (tmp_path / "n" / "cut.png").write_bytes(whole[: len(whole) // 2])
    os.symlink(tmp_path / "nowhere", tmp_path / "n" / "dangling.png")
    os.mkfifo(tmp_path / "n" / "pipe.png")
    os.mkfifo(tmp_path / "n" / "pipe")
    frames = [Image.new("L", (8, 8), i) for i in range(3)]
    frames[0].save(tmp_path / "n" / "film.gif", save_all=True, append_images=frames[1:])
    # What a file is called does not matter: a DICOM file as .png, a picture as .dcm.
    draw_dicom(tmp_path / "n" / "wrong.png", "7")
    draw(tmp_path / "n" / "really.png").rename(tmp_path / "n" / "really.dcm")
    folder = prepare(tmp_path / "n", "bad", tmp_path / "u")
    why = left_out_of(folder)
    assert why.keys() == {
        "empty.png", "bomb.png", "text.jpg", "cut.png", "dangling.png", "film.gif", "pipe.png",
        "pipe",
    }  # fmt: skip
    assert "a pipe" in why["pipe.png"] and "million pixels" in why["bomb.png"]
    assert "no image" in why["text.jpg"] and "3 pictures" in why["film.gif"]
    said = capsys.readouterr().out
    assert all(f"{tmp_path / 'n' / name} {reason}" in said for name, reason in why.items())
    kept = split_of(folder)["train"]["0"]
    assert kept == ["also good.png", "good.png", "really.png", "wrong.png"]
    assert sorted(os.listdir(folder / "images")) == sorted([*kept, "ünïcödé.png"])


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a,b", ".hid", " ", "phantom", "places", "taken", "x" * 99,
             "x" * 9999, "a\0b", "\U00020000" * 60],
)  # fmt: skip
def test_a_name_that_cannot_be_is_refused_before_anything_is_written(layout, name):
    source = layout({"normal": 2, "unlabeled": 2})
    prepare(source, "taken")
    before = contents(root())
    with pytest.raises(DatasetError):
        prepare(source, name)
    assert contents(root()) == before


def test_sources_that_hold_nothing_say_what_is_missing(layout, tmp_path):
    with pytest.raises(DatasetError, match="name the folder of unlabeled images"):
        prepare(layout({"a": 2}), "x")
    with pytest.raises(DatasetError, match="There is no file or folder"):
        prepare(tmp_path / "nowhere", "x", tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no unlabeled images"):
        prepare(tmp_path / "mine" / "a", "x", tmp_path / "empty")
    assert sets() == []


def test_originals_are_only_read_and_a_failure_leaves_nothing(layout, monkeypatch):
    source = layout({"normal": 3, "unlabeled": 3})
    before = contents(source)
    monkeypatch.setattr(folders, "write_lists", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(source, "half")
    assert sets() == []
    monkeypatch.undo()
    prepare(source, "whole")
    assert contents(source) == before


@pytest.mark.parametrize("names", [("Normal", "Abnormal"), ("NORMAL", "abnormal")])
def test_folders_are_known_by_name_in_any_case_and_others_are_named(layout, names):
    normal, abnormal = names
    counts = {f"{normal}": 3, "Unlabeled": 2, f"Test/{normal}": 2, f"Test/{abnormal}": 2}
    folder = prepare(layout(counts | {"pneumonia": 1}), "case")
    labels = load_labels(datasets.load("case", 16))
    assert labels.test.tolist() == [0, 0, 1, 1]
    assert left_out_of(folder) == {
        "pneumonia": "is none of the folders abnormal, normal, test, unlabeled, and was not read."
    }


def test_half_a_labelled_test_is_refused(layout):
    source = layout({"normal": 2, "unlabeled": 2, "test/healthy": 1, "test/abnormal": 1})
    with pytest.raises(DatasetError, match="not both of normal and abnormal"):
        prepare(source, "half")


def test_a_folder_within_another_keeps_its_own_images(layout):
    source = layout({"mine": 3, "mine/mixed": 4, "mine/held/normal": 2, "mine/held/abnormal": 2})
    mine = source / "mine"
    split = split_of(prepare(mine, "nested", mine / "mixed", mine / "held"))
    assert split["train"]["0"] == [f"mine{i}.png" for i in range(3)]
    assert len(split["train"]["unlabeled"]) == 4 and len(split["test"]["1"]) == 2


@pytest.mark.parametrize(
    "written",
    [("all", "all/test"), ("{}/all", "all/test"), ("all", "{}/all/test"), ("{}/all", "link/test")],
)
def test_a_test_folder_within_the_normal_ones_is_test_however_the_two_are_written(
    layout, written, monkeypatch
):
    here = layout({"all": 8, "all/test/normal": 3, "all/test/abnormal": 4})
    monkeypatch.chdir(here)
    os.symlink(here / "all", here / "link")
    source, test = (word.format(here) for word in written)
    split = split_of(prepare(source, "within", unlabeled="none", test=test))
    assert split["train"]["0"] == [f"all{i}.png" for i in range(8)]
    assert len(split["test"]["0"]) == 3 and len(split["test"]["1"]) == 4


def test_a_link_from_the_abnormal_ones_to_a_normal_image_leaves_both_out(layout):
    source = layout({"normal": 5, "unlabeled": 3, "test/normal": 2, "test/abnormal": 2})
    os.symlink(source / "normal" / "normal0.png", source / "test" / "abnormal" / "y.png")
    folder = prepare(source, "linked")
    assert "normal0.png" not in split_of(folder)["train"]["0"]
    assert {"normal0.png", "y.png"} <= left_out_of(folder).keys()
    assert "called otherwise" in left_out_of(folder)["y.png"]


def test_what_lies_beside_the_folders_of_test_is_listed(layout):
    source = layout(
        {"normal": 3, "unlabeled": 3, "test/normal": 2, "test/abnormal": 2, "test/unclear": 2}
    )
    draw(source / "test" / "loose.png")
    left_out = left_out_of(prepare(source, "beside"))
    assert {"unclear", "loose.png"} <= left_out.keys() and "was not read" in left_out["unclear"]


def test_a_patient_who_is_called_unknown_is_the_one_of_the_header(layout, tmp_path):
    for i in range(6):
        draw_dicom(tmp_path / "d" / f"{i}.dcm", f"patient {i // 2}")
    parts, labels = ("normal", "train", "test"), ("0", "", "0")
    rows = [(f"d/{i}.dcm", labels[i // 2], "nan", parts[i // 2]) for i in range(6)]
    file = csv_of(tmp_path, rows, ("image", "label", "patient", "split"))
    dataset = datasets.load(prepare(file, "unknown"), 16)
    parts = (dataset.normal, dataset.unlabeled, dataset.test)
    assert [len(set(part.patients)) for part in parts] == [1, 1, 1]


def test_two_columns_of_one_name_are_refused(layout):
    source = layout({"p": 2})
    rows = [("p/p0.png", "0", "1", "train"), ("p/p1.png", "0", "1", "test")]
    with pytest.raises(DatasetError, match=r"has several columns label: keep one\.$"):
        prepare(csv_of(source, rows, ("image", "label", "label", "split")), "twice")


def test_linked_folders_are_read_and_circles_end(layout, tmp_path):
    source = layout({"normal": 2, "unlabeled": 1, "elsewhere": 3})
    (source / "elsewhere").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", source / "unlabeled" / "more")
    os.symlink(source / "normal", source / "normal" / "again")
    split = split_of(prepare(source, "linked"))
    assert len(split["train"]["unlabeled"]) == 4 and len(split["train"]["0"]) == 2


@pytest.mark.parametrize("column", ["patient_id", "Patient ID", "train_split"])
def test_a_column_that_is_nearly_right_is_not_dropped_in_silence(layout, column):
    source = layout({"p": 2})
    with pytest.raises(DatasetError, match=f"has a column {column.lower()}: call it"):
        prepare(csv_of(source, [("p/p0.png", "0", "x")], ("image", "label", column)), "near")


def test_a_table_from_a_spreadsheet_is_understood(layout):
    source = layout({"p": 4})
    text = "Image;Label;Patient ;split\np\\p0.png;0.0;7;train\np\\p1.png;;8;train\n"
    text += "p/p2.png;0;9;test\np/p3.png;1.0;NA;test\n"
    (source / "images.csv").write_text(text, encoding="utf-8-sig")
    folder = prepare(source / "images.csv", "sheet")
    split = split_of(folder)
    assert split["train"] == {"0": ["p0.png"], "unlabeled": ["p1.png"]}
    assert split["test"] == {"0": ["p2.png"], "1": ["p3.png"]}
    # 7, 8, 9, and one who is not known.
    assert metadata_of(folder)["patient"].tolist() == ["1", "2", "3", "4"]


def test_a_test_image_without_a_label_is_left_out_where_others_have_one(layout):
    source = layout({"p": 6})
    labels = ["0", "", "0", "1", "1", ""]
    parts = ["train", "train", "test", "test", "test", "test"]
    rows = [(f"p/p{i}.png", labels[i], "", parts[i]) for i in range(6)]
    folder = prepare(csv_of(source, rows), "unclear")
    assert split_of(folder)["test"] == {"0": ["p2.png"], "1": ["p3.png", "p4.png"]}
    assert left_out_of(folder) == {"p5.png": "is a test image without a label."}


def test_the_same_pixels_under_two_labels_are_believed_nowhere(layout):
    source = layout({"normal": 9, "abnormal": 9})
    one = source / "normal" / "normal0.png"
    (source / "abnormal" / "twin.png").write_bytes(one.read_bytes())
    why = left_out_of(prepare(source, "torn"))
    assert why.keys() == {"normal0.png", "twin.png"}
    assert set(why.values()) == {"has the same pixels as another, which is called otherwise."}


def test_a_pattern_that_matches_nothing_is_refused_and_else_the_header_counts(tmp_path):
    for i in range(4):
        draw_dicom(tmp_path / "n" / f"{i}.dcm", f"P{i // 2}")
        draw_dicom(tmp_path / "u" / f"case{i % 2}" / f"u{i}.dcm", f"Q{i}")
    with pytest.raises(DatasetError, match="matches no file, such as"):
        prepare(tmp_path / "n", "none", tmp_path / "u", patient=r"^(\d+)_")
    folder = prepare(tmp_path / "n", "some", tmp_path / "u", patient=r"case(\d)")
    patients = metadata_of(folder).set_index("image")["patient"]
    assert patients["u0.png"] == patients["u2.png"] != patients["u1.png"]
    assert patients["0.png"] == patients["1.png"] != patients["2.png"]


def test_a_patient_with_most_of_the_images_is_pointed_out(tmp_path, capsys):
    for i in range(12):
        draw_dicom(tmp_path / "n" / f"{i}.dcm", "0000")
        draw_dicom(tmp_path / "u" / f"u{i}.dcm", f"{i}")
    prepare(tmp_path / "n", "one", tmp_path / "u")
    assert "12 of 24 images are of one patient" in capsys.readouterr().out


def test_pictures_that_use_few_of_sixteen_bits_are_pointed_out(tmp_path, capsys):
    for name in ("n/a.png", "u/b.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(random.integers(0, 4096, (20, 20), np.uint16)).save(tmp_path / name)
    prepare(tmp_path / "n", "dark", tmp_path / "u")
    said = capsys.readouterr().out
    assert "12 bits used (2)" in said and "nearly black" in said


def test_a_negative_tiff_and_a_turned_photograph_are_put_right(tmp_path):
    values = random.integers(0, 65536, (20, 16), np.uint16)
    Image.fromarray(values).save(tmp_path / "negative.tif", tiffinfo={262: 0})
    turned = Image.Exif()
    turned[0x0112] = 6  # turn by a quarter, clockwise
    pixels = random.integers(0, 256, (20, 16), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    for read in (images.picture, lambda file: images.read_image(file).image):
        with Image.open(tmp_path / "negative.tif") as file:
            stored = np.asarray(file).astype(int)
        assert np.array_equal(read(tmp_path / "negative.tif"), (65535 - stored + 128) // 257)
        assert np.array_equal(read(tmp_path / "turned.png"), np.rot90(pixels, -1))


def test_profiles_and_comments_stay_behind(tmp_path):
    for name in ("n/a.png", "u/b.png"):
        (tmp_path / name).parent.mkdir()
        image = Image.fromarray(random.integers(0, 256, (20, 20), np.uint8))
        image.save(tmp_path / name, icc_profile=b"PLANTED", dpi=(300, 300))
    folder = prepare(tmp_path / "n", "plain", tmp_path / "u", size=10)
    for file in (folder / "images").iterdir():
        assert Image.open(file).info == {} and b"PLANTED" not in file.read_bytes()


def test_a_set_is_made_once_and_then_taken_as_it_is(layout, capsys):
    source = layout({"normal": 2, "unlabeled": 2})
    assert folders.ready("once", source) == "once" and "2 images" in capsys.readouterr().out
    before = contents(root())
    assert folders.ready("once", source) == "once" and "as it is" in capsys.readouterr().out
    assert folders.ready("phantom") == "phantom" and capsys.readouterr().out == ""
    (root() / "data" / "sets" / "phantom").mkdir()
    with pytest.raises(DatasetError, match="no name for a set"):
        folders.ready("phantom", source)
    (root() / "data" / "sets" / "phantom").rmdir()
    assert contents(root()) == before


def test_a_pattern_is_tried_before_any_image_is_read(layout, monkeypatch):
    source = layout({"normal": 2, "unlabeled": 2})
    monkeypatch.setattr(folders, "convert", lambda *_: pytest.fail("read"))
    for pattern in ("(", "a{99999999999999999}", "(" * 3000 + ")" * 3000):
        with pytest.raises(DatasetError, match="no regular expression") as error:
            prepare(source, "pattern", patient=pattern)
        assert len(str(error.value)) < 300
    with pytest.raises(DatasetError, match="matches no file"):
        prepare(source, "pattern", patient=r"^(\d+)_")


@pytest.mark.parametrize("size", [0, -1, "64", 64.0, np.nan, True])
def test_a_size_is_a_whole_number_of_pixels(layout, size):
    source = layout({"normal": 2, "unlabeled": 2})
    with pytest.raises(ValueError, match=f"size is {size!r}, but must be a whole number"):
        prepare(source, "sized", size=size)


@pytest.mark.parametrize("which", ["source", "unlabeled", "test"])
def test_the_home_of_nobody_is_no_folder(layout, which):
    source = layout({"normal": 2, "unlabeled": 2})
    with pytest.raises(DatasetError, match=r"There is no .*~nosuch"):
        prepare(**{"source": source, "name": "home", which: "~nosuch/images"})


def test_a_folder_whose_name_is_no_text_is_told_of(tmp_path, capsys):
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/R\xf6ntgen"))
    draw(source / "normal" / "n.png"), draw(source / "unlabeled" / "u.png")
    prepare(source, "odd")
    assert f"{tmp_path / 'R?ntgen'}:" in capsys.readouterr().out
    assert len(datasets.load("odd", 16).normal) == 1


def test_images_without_a_patient_are_counted(tmp_path, capsys):
    for i in range(3):
        draw_dicom(tmp_path / "n" / f"{i}.dcm", "P1" if i else "unknown")
        draw(tmp_path / "u" / f"u{i}.png")
    prepare(tmp_path / "n", "some", tmp_path / "u")
    assert "4 images name no patient: each is taken for the only one" in capsys.readouterr().out
    prepare(tmp_path / "n", "all", tmp_path / "u", patient="^.")
    assert "name no patient" not in capsys.readouterr().out


def test_images_with_text_burned_in_are_counted(tmp_path, capsys):
    for i, word in enumerate(("YES", "YES", "NO")):
        draw_dicom(tmp_path / "n" / f"{i}.dcm", "P1", BurnedInAnnotation=word)
        draw(tmp_path / "u" / f"{i}.png")
    folder = prepare(tmp_path / "n", "burned", tmp_path / "u")
    assert "text is burned in, which may name the patient: 2." in capsys.readouterr().out
    assert list(metadata_of(folder)) == ["image", "patient"]


@pytest.mark.parametrize("other", ["pneumonia", "=ill", "Abnormal "])
def test_a_folder_beside_normal_that_is_called_otherwise_is_told_what_to_be_called(layout, other):
    source = layout({"normal": 2, other: 2})
    with pytest.raises(DatasetError, match="call a folder abnormal if all its images are") as error:
        prepare(source, "other")
    assert f"beside it {other}" in str(error.value) and sets() == []


def test_names_of_formulas_are_escaped_for_people_and_not_used_in_the_set(tmp_path, monkeypatch):
    for name in ("n/=1+1.png", "n/-0.5.png", "u/@x.png", "u/'y.png"):
        draw(tmp_path / name)
    (tmp_path / "n" / "=bad.png").write_text("no image")
    monkeypatch.chdir(tmp_path / "n")  # so that a path begins with the name
    rows = [("=1+1.png", "0", "=a"), ("-0.5.png", "0", "-1"), ("../u/@x.png", "", "@"),
            ("../u/'y.png", "", "+1"), ("=bad.png", "", "")]  # fmt: skip
    source = csv_of(Path(), rows, ("image", "label", "patient"))
    folder = prepare(source, "formulas")
    names = {"_=1+1.png", "_-0.5.png", "_@x.png", "'y.png"}
    dataset = datasets.load(folder, 16)
    assert {*dataset.normal.names, *dataset.unlabeled.names, *dataset.test.names} == names
    originals = pd.read_csv(folder / "originals.csv", dtype=str)
    assert set(originals["image"]) == names
    files = {"'=1+1.png", "'-0.5.png", "../u/@x.png", "../u/'y.png"}
    assert set(originals["file"]) == files
    assert pd.read_csv(folder / "left_out.csv")["file"].tolist() == ["'=bad.png"]


@pytest.mark.parametrize("cell", ["a\0.png", "x" * 100_000, "x" * 300], ids=["NUL", "long", "300"])
def test_a_cell_that_names_no_file_is_told_of_in_short_sentences(layout, cell):
    source = layout({"p": 2})
    with pytest.raises(DatasetError) as error:
        prepare(csv_of(source, [(cell, "0"), ("p/p0.png", "")], ("image", "label")), "cells")
    assert all(len(problem) < 600 and "\n" not in problem for problem in error.value.problems)
    assert sets() == []


def test_a_table_that_names_a_pipe_does_not_wait(layout):
    source = layout({"p": 3})
    os.mkfifo(source / "p" / "pipe")
    rows = [("p/p0.png", "0", "normal"), ("p/p1.png", "", ""), ("p/pipe", "", "")]
    why = left_out_of(prepare(csv_of(source, rows, ("image", "label", "split")), "pipes"))
    assert why.keys() == {"pipe"} and "a pipe" in why["pipe"]


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) < 200)
KINDS = st.sampled_from(["picture", "dicom", "empty", "text", "tiny", "twin", "link", "bytes"])


@given(
    files=st.lists(st.tuples(st.sampled_from(["n", "u"]), NAMES, NAMES, KINDS), max_size=8),
    suffix=st.sampled_from([".png", ".dcm", ".JPG", ""]),
)
def test_any_folder_becomes_a_set_that_loads_or_says_why(tmp_path_factory, files, suffix):
    here = tmp_path_factory.mktemp("any")
    twin = draw(here / "n" / "first.png")
    draw(here / "u" / "second.png")
    for part, folder, name, kind in files:
        file = here / part / folder / f"{name}{suffix}"
        if file.exists() or file.parent.is_file():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        write_kind(file, kind, twin)
    found = [file for part in "nu" for file in folders.find_images(here / part)]
    folder = prepare(here / "n", here.name, here / "u")
    dataset = datasets.load(folder, 8)
    listed = {*dataset.normal.names, *dataset.unlabeled.names}
    assert sorted(listed) == sorted(os.listdir(folder / "images"))
    assert len(listed) + len(pd.read_csv(folder / "left_out.csv")) == len(found)


def write_kind(file, kind, twin):
    if kind in ("picture", "tiny"):
        shape = (1, 1) if kind == "tiny" else (9, 7)
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(file, "PNG")
    elif kind == "dicom":
        draw_dicom(file, "someone")
    elif kind == "link":
        os.symlink(twin, file)
    else:
        content = {
            "empty": b"",
            "text": b"words",
            "twin": twin.read_bytes(),
            "bytes": b"\xff" * 300,
        }
        file.write_bytes(content[kind])
