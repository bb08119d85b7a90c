"""Columns: renamed, missing, unknown, and those that changed since the last file."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from nightmarket.errors import LandingRejected

from .hand_landing import Bench

BASE: dict[str, Any] = {"order_id": "o1", "customer_id": "c0", "ordered_at": "2026-02-01T00:00:00Z"}


def test_a_missing_required_column_stops_before_any_row_and_suggests_the_nearest(bench: Bench) -> None:
    bench.text("orders/2.csv", "order_id,customer,ordered_at\no1,c0,2026-02-01\n")
    with pytest.raises(LandingRejected) as refused:
        bench.load()
    assert (
        "orders/2.csv (table orders) lacks the required column `customer_id`. did you mean `customer`? Then add to shop.toml: "
        '[renames.orders] "customer" = "customer_id".'
    ) in str(refused.value)
    assert len(bench.raw("orders")) == 1
    assert bench.aside() == []


def test_a_header_without_commas_says_so(bench: Bench) -> None:
    bench.text("orders/2.csv", "order_id;customer_id;ordered_at\no1;c0;2026-02-01\n")
    with pytest.raises(LandingRejected, match="the contract's CSV is separated by commas"):
        bench.load()


def test_a_rename_of_shop_toml_is_applied_in_every_format(bench: Bench) -> None:
    bench.toml('[renames.orders]\n"Kunde" = "customer_id"\n')
    bench.put("orders/2.csv", [{"order_id": "o1", "Kunde": "c1", "ordered_at": "2026-02-01"}])
    bench.put("orders/3.jsonl", [{"order_id": "o2", "Kunde": "c2", "ordered_at": "2026-02-01"}])
    bench.put("orders/4.parquet", [{"order_id": "o3", "Kunde": "c3", "ordered_at": datetime(2026, 2, 1)}])
    bench.load()
    assert [r["customer_id"] for r in bench.raw("orders", "customer_id")] == ["c0", "c1", "c2", "c3"]


def test_two_columns_that_mean_one_are_refused(bench: Bench) -> None:
    bench.toml('[renames.orders]\n"Kunde" = "customer_id"\n')
    bench.put("orders/2.csv", [{**BASE, "Kunde": "c1"}])
    with pytest.raises(LandingRejected, match="`customer_id` and `Kunde` both mean `customer_id`"):
        bench.load()


def test_an_unknown_column_is_kept_aside_with_a_notice(bench: Bench) -> None:
    bench.put("orders/2.csv", [{**BASE, "it's new": 'a "b"'}])
    bench.put("orders/3.jsonl", [{**BASE, "order_id": "o2", "it's new": None}])
    bench.put(
        "orders/4.parquet",
        [{**BASE, "order_id": "o3", "ordered_at": datetime(2026, 2, 1, tzinfo=UTC), "weight": 1.5}],
    )
    note = bench.load().note
    assert (
        "orders/2.csv: the column `it's new` is not in the contract; kept aside in raw.orders._extra" in note
    )
    assert bench.raw("orders", "order_id, _extra") == [
        {"order_id": "o0", "_extra": None},
        {"order_id": "o1", "_extra": '{"it\'s new":"a \\"b\\""}'},
        {"order_id": "o2", "_extra": None},
        {"order_id": "o3", "_extra": '{"weight":1.5}'},
    ]


def test_names_that_differ_in_case_alone_are_two_columns(bench: Bench) -> None:
    bench.put("products/2.parquet", [{"product_id": "p1", "title": "T", "Title": "X", "price": 1.0}])
    bench.load()
    assert bench.ask("select title, _extra from raw.products where product_id = 'p1'") == [
        {"title": "T", "_extra": '{"Title":"X"}'}
    ]


def test_an_added_column_is_a_notice(bench: Bench) -> None:
    bench.load()
    bench.put("orders/2.csv", [{**BASE, "channel": "web"}])
    assert "the column `channel` is new" in bench.load().note


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"channel": "web"}, {}, "the column `channel` is gone"),
        ({"discount": 1.5}, {"discount": "1.5"}, "the column `discount` was number and is text"),
        ({"customer_id": 7}, {"customer_id": "7"}, "the column `customer_id` was whole and is text"),
        (
            {"ordered_at": datetime(2026, 2, 1, tzinfo=UTC)},
            {"ordered_at": datetime(2026, 2, 1)},
            "the column `ordered_at` was zoned time and is naive time",
        ),
    ],
)
def test_a_column_that_changed_stops_before_any_row_and_can_be_accepted(
    bench: Bench, before: dict[str, Any], after: dict[str, Any], said: str
) -> None:
    at = {"ordered_at": datetime(2026, 2, 1, tzinfo=UTC)}
    (bench.folder / "orders.parquet").unlink()
    bench.put("orders/1.parquet", [{**BASE, **at, "order_id": "o0", **before}])
    bench.load()
    bench.put("orders/2.parquet", [{**BASE, **at, **after}])
    with pytest.raises(LandingRejected) as refused:
        bench.load()
    column = said.split("`")[1]
    assert said in str(refused.value)
    assert f'[accept] orders = ["{column}"]' in str(refused.value)
    assert len(bench.raw("orders")) == 1
    bench.toml(f'[accept]\norders = ["{column}"]\n')
    bench.load()
    assert len(bench.raw("orders")) == 2


def test_a_renamed_column_is_recognised_as_such(bench: Bench) -> None:
    bench.put("orders/1.csv", [{**BASE, "channel": "web"}])
    bench.put("orders/2.csv", [{**BASE, "sales_channel": "web"}])
    with pytest.raises(
        LandingRejected,
        match=r'If `sales_channel` is its new name.*\[renames.orders\] "sales_channel" = "channel"',
    ):
        bench.load()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_time_that_loses_its_zone_stops_in_text_files_too(bench: Bench, form: str) -> None:
    bench.put(f"orders/1.{form}", [BASE])
    bench.put(f"orders/2.{form}", [{**BASE, "ordered_at": "2026-02-01T10:00:00"}])
    with pytest.raises(LandingRejected, match="was zoned time and is naive time"):
        bench.load()


def test_a_number_that_becomes_a_text_stops_in_json_lines(bench: Bench) -> None:
    bench.put("orders/1.jsonl", [{**BASE, "discount": 1}])
    bench.put("orders/2.jsonl", [{**BASE, "discount": "1"}])
    with pytest.raises(LandingRejected, match="`discount` was number and is text"):
        bench.load()


def test_columns_without_values_and_whole_numbers_among_decimals_are_no_change(bench: Bench) -> None:
    at = {"ordered_at": datetime(2026, 2, 1, tzinfo=UTC)}
    bench.put("orders/1.parquet", [{**BASE, **at, "discount": 1.5, "channel": None}])
    bench.put("orders/2.parquet", [{**BASE, **at, "order_id": "o2", "discount": 2}])
    bench.put("orders/3.parquet", [{**BASE, **at, "order_id": "o3", "discount": None}])
    bench.put("orders/4.jsonl", [{**BASE, "order_id": "o4"}])
    bench.load()
    assert len(bench.raw("orders")) == 5
