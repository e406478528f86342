import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

from nblib.methods.encodings import (
    Alibi2d,
    Attention,
    BinaryCode,
    LearnedPlace,
    NoPosition,
    RelativeBias,
    Rope2d,
    Sinusoidal2d,
    Swapped,
    Whole,
    favoured,
    left_by_norm,
    similarity,
)
from nblib.methods.layers import cut, paste


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# Places


def bits(code):
    return ["".join(str(int(bit)) for bit in row) for row in code[:, :, 0, 0]]


def test_four_patches_are_numbered_in_three_bits_most_significant_first():
    assert bits(BinaryCode(2)(1, 1)) == ["000", "001", "010", "011"]


def test_one_patch_has_one_bit():
    assert bits(BinaryCode(1)(1, 1)) == ["0"]


@pytest.mark.parametrize("grid, channels", [(1, 1), (2, 3), (3, 4), (4, 5), (8, 7)])
def test_codes_are_the_binary_numbers_of_the_patches(grid, channels):
    """channels = floor(log2(patches)) + 1, worked out by hand."""
    place = BinaryCode(grid)
    assert place.channels == channels
    expected = [format(patch, f"0{channels}b") for patch in range(grid**2)]
    assert bits(place(1, 1)) == expected
    assert len(set(expected)) == grid**2


def test_a_code_is_constant_over_its_patch():
    code = BinaryCode(3)(5, 7)
    assert code.shape == (9, 4, 5, 7)
    assert code.dtype == torch.float32
    assert torch.equal(code, code[:, :, :1, :1].expand(9, 4, 5, 7))


def test_a_code_is_no_weight_and_in_no_checkpoint():
    place = BinaryCode(2)
    assert not list(place.parameters())
    assert not place.state_dict()
    assert place.double().code.dtype == torch.float64, "it must move with the network"


def test_bits_are_as_many_as_the_patches_need_whatever_is_asked_for():
    assert BinaryCode(2, 16).channels == 3 and bits(BinaryCode(2, 16)(1, 1))[3] == "011"


def sinusoids(channels, h, w):
    """Thesis, eq. 3.1 and 3.2, each axis in d = channels / 2: sines of y, of x, then cosines."""
    d = channels // 2
    code = np.zeros((channels, h, w))
    for y, x in itertools.product(range(h), range(w)):
        angles = [pos / 10_000 ** (2 * i / d) for pos in (y, x) for i in range(d // 2)]
        code[:, y, x] = [*np.sin(angles), *np.cos(angles)]
    return code


@pytest.mark.parametrize("channels, grid, h, w", [(4, 1, 5, 3), (16, 2, 4, 6), (64, 3, 2, 1)])
def test_sinusoids_are_the_thesis_equations_for_each_axis_of_the_whole_map(channels, grid, h, w):
    place = Sinusoidal2d(grid, channels)
    expected = sinusoids(channels, grid * h, grid * w)
    found = place(h, w)
    assert found.shape == (grid**2, channels, h, w)
    np.testing.assert_allclose(paste(found, grid)[0].numpy(), expected, atol=1e-5)


def test_sinusoids_tell_all_places_of_a_map_apart():
    code = Sinusoidal2d(2)(8, 8).permute(0, 2, 3, 1).flatten(0, 2)
    assert code.shape == (256, 16)
    apart = torch.cdist(code, code) + torch.eye(256)
    assert apart.min() > 0.01


def test_sinusoids_step_over_the_seam_between_patches_as_they_step_inside():
    """A step of one pixel turns each pair by its frequency f: it is 2 sin(f / 2) long."""
    code = paste(Sinusoidal2d(2, 16)(8, 8), 2)[0]
    f = 10.0 ** -np.arange(4)
    expected = np.sqrt(((2 * np.sin(f / 2)) ** 2).sum())
    for axis in (1, 2):
        steps = code.diff(dim=axis).norm(dim=0)
        seam = steps.select(axis - 1, 7)
        np.testing.assert_allclose(seam, steps.select(axis - 1, 6), rtol=1e-3)
        np.testing.assert_allclose(steps, np.full(steps.shape, expected), rtol=1e-3)


@pytest.mark.parametrize("grid", [2, 3])
def test_sinusoids_do_not_depend_on_how_the_image_is_cut(grid):
    cut_code, whole = Sinusoidal2d(grid)(4, 5), Sinusoidal2d(1)(4 * grid, 5 * grid)
    assert torch.equal(paste(cut_code, grid), whole)


@pytest.mark.parametrize("channels", [2, 6, 15])
def test_sinusoids_refuse_channels_that_are_no_multiple_of_four(channels):
    with pytest.raises(ValueError, match=f"multiple of 4.*got {channels}"):
        Sinusoidal2d(2, channels)


def test_sinusoids_scale_with_their_amplitude_and_are_no_weights():
    place = Sinusoidal2d(2)
    before = place(3, 3)
    place.amplitude.fill_(0.5)
    assert torch.equal(place(3, 3), before / 2) and before.abs().max() > 0.9
    place.amplitude.zero_()
    assert not place(3, 3).any()
    assert not list(place.parameters()) and not place.state_dict()


def test_learned_codes_differ_between_patches_and_are_constant_inside():
    place = LearnedPlace(3, 5)
    code = place(4, 6)
    assert code.shape == (9, 5, 4, 6)
    assert torch.equal(code, code[:, :, :1, :1].expand_as(code))
    assert len(code[:, :, 0, 0].unique(dim=0)) == 9


def test_learned_codes_are_weights_and_in_the_checkpoint():
    place, other = LearnedPlace(2), LearnedPlace(2)
    assert list(place.state_dict()) == ["vectors"]
    assert place.vectors.requires_grad and place.vectors.shape == (4, 16)
    assert not torch.equal(place(1, 1), other(1, 1))
    other.load_state_dict(place.state_dict())
    assert torch.equal(place(1, 1), other(1, 1))


PLACES = [BinaryCode, Sinusoidal2d, LearnedPlace]


@pytest.mark.parametrize("grid", [1, 2, 3])
@pytest.mark.parametrize("part", PLACES)
def test_the_whole_of_a_place_part_holds_the_patches_codes_row_by_row(part, grid):
    place = part(grid)
    whole, patches = Whole(place), place(2, 5)
    code = whole(2 * grid, 5 * grid)
    assert whole.grid == grid and whole.channels == place.channels
    assert code.shape == (1, place.channels, 2 * grid, 5 * grid)
    for patch in range(grid**2):
        row, column = divmod(patch, grid)
        inside = code[0, :, 2 * row : 2 * row + 2, 5 * column : 5 * column + 5]
        assert torch.equal(inside, patches[patch])


@pytest.mark.parametrize("part", PLACES)
def test_swapped_patches_hear_the_code_of_the_opposite_one(part):
    place = part(2)
    own, swapped = place(3, 4), Swapped(place)(3, 4)
    for patch, opposite in enumerate([3, 2, 1, 0]):
        assert torch.equal(swapped[patch], own[opposite])
        assert not torch.equal(swapped[patch], own[patch])


# Positions


def rows_and_columns(h, w):
    return list(itertools.product(range(h), range(w)))


def offsets(h, w):
    """{(dy, dx): the pairs (i, j) of places with this offset}."""
    pairs = {}
    for (i, (yi, xi)), (j, (yj, xj)) in itertools.product(
        enumerate(rows_and_columns(h, w)), repeat=2
    ):
        pairs.setdefault((yj - yi, xj - xi), []).append((i, j))
    return pairs


def by_offset(matrix, h, w):
    """{(dy, dx): the entry of (heads, h w, h w)}, which must be one wherever the offset is."""
    found = {}
    for offset, pairs in offsets(h, w).items():
        entries = torch.stack([matrix[:, i, j] for i, j in pairs])
        torch.testing.assert_close(entries, entries[:1].expand_as(entries), rtol=0, atol=2e-5)
        found[offset] = entries[0]
    return found


def everywhere(content, h, w):
    """The same vector (heads, dim) at all places: (1, heads, h w, dim)."""
    return content[None, :, None].expand(-1, -1, h * w, -1)


def rotary_scores(position, q, k, h, w):
    q, k, bias = position(everywhere(q, h, w), everywhere(k, h, w), h, w)
    assert bias is None
    return (q @ k.transpose(2, 3))[0]


@pytest.mark.parametrize("h, w", [(4, 4), (3, 5), (6, 2)])
def test_rotated_scores_depend_on_relative_places_only_on_any_map(h, w):
    position, q, k = Rope2d(2, 8, 4), torch.randn(2, 8), torch.randn(2, 8)
    scores = by_offset(rotary_scores(position, q, k, h, w), h, w)
    larger = by_offset(rotary_scores(position, q, k, 7, 7), 7, 7)
    for offset, score in scores.items():
        torch.testing.assert_close(score, larger[offset], rtol=0, atol=1e-4)


def test_rotated_scores_tell_rows_columns_and_directions_apart():
    position, q, k = Rope2d(1, 8, 4), torch.randn(1, 8), torch.randn(1, 8)
    scores = by_offset(rotary_scores(position, q, k, 3, 3), 3, 3)
    near = [scores[offset].item() for offset in [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]]
    assert np.abs(np.subtract.outer(near, near) + np.eye(5)).min() > 0.01


def rotated(x, h, w):
    """Pairs of channels as complex numbers: the first half turned by rows, the rest by columns."""
    x = x.numpy().astype(float)
    f = 10_000.0 ** (-np.arange(x.shape[-1] // 4) / (x.shape[-1] // 4))
    angles = np.array([[*(y * f), *(column * f)] for y, column in rows_and_columns(h, w)])
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


def test_queries_and_keys_are_turned_in_the_plane_by_their_row_and_column():
    q, k = torch.randn(2, 3, 15, 12), torch.randn(2, 3, 15, 12)
    found_q, found_k, _ = Rope2d(3, 12, 4)(q, k, 3, 5)
    np.testing.assert_allclose(found_q, rotated(q, 3, 5), atol=1e-5)
    np.testing.assert_allclose(found_k, rotated(k, 3, 5), atol=1e-5)


def test_turning_keeps_norms_and_leaves_no_place_but_the_first_as_it_was():
    q, k = torch.randn(1, 2, 16, 8), torch.randn(1, 2, 16, 8)
    found_q, found_k, _ = Rope2d(2, 8, 4)(q, k, 4, 4)
    torch.testing.assert_close(found_q.norm(dim=-1), q.norm(dim=-1))
    torch.testing.assert_close(found_k.norm(dim=-1), k.norm(dim=-1))
    for found, given in ((found_q, q), (found_k, k)):
        moved = (found - given).norm(dim=-1)
        assert not moved[..., 0].any() and moved[..., 1:].min() > 0.01


def test_frequencies_of_zero_leave_queries_and_keys_alone():
    position, q, k = Rope2d(2, 8, 4), torch.randn(1, 2, 16, 8), torch.randn(1, 2, 16, 8)
    position.rotary.bands.zero_()
    found_q, found_k, _ = position(q, k, 4, 4)
    assert torch.equal(found_q, q) and torch.equal(found_k, k)


@pytest.mark.parametrize("dim", [2, 6, 13])
def test_rotary_encoding_refuses_heads_whose_channels_are_no_multiple_of_four(dim):
    with pytest.raises(ValueError, match=f"4.*channels a head; got {dim}"):
        Rope2d(2, dim, 4)


def manhattan(h, w):
    places = rows_and_columns(h, w)
    distance = np.zeros((h * w, h * w))
    for i, (yi, xi) in enumerate(places):
        for j, (yj, xj) in enumerate(places):
            distance[i, j] = abs(xj - xi) + abs(yj - yi)
    return distance


def test_alibi_takes_off_a_slope_times_the_manhattan_distance_on_any_map():
    q = torch.randn(2, 4, 15, 8)
    found_q, found_k, bias = Alibi2d(4, 8, 4)(q, q + 1, 3, 5)
    assert torch.equal(found_q, q) and torch.equal(found_k, q + 1)
    expected = np.stack([-m * manhattan(3, 5) for m in (1 / 4, 1 / 16, 1 / 64, 1 / 256)])
    assert bias.shape[-3:] == (4, 15, 15)
    np.testing.assert_allclose(bias.reshape(4, 15, 15), expected, rtol=1e-6)


def test_alibis_slopes_are_those_of_the_paper_and_not_learned():
    position = Alibi2d(8, 8, 4)
    assert position.slopes.tolist() == [
        1 / 2,
        1 / 4,
        1 / 8,
        1 / 16,
        1 / 32,
        1 / 64,
        1 / 128,
        1 / 256,
    ]
    assert not list(position.parameters()) and not position.state_dict()


def table_of(position):
    return position.lookup.relative_position_bias_table


def with_random_table(heads=2, size=4):
    position = RelativeBias(heads, 8, size)
    nn.init.normal_(table_of(position))
    return position


def bias_of(position, h, w):
    q = torch.zeros(1, 2, h * w, 8)
    found_q, found_k, bias = position(q, q + 1, h, w)
    assert torch.equal(found_q, q) and torch.equal(found_k, q + 1)
    return bias.reshape(-1, h * w, h * w)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_learned_bias_has_an_entry_a_head_for_each_offset_and_starts_near_zero(size):
    table = table_of(RelativeBias(3, 8, size))
    assert table.shape == ((2 * size - 1) ** 2, 3) and table.requires_grad
    assert 0 < table.abs().max() < 0.1


def test_the_learned_bias_is_one_number_for_each_offset():
    position = with_random_table(2, 4)
    found = by_offset(bias_of(position, 4, 4), 4, 4)
    assert len(found) == 49
    for head in range(2):
        entries = sorted(bias[head].item() for bias in found.values())
        assert entries == sorted(table_of(position)[:, head].tolist())


@pytest.mark.parametrize("h, w", [(2, 2), (3, 3), (3, 4), (6, 6), (5, 7)])
def test_on_another_map_the_learned_bias_is_interpolated_and_the_table_kept(h, w):
    """The bias stays one of the offset, in the table's range, and the same for a place itself."""
    position = with_random_table(2, 4)
    table, before = table_of(position), table_of(position).detach().clone()
    trained = by_offset(bias_of(position, 4, 4), 4, 4)
    found = by_offset(bias_of(position, h, w), h, w)
    torch.testing.assert_close(found[0, 0], trained[0, 0], rtol=0, atol=1e-5)
    values = torch.stack(list(found.values()))
    assert (values <= before.amax(0) + 1e-5).all() and (values >= before.amin(0) - 1e-5).all()
    assert values.std(0).min() > 0.1
    assert table_of(position) is table and torch.equal(table, before)
    assert torch.equal(bias_of(position, 4, 4)[:, 0, 0], trained[0, 0])


def test_a_gradient_reaches_the_learned_bias():
    attention = Attention(16, 4, RelativeBias, heads=2)
    attention(torch.randn(2, 16, 4, 4)).square().sum().backward()
    grad = table_of(attention.position).grad
    assert (grad != 0).all()


# Attention


POSITIONS = [NoPosition, Rope2d, Alibi2d, RelativeBias]
TELLING = POSITIONS[1:]


def attention(position, **arguments):
    """16 channels, two heads; everything that starts at a special value is drawn at random."""
    made = Attention(16, 3, position, **(dict(heads=2) | arguments))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made


def silence(position):
    """Set the encoding to zero, so that a place tells nothing."""
    if isinstance(position, Rope2d):
        position.rotary.bands.zero_()
    elif isinstance(position, Alibi2d):
        position.slopes.zero_()
    else:
        nn.init.zeros_(table_of(position))


def expected_bias(position, h, w):
    if isinstance(position, Alibi2d):
        return [-m * manhattan(h, w) for m in (1 / 16, 1 / 256)]
    if not isinstance(position, RelativeBias):
        return [0, 0]
    table, places = table_of(position).detach().numpy(), rows_and_columns(h, w)
    rows = [
        [(yi - yj + h - 1) * (2 * w - 1) + xi - xj + w - 1 for yj, xj in places]
        for yi, xi in places
    ]
    return [table[np.array(rows), head] for head in range(2)]


def attended(made, x, h, w):
    """Multi-head attention written out: one image (channels, h, w)."""
    weights = {name: p.detach().numpy() for name, p in made.named_parameters()}
    places = x.numpy().reshape(16, h * w).T
    q, k, v = np.split(places @ weights["qkv.weight"].T, 3, 1)
    heads = []
    for head, bias in enumerate(expected_bias(made.position, h, w)):
        own = slice(8 * head, 8 * head + 8)
        of_q, of_k = q[:, own], k[:, own]
        if isinstance(made.position, Rope2d):
            of_q, of_k = (rotated(torch.from_numpy(m), h, w) for m in (of_q, of_k))
        scores = np.exp(of_q @ of_k.T / np.sqrt(8) + bias)
        heads.append(scores / scores.sum(1, keepdims=True) @ v[:, own])
    out = np.concatenate(heads, 1) @ weights["out.weight"].T + weights["out.bias"]
    centred = out - out.mean(1, keepdims=True)
    out = centred / np.sqrt(out.var(1, keepdims=True) + 1e-5)
    out = out * weights["norm.weight"] + weights["norm.bias"]
    return x.numpy() + out.T.reshape(16, h, w)


@pytest.mark.parametrize("position", POSITIONS)
def test_attention_is_its_formula_written_out(position):
    made, x = attention(position), torch.randn(2, 16, 3, 3)
    found = made(x).detach().numpy()
    for one, image in zip(found, x, strict=True):
        np.testing.assert_allclose(one, attended(made, image, 3, 3), rtol=1e-4, atol=1e-5)


def permuted(x, order):
    return x.flatten(2)[..., order].view_as(x)


def moved_by_an_order(made):
    """How far attention to shuffled places is from its shuffled output."""
    x, order = torch.randn(2, 16, 3, 3), torch.tensor([4, 0, 8, 2, 1, 7, 3, 6, 5])
    with torch.no_grad():
        return (made(permuted(x, order)) - permuted(made(x), order)).abs().max()


def test_attention_that_is_told_nothing_cannot_tell_places_apart():
    assert moved_by_an_order(attention(NoPosition)) < 1e-5


@pytest.mark.parametrize("position", TELLING)
def test_attention_that_is_told_places_tells_them_apart_until_the_encoding_is_silent(position):
    made = attention(position)
    assert moved_by_an_order(made) > 0.01
    silence(made.position)
    assert moved_by_an_order(made) < 1e-5


@pytest.mark.parametrize("position", TELLING)
def test_attention_with_a_silent_encoding_is_attention_without_one(position):
    made, plain, x = attention(position), attention(NoPosition), torch.randn(2, 16, 3, 3)
    missing = plain.load_state_dict(made.state_dict(), strict=False)
    assert not missing.missing_keys
    with torch.no_grad():
        assert (made(x) - plain(x)).abs().max() > 0.01
        silence(made.position)
        torch.testing.assert_close(made(x), plain(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels, heads", [(16, 3), (6, 4), (20, 8)])
def test_channels_that_cannot_be_shared_out_among_the_heads_are_refused(channels, heads):
    with pytest.raises(ValueError, match=re.escape(f"{channels} channels")) as error:
        Attention(channels, 4, heads=heads)
    assert f"{heads} heads" in str(error.value)


def test_dropout_drops_its_share_of_what_attention_adds_in_training_only():
    made, x = attention(NoPosition, dropout=0.25), torch.randn(64, 16, 3, 3)
    with torch.no_grad():
        scored = made.eval()(x) - x
        trained = made.train()(x) - x
        assert torch.equal(made.eval()(x) - x, scored)
    dropped = trained == 0
    assert not (scored == 0).any()
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(trained[~dropped], scored[~dropped] / 0.75, rtol=1e-3, atol=1e-5)


# What is shown of them


@pytest.mark.parametrize("part", PLACES)
def test_a_place_is_like_itself_and_some_place_is_least_alike(part):
    for at in ((0, 5), (4, 0), (7, 7), (1, 2)):
        alike = similarity(part(2), 8, 8, at)
        assert alike.shape == (8, 8)
        assert alike[at] == 1 and alike.max() == 1 and alike.min() == 0


def test_binary_codes_are_alike_in_as_far_as_their_bits_are():
    """001 is 1, 0, the root of 2 and 1 away from 000, 001, 010 and 011, all over a patch."""
    alike = cut(similarity(BinaryCode(2), 6, 8, (1, 5))[None, None], 2)[:, 0]
    expected = [1 - 0.5**0.5, 1, 0, 1 - 0.5**0.5]
    for patch, value in zip(alike, expected, strict=True):
        np.testing.assert_allclose(patch, np.full((3, 4), value), atol=1e-6)


def test_sinusoids_are_alike_by_their_distances_on_the_circles():
    at, f = (2, 5), 10.0 ** -np.arange(4)
    y, x = np.mgrid[:8, :12]
    squared = sum(4 - 2 * np.cos((y - at[0]) * g) - 2 * np.cos((x - at[1]) * g) for g in f)
    expected = 1 - np.sqrt(squared / squared.max())
    np.testing.assert_allclose(similarity(Sinusoidal2d(2), 8, 12, at), expected, atol=1e-3)


def test_where_there_is_one_code_all_places_are_alike():
    assert torch.equal(similarity(BinaryCode(1), 3, 4, (1, 1)), torch.ones(3, 4))


@pytest.mark.parametrize("part", [BinaryCode, LearnedPlace])
def test_a_norm_over_each_patch_leaves_nothing_of_a_code_that_is_constant(part):
    place = part(2)
    assert left_by_norm(place, 4, 6).shape == (place.channels,)
    assert left_by_norm(place, 4, 6).max() < 1e-6


def test_a_norm_over_each_patch_leaves_of_sinusoids_what_varies_inside():
    whole = sinusoids(16, 8, 12)
    patches = np.stack(
        [whole[:, y : y + 4, x : x + 6] for y, x in itertools.product((0, 4), (0, 6))]
    )
    expected = patches.var((2, 3)).mean(0) / whole.var((1, 2))
    found = left_by_norm(Sinusoidal2d(2), 4, 6).numpy()
    slow = whole.std((1, 2)) < 1e-3  # rounding
    np.testing.assert_allclose(found[~slow], expected[~slow], rtol=1e-3)
    assert found[~slow].min() < 0.5 < found.max() <= 1
    np.testing.assert_allclose(left_by_norm(Sinusoidal2d(1), 8, 12)[~slow], 1, rtol=1e-5)


def test_alibi_favours_places_by_their_distance():
    found = favoured(Alibi2d(8, 16, 4), 8, 16, 3, 5, (1, 3))
    y, x = np.mgrid[:3, :5]
    expected = [4 - 0.5**n * (abs(y - 1) + abs(x - 3)) for n in range(1, 9)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_rotary_encoding_favours_the_place_itself_and_its_opposites_alike():
    found = favoured(Rope2d(2, 16, 7), 2, 16, 7, 7, (3, 3))
    torch.testing.assert_close(found, found.flip(1), rtol=0, atol=1e-4)
    torch.testing.assert_close(found, found.flip(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(found, found.transpose(1, 2), rtol=0, atol=1e-4)
    others = found.flatten(1).clone()
    others[:, 3 * 7 + 3] = -np.inf
    assert (found[:, 3, 3] > others.amax(1) + 0.1).all()


def test_a_learned_bias_favours_what_its_table_says_and_nothing_favours_no_place():
    position = with_random_table(2, 4)
    found = favoured(position, 2, 8, 4, 4, (1, 2))
    expected = bias_of(position, 4, 4)[:, 1 * 4 + 2].view(2, 4, 4) + 8**0.5
    torch.testing.assert_close(found, expected)
    assert favoured(NoPosition(2, 8, 4), 2, 8, 4, 4, (1, 2)).std() < 1e-6


def test_a_map_that_the_grid_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="map of 5 x 4 has no places for a grid of 2 x 2"):
        Whole(BinaryCode(2))(5, 4)


def test_a_place_part_is_as_unlike_itself_swapped_as_its_patches_are():
    swapped = Swapped(BinaryCode(2))
    assert swapped.channels == 3 and bits(swapped(1, 1)) == ["011", "010", "001", "000"]
    assert similarity(swapped, 4, 4, (0, 0))[0, 0] == 1
