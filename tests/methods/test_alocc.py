"""ALOCC against NumPy: networks, noise, losses, when it stops and what it says of an image."""

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
from nblib.data.batches import to_float
from nblib.methods.alocc import ALOCC
from nblib.training.loop import fit


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def ready(**arguments):
    """As after some training: batch norms have seen images, images have contrast, logits differ."""
    method = ALOCC(**SMALL | arguments)
    channels = method.D[0][0].in_channels
    with torch.no_grad():
        for module in method.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        method.R.layers[-2].weight *= 5
        method.D[-1].weight *= 10
        for _ in range(30):
            method.D(method.R(images(8, channels)))
    return method.eval()


# What it is made of


def test_the_published_networks_have_the_parameters_that_one_counts_by_hand():
    """A convolution has in x out x 5 x 5 weights, a batch norm two numbers a channel."""
    with torch.device("meta"):
        method = ALOCC()
    R = 1 * 128 * 25 + 2 * 128
    R += 128 * 256 * 25 + 2 * 256
    R += 256 * 512 * 25 + 2 * 512
    R += 512 * 128 * 25 + 2 * 128
    R += 128 * 64 * 25 + 2 * 64
    R += 64 * 1 * 25 + 1
    D = 1 * 64 * 25
    D += 64 * 128 * 25 + 2 * 128
    D += 128 * 256 * 25 + 2 * 256
    D += 256 * 512 * 25 + 2 * 512
    D += 512 * 4 * 4 + 1
    assert (parameters(method.R), parameters(method.D)) == (R, D)
    assert parameters(method) == R + D


def test_the_published_networks_have_maps_of_the_published_shapes():
    with torch.device("meta"):
        method = ALOCC()
        x, shapes = torch.zeros(2, 1, 64, 64), []
        for layer in method.R.layers[:-1]:
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
        down = [(128, 32, 32), (256, 16, 16), (512, 8, 8)]
        assert shapes == [*down, (128, 16, 16), (64, 32, 32), (1, 64, 64)]
        assert isinstance(method.R.layers[-1], nn.Tanh)
        shapes = []
        for layer in method.D[:4]:
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
        assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
        assert method.D[4:](x).shape == (2, 1)


def test_the_published_model_has_the_published_settings():
    settings = {k: p.default for k, p in inspect.signature(ALOCC).parameters.items()}
    assert settings.pop("rho") > 0
    assert settings == dict(
        size=64, channels=1, width=64, noise=0.155, lambda_r=0.4, lr=2e-4, batch_size=128,
        steps=30_000, decay=1,
    )  # fmt: skip
    for optimizer in ALOCC(**SMALL).optimizers().values():
        assert isinstance(optimizer, torch.optim.RMSprop)
        assert optimizer.param_groups[0]["lr"] == 2e-4


def test_weights_start_as_normal_numbers_of_deviation_002():
    for module in ALOCC(**SMALL | dict(width=16)).modules():
        layer = isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        if layer and module.weight.numel() > 5000:
            assert module.weight.mean().item() == pytest.approx(0, abs=1e-3)
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("size, channels", [(16, 1), (32, 3), (48, 1), (128, 1)])
def test_other_sizes_and_channels_work(size, channels):
    method = ALOCC(**SMALL | dict(size=size, channels=channels, width=2)).eval()
    x = images(2, channels, size)
    restored = method.R(x)
    assert restored.shape == x.shape and restored.abs().max() <= 1
    assert method.D(x).shape == (2, 1)


@pytest.mark.parametrize("size", [8, 24, 40, 100])
def test_an_impossible_size_is_refused_with_sizes_that_are_possible(size):
    with pytest.raises(ValueError, match=f"halves images four times: .*; got {size}") as error:
        ALOCC(size=size)
    possible = [int(number) for number in re.findall(r"(\d+),", str(error.value))]
    assert len(possible) == 4
    for good in possible:
        assert ALOCC(size=good, width=1).D(images(2, 1, good)).shape == (2, 1)


# Noise


def seen_by(network, call):
    """What the network is shown while `call` runs."""
    seen = []
    hook = network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    call()
    hook.remove()
    return seen


def test_the_noise_is_normal_of_the_given_deviation():
    method, grey = ALOCC(**SMALL), torch.zeros(16, 1, 32, 32)
    (noisy,) = seen_by(method.R, lambda: list(method.updates(normals(grey), 0)))
    assert noisy.mean().item() == pytest.approx(0, abs=0.01)
    assert noisy.std().item() == pytest.approx(0.155, rel=0.03)
    assert (noisy.abs() < 0.155).float().mean().item() == pytest.approx(0.6827, abs=0.02)
    assert (noisy.abs() < 0.31).float().mean().item() == pytest.approx(0.9545, abs=0.01)


def test_noisy_images_stay_in_the_range_of_images():
    method = ALOCC(**SMALL, noise=0.5)
    x = torch.tensor([-1.0, 1])[:, None, None, None].expand(2, 1, 32, 32)
    (noisy,) = seen_by(method.R, lambda: list(method.updates(normals(x), 0)))
    assert noisy.min() == -1 and noisy.max() == 1
    for image, edge in zip(noisy, (-1, 1), strict=True):
        assert (image == edge).float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_each_step_and_each_image_has_noise_of_its_own():
    method, grey = ALOCC(**SMALL), torch.zeros(2, 1, 32, 32)
    steps = [seen_by(method.R, lambda: list(method.updates(normals(grey), 0))) for _ in range(2)]
    (one,), (two,) = steps
    assert not torch.equal(one, two) and not torch.equal(one[0], one[1])
    both = torch.stack([one.flatten(), two.flatten()])
    assert torch.corrcoef(both)[0, 1].abs() < 0.1


def test_scoring_and_stopping_see_no_noise():
    method, x = ready(), images()
    with torch.no_grad():
        assert torch.equal(*seen_by(method.R, lambda: method.detect(x)), x)
        assert torch.equal(*seen_by(method.R, lambda: method.enough(x)), x)


# Training


def test_the_terms_are_cross_entropies_and_the_squared_error_against_the_clean_image_in_numpy():
    method, x = ready(lambda_r=3.0).train(), images()
    torch.manual_seed(7)
    (first, of_D), (second, of_R) = method.updates(normals(x), 0)
    torch.manual_seed(7)
    noisy = np.clip(x.numpy() + np.float32(0.155) * torch.randn(x.shape).numpy(), -1, 1)
    restored = method.R(torch.from_numpy(noisy))
    real, generated = method.D(x), method.D(restored)
    assert (first, second) == ("D", "R")
    expected = {"real": cross_entropy(real, 1), "generated": cross_entropy(generated, 0)}
    assert {k: v.item() for k, v in of_D.items()} == pytest.approx(expected, rel=1e-4)
    error = (x.numpy() - restored.detach().numpy()) ** 2
    expected = {"adversarial": cross_entropy(generated, 1), "reconstruction": 3 * error.mean()}
    assert {k: v.item() for k, v in of_R.items()} == pytest.approx(expected, rel=1e-4)
    assert min(real.abs().max(), generated.abs().max()) > 0.1, "the labels make a difference"


def test_each_step_updates_the_discriminator_once_and_then_the_refiner_once():
    method = ALOCC(**SMALL)
    optimizers, order = method.optimizers(), []
    for step in (4, 5):
        for name, terms in method.updates(normals(images()), step):
            before = weights(method)
            optimizers[name].zero_grad()
            own = [p for group in optimizers[name].param_groups for p in group["params"]]
            sum(terms.values()).backward(inputs=own)
            optimizers[name].step()
            after = weights(method)
            order.append((name, [k for k in after if not torch.equal(before[k], after[k])]))
    assert order == [("D", ["D"]), ("R", ["R"])] * 2


def test_the_discriminators_update_has_no_graph_into_the_refiner():
    method = ALOCC(**SMALL)
    _, terms = next(method.updates(normals(images()), 0))
    sum(terms.values()).backward()
    assert all(p.grad is None for p in method.R.parameters())
    assert all(p.grad is not None for p in method.D.parameters())


def test_the_refiner_asks_the_discriminator_already_updated_about_the_same_images():
    method, x = ready(noise=0.0), images()
    updates = method.updates(normals(x), 0)
    next(updates)
    before = cross_entropy(method.D(method.R(x)), 1)
    with torch.no_grad():
        method.D[-1].weight *= -1
    after = cross_entropy(method.D(method.R(x)), 1)
    _, terms = next(updates)
    assert terms["adversarial"].item() == pytest.approx(after, rel=1e-4)
    assert abs(after - before) > 0.01


# When it stops


def test_enough_is_a_mean_squared_held_out_error_below_rho():
    method, x = ready(), images(5)
    with torch.no_grad():
        error = ((x.numpy() - method.R(x).numpy()) ** 2).mean()
        for rho, stop in ((1.01 * error, True), (0.99 * error, False), (0, False), (100, True)):
            method.rho = float(rho)
            assert method.enough(x) is stop


def test_a_rho_of_zero_never_stops_even_without_any_error():
    method, x = ready(rho=0.0), images()
    method.R = nn.Identity()
    with torch.no_grad():
        assert not method.enough(x)
        method.rho = 1e-9
        assert method.enough(x)


@pytest.mark.parametrize("rho, steps", [(100.0, 4), (0.0, 8)])
def test_a_training_stops_at_the_first_checkpoint_where_rho_is_large_and_never_at_zero(rho, steps):
    method = ALOCC(**SMALL, rho=rho)
    history = fit(method, normals_held_out(), precision="fp32", device="cpu")
    assert history["step"].iloc[-1] == steps


# What it says of an image


def test_scores_and_map_are_the_papers_formulas_in_numpy_and_occ2_comes_first():
    method, x = ready(channels=3), images(3, 3)
    with torch.no_grad():
        found, restored = method.detect(x), method.R(x)
        of_x, of_restored = method.D(x).numpy()[:, 0], method.D(restored).numpy()[:, 0]
    map = np.abs(x.numpy() - restored.numpy()).mean(1) / 2
    expected = {"OCC2": -of_restored, "OCC1": -of_x, "residual": map.mean((1, 2))}
    assert list(found.scores) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found.scores[name].numpy(), value, rtol=1e-4, atol=1e-5)
    assert np.abs(of_x - of_restored).min() > 1e-3
    np.testing.assert_allclose(found.map.numpy(), map, atol=1e-6)
    np.testing.assert_allclose(found.restored.numpy(), restored.numpy(), atol=1e-6)


def test_an_image_that_the_discriminator_takes_for_real_is_less_abnormal():
    method, x = ready(), images(3)
    with torch.no_grad():
        before = method.detect(x).scores
        method.D[-1].bias += 1
        after = method.detect(x).scores
    for name in ("OCC1", "OCC2"):
        torch.testing.assert_close(after[name], before[name] - 1)


# Trained for some dozens of steps


def test_some_dozens_of_steps_let_the_reconstruction_fall_and_a_square_raise_residual_and_map():
    method = ALOCC(size=32, width=8, batch_size=8, steps=50, lr=5e-3, rho=0.0)
    history = fit(method, normals_held_out(), precision="fp32", device="cpu")
    loss = history["R.reconstruction"]
    assert loss.iloc[-5:].mean() < 0.35 * loss.iloc[:3].mean()
    method.eval()
    x = to_float(torch.from_numpy(blobs(8, 1)))
    spoilt, square = with_square(x)
    with torch.no_grad():
        normal, abnormal = method.detect(x), method.detect(spoilt)
    assert (x - normal.restored).square().mean() < 0.25 * loss.iloc[0] / 0.4
    assert abnormal.scores["residual"].mean() > normal.scores["residual"].mean()
    assert abnormal.map[square].mean() > 2 * normal.map[square].mean()
