"""HealthyGAN: its networks, its losses against NumPy, who is updated when, and a short training."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from helpers import SMALL_MIX, Linear, images, inputs_seen, is_among, mix, parameters
from nblib.data.batches import Batch
from nblib.methods.healthygan import HealthyGAN, masked
from nblib.methods.layers import Translator
from nblib.training.loop import fit


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(**arguments):
    return HealthyGAN(**(SMALL_MIX | arguments))


def train(method):
    return fit(method, mix(), precision="fp32", device="cpu")


class Painter(nn.Module):
    """In place of the generator: raw channels of image and mask, given as functions of x."""

    def __init__(self, image, mask):
        super().__init__()
        self.image, self.mask = image, mask

    def forward(self, x):
        channels = [self.image(x), self.mask(x[:, :1])]
        return torch.cat([torch.as_tensor(c) * torch.ones_like(x[:, :1]) for c in channels], 1)


def painting(image, mask):
    method = small().eval()
    method.G = Painter(lambda x: image, lambda x: mask)
    return method


# What it is made of


def normed(cin, cout, kernel):
    return cin * cout * kernel**2 + 2 * cout


@pytest.mark.parametrize("channels, published", [(3, 8_417_984), (1, 8_405_440)])
def test_the_generator_has_the_published_parameters_layer_by_layer(channels, published):
    """One output for the mask; no bias in any convolution, two numbers a channel in any norm."""
    with torch.device("meta"):
        G = Translator(channels, channels + 1)
    counted = [
        normed(channels, 64, 7),
        normed(64, 128, 4),
        normed(128, 256, 4),
        *[2 * normed(256, 256, 3)] * 6,
        normed(256, 128, 4),
        normed(128, 64, 4),
        64 * (channels + 1) * 7**2,
    ]
    assert [parameters(layer) for layer in G.layers] == counted
    assert parameters(G) == sum(counted) == published


@pytest.mark.parametrize(
    "channels, generator, critic", [(3, 8_417_984, 44_721_088), (1, 8_405_440, 44_719_040)]
)
def test_the_method_as_it_comes_is_the_published_one(channels, generator, critic):
    with torch.device("meta"):
        method = HealthyGAN(channels=channels)
    assert (parameters(method.G), parameters(method.D)) == (generator, critic)
    settings = {k: p.default for k, p in inspect.signature(HealthyGAN).parameters.items()}
    assert [settings[f"lambda_{k}"] for k in ("id", "rec", "f", "gp")] == [1, 1, 0.1, 10]
    assert settings["flips"] is True and settings["batch_size"] == 16 and settings["decay"] == 1
    for optimizer in method.optimizers().values():
        assert optimizer.param_groups[0]["lr"] == 1e-4
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)


# Image, mask and blend


def in_numpy(method, x):
    """The made image, the mask and the healthy image, from the generator's raw output."""
    raw = method.G(x).detach().numpy().astype(float)
    made, m = np.tanh(raw[:, :-1]), (np.tanh(raw[:, -1:]) + 1) / 2
    return made, m, m * made + (1 - m) * x.numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_last_channel_is_the_mask_and_the_others_the_image(channels):
    method, x = small(channels=channels).eval(), images(3, channels)
    with torch.no_grad():
        made, m = method.image_and_mask(x)
        restored = method.detect(x).restored
    expected_made, expected_m, expected = in_numpy(method, x)
    assert made.shape == x.shape and m.shape == (3, 1, 32, 32)
    np.testing.assert_allclose(made, expected_made, atol=1e-5)
    np.testing.assert_allclose(m, expected_m, atol=1e-5)
    np.testing.assert_allclose(restored, expected, atol=1e-5)


def test_masks_fill_the_range_from_zero_to_one_and_never_leave_it():
    method = small()
    with torch.no_grad():
        method.G.layers[-1].weight *= 1000
        made, m = method.image_and_mask(images())
    assert m.min() == 0 and m.max() == 1
    assert made.min() == -1 and made.max() == 1


@pytest.mark.parametrize("raw, m", [(-30.0, 0), (-np.log(3) / 2, 0.25), (0.0, 0.5), (30.0, 1)])
def test_where_the_mask_is_zero_the_image_stays_and_where_it_is_one_it_is_replaced(raw, m):
    """(tanh(-log(3) / 2) + 1) / 2 = 1/4; the made image is tanh(0.3) everywhere."""
    method, x = painting(0.3, raw), images()
    with torch.no_grad():
        found = method.detect(x)
    expected = x.numpy() + m * (np.tanh(0.3) - x.numpy())
    np.testing.assert_allclose(found.restored, expected, atol=1e-6)
    if m == 0:
        assert torch.equal(found.restored, x) and not found.scores["residual"].any()


def test_a_blend_follows_its_mask_pixel_by_pixel_in_all_channels():
    x, other = images(2, 3), images(2, 3)
    m = torch.zeros(2, 1, 32, 32)
    m[:, :, :8], m[:, :, 8:16] = 1, 0.25
    mixed = masked(x, other, m)
    assert torch.equal(mixed[:, :, :8], other[:, :, :8])
    assert torch.equal(mixed[:, :, 16:], x[:, :, 16:])
    quarter = 0.25 * other.numpy() + 0.75 * x.numpy()
    np.testing.assert_allclose(mixed[:, :, 8:16], quarter[:, :, 8:16], atol=1e-6)


# Losses


def focus(m):
    small = m.mean((1, 2, 3)) ** 2
    undecided = (1 / (np.abs(m - 0.5) + 0.01)).mean((1, 2, 3)) - 1 / 0.51
    return (small + undecided).mean()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_critics_terms_are_the_thesis_equation_in_numpy(channels):
    """The penalty of a linear critic of length 3 is (3 - 1)^2."""
    method = small(channels=channels, flips=False, lambda_gp=7.0)
    method.D = Linear(3, channels)
    n, u = images(4, channels), images(4, channels)
    name, terms = next(method.updates(Batch(n, u, None), 0))
    *_, healthy = in_numpy(method, u)
    expected = {
        "adversarial": method.D.numpy(healthy).mean() - method.D.numpy(n.numpy()).mean(),
        "penalty": 7 * 4,
    }
    assert name == "D"
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_generators_terms_are_the_equation_in_numpy(channels):
    method = small(channels=channels, flips=False, lambda_id=2.0, lambda_rec=3.0, lambda_f=0.7)
    method.D = Linear(3, channels)
    n, u = images(4, channels), images(4, channels) * 0.5
    *_, (name, terms) = method.updates(Batch(n, u, None), 1)
    n_made, n_mask, n_healthy = in_numpy(method, n)
    u_made, u_mask, u_healthy = in_numpy(method, u)
    swapped = u_mask * u.numpy() + (1 - u_mask) * u_made
    expected = {
        "adversarial": -method.D.numpy(u_healthy).mean() - method.D.numpy(n_healthy).mean(),
        "identity": 2 * np.abs(n.numpy() - n_made).mean(),
        "reconstruction": 3 * np.abs(u.numpy() - swapped).mean(),
        "focus": 0.7 * (focus(u_mask) + focus(n_mask)) / 2,
    }
    assert name == "G"
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("term", ["adversarial", "identity", "reconstruction", "focus"])
def test_each_of_the_generators_terms_moves_the_generator(term):
    method = small()
    *_, (_, terms) = method.updates(Batch(images(), images(), None), 1)
    gradients = torch.autograd.grad(terms[term], list(method.G.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def focus_term(m):
    """The generator's term for masks of the value m everywhere, and its slope in m."""
    method, x = small(lambda_f=1.0), images()
    mask = torch.full((4, 1, 32, 32), float(m), requires_grad=True)
    term = method.generator_terms(x, x, x, mask, x, mask)["focus"]
    (slope,) = torch.autograd.grad(term, mask)
    return term.item(), slope.sum().item()


def test_focus_wants_masks_at_zero_and_pushes_them_away_from_a_half():
    values = [focus_term(m)[0] for m in np.linspace(0, 1, 21)]
    assert np.argmin(values) == 0 and values[0] == pytest.approx(0, abs=1e-5)
    assert np.argmax(values) == 10 and values[10] == pytest.approx(0.25 + 100 - 1 / 0.51)
    assert values[20] == pytest.approx(1)
    assert focus_term(0.45)[1] > 0 > focus_term(0.55)[1], "a small step goes down, or up to 1"


def test_focus_as_the_thesis_prints_it_would_want_masks_at_a_half():
    """Eq. 2.12: (mean m)^2 + mean |m - 0.5|; at 0 the two forms differ in which is least."""
    m = np.linspace(0, 1, 21)
    printed = m**2 + np.abs(m - 0.5)
    assert m[np.argmin(printed)] == 0.5
    assert focus_term(0)[0] < focus_term(0.5)[0] and printed[0] > printed[10]


# Updates


def test_the_critic_sees_healthy_normals_in_the_generators_update_only():
    method, n, u = small(flips=False), images(), images()
    with torch.no_grad():
        n_healthy, u_healthy = method.detect(n).restored, method.detect(u).restored
    seen = inputs_seen(method, Batch(n, u, None), 1)
    kinds = (n, u, n_healthy, u_healthy)
    assert [is_among(x, seen["D"]["D"]) for x in kinds] == [True, False, False, True]
    assert [is_among(x, seen["G"].get("D", [])) for x in kinds] == [False, False, True, True]


def test_the_logged_number_is_the_mean_of_the_masks_of_both_kinds():
    """Normals of -0.5 and unlabeled images of 0.8, with the raw mask 2 x."""
    method = small(flips=False)
    method.G = Painter(lambda x: x, lambda x: 2 * x)
    n, u = torch.full((4, 1, 32, 32), -0.5), torch.full((4, 1, 32, 32), 0.8)
    _, (name, numbers), _ = method.updates(Batch(n, u, None), 1)
    expected = ((np.tanh(-1) + 1) / 2 + (np.tanh(1.6) + 1) / 2) / 2
    assert name is None and list(numbers) == ["mask"]
    assert numbers["mask"].item() == pytest.approx(expected, rel=1e-5)
    assert not numbers["mask"].requires_grad


class Unlogged(HealthyGAN):
    def updates(self, batch, step):
        yield from (update for update in super().updates(batch, step) if update[0] is not None)


def test_logging_the_mask_changes_nothing_in_the_training():
    methods, histories = [], []
    for make in HealthyGAN, Unlogged:
        torch.manual_seed(3)
        methods.append(make(**SMALL_MIX | dict(steps=6)))
        histories.append(train(methods[-1]))
    logged, unlogged = (m.state_dict() for m in methods)
    assert all(torch.equal(logged[key], unlogged[key]) for key in logged)
    mask = histories[0].pop("mask")
    assert histories[0].equals(histories[1])
    assert list(mask.notna()) == [False, True] * 3 and mask.dropna().between(0, 1).all()


# Training


def test_some_dozens_of_steps_let_identity_and_reconstruction_fall():
    history = train(small(width=8, critic_width=8, steps=100, lr=2e-3))
    for term in "G.identity", "G.reconstruction":
        losses = history[term].dropna()
        assert losses.iloc[-5:].mean() < 0.5 * losses.iloc[0]
