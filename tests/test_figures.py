import numpy as np
import pandas as pd
import pytest

from nblib import figures
from nblib.data import datasets
from nblib.data.labels import load_labels
from nblib.results import choose, probes
from nblib.training import runs


@pytest.fixture
def shown(make_set):
    dataset = datasets.load(make_set())
    return dataset, load_labels(dataset), runs.run("mean_image", dataset, "smoke")


def test_the_chosen_images_are_lowest_median_and_highest_of_each_class(shown):
    _, labels, run = shown
    chosen = choose.typical(run.test)
    scores = run.scores.query("part == 'test'")["score"].to_numpy()
    for label, positions in ((0, chosen[:3]), (1, chosen[3:])):
        of_class = np.sort(scores[labels.test == label])
        assert (labels.test[positions] == label).all()
        expected = of_class[[0, len(of_class) // 2, -1]]
        assert np.array_equal(scores[positions], expected)


def test_heat_maps_share_one_scale_that_comes_from_held_out_normals(shown):
    dataset, labels, run = shown
    figure = figures.heat_maps(run, dataset, labels, choose.typical(run.test))
    limit = np.quantile(run.maps["held_map"], 0.995)
    maps = [im for ax in figure.axes for im in ax.images if im.get_cmap().name == "viridis"]
    assert len(maps) == 6
    assert all(np.allclose(image.get_clim(), (0, limit)) for image in maps)
    brightest = max(float(image.get_array().max()) for image in maps)
    assert brightest != pytest.approx(limit)  # no image sets the scale


def test_every_title_of_the_drawn_set_says_phantom():
    assert "phantom" in figures.shown("phantom") and "no patients" in figures.shown("phantom")
    assert figures.shown("nih") == "nih"


def test_a_figure_is_written_as_vector_and_picture_with_its_record(shown, project_root):
    figure = figures.histogram(shown[2])
    figures.save(figure, "aset", "smoke", "scores", {"runs": []})
    folder = project_root / "figures" / "aset" / "smoke"
    assert (folder / "scores.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "scores.json").exists()
    first = (folder / "scores.pdf").read_bytes()
    figures.save(figure, "aset", "smoke", "scores", {"runs": []})
    assert (folder / "scores.pdf").read_bytes() == first


def test_a_set_given_by_its_path_gets_its_figures_in_the_project_not_in_its_folder(
    shown, project_root
):
    dataset, _, run = shown
    before = sorted(dataset.folder.rglob("*"))
    figures.save(figures.histogram(run), str(dataset.folder), "smoke", "scores", {"runs": []})
    assert sorted(dataset.folder.rglob("*")) == before
    assert (project_root / "figures" / dataset.folder.name / "smoke" / "scores.pdf").exists()
    assert figures.shown("/some/where/phantom") == figures.shown("phantom")


def test_drawing_leaves_the_users_own_style_alone(shown):
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    figures.histogram(shown[2])
    assert dict(plt.rcParams) == before and not plt.get_fignums()


def test_training_curves_show_every_term_of_every_network_and_what_else_was_logged():
    names = [f"D{i}.{term}" for i in range(3) for term in ("real", "generated")]
    names += [f"G.term{i}" for i in range(7)]
    history = pd.DataFrame({"step": [1, 2], **{name: [0.1, 0.2] for name in names}})
    for network in ("D0", "D1", "D2", "G"):
        history[f"{network}.gradient_norm"] = [1.0, 2.0]
    history = history.assign(mask=[0.4, 0.5], aucp=np.nan, aucp_held_out=np.nan)
    figure = figures.training_curves(history)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:5] == [f"terms of D{i}" for i in range(3)] + [
        "terms of G",
        "norm of the gradient",
    ]
    assert "also logged" in titles and not any("AUCp" in title for title in titles)
    assert [len(axes.lines) for axes in figure.axes[:6]] == [2, 2, 2, 7, 4, 1]


def test_curves_draw_each_column_over_the_index_and_mark_a_place():
    table = pd.DataFrame({"a": [0.5, 0.6], "b": [np.nan, 0.7]}, index=[10, 20]).rename_axis("step")
    axes = figures.curves(table, "title", marks={"here": 15}).axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["a"] == [[10, 0.5], [20, 0.6]] and drawn["b"] == [[20, 0.7]]
    assert [x for x, _ in drawn["here"]] == [15, 15]
    assert axes.get_xlabel() == "step"


def test_an_embedding_tells_classes_by_marker_too():
    axes = figures.scatter(np.arange(8).reshape(4, 2), np.array([0, 1, 1, 0]), "").axes[0]
    normal, abnormal = axes.lines
    assert normal.get_xydata().tolist() == [[0, 1], [6, 7]]
    assert abnormal.get_marker() != normal.get_marker()


def test_methods_that_use_the_mix_stand_apart_in_the_forest(shown):
    rows = {"method": ["pca16", "ganomaly", "sagan"], "reference": False, "auc": 0.6}
    kinds = ["known normals", "known normals", "known normals + unlabeled"]
    table = pd.DataFrame(rows | {"auc_low": 0.5, "auc_high": 0.7, "uses": kinds})
    first, second, third = figures.forest(table, "").axes[0].get_yticks()
    assert first - second == 1 and second - third > 1.5


def test_fields_share_a_scale_with_zero_in_its_middle_where_signs_mix():
    ramp = np.arange(6.0).reshape(2, 3)
    maps = {f"map {i}": ramp - i for i in range(5)}
    figure = figures.fields(maps, "title", "bias", at=(1, 0))
    images = [image for axes in figure.axes for image in axes.images]
    assert len(images) == 5 and all(image.get_clim() == (-5, 5) for image in images)
    assert all(line.get_xydata().tolist() == [[0, 1]] for line in figure.axes[0].lines)
    (only,) = figures.fields({"map": ramp}, "title", "share").axes[0].images
    assert only.get_clim() == (0, 5)


def answers(**columns):
    """Rows of `verdicts.answers`, as far as a figure looks at them."""
    rows = pd.DataFrame(
        {
            "question": ["Do gates help?", "Does Swin help?", "Does Swin help?"],
            "method": ["sagan", "sagan_swin", "sagan_swin"],
            "against": ["sagan_no_gates", "sagan", "sagan_whole"],
            "difference": [0.1, 0.0, -0.02],
            "low": [0.05, -0.005, np.nan],
            "high": [0.15, 0.005, np.nan],
            "answer": ["differs", "equivalent", "cannot tell"],
        }
    )
    return rows.assign(**columns)


def test_differences_show_question_pair_interval_and_margin():
    figure = figures.differences(answers(), 0.01, "title")
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "sagan − sagan_no_gates", "sagan_swin − sagan", "sagan_swin − sagan_whole",
    ]  # fmt: skip
    assert {"Do gates help?", "Does Swin help?"} <= {t.get_text() for t in axes.texts}
    bars = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(bar, (0.05, 0.15)) for bar in bars)
    markers = [line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1]
    assert markers == ["o", "s", "+"]  # differs, equivalent, one seed
    (band,) = axes.patches
    assert np.allclose((band.get_x(), band.get_width()), (-0.01, 0.02))


def test_every_verdict_has_a_marker():
    from nblib.results import verdicts

    words = {verdicts.DIFFERS, verdicts.WITHIN, verdicts.EQUIVALENT, verdicts.CANNOT_TELL}
    assert set(figures.ANSWERS) == words
    assert len({marker for marker, _ in figures.ANSWERS.values()}) == 4


def test_the_oracle_is_called_what_it_is_and_means_are_over_seeds():
    rows = [("sagan", 0, 0.7, 0.75, 0.8), ("sagan", 1, 0.8, 0.75, 0.9), ("alad", 0, 0.5, 0.5, 0.6)]
    table = pd.DataFrame(rows, columns=["method", "seed", "last", "aucp", "oracle"])
    figure = figures.model_choice(table, "title")
    by_label = {line.get_label(): line for line in figure.axes[0].lines}
    assert np.allclose(by_label["oracle, looks at test labels"].get_xdata(), (0.85, 0.6))
    assert np.allclose(by_label["last checkpoint (all tables here)"].get_xdata(), (0.75, 0.5))


def test_a_matrix_writes_every_number_and_what_is_empty_is_not_written(project_root):
    table = pd.DataFrame({"shift 2": [0.01, -0.2], "size 96": [0.0, np.nan]}, ["sagan", "alad"])
    figure = figures.matrix(table, "title", "change")
    assert {t.get_text() for t in figure.axes[0].texts} >= {"+0.010", "-0.200", "+0.000"}
    assert figure.axes[0].collections[0].get_clim() == (-0.2, 0.2)
    for empty in (
        figures.differences(answers().iloc[:0], 0.01, "title"),
        figures.matrix(pd.DataFrame(), "title", "change"),
        figures.over_ratios(pd.DataFrame(), "title"),
        figures.model_choice(pd.DataFrame(), "title"),
    ):
        figures.save(empty, "aset", "smoke", "empty", {"runs": []}, "nothing")
    assert not list(project_root.rglob("empty*"))
    figures.save(figure, "aset", "smoke", "full", {"runs": []}, "what it shows")
    folder = project_root / "figures" / "aset" / "smoke"
    assert (folder / "full.txt").read_text() == "what it shows\n"


def test_ratios_are_drawn_for_auc_and_ap_a_line_a_method():
    rows = [(m, p, 0.5 + p / 300, 0.6, 0.3) for m in ("sagan", "alad") for p in (0, 50, 100)]
    table = pd.DataFrame(rows, columns=["method", "percent", "auc", "ap", "abnormal"])
    left, right = figures.over_ratios(table, "title").axes
    assert [left.get_ylabel(), right.get_ylabel()] == ["AUC", "AP"]
    line = next(line for line in left.lines if line.get_label() == "sagan")
    assert np.allclose(line.get_xdata(), (0, 50, 100)) and np.isclose(line.get_ydata()[2], 5 / 6)
    assert set(right.lines[-1].get_ydata()) == {0.3}  # what chance reaches


def test_images_are_told_apart_by_what_all_runs_say(make_set):
    dataset = datasets.load(make_set("told", {"test/0": 9, "test/1": 9}))
    found = [runs.run(name, dataset, "smoke") for name in ("mean_image", "pca16")]
    chosen = choose.told_apart(found)
    ranks = []
    for run in found:
        test = run.scores.query("part == 'test'").reset_index(drop=True)
        ranks.append(test["score"].rank(pct=True).to_numpy())
    mean, labels = np.mean(ranks, 0), load_labels(dataset).test
    assert chosen["abnormal, best"] == np.flatnonzero(labels)[mean[labels == 1].argmax()]
    worst = np.flatnonzero(labels)[mean[labels == 1].argmin()]
    assert chosen.get("abnormal, worst", chosen["missed most"]) == worst
    assert chosen["normal, worst"] == np.flatnonzero(labels == 0)[mean[labels == 0].argmax()]
    wrong = np.max(ranks, 0)[chosen["missed most"]]
    assert labels[chosen["missed most"]] == 1 and wrong == np.max(ranks, 0)[labels == 1].min()


def test_one_figure_shows_all_chosen_images_through_all_models(make_set):
    counts = {"train/0": 30, "train/unlabeled/0": 8, "train/unlabeled/1": 8}
    dataset = datasets.load(make_set("told", counts, size=64))
    labels = load_labels(dataset)
    found = [runs.run(name, dataset, "smoke") for name in ("mean_image", "sagan")]
    chosen = choose.told_apart(found)
    figure = figures.through_models(found, dataset, labels, chosen)
    grid = np.array(figure.axes).reshape(len(chosen), 3)
    for line, i in zip(grid, chosen.values(), strict=True):
        assert np.array_equal(line[0].images[0].get_array(), dataset.test.images[i, 0])
        for cell, run in zip(line[1:], found, strict=True):
            assert np.array_equal(cell.images[0].get_array(), run.maps["test_map"][i])
            assert cell.images[0].get_clim() == (0, figures.map_limit(run))
    missed = chosen["missed most"]
    gates = probes.finest_gates(found, dataset.test.images[missed])
    one = figures.one_through_models(found, gates, dataset, labels, "missed most", missed)
    grid = np.array(one.axes).reshape(3, 3)
    assert not grid[2, 1].images and grid[2, 2].images  # the mean image has no gates


def test_cost_shows_a_point_a_method():
    table = pd.DataFrame(
        {
            "method": ["sagan", "mean_image", "sagan_swin"],
            "auc": [0.8, 0.6, 0.7],
            "seconds": [100.0, 0.0, 200.0],
            "ms_per_image": [10.0, 0.1, 20.0],
        }
    )
    left, right = figures.cost(table, "title").axes
    drawn = np.concatenate(
        [line.get_xdata() for line in right.lines if line.get_marker() != "None"]
    )
    assert sorted(x for x in drawn if x > 0.05) == [0.1, 10.0, 20.0]
    assert left.get_xscale() == "log"
