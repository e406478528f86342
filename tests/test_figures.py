import colorsys

import numpy as np
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
