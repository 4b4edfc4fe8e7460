"""Closed forms first: what a bootstrap, an equivalence test and Holm must give on data where it is known."""

import math

import numpy as np
import pytest

from hagd_verification.domain.statistics import (
    ClusterBootstrap,
    count_p,
    equivalence_p,
    holm,
    interval_of,
    monte_carlo,
    normalise,
    percentiles,
    ratio,
)

GROUPS = [str(i) for i in range(400)]


def test_every_resample_draws_as_many_groups_as_there_are() -> None:
    bootstrap = ClusterBootstrap.of(["a", "b", "b", "c"], 101, 0)
    assert bootstrap.weights.shape == (101, 3)
    assert (bootstrap.weights.sum(1) == 3).all()
    assert bootstrap.group_of.tolist() == [0, 1, 1, 2]


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    found = ClusterBootstrap.of(GROUPS, 4000, 0).mean(values)
    error = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_prompts_of_one_group_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(2).normal(size=50)
    alone = ClusterBootstrap.of([str(i) for i in range(50)], 3000, 0).means(values)
    repeated = ClusterBootstrap.of([str(i) for i in range(50) for _ in range(7)], 3000, 0).means(np.repeat(values, 7))
    np.testing.assert_allclose(repeated, alone, atol=1e-12)


def test_a_perfect_score_is_not_reported_as_certain() -> None:
    found = ClusterBootstrap.of(GROUPS[:20], 500, 0).mean(np.ones(20))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 20))


def test_no_success_at_all_is_not_certain_either() -> None:
    found = ClusterBootstrap.of(GROUPS[:20], 500, 0).mean(np.zeros(20))
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 20))


def test_the_smallest_of_several_means_is_taken_within_every_resample() -> None:
    bootstrap = ClusterBootstrap.of(GROUPS[:100], 2000, 0)
    first = np.repeat([0.0, 1.0], 50)
    both = bootstrap.smallest([first, 1 - first])
    assert both.value == 0.5
    assert both.high == 0.5
    assert both.low < bootstrap.mean(first).low + 0.02


def test_a_ratio_of_proportional_columns_has_no_width() -> None:
    bootstrap = ClusterBootstrap.of(GROUPS[:60], 500, 0)
    below = np.random.default_rng(3).uniform(1, 2, 60)
    found = interval_of(ratio(bootstrap, 0.7 * below, below))
    assert found is not None
    assert [found.value, found.low, found.high] == pytest.approx([0.7, 0.7, 0.7])


def test_a_ratio_over_nothing_is_undefined() -> None:
    assert ratio(ClusterBootstrap.of(GROUPS[:5], 100, 0), np.ones(5), np.zeros(5)) is None
    assert interval_of(None) is None


@pytest.mark.parametrize(
    ("centre", "equivalent"), [(1.0, True), (0.97, True), (0.88, False), (1.2, False), (0.9, False)]
)
def test_equivalence_holds_only_well_within_the_margin(centre: float, equivalent: bool) -> None:
    draws = np.random.default_rng(4).normal(centre, 0.02, 5000)
    assert (equivalence_p(draws) < 0.05) is equivalent


def test_the_equivalence_p_is_the_larger_share_beyond_a_bound() -> None:
    draws = np.array([0.85, 1.0, 1.0, 1.0, 1.2, 1.3, 1.0, 1.0, 1.0])
    assert equivalence_p(draws) == pytest.approx((1 + 2) / (1 + 9))


def test_percentiles_cut_the_central_mass() -> None:
    assert percentiles(np.linspace(0, 1, 1001)) == pytest.approx((0.025, 0.975))


def test_a_monte_carlo_p_is_never_zero() -> None:
    assert count_p(0, 999) == 0.001
    assert count_p(999, 999) == 1.0


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_stays_in_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_preservation_is_scaled_between_chance_and_one() -> None:
    assert normalise(0.6, 0.2) == pytest.approx(0.5)
    assert normalise(0.2, 0.2) == 0
    assert normalise(1.0, 1.0) is None


def test_all_draws_are_used_without_a_stop() -> None:
    scores = np.random.default_rng(5).uniform(size=99)
    found = monte_carlo(lambda first, count: scores[first : first + count].tolist(), 0.5, 99, together=10)
    assert found.scores == tuple(scores)
    assert found.p == (1 + (scores >= 0.5).sum()) / 100
    assert (found.mean, found.q95) == (scores.mean(), np.quantile(scores, 0.95))
    assert not found.stopped_early


def test_a_sequential_test_ends_at_its_last_exceedance() -> None:
    scores = [0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    found = monte_carlo(lambda first, count: scores[first : first + count], 0.5, 7, together=2, stop_after=2)
    assert found.scores == (0.0, 1.0, 0.0, 0.0, 1.0)
    assert found.p == 2 / 5
    assert found.stopped_early


def test_a_sequential_test_without_exceedances_uses_its_maximum() -> None:
    found = monte_carlo(lambda _, count: [0.0] * count, 0.5, 19, together=4, stop_after=2)
    assert (len(found.scores), found.p) == (19, 0.05)


def test_a_tie_counts_against_the_circuit() -> None:
    found = monte_carlo(lambda _, count: [0.5 - 1e-8] * count, 0.5, 9, together=9)
    assert found.p == 1.0
