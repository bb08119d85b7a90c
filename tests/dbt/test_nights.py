"""What a night changes and what it leaves alone: the incremental marts against a build of everything anew."""

from __future__ import annotations

from datetime import date

import pytest
from hand_shop import FIRST_NIGHT, consent, event, first_night, line, order, review
from hand_warehouse import TABLES, Raw, marts, marts_made_anew, run_models

from nightmarket import warehouse


def _built_by(mart: str) -> dict[str, str]:
    rows = warehouse.read(f"select customer_id, invocation_id from intermediate.built__{mart}").to_pylist()
    return {row["customer_id"]: row["invocation_id"] for row in rows}


def _made(before: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """By incremental mart, the customers whose rows were made anew since `before`."""
    return {
        m: sorted(c for c, run in _built_by(m).items() if before.get(m, {}).get(c) != run) for m in _MARTS
    }


def _build(*select: str) -> dict[str, list[str]]:
    before = {mart: _built_by(mart) for mart in _MARTS}
    run_models(*(select or TABLES))
    return _made(before)


_MARTS = ("order_items", "purchases", "customer_features", "customer_affinities")


@pytest.mark.slow
def test_each_night_costs_what_it_touches_and_gives_what_a_full_build_gives(raw: Raw) -> None:
    raw.land(FIRST_NIGHT, **first_night())
    run_models()
    assert _made({})["order_items"] == [
        "ann", "bob", "cleo", "dan", "eve", "guest", "quiet", "script", "visitor",
    ]  # fmt: skip

    # Nothing is landed, but the day goes on: ann's order of the evening before becomes known. The machine stops after
    # the first mart.
    raw.land(date(2026, 3, 2))
    assert _build("int_customers__digested", "order_items")["order_items"] == ["ann"]
    assert _orders("ann") == 2

    # A refund three days late, an order that was cleo's all along, a refusal, a category renamed (who bought or saw a
    # tent), an event of somebody else, and a price that changes nothing in what customers did. The marts that were not
    # finished catch up.
    raw.land(
        date(2026, 3, 3),
        order_items=[line("a1", "mug", line=2, quantity=4, unit_price=8, refunded_quantity=3)],
        orders=[order("d1", "cleo", "2026-02-03T11:00:00")],
        consents=[consent("bob", "training", "refused", "2026-03-02T10:00:00")],
        products=[
            {
                "product_id": "tent",
                "title": "Tent",
                "brand": "Brook",
                "category": "Outdoor > Tents",
                "price": 129,
            },
            {
                "product_id": "mug",
                "title": "Mug",
                "brand": "Alder",
                "category": "Kitchen > Coffee",
                "price": 9,
            },
        ],
        events=[event("v2", "eve", "product_viewed", "2026-02-21T10:00:00", "mug")],
    )
    touched = ["ann", "bob", "cleo", "dan", "eve", "quiet"]
    assert _build() == {mart: touched for mart in _MARTS}
    assert (_orders("ann"), _orders("dan"), _orders("cleo")) == (3, 0, 2)
    assert (_bought("bob"), _learnt_from("bob")) == (["gift", "tent"], [])

    # One more order makes a script of a customer; a review is written; a customer and all that is theirs is erased.
    raw.land(
        date(2026, 3, 4),
        orders=[order("s49", "script", "2026-02-10T23:00:00")],
        order_items=[line("s49", "mug", unit_price=8)],
        reviews=[review("r3", "eve", "kettle", "2026-03-03T10:00:00")],
        removed={"customers": ["bob"], "orders": ["b1"], "order_items": ["b1"], "consents": ["bob"]},
    )
    assert _build() == {mart: ["eve", "script"] for mart in _MARTS}
    assert _bought("script") == [] and _orders("script") == 50
    for mart in ("customers", *_MARTS):
        assert warehouse.read(f"select * from marts.{mart} where customer_id = 'bob'").num_rows == 0
    assert marts() == marts_made_anew()

    # A back-fill: as of a day on which only ann had ordered.
    raw.land(date(2026, 2, 2))
    _build()
    assert warehouse.read("select distinct customer_id from marts.order_items").to_pylist() == [
        {"customer_id": "ann"}
    ]
    assert marts() == marts_made_anew()

    # And forward again: on a day on which nothing new happened.
    raw.land(date(2026, 3, 5))
    _build()
    assert _orders("script") == 50
    assert marts() == marts_made_anew()


def _orders(customer: str) -> int:
    found = warehouse.read("select orders from marts.customer_features where customer_id = ?", [customer])
    return int(found.to_pylist()[0]["orders"])


def _bought(customer: str, where: str = "true") -> list[str]:
    found = warehouse.read(
        f"select product_id from marts.purchases where customer_id = ? and {where} order by 1", [customer]
    )
    return [row["product_id"] for row in found.to_pylist()]


def _learnt_from(customer: str) -> list[str]:
    return _bought(customer, "may_train")
