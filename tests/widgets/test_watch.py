import os
import shutil
import threading

import pytest
import torch

from files import folder_digest
from nblib.data import datasets
from nblib.methods.catalogue import METHODS
from nblib.training import budgets, loop, runs
from nblib.widgets import Watch
from nblib.widgets.found import finished


@pytest.fixture
def dataset(set_writer, tmp_path):
    counts = {"train/0": 60, "train/unlabeled/0": 10, "train/unlabeled/1": 10}
    counts |= {"test/0": 17, "test/1": 14}
    return datasets.load(set_writer(tmp_path / "a set", counts, 16), 32)


class Stopped(Exception):
    pass


def interrupted(dataset, at, method="ganomaly"):
    """A training that is stopped at a step, after the checkpoint before it was written."""
    here = runs.run_folder("a set", "smoke", method, 0)
    here.mkdir(parents=True, exist_ok=True)
    (here / "config.json").write_text("{}")
    model = METHODS[method].make(**budgets.arguments(method, "smoke", dataset.size, 1))

    def stop(_, step):
        if step >= at:
            raise Stopped

    with pytest.raises(Stopped):
        loop.fit(model, dataset.hold_out(0), 0, here / "checkpoint.pt", watch=stop)
    return here


def test_a_training_is_watched_from_its_checkpoints_until_it_has_finished(dataset, project_root):
    watch = Watch()
    assert "No training is in progress" in watch.said and watch.still() is None
    here = interrupted(dataset, at=8)
    step = torch.load(here / "checkpoint.pt", weights_only=True)["step"]
    before = folder_digest(project_root / "data" / "runs")
    watch.timer.ticks += 1
    assert watch.choice.value == ("a set", "smoke", "ganomaly", 0)
    assert f"step {step} of 8" in watch.said and step < 8
    first = watch.picture.value
    assert len(first) > 1000 and watch.still() is not None
    watch.timer.ticks += 1
    assert watch.picture.value == first  # nothing new: nothing is drawn
    assert folder_digest(project_root / "data" / "runs") == before

    run = []
    thread = threading.Thread(target=lambda: run.append(runs.run("ganomaly", dataset, "smoke")))
    shutil.rmtree(here)
    thread.start()
    thread.join()
    watch.timer.ticks += 1
    assert "has finished" in watch.said and watch.picture.value != first
    assert finished() == (("a set", "smoke", "ganomaly", 0),)


def test_a_training_that_has_only_begun_says_so_and_closed_forms_are_not_watched(project_root):
    for method in ("sagan", "pca16"):
        here = runs.run_folder("a set", "smoke", method, 0)
        here.mkdir(parents=True)
        (here / "config.json").write_text("{}")
    watch = Watch()
    assert [key.method for _, key in watch.choice.options] == ["sagan"]
    assert "its curves come with its first checkpoint" in watch.said and watch.still() is None


def emptied(file):
    file.write_bytes(b"")


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def foreign(file):
    torch.save({"weight": torch.zeros(2)}, file)


def pipe(file):
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("damage", [emptied, cut, foreign, pipe])
def test_a_damaged_checkpoint_is_said_in_a_sentence(dataset, project_root, damage):
    file = interrupted(dataset, at=8) / "checkpoint.pt"
    watch = Watch()
    assert "of 8" in watch.said
    damage(file)
    watch.timer.ticks += 1
    assert f"{file} cannot be read: " in watch.said and watch.still() is None
    assert len(watch.said.splitlines()) == 1 and "run again" in watch.said


def test_two_trainings_do_not_push_each_other_away(dataset, project_root):
    interrupted(dataset, at=8)
    watch = Watch()
    interrupted(dataset, at=8, method="alocc")  # saved later
    watch.refresh()
    assert watch.choice.value.method == "ganomaly" and len(watch.choice.options) == 2
    watch.choice.value = next(key for _, key in watch.choice.options if key.method == "alocc")
    assert "alocc" in watch.said
