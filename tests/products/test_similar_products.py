"""The two lists of a product's page: bought together and alike by text, within a night's budget, under the shop's rules."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nightmarket.products.recommendations import texts
from nightmarket.settings import get_settings
from tests.products.list_shop import DAY, FRESH, NEXT, extracts, made_on, night, rows
from tests.ranking.purchases import shop


@pytest.fixture
def bought(registry: Path) -> pa.Table:
    table = shop(customers=40)
    extracts(DAY, table)
    return table


def kinds(product: str) -> dict[str, list[str]]:
    """The lists of a product, best first, by kind."""
    found: dict[str, list[str]] = {}
    for row in sorted(rows("similar_products", f"product_id = '{product}'"), key=lambda r: r["rank"]):
        found.setdefault(row["reason_code"], []).append(row["similar_product_id"])
    return found


def _bought_beside(bought: pa.Table, product: str) -> list[str]:
    """What customers of a product bought beside it."""
    buyers = bought.filter(pc.equal(bought["product_id"], product))["customer_id"]
    return bought.filter(pc.is_in(bought["customer_id"], value_set=pc.unique(buyers)))[
        "product_id"
    ].to_pylist()


def test_a_product_has_a_list_of_each_kind_and_one_that_was_never_bought_has_only_texts(
    bought: pa.Table,
) -> None:
    night(DAY)
    assert len(kinds("p000")["similar_text"]) == 10
    assert set(kinds("p000")["bought_together"]) <= set(_bought_beside(bought, "p000"))
    assert list(kinds(FRESH)) == ["similar_text"]
    names = {r["reason_code"]: r["model_name"] for r in rows("similar_products")}
    assert names == {"bought_together": "item_to_item", "similar_text": "all-MiniLM-L6-v2"}


def test_texts_beyond_the_nights_budget_wait_most_bought_first_and_nothing_else_is_made_again(
    bought: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMARKET_TEXTS_EMBEDDED_PER_NIGHT", "20")
    get_settings.cache_clear()
    counts = bought["product_id"].value_counts().to_pylist()
    times = {c["values"]: c["counts"] for c in counts}
    note = night(DAY)[0].note
    with_text = {r["product_id"] for r in rows("similar_products", "reason_code = 'similar_text'")}
    everything = {r["product_id"] for r in rows("similar_products")}
    assert len(with_text) == 20 and note.endswith("; 9 product texts wait for another night")
    waiting = ({*times, FRESH} - {"p003", "p014"}) - with_text
    assert max(times.get(p, 0) for p in waiting) <= min(times[p] for p in with_text)
    assert FRESH in waiting and FRESH not in everything
    extracts(NEXT, bought)
    assert "wait" not in night(NEXT)[0].note
    assert made_on(NEXT, "product_id", "similar_products") == waiting
    assert all("similar_text" in kinds(p) for p in waiting)
    later = NEXT + timedelta(days=1)
    extracts(later, bought)
    night(later)
    assert made_on(later, "product_id", "similar_products") == set()


@pytest.mark.parametrize(
    ("budget", "has"),
    [
        (0, [True, False, False, False]),
        (1, [True, False, True, False]),
        (2, [True, True, True, False]),
        (9, [True] * 4),
    ],
)
def test_the_budget_goes_to_the_most_bought_and_of_equals_to_the_first(budget: int, has: list[bool]) -> None:
    missing, buyers = np.array([False, True, True, True]), np.array([0, 3, 5, 3])
    assert texts.within_budget(missing, buyers, budget).tolist() == has


def test_the_shops_rules_hold_on_the_product_page_and_never_put_a_product_beside_itself(
    bought: pa.Table,
) -> None:
    rules = [
        {"id": "off", "action": "filter", "product_id": "p001", "placement": "product_page"},
        {"id": "top", "action": "pin", "product_id": "p020", "value": 1.0, "placement": "product_page"},
    ]
    extracts(DAY, bought, rules=rules)
    night(DAY)
    found = rows("similar_products")
    assert "p001" not in {r["similar_product_id"] for r in found}
    assert all(listed[0] == "p020" for listed in kinds("p000").values())
    assert all("p020" not in listed for listed in kinds("p020").values())
    pinned = [r for r in found if r["similar_product_id"] == "p020" and r["product_id"] == FRESH]
    assert [r["rules_applied"] for r in pinned] == ['["top"]']


def test_a_changed_text_makes_the_lists_of_that_product_anew(bought: pa.Table) -> None:
    night(DAY)
    extracts(NEXT, bought, title="Shade")
    night(NEXT)
    assert len(made_on(NEXT, "product_id", "similar_products")) == 29
