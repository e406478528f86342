"""The set in which only place decides: what is drawn, and that nothing else tells."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nblib.data import places
from nblib.data.drawn import is_current


def halves(images):
    """How much light the marks add to the left and to the right half of each picture."""
    light = np.where(images > places.GREY + 40, images.astype(float) - places.GREY, 0)
    return light[:, :, :16].sum((1, 2)), light[:, :, 16:].sum((1, 2))


def test_normal_pictures_have_marks_on_the_left_alone_abnormal_ones_one_on_the_right():
    drawn = places.draw(200, 200, seed=1)
    left, right = halves(drawn.images)
    assert (left[:200] > 0).all() and (right[:200] == 0).all()
    assert (right[200:] > 0).all()
    assert not drawn.masks[:200].any() and not drawn.masks[:, :, :16].any()
    lit = drawn.images[200:] > places.GREY + 60
    assert (drawn.masks[200:] & lit)[:, :, 16:].sum() > 0.9 * lit[:, :, 16:].sum()
    assert list(drawn.lesions.index) == list(range(200, 400))


def test_a_mark_lies_in_one_quadrant():
    rng = np.random.default_rng(2)
    for side in [False, True] * 300:
        disc = places._disc(rng, side, "halves")
        quadrants = disc.reshape(2, 16, 2, 16).max((1, 3)) > 0
        assert quadrants.sum() == 1 and quadrants[:, int(side)].any()


def test_twins_are_the_same_patches_in_exchanged_places_and_of_one_patient():
    drawn = places.twins(50, seed=3)
    normal, twin = drawn.images[::2], drawn.images[1::2]
    assert np.array_equal(normal[:, :, :16], twin[:, :, 16:])
    assert np.array_equal(normal[:, :, 16:], twin[:, :, :16])
    assert drawn.patients[::2] == drawn.patients[1::2] and len(set(drawn.patients)) == 50
    assert list(drawn.lesions.index) == list(range(1, 100, 2))
    # Which of both is called the first view says nothing.
    assert [1 - view for view in drawn.views[::2]] == drawn.views[1::2]
    assert 10 < sum(drawn.views[::2]) < 40


def test_a_patch_says_nothing_of_the_class():
    """Of single marks the light is distributed alike on either side."""
    abnormal, normal = places.draw(0, 3000, seed=4), places.draw(3000, 0, seed=5)
    left, right = halves(abnormal.images)
    assert (left == 0).mean() == pytest.approx(1 / 3, abs=0.03)
    alone = left == 0
    single = halves(normal.images)[0]
    single = single[single < 1.05 * right[alone].max()]
    few = np.quantile(right[alone], [0.05, 0.5])
    assert few == pytest.approx(np.quantile(right[~alone], [0.05, 0.5]), rel=0.1)
    assert single.min() == pytest.approx(right.min(), rel=0.2)


def test_the_set_on_the_disk(tmp_path):
    folder = places.write_places(
        tmp_path / "places", seed=6, known_normal=8, unlabeled=(3, 5), test=4
    )
    split = json.loads((folder / "data.json").read_text())
    counts = [len(split["train"]["0"]), *(len(split["train"]["unlabeled"][c]) for c in "01")]
    assert [*counts, *(len(split["test"][c]) for c in "01")] == [8, 3, 5, 4, 4]
    assert split["size"] == 32 and is_current(folder, places.DRAWING)
    patient = pd.read_csv(folder / "metadata.csv").set_index("image")["patient"]
    assert sorted(patient[split["test"]["0"]]) == sorted(patient[split["test"]["1"]])
    for name in split["test"]["1"]:
        image = np.asarray(Image.open(folder / "images" / name))
        mask = np.asarray(Image.open(folder / "masks" / name)) > 0
        assert mask.any() and image[mask].mean() > places.GREY + 60 and not mask[:, :16].any()


@pytest.mark.parametrize("border", ["middle", "outer"])
def test_harder_borders_run_through_the_patches(border):
    belong, not_there = places.QUARTERS[border]
    rng = np.random.default_rng(7)
    for wrong, allowed in ((False, belong), (True, not_there)):
        discs = np.stack([places._disc(rng, wrong, border) for _ in range(200)])
        lit = discs.reshape(200, 32, 4, 8).max((1, 3)) > 0
        assert set(np.flatnonzero(np.any(lit, 0))) == set(allowed)
        assert (np.sum(lit, 1) == 1).all()
    drawn = places.twins(40, seed=8, border=border)
    light = (drawn.images > places.GREY + 40).reshape(80, 32, 4, 8).any((1, 3))
    assert not light[::2][:, not_there].any() and not light[1::2][:, belong].any()
    # What a patch of a twin shows is the other half of what it showed.
    patches = drawn.images.reshape(80, 32, 2, 2, 8)
    assert np.array_equal(patches[::2], patches[1::2][:, :, :, ::-1])
