import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from nblib import figures
from nblib.data import datasets
from nblib.data.labels import load_labels
from nblib.methods.catalogue import METHODS
from nblib.results import choose, probes
from nblib.training import runs


def test_methods_that_use_the_mix_stand_apart_in_the_forest(shown):
    rows = {"method": ["pca16", "ganomaly", "sagan"], "reference": False, "auc": 0.6}
    kinds = ["known normals", "known normals", "known normals + unlabeled"]
    table = pd.DataFrame(rows | {"auc_low": 0.5, "auc_high": 0.7, "uses": kinds})
    first, second, third = figures.forest(table, "").axes[0].get_yticks()
    assert first - second == 1 and second - third > 1.5


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


def test_a_title_fits_beside_long_names():
    pair = "pretrained_mean+brainomaly", "pretrained_mean+known_against_unlabeled"
    rows = answers(method=pair[0], against=pair[1])
    title = "GANs on features, what a GAN adds to features: fundus_dr, laptop"
    figure = figures.differences(rows, 0.01, title)
    FigureCanvasAgg(figure).draw()
    (shown,) = [text for text in figure.findobj(Text) if text.get_text() == title]
    box, whole = shown.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1


def test_every_verdict_has_a_marker():
    from nblib.results import verdicts

    words = {verdicts.DIFFERS, verdicts.WITHIN, verdicts.EQUIVALENT, verdicts.CANNOT_TELL}
    assert set(figures.ANSWERS) == words | {verdicts.NOT_TESTED}
    assert len({marker for marker, _ in figures.ANSWERS.values()}) == 5


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
    said = (folder / "full.txt").read_text()
    assert said == "Set aset, budget smoke. what it shows\n"
    figures.save(figure, "aset", "smoke", "full", {"runs": []}, said.strip())
    assert (folder / "full.txt").read_text() == said  # and once alone


def test_ratios_are_drawn_for_auc_and_ap_a_line_a_method():
    rows = [(m, p, 0.5 + p / 300, 0.6, 0.3) for m in ("sagan", "alad") for p in (0, 50, 100)]
    table = pd.DataFrame(rows, columns=["method", "percent", "auc", "ap", "abnormal"])
    for name in ("auc", "ap"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.1, table[name] + 0.05
    left, right = figures.over_ratios(table, "title").axes
    assert [left.get_ylabel(), right.get_ylabel()] == ["AUC", "AP"]
    line = next(line for line in left.lines if line.get_label() == "sagan")
    assert np.allclose(np.diff(line.get_xdata()), 50) and np.isclose(line.get_ydata()[2], 5 / 6)
    (bars, _) = left.collections
    at = [segment[0, 0] for segment in bars.get_segments()]
    assert np.allclose(at, line.get_xdata())  # the intervals of each stand at its points
    assert np.allclose(bars.get_segments()[0][:, 1], (0.4, 0.55))
    assert set(right.lines[-1].get_ydata()) == {0.3}  # what chance reaches


def test_more_methods_than_line_styles_are_all_drawn():
    rows = [(m, p, 0.5, 0.5, 0.3) for m in list(METHODS)[:12] for p in (0, 100)]
    table = pd.DataFrame(rows, columns=["method", "percent", "auc", "ap", "abnormal"])
    table = table.assign(auc_low=0.4, auc_high=0.6, ap_low=0.4, ap_high=0.6)
    left, _ = figures.over_ratios(table, "title").axes
    assert {line.get_label() for line in left.lines} >= set(list(METHODS)[:12])


def test_the_guide_is_a_point_a_method_at_its_aucp_and_auc():
    rows = {"method": ["sagan", "pca16"], "auc": [0.7, 0.6], "aucp": [0.65, 0.5]}
    table = pd.DataFrame(rows | {"aucp_error": [0.05, 0.06], "runs": [2, 2]})
    (axes,) = figures.guide(table, "title").axes
    points = [c.lines[0] for c in axes.containers]
    assert [tuple(np.ravel(p.get_data())) for p in points] == [(0.65, 0.7), (0.5, 0.6)]
    assert not figures.guide(table.iloc[:0], "title").axes[0].containers


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
            assert np.array_equal(cell.images[0].get_array(), run.test_map[i])
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
    areas, train, score = figures.cost(table, "title").axes
    names = [text.get_text() for text in areas.get_yticklabels()]
    assert names == ["mean_image", "sagan_swin", "sagan"]  # the highest AUC above
    for cell, name, of in (
        (areas, "auc", [0.6, 0.7, 0.8]),
        (train, "seconds", [0.1, 200.0, 100.0]),
        (score, "ms_per_image", [0.1, 20.0, 10.0]),
    ):
        points = [
            xy
            for line in cell.lines
            if line.get_marker() != "None"
            for xy in zip(*line.get_data(), strict=True)
        ]
        assert [x for x, _ in sorted(points, key=lambda xy: xy[1])] == of, name
        assert cell.get_xscale() == ("linear" if name == "auc" else "log")
