"""Folders as shops: what is found, what is said when something is missing, and which day is the default."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightmarket.errors import SettingMissing, ShopNotFound
from nightmarket.shops import Shop, default_day, format_of, open_shop, slug_of


def shop_of(
    folder: Path, orders: str = "order_id,customer_id,ordered_at\n1,a,2026-03-01T12:00:00Z\n", toml: str = ""
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "products.csv").write_text("product_id,title\np,Tea\n")
    (folder / "orders.csv").write_text(orders)
    (folder / "order_items.csv").write_text("order_id,line,product_id,quantity\n1,1,p,1\n")
    if toml:
        (folder / "shop.toml").write_text(toml)
    return folder


def opened(folder: Path) -> Shop:
    return open_shop(str(folder), landing_root=folder / "never")


def test_a_folder_is_opened_in_place_and_nothing_is_written(tmp_path: Path) -> None:
    folder = shop_of(
        tmp_path / "My Shop",
        toml='name = "Mine"\ncurrency = "EUR"\ntime_zone = "Europe/Rome"\nlocales = ["it", "en"]\n',
    )
    shop = opened(folder)
    assert (shop.name, shop.currency, shop.time_zone, shop.locales) == (
        "Mine",
        "EUR",
        "Europe/Rome",
        ("it", "en"),
    )
    assert shop.folder == folder and shop.slug == slug_of(str(folder)) and shop.slug.startswith("my_shop-")
    assert sorted(p.name for p in folder.iterdir()) == [
        "order_items.csv",
        "orders.csv",
        "products.csv",
        "shop.toml",
    ]


def test_without_a_shop_toml_the_shop_is_its_folder_in_utc(tmp_path: Path) -> None:
    shop = opened(shop_of(tmp_path / "plain"))
    assert (shop.name, shop.currency, shop.time_zone, shop.locales, shop.renames) == (
        "plain",
        None,
        "UTC",
        ("en",),
        {},
    )


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShopNotFound, match=r"nowhere does not exist. Give `demo`, `completejourney`"):
        opened(tmp_path / "nowhere")


def test_a_file_is_no_shop(tmp_path: Path) -> None:
    (tmp_path / "shop.zip").write_text("")
    with pytest.raises(ShopNotFound, match="is a file, not a folder"):
        opened(tmp_path / "shop.zip")


def test_missing_tables_are_named_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("product_id,title\n")
    (tmp_path / "orders").mkdir()
    with pytest.raises(ShopNotFound, match=r"has no orders and no order_items.*Found: orders/, products.csv"):
        opened(tmp_path)


def test_an_empty_folder_is_no_shop(tmp_path: Path) -> None:
    with pytest.raises(
        ShopNotFound, match=r"has no products and no orders and no order_items.*Found: nothing"
    ):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("name = ", "is not TOML"),
        ('time_zone = "Mars/Olympus"', "no IANA zone"),
        ('time_zone = "../../etc/passwd"', "no IANA zone"),
        ("currency = 5", "`currency` is 5, and must be a text"),
        ('locales = "en"', "must be a list of texts"),
        ('[renames.order]\na = "order_id"', r"\[renames.order\] is no table of the contract"),
        (
            '[renames.orders]\norder_id = "OrderNo"',
            "has no column 'OrderNo'. The shop's own name comes first",
        ),
        ('[renames.orders]\na = "order_id"\nb = "order_id"', "two names"),
    ],
)
def test_a_shop_toml_that_cannot_be_used_says_where(tmp_path: Path, toml: str, said: str) -> None:
    with pytest.raises(SettingMissing, match=said) as caught:
        opened(shop_of(tmp_path, toml=toml))
    assert "shop.toml" in str(caught.value)


def test_files_come_in_the_order_of_their_days(tmp_path: Path) -> None:
    shop_of(tmp_path)
    (tmp_path / "orders").mkdir()
    for name in (
        "2026-11-19.csv",
        "2026-11.parquet",
        "2026-11-20.csv.gz",
        ".hidden.csv",
        "notes.xlsx",
        "2026-10.jsonl",
    ):
        (tmp_path / "orders" / name).write_text("")
    (tmp_path / "readme.md").write_text("")
    shop = opened(tmp_path)
    assert [p.name for p in shop.files("orders")] == [
        "orders.csv",
        "2026-10.jsonl",
        "2026-11.parquet",
        "2026-11-19.csv",
        "2026-11-20.csv.gz",
    ]
    assert [p.name for p in shop.unread()] == ["notes.xlsx", "readme.md"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.parquet", "parquet"), ("a.CSV", "csv"), ("2026.11.csv.gz", "csv"), ("a.jsonl.gz", "jsonl"), ("a.ndjson", "jsonl"),
     ("a.gz", None), ("a.parquet.gz", None), ("a.txt", None), ("a", None)],
)  # fmt: skip
def test_the_ending_tells_the_format(name: str, kind: str | None) -> None:
    assert format_of(Path(name)) == kind


def test_the_default_day_follows_the_last_event_of_any_table(tmp_path: Path) -> None:
    shop_of(tmp_path)
    (tmp_path / "reviews.jsonl").write_text(
        '{"review_id": "1", "created_at": "2026-03-04T08:00:00Z"}\nnot json\n'
    )
    with gzip.open(tmp_path / "tickets.csv.gz", "wt") as stream:
        stream.write('ticket_id,body,opened_at\n1,"two\nlines, ""quoted""",2026-03-06T23:00:00+00:00\n')
    assert default_day(opened(tmp_path)) == date(2026, 3, 7)


def test_a_day_begins_in_the_shops_own_zone(tmp_path: Path) -> None:
    orders = "order_id,customer_id,ordered_at\n1,a,2026-03-01T16:30:00Z\n"
    assert default_day(opened(shop_of(tmp_path / "a", orders))) == date(2026, 3, 2)
    assert default_day(opened(shop_of(tmp_path / "b", orders, 'time_zone = "Asia/Singapore"'))) == date(
        2026, 3, 3
    )
    late = "order_id,customer_id,ordered_at\n1,a,2026-03-01T03:30:00Z\n"
    assert default_day(opened(shop_of(tmp_path / "c", late, 'time_zone = "America/New_York"'))) == date(
        2026, 3, 1
    )


def test_an_offset_in_the_time_counts(tmp_path: Path) -> None:
    orders = "order_id,customer_id,ordered_at\n1,a,2026-03-01T23:30:00-05:00\n"
    assert default_day(opened(shop_of(tmp_path, orders))) == date(2026, 3, 3)


def test_renamed_columns_are_found(tmp_path: Path) -> None:
    orders = 'No,Kunde,"Bestellt am"\n1,a,2026-03-05 10:00:00\n'
    toml = '[renames.orders]\nNo = "order_id"\nKunde = "customer_id"\n"Bestellt am" = "ordered_at"\n'
    shop = opened(shop_of(tmp_path, orders, toml))
    assert shop.column_in_files("orders", "ordered_at") == "Bestellt am"
    assert default_day(shop) == date(2026, 3, 6)


def test_impossible_dates_and_broken_files_are_passed_over(tmp_path: Path) -> None:
    shop_of(
        tmp_path,
        "order_id,customer_id,ordered_at\n1,a,2026-03-01\n2,a,9999-12-31\n3,a,0001-01-01\n4,a,2026-02-30\n5,a,soon\n6,a,\n",
    )
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "a.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "orders" / "b.csv").write_bytes(b"")
    (tmp_path / "orders" / "c.csv").write_bytes(
        b"\xef\xbb\xbforder_id,customer_id,ordered_at\r\n7,\xff\xfe,2026-01-01\r\n"
    )
    (tmp_path / "orders" / "d.csv.gz").write_bytes(b"not gzip")
    (tmp_path / "events.csv").write_text("event_id,when\n1,2027-01-01\n")
    assert default_day(opened(tmp_path)) == date(2026, 3, 2)


def test_parquet_times_with_and_without_zone_are_both_utc(tmp_path: Path) -> None:
    shop_of(tmp_path)
    moment = datetime(2026, 3, 9, 23, 59, tzinfo=UTC)
    zoned = pa.array([moment], pa.timestamp("us", "Asia/Tokyo"))
    pq.write_table(pa.table({"event_id": ["1"], "occurred_at": zoned}), tmp_path / "events.parquet")
    assert default_day(opened(tmp_path)) == date(2026, 3, 10)
    naive = pa.array([moment.replace(tzinfo=None)], pa.timestamp("ms"))
    pq.write_table(pa.table({"event_id": ["1"], "occurred_at": naive}), tmp_path / "events.parquet")
    assert default_day(opened(tmp_path)) == date(2026, 3, 10)


def test_a_shop_without_orders_takes_the_day_after_its_newest_product(tmp_path: Path) -> None:
    shop_of(tmp_path, "order_id,customer_id,ordered_at\n")
    with pytest.raises(ShopNotFound, match="DAY=2026-11-22"):
        default_day(opened(tmp_path))
    (tmp_path / "products.csv").write_text(
        "product_id,title,created_at,updated_at\np,Tea,2025-01-01T00:00:00Z,2025-06-01T00:00:00Z\n"
    )
    assert default_day(opened(tmp_path)) == date(2025, 6, 2)
