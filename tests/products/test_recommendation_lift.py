"""The twin of every placement, and what personal lists bring over it."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from nightmarket import warehouse
from nightmarket.products import recommendations
from nightmarket.products.recommendations import lift, touched
from nightmarket.settings import get_settings
from tests.products.list_shop import DAY, NEXT, SPECIAL, extracts, night, of, rows
from tests.ranking.purchases import shop


@pytest.fixture
def bought(registry: Path, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    monkeypatch.setenv("NIGHTMARKET_TEXTS_EMBEDDED_PER_NIGHT", "0")
    get_settings.cache_clear()
    table = shop(customers=60)
    extracts(DAY, table)
    return table


def also(table: pa.Table, *purchases: tuple[str, str, datetime]) -> pa.Table:
    """The purchases with some more."""
    more = [
        {
            "customer_id": c,
            "product_id": p,
            "order_id": f"later-{n}",
            "ordered_at": at,
            "quantity": 1.0,
            "may_train": False,
        }
        for n, (c, p, at) in enumerate(purchases)
    ]
    return pa.concat_tables([table, pa.Table.from_pylist(more, schema=table.schema)])


def noon(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time()) + timedelta(hours=12)


def test_each_placement_has_a_twin_that_serves_whoever_has_no_list_of_their_own(bought: pa.Table) -> None:
    night(DAY)
    twin: dict[str, list[str]] = {}
    for row in sorted(rows("default_recommendations"), key=lambda r: r["rank"]):
        twin.setdefault(row["placement"], []).append(row["product_id"])
    assert {placement: len(listed) for placement, listed in twin.items()} == {
        "home": 20,
        "email": 6,
        "product_page": 10,
    }
    for customer in SPECIAL:
        for placement in ("home", "email"):
            assert [r["product_id"] for r in of(customer, placement)] == twin[placement]
    scores = [
        r["score"]
        for r in sorted(rows("default_recommendations", "placement = 'home'"), key=lambda r: r["rank"])
    ]
    assert scores == sorted(scores, reverse=True) and scores[0] <= 1


def test_the_twin_changes_with_the_shop_and_somebody_new_gets_the_one_in_force(bought: pa.Table) -> None:
    night(DAY)
    extracts(NEXT, bought, special=SPECIAL | {"newcomer": (False, None, "en")})
    night(NEXT)
    assert [r["product_id"] for r in of("newcomer")] == [r["product_id"] for r in of("cold")]
    assert rows("default_recommendations")[0]["day"] == DAY
    later = NEXT + timedelta(days=1)
    gone = of("cold")[0]["product_id"]
    extracts(later, bought, gone=("p003", "p014", gone))
    night(later)
    assert {r["day"] for r in rows("default_recommendations")} == {later}
    assert gone not in {r["product_id"] for r in rows("default_recommendations")}


def test_purchases_after_the_lists_count_for_the_list_they_stood_in(bought: pa.Table) -> None:
    night(DAY)
    own, twin = of("c0001"), {r["product_id"] for r in of("cold")}
    email = {r["product_id"] for r in of("c0001", "email")}
    at_home = next(r["product_id"] for r in own if r["product_id"] not in email)
    again = bought.filter(pa.compute.equal(bought["customer_id"], "c0003"))["product_id"][0].as_py()
    third = NEXT + timedelta(days=1)
    table = also(
        bought, ("c0001", at_home, noon(NEXT)), ("c0002", "p003", noon(NEXT)), ("c0003", again, noon(NEXT)),
        ("cold", sorted(twin)[0], noon(NEXT)),
    )  # fmt: skip
    extracts(NEXT, bought)
    night(NEXT)
    assert rows("recommendation_lift") == []
    extracts(third, table)
    night(third)
    found = {r["placement"]: r for r in rows("recommendation_lift")}
    # c0001 bought from the own list, c0002 what no list may hold; c0003 had that product before, cold has no own list
    home = found["home"]
    assert (home["customers"], home["own_hit_rate"], home["lists_from"]) == (2, 0.5, DAY)
    assert home["default_hit_rate"] == (0.5 if at_home in twin else 0.0)
    assert home["lift"] == home["own_hit_rate"] - home["default_hit_rate"]
    assert home["lift_low"] <= home["lift"] <= home["lift_high"]
    assert (found["email"]["customers"], found["email"]["own_hit_rate"]) == (2, 0.0)


def test_no_list_is_judged_by_a_purchase_of_its_own_day_or_before(bought: pa.Table) -> None:
    night(DAY)
    listed = of("c0001")[0]["product_id"]
    # a list that was made knowing the purchase would hold anything: it must not be asked
    extracts(
        NEXT, also(bought, ("c0001", listed, noon(DAY)), ("c0002", listed, noon(DAY - timedelta(days=9))))
    )
    assert lift.rows(NEXT, touched.nights_before(NEXT)).num_rows == 0
    night(NEXT)
    third = NEXT + timedelta(days=1)
    extracts(
        third,
        also(bought, ("c0001", listed, noon(DAY)), ("c0005", of("c0005")[0]["product_id"], noon(third))),
    )
    assert lift.rows(third, touched.nights_before(third)).num_rows == 0


def test_without_an_earlier_night_there_is_nothing_to_compare(bought: pa.Table) -> None:
    assert recommendations.make(DAY, "r").rows["recommendation_lift"].num_rows == 0
    night(DAY)
    assert warehouse.read("select * from outputs.recommendation_lift_current").num_rows == 0
