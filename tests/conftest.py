"""What the tests share: a project folder of their own, small sets, real sets where given."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from files import write_set

torch.set_num_threads(1)
# A test may take as long as a busy machine needs.
settings.register_profile(
    "nblib", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("nblib")


def pytest_collection_modifyitems(items):
    """The longest files, of the notebooks and of batches, come first, so that they do not end last.

    `make test` gives each file to one worker (--dist loadfile), and so what its tests cache.
    """
    items.sort(key=lambda item: item.path.stem not in ("test_collection", "test_snakefile"))


@pytest.fixture(scope="session", autouse=True)
def session_root(tmp_path_factory):
    """The project folder of fixtures that outlive a test, such as loaded real sets."""
    folder = tmp_path_factory.mktemp("session")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLIB_ROOT", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def project_root(session_root, tmp_path_factory, monkeypatch):
    """A project folder of its own for each test, so that none touches a user's data."""
    folder = tmp_path_factory.mktemp("project")
    monkeypatch.setenv("NBLIB_ROOT", str(folder))
    return folder


@pytest.fixture
def make_set(tmp_path):
    """`write_set` into the test's own folder: make_set("name", counts, ...) -> folder."""

    def make(name="a set", *args, **kwargs):
        return write_set(tmp_path / name, *args, **kwargs)

    return make


@pytest.fixture(scope="session")
def set_writer():
    """`write_set`, for fixtures that outlive a test."""
    return write_set


@pytest.fixture(scope="session")
def real_sets():
    """real_sets(name) -> the folder of a real set; skips the test where there is none."""

    def folder(name: str) -> Path:
        shelves = [Path(p) for p in os.environ.get("NBLIB_SETS", "").split(os.pathsep) if p]
        found = [shelf / name for shelf in shelves if (shelf / name / "data.json").is_file()]
        if not found:
            pytest.skip(f"no real set {name} in the folders of the variable NBLIB_SETS")
        return found[0]

    return folder


@pytest.fixture(scope="session")
def splits():
    """splits(name) -> the data.json of a benchmark set; skips the test where there is none."""

    def file(name: str) -> Path:
        folder = os.environ.get("NBLIB_SPLITS")
        if not folder or not (Path(folder) / f"{name}.json").is_file():
            pytest.skip(f"no {name}.json in the folder of the variable NBLIB_SPLITS")
        return Path(folder) / f"{name}.json"

    return file
