"""What is read of a run's folder is what was written, or a sentence says what is wrong."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from files import all_bytes, full_disk
from nblib.data import datasets
from nblib.files import RunError
from nblib.methods.trivial import MeanImage
from nblib.training import folder, runs
from nblib.training.folder import load_checkpoint, save_checkpoint

FILES = [
    "config.json", "history.csv", "scores.csv", "metrics.json", "maps.npz", "checkpoint.pt",
    "watched.csv",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(session_root, set_writer, tmp_path_factory):
    """A set, and finished runs of it: (dataset, one, another seed, another method)."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLIB_ROOT", str(root))
        dataset = datasets.load(set_writer(root / "sets" / "own", {"train/0": 12}, size=32))
        asked = ("ganomaly", 0), ("ganomaly", 1), ("pca16", 0)
        return dataset, *(runs.run(method, dataset, "smoke", seed) for method, seed in asked)


@pytest.fixture
def copy(made, project_root):
    """The folder of a copy of the first run, in the test's own root."""
    here = runs.run_folder("own", "smoke", "ganomaly", 0)
    shutil.copytree(made[1].folder, here)
    return here


def of_a_version_before(here):
    (here / "SHA256SUMS").unlink()


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 0x10
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def read_all(here):
    run = runs.Run(here)
    return (
        run.config, run.metrics, run.history, run.scores, run.watched, run.test_map, run.method()
    )  # fmt: skip


def refused(read, file):
    """Reading raises RunError in one line, with the file's path and what to do."""
    with pytest.raises(RunError) as error:
        read(file.parent)
    (line,) = str(error.value).splitlines()
    assert str(file) in line and line.endswith("Move the folder away and run again.")


# Digests


@pytest.mark.parametrize("which", [1, 3])
def test_the_digests_are_those_of_all_files_as_another_program_finds_them(made, which):
    here = made[which].folder
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=here, capture_output=True, text=True)
    checked = {line.split(":")[0] for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert checked == {file.name for file in here.iterdir()} - {"SHA256SUMS"}


def pipe(file):
    """Who opens it waits for a writer that never comes."""
    file.unlink()
    os.mkfifo(file)


DAMAGES = {
    "missing": lambda file, made: file.unlink(),
    "a pipe": lambda file, made: pipe(file),
    "empty": lambda file, made: file.write_bytes(b""),
    "cut": lambda file, made: cut(file),
    "a flipped bit": lambda file, made: flip(file, file.stat().st_size // 2),
    "of another seed": lambda file, made: shutil.copy(made[2].folder / file.name, file),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_as_it_was_written_is_refused(made, copy, name, damage):
    read_all(copy)
    damage(copy / name, made)
    refused(read_all, copy / name)


def slack(file):
    """A byte of padding in a checkpoint: in the extra field of an entry, which no CRC covers."""
    with zipfile.ZipFile(file) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
    header = file.read_bytes()[entry.header_offset :][:30]
    name, extra = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
    assert extra > 8
    return entry.header_offset + 30 + name + extra - 1


def test_a_flip_where_the_archives_own_sums_do_not_look_is_refused(copy):
    file = copy / "checkpoint.pt"
    flip(file, slack(file))
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
    refused(lambda here: runs.Run(here).method(), file)


def test_a_run_without_digests_is_read_and_said_in_a_line(made, copy, capsys):
    of_a_version_before(copy)
    state = runs.Run(copy).method().state_dict()
    assert all(torch.equal(state[k], v) for k, v in made[1].method().state_dict().items())
    (line,) = capsys.readouterr().err.splitlines()
    assert str(copy / "checkpoint.pt") in line and "without a digest" in line


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from nblib.training.folder import save_checkpoint
file = Path(sys.argv[1])
state = dict(torch.load(file), step=2)
replace = os.replace

def killed(source, target):
    if Path(target).name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = killed
save_checkpoint(file, state)
"""


@pytest.mark.parametrize("before", ["SHA256SUMS", "checkpoint.pt"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_kill_between_digest_and_checkpoint_leaves_one_that_is_read(tmp_path, before, listed):
    file, method = tmp_path / "checkpoint.pt", MeanImage()
    for step in (0, 1):
        save_checkpoint(file, checkpoint_of(method, step=step))
    if not listed:
        of_a_version_before(tmp_path)
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(file), before])
        assert killed.returncode == -signal.SIGKILL
    assert load_checkpoint(file, method)["step"] == 1
    save_checkpoint(file, checkpoint_of(method, step=2))
    assert load_checkpoint(file, method)["step"] == 2


@pytest.mark.parametrize("name", FILES)
def test_a_list_that_leaves_a_file_out_is_not_believed(copy, name):
    """Else a wrong letter in it would switch the check off."""
    sums = copy / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(f"  {name}", f"  {name[:-1]}_"))
    refused(read_all, copy / name)
    sums.write_text("")
    refused(read_all, copy / "config.json")


def test_a_run_that_is_finished_again_leaves_no_digest_of_before(made, copy):
    """Killed while it writes its files anew, it goes on."""
    (copy / "metrics.json").unlink()
    folder.begin_again(copy)
    for name in ("config.json", "watched.csv"):
        assert not folder.is_listed(copy / name)
    assert folder.is_listed(copy / "checkpoint.pt")
    finished = runs.run("ganomaly", made[0], "smoke")
    assert finished.metrics["auc"] == made[1].metrics["auc"] and read_all(copy)


# Checkpoints


def checkpoint_of(method, **changes):
    state = dict(finished=True, step=0, rows=[], seconds=0.0, best={}, optimizers={})
    return state | {"method": method.state_dict()} | changes


NOT_FINITE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", NOT_FINITE.values(), ids=NOT_FINITE)
def test_weights_that_are_not_finite_are_refused_though_their_digest_is_right(copy, value, dtype):
    file = copy / "checkpoint.pt"
    saved = torch.load(file)
    name = next(name for name, tensor in saved["method"].items() if tensor.is_floating_point())
    spoilt = saved["method"][name].to(dtype)
    spoilt.flatten()[-1] = value
    save_checkpoint(file, saved | {"method": saved["method"] | {name: spoilt}})
    refused(lambda here: runs.Run(here).method(), file)


NO_CHECKPOINTS = {
    "a list": [1, 2],
    "an empty dictionary": {},
    "weights alone": {"a": torch.zeros(2)},
    "no tensors": dict(finished=True, step=0, rows=[], seconds=0, best={}, optimizers={}, method=1),
    "weights of another method": checkpoint_of(torch.nn.Linear(2, 2)),
}


@pytest.mark.parametrize("content", NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS)
def test_what_is_no_checkpoint_of_the_method_is_refused(copy, content):
    of_a_version_before(copy)
    torch.save(content, copy / "checkpoint.pt")
    refused(lambda here: runs.Run(here).method(), copy / "checkpoint.pt")


def first_of(optimizers, **changes):
    name, state = next(iter(optimizers.items()))
    return optimizers | {name: state | changes}


def with_settings(saved, **changes):
    groups = next(iter(saved["optimizers"].values()))["param_groups"]
    groups = [group | changes for group in groups]
    return dict(optimizers=first_of(saved["optimizers"], param_groups=groups))


NO_WAY_ON = {
    "no optimisers": lambda saved: dict(optimizers={}),
    "a list of optimisers": lambda saved: dict(optimizers=[]),
    "optimisers of nothing": lambda saved: dict(
        optimizers={name: {} for name in saved["optimizers"]}
    ),
    "optimisers of others": lambda saved: dict(
        optimizers=first_of(saved["optimizers"], param_groups=[])
    ),
    "moments of other weights": lambda saved: dict(
        optimizers=first_of(saved["optimizers"], state={0: {"exp_avg": torch.zeros(2, 9)}})
    ),
    "another rate": lambda saved: with_settings(saved, lr=1.0),
    "another rate to begin with": lambda saved: with_settings(saved, initial_lr=1.0),
    "a rate that is no number": lambda saved: with_settings(saved, initial_lr=math.nan),
    "other averages": lambda saved: with_settings(saved, betas=(0.9, 0.999)),
    "settings in words": lambda saved: with_settings(saved, eps="x"),
    "a step in words": lambda saved: dict(step="x"),
    "a step before the first": lambda saved: dict(step=-5),
    "a step beyond the last": lambda saved: dict(step=10**6),
    "no rows": lambda saved: dict(rows=None),
    "rows in words": lambda saved: dict(rows="x"),
    "rows of words": lambda saved: dict(rows=["x"]),
    "rows of no step": lambda saved: dict(rows=[{"loss": 1.0}]),
    "no seconds": lambda saved: dict(seconds=None),
    "a best that is none": lambda saved: dict(best={"aucp": 0.5, "method": {}}),
    "a best without its AUCp": lambda saved: dict(best={}),
}


@pytest.fixture
def cut_off(copy):
    """The checkpoint of a run that goes on from it; of a version before, without a digest."""
    (copy / "metrics.json").unlink()
    of_a_version_before(copy)
    file, method = copy / "checkpoint.pt", runs.Run(copy).method()
    saved = torch.load(file)
    optimizers = {name: of.state_dict() for name, of in method.optimizers().items()}
    saved |= dict(finished=False, step=4, best={"aucp": -1.0}, optimizers=optimizers)
    torch.save(saved | {"rows": [row for row in saved["rows"] if row["step"] <= 4]}, file)
    return file


@pytest.mark.parametrize("change", NO_WAY_ON.values(), ids=NO_WAY_ON)
def test_a_checkpoint_that_cannot_be_gone_on_with_is_refused(made, cut_off, change):
    saved = torch.load(cut_off)
    torch.save(saved | change(saved), cut_off)
    refused(lambda here: runs.run("ganomaly", made[0], "smoke"), cut_off)
    torch.save(saved, cut_off)
    assert list(runs.run("ganomaly", made[0], "smoke").history["step"]) == [*range(1, 9)]


class Payload:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_holds_code_is_refused_and_not_run(copy, tmp_path):
    of_a_version_before(copy)
    torch.save(Payload(tmp_path / "ran"), copy / "checkpoint.pt")
    refused(lambda here: runs.Run(here).method(), copy / "checkpoint.pt")
    assert not (tmp_path / "ran").exists()


# What is noticed where no digest was written


def changed(**values):
    def change(file, made):
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


OF_BEFORE = {
    "a configuration of another seed": ("config.json", DAMAGES["of another seed"]),
    "a configuration of no method": ("config.json", changed(method="later")),
    "a configuration of no budget": ("config.json", changed(budget="later")),
    "a configuration without arguments": ("config.json", changed(arguments=None)),
    "a seed in words": ("config.json", changed(seed="one")),
    "a list": ("config.json", lambda file, made: file.write_text("[]")),
    "no text": ("config.json", lambda file, made: file.write_bytes(b"\xff\xfe\x00")),
    "an AUC in words": ("metrics.json", changed(auc="high")),
    "metrics of other scores": ("metrics.json", changed(images=7)),
    "metrics in a list": ("metrics.json", lambda file, made: file.write_text("[1]")),
    "scores of another seed": ("scores.csv", DAMAGES["of another seed"]),
    "scores in words": ("scores.csv", lambda file, made: file.write_text("no such thing")),
    "maps that are text": ("maps.npz", lambda file, made: file.write_text("no such thing")),
    "a history in words": ("history.csv", lambda file, made: file.write_text("step,a\n1,b\n")),
    "a missing history": ("history.csv", DAMAGES["missing"]),
    "half a checkpoint": ("checkpoint.pt", DAMAGES["cut"]),
    "watched in words": ("watched.csv", lambda file, made: file.write_text("image,8\na,b\n")),
}


@pytest.mark.parametrize("name, damage", OF_BEFORE.values(), ids=OF_BEFORE)
def test_without_digests_the_contents_are_looked_at(made, copy, name, damage):
    of_a_version_before(copy)
    damage(copy / name, made)
    with pytest.raises(RunError) as error:
        read_all(copy)
    (line,) = str(error.value).splitlines()
    assert str(copy) in line and name in line


def test_a_whole_folder_of_another_run_is_noticed(made, copy):
    shutil.rmtree(copy)
    shutil.copytree(made[2].folder, copy)
    refused(lambda here: runs.Run(here).config, copy / "config.json")


def test_a_folder_that_was_put_aside_or_elsewhere_is_read(copy, tmp_path):
    for place in (copy.with_name("seed0.old"), tmp_path / "anywhere"):
        shutil.copytree(copy, place)
        assert runs.Run(place).config["seed"] == 0


# What `run` does with such folders


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_finished_run_whose_configuration_is_lost_is_not_written_over(made, copy, damage):
    DAMAGES[damage](copy / "config.json", made)
    before = sorted(file.name for file in copy.iterdir())
    refused(lambda here: runs.run("ganomaly", made[0], "smoke"), copy / "config.json")
    assert sorted(file.name for file in copy.iterdir()) == before


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_an_unfinished_run_whose_configuration_is_lost_is_set_aside(made, copy, damage, capsys):
    (copy / "metrics.json").unlink()
    DAMAGES[damage](copy / "config.json", made)
    assert runs.run("ganomaly", made[0], "smoke").metrics["auc"] == made[1].metrics["auc"]
    aside = copy.with_name("seed0.aside1")
    assert (aside / "checkpoint.pt").exists() and str(aside) in capsys.readouterr().err


def test_a_damaged_checkpoint_is_not_gone_on_with(made, copy):
    (copy / "metrics.json").unlink()
    flip(copy / "checkpoint.pt", copy.joinpath("checkpoint.pt").stat().st_size // 2)
    refused(lambda here: runs.run("ganomaly", made[0], "smoke"), copy / "checkpoint.pt")


# A full disk


@pytest.mark.parametrize("room, name", [(500, "config.json"), (3000, "checkpoint.pt")])
def test_a_run_on_a_full_disk_names_the_file_and_goes_on_where_there_is_room(
    made, project_root, room, name
):
    here = runs.run_folder("own", "smoke", "ganomaly", 0)
    with pytest.raises(OSError, match=f"{here / name} cannot be written"), full_disk(room):
        runs.run("ganomaly", made[0], "smoke")
    assert not [file for file in here.iterdir() if file.name.startswith(".")]
    assert runs.run("ganomaly", made[0], "smoke").metrics["auc"] == made[1].metrics["auc"]


@pytest.mark.parametrize("name", ["history.csv", "scores.csv", "maps.npz", "metrics.json"])
def test_a_full_disk_after_the_training_loses_nothing_of_it(made, copy, name, monkeypatch):
    replace = os.replace

    def full(source, target):
        if target == copy / name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    (copy / "metrics.json").unlink()
    before = all_bytes(copy)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match=f"{copy / name} cannot be written: No space left"):
            runs.run("ganomaly", made[0], "smoke")
    assert all_bytes(copy).get(copy / name) == before.get(copy / name)
    again = runs.run("ganomaly", made[0], "smoke")
    assert again.scores.equals(made[1].scores) and again.metrics["auc"] == made[1].metrics["auc"]


def test_the_checkpoint_before_stays_where_there_is_no_room_for_the_next(copy):
    file = copy / "checkpoint.pt"
    before, saved = all_bytes(copy), torch.load(file)
    with pytest.raises(OSError, match=f"{file} cannot be written: File too large"), full_disk(3000):
        save_checkpoint(file, saved)
    assert all_bytes(copy) == before
