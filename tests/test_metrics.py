from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from nblib import metrics

# Few values, hence many ties; multiples of 1/8, so that transforms below keep ties and order.
SCORES = st.lists(st.integers(-40, 40).map(lambda k: k / 8), min_size=1, max_size=30)


def two_classes(normal, abnormal):
    return np.repeat([0, 1], [len(normal), len(abnormal)]), np.array(normal + abnormal)


def auc_ap(normal, abnormal):
    """AUC and average precision by `weighted_auc_ap`, every image once."""
    labels, scores = two_classes(normal, abnormal)
    area, precision = metrics.weighted_auc_ap(labels, scores, np.ones((1, len(labels)), int))
    return area[0], precision[0]


def pairs_won(normal, abnormal):
    """The AUC as the share of pairs in which the abnormal image scores higher, ties half."""
    difference = np.subtract.outer(abnormal, normal)
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs_in_order(normal, abnormal):
    assert np.isclose(metrics.auc(*two_classes(normal, abnormal)), pairs_won(normal, abnormal))
    assert np.isclose(auc_ap(normal, abnormal)[0], pairs_won(normal, abnormal))


@given(SCORES, SCORES)
def test_ap_is_scikit_learns_with_ties(normal, abnormal):
    expected = average_precision_score(*two_classes(normal, abnormal))
    assert np.isclose(auc_ap(normal, abnormal)[1], expected)


@given(SCORES, SCORES)
def test_rising_transforms_of_the_scores_change_nothing(normal, abnormal):
    before = auc_ap(normal, abnormal)
    for transform in (np.exp, np.cbrt, lambda v: 3 * v - 100, lambda v: rankdata(v)):
        labels, scores = two_classes(normal, abnormal)
        changed = transform(scores)
        after = auc_ap(list(changed[labels == 0]), list(changed[labels == 1]))
        assert np.allclose(before, after)
        assert np.isclose(metrics.auc(labels, changed), before[0])


@given(SCORES, SCORES)
def test_negated_scores_or_swapped_classes_give_one_minus_the_auc(normal, abnormal):
    area = auc_ap(normal, abnormal)[0]
    negated = auc_ap([-v for v in normal], [-v for v in abnormal])[0]
    assert np.isclose(negated, 1 - area)
    assert np.isclose(auc_ap(abnormal, normal)[0], 1 - area)
    labels, scores = two_classes(normal, abnormal)
    assert np.isclose(metrics.auc(labels, -scores), 1 - area)


@given(SCORES, SCORES, st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(normal, abnormal, random):
    labels, scores = two_classes(normal, abnormal)
    order = list(range(len(labels)))
    random.shuffle(order)
    weights = np.arange(1, len(labels) + 1)[None]
    straight = metrics.weighted_auc_ap(labels, scores, weights)
    mixed = metrics.weighted_auc_ap(labels[order], scores[order], weights[:, order])
    assert np.allclose(straight, mixed)


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_auc_and_ap_are_scikit_learns_in_every_resample(ties):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 80)
    scores = random.normal(labels, 1)
    scores = np.round(scores * 2) / 2 if ties else scores
    weights = random.multinomial(80, np.full(80, 1 / 80), 60)
    areas, precisions = metrics.weighted_auc_ap(labels, scores, weights)
    assert areas.shape == precisions.shape == (60,)
    for row, area, precision in zip(weights, areas, precisions, strict=True):
        assert np.isclose(area, roc_auc_score(labels, scores, sample_weight=row))
        assert np.isclose(precision, average_precision_score(labels, scores, sample_weight=row))


def test_a_weight_of_two_is_the_image_twice():
    labels, scores = np.array([0, 0, 1, 1, 0]), np.array([1.0, 3, 2, 3, 0])
    weights = np.array([[2, 1, 3, 0, 1]])
    area, precision = metrics.weighted_auc_ap(labels, scores, weights)
    many_labels, many_scores = np.repeat(labels, weights[0]), np.repeat(scores, weights[0])
    assert np.isclose(area[0], roc_auc_score(many_labels, many_scores))
    assert np.isclose(precision[0], average_precision_score(many_labels, many_scores))


def test_standard_error_of_the_auc_is_the_spread_over_many_studies():
    # Exponential scores, for which Hanley's and McNeil's formula is exact: AUC 3 / (3 + 1).
    random = np.random.default_rng(0)
    normal, abnormal = random.exponential(1, (4000, 25)), random.exponential(3, (4000, 40))
    areas = [pairs_won(n, a) for n, a in zip(normal, abnormal, strict=True)]
    assert abs(np.mean(areas) - 0.75) < 0.005
    expected = metrics.auc_standard_error(0.75, 25, 40)
    assert abs(np.std(areas) / expected - 1) < 0.04
    swapped = metrics.auc_standard_error(0.75, 40, 25)
    assert abs(swapped / expected - 1) > 0.05  # the two classes are not interchangeable


def test_standard_error_at_the_ends():
    assert metrics.auc_standard_error(1.0, 10, 10) == 0
    assert metrics.auc_standard_error(0.0, 10, 10) == 0
    chance = np.sqrt((10 + 20 + 1) / (12 * 10 * 20))  # the Mann-Whitney variance
    assert np.isclose(metrics.auc_standard_error(0.5, 10, 20), chance)


def clustered(patients=60, images=5, seed=0, spread=2.0):
    """Scores that images of one patient share, but for a little noise."""
    random = np.random.default_rng(seed)
    labels = np.repeat(random.permutation(np.arange(patients) % 2), images)
    names = np.repeat([f"{i:03d}" for i in range(patients)], images)
    own = np.repeat(random.normal(0, spread, patients), images)
    return labels, own + labels + random.normal(0, 0.2, len(labels)), names


def mixed_patients():
    labels = np.array([0, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1])
    patients = np.array(list("aabccdedefgf"))
    return labels, patients, {"normal": "abg", "abnormal": "ce", "both": "df"}


def test_a_patients_images_are_drawn_together():
    labels, patients, _ = mixed_patients()
    weights = metrics.patient_weights(labels, patients, 300)
    assert weights.shape == (300, 12) and weights.min() == 0
    for patient in set(patients):
        assert (weights[:, patients == patient] == weights[:, patients == patient][:, :1]).all()


def test_every_resample_keeps_the_number_of_patients_in_each_stratum():
    labels, patients, strata = mixed_patients()
    weights = metrics.patient_weights(labels, patients, 300)
    for members in strata.values():
        first = [list(patients).index(patient) for patient in members]
        assert (weights[:, first].sum(1) == len(members)).all()


def test_patients_of_a_stratum_are_drawn_equally_often_with_replacement():
    weights = metrics.patient_weights(np.arange(40) % 2, np.arange(40), 5000)
    assert np.abs(weights.mean(0) - 1).max() < 0.08
    # Drawn 20 times out of 20: left out with probability (19 / 20) ** 20.
    assert np.abs((weights == 0).mean(0) - 0.95**20).max() < 0.04
    assert np.abs(weights.var(0) - 0.95).max() < 0.12


def test_resamples_are_fixed_by_the_seed():
    labels, patients, _ = mixed_patients()
    one, again, other = (metrics.patient_weights(labels, patients, 50, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def width(labels, scores, groups):
    weights = metrics.patient_weights(labels, groups, 1000)
    low, high = metrics.interval(metrics.weighted_auc_ap(labels, scores, weights)[0])
    return high - low


def test_intervals_over_patients_are_wider_where_images_cluster():
    labels, scores, patients = clustered()
    over_images = width(labels, scores, np.arange(len(labels)))
    # Five images that say the same are worth one: wider by up to the square root of 5.
    assert 1.6 < width(labels, scores, patients) / over_images < 2.8


def test_intervals_over_patients_hold_the_truth_about_as_often_as_they_say():
    hits = []
    for seed in range(250):
        labels, scores, patients = clustered(40, 4, seed + 1)
        weights = metrics.patient_weights(labels, patients, 200, 1000 + seed)
        areas = metrics.weighted_auc_ap(labels, scores, weights)[0]
        area = metrics.auc(labels, scores)
        low, high = metrics.bounded_interval(area, areas, labels, patients)
        hits.append(low <= 0.6375 <= high)  # Phi(1 / sqrt(2 * (2 ** 2 + 0.2 ** 2)))
    assert 0.9 < np.mean(hits) < 0.99


def test_the_intervals_of_auc_and_ap_written_out():
    labels, scores, patients = clustered(40, 4)
    weights = metrics.patient_weights(labels, patients, 300)
    values = metrics.auc(labels, scores), average_precision_score(labels, scores)
    m = min(len(set(patients[labels == k])) for k in (0, 1))
    t = stats.t.ppf(0.975, m - 1) * np.sqrt(m / (m - 1))
    for value, drawn in zip(values, metrics.weighted_auc_ap(labels, scores, weights), strict=True):
        logits, own = np.log(drawn / (1 - drawn)), np.log(value / (1 - value))
        spread = (logits.std(ddof=1) + drawn.std(ddof=1) / (value * (1 - value))) / 2
        middle = own - (logits.mean() - own)
        odds = np.exp(middle + np.array([-1, 1]) * t * spread)
        found = metrics.bounded_interval(value, drawn, labels, patients)
        assert np.allclose(found, odds / (1 + odds))


def test_the_committed_simulation_holds_the_truth_about_as_often_as_promised():
    """With twelve sets of patients, down to ten abnormal ones; beside it what percentiles do."""
    table = pd.read_csv(Path(__file__).parents[1] / "data" / "simulated" / "intervals.csv")
    held, before = table[["AUC", "AP"]], table[["AUC, percentiles", "AP, percentiles"]]
    assert len(table) == 24 and (table["experiments"] >= 400).all()
    assert (held > 0.9).all(axis=None) and 0.94 < held.mean(axis=None) < 0.97
    assert (before < 0.9).any(axis=None), "which the intervals are there for"


def test_a_perfect_method_is_not_said_to_be_perfect_for_ever():
    labels, ones = np.repeat([0, 1], [50, 10]), np.ones(100)
    low, high = metrics.bounded_interval(1.0, ones, labels, np.arange(60).astype(str))
    # Ten patients in a row are found with probability 2.5 % where one is with that of `low`.
    assert high == 1 and low**10 == pytest.approx(0.025)
    assert metrics.bounded_interval(0.0, 0 * ones, labels, np.arange(60).astype(str)) == [
        0,
        1 - low,
    ]
    one = np.array(["a"] * 50 + ["b"] * 10)
    assert metrics.bounded_interval(0.8, ones * 0.8, labels, one) == [0, 1], (
        "one patient tells nothing"
    )


def test_interval_is_the_percentile_interval():
    values = np.random.default_rng(0).permutation(np.arange(1001))
    assert np.allclose(metrics.interval(values), [25, 975])
    assert np.allclose(metrics.interval(values, 0.9), [50, 950])


@pytest.mark.parametrize(
    ("count", "rank"), [(19, 19), (20, 20), (38, 38), (39, 38), (99, 95), (100, 96), (399, 380)]
)
def test_threshold_is_the_score_of_rank_95_percent_of_one_more(count, rank):
    scores = np.random.default_rng(0).permutation(np.arange(1, count + 1)) * 10.0
    assert metrics.threshold(scores) == 10 * rank


def test_threshold_is_nan_under_nineteen():
    for count in range(19):
        assert np.isnan(metrics.threshold(np.arange(float(count))))
        assert np.isnan(metrics.specificity_range(count)).all()


@pytest.mark.parametrize("count", [19, 45])
def test_specificity_range_holds_the_true_specificity_of_95_percent_of_thresholds(count):
    held_out = np.random.default_rng(0).uniform(size=(8000, count))
    # Of uniform scores the share at or below a threshold is the threshold itself.
    true = np.array([metrics.threshold(row) for row in held_out])
    low, high = metrics.specificity_range(count)
    assert abs((true < low).mean() - 0.025) < 0.008
    assert abs((true > high).mean() - 0.025) < 0.008
    assert true.mean() > 0.95 - 0.002  # a new normal image stays below it with 95 % at least


def test_specificity_range_narrows_with_more_images():
    few, many = metrics.specificity_range(39), metrics.specificity_range(3999)
    assert few[0] < many[0] < 0.95 < many[1] < few[1]


@given(SCORES, SCORES)
def test_percentile_is_the_share_below_with_ties_half(scores, held_out):
    found = metrics.percentile(np.array(scores), np.array(held_out))
    for score, value in zip(scores, found, strict=True):
        below, tied = (sum(f(h) for h in held_out) for f in (score.__gt__, score.__eq__))
        assert np.isclose(value, 100 * (below + tied / 2) / len(held_out))


def score_table(held=40, seed=0):
    labels, scores, patients = clustered(40, 3, seed)
    test = pd.DataFrame({"patient": patients, "label": labels, "score": scores, "part": "test"})
    random = np.random.default_rng(seed + 100)
    normal = pd.DataFrame({"score": random.normal(0, 2, held), "label": 0})
    normal = normal.assign(patient="x", part="held_out_normal")
    other = normal.assign(part="unlabeled", score=1e9)
    return pd.concat([other, test, normal], ignore_index=True)


def test_detection_gives_scikit_learns_auc_and_ap_of_the_test_part():
    table = score_table()
    test, found = table[table["part"] == "test"], metrics.detection(score_table(), 200)
    assert np.isclose(found["auc"], roc_auc_score(test["label"], test["score"]))
    assert np.isclose(found["ap"], average_precision_score(test["label"], test["score"]))
    assert (found["images"], found["patients"]) == (120, 40)
    for name in ("auc", "ap", "sensitivity", "specificity"):
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high


def test_detection_calls_abnormal_what_lies_above_the_held_out_threshold():
    table = score_table()
    found = metrics.detection(table, 50)
    held = sorted(table.loc[table["part"] == "held_out_normal", "score"])
    assert found["threshold"] == held[38]  # rank ceil(0.95 * 41) = 39
    test = table[table["part"] == "test"]
    normal, abnormal = (test.loc[test["label"] == k, "score"] for k in (0, 1))
    assert np.isclose(found["sensitivity"], np.mean(abnormal > held[38]))
    assert np.isclose(found["specificity"], np.mean(normal <= held[38]))
    assert found["specificity_expected"] == metrics.specificity_range(40)
    assert np.isclose(found["f1"], f1_score(test["label"], test["score"] > held[38]))


def test_an_image_at_the_threshold_itself_is_called_normal():
    """`threshold` promises its specificity of images at or below it."""
    table = score_table()
    cut = metrics.detection(table, 50)["threshold"]
    of_test = table.index[table["part"] == "test"]
    table.loc[of_test, "score"] = np.where(table.loc[of_test, "label"] == 1, cut, cut - 1)
    for found in (metrics.detection(table, 50), metrics.decisions(table)):
        assert (found["sensitivity"], found["specificity"]) == (0, 1)


def test_decisions_at_90_percent_use_the_lower_rank():
    table = score_table()
    held = sorted(table.loc[table["part"] == "held_out_normal", "score"])
    found = metrics.decisions(table, 0.9)
    assert found["threshold"] == held[36]  # rank ceil(0.9 * 41) = 37
    assert found["sensitivity"] >= metrics.decisions(table)["sensitivity"]
    assert set(metrics.decisions(score_table(held=8), 0.9).values()) == {None}


def test_detection_intervals_are_of_resampled_patients():
    table = score_table()
    found = metrics.detection(table, 200)
    test = table[table["part"] == "test"]
    labels, scores = test["label"].to_numpy(), test["score"].to_numpy()
    weights = metrics.patient_weights(labels, test["patient"].to_numpy(str), 200)
    above = scores > found["threshold"]
    expected = {"auc": [], "ap": [], "sensitivity": [], "specificity": []}
    for row in weights:
        expected["auc"].append(roc_auc_score(labels, scores, sample_weight=row))
        expected["ap"].append(average_precision_score(labels, scores, sample_weight=row))
        sick, healthy = (np.repeat(above[labels == k], row[labels == k]) for k in (1, 0))
        expected["sensitivity"].append(sick.mean())
        expected["specificity"].append(1 - healthy.mean())
    for name in ("sensitivity", "specificity"):
        quantiles = np.quantile(expected[name], [0.025, 0.975])
        assert np.allclose(found[f"{name}_interval"], quantiles)
    patients = test["patient"].to_numpy(str)
    for name in ("auc", "ap"):
        values = np.array(expected[name])
        whole = metrics.bounded_interval(found[name], values, labels, patients)
        assert np.allclose(found[f"{name}_interval"], whole)


def test_detection_without_enough_held_out_images_has_no_threshold():
    found = metrics.detection(score_table(held=18), 50)
    tied = {name for name in found if name.startswith(("threshold", "sens", "spec"))}
    assert len(tied) == 6 and found["f1"] is None and all(found[name] is None for name in tied)
    assert 0 < found["auc"] < 1 and found["images"] == 120


def test_localisation_of_hand_made_maps():
    masks = np.zeros((4, 2, 2), bool)
    masks[0, 0, 0] = masks[1, 0, :] = masks[3, 1, 1] = True
    maps = np.array(
        [
            [[0.9, 0.1], [0.2, 0.3]],  # hit
            [[0.4, 0.5], [0.8, 0.0]],  # miss: the largest value lies beside the lesion
            [[0.7, 0.0], [0.0, 0.0]],  # no lesion, and known to have none
            [[0.0, 0.0], [1.0, 0.0]],  # not annotated: must not count
        ]
    )
    found = metrics.localisation(
        maps, masks, np.array([True, True, True, False]), np.array(list("abcd"))
    )
    # Falling order: 0.9 lesion, 0.8, 0.7, 0.5 lesion, 0.4 lesion, ... -> 1/1, 2/4, 3/5 over 3.
    assert np.isclose(found["pixel_ap"], (1 + 2 / 4 + 3 / 5) / 3)
    assert np.isclose(found["pixel_ap_chance"], 3 / 12)
    assert np.isclose(found["pointing"], 1 / 2)
    assert np.isclose(found["pointing_chance"], (1 / 4 + 2 / 4) / 2)
    assert (found["images_with_lesion"], found["images_without"]) == (2, 1)


def test_perfect_and_inverted_maps():
    masks = np.random.default_rng(0).random((6, 8, 8)) < 0.2
    everywhere = np.full(6, True)
    patients = np.arange(6)
    found = metrics.localisation(masks.astype(float), masks, everywhere, patients)
    assert found["pixel_ap"] == found["pointing"] == found["dice"] == 1
    assert np.isclose(found["pro"], 1, atol=0.01)
    found = metrics.localisation(1.0 - masks, masks, everywhere, patients)
    assert found["pointing"] == 0 and np.isclose(found["pixel_ap"], masks.mean())
    assert np.isclose(found["dice"], found["dice_chance"]) and found["pro"] < 0.01
    # With no hit in six images the truth may still be a third.
    assert found["pointing_interval"][0] == 0 and found["pointing_interval"][1] > 0.3


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_pointing_of_random_maps_is_at_its_chance_level(seed):
    random = np.random.default_rng(seed)
    masks = np.zeros((400, 6, 6), bool)
    masks[:, 1:4, 2:5] = True
    maps, all_of_them = random.random(masks.shape), np.full(400, True)
    found = metrics.localisation(maps, masks, all_of_them, np.arange(400), resamples=20)
    assert found["pointing_chance"] == 0.25
    assert abs(found["pointing"] - 0.25) < 0.11  # 5 standard deviations
    assert abs(found["pixel_ap"] - found["pixel_ap_chance"]) < 0.05
    assert found["pro_chance"] == 0.15 and abs(found["pro"] - 0.15) < 0.04
    assert abs(found["dice"] - found["dice_chance"]) < 0.05


def test_a_flat_map_points_nowhere_and_few_pixels_are_still_found():
    masks = np.zeros((6, 10, 10), bool)
    masks[:, :2, :2] = True
    flat = metrics.localisation(np.ones(masks.shape), masks, np.full(6, True), np.arange(6))
    assert np.isclose(flat["pointing"], flat["pointing_chance"])
    masks = np.zeros((100, 64, 64), bool)
    masks[:4, 5, 5] = True
    random = np.random.default_rng(0)
    maps = random.random(masks.shape) + masks
    found = metrics.localisation(maps, masks, np.full(100, True), np.arange(100), resamples=10)
    assert found["dice"] > 0.95 and found["pixel_ap_interval"][0] > 0.95


def test_the_interval_of_pointing_counts_patients_not_images():
    masks = np.zeros((40, 4, 4), bool)
    masks[:, 0, 0] = True
    maps, everywhere = masks.astype(float), np.full(40, True)
    many = metrics.localisation(maps, masks, everywhere, np.arange(40), resamples=10)
    few = metrics.localisation(maps, masks, everywhere, np.arange(40) // 8, resamples=10)
    assert many["pointing_interval"][0] > 0.9 > 0.6 > few["pointing_interval"][0]


def lesions_and_maps(n=12, side=16, seed=0):
    """Maps that are higher in lesions, of which some images have none, some one, some two."""
    random = np.random.default_rng(seed)
    masks = np.zeros((n, side, side), bool)
    for i in range(n):
        for _ in range(i % 3):
            top, left = random.integers(0, side - 5, 2)
            masks[i, top : top + random.integers(2, 5), left : left + 3] = True
    return random.normal(0, 1, masks.shape) + 1.2 * masks, masks


def test_dice_and_pro_as_their_definitions_written_out():
    maps, masks = lesions_and_maps()
    everywhere, patients = np.full(12, True), np.arange(12)
    found = metrics.localisation(maps, masks, everywhere, patients, resamples=10)
    cuts = np.sort(maps.ravel())[::-1]
    dice, rates, overlaps = [], [0.0], [0.0]
    regions = []
    for i in range(12):
        # Flood fill, eight neighbours.
        left = {tuple(p) for p in np.argwhere(masks[i])}
        while left:
            region, edge = set(), [left.pop()]
            while edge:
                y, x = edge.pop()
                region.add((y, x))
                near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
                left -= near
                edge += near
            rows, columns = np.array(sorted(region)).T
            regions.append(maps[i][rows, columns])
    for cut in cuts:
        above = maps >= cut
        dice.append(2 * (above & masks).sum() / (above.sum() + masks.sum()))
        rates.append((above & ~masks).sum() / (~masks).sum())
        overlaps.append(np.mean([(region >= cut).mean() for region in regions]))
    assert np.isclose(found["dice"], max(dice), atol=0.01)
    at = np.linspace(0, 0.3, 2000)
    assert np.isclose(found["pro"], np.interp(at, rates, overlaps).mean(), atol=0.005)


def test_intervals_of_localisation_are_over_resampled_patients():
    maps, masks = lesions_and_maps(40)
    patients, everywhere = np.arange(40) // 2, np.full(40, True)
    found = metrics.localisation(maps, masks, everywhere, patients, resamples=200)
    weights = metrics.patient_weights(masks.any((1, 2)), patients, 200)
    values = [
        average_precision_score(masks.ravel(), maps.ravel(), sample_weight=np.repeat(row, 256))
        for row in weights
    ]
    assert np.allclose(found["pixel_ap_interval"], np.quantile(values, [0.025, 0.975]), atol=0.01)
    for name in ("dice", "pro", "pointing"):
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high
    fewer = metrics.localisation(maps[:8], masks[:8], everywhere[:8], patients[:8])
    assert np.ptp(fewer["pro_interval"]) > np.ptp(found["pro_interval"])
