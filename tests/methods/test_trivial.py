import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from nblib.data import datasets
from nblib.data.batches import to_float
from nblib.data.labels import load_labels
from nblib.methods.catalogue import METHODS
from nblib.methods.method import detect_all

# AUC and average precision on the test part, fitted on all known normals, made once with Pillow
# and scikit-learn alone.
REFERENCE = {
    "kermany": {
        "mean_intensity": (0.516, 0.575),
        "vertical_gradient": (0.090, 0.318),
        "intensity_distance": (0.623, 0.655),
        "gradient_distance": (0.862, 0.875),
        "mean_image": (0.708, 0.684),
        "pca16": (0.646, 0.641),
        "pca64": (0.559, 0.570),
        "nearest_normals": (0.760, 0.720),
        "known_against_unlabeled": (0.960, 0.961),
        "pixel_fisher": (0.951, 0.957),
    },
    "nih": {
        "mean_intensity": (0.309, 0.408),
        "vertical_gradient": (0.662, 0.593),
        "intensity_distance": (0.691, 0.683),
        "gradient_distance": (0.556, 0.526),
        "mean_image": (0.643, 0.626),
        "pca16": (0.617, 0.599),
        "pca64": (0.643, 0.594),
        "nearest_normals": (0.631, 0.585),
        "known_against_unlabeled": (0.807, 0.833),
        "pixel_fisher": (0.830, 0.854),
    },
    "fundus_dr": {
        "mean_intensity": (0.611, 0.634),
        "vertical_gradient": (0.620, 0.667),
        "intensity_distance": (0.557, 0.600),
        "gradient_distance": (0.602, 0.634),
        "mean_image": (0.541, 0.593),
        "pca16": (0.747, 0.723),
        "pca64": (0.740, 0.724),
        "nearest_normals": (0.719, 0.701),
        "known_against_unlabeled": (0.581, 0.602),
        "pixel_fisher": (0.512, 0.579),
    },
}
TRIVIAL = list(REFERENCE["nih"])
WITH_MAP = ["mean_image", "pca16", "pca64", "nearest_normals"]


def fitted(name, normal, unlabeled):
    method = METHODS[name].make()
    method.prepare(to_float(torch.from_numpy(normal)), to_float(torch.from_numpy(unlabeled)))
    return method


def scores_of(detection):
    return detection.score


@pytest.fixture(scope="module")
def real_set(real_sets):
    """real_set(name) -> Dataset and the labels of its test part, read once."""
    read = {}

    def load(name):
        if name not in read:
            dataset = datasets.load(real_sets(name), size=64)
            read[name] = dataset, load_labels(dataset).test
        return read[name]

    return load


@pytest.mark.parametrize("method", TRIVIAL)
@pytest.mark.parametrize("name", list(REFERENCE))
def test_reference_values_of_real_sets_are_reproduced(real_set, name, method):
    dataset, labels = real_set(name)
    held = dataset.hold_out(seed=0, share=0)
    assert len(held.normal) == len(dataset.normal)
    model = fitted(method, held.normal.images, held.unlabeled.images)
    scores = scores_of(detect_all(model, dataset.test.images))
    found = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    assert found == pytest.approx(REFERENCE[name][method], abs=0.01)


def random_images(count, seed, channels=1, size=12):
    """Smooth random pictures: a few patterns in random strengths, and noise."""
    patterns = np.random.default_rng(0).normal(0, 40, (20, channels, size, size))
    random = np.random.default_rng(seed)
    strengths = random.normal(0, np.linspace(1, 0.1, 20), (count, 20))
    images = (
        120 + np.tensordot(strengths, patterns, 1) + random.normal(0, 8, (count, 1, size, size))
    )
    return np.clip(images, 0, 255).astype(np.uint8)


def scaled(images):
    return images.astype(float) / 127.5 - 1


def vertical_gradient(x):
    return np.abs(x[:, :, 1:] - x[:, :, :-1]).mean((1, 2, 3))


def residual_of_pca(components, normal, test):
    flat, flat_test = normal.reshape(len(normal), -1), test.reshape(len(test), -1)
    pca = PCA(min(components, len(normal) - 1), svd_solver="full").fit(flat)
    restored = pca.inverse_transform(pca.transform(flat_test))
    return np.abs(flat_test - restored).mean(1) / 2


def mean_neighbour_distance(normal, test):
    neighbours = NearestNeighbors(n_neighbors=min(5, len(normal)), algorithm="brute")
    neighbours.fit(normal.reshape(len(normal), -1))
    return neighbours.kneighbors(test.reshape(len(test), -1))[0].mean(1)


def known_or_unlabeled(normal, unlabeled, test):
    both = np.concatenate([normal, unlabeled]).reshape(len(normal) + len(unlabeled), -1)
    pca = PCA(min(64, len(both) - 1), svd_solver="full").fit(both)
    model = LogisticRegression(C=0.01, max_iter=5000, tol=1e-8)
    model.fit(pca.transform(both), np.arange(len(both)) >= len(normal))
    return model.decision_function(pca.transform(test.reshape(len(test), -1)))


def pixel_fisher(normal, unlabeled, test):
    flat = [images.reshape(len(images), -1) for images in (normal, unlabeled, test)]
    pca = PCA(min(64, len(normal) - 1), svd_solver="full").fit(flat[0])
    known, mix, x = (pca.transform(images) for images in flat)
    mean, deviation = known.mean(0), known.std(0)
    known, mix, x = ((c - mean) / deviation for c in (known, mix, x))
    return x @ np.linalg.inv(ledoit_wolf(known)[0]) @ mix.mean(0)


FORMULA = {
    "mean_intensity": lambda n, u, x: x.mean((1, 2, 3)),
    "vertical_gradient": lambda n, u, x: vertical_gradient(x),
    "intensity_distance": lambda n, u, x: np.abs(x.mean((1, 2, 3)) - n.mean()),
    "gradient_distance": lambda n, u, x: np.abs(vertical_gradient(x) - vertical_gradient(n).mean()),
    "mean_image": lambda n, u, x: np.abs(x - n.mean(0)).mean((1, 2, 3)) / 2,
    "pca16": lambda n, u, x: residual_of_pca(16, n, x),
    "pca64": lambda n, u, x: residual_of_pca(64, n, x),
    "nearest_normals": lambda n, u, x: mean_neighbour_distance(n, x),
    "known_against_unlabeled": known_or_unlabeled,
    "pixel_fisher": pixel_fisher,
}


def assert_same_scores(method, found, expected):
    if method == "known_against_unlabeled":  # a ranking: the regression's intercept is no matter
        found, expected = found - found.mean(), expected - expected.mean()
    if method == "pixel_fisher":  # a ranking as well
        found, expected = ((s - s.mean()) / s.std() for s in (found, expected))
    assert np.allclose(found, expected, rtol=2e-3, atol=2e-3 * expected.std())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("method", TRIVIAL)
def test_scores_are_those_of_the_plain_formula(method, channels):
    normal, unlabeled, test = (
        random_images(count, seed, channels) for count, seed in ((90, 1), (70, 2), (40, 3))
    )
    unlabeled[:, :, 3:7, 3:7] = np.minimum(unlabeled[:, :, 3:7, 3:7], 200) + 50
    found = scores_of(detect_all(fitted(method, normal, unlabeled), test))
    expected = FORMULA[method](scaled(normal), scaled(unlabeled), scaled(test))
    assert found.shape == (40,) and expected.std() > 1e-3
    assert_same_scores(method, found, expected)


@pytest.mark.parametrize(
    "method", ["pca64", "nearest_normals", "known_against_unlabeled", "pixel_fisher"]
)
def test_few_images_are_enough(method):
    normal, unlabeled, test = (
        random_images(count, seed) for count, seed in ((4, 1), (3, 2), (9, 3))
    )
    found = scores_of(detect_all(fitted(method, normal, unlabeled), test))
    expected = FORMULA[method](scaled(normal), scaled(unlabeled), scaled(test))
    assert_same_scores(method, found, expected)


@pytest.mark.parametrize("method", TRIVIAL)
def test_a_score_depends_on_its_image_alone(method):
    normal, test = random_images(30, 1), random_images(40, 3)
    model = fitted(method, normal, random_images(20, 2))
    together = scores_of(detect_all(model, test))
    alone = np.concatenate([scores_of(detect_all(model, test[i : i + 1])) for i in range(40)])
    turned = scores_of(detect_all(model, test[::-1].copy(), batch_size=7))[::-1]
    for other in (alone, turned):
        assert np.allclose(together, other, rtol=1e-5, atol=1e-5 * together.std())


@pytest.mark.parametrize("method", WITH_MAP)
def test_maps_are_half_the_distance_to_the_restored_image(method):
    normal, test = random_images(90, 1, channels=3), random_images(20, 3, channels=3)
    found = detect_all(fitted(method, normal, normal), test)
    assert found.restored.shape == test.shape and found.map.shape == (20, 12, 12)
    expected = np.abs(scaled(test) - found.restored).mean(1) / 2
    assert np.allclose(found.map, expected, atol=1e-6)
    if method != "nearest_normals":
        assert np.allclose(scores_of(found), found.map.mean((1, 2)), rtol=1e-5)


def test_restored_images_are_the_mean_the_projection_or_the_neighbours():
    normal, test = random_images(90, 1), random_images(20, 3)
    n, x = scaled(normal).reshape(90, -1), scaled(test).reshape(20, -1)
    pca = PCA(16, svd_solver="full").fit(n)
    nearest = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(n).kneighbors(x)[1]
    expected = {
        "mean_image": np.broadcast_to(n.mean(0), x.shape),
        "pca16": pca.inverse_transform(pca.transform(x)),
        "nearest_normals": n[nearest].mean(1),
    }
    for method, restored in expected.items():
        found = detect_all(fitted(method, normal, normal), test).restored
        assert np.allclose(found.reshape(20, -1), restored, atol=2e-3)


@pytest.mark.parametrize("method", TRIVIAL)
def test_a_fitted_method_is_whole_in_its_state(method):
    normal, unlabeled, test = (
        random_images(count, seed) for count, seed in ((30, 1), (20, 2), (9, 3))
    )
    model, copy = fitted(method, normal, unlabeled), METHODS[method].make()
    copy.load_state(model.state_dict())
    assert np.array_equal(scores_of(detect_all(model, test)), scores_of(detect_all(copy, test)))


@pytest.mark.parametrize("method", [n for n in TRIVIAL if METHODS[n].uses == "known normals"])
def test_methods_of_known_normals_do_not_look_at_the_unlabeled_images(method):
    normal, test = random_images(30, 1), random_images(9, 3)
    found = [
        scores_of(detect_all(fitted(method, normal, random_images(20, k)), test)) for k in (2, 4)
    ]
    assert np.array_equal(*found)
