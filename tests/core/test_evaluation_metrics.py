"""Metrics on cases with known answers, and the coverage of their intervals."""

import numpy as np
import pytest

from slotid_core.evaluation.bootstrap import Bootstrap, Group
from slotid_core.evaluation.metrics import (
    Verification,
    circular_r_squared,
    correlation,
    frechet,
    hue_hit,
    mean_of,
    r_squared,
    ratio_of,
)


def plain(metric, count):
    return metric(np.ones((1, count)))[0]


def test_r_squared():
    truth = np.array([3.0, 5.0, 1.0, 7.0])
    assert plain(r_squared(truth, truth), 4) == pytest.approx(1)
    assert plain(r_squared(truth, np.full(4, truth.mean())), 4) == pytest.approx(0)
    # Squares about the mean 4 are 1 + 1 + 9 + 9 = 20; one error of 2 takes 4 of them.
    assert plain(r_squared(truth, truth + np.array([2, 0, 0, 0])), 4) == pytest.approx(0.8)
    assert plain(r_squared(truth, 8 - truth), 4) == pytest.approx(-3)


def test_weights_count_as_repeated_rows():
    rng = np.random.default_rng(0)
    truth, made = rng.normal(size=6) + 100, rng.normal(size=6) + 100
    counts = np.array([2, 0, 1, 3, 0, 1])
    again = np.repeat(np.arange(6), counts)
    for metric in (r_squared, correlation):
        assert metric(truth, made)(counts[None].astype(float))[0] == pytest.approx(
            plain(metric(truth[again], made[again]), 7)
        )
    hues, others = rng.random(6), rng.random(6)
    assert circular_r_squared(hues, others)(counts[None].astype(float))[0] == pytest.approx(
        plain(circular_r_squared(hues[again], others[again]), 7)
    )
    values, reference = rng.normal(size=(6, 2)), rng.normal(size=(9, 2))
    assert frechet(values, reference)(counts[None].astype(float))[0] == pytest.approx(
        plain(frechet(values[again], reference), 7)
    )
    scores = Verification(rng.random(6), rng.random((6, 3)))
    repeated = Verification(scores.genuine[again], scores.impostors[again])
    for name in ("auc", "accepted"):
        assert getattr(scores, name)(counts[None].astype(float))[0] == pytest.approx(plain(getattr(repeated, name), 7))


def test_circular_r_squared():
    hues = np.array([0.0, 0.25, 0.5, 0.75])
    assert plain(circular_r_squared(hues, hues + 1), 4) == pytest.approx(1)
    # Evenly spread hues have no better constant than any other.
    assert plain(circular_r_squared(hues, np.full(4, 0.3)), 4) == pytest.approx(0)
    assert plain(circular_r_squared(hues, hues + 0.5), 4) == pytest.approx(-1)
    # A twelfth of the circle away: the cosine of 30 degrees.
    assert plain(circular_r_squared(hues, hues + 1 / 12), 4) == pytest.approx(np.cos(np.pi / 6))
    near = np.array([0.98, 0.02, 0.98, 0.02])
    assert plain(circular_r_squared(near, np.zeros(4)), 4) == pytest.approx(0, abs=1e-9)
    assert plain(circular_r_squared(near, near), 4) == pytest.approx(1)


def test_hues_are_near_across_the_seam():
    made = np.array([0.95, 0.05, 0.5, 0.1])
    assert hue_hit(np.array([0.04, 0.96, 0.61, 0.1]), made).tolist() == [True, True, False, True]


def test_correlation():
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    assert plain(correlation(truth, 10 * truth - 3), 4) == pytest.approx(1)
    assert plain(correlation(truth, -truth), 4) == pytest.approx(-1)
    assert plain(correlation(truth, np.array([1.0, -1.0, -1.0, 1.0])), 4) == pytest.approx(0)
    assert np.isnan(plain(correlation(truth, np.ones(4)), 4))


def test_means_and_ratios():
    assert plain(mean_of(np.array([True, True, False, True])), 4) == 0.75
    assert plain(ratio_of(np.array([1.0, 3.0]), np.array([4.0, 4.0])), 2) == 0.5


def test_verification():
    perfect = Verification(np.array([0.9, 0.8]), np.array([[0.1, 0.2], [0.3, 0.7]]))
    assert plain(perfect.auc, 2) == 1 and plain(perfect.accepted, 2) == 1
    # Of the eight pairs one is lost and one is tied.
    mixed = Verification(np.array([0.9, 0.4]), np.array([[0.1, 0.4], [0.3, 0.7]]))
    assert plain(mixed.auc, 2) == pytest.approx((8 - 1 - 0.5) / 8)
    # No impostor may pass: the best of them, 0.7, is the threshold.
    assert plain(mixed.accepted, 2) == 0.5
    same = np.full((50, 4), 0.5)
    assert plain(Verification(same[:, 0], same).auc, 50) == 0.5


def test_frechet():
    square = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    assert plain(frechet(square, square), 4) == pytest.approx(0, abs=1e-9)
    assert plain(frechet(square + np.array([3, 4]), square), 4) == pytest.approx(25)
    # Same place, deviations 1 and 3 on both axes: (3 - 1)^2 each.
    assert plain(frechet(3 * square, square), 4) == pytest.approx(8)


def test_nothing_to_measure_is_said():
    nothing = Group(np.array([], int), np.array([], int))
    estimate = Bootstrap(np.arange(4), 20).estimate(mean_of(np.array([])), nothing)
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all() and estimate.rows == 0


def test_resampling_is_by_person_and_by_seed():
    group = Group(np.array([7, 7, 9, 9]), np.array([0, 1, 0, 1]))
    bootstrap = Bootstrap(np.array([7, 9]), 200)
    weights = bootstrap.weights(group, "one")
    # A person's share times a seed's share, each adding up to two.
    assert (weights.sum(1) == 4).all()
    assert (weights[:, 0] * weights[:, 3] == weights[:, 1] * weights[:, 2]).all()
    single = bootstrap.weights(Group(group.person, np.zeros(4, int)), "one")
    assert (single[:, 0] == single[:, 1]).all() and set(single[:, 0]) == {0.0, 1.0, 2.0}
    assert not np.array_equal(weights, bootstrap.weights(group, "other"))
    assert np.array_equal(weights, bootstrap.weights(group, "one"))


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Videos of a person share most of what is random about them: resampling videos would be far too sure."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(40), 5)
    group, bootstrap = Group(people, np.zeros(200, int)), Bootstrap(people, 300)
    covered = naive = 0
    for _ in range(200):
        values = rng.normal(size=40)[people] + 0.3 * rng.normal(size=200)
        estimate = bootstrap.estimate(mean_of(values), group)
        covered += estimate.low <= 0 <= estimate.high
        naive += abs(values.mean()) <= 1.96 * values.std() / np.sqrt(200)
    assert 0.88 <= covered / 200 <= 0.99
    assert naive / 200 < 0.75


def test_differences_are_paired():
    """What two variants share cancels: the interval of their difference is far narrower than each one's own."""
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(60), 5)
    group, bootstrap = Group(people, np.zeros(300, int)), Bootstrap(people, 300)
    shared = rng.normal(size=60)[people]
    one, other = shared + 0.1 * rng.normal(size=300) + 0.2, shared + 0.1 * rng.normal(size=300)
    difference = bootstrap.difference((mean_of(one), group, "a"), (mean_of(other), group, "b"))
    own = bootstrap.estimate(mean_of(one), group, "a")
    width = difference.high - difference.low
    assert abs(difference.value - 0.2) < width and width < 0.2 * (own.high - own.low)


def test_distances_are_not_inflated_by_repeated_people():
    rng = np.random.default_rng(2)
    people = np.repeat(np.arange(50), 2)
    features = rng.normal(size=(100, 6))
    reference = rng.normal(size=(4000, 6))
    group, bootstrap = Group(people, np.zeros(100, int)), Bootstrap(people, 200)
    metric = frechet(features, reference)
    plainly, centred = (bootstrap.estimate(metric, group, centred=flag) for flag in (False, True))
    assert plainly.low > plainly.value * 0.95
    assert centred.low < centred.value < centred.high
