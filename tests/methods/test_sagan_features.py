"""SAGAN's generator on maps of features, held against its formula and its symmetries."""

import numpy as np
import pytest
import torch

from nblib.methods.catalogue import METHODS
from nblib.methods.encodings import AttentionSpec, BinaryCode, Sinusoidal2d
from nblib.methods.layers import pad
from nblib.methods.sagan_features import GatedSpec

CHANNELS, WIDTH, SIDE = 6, 8, 6


def made(**parts):
    """A map whose last layer does not begin as zero."""
    torch.manual_seed(0)
    network = GatedSpec(**parts).made(CHANNELS, WIDTH, SIDE).eval()
    torch.nn.init.normal_(network.head.weight)
    return network


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, CHANNELS, SIDE, SIDE)


def leaky(x):
    return np.where(x < 0, 0.2 * x, x)


def weights(layer):
    return layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()


def conv(x, layer, stride=1):
    """A convolution of (B, c, h, w), padded by zeros, term by term."""
    kernel, bias = weights(layer)
    size, pad = kernel.shape[-1], layer.padding[0]
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, kernel) + bias[:, None, None]


def transposed(x, layer):
    """A 4x4 transposed convolution of stride 2: each place paints a window of 4 x 4."""
    kernel, bias = weights(layer)
    b, _, h, w = x.shape
    out = np.zeros((b, kernel.shape[1], 2 * h + 2, 2 * w + 2))
    for i in range(h):
        for j in range(w):
            painted = np.einsum("bc,coij->boij", x[:, :, i, j], kernel)
            out[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += painted
    return out[:, :, 1:-1, 1:-1] + bias[:, None, None]


def normed(x):
    mean, variance = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)


@pytest.mark.parametrize("place, code", [(None, 0), (BinaryCode, 3)], ids=["plain", "place"])
def test_it_is_the_formula_of_its_notebook(place, code, x):
    G, maps = made(place=place), x.double().numpy()
    if code:  # 000, 001, 010, 011 for the quarters of the map
        bits = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]).reshape(2, 2, 3)
        bits = bits.transpose(2, 0, 1).repeat(SIDE // 2, 1).repeat(SIDE // 2, 2)
        maps = np.concatenate([maps, np.broadcast_to(bits, (2, *bits.shape))], 1)
    skip = leaky(conv(maps, G.stem))
    deeper = leaky(conv(skip, G.down, 2))
    for block in G.bottleneck:
        deeper = deeper + conv(leaky(conv(deeper, block.inner)), block.outer)
    deeper = leaky(transposed(deeper, G.up))
    of_both = normed(conv(deeper, G.gate.of_deeper[0])) + normed(conv(skip, G.gate.of_skip[0]))
    alpha = 1 / (1 + np.exp(-normed(conv(of_both.clip(0), G.gate.to_map[0]))))
    expected = conv(leaky(conv(np.concatenate([deeper, skip * alpha], 1), G.fuse)), G.head)
    assert np.allclose(G(x).detach(), expected, atol=1e-4)


def test_before_training_it_changes_nothing(x):
    G = GatedSpec(Sinusoidal2d, AttentionSpec()).made(CHANNELS, WIDTH, SIDE)
    assert (G(x) == 0).all() and G(x).shape == x.shape


@pytest.mark.parametrize("place", [None, BinaryCode, Sinusoidal2d])
def test_only_a_place_code_tells_apart_the_places_of_a_map_without_borders(place):
    G = made(place=place)
    pad(G, "circular")
    found = G(torch.ones(1, CHANNELS, 8, 8))
    apart = (found - found.roll(4, 3)).abs().max()  # doubling tells odd from even places
    assert apart > 1e-3 if place else apart < 1e-5


def test_how_far_features_lie_from_zero_passes_through_it(x):
    """What an instance norm behind the first layer would subtract."""
    G = made()
    near, far = G(x), G(x + 3)
    assert (far - near).abs().mean() > 0.3 * near.abs().mean()


def test_each_variant_changes_one_thing():
    of = {name: METHODS[name].fixed for name in METHODS if METHODS[name].notebook[:2] == "24"}
    assert len(of) == 6 and all(fixed["side"] == 14 for fixed in of.values())
    assert "gated" not in of["brainomaly_features_14"]
    for name, against in [
        ("sagan_features_place", "sagan_features"),
        ("sagan_features_sinusoidal", "sagan_features"),
        ("sagan_features_attention", "sagan_features"),
        ("sagan_features_rope", "sagan_features_attention"),
    ]:
        one, other = of[name]["gated"], of[against]["gated"]
        differ = [
            part for part in ("place", "attention") if getattr(one, part) != getattr(other, part)
        ]
        assert len(differ) == 1, name
