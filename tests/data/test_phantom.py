import json
import os
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from data.supervised import scaled, scores_of_a_supervised_network
from files import full_disk
from nblib.data import drawn, phantom
from nblib.data.drawn import is_current

KINDS = {"nodule", "consolidation", "effusion", "heart"}


def next_patient(drawn):
    return int(drawn.patients[-1]) + 1


@pytest.fixture(scope="module")
def parts():
    """Known normal, unlabeled and test part as they are drawn by default."""
    known = phantom.draw(300, 0, size=32)
    unlabeled = phantom.draw(75, 225, size=32, first_patient=next_patient(known))
    return known, unlabeled, phantom.draw(200, 200, 32, first_patient=next_patient(unlabeled))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return phantom.write_phantom(tmp_path_factory.mktemp("data") / "phantom", size=32)


def test_same_seed_same_pictures_other_seed_others():
    first, again, other = (phantom.draw(6, 6, size=32, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.masks, again.masks)
    assert first.lesions.equals(again.lesions)
    difference = np.abs(first.images.astype(int) - other.images).mean(axis=(1, 2))
    assert difference.min() > 3


def test_a_picture_does_not_depend_on_the_others():
    few, many = phantom.draw(4, 6, size=32), phantom.draw(20, 15, size=32)
    rows = {key: row for row, key in enumerate(zip(many.patients, many.views, strict=True))}
    for row, (patient, view) in enumerate(zip(few.patients, few.views, strict=True)):
        assert np.array_equal(few.images[row], many.images[rows[patient, view]])
        abnormal = row in few.lesions.index
        image, mask, _ = phantom.radiograph(int(patient), view, abnormal, size=32)
        assert np.array_equal(image, few.images[row])
        assert np.array_equal(mask, few.masks[row])


def test_same_picture_at_every_size():
    small, large = phantom.draw(8, 8, size=64), phantom.draw(8, 8, size=128)
    assert small.patients == large.patients
    assert list(small.lesions["kind"]) == list(large.lesions["kind"])
    shrunk = large.images.reshape(16, 64, 2, 64, 2).mean(axis=(2, 4))
    for one, other in zip(small.images, shrunk, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99
        assert np.abs(one - other).mean() < 3
    assert np.allclose(small.lesions["area"], large.lesions["area"], atol=0.005)


def test_masks_lie_where_the_lesion_changes_the_picture():
    for patient in range(40):
        ill, mask, kind = phantom.radiograph(patient, 0, True, size=64)
        well, empty, none = phantom.radiograph(patient, 0, False, size=64)
        brighter = ill.astype(int) - well
        assert kind in KINDS and none is None and not empty.any()
        assert brighter[mask].mean() > 8
        # Outside there is only scatter and the soft rim.
        assert brighter[mask].mean() > 5 * np.abs(brighter[~mask]).mean()


def test_masks_and_lesions_agree(parts):
    known, *mixed = parts
    assert not known.masks.any() and known.lesions.empty
    for part in mixed:
        areas = part.masks.mean(axis=(1, 2))
        assert list(np.flatnonzero(areas)) == list(part.lesions.index)
        assert np.allclose(part.lesions["area"], areas[areas > 0])
        assert part.lesions["area"].between(0.0005, 0.25).all()
        assert part.lesions["kind"].value_counts().reindex(KINDS).min() > 15


def test_smallest_size_still_has_masks():
    drawn = phantom.draw(0, 150, size=32)
    assert drawn.images.shape == drawn.masks.shape == (150, 32, 32)
    assert drawn.masks.any(axis=(1, 2)).all()


def test_known_normals_come_from_healthy_patients():
    healthy, ill = phantom.draw(60, 0, size=32).patients, phantom.draw(0, 60, size=32).patients
    assert not set(healthy) & set(ill)


def test_views_share_anatomy_but_not_pose():
    drawn = phantom.draw(80, 0, size=32)
    second = [row for row, view in enumerate(drawn.views) if view == 1]
    assert 0.15 < len(second) / len(set(drawn.patients)) < 0.4
    assert all(drawn.patients[row - 1] == drawn.patients[row] for row in second)
    images = drawn.images.astype(int)
    same = [np.abs(images[row] - images[row - 1]).mean() for row in second]
    other = [np.abs(images[row] - images[row - 2]).mean() for row in second]
    assert min(same) > 3 and np.mean(same) < np.mean(other)


@pytest.mark.parametrize("arguments", [(1, 1, 31), (-1, 1, 32), (1, 1, 32, -1), (1, 1, 32, 0, -1)])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError):
        phantom.draw(*arguments)


def test_files(folder):
    split = json.loads((folder / "data.json").read_text())
    assert set(split) == {"train", "test", "size", "drawing"} and split["size"] == 32
    assert is_current(folder, phantom.DRAWING) and set(split["train"]) == {"0", "unlabeled"}
    groups = [split["train"]["0"]] + [
        part[label] for part in (split["train"]["unlabeled"], split["test"]) for label in "01"
    ]
    assert [len(group) for group in groups] == [300, 75, 225, 200, 200]
    names = sorted(name for group in groups for name in group)
    abnormal = sorted(groups[2] + groups[4])
    assert all(re.fullmatch(r"p\d{4}_[01]\.png", name) for name in names)
    assert sorted(os.listdir(folder / "images")) == names
    assert sorted(os.listdir(folder / "masks")) == abnormal
    assert sorted(os.listdir(folder)) == [
        "data.json", "images", "lesions.csv", "masks", "metadata.csv",
    ]  # fmt: skip

    metadata = pd.read_csv(folder / "metadata.csv")
    assert list(metadata.columns) == ["image", "patient"] and sorted(metadata["image"]) == names
    owner = metadata.set_index("image")["patient"]
    known, unlabeled, test = (
        set(owner[group]) for group in (groups[0], groups[1] + groups[2], groups[3] + groups[4])
    )
    assert not (known & unlabeled or known & test or unlabeled & test)
    for normal, ill in (groups[1:3], groups[3:5]):
        assert set(owner[normal]) & set(owner[ill])

    lesions = pd.read_csv(folder / "lesions.csv")
    assert list(lesions.columns) == ["image", "kind", "area"]
    assert sorted(lesions["image"]) == abnormal and set(lesions["kind"]) == KINDS
    for name, _, area in lesions.itertuples(index=False):
        mask = Image.open(folder / "masks" / name)
        assert mask.mode == "L" and mask.size == (32, 32)
        pixels = np.asarray(mask)
        assert set(np.unique(pixels)) == {0, 255} and np.isclose((pixels > 0).mean(), area)
    assert {Image.open(folder / "images" / name).mode for name in names} == {"L"}


def test_file_names_do_not_tell_the_class(folder):
    split = json.loads((folder / "data.json").read_text())
    for part in (split["train"]["unlabeled"], split["test"]):
        for place in (slice(1, 5), slice(6, 7)):
            score = [int(name[place]) for label in "01" for name in part[label]]
            truth = [0] * len(part["0"]) + [1] * len(part["1"])
            assert 0.38 < roc_auc_score(truth, score) < 0.62


def test_written_pictures_are_the_drawn_ones(tmp_path):
    written = phantom.write_phantom(
        tmp_path / "a", 32, 5, known_normal=6, unlabeled=(3, 3), test=(3, 3)
    )
    again = phantom.write_phantom(
        tmp_path / "b", 32, 5, known_normal=6, unlabeled=(3, 3), test=(3, 3)
    )
    files = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert all((written / file).read_bytes() == (again / file).read_bytes() for file in files)
    known = json.loads((written / "data.json").read_text())["train"]["0"]
    pictures = {np.asarray(Image.open(written / "images" / name)).tobytes() for name in known}
    assert pictures == {image.tobytes() for image in phantom.draw(6, 0, 32, 5).images}


COUNTS = {"size": 32, "known_normal": 3, "unlabeled": (2, 2), "test": (2, 2)}


def test_a_crash_leaves_nothing_behind(tmp_path, monkeypatch):
    saved, save = [], Image.Image.save

    def fail_late(image, path):
        saved.append(path)
        if len(saved) == 6:
            raise RuntimeError("disk on fire")
        save(image, path)

    monkeypatch.setattr(Image.Image, "save", fail_late)
    with pytest.raises(RuntimeError, match="on fire"):
        phantom.write_phantom(tmp_path / "phantom", **COUNTS)
    assert len(saved) == 6 and not os.listdir(tmp_path)


@pytest.mark.parametrize("room", [50, 1000])  # for no picture; for pictures, and for no list
def test_a_full_disk_is_said_with_the_folder_and_leaves_nothing_behind(tmp_path, room):
    folder = tmp_path / "sets" / "set"
    small = dict(known_normal=60, unlabeled=(1, 1), test=(1, 1))
    with pytest.raises(OSError) as error, full_disk(room):
        phantom.write_phantom(folder, **small)
    words = "cannot be written: File too large. What was there is unchanged."
    assert str(error.value) == f"{folder} {words}"
    assert os.listdir(tmp_path / "sets") == []
    assert phantom.write_phantom(folder, **small) == folder and is_current(folder, phantom.DRAWING)


def test_nothing_shows_before_all_is_written(tmp_path, monkeypatch):
    rename, seen = os.rename, []

    def watch(source, target):
        seen.append((target.exists(), len(os.listdir(source / "images"))))
        rename(source, target)

    monkeypatch.setattr(drawn.os, "rename", watch)
    phantom.write_phantom(tmp_path / "phantom", **COUNTS)
    assert seen == [(False, 11)] and os.listdir(tmp_path) == ["phantom"]


def test_the_other_writers_folder_is_kept(tmp_path, monkeypatch):
    rename = os.rename

    def be_second(source, target):
        target.mkdir()
        (target / "data.json").write_text("theirs")
        rename(source, target)

    monkeypatch.setattr(drawn.os, "rename", be_second)
    for _ in range(2):
        assert phantom.write_phantom(tmp_path / "phantom", **COUNTS) == tmp_path / "phantom"
        assert (tmp_path / "phantom" / "data.json").read_text() == "theirs"
        assert os.listdir(tmp_path) == ["phantom"]


def test_a_folder_of_something_else_is_an_error(tmp_path):
    (tmp_path / "phantom").mkdir()
    (tmp_path / "phantom" / "letter.txt").write_text("mine")
    with pytest.raises(OSError):
        phantom.write_phantom(tmp_path / "phantom", **COUNTS)
    assert os.listdir(tmp_path) == ["phantom"]
    assert os.listdir(tmp_path / "phantom") == ["letter.txt"]


def test_trivial_scores_do_not_solve_it(parts):
    known, unlabeled, test = (scaled(part.images).reshape(len(part.images), -1) for part in parts)
    truth = parts[2].masks.any(axis=(1, 2))
    gradient = np.abs(np.diff(scaled(parts[2].images), axis=1)).mean(axis=(1, 2))
    pca = PCA(64, random_state=0).fit(known)
    both = np.concatenate([known, unlabeled])
    coefficients = PCA(64, random_state=0).fit(both)
    logistic = LogisticRegression(C=0.01, random_state=0, max_iter=1000)
    logistic.fit(coefficients.transform(both), np.arange(len(both)) >= len(known))
    distances = np.sqrt(
        np.maximum(
            np.square(test).sum(1)[:, None] + np.square(known).sum(1) - 2 * test @ known.T, 0
        )
    )
    scores = {
        "mean": test.mean(axis=1),
        "gradient": gradient,
        "off mean": np.abs(test.mean(axis=1) - known.mean()),
        "mean picture": np.abs(test - known.mean(axis=0)).mean(axis=1),
        "pca": np.abs(test - pca.inverse_transform(pca.transform(test))).mean(axis=1),
        "neighbours": np.sort(distances, axis=1)[:, :5].mean(axis=1),
        "logistic": logistic.decision_function(coefficients.transform(test)),
    }
    areas = {name: roc_auc_score(truth, score) for name, score in scores.items()}
    at_most = {"pca": 0.88, "logistic": 0.88, "neighbours": 0.78}
    assert all(0.35 < area <= at_most.get(name, 0.70) for name, area in areas.items()), areas


def test_a_supervised_network_solves_it(parts):
    images, truth = parts[2].images, parts[2].masks.any(axis=(1, 2))
    assert roc_auc_score(truth, scores_of_a_supervised_network(images)) >= 0.97
