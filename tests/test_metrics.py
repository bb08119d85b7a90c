"""Measures of ranked lists against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

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
