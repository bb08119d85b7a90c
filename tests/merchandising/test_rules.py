"""Rules as the shop writes them: what is refused with every problem named, what is warned of, what a rule matches."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightmarket.errors import RuleRefused
from nightmarket.merchandising.matching import Catalogue
from nightmarket.merchandising.rules import Rule, read
from tests.merchandising.shop import DAY, IDS, PRODUCTS, book, table

FILTER: dict[str, Any] = {"action": "filter", "brand": "Alder"}


def problems(*rules: dict[str, Any], day: date = DAY) -> list[str]:
    with pytest.raises(RuleRefused) as refused:
        book(*rules, day=day)
    return list(refused.value.problems)


def matched(**selectors: str) -> list[str]:
    mine = Catalogue.of(PRODUCTS, IDS).matches(Rule("r", "filter", **selectors))  # type: ignore[arg-type]
    return [IDS[i] for i in np.flatnonzero(mine)]


def test_brand_category_and_attribute_match_as_people_type_them() -> None:
    assert matched(brand=" alder ") == ["p0", "p3", "p6", "p9"]
    assert matched(category="kitchen>knives") == ["p4", "p5", "p6", "p7"]
    assert matched(category="Kitchen") == [f"p{i}" for i in range(8)]
    assert matched(category="Kitchen > Co") == []
    assert matched(attribute="colour = Blue") == ["p2", "p7"]
    assert matched(attribute="sizes=5") == matched(attribute="sizes=xl") == matched(attribute="organic=true") == ["p2", "p7"]  # fmt: skip
    assert matched(product_id="p3") == ["p3"]
    assert matched(brand="Cedar", attribute="colour=blue") == ["p2"]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"action": "bost", "brand": "Alder"}, "there is no action 'bost'"),
        ({**FILTER, "placement": "attic"}, "there is no placement 'attic'"),
        ({"action": "filter"}, "needs products to speak of"),
        ({"action": "pin", "brand": "Alder", "value": 1}, "needs a product_id"),
        ({"action": "boost", "brand": "Alder"}, "a factor above 1, for example 1.5; it is empty"),
        ({"action": "boost", "brand": "Alder", "value": 1}, "a factor above 1"),
        ({"action": "bury", "brand": "Alder", "value": 0}, "to leave products out, use `filter`"),
        ({"action": "bury", "brand": "Alder", "value": 1.5}, "a factor between 0 and 1"),
        ({"action": "pin", "product_id": "p1", "value": 1.5}, "a whole number from 1 to 200; it is 1.5"),
        ({"action": "promote", "brand": "Alder", "value": 0}, "a share of the slots above 0"),
        ({"action": "promote", "brand": "Alder", "value": 1.1}, "a share of the slots above 0"),
        ({"action": "cap", "value": 3}, "a `cap` counts per `brand`, per `category`"),
        ({"action": "cap", "value": 3, "per": "colour"}, "per is `brand` or `category`, not 'colour'"),
        ({"action": "frequency_cap", "value": 3}, "needs within_days, from 1 to 28"),
        ({"action": "frequency_cap", "value": 3, "within_days": 29}, "it is 29"),
        ({"action": "filter", "attribute": "blue"}, "must be a name and a value"),
        ({**FILTER, "starts_on": date(2026, 12, 2), "ends_on": date(2026, 12, 1)}, "before it starts on 2026-12-02"),
    ],
)  # fmt: skip
def test_a_rule_that_is_wrong_by_itself_is_refused_with_its_id_and_what_to_write(
    rule: dict[str, Any], says: str
) -> None:
    found = problems({**rule, "id": "autumn"})
    assert len(found) == 1 and "`autumn`" in found[0] and says in found[0]


def test_all_problems_are_told_at_once() -> None:
    found = problems(
        {"action": "pin", "product_id": "p1", "value": 1}, {"action": "pin", "product_id": "p2", "value": 1},
        {"action": "promote", "brand": "Brook", "value": 0.6}, {"action": "promote", "brand": "Cedar", "value": 0.5},
        {"action": "boost"},
    )  # fmt: skip
    assert [text.split(" ")[1] for text in found] == ["`r4`:", "`r4`:", "`r0`", "`r2`,"]
    assert "both pin place 1 with priority 0" in found[2] and "promote 1.1 of the slots together" in found[3]


def test_pins_of_one_place_collide_only_on_a_common_day_and_placement_and_at_equal_priority() -> None:
    pin = {"action": "pin", "value": 2}
    first, second = {**pin, "product_id": "p1"}, {**pin, "product_id": "p2"}
    assert len(problems(first, second)) == 1
    assert len(problems({**first, "placement": "home"}, second)) == 1
    book({**first, "placement": "home"}, {**second, "placement": "email"})
    book(first, {**second, "priority": 1})
    book({**first, "ends_on": date(2026, 11, 30)}, {**second, "starts_on": date(2026, 12, 1)})


def test_a_conflict_that_begins_later_is_told_tonight_with_its_day() -> None:
    pin = {"action": "pin", "value": 2, "product_id": "p1"}
    found = problems(pin, {**pin, "product_id": "p2", "starts_on": date(2026, 12, 24)})
    assert found[0].startswith("From 2026-12-24 on: Rules `r0` and `r1` both pin place 2")


def test_what_has_ended_is_not_judged() -> None:
    ended = {"action": "no such thing", "ends_on": date(2026, 11, 21)}
    assert book(ended, FILTER).rule_ids == ("r1",)


def test_a_filter_of_the_same_or_a_higher_priority_forbids_what_a_pin_or_promotion_wants() -> None:
    pin = {"action": "pin", "product_id": "p0", "value": 1}
    promote = {"action": "promote", "brand": "Alder", "value": 0.1}
    assert "wants to pin what filter `r0` leaves out" in problems(FILTER, pin)[0]
    assert "a priority above 0" in problems(FILTER, promote)[0]
    book(FILTER, {**pin, "priority": 1}, {**promote, "priority": 1})
    book({**FILTER, "brand": None, "product_id": "p3"}, promote)


def test_filters_that_leave_nothing_available_are_refused() -> None:
    rest = [{"action": "filter", "product_id": p} for p in ("p8", "p10")]
    kitchen = {"action": "filter", "category": "Kitchen"}
    found = problems(kitchen, *rest, {"action": "filter", "product_id": "p11"})
    assert found == [
        "The filters `r0`, `r1`, `r2`, `r3` leave no available product at all (placement home): narrow one of them, or "
        "give it a placement or an end."
    ]
    assert book(kitchen, *rest).removed("home").sum() == 10


def test_more_rules_than_a_slot_can_name_are_refused() -> None:
    many = [{"action": "boost", "product_id": "p1", "value": 1.1, "id": f"b{i:02d}"} for i in range(63)]
    assert len(book(*many[:62]).rule_ids) == 62
    assert "63 rules are in force at once, and at most 62 can be" in problems(*many)[0]
    book(*many[:62], {**many[62], "ends_on": date(2026, 11, 1)})


def test_rules_that_will_not_do_what_they_say_are_warned_of_and_not_refused() -> None:
    warned = book(
        {"action": "boost", "brand": "Birch", "value": 2}, {"action": "pin", "product_id": "p9", "value": 1},
        {"action": "pin", "product_id": "later", "value": 2},
        {"action": "frequency_cap", "value": 2, "within_days": 7, "placement": "product_page"},
        {"action": "boost", "brand": "Birch", "value": 2, "starts_on": date(2026, 12, 1)},
    ).warnings  # fmt: skip
    assert [text.split("(")[0].strip() for text in warned] == [
        "Rule `r0` matches no product", "Rule `r1` cannot pin anything: no product of it is available",
        "Rule `r2` matches no product",
        "Rule `r3` has no effect: lists of a product page are a product's, and nobody's showings count for them.",
    ]  # fmt: skip


def test_rules_hold_from_their_first_to_their_last_day() -> None:
    rule = {**FILTER, "starts_on": date(2026, 11, 20), "ends_on": date(2026, 11, 22)}
    held = [day for day in range(18, 26) if book(rule, day=date(2026, 11, day)).rule_ids]
    assert held == [20, 21, 22]


def test_the_digest_changes_exactly_when_what_is_in_force_changes() -> None:
    rule = {"action": "boost", "brand": "Alder", "value": 1.5, "starts_on": date(2026, 11, 1)}
    digest = book(rule).digest
    same = [
        book({**rule, "owner": "bob", "reason": "because"}),
        book({**rule, "starts_on": None, "ends_on": date(2026, 12, 1)}),
        book(rule, {"action": "filter", "brand": "Cedar", "starts_on": date(2026, 12, 1)}),
        book(rule, {"action": "filter", "brand": "Cedar", "ends_on": date(2026, 11, 1)}),
        book(rule, products=PRODUCTS.slice(0, 11)),
        book(rule, day=date(2026, 11, 23)),
    ]
    assert {b.digest for b in same} == {digest}
    changed = [
        book({**rule, "value": 1.6}), book({**rule, "brand": "Brook"}), book({**rule, "placement": "home"}),
        book({**rule, "priority": 1}), book({**rule, "id": "other"}), book(rule, FILTER), book(),
        book(rule, day=date(2026, 10, 31)),
    ]  # fmt: skip
    assert (
        len({digest, *(b.digest for b in changed)}) == 8
    )  # no rule and a rule that has not begun are the same
    pin = {"action": "pin", "product_id": "p9", "value": 1}
    back = PRODUCTS.set_column(4, "is_available", pa.array([True] * 12))
    assert book(pin).digest != book(pin, products=back).digest


def test_a_file_of_texts_reads_like_the_mart() -> None:
    texts = pa.table({
        "rule_id": ["a", "b", "", "a", "d", "e"], "action": ["boost ", "cap", "cap", "filter", "boost", "boost"],
        "brand": ["Alder", "", "", "Brook", "Cedar", "Cedar"], "value": ["1,5", "3", "3", "", "1.5", "nan"],
        "per": ["", "brand", "", "", "", ""], "starts_on": ["", "2026-11-01", "", "", "1.12.2026", ""],
    })  # fmt: skip
    rules, found = read(texts, DAY)
    assert [(rule.rule_id, rule.value, rule.per, rule.starts_on) for rule in rules] == [
        ("a", None, None, None), ("b", 3.0, "brand", date(2026, 11, 1)),
    ]  # fmt: skip
    assert found == [
        "Rule `a`: value is '1,5', which is not a number.",
        "Row 3 has no rule_id: give the rule one.",
        "Rule `d`: starts_on is '1.12.2026', which is not a day like 2026-12-01.",
        "Rule `e`: value is nan, which is not a number.",
    ]
    assert read(pa.table({"id": ["a"]}), DAY)[1][0].startswith(
        "The rules lack the column `rule_id`, `action`."
    )
    twice = pa.concat_tables([table(FILTER), table(FILTER)])
    assert read(twice, DAY)[1] == ["Rule `r0` stands more than once: give each rule an id of its own."]
