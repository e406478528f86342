import itertools

import numpy as np
import pytest
import torch

from nblib.data.batches import (
    Batches,
    Squares,
    blend,
    draw_squares,
    flipped,
    step_seed,
    to_float,
)

ALL = ("normal", "unlabeled", "pseudo")


def numbered(count, first=0, channels=1, size=8):
    """Images whose first pixel tells which one it is; the others are random."""
    made = np.random.default_rng(first).integers(0, 256, (count, channels, size, size), np.uint8)
    made[:, 0, 0, 0] = first + np.arange(count)
    return made


def which(images):
    """Undo to_float on the first pixel."""
    return [round((float(v) + 1) * 127.5) for v in images[:, 0, 0, 0]]


def same(one, other):
    pairs = list(zip(one, other, strict=True))
    assert all((a is None) == (b is None) for a, b in pairs)
    return all(torch.equal(a, b) for a, b in pairs if a is not None)


def test_floats_are_the_images_in_minus_one_to_one():
    grey = np.arange(256, dtype=np.uint8)
    found = to_float(torch.from_numpy(grey))
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), grey.astype(float) / 127.5 - 1, atol=1e-7)
    assert found[0] == -1 and found[255] == 1


def test_batches_hold_the_images_themselves():
    normal, unlabeled = numbered(30, channels=3), numbered(40, first=100, channels=3)
    batch = Batches(normal, unlabeled, ALL, 12, seed=0)(5)
    for images, source, first in ((batch.normal, normal, 0), (batch.unlabeled, unlabeled, 100)):
        assert images.shape == (12, 3, 8, 8) and images.dtype == torch.float32
        index = np.array(which(images)) - first
        assert np.allclose(images.numpy(), source[index].astype(float) / 127.5 - 1, atol=1e-6)


def test_batch_k_depends_on_seed_and_step_alone():
    normal, unlabeled = numbered(30), numbered(40)
    forward, backward = (Batches(normal, unlabeled, ALL, 8, seed=3) for _ in range(2))
    first = [forward(k) for k in range(10)]
    torch.manual_seed(99)
    np.random.seed(99)
    later = {k: backward(k) for k in reversed(range(10))}
    assert all(same(first[k], later[k]) and same(first[k], forward(k)) for k in range(10))


def test_drawing_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    Batches(numbered(30), numbered(40), ALL, 8, seed=3)(0)
    assert torch.equal(state, torch.get_rng_state())


def test_other_seeds_and_other_steps_give_other_batches():
    normal, unlabeled = numbered(100), numbered(100)
    drawn = [
        tuple(which(getattr(Batches(normal, unlabeled, ALL, 16, seed=seed)(step), part)))
        for seed, step in itertools.product(range(5), range(5))
        for part in ("normal", "unlabeled")
    ]
    assert len(set(drawn)) == len(drawn)


def test_seed_and_step_are_not_interchangeable():
    make = {seed: Batches(numbered(100), numbered(100), ALL, 16, seed=seed) for seed in (1, 2, 3)}
    assert not same(make[1](2), make[2](1))
    assert not same(make[1](2), make[3](0))


def test_normal_and_unlabeled_are_drawn_independently():
    # With pairs drawn by one index the two would agree; independent ones agree by chance.
    batches = Batches(numbered(10), numbered(10), ALL, 10, seed=0)
    table = np.zeros((10, 10))
    for step in range(1000):
        batch = batches(step)
        np.add.at(table, (which(batch.normal), which(batch.unlabeled)), 1)
    assert table.sum() == 10_000
    assert np.abs(table - 100).max() < 45  # 4.7 standard deviations of a count of 100


def test_every_image_is_drawn_equally_often():
    batches, counts = Batches(numbered(50), numbered(50), ("normal",), 10, seed=0), np.zeros(50)
    for step in range(1000):
        counts[which(batches(step).normal)] += 1
    assert np.abs(counts - 200).max() < 60


@pytest.mark.parametrize("count", [8, 9, 30])
def test_large_sets_are_drawn_without_replacement(count):
    batches = Batches(numbered(count), numbered(count), ALL, 8, seed=0)
    for step in range(50):
        batch = batches(step)
        assert len(set(which(batch.normal))) == len(set(which(batch.unlabeled))) == 8


def test_sets_smaller_than_a_batch_are_drawn_with_replacement():
    batches, repeated, seen = Batches(numbered(5), numbered(30), ALL, 8, seed=0), 0, set()
    for step in range(100):
        batch = batches(step)
        assert len(batch.normal) == len(batch.pseudo) == 8
        assert len(set(which(batch.unlabeled))) == 8
        seen |= set(which(batch.normal))
        repeated += len(set(which(batch.normal))) < 5
    # Each image once and some again would never leave one out; with replacement many batches do.
    assert seen == set(range(5)) and repeated > 20


def test_what_is_not_needed_is_none():
    for needs in (("normal",), ("normal", "unlabeled"), ("normal", "pseudo"), ALL):
        batch = Batches(numbered(10), numbered(10), needs, 4, seed=0)(0)
        assert batch.normal is not None
        assert (batch.unlabeled is None) == ("unlabeled" not in needs)
        assert (batch.pseudo is None) == ("pseudo" not in needs)


def test_pseudo_images_are_the_batchs_normal_ones_with_a_square():
    batch = Batches(numbered(10, size=32), numbered(10, size=32), ALL, 8, seed=0)(0)
    changed = (batch.pseudo != batch.normal).any(1)
    assert batch.pseudo.shape == batch.normal.shape
    assert (batch.pseudo.abs() <= 1).all()
    for image in changed.numpy():
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.mean() > 0.9 and image.sum() < image.size / 4


def test_pseudo_needs_two_normal_images():
    with pytest.raises(ValueError, match="2"):
        Batches(numbered(1), numbered(10), ALL, 4, seed=0)
    assert Batches(numbered(1), numbered(10), ("normal",), 4, seed=0)(0).pseudo is None


def test_step_seeds_do_not_collide():
    seeds = {step_seed(seed, step) for seed in range(30) for step in range(1000)}
    seeds |= {step_seed(0, step) for step in range(1000, 31_000)}
    assert len(seeds) == 60_000
    assert all(0 <= seed < 2**63 for seed in seeds)


# Flips


def mirrored(found, x):
    """Which images of x were mirrored left to right; fails where one was changed otherwise."""
    same, mirror = ((found == y).flatten(1).all(1) for y in (x, x.flip(3)))
    assert (same ^ mirror).all()
    return mirror.numpy()


def test_a_flip_mirrors_an_image_left_to_right_in_all_channels_or_leaves_it():
    x = to_float(torch.from_numpy(numbered(60, channels=3)))
    before = x.clone()
    found = flipped(x)
    assert found.shape == x.shape and found.dtype == x.dtype
    mirror = mirrored(found, x)
    assert 0 < mirror.sum() < 60
    assert np.array_equal(found[mirror].numpy(), before.numpy()[mirror][..., ::-1])
    assert torch.equal(x, before)


def test_each_image_is_mirrored_by_itself_half_of_the_time():
    x = torch.rand(1000, 1, 2, 6)
    first, second = mirrored(flipped(x), x), mirrored(flipped(x), x)
    for count in (first.sum(), second.sum(), (first == second).sum()):
        assert abs(count - 500) < 80  # five standard deviations
    pairs = first[1:] == first[:-1]
    assert abs(pairs.sum() - 500) < 80


def test_flips_follow_torchs_random_state():
    """The loop sets it at each step, so that a training can be resumed."""
    x, found = torch.rand(50, 1, 4, 4), []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        found.append(flipped(x))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


# Pseudo-anomalies


def plain_numpy(x, foreign, row, column, half, alpha):
    """The published recipe: one image after another, a mask of ones, a weighted sum."""
    result = np.empty_like(x)
    for i in range(len(x)):
        mask = np.zeros(x.shape[-2:])
        top, left = max(row[i] - half[i], 0), max(column[i] - half[i], 0)
        mask[top : row[i] + half[i], left : column[i] + half[i]] = 1
        result[i] = (1 - alpha[i] * mask) * x[i] + alpha[i] * mask * foreign[i]
    return result


def images(count, channels, height, width, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, channels, height, width))


def blended(x, foreign, squares):
    squares = Squares(*map(torch.from_numpy, squares))
    return blend(torch.from_numpy(x), torch.from_numpy(foreign), squares).numpy()


def one_square(row, column, half, alpha):
    return Squares(*(np.array([value]) for value in (row, column, half, alpha)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64, 100])
def test_blend_is_the_published_recipe(channels, size):
    x, foreign = images(20, channels, size, size), images(20, channels, size, size, seed=1)
    squares = draw_squares(20, size, np.random.default_rng(2))
    expected = plain_numpy(x, foreign, *squares)
    assert np.allclose(blended(x, foreign, squares), expected, atol=1e-6)
    assert all((expected[i] != x[i]).any() for i in range(20))


def test_rows_and_columns_are_not_swapped():
    x, foreign = np.zeros((1, 1, 20, 30)), np.ones((1, 1, 20, 30))
    changed = blended(x, foreign, one_square(5, 22, 3, 1.0))[0, 0] == 1
    assert list(np.flatnonzero(changed.any(1))) == list(range(2, 8))
    assert list(np.flatnonzero(changed.any(0))) == list(range(19, 25))
    assert changed.sum() == 36


@pytest.mark.parametrize(
    ("row", "column", "rows", "columns"),
    [(1, 10, (0, 5), (6, 14)), (10, 19, (6, 14), (15, 20)), (0, 0, (0, 4), (0, 4))],
)
def test_squares_are_cut_off_at_the_border(row, column, rows, columns):
    x, foreign = np.zeros((1, 2, 20, 20)), np.ones((1, 2, 20, 20))
    expected = np.zeros_like(x)
    expected[:, :, slice(*rows), slice(*columns)] = 0.25
    assert np.array_equal(blended(x, foreign, one_square(row, column, 4, 0.25)), expected)


def test_alpha_is_the_share_of_the_foreign_image():
    x, foreign = np.full((1, 1, 20, 20), 0.5), np.full((1, 1, 20, 20), -0.5)
    for alpha in (0.0, 0.3, 0.9):
        inside = blended(x, foreign, one_square(10, 10, 2, alpha))[0, 0, 8:12, 8:12]
        assert np.allclose(inside, 0.5 - alpha, atol=1e-6)


def test_the_image_outside_the_square_is_untouched():
    x, foreign = images(1, 1, 64, 64), images(1, 1, 64, 64, seed=1)
    result = blended(x, foreign, one_square(30, 40, 7, 0.6))
    outside = np.ones((64, 64), bool)
    outside[23:37, 33:47] = False
    assert np.array_equal(result[0, 0][outside], x[0, 0][outside])
    assert (result[0, 0][~outside] != x[0, 0][~outside]).all()


def test_drawn_bounds_at_64_are_the_published_ones_and_all_reached():
    squares = draw_squares(40_000, 64, np.random.default_rng(0))
    for centre in (squares.row, squares.column):
        assert sorted(set(centre.tolist())) == list(range(12, 51))
    assert sorted(set(squares.half.tolist())) == list(range(3, 13))


def test_draws_are_uniform_and_independent():
    squares = draw_squares(40_000, 64, np.random.default_rng(0))
    row, column, half, alpha = squares
    assert abs(row.mean() - 31) < 0.3 and abs(column.mean() - 31) < 0.3
    assert abs(half.mean() - 7.5) < 0.1 and abs(half.std() - np.sqrt(99 / 12)) < 0.05
    assert 0 <= alpha.min() < 0.01 and 0.99 < alpha.max() < 1
    assert abs(alpha.mean() - 0.5) < 0.01 and abs(alpha.std() - np.sqrt(1 / 12)) < 0.01
    correlations = np.corrcoef([row, column, half, alpha]) - np.eye(4)
    assert np.abs(correlations).max() < 0.03


@pytest.mark.parametrize(
    ("size", "centre", "half"),
    [(32, (6, 24), (2, 5)), (128, (25, 101), (6, 25)), (256, (51, 203), (13, 50))],
)
def test_other_sizes_scale_the_bounds(size, centre, half):
    squares = draw_squares(40_000, size, np.random.default_rng(0))
    for drawn, bounds in ((squares.row, centre), (squares.column, centre), (squares.half, half)):
        assert (int(drawn.min()), int(drawn.max())) == bounds


def test_same_generator_state_same_squares():
    one, again, other = (draw_squares(50, 64, np.random.default_rng(k)) for k in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_foreign_image_is_never_the_image_itself(count):
    # Constant images, each of its own grey: a square of itself would change nothing.
    greys = np.arange(count, dtype=np.uint8) * 30
    normal = np.broadcast_to(greys[:, None, None, None], (count, 1, 32, 32)).copy()
    batches = Batches(normal, normal, ("normal", "pseudo"), 8, seed=1)
    foreign = set()
    for step in range(60):
        batch = batches(step)
        for image, pseudo in zip(batch.normal, batch.pseudo, strict=True):
            inside = (pseudo != image)[0]
            assert inside.any() and not inside.all()
            own, mixed = image[0, 0, 0], pseudo[0][inside]
            foreign.add((round(float(own), 3), bool(mixed[0] > own)))
    # Each image meets lighter and darker ones, but for the darkest and the lightest.
    assert len(foreign) == 2 * count - 2


def test_every_other_image_is_met_as_the_foreign_one():
    # One lit column an image: where a square crosses the foreign one's column it shows through.
    normal = np.zeros((4, 1, 32, 32), np.uint8)
    for i in range(4):
        normal[i, 0, :, 12 + 2 * i] = 255
    batches = Batches(normal, normal, ("normal", "pseudo"), 4, seed=0)
    pairs = set()
    for step in range(80):
        batch = batches(step)
        for image, pseudo in zip(batch.normal, batch.pseudo, strict=True):
            own = {int(c) for c in torch.nonzero((image[0] > 0.5).any(0))[:, 0]}
            lighter = {int(c) for c in torch.nonzero((pseudo - image > 1e-3)[0].any(0))[:, 0]}
            assert len(own) == 1 and len(lighter) <= 1 and not own & lighter
            pairs |= {(min(own), column) for column in lighter}
    columns = (12, 14, 16, 18)
    assert pairs == {(a, b) for a in columns for b in columns if a != b}
