"""What was predicted of the set places, and how what came out is told."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from nblib.data import datasets
from nblib.methods.catalogue import METHODS
from nblib.results import placement, store
from nblib.results.store import Result

PAIRS = 60


def result(method, scores, seed=0, variant="base"):
    """A run with these scores of the test images, each normal one before its twin."""
    config = dict(
        set="places", budget="places", method=method, variant=variant, seed=seed, size=32,
        precision="fp32", arguments={}, data="drawn",
    ) | dict(code="x", channels=1)  # fmt: skip
    test = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(2 * PAIRS)],
            "patient": [str(i // 2) for i in range(2 * PAIRS)],
            "part": "test",
            "label": np.tile([0, 1], PAIRS),
            "score": scores,
            "percentile": 50.0,
            "map maximum": -np.asarray(scores),
        }
    )
    numbers = dict(seconds=1.0, ms_per_image=1.0, parameters=10, images=len(test), patients=PAIRS)
    steps = pd.DataFrame({"step": [60, 600], "auc": [0.5, 0.9], "aucp": 0.5, "aucp_held_out": 0.5})
    return Result(config, numbers, test, steps)


def twins(apart, seed=0):
    """Scores near 1; those of twins differ by `apart` of their mean, the twin's higher."""
    own = np.random.default_rng(seed).uniform(0.9, 1.1, PAIRS)
    return np.stack([own * (1 - apart / 2), own * (1 + apart / 2)], 1).ravel()


@pytest.fixture
def results():
    dead = [result("sagan", twins(0.0, seed), seed) for seed in (0, 1)]
    acts = [result("sagan_place_acts", twins(0.5, seed), seed) for seed in (0, 1)]
    return [*dead, *acts, result("sagan_rope", twins(0.5), variant="circular")]


def test_predictions_are_of_known_methods_and_of_each_run_once():
    runs = [(p.method, p.condition) for p in placement.PREDICTIONS]
    assert len(set(runs)) == len(runs) and {method for method, _ in runs} <= set(METHODS)
    assert all(0 <= p.low < p.high <= 1 for p in placement.PREDICTIONS)
    # Circular and reflecting edges are of the whole image: what is cut has edges inside.
    cut = {p.method for p in placement.PREDICTIONS if METHODS[p.method].fixed.get("grid", 2) != 1}
    conditions = {p.condition for p in placement.PREDICTIONS if p.method in cut}
    assert conditions == {"zeros", *placement.BORDERS}
    for p in placement.PREDICTIONS:
        data, variant = placement.set_of(p.condition), placement.variant(p.condition)
        assert placement.condition(data, variant) == p.condition and data in datasets.DRAWN


def test_what_came_out_stands_beside_what_was_predicted(results):
    table = placement.outcome(results).set_index("method")
    assert list(table.index) == ["sagan", "sagan_place_acts", "sagan_rope"]
    assert list(table["auc"].round(6)) == [0.5, 1.0, 1.0]
    assert list(table["auc_by_maximum"].round(6)) == [0.5, 0.0, 0.0]
    assert table["twins"].to_list() == pytest.approx([0, 0.5, 0.5])
    assert list(table["seeds"]) == [2, 2, 1]
    assert list(table["right"]) == [True, True, False], "RoPE was predicted not to tell"
    printed = placement.for_print(table.reset_index())
    assert list(printed["right"]) == ["yes", "yes", "no"]


def test_curves_are_a_line_a_run(results):
    curves = placement.curves(results)
    assert len(curves) == 2 * len(results)
    assert set(curves.groupby(["method", "condition"]).groups) == {
        ("sagan", "zeros"), ("sagan_place_acts", "zeros"), ("sagan_rope", "circular"),
    }  # fmt: skip


def test_conclusions_are_written_from_the_numbers(results):
    table, verdict = placement.outcome(results), placement.answered(results)
    said = "\n".join(placement.conclusions(table, verdict))
    assert "`sagan` 0.500" in said and "`sagan_place_acts` 1.000" in said
    assert "**Around a circular image:** `sagan_rope` 1.000." in said
    assert "sagan_sinusoidal" not in said


def test_nothing_has_run(monkeypatch, tmp_path):
    monkeypatch.setattr(placement, "PROJECT", tmp_path)
    assert placement.collected() == [] and placement.kept_twins() is None
    table = placement.outcome([])
    assert table.empty and placement.for_print(table).empty and placement.curves([]).empty
    assert placement.conclusions(table, placement.answered([])) == [
        "Nothing has run on the set places. Make it: make places"
    ]


def test_runs_of_all_paddings_are_collected_from_kept_scores(results, monkeypatch, tmp_path):
    folder = tmp_path / "data" / "scores" / "places" / "places"
    for one in results:
        metrics = one.metrics | {"auc": roc_auc_score(one.test["label"], one.test["score"])}
        store._keep(one._replace(metrics=metrics), folder)
    monkeypatch.setattr(placement, "PROJECT", tmp_path)
    found = placement.collected()
    assert [(r.config["method"], r.config["variant"]) for r in found] == [
        (r.config["method"], r.config["variant"]) for r in results
    ]
