"""AnoGAN against NumPy: networks, losses, the search for z and what it says of an image."""

import copy
import inspect
import re

import numpy as np
import pytest
import torch
from torch import nn

from helpers import (
    SMALL,
    blobs,
    cross_entropy,
    images,
    normals,
    normals_held_out,
    parameters,
    weights,
    with_square,
)
from nblib import progress
from nblib.data.batches import Batch, to_float
from nblib.methods.anogan import AnoGAN, folded
from nblib.training.loop import fit

SMALLEST = SMALL | dict(latent=8, search_steps=5)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def ready(**arguments):
    """As after some training: batch norms have seen images, images have contrast, logits differ."""
    method = AnoGAN(**SMALLEST | arguments)
    with torch.no_grad():
        method.G[-2].weight *= 20
        method.D.head.weight *= 20
        for module in method.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        for _ in range(30):
            method.D(method.G(codes(method, 16)))
    return method.eval()


def codes(method, count):
    return torch.randn(count, len(method.z0), 1, 1, dtype=method.z0.dtype)


# What it is made of


def test_the_published_networks_have_the_parameters_that_one_counts_by_hand():
    """A convolution has in x out x 4 x 4 weights, no bias; a batch norm two numbers a channel."""
    with torch.device("meta"):
        method = AnoGAN()
    G = 100 * 512 * 16 + 2 * 512
    G += 512 * 256 * 16 + 2 * 256
    G += 256 * 128 * 16 + 2 * 128
    G += 128 * 64 * 16 + 2 * 64
    G += 64 * 1 * 16
    D = 1 * 64 * 16
    D += 64 * 128 * 16 + 2 * 128
    D += 128 * 256 * 16 + 2 * 256
    D += 256 * 512 * 16 + 2 * 512
    D += 512 * 1 * 16
    assert (parameters(method.G), parameters(method.D)) == (G, D)
    assert parameters(method) == G + D


def test_the_published_generator_doubles_its_maps_and_the_discriminator_mirrors_it():
    with torch.device("meta"):
        method = AnoGAN()
        x, shapes = torch.zeros(2, 100, 1, 1), []
        for layer in method.G:
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
        up = [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (1, 64, 64)]
        assert shapes[:-1] == up and isinstance(method.G[-1], nn.Tanh)
        shapes = [tuple(x.shape[1:])]
        for layer in method.D.features:
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
        assert shapes == up[::-1]
        assert method.D.head(x).shape == (2, 1, 1, 1)


def test_the_published_model_has_the_published_settings():
    settings = {k: p.default for k, p in inspect.signature(AnoGAN).parameters.items()}
    assert settings == dict(
        size=64, channels=1, width=64, latent=100, search_steps=500, search_lr=0.01, lambda_f=0.1,
        lr=2e-4, batch_size=64, steps=30_000, decay=1,
    )  # fmt: skip
    for optimizer in AnoGAN(**SMALLEST).optimizers().values():
        assert isinstance(optimizer, torch.optim.Adam)
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)
        assert optimizer.param_groups[0]["lr"] == 2e-4


def test_weights_start_as_normal_numbers_of_deviation_002():
    method = AnoGAN(**SMALLEST | dict(width=32))
    for module in method.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 5000:
            assert module.weight.mean().item() == pytest.approx(0, abs=1e-3)
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
            assert 0.01 < module.weight.std() < 0.03 and not module.bias.any()


@pytest.mark.parametrize("size, channels", [(16, 1), (32, 3), (128, 1)])
def test_other_sizes_and_channels_work(size, channels):
    method = AnoGAN(**SMALLEST | dict(size=size, channels=channels, width=2, search_steps=1)).eval()
    x = images(2, channels, size)
    made = method.G(codes(method, 2))
    assert made.shape == x.shape and made.abs().max() <= 1
    assert method.D.features(x).shape == (2, 2 * size // 8, 4, 4)
    assert method.D(x).shape == (2, 1, 1, 1)
    with torch.no_grad():
        assert method.detect(x).restored.shape == x.shape


@pytest.mark.parametrize("size", [4, 8, 48, 100])
def test_an_impossible_size_is_refused_with_sizes_that_are_possible(size):
    with pytest.raises(ValueError, match=f"the size must be .*; got {size}") as error:
        AnoGAN(size=size, width=2)
    possible = [int(number) for number in re.findall(r"(\d+),", str(error.value))]
    assert len(possible) == 4
    for good in possible:
        with torch.device("meta"):
            AnoGAN(size=good, width=2)


# Training


def test_the_terms_are_cross_entropies_in_numpy():
    method, x = ready().train(), images()
    torch.manual_seed(7)
    (first, of_D), (second, of_G) = method.updates(Batch(x, None, None), 0)
    torch.manual_seed(7)
    made = method.G(torch.randn(4, 8, 1, 1))
    real, generated = method.D(x), method.D(made)
    expected = {"real": cross_entropy(real, 1), "generated": cross_entropy(generated, 0)}
    assert (first, second) == ("D", "G")
    assert {k: v.item() for k, v in of_D.items()} == pytest.approx(expected, rel=1e-4)
    expected = {"adversarial": cross_entropy(generated, 1)}
    assert {k: v.item() for k, v in of_G.items()} == pytest.approx(expected, rel=1e-4)
    assert generated.abs().max() > 0.1, "the labels make a difference"


def test_each_step_updates_the_discriminator_once_and_then_the_generator_once():
    method = AnoGAN(**SMALLEST)
    optimizers, order = method.optimizers(), []
    for step in (4, 5):
        for name, terms in method.updates(normals(), step):
            before = weights(method)
            optimizers[name].zero_grad()
            own = [p for group in optimizers[name].param_groups for p in group["params"]]
            sum(terms.values()).backward(inputs=own)
            optimizers[name].step()
            after = weights(method)
            order.append((name, [k for k in after if not torch.equal(before[k], after[k])]))
    assert order == [("D", ["D"]), ("G", ["G"])] * 2


def test_the_discriminators_update_has_no_graph_into_the_generator():
    method = AnoGAN(**SMALLEST)
    _, terms = next(method.updates(normals(), 0))
    sum(terms.values()).backward()
    assert all(p.grad is None for p in method.G.parameters())
    assert all(p.grad is not None for p in method.D.parameters())


def test_the_generator_asks_the_discriminator_already_updated_about_the_same_images():
    method, data = ready(), normals()
    torch.manual_seed(7)
    updates = method.updates(data, 0)
    next(updates)
    torch.manual_seed(7)
    made = method.G(torch.randn(4, 8, 1, 1))
    before = cross_entropy(method.D(made), 1)
    with torch.no_grad():
        method.D.head.weight *= -1
    after = cross_entropy(method.D(made), 1)
    _, terms = next(updates)
    assert terms["adversarial"].item() == pytest.approx(after, rel=1e-4)
    assert abs(after - before) > 0.01


def test_each_step_draws_codes_of_its_own():
    method, seen = AnoGAN(**SMALLEST), []
    hook = method.G.register_forward_hook(lambda G, inputs, out: seen.append(inputs[0]))
    for step in range(2):
        list(method.updates(normals(images(64)), step))
    hook.remove()
    first, second = seen
    assert first.shape == (64, 8, 1, 1) and not torch.equal(first, second)
    assert first.mean().item() == pytest.approx(0, abs=0.15)
    assert first.std().item() == pytest.approx(1, abs=0.1)


# The search


def search_in_numpy(method, x, steps):
    """z and loss of each image at each step of Adam, with the networks as they are."""
    share, rate = method.lambda_f, method.search_lr
    z = np.tile(method.z0.numpy()[None, :, None, None], (len(x), 1, 1, 1))
    mean, square, zs, losses = 0, 0, [], []
    for step in range(1, steps + 2):
        code = torch.from_numpy(z).requires_grad_()
        restored = method.G(code)
        residual = (x - restored).abs().sum((1, 2, 3))
        features = (method.D.features(x) - method.D.features(restored)).abs().sum((1, 2, 3))
        loss = (1 - share) * residual + share * features
        (gradient,) = torch.autograd.grad(loss.sum(), code)
        zs.append(z)
        losses.append(loss.detach().numpy())
        mean = 0.9 * mean + 0.1 * gradient.numpy()
        square = 0.999 * square + 0.001 * gradient.numpy() ** 2
        slope = mean / (1 - 0.9**step)
        z = z - rate * slope / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return np.array(zs), np.array(losses)


def test_the_search_is_adam_written_out_and_keeps_the_best_step():
    """At a rate this high the loss goes up and down, so that the best step is not the last."""
    method, x = ready(search_lr=0.5, lambda_f=0.3).double(), images(3).double()
    zs, losses = search_in_numpy(method, x, 30)
    best_z, found = method.search(x, range(31))
    best = losses.argmin(0)
    assert (best < 30).any() and (np.diff(losses, axis=0) > 0).any()
    running = np.array([found[step].numpy() for step in range(31)])
    np.testing.assert_allclose(running, np.minimum.accumulate(losses), rtol=1e-6)
    assert (np.diff(running, axis=0) <= 0).all()
    for i in range(3):
        np.testing.assert_allclose(best_z[i].numpy(), zs[best[i], i], rtol=1e-5, atol=1e-7)


def test_the_first_step_moves_every_number_of_z_by_the_rate_against_its_gradient():
    method, x = ready().double(), images(3).double()
    z = method.z0.repeat(3, 1)[..., None, None].requires_grad_()
    restored = method.G(z)
    features = (method.D.features(x) - method.D.features(restored)).abs().sum()
    (gradient,) = torch.autograd.grad(0.9 * (x - restored).abs().sum() + 0.1 * features, z)
    gradient = gradient.numpy()
    expected = z.detach().numpy() - 0.01 * gradient / (np.abs(gradient) + 1e-8)
    moved, found = method.search(x, [0, 1])
    assert (found[1] < found[0]).all()
    np.testing.assert_allclose(moved.numpy(), expected, rtol=1e-8)


def test_every_search_starts_at_the_same_z():
    method, x = ready(search_steps=0), images(3)
    z, found = method.search(x, [0])
    assert torch.equal(z[..., 0, 0], method.z0.expand(3, 8))
    with torch.no_grad():
        restored = method.G(method.z0[None, :, None, None]).expand_as(x)
        torch.testing.assert_close(method.detect(x).restored, restored)
        torch.testing.assert_close(method.detect(x).scores["loss"], found[0])
    assert "z0" in method.state_dict()


def test_an_image_that_the_generator_made_is_found_again():
    method = ready(search_lr=0.1)
    with torch.no_grad():
        x = method.G(codes(method, 3))
        _, found = method.search(x, [0, 5, 20, 100])
    assert x.std() > 0.05
    start, few, some, many = (found[step] for step in (0, 5, 20, 100))
    assert (few < start).all() and (some < few).all() and (many < some).all()
    assert (many < 0.1 * start).all()


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 2, 1]])
def test_images_searched_at_once_are_each_image_searched_alone(order):
    method, x = ready(search_lr=0.2).double(), images(5).double()
    together, found = method.search(x[order], [0, 5, 20])
    for place, i in enumerate(order):
        alone, found_alone = method.search(x[i : i + 1], [0, 5, 20])
        torch.testing.assert_close(together[place], alone[0], rtol=1e-8, atol=1e-8)
        for step in (0, 5, 20):
            torch.testing.assert_close(found[step][place], found_alone[step][0], rtol=1e-9, atol=0)


def test_how_far_the_search_has_come_is_shown(capsys, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    with torch.no_grad():
        ready(search_steps=4).detect(images(3))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"searching z for 3 images: {i} of 5" for i in range(1, 6)
    ]


def test_detection_leaves_weights_gradients_and_modes_as_they_are():
    method, x = ready(), images()
    head = method.D.head.weight
    head.grad = torch.full_like(head, 3)
    method.G[0][0].weight.requires_grad_(False)
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method.detect(x)
        assert not torch.is_grad_enabled()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert [p.shape for p in method.parameters() if p.grad is not None] == [head.shape]
    assert (head.grad == 3).all()
    frozen = [p for p in method.parameters() if not p.requires_grad]
    assert len(frozen) == 1 and frozen[0] is method.G[0][0].weight
    assert not any(module.training for module in method.modules())


def test_detection_works_without_gradients_for_a_single_image_and_has_no_graph():
    method = ready()
    with torch.no_grad():
        found = method.detect(images(1))
    for tensor in (found.map, found.restored, *found.scores.values()):
        assert tensor.isfinite().all() and not tensor.requires_grad
    assert found.map.shape == (1, 32, 32)


def test_the_folded_copy_is_the_network_in_evaluation_mode():
    method = ready().double()
    z, x = codes(method, 3), images(3).double()
    for network, value in ((method.G, z), (method.D.features, x)):
        network.train()
        before = copy.deepcopy(network.state_dict())
        copied = folded(network)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules())
        assert not any(p.requires_grad for p in copied.parameters())
        assert network.training and all(p.requires_grad for p in network.parameters())
        out = copied(value)
        assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
        expected = network.eval()(value)
        assert expected.std() > 0.05
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


# What it says of an image


def test_scores_and_map_are_the_papers_equations_in_numpy():
    method, x = ready(lambda_f=0.3, channels=3), images(3, 3)
    with torch.no_grad():
        found = method.detect(x)
        f_x, f_restored = (method.D.features(a).numpy() for a in (x, found.restored))
    difference = np.abs(x.numpy() - found.restored.numpy())
    residual, features = difference.sum((1, 2, 3)), np.abs(f_x - f_restored).sum((1, 2, 3))
    assert list(found.scores) == ["loss", "residual", "features"]
    for name, expected in (
        ("loss", 0.7 * residual + 0.3 * features),
        ("residual", residual),
        ("features", features),
    ):
        np.testing.assert_allclose(found.scores[name].numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(found.map.numpy(), difference.mean(1) / 2, atol=1e-6)


def test_the_score_is_the_best_loss_of_the_search():
    method, x = ready(search_lr=0.3, search_steps=20), images(3)
    with torch.no_grad():
        score = method.detect(x).scores["loss"]
        _, found = method.search(x, [20])
    torch.testing.assert_close(score, found[20], rtol=1e-4, atol=0)


def test_what_the_generator_cannot_make_raises_all_scores_and_the_map_where_it_is():
    method = ready(search_steps=0)
    with torch.no_grad():
        x = method.G(method.z0[None, :, None, None]).repeat(4, 1, 1, 1)
        x[:, :, 8:16, 10:20] += torch.tensor([0, 0.1, 0.3, 0.6])[:, None, None, None]
        found = method.detect(x)
    for scores in found.scores.values():
        assert scores[0] < 1e-2 and (scores.diff() > 0.1).all()
    expected = torch.zeros(32, 32)
    expected[8:16, 10:20] = 0.15
    torch.testing.assert_close(found.map[2], expected, rtol=0, atol=1e-5)


# Trained for some dozens of steps


@pytest.fixture(scope="module")
def trained():
    """The method before and after."""
    torch.manual_seed(0)
    method = AnoGAN(
        size=32, width=8, latent=8, batch_size=8, steps=60, lr=2e-3, search_steps=30, search_lr=0.1
    )
    before = copy.deepcopy(method).eval()
    fit(method, normals_held_out(), precision="fp32", device="cpu")
    return before, method.eval()


def test_some_dozens_of_steps_bring_normal_images_nearer(trained):
    x = to_float(torch.from_numpy(blobs(8, 1)))
    with torch.no_grad():
        before, after = (method.detect(x).scores["residual"] for method in trained)
    assert (after < before).all() and after.mean() < 0.8 * before.mean()


def test_after_training_the_loss_of_the_search_falls_and_a_square_raises_it(trained):
    method, x = trained[1], to_float(torch.from_numpy(blobs(8, 1)))
    spoilt, square = with_square(x)
    with torch.no_grad():
        _, found = method.search(x, [0, 5, 30])
        normal, abnormal = method.detect(x), method.detect(spoilt)
    assert found[30].mean() < 0.95 * found[5].mean() < 0.95 * found[0].mean()
    for name, scores in abnormal.scores.items():
        assert (scores > normal.scores[name]).all()
    assert abnormal.map[square].mean() > 2 * normal.map[square].mean()
