import numpy as np
import pandas as pd
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from nblib.data import datasets
from nblib.data.labels import load_labels
from nblib.methods.directions import fisher, fitted, logistic
from nblib.results import features, store
from nblib.training import runs

COUNTS = {"train/0": 24, "train/unlabeled/0": 8, "train/unlabeled/1": 8, "test/0": 6, "test/1": 6}
WIDTHS = (40, 112, 320)


@pytest.fixture
def dataset(make_set):
    return datasets.load(make_set("seen", COUNTS, size=64))


@pytest.fixture
def of_parts(dataset):
    """Features of known normals, the mix and test images."""
    parts = (dataset.normal, dataset.unlabeled, dataset.test)
    return [features.mean_features(features._made("smoke"), part.images) for part in parts]


def test_the_study_compares_directions_from_the_mix_and_from_its_normal_images(dataset, of_parts):
    known, mix, test = of_parts
    labels = load_labels(dataset)
    file = features.study(dataset, "smoke")
    found = features.studied("seen", "smoke")
    assert file.name == "features.csv" and len(found) == 2 * (2 + features.DIVISIONS + 1) + 2
    table = found.set_index(["direction", "what", "division"])["auc"]
    for direction in (logistic, fisher):
        for what, other in {"mix": mix, "normals only": mix[labels.unlabeled == 0]}.items():
            weight, bias = fitted(direction, known, other, WIDTHS)
            expected = roc_auc_score(labels.test, test @ weight + bias)
            assert table[direction.__name__, what, 0] == pytest.approx(expected, abs=1e-5)
    assert found.loc[found["what"] == "divided anew", "auc"].nunique() > 2
    assert "±" in features.summary(found).loc["divided anew", "fisher"]
    # Kept, and read back where the file itself is gone.
    runs.run("mean_image", dataset, "smoke")
    store.keep("seen", "smoke")
    file.unlink()
    pd.testing.assert_frame_equal(features.studied("seen", "smoke"), found)


def test_divisions_are_by_patient_and_of_the_sizes_of_before(dataset):
    known, mix = np.arange(24.0)[:, None], 100 + np.arange(16.0)[:, None]
    is_normal = load_labels(dataset).unlabeled == 0
    whose = np.concatenate([dataset.normal.patients, dataset.unlabeled.patients[is_normal]])
    values = np.concatenate([known, mix[is_normal]]).ravel()
    patient_of = dict(zip(values, whose, strict=True))
    seen = set()
    for one, other in features._divided(known, mix, dataset, is_normal):
        assert sorted([*one.ravel(), *other.ravel()]) == sorted(values)
        first, second = ({patient_of[v] for v in part.ravel()} for part in (one, other))
        assert not first & second and len(other) <= is_normal.sum()
        seen.add(tuple(one.ravel()))
    assert len(seen) == features.DIVISIONS


def test_cross_fitting_takes_covariance_and_mean_of_different_normals():
    random = np.random.default_rng(0)
    known, mix = random.normal(size=(60, 472)), random.normal(size=(30, 472)) + 0.3
    patients = np.repeat(["a", "b"], 30)
    expected = 0
    for one, other in ((patients == "a", patients == "b"), (patients == "b", patients == "a")):
        mean, deviation = known[one].mean(0), known[one].std(0)
        z = (known[one] - mean) / deviation
        delta = (mix.mean(0) - known[other].mean(0)) / deviation
        for part in np.split(np.arange(472), np.cumsum(WIDTHS)[:-1]):
            weight = np.linalg.inv(ledoit_wolf(z[:, part])[0]) @ delta[part]
            whole = np.zeros(472)
            whole[part] = weight / (z[:, part] @ weight).std() / deviation[part]
            expected = expected + whole / 2
    found = features.cross_fitted(known, mix, patients, WIDTHS)
    assert np.allclose(found, expected, rtol=1e-6)


def test_cross_validation_knows_nothing_of_what_it_scores():
    """From noise it is at chance, where a fit to all images would be near 1."""
    random = np.random.default_rng(0)
    known, mix = random.normal(size=(200, 472)), random.normal(size=(200, 472))
    whose = np.arange(200).astype(str), np.arange(200, 400).astype(str)
    area = features.cross_validated(logistic, (known, mix), whose, WIDTHS)
    weight, bias = fitted(logistic, known, mix, WIDTHS)
    inside = roc_auc_score([0] * 200 + [1] * 200, np.concatenate([known, mix]) @ weight + bias)
    assert abs(area - 0.5) < 0.1 and inside > 0.9


def test_a_mix_of_normals_is_put_into_words():
    assert features.studied_in_words(pd.DataFrame()) == []
    rows = [("fisher", "mix", 0, 0.9), ("fisher", "normals only", 0, 0.8)]
    rows += [("fisher", "divided anew", k, 0.5 + 0.01 * (-1) ** k) for k in range(20)]
    found = pd.DataFrame(rows, columns=["direction", "what", "division", "auc"])
    (line,) = features.studied_in_words(found)
    assert "0.900 learnt from the mix, 0.800" in line and "no abnormality" in line
    found.loc[1, "auc"] = 0.51
    assert "no more than chance gives" in features.studied_in_words(found)[0]


def test_whitening_is_along_the_principal_components_of_the_known_normals(dataset, of_parts):
    run = runs.run("pretrained_mean", dataset, "smoke")
    found = features.whitening(run, dataset.at(64))
    held = dataset.at(64).hold_out(0, 0.1)
    known, mix = (
        features.mean_features(features._made("smoke"), part.images)[:, 40:152]
        for part in (held.normal, held.unlabeled)
    )
    z = (known - known.mean(0)) / known.std(0)
    covariance = ledoit_wolf(z)[0]
    assert np.allclose(found.deviation**2, np.linalg.eigvalsh(covariance)[::-1])
    difference = ((mix - known.mean(0)) / known.std(0)).mean(0)
    assert np.square(found.difference).sum() == pytest.approx(np.square(difference).sum())
    for normal, other in found.along.values():
        assert (len(normal), len(other)) == (len(held.held_normal), len(held.held_unlabeled))
        assert normal.mean() == pytest.approx(0, abs=1e-9) and normal.std() == pytest.approx(1)


def test_the_mean_of_ranks_is_beside_the_mean_of_standardised_scores(dataset):
    run = runs.run("pretrained_mean", dataset, "smoke")
    test = run.test
    ranks = test["logistic"].rank() + test["fisher"].rank()
    found = features.by_ranks(run)["AUC"]
    expected = [roc_auc_score(test["label"], s) for s in (test["score"], ranks)]
    assert found.iloc[2:].tolist() == pytest.approx(expected, abs=1e-4)


def test_by_depth_is_the_mean_auc_of_each_score_over_seeds(monkeypatch):
    random = np.random.default_rng(0)

    def result(method, seed):
        scores = pd.DataFrame({"part": "test", "label": np.arange(40) % 2})
        for name in ("score", "unsigned", "fine", "middle", "coarse"):
            scores[name] = random.normal(size=40)
        return store.Result(dict(method=method, seed=seed), {}, scores)

    results = [result("patch_fisher", seed) for seed in range(3)] + [result("sagan", 0)]

    def collect(name, budget):
        if name == "kermany":
            raise FileNotFoundError
        return results

    monkeypatch.setattr(store, "collect", collect)
    table = features.by_depth("laptop")
    assert list(table.columns) == ["nih", "fundus_dr"]
    assert list(table.index) == [
        ("patch_fisher", name) for name in ("score", "unsigned", "fine", "middle", "coarse")
    ]
    areas = [roc_auc_score(r.scores["label"], r.scores["coarse"]) for r in results[:3]]
    assert table.loc[("patch_fisher", "coarse"), "nih"] == pytest.approx(np.mean(areas))
    results.clear()
    assert features.by_depth("laptop").empty
