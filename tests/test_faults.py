"""Faults of input, end to end through landing: what a shop may send, and what becomes of it.

F16 (volume) is the gate's and tested with it; here is what landing owes to F17 to F24. After each: nothing that was
loaded before is lost, and rows in = loaded + unchanged + duplicate + quarantined.
"""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightmarket import landing, warehouse
from nightmarket.errors import LandingRejected

from .conftest import TINY_DAY, write_tiny_shop

TABLES = ("products", "customers", "orders", "order_items")


@pytest.fixture
def shop(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny shop, loaded once, in a folder that a test may write to."""
    from nightmarket.settings import get_settings

    folder = write_tiny_shop(tmp_path / "tiny")
    monkeypatch.setenv("NIGHTMARKET_SHOP", str(folder))
    get_settings.cache_clear()
    landing.load_night(TINY_DAY, "first")
    return folder


def ask(sql: str) -> list[dict[str, Any]]:
    return warehouse.read(sql).to_pylist()


def state() -> dict[str, list[dict[str, Any]]]:
    """Everything raw holds."""
    return {table: ask(f"select * from raw.{table} order by all") for table in TABLES}


def rows_of(shop: Path, table: str) -> list[dict[str, Any]]:
    return pq.read_table(shop / f"{table}.parquet").to_pylist()


def deliver(shop: Path, name: str, rows: list[dict[str, Any]]) -> None:
    path = shop / name
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def adds_up() -> None:
    files = ask("from ops.landings")
    assert files
    for row in files:
        if row["status"] == "loaded":
            told = (
                row["rows_loaded"] + row["rows_unchanged"] + row["rows_duplicate"] + row["rows_quarantined"]
            )
            assert row["rows_in"] == told, row["path"]
    aside = ask("select landing, count(*) as n from ops.quarantine group by all order by all")
    counted = {row["landing"]: row["rows_quarantined"] for row in files if row["rows_quarantined"]}
    assert {row["landing"]: row["n"] for row in aside} == counted


def test_f16_an_empty_delivery_takes_nothing_away(shop: Path) -> None:
    before = state()
    for table in TABLES:
        folder = shop / table
        folder.mkdir()
        (folder / "2026-03-02.csv").write_text(",".join(rows_of(shop, table)[0]) + "\n")
    landing.load_night(TINY_DAY, "second")
    assert state() == before
    adds_up()


def test_f17_the_same_file_and_the_same_lines_again_change_no_total(shop: Path) -> None:
    before = state()
    (shop / "orders").mkdir()
    (shop / "orders" / "copy.parquet").write_bytes((shop / "orders.parquet").read_bytes())
    items = rows_of(shop, "order_items")
    random.Random(1).shuffle(items)
    deliver(shop, "order_items/again.parquet", items + items[:10])
    outcome = landing.load_night(TINY_DAY, "second")
    assert outcome.rows_out == 0
    assert state() == before
    row = ask("select * from ops.landings where path = 'order_items/again.parquet'")[0]
    assert (row["rows_unchanged"], row["rows_duplicate"], row["rows_loaded"]) == (len(items), 10, 0)
    adds_up()


def test_f18_late_rows_and_refunds_replace_what_they_correct_and_carry_the_new_batch(shop: Path) -> None:
    items = rows_of(shop, "order_items")
    orders = rows_of(shop, "orders")
    late = {**orders[0], "order_id": "late", "ordered_at": datetime(2026, 2, 26, 9)}
    deliver(shop, "orders/2026-03-02.parquet", [late])
    refund = {**items[0], "refunded_quantity": items[0]["quantity"]}
    deliver(shop, "order_items/2026-03-02.parquet", [refund, {**items[1], "order_id": "late"}])
    landing.load_night(date(2026, 3, 3), "second")
    assert len(ask("from raw.order_items")) == len(items) + 1
    assert ask(
        "select order_id, line, refunded_quantity from raw.order_items where _batch = 2 order by 1 desc, 2"
    ) == [
        {"order_id": refund["order_id"], "line": refund["line"], "refunded_quantity": refund["quantity"]},
        {"order_id": "late", "line": items[1]["line"], "refunded_quantity": 0},
    ]
    adds_up()


def test_f19_an_added_column_is_ignored_with_a_notice(shop: Path) -> None:
    deliver(shop, "orders/2.parquet", [{**rows_of(shop, "orders")[0], "order_id": "new", "till": "4"}])
    note = landing.load_night(TINY_DAY, "second").note
    assert "the column `till` is not in the contract" in note
    assert ask("select _extra from raw.orders where order_id = 'new'") == [{"_extra": '{"till":"4"}'}]
    adds_up()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: {k: v for k, v in row.items() if k != "channel"}, "the column `channel` is gone"),
        (
            lambda row: {("kanal" if k == "channel" else k): v for k, v in row.items()},
            "If `kanal` is its new name",
        ),
        (
            lambda row: {k: v for k, v in row.items() if k != "customer_id"},
            "lacks the required column `customer_id`",
        ),
        (lambda row: {**row, "order_id": 7}, "the column `order_id` was text and is whole"),
        (
            lambda row: {**row, "ordered_at": "2026-03-01 10:00"},
            "the column `ordered_at` was naive time and is text",
        ),
    ],
)
def test_f19_any_other_drift_stops_before_a_row_lands_and_names_the_column(
    shop: Path, change: Any, said: str
) -> None:
    before = state()
    deliver(
        shop,
        "orders/2.parquet",
        [change({**row, "order_id": f"n{i}"}) for i, row in enumerate(rows_of(shop, "orders"))],
    )
    with pytest.raises(LandingRejected) as refused:
        landing.load_night(TINY_DAY, "second")
    assert said in str(refused.value) and "orders/2.parquet" in str(refused.value)
    assert state() == before
    adds_up()


def test_f19_a_time_that_loses_its_zone_stops(shop: Path) -> None:
    first = {
        **rows_of(shop, "orders")[0],
        "order_id": "z1",
        "ordered_at": datetime(2026, 3, 1, 9, tzinfo=UTC),
    }
    deliver(shop, "orders/2.parquet", [first])
    landing.load_night(TINY_DAY, "second")
    deliver(shop, "orders/3.parquet", [{**first, "order_id": "z2", "ordered_at": datetime(2026, 3, 1, 9)}])
    with pytest.raises(LandingRejected, match="`ordered_at` was zoned time and is naive time"):
        landing.load_night(TINY_DAY, "third")


POISON: list[tuple[dict[str, Any], str]] = [
    ({"product_id": None}, "missing_key"), ({"title": None}, "missing_value"), ({"price": -1.0}, "out_of_range"),
    ({"price": 1e308}, "out_of_range"), ({"price": float("nan")}, "not_finite"), ({"price": float("inf")}, "not_finite"),
    ({"updated_at": datetime(1, 1, 1)}, "impossible_date"), ({"updated_at": datetime(9999, 12, 31)}, "impossible_date"),
    ({"stock": 2**31}, "out_of_range"), ({"product_id": " p 1 "}, "bad_id"), ({"product_id": "p'; drop table raw.orders--"}, "bad_id"),
    ({"product_id": "p😀"}, "bad_id"), ({"product_id": "p\u202e1"}, "bad_id"), ({"product_id": "p\x001"}, "bad_id"),
    ({"description": "x" * 10_000_000}, "text_too_long"), ({"description": "a\x00b"}, "nul_byte"),
    ({"attributes": "{not json"}, "invalid_json"), ({"status": "lost"}, "not_accepted"),
]  # fmt: skip


def poisoned(clean: int) -> list[dict[str, Any]]:
    row = {"description": "d", "brand": "b", "category": "c", "price": 1.0, "attributes": None, "stock": 1, "status": "active",
           "locale": "en", "updated_at": datetime(2026, 3, 1)}  # fmt: skip
    good = [{"product_id": f"n{i}", "title": "T", **row} for i in range(clean)]
    return good + [{"product_id": f"bad{i}", "title": "T", **row, **bad} for i, (bad, _) in enumerate(POISON)]


def test_f20_poison_below_the_share_is_set_aside_with_its_reason_and_the_night_goes_on(shop: Path) -> None:
    rows = poisoned(2000)
    deliver(shop, "products/2.parquet", rows)
    outcome = landing.load_night(TINY_DAY, "second")
    assert outcome.rows_out == 2000
    aside = ask("select line, rule, payload, what_to_do from ops.quarantine order by line")
    assert [(row["line"], row["rule"]) for row in aside] == [
        (2001 + i, rule) for i, (_, rule) in enumerate(POISON)
    ]
    assert all(row["what_to_do"] for row in aside)
    assert max(len(row["payload"]) for row in aside) < 2000
    assert ask("select count(*) as n from raw.products where product_id like 'bad%'") == [{"n": 0}]
    adds_up()


def test_f20_poison_above_the_share_stops_and_keeps_nothing_of_the_file(shop: Path) -> None:
    before = state()
    deliver(shop, "products/2.parquet", poisoned(1500))
    with pytest.raises(LandingRejected) as refused:
        landing.load_night(TINY_DAY, "second")
    said = str(refused.value)
    assert (
        "products/2.parquet (table products): 18 of 1518 rows (1.2%) break the contract, the limit is 1.0%"
        in said
    )
    assert "bad_id in product_id: 5 (lines 1510, 1511, 1512, 1513, 1514)" in said
    assert state() == before
    adds_up()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"review_id,product_id,body,created_at\nr1,p00,caf\xe9,2026-02-01\n",
            "byte 0xe9 at offset 47, line 2",
        ),
        (
            "review_id,product_id,body,created_at\nr1,p00,b,2026-02-01\n".encode("utf-16"),
            "it begins as UTF-16 does",
        ),
        (
            b'review_id,product_id,body,created_at\nr1,p00,"b,2026-02-01\n',
            "opens a quote in the record of line 2",
        ),
    ],
)
def test_f21_a_file_that_cannot_be_read_as_it_should_be_is_refused_whole(
    shop: Path, content: bytes, said: str
) -> None:
    before = state()
    (shop / "reviews.csv").write_bytes(content)
    with pytest.raises(LandingRejected) as refused:
        landing.load_night(TINY_DAY, "second")
    assert said in str(refused.value) and "reviews.csv" in str(refused.value)
    assert state() == before
    (shop / "reviews.csv").unlink()
    landing.load_night(TINY_DAY, "third")
    assert state() == before


def test_f21_byte_order_mark_crlf_and_embedded_newlines_shift_no_column(shop: Path) -> None:
    (shop / "reviews.csv").write_bytes(
        b'\xef\xbb\xbfreview_id,product_id,body,created_at\r\nr1,p00,"two\r\nlines, one\ncomma",2026-02-01\r\nr2,p01,x,2026-02-02\r\n'
    )
    landing.load_night(TINY_DAY, "second")
    assert ask("select review_id, product_id, body, created_at, _line from raw.reviews order by 1") == [
        {"review_id": "r1", "product_id": "p00", "body": "two\r\nlines, one\ncomma", "created_at": datetime(2026, 2, 1), "_line": 2},
        {"review_id": "r2", "product_id": "p01", "body": "x", "created_at": datetime(2026, 2, 2), "_line": 5},
    ]  # fmt: skip
    adds_up()


def test_f21_a_parquet_file_cut_in_the_middle_stops_the_load_and_is_named(shop: Path) -> None:
    before = state()
    whole = (shop / "order_items.parquet").read_bytes()
    (shop / "order_items").mkdir()
    (shop / "order_items" / "2.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LandingRejected, match=r"order_items/2\.parquet .*is no whole Parquet file"):
        landing.load_night(TINY_DAY, "second")
    assert state() == before
    assert ask("select status, rows_in from ops.landings where path = 'order_items/2.parquet'") == [
        {"status": "rejected", "rows_in": 0}
    ]


def test_f22_a_customer_with_200000_orders_lands_in_bounded_time(shop: Path) -> None:
    count = 200_000
    at = datetime(2026, 2, 1)
    orders = pa.table({
        "order_id": [f"bot{i}" for i in range(count)], "customer_id": ["c000"] * count,
        "ordered_at": pa.array([at + timedelta(seconds=i) for i in range(count)], pa.timestamp("us")),
        "status": ["placed"] * count, "channel": ["web"] * count,
    })  # fmt: skip
    (shop / "orders").mkdir()
    pq.write_table(orders, shop / "orders" / "bot.parquet")
    begin = datetime.now()
    assert landing.load_night(TINY_DAY, "second").rows_out == count
    assert datetime.now() - begin < timedelta(seconds=20)
    adds_up()


def test_f23_a_product_that_is_archived_or_sold_out_later_replaces_its_row(shop: Path) -> None:
    row = rows_of(shop, "products")[0]
    deliver(
        shop,
        "products/2.parquet",
        [{**row, "status": "archived", "stock": 0}, {**row, "product_id": "brand-new"}],
    )
    landing.load_night(TINY_DAY, "second")
    assert ask("select product_id, status, stock from raw.products where _batch = 2 order by 1") == [
        {"product_id": "brand-new", "status": "active", "stock": 20},
        {"product_id": row["product_id"], "status": "archived", "stock": 0},
    ]
    adds_up()


def test_f24_lines_of_unknown_orders_and_products_wait_and_are_never_taken_for_others(shop: Path) -> None:
    (shop / "shop.toml").write_text('name = "Tiny"\n[limits]\norder_items = 0.5\n')
    item = rows_of(shop, "order_items")[0]
    strange = [
        {**item, "line": 90 + i, **other}
        for i, other in enumerate([{}, {}, {"product_id": "pX"}, {"order_id": "oX"}])
    ]
    deliver(shop, "order_items/2.parquet", strange)
    landing.load_night(TINY_DAY, "second")
    assert ask("select rule, column_name from ops.quarantine order by line") == [
        {"rule": "unknown_reference", "column_name": "product_id"}, {"rule": "unknown_reference", "column_name": "order_id"},
    ]  # fmt: skip
    assert ask("select count(*) as n from raw.order_items where product_id = 'pX' or order_id = 'oX'") == [
        {"n": 0}
    ]
    deliver(shop, "products/2.parquet", [{**rows_of(shop, "products")[0], "product_id": "pX"}])
    assert "1 rows replayed" in landing.load_night(TINY_DAY, "third").note
    assert ask("select count(*) as n from raw.order_items where product_id = 'pX'") == [{"n": 1}]
    adds_up()
