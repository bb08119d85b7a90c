"""Exploration: propensities are the frequencies, draws depend on who and what alone, estimates by them are unbiased."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nightmarket.merchandising import RuleBook, Slots
from nightmarket.merchandising.explore import draws, hashes
from tests.merchandising.shop import IDS, applied, book, candidates, listed

ROWS = 20_000
EPSILON = 0.2


def many(rules: RuleBook, row: list[int], k: int, **more: object) -> Slots:
    """The same list of many customers: as many draws of one policy."""
    return applied(rules, candidates(*[row] * ROWS), k, **{"exploration": EPSILON, **more})


def frequencies_are_the_propensities(slots: Slots) -> int:
    """Compares each (slot, product) with what its rows say; returns how many pairs there were."""
    pairs = 0
    rows = len(slots)
    for slot in range(slots.products.shape[1]):
        for product in np.unique(slots.products[:, slot]).tolist():
            here = slots.products[:, slot] == product
            told = np.unique(slots.propensity[here, slot])
            assert len(told) == 1, (slot, product, told)
            error = 4.5 * np.sqrt(told[0] * (1 - told[0]) / rows)
            assert abs(here.mean() - told[0]) <= error, (slot, product, here.mean(), told[0])
            pairs += 1
    return pairs


def test_frequencies_over_customers_are_the_stated_propensities() -> None:
    slots = many(RuleBook.empty(IDS), [0, 1, 2, 3, 4, 5, 6, 7, 8, 10], 4)
    assert frequencies_are_the_propensities(slots) == 4 * (1 + 6)
    assert set(np.unique(slots.propensity).tolist()) == {1 - EPSILON, EPSILON / 6}


def test_frequencies_over_seeds_are_the_stated_propensities() -> None:
    found = Counter[tuple[int, int]]()
    seeds = 800
    for seed in range(seeds):
        found.update(
            enumerate(
                listed(
                    applied(
                        RuleBook.empty(IDS), candidates([0, 1, 2, 3, 4]), 2, seed=seed, exploration=EPSILON
                    )
                )
            )
        )
    for (slot, product), times in found.items():
        expected = 1 - EPSILON if product == slot else EPSILON / 3
        assert abs(times / seeds - expected) < 4.5 * np.sqrt(expected * (1 - expected) / seeds)
    assert len(found) == 8


def test_with_rules_what_is_held_never_explores_and_the_rest_is_as_stated() -> None:
    rules = book(
        {"action": "pin", "product_id": "p8", "value": 2}, {"action": "promote", "category": "Garden", "value": 0.4},
        {"action": "cap", "per": "brand", "value": 3}, {"action": "filter", "product_id": "p3"},
    )  # fmt: skip
    slots = many(rules, [0, 3, 1, 2, 4, 5, 6, 7, 10], 5)
    assert not slots.is_exploration[:, 1].any() and (slots.propensity[:, 1] == 1).all()
    # The promotion's second slot is p10, the last of the regular list; it stays where it is.
    assert (slots.products[:, 4] == 10).all() and (slots.propensity[:, 4] == 1).all()
    assert frequencies_are_the_propensities(slots) > 8
    assert slots.is_exploration.any() and not (slots.products == 3).any()
    brands = np.where(slots.products >= 0, slots.products % 3, -1)
    assert max((brands == brand).sum(axis=1).max() for brand in range(3)) <= 3


def test_only_the_last_slots_explore_when_the_pool_is_small() -> None:
    slots = many(RuleBook.empty(IDS), [0, 1, 2, 3, 4], 4)
    assert slots.is_exploration.any(axis=0).tolist() == [False, False, False, True]
    assert frequencies_are_the_propensities(slots) == 5
    assert not many(RuleBook.empty(IDS), [0, 1, 2, 3], 4).is_exploration.any()


def test_a_slot_of_exploration_says_where_its_product_stood() -> None:
    slots = many(RuleBook.empty(IDS), [0, 1, 2, 3, 4], 2)
    drawn = slots.is_exploration
    assert drawn.mean() == pytest.approx(EPSILON, abs=0.01)
    assert (slots.rank_before[drawn] == slots.products[drawn] + 1).all()
    assert (slots.rank_before[drawn] > 2).all() and (slots.sources[drawn] == 0).all()


def test_draws_depend_on_seed_customer_placement_and_candidates_and_on_nothing_else() -> None:
    rows = [[i % 12, (i + 1) % 12, (i + 2) % 12, (i + 3) % 12, (i + 5) % 12] for i in range(200)]
    ids = [f"customer {i}" for i in range(200)]
    empty = RuleBook.empty(IDS)

    def told(order: list[int], book: RuleBook = empty, **more: object) -> list[list[int]]:
        slots = applied(book, candidates(*[rows[i] for i in order]), 2, customer_ids=[ids[i] for i in order], exploration=0.3, **more)  # fmt: skip
        return [listed(slots, order.index(i)) for i in range(200) if i in order]

    straight = told(list(range(200)))
    assert told(list(range(199, -1, -1))) == straight
    assert told(list(range(50))) == straight[:50]
    # Another catalogue around the same products gives the same draws by id.
    shifted = RuleBook.empty(["new", *IDS])
    moved = applied(shifted, candidates(*[[p + 1 for p in row] for row in rows]), 2, customer_ids=ids, exploration=0.3)  # fmt: skip
    assert [[p - 1 for p in listed(moved, i)] for i in range(200)] == straight
    assert told(list(range(200)), seed=8) != straight
    assert told(list(range(200)), placement="email") != straight


def test_an_estimate_weighted_by_propensities_is_unbiased_where_a_naive_one_is_not() -> None:
    # A click world: place and product decide. What would the clicks at place 2 be if p4 always stood there?
    rng = np.random.default_rng(3)
    appeal = np.array([0.5, 0.4, 0.3, 0.05, 0.6])
    slots = many(RuleBook.empty(IDS), [0, 1, 2, 3, 4], 2)
    clicks = rng.random((ROWS, 2)) < appeal[slots.products] * np.array([1.0, 0.5])
    for product in (2, 3, 4):
        here = slots.products[:, 1] == product
        estimate = float((clicks[:, 1] * here / slots.propensity[:, 1]).mean())
        truth = appeal[product] * 0.5
        assert estimate == pytest.approx(truth, abs=4.5 * np.sqrt(truth / (EPSILON / 3) / ROWS))
    assert clicks[:, 1].mean() < 0.25  # the log itself speaks of p1 at place 2


def test_hashes_tell_texts_apart_whatever_stands_beside_them() -> None:
    texts = ["", "a", "aa", "aaaaaaaa", "aaaaaaab", "客户", "a" * 150, "a" * 151, "b"]
    together = hashes(texts).tolist()
    assert len(set(together)) == 9
    assert [hashes([text]).tolist()[0] for text in texts] == together
    assert hashes([]).shape == (0,)
    numbers = draws(hashes([f"c{i}" for i in range(5000)]), 8, stream=1)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert numbers.mean(axis=0) == pytest.approx(np.full(8, 0.5), abs=0.02)
    assert abs(np.corrcoef(numbers.T) - np.eye(8)).max() < 0.07
