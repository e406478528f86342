import pandas as pd
import pytest
from matplotlib.text import Text

from files import all_bytes, full_disk
from nblib import figures
from nblib.data import datasets
from nblib.data.labels import load_labels
from nblib.results import store, tables
from nblib.training import runs


def test_every_title_of_the_drawn_set_says_phantom():
    assert "phantom" in figures.shown("phantom") and "drawn" in figures.shown("phantom")
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


def test_a_figure_of_before_stays_where_the_disk_is_full(shown, project_root):
    figure = figures.histogram(shown[2])
    figures.save(figure, "own", "smoke", "bars", {})
    before = all_bytes(project_root)
    with pytest.raises(OSError, match=r"bars\.pdf cannot be written"), full_disk(1000):
        figures.save(figure, "own", "smoke", "bars", {"another": 1})
    assert all_bytes(project_root) == before


def test_drawing_leaves_the_users_own_style_alone(shown):
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    figures.histogram(shown[2])
    assert dict(plt.rcParams) == before and not plt.get_fignums()


@pytest.mark.parametrize("name", [r"$\frac$", "$a$ $b", "a^b_{c}"])
def test_names_are_shown_as_they_are(make_set, name):
    dataset = datasets.load(make_set(name))
    run = runs.run("mean_image", dataset, "smoke")
    images = dict.fromkeys((name, "other"), dataset.test.images[:2])
    for figure in (
        figures.parts(dataset, load_labels(dataset)),
        figures.histogram(run),
        figures.gallery(images, name),
        figures.forest(tables.table([store.of(run)]), name),
        figures.model_choice(pd.DataFrame(), name),
    ):
        figure.draw_without_rendering()
        texts = [text for text in figure.findobj(Text) if name in text.get_text()]
        assert texts and not any(text.get_parse_math() for text in texts)


def test_ticks_of_a_logarithmic_axis_are_mathematics():
    history = {"step": [1, 2], "G.loss": [1.0, 2.0], "G.gradient_norm": [1e-3, 1e3], "aucp": None}
    figure = figures.training_curves(pd.DataFrame(history), "norms")
    figure.draw_without_rendering()
    labels = [text for text in figure.findobj(Text) if "mathdefault" in text.get_text()]
    assert labels and all(text.get_parse_math() for text in labels)


def test_a_lesion_is_outlined_so_that_it_is_seen_on_images_and_on_maps():
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.colors import to_rgb

    from nblib.figures.style import outline, show_map

    figure, axes = plt.subplots()
    plt.close(figure)
    show_map(axes, np.ones((8, 8)), 1)  # viridis' yellow
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:6] = True
    outline(axes, mask)
    outer, inner = [tuple(c.get_edgecolor()[0, :3]) for c in axes.collections]
    assert outer == to_rgb("black") and inner == to_rgb("white")
    assert axes.collections[0].get_linewidth()[0] > axes.collections[1].get_linewidth()[0]
