"""Rows that wait for a row they refer to are loaded by themselves when it comes."""

from __future__ import annotations

from .hand_landing import Bench, orders

LENIENT = "[limits]\norders = 1.0\norder_items = 1.0\nreviews = 1.0\n"
ITEM = {"order_id": "o9", "line": 1, "product_id": "p0", "quantity": 2}


def marks(bench: Bench) -> list[tuple[int, bool, bool]]:
    rows = bench.ask(
        "select line, replayed_at is not null as replayed, superseded_at is not null as superseded "
        "from ops.quarantine order by landing, line"
    )
    return [tuple(row.values()) for row in rows]  # type: ignore[misc]


def test_a_row_is_replayed_when_what_it_refers_to_has_come(bench: Bench) -> None:
    bench.toml(LENIENT)
    bench.put("order_items/2.csv", [ITEM])
    bench.load()
    assert bench.aside() == [("order_items/2.csv", 2, "unknown_reference", "order_id")]
    assert marks(bench) == [(2, False, False)]
    bench.put("orders/2.csv", orders(1, first=9))
    outcome = bench.load()
    assert outcome.rows_out == 2 and "1 rows replayed" in outcome.note
    assert bench.ask("select quantity, _path, _line, _batch from raw.order_items where order_id = 'o9'") == [
        {"quantity": 2, "_path": "order_items/2.csv", "_line": 2, "_batch": 2}
    ]
    assert marks(bench) == [(2, True, False)]
    row = bench.landed("order_items/2.csv")
    assert (row["rows_quarantined"], row["rows_replayed"]) == (1, 1)
    assert bench.ask("from raw.waiting_order_items") == []


def test_a_chain_of_waiting_rows_is_replayed_in_one_load(bench: Bench) -> None:
    bench.toml(LENIENT)
    bench.put("customers.csv", [{"customer_id": "c0"}])
    bench.put("orders/2.csv", [{**orders(1, first=9)[0], "customer_id": "c9"}])
    bench.put("order_items/2.csv", [ITEM])
    bench.load()
    assert [rule for _, _, rule, _ in bench.aside()] == ["unknown_reference", "unknown_reference"]
    bench.put("customers/2.csv", [{"customer_id": "c9"}])
    assert bench.load().rows_out == 3
    assert len(bench.raw("orders")) == 2 and len(bench.raw("order_items")) == 2


def test_new_rows_may_refer_to_a_row_that_is_replayed_in_the_same_load(bench: Bench) -> None:
    bench.toml("[limits]\norders = 1.0\n")
    bench.put("customers.csv", [{"customer_id": "c0"}])
    bench.put("orders/2.csv", [{**orders(1, first=9)[0], "customer_id": "c9"}])
    bench.load()
    bench.put("customers/2.csv", [{"customer_id": "c9"}])
    bench.put("order_items/2.csv", [ITEM])
    bench.load()
    assert len(bench.raw("order_items")) == 2


def test_a_waiting_row_never_replaces_a_later_delivery_of_its_key(bench: Bench) -> None:
    bench.toml(LENIENT)
    bench.put("orders/2.csv", orders(1, first=9))
    bench.put("order_items/2.csv", [{**ITEM, "product_id": "p9", "quantity": 2}])
    bench.load()
    bench.put("order_items/3.csv", [{**ITEM, "product_id": "p0", "quantity": 5}])
    bench.load()
    bench.put("products/2.csv", [{"product_id": "p9", "title": "T", "price": 1}])
    bench.load()
    assert bench.ask("select product_id, quantity from raw.order_items where order_id = 'o9'") == [
        {"product_id": "p0", "quantity": 5}
    ]
    assert marks(bench) == [(2, False, True)]


def test_a_waiting_row_replaces_an_earlier_one_and_the_latest_of_two_waits_on(bench: Bench) -> None:
    bench.toml(LENIENT)
    bench.put("orders/2.csv", orders(1, first=9))
    bench.put("order_items/1.csv", [ITEM])
    bench.put("order_items/2.csv", [{**ITEM, "product_id": "p9", "quantity": 3}])
    bench.put(
        "order_items/3.csv",
        [{**ITEM, "product_id": "p9", "quantity": 4}, {**ITEM, "product_id": "p9", "quantity": 5}],
    )
    bench.load()
    bench.put("products/2.csv", [{"product_id": "p9", "title": "T", "price": 1}])
    bench.load()
    assert bench.ask("select quantity, _batch from raw.order_items where order_id = 'o9'") == [
        {"quantity": 5, "_batch": 2}
    ]
    assert marks(bench) == [(2, False, True), (2, False, True), (3, True, False)]


def test_a_row_with_another_fault_does_not_wait(bench: Bench) -> None:
    bench.toml(LENIENT)
    bench.put("order_items/2.csv", [{**ITEM, "quantity": -1}])
    bench.load()
    bench.put("orders/2.csv", orders(1, first=9))
    bench.load()
    assert len(bench.raw("order_items")) == 1
    assert marks(bench) == [(2, False, False)]


def test_rows_of_a_refused_file_do_not_wait(bench: Bench) -> None:
    import pytest

    from nightmarket.errors import LandingRejected

    bench.put("order_items/2.csv", [ITEM])
    with pytest.raises(LandingRejected, match="unknown_reference in order_id: 1"):
        bench.load()
    assert bench.ask("from raw.waiting_order_items") == []
    bench.put("orders/2.csv", orders(1, first=9))
    bench.load()
    assert bench.aside() == []
    assert len(bench.raw("order_items")) == 2
