"""Files in the layouts of the original downloads -> sets, and what is said about them."""

import gzip
import importlib.util
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from files import PLANTED, header_of, write_rows
from nblib.data import datasets, downloads
from nblib.data.archives import COUNTS, SIDES, SOURCES
from nblib.data.downloads import build, built
from nblib.data.labels import load_labels
from nblib.data.split import read_split
from nblib.files import DatasetError, root

random = np.random.default_rng(0)


def noise(*shape, dtype=np.uint8, high=256):
    return random.integers(0, high, shape, dtype)


def draw(file, pixels, **how):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **how)


def draw_dicom(file, pixels, **elements):
    file.parent.mkdir(parents=True, exist_ok=True)
    header_of(pixels, **elements).save_as(file)


def make_split(file, normal, unlabeled, test):
    """A data.json; `unlabeled` and `test` are pairs of lists, of normal and of abnormal images."""
    by_label = [{"0": list(zero), "1": list(one)} for zero, one in (unlabeled, test)]
    train = {"0": list(normal), "unlabeled": by_label[0]}
    file.write_text(json.dumps({"train": train, "test": by_label[1]}))
    return file


def lists(folder_or_file):
    """The lists of a data.json by key."""
    is_file = Path(folder_or_file).is_file()
    return read_split(Path(folder_or_file) / ("" if is_file else "data.json"))


def part_of(key):
    return "normal" if key == "train/0" else key.split("/")[-2]


def labels_of(folder):
    return {
        name: 0 if key in ("train/0", "train/unlabeled/0", "test/0") else 1
        for key, names in lists(folder).items()
        for name in names
    }


def table_of(file):
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def left_out_of(folder):
    return {Path(file).name: why for file, why in table_of(folder / "left_out.csv").to_numpy()}


def pixels_of(folder, name):
    with Image.open(folder / "images" / name) as image:
        return np.asarray(image)


def contents(folder):
    """All files but locks, which stay."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    paths = [path for path in files if path.suffix != ".lock"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def problems(*arguments, **how):
    """The problems of a build, which leaves nothing behind."""
    before = contents(root())
    with pytest.raises(DatasetError) as caught:
        build(*arguments, **how)
    assert contents(root()) == before
    sets = root() / "data" / "sets"
    assert not sets.exists() or not [path for path in sets.iterdir() if path.name[0] == "."]
    return caught.value.problems


# RSNA: a row a box in both tables


@pytest.fixture
def make_rsna(tmp_path):
    """make_rsna(normal, abnormal, neither, side, elements of each header) -> a download."""

    def make(normal=20, abnormal=12, neither=5, side=32, elements=lambda name: {}):
        boxes, classes, folder = [], [], tmp_path / "rsna"
        kinds = {"Normal": normal, "Lung Opacity": abnormal}
        kinds["No Lung Opacity / Not Normal"] = neither
        for kind, count in kinds.items():
            for i in range(count):
                name = f"{kind[:2].lower().strip()}{len(kind)}-{i:02}"
                is_ill = kind == "Lung Opacity"
                own = [(1 + k, 2, 3, 4 + k, 1) for k in range(1 + i % 3)] if is_ill else []
                own = own or [("", "", "", "", 0)]
                boxes += [(name, *box) for box in own]
                classes += [(name, kind)] * len(own)
                file = folder / "stage_2_train_images" / f"{name}.dcm"
                draw_dicom(file, noise(side, side), **elements(name))
        # Boxes of an image need not follow each other.
        boxes.sort(key=lambda row: row[1] == 2)
        header = ["patientId", "x", "y", "width", "height", "Target"]
        write_rows(folder / "stage_2_train_labels.csv", header, boxes)
        write_rows(folder / "stage_2_detailed_class_info.csv", ["patientId", "class"], classes)
        return folder

    return make


def test_rsna_gets_a_drawn_split_in_proportion_to_the_published_one(make_rsna, capsys):
    folder = build("rsna", make_rsna())
    # Of 20 normals 3851 : 4000 : 1000, of 12 abnormals 5012 : 1000.
    counts = {"train/0": 9, "train/unlabeled/0": 9, "train/unlabeled/1": 10, "test/0": 2}
    assert {key: len(names) for key, names in lists(folder).items()} == counts | {"test/1": 2}
    labels = labels_of(folder)
    normal = [f"no6-{i:02}.png" for i in range(20)]
    assert labels == dict.fromkeys(normal, 0) | {f"lu12-{i:02}.png": 1 for i in range(12)}
    assert {path.name for path in (folder / "images").iterdir()} == set(labels)
    said = capsys.readouterr().out
    assert "with seed 0" in said and "NOT the published split" in said
    assert "Neither normal nor abnormal, and left out: 5 images" in said
    assert "14831 images fewer" in said
    assert folder == root() / "data" / "sets" / "rsna" and "burned" not in said


def test_text_burned_into_a_download_is_told_of(make_rsna, capsys):
    build("rsna", make_rsna(elements=lambda name: {"BurnedInAnnotation": "YES"}))
    # All but those that are neither normal nor abnormal.
    assert "text is burned in, which may name the patient: 32." in capsys.readouterr().out
    dataset = datasets.load("rsna", 16)
    assert dataset.conversion == "benchmark" and len(dataset.test) == 4
    assert (dataset.test.sizes == 512).all()


@pytest.mark.parametrize("odd", ["ten", "inf", "=1+1"])
def test_boxes_that_are_no_numbers_are_refused_with_what_stands_there(make_rsna, odd):
    download = make_rsna()
    file = download / "stage_2_train_labels.csv"
    file.write_text(file.read_text().replace(",1,2,3,4,1", f",1,{odd},3,4,1", 1))
    assert problems("rsna", download) == [f"{file} has boxes with what is no number: {odd}."]


def test_a_seed_draws_one_split_and_another_seed_another(make_rsna):
    download = make_rsna()
    made = [build("rsna", download, name, seed=seed, size=8) for name, seed in
            [("one", 3), ("same", 3), ("other", 4)]]  # fmt: skip
    assert lists(made[0]) == lists(made[1]) != lists(made[2])


def test_the_class_that_the_benchmark_leaves_out_can_be_had(make_rsna, capsys):
    labels = labels_of(build("rsna", make_rsna(), size=8, not_normal=True))
    assert sum(labels.values()) == 17 and len(labels) == 37
    assert "Neither" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="not_normal"):
        build("lag", "anywhere", not_normal=True)


def test_boxes_of_rsna_are_in_pixels_of_the_new_files(make_rsna):
    boxes = table_of(build("rsna", make_rsna(), size=64) / "boxes.csv")
    of_third = boxes[boxes["image"] == "lu12-02.png"].drop(columns="image").astype(float)
    # (1 + k, 2, 3, 4 + k) in 32 x 32 pixels, at twice the size.
    assert sorted(of_third.to_numpy().tolist()) == [[2, 4, 6, 8], [4, 4, 6, 10], [6, 4, 6, 12]]
    assert set(boxes["image"]) == {f"lu12-{i:02}.png" for i in range(12)} and len(boxes) == 24
    dataset = datasets.load("rsna", 64)
    labels = load_labels(dataset)
    assert labels.annotated.all() and labels.masks[labels.test == 1].any((1, 2)).all()


def test_metadata_has_view_sex_and_age_of_the_headers(make_rsna):
    elements = {"ViewPosition": "AP", "PatientSex": "F", "PatientAge": "051Y"}
    folder = build("rsna", make_rsna(4, 4, 0, elements=lambda name: elements), size=8)
    metadata = table_of(folder / "metadata.csv")
    assert list(metadata) == ["image", "patient", "view", "sex", "age"]
    assert (metadata[["view", "sex", "age"]] == ["AP", "F", "51"]).all(axis=None)
    assert sorted(metadata["patient"]) == list("12345678")


def test_no_patient_of_a_drawn_split_stands_in_two_parts(make_rsna):
    def elements(name):
        # Two images a patient; some of those with abnormal images have normal ones too.
        kind, number = name.split("-")
        shared = kind == "lu12" or int(number) < 6
        return {"PatientID": f"{'both' if shared else kind}{int(number) // 2}"}

    folder = build("rsna", make_rsna(30, 12, 0, elements=elements), size=8)
    patient = table_of(folder / "metadata.csv").set_index("image")["patient"]
    split = lists(folder)
    parts = {}
    for key, names in split.items():
        parts.setdefault(part_of(key), set()).update(patient[names])
    assert sum(map(len, parts.values())) == patient.nunique() == 18
    ill = {patient[name] for name, label in labels_of(folder).items() if label == 1}
    assert len(ill) == 6 and not ill & parts["normal"]
    datasets.load(folder, 8)


def test_a_given_list_is_followed_exactly(make_rsna, tmp_path, capsys):
    names = [f"{stem}.png" for stem in ("no6-07", "no6-01", "lu12-03", "lu12-00", "no28-02")]
    split = make_split(tmp_path / "data.json", names[:1], ([names[1]], [names[2]]),
                       (["no6-03.png"], [names[3], names[4]]))  # fmt: skip
    folder = build("rsna", make_rsna(), "mine", split=split, size=8)
    assert folder.name == "mine" and lists(folder) == lists(split)
    assert len(list((folder / "images").iterdir())) == 6
    said = capsys.readouterr().out
    assert f"Split: that of {split}" in said and "NOT" not in said


def test_lists_without_labels_are_followed_too(make_rsna, tmp_path):
    split = {"train": {"0": ["no6-00.png"], "unlabeled": ["lu12-01.png", "no6-01.png"]}}
    split["test"] = ["no6-02.png", "lu12-02.png"]
    (tmp_path / "data.json").write_text(json.dumps(split))
    folder = build("rsna", make_rsna(), split=tmp_path / "data.json", size=8)
    assert json.loads((folder / "data.json").read_text()) == split | {"conversion": "benchmark"}


def test_everything_that_a_given_list_lacks_is_named_and_nothing_is_written(make_rsna, tmp_path):
    download = make_rsna()
    images = download / "stage_2_train_images"
    (images / "no6-01.dcm").write_bytes((images / "no6-01.dcm").read_bytes()[:900])
    (images / "lu12-01.dcm").unlink()
    before = contents(download)
    split = make_split(tmp_path / "data.json", ["no6-00.png", "lu12-04.png"],
                       (["no6-01.png"], ["lu12-01.png"]), (["no6-03.png"], ["unheard-of.png"]),
                       )  # fmt: skip
    found = problems("rsna", download, split=split, size=8)
    assert str(download) in found[0] and str(split) in found[0] and len(found) == 5
    for words in (
        "lu12-04 is listed as normal, and is not that in the download.",
        "no6-01.dcm is cut off",
        "lu12-01 is missing.",
        "unheard-of is missing.",
    ):
        assert sum(words in problem for problem in found) == 1, (words, found)
    assert contents(download) == before


def test_a_damaged_file_is_left_out_where_no_list_is_given(make_rsna, capsys):
    download = make_rsna()
    images = download / "stage_2_train_images"
    (images / "no6-01.dcm").write_bytes((images / "no6-01.dcm").read_bytes()[:900])
    (images / "lu12-01.dcm").unlink()
    (images / "no6-03.dcm").write_bytes((images / "no6-02.dcm").read_bytes())
    before = contents(download)
    folder = build("rsna", download, size=8)
    assert len(labels_of(folder)) == 29
    why = left_out_of(folder)
    assert why["lu12-01"] == "is missing." and "is cut off" in why["no6-01.dcm"]
    # Which of two equal ones stays depends on their parts.
    (twin,) = set(why) - {"lu12-01", "no6-01.dcm"}
    assert twin in ("no6-02.dcm", "no6-03.dcm") and "has the same pixels as" in why[twin]
    said = capsys.readouterr().out
    assert all(name in said for name in why) and "left_out.csv" in said
    assert contents(download) == before
    datasets.load(folder, 8)


def test_nothing_of_a_header_that_identifies_a_patient_is_written_or_said(make_rsna, capsys):
    def elements(name):
        return PLANTED | {"PatientID": f"PLANTED-{name[:2]}{name[-1]}", "PatientSex": "M"}

    download = make_rsna(elements=elements)
    broken = download / "stage_2_train_images" / "no6-05.dcm"
    header = header_of(noise(8, 8), **PLANTED)
    header.Rows = 4000
    header.save_as(broken)
    folder = build("rsna", download, size=16)
    datasets.load(folder, 8)
    assert "no6-05.dcm" in left_out_of(folder)
    said = "".join(capsys.readouterr()).encode()
    for path, (content, _) in contents(root()).items():
        for word in ("Planted", "PLANTED", "19011231", "20010203"):
            assert word.encode() not in content + said, path
    assert set(table_of(folder / "metadata.csv")["patient"]) == {f"{i:02}" for i in range(1, 21)}


def test_tables_that_are_missing_or_of_another_shape_are_named(make_rsna):
    download = make_rsna(2, 2, 0)
    file = download / "stage_2_detailed_class_info.csv"
    write_rows(file, ["patientId", "kind"], [("a", "Normal")])
    (found,) = problems("rsna", download)
    assert str(file) in found and "needs the columns patientId, class; it has" in found
    file.unlink()
    assert problems("rsna", download) == [f"{file} is missing."]


# VinDr-CXR: three readers, both photometric interpretations, 12 to 16 bit


FINDINGS = ("Cardiomegaly", "Pleural effusion")


def make_vindr(folder, normal=15, abnormal=12, mixed=0, size=lambda i: (24, 16)):
    rows = []
    for i in range(normal + abnormal + mixed):
        # An abnormal one after each normal one, as long as there are some.
        is_ill = i % 2 == 1 and i // 2 < abnormal
        is_mixed = i >= normal + abnormal
        for reader in ("R8", "R9", "R10"):
            found = (is_ill and not is_mixed) or (is_mixed and reader == "R9")
            if not found:
                rows.append((f"{i:03x}", "No finding", 14, reader, "", "", "", ""))
            for k, name in enumerate(FINDINGS if reader == "R8" else FINDINGS[:1]):
                if found:
                    rows.append((f"{i:03x}", name, k, reader, 2 + k, 3, 8 + k, 7))
        width, height = size(i)
        deep = i % 3 == 0
        pixels = noise(height, width, dtype=np.uint16, high=65536 if deep else 4096)
        header = {} if deep else {"BitsStored": 12, "HighBit": 11}
        header["PhotometricInterpretation"] = f"MONOCHROME{1 + i % 2}"
        draw_dicom(folder / "train" / f"{i:03x}.dicom", pixels, **header)
    columns = ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]
    # Rows of an image do not stand together: what counts is where it comes first.
    rows = rows[::3] + rows[1::3] + rows[2::3]
    write_rows(folder / "train.csv", columns, rows)
    order = dict.fromkeys(row[0] for row in rows)
    return list(order)


def test_vindr_is_dealt_out_in_the_order_of_its_table(tmp_path, capsys):
    order = [f"{stem}.png" for stem in make_vindr(tmp_path, mixed=1)]
    folder = build("vindr", tmp_path, size=8)
    ill = {f"{i:03x}.png" for i in range(1, 24, 2)}
    normal = [name for name in order if name not in ill | {"01b.png"}]
    abnormal = [name for name in order if name in ill]
    # Of 15 normals 4000 : 5606 : 1000, of 12 abnormals 3394 : 1000.
    assert lists(folder) == {
        "train/0": normal[:6],
        "train/unlabeled/0": normal[6:14],
        "train/unlabeled/1": abnormal[:9],
        "test/0": normal[14:],
        "test/1": abnormal[9:],
    }
    said = capsys.readouterr().out
    assert "by the rule of the published one" in said and "NOT" not in said
    assert "left out: 1 images" in said


def test_boxes_of_vindr_are_those_of_all_readers(tmp_path):
    make_vindr(tmp_path)
    boxes = table_of(build("vindr", tmp_path, size=48) / "boxes.csv")
    assert list(boxes) == ["image", "x", "y", "width", "height", "class", "reader"]
    own = boxes[boxes["image"] == "003.png"].drop(columns="image").sort_values(["class", "reader"])
    # From (2, 3) to (8, 7) in 24 x 16 pixels, in 48 x 48; the second finding one pixel further.
    assert own.astype({side: float for side in SIDES}).to_numpy().tolist() == [
        [4, 9, 12, 12, "Cardiomegaly", "R10"],
        [4, 9, 12, 12, "Cardiomegaly", "R8"],
        [4, 9, 12, 12, "Cardiomegaly", "R9"],
        [6, 9, 12, 12, "Pleural effusion", "R8"],
    ]


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
def test_pixels_are_converted_as_the_benchmark_does(tmp_path, inverted, bits):
    make_vindr(tmp_path)
    values = noise(8, 8, dtype=np.uint16, high=2**bits)
    elements = {"PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2"}
    elements |= {"BitsStored": bits, "HighBit": bits - 1}
    window = {"WindowCenter": 1000, "WindowWidth": 500, "RescaleSlope": 2, "RescaleIntercept": 9}
    draw_dicom(tmp_path / "train" / "004.dicom", values, **elements, **window)
    values = values.astype(float)
    values = values.max() - values if inverted else values
    low, high = values.min(), values.max()
    expected = ((values - low) / (high - low) * 255).astype(np.uint8)
    assert np.array_equal(pixels_of(build("vindr", tmp_path, size=8), "004.png"), expected)
    as_viewed = pixels_of(
        build("vindr", tmp_path, "viewed", size=8, conversion="window"), "004.png"
    )
    assert not np.array_equal(as_viewed, expected)
    assert datasets.load("viewed", 8).conversion == "window"


def torchxrayvision(name):
    """A table that the package carries, without importing it."""
    package = importlib.util.find_spec("torchxrayvision")
    file = package and Path(package.submodule_search_locations[0]) / "data" / name
    if not file or not file.is_file():
        pytest.skip(f"no package torchxrayvision, which carries {name}")
    return gzip.decompress(file.read_bytes())


def test_the_rule_for_vindr_gives_the_published_split(tmp_path, splits):
    published = lists(splits("VinCXR"))
    (tmp_path / "train.csv").write_bytes(torchxrayvision("vinbigdata-train.csv.gz"))
    (tmp_path / "train").mkdir()
    table, boxes, _ = SOURCES["vindr"].understood(tmp_path)
    assert len(table) == 15000 and (table["part"] != "").all() and len(boxes) == 67914 - 31818
    for key, names in published.items():
        ours = table[(table["part"] == part_of(key)) & (table["label"] == int(key[-1]))]
        assert [f"{stem}.png" for stem in ours["stem"]] == names


# LAG


def make_lag(folder, normal=12, abnormal=10, **how):
    for kind, label, ids in (
        ("non_glaucoma", 0, range(1, 2 * normal, 2)),
        ("suspicious_glaucoma", 1, range(2, 2 * abnormal + 1, 2)),
    ):
        for i in ids:
            draw(folder / kind / "image" / f"{i:04}.jpg", noise(40, 40, 3), quality=95, **how)
            draw(folder / kind / "attention_map" / f"{i:04}.jpg", noise(8, 8))
            (folder / kind / "label").mkdir(exist_ok=True)
            (folder / kind / "label" / f"{i:04}.txt").write_text(f"{label}\n")


def test_lag_keeps_its_pixels_and_loses_its_headers(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x13B], exif[0x10E] = "Planted Artist", "Planted^Name"
    make_lag(tmp_path, exif=exif, comment=b"PLANTED comment")
    before = contents(tmp_path)
    folder = build("lag", tmp_path)
    labels = labels_of(folder)
    assert Counter(labels.values()) == {0: 12, 1: 10}
    for name, label in labels.items():
        assert int(name[:4]) % 2 == 1 - label
        kind = ("non_glaucoma", "suspicious_glaucoma")[label]
        with Image.open(tmp_path / kind / "image" / name) as original:
            assert np.array_equal(pixels_of(folder, name), np.asarray(original))
            assert original.getexif() and original.info["comment"]
        written = (folder / "images" / name).read_bytes()
        assert b"lanted" not in written and b"PLANTED" not in written and written[:2] == b"\xff\xd8"
    # Of 12 normals 1500 : 832 : 811, of 10 abnormals 900 : 811.
    assert [len(names) for names in lists(folder).values()] == [6, 3, 5, 3, 5]
    assert "NOT the published split" in capsys.readouterr().out
    assert not (folder / "boxes.csv").exists() and contents(tmp_path) == before
    assert datasets.load(folder, 16, "rgb").channels == 3


@pytest.mark.parametrize("how", [{"progressive": True}, {"keep_rgb": True}, {"icc_profile": b"x"}])
@pytest.mark.parametrize("filled", [b"", b"\xff\xff"])
def test_a_jpeg_without_headers_has_the_same_pixels(how, filled):
    for mode in ("L", "RGB", "CMYK"):
        file = io.BytesIO()
        image = Image.fromarray(noise(33, 50, 3)).convert(mode)
        image.save(file, "JPEG", **(how if mode == "RGB" or "keep_rgb" not in how else {}))
        content = file.getvalue()[:2] + filled + file.getvalue()[2:]
        shown = [
            np.asarray(Image.open(io.BytesIO(jpeg)))
            for jpeg in (content, downloads._without_headers(content))
        ]
        assert np.array_equal(*shown)


def test_a_jpeg_without_headers_still_says_how_its_colours_are_coded():
    file = io.BytesIO()
    Image.fromarray(noise(33, 50, 3)).save(file, "JPEG")
    content = file.getvalue()
    assert content[2:4] == b"\xff\xe0"
    behind = content[4 + int.from_bytes(content[4:6]) :]
    # Adobe's segment, transform 0: the same bytes, now read as RGB.
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    as_rgb = content[:2] + adobe + behind
    shown = [
        np.asarray(Image.open(io.BytesIO(jpeg)))
        for jpeg in (content, as_rgb, downloads._without_headers(as_rgb))
    ]
    assert not np.array_equal(*shown[:2]) and np.array_equal(*shown[1:])


def test_lag_at_another_size_is_scaled_in_colour(tmp_path):
    make_lag(tmp_path)
    folder = build("lag", tmp_path, size=20)
    with Image.open(tmp_path / "non_glaucoma" / "image" / "0001.jpg") as image:
        small = np.asarray(image.resize((20, 20), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(pixels_of(folder, "0001.jpg") - small).mean() < 25
    assert pixels_of(folder, "0001.jpg").shape == (20, 20, 3)


def test_an_image_of_lag_whose_labels_disagree_is_named(tmp_path):
    make_lag(tmp_path)
    (tmp_path / "non_glaucoma" / "label" / "0003.txt").write_text("1")
    draw(tmp_path / "elsewhere" / "image" / "0100.jpg", noise(40, 40, 3))
    split = make_split(tmp_path / "data.json", ["0001.jpg"], (["0003.jpg"], ["0002.jpg"]),
                       (["0005.jpg"], ["0004.jpg"]))  # fmt: skip
    (found,) = problems("lag", tmp_path, split=split)[1:]
    assert found.endswith("0003.jpg has another label in label/0003.txt.")
    why = left_out_of(build("lag", tmp_path))
    assert set(why) == {"0003.jpg", "0100.jpg"} and "lies in neither" in why["0100.jpg"]


# The sets behind the project's own tables


def make_nih(folder, stems, side=1024):
    for stem in stems:
        draw(folder / "images" / f"{stem}.png", noise(side, side), compress_level=0)


@pytest.fixture
def nih(tmp_path):
    """A download of five images of four patients, and a split of them."""
    stems = ["00000005_001", "00000005_002", "00000003_000", "00000009_000", "00000012_013"]
    make_nih(tmp_path / "nih", stems)
    names = [f"{stem}.jpg" for stem in stems]
    split = make_split(tmp_path / "data.json", names[:2], ([names[2]], [names[3]]), ([], []))
    content = json.loads(split.read_text())
    content["test"] = {"0": [names[4]], "1": ["00000021_002.jpg"]}
    split.write_text(json.dumps(content))
    make_nih(tmp_path / "nih", ["00000021_002"])
    findings = ["No Finding"] * 3 + ["Effusion|Pneumonia", "No Finding", "Pneumonia"]
    stems.append("00000021_002")
    ages = ["058Y", "58", "101", "007M", "31", "60"]
    write_rows(
        tmp_path / "nih" / "Data_Entry_2017.csv",
        ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age",
         "Patient Gender", "View Position", "OriginalImage[Width", "Height]"],
        [(f"{stem}.png", found, 0, int(stem[:8]), age, "M", "PA", 2500, 2048)
         for stem, found, age in zip(stems, findings, ages, strict=True)],
    )  # fmt: skip
    write_rows(
        tmp_path / "nih" / "BBox_List_2017.csv",
        ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", ""],
        [("00000021_002.png", "Pneumonia", 225.08, 547.02, 86.78, 79.18, "", "", ""),
         ("00000021_002.png", "Mass", 100, 200, 40, 80, "", "", ""),
         ("00099999_000.png", "Mass", 1, 1, 1, 1, "", "", "")],
    )  # fmt: skip
    return tmp_path / "nih", split


def test_nih_is_built_as_the_list_says(nih):
    folder = build("nih", nih[0], split=nih[1])
    assert lists(folder) == lists(nih[1])
    with Image.open(nih[0] / "images" / "00000009_000.png") as image:
        small = image.resize((256, 256), Image.Resampling.LANCZOS)
    expected = io.BytesIO()
    small.save(expected, "JPEG", quality=90)
    with Image.open(expected) as image:
        assert np.array_equal(pixels_of(folder, "00000009_000.jpg"), np.asarray(image))
    metadata = table_of(folder / "metadata.csv").set_index("image")
    # In the order of their ids: 3, 5, 9, 12, 21.
    assert metadata["patient"].tolist() == ["2", "2", "1", "3", "4", "5"]
    assert metadata["age"].tolist() == ["58", "58", "90", "", "31", "60"]
    assert set(metadata["view"]) == {"PA"} and set(metadata["sex"]) == {"M"}
    boxes = table_of(folder / "boxes.csv")
    assert boxes.to_numpy().tolist() == [
        ["00000021_002.jpg", "56.27", "136.76", "21.7", "19.8", "Pneumonia"],
        ["00000021_002.jpg", "25", "50", "10", "20", "Mass"],
    ]
    datasets.load(folder, 16)


def test_an_original_that_is_missing_other_or_damaged_is_named(nih):
    images = nih[0] / "images"
    make_nih(nih[0], ["00000003_000"], side=512)
    (images / "00000005_002.png").write_bytes(b"nothing")
    (images / "00000012_013.png").unlink()
    entries = table_of(nih[0] / "Data_Entry_2017.csv")
    entries.loc[5, "Finding Labels"] = "No Finding"
    entries.to_csv(nih[0] / "Data_Entry_2017.csv", index=False)
    draw(nih[0] / "old" / "00000005_001.png", noise(8, 8))
    found = problems("nih", nih[0], split=nih[1])[1:]
    assert len(found) == 5
    for words in (
        "00000003_000.png has 512 x 512 pixels, not 1024 x 1024.",
        "00000005_002.png is no image.",
        "00000012_013 is missing.",
        "00000021_002 is listed as abnormal, and is not that in the download.",
        "00000005_001.png is not the same as",
    ):
        assert sum(words in problem for problem in found) == 1, (words, found)


def test_a_second_copy_in_the_download_is_no_fault(nih):
    copy = nih[0] / "nih" / "images" / "00000005_001.png"
    copy.parent.mkdir(parents=True)
    copy.write_bytes((nih[0] / "images" / copy.name).read_bytes())
    assert lists(build("nih", nih[0], split=nih[1])) == lists(nih[1])


@pytest.mark.parametrize("source", ["nih", "kermany", "fundus_dr"])
def test_our_own_list_is_followed_where_none_is_given(source, tmp_path):
    (tmp_path / "images").mkdir()
    found = problems(source, tmp_path)
    listed = lists(downloads.SPLITS / f"{source}.json")
    total = sum(map(len, listed.values()))
    assert f"{source}.json" in found[0] and len(found) == 102
    assert found[1] == f"{Path(listed['train/0'][0]).stem} is missing."
    assert found[-1].startswith(f"{total - 100} more")


def test_kermany_is_grey_and_goes_by_folder(tmp_path):
    of = {"NORMAL": ["IM-0115-0001", "NORMAL2-IM-0030-0001-0001", "NORMAL2-IM-0030-0001-0002"],
          "PNEUMONIA": ["person7_bacteria_12", "person7_virus_3"]}  # fmt: skip
    for kind, stems in of.items():
        for stem in stems:
            pixels = noise(90, 120, 3) if stem == "person7_virus_3" else noise(90, 120)
            part = "test" if "IM-0115" in stem else "train"
            draw(tmp_path / "chest_xray" / part / kind / f"{stem}.jpeg", pixels)
    names = {kind: [f"{stem}.jpg" for stem in stems] for kind, stems in of.items()}
    (one, *two), ill = names["NORMAL"], names["PNEUMONIA"]
    file = tmp_path / "data.json"
    split = make_split(file, two, ([], []), ([one], []))
    content = json.loads(split.read_text())
    content["train"]["unlabeled"], content["test"] = ill, [one]
    split.write_text(json.dumps(content))
    folder = build("kermany", tmp_path, split=split)
    assert {pixels_of(folder, name).shape for name in [one, *two, *ill]} == {(224, 224)}
    metadata = table_of(folder / "metadata.csv").set_index("image")["patient"]
    assert metadata[two].nunique() == metadata[ill].nunique() == 1
    assert metadata[[one, two[0], ill[0]]].tolist() == ["1", "2", "3"]
    content["train"]["0"], content["train"]["unlabeled"] = [two[0], ill[0]], [two[1], ill[1]]
    split.write_text(json.dumps(content))
    found = problems("kermany", tmp_path, "again", split=split)
    assert found[1:] == [
        "person7_bacteria_12 is listed as normal, and is not that in the download."
    ]


def test_the_round_field_of_a_photograph_is_cut_out_and_padded(tmp_path):
    pixels = np.full((2592, 3872, 3), (0, 0, 255), np.uint8)
    pixels[:, 220:3300] = (200, 80, 0)
    for i in range(3):
        pixels[1000, 1000] = i
        name = f"Patient00{i}_L.jpg"
        draw(tmp_path / "Grade 1" / name, pixels, quality=95)
    file = tmp_path / "data.json"
    names = [f"Patient00{i}_L.jpg" for i in range(3)]
    split = {"train": {"0": names[:1], "unlabeled": names[1:2]}, "test": names[2:]}
    file.write_text(json.dumps(split))
    shown = pixels_of(build("fundus_dr", tmp_path, split=file), names[0]).astype(int)
    assert shown.shape == (224, 224, 3)
    # 61 of 770 rows are 17.7 of 224.
    assert shown[:16].max() < 12 and shown[-16:].max() < 12
    assert np.abs(shown[20:-20] - (200, 80, 0)).mean() < 3
    # Nothing of what lies beside the columns is left.
    assert np.abs(shown[20:-20, [0, -1]] - (200, 80, 0)).mean() < 6


# What is committed, against the sets that it was taken from


EXPECTED = {"nih": (250, 100, 100, 148, 148), "kermany": (800, 370, 370, 380, 380),
            "fundus_dr": (138, 62, 62, 76, 76)}  # fmt: skip


@pytest.mark.parametrize("source", EXPECTED)
def test_committed_lists_hold_names_of_files_and_nothing_else(source):
    split = lists(downloads.SPLITS / f"{source}.json")
    assert tuple(len(names) for names in split.values()) == EXPECTED[source]
    names = [name for names in split.values() for name in names]
    shape = {"nih": r"\d{8}_\d{3}\.jpg", "fundus_dr": r"Patient\d{3}_[LR]\.jpg",
             "kermany": r"(person\d+_(bacteria|virus)_\d+|(NORMAL2-)?IM-[\d-]+)\.jpg"}  # fmt: skip
    assert pd.Series(names).str.fullmatch(shape[source]).all()


@pytest.mark.parametrize("source", EXPECTED)
def test_lists_and_patients_are_those_of_the_real_sets(source, real_sets, tmp_path):
    """Same names but for `n_` and `a_`, same patients, in the same order: so same hold-outs."""
    real = real_sets(source)
    listed = lists(downloads.SPLITS / f"{source}.json")
    assert listed == {key: [name[2:] for name in names] for key, names in lists(real).items()}
    for names in listed.values():
        for name in names:
            (tmp_path / name).touch()
    table = SOURCES[source].understood(tmp_path)[0].set_index("stem")
    metadata = table_of(real / "metadata.csv")
    metadata["ours"] = table.loc[metadata["image"].map(lambda n: Path(n).stem[2:]), "patient"].array
    pairs = metadata[["patient", "ours"]].drop_duplicates()
    assert pairs["patient"].is_unique and pairs["ours"].is_unique
    assert pairs.sort_values("patient")["ours"].is_monotonic_increasing


def test_boxes_of_nih_are_those_of_the_real_set(real_sets, tmp_path):
    real = table_of(real_sets("nih") / "boxes.csv")
    content = torchxrayvision("BBox_List_2017.csv.gz")
    (tmp_path / "BBox_List_2017.csv").write_bytes(content)
    for image in real["image"].unique():
        (tmp_path / f"{image[2:-4]}.png").touch()
    _, boxes, _ = SOURCES["nih"].understood(tmp_path)
    ours = boxes[boxes["stem"].isin(real["image"].str[2:-4])].copy()
    ours[SIDES] = (ours[SIDES] / 4).round(2)
    columns = ["stem", *SIDES, "label"]
    real = real.assign(stem=real["image"].str[2:-4]).astype(dict.fromkeys(SIDES, float))
    pd.testing.assert_frame_equal(
        *(t[columns].sort_values(columns).reset_index(drop=True) for t in (ours, real))
    )


# Drawing, and what notebooks call


@pytest.mark.parametrize("source", ["rsna", "lag"])
def test_a_whole_download_gets_the_counts_of_the_published_split(source):
    rows = [label for label, parts in COUNTS[source].items() for _ in range(sum(parts.values()))]
    rows += [0, 1]
    table = pd.DataFrame({"label": rows, "patient": ""}).assign(name=range(len(rows))).astype(
        {"name": str}
    )  # fmt: skip
    part = downloads._drawn_parts(table, COUNTS[source], 0)
    for label, parts in COUNTS[source].items():
        found = part[table["label"] == label].value_counts().to_dict()
        assert found == parts | {"": 1}


def test_the_counts_are_those_of_the_published_lists(splits):
    for source, name in {"rsna": "RSNA", "vindr": "VinCXR", "lag": "LAG"}.items():
        for key, names in lists(splits(name)).items():
            assert COUNTS[source][int(key[-1])][part_of(key)] == len(names)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=80),
       st.integers(0, 5))  # fmt: skip
def test_drawing_goes_by_patient_and_loses_nothing(images, seed):
    table = pd.DataFrame(images, columns=["patient", "label"])
    table = table.astype({"patient": str, "label": int}).assign(name="")
    table["part"] = downloads._drawn_parts(table, COUNTS["rsna"], seed)
    assert (table["part"] != "").all()
    assert (table.groupby("patient")["part"].nunique() == 1).all()
    ill = table["patient"].isin(table["patient"][table["label"] == 1])
    assert not (table["part"][ill] == "normal").any()


def test_a_notebook_without_a_source_keeps_its_set(capsys):
    assert built("phantom", "", "") == "phantom"
    assert not capsys.readouterr().out and not (root() / "data").exists()


def test_a_notebook_with_a_source_builds_it_once(tmp_path, capsys):
    make_lag(tmp_path)
    assert built("phantom", "lag", tmp_path, "", 8) == "lag"
    assert datasets.load("lag", 8).size == 8
    before = contents(root() / "data" / "sets")
    capsys.readouterr()
    assert built("phantom", "lag", tmp_path, "", 8) == "lag"
    assert "taken as it is" in capsys.readouterr().out
    assert contents(root() / "data" / "sets") == before


def test_what_cannot_be_built_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be one of rsna, vindr, lag, nih"):
        build("chexpert", tmp_path)
    for download in (tmp_path / "none", "", "~nosuch/nih"):
        (found,) = problems("nih", download)
        assert found == f"There is no folder '{download}' to build nih from."
    make_lag(tmp_path)
    assert "~nosuch" in problems("lag", tmp_path, split="~nosuch/data.json")[0]
    with pytest.raises(ValueError, match="window or benchmark"):
        build("lag", tmp_path, conversion="pale")
    for wrong in (-1, "64", 64.0):
        with pytest.raises(ValueError, match=f"size is {wrong!r}, but must be a whole number"):
            build("lag", tmp_path, size=wrong)
    build("lag", tmp_path, size=8)
    assert "choose another name" in problems("lag", tmp_path)[0]
    (found,) = problems("lag", tmp_path / "suspicious_glaucoma", "other")
    assert "gives no known normal images" in found
