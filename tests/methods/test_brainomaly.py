"""Brainomaly: its networks, its losses against NumPy, who is updated when, and a short training."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from helpers import SMALL_MIX, Linear, images, inputs_seen, is_among, mix, parameters
from nblib.data.batches import Batch
from nblib.methods.brainomaly import Brainomaly
from nblib.methods.layers import Translator
from nblib.training.loop import fit


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(**arguments):
    return Brainomaly(**(SMALL_MIX | arguments))


def train(method):
    return fit(method, mix(), precision="fp32", device="cpu")


class Adding(nn.Module):
    """In place of the generator: the map is a function of x."""

    def __init__(self, map):
        super().__init__()
        self.map = map

    def forward(self, x):
        return self.map(x)


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


def test_the_critic_sees_normals_as_they_are_and_unlabeled_images_made_healthy():
    method, n, u = small(flips=False), images(), images()
    with torch.no_grad():
        n_healthy, u_healthy = method.detect(n).restored, method.detect(u).restored
    seen = inputs_seen(method, Batch(n, u, None), 1)
    kinds = (n, u, n_healthy, u_healthy)
    assert [is_among(x, seen["D"]["D"]) for x in kinds] == [True, False, False, True]
    assert [is_among(x, seen["G"]["D"]) for x in kinds] == [False, False, False, True]


# Training


def test_some_dozens_of_steps_let_the_identity_loss_fall():
    history = train(small(width=8, critic_width=8, steps=100, lr=2e-3))
    losses = history["G.identity"].dropna()
    assert losses.iloc[-5:].mean() < 0.3 * losses.iloc[0]
