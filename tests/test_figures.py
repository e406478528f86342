import colorsys

import numpy as np
import pandas as pd
import pytest

from nblib import datasets, figures, runs
from nblib.methods import METHODS


@pytest.fixture
def shown(make_set):
    dataset = datasets.load(make_set())
    return dataset, datasets.load_labels(dataset), runs.run("mean_image", dataset, "smoke")


def test_the_chosen_images_are_lowest_median_and_highest_of_each_class(shown):
    _, labels, run = shown
    chosen = figures.typical(run.scores)
    scores = run.scores.query("part == 'test'")["score"].to_numpy()
    for label, positions in ((0, chosen[:3]), (1, chosen[3:])):
        of_class = np.sort(scores[labels.test == label])
        assert (labels.test[positions] == label).all()
        expected = of_class[[0, len(of_class) // 2, -1]]
        assert np.array_equal(scores[positions], expected)


def test_heat_maps_share_one_scale_that_comes_from_held_out_normals(shown):
    dataset, labels, run = shown
    figure = figures.heat_maps(run, dataset, labels, figures.typical(run.scores))
    limit = np.quantile(run.maps["held_map"], 0.995)
    maps = [im for ax in figure.axes for im in ax.images if im.get_cmap().name == "viridis"]
    assert len(maps) == 6
    assert all(np.allclose(image.get_clim(), (0, limit)) for image in maps)
    brightest = max(float(image.get_array().max()) for image in maps)
    assert brightest != pytest.approx(limit)  # no image sets the scale


def test_every_title_of_the_drawn_set_says_phantom():
    assert "phantom" in figures.shown("phantom") and "no patients" in figures.shown("phantom")
    assert figures.shown("nih") == "nih"


def test_methods_have_colours_that_differ_in_grey_within_the_trivial_scores():
    assert set(METHODS) <= set(figures.COLOURS)
    greys = [c for c in figures.COLOURS.values() if len({c[1:3], c[3:5], c[5:7]}) == 1]
    light = sorted(colorsys.rgb_to_hls(*(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)))[1]
                   for c in greys)  # fmt: skip
    assert len(greys) == 8 and min(np.diff(light)) > 0.05


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


def test_all_colours_differ():
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)
