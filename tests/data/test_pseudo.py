import numpy as np
import pytest
import torch

from nblib.data.batches import Batches
from nblib.data.pseudo import Squares, blend, draw_squares


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
    return blend(torch.from_numpy(x), torch.from_numpy(foreign), squares).numpy()


def one_square(row, column, half, alpha):
    return Squares(*(torch.tensor([value]) for value in (row, column, half)), torch.tensor([alpha]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64, 100])
def test_blend_is_the_published_recipe(channels, size):
    x, foreign = images(20, channels, size, size), images(20, channels, size, size, seed=1)
    squares = draw_squares(20, size, torch.Generator().manual_seed(2))
    expected = plain_numpy(x, foreign, *(value.numpy() for value in squares))
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
    squares = draw_squares(40_000, 64, torch.Generator().manual_seed(0))
    for centre in (squares.row, squares.column):
        assert sorted(set(centre.tolist())) == list(range(12, 51))
    assert sorted(set(squares.half.tolist())) == list(range(3, 13))


def test_draws_are_uniform_and_independent():
    squares = draw_squares(40_000, 64, torch.Generator().manual_seed(0))
    row, column, half, alpha = (value.double().numpy() for value in squares)
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
    squares = draw_squares(40_000, size, torch.Generator().manual_seed(0))
    for drawn, bounds in ((squares.row, centre), (squares.column, centre), (squares.half, half)):
        assert (int(drawn.min()), int(drawn.max())) == bounds


def test_same_generator_state_same_squares():
    one, again, other = (draw_squares(50, 64, torch.Generator().manual_seed(k)) for k in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


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
