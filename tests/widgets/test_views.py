import csv
import io
import json
import re
import shutil

import ipywidgets as widgets
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import traitlets
from PIL import Image
from sklearn.metrics import roc_curve

from files import folder_digest
from nblib.data import datasets
from nblib.data.batches import to_float
from nblib.methods.method import encoding
from nblib.training import runs
from nblib.widgets import Explorer, Patch, Selection, Watch, panels, views
from nblib.widgets.found import Key

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
def selected(made, monkeypatch):
    """selected(method, ...) -> a selection among those runs."""
    root, folder = made
    monkeypatch.setenv("NBLIB_ROOT", str(root))

    def of(method="nearest_normals", budget="smoke", seed=0):
        return Selection(folder, budget, method, seed)

    return of


def within(view, kind):
    """The widgets of a kind in a view, in order."""
    found = [view] if isinstance(view, kind) else []
    return found + [
        inner for child in getattr(view, "children", ()) for inner in within(child, kind)
    ]


def control(view, name):
    """The control of a view with that description."""
    (found,) = (
        w for w in within(view, widgets.DOMWidget) if getattr(w, "description", None) == name
    )
    return found


def text(view):
    """All that is written in a view, as HTML."""
    return " ".join(html.value for html in within(view, widgets.HTML))


def tile(view, title):
    """The picture with that title; None where none is shown."""
    shown = [tile for tile in view.tiles if tile.layout.display != "none"]
    return next((tile for tile in shown if tile.title == title), None)


def stored(root, method="nearest_normals", budget="smoke", seed=0, part="test"):
    """The lines of scores.csv, as text."""
    file = root / f"data/runs/a set/{budget}/{method}/base/seed{seed}/scores.csv"
    with open(file, newline="") as table:
        return [line for line in csv.DictReader(table) if line["part"] == part]


def own_threshold(root, method="nearest_normals"):
    held = [float(line["score"]) for line in stored(root, method, part="held_out_normal")]
    return sorted(held)[int(np.ceil(0.95 * (len(held) + 1))) - 1]


def numbers(view):
    """Name -> (share, part, whole), as they are written under the threshold."""
    found = re.findall(
        r"(sensitivity|specificity|called abnormal) ([\d.]+) \((\d+) of (\d+)\)",
        re.sub(r"<.*?>", "", text(view)),
    )
    return {name: (float(share), int(part), int(whole)) for name, share, part, whole in found}


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


# ------------------------------------------------------------------------------- the selection


def test_the_list_is_sorted_and_says_what_the_table_of_scores_says(selected, made):
    selection = selected()
    lines = sorted(stored(made[0]), key=lambda line: -float(line["score"]))
    held = [float(line["score"]) for line in stored(made[0], part="held_out_normal")]
    listed = selection.listed
    assert list(listed["image"]) == [line["image"] for line in lines]
    assert list(listed["label"]) == [["normal", "abnormal"][int(line["label"])] for line in lines]
    above = [float(line["score"]) > own_threshold(made[0]) for line in lines]
    assert list(listed["called"]) == [["normal", "abnormal"][called] for called in above]
    percentiles = [
        100 * np.mean([(h < float(line["score"])) + (h == float(line["score"])) / 2 for h in held])
        for line in lines
    ]
    assert np.allclose(listed["percentile"], percentiles)
    (pages,) = within(views.ranking(selection), panels.Ranking)
    assert [row["image"] for row in pages.rows] == [line["image"] for line in lines[:14]]
    assert pages.pages == -(-len(lines) // 14)


def test_who_follows_draws_each_state_once_and_a_new_run_as_a_whole(selected):
    selection, states = selected(), []

    def draw():
        states.append((selection.key.method, selection.threshold, selection.image))

    selection.follow(draw, "threshold", "image")
    assert len(states) == 1
    selection.threshold = selection.threshold + 1
    selection.opacity = 0.9  # not what is followed
    selection.image = 3
    assert len(states) == 3
    selection.patch = Patch(1, 1, 2, 2)
    selection.key = selection.key._replace(method="mean_image")
    own = json.loads((selection.key.folder / "metrics.json").read_text())["threshold"]
    assert states[3:] == [("mean_image", own, 3)] and selection.patch is None


def test_a_threshold_that_is_set_moves_in_every_view_that_shows_it(selected):
    selection = selected()
    shown = [views.scores(selection), views.scores(selection), Explorer(selection)]
    before = [numbers(view) for view in shown]
    assert before[0] == before[1] == before[2]
    cut = np.mean([selection.start[0], control(shown[0], "threshold").max])
    control(shown[0], "threshold").value = cut
    assert numbers(shown[0]) == numbers(shown[1]) == numbers(shown[2]) != before[0]
    assert control(shown[1], "threshold").value == selection.threshold == cut


def test_what_is_not_there_cannot_be_selected(selected):
    selection = selected()
    before = selection.trait_values()
    with pytest.raises(traitlets.TraitError, match="no finished run of sagan on a set, smoke"):
        selection.key = Key("a set", "smoke", "sagan", 0)
    for image in (-2, 31):
        with pytest.raises(traitlets.TraitError, match=f"no image {image} among 31"):
            selection.image = image
    with pytest.raises(traitlets.TraitError):
        selection.narrowed = "those I like"
    assert selection.trait_values() == before


def test_a_view_of_ones_own_is_a_function_that_follows(selected):
    """As 60_explore says it is done."""

    def percentile(selection):
        words = widgets.HTML()

        def draw():
            words.value = f"percentile {selection.row['percentile']:.0f}"

        selection.follow(draw, "image")
        return words

    selection = selected()
    view = percentile(selection)
    selection.image = 7
    assert view.value == f"percentile {selection.test['percentile'][7]:.0f}"


# ---------------------------------------------------------------------------------- the scores


def test_a_moved_threshold_changes_sensitivity_specificity_list_and_picture(selected, made):
    selection = selected()
    view = views.scores(selection)
    before, picture, slider = numbers(view), view.still().data, control(view, "threshold")
    lines = stored(made[0])
    for cut in np.linspace(slider.min, slider.max, 7)[1:-1]:
        slider.value = cut
        above = {
            label: [
                float(line["score"]) > selection.threshold
                for line in lines
                if line["label"] == label
            ]
            for label in "01"
        }
        found = numbers(view)
        assert found["sensitivity"][1:] == (sum(above["1"]), len(above["1"]))
        assert found["specificity"][1:] == (len(above["0"]) - sum(above["0"]), len(above["0"]))
        assert found["specificity"][0] == pytest.approx(1 - np.mean(above["0"]), abs=0.005)
        assert (selection.listed["called"] == "abnormal").sum() == sum(above["0"] + above["1"])
    assert "Moved by hand" in text(view) and view.still().data != picture
    control(view, "back to the run's own").click()
    assert numbers(view) == before and control(view, "back to the run's own").disabled


def test_the_threshold_begins_where_the_run_has_put_it_and_stays_there_when_rounded(selected):
    selection = selected()
    view = views.scores(selection)
    own = json.loads((selection.key.folder / "metrics.json").read_text())
    assert selection.threshold == own["threshold"]
    assert numbers(view)["sensitivity"][0] == round(own["sensitivity"], 2)
    slider = control(view, "threshold")
    slider.value += slider.step / 3  # what a slider does to a number
    assert selection.threshold == own["threshold"]
    selection.threshold += 10 * slider.step
    slider.value = own["threshold"] + slider.step / 3
    assert selection.threshold == own["threshold"]
    assert control(view, "back to the run's own").disabled


def test_the_roc_curve_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    test = pd.DataFrame(
        {"score": random.integers(0, 9, 50) / 9, "label": random.integers(0, 2, 50)}
    )
    false, true, _ = roc_curve(test["label"], test["score"], drop_intermediate=False)
    found = {tuple(np.round(point, 9)) for point in zip(*panels._roc(test), strict=True)}
    assert found | {(0, 0)} == {tuple(np.round(p, 9)) for p in zip(false, true, strict=True)}


# -------------------------------------------------------------------------- the run, and the list


def test_controls_offer_what_is_on_the_disk_each_narrowing_the_next(selected):
    selection = selected(seed=1)
    view = views.choice(selection)
    data, budget, method, seed = (control(view, n) for n in ("set", "budget", "method", "seed"))
    assert data.options == ("a set",) and budget.options == ("smoke", "quick")
    assert seed.options == (0, 1) and selection.key.seed == 1
    method.value = "mean_image"
    assert seed.options == (0,) and selection.key == ("a set", "smoke", "mean_image", 0)
    budget.value = "quick"
    assert method.options == ("mean_image",) and "quick" in text(view)
    selection.key = Key("a set", "smoke", "nearest_normals", 1)
    assert (budget.value, method.value, seed.value) == ("smoke", "nearest_normals", 1)


def test_a_run_that_is_missing_is_named_with_its_command_and_the_nearest_one_is_shown(
    selected, made
):
    selection = selected("sagan", "quick", 3)
    said = text(views.choice(selection))
    assert selection.key == ("a set", "quick", "mean_image", 0)
    assert "no finished run of sagan" in said
    assert f"make figures DATA={made[1]} BUDGET=quick SEEDS=3" in said
    selection.key = selection.key._replace(budget="smoke")
    assert "no finished run" not in selection.said


def test_the_list_can_be_narrowed_to_what_is_wrong(selected, made):
    selection = selected()
    view = views.ranking(selection)
    lines, cut = stored(made[0]), own_threshold(made[0])
    for word, label, above in (("missed", "1", False), ("false alarms", "0", True)):
        control(view, "show").value = word
        wrong = [
            line["image"]
            for line in lines
            if line["label"] == label and (float(line["score"]) > cut) is above
        ]
        assert sorted(selection.listed["image"]) == sorted(wrong)
        assert {row["image"] for row in within(view, panels.Ranking)[0].rows} <= set(wrong)


def test_the_arrow_keys_walk_through_the_list_over_its_pages(selected):
    selection = selected()
    (pages,) = within(views.ranking(selection), panels.Ranking)
    order = list(selection.listed.index)
    for place in range(1, 20):
        pages._handle_custom_msg({"move": 1}, [])
        assert selection.image == pages.chosen == order[place]
        assert pages.chosen in [row["index"] for row in pages.rows]
    pages._handle_custom_msg({"move": -1}, [])
    assert selection.image == order[18]


# -------------------------------------------------------------------------------------- the image


def test_a_map_is_drawn_in_viridis_on_the_scale_of_held_out_normals(selected, made):
    selection = selected()
    view = views.image(selection)
    control(view, "outline lesions").value = False
    selection.image = 20
    with np.load(made[0] / "data/runs/a set/smoke/nearest_normals/base/seed0/maps.npz") as file:
        map, held = file["test_map"][20].astype(float), file["held_map"].astype(float)
    expected = matplotlib.colormaps["viridis"](map / np.quantile(held, 0.995))[..., :3] * 255
    picture = pixels(tile(view, "heat map").picture.value)
    step = len(picture) // SIZE
    assert np.abs(picture[step // 2 :: step, step // 2 :: step] - expected).max() < 4
    # The overlay at opacity 1 is the map; at 0 the image.
    control(view, "opacity").value = 1.0
    assert np.abs(pixels(tile(view, "overlay").picture.value) - picture).max() <= 1
    selection.opacity = 0.0
    image = Image.open(made[1] / "images" / selection.row["image"])
    overlay = pixels(tile(view, "overlay").picture.value)
    overlay = overlay[step // 2 :: step, step // 2 :: step, 0]
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


def test_lesions_are_outlined_on_request(selected):
    selection = selected()
    view = views.image(selection)
    selection.image = 20  # an abnormal one
    outlined = pixels(tile(view, "input").picture.value)
    selection.outlined = False
    plain = pixels(tile(view, "input").picture.value)
    step = len(plain) // SIZE
    assert (plain == plain[..., :1]).all() and not (outlined == outlined[..., :1]).all()
    inside = (slice(5 * step, 7 * step), slice(3 * step, 9 * step))
    assert (outlined[inside] == plain[inside]).all()


# -------------------------------------------------------------------------------- other methods


def test_other_methods_have_their_own_scale_threshold_and_frame(selected, made):
    selection = selected()
    view = views.methods(selection)
    assert view.still() is None
    control(view, "mean_image").value = True
    selection.beside = (*selection.beside, "mean_intensity", "a method without a run")
    assert control(view, "mean_intensity").value
    names = ["nearest_normals", "mean_intensity", "mean_image"]
    framed = {name: set() for name in names}
    for image in range(0, 31, 3):
        selection.image = image
        assert [tile.title for tile in view.tiles] == names
        for shown in view.tiles:
            line = stored(made[0], shown.title)[image]
            assert shown.framed == (float(line["score"]) > own_threshold(made[0], shown.title))
            assert f"percentile {float(line['percentile']):.0f}" in shown.note
            framed[shown.title].add(shown.framed)
    assert {True, False} in framed.values()
    without = tile(view, "mean_intensity")
    assert "no heat map" in without.note and not without.picture.value
    selection.threshold = float("inf")
    assert not view.tiles[0].framed
    selection.key = selection.key._replace(method="mean_image")
    assert [tile.title for tile in view.tiles] == ["mean_image", "mean_intensity"]
    control(view, "mean_intensity").value = False
    assert selection.beside == ("mean_image", "a method without a run") and not view.tiles


def test_a_still_picture_of_many_methods_has_several_lines(selected):
    selection = selected()
    view = views.methods(selection)
    selection.beside = ("mean_image", "pretrained_knn", "anogan")
    four = pixels(view.still().data)
    selection.beside += ("mean_intensity",)
    five = pixels(view.still().data)
    assert five.shape[1] == four.shape[1] and five.shape[0] == 2 * four.shape[0]
    height, width = five.shape[:2]
    assert (five[height // 2 + 40 :, width // 2 :] == 255).all()


# ---------------------------------------------------------------------------------------- a patch


def painted_score(view):
    """Scores before and after, as they are written beside the patch."""
    return [float(number) for number in re.findall(r"<b>(.*?)</b>", text(view))]


@pytest.mark.parametrize("method, size", [("nearest_normals", 16), ("pretrained_knn", 48)])
def test_a_painted_image_is_scored_by_the_runs_own_method(selected, made, method, size):
    selection = selected(method)
    view = views.patch(selection)
    (canvas,) = within(view, panels.Canvas)
    selection.image = 5
    selection.patch = Patch(left=3, top=8, width=6, height=2, brightness=200)
    image = datasets.load(made[1], size).test.images[[5]]
    by_hand, scale = image.copy(), size // SIZE
    by_hand[:, :, 8 * scale : 10 * scale, 3 * scale : 9 * scale] = 200
    model = runs.Run(selection.key.folder).method()
    with torch.no_grad():
        seen = [encoding(model, to_float(torch.from_numpy(x))) for x in (image, by_hand)]
        expected = [model.detect(x).score.item() for x in seen]
    assert painted_score(view) == pytest.approx(expected, rel=2e-3)
    assert expected[0] != pytest.approx(expected[1], rel=5e-3)
    shown = pixels(canvas.png)
    step = len(shown) // SIZE
    assert (shown[8 * step : 10 * step, 3 * step : 9 * step] == 200).all()
    assert not (shown[8 * step : 10 * step, 9 * step :] == 200).all()
    assert canvas.rectangle == [3, 8, 6, 2] and control(view, "brightness").value == 200
    control(view, "brightness").value = 20
    assert selection.patch == (3, 8, 6, 2, 20)
    assert painted_score(view)[1] != pytest.approx(expected[1], rel=1e-3)
    canvas.rectangle = [3, 8, 5, 2]  # dragged smaller
    assert selection.patch == (3, 8, 5, 2, 20)
    control(view, "clear").click()
    assert view.still() is None and painted_score(view) == [] and canvas.rectangle == []


def test_the_change_of_the_map_is_where_the_patch_is(selected):
    selection = selected("mean_image")
    view = views.patch(selection)
    selection.patch = Patch(left=0, top=0, width=4, height=4)
    change = pixels(tile(view, "change").picture.value)
    step = len(change) // SIZE
    other = change.copy()
    other[: 4 * step, : 4 * step] = change[-1, -1]
    assert (other == change[-1, -1]).all() and (change[: 4 * step, : 4 * step] != other[0, 0]).any()


def test_painting_changes_neither_threads_nor_style_of_the_users_session(selected):
    torch.set_num_threads(2)
    try:
        style = dict(matplotlib.rcParams)
        selection = selected("mean_image")
        views.patch(selection)
        selection.patch = Patch(1, 1, 4, 4)
        assert torch.get_num_threads() == 2 and dict(matplotlib.rcParams) == style
    finally:
        torch.set_num_threads(1)


def test_a_method_that_optimises_shows_its_stored_result_and_says_so(selected):
    selection = selected("anogan")
    view, (canvas,) = (patch := views.patch(selection)), within(patch, panels.Canvas)
    selection.patch = Patch(1, 1, 4, 4)
    assert not canvas.ready and canvas.rectangle == [] and view.still() is None
    assert "optimises for each image" in text(view)
    assert tile(views.image(selection), "heat map").picture.value


def test_a_run_whose_weights_are_gone_says_so_beside_the_patch(
    selected, made, tmp_path, monkeypatch
):
    shutil.copytree(made[0] / "data" / "runs", tmp_path / "data" / "runs")
    for file in tmp_path.rglob("checkpoint.pt"):
        file.unlink()
    selection = selected()
    view = views.patch(selection)
    monkeypatch.setenv("NBLIB_ROOT", str(tmp_path))
    selection.look()
    within(view, panels.Canvas)[0]._handle_custom_msg({"touched": True}, [])
    selection.patch = Patch(1, 1, 4, 4)
    assert "cannot be loaded" in text(view)


# ---------------------------------------------------------------------------------- the explorer


def test_without_a_finished_run_it_says_which_command_makes_one(project_root, capsys):
    explorer = Explorer(Selection("phantom", "quick", "sagan", 0))
    command = "make figures DATA=phantom BUDGET=quick"
    assert command in capsys.readouterr().out and command in text(explorer)
    assert len(explorer.children) == 1 and explorer.selection.listed.empty
    explorer.selection.beside, explorer.selection.patch = ("sagan",), Patch(1, 1, 4, 4)
    for name in ("scores", "image", "methods", "patch"):
        assert explorer.still(name) is None
    with pytest.raises(ValueError, match="scores, ranking, image, methods, patch"):
        explorer.still("roc")


def test_a_run_that_has_finished_meanwhile_is_found_on_request(made, project_root):
    explorer = Explorer(Selection(made[1], "smoke", "mean_image", 0))
    shutil.copytree(made[0] / "data" / "runs", project_root / "data" / "runs")
    within(explorer, widgets.Button)[0].click()
    assert explorer.selection.key == ("a set", "smoke", "mean_image", 0)
    assert len(explorer.selection.listed) == 31 and len(explorer.children) > 1
    assert "no finished run" not in text(explorer) and explorer.still("image")
    shutil.rmtree(project_root / "data" / "runs")
    within(explorer, widgets.Button)[0].click()
    assert explorer.selection.key is None and "no finished run" in text(explorer)


def test_a_second_look_keeps_run_and_image(selected):
    selection = selected("mean_image")
    selection.image, before = 4, selection.said
    selection.look()
    assert (selection.image, selection.said) == (4, before)


def test_without_its_images_a_run_still_shows_scores_and_maps(made, project_root):
    shutil.copytree(made[0] / "data" / "runs", project_root / "data" / "runs")
    selection = Selection("a set", "smoke", "nearest_normals", 0)
    assert "There is no set 'a set'" in selection.said and len(selection.listed) == 31
    view, patch = views.image(selection), views.patch(selection)
    assert tile(view, "input") is None and tile(view, "overlay") is None
    assert tile(view, "heat map").picture.value
    selection.patch = Patch(1, 1, 4, 4)
    assert "no image to paint on" in text(patch)


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
        (here / "SHA256SUMS").unlink()
        return Explorer(Selection(made[1], "smoke", "nearest_normals", 0))

    return of


def test_without_labels_there_are_scores_percentiles_and_decisions_only(altered):
    def unlabeled(scores, found):
        scores.loc[scores["part"] == "test", "label"] = np.nan
        return scores, {k: v for k, v in found.items() if k in ("threshold", "score")}

    explorer = altered(unlabeled)
    selection = explorer.selection
    assert set(numbers(explorer)) == {"called abnormal"}
    assert set(selection.listed["label"]) == {"unknown"}
    assert "labels are not known" in selection.said and "AUC" not in selection.said
    assert not any(row["wrong"] for row in within(explorer, panels.Ranking)[0].rows)
    selection.threshold = control(explorer, "threshold").max
    assert numbers(explorer)["called abnormal"][1:] == (0, 31)
    selection.narrowed = "missed"
    assert selection.listed.empty


def test_with_too_few_held_out_normals_it_begins_at_their_95th_percentile(altered):
    kept = []

    def few(scores, found):
        held = scores[scores["part"] == "held_out_normal"]
        kept.extend(held["score"][:9])
        return scores.drop(held.index[9:]), found | {"threshold": None}

    explorer = altered(few)
    assert explorer.selection.threshold == pytest.approx(np.quantile(kept, 0.95))
    assert "95th percentile of 9 held-out normals" in text(explorer)


def test_a_run_without_test_images_is_no_error(altered):
    def no_test(scores, found):
        return scores[scores["part"] != "test"], {"threshold": found["threshold"]}

    explorer = altered(no_test)
    assert explorer.selection.listed.empty and "no test images" in text(explorer)


def test_no_control_changes_anything_in_a_run(selected, made):
    before = folder_digest(made[0] / "data" / "runs")
    selection = selected()
    explorer = Explorer(selection)
    pages, canvas = (within(explorer, kind)[0] for kind in (panels.Ranking, panels.Canvas))
    method, narrowed = control(explorer, "method"), control(explorer, "show")
    for name in method.options:
        method.value = name
        control(explorer, "threshold").value = control(explorer, "threshold").min
        for word in narrowed.options:
            narrowed.value = word
        narrowed.value = "all"
        pages.page = 1
        pages.chosen = 3
        pages._handle_custom_msg({"move": 1}, [])
        control(explorer, "opacity").value = 0.2
        control(explorer, "outline lesions").value = not selection.outlined
        for button in within(explorer, widgets.ToggleButton):
            button.value = True
        canvas._handle_custom_msg({"touched": True}, [])
        canvas.rectangle = [2, 2, 5, 5]
        control(explorer, "brightness").value = 90
        control(explorer, "clear").click()
        control(explorer, "back to the run's own").click()
        for view in ("scores", "image", "methods", "patch"):
            explorer.still(view)
    within(explorer, widgets.Button)[0].click()
    Watch().refresh()
    assert folder_digest(made[0] / "data" / "runs") == before
