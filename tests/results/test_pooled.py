import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import brentq

from nblib.results import answer, pooled, questions, store, verdicts
from nblib.results.store import Result
from simulations.pooled import FILE, has_false_alarm

D, E = np.array([0.05, 0.01, -0.02]), np.array([0.01, 0.02, 0.015])


def by_hand(d, e):
    """Mean, error and variance between sets: Paule and Mandel's equation solved as it stands."""
    k = len(d)

    def heterogeneity(between):
        w = 1 / (e**2 + between)
        mean = (w * d).sum() / w.sum()
        return (w * (d - mean) ** 2).sum() - (k - 1)

    between = brentq(heterogeneity, 0, 1) if heterogeneity(0) > 0 else 0.0
    w = 1 / (e**2 + between)
    mean = (w * d).sum() / w.sum()
    theirs, plain = (w * (d - mean) ** 2).sum() / (k - 1) / w.sum(), 1 / w.sum()
    return mean, np.sqrt(max(theirs, plain)), between


@pytest.mark.parametrize("d", [D, D / 10])
def test_the_mean_over_sets_is_that_of_paule_and_mandel_with_hartung_and_knapps_error(d):
    found = pooled.pool(d, E)
    mean, error, between = by_hand(d, E)
    assert (found.value, found.error) == pytest.approx((mean, error), rel=1e-3)
    assert found.between == pytest.approx(np.sqrt(between), abs=1e-4)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(mean) / error, 2), rel=1e-3)
    low, high = found.interval()
    assert (low + high) / 2 == pytest.approx(found.value)
    assert (high - low) / 2 == pytest.approx(4.302653 * found.error, rel=1e-5)


def test_sets_that_agree_to_the_digit_leave_the_plain_error():
    same, none = pooled.pool([0.02, 0.02], [0.01, 0.01]), pooled.pool([0.0, 0.0], [0.01, 0.01])
    assert same.error == pytest.approx(0.01 / np.sqrt(2)) and same.between == 0
    assert none.p == 1 and none.needed() is None


def test_what_would_be_needed_is_found_as_often_as_promised():
    found = pooled.pool(D, E)
    count = found.needed(tests=4)
    random = np.random.default_rng(0)
    deviation = found.error * np.sqrt(3)

    def share(sets):
        samples = found.value + deviation * random.standard_normal((4000, sets))
        return (stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05 / 4).mean()

    assert share(count) > 0.78 and share(count - 3) < 0.8


def made_up(name, shift, seeds=3):
    random, made = np.random.default_rng(len(name)), []
    labels = np.repeat([0, 1], 60)
    images = [f"{i}" for i in range(120)]
    common = random.standard_normal(120)
    for method, gain in {"sagan": 1 + shift, "sagan_no_gates": 1.0}.items():
        for seed in range(seeds):
            scores = gain * labels + common + 0.3 * random.standard_normal(120)
            table = pd.DataFrame({"image": images, "patient": images, "part": "test"})
            config = dict(method=method, seed=seed, set=name, budget="quick", size=8, data="x")
            config["precision"] = "fp32"
            made.append(Result(config, {}, table.assign(label=labels, score=scores)))
    return made


def test_pairs_that_were_tested_on_every_set_are_pooled_with_holm_over_the_family():
    shifts = {"one": 0.1, "other": 0.2, "c": 0.1}
    answers = {name: verdicts.answers(made_up(name, shift)) for name, shift in shifts.items()}
    table = pooled.over_sets(answers)
    assert table[["method", "against"]].to_numpy().tolist() == [["sagan", "sagan_no_gates"]]
    single = [of_set.iloc[0] for of_set in answers.values()]
    d, e = ([row[what] for row in single] for what in ("difference", "error"))
    mean, error, _ = by_hand(np.array(d), np.array(e))
    row = table.iloc[0]
    assert row["difference"] == pytest.approx(mean, rel=1e-3)
    p = 2 * stats.t.sf(abs(mean) / error, len(answers) - 1)
    family = questions.pairs_of("one")["inside SAGAN"]
    assert row["p_holm"] == pytest.approx(min(1, family * p), rel=1e-2)
    (question, line) = pooled.over_sets_in_words(table)
    assert question == "**Do the gates help?**" and "such sets" in line
    # With one seed on one of the sets there is no error there, and nothing to pool.
    one_seed = verdicts.answers(made_up("other", 0.2, seeds=1))
    assert pooled.over_sets(answers | {"other": one_seed}).empty
    assert pooled.over_sets({"one": answers["one"]}).empty


def test_the_table_is_written_beside_those_of_single_sets(monkeypatch, project_root):
    results = {"one": made_up("one", 0.1), "other": made_up("other", 0.2)}
    monkeypatch.setattr(pooled, "results_by_set", lambda budget: results)
    printed, lines = pooled.write_pooled("quick")
    folder = project_root / "figures" / "pooled" / "quick"
    assert {file.suffix for file in folder.iterdir()} == {".csv", ".md", ".tex", ".json"}
    text = (folder / "pooled.md").read_text()
    assert all(line in text for line in lines) and printed["one"][0] in text
    # A set on which no pair has run adds nothing, and stops nothing.
    alone = [result for result in made_up("c", 0.1) if result.config["method"] == "sagan"]
    for more, empty in (({}, True), ({"c": alone}, True), (results | {"c": alone}, False)):
        monkeypatch.setattr(pooled, "results_by_set", lambda budget, found=more: found)
        again, _ = pooled.write_pooled("smoke")
        assert again.empty if empty else again.equals(printed)
        assert bool(answer.write_answer("smoke")) != empty


def test_what_over_1000_sets_would_not_tell_is_said_where_it_is_all_there_is():
    answers = {name: verdicts.answers(made_up(name, 0.0)) for name in ("one", "other")}
    for of_set, difference in zip(answers.values(), (1e-6, -1e-6), strict=True):
        of_set["difference"] = difference
    table = pooled.over_sets(answers)
    assert table["needed"].isna().all()
    assert "Needed: over 1,000 sets" in pooled.over_sets_in_words(table)[1]


def test_only_sets_that_have_results_are_collected():
    assert pooled.results_by_set("smoke") == {}
    assert set(questions.POOLED) <= {f.name for f in (store.PROJECT / "data" / "scores").iterdir()}


def test_equal_methods_seldom_differ_over_sets():
    random = np.random.default_rng(1)
    share = np.mean([has_false_alarm(random, 3, 0.02) for _ in range(60)])
    assert share <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)


def test_the_committed_simulation_of_pooled_answers_stays_at_its_level():
    table = pd.read_csv(FILE)
    error = np.sqrt(0.05 * 0.95 / table["experiments"])
    assert len(table) == 9 and (table["false alarms"] <= 0.05 + 2 * error).all()
    assert (table["intervals that hold it"] >= 0.95 - 3 * error).all()
