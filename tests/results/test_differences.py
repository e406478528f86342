import itertools

import numpy as np
import pytest
from experiments import OWN, experiment, true_auc
from scipy import stats

from nblib import metrics
from nblib.results import differences
from nblib.results.differences import Difference
from nblib.results.verdicts import CANNOT_TELL, EQUIVALENT, verdict


def test_resampling_three_seeds_instead_would_lie():
    """Why the seed part is a variance with two degrees of freedom, and no bootstrap of seeds."""
    random = np.random.default_rng(0)
    missed = []
    for _ in range(2000):
        of_seeds = random.standard_normal((2, 3))
        drawn = of_seeds[:, random.integers(0, 3, (300, 3))].mean(2)
        low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
        missed.append(not low <= 0 <= high)
    honest = []
    for _ in range(2000):
        of_seeds = random.standard_normal((2, 3))
        value = np.subtract(*of_seeds.mean(1))
        low, high = Difference(
            value, 0.0, 0.0, tuple(of_seeds.var(1, ddof=1) / 3), (3, 3), 9
        ).interval()
        honest.append(not low <= 0 <= high)
    assert np.mean(missed) > 0.12 and np.mean(honest) < 0.07


def test_an_interval_over_images_lies_where_patients_have_several():
    random = np.random.default_rng(1)
    missed = {"images": 0, "patients": 0}
    for _ in range(200):
        labels, patients, one, _ = experiment(random, 60, seeds=1, seed_noise=0, views=8)
        for unit, ids in {"images": np.arange(len(labels)), "patients": patients}.items():
            weights = metrics.patient_weights(labels, ids, 300)
            low, high = metrics.interval(metrics.weighted_auc_ap(labels, one[0], weights)[0])
            missed[unit] += not low <= true_auc(1.0) <= high
    assert missed["images"] / 200 > 0.15 and missed["patients"] / 200 < 0.1


def test_the_critical_value_is_cochrans_and_coxs_weighted_mean_of_quantiles():
    found = Difference(0.05, 0.01**2, np.nan, (0.02**2, 0.03**2), (4, 3), 50)
    for tail in (0.025, 0.05, 1e-4):
        above = (
            1 * stats.norm.isf(tail) + 4 * stats.t.isf(tail, 3) + 9 * stats.t.isf(tail, 2)
        ) / 14
        assert np.isclose(found.critical(tail), above)
        error = np.sqrt(14) * 0.01
        assert np.allclose(
            found.interval(1 - 2 * tail), (0.05 - above * error, 0.05 + above * error)
        )
    # p is the level at which the interval ends at zero.
    assert np.isclose(found.interval(1 - found.p)[0], 0, atol=1e-9)


def test_where_patients_add_nothing_equal_seeds_are_students_t_with_one_degree_less():
    random = np.random.default_rng(2)
    one, other = random.normal(0.8, 0.02, 4), random.normal(0.78, 0.05, 4)
    variances = one.var(ddof=1) / 4, other.var(ddof=1) / 4
    found = Difference(one.mean() - other.mean(), 0.0, 0.0, variances, (4, 4), 50)
    statistic = stats.ttest_ind(one, other, equal_var=False).statistic
    assert np.isclose(found.p, 2 * stats.t.sf(abs(statistic), 3))
    alone = Difference(0.05, 0.02**2, 0.0, (0.0, 0.0), (4, 4), 50)
    assert np.isclose(alone.p, 2 * stats.norm.sf(2.5))
    assert Difference(0.9, 0.001**2, 0.0, (0.0, 0.0), (4, 4), 50).p == 0


def test_a_difference_is_that_of_the_means_and_its_errors_those_of_its_parts():
    random = np.random.default_rng(3)
    labels, patients, one, other = experiment(random, 80, shift=0.3)
    found = differences.difference(labels, patients, one, other)
    areas = [[metrics.auc(labels, s) for s in m] for m in (one, other)]
    assert np.isclose(found.value, np.mean(areas[0]) - np.mean(areas[1]))
    assert np.allclose(found.seed_variances, [np.var(a, ddof=1) / 3 for a in areas])
    assert found.seeds == (3, 3) and found.patients == 80
    turned = differences.difference(labels, patients, other, one)
    assert np.isclose(turned.value, -found.value) and np.isclose(turned.p, found.p)
    # Independently: the patients resampled one by one, the difference taken anew.
    ids = np.unique(patients)
    ill = {i: labels[patients == i].any() for i in ids}
    groups = [[i for i in ids if ill[i] == kind] for kind in (False, True)]
    values = []
    for _ in range(300):
        drawn = np.concatenate([random.choice(group, len(group)) for group in groups])
        index = np.concatenate([np.flatnonzero(patients == i) for i in drawn])
        normal = labels[index] == 0
        a, b = (np.mean([metrics.auc(~normal, s[index]) for s in m]) for m in (one, other))
        values.append(a - b)
    assert np.isclose(np.std(values), np.sqrt(found.patient_variance), rtol=0.15)


def test_the_same_scores_do_not_differ():
    labels, patients, one, _ = experiment(np.random.default_rng(4), 40)
    found = differences.difference(labels, patients, one[:1].repeat(2, 0), one[:1].repeat(2, 0))
    assert found.value == found.error == 0 and found.p == 1
    assert verdict(found, found.p) == CANNOT_TELL
    assert verdict(found._replace(rarer=400), 1) == EQUIVALENT
    assert differences.delong(labels, patients, one[0], one[0]) == (0, 0, 1)


def test_delong_is_mlstatkits_where_each_image_is_a_patient():
    from MLstatkit import Delong_test

    random = np.random.default_rng(6)
    labels = random.integers(0, 2, 70)
    one, other = labels + random.normal(0, 1, 70), labels + random.normal(0, 1.5, 70)
    one, other = one.round(1), other.round(1)  # ties
    z, p = Delong_test(labels, one, other, return_ci=False, return_auc=False)
    value, error, own_p = differences.delong(labels, np.arange(70).astype(str), one, other)
    assert np.isclose(-value / error, z) and np.isclose(own_p, p)


def test_clustered_delong_is_obuchowskis_formula_written_out():
    labels, patients, one, other = experiment(np.random.default_rng(7), 25, seeds=1, views=4)
    labels[patients == "3"] = np.arange((patients == "3").sum()) % 2  # a patient with both kinds
    one, other = one[0], other[0]
    psi = lambda a, b: 1.0 if a > b else 0.5 if a == b else 0.0  # noqa: E731
    ill, well = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    m, n, ids = len(ill), len(well), np.unique(patients)
    area, x, y = [], [], []
    for s in (one, other):
        v10 = {i: np.mean([psi(s[i], s[j]) for j in well]) for i in ill}
        v01 = {j: np.mean([psi(s[i], s[j]) for i in ill]) for j in well}
        area.append(np.mean(list(v10.values())))
        x.append([sum(v10[i] - area[-1] for i in ill if patients[i] == k) for k in ids])
        y.append([sum(v01[j] - area[-1] for j in well if patients[j] == k) for k in ids])
    i10 = len(set(patients[ill]))
    i01 = len(set(patients[well]))

    def covariance(a, b):
        s10 = i10 / ((i10 - 1) * m) * np.dot(x[a], x[b])
        s01 = i01 / ((i01 - 1) * n) * np.dot(y[a], y[b])
        s11 = len(ids) / (len(ids) - 1) * (np.dot(x[a], y[b]) + np.dot(x[b], y[a])) / 2
        return s10 / m + s01 / n + 2 * s11 / (m * n)

    variance = covariance(0, 0) + covariance(1, 1) - 2 * covariance(0, 1)
    value, error, _ = differences.delong(labels, patients, one, other)
    assert np.isclose(value, area[0] - area[1]) and np.isclose(error, np.sqrt(variance))


def test_clustered_delong_agrees_with_resampled_patients_and_the_plain_one_does_not():
    random = np.random.default_rng(8)
    labels, patients, one, other = experiment(random, 300, seeds=1, views=8)
    other[0] -= 2 * OWN * random.standard_normal(300)[patients.astype(int)]
    found = differences.difference(labels, patients, one, other)
    clustered = differences.delong(labels, patients, one[0], other[0])[1]
    plain = differences.delong(labels, np.arange(len(labels)), one[0], other[0])[1]
    assert np.isclose(clustered, np.sqrt(found.patient_variance), rtol=0.1)
    assert plain < 0.75 * clustered


def test_holm_step_down_by_hand_and_what_has_not_run_counts_as_no_difference():
    assert np.allclose(differences.holm([0.01, 0.04, 0.03], 3), [0.03, 0.06, 0.06])
    found = differences.holm([0.01, np.nan, 0.04], 3)
    assert np.allclose(found[[0, 2]], [0.03, 0.08]) and np.isnan(found[1])
    assert np.allclose(differences.holm([0.01], 5), [0.05])


@pytest.mark.parametrize(
    "value, patient, seed, k, margin, shows",
    [
        (0.05, 0.005, 0.01, 2, 0.01, "a difference"),
        (0.05, 0.02, 0.02, 3, 0.01, "a difference"),
        (0.0, 0.01, 0.005, 3, 0.02, "equivalence"),
        (0.012, 0.01, 0.01, 3, 0.01, "a difference"),
    ],
)
def test_what_is_needed_would_tell_in_80_percent_of_the_cases(
    value, patient, seed, k, margin, shows
):
    """Made-up experiments with as many patients or seeds, whose variances have to be measured."""
    n, tests, random = 100, 10, np.random.default_rng(9)
    found = Difference(value, patient**2, patient**2, (seed**2 / k, seed**2 / k), (k, k), n)
    missing = differences.needed(found, tests, margin)
    assert missing.shows == shows
    alone = [way for way in ((missing.patients, k), (n, missing.seeds)) if all(way)]
    for patients, seeds in alone or [missing.both]:
        variance, told = patient**2 * n / patients, []
        for _ in range(800):
            of_seeds = random.normal(0, seed, (2, seeds))
            drawn = random.normal(value, np.sqrt(variance)) + np.subtract(*of_seeds.mean(1))
            measured = tuple(of_seeds.var(1, ddof=1) / seeds)
            again = Difference(drawn, variance, variance, measured, (seeds, seeds), patients)
            told.append(verdict(again, min(1, again.p * tests), margin) != CANNOT_TELL)
        # 80 %, or more where one seed fewer is too few; three standard deviations of a share.
        assert 0.8 - 3 * np.sqrt(0.16 / 800) < np.mean(told) < 0.995, (patients, seeds)
        # And with fewer of both it would not.
        of_each = (max(2, round(0.7 * seeds)),) * 2
        fewer = differences._power(found, 0.8 * patients, of_each, tests, margin)
        assert max(fewer) < 0.8


def test_two_seeds_are_never_advised_nor_patients_with_two():
    for seed, value in itertools.product((1e-5, 1e-3, 1e-2), (0.005, 0.03, 0.2)):
        found = Difference(value, 0.02**2, 0.02**2, (seed**2 / 2,) * 2, (2, 2), 100)
        missing = differences.needed(found)
        assert missing.patients is None
        assert missing.seeds is None or missing.seeds >= 3
        assert missing.both is None or missing.both[1] >= 3


def test_where_it_is_not_known_what_seeds_leave_all_of_the_patients_error_is_taken_to_stay():
    found = Difference(0.03, 0.01**2, 0.0, (0.006**2,) * 2, (3, 3), 100)
    stays = found._replace(patient_floor=found.patient_variance)
    assert differences.needed(found) == differences.needed(stays)
    known = differences.needed(found._replace(patient_floor=0.001**2))
    assert 3 < known.seeds < differences.needed(found).seeds


def test_what_is_needed_with_these_seeds_counts_those_of_each_method():
    few = Difference(0.03, 0.01**2, 0.01**2, (0.002**2, 0.002**2), (3, 3), 100)
    more = Difference(0.03, 0.01**2, 0.01**2, (0.002**2, 0.002**2 * 3 / 8), (3, 8), 100)
    assert differences.needed(more).patients < differences.needed(few).patients


def test_what_no_number_could_show_says_so():
    found = Difference(0.0, 0.01**2, 0.01**2, (0.0, 0.0), (3, 3), 100)
    assert differences.needed(found, margin=0.0)[:3] == (None, None, None)
    assert differences.needed(found, margin=0.015).seeds is None  # the patients are too few
    assert differences.needed(found, margin=0.015).patients > 100


def test_patients_too_few_for_any_number_of_seeds_are_told_from_those_that_are_not():
    assert differences.never_equivalent(Difference(0.0, 1, 0.02**2, (0.0, 0.0), (3, 3), 100), 0.03)
    assert not differences.never_equivalent(
        Difference(0.0, 1, 0.01**2, (0.0, 0.0), (3, 3), 100), 0.03
    )
    assert not differences.never_equivalent(
        Difference(0.0, 1, np.nan, (0.0, 0.0), (1, 3), 100), 0.03
    )


def test_the_patient_floor_is_what_many_seeds_leave_of_the_patient_variance():
    random = np.random.default_rng(12)
    labels, patients, one, other = experiment(random, 150, seeds=30, seed_noise=0.0)
    whole = differences.difference(labels, patients, one, other)
    few = differences.difference(labels, patients, one[:2], other[:2])
    assert few.patient_floor < 0.8 * few.patient_variance
    assert np.isclose(few.patient_floor, whole.patient_variance, rtol=0.35)
    assert np.isclose(whole.patient_floor, whole.patient_variance, rtol=0.1)


@pytest.mark.parametrize(("each", "expected"), [(3, CANNOT_TELL), (500, EQUIVALENT)])
def test_two_perfect_scores_are_as_equal_as_their_patients_are_many(each, expected):
    labels = np.repeat([0, 1], each)
    perfect = np.tile(labels, (3, 1)).astype(float)
    found = differences.difference(labels, np.arange(2 * each).astype(str), perfect, perfect)
    low, high = found.interval()
    alone = metrics.bounded_interval(1.0, np.ones(9), labels, np.arange(2 * each))
    assert found.p == 1 and -low == high == pytest.approx(1 - alone[0])
    assert verdict(found, found.p) == expected
    needed = differences.needed(found)
    assert needed.shows == "equivalence" and needed.patients == 2 * 299
    for rarer, then in ((298, CANNOT_TELL), (299, EQUIVALENT)):
        assert verdict(found._replace(rarer=rarer), 1) == then


def test_a_difference_without_any_error_is_no_proof():
    labels, patients = np.array([0, 0, 1, 1]), np.array(list("abcd"))
    perfect, constant = np.tile([0.0, 0.0, 1.0, 1.0], (2, 1)), np.zeros((2, 4))
    found = differences.difference(labels, patients, perfect, constant)
    assert found.value == 0.5 and found.error == 0
    # That two of two are no mistake has a probability of 1/4 where half of them are.
    assert found.p == 2 * 0.5**2 and verdict(found, found.p) == CANNOT_TELL
    assert differences.delong(labels, patients, perfect[0], constant[0])[2] == found.p
    many = differences.needed(found, tests=2)
    assert many.shows == "a difference" and many.patients == 2 * 7
    assert [found._replace(rarer=n).p < 0.05 / 2 for n in (6, 7)] == [False, True]
    one_patient = np.array(list("abcc"))
    assert np.isnan(differences.delong(labels, one_patient, perfect[0], constant[0])[1:]).all()
