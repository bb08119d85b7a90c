"""What a value must be: every rule by an example, in text files and in typed ones."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nightmarket.contracts import LANDING

from .hand_landing import Bench

TABLES = ("products", "orders", "order_items", "reviews", "events")
COLUMNS = [*{column.name: None for table in TABLES for column in LANDING[table].columns}]
LENIENT = "[limits]\n" + "".join(f"{table} = 1.0\n" for table in TABLES)
ACCEPT = "[accept]\n" + "".join(f"{table} = {COLUMNS}\n" for table in TABLES)
GOOD: dict[str, dict[str, Any]] = {
    "products": {"product_id": "p1", "title": "T", "price": 1.0},
    "orders": {"order_id": "o1", "customer_id": "c0", "ordered_at": "2026-02-01T00:00:00"},
    "order_items": {"order_id": "o0", "line": 2, "product_id": "p0", "quantity": 1},
    "reviews": {"review_id": "r1", "product_id": "p0", "body": "B", "created_at": "2026-02-01T00:00:00"},
    "events": {"event_id": "e1", "customer_id": "c0", "event_type": "product_viewed", "occurred_at": "2026-02-01T00:00:00"},
}  # fmt: skip


Case = tuple[str, str, Any, str | None]


def judged_as_typed(bench: Bench, cases: list[Case]) -> list[Case]:
    """The cases with the rule that set each aside: a Parquet file a case, since each has a type of its own."""
    bench.toml(LENIENT + ACCEPT)
    for i, (table, column, value, _) in enumerate(cases):
        own = {next(iter(GOOD[table])): f"x{i}"} if table != "order_items" else {"line": 100 + i}
        bench.put(f"{table}/{i:03d}.parquet", [{**GOOD[table], **own, column: value}])
    bench.load()
    aside = {path: (rule, column) for path, _, rule, column in bench.aside()}
    found: list[Case] = []
    for i, (table, column, value, _) in enumerate(cases):
        name = f"{table}/{i:03d}.parquet"
        assert bench.landed(name)["rows_in"] == 1
        rule, where = aside.get(name, (None, column))
        assert where == column, (name, value)
        found.append((table, column, value, rule))
    return found


def judged_in_text(bench: Bench, cases: list[Case]) -> list[Case]:
    """The cases with the rule that set each aside: a CSV a table, a line a case."""
    bench.toml(LENIENT)
    rows: dict[str, list[dict[str, Any]]] = {}
    places: list[tuple[str, int]] = []
    for i, (table, column, value, _) in enumerate(cases):
        own = {next(iter(GOOD[table])): f"x{i}"} if table != "order_items" else {"line": 100 + i}
        before = rows.setdefault(table, [])
        line = 2 + len(before) + sum(str(v).count("\n") for row in before for v in row.values())
        places.append((f"{table}/2.csv", line))
        before.append({**GOOD[table], **own, column: value})
    for table, listed in rows.items():
        bench.put(f"{table}/2.csv", listed)
    bench.load()
    aside = {(path, line): (rule, column) for path, line, rule, column in bench.aside()}
    found: list[Case] = []
    for (table, column, value, _), place in zip(cases, places, strict=True):
        rule, where = aside.pop(place, (None, column))
        assert where == column, (place, value)
        found.append((table, column, value, rule))
    assert aside == {}
    return found


IN_TEXT: list[Case] = [
    ("orders", "order_id", "", "missing_key"),
    ("orders", "customer_id", "", "missing_value"),
    ("products", "title", "  ", "missing_value"),
    ("orders", "order_id", " o1", "bad_id"),
    ("orders", "order_id", "o  1", "bad_id"),
    ("orders", "order_id", "o'1", "bad_id"),
    ("orders", "order_id", 'o"1', "bad_id"),
    ("orders", "order_id", "o\\1", "bad_id"),
    ("orders", "order_id", "o😀", "bad_id"),
    ("orders", "order_id", "o\u202e1", "bad_id"),
    ("orders", "order_id", "o\u200b1", "bad_id"),
    ("orders", "order_id", "o\x001", "bad_id"),
    ("orders", "order_id", "o\n1", "bad_id"),
    ("orders", "order_id", "x" * 201, "bad_id"),
    ("orders", "order_id", "x" * 200, None),
    ("orders", "order_id", "订单 1/ä-#7:b", None),
    ("orders", "order_id", "طلب-1", None),
    ("orders", "ordered_at", "0001-01-01T00:00:00Z", "impossible_date"),
    ("orders", "ordered_at", "9999-12-31T23:59:59Z", "impossible_date"),
    ("orders", "ordered_at", "1989-12-31T23:59:59Z", "impossible_date"),
    ("orders", "ordered_at", "2026-02-30", "impossible_date"),
    ("orders", "ordered_at", "2027-03-04", "impossible_date"),
    ("orders", "ordered_at", "2027-03-03", None),
    ("orders", "ordered_at", "01/02/2026", "wrong_type"),
    ("orders", "ordered_at", "1769904000", "wrong_type"),
    ("orders", "ordered_at", "yesterday", "wrong_type"),
    ("orders", "ordered_at", "infinity", "wrong_type"),
    ("orders", "status", "lost", "not_accepted"),
    ("orders", "status", "Placed", "not_accepted"),
    ("orders", "status", "", None),
    ("orders", "discount", "-1", "out_of_range"),
    ("products", "price", "-0.01", "out_of_range"),
    ("products", "price", "1e308", "out_of_range"),
    ("products", "price", "1e400", "out_of_range"),
    ("products", "price", "1000000000.01", "out_of_range"),
    ("products", "price", "1e9", None),
    ("products", "price", "NaN", "not_finite"),
    ("products", "price", "-inf", "not_finite"),
    ("products", "price", "£5", "wrong_type"),
    ("products", "price", "1,50", "wrong_type"),
    ("products", "stock", "-3", None),
    ("products", "stock", "2.5", "wrong_type"),
    ("products", "stock", "3.0", None),
    ("products", "attributes", "{colour: red}", "invalid_json"),
    ("products", "attributes", '["red"]', "invalid_json"),
    ("products", "attributes", '{"a": NaN}', "invalid_json"),
    ("products", "attributes", '{"a": 1,}', "invalid_json"),
    ("products", "attributes", '{"a": "NaN, or a comma,}"}', None),
    ("products", "status", "gone", "not_accepted"),
    ("order_items", "line", "", "missing_key"),
    ("order_items", "quantity", "", "missing_value"),
    ("order_items", "quantity", "2147483648", "out_of_range"),
    ("order_items", "quantity", "-1", "out_of_range"),
    ("order_items", "quantity", "0", None),
    ("order_items", "quantity", "1.5", "wrong_type"),
    ("order_items", "quantity", "two", "wrong_type"),
    ("order_items", "quantity", "99999999999999999999999", "out_of_range"),
    ("order_items", "product_id", "p9", "unknown_reference"),
    ("order_items", "order_id", "o9", "unknown_reference"),
    ("reviews", "rating", "6", "out_of_range"),
    ("reviews", "rating", "4.5", None),
    ("reviews", "body", "", None),
    ("events", "event_type", "clicked", "not_accepted"),
    ("events", "properties", '{"q": 1}', None),
]  # fmt: skip


def test_a_value_in_a_csv_is_judged_by_its_rule(bench: Bench) -> None:
    assert repr(judged_in_text(bench, IN_TEXT)) == repr(IN_TEXT)


TYPED: list[Case] = [
    ("orders", "order_id", None, "missing_key"),
    ("orders", "order_id", "o\x001", "bad_id"),
    ("orders", "customer_id", 1.5, "wrong_type"),
    ("orders", "customer_id", float("nan"), "missing_value"),
    ("orders", "ordered_at", datetime(1, 1, 1), "impossible_date"),
    ("orders", "ordered_at", datetime(9999, 12, 31), "impossible_date"),
    ("orders", "ordered_at", 1769904000, "wrong_type"),
    ("products", "price", float("nan"), "not_finite"),
    ("products", "price", float("inf"), "not_finite"),
    ("products", "price", 1e308, "out_of_range"),
    ("products", "price", -1.0, "out_of_range"),
    ("products", "price", True, "wrong_type"),
    ("products", "title", [1], "wrong_type"),
    ("products", "attributes", [1], "wrong_type"),
    ("order_items", "quantity", 2**31, "out_of_range"),
    ("order_items", "quantity", 2.5, "wrong_type"),
    ("order_items", "quantity", 2.0, None),
    ("order_items", "quantity", "2", None),
    ("reviews", "body", None, "missing_value"),
    ("reviews", "body", "a\x00b", "nul_byte"),
]  # fmt: skip


def test_a_value_in_a_parquet_file_is_judged_by_its_rule(bench: Bench) -> None:
    assert repr(judged_as_typed(bench, TYPED)) == repr(TYPED)


def test_a_row_is_reported_once_by_the_first_rule_it_breaks(bench: Bench) -> None:
    bench.toml(LENIENT)
    bench.put("orders/2.csv", [{"order_id": "", "customer_id": "", "ordered_at": "x"}])
    bench.load()
    assert bench.aside() == [("orders/2.csv", 2, "missing_key", "order_id")]


def test_orders_need_no_customers_table_and_are_held_to_it_where_there_is_one(bench: Bench) -> None:
    bench.load()
    assert len(bench.raw("orders")) == 1
    bench.toml(LENIENT)
    bench.put("customers.csv", [{"customer_id": "c0"}])
    bench.put("orders/2.csv", [{**GOOD["orders"], "customer_id": "c9"}, {**GOOD["orders"], "order_id": "o2"}])
    bench.load()
    assert bench.aside() == [("orders/2.csv", 2, "unknown_reference", "customer_id")]
    assert len(bench.raw("orders")) == 2
