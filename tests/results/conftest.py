import pytest

from nblib.data import datasets
from nblib.results import store
from nblib.training import runs


@pytest.fixture
def results(make_set):
    """Runs of two methods with two seeds each on one small set, and the set."""
    dataset = datasets.load(make_set())
    for method in ("mean_image", "known_against_unlabeled"):
        for seed in (0, 1):
            runs.run(method, dataset, "smoke", seed)
    return store.collect(dataset.name, "smoke")
