"""The verdict, held against made-up experiments whose truth is known."""

import re

import numpy as np
import pandas as pd
import pytest
from experiments import experiment, true_auc
from scipy import stats

from nblib.methods.catalogue import parts
from nblib.results import differences, questions, verdicts
from nblib.results.differences import Difference
from nblib.results.store import Result
from nblib.results.verdicts import CANNOT_TELL, DIFFERS, EQUIVALENT, NOT_TESTED, WITHIN, verdict
from simulations.false_alarms import FILE, has_false_alarm


def shift_for(difference, seed_noise=0.1, base=1.0):
    """What must be added to the separation for a true difference of AUC, over many seeds."""
    z = base + seed_noise * stats.norm.ppf(np.linspace(0.0005, 0.9995, 1000))
    shifts = np.linspace(-1, 1, 2001)
    areas = np.array([true_auc(z + shift).mean() - true_auc(z).mean() for shift in shifts])
    return np.interp(difference, areas, shifts)


TIMES = 300


def many(count, margin, seed=0, **settings):
    """The share of each verdict in `count` made-up experiments."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        one = differences.difference(*experiment(random, **settings))
        found.append(verdict(one, one.p, margin))
    return pd.Series(found).value_counts(normalize=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"patients": 60},
        {"patients": 120, "seeds": 2},
        {"patients": 120, "seeds": 8, "seed_noise": 0.3},
    ],
    ids=str,
)
def test_without_a_true_difference_it_says_so_at_most_at_its_level(settings):
    shares = many(TIMES, margin=0.01, **settings)
    # 5 %, and three standard deviations of a share of so many.
    assert shares.get(DIFFERS, 0) + shares.get(WITHIN, 0) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / TIMES)
    if settings.get("seeds") != 2:
        assert shares.get(DIFFERS, 0) > 0.002  # it does test something


@pytest.mark.parametrize("images, seeds, spread, times", [(700, 2, 0.0, 20), (100, 5, 0.8, 30)])
def test_in_a_whole_family_of_equal_methods_it_seldom_says_that_any_differ(
    images, seeds, spread, times
):
    """Two cells of data/simulated/false_alarms.csv. Of the first Welch's test had 31 %."""
    given = images, seeds, spread
    shares = np.mean([has_false_alarm(seed, *given)[0] for seed in range(times)])
    assert shares <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / times)


def test_the_committed_simulation_stays_at_its_level():
    table = pd.read_csv(FILE)
    assert len(table) == 24 and (table["experiments"] >= 200).all()
    error = np.sqrt(0.05 * 0.95 / table["experiments"])
    assert (table["false alarms"] <= 0.05 + 2 * error).all()
    assert (table["wrongly equivalent"] <= 0.05 + 3 * error).all()


@pytest.mark.parametrize("settings", [{"patients": 200}, {"patients": 200, "seeds": 5}], ids=str)
def test_with_a_true_difference_of_the_margin_it_is_equivalent_at_most_at_5_percent(settings):
    shares = many(TIMES, margin=0.05, shift=shift_for(0.05), **settings)
    inside = shares.get(EQUIVALENT, 0) + shares.get(WITHIN, 0)
    assert inside <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / TIMES)


def test_power_grows_with_patients_and_seeds():
    shift = shift_for(0.08)
    few = many(200, 0.01, shift=shift, patients=60)
    more = many(200, 0.01, shift=shift, patients=300)
    most = many(200, 0.01, shift=shift, patients=300, seeds=6)
    assert few[DIFFERS] + 0.1 < more[DIFFERS] < most[DIFFERS]


def test_equivalence_is_found_where_it_is_true_and_there_are_enough_patients():
    few = many(100, 0.05, patients=60, seed_noise=0.05)
    many_patients = many(100, 0.05, patients=600, seeds=5, seed_noise=0.05)
    assert few.get(EQUIVALENT, 0) < 0.2 and many_patients[EQUIVALENT] > 0.5


def test_one_seed_tells_nothing():
    labels, patients, one, other = experiment(np.random.default_rng(5), 200, shift=3)
    found = differences.difference(labels, patients, one[:1], other)
    assert np.isnan(found.p) and np.isnan(found.error) and np.isnan(found.interval()).all()
    assert verdict(found, differences.holm([found.p], 1)[0]) == CANNOT_TELL
    assert differences.needed(found) is None


@pytest.mark.parametrize(
    "value, error, expected",
    [
        (0.1, 0.01, DIFFERS),
        (0.005, 0.001, WITHIN),
        (0.0, 0.002, EQUIVALENT),
        (0.02, 0.02, CANNOT_TELL),
    ],
)
def test_the_four_verdicts(value, error, expected):
    found = Difference(value, error**2, error**2, (0.0, 0.0), (3, 3), 100)
    assert verdict(found, found.p) == expected


def results_of(scores, labels, patients, precision="fp32"):
    """Results of a made-up set: {method: (seeds, n)}."""
    made = []
    for method, of_seeds in scores.items():
        for seed, values in enumerate(of_seeds):
            table = pd.DataFrame(
                {
                    "image": [f"{i:04d}" for i in range(len(labels))],
                    "patient": patients,
                    "part": "test",
                    "label": labels,
                    "score": values,
                }
            )
            config = dict(method=method, seed=seed, set="made up", budget="quick", size=8, data="x")
            config["precision"] = precision
            made.append(Result(config, {}, table))
    return made


def test_answers_hold_each_listed_pair_that_has_run_and_say_it_in_words():
    random = np.random.default_rng(10)
    labels, patients, sagan, gates = experiment(random, 300, shift=1.5, seed_noise=0.01)
    scores = {"sagan": sagan, "sagan_no_gates": gates, "sagan_no_skips": gates[:1], "pca16": gates}
    table = verdicts.answers(results_of(scores, labels, patients))
    assert list(table["against"]) == ["sagan_no_gates", "sagan_no_skips"]
    assert list(table["answer"]) == [DIFFERS, CANNOT_TELL]
    expected = differences.difference(labels, patients, sagan, gates)
    assert np.isclose(table["difference"][0], expected.value)
    family = questions.pairs_of("some set")["inside SAGAN"]
    assert np.isclose(table["p"][0], expected.p)
    assert np.isclose(table["p_holm"][0], family * expected.p)
    first = differences.delong(labels, patients, sagan[0], gates[0])
    assert np.allclose(table.loc[1, ["one_run", "one_run_p"]].astype(float), [first[0], first[2]])
    lines = verdicts.sentences(table)
    assert (
        "300 patients are too few to show equivalence for 1 at least of the 1 pairs with several"
        in lines[0]
    )
    assert lines[1] == "**Do the gates help?**" and "is better than" in lines[2]
    assert "cannot tell from one seed" in lines[4] and "3 seeds of the second at least" in lines[4]


def test_networks_of_different_precision_are_not_tested_against_each_other():
    random = np.random.default_rng(12)
    labels, patients, sagan, other = experiment(random, 100, shift=1.5, seed_noise=0.01)
    names = ("sagan_no_gates", "known_against_unlabeled")
    made = results_of({"sagan": sagan}, labels, patients)
    made += results_of(dict.fromkeys(names, other), labels, patients, "bf16")
    table = verdicts.answers(made).set_index("against")
    assert table.loc["sagan_no_gates", "answer"] == NOT_TESTED
    assert np.isnan(table.loc["sagan_no_gates", ["p", "p_holm", "low", "high"]].astype(float)).all()
    # What does not train has no precision, whatever its configuration says.
    assert table.loc["known_against_unlabeled", "answer"] == DIFFERS
    assert table.loc["known_against_unlabeled", "precision_against"] == ""
    (line,) = [line for line in verdicts.sentences(table.reset_index()) if "gates`" in line]
    assert "not tested, since the one was trained in fp32, the other in bf16" in line
    mixed = results_of({"sagan": sagan[:1]}, labels, patients, "bf16") + made
    table = verdicts.answers(mixed).set_index("against")
    assert table.loc["sagan_no_gates", "answer"] == NOT_TESTED
    assert table.loc["known_against_unlabeled", "precision"] == "bf16, fp32"
    assert table.loc["known_against_unlabeled", "answer"] != NOT_TESTED


def test_answers_of_all_equal_methods_never_say_better(monkeypatch):
    random = np.random.default_rng(11)
    labels, patients, one, other = experiment(random, 100)
    asked = [pair for question in questions.asked_of("some set") for pair in question.pairs]
    names = {name for pair in asked for name in pair if len(parts(name)) == 1}
    scores = dict.fromkeys(names, one) | {"sagan": other}
    table = verdicts.answers(results_of(scores, labels, patients))
    # Sums need held-out normals, which these have not.
    assert len(table) == sum({*pair} <= {*scores} for pair in asked) > 40
    assert set(table["answer"]) <= {CANNOT_TELL, EQUIVALENT}
    assert (table["p_holm"] >= table["p"]).all()


def test_what_cannot_be_told_is_bounded_in_words():
    random = np.random.default_rng(14)
    labels, patients, sagan, gates = experiment(random, 100, shift=0.0, seed_noise=0.02)
    table = verdicts.answers(
        results_of({"sagan": sagan, "sagan_no_gates": gates}, labels, patients)
    )
    assert table["answer"][0] == CANNOT_TELL and table["low"][0] < 0 < table["high"][0]
    low, high = table.loc[0, ["low", "high"]]
    line = verdicts.sentences(table)[-1]
    bounds = r"If it is better, then by at most (.{5}); if it is worse, then by at most (.{5})\."
    better, worse = map(float, re.search(bounds, line).groups())
    assert high <= better < high + 0.001 and -low <= worse < -low + 0.001


def test_where_one_patient_has_all_abnormal_images_nothing_is_told_and_it_is_said():
    random = np.random.default_rng(15)
    labels, patients, sagan, gates = experiment(random, 60, shift=1.0)
    patients = np.where(labels == 1, "the only one", patients)
    scores = {"sagan": sagan, "sagan_no_gates": gates}
    table = verdicts.answers(results_of(scores, labels, patients))
    assert table["answer"].tolist() == [CANNOT_TELL] and np.isnan(table["p"][0])
    assert verdicts.sentences(table)[-1].endswith("or all abnormal images are of one patient.")


def rows(*pairs):
    """`answers`, as far as words are made of it."""
    names = ["method", "against", "answer", "difference", "low", "high"]
    table = pd.DataFrame(list(pairs), columns=names)
    return table.assign(family=["one family"] * len(table))


BETTER = ("a", "x", DIFFERS, 0.05, 0.01, 0.09)
WORSE = ("b", "x", WITHIN, -0.004, -0.006, -0.002)
EQUAL = ("c", "x", EQUIVALENT, 0.0, -0.004, 0.004)
OPEN = ("d", "y", CANNOT_TELL, 0.01, -0.021, 0.041)
WIDER = ("e", "y", CANNOT_TELL, 0.0, -0.052, 0.032)
ONE_SEED = ("f", "y", CANNOT_TELL, 0.5, np.nan, np.nan)
APART = ("g", "y", NOT_TESTED, 0.1, np.nan, np.nan)


def test_in_short_a_family_names_what_is_told_and_counts_and_bounds_the_rest():
    table = rows(BETTER, WORSE, EQUAL, OPEN, WIDER, ONE_SEED, APART)
    (line,) = verdicts.summary(table)
    assert line == (
        "**One family**: `a` (+0.050) is better than `x`; `b` (-0.004) is worse than `x`, by "
        "less than the margin; `c` is equivalent to `x`; 2 of 7 cannot be told (at most 0.041 "
        "better or 0.052 worse); 1 not tested; 1 with one seed."
    )


def test_pairs_with_the_same_answer_and_control_stand_together():
    again = [(name, *BETTER[1:]) for name in ("h", "i")]
    said = verdicts.told(rows(BETTER, *again, OPEN, ONE_SEED, APART))
    assert said == (
        "`a` (+0.050), `h` (+0.050) and `i` (+0.050) are better than `x`; `d` cannot be told from "
        "`y`; `f` against `y`: one seed; `g` is not tested against `y`"
    )


@pytest.mark.parametrize(
    "word, pair", [("better", BETTER), ("worse within the margin", WORSE), ("one seed", ONE_SEED)]
)
def test_an_answer_in_a_word_knows_the_direction_and_too_few_seeds(word, pair):
    (row,) = rows(pair).itertuples()
    assert verdicts.word(row) == word


def test_what_is_bounded_on_one_side_alone_says_so():
    """An interval that leaves zero out (only Holm's correction keeps it from being told)."""
    (line,) = verdicts.summary(rows(("d", "y", CANNOT_TELL, 0.05, 0.011, 0.089)))
    assert "1 of 1 cannot be told (at most 0.089 better or 0.000 worse)" in line
    (row,) = rows(("d", "y", CANNOT_TELL, 0.05, 0.011, 0.0885)).itertuples()
    assert verdicts.at_most(row) == (
        "If it is better, then by at most 0.089 (its interval alone leaves 0 out, but it was not "
        "asked alone)."
    )
