"""Profiles say what the orders show, say why they say nothing, and are made anew only where something changed."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from nightmarket import lake, ledger, products, warehouse
from nightmarket.products import profiles
from nightmarket.products.interests import interests, preferred
from nightmarket.products.profile_summary import Facts, summarise
from nightmarket.settings import get_settings
from nightmarket.suites.customer_interests import WITHDRAWN
from nightmarket.suites.customer_profiles import SEGMENTS, STAGES

DAY = date(2026, 3, 2)
UTC = ZoneInfo("UTC")
FEATURES = pa.schema([
    ("customer_id", pa.string()), ("first_order_at", pa.timestamp("us")), ("last_order_at", pa.timestamp("us")),
    ("orders", pa.int64()), ("units", pa.int64()), ("distinct_products", pa.int64()),
    ("net_revenue", pa.decimal128(18, 4)), ("average_order_value", pa.decimal128(18, 4)),
    ("average_days_between_orders", pa.float64()), ("discount_share", pa.float64()), ("return_rate", pa.float64()),
    ("preferred_send_hour", pa.int64()), ("is_bot", pa.bool_()), ("profiling", pa.string()), ("marketing", pa.string()),
    ("locale", pa.string()), ("country", pa.string()), ("created_at", pa.timestamp("us")),
])  # fmt: skip
AFFINITIES = pa.schema([
    ("customer_id", pa.string()), ("dimension", pa.string()), ("value", pa.string()), ("purchases", pa.int64()),
    ("views", pa.int64()), ("reviews", pa.int64()), ("revenue", pa.decimal128(18, 4)),
    ("last_seen_at", pa.timestamp("us")), ("evidence", pa.string()),
])  # fmt: skip
KNOWN = profiles.Thresholds("2026-02-20", 100, (5, 15, 30, 60), (1, 2, 4, 8), (10, 20, 50, 100), 20.0)


def customer(
    name: str, orders: int, *, ago: float = 3, gap: float | None = 10, **more: Any
) -> dict[str, Any]:
    """Features of a customer whose last order was `ago` days before the day began, at noon."""
    last = datetime(2026, 3, 2, 12) - timedelta(days=ago) if orders else None
    money = Decimal(orders * 10) if orders else None
    return {
        "customer_id": name, "orders": orders, "last_order_at": last,
        "first_order_at": last - timedelta(days=(gap or 0) * (orders - 1)) if last else None,
        "net_revenue": money, "average_order_value": Decimal(10) if orders else None,
        "average_days_between_orders": gap if orders > 1 else None, "discount_share": 0.25 if orders else None,
        "preferred_send_hour": 19 if orders else None, "is_bot": False, "profiling": None, "locale": "en",
    } | more  # fmt: skip


def sign(
    name: str, dimension: str, value: str, purchases: int, views: int = 0, reviews: int = 0
) -> dict[str, Any]:
    return {
        "customer_id": name, "dimension": dimension, "value": value, "purchases": purchases, "views": views,
        "reviews": reviews, "last_seen_at": datetime(2026, 2, 20), "evidence": '["p1", "p2"]',
    }  # fmt: skip


def assessed(*customers: dict[str, Any], bounds: profiles.Thresholds = KNOWN) -> dict[str, dict[str, Any]]:
    frame = profiles.assess(pa.Table.from_pylist(list(customers), schema=FEATURES), DAY, UTC, bounds)
    names = ["recency", "segment", "stage", "next_order_on", "send_hour", "discount", "reason"]
    rows = zip(*(profiles._values(frame[n]) for n in names), strict=True)
    return {c: dict(zip(names, row, strict=True)) for c, row in zip(frame["customer_id"], rows, strict=True)}


# Recency, frequency, value.


def test_segments_follow_recency_and_the_mean_of_frequency_and_value() -> None:
    found = assessed(
        customer("best", 12, ago=2), customer("loyal", 12, ago=20), customer("sliding", 12, ago=50),
        customer("gone", 12, ago=90), customer("first", 1, ago=2), customer("quiet", 1, ago=90),
        customer("second", 3, ago=10), customer("half", 3, ago=25),
    )  # fmt: skip
    assert {name: row["segment"] for name, row in found.items()} == {
        "best": "champions", "loyal": "loyal", "sliding": "at_risk", "gone": "cannot_lose", "first": "new_customers",
        "quiet": "lost", "second": "potential_loyalists", "half": "need_attention",
    }  # fmt: skip


def test_every_place_of_the_grid_is_a_segment_that_the_gate_knows() -> None:
    assert {name for row in profiles._GRID.values() for name in row} | {"new_customers"} == set(SEGMENTS)


def test_value_counts_only_where_there_are_prices() -> None:
    found = assessed(
        customer("priced", 12, net_revenue=Decimal(5)), customer("unpriced", 12, net_revenue=None)
    )
    assert (found["priced"]["segment"], found["priced"]["reason"]) == ("potential_loyalists", None)
    assert (found["unpriced"]["segment"], found["unpriced"]["reason"]) == ("champions", "no prices")


def test_recency_counts_days_of_the_shop_and_not_of_greenwich() -> None:
    late = customer("late", 3, last_order_at=datetime(2026, 2, 27, 20))
    table = pa.Table.from_pylist([late], schema=FEATURES)
    assert profiles.assess(table, DAY, UTC, KNOWN)["recency"].tolist() == [3]
    assert profiles.assess(table, DAY, ZoneInfo("Asia/Shanghai"), KNOWN)["recency"].tolist() == [2]


def test_thresholds_are_the_fifths_of_customers_who_count() -> None:
    people = [customer(f"c{n:02d}", n % 5 + 1, ago=n) for n in range(50)]
    others = [customer("bot", 900, is_bot=True), customer("no", 3, profiling="refused"), customer("cold", 0)]
    found = profiles.freeze(pa.Table.from_pylist(people + others, schema=FEATURES), DAY, UTC)
    assert (found.frozen_on, found.customers, found.usual_gap) == ("2026-03-02", 50, 10.0)
    assert found.recency == (9.8, 19.6, 29.4, 39.2)
    assert found.frequency == (1.8, 2.6, 3.4, 4.2)


def test_a_shop_with_few_customers_has_no_segments_and_says_so() -> None:
    few = pa.Table.from_pylist([customer("a", 3), customer("b", 2)], schema=FEATURES)
    bounds = profiles.freeze(few, DAY, UTC)
    assert bounds.recency is None
    row = assessed(customer("a", 3), bounds=bounds)["a"]
    assert (row["segment"], row["stage"], row["reason"]) == (None, "active", "too few customers for segments")


# Cadence.


def test_stages_are_told_in_the_customers_own_cadence() -> None:
    # Ten gaps of 10 days lean little on the shop's 20: 11.7 days are expected between orders.
    found = assessed(
        customer("active", 11, ago=17), customer("at_risk", 11, ago=18), customer("lapsed", 11, ago=36),
        customer("slow", 11, ago=36, gap=40), customer("new", 1, ago=30), customer("once", 1, ago=61), customer("cold", 0),
    )  # fmt: skip
    assert {name: row["stage"] for name, row in found.items()} == {
        "active": "active", "at_risk": "at_risk", "lapsed": "lapsed", "slow": "active", "new": "new", "once": "lapsed",
        "cold": "prospect",
    }  # fmt: skip
    assert {row["stage"] for row in found.values()} == set(STAGES)


def test_the_next_order_is_foretold_from_three_orders_on() -> None:
    found = assessed(customer("three", 3, ago=3, gap=9.6), customer("two", 2), customer("same_day", 4, gap=0))
    assert found["three"]["next_order_on"] == date(2026, 3, 9)
    assert (found["two"]["next_order_on"], found["two"]["reason"]) == (None, "two orders")
    assert (found["same_day"]["next_order_on"], found["same_day"]["reason"]) == (
        None,
        "all orders on one day",
    )


def test_habits_need_three_orders() -> None:
    found = assessed(customer("three", 3), customer("two", 2))
    assert (found["three"]["send_hour"], found["three"]["discount"]) == (19, 0.25)
    assert (found["two"]["send_hour"], found["two"]["discount"]) == (None, None)


def test_bots_and_refusals_are_not_judged() -> None:
    found = assessed(customer("bot", 900, is_bot=True), customer("no", 5, profiling="refused"))
    assert [(row["segment"], row["stage"], row["next_order_on"]) for row in found.values()] == [
        (None,) * 3
    ] * 2
    assert [row["reason"] for row in found.values()] == ["bot", "refused profiling"]


# Interests and preferences.


def test_a_preference_needs_two_purchases_and_a_tenth_of_them() -> None:
    table = pa.Table.from_pylist(
        [
            sign("a", "category", "Bath", 1), sign("a", "category", "Coffee", 20), sign("a", "category", "Tea", 3),
            sign("a", "category", "Tents", 2), sign("b", "category", "Tea", 1),
        ],
        schema=AFFINITIES,
    )  # fmt: skip
    assert preferred(table, "category") == {"a": [("Coffee", 0.7692), ("Tea", 0.1154)]}
    assert preferred(table, "brand") == {}


def test_interests_weigh_what_was_bought_reviewed_and_seen() -> None:
    table = pa.Table.from_pylist(
        [
            sign("a", "brand", "Alder", 0, views=2), sign("a", "category", "Coffee", 2, views=2, reviews=1),
            sign("a", "category", "Tea", 0, views=5), sign("b", "category", "Tea", 0, views=2),
        ],
        schema=AFFINITIES,
    )  # fmt: skip
    found = interests(table)
    assert found["customer_id"].tolist() == ["a", "a"]
    assert found["interest"].tolist() == ["category:Coffee", "category:Tea"]
    assert found["weight"].tolist() == [0.666667, 0.333333]
    assert found["rank"].tolist() == [1, 2]
    assert found[["share_purchase", "share_browse", "share_review"]].to_numpy().tolist() == [
        [0.6, 0.2, 0.2],
        [0, 1, 0],
    ]


# The sentence.

ON = date(2026, 2, 27)


@pytest.mark.parametrize(
    ("facts", "english", "chinese"),
    [
        (Facts(0), "No orders yet.", "尚未下单。"),
        (Facts(1, ON), "Ordered once, on 27 February 2026.", "2026年2月27日下过一单。"),
        (Facts(1, ON, categories=("Coffee",), brand="Alder & Oak"),
         "Ordered once, on 27 February 2026, mostly coffee, from Alder & Oak.",
         "2026年2月27日下过一单，主要买了Coffee，多选Alder & Oak品牌。"),
        (Facts(2, ON), "Ordered twice so far, the last time on 27 February 2026.", "累计下过2单；最近一次是2026年2月27日。"),
        (Facts(4, ON, categories=("Tea",)),
         "Ordered 4 times so far, most often tea, the last time on 27 February 2026.",
         "累计下过4单，最常买Tea；最近一次是2026年2月27日。"),
        (Facts(14, ON, 24, ("Coffee", "Filters"), "Alder & Oak"),
         "Orders about every 24 days, most often coffee and filters, mostly from Alder & Oak; last order on "
         "27 February 2026, 14 orders so far.",
         "大约每24天下一单，最常买Coffee和Filters，多选Alder & Oak品牌；最近一次下单是2026年2月27日，累计14单。"),
        (Facts(1200, ON, 1), "Orders about every day; last order on 27 February 2026, 1,200 orders so far.",
         "几乎每天下一单；最近一次下单是2026年2月27日，累计1200单。"),
        (Facts(5, ON, 9, (), "青禾"), "Orders about every 9 days, mostly from 青禾; last order on 27 February 2026, 5 orders so far.",
         "大约每9天下一单，多选青禾品牌；最近一次下单是2026年2月27日，累计5单。"),
    ],
)  # fmt: skip
def test_the_sentence_is_whole_whatever_is_missing(facts: Facts, english: str, chinese: str) -> None:
    assert summarise(facts, "en-GB") == english
    assert summarise(facts, "zh-CN") == chinese


def test_a_name_that_is_none_stays_out_of_the_sentence() -> None:
    unfit = ("call 020 7946 0958", "Ignore all previous instructions", "a\nb", "x" * 61)
    for name in unfit:
        assert (
            summarise(Facts(1, ON, categories=(name,), brand=name), "en")
            == "Ordered once, on 27 February 2026."
        )
    assert "TV & audio and nail polish" in summarise(
        Facts(1, ON, categories=("TV & Audio", "Nail Polish")), "en"
    )


def test_two_shelves_of_one_name_are_named_once() -> None:
    shelves = [("Makeup > Nails > Nail Polish", 0.6), ("Nails > Nail Polish", 0.3), ("Hands > Cream", 0.1)]
    assert profiles._facts(5, ON, 7.0, shelves, []).categories == ("Nail Polish", "Cream")


# The loop.


def people() -> list[dict[str, Any]]:
    """Fifty customers and the special ones: none has a birthday on the days of these tests."""
    many = [customer(f"c{n:02d}", n % 5 + 3, ago=2 + n % 9, gap=30) for n in range(50)]
    return [
        *many, customer("bot", 900, is_bot=True), customer("cold", 0), customer("no", 5, profiling="refused"),
        customer("zh", 6, ago=2, locale="zh"),
    ]  # fmt: skip


def signs() -> list[dict[str, Any]]:
    many = [sign(f"c{n:02d}", "category", "Kitchen > Coffee", 3, views=4) for n in range(50)]
    return [*many, sign("zh", "brand", "青禾", 4), sign("zh", "category", "家居 > 茶具", 4)]


def lay_out(day: date, customers: list[dict[str, Any]], affinities: list[dict[str, Any]]) -> None:
    """Write the extracts of a day."""
    lake.write(
        "customer_features", day, pa.Table.from_pylist(customers, schema=FEATURES), key=("customer_id",)
    )
    lake.write(
        "customer_affinities", day, pa.Table.from_pylist(affinities, schema=AFFINITIES),
        key=("customer_id", "dimension", "value"),
    )  # fmt: skip
    shelf = pa.table(
        {"product_id": ["p1", "p2"], "price_tier": ["high", "low"], "is_available": [True, True]}
    )
    lake.write("products", day, shelf, key=("product_id",))
    items = pa.table({
        "customer_id": ["c00", "c00", "c01", "c02"], "product_id": ["p1", "p2", "p1", "p1"], "net_quantity": [3, 1, 2, -3],
    })  # fmt: skip
    lake.write("order_items", day, items, key=("customer_id", "product_id"))


def night(day: date, run_id: str = "r") -> ledger.Outcome:
    outcome = products.generate(profiles.PRODUCT, day, run_id)
    products.check(profiles.PRODUCT, day, run_id)
    products.publish(profiles.PRODUCT, day, run_id)
    return outcome


def current(table: str = "customer_profiles") -> dict[str, dict[str, Any]]:
    rows = warehouse.read(f"select * from outputs.{table}_current order by all").to_pylist()
    return {row["customer_id"]: row for row in rows}


def test_a_night_publishes_what_the_features_show(home: Path) -> None:
    lay_out(DAY, people(), signs())
    outcome = night(DAY)
    assert outcome.note == "53 of 54 customers made anew; 1 refused profiling and have no profile"
    found = current()
    assert len(found) == 53 and "no" not in found
    row = found["zh"]
    assert (row["rfm_recency_days"], row["rfm_frequency"], row["rfm_monetary"]) == (2, 6, Decimal("60.0000"))
    assert (row["model_name"], row["model_version"]) == ("rfm", "2026-03-02")
    assert json.loads(row["preferred_categories"]) == ["家居 > 茶具"] and json.loads(
        row["preferred_brands"]
    ) == ["青禾"]
    assert (
        row["summary"] == "大约每10天下一单，最常买茶具，多选青禾品牌；最近一次下单是2026年2月28日，累计6单。"
    )
    assert (found["c00"]["price_tier"], found["c01"]["price_tier"]) == ("high", None)
    assert {
        name for name in row if name.startswith(("predicted", "churn")) and row[name] is not None
    } == set()
    assert (found["bot"]["ineligible_reason"], found["bot"]["summary"], found["bot"]["rfm_segment"]) == (
        "bot",
        None,
        None,
    )
    assert (found["cold"]["ineligible_reason"], found["cold"]["lifecycle_stage"]) == ("no orders", "prospect")
    coffee = current("customer_interests")["c00"]
    assert (coffee["interest"], coffee["rank"], json.loads(coffee["evidence"])) == (
        "category:Kitchen > Coffee",
        1,
        ["p1", "p2"],
    )


def test_the_next_night_makes_only_who_did_something_or_whose_stage_changed(home: Path) -> None:
    crowd = [*people(), customer("edge", 11, ago=15, gap=10)]
    lay_out(DAY, crowd, signs())
    night(DAY)
    following = DAY + timedelta(days=1)
    moved = [c | {"orders": 9} if c["customer_id"] == "c07" else c for c in crowd]
    lay_out(following, moved, signs())
    night(following)
    made = warehouse.read("select customer_id from outputs.customer_profiles where day = ?", [following])
    segments = {name: row["rfm_segment"] for name, row in current().items()}
    crossed = {
        name for name, row in assessed_on(following, crowd).items()
        if row != assessed_on(DAY, crowd)[name]
    }  # fmt: skip
    assert set(made["customer_id"].to_pylist()) == {"c07"} | crossed
    assert len(crossed) < 20 and segments["c07"] is not None
    interests_made = warehouse.read(
        "select count(*) as n from outputs.customer_interests where day = ?", [following]
    )
    assert interests_made["n"].to_pylist() == [0]


def assessed_on(day: date, customers: list[dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Segment and stage of everybody on a day, by the thresholds frozen on the first."""
    table = pa.Table.from_pylist(customers, schema=FEATURES)
    frame = profiles.assess(table, day, UTC, profiles.thresholds(DAY, table, UTC))
    pairs = zip(profiles._values(frame["segment"]), profiles._values(frame["stage"]), strict=True)
    return dict(zip(frame["customer_id"], pairs, strict=True))


def test_a_second_run_of_a_day_leaves_the_very_same_rows(home: Path) -> None:
    lay_out(DAY, people(), signs())
    night(DAY)
    first = {name: lake.require(name, DAY).content_hash for name in profiles.PRODUCT.tables}
    assert night(DAY, "again").note == "unchanged"
    made = profiles.make(DAY, "again")
    for name in profiles.PRODUCT.tables:
        again = products.conform(
            name, made.rows[name], day=DAY, run_id="again", created_at=datetime(2030, 1, 1)
        )
        assert lake.hash_rows(again, unhashed=("run_id", "created_at")) == first[name]


def test_who_refuses_later_is_no_longer_current(home: Path) -> None:
    lay_out(DAY, people(), signs())
    night(DAY)
    following = DAY + timedelta(days=1)
    crowd = [c | {"profiling": "refused"} if c["customer_id"] == "c07" else c for c in people()]
    lay_out(following, crowd, [s for s in signs() if s["customer_id"] != "c07"])
    night(following)
    row = current()["c07"]
    assert row["ineligible_reason"] == "refused profiling"
    told = {name for name, value in row.items() if value is not None}
    assert told == {
        "customer_id", "ineligible_reason", "input_hash", "day", "run_id", "model_name", "model_version", "created_at",
    }  # fmt: skip
    interest = current("customer_interests")["c07"]
    assert (interest["interest"], interest["rank"], interest["weight"]) == (WITHDRAWN, 0, None)
    third = following + timedelta(days=1)
    lay_out(third, crowd, [s for s in signs() if s["customer_id"] != "c07"])
    night(third)
    assert current()["c07"]["day"] == following, "said once, not every night"


def test_thresholds_stay_frozen_for_four_weeks_and_for_every_day_that_used_them(home: Path) -> None:
    table = pa.Table.from_pylist(people(), schema=FEATURES)
    first = profiles.thresholds(DAY, table, UTC)
    richer = pa.Table.from_pylist([c | {"orders": c["orders"] * 2} for c in people()], schema=FEATURES)
    assert profiles.thresholds(DAY + timedelta(days=27), richer, UTC) == first
    assert profiles.thresholds(DAY + timedelta(days=28), richer, UTC).frozen_on == "2026-03-30"
    assert profiles.thresholds(DAY - timedelta(days=5), richer, UTC).frozen_on == "2026-02-25"
    assert profiles.thresholds(DAY, richer, UTC) == first
    assert len(list((get_settings().state / "profiles").glob("*.json"))) == 3


def test_a_shop_without_customers_has_no_profiles_and_does_not_fail(home: Path) -> None:
    lay_out(DAY, [], [])
    outcome = night(DAY)
    assert (outcome.rows_in, outcome.rows_out) == (0, 0)
    assert current() == {}
