import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from files import folder_digest
from nblib.data import datasets
from nblib.methods.pretrained import feature_maps
from nblib.results import perceptual, store
from nblib.training import runs

COUNTS = {"train/0": 40, "test/0": 8, "test/1": 8}


@pytest.fixture
def dataset(make_set):
    return datasets.load(make_set("seen", COUNTS, size=32), size=32)


def by_hand(images):
    """Features at the pixels of the budget smoke as (n, places, channels) in float64, a depth."""
    x = torch.as_tensor(images)
    x = x / 127.5 - 1 if x.dtype == torch.uint8 else x
    maps = feature_maps(x.float(), "tf_efficientnet_lite0", 64)
    return [f.flatten(2).transpose(1, 2).double().numpy() for f in maps]


def read(dataset, seed=0):
    file = store.pass_file("perceptual", dataset.name, "smoke", seed)
    return store.read_scores(file).set_index("method")


def test_the_scores_are_their_formulas(dataset):
    run = runs.run("pca16", dataset, "smoke")
    path = perceptual.score_perceptual(dataset, "smoke", 0)
    assert path == store.pass_file("perceptual", "seen", "smoke", 0)
    levels = zip(
        *map(by_hand, (dataset.test.images, run.test_restored, dataset.normal.images)), strict=True
    )
    plain, whitened = np.zeros((2, 3, 16))
    for d, (f, restored, known) in enumerate(levels):
        places = known.reshape(-1, known.shape[2])
        some = torch.linspace(0, len(places) - 1, min(2000, len(places))).round().long().numpy()
        inverse = np.linalg.inv(LedoitWolf().fit(places[some]).covariance_)
        for i in range(16):
            delta = f[i] - restored[i]
            plain[d, i] = np.abs(delta).sum() / np.abs(f[i]).sum()
            at_places = [np.sqrt(v @ inverse @ v / len(v)) for v in delta]
            whitened[d, i] = np.mean(at_places)
    found = read(dataset)
    assert list(found["image"]) == list(dataset.test.names)
    assert list(found.columns) == ["image", "patient", "label", "score", *perceptual.SCORES]
    np.testing.assert_allclose(found["perceptual"], plain.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["whitened"], whitened.mean(0), rtol=1e-3)
    # The first score is the run's own.
    np.testing.assert_allclose(found["residual"], run.test["score"], rtol=1e-5)


def test_an_image_that_is_restored_as_it_is_scores_zero_and_any_other_does_not(dataset):
    (maps,) = perceptual.feature_batches(dataset.test.images, "smoke")
    whitening = perceptual.whitenings(dataset.normal.images, "smoke")
    assert (perceptual.distances(maps, maps, whitening) == 0).all()
    turned = [f.flip(0) for f in maps]
    assert (perceptual.distances(maps, turned, whitening) > 0).all()


def test_whitened_known_normals_have_the_covariance_of_some_evenly_spaced_places(
    dataset, monkeypatch
):
    monkeypatch.setattr(perceptual, "PLACES", 350)
    found = perceptual.whitenings(dataset.normal.images, "smoke")
    # In two batches, of 32 and 8 images.
    for whitening, known in zip(found, by_hand(dataset.normal.images), strict=True):
        places = known.reshape(-1, known.shape[2])
        count = min(350, len(places))
        some = np.linspace(0, len(places) - 1, count).round().astype(int)
        assert len(set(some)) == count
        covariance = LedoitWolf().fit(places[some]).covariance_
        unit = whitening.double().numpy().T @ covariance @ whitening.double().numpy()
        np.testing.assert_allclose(unit, np.eye(len(unit)), atol=1e-3)


def test_images_are_seen_at_the_pixels_of_the_budget(dataset):
    for budget, places in (("smoke", 8), ("quick", 14), ("laptop", 28)):
        ((fine, *_),) = perceptual.feature_batches(dataset.test.images[:1], budget)
        assert fine.shape[2:] == (places, places)


def test_nothing_of_a_finished_run_is_changed(dataset):
    folder = runs.run("mean_image", dataset, "smoke").folder
    before = folder_digest(folder)
    perceptual.score_perceptual(dataset, "smoke", 0)
    assert folder_digest(folder) == before


def test_the_residual_of_a_method_with_another_score_is_that_of_its_pixels(dataset):
    run = runs.run("nearest_normals", dataset, "smoke")
    perceptual.score_perceptual(dataset, "smoke", 0)
    x = dataset.test.images / 127.5 - 1
    difference = np.abs(x - run.test_restored).mean((1, 2, 3)) / 2
    np.testing.assert_allclose(read(dataset)["residual"], difference, rtol=1e-5)
    assert run.metrics["score"] == "distance"


def test_runs_that_restore_nothing_or_other_images_are_left_out(dataset, make_set, capsys):
    sentence = (
        "There is no finished run that restored the images of 'seen' at smoke, seed 0. "
        "Make some: make figures DATA=seen BUDGET=smoke SEEDS=0"
    )
    with pytest.raises(FileNotFoundError) as none:
        perceptual.score_perceptual(dataset, "smoke", 0)
    assert str(none.value) == sentence
    runs.run("intensity_distance", dataset, "smoke")
    with pytest.raises(FileNotFoundError, match="no finished run that restored"):
        perceptual.score_perceptual(dataset, "smoke", 0)
    run = runs.run("mean_image", dataset, "smoke")
    perceptual.score_perceptual(dataset, "smoke", 0)
    assert set(read(dataset).index) == {"mean_image"}
    changed = datasets.load(make_set("now/seen", COUNTS, size=32, seed=1), size=32)
    with pytest.raises(FileNotFoundError, match="no finished run that restored"):
        perceptual.score_perceptual(changed, "smoke", 0)
    said = f"Left out, since the set has changed since: {run.folder}.\n"
    assert capsys.readouterr().err.endswith(said)


def test_the_table_has_a_row_a_method_in_the_catalogues_order_kept_or_not(dataset, project_root):
    assert perceptual.perceptual([]).empty
    for method in ("pca64", "mean_image"):
        runs.run(method, dataset, "smoke", 0)
    runs.run("mean_image", dataset, "smoke", 1)
    assert perceptual.write_perceptual(store.collect("seen", "smoke")).empty
    for seed in (0, 1):
        perceptual.score_perceptual(dataset, "smoke", seed)
    table = perceptual.perceptual(store.collect("seen", "smoke"))
    assert list(table["method"]) == ["mean_image", "pca64"] and list(table["seeds"]) == [2, 1]
    of_seeds = [read(dataset, seed).loc["mean_image"] for seed in (0, 1)]
    for name in perceptual.SCORES:
        areas = [roc_auc_score(scores["label"], scores[name]) for scores in of_seeds]
        assert np.isclose(table.loc[0, name], np.mean(areas))

    kept = store.keep("seen", "smoke")
    assert {f"perceptual-seed{seed}.csv.gz" for seed in (0, 1)} <= {file.name for file in kept}
    for seed in (0, 1):
        store.pass_file("perceptual", "seen", "smoke", seed).unlink()
    pd.testing.assert_frame_equal(table, perceptual.perceptual(store.collect("seen", "smoke")))

    printed = perceptual.write_perceptual(store.collect("seen", "smoke"))
    assert list(printed) == ["method", "seeds", *(f"AUC by {s}" for s in perceptual.SCORES)]
    assert printed.loc[1, "AUC by whitened"] == f"{table.loc[1, 'whitened']:.3f}"
    folder = project_root / "figures" / "seen" / "smoke"
    assert {f.suffix for f in folder.glob("perceptual.*")} == {".csv", ".md", ".tex", ".json"}
