import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from nblib.data import datasets, shortcuts
from nblib.data.labels import load_labels
from nblib.files import DatasetError
from nblib.results import costs, store, tables, write
from nblib.training import runs

COUNTS = {"test/0": 40, "test/1": 40}


@pytest.fixture
def folder(make_set):
    """Noise, in which the abnormal test images alone are darker."""
    folder = make_set("dark", COUNTS)
    for file in (folder / "images").glob("test_1_*.png"):
        Image.fromarray(np.asarray(Image.open(file)) // 2).save(file)
    return folder


def checked(folder):
    dataset = datasets.load(folder, 16)
    return shortcuts.check(dataset, load_labels(dataset))[0]


def test_a_planted_shortcut_is_found_whichever_way_it_points_and_noise_is_not(folder):
    found = checked(folder)
    assert next(iter(found.values())) == max(found.values()) == 1.0
    assert found["mean"] == 1.0 and found["brightest pixel"] > 0.9  # lower is abnormal
    assert found["left against right"] > 0.9
    assert found["width of the file"] == found["height of the file"] == 0.5


def test_statistics_are_what_they_are_called():
    x = np.zeros((1, 20, 20))
    x[0, :, 10:] = 255
    of = {name: f(x)[0] for name, f in shortcuts.STATISTICS.items()}
    assert of["mean"] == 127.5 and of["contrast"] == 127.5
    assert of["vertical gradient"] == 0 and np.isclose(of["horizontal gradient"], 255 / 19)
    assert of["black pixels"] == of["white pixels"] == 0.5
    assert of["left against right"] == 255 and np.isclose(of["rim"], 127.5)
    x[:, 1:-1, 1:-1] = 0
    assert np.isclose(shortcuts.STATISTICS["rim"](x)[0], 127.5)


def write_metadata(folder, view_of, seed=0):
    random = np.random.default_rng(seed)
    names = sorted(file.name for file in (folder / "images").iterdir())
    rows = [
        (name, f"p{i}", view_of(name), random.integers(20, 90), f"note {i}", "same")
        for i, name in enumerate(names)
    ]
    columns = ["image", "patient", "view", "age", "note", "scanner"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metadata.csv", index=False)


def test_metadata_alone_is_judged_on_patients_that_it_did_not_see(make_set):
    folder = make_set("views", COUNTS)
    write_metadata(folder, lambda name: "AP" if "_1_" in name else "PA")
    assert checked(folder)["metadata (view, age)"] == 1.0
    # What names each image, or says the same of all, is no column to learn from.
    assert list(shortcuts.metadata(datasets.load(folder))) == ["view", "age"]
    random = np.random.default_rng(1)
    write_metadata(folder, lambda name: random.choice(["AP", "PA"]))
    assert abs(checked(folder)["metadata (view, age)"] - 0.5) < 0.2
    assert not [name for name in checked(make_set("bare", COUNTS)) if "metadata" in name]


def test_metadata_are_read_as_the_set_is_and_an_endless_number_is_missing(make_set):
    folder = make_set("sheet", COUNTS)
    write_metadata(folder, lambda name: "AP" if "_1_" in name else "PA")
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    usual = shortcuts.metadata(datasets.load(folder))
    table.loc[table["image"] == "test_0_3.png", "age"] = "inf"
    table.to_csv(folder / "metadata.csv", index=False, sep=";")
    found = shortcuts.metadata(datasets.load(folder))
    assert np.isnan(found.loc["test_0_3.png", "age"])
    same = found.index != "test_0_3.png"
    assert found[same].astype({"age": int}).equals(usual[same])
    assert checked(folder)["metadata (view, age)"] == 1.0


def test_within_groups_a_score_that_only_tells_groups_apart_is_at_chance():
    random = np.random.default_rng(2)
    view = np.repeat(["AP", "PA"], 200)
    label = (random.random(400) < np.where(view == "AP", 0.8, 0.2)).astype(int)
    score = (view == "AP") + random.normal(0, 0.1, 400)
    names = [f"{i}.png" for i in range(400)]
    scores = pd.DataFrame({"image": names, "part": "test", "label": label, "score": score})
    groups = pd.Series(view, names, name="view")
    found = shortcuts.within(scores, groups)
    assert roc_auc_score(label, score) > 0.7
    assert found.index.name == "view" and (found["auc"] - 0.5).abs().max() < 0.12
    # Over all pairs of one group, counted one by one.
    pairs = [
        (score[i] > score[j]) + 0.5 * (score[i] == score[j])
        for group in ("AP", "PA")
        for i in np.flatnonzero((view == group) & (label == 1))
        for j in np.flatnonzero((view == group) & (label == 0))
    ]
    assert np.isclose(found.loc["within all groups", "auc"], np.mean(pairs))
    alone = shortcuts.within(scores[label == 1], groups)
    assert alone["auc"].isna().all()


def test_every_table_of_a_set_with_a_shortcut_says_so_and_of_one_without_does_not(
    folder, project_root
):
    dataset = datasets.load(folder, 16)
    runs.run("pca16", dataset, "smoke")
    runs.run("mean_intensity", dataset, "smoke")
    results = store.collect("dark", "smoke")

    def written():
        write.write_results(results)
        costs.write_costs(costs.cost_table(results), results)
        stems = (project_root / "figures" / "dark" / "smoke" / name for name in ("results", "cost"))
        texts = [stem.with_suffix(s).read_text() for stem in stems for s in (".md", ".tex")]
        return ["Shortcut" in text for text in texts]

    assert not any(written())
    shortcuts.keep_shortcuts("dark", checked(folder), 0.6)
    assert all(written())
    (words,) = write.shortcut_warning(results)
    assert "alone reaches AUC 1.00" in words
    assert "Of the 1 methods that learn, 1 are not clearly above" in words
    for found, chance in (({"mean": 0.0001}, 0), ({"mean": 0.8}, 0.85)):
        shortcuts.keep_shortcuts("dark", found, chance)
        assert write.shortcut_warning(results) == []


def test_lots_are_drawn_by_patient_so_that_many_images_of_few_prove_little(make_set):
    """Of eight patients, each of whose ten images are as bright as the others of that patient."""
    folder = make_set("bright", COUNTS)
    patients = np.array([f"{i // 10}" for i in range(80)])
    files = [f"test_{label}_{i}.png" for label in (0, 1) for i in range(40)]
    for file, patient in zip(files, patients, strict=True):
        image = np.asarray(Image.open(folder / "images" / file))
        Image.fromarray((image // 4 + 20 * int(patient)).astype(np.uint8)).save(
            folder / "images" / file
        )
    dataset = datasets.load(folder, 8)
    whose = dict(zip(files, patients, strict=True))
    of = np.array([whose[name] for name in dataset.test.names])
    eight = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, patients=of))
    labels = load_labels(dataset)
    (found, bar), (again, higher) = (shortcuts.check(d, labels) for d in (dataset, eight))
    assert found == again and bar < 0.75 and higher > 0.9
    for k in range(9):
        lot = shortcuts._by_lot(40, of, np.random.default_rng(k))
        assert lot.sum() == 40 and len(set(of[lot])) == 4


def test_the_best_of_noise_stays_below_what_lots_reach_in_19_of_20_sets(make_set):
    beyond = 0
    for seed in range(20):
        dataset = datasets.load(
            make_set(f"noise {seed}", {"test/0": 20, "test/1": 20}, seed=seed), 8
        )
        found, chance = shortcuts.check(dataset, load_labels(dataset))
        assert 0.6 < chance < 0.85
        beyond += max(found.values()) > chance
    assert beyond <= 4


def test_within_groups_of_a_set_needs_a_column_that_is_there(make_set):
    folder = make_set("views", COUNTS)
    write_metadata(folder, lambda name: "AP" if int(name[-5]) % 2 else "PA")
    dataset = datasets.load(folder)
    results = [store.of(runs.run("mean_image", dataset, "smoke"))]
    assert tables.within_groups(results, dataset, "").empty
    with pytest.raises(ValueError, match=r"no column 'sex' in metadata\.csv; it has view, age"):
        tables.within_groups(results, dataset, "sex")
    table = tables.within_groups(results, dataset, "view")
    assert list(table.columns) == ["AP", "PA", "within all groups"]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"auc": {"mean": "high"}}'])
def test_damaged_shortcuts_are_refused_in_a_sentence(project_root, text):
    file = project_root / "data" / "scores" / "own" / "shortcuts.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(DatasetError, match=rf"{file} holds no shortcuts .* Remove it, or make"):
        shortcuts.kept_shortcuts("own")
