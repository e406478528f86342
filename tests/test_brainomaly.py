"""Brainomaly: its networks, its losses against NumPy, who is updated when, and a short training."""

import inspect
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from nblib.batches import Batch
from nblib.layers import Translator
from nblib.methods.brainomaly import Brainomaly
from nblib.parts import HeldOut, Part
from nblib.training import fit

SMALL = dict(size=32, width=4, critic_width=4, critic_layers=4, batch_size=4, steps=8)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(**arguments):
    return Brainomaly(**(SMALL | arguments))


def images(count=4, channels=1, size=32):
    return torch.rand(count, channels, size, size) * 2 - 1


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def part(pixels, stem):
    names = np.array([f"{stem}_{i}.png" for i in range(len(pixels))])
    return Part(pixels, names, names, np.full((len(pixels), 2), 32))


def smooth(count, seed, spots=False):
    """uint8 (count, 1, 32, 32): slow waves round grey; with `spots` a bright disc on each."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    a, b, c = random.uniform(-30, 30, (3, count, 1, 1))
    pixels = 110 + a * x + b * y + c * x * y
    if spots:
        cx, cy = random.uniform(-0.5, 0.5, (2, count, 1, 1))
        pixels = pixels + 80 * ((x - cx) ** 2 + (y - cy) ** 2 < 0.1)
    return pixels.round().clip(0, 255).astype(np.uint8)[:, None]


def data():
    """16 known normals and 16 unlabeled images, of which half have a disc; none held out."""
    unlabeled = np.concatenate([smooth(8, 2), smooth(8, 3, spots=True)])
    none = part(smooth(0, 0), "none")
    return HeldOut(part(smooth(16, 1), "normal"), part(unlabeled, "mixed"), none, none)


def train(method):
    return fit(method, data(), precision="fp32", device="cpu")


class Adding(nn.Module):
    """In place of the generator: the map is a function of x."""

    def __init__(self, map):
        super().__init__()
        self.map = map

    def forward(self, x):
        return self.map(x)


class Linear(nn.Module):
    """In place of the critic: D(x) = <w, x>, whose gradient is w, of this length, everywhere."""

    def __init__(self, length, channels):
        super().__init__()
        w = torch.randn(1, channels, 32, 32)
        self.w = nn.Parameter(w * length / w.norm())

    def forward(self, x):
        return (self.w * x).sum((1, 2, 3), keepdim=True)

    def numpy(self, x):
        return (self.w.detach().numpy().astype(float) * x).sum((1, 2, 3))


# What it is made of


def counted(channels, outputs):
    """Layer by layer: no bias in any convolution, two numbers a channel in any norm."""

    def normed(cin, cout, kernel):
        return cin * cout * kernel**2 + 2 * cout

    return [
        normed(channels, 64, 7),
        normed(64, 128, 4),
        normed(128, 256, 4),
        *[2 * normed(256, 256, 3)] * 6,
        normed(256, 128, 4),
        normed(128, 64, 4),
        64 * outputs * 7**2,
    ]


@pytest.mark.parametrize("channels, published", [(3, 8_408_576), (1, 8_402_304)])
def test_the_generator_has_the_published_parameters_layer_by_layer(channels, published):
    """As published the map has one channel, which is added to three."""
    with torch.device("meta"):
        G = Translator(channels, 1)
    assert [parameters(layer) for layer in G.layers] == counted(channels, 1)
    assert parameters(G) == sum(counted(channels, 1)) == published


@pytest.mark.parametrize("channels, critic", [(1, 44_719_040), (3, 44_721_088)])
def test_the_method_as_it_comes_is_the_published_one_with_a_map_for_each_channel(channels, critic):
    with torch.device("meta"):
        method = Brainomaly(channels=channels)
    assert parameters(method.G) == sum(counted(channels, channels))
    assert parameters(method.D) == critic
    settings = {k: p.default for k, p in inspect.signature(Brainomaly).parameters.items()}
    assert settings["lambda_id"] == 1 and settings["lambda_gp"] == 10
    assert settings["flips"] is True and settings["batch_size"] == 16 and settings["decay"] == 1
    for optimizer in method.optimizers().values():
        assert optimizer.param_groups[0]["lr"] == 1e-4
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)


# The healthy image


def in_numpy(method, x):
    """The healthy image, from the generator's raw output."""
    return np.tanh(x.numpy() + method.G(x).detach().numpy().astype(float))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_healthy_image_is_tanh_of_the_image_and_its_map(channels):
    method, x = small(channels=channels).eval(), images(3, channels)
    expected = in_numpy(method, x)
    with torch.no_grad():
        restored = method.detect(x).restored
    assert restored.shape == x.shape
    np.testing.assert_allclose(restored, expected, atol=1e-5)
    assert np.abs(expected - np.tanh(x.numpy())).max() > 0.1, "there is a map"


@pytest.mark.parametrize(
    "value, restored", [(-1.0, -0.76159), (-0.5, -0.46212), (0.0, 0.0), (1.0, 0.76159)]
)
def test_a_zero_map_is_not_the_identity(value, restored):
    """tanh(-1) = -0.76: black becomes dark grey, and even a perfect image has a score."""
    method = small().eval()
    method.G = Adding(torch.zeros_like)
    with torch.no_grad():
        found = method.detect(torch.full((2, 1, 32, 32), value))
    assert found.restored.numpy() == pytest.approx(restored, abs=1e-5)
    assert found.scores["residual"].numpy() == pytest.approx(abs(value - restored) / 2, abs=1e-5)


def test_the_map_atanh_x_minus_x_is_the_identity():
    method, x = small().eval(), 0.98 * images()
    method.G = Adding(lambda x: torch.atanh(x) - x)
    with torch.no_grad():
        found = method.detect(x)
    np.testing.assert_allclose(found.restored, x, atol=1e-5)
    assert found.map.max() < 1e-5


def test_the_map_is_half_the_change_and_the_score_its_mean():
    method, x = small(channels=3).eval(), images(3, 3)
    expected = np.abs(x.numpy() - in_numpy(method, x)).mean(1) / 2
    with torch.no_grad():
        found = method.detect(x)
    np.testing.assert_allclose(found.map, expected, atol=1e-5)
    np.testing.assert_allclose(found.scores["residual"], expected.mean((1, 2)), rtol=1e-4)


# Losses


@pytest.mark.parametrize("channels", [1, 3])
def test_the_critics_terms_are_the_thesis_equation_in_numpy(channels):
    """The penalty of a linear critic of length 3 is (3 - 1)^2."""
    method = small(channels=channels, flips=False, lambda_gp=7.0)
    method.D = Linear(3, channels)
    n, u = images(4, channels), images(4, channels)
    name, terms = next(method.updates(Batch(n, u, None), 0))
    healthy = in_numpy(method, u)
    expected = {
        "adversarial": method.D.numpy(healthy).mean() - method.D.numpy(n.numpy()).mean(),
        "penalty": 7 * 4,
    }
    assert name == "D"
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_generators_terms_are_the_thesis_equation_in_numpy(channels):
    method = small(channels=channels, flips=False, lambda_id=2.0)
    method.D = Linear(3, channels)
    n, u = images(4, channels), images(4, channels) * 0.5
    *_, (name, terms) = method.updates(Batch(n, u, None), 1)
    expected = {
        "adversarial": -method.D.numpy(in_numpy(method, u)).mean(),
        "identity": 2 * np.abs(n.numpy() - in_numpy(method, n)).mean(),
    }
    assert name == "G"
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("term", ["adversarial", "identity"])
def test_each_of_the_generators_terms_moves_the_generator(term):
    method = small()
    *_, (_, terms) = method.updates(Batch(images(), images(), None), 1)
    gradients = torch.autograd.grad(terms[term], list(method.G.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


# Updates


def test_the_critic_is_updated_twice_for_one_update_of_the_generator():
    method, batch = small(), Batch(images(), images(), None)
    order = [[name for name, _ in method.updates(batch, step)] for step in range(4)]
    assert order == [["D"], ["D", "G"], ["D"], ["D", "G"]]


def test_each_step_changes_the_critic_and_every_other_step_the_generator():
    method = small(steps=4)
    noted = [(weights(method.D), weights(method.G))]
    method.after_step = lambda step: noted.append((weights(method.D), weights(method.G)))
    train(method)
    changed = [
        tuple(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        for before, after in itertools.pairwise(noted)
    ]
    assert changed == [(True, False), (True, True), (True, False), (True, True)]


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


@pytest.mark.parametrize("step", [0, 1])
def test_the_critics_update_has_no_graph_into_the_generator(step):
    method = small()
    _, terms = next(method.updates(Batch(images(), images(), None), step))
    sum(terms.values()).backward()
    assert all(p.grad is None for p in method.G.parameters())
    assert all(p.grad is not None for p in method.D.parameters())


def inputs_seen(method, batch, step):
    """What critic and generator see for each update of a step: {name: {network: [inputs]}}."""
    seen, updates = {}, {}

    def spy(key, network):
        forward = network.forward

        def noting(x):
            seen.setdefault(key, []).append(x.detach())
            return forward(x)

        network.forward = noting

    spy("D", method.D)
    spy("G", method.G)
    for name, _ in method.updates(batch, step):
        updates[name] = dict(seen)
        seen.clear()
    return updates


def is_among(x, seen):
    """Whether every image of x is among those seen, or none is."""
    distance = (x[:, None] - torch.cat(seen)[None]).abs().amax((2, 3, 4)).amin(1)
    assert distance.max() < 1e-4 or distance.min() > 0.05
    return bool(distance.max() < 1e-4)


def test_the_critic_sees_normals_as_they_are_and_unlabeled_images_made_healthy():
    method, n, u = small(flips=False), images(), images()
    with torch.no_grad():
        n_healthy, u_healthy = method.detect(n).restored, method.detect(u).restored
    seen = inputs_seen(method, Batch(n, u, None), 1)
    kinds = (n, u, n_healthy, u_healthy)
    assert [is_among(x, seen["D"]["D"]) for x in kinds] == [True, False, False, True]
    assert [is_among(x, seen["G"]["D"]) for x in kinds] == [False, False, False, True]


# Flips


def mirrored(found, x):
    """Which images of x were mirrored left to right; fails where one was changed otherwise."""
    same, mirror = ((found == y).flatten(1).all(1) for y in (x, x.flip(3)))
    assert (same ^ mirror).all()
    return mirror


def test_training_images_are_mirrored_half_of_the_time_each_by_itself():
    method, n, u = small(), images(200), images(200)
    seen = inputs_seen(method, Batch(n, u, None), 1)
    of_u = mirrored(seen["D"]["G"][0], u)
    of_n = mirrored(seen["D"]["D"][0][200:], n)
    assert abs(of_n.sum() - 100) < 35 and abs(of_u.sum() - 100) < 35  # five standard deviations
    assert abs((of_n == of_u).sum() - 100) < 35
    again = mirrored(seen["G"]["G"][0], torch.cat([u, n]))
    assert torch.equal(again, torch.cat([of_u, of_n])), "both updates see the same images"


def test_without_flips_nothing_is_mirrored():
    method, n, u = small(flips=False), images(50), images(50)
    seen = inputs_seen(method, Batch(n, u, None), 1)
    assert torch.equal(seen["D"]["G"][0], u)
    assert torch.equal(seen["D"]["D"][0][50:], n)
    assert torch.equal(seen["G"]["G"][0], torch.cat([u, n]))


# Training


def test_some_dozens_of_steps_let_the_identity_loss_fall():
    history = train(small(width=8, critic_width=8, steps=100, lr=2e-3))
    losses = history["G.identity"].dropna()
    assert losses.iloc[-5:].mean() < 0.3 * losses.iloc[0]
