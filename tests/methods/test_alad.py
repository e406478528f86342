"""ALAD against NumPy: networks, spectral norm, losses, moving averages and scores."""

import inspect
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, leaky_relu
from torch.nn.utils.parametrize import is_parametrized

from helpers import (
    SMALL,
    blobs,
    cross_entropy,
    images,
    normals_held_out,
    parameters,
    weights,
    with_square,
)
from nblib.data.batches import Batch, to_float
from nblib.methods.alad import ALAD, PairXX
from nblib.training.loop import fit

SMALLEST = SMALL | dict(latent=8)
NETWORKS = ("E", "G", "D_xz", "D_xx", "D_zz")
SCORING = ("E", "G", "D_xx")
LAYERS = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def codes(count):
    return torch.randn(count, 8, 1, 1)


def ready(**arguments):
    """As after some training: batch norms have seen images, logits differ; averages are copies."""
    method = ALAD(**SMALLEST | arguments)
    channels = method.G[-2].out_channels
    with torch.no_grad():
        for module in method.modules():
            if isinstance(module, LAYERS) and not is_parametrized(module):
                module.weight *= 30
        for _ in range(20):
            x, z = images(8, channels), codes(8)
            method.D_xz(method.G(method.E(x)), z)
    method.after_step(0)
    return method.eval()


# What it is made of


def test_the_published_networks_have_the_parameters_that_one_counts_by_hand():
    """4 x 4 convolutions of E, G and D_xz have no bias but E's last; batch norms have 2 numbers."""

    def linear(cin, cout):
        return cin * cout + cout

    method = ALAD()
    trunk = 1 * 64 * 16 + 64 * 128 * 16 + 128 * 256 * 16 + 256 * 512 * 16
    trunk += 2 * (128 + 256 + 512)
    E = trunk + 2 * 64 + 512 * 100 * 16 + 100
    G = 100 * 512 * 16 + 512 * 256 * 16 + 256 * 128 * 16 + 128 * 64 * 16 + 64 * 1 * 16
    G += 2 * (512 + 256 + 128 + 64)
    D_xz = trunk + linear(100, 512) + linear(512, 512)
    D_xz += linear(512 * 4 * 4 + 512, 1024) + linear(1024, 1)
    D_xx = 2 * 64 * 25 + 64 + 64 * 128 * 25 + 128 + linear(128 * 16 * 16, 1)
    D_zz = linear(2 * 100, 64) + linear(64, 32) + linear(32, 1)
    counted = dict(zip(NETWORKS, (E, G, D_xz, D_xx, D_zz), strict=True))
    assert {name: parameters(getattr(method, name)) for name in NETWORKS} == counted
    assert {k: parameters(v) for k, v in method.averages.items()} == dict(E=E, G=G, D_xx=D_xx)
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == sum(counted.values())


def test_the_published_model_has_the_published_settings():
    settings = {k: p.default for k, p in inspect.signature(ALAD).parameters.items()}
    assert settings == dict(
        size=64, channels=1, width=64, latent=100, average=0.999, stacked=False, lr=2e-4,
        batch_size=32, steps=30_000, decay=1,
    )  # fmt: skip
    for optimizer in ALAD(**SMALLEST).optimizers().values():
        assert isinstance(optimizer, torch.optim.Adam)
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)
        assert optimizer.param_groups[0]["lr"] == 2e-4


def test_the_encoder_halves_its_maps_the_generator_doubles_them():
    method, x = ALAD(**SMALLEST | dict(size=64)), images(2, 1, 64)
    shapes = []
    for layer in method.E[0]:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]
    z = method.E[1](x)
    assert z.shape == (2, 8, 1, 1)
    shapes = []
    for layer in method.G:
        z = layer(z)
        shapes.append(tuple(z.shape[1:]))
    assert shapes[:-1] == [(32, 4, 4), (16, 8, 8), (8, 16, 16), (4, 32, 32), (1, 64, 64)]


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("size, channels", [(16, 1), (32, 3), (128, 1)])
def test_other_sizes_and_channels_work(size, channels, stacked):
    small = SMALLEST | dict(size=size, channels=channels, width=2, stacked=stacked)
    method, x, z = ALAD(**small).eval(), images(2, channels, size), codes(2)
    made, code = method.G(z), method.E(x)
    assert made.shape == x.shape and made.abs().max() <= 1 and code.shape == z.shape
    assert method.D_xz(x, z).shape == method.D_xx(x, made).shape == method.D_zz(z, code).shape
    assert method.D_xz(x, z).shape == (2, 1)
    with torch.no_grad():
        assert method.detect(x).restored.shape == x.shape


@pytest.mark.parametrize("size", [4, 8, 48, 100])
def test_an_impossible_size_is_refused_with_sizes_that_are_possible(size):
    with pytest.raises(ValueError, match=f"the size must be .*; got {size}") as error:
        ALAD(size=size, width=2)
    possible = [int(number) for number in re.findall(r"(\d+),", str(error.value))]
    assert len(possible) == 4
    for good in possible:
        ALAD(size=good, width=1)


def test_weights_start_as_normal_numbers_of_deviation_001_and_biases_at_zero():
    method = ALAD(**SMALLEST | dict(width=16))
    for name in NETWORKS:
        for layer in getattr(method, name).modules():
            if not isinstance(layer, LAYERS):
                continue
            assert layer.bias is None or not layer.bias.any()
            normed = is_parametrized(layer)
            weight = layer.parametrizations.weight.original if normed else layer.weight
            if weight.numel() > 5000:
                assert weight.mean().item() == pytest.approx(0, abs=5e-4)
                assert weight.std().item() == pytest.approx(0.01, rel=0.05)


# Pairs of images


@pytest.mark.parametrize("stacked, axis, features", [(False, 1, 8 * 8 * 8), (True, 2, 8 * 16 * 8)])
def test_a_pair_is_two_channels_or_stacked_along_the_height(stacked, axis, features):
    D, x, other = PairXX(32, 1, 4, stacked).eval(), images(3), images(3)
    first, second = (layer for layer in D.features if isinstance(layer, nn.Conv2d))
    assert first.weight.shape == (4, 1 if stacked else 2, 5, 5)
    assert second.weight.shape == (8, 4, 5, 5)
    h = torch.cat([x, other], axis)
    for layer in (first, second):
        h = leaky_relu(conv2d(h, layer.weight, layer.bias, stride=2, padding=2), 0.2)
    assert h.shape[2:] == ((16, 8) if stacked else (8, 8))
    f = D.pair(x, other)
    assert f.shape == (3, features)
    torch.testing.assert_close(f, h.flatten(1))
    expected = f @ D.head.weight.T + D.head.bias
    torch.testing.assert_close(D(x, other), expected)


def test_stacked_pairs_at_the_published_size_have_twice_the_features():
    D = PairXX(64, 1, 64, stacked=True)
    assert D.head.in_features == 2 * 128 * 16 * 16
    count = 1 * 64 * 25 + 64 + 64 * 128 * 25 + 128 + 2 * 128 * 16 * 16 + 1
    assert parameters(D) == count


# Spectral norm


def test_spectral_norm_is_on_all_layers_but_the_last_and_not_on_the_generator():
    normed = {
        name: [is_parametrized(m) for m in network.modules() if isinstance(m, LAYERS)]
        for name, network in ALAD(**SMALLEST).named_children()
        if name in NETWORKS
    }
    assert normed == {
        "E": [True] * 3 + [False],
        "G": [False] * 4,
        "D_xz": [True] * 6 + [False],
        "D_xx": [True] * 2 + [False],
        "D_zz": [True] * 2 + [False],
    }
    assert not is_parametrized(ALAD(**SMALLEST).D_xz.head)


def largest_singular_values(method):
    matrices = [
        layer.weight.detach().flatten(1).numpy()
        for name in NETWORKS
        for layer in getattr(method, name).modules()
        if isinstance(layer, LAYERS) and is_parametrized(layer)
    ]
    return np.array([np.linalg.svd(m, compute_uv=False)[0] for m in matrices])


def test_passes_in_training_mode_bring_the_largest_singular_value_of_normed_layers_to_one():
    """One power iteration a pass; none in evaluation mode."""
    method, x, z = ALAD(**SMALLEST), images(2), codes(2)
    with torch.no_grad():
        for name in NETWORKS:
            for p in getattr(method, name).parameters():
                p += 0.05 * torch.randn_like(p)

    def passes():
        with torch.no_grad():
            for _ in range(40):
                method.D_xz(x, method.E(x))
                method.D_xx(x, x)
                method.D_zz(z, z)
        return largest_singular_values(method)

    method.eval()
    before = passes()
    assert len(before) == 13 and (before > 1.05).all()
    method.train()
    np.testing.assert_allclose(passes(), 1, atol=0.02)


# Training


def test_the_terms_are_cross_entropies_in_numpy_with_the_labels_swapped_for_g_and_e():
    """The discriminators learn from the first half of the batch, G and E from the other."""
    method, x = ready(), images(8)
    torch.manual_seed(7)
    updates = dict(method.updates(Batch(x, None, None), 0))
    torch.manual_seed(7)
    logits = []
    for half in x[:4], x[4:]:
        z = codes(4)
        code, made = method.E(half), method.G(z)
        pairs = dict(
            D_xz=((half, code), (made, z)),
            D_xx=((half, half), (half, method.G(code))),
            D_zz=((z, z), (z, method.E(made))),
        )
        logits.append({name: [getattr(method, name)(*p) for p in pairs[name]] for name in pairs})
    expected = {
        name: dict(real=cross_entropy(real, 1), generated=cross_entropy(generated, 0))
        for name, (real, generated) in logits[0].items()
    }
    swapped = {}
    for name, (real, generated) in logits[1].items():
        swapped |= {f"{name}_real": cross_entropy(real, 0)}
        swapped |= {f"{name}_generated": cross_entropy(generated, 1)}
    expected["GE"] = swapped
    found = {k: {term: v.item() for term, v in terms.items()} for k, terms in updates.items()}
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    for real, generated in logits[1].values():
        assert min(real.abs().max(), generated.abs().max()) > 0.01, "the labels make a difference"


def test_a_batch_holds_a_half_for_the_discriminators_and_another_for_g_and_e():
    assert ALAD(**SMALLEST).batch_size == 2 * SMALLEST["batch_size"]
    method, x = ready(), images(8)
    found = []
    for change in slice(0, 0), slice(0, 4), slice(4, 8):
        changed = x.clone()
        changed[change] *= -1
        torch.manual_seed(7)
        updates = method.updates(Batch(changed, None, None), 0)
        found.append({f"{k}.{t}": v.item() for k, terms in updates for t, v in terms.items()})
    whole, first, second = found
    of_x = {"D_xz.real", "D_xx.real", "D_xx.generated"}
    assert {k for k in whole if whole[k] != first[k]} == of_x
    of_x = {"GE.D_xz_real", "GE.D_xx_real", "GE.D_xx_generated"}
    assert {k for k in whole if whole[k] != second[k]} == of_x


def test_each_step_updates_every_discriminator_once_and_then_g_and_e_together():
    method = ALAD(**SMALLEST)
    optimizers, order = method.optimizers(), []
    for step in (4, 5):
        for name, terms in method.updates(Batch(images(8), None, None), step):
            before = weights(method)
            optimizers[name].zero_grad()
            own = [p for group in optimizers[name].param_groups for p in group["params"]]
            sum(terms.values()).backward(inputs=own)
            optimizers[name].step()
            after = weights(method)
            order.append((name, {k for k in after if not torch.equal(before[k], after[k])}))
    once = [("D_xz", {"D_xz"}), ("D_xx", {"D_xx"}), ("D_zz", {"D_zz"}), ("GE", {"G", "E"})]
    assert order == once * 2


def reached(method, loss):
    """The networks that a gradient of the loss reaches."""
    method.zero_grad()
    if loss.requires_grad:
        loss.backward(retain_graph=True)
    return {
        name
        for name in NETWORKS
        if any(p.grad is not None and p.grad.any() for p in getattr(method, name).parameters())
    }


def test_no_discriminators_update_has_a_graph_into_g_or_e():
    method = ALAD(**SMALLEST)
    for name, terms in method.updates(Batch(images(8), None, None), 0):
        if name != "GE":
            assert reached(method, sum(terms.values())) == {name}


def test_the_pair_with_e_moves_e_alone_the_pair_with_g_moves_g_alone_and_the_cycles_both():
    method = ready()
    terms = dict(method.updates(Batch(images(8), None, None), 0))["GE"]
    moved = {name: reached(method, loss) & {"G", "E"} for name, loss in terms.items()}
    assert moved == {
        "D_xz_real": {"E"},
        "D_xz_generated": {"G"},
        "D_xx_real": set(),
        "D_xx_generated": {"G", "E"},
        "D_zz_real": set(),
        "D_zz_generated": {"G", "E"},
    }


def test_g_and_e_ask_the_discriminators_already_updated():
    method, x = ready(), images(8)
    torch.manual_seed(7)
    updates = method.updates(Batch(x, None, None), 0)
    for _ in range(3):
        next(updates)
    before = cross_entropy(method.D_xx(x[4:], x[4:]), 0)
    with torch.no_grad():
        method.D_xx.head.weight *= -1
    after = cross_entropy(method.D_xx(x[4:], x[4:]), 0)
    _, terms = next(updates)
    assert terms["D_xx_real"].item() == pytest.approx(after, rel=1e-4)
    assert abs(after - before) > 0.001


# Moving averages


def test_the_averages_start_as_a_copy_and_then_follow_the_recursion():
    method = ALAD(**SMALLEST, average=0.75)
    expected = {}
    for step in range(5):
        with torch.no_grad():
            for p in method.parameters():
                if p.requires_grad:
                    p += 0.1 * torch.randn_like(p)
        method.after_step(step)
        for name in SCORING:
            for key, p in getattr(method, name).named_parameters():
                new, old = p.detach().numpy().copy(), expected.get((name, key))
                expected[name, key] = new if old is None else 0.75 * old + 0.25 * new
        found = {
            (name, key): p.numpy()
            for name in SCORING
            for key, p in method.averages[name].module.named_parameters()
        }
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
    assert not any(p.requires_grad for p in method.averages.parameters())


def test_the_buffers_of_the_averages_are_those_of_the_networks_themselves():
    method, x = ALAD(**SMALLEST), images(8)
    for step in range(3):
        with torch.no_grad():
            method.D_xx(x, method.G(method.E(x)))
        method.after_step(step)
        for name in SCORING:
            own = dict(getattr(method, name).named_buffers())
            average = dict(method.averages[name].module.named_buffers())
            assert own.keys() == average.keys() and len(own) > 2
            assert all(torch.equal(own[key], average[key]) for key in own)
    assert method.E[0][0][1].num_batches_tracked == 3


def test_after_a_training_the_averages_lag_behind_the_networks():
    method = ALAD(**SMALLEST | dict(steps=4), average=0.5)
    fit(method, normals_held_out(), precision="fp32", device="cpu")
    for name in SCORING:
        assert method.averages[name].n_averaged == 4
        pairs = zip(
            method.averages[name].module.parameters(),
            getattr(method, name).parameters(),
            strict=True,
        )
        assert any(not torch.equal(average, own) for average, own in pairs)


def test_the_averages_score_and_not_the_networks_themselves():
    method, x = ready(), images(3)

    def scores():
        with torch.no_grad():
            return method.detect(x).scores

    def spoil(network):
        with torch.no_grad():
            for p in network.parameters():
                p += 0.1 * torch.randn_like(p)

    before = scores()
    for name in NETWORKS:
        spoil(getattr(method, name))
    assert all(torch.equal(before[key], value) for key, value in scores().items())
    for name, changed in (
        ("D_xx", {"features", "logit"}),
        ("G", {"features", "L1", "L2", "logit"}),
        ("E", {"features", "L1", "L2", "logit"}),
    ):
        before = scores()
        spoil(method.averages[name])
        assert {k for k, v in scores().items() if not torch.equal(before[k], v)} == changed


# What it says of an image


@pytest.mark.parametrize("stacked", [False, True])
def test_scores_and_map_are_the_papers_equations_in_numpy(stacked):
    method, x = ready(stacked=stacked, channels=3), images(3, 3)
    with torch.no_grad():
        found = method.detect(x)
        restored = method.G(method.E(x))
        same, pair = (method.D_xx.pair(x, other).numpy() for other in (x, restored))
    difference = x.numpy() - restored.numpy()
    head = method.D_xx.head
    logit = pair @ head.weight.detach().numpy()[0] + head.bias.item()
    expected = {
        "features": np.abs(same - pair).sum(1),
        "L1": np.abs(difference).sum((1, 2, 3)),
        "L2": np.sqrt((difference**2).sum((1, 2, 3))),
        "logit": -logit,
    }
    assert list(found.scores) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found.scores[name].numpy(), value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.restored.numpy(), restored.numpy(), atol=1e-6)
    np.testing.assert_allclose(found.map.numpy(), np.abs(difference).mean(1) / 2, atol=1e-6)


def test_a_pair_that_the_discriminator_takes_for_real_is_less_abnormal():
    method, x = ready(), images(3)
    with torch.no_grad():
        before = method.detect(x).scores["logit"]
        method.averages["D_xx"].module.head.bias += 1
        after = method.detect(x).scores["logit"]
    torch.testing.assert_close(after, before - 1)


# Trained for some dozens of steps


def test_some_dozens_of_steps_let_the_reconstruction_error_fall_and_a_square_raise_it():
    method = ALAD(**SMALLEST | dict(steps=30, lr=4e-3, average=0.9)).eval()
    x = to_float(torch.from_numpy(blobs(8, 1)))
    spoilt, square = with_square(x)
    with torch.no_grad():
        before = method.detect(x)
    fit(method, normals_held_out(), precision="fp32", device="cpu")
    method.eval()
    with torch.no_grad():
        after, abnormal = method.detect(x), method.detect(spoilt)
        own = (x - method.G(method.E(x))).abs().sum((1, 2, 3))
    assert after.scores["L1"].mean() < 0.7 * before.scores["L1"].mean()
    assert own.mean() < 0.7 * before.scores["L1"].mean()
    for name in ("L1", "L2"):
        assert abnormal.scores[name].mean() > after.scores[name].mean()
    assert abnormal.map[square].mean() > 2 * after.map[square].mean()
