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


@pytest.fixture(scope="module")
def own_set(session_root, set_writer, tmp_path_factory):
    """A set of random pictures with labelled test images, in a root that the session shares."""
    parts = ("train/0", "train/unlabeled/0", "train/unlabeled/1", "test/0", "test/1")
    folder = set_writer(tmp_path_factory.mktemp("sets") / "own", dict.fromkeys(parts, 40), size=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLIB_ROOT", str(session_root))
        yield datasets.load(folder)
