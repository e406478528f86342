import numpy as np
import pandas as pd
import pytest

from nblib import figures
from nblib.results import choose
from nblib.results.features import Whitening


def test_heat_maps_share_one_scale_that_comes_from_held_out_normals(shown):
    dataset, labels, run = shown
    figure = figures.heat_maps(run, dataset, labels, choose.typical(run.test))
    limit = np.quantile(run.held_map, 0.995)
    maps = [im for ax in figure.axes for im in ax.images if im.get_cmap().name == "viridis"]
    assert len(maps) == 6
    assert all(np.allclose(image.get_clim(), (0, limit)) for image in maps)
    brightest = max(float(image.get_array().max()) for image in maps)
    assert brightest != pytest.approx(limit)  # no image sets the scale


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


def test_fields_share_a_scale_with_zero_in_its_middle_where_signs_mix():
    ramp = np.arange(6.0).reshape(2, 3)
    maps = {f"map {i}": ramp - i for i in range(5)}
    figure = figures.fields(maps, "title", "bias", at=(1, 0))
    images = [image for axes in figure.axes for image in axes.images]
    assert len(images) == 5 and all(image.get_clim() == (-5, 5) for image in images)
    assert all(line.get_xydata().tolist() == [[0, 1]] for line in figure.axes[0].lines)
    (only,) = figures.fields({"map": ramp}, "title", "share").axes[0].images
    assert only.get_clim() == (0, 5)


def test_whitening_shows_components_and_a_histogram_a_direction():
    random = np.random.default_rng(0)
    pair = random.normal(size=9), random.normal(size=12)
    found = Whitening(np.array([3.0, 1.0]), np.array([0.5, 0.4]), {"plain": pair, "whitened": pair})
    first, plain, whitened = figures.whitening(found, "title").axes
    assert [line.get_ydata().tolist() for line in first.lines] == [[3, 1], [0.5, 0.4]]
    for cell in plain, whitened:
        assert len(cell.containers) == 2
        areas = [sum(b.get_width() * b.get_height() for b in bars) for bars in cell.containers]
        assert np.allclose(areas, 1)
