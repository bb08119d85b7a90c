"""Top-k by inner product against sorting all scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nightmarket.errors import ModelRefused
from nightmarket.ranking import topk
from nightmarket.ranking.topk import top_by_product


def whole(
    seed: int, rows: int, items: int, *, size: int = 8
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of small whole numbers: every inner product is exact in fp32, and many are equal."""
    random = np.random.default_rng(seed)
    return (
        random.integers(-3, 4, (rows, size)).astype(np.float32),
        random.integers(-3, 4, (items, size)).astype(np.float32),
    )


def by_sorting(
    queries: NDArray[np.float32], items: NDArray[np.float32], k: int, *, seen: Any = None, allowed: Any = None
) -> tuple[list[list[int]], list[list[float]]]:
    """Brute force: all scores in fp64, what may not be listed at minus infinity, sorted by score and code."""
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    if seen is not None:
        scores[np.repeat(np.arange(len(queries)), np.diff(seen[0])), seen[1]] = -np.inf
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    products, values = [], []
    for row in scores:
        order = [c for c in np.lexsort((np.arange(len(row)), -row))[:k].tolist() if np.isfinite(row[c])]
        products.append(order + [-1] * (k - len(order)))
        values.append(row[order].tolist() + [0.0] * (k - len(order)))
    return products, values


def drawn(seed: int, rows: int, items: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    random = np.random.default_rng(seed)
    lists = [random.choice(items, random.integers(0, most + 1), replace=False) for _ in range(rows)]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in lists])])
    return offsets.astype(np.int64), np.concatenate(lists).astype(np.int32)


@pytest.mark.parametrize("items", [1, 7, 100, 2047, 2048, 5003, 30_000])
def test_lists_are_those_of_sorting_all_scores_equal_ones_by_code(items: int) -> None:
    queries, vectors = whole(1, 40, items)
    lists = top_by_product(queries, vectors, 20)
    assert (lists.products.tolist(), lists.scores.tolist()) == by_sorting(queries, vectors, 20)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_was_seen_or_is_not_allowed_is_left_out_on_any_number_of_threads(threads: int) -> None:
    queries, vectors = whole(2, 300, 6001)
    seen, allowed = drawn(3, 300, 6001, 40), np.random.default_rng(4).random(6001) < 0.7
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        lists = top_by_product(queries, vectors, 30, seen=seen, allowed=allowed)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert (lists.products.tolist(), lists.scores.tolist()) == by_sorting(
        queries, vectors, 30, seen=seen, allowed=allowed
    )


def test_long_and_short_vectors_are_scanned_as_far_as_needed_and_no_list_suffers() -> None:
    random = np.random.default_rng(5)
    lengths = np.exp(random.normal(0, 1.5, (20_000, 1)))
    vectors = np.rint(random.normal(0, 4, (20_000, 8)) * lengths).astype(np.float32)
    queries = random.integers(-3, 4, (80, 8)).astype(np.float32)
    lists = top_by_product(queries, vectors, 25)
    assert (lists.products.tolist(), lists.scores.tolist()) == by_sorting(queries, vectors, 25)


def test_customers_whose_guess_was_too_high_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []
    scan = topk.Shelf._scan

    def spied(shelf: topk.Shelf, queries: Any, *args: Any, sure: bool, **named: Any) -> Any:
        asked.append((len(queries), sure))
        return scan(shelf, queries, *args, sure=sure, **named)

    monkeypatch.setattr(topk.Shelf, "_scan", spied)
    # Vectors of one length; the sample happens to hold all that the first customer likes.
    vectors = np.tile(np.array([[0, 5]], np.float32), (20_000, 1))
    shelf = topk.Shelf.of(vectors)
    vectors[shelf.codes[: shelf.sample : 50]] = [3, 4]
    queries = np.eye(2, dtype=np.float32)
    lists = top_by_product(queries, vectors, 150)
    assert asked == [(2, False), (1, True)]
    assert lists.products.tolist() == by_sorting(queries, vectors, 150)[0]


def test_scores_that_are_all_equal_give_the_lowest_codes_in_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topk, "MOST_KEPT", 50_000)
    lists = top_by_product(np.ones((9, 4), np.float32), np.ones((40_000, 4), np.float32), 5)
    assert lists.products.tolist() == [[0, 1, 2, 3, 4]] * 9
    assert lists.scores.tolist() == [[4.0] * 5] * 9


def test_a_customer_who_has_seen_nearly_everything_gets_the_rest() -> None:
    queries, vectors = whole(7, 3, 20_000)
    rest = topk.Shelf.of(vectors).codes[[1, 4000, 19_000]]  # two of the sample, one of the others
    codes = np.setdiff1d(np.arange(20_000), rest)
    seen = (np.array([0, len(codes), len(codes), len(codes)]), codes.astype(np.int32))
    lists = top_by_product(queries, vectors, 10, seen=seen)
    assert (lists.products.tolist(), lists.scores.tolist()) == by_sorting(queries, vectors, 10, seen=seen)
    assert set(lists.products[0].tolist()) == {*rest.tolist(), -1}


def test_nothing_to_list_or_nobody_to_list_for_gives_empty_lists() -> None:
    queries, vectors = whole(8, 3, 50)
    assert (
        top_by_product(queries, vectors, 2, allowed=np.zeros(50, np.bool_)).products.tolist()
        == [[-1, -1]] * 3
    )
    assert top_by_product(queries, vectors[:0], 2).products.tolist() == [[-1, -1]] * 3
    assert top_by_product(queries[:0], vectors, 2).products.shape == (0, 2)
    assert top_by_product(queries, vectors, 0).products.shape == (3, 0)


def test_scores_of_real_numbers_are_those_of_fp64_to_rounding() -> None:
    random = np.random.default_rng(9)
    queries = random.normal(size=(60, 64)).astype(np.float32)
    vectors = random.normal(size=(20_000, 64)).astype(np.float32)
    lists = top_by_product(queries, vectors, 100)
    exact = queries.astype(np.float64) @ vectors.astype(np.float64).T
    best = -np.sort(-exact, axis=1)[:, :100]
    assert np.abs(lists.scores - best).max() < 1e-4
    assert np.abs(np.take_along_axis(exact, lists.products.astype(np.int64), 1) - best).max() < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.full((2, 4), np.nan, np.float32)}, "not finite"),
        ({"items": np.zeros((5, 3), np.float32)}, "do not go with"),
        ({"allowed": np.ones(4, np.bool_)}, "4 flags for 5"),
        ({"seen": (np.array([0, 1]), np.array([0], np.int32))}, "seen"),
        ({"seen": (np.array([0, 1, 1]), np.array([5], np.int32))}, "seen"),
    ],
)
def test_vectors_and_lists_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"queries": np.zeros((2, 4), np.float32), "items": np.zeros((5, 4), np.float32), "k": 2} | change
    with pytest.raises(ModelRefused, match=message):
        top_by_product(**given)


def test_the_order_of_scores_survives_being_whole_numbers() -> None:
    scores = np.array([0.0, -0.0, 1.5, -1.5, 3e38, -3e38, 1e-42, -1e-42], np.float32)
    codes = np.arange(8, dtype=np.int32)
    keys = topk.ordered(scores, codes)
    assert np.argsort(keys).tolist() == [4, 2, 6, 0, 1, 7, 3, 5]
    back, values = topk.unordered(keys)
    assert back.tolist() == codes.tolist() and values.tolist() == scores.tolist()
