import csv
import io
import json
import re
import shutil
import threading

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_curve

from nblib.data import datasets
from nblib.data.batches import to_float
from nblib.files import digest
from nblib.methods.catalogue import METHODS
from nblib.training import budgets, loop, runs
from nblib.widgets import explore, panels

SIZE = 16
COUNTS = {"train/0": 60, "train/unlabeled/0": 10, "train/unlabeled/1": 10}
COUNTS |= {"test/0": 17, "test/1": 14}


@pytest.fixture(scope="module")
def made(set_writer, tmp_path_factory):
    """A project folder with finished runs of one set, whose lesions have masks; and the set."""
    root = tmp_path_factory.mktemp("explored")
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[4:8, 2:10] = 255
    masks = {f"test_1_{i}.png": mask for i in range(14)}
    folder = set_writer(root / "a set", COUNTS, SIZE, masks=masks)
    for i in range(7):  # half of the abnormal ones are told by their brightness
        file = folder / "images" / f"test_1_{i}.png"
        Image.fromarray(np.asarray(Image.open(file)) // 2 + 127).save(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBLIB_ROOT", str(root))
        dataset = datasets.load(folder, SIZE)
        for method in ("nearest_normals", "mean_image", "mean_intensity"):
            runs.run(method, dataset, "smoke")
        runs.run("nearest_normals", dataset, "smoke", seed=1)
        runs.run("mean_image", dataset, "quick")
        # It sees the images larger than the set has them.
        runs.run("pretrained_knn", dataset, "smoke", pixels=48)
        larger = datasets.load(folder, 32)
        runs.run("anogan", larger, "smoke")
    return root, folder


@pytest.fixture
def opened(made, monkeypatch):
    """opened(method, ...) -> an explorer over those runs."""
    root, folder = made
    monkeypatch.setenv("NBLIB_ROOT", str(root))

    def of(method="nearest_normals", budget="smoke", seed=0):
        return explore.explorer(folder, budget, method, seed)

    return of


def stored(root, method="nearest_normals", budget="smoke", seed=0, part="test"):
    """The lines of scores.csv, as text."""
    file = root / f"data/runs/a set/{budget}/{method}/base/seed{seed}/scores.csv"
    with open(file, newline="") as table:
        return [line for line in csv.DictReader(table) if line["part"] == part]


def numbers(html):
    """Name -> (share, part, whole), as they are written under the threshold."""
    text = re.sub(r"<.*?>", "", html)
    found = re.findall(
        r"(sensitivity|specificity|called abnormal) ([\d.]+) \((\d+) of (\d+)\)", text
    )
    return {name: (float(share), int(part), int(whole)) for name, share, part, whole in found}


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def folder_digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest(*(str(path).encode() + path.read_bytes() for path in files))


def test_the_list_is_sorted_and_says_what_the_table_of_scores_says(opened, made):
    explorer = opened()
    lines = sorted(stored(made[0]), key=lambda line: -float(line["score"]))
    held = [float(line["score"]) for line in stored(made[0], part="held_out_normal")]
    cut = sorted(held)[int(np.ceil(0.95 * (len(held) + 1))) - 1]
    listed = explorer.listed
    assert list(listed["image"]) == [line["image"] for line in lines]
    assert list(listed["label"]) == [["normal", "abnormal"][int(line["label"])] for line in lines]
    above = [float(line["score"]) > cut for line in lines]
    assert list(listed["called"]) == [["normal", "abnormal"][called] for called in above]
    percentiles = [
        100 * np.mean([(h < float(line["score"])) + (h == float(line["score"])) / 2 for h in held])
        for line in lines
    ]
    assert np.allclose(listed["percentile"], percentiles)
    shown = explorer.ranking.rows
    assert [row["image"] for row in shown] == [line["image"] for line in lines[: len(shown)]]
    assert explorer.ranking.pages == -(-len(lines) // len(shown))


def test_a_moved_threshold_changes_sensitivity_specificity_list_and_picture(opened, made):
    explorer = opened()
    before, picture = explorer._numbers.value, explorer.still("threshold").data
    lines = stored(made[0])
    for cut in np.linspace(explorer.threshold.min, explorer.threshold.max, 7)[1:-1]:
        explorer.threshold.value = cut
        above = {
            label: [float(line["score"]) > explorer.cut for line in lines if line["label"] == label]
            for label in "01"
        }
        found = numbers(explorer._numbers.value)
        assert found["sensitivity"][1:] == (sum(above["1"]), len(above["1"]))
        assert found["specificity"][1:] == (len(above["0"]) - sum(above["0"]), len(above["0"]))
        assert found["specificity"][0] == pytest.approx(1 - np.mean(above["0"]), abs=0.005)
        assert (explorer.listed["called"] == "abnormal").sum() == sum(above["0"] + above["1"])
    assert "Moved by hand" in explorer._numbers.value
    assert explorer.still("threshold").data != picture
    explorer.back.click()
    assert explorer._numbers.value == before and explorer.back.disabled


def test_the_threshold_begins_where_the_run_has_put_it_and_stays_there_when_rounded(opened, made):
    explorer = opened()
    file = made[0] / "data/runs/a set/smoke/nearest_normals/base/seed0/metrics.json"
    own = json.loads(file.read_text())
    assert explorer.cut == own["threshold"]
    assert numbers(explorer._numbers.value)["sensitivity"][0] == round(own["sensitivity"], 2)
    explorer.threshold.value += explorer.threshold.step / 3  # what a slider does to a number
    assert explorer.cut == own["threshold"] and explorer.back.disabled


def test_the_list_can_be_narrowed_to_what_is_wrong(opened, made):
    explorer = opened()
    lines, cut = stored(made[0]), explorer.cut
    for word, label, above in (("missed", "1", False), ("false alarms", "0", True)):
        explorer.narrowed.value = word
        wrong = [
            line["image"]
            for line in lines
            if line["label"] == label and (float(line["score"]) > cut) is above
        ]
        assert sorted(explorer.listed["image"]) == sorted(wrong)
        assert {row["image"] for row in explorer.ranking.rows} <= set(wrong)


def test_the_roc_curve_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    test = pd.DataFrame(
        {"score": random.integers(0, 9, 50) / 9, "label": random.integers(0, 2, 50)}
    )
    false, true, _ = roc_curve(test["label"], test["score"], drop_intermediate=False)
    found = {tuple(np.round(point, 9)) for point in zip(*panels._roc(test), strict=True)}
    assert found | {(0, 0)} == {tuple(np.round(p, 9)) for p in zip(false, true, strict=True)}


def test_controls_offer_what_is_on_the_disk_each_narrowing_the_next(opened):
    explorer = opened(seed=1)
    assert explorer.data.options == ("a set",)
    assert explorer.budget.options == ("smoke", "quick")
    assert explorer.seed.options == (0, 1) and explorer.key.seed == 1
    explorer.method.value = "mean_image"
    assert explorer.seed.options == (0,) and explorer.key == ("a set", "smoke", "mean_image", 0)
    explorer.budget.value = "quick"
    assert explorer.method.options == ("mean_image",) and "quick" in explorer.said


def test_a_run_that_is_missing_is_named_with_its_command_and_the_nearest_one_is_shown(opened, made):
    explorer = opened("sagan", "quick", 3)
    assert explorer.key == ("a set", "quick", "mean_image", 0)
    assert "no finished run of sagan" in explorer.said
    assert f"make figures DATA={made[1]} BUDGET=quick SEEDS=3" in explorer.said


def test_a_map_is_drawn_in_viridis_on_the_scale_of_held_out_normals(opened, made):
    explorer = opened()
    explorer.outlined.value = False
    explorer.ranking.chosen = 20
    with np.load(made[0] / "data/runs/a set/smoke/nearest_normals/base/seed0/maps.npz") as file:
        map, held = file["test_map"][20].astype(float), file["held_map"].astype(float)
    expected = matplotlib.colormaps["viridis"](map / np.quantile(held, 0.995))[..., :3] * 255
    picture = pixels(explorer._views[2].picture.value)
    step = len(picture) // SIZE
    assert np.abs(picture[step // 2 :: step, step // 2 :: step] - expected).max() < 4
    # The overlay at opacity 1 is the map; at 0 the image.
    explorer.opacity.value = 1.0
    assert np.abs(pixels(explorer._views[3].picture.value) - picture).max() <= 1
    explorer.opacity.value = 0.0
    image = Image.open(made[1] / "images" / explorer._test["image"][20])
    overlay = pixels(explorer._views[3].picture.value)[step // 2 :: step, step // 2 :: step, 0]
    assert np.abs(overlay - np.asarray(image, int)).max() <= 1


def test_a_mask_is_outlined_along_its_pixels():
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = True
    edges = {tuple(map(tuple, edge)) for edge in panels._edges(mask)}
    left, right, top, bottom = 0.5, 0.75, 0.25, 0.5
    assert edges == {
        ((left, top), (right, top)),
        ((left, bottom), (right, bottom)),
        ((left, top), (left, bottom)),
        ((right, top), (right, bottom)),
    }
    mask[1, 3] = True
    assert len(panels._edges(mask)) == 6  # none between two pixels of the same lesion


def test_lesions_are_outlined_on_request(opened):
    explorer = opened()
    explorer.ranking.chosen = 20  # an abnormal one
    outlined = pixels(explorer._views[0].picture.value)
    explorer.outlined.value = False
    plain = pixels(explorer._views[0].picture.value)
    step = len(plain) // SIZE
    assert (plain == plain[..., :1]).all() and not (outlined == outlined[..., :1]).all()
    inside = (slice(5 * step, 7 * step), slice(3 * step, 9 * step))
    assert (outlined[inside] == plain[inside]).all()


def test_other_methods_have_their_own_scale_threshold_and_frame(opened, made):
    explorer = opened()
    assert explorer.still("methods") is None
    explorer.compare("mean_image", "mean_intensity", "a method without a run")
    names = ["nearest_normals", "mean_intensity", "mean_image"]
    framed = {name: set() for name in names}
    for chosen in range(0, 31, 3):
        explorer.ranking.chosen = chosen
        assert [tile.title for tile in explorer._compared] == names
        for tile in explorer._compared:
            line = stored(made[0], tile.title)[chosen]
            held = [float(r["score"]) for r in stored(made[0], tile.title, part="held_out_normal")]
            cut = sorted(held)[int(np.ceil(0.95 * (len(held) + 1))) - 1]
            assert tile.framed == (float(line["score"]) > cut)
            assert f"percentile {float(line['percentile']):.0f}" in tile.note
            framed[tile.title].add(tile.framed)
    assert {True, False} in framed.values()
    without = explorer._compared[1]
    assert "no heat map" in without.note and not without.picture.value
    explorer.method.value = "mean_image"
    assert [tile.title for tile in explorer._compared] == ["mean_image", "mean_intensity"]


def test_a_still_picture_of_many_methods_has_several_lines(opened):
    explorer = opened()
    explorer.compare("mean_image", "pretrained_knn", "anogan")
    four = pixels(explorer.still("methods").data)
    explorer.compare("mean_intensity")
    five = pixels(explorer.still("methods").data)
    assert five.shape[1] == four.shape[1] and five.shape[0] == 2 * four.shape[0]
    height, width = five.shape[:2]
    assert (five[height // 2 + 40 :, width // 2 :] == 255).all()


def painted_score(explorer):
    """Scores before and after, as they are written beside the patch."""
    return [float(text) for text in re.findall(r"<b>(.*?)</b>", explorer._patch_words.value)]


@pytest.mark.parametrize("method, size", [("nearest_normals", 16), ("pretrained_knn", 48)])
def test_a_painted_image_is_scored_by_the_runs_own_method(opened, made, method, size):
    explorer = opened(method)
    explorer.ranking.chosen = 5
    explorer.paint(left=3, top=8, width=6, height=2, brightness=200)
    image = datasets.load(made[1], size).test.images[[5]]
    by_hand, scale = image.copy(), size // SIZE
    by_hand[:, :, 8 * scale : 10 * scale, 3 * scale : 9 * scale] = 200
    model = runs.Run(explorer.key.folder).method()
    with torch.no_grad():
        expected = [
            model.detect(to_float(torch.from_numpy(x))).score.item() for x in (image, by_hand)
        ]
    assert painted_score(explorer) == pytest.approx(expected, rel=2e-3)
    assert expected[0] != pytest.approx(expected[1], rel=5e-3)
    shown = pixels(explorer.canvas.png)
    step = len(shown) // SIZE
    assert (shown[8 * step : 10 * step, 3 * step : 9 * step] == 200).all()
    assert not (shown[8 * step : 10 * step, 9 * step :] == 200).all()
    explorer.brightness.value = 20
    assert painted_score(explorer)[1] != pytest.approx(expected[1], rel=1e-3)
    explorer.clear.click()
    assert explorer.still("patch") is None and painted_score(explorer) == []


def test_the_change_of_the_map_is_where_the_patch_is(opened):
    explorer = opened("mean_image")
    explorer.paint(left=0, top=0, width=4, height=4)
    change = pixels(explorer._patched[2].picture.value)
    step = len(change) // SIZE
    other = change.copy()
    other[: 4 * step, : 4 * step] = change[-1, -1]
    assert (other == change[-1, -1]).all() and (change[: 4 * step, : 4 * step] != other[0, 0]).any()


def test_painting_changes_neither_threads_nor_style_of_the_users_session(opened):
    torch.set_num_threads(2)
    try:
        style = dict(matplotlib.rcParams)
        opened("mean_image").paint(1, 1, 4, 4)
        assert torch.get_num_threads() == 2 and dict(matplotlib.rcParams) == style
    finally:
        torch.set_num_threads(1)


def test_a_method_that_optimises_shows_its_stored_result_and_says_so(opened):
    explorer = opened("anogan")
    explorer.paint(1, 1, 4, 4)
    assert not explorer.canvas.ready and explorer.canvas.rectangle == []
    assert "optimises for each image" in explorer._patch_words.value
    assert explorer._views[2].picture.value and explorer.still("patch") is None


def test_a_run_whose_weights_are_gone_says_so_beside_the_patch(opened, made, tmp_path, monkeypatch):
    shutil.copytree(made[0] / "data" / "runs", tmp_path / "data" / "runs")
    for file in tmp_path.rglob("checkpoint.pt"):
        file.unlink()
    explorer = opened()
    monkeypatch.setenv("NBLIB_ROOT", str(tmp_path))
    explorer.again.click()
    explorer.paint(1, 1, 4, 4)
    assert "cannot be loaded" in explorer._patch_words.value


def test_without_a_finished_run_it_says_which_command_makes_one(project_root, capsys):
    explorer = explore.explorer("phantom", "quick", "sagan", 0)
    assert "make figures DATA=phantom BUDGET=quick" in capsys.readouterr().out
    explorer.compare("sagan")
    explorer.paint(1, 1, 4, 4)
    for part in ("threshold", "image", "methods", "patch"):
        assert explorer.still(part) is None
    assert explorer.listed.empty
    with pytest.raises(ValueError, match="threshold, image, methods, patch"):
        explorer.still("roc")


def test_a_run_that_has_finished_meanwhile_is_found_on_request(made, project_root):
    explorer = explore.explorer(made[1], "smoke", "mean_image", 0)
    shutil.copytree(made[0] / "data" / "runs", project_root / "data" / "runs")
    explorer.again.click()
    assert explorer.key == ("a set", "smoke", "mean_image", 0) and len(explorer.listed) == 31


def test_without_its_images_a_run_still_shows_scores_and_maps(opened, made, project_root):
    shutil.copytree(made[0] / "data" / "runs", project_root / "data" / "runs")
    explorer = explore.explorer("a set", "smoke", "nearest_normals", 0)
    explorer_with = opened()
    assert "There is no set 'a set'" in explorer.said and len(explorer.listed) == 31
    assert explorer._views[0].layout.display == explorer._views[3].layout.display == "none"
    assert explorer._views[2].layout.display is None and explorer_with._views[0].picture.value
    explorer.paint(1, 1, 4, 4)
    assert "no image to paint on" in explorer._patch_words.value


@pytest.fixture
def altered(made, project_root):
    """altered(change) -> an explorer of the run, of which scores and numbers were changed."""

    def of(change):
        shutil.copytree(made[0] / "data" / "runs", project_root / "data" / "runs")
        here = runs.run_folder("a set", "smoke", "nearest_normals", 0)
        scores, found = (
            pd.read_csv(here / "scores.csv"),
            json.loads((here / "metrics.json").read_text()),
        )
        scores, found = change(scores, found)
        scores.to_csv(here / "scores.csv", index=False)
        (here / "metrics.json").write_text(json.dumps(found))
        return explore.explorer(made[1], "smoke", "nearest_normals", 0)

    return of


def test_without_labels_there_are_scores_percentiles_and_decisions_only(altered):
    def unlabeled(scores, found):
        scores.loc[scores["part"] == "test", "label"] = np.nan
        return scores, {k: v for k, v in found.items() if k in ("threshold", "score")}

    explorer = altered(unlabeled)
    assert set(numbers(explorer._numbers.value)) == {"called abnormal"}
    assert set(explorer.listed["label"]) == {"unknown"}
    assert "labels are not known" in explorer.said and "AUC" not in explorer.said
    assert not any(row["wrong"] for row in explorer.ranking.rows)
    explorer.threshold.value = explorer.threshold.max
    assert numbers(explorer._numbers.value)["called abnormal"][1:] == (0, 31)
    explorer.narrowed.value = "missed"
    assert explorer.listed.empty


def test_with_too_few_held_out_normals_it_begins_at_their_95th_percentile(altered):
    kept = []

    def few(scores, found):
        held = scores[scores["part"] == "held_out_normal"]
        kept.extend(held["score"][:9])
        return scores.drop(held.index[9:]), found | {"threshold": None}

    explorer = altered(few)
    assert explorer.cut == pytest.approx(np.quantile(kept, 0.95))
    assert "95th percentile of 9 held-out normals" in explorer._numbers.value


def test_a_run_without_test_images_is_no_error(altered):
    def no_test(scores, found):
        return scores[scores["part"] != "test"], {"threshold": found["threshold"]}

    explorer = altered(no_test)
    assert explorer.listed.empty and "no test images" in explorer._chosen_words.value


def test_no_control_changes_anything_in_a_run(opened, made):
    before = folder_digest(made[0] / "data" / "runs")
    explorer = opened()
    for method in explorer.method.options:
        explorer.method.value = method
        explorer.threshold.value = explorer.threshold.min
        for word in explorer.narrowed.options:
            explorer.narrowed.value = word
        explorer.narrowed.value = "all"
        explorer.ranking.page = 1
        explorer.ranking.chosen = 3
        explorer.ranking._handle_custom_msg({"move": 1}, [])
        explorer.opacity.value = 0.2
        explorer.outlined.value = not explorer.outlined.value
        explorer.compare(*explorer.others)
        explorer.canvas._handle_custom_msg({"touched": True}, [])
        explorer.canvas.rectangle = [2, 2, 5, 5]
        explorer.brightness.value = 90
        explorer.clear.click()
        explorer.back.click()
        for part in ("threshold", "image", "methods", "patch"):
            explorer.still(part)
    explorer.again.click()
    explore.watch().refresh()
    assert folder_digest(made[0] / "data" / "runs") == before


def test_the_arrow_keys_walk_through_the_list_over_its_pages(opened):
    explorer = opened()
    order = list(explorer.listed.index)
    for place in range(1, 20):
        explorer.ranking._handle_custom_msg({"move": 1}, [])
        assert explorer.ranking.chosen == order[place]
        assert explorer.ranking.chosen in [row["index"] for row in explorer.ranking.rows]
    explorer.ranking._handle_custom_msg({"move": -1}, [])
    assert explorer.ranking.chosen == order[18]


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


def test_a_training_is_watched_from_its_checkpoints_until_it_has_finished(made, project_root):
    dataset = datasets.load(made[1], 32)
    watch = explore.watch()
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
    assert explore.finished() == [("a set", "smoke", "ganomaly", 0)]


def test_a_training_that_has_only_begun_says_so_and_closed_forms_are_not_watched(project_root):
    for method in ("sagan", "pca16"):
        here = runs.run_folder("a set", "smoke", method, 0)
        here.mkdir(parents=True)
        (here / "config.json").write_text("{}")
    watch = explore.watch()
    assert [key.method for _, key in watch.choice.options] == ["sagan"]
    assert "its curves come with its first checkpoint" in watch.said and watch.still() is None


def test_two_trainings_do_not_push_each_other_away(made, project_root):
    dataset = datasets.load(made[1], 32)
    interrupted(dataset, at=8)
    watch = explore.watch()
    interrupted(dataset, at=8, method="alocc")  # saved later
    watch.refresh()
    assert watch.choice.value.method == "ganomaly" and len(watch.choice.options) == 2
    watch.choice.value = next(key for _, key in watch.choice.options if key.method == "alocc")
    assert "alocc" in watch.said
