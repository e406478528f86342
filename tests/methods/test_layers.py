import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

from nblib.methods.encodings import BinaryCode, LearnedPlace, Sinusoidal2d, Whole
from nblib.methods.layers import (
    Added,
    AttentionGate,
    ClosedGate,
    Concatenated,
    Critic,
    Fuse,
    LeakyReLU,
    OpenGate,
    Placed,
    PlacedBehindNorm,
    Residual,
    Translator,
    bn_down,
    bn_up,
    conv,
    cut,
    dcgan_generator,
    dcgan_trunk,
    dcgan_weights,
    instance_norm,
    pad,
    paste,
    up,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def count(module):
    return sum(p.numel() for p in module.parameters())


def standardised(x):
    """Instance norm without affine part, in NumPy."""
    mean, variance = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)


def one_by_one(layer, x):
    """A 1x1 convolution as a matrix product, in NumPy."""
    weight, bias = layer.weight[:, :, 0, 0].detach().numpy(), layer.bias.detach().numpy()
    return np.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None]


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_is_torchs(affine):
    ours, theirs = instance_norm(5, affine), nn.InstanceNorm2d(5, affine=affine)
    if affine:
        nn.init.normal_(ours.weight)
        nn.init.normal_(ours.bias)
        theirs.load_state_dict(ours.state_dict())
    x = (3 * torch.randn(2, 5, 6, 7) + 4).requires_grad_()
    y = x.detach().clone().requires_grad_()
    torch.testing.assert_close(ours(x), theirs(y), rtol=1e-5, atol=1e-5)
    weight = torch.randn(2, 5, 6, 7)
    (ours(x) * weight).sum().backward()
    (theirs(y) * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)


def test_instance_norm_scores_with_the_images_own_statistics():
    norm = instance_norm(3)
    first, second = torch.randn(1, 3, 4, 4), 5 + 2 * torch.randn(1, 3, 4, 4)
    in_training = norm(first)
    norm(second)
    assert torch.equal(norm.eval()(first), in_training)
    assert not list(norm.buffers())


@pytest.mark.parametrize(
    "block, shape",
    [
        (conv(2, 6, 7), (3, 6, 8, 12)),
        (conv(2, 6, 3), (3, 6, 8, 12)),
        (conv(2, 6, 4, 2), (3, 6, 4, 6)),
        (up(2, 6), (3, 6, 16, 24)),
        (Residual(2), (3, 2, 8, 12)),
        (Fuse(2, 1), (3, 1, 8, 12)),
    ],
)
def test_blocks_keep_halve_or_double_the_size(block, shape):
    assert block(torch.randn(3, 2, 8, 12)).shape == shape


def test_residual_and_fuse_are_the_formulas_of_the_layer_table():
    f = nn.functional
    x = torch.randn(2, 4, 6, 6)
    block = Residual(4)
    first, second = block.inner[0].weight, block.outer[0].weight
    h = torch.relu(f.instance_norm(f.conv2d(x, first, padding=1)))
    expected = x + f.instance_norm(f.conv2d(h, second, padding=1))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)

    block = Fuse(4, 2)
    first, second = block.inner[0].weight, block.outer[0].weight
    h = torch.relu(f.instance_norm(f.conv2d(x, first, padding=1)))
    expected = h + f.instance_norm(f.conv2d(h, second, padding=1))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_patches_are_slices_image_after_image_and_row_after_row():
    x = torch.randn(2, 3, 6, 12)
    patches = cut(x, 3)
    assert patches.shape == (18, 3, 2, 4)
    for image in range(2):
        for row in range(3):
            for column in range(3):
                patch = x[image, :, 2 * row : 2 * row + 2, 4 * column : 4 * column + 4]
                assert torch.equal(patches[9 * image + 3 * row + column], patch)


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_paste_is_the_inverse_of_cut(grid):
    x = torch.randn(3, 2, 8, 16)
    assert torch.equal(paste(cut(x, grid), grid), x)
    patches = torch.randn(2 * grid**2, 3, 4, 5)
    assert torch.equal(cut(paste(patches, grid), grid), patches)


def test_a_grid_of_one_does_not_cut():
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(cut(x, 1), x)


def small_critic(activation):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 4, 2, 1), activation, nn.Conv2d(4, 8, 4, 2, 1), activation,
        nn.Conv2d(8, 1, 3, 1, 1),
    ).double()  # fmt: skip


def test_leaky_relu_has_torchs_values_and_gradients():
    x = torch.tensor([-2.0, -0.5, 0.0, 0.25, 3.0], requires_grad=True)
    y = LeakyReLU(0.01)(x)
    assert y.tolist() == pytest.approx([-0.02, -0.005, 0, 0.25, 3])
    y.sum().backward()
    assert x.grad[[0, 1, 3, 4]].tolist() == pytest.approx([0.01, 0.01, 1, 1])

    x = torch.randn(4, 2, 16, 16, dtype=torch.float64, requires_grad=True)
    gradients = []
    for D in small_critic(LeakyReLU(0.25)), small_critic(nn.LeakyReLU(0.25)):
        out = D(x).square().sum()
        gradients.append([out, *torch.autograd.grad(out, [x, *D.parameters()])])
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_leaky_relu_gives_the_gradient_penalty_torchs_weight_gradients():
    x = torch.randn(4, 2, 16, 16, dtype=torch.float64, requires_grad=True)
    gradients = []
    for D in small_critic(LeakyReLU(0.25)), small_critic(nn.LeakyReLU(0.25)):
        (slope,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        weights = [p for p in D.parameters() if p.ndim == 4]
        gradients.append(torch.autograd.grad(penalty, weights))
    assert all(g.abs().max() > 1e-3 for g in gradients[0])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("channels, published", [(1, 44_719_040), (3, 44_721_088)])
def test_the_published_critic_has_the_published_number_of_parameters(channels, published):
    """A convolution with a bias has in x out x kernel^2 weights and out biases."""
    with torch.device("meta"):
        D = Critic(64, channels=channels, width=64, n_layers=6)
    chain = [channels, 64, 128, 256, 512, 1024, 2048]
    layers = sum(16 * cin * cout + cout for cin, cout in itertools.pairwise(chain))
    assert count(D) == layers + 9 * 2048 == published


def test_a_critic_has_the_parameters_that_one_counts_by_hand():
    D = Critic(32, channels=3, width=4, n_layers=2)
    first, second, head = 3 * 4 * 16 + 4, 4 * 8 * 16 + 8, 8 * 9
    assert count(D) == first + second + head


@pytest.mark.parametrize(
    "size, layers, side", [(64, 6, 1), (64, 4, 4), (32, 4, 2), (96, 5, 3), (128, 6, 2)]
)
def test_a_critic_answers_with_a_map_smaller_by_two_to_the_layers(size, layers, side):
    D = Critic(size, channels=2, width=1, n_layers=layers)
    assert D(torch.randn(3, 2, size, size)).shape == (3, 1, side, side)


def test_a_critic_starts_with_kaiming_weights_and_zero_biases():
    D = Critic(16, width=16, n_layers=4)
    for i, layer in enumerate(m for m in D.modules() if isinstance(m, nn.Conv2d)):
        fan_in = layer.weight[0].numel()
        expected = np.sqrt(2 / (1 + 0.01**2) / fan_in)
        tolerance = 4 / np.sqrt(2 * layer.weight.numel())
        assert layer.weight.std().item() == pytest.approx(expected, rel=tolerance)
        assert (layer.bias is None) == (i == 4)
        assert layer.bias is None or not layer.bias.any()


def test_a_critic_computes_in_single_precision_inside_autocast():
    D, x = Critic(16, width=8, n_layers=3), torch.randn(2, 1, 16, 16)
    expected = D(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.functional.conv2d(x, D.layers[0].weight).dtype == torch.bfloat16
        inside, from_half = D(x), D(x.bfloat16())
    assert inside.dtype == from_half.dtype == torch.float32
    assert torch.equal(inside, expected)
    torch.testing.assert_close(from_half, D(x.bfloat16().float()))


@pytest.mark.parametrize("size, layers, most", [(32, 6, 5), (48, 6, 5), (8, 4, 3)])
def test_a_size_too_small_for_a_critic_is_refused_with_the_layers_it_allows(size, layers, most):
    with pytest.raises(ValueError, match=f"at least {2**layers} pixels; got {size}") as error:
        Critic(size, width=1, n_layers=layers)
    allowed = int(re.search(r"at most (\d+) layers", str(error.value))[1])
    assert allowed == most
    assert Critic(size, width=1, n_layers=allowed)(torch.zeros(1, 1, size, size)).numel() > 0


def codes(patches, h, w):
    numbers = np.array([[p >> 2 & 1, p >> 1 & 1, p & 1] for p in range(patches)], np.float32)
    return np.broadcast_to(numbers[:, :, None, None], (patches, 3, h, w))


@pytest.mark.parametrize("placed, acts", [(Placed, False), (PlacedBehindNorm, True)])
def test_placed_mixes_each_patchs_code_into_its_features(placed, acts):
    placed = placed(6, BinaryCode(2))
    x = torch.randn(8, 6, 3, 5)
    features = standardised(x.numpy()) if acts else x.numpy()
    both = np.concatenate([features, np.tile(codes(4, 3, 5), (2, 1, 1, 1))], 1)
    mixed = one_by_one(placed.mix, both)
    expected = np.maximum(mixed if acts else standardised(mixed), 0)
    np.testing.assert_allclose(placed(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "placed, least, most", [(Placed, 0, 1e-5), (PlacedBehindNorm, 1e-2, np.inf)]
)
def test_a_constant_code_acts_only_behind_the_norm(placed, least, most):
    placed = placed(6, BinaryCode(2))
    x = torch.randn(4, 6, 8, 8)
    before = placed(x)
    placed.code.place.code.copy_(placed.code.place.code.flip(0))
    assert least <= (placed(x) - before).abs().max() <= most


def test_placed_without_a_place_is_convolution_norm_and_relu():
    placed, x = Placed(6, None), torch.randn(4, 6, 3, 3)
    assert placed.mix.weight.shape == (6, 6, 1, 1)
    expected = np.maximum(standardised(one_by_one(placed.mix, x.numpy())), 0)
    np.testing.assert_allclose(placed(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_attention_gate_is_its_formula():
    gate = AttentionGate(6)
    deeper, skip = torch.randn(3, 6, 8, 8), torch.randn(3, 6, 8, 8)
    d = standardised(one_by_one(gate.of_deeper[0], deeper.numpy()))
    s = standardised(one_by_one(gate.of_skip[0], skip.numpy()))
    alpha = sigmoid(standardised(one_by_one(gate.to_map[0], np.maximum(d + s, 0))))
    found = gate.attention(deeper, skip)
    assert found.shape == (3, 1, 8, 8)
    np.testing.assert_allclose(found.detach().numpy(), alpha, rtol=1e-4, atol=1e-5)
    passed = gate(deeper, skip).detach().numpy()
    np.testing.assert_allclose(passed, skip.numpy() * alpha, rtol=1e-4, atol=1e-5)


def test_a_gate_is_half_open_on_average_in_every_patch_however_its_bias_stands():
    gate = AttentionGate(16)
    nn.init.constant_(gate.to_map[0].bias, -50)
    alpha = gate.attention(3 + torch.randn(6, 16, 16, 16), 5 * torch.randn(6, 16, 16, 16))
    assert alpha.min() > 0 and alpha.max() < 1
    assert alpha.std() > 0.1
    assert (alpha.mean((1, 2, 3)) - 0.5).abs().max() < 0.05


# Place codes


def test_an_open_gate_passes_the_skip_and_a_closed_one_nothing():
    deeper, skip = torch.randn(3, 6, 4, 4), torch.randn(3, 6, 4, 4)
    assert torch.equal(OpenGate(6)(deeper, skip), skip)
    closed = ClosedGate(6)(deeper, skip)
    assert closed.shape == skip.shape and not closed.any()
    assert count(OpenGate(6)) == count(ClosedGate(6)) == 0


@pytest.mark.parametrize("h, w", [(2, 3), (5, 1)])
def test_codes_stand_beside_or_on_the_patches_of_each_image_in_turn(h, w):
    place, x = LearnedPlace(2, 6), torch.randn(3 * 4, 6, h, w)
    beside, on = Concatenated(place)(x), Added(place)(x)
    assert beside.shape == (12, 12, h, w) and on.shape == x.shape
    for image in range(3):
        for patch in range(4):
            i, code = 4 * image + patch, place.vectors[patch, :, None, None]
            assert torch.equal(beside[i, :6], x[i])
            assert torch.equal(beside[i, 6:], code.expand(6, h, w))
            assert torch.equal(on[i], x[i] + code)


def test_codes_have_the_precision_of_the_map_that_they_join():
    x = torch.randn(4, 16, 2, 2).bfloat16()
    assert Concatenated(Sinusoidal2d(2))(x).dtype == torch.bfloat16
    assert Added(Sinusoidal2d(2))(x).dtype == torch.bfloat16


def told(D, kind, size):
    """The sides of the maps that reach the modules of this kind."""
    sides = []
    for module in D.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda m, inputs, out: sides.append(inputs[0].shape[-1]))
    D(torch.zeros(1, 1, size, size))
    return sides


@pytest.mark.parametrize(
    "size, layers, grid, sides",
    [
        (64, 6, 2, [32, 16, 8, 4, 2]),
        (64, 4, 2, [32, 16, 8, 4]),
        (64, 6, 4, [32, 16, 8, 4]),
        (64, 6, 1, [32, 16, 8, 4, 2]),
        (96, 5, 2, [48, 24, 12, 6]),
    ],
)
def test_a_critic_is_told_places_on_maps_of_two_pixels_and_more(size, layers, grid, sides):
    D = Critic(size, 1, 4, layers, Whole(BinaryCode(grid)), Whole(Sinusoidal2d(grid, 4)))
    assert told(D, Concatenated, size) == sides
    assert told(D, Added, size) == [size // 2]


@pytest.mark.parametrize("layers, last", [(6, 0), (4, 5)])
def test_a_critic_with_places_has_the_parameters_that_one_counts_by_hand(layers, last):
    """Codes of 5 channels beside all maps but the image and, at six layers, the last of 1 x 1."""
    D = Critic(64, 3, 4, layers, Whole(LearnedPlace(2, 5)), Whole(Sinusoidal2d(2, 4)))
    outs = [4, 8, 16, 32, 64, 128][:layers]
    ins = [3, *(out + 5 for out in outs[:-1])]
    convolutions = sum(16 * cin * cout + cout for cin, cout in zip(ins, outs, strict=True))
    assert count(D) == convolutions + 9 * (outs[-1] + last) + 4 * 5


def test_a_critic_with_places_is_its_formula():
    f = nn.functional
    place, added, x = LearnedPlace(2, 5), Sinusoidal2d(2, 4), torch.randn(3, 1, 16, 16)
    D = Critic(16, 1, 4, 2, Whole(place), Whole(added))
    first, second, head = (layer for layer in D.layers if isinstance(layer, nn.Conv2d))

    def beside(h):
        half = h.shape[-1] // 2
        code = paste(place(half, half), 2).expand(len(h), -1, -1, -1)
        return torch.cat([h, code], 1)

    h = f.leaky_relu(f.conv2d(x, first.weight, first.bias, 2, 1), 0.01) + paste(added(4, 4), 2)
    h = f.leaky_relu(f.conv2d(beside(h), second.weight, second.bias, 2, 1), 0.01)
    torch.testing.assert_close(D(x), f.conv2d(beside(h), head.weight, padding=1))


def test_what_is_added_in_a_critic_is_added_behind_the_first_layer_alone():
    x, added = torch.randn(2, 1, 32, 32), Sinusoidal2d(2, 4)
    plain, D = Critic(32, 1, 4, 4), Critic(32, 1, 4, 4, added=Whole(added))
    plain.load_state_dict(dict(zip(plain.state_dict(), D.state_dict().values(), strict=True)))
    first, rest = plain.layers[:2], plain.layers[2:]
    torch.testing.assert_close(D(x), rest(first(x) + paste(added(8, 8), 2)))
    assert (D(x) - plain(x)).abs().max() > 1e-3


def test_learned_places_move_a_critic_and_learn_from_it():
    place, x = LearnedPlace(2, 5), torch.randn(2, 1, 32, 32)
    D = Critic(32, 1, 4, 4, Whole(place))
    before = D(x)
    before.square().mean().backward()
    assert place.vectors.grad.abs().min() > 1e-4
    with torch.no_grad():
        place.vectors.copy_(place.vectors[[3, 0, 1, 2]])
    assert (D(x) - before).abs().max() > 0.01 * before.abs().max()


# With batch norm


@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("h, w", [(2, 4), (6, 10), (8, 8), (14, 16), (30, 64)])
def test_even_sizes_are_halved_and_any_are_doubled_exactly(kernel, h, w):
    x = torch.randn(2, 3, h, w)
    assert bn_down(3, 5, kernel)(x).shape == (2, 5, h // 2, w // 2)
    assert bn_up(3, 5, kernel)(x).shape == (2, 5, 2 * h, 2 * w)
    odd = torch.randn(2, 3, h + 1, w + 1)
    assert bn_up(3, 5, kernel)(odd).shape == (2, 5, 2 * h + 2, 2 * w + 2)


def over_the_batch(x):
    """Batch norm at its start, in NumPy."""
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)


@pytest.mark.parametrize("kernel, padding", [(4, 1), (5, 2)])
def test_bn_down_is_convolution_batch_norm_and_a_leaky_relu_of_a_fifth(kernel, padding):
    x = 3 * torch.randn(4, 2, 8, 8) + 1
    for norm in True, False:
        block = bn_down(2, 6, kernel, norm)
        made = nn.functional.conv2d(x, block[0].weight, stride=2, padding=padding)
        made = made.detach().numpy()
        expected = over_the_batch(made) if norm else made
        expected = np.where(expected < 0, 0.2 * expected, expected)
        np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
        assert count(block) == 2 * 6 * kernel**2 + 12 * norm


@pytest.mark.parametrize("kernel", [4, 5])
def test_bn_up_is_the_mirrored_convolution_batch_norm_and_a_relu(kernel):
    """A transposed convolution is the gradient of the convolution that halves the size."""
    x, block = torch.randn(3, 6, 4, 4), bn_up(6, 2, kernel)
    halve = bn_down(2, 6, kernel)[0]
    halve.weight = block[0].weight
    wide = torch.zeros(3, 2, 8, 8, requires_grad=True)
    (made,) = torch.autograd.grad(halve(wide), wide, x)
    expected = np.maximum(over_the_batch(made.numpy()), 0)
    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert count(block) == 2 * 6 * kernel**2 + 4


def test_batch_norm_scores_with_what_it_saw_in_training():
    block = bn_down(1, 3)
    for _ in range(60):
        block(5 + 2 * torch.randn(64, 1, 8, 8))
    block.eval()
    x = 5 + 2 * torch.randn(256, 1, 8, 8)
    alone, together = block(x[:1]), block(x)
    torch.testing.assert_close(alone, together[:1], rtol=1e-4, atol=1e-5)
    before = torch.where(together < 0, 5 * together, together)
    assert before.mean((0, 2, 3)).abs().max() < 0.2
    assert (before.std((0, 2, 3)) - 1).abs().max() < 0.1


# DCGAN


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_trunk_ends_at_four_pixels_and_a_generator_starts_from_one(size, channels):
    trunk, generator = dcgan_trunk(size, channels, 2), dcgan_generator(size, channels, 2, 7)
    deepest = 2 * size // 8
    assert trunk(torch.randn(3, channels, size, size)).shape == (3, deepest, 4, 4)
    made = generator(torch.randn(3, 7, 1, 1))
    assert made.shape == (3, channels, size, size)
    assert made.abs().max() < 1 and made.std() > 0


def test_both_have_the_channels_of_the_paper_at_64_pixels():
    down, up = [], []
    for network, seen in ((dcgan_trunk(64, 3, 64), down), (dcgan_generator(64, 3, 64, 100), up)):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                seen.append((module.in_channels, module.out_channels))
    assert down == [(3, 64), (64, 128), (128, 256), (256, 512)]
    assert up == [(100, 512), (512, 256), (256, 128), (128, 64), (64, 3)]


def test_dcgans_have_the_parameters_that_one_counts_by_hand():
    """At 64 pixels and width 64 those of PyTorch's tutorial: G 3,576,704, D 2,765,568.

    That D has a head besides, of 512 x 4^2 weights. No bias in any convolution.
    """
    with torch.device("meta"):
        trunk, generator = dcgan_trunk(64, 3, 64), dcgan_generator(64, 3, 64, 100)
        normed, narrow = dcgan_trunk(64, 3, 64, first_norm=True), dcgan_trunk(16, 1, 5)
        small = dcgan_generator(16, 1, 5, 7)
    chain = [(64, 128), (128, 256), (256, 512)]
    expected = 16 * 3 * 64 + sum(16 * cin * cout + 2 * cout for cin, cout in chain)
    assert count(trunk) == expected == 2_765_568 - 16 * 512
    assert count(normed) == expected + 2 * 64
    expected = 16 * 100 * 512 + 2 * 512 + sum(16 * cin * cout + 2 * cin for cin, cout in chain)
    assert count(generator) == expected + 16 * 64 * 3 == 3_576_704
    assert count(narrow) == 16 * 5 + 16 * 5 * 10 + 20
    assert count(small) == 16 * 7 * 10 + 20 + 16 * 10 * 5 + 10 + 16 * 5


def test_the_first_layer_has_a_norm_only_where_it_is_asked_for():
    for first_norm in False, True:
        stages = dcgan_trunk(32, 1, 2, first_norm)
        norms = [any(isinstance(m, nn.BatchNorm2d) for m in stage) for stage in stages]
        assert norms == [first_norm, True, True]


@pytest.mark.parametrize("size", [48, 8, 4, 0, 96, 100])
def test_a_size_that_cannot_be_halved_to_four_is_refused_with_sizes_that_can(size):
    with pytest.raises(ValueError, match=f"got {size}") as error:
        dcgan_trunk(size, 1, 2)
    for possible in map(int, re.findall(r"\d+(?=, )", str(error.value).split(":")[1])):
        assert dcgan_trunk(possible, 1, 1)(torch.zeros(2, 1, possible, possible)).shape[-1] == 4


def test_dcgans_weights_start_with_the_spread_of_the_paper():
    network = nn.Sequential(dcgan_trunk(32, 3, 16), dcgan_generator(32, 3, 16, 64), nn.Linear(9, 9))
    linear = network[2].weight.clone()
    for p in network[:2].parameters():
        nn.init.constant_(p, 9)
    network.apply(dcgan_weights)
    kernels = [p for p in network[:2].parameters() if p.ndim == 4]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    scales = torch.cat([m.weight for m in norms])
    assert len(kernels) == 3 + 4 and len(norms) == 2 + 3
    for values, mean in [(p.flatten(), 0) for p in kernels] + [(scales, 1)]:
        error = 0.02 / len(values) ** 0.5
        assert abs(values.mean().item() - mean) < 5 * error
        assert values.std().item() == pytest.approx(0.02, abs=5 * error / 2**0.5)
    assert all(not m.bias.any() for m in norms)
    assert torch.equal(network[2].weight, linear)


# Translator


@pytest.mark.parametrize("h, w", [(4, 8), (16, 16), (20, 12), (64, 64)])
@pytest.mark.parametrize("channels, outputs", [(1, 1), (1, 2), (3, 1), (3, 4)])
def test_a_translator_keeps_the_size_of_images_of_a_multiple_of_four(h, w, channels, outputs):
    G = Translator(channels, outputs, width=2, blocks=1)
    assert G(torch.randn(2, channels, h, w)).shape == (2, outputs, h, w)


class TheirResidual(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(c, c, 3, 1, 1, bias=False), nn.InstanceNorm2d(c, affine=True), nn.ReLU(),
            nn.Conv2d(c, c, 3, 1, 1, bias=False), nn.InstanceNorm2d(c, affine=True),
        )  # fmt: skip

    def forward(self, x):
        return x + self.main(x)


def test_a_translator_is_the_layer_table_in_plain_torch():
    """The head is raw: no norm, no tanh."""
    w = 4
    theirs = nn.Sequential(
        nn.Conv2d(3, w, 7, 1, 3, bias=False), nn.InstanceNorm2d(w, affine=True), nn.ReLU(),
        nn.Conv2d(w, 2 * w, 4, 2, 1, bias=False), nn.InstanceNorm2d(2 * w, affine=True), nn.ReLU(),
        nn.Conv2d(2 * w, 4 * w, 4, 2, 1, bias=False), nn.InstanceNorm2d(4 * w, affine=True),
        nn.ReLU(),
        *(TheirResidual(4 * w) for _ in range(6)),
        nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1, bias=False),
        nn.InstanceNorm2d(2 * w, affine=True), nn.ReLU(),
        nn.ConvTranspose2d(2 * w, w, 4, 2, 1, bias=False), nn.InstanceNorm2d(w, affine=True),
        nn.ReLU(),
        nn.Conv2d(w, 4, 7, 1, 3, bias=False),
    ).double()  # fmt: skip
    ours = Translator(3, 4, width=w).double()
    with torch.no_grad():
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.add_(0.2 * torch.randn_like(p))
            q.copy_(p)
        x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-8)
        assert ours(x).abs().max() > 1


@pytest.mark.parametrize("mode", ["circular", "reflect"])
def test_padded_convolutions_are_those_of_an_image_that_is_padded_by_hand(mode):
    x, far = torch.randn(2, 3, 8, 8), 4
    around = ((0, 0), (0, 0), (far, far), (far, far))
    wide = torch.from_numpy(np.pad(x.numpy(), around, {"circular": "wrap"}.get(mode, mode)))
    for layer in (conv(3, 5, 7), conv(3, 5, 4, 2), up(3, 5)):
        network = nn.Sequential(layer[0])
        inside = network(wide)
        pad(network, mode)
        scale = inside.shape[-1] / wide.shape[-1]
        edge = round(far * scale)
        torch.testing.assert_close(network(x), inside[..., edge:-edge, edge:-edge])


def test_padding_keeps_the_weights_and_what_lies_deeper():
    network = nn.Sequential(up(2, 3), nn.Sequential(Residual(3)))
    before = [p.clone() for p in network.parameters()]
    pad(network, "circular")
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert network[1][0].inner[0].padding_mode == "circular"
