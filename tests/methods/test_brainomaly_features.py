"""Brainomaly on whitened features and its closed-form twin, on made-up encodings."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from nblib.data.batches import Batch
from nblib.methods.brainomaly_features import SHRINKAGE, BrainomalyFeatures, PatchFisher
from nblib.methods.pretrained import feature_maps, placed, widths
from nblib.training.loop import take_step

DEPTHS = widths("tf_efficientnet_lite0")
ENDS = np.cumsum(DEPTHS)[:-1]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def features(images, shift=0.0, side=3):
    """Correlated channels with means and deviations of their own; at one place some are shifted."""
    random = torch.Generator().manual_seed(images + int(100 * shift))
    common = torch.randn(images, 1, side, side, generator=random)
    x = 0.8 * common + torch.randn(images, sum(DEPTHS), side, side, generator=random)
    x[:, :40, 1, 1] += shift
    return x * torch.linspace(0.5, 2, sum(DEPTHS))[:, None, None] + 3


def by_place(x):
    """(n, c, h, w) -> (places, c), of standardised features, float64."""
    return x.double().numpy().transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def standardised(x, known):
    of_known = by_place(known)
    return (by_place(x) - of_known.mean(0)) / of_known.std(0, ddof=1)


def shrunk(z):
    return (1 - SHRINKAGE) * np.cov(z.T, bias=True) + SHRINKAGE * np.eye(z.shape[1])


def test_known_normals_are_white_at_each_depth_but_for_the_shrinkage():
    known = features(200)
    method = BrainomalyFeatures()
    method.prepare(known, features(50, 1.0))
    white, z = by_place(method.white(known)), standardised(known, known)
    for of_white, of_z in zip(np.split(white, ENDS, 1), np.split(z, ENDS, 1), strict=True):
        before, after = np.cov(of_z.T, bias=True), np.cov(of_white.T, bias=True)
        # S^-1/2 C S^-1/2 with S = 0.9 C + 0.1: the eigenvalues of both are known.
        values = np.linalg.eigvalsh(before)
        expected = values / ((1 - SHRINKAGE) * values + SHRINKAGE)
        assert np.allclose(np.sort(np.linalg.eigvalsh(after)), np.sort(expected), atol=1e-3)
        assert np.abs(of_white.mean(0)).max() < 1e-3
        # Symmetric: a whitened channel is the one it was made of, as far as can be.
        assert np.all(
            [np.corrcoef(a, b)[0, 1] > 0.5 for a, b in zip(of_white.T, of_z.T, strict=True)]
        )


def test_the_twin_is_fishers_direction_at_each_place():
    known, mix, new = features(200), features(60, 1.5), features(20, 1.0)
    method = PatchFisher()
    method.prepare(known, mix)
    expected = 0
    parts = (np.split(standardised(x, known), ENDS, 1) for x in (known, mix, new))
    for k, m, x in zip(*parts, strict=True):
        w = np.linalg.solve(shrunk(k), m.mean(0) - k.mean(0))
        expected = expected + x @ w / (k @ w).std(ddof=1)
    expected = expected.reshape(20, 3, 3)
    found = method.detect(new)
    assert np.allclose(found.score, expected.mean((1, 2)), rtol=1e-3, atol=1e-3)
    assert np.allclose(found.map, expected.clip(0), rtol=1e-3, atol=1e-3)


def test_before_training_nothing_is_changed():
    method = BrainomalyFeatures(width=8)
    method.prepare(features(50), features(50, 1.0))
    found = method.detect(features(5))
    assert (found.score == 0).all() and (found.map == 0).all() and found.map.shape == (5, 3, 3)


def test_its_networks_have_the_layers_they_should():
    method, c = BrainomalyFeatures(), sum(DEPTHS)
    count = [sum(p.numel() for p in network.parameters()) for network in (method.G, method.D)]
    inside = (c * 64 + 64) + (64 * 64 * 9 + 64)
    assert count == [inside + 64 * c + c, inside + 64] and c == 472
    # The critic averages over places: an image of twice the size, tiled, has the same inside.
    x = torch.randn(1, c, 1, 1).expand(1, c, 9, 9)
    D = method.D
    h = nn.functional.leaky_relu(D.first(x), 0.2)
    places = D.last(nn.functional.leaky_relu(D.second(h), 0.2))
    assert torch.allclose(D(x), places.mean((1, 2, 3))) and D(x).shape == (1,)


class Linear(nn.Module):
    """In place of G or D, known to NumPy."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class MeanCritic(nn.Module):
    def forward(self, x):
        return x.mean((1, 2, 3))


def test_the_terms_of_g_are_those_of_the_formula():
    method = BrainomalyFeatures(lambda_id=7.0)
    method.G, method.D = Linear(-0.25), MeanCritic()
    n, u = torch.randn(4, 5, 3, 3), torch.randn(4, 5, 3, 3)
    terms = {name: float(value) for name, value in method.generator_terms(n, u).items()}
    assert terms["adversarial"] == pytest.approx(-0.75 * u.numpy().mean(), abs=1e-6)
    assert terms["identity"] == pytest.approx(7 * 0.25 * np.abs(n.numpy()).mean(), rel=1e-5)


def test_the_critic_learns_at_every_step_and_g_at_every_second():
    method = BrainomalyFeatures(width=4)
    method.prepare(features(30), features(30, 1.0))
    optimizers = method.optimizers()
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    assert {group["betas"] for group in groups} == {(0.5, 0.9)}
    batch = Batch(features(4), features(4, 1.0), None)
    for step in range(4):
        before = {k: v.clone() for k, v in method.named_parameters()}
        take_step(method, optimizers, batch, step)
        moved = {k[0] for k, v in method.named_parameters() if not torch.equal(v, before[k])}
        assert moved == ({"D", "G"} if step % 2 else {"D"})


def test_it_learns_to_change_what_the_mix_alone_has_where_it_has_it():
    method = BrainomalyFeatures(width=16, lr=2e-3)
    known, mix = features(120), torch.cat([features(60), features(61, 6.0)])
    method.prepare(known, mix)
    optimizers = method.optimizers()
    for step in range(150):
        torch.manual_seed(step)
        rows = torch.randint(0, 120, (2, 16))
        take_step(method, optimizers, Batch(known[rows[0]], mix[rows[1]], None), step)
    method.eval()
    new = torch.cat([features(40, 0.01), features(41, 6.0)])
    with torch.no_grad():
        found = method.detect(new)
    labels = np.repeat([0, 1], [40, 41])
    assert roc_auc_score(labels, found.score) > 0.8
    assert (found.map[40:].flatten(1).argmax(1) == 4).float().mean() > 0.6  # the middle of 3 x 3


def test_an_image_is_encoded_at_seven_by_seven_places():
    x = torch.rand(2, 1, 224, 224) * 2 - 1
    found = BrainomalyFeatures().encode(x)
    maps = feature_maps(x, "tf_efficientnet_lite0")
    assert found.shape == (2, 472, 7, 7)
    fine, middle, coarse = maps
    averaged = fine.unflatten(2, (7, 4)).unflatten(4, (7, 4)).mean((3, 5))
    assert torch.allclose(found[:, : DEPTHS[0]], averaged, atol=1e-5)
    assert torch.equal(found[:, -DEPTHS[2] :], coarse)
    assert placed(maps).shape[-1] == middle.shape[-1] == 14
