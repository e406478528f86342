import itertools

import numpy as np
import pytest
import torch

from nblib.data.batches import Batches, flipped, step_seed, to_float

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
