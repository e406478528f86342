import dataclasses
import json

import numpy as np
import pytest

from nblib.data.datasets import DatasetError, load

PARTS = ("normal", "unlabeled", "test")


def split_of(folder):
    return json.loads((folder / "data.json").read_text())


def write_split(folder, split):
    (folder / "data.json").write_text(json.dumps(split))


def problems_of(folder, size=16, **arguments):
    with pytest.raises(DatasetError) as caught:
        load(folder, size, **arguments)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def one_problem(folder, *words):
    """The only problem of a set: a sentence with these words."""
    problems = problems_of(folder)
    assert len(problems) == 1, problems
    assert all(word in problems[0] for word in words), problems[0]
    assert problems[0].endswith(".") and "\n" not in problems[0]


def equal(one, other):
    return all(
        np.array_equal(getattr(getattr(one, part), field.name), getattr(a, field.name))
        for part in PARTS
        for a in [getattr(other, part)]
        for field in dataclasses.fields(a)
    )


# Decoding

GREY = np.random.default_rng(7).integers(0, 256, (16, 16), np.uint8)
COLOUR = np.random.default_rng(8).integers(0, 256, (16, 16, 3), np.uint8)


def mix(folder, ratio, size=None, seed=0):
    return set(
        load(folder, 4, unlabeled_ratio=ratio, unlabeled_size=size, seed=seed).unlabeled.names
    )
