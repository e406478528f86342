import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from nblib.data import datasets
from nblib.data.labels import load_labels
from nblib.files import root
from nblib.methods.catalogue import METHODS
from nblib.results import robustness, store
from nblib.training import runs

COUNTS = {"train/0": 30, "train/unlabeled/0": 10, "train/unlabeled/1": 10, "test/0": 8, "test/1": 8}


@pytest.fixture
def dataset(make_set):
    return datasets.load(make_set("moved", COUNTS, size=64))


def test_a_shift_moves_every_pixel_to_one_of_four_sides_and_repeats_the_edge():
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 12, 10), np.uint8)
    moved = robustness.shifted(images, 3)
    sides = {"down": 0, "up": 0, "right": 0, "left": 0}
    for old, new in zip(images[:, 0], moved[:, 0], strict=True):
        held = {
            "down": np.array_equal(new[3:], old[:-3]) and (new[:3] == old[0]).all(),
            "up": np.array_equal(new[:-3], old[3:]) and (new[-3:] == old[-1]).all(),
            "right": np.array_equal(new[:, 3:], old[:, :-3]) and (new[:, :3] == old[:, :1]).all(),
            "left": np.array_equal(new[:, :-3], old[:, 3:]) and (new[:, -3:] == old[:, -1:]).all(),
        }
        assert sum(held.values()) == 1
        sides[max(held, key=held.get)] += 1
    assert min(sides.values()) > 3
    assert np.array_equal(robustness.shifted(images, 0), images)


def test_a_turn_keeps_the_middle_and_turns_to_both_sides():
    images = np.zeros((20, 1, 41, 41), np.uint8)
    images[:, 0, 20, 20] = 200  # the middle
    images[:, 0, 18:23, 38] = 200  # right of it
    turned = robustness.turned(images, 10)
    assert turned.dtype == np.uint8 and (turned[:, 0, 20, 20] > 150).all()
    rows = [np.average(np.arange(41), weights=image[0, :, 33:].sum(1)) for image in turned]
    # 18 pixels from the middle, 10 degrees: 3.1 pixels up or down.
    assert {round(abs(row - 20)) for row in rows} == {3}
    assert min(rows) < 20 < max(rows)


def test_moved_scores_are_those_of_the_moved_images_and_a_refused_size_is_left_out(dataset, capsys):
    run = runs.run("sagan", dataset, "smoke")
    method = run.method()
    found = robustness.moved_scores(method, dataset)
    test = run.test
    assert np.allclose(found["as it is"], test["score"], rtol=1e-5)
    assert list(found) == [
        "as it is", "shift 2", "shift 4", "shift 8", "turn 5", "turn 10", "size 48", "size 96",
    ]  # fmt: skip
    assert all(len(scores) == 16 for scores in found.values())
    assert not np.allclose(found["shift 8"], found["as it is"])

    class Refusing(type(method)):
        def detect(self, x):
            if x.shape[-1] != 64:
                raise ValueError("only 64 pixels")
            return super().detect(x)

    method.__class__ = Refusing
    assert "size 48" not in robustness.moved_scores(method, dataset)
    assert "only 64 pixels" in capsys.readouterr().err


def test_the_table_of_moved_images_follows_from_the_scores_kept_or_not(dataset, project_root):
    with pytest.raises(FileNotFoundError, match="make figures DATA=moved BUDGET=smoke"):
        robustness.score_moved(dataset, "smoke", 0)
    assert robustness.moved([]).empty
    for seed in (0, 1):
        runs.run("brainomaly", dataset, "smoke", seed)
        robustness.score_moved(dataset, "smoke", seed)
    table = robustness.moved(store.collect("moved", "smoke")).set_index("method")
    assert list(table.index) == ["brainomaly"] and table.loc["brainomaly", "seeds"] == 2
    drops, ranks = [], []
    for seed in (0, 1):
        kept = pd.read_csv(store.pass_file("moved", "moved", "smoke", seed))
        before, after = (roc_auc_score(kept["label"], kept[c]) for c in ("as it is", "shift 4"))
        drops.append(after - before)
        ranks.append(spearmanr(kept["as it is"], kept["shift 4"])[0])
    assert np.isclose(table.loc["brainomaly", "shift 4"], np.mean(drops))
    assert np.isclose(table.loc["brainomaly", "rank shift 4"], np.mean(ranks))
    store.keep("moved", "smoke")
    for seed in (0, 1):
        store.pass_file("moved", "moved", "smoke", seed).unlink()
    again = robustness.moved(store.collect("moved", "smoke")).set_index("method")
    pd.testing.assert_frame_equal(table, again)
    results = store.collect("moved", "smoke")
    printed = robustness.write_moved(robustness.moved(results), results)
    assert (project_root / "figures" / "moved" / "smoke" / "moved.tex").exists()
    assert printed.loc[0, "shift 4"] == f"{np.mean(drops):+.3f}"


def test_a_pass_over_a_run_that_was_made_again_since_is_left_out_and_said(dataset, capsys):
    for method in ("brainomaly", "sagan"):
        runs.run(method, dataset, "smoke")
    file = robustness.score_moved(dataset, "smoke", 0)
    results = store.collect("moved", "smoke")
    assert store.passed("moved", results) == results
    found = pd.read_csv(file)
    of_sagan = found["method"] == "sagan"
    spread = found.loc[of_sagan, "as it is"].std()
    # Another processor rounds otherwise; another network scores otherwise.
    for by, methods in {0.001: ["brainomaly", "sagan"], 0.1: ["brainomaly"]}.items():
        found["as it is"] += of_sagan * by * spread
        found.to_csv(file, index=False)
        assert list(robustness.moved(results)["method"]) == methods
    assert capsys.readouterr().err.endswith(
        "moved-seed0: sagan is left out, since its run has been made again since.\n"
    )
    robustness.write_moved(robustness.moved(results), results)
    record = json.loads((root() / "figures" / "moved" / "smoke" / "moved.json").read_text())
    assert [of["method"] for of in record["runs"]] == ["brainomaly"]


def test_every_translating_method_is_moved():
    assert set(robustness.MOVED_METHODS) <= set(METHODS)
    assert {"sagan", "sagan_swin", "sagan_rope", "brainomaly"} <= set(robustness.MOVED_METHODS)


def test_by_lesion_splits_the_abnormal_images_by_kind_and_thirds_of_size(make_set):
    areas = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09]
    folder = make_set("lesions", COUNTS | {"test/1": 9}, size=32,
                      masks={f"test_1_{i}.png": _spot(i) for i in range(9)})  # fmt: skip
    rows = [(f"test_1_{i}.png", "nodule" if i % 2 else "effusion", a) for i, a in enumerate(areas)]
    pd.DataFrame(rows, columns=["image", "kind", "area"]).to_csv(
        folder / "lesions.csv", index=False
    )
    dataset = datasets.load(folder)
    run = runs.run("mean_image", dataset, "smoke")
    table = robustness.by_lesion([store.of(run)], folder)
    test = run.test.set_index("image")["score"]
    normal = test[test.index.str.startswith("test_0")]

    def area(indices):
        ill = test[[f"test_1_{i}.png" for i in indices]]
        return roc_auc_score([0] * len(normal) + [1] * len(ill), [*normal, *ill])

    row = table.loc["mean_image"]
    assert np.isclose(row["AUC", "nodule"], area([1, 3, 5, 7]))
    assert np.isclose(row["AUC", "large"], area([6, 7, 8]))
    names = list(dataset.test.names)
    labels = load_labels(dataset)
    hits = []
    for i in (0, 1, 2):
        at = names.index(f"test_1_{i}.png")
        hits.append(labels.masks[at].ravel()[run.test_map[at].argmax()])
    assert np.isclose(row["pointing", "small"], np.mean(hits))
    # Of several lesions in an image each kind counts, and the largest says its size.
    rows += [("test_1_0.png", "nodule", 0.2)]
    pd.DataFrame(rows, columns=["image", "kind", "area"]).to_csv(
        folder / "lesions.csv", index=False
    )
    row = robustness.by_lesion([store.of(run)], folder).loc["mean_image"]
    assert np.isclose(row["AUC", "nodule"], area([0, 1, 3, 5, 7]))
    assert np.isclose(row["AUC", "effusion"], area([0, 2, 4, 6, 8]))
    assert np.isclose(row["AUC", "large"], area([0, 7, 8]))
    of_others = store.of(run)._replace(config=run.config | {"data": "of other images"})
    assert robustness.by_lesion([of_others], folder).empty
    assert robustness.by_lesion([store.of(run)], "no such set").empty
    assert robustness.by_lesion([store.of(run)], make_set("plain")).empty


def _spot(i):
    mask = np.zeros((32, 32), np.uint8)
    mask[i : i + 12, i : i + 12] = 255
    return mask


def test_runs_at_other_ratios_are_variants_and_their_table_is_kept(make_set):
    folder = make_set("mixed", COUNTS)
    for percent in (0, 100):
        run = robustness.run_ratio(folder, "smoke", "known_against_unlabeled", percent, 0)
        assert run.folder.parent.name == f"ratio{percent}"
    mixes = robustness.mixes("mixed", "smoke")
    table = robustness.ratios(mixes)
    assert list(table["percent"]) == [0, 100] and (table["seeds"] == 1).all()
    test = run.test
    assert np.isclose(table["auc"].iloc[1], roc_auc_score(test["label"], test["score"]))
    low, high = run.metrics["auc_interval"]  # of the same patients, resampled in the same way
    assert np.allclose(table.loc[1, ["auc_low", "auc_high"]].astype(float), [low, high])
    assert (table["ap_low"] < table["ap"]).all() and (table["ap"] < table["ap_high"]).all()
    with pytest.raises(FileNotFoundError, match="make figures"):
        store.collect("mixed", "smoke")  # they are no base runs
    printed = robustness.write_ratios(table, mixes)
    assert list(printed) == ["method", "seeds", "0 %", "100 %"] and list(printed["seeds"]) == [1]
    area = run.metrics["auc"]
    assert printed["100 %"].item() == f"{area:.3f} [{low:.3f}, {high:.3f}]"
    written = root() / "figures" / "mixed" / "smoke"
    assert pd.read_csv(written / "ratios.csv")["auc"].iloc[1] == pytest.approx(area, abs=1e-6)
    made = json.loads((written / "ratios.json").read_text())["runs"]
    assert [of["variant"] for of in made] == ["ratio0", "ratio100"]
    assert robustness.mixes("nowhere", "smoke") == []
    assert robustness.write_ratios(robustness.ratios([]), []).empty
    base = runs.run("known_against_unlabeled", datasets.load(folder), "smoke")
    kept = store.keep("mixed", "smoke")
    assert {file.name for file in kept} == {
        "seed0.csv.gz", "ratio0-seed0.csv.gz", "ratio100-seed0.csv.gz",
    }  # fmt: skip
    assert len(store.collect("mixed", "smoke")) == 1
    assert base.config["variant"] == "base"


def test_the_mix_of_a_ratio_holds_as_many_images_and_no_more_of_a_kind_than_it_says(make_set):
    """As `run_ratio` asks for it."""
    folder = make_set("mixed", COUNTS)
    before = set()
    for percent in robustness.RATIOS:
        dataset = datasets.load(folder, unlabeled_ratio=percent / 100)
        labels = load_labels(dataset)
        assert len(dataset.unlabeled) == 10
        assert labels.unlabeled.sum() == round(percent / 10)
        abnormal = set(dataset.unlabeled.names[labels.unlabeled == 1])
        assert before <= abnormal
        before = abnormal


def test_mirror_images_are_told_by_what_knows_sides_and_by_nothing_else(dataset, project_root):
    for method in ("mean_intensity", "nearest_normals"):
        for seed in (0, 1):
            runs.run(method, dataset, "smoke", seed)
    for seed in (0, 1):
        robustness.score_mirrored(dataset, "smoke", seed)
    table = robustness.mirrored(store.collect("moved", "smoke")).set_index("method")
    assert list(table.index) == ["mean_intensity", "nearest_normals"]
    assert (table.loc["mean_intensity", ["auc", "auc_low", "auc_high"]] == 0.5).all()
    assert (table["seeds"] == 2).all()
    areas = []
    for seed in (0, 1):
        held = dataset.hold_out(seed, 0.1).normal.images.reshape(-1, 64 * 64) / 127.5
        normal = dataset.test.images[load_labels(dataset).test == 0] / 127.5
        distances = [
            np.sort(np.linalg.norm(x.reshape(8, 1, -1) - held, axis=2), 1)[:, :5].mean(1)
            for x in (normal, normal[..., ::-1])
        ]
        areas.append(roc_auc_score([0] * 8 + [1] * 8, np.concatenate(distances)))
    found = table.loc["nearest_normals"]
    assert found["auc"] == pytest.approx(np.mean(areas))
    assert found["auc_low"] <= found["auc"] <= found["auc_high"]
    store.keep("moved", "smoke")
    for seed in (0, 1):
        store.pass_file("mirrored", "moved", "smoke", seed).unlink()
    again = robustness.mirrored(store.collect("moved", "smoke")).set_index("method")
    pd.testing.assert_frame_equal(table, again)
    results = store.collect("moved", "smoke")
    robustness.write_mirrored(robustness.mirrored(results), results)
    assert (project_root / "figures" / "moved" / "smoke" / "mirrored.tex").exists()


def test_what_mirror_images_say_is_put_into_words():
    rows = pd.DataFrame(
        {"method": ["a", "b"], "auc": [0.5, 0.61], "auc_low": [0.4, 0.55], "auc_high": [0.6, 0.7]}
    )
    words = robustness.mirrored_in_words(rows)
    assert words.startswith("1 of 2 methods") and "`b` 0.610" in words and "code" not in words
    acting = robustness.mirrored_in_words(rows.assign(method=["sagan_place_acts", "x_acts"]))
    assert "Of 2 whose place code acts, 1 find the mirror image the more abnormal one" in acting
    words = robustness.mirrored_in_words(rows.iloc[:1])
    assert words.startswith("0 of 1 methods tell") and "by chance. The farthest" in words
    assert robustness.mirrored_in_words(rows.iloc[:0]) == ""
