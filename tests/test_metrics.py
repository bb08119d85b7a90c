"""Measures of ranked lists against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from nightmarket import metrics

LISTS = np.array([[4, 2, 7], [1, 3, -1], [5, 6, 0]], np.int32)
TARGETS = np.array([2, 9, 5], np.int32)
RANKS = np.array([1, -1, 0])


def test_a_rank_is_the_place_of_the_target_and_minus_one_without_it() -> None:
    assert metrics.ranks_of(LISTS, TARGETS).tolist() == [1, -1, 0]


def test_lists_without_places_hold_no_target() -> None:
    assert metrics.ranks_of(np.zeros((2, 0), np.int32), np.array([1, 2], np.int32)).tolist() == [-1, -1]


def test_ndcg_is_one_for_the_first_place_and_falls_with_the_logarithm() -> None:
    # second place: 1 / log2(3); third: 1 / log2(4)
    assert metrics.ndcg(np.array([0, 1, 2, -1]), 10).tolist() == pytest.approx(
        [1.0, 0.6309297535714575, 0.5, 0.0]
    )


def test_places_beyond_k_count_nothing() -> None:
    assert metrics.ndcg(np.array([0, 1, 2]), 2).tolist() == pytest.approx([1.0, 0.6309297535714575, 0.0])
    assert metrics.recall(np.array([0, 1, 2]), 2).tolist() == [1.0, 1.0, 0.0]


def test_recall_is_the_share_of_lists_that_hold_the_target() -> None:
    assert metrics.recall(RANKS, 1).mean() == pytest.approx(1 / 3)
    assert metrics.recall(RANKS, 2).mean() == pytest.approx(2 / 3)


def test_reciprocal_rank_is_one_over_the_place() -> None:
    assert metrics.reciprocal_rank(np.array([0, 1, 3, -1])).tolist() == [1.0, 0.5, 0.25, 0.0]


def test_coverage_counts_each_listed_product_once() -> None:
    assert metrics.coverage(LISTS, 16) == 0.5  # 0 to 7 of 16
    assert metrics.coverage(LISTS, 0) == 0.0


def test_an_interval_around_equal_models_is_zero() -> None:
    same = np.array([0.5, 0.0, 1.0])
    assert metrics.paired_interval(same, same, seed=1) == (0.0, 0.0, 0.0, 3)


def test_a_constant_advantage_is_certain_however_hard_the_examples() -> None:
    theirs = np.array([0.0, 0.3, 0.9, 0.1])
    found = metrics.paired_interval(theirs + 0.1, theirs, seed=1)
    assert found == pytest.approx((0.1, 0.1, 0.1, 4))


def test_an_advantage_on_one_example_of_many_is_not_certain() -> None:
    ours = np.zeros(40)
    ours[7] = 1.0
    found = metrics.paired_interval(ours, np.zeros(40), seed=1)
    assert found.mean == pytest.approx(0.025)
    assert found.low == 0.0 and 0.05 <= found.high <= 0.1


def test_the_interval_agrees_with_the_normal_one_on_many_examples() -> None:
    difference = np.random.default_rng(4).normal(0.01, 0.2, 10_000)
    found = metrics.paired_interval(difference, np.zeros(10_000), seed=1)
    error = difference.std() / 100
    assert found.low == pytest.approx(difference.mean() - 1.96 * error, abs=0.0006)
    assert found.high == pytest.approx(difference.mean() + 1.96 * error, abs=0.0006)


def test_the_same_seed_gives_the_same_interval() -> None:
    ours = np.random.default_rng(0).random(500)
    theirs = np.random.default_rng(1).random(500)
    assert metrics.paired_interval(ours, theirs, seed=3) == metrics.paired_interval(ours, theirs, seed=3)


def test_no_examples_say_nothing() -> None:
    found = metrics.paired_interval(np.zeros(0), np.zeros(0), seed=1)
    assert found == (0.0, -np.inf, np.inf, 0)


BUYERS = np.array([8, 4, 2, 1, 0])  # of 8 customers
CATEGORIES = np.array([0, 0, 1, 1, -1])


def test_novelty_is_the_mean_of_bits_over_listed_places() -> None:
    # shares 1, 1/2, 1/4 and 1/8 are 0, 1, 2 and 3 bits; a product nobody bought counts as one buyer
    assert metrics.novelty(np.array([[0, 1], [2, 3]], np.int32), BUYERS, 8) == 1.5
    assert metrics.novelty(np.array([[4, -1]], np.int32), BUYERS, 8) == 3.0
    assert metrics.novelty(np.array([[0]], np.int32), BUYERS, 8) == 0.0
    assert metrics.novelty(np.full((2, 3), -1, np.int32), BUYERS, 8) == 0.0
    assert metrics.novelty(np.zeros((0, 3), np.int32), np.zeros(0, np.int64), 0) == 0.0


def test_average_popularity_is_the_mean_of_buyers_a_row_and_no_number_without_products() -> None:
    found = metrics.average_popularity(np.array([[0, 1], [3, -1], [-1, -1]], np.int32), BUYERS)
    assert found.tolist()[:2] == [6.0, 1.0] and np.isnan(found[2])
    assert np.isnan(metrics.average_popularity(np.array([[-1]], np.int32), np.zeros(0, np.int64))).all()


def test_popularity_lift_is_how_much_more_popular_the_lists_are_than_the_histories() -> None:
    ours, own = np.array([6.0, 2.0, np.nan, 9.0]), np.array([2.0, 2.0, 5.0, np.nan])
    assert metrics.popularity_lift(ours, own) == 1.0  # 4 against 2; the others miss a side
    assert metrics.popularity_lift(own, own) == 0.0
    assert metrics.popularity_lift(np.zeros(0), np.zeros(0)) == 0.0


def test_gini_is_zero_for_equal_exposure_and_nears_one_for_one_product() -> None:
    assert metrics.gini(np.array([3, 3, 3, 3])) == 0.0
    assert metrics.gini(np.array([0, 0, 12, 0])) == 0.75
    assert metrics.gini(np.array([1, 3])) == 0.25
    assert metrics.gini(np.zeros(4)) == metrics.gini(np.zeros(0)) == 0.0


def test_diversity_is_the_share_of_pairs_of_different_categories() -> None:
    # 0, 1 | 2: two of three pairs differ; 0, 1: none; the product without a category does not count
    assert metrics.diversity(np.array([[0, 1, 2], [0, 1, 4]], np.int32), CATEGORIES) == pytest.approx(1 / 3)
    assert metrics.diversity(np.array([[0, 2]], np.int32), CATEGORIES) == 1.0
    assert metrics.diversity(np.array([[0, -1]], np.int32), CATEGORIES) == 0.0
    assert metrics.diversity(np.array([[0, 2]], np.int32), np.full(5, -1)) == 0.0
    assert metrics.diversity(np.zeros((0, 2), np.int32), CATEGORIES) == 0.0


def test_the_mix_of_categories_costs_what_the_history_has_and_the_list_has_not() -> None:
    half = np.array([[0, 2]], np.int32)
    assert metrics.mix_divergence(np.array([[1, 3]], np.int32), half, CATEGORIES) == 0.0
    # all of the list is of category 0: 1/2 ln(0.5 / (0.99 + 0.005)) + 1/2 ln(0.5 / 0.005)
    found = metrics.mix_divergence(np.array([[0, 1]], np.int32), half, CATEGORIES)
    assert found == pytest.approx(0.5 * np.log(0.5 / 0.995) + 0.5 * np.log(100))
    nothing = np.array([[2, 3]], np.int32)
    assert metrics.mix_divergence(nothing, np.array([[0, 1]], np.int32), CATEGORIES) == pytest.approx(
        np.log(100)
    )
    # a row without categories on one side says nothing
    both, lists = np.array([[0, 2], [4, -1]], np.int32), np.array([[1, 3], [0, 1]], np.int32)
    assert metrics.mix_divergence(lists, both, CATEGORIES) == 0.0
    assert metrics.mix_divergence(np.zeros((0, 1), np.int32), np.zeros((0, 1), np.int32), CATEGORIES) == 0.0


def test_calibration_is_the_distance_of_predictions_from_what_happened() -> None:
    predicted = np.array([0.1, 0.1, 0.5, 0.5])
    assert metrics.calibration_bins(predicted, np.array([0, 0, 1, 0]), bins=2) == [
        (0.1, 0.0, 2), (0.5, 0.5, 2),
    ]  # fmt: skip
    assert metrics.calibration_error(predicted, np.array([0, 0, 1, 0]), bins=2) == pytest.approx(0.05)
    assert metrics.calibration_error(np.array([0.0, 1.0]), np.array([0, 1])) == 0.0
    assert metrics.calibration_error(np.array([1.0, 0.0]), np.array([0, 1])) == 1.0
    assert metrics.calibration_error(np.zeros(0), np.zeros(0)) == 0.0


def test_equal_predictions_share_a_bin_whatever_their_order() -> None:
    outcomes = np.array([1, 1, 0, 0, 0, 0, 0, 0])
    assert metrics.calibration_bins(np.full(8, 0.25), outcomes, bins=4) == [(0.25, 0.25, 8)]
    assert metrics.calibration_error(np.full(8, 0.25), outcomes[::-1], bins=4) == 0.0


@given(
    hnp.arrays(np.float64, st.integers(1, 60), elements=st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0])),
    st.integers(1, 12), st.integers(0, 2**16),
)  # fmt: skip
def test_bins_hold_every_prediction_once_in_order(
    predicted: NDArray[np.float64], bins: int, seed: int
) -> None:
    outcomes = np.random.default_rng(seed).integers(2, size=len(predicted))
    found = metrics.calibration_bins(predicted, outcomes, bins=bins)
    assert sum(b.n for b in found) == len(predicted) and len(found) <= bins and all(b.n for b in found)
    assert [b.predicted for b in found] == sorted(b.predicted for b in found)
    assert sum(b.observed * b.n for b in found) == pytest.approx(outcomes.sum())
    assert 0 <= metrics.calibration_error(predicted, outcomes, bins=bins) <= 1


def test_a_rank_among_ties_is_their_middle() -> None:
    scores = np.array([[3.0, 1.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0], [np.nan, 0.0, 0.0, 5.0]])
    assert metrics.tied_rank(scores, np.array([0, 0, 3])).tolist() == [0.0, 1.5, 0.0]
    assert metrics.tied_rank(scores, np.array([1, 3, 0])).tolist() == [2.5, 1.5, 3.0]
    assert metrics.tied_rank(np.zeros((0, 4)), np.zeros(0, np.int64)).tolist() == []


def test_overlap_counts_common_products_whatever_their_order() -> None:
    ours = np.array([[1, 2, 3], [1, 2, -1], [4, 5, 6], [-1, -1, -1]], np.int32)
    theirs = np.array([[3, 2, 1], [1, 7, 8], [7, 8, 9], [-1, -1, -1]], np.int32)
    assert metrics.overlap(ours, theirs).tolist() == pytest.approx([1.0, 1 / 3, 0.0, 1.0])


def test_rank_biased_overlap_weighs_the_first_places_most() -> None:
    ours = np.array([[1, 2], [1, 2], [1, 2], [1, -1], [-1, -1], [-1, -1]], np.int32)
    theirs = np.array([[1, 2], [2, 1], [3, 4], [1, -1], [-1, -1], [5, -1]], np.int32)
    # the swapped pair agrees on nothing at depth 1 (1/2), on all at depth 2 (1/4) and, as that goes on, below (1/4)
    assert metrics.rank_biased_overlap(ours, theirs, persistence=0.5).tolist() == [
        1.0, 0.5, 0.0, 1.0, 1.0, 0.0,
    ]  # fmt: skip
    assert metrics.rank_biased_overlap(ours[:, :0], theirs[:, :0]).tolist() == [1.0] * 6


@given(st.permutations(range(8)), st.permutations(range(8)))
def test_rank_biased_overlap_is_the_same_both_ways(ours: list[int], theirs: list[int]) -> None:
    a, b = np.array([ours[:5]], np.int32), np.array([theirs[:5]], np.int32)
    found = metrics.rank_biased_overlap(a, b)[0]
    assert found == metrics.rank_biased_overlap(b, a)[0] and 0 <= found <= 1


def test_a_score_promises_what_such_scores_kept_and_a_greater_one_never_less() -> None:
    scores, outcomes = np.array([1.0, 1, 2, 2, 3, 3, 4, 4]), np.array([0, 0, 1, 1, 0, 1, 1, 1])
    # 2 kept more than 3 did: together they kept 3 of 4
    found = metrics.probabilities_of(scores, outcomes, np.array([0.0, 1.0, 2.0, 3.0, 4.0, 9.0, 1.5]))
    assert found.tolist() == pytest.approx([0.0, 0.0, 0.75, 0.75, 1.0, 1.0, 0.375])
    assert metrics.probabilities_of(np.zeros(0), np.zeros(0), np.array([1.0])).tolist() == [0.0]


def test_category_measures_are_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    categories = random.integers(-1, 6, 40)
    lists, own = (random.integers(-1, 40, (50, n)).astype(np.int32) for n in (10, 7))
    whole = metrics.diversity(lists, categories), metrics.mix_divergence(lists, own, categories)
    monkeypatch.setattr(metrics, "_COUNTS_AT_ONCE", 20)
    assert (metrics.diversity(lists, categories), metrics.mix_divergence(lists, own, categories)) == whole
