"""What `load` promises: each file once, one row a key, counts that add up, a night that says its day."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from datetime import date, datetime
from decimal import Decimal

import pytest

from nightmarket import landing, warehouse
from nightmarket.contracts import LANDING
from nightmarket.errors import LandingRejected, SettingMissing, ShopNotFound

from .hand_landing import DAY, Bench, orders


def test_every_table_of_the_contract_is_in_raw_also_when_the_shop_has_none(bench: Bench) -> None:
    bench.load()
    names = {
        row["table_name"]
        for row in bench.ask("select table_name from information_schema.tables where table_schema = 'raw'")
    }
    assert set(LANDING) | {"night"} <= names
    assert bench.raw("tickets") == []
    assert bench.raw("order_items", "order_id, line, product_id, quantity, unit_price, _path, _line, _batch, _extra") == [
        {"order_id": "o0", "line": 1, "product_id": "p0", "quantity": 1, "unit_price": None, "_path": "order_items.parquet",
         "_line": 1, "_batch": 1, "_extra": None}
    ]  # fmt: skip


def test_a_second_load_does_nothing_and_the_batch_stays(bench: Bench) -> None:
    first = bench.load()
    assert (first.rows_in, first.rows_out) == (3, 3)
    second = bench.load()
    assert (second.rows_in, second.rows_out, second.note) == (0, 0, "0 new files")
    assert bench.raw("night") == [
        {"day": DAY, "time_zone": "UTC", "currency": None, "shop": "shop", "batch": 1}
    ]
    assert len(bench.ask("from ops.landings")) == 3


def test_another_day_without_files_only_moves_the_day(bench: Bench) -> None:
    bench.load()
    bench.load(date(2026, 3, 3))
    assert [(r["day"], r["batch"]) for r in bench.raw("night")] == [(date(2026, 3, 3), 1)]


def test_a_copy_of_a_loaded_file_is_not_loaded_again(bench: Bench) -> None:
    bench.load()
    (bench.folder / "orders").mkdir()
    shutil.copy(bench.folder / "orders.parquet", bench.folder / "orders" / "again.parquet")
    assert bench.load().rows_in == 0


def test_a_touched_file_is_known_by_its_content(bench: Bench) -> None:
    bench.load()
    os.utime(bench.folder / "orders.parquet", (1, 1))
    assert bench.load().rows_in == 0


def test_a_file_with_new_content_under_an_old_name_is_loaded(bench: Bench) -> None:
    bench.text("articles.csv", "article_id,title,body,updated_at\na1,T,B,2026-01-01\n")
    bench.load()
    path = bench.folder / "articles.csv"
    told = path.stat()
    path.write_text("article_id,title,body,updated_at\na1,T,C,2026-01-01\n")
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))  # the same size and the same time of change
    bench.load()
    assert bench.raw("articles", "body, _batch") == [{"body": "C", "_batch": 2}]


def test_the_same_row_delivered_again_changes_nothing(bench: Bench) -> None:
    bench.load()
    bench.put("orders/2.csv", orders(1) + orders(1, first=5))
    outcome = bench.load()
    assert (outcome.rows_in, outcome.rows_out) == (2, 1)
    row = bench.landed("orders/2.csv")
    assert (row["rows_loaded"], row["rows_unchanged"]) == (1, 1)
    assert bench.raw("orders", "order_id, _batch, _path") == [
        {"order_id": "o0", "_batch": 1, "_path": "orders.parquet"},
        {"order_id": "o5", "_batch": 2, "_path": "orders/2.csv"},
    ]


def test_a_file_of_known_rows_alone_does_not_make_a_new_batch(bench: Bench) -> None:
    bench.load()
    bench.put("orders/2.csv", orders(1))
    bench.load()
    assert bench.raw("night", "batch") == [{"batch": 1}]


def test_a_later_row_replaces_an_earlier_one_with_its_key(bench: Bench) -> None:
    bench.load()
    bench.put("orders/2.csv", orders(1, status="cancelled"))
    bench.load()
    assert bench.raw("orders", "order_id, status, _batch, _path") == [
        {"order_id": "o0", "status": "cancelled", "_batch": 2, "_path": "orders/2.csv"}
    ]


def test_of_two_rows_with_a_key_in_a_file_the_later_wins_and_one_counts_as_duplicate(bench: Bench) -> None:
    bench.put("orders/2.csv", orders(1, first=7, channel="shop") + orders(1, first=7, channel="web"))
    bench.load()
    row = bench.landed("orders/2.csv")
    assert (row["rows_in"], row["rows_loaded"], row["rows_duplicate"]) == (2, 1, 1)
    assert bench.ask("select channel, _line from raw.orders where order_id = 'o7'") == [
        {"channel": "web", "_line": 3}
    ]


def test_files_of_a_folder_load_in_the_order_of_their_names(bench: Bench) -> None:
    bench.put("orders/2026-03-02.csv", orders(1, channel="later"))
    bench.put("orders/2026-03-01.jsonl", orders(1, channel="earlier"))
    bench.load()
    assert bench.raw("orders", "channel") == [{"channel": "later"}]


def test_referenced_tables_load_first_whatever_the_names_of_the_files(bench: Bench) -> None:
    bench.put("order_items/a.csv", [{"order_id": "o9", "line": 1, "product_id": "p9", "quantity": 2}])
    bench.put("orders/z.csv", orders(1, first=9))
    bench.put("products/z.jsonl", [{"product_id": "p9", "title": "Cup"}])
    bench.load()
    assert bench.aside() == []
    assert len(bench.raw("order_items")) == 2


def test_money_is_exact_and_times_are_stored_in_utc(bench: Bench) -> None:
    bench.text(
        "orders/2.csv", "order_id,customer_id,ordered_at,discount\no1,c0,2026-02-01T01:30:00+02:00,0.1\n"
    )
    bench.text(
        "orders/1.jsonl", '{"order_id":"o2","customer_id":5,"ordered_at":"2026-02-01 10:00","discount":0.1}\n'
    )
    bench.load()
    assert bench.ask(
        "select order_id, customer_id, ordered_at, discount from raw.orders where order_id > 'o0' order by 1"
    ) == [
        {
            "order_id": "o1",
            "customer_id": "c0",
            "ordered_at": datetime(2026, 1, 31, 23, 30),
            "discount": Decimal("0.1000"),
        },
        {
            "order_id": "o2",
            "customer_id": "5",
            "ordered_at": datetime(2026, 2, 1, 10),
            "discount": Decimal("0.1000"),
        },
    ]


def test_hidden_and_unfinished_files_are_passed_over_and_unknown_ones_are_named(bench: Bench) -> None:
    for name in (".orders.csv.swp", "orders.csv.tmp", "orders/.part-1.csv", "orders/2.csv.part", "_SUCCESS"):
        bench.text(name, "x")
    bench.text("ordres.csv", "x")
    bench.text("returns/1.csv", "x")
    note = bench.load().note
    assert "ordres.csv is no file of the landing contract and was not read (did you mean `orders`?)" in note
    assert "the folder returns/ is no table of the landing contract and was not read" in note
    assert "swp" not in note and "tmp" not in note and "part" not in note and "SUCCESS" not in note


def test_an_unchanged_night_of_150_files_takes_less_than_a_second(bench: Bench) -> None:
    for i in range(150):
        bench.put(f"orders/{i:03d}.csv", orders(2, first=2 * i))
    bench.load()
    begin = time.perf_counter()
    assert bench.load().rows_in == 0
    assert time.perf_counter() - begin < 1.0


def test_an_empty_file_and_a_header_alone_give_no_rows_and_a_notice(bench: Bench) -> None:
    bench.text("tickets.csv", "")
    bench.text("events.jsonl.gz", gzip.compress(b""))
    bench.text("articles.csv", "article_id,title,body,updated_at\r\n")
    bench.text("orders/2.parquet", b"")
    outcome = bench.load()
    for name in ("tickets.csv", "events.jsonl.gz", "articles.csv", "orders/2.parquet"):
        assert bench.landed(name)["rows_in"] == 0
        assert f"{name} has no rows" in outcome.note


def test_an_empty_shop_says_which_table_has_no_rows(bench: Bench) -> None:
    bench.text("products.csv", "product_id,title\n")
    (bench.folder / "products.parquet").unlink()
    with pytest.raises(LandingRejected, match="The shop shop is empty: no row of `products` was ever loaded"):
        bench.load()


def test_a_shop_without_a_required_table_is_not_found(bench: Bench) -> None:
    (bench.folder / "orders.parquet").unlink()
    with pytest.raises(ShopNotFound, match="orders"):
        bench.load()


def test_a_shop_with_one_customer_and_one_order_loads(bench: Bench) -> None:
    bench.put("customers.csv", [{"customer_id": "c0"}])
    assert bench.load().rows_out == 4


def test_a_refused_file_leaves_the_files_before_it_and_the_rows_that_were_there(bench: Bench) -> None:
    bench.load()
    bench.put("products/2.csv", [{"product_id": "p1", "title": "Cup", "price": 3}])
    bench.put("orders/2.csv", orders(3, first=1) + orders(1, first=4, status="lost"))
    with pytest.raises(LandingRejected) as refused:
        bench.load()
    said = str(refused.value)
    assert "orders/2.csv (table orders): 1 of 4 rows (25.0%) break the contract, the limit is 1.0%" in said
    assert "not_accepted in status: 1 (lines 5)" in said and "placed, cancelled, refunded" in said
    assert len(bench.raw("products")) == 2 and len(bench.raw("orders")) == 1
    row = bench.landed("orders/2.csv")
    assert (row["status"], row["rows_in"], row["rows_loaded"], row["rows_quarantined"]) == (
        "rejected",
        4,
        0,
        1,
    )
    assert bench.aside() == [("orders/2.csv", 5, "not_accepted", "status")]


def test_a_refused_file_is_tried_again_and_leaves_one_trace(bench: Bench) -> None:
    bench.put("orders/2.csv", orders(1, first=1, status="lost"))
    for _ in range(3):
        with pytest.raises(LandingRejected):
            bench.load()
    assert len(bench.aside()) == 1
    bench.put("orders/2.csv", orders(1, first=1, status="placed"))
    bench.load()
    assert bench.aside() == []
    assert [
        r["status"] for r in bench.ask("select status from ops.landings where path = 'orders/2.csv'")
    ] == ["loaded"]


def test_shop_toml_can_raise_the_limit_of_a_table(bench: Bench) -> None:
    bench.put("orders/2.csv", orders(3, first=1) + orders(1, first=4, status="lost"))
    bench.toml("[limits]\norders = 0.25\n")
    outcome = bench.load()
    assert "orders/2.csv: 1 of 4 rows were set aside in ops.quarantine" in outcome.note
    row = bench.landed("orders/2.csv")
    assert (row["status"], row["rows_loaded"], row["rows_quarantined"]) == ("loaded", 3, 1)


@pytest.mark.parametrize(
    "text", ["[limits]\norders = 2\n", "[limits]\nordres = 0.1\n", '[accept]\norders = "channel"\n']
)
def test_a_shop_toml_that_cannot_be_used_says_so(bench: Bench, text: str) -> None:
    bench.toml(text)
    with pytest.raises(SettingMissing, match=r"shop\.toml"):
        bench.load()


def test_a_quarantine_row_hides_personal_and_unknown_columns(bench: Bench) -> None:
    bench.toml("[limits]\ncustomers = 1.0\n")
    bench.put(
        "customers.csv",
        [{"customer_id": "c\u202e1", "email": "ann@example.com", "country": "GB", "address": "1 Elm St"}],
    )
    bench.load()
    [row] = bench.ask("select payload, what_to_do, seen_at, replayed_at from ops.quarantine")
    assert row["payload"] == (
        '{"customer_id": "c\u202e1", "email": "[hidden, 15 characters]", "country": "GB", "address": "[hidden, 8 characters]"}'
    )
    assert row["what_to_do"].startswith("Give the row an id of at most 200")
    assert row["seen_at"] and row["replayed_at"] is None


def test_a_failure_in_the_middle_of_a_file_keeps_nothing_of_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.load()
    bench.put("orders/2.csv", orders(5, first=1))

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(landing.records, "note_landing", fail)
        with pytest.raises(KeyboardInterrupt):
            bench.load()
    assert len(bench.raw("orders")) == 1
    assert bench.raw("night", "batch") == [{"batch": 1}]
    bench.load()
    assert len(bench.raw("orders")) == 6


def test_columns_that_the_contract_gained_are_added_to_a_warehouse_that_is_there(bench: Bench) -> None:
    bench.load()
    with warehouse.writer() as connection:
        connection.execute("alter table raw.orders drop column channel")
    bench.put("orders/2.csv", orders(1, channel="web"))
    bench.load()
    assert bench.raw("orders", "channel") == [{"channel": "web"}]
