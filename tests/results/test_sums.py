import numpy as np
import pandas as pd
import pytest
from scipy.stats import zscore

from nblib.methods.catalogue import BAR, parts
from nblib.results import questions, store, verdicts
from nblib.results.store import Result
from nblib.results.sums import standardised, sums

IMAGES, HELD = 220, 20


def result(method, seed, precision="", order=slice(None), signal=0.0):
    random = np.random.default_rng([seed, *method.encode()])
    label = np.arange(IMAGES) % 2
    scores = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(IMAGES)],
            "patient": [f"{i}" for i in range(IMAGES)],
            "part": ["held_out_normal"] * HELD + ["test"] * (IMAGES - HELD),
            "label": label,
            "score": 5 + 3 * random.normal(size=IMAGES) + signal * label,
        }
    )
    config = dict(method=method, seed=seed, precision=precision, set="some set", budget="laptop")
    config |= dict(size=64, data="x")
    return Result(config, {"auc": 0.5}, scores.iloc[order].reset_index(drop=True))


def test_a_sum_is_the_mean_of_both_in_deviations_of_held_out_normals():
    one, other = result("pretrained_mean", 0), result("sagan", 0, "fp32", slice(None, None, -1))
    (found,) = sums([one, other], ["pretrained_mean+sagan", "sagan"])
    a, b = (r.scores.sort_values("image")["score"].to_numpy() for r in (one, other))
    held = np.sort([f"{i}.png" for i in range(IMAGES)])
    held = np.isin(held, [f"{i}.png" for i in range(HELD)])
    expected = (zscore(a[held], ddof=0), zscore(b[held], ddof=0))
    own = found.scores.set_index("image")["score"].sort_index().to_numpy()
    assert np.allclose(own[held], np.mean(expected, 0))
    shifted = ((a - a[held].mean()) / a[held].std() + (b - b[held].mean()) / b[held].std()) / 2
    assert np.allclose(own, shifted)
    assert found.config["method"] == "pretrained_mean+sagan" and found.config["precision"] == "fp32"
    assert standardised(one.scores)[:HELD].std(ddof=0) == pytest.approx(1)


def test_only_seeds_of_both_are_summed_and_only_what_is_asked():
    results = [result("pretrained_mean", seed) for seed in range(3)]
    results += [result("sagan", 1, "fp32"), result("patch_fisher", 2)]
    names = ["pretrained_mean+sagan", "pretrained_mean+brainomaly", "pretrained_mean"]
    (found,) = sums(results, names)
    assert found.config["seed"] == 1 and store.precisions([found]) == ["fp32"]
    (plain,) = sums(results, ["pretrained_mean+patch_fisher"])
    assert plain.config["precision"] == "" and store.precisions([plain]) == []


def test_verdicts_ask_whether_a_gan_adds_and_whether_something_simple_adds_as_much():
    methods = [BAR, *questions.ADDED, *questions.ADDED.values()]
    results = []
    for name in dict.fromkeys(methods):
        precision, signal = "fp32" * (name in questions.ADDED), 9.0 * (name == "sagan")
        results += [result(name, seed, precision, signal=signal) for seed in range(6)]
    table = verdicts.answers(results).query("family == @questions.GAN_ADDS")
    assert len(table) == 2 * len(questions.ADDED) == questions.pairs_of("x")[questions.GAN_ADDS]
    first = table[table["against"] == BAR].set_index("method")
    assert first["difference"].idxmax() == questions.with_features("sagan")
    assert first.loc["pretrained_mean+sagan", "answer"] == verdicts.DIFFERS
    for row in table[table["against"] != BAR].itertuples():
        gan, control = parts(row.method)[1], parts(row.against)[1]
        assert questions.ADDED[gan] == control
