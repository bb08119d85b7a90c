"""What rules do to lists, action by action, at their edges, and against an arrangement written out list by list."""

from __future__ import annotations

import time
from datetime import date
from typing import Any

import numpy as np
import pytest

from nightmarket.errors import ModelRefused, RuleRefused
from nightmarket.merchandising import Candidates, RuleBook
from tests.merchandising.one_by_one import arranged
from tests.merchandising.shop import BRANDS, DAY, IDS, applied, book, candidates, listed, shown

ALL = list(range(12))
# Brands go round (p0 Alder, p1 Brook, p2 Cedar, p3 Alder, ...), shelves in fours; p9 is sold out, p11 has no brand.


def fired(rules: RuleBook, slots: Any, row: int = 0) -> list[list[str]]:
    return [rules.names(int(bits)) for bits in slots.rules[row]]


def test_without_rules_lists_are_the_candidates_as_they_are() -> None:
    slots = applied(RuleBook.empty(IDS), candidates([3, 1, 2, 0], [5, 5, -1, 4]), 3)
    assert listed(slots) == [3, 1, 2] and listed(slots, 1) == [5, 4, -1]
    assert slots.scores[0].tolist() == pytest.approx([1.0, 0.7, 0.4])
    assert slots.rank_before.tolist() == [[1, 2, 3], [1, 3, 0]]
    assert slots.sources.tolist() == [[0, 0, 0], [0, 0, -1]]
    assert not slots.rules.any() and not slots.is_exploration.any() and (slots.propensity == 1).all()


def test_a_filter_leaves_products_out_and_marks_what_moved_up() -> None:
    rules = book({"action": "filter", "brand": "Brook"})
    slots = applied(rules, candidates([0, 1, 2, 4, 3]), 3)
    assert listed(slots) == [0, 2, 3]
    assert fired(rules, slots) == [[], ["r0"], ["r0"]]
    assert slots.rank_before[0].tolist() == [1, 3, 5]


def test_a_rule_that_removes_everything_a_list_has_leaves_it_empty() -> None:
    slots = applied(book({"action": "filter", "brand": "Brook"}), candidates([1, 4], [1, 0]), 2)
    assert listed(slots) == [-1, -1] and listed(slots, 1) == [0, -1]
    assert slots.propensity.tolist() == [[1, 1], [1, 1]]


def test_boost_and_bury_multiply_scores_and_the_slots_still_say_what_the_model_said() -> None:
    rules = book({"action": "boost", "brand": "Cedar", "value": 3}, {"action": "bury", "product_id": "p0", "value": 0.1})  # fmt: skip
    slots = applied(rules, candidates([0, 1, 2], scores=[[0.9, 0.6, 0.5]]), 3)
    assert listed(slots) == [2, 1, 0]
    assert slots.scores[0].tolist() == pytest.approx([0.5, 0.6, 0.9])
    assert fired(rules, slots) == [["r0"], [], ["r1"]]


def test_a_boost_lifts_scores_below_zero_too() -> None:
    slots = applied(
        book({"action": "boost", "brand": "Cedar", "value": 3}),
        candidates([0, 1, 2], scores=[[-1, -2, -4.5]]),
        3,
    )
    assert listed(slots) == [0, 2, 1]


def test_equal_scores_keep_their_order() -> None:
    slots = applied(
        book({"action": "boost", "brand": "Cedar", "value": 2}),
        candidates([4, 3, 2, 1], scores=[[1, 1, 0.5, 0.4]]),
        4,
    )
    assert listed(slots) == [4, 3, 2, 1]


def test_a_fallback_on_another_scale_is_not_taken_for_better_than_the_model() -> None:
    # Two scores of a model, then shares of the most popular product: a boost of the second must not lift the fallback.
    rules = book({"action": "boost", "product_id": "p1", "value": 1.5})
    slots = applied(rules, candidates([0, 1, 2, 3], scores=[[0.05, 0.04, 0.9, 0.6]]), 4)
    assert listed(slots) == [1, 0, 2, 3]
    lifted = applied(book({"action": "boost", "product_id": "p3", "value": 1.6}), candidates([0, 1, 2, 3], scores=[[0.05, 0.04, 0.9, 0.6]]), 4)  # fmt: skip
    assert listed(lifted) == [0, 3, 1, 2]  # 0.04 · 0.6/0.9 · 1.6 lies above 0.04


def test_a_cap_counts_each_brand_and_passes_over_what_is_too_many() -> None:
    rules = book({"action": "cap", "per": "brand", "value": 1})
    slots = applied(rules, candidates([0, 3, 6, 1, 11, 2]), 4)
    assert listed(slots) == [0, 1, 11, 2]
    assert fired(rules, slots) == [[], ["r0"], ["r0"], ["r0"]]
    no_brand_is_no_group = applied(rules, candidates([11, 0, 3]), 3)
    assert listed(no_brand_is_no_group) == [11, 0, -1]


def test_a_cap_of_a_selection_counts_it_as_one() -> None:
    rules = book({"action": "cap", "category": "Kitchen", "value": 2})
    assert listed(applied(rules, candidates([0, 4, 5, 8, 10]), 4)) == [0, 4, 8, 10]


def test_a_pin_takes_its_place_whether_it_was_a_candidate_or_not() -> None:
    rules = book(
        {"action": "pin", "product_id": "p2", "value": 1}, {"action": "pin", "product_id": "p8", "value": 3}
    )
    slots = applied(rules, candidates([0, 1, 2, 3]), 4)
    assert listed(slots) == [2, 0, 8, 1]
    assert slots.rank_before[0].tolist() == [3, 1, 0, 2]
    assert slots.sources[0].tolist() == [0, 0, -1, 0] and slots.scores[0, 2] == 0
    assert fired(rules, slots) == [["r0"], [], ["r1"], []]


def test_the_pin_of_higher_priority_has_the_place_and_the_other_goes_without() -> None:
    rules = book(
        {"action": "pin", "product_id": "p8", "value": 1},
        {"action": "pin", "product_id": "p10", "value": 1, "priority": 1},
    )
    assert listed(applied(rules, candidates([0, 1]), 2)) == [10, 0]


def test_a_pin_behind_the_end_of_a_short_list_closes_up() -> None:
    rules = book({"action": "pin", "product_id": "p8", "value": 5})
    assert listed(applied(rules, candidates([0, 1]), 6)) == [0, 1, 8, -1, -1, -1]
    assert listed(applied(rules, candidates([0, 1]), 4)) == [0, 1, -1, -1]


def test_nothing_that_is_sold_out_or_seen_is_put_in() -> None:
    rules = book(
        {"action": "pin", "product_id": "p9", "value": 1}, {"action": "pin", "product_id": "p8", "value": 2},
        {"action": "promote", "product_id": "p10", "value": 0.5},
    )  # fmt: skip
    seen = (np.array([0, 2, 2]), np.array([8, 10], np.int32))
    slots = applied(rules, candidates([0, 1, 2], [0, 1, 2]), 2, seen=seen)
    assert listed(slots) == [0, 1] and listed(slots, 1) == [10, 8]


def test_a_promotion_gets_its_share_from_further_down_and_then_from_the_catalogue() -> None:
    rules = book({"action": "promote", "category": "Garden", "value": 0.5})
    slots = applied(rules, candidates([0, 1, 2, 3, 11, 4]), 4)
    assert listed(slots) == [0, 1, 11, 8]  # p9 is sold out
    assert fired(rules, slots) == [[], [], ["r0"], ["r0"]]
    assert slots.rank_before[0].tolist() == [1, 2, 5, 0]
    assert listed(applied(rules, candidates([]), 4)) == [8, 10, -1, -1]


def test_a_promotion_that_has_its_share_anyway_changes_nothing() -> None:
    rules = book({"action": "promote", "category": "Garden", "value": 0.5})
    slots = applied(rules, candidates([8, 1, 10, 3, 11]), 4)
    assert listed(slots) == [8, 1, 10, 3] and not slots.rules.any()


def test_a_promotion_brings_in_at_least_its_share_of_any_length() -> None:
    rules = book({"action": "promote", "category": "Garden", "value": 0.05})
    for k in (1, 3, 7):
        assert 8 in listed(applied(rules, candidates([0, 1, 2, 3, 4, 5, 6, 7]), k))
    assert sum(p >= 8 for p in listed(applied(rules, candidates([0, 1, 2, 3, 4, 5, 6, 7]), 7))) == 1


def test_caps_hold_against_pins_and_promotions_of_no_higher_priority() -> None:
    cap = {"action": "cap", "per": "brand", "value": 1, "priority": 1}
    pins = [{"action": "pin", "product_id": p, "value": i + 1} for i, p in enumerate(("p0", "p3"))]
    assert listed(applied(book(cap, *pins), candidates([6, 1]), 3)) == [0, 1, -1]
    strong = [{**pin, "priority": 2} for pin in pins]
    assert listed(applied(book(cap, *strong), candidates([6, 1]), 3)) == [0, 3, 1]
    promote = {"action": "promote", "brand": "Alder", "value": 0.5}
    assert listed(applied(book(cap, promote), candidates([0, 3, 1, 2, 6]), 4)) == [0, 1, 2, -1]


def test_showings_count_within_the_days_of_the_rule_and_where_it_holds() -> None:
    seen_often = shown(
        ("c0", "p0", "home", date(2026, 11, 21), 2), ("c0", "p1", "home", date(2026, 11, 14), 3),
        ("c0", "p2", "home", date(2026, 11, 15), 3), ("c0", "p3", "email", date(2026, 11, 21), 3),
        ("c0", "p3", "home", date(2026, 11, 21), 1), ("c1", "p4", "home", date(2026, 11, 21), 9),
        ("c0", "p5", "home", date(2026, 11, 22), 9), ("nobody", "p4", "home", date(2026, 11, 21), 9),
        ("c0", "gone", "home", date(2026, 11, 21), 9),
    )  # fmt: skip
    rule = {"action": "frequency_cap", "value": 3, "within_days": 7}
    proposed = candidates([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    slots = applied(book(rule), proposed, 5, exposures=seen_often)
    assert listed(slots) == [0, 1, 4, 5, -1]  # p2 and p3 are shown often enough; p5 only on the day itself
    assert listed(slots, 1) == [0, 1, 2, 3, 5]
    assert fired(book(rule), slots) == [[], [], ["r0"], ["r0"], []]
    at_home = applied(book({**rule, "placement": "home"}), proposed, 5, exposures=seen_often)
    assert listed(at_home) == [0, 1, 3, 4, 5]
    assert listed(applied(book(rule), proposed, 5)) == [0, 1, 2, 3, 4]
    assert book(rule).counts_showings("home") and not book({**rule, "placement": "email"}).counts_showings("home")  # fmt: skip


def test_a_pin_of_higher_priority_is_shown_for_the_hundredth_time() -> None:
    rule = {"action": "frequency_cap", "value": 3, "within_days": 7}
    often = shown(("c0", "p8", "home", date(2026, 11, 21), 99))
    pin = {"action": "pin", "product_id": "p8", "value": 1}
    assert listed(applied(book(rule, pin), candidates([0, 8]), 2, exposures=often)) == [0, -1]
    assert listed(applied(book(rule, {**pin, "priority": 1}), candidates([0, 8]), 2, exposures=often)) == [8, 0]  # fmt: skip


def test_rules_of_another_placement_do_nothing_here() -> None:
    rules = book(
        {"action": "filter", "brand": "Brook", "placement": "email"}, {"action": "filter", "brand": "Cedar"}
    )
    assert listed(applied(rules, candidates([0, 1, 2]), 3)) == [0, 1, -1]
    assert listed(applied(rules, candidates([0, 1, 2]), 3, placement="email")) == [0, -1, -1]


def test_empty_candidates_and_no_lists_give_empty_slots() -> None:
    rules = book({"action": "cap", "per": "brand", "value": 1}, {"action": "boost", "brand": "Alder", "value": 2})  # fmt: skip
    assert listed(applied(rules, candidates([]), 2, exploration=0.5)) == [-1, -1]
    none = applied(rules, Candidates(np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int8)), 2)  # fmt: skip
    assert none.products.shape == none.propensity.shape == (0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_with_their_place(bad: float) -> None:
    with pytest.raises(ModelRefused, match=r"the first is -?(nan|inf) at row 0, place 2"):
        applied(book(), candidates([0, 1], scores=[[1, bad]]), 2)
    applied(book(), candidates([0, -1], scores=[[1, bad]]), 2)


def test_candidates_of_another_catalogue_are_refused() -> None:
    with pytest.raises(ModelRefused, match="codes from 0 to 12, but the rules know 12 products"):
        applied(book(), candidates([0, 12]), 2)
    with pytest.raises(ModelRefused, match="1 lists of candidates and 2 customers"):
        applied(book(), candidates([0]), 2, customer_ids=["a", "b"])
    with pytest.raises(RuleRefused, match="no placement 'attic'"):
        applied(book(), candidates([0]), 2, placement="attic")
    with pytest.raises(RuleRefused, match=r"share from 0 to 1, not 1\.5"):
        applied(book(), candidates([0]), 2, exploration=1.5)


def _rules(rng: np.random.Generator) -> list[dict[str, Any]]:
    def one() -> dict[str, Any]:
        action = str(
            rng.choice(["filter", "pin", "promote", "cap", "frequency_cap", "pin", "promote", "cap"])
        )
        rule: dict[str, Any] = {"action": action, "priority": int(rng.integers(0, 4))}
        if action == "pin":
            return rule | {"product_id": f"p{rng.integers(12)}", "value": int(rng.integers(1, 6))}
        if action == "frequency_cap":
            return rule | {"value": 2, "within_days": 7}
        if action == "cap":
            per = [None, "brand", "category"][rng.integers(3)]
            only = {} if per else {"brand": str(rng.choice(BRANDS))}
            return rule | {"value": int(rng.integers(1, 4)), "per": per, **only}
        choices = [{"product_id": f"p{rng.integers(12)}"}, {"brand": str(rng.choice(BRANDS))}, {"category": "Kitchen"}, {"attribute": "colour=blue"}]  # fmt: skip
        share = {"value": float(rng.choice([0.1, 0.3, 0.4]))} if action == "promote" else {}
        return rule | choices[rng.integers(4)] | share

    return [one() for _ in range(rng.integers(1, 7))]


def test_any_mix_of_rules_arranges_as_if_each_list_were_written_out_by_itself() -> None:
    compared = explored = 0
    for number in range(90):
        rng = np.random.default_rng(number)
        try:
            rules = book(*_rules(rng))
        except RuleRefused:
            continue
        m, k = int(rng.integers(0, 12)), int(rng.integers(1, 8))
        rows = [np.where(rng.random(m) < 0.05, -1, rng.permutation(12)[:m] if rng.random() < 0.7 else rng.integers(0, 12, m)) for _ in range(4)]  # fmt: skip
        often = shown(*[
            (f"c{r}", f"p{rng.integers(12)}", "home", date(2026, 11, int(rng.integers(10, 22))), int(rng.integers(1, 4)))
            for r in range(4) for _ in range(rng.integers(0, 3))
        ])  # fmt: skip
        seen = [rng.permutation(12)[: rng.integers(0, 4)] for _ in range(4)]
        told = {
            "exposures": often,
            "seen": (np.cumsum([0, *map(len, seen)]), np.concatenate(seen).astype(np.int32)),
        }
        regular = applied(rules, candidates(*rows), k, **told)
        explores = applied(rules, candidates(*rows), k, exploration=1.0, **told)
        tired = rules.tired("home", [f"c{i}" for i in range(4)], often, DAY)
        for row in range(4):
            mine = dict(zip(tired.products[tired.rows == row].tolist(), tired.rules[tired.rows == row].tolist(), strict=True))  # fmt: skip
            wanted = arranged(rules, rows[row].tolist(), k, tired=mine, seen=set(seen[row].tolist()))
            assert listed(regular, row) == wanted.listed, (number, row)
            free = [s for s, p in enumerate(wanted.listed) if p >= 0 and p not in wanted.held]
            drawn = free[max(0, len(free) - len(wanted.pool)) :]
            assert np.flatnonzero(explores.is_exploration[row]).tolist() == drawn
            for slot, product in enumerate(listed(explores, row)):
                if slot in drawn:
                    assert product in wanted.pool
                    assert explores.propensity[row, slot] == pytest.approx(1 / len(wanted.pool))
                else:
                    assert product == wanted.listed[slot] and explores.propensity[row, slot] == 1
            there = [p for p in listed(explores, row) if p >= 0]
            assert len(there) == len(set(there))
            compared, explored = compared + 1, explored + len(drawn)
    assert compared > 250 and explored > 100


def test_ten_thousand_lists_take_seconds() -> None:
    rng = np.random.default_rng(1)
    rules = book(
        {"action": "cap", "per": "brand", "value": 3}, {"action": "boost", "category": "Garden", "value": 1.5},
        {"action": "promote", "brand": "Cedar", "value": 0.1}, {"action": "filter", "product_id": "p5"},
    )  # fmt: skip
    proposed = candidates(*rng.permuted(np.tile(ALL, (10_000, 1)), axis=1))
    began = time.perf_counter()
    slots = applied(rules, proposed, 8, exploration=0.1)
    assert time.perf_counter() - began < 4
    assert len(slots) == 10_000 and (slots.products[:, 0] >= 0).all()
