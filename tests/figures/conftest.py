import pytest

from nblib.data import datasets
from nblib.data.labels import load_labels
from nblib.training import runs


@pytest.fixture
def shown(make_set):
    dataset = datasets.load(make_set())
    return dataset, load_labels(dataset), runs.run("mean_image", dataset, "smoke")
