import json
import os
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import percentileofscore
from sklearn.metrics import average_precision_score, roc_auc_score

from nblib.data import datasets
from nblib.methods.catalogue import METHODS
from nblib.methods.encodings import AttentionSpec
from nblib.methods.method import detect_all
from nblib.training import budgets, runs
from nblib.training.runs import RunError, code_digest, run

WRITTEN = [
    "config.json", "history.csv", "maps.npz", "metrics.json", "scores.csv", "checkpoint.pt",
    "SHA256SUMS",
]  # fmt: skip
FAST = dict(steps=2, critic_layers=4, batch_size=2, width=2)
COUNTS = {
    "train/0": 24, "train/unlabeled/0": 4, "train/unlabeled/1": 4, "test/0": 5, "test/1": 5
}  # fmt: skip


def write_set(folder, size=32):
    """Random images, two a patient; patients are numbered 001, 002, ... over the whole set."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    split, rows = {"train": {"unlabeled": {}}, "test": {}}, ["image,patient"]
    patient = 0
    for key, count in COUNTS.items():
        *path, last = key.split("/")
        names = [f"{key.replace('/', '_')}_{i}.png" for i in range(count)]
        for i, name in enumerate(names):
            pixels = random.integers(0, 256, (size, size), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name)
            patient += i % 2 == 0
            rows.append(f"{name},{patient:03d}")
        place = split
        for word in path:
            place = place[word]
        place[last] = names
    (folder / "data.json").write_text(json.dumps(split))
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def set_folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("sets") / "noise")


@pytest.fixture
def dataset(set_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("NBLIB_ROOT", str(tmp_path / "project"))
    return datasets.load(set_folder, size=32)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A project folder in which runs are made once and looked at by several tests."""
    return tmp_path_factory.mktemp("home").resolve()


@pytest.fixture
def at_home(home, monkeypatch):
    monkeypatch.setenv("NBLIB_ROOT", str(home))


@pytest.fixture(scope="module")
def noise(home, set_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLIB_ROOT", str(home))
        return datasets.load(set_folder, size=32)


@pytest.fixture(scope="module")
def mean_image(home, noise):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLIB_ROOT", str(home))
        return run("mean_image", noise, "smoke")


@pytest.fixture(scope="module")
def sagan(home, noise):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLIB_ROOT", str(home))
        return run("sagan", noise, "smoke", seed=3, variant="fast", **FAST)


@pytest.fixture(scope="module")
def eight_steps(home, noise):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLIB_ROOT", str(home))
        return run("sagan", noise, "smoke", variant="eight", **FAST | dict(steps=8))


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def refuse(*args, **kwargs):
    raise AssertionError("it trained")


# What a run writes


def test_a_run_lies_in_the_folder_of_its_names(sagan, home):
    assert sagan.folder == home / "data/runs/noise/smoke/sagan/fast/seed3"


@pytest.mark.parametrize("which, watched", [("mean_image", []), ("sagan", ["watched.csv"])])
def test_everything_is_written_and_nothing_temporary_is_left(which, watched, request):
    folder = request.getfixturevalue(which).folder
    assert sorted(file.name for file in folder.iterdir()) == sorted(WRITTEN + watched)


def test_metrics_are_written_last(dataset, monkeypatch):
    order = []
    replace = os.replace

    def noted(source, target):
        order.append(os.path.basename(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    run("mean_image", dataset, "smoke")
    assert order[0] == "config.json" and order[-1] == "metrics.json"
    assert set(order) == set(WRITTEN)


def test_scores_name_each_image_its_patient_part_and_label(sagan, noise):
    scores = sagan.scores
    known = ["image", "patient", "part", "label", "score", "percentile"]
    assert list(scores) == [*known, "map maximum"]
    held_scores = scores["score"][scores["part"] == "held_out_normal"]
    for score, percentile in zip(scores["score"], scores["percentile"], strict=True):
        assert np.isclose(percentile, percentileofscore(held_scores, score, "mean"))
    counts = scores.groupby("part").size().to_dict()
    held = noise.hold_out(3, 0.1)
    assert counts == {"held_out_normal": len(held.held_normal), "unlabeled": 8, "test": 10}
    assert set(scores["image"][scores["part"] == "held_out_normal"]) == set(held.held_normal.names)
    for part in ("unlabeled", "test"):
        rows = scores[scores["part"] == part]
        assert list(rows["image"]) == list(getattr(noise, part).names)
        assert list(rows["label"]) == ["_1_" in name for name in rows["image"]]
    assert not scores["label"][scores["part"] == "held_out_normal"].any()
    assert np.isfinite(scores["score"]).all()


def test_patients_stay_text_with_their_zeros(sagan, noise):
    scores = sagan.scores
    assert scores["patient"].map(type).eq(str).all()
    assert scores["patient"].str.fullmatch(r"\d{3}").all()
    assert "007" in set(pd.concat([scores["patient"], pd.Series(noise.normal.patients)]))
    table = dict(zip(noise.test.names, noise.test.patients, strict=True))
    tested = scores[scores["part"] == "test"]
    assert list(tested["patient"]) == [table[name] for name in tested["image"]]


def test_a_patient_007_is_read_back_as_text(tmp_path):
    file = tmp_path / "scores.csv.gz"
    row = {"image": "0012", "patient": "007", "part": "test", "label": 1, "score": 0.25}
    pd.DataFrame([row]).to_csv(file, index=False)
    assert runs.read_scores(file).iloc[0].to_dict() == row


def test_metrics_are_scikit_learns_of_the_test_scores(sagan, noise):
    tested = sagan.test
    labels, scores = tested["label"], tested["score"]
    assert sagan.metrics["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert sagan.metrics["ap"] == pytest.approx(average_precision_score(labels, scores))
    held = noise.hold_out(sagan.config["seed"])
    of_unlabeled = sagan.scores.set_index(["part", "image"])["score"]["unlabeled"]
    held_unlabeled = of_unlabeled[list(held.held_unlabeled.names)]
    against = np.repeat([0, 1], [len(sagan.held_out), len(held_unlabeled)])
    aucp = roc_auc_score(against, [*sagan.held_out, *held_unlabeled])
    assert sagan.metrics["aucp_held_out"] == pytest.approx(aucp)
    assert sagan.metrics["aucp_held_out"] == pytest.approx(sagan.history["aucp_held_out"].iloc[-1])
    assert sagan.metrics["images"] == 10
    assert sagan.metrics["patients"] == tested["patient"].nunique() == 6
    assert sagan.metrics["score"] == "residual" and sagan.metrics["steps"] == 2
    assert sagan.metrics["parameters"] == sum(p.numel() for p in sagan.method().parameters())


def test_maps_are_those_of_the_test_images_in_half_precision(mean_image, noise):
    tested = mean_image.test["score"]
    maps, restored = mean_image.test_map, mean_image.test_restored
    assert maps.shape == (10, 32, 32)
    np.testing.assert_allclose(maps.mean((1, 2)), tested, rtol=1e-3)
    x = noise.test.images / 127.5 - 1
    expected = np.abs(x - restored).mean(1) / 2
    np.testing.assert_allclose(maps, expected, atol=2e-3)
    assert mean_image.held_map.shape == (len(noise.hold_out(0, 0.1).held_normal), 32, 32)


def test_a_method_without_maps_has_none(dataset):
    finished = run("mean_intensity", dataset, "smoke")
    assert finished.test_map is finished.held_map is finished.test_restored is None


def test_the_history_is_that_of_the_training(sagan):
    assert list(sagan.history["step"]) == [1, 2]
    assert {"D.adversarial", "G.reconstruction", "aucp"} <= set(sagan.history)


def test_the_history_of_a_method_that_does_not_train_is_empty(mean_image):
    assert len(mean_image.history) == 0


def test_the_configuration_has_every_argument_resolved(sagan):
    config = sagan.config
    expected = budgets.arguments("sagan", "smoke", 32, 1, **FAST)
    plain = {k: getattr(v, "__name__", v) for k, v in expected.items()}
    assert config["arguments"] == plain | {"needs": ["normal", "unlabeled", "pseudo"]}
    assert plain["place"] == "BinaryCode" and plain["gate"] == "AttentionGate"
    assert config["arguments"]["steps"] == 2 and config["arguments"]["lambda_gp"] == 10
    assert (config["method"], config["budget"], config["variant"]) == ("sagan", "smoke", "fast")
    assert (config["seed"], config["choice"], config["held_out"]) == (3, "last", 0.1)
    assert (config["set"], config["size"], config["channels"]) == ("noise", 32, 1)
    assert config["code"] == code_digest("sagan")
    assert torch.__version__.startswith(config["versions"]["torch"])
    assert config["precision"] in ("fp32", "bf16") and config["threads"] >= 1


# Reuse


def test_a_finished_run_is_taken_from_its_folder(at_home, sagan, noise, monkeypatch):
    before = contents(sagan.folder)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "fit", refuse)
        again = run("sagan", noise, "smoke", seed=3, variant="fast", **FAST)
    assert again == sagan
    assert contents(sagan.folder) == before


def test_a_run_that_was_cut_off_before_its_metrics_is_not_finished(dataset):
    finished = run("mean_image", dataset, "smoke")
    (finished.folder / "metrics.json").unlink()
    assert run("mean_image", dataset, "smoke").metrics["images"] == len(dataset.test)


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(held_out=0.2), "held_out"),
        (dict(choice="aucp"), "choice"),
        (dict(lr=0.5), "arguments"),
    ],
)
def test_a_finished_run_of_another_configuration_is_refused_and_unchanged(
    at_home, sagan, noise, change, named
):
    before = contents(sagan.folder)
    with pytest.raises(RunError, match=rf"another {named}\b"):
        run("sagan", noise, "smoke", seed=3, variant="fast", **FAST | change)
    assert contents(sagan.folder) == before
    assert [f.name for f in sagan.folder.parent.iterdir() if f.is_dir()] == ["seed3"]


def test_a_finished_run_on_other_images_is_refused(dataset, set_folder):
    run("mean_image", dataset, "smoke")
    with pytest.raises(RunError, match="size"):
        run("mean_image", datasets.load(set_folder, size=16), "smoke")


def test_a_finished_run_is_refused_where_its_set_says_another_conversion(dataset, tmp_path):
    folder = write_set(tmp_path / "scans")
    finished = run("mean_image", datasets.load(folder, size=32), "smoke")
    lists = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps(lists | {"conversion": "benchmark"}))
    changed = datasets.load(folder, size=32)
    with pytest.raises(RunError, match=r"another conversion\b"):
        run("mean_image", changed, "smoke")
    config = json.loads((finished.folder / "config.json").read_text())
    assert config.pop("conversion") == "window"
    (finished.folder / "config.json").write_text(json.dumps(config))
    (finished.folder / "SHA256SUMS").unlink()
    assert run("mean_image", changed, "smoke") == finished, "a run of before"


def test_a_finished_run_of_other_code_is_kept_and_said(
    at_home, mean_image, noise, monkeypatch, capsys
):
    before = contents(mean_image.folder)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "code_digest", lambda method: "another")
        patch.setattr(runs, "fit", refuse)
        assert run("mean_image", noise, "smoke") == mean_image
    assert "another version of the code" in capsys.readouterr().err
    assert contents(mean_image.folder) == before


def test_a_finished_run_with_arguments_of_before_is_taken_and_its_method_opens(
    dataset, monkeypatch, capsys
):
    finished = run("sagan_rope", dataset, "smoke", **FAST | dict(width=8))
    file = finished.folder / "config.json"
    config = json.loads(file.read_text())
    for gone in ("attention", "placed"):
        config["arguments"].pop(gone)
    config["arguments"] |= {"position": "Rope2d", "attention_after": 0, "place_acts": False}
    file.write_text(json.dumps(config | {"code": "of before"}))
    (finished.folder / "SHA256SUMS").unlink()
    monkeypatch.setattr(runs, "fit", refuse)
    again = run("sagan_rope", dataset, "smoke", **FAST | dict(width=8))
    assert again == finished and len(capsys.readouterr().err.splitlines()) == 1
    state = again.method().state_dict()
    said = capsys.readouterr().err
    assert "without a digest" in said
    assert "attention_after, place_acts is unknown to this version" in said
    assert all(torch.equal(state[name], v) for name, v in finished.method().state_dict().items())
    with pytest.raises(RunError, match="another arguments"):
        run("sagan_rope", dataset, "smoke", **FAST | dict(width=8, lr=0.5))


@pytest.mark.parametrize("override", [{"gate": torch.nn.Identity}, {"attention": AttentionSpec()}])
def test_parts_are_not_chosen_by_an_override(dataset, override):
    with pytest.raises(ValueError, match="the catalogue"):
        run("sagan", dataset, "smoke", **override)


# Runs that were cut off


class Killed(Exception):
    pass


def cut_off(monkeypatch, dataset, at=5, looked=None, **arguments):
    """Start a run of SAGAN and kill it at a step after its checkpoint of step 4.

    Or when it looks the first or second time whether it is enough: just before a checkpoint.
    """

    class Dying(METHODS["sagan"].kind):
        __module__ = METHODS["sagan"].kind.__module__
        looks = 0

        def after_step(self, step):
            if step == at:
                raise Killed

        def enough(self, held_out):
            self.looks += 1
            if self.looks == looked:
                raise Killed
            return False

    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "sagan", METHODS["sagan"]._replace(make=Dying))
        with pytest.raises(Killed):
            run("sagan", dataset, "smoke", **FAST | dict(steps=8) | arguments)
    return runs.run_folder(dataset.name, "smoke", "sagan", 0)


def test_a_run_that_was_cut_off_goes_on_and_scores_as_if_it_had_not_been(
    eight_steps, dataset, monkeypatch
):
    here = cut_off(monkeypatch, dataset)
    left = {file.name for file in here.iterdir()}
    assert left == {"checkpoint.pt", "config.json", "watched.csv", "SHA256SUMS"}
    assert torch.load(here / "checkpoint.pt")["step"] == 4
    started = []

    def noted(method, *args, **kwargs):
        started.append(torch.load(here / "checkpoint.pt")["step"])
        return fit(method, *args, **kwargs)

    fit = runs.fit
    monkeypatch.setattr(runs, "fit", noted)
    resumed = run("sagan", dataset, "smoke", **FAST | dict(steps=8))
    assert started == [4]
    for name in ("scores.csv", "watched.csv"):
        assert (resumed.folder / name).read_text() == (eight_steps.folder / name).read_text()
    assert resumed.history.equals(eight_steps.history)


def test_an_unfinished_run_of_another_configuration_is_set_aside(dataset, monkeypatch, capsys):
    here = cut_off(monkeypatch, dataset)
    before = contents(here)
    finished = run("sagan", dataset, "smoke", **FAST)
    aside = here.with_name("seed0.aside1")
    assert contents(aside) == before
    assert str(aside) in capsys.readouterr().err
    assert finished.folder == here and finished.config["arguments"]["steps"] == 2


def test_unfinished_runs_of_other_code_are_set_aside_one_by_one(dataset, monkeypatch):
    kept = []
    for code in "first", "second":
        with monkeypatch.context() as patch:
            patch.setattr(runs, "code_digest", lambda method, code=code: code)
            here = cut_off(monkeypatch, dataset, at=4)
            kept.append(contents(here))
    run("sagan", dataset, "smoke", **FAST)
    assert contents(here.with_name("seed0.aside1")) == kept[0]
    assert contents(here.with_name("seed0.aside2")) == kept[1]


TWO = """
import sys, torch
torch.set_num_threads(1)
from nblib.data import datasets
from nblib.training import runs
dataset = datasets.load(sys.argv[1], size=32)
fit = runs.fit
def noted(*args, **kwargs):
    print("trained")
    return fit(*args, **kwargs)
runs.fit = noted
print("ready", flush=True)
sys.stdin.readline()
run = runs.run("mean_image", dataset, "smoke")
print("auc", run.metrics["auc"])
"""


def test_two_processes_at_once_write_one_run(set_folder, tmp_path):
    environment = os.environ | {"NBLIB_ROOT": str(tmp_path), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(set_folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=environment,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("trained" in out for out, _ in outputs) == 1
    assert len({out.split("auc ")[1] for out, _ in outputs}) == 1
    folder = tmp_path / "data/runs/noise/smoke/mean_image/base"
    assert sorted(f.name for f in (folder / "seed0").iterdir()) == sorted(WRITTEN)
    assert [f.name for f in folder.iterdir() if f.is_dir()] == ["seed0"]


# A run's method


@pytest.mark.parametrize("which", ["mean_image", "sagan"])
def test_the_method_of_a_run_scores_as_the_run_did(which, request, noise):
    finished = request.getfixturevalue(which)
    method = finished.method()
    assert not method.training
    x = torch.from_numpy(noise.test.images / np.float32(127.5) - 1)
    with torch.no_grad():
        scores = method.detect(x).score.numpy()
    stored = finished.test["score"]
    np.testing.assert_allclose(scores, stored, rtol=1e-5)


def test_the_method_of_a_run_without_a_place_has_none(dataset):
    finished = run("sagan", dataset, "smoke", variant="no_place", **FAST, place=None)
    assert finished.config["arguments"]["place"] is None
    method = finished.method()
    assert isinstance(method.G.encoder.place1.code, torch.nn.Identity)


def test_the_untrained_method_of_a_run_is_what_its_seed_starts_from(sagan):
    torch.manual_seed(sagan.config["seed"])
    fresh = METHODS["sagan"].make(**budgets.arguments("sagan", "smoke", 32, 1, **FAST)).state_dict()
    untrained, trained = sagan.untrained().state_dict(), sagan.method().state_dict()
    assert all(torch.equal(fresh[name], untrained[name]) for name in fresh)
    assert any(not torch.equal(trained[name], untrained[name]) for name in trained)


# Scores at the checkpoints


def scores_of_test(run):
    return run.test.set_index("image")["score"]


def test_the_test_images_are_scored_at_each_checkpoint(eight_steps, dataset, monkeypatch):
    watched = eight_steps.watched
    assert list(watched) == [4, 8] and list(watched.index) == list(dataset.test.names)
    np.testing.assert_allclose(watched[8], scores_of_test(eight_steps), rtol=1e-6)
    # What was left at step 4, scored here.
    state = torch.load(cut_off(monkeypatch, dataset) / "checkpoint.pt")
    method = METHODS["sagan"].make(**budgets.arguments("sagan", "smoke", 32, 1, **FAST))
    method.load_state(state["method"])
    scores = detect_all(method, dataset.test.images).scores["residual"]
    assert state["step"] == 4
    np.testing.assert_allclose(watched[4], scores, rtol=1e-5)
    assert not np.allclose(watched[4], watched[8], rtol=1e-3)


@pytest.mark.parametrize("looked, columns, saved", [(1, [4], []), (2, [4, 8], [4])])
def test_a_run_that_was_cut_off_before_its_checkpoint_was_saved_scores_the_images_again(
    eight_steps, dataset, monkeypatch, looked, columns, saved
):
    here = cut_off(monkeypatch, dataset, looked=looked, at=None)
    assert list(runs.Run(here).watched) == columns
    assert [torch.load(file)["step"] for file in here.glob("checkpoint.pt")] == saved
    resumed = run("sagan", dataset, "smoke", **FAST | dict(steps=8))
    for name in ("scores.csv", "watched.csv"):
        assert (resumed.folder / name).read_text() == (eight_steps.folder / name).read_text()


def test_the_scores_of_a_chosen_checkpoint_are_those_noted_at_it(dataset):
    chosen = run("sagan", dataset, "smoke", seed=0, choice="aucp", **FAST | dict(steps=16))
    at = chosen.history.set_index("step")["aucp"].idxmax()
    assert list(chosen.watched) == [4, 8, 12, 16] and at < 16
    np.testing.assert_allclose(chosen.watched[at], scores_of_test(chosen), rtol=1e-5)


def test_checkpoints_score_the_same_sample_of_the_test_images_in_every_run(dataset, monkeypatch):
    monkeypatch.setattr(runs, "WATCHED", 6)
    one, other = (run("alocc", dataset, "smoke", seed=s, variant="sample", rho=0.0) for s in (0, 1))
    assert len(one.watched) == 6 and one.watched.index.equals(other.watched.index)
    assert one.watched.index.isin(dataset.test.names).all()
    at_the_end = one.test.set_index("image")["score"]
    assert len(at_the_end) == 10
    np.testing.assert_allclose(one.watched[8], at_the_end[one.watched.index], rtol=1e-4)


def test_precision_is_part_of_what_a_run_is(dataset):
    finished = run("alocc", dataset, "smoke", variant="precise", precision="bf16")
    assert finished.config["precision"] == "bf16"
    again = run("alocc", dataset, "smoke", variant="precise", precision="bf16")
    assert again.folder == finished.folder
    with pytest.raises(runs.RunError, match="finished run with another precision"):
        run("alocc", dataset, "smoke", variant="precise")
    assert run("alocc", dataset, "smoke").config["precision"] == "fp32"
    with pytest.raises(ValueError, match="must be fp32 or bf16"):
        run("alocc", dataset, "smoke", precision="half")


def test_what_does_not_train_has_no_precision(dataset):
    finished = run("pca16", dataset, "smoke", precision="bf16")
    assert finished.config["precision"] == ""
    file = finished.folder / "config.json"
    file.write_text(file.read_text().replace('"precision": ""', '"precision": "bf16"'))
    (finished.folder / "SHA256SUMS").unlink()
    assert run("pca16", dataset, "smoke").folder == finished.folder, "a run of before"


def test_a_method_that_optimises_for_each_image_is_scored_at_the_end_only(dataset):
    finished = run("anogan", dataset, "smoke", steps=8)
    assert finished.watched.empty and not (finished.folder / "watched.csv").exists()
    assert finished.metrics["steps"] == 8 and len(scores_of_test(finished)) == 10


def test_a_method_that_does_not_train_is_scored_at_the_end_only(mean_image):
    assert mean_image.watched.empty and mean_image.metrics["steps"] == 0


def test_the_steps_are_those_that_were_done_where_a_training_stops_early(dataset):
    early = run("alocc", dataset, "smoke", variant="early", rho=100.0)
    late = run("alocc", dataset, "smoke", variant="late", rho=0.0)
    assert early.metrics["steps"] == 4 and late.metrics["steps"] == 8
    assert early.config["arguments"]["steps"] == late.config["arguments"]["steps"] == 8
    assert list(early.watched) == [4] and list(late.watched) == [4, 8]
    np.testing.assert_allclose(early.watched[4], scores_of_test(early), rtol=1e-6)
    assert early.watched[4].equals(late.watched[4])


# A method that sees larger images than the set's


class Larger(METHODS["mean_image"].kind):
    """The mean image of 64 x 64 pixels, which notes what it was handed."""

    __module__ = METHODS["mean_image"].kind.__module__
    image_size = 64
    seen: ClassVar = []

    def prepare(self, normal, unlabeled, patients):
        self.seen += [normal, unlabeled]
        super().prepare(normal, unlabeled)

    def detect(self, x):
        self.seen.append(x)
        return super().detect(x)


def pixels_of(folder, names):
    """The files as they are, 64 x 64, in [-1, 1]."""
    images = [np.asarray(Image.open(folder / "images" / name)) for name in names]
    return np.stack(images)[:, None] / 127.5 - 1


def test_a_method_sees_images_of_its_size_and_its_maps_are_averaged_to_the_sets(
    tmp_path, monkeypatch
):
    folder = write_set(tmp_path / "fine", size=64)
    (folder / "boxes.csv").write_text("image,x,y,width,height\ntest_1_0.png,8,16,20,12\n")
    monkeypatch.setenv("NBLIB_ROOT", str(tmp_path / "project"))
    monkeypatch.setitem(METHODS, "larger", METHODS["mean_image"]._replace(make=Larger))
    monkeypatch.setattr(Larger, "seen", [])
    dataset = datasets.load(folder, size=32, unlabeled_ratio=0.25, unlabeled_size=4)
    finished = run("larger", dataset, "smoke")
    held = dataset.hold_out(0, 0.1)

    parts = [held.normal, held.unlabeled, held.held_normal, dataset.unlabeled, dataset.test]
    assert [len(part) for part in parts] == [12, 3, 12, 4, 10]
    for seen, part in zip(Larger.seen, parts, strict=True):
        np.testing.assert_allclose(seen, pixels_of(folder, part.names), atol=1e-6)
    for name, part in {"held_out_normal": 2, "unlabeled": 3, "test": 4}.items():
        rows = finished.scores[finished.scores["part"] == name]
        assert list(rows["image"]) == list(parts[part].names)

    assert (finished.config["size"], finished.config["data"]) == (32, dataset.fingerprint)
    normal, test = (pixels_of(folder, part.names) for part in (held.normal, dataset.test))
    fine = np.abs(test - normal.mean(0)).mean(1) / 2
    np.testing.assert_allclose(scores_of_test(finished), fine.mean((1, 2)), rtol=1e-4)
    averaged = fine.reshape(10, 32, 2, 32, 2).mean((2, 4))
    np.testing.assert_allclose(finished.test_map, averaged, atol=1e-3)
    assert finished.held_map.shape == (12, 32, 32)
    restored = normal.mean(0).reshape(1, 32, 2, 32, 2).mean((2, 4))
    expected = np.broadcast_to(restored, (10, 1, 32, 32))
    np.testing.assert_allclose(finished.test_restored, expected, atol=1e-3)
    assert finished.metrics["pixel_ap_chance"] == pytest.approx(10 * 6 / (6 * 32 * 32))
    assert finished.metrics["images_with_lesion"] == 1


def test_boxes_that_are_none_are_named_before_anything_is_trained(tmp_path, monkeypatch):
    folder = write_set(tmp_path / "boxed", size=16)
    (folder / "boxes.csv").write_text("image,x,y,width,height\ntest_1_0.png,8,1,0,12\n")
    monkeypatch.setenv("NBLIB_ROOT", str(tmp_path / "project"))
    monkeypatch.setattr(runs, "fit", None)
    with pytest.raises(datasets.DatasetError, match="1 rows hold no box"):
        run("mean_image", datasets.load(folder, size=16), "smoke")
    assert not runs.run_folder("boxed", "smoke", "mean_image", 0).exists()


def test_an_argument_that_is_none_leaves_nothing_half_written(dataset):
    with pytest.raises(ValueError):
        run("mean_image", dataset, "smoke", seed=77, held_out=2.0)
    assert not runs.run_folder(dataset.name, "smoke", "mean_image", 77).exists()


def test_a_run_is_made_where_there_is_no_git(dataset, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert run("mean_image", dataset, "smoke", seed=78).config["commit"] is None


# The digest of the code


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    """digest_of(text) -> code_digest of a method whose only source file has this text."""
    file = tmp_path / "source.py"
    monkeypatch.setattr(runs, "sources", lambda method: [file])

    def digest(text):
        file.write_text(text)
        return code_digest("sagan")

    return digest


PLAIN = '"""About."""\n\n\ndef f(x):\n    """Once."""\n    return x + 1\n'


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("Once", "Twice"),
        PLAIN.replace("About", "Something else"),
        PLAIN.replace("x + 1", "(x\n            + 1)  # one more"),
        "# A note.\n" + PLAIN,
        PLAIN.replace('    """Once."""\n', ""),
        PLAIN.replace('"""About."""\n', ""),
    ],
    ids=["docstring", "module's docstring", "layout", "comment", "none", "module's none"],
)
def test_comments_docstrings_and_layout_do_not_count_as_code(digest_of, text):
    assert text != PLAIN
    assert digest_of(text) == digest_of(PLAIN)


@pytest.mark.parametrize(
    "text", [PLAIN.replace("1", "2"), PLAIN.replace("x", "y"), PLAIN + "f(0)\n"]
)
def test_any_change_of_code_counts(digest_of, text):
    assert digest_of(text) != digest_of(PLAIN)


def test_a_string_that_the_code_uses_counts(digest_of):
    assert digest_of("a = 'one'\n") != digest_of("a = 'two'\n")


def test_a_method_depends_on_its_own_file_and_on_what_trains_it():
    names = {"/".join(file.parts[-2:]) for file in runs.sources("pca16")}
    assert {"methods/trivial.py", "training/loop.py", "methods/layers.py"} <= names
    assert "methods/sagan.py" not in names
    assert "methods/sagan.py" in {"/".join(f.parts[-2:]) for f in runs.sources("sagan")}
    assert all(file.is_file() for file in runs.sources("sagan"))
    # Also what a method is made of behind its own file.
    behind = {"brainomaly_features": "pretrained", "pixel_fisher": "directions"}
    for method, other in behind.items():
        assert f"{other}.py" in {file.name for file in runs.sources(method)}
    assert "pretrained.py" not in {file.name for file in runs.sources("sagan_swin")}


def test_files_that_only_show_results_are_no_sources():
    names = {file.name for file in runs.sources("sagan")}
    assert not names & {"metrics.py", "runs.py", "progress.py"}


# Held-out images


def test_a_run_without_held_out_images_has_no_threshold(dataset):
    finished = run("mean_image", dataset, "smoke", held_out=0)
    assert set(finished.scores["part"]) == {"unlabeled", "test"}
    assert finished.metrics["threshold"] is None and finished.metrics["sensitivity"] is None
    assert 0 <= finished.metrics["auc"] <= 1
