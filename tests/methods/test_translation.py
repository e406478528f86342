"""What HealthyGAN, Brainomaly and SAGAN have in common: who is updated when, flips, the map."""

import itertools

import numpy as np
import pytest
import torch

from helpers import SMALL_MIX, batch, images, in_a_row, inputs_seen, mix
from nblib.data.batches import Batch
from nblib.methods.brainomaly import Brainomaly
from nblib.methods.healthygan import HealthyGAN
from nblib.methods.sagan import SAGAN
from nblib.training.loop import fit

each = pytest.mark.parametrize("make", [HealthyGAN, Brainomaly, SAGAN])
each_with_flips = pytest.mark.parametrize("make", [HealthyGAN, Brainomaly])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@each
def test_the_critic_is_updated_twice_for_one_update_of_the_generator(make):
    method = make(**SMALL_MIX)
    order = [[name for name, _ in method.updates(batch(), step) if name] for step in range(4)]
    assert order == [["D"], ["D", "G"], ["D"], ["D", "G"]]


@each
def test_each_step_changes_the_critic_and_every_other_step_the_generator(make):
    method = make(**SMALL_MIX | dict(steps=4))
    noted = [(in_a_row(method.D), in_a_row(method.G))]
    method.after_step = lambda step: noted.append((in_a_row(method.D), in_a_row(method.G)))
    fit(method, mix(), precision="fp32", device="cpu")
    changed = [
        tuple(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        for before, after in itertools.pairwise(noted)
    ]
    assert changed == [(True, False), (True, True), (True, False), (True, True)]


@each
@pytest.mark.parametrize("step", [0, 1])
def test_the_critics_update_has_no_graph_into_the_generator(make, step):
    method = make(**SMALL_MIX)
    _, terms = next(method.updates(batch(), step))
    sum(terms.values()).backward()
    assert all(p.grad is None for p in method.G.parameters())
    assert all(p.grad is not None for p in method.D.parameters())


@each
def test_the_generators_loss_is_computed_with_the_critic_already_updated(make):
    method, data = make(**SMALL_MIX).eval(), batch()
    updates = method.updates(data, 1)
    next(updates)
    shown = []
    forward = method.D.forward
    method.D.forward = lambda x: (shown.append(x.detach()), forward(x))[1]
    with torch.no_grad():
        for weight in method.D.parameters():
            weight += 0.1 * torch.randn_like(weight)
    *_, (name, terms) = updates
    with torch.no_grad():
        halves = method.D(shown[0]).view(len(shown[0]) // 4, 4, -1).mean((1, 2))
    assert name == "G" and terms["adversarial"].item() == pytest.approx(-halves.sum().item(), 1e-4)


@each
@pytest.mark.parametrize("channels", [1, 3])
def test_the_map_is_half_the_change_and_the_score_its_mean(make, channels):
    method, x = make(**SMALL_MIX, channels=channels).eval(), images(3, channels)
    with torch.no_grad():
        found = method.detect(x)
    expected = np.abs(x.numpy() - found.restored.numpy()).mean(1) / 2
    assert expected.max() > 0.01
    np.testing.assert_allclose(found.map.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(found.score.numpy(), expected.mean((1, 2)), rtol=1e-5)


def mirrored(found, x):
    """Which images of x were mirrored left to right; None where one was changed otherwise."""
    same, mirror = ((found == y).flatten(1).all(1) for y in (x, x.flip(3)))
    return mirror if (same ^ mirror).all() else None


def shown_to_generator(seen, n):
    """The normal and the unlabeled images that G is shown for its own update."""
    one, other = seen.get(None, seen["G"])["G"][0].chunk(2)
    return (other, one) if mirrored(one, n) is None else (one, other)


@each_with_flips
def test_training_images_are_mirrored_half_of_the_time_each_by_itself(make):
    method, n, u = make(**SMALL_MIX), images(200), images(200)
    seen = inputs_seen(method, Batch(n, u, None), 1)
    of_u = mirrored(seen["D"]["G"][0], u)
    of_n = mirrored(seen["D"]["D"][0][200:], n)
    assert abs(of_n.sum() - 100) < 35 and abs(of_u.sum() - 100) < 35  # five standard deviations
    assert abs((of_n == of_u).sum() - 100) < 35
    again_n, again_u = shown_to_generator(seen, n)
    assert torch.equal(mirrored(again_n, n), of_n), "both updates see the same images"
    assert torch.equal(mirrored(again_u, u), of_u)


@each_with_flips
def test_without_flips_nothing_is_mirrored(make):
    method, n, u = make(**SMALL_MIX, flips=False), images(50), images(50)
    seen = inputs_seen(method, Batch(n, u, None), 1)
    assert torch.equal(seen["D"]["G"][0], u)
    assert torch.equal(seen["D"]["D"][0][50:], n)
    again_n, again_u = shown_to_generator(seen, n)
    assert torch.equal(again_n, n) and torch.equal(again_u, u)
