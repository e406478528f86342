"""GANomaly against NumPy: networks, losses, restarts and what it says of an image."""

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
from nblib.methods.ganomaly import GANomaly
from nblib.training.loop import fit

SMALLEST = SMALL | dict(latent=8)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def ready(**arguments):
    """As after some training: batch norms have seen images, images have contrast, logits differ."""
    method = GANomaly(**SMALLEST | arguments)
    channels = method.D.features[0][0].in_channels
    with torch.no_grad():
        for module in method.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        method.G.decoder[-2].weight *= 20
        for encoder in (method.G.encoder, method.G.second_encoder, method.D):
            encoder.head.weight *= 10
        for _ in range(30):
            _, restored, _ = method.G(images(8, channels))
            method.D(restored)
    return method.eval()


# What it is made of


def test_the_published_networks_have_the_parameters_that_one_counts_by_hand():
    """A convolution has in x out x 4 x 4 weights, no bias; a batch norm two numbers a channel."""
    with torch.device("meta"):
        method = GANomaly()
    trunk = 1 * 64 * 16
    trunk += 64 * 128 * 16 + 2 * 128
    trunk += 128 * 256 * 16 + 2 * 256
    trunk += 256 * 512 * 16 + 2 * 512
    encoder = trunk + 512 * 100 * 16
    decoder = 100 * 512 * 16 + 2 * 512
    decoder += 512 * 256 * 16 + 2 * 256
    decoder += 256 * 128 * 16 + 2 * 128
    decoder += 128 * 64 * 16 + 2 * 64
    decoder += 64 * 1 * 16
    parts = (method.G.encoder, method.G.decoder, method.G.second_encoder, method.D)
    assert [parameters(p) for p in parts] == [encoder, decoder, encoder, trunk + 512 * 1 * 16]
    assert parameters(method) == 2 * encoder + decoder + trunk + 512 * 16


@pytest.mark.parametrize(
    "size, G, D",
    [(32, 3_200_384, 661_248), (64, 10_723_712, 2_763_520), (128, 38_353_280, 11_162_368)],
)
def test_the_networks_have_the_published_number_of_parameters(size, G, D):
    with torch.device("meta"):
        method = GANomaly(size=size)
    assert (parameters(method.G), parameters(method.D)) == (G, D)


def test_the_published_model_has_the_published_settings():
    settings = {k: p.default for k, p in inspect.signature(GANomaly).parameters.items()}
    assert settings == dict(
        size=64, channels=1, width=64, latent=100, w_adv=1, w_con=50, w_enc=1, lr=2e-4,
        batch_size=64, steps=30_000, decay=1,
    )  # fmt: skip
    for optimizer in GANomaly(**SMALLEST).optimizers().values():
        assert isinstance(optimizer, torch.optim.Adam)
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)
        assert optimizer.param_groups[0]["lr"] == 2e-4


def test_the_published_networks_have_maps_of_the_published_shapes():
    down = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    with torch.device("meta"):
        method = GANomaly()
        for network in (method.G.encoder, method.G.second_encoder, method.D):
            x, shapes = torch.zeros(2, 1, 64, 64), []
            for layer in network.features:
                x = layer(x)
                shapes.append(tuple(x.shape[1:]))
            assert shapes == down
            assert network.head(x).shape == (2, 1 if network is method.D else 100, 1, 1)
        x, shapes = torch.zeros(2, 100, 1, 1), []
        for layer in method.G.decoder:
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
        assert shapes[:-1] == [*down[::-1], (1, 64, 64)]


def test_no_convolution_has_a_bias():
    layers = [
        module
        for module in GANomaly(**SMALLEST).modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    assert len(layers) == 4 * 4 and all(layer.bias is None for layer in layers)


def assert_fresh(network):
    """Convolutions ~ N(0, 0.02^2), scales of batch norms ~ N(1, 0.02^2), shifts 0."""
    checked = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 4000:
            assert module.weight.mean().item() == pytest.approx(0, abs=1e-3)
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            outside = (module.weight.abs() > 0.04).float().mean().item()
            assert outside == pytest.approx(0.0455, abs=0.015)
            checked += 1
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
            assert 0.01 < module.weight.std() < 0.03 and not module.bias.any()
    assert checked


def test_weights_start_as_normal_numbers_of_deviation_002():
    assert_fresh(GANomaly(**SMALLEST | dict(width=16)))


@pytest.mark.parametrize("size, channels", [(16, 1), (32, 3), (128, 1)])
def test_other_sizes_and_channels_work(size, channels):
    method = GANomaly(**SMALLEST | dict(size=size, channels=channels, width=2)).eval()
    x = images(2, channels, size)
    z, restored, again = method.G(x)
    assert restored.shape == x.shape and restored.abs().max() <= 1
    assert z.shape == again.shape == (2, 8, 1, 1) and method.D(x).shape == (2, 1, 1, 1)


@pytest.mark.parametrize("size", [4, 8, 48, 100])
def test_an_impossible_size_is_refused_with_sizes_that_are_possible(size):
    with pytest.raises(ValueError, match=f"the size must be .*; got {size}") as error:
        GANomaly(size=size, width=2)
    possible = [int(number) for number in re.findall(r"(\d+),", str(error.value))]
    assert len(possible) == 4
    for good in possible:
        with torch.device("meta"):
            GANomaly(size=good, width=2)


def test_the_two_codes_are_those_of_the_image_and_of_its_restoration():
    method, x = ready(), images()
    z, restored, again = method.G(x)
    torch.testing.assert_close(z, method.G.encoder(x))
    torch.testing.assert_close(restored, method.G.decoder(z))
    torch.testing.assert_close(again, method.G.second_encoder(restored))
    assert not torch.allclose(again, method.G.encoder(restored), rtol=0.1)
    assert method.codes(x).shape == (4, 8)
    torch.testing.assert_close(method.codes(x), z[..., 0, 0])


# Training


def test_the_terms_are_the_thesis_equations_in_numpy():
    method, x = ready(w_adv=2.0, w_con=3.0, w_enc=5.0).train(), images()
    (first, of_G), (second, of_D) = method.updates(normals(x), 1)
    z, restored, again = method.G(x)
    difference = method.D.features(x) - method.D.features(restored)
    real, generated = method.D(x), method.D(restored)
    assert (first, second) == ("G", "D")
    expected = {
        "adversarial": 2 * (difference.detach().numpy() ** 2).mean(),
        "contextual": 3 * np.abs(x.numpy() - restored.detach().numpy()).mean(),
        "encoder": 5 * ((z - again).detach().numpy() ** 2).mean(),
    }
    assert {k: v.item() for k, v in of_G.items()} == pytest.approx(expected, rel=1e-4)
    expected = {
        "real": cross_entropy(real, 1) / 2,
        "generated": cross_entropy(generated, 0) / 2,
    }
    assert {k: v.item() for k, v in of_D.items()} == pytest.approx(expected, rel=1e-4)
    assert min(real.abs().max(), generated.abs().max()) > 0.1, "the labels make a difference"


def test_each_step_updates_the_generator_once_and_then_the_discriminator_once():
    method = GANomaly(**SMALLEST)
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
    assert order == [("G", ["G"]), ("D", ["D"])] * 2


def test_the_discriminators_update_has_no_graph_into_the_generator():
    method = GANomaly(**SMALLEST)
    _, (_, terms) = method.updates(normals(images()), 1)
    sum(terms.values()).backward()
    assert all(p.grad is None for p in method.G.parameters())
    assert all(p.grad is not None for p in method.D.parameters())


def test_the_discriminators_terms_are_of_images_made_before_the_generators_update():
    method, x = ready(), images()
    updates = method.updates(normals(x), 1)
    next(updates)
    before = cross_entropy(method.D(method.G(x)[1]), 0) / 2
    with torch.no_grad():
        method.G.decoder[-2].weight *= -1
    after = cross_entropy(method.D(method.G(x)[1]), 0) / 2
    _, terms = next(updates)
    assert terms["generated"].item() == pytest.approx(before, rel=1e-4)
    assert abs(after - before) > 0.01 * before


# Restarts of the discriminator


def telling(method, x, logit):
    """Give D a last layer that calls each x real and each x' generated, by this logit."""
    with torch.no_grad():
        shown = torch.cat([x, method.G(x)[1]])
        features = method.D.features(shown).flatten(1).double().numpy()
        wanted = np.repeat([logit, -logit], len(x))
        solved = np.linalg.lstsq(features, wanted)[0]
        method.D.head.weight.copy_(torch.from_numpy(solved).view_as(method.D.head.weight))
        found = method.D(shown).flatten().numpy()
    np.testing.assert_allclose(found, wanted, atol=0.02)


@pytest.mark.parametrize(
    "step, logit, restarts",
    [
        (0, 11.6, True),
        (10, 11.6, True),
        (20, 30, True),
        *((step, 30, False) for step in (1, 5, 9, 11, 15)),
        (0, 11.4, False),
        (10, 11.4, False),
        (10, 0.5, False),
        (10, -30, False),
    ],
)
def test_the_discriminator_starts_afresh_where_its_loss_is_below_1e5_at_a_tenth_step(
    step, logit, restarts
):
    """Its loss is then log(1 + exp(-logit)): 1e-5 at a logit of 11.51."""
    method, x = ready(width=8), images()
    telling(method, x, logit)
    before = weights(method)
    updates = method.updates(normals(x), step)
    next(updates)
    _, terms = next(updates)
    loss = sum(terms.values()).item()
    assert loss == pytest.approx(np.logaddexp(0, -logit), rel=0.05)
    assert torch.equal(before["D"], weights(method)["D"]), "not before its update"
    assert next(updates, None) is None
    after = weights(method)
    assert torch.equal(before["G"], after["G"])
    assert torch.equal(before["D"], after["D"]) is not restarts
    if restarts:
        assert_fresh(method.D)


# What it says of an image


def test_scores_and_map_are_the_papers_formulas_in_numpy():
    method, x = ready(channels=3), images(3, 3)
    with torch.no_grad():
        found = method.detect(x)
        z, restored, again = (a.numpy() for a in method.G(x))
    map = np.abs(x.numpy() - restored).mean(1) / 2
    expected = {"latent": ((z - again) ** 2).mean((1, 2, 3)), "residual": map.mean((1, 2))}
    assert list(found.scores) == list(expected)
    for name, value in expected.items():
        assert value.min() > 1e-3
        np.testing.assert_allclose(found.scores[name].numpy(), value, rtol=1e-4)
    np.testing.assert_allclose(found.map.numpy(), map, atol=1e-6)
    np.testing.assert_allclose(found.restored.numpy(), restored, atol=1e-6)


def test_scores_hang_on_the_batch_in_training_mode_alone():
    """The authors score in training mode: the other images change a score there."""
    method, x = ready(), images(4)
    others = x.clone()
    others[1:] = 0.2 * others[1:] + 0.7

    def changes():
        with torch.no_grad():
            one, other, alone = (method.detect(a).scores for a in (x, others, x[:1]))
        return [
            abs(scores[name][0] / one[name][0] - 1).item()
            for name in one
            for scores in (other, alone)
        ]

    assert max(changes()) < 1e-5
    method.train()
    assert min(changes()) > 0.01 and max(changes()) > 0.1


# Trained for some dozens of steps


def test_some_dozens_of_steps_let_the_reconstruction_fall_and_a_square_raise_residual_and_map():
    method = GANomaly(**SMALLEST | dict(batch_size=8, steps=60, lr=2e-3))
    history = fit(method, normals_held_out(), precision="fp32", device="cpu")
    loss = history["G.contextual"]
    assert loss.iloc[-5:].mean() < 0.4 * loss.iloc[:3].mean()
    method.eval()
    x = to_float(torch.from_numpy(blobs(8, 1)))
    spoilt, square = with_square(x)
    with torch.no_grad():
        normal, abnormal = method.detect(x), method.detect(spoilt)
    assert (x - normal.restored).abs().mean() < 0.5 * loss.iloc[0] / 50
    assert abnormal.scores["residual"].mean() > normal.scores["residual"].mean()
    assert abnormal.map[square].mean() > 2 * normal.map[square].mean()
