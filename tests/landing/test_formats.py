"""Parquet, CSV and JSON Lines as shops write them, and as they break."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightmarket.errors import LandingRejected

from .hand_landing import AT, Bench, orders

REVIEWS = "review_id,product_id,rating,title,body,created_at"
LENIENT = "[limits]\norders = 1.0\nreviews = 1.0\nproducts = 1.0\narticles = 1.0\n"


@pytest.mark.parametrize(
    "name", ["orders/2.csv", "orders/2.csv.gz", "orders/2.jsonl", "orders/2.ndjson.gz", "orders/2.parquet"]
)
def test_all_formats_give_the_same_rows(bench: Bench, name: str) -> None:
    at = AT if name.endswith("parquet") else "2026-03-01T12:00:00Z"
    bench.put(name, orders(2, first=1, channel="web", discount=1.5, ordered_at=at))
    bench.load()
    assert bench.ask("select order_id, customer_id, channel, discount::varchar as discount, ordered_at from raw.orders "
                     "where order_id > 'o0' order by all") == [
        {"order_id": f"o{i}", "customer_id": "c0", "channel": "web", "discount": "1.5000", "ordered_at": AT} for i in (1, 2)
    ]  # fmt: skip


def test_csv_with_byte_order_mark_crlf_quotes_and_embedded_newlines_keeps_its_columns(bench: Bench) -> None:
    body = (
        f"\ufeff{REVIEWS}\r\n"
        'r1,p0,5,"Good, really","two\r\nlines and a ""quote""",2026-02-01\r\n'
        "\r\n"
        'r2,p0,4,Fine,5" wide,2026-02-01\r\n'
        'r3,p0,4,"","",2026-02-01'
    )
    bench.text("reviews.csv", body)
    bench.load()
    assert bench.raw("reviews", "review_id, title, body, _line") == [
        {"review_id": "r1", "title": "Good, really", "body": 'two\r\nlines and a "quote"', "_line": 2},
        {"review_id": "r2", "title": "Fine", "body": '5" wide', "_line": 5},
        {"review_id": "r3", "title": None, "body": "", "_line": 6},
    ]


def test_csv_with_old_macintosh_newlines_is_read(bench: Bench) -> None:
    bench.text("reviews.csv", f"{REVIEWS}\rr1,p0,5,T,B,2026-02-01\rr2,p0,5,T,B,2026-02-01\r")
    bench.load()
    assert [r["_line"] for r in bench.raw("reviews", "_line")] == [2, 3]


def test_a_ragged_csv_record_is_set_aside_and_never_filled_up(bench: Bench) -> None:
    bench.toml(LENIENT)
    bench.text(
        "orders/2.csv",
        "order_id,customer_id,ordered_at\no1,c0,2026-02-01\no2,c0\no3,c0,2026-02-01,x\no4,c0,2026-02-01\n",
    )
    bench.load()
    assert bench.aside() == [
        ("orders/2.csv", 3, "malformed_line", None),
        ("orders/2.csv", 4, "malformed_line", None),
    ]
    assert bench.landed("orders/2.csv")["rows_in"] == 4
    assert bench.ask("select payload from ops.quarantine order by line") == [
        {"payload": '{"unreadable": "2 fields where the header has 3"}'},
        {"payload": '{"unreadable": "4 fields where the header has 3"}'},
    ]


def test_a_csv_record_with_text_after_its_quote_is_set_aside_alone(bench: Bench) -> None:
    bench.toml(LENIENT)
    bench.text("reviews.csv", f'{REVIEWS}\nr1,p0,5,"Good"x,B,2026-02-01\nr2,p0,5,T,B,2026-02-01\n')
    bench.load()
    assert bench.aside() == [("reviews.csv", 2, "malformed_line", None)]
    assert bench.raw("reviews", "review_id") == [{"review_id": "r2"}]


def test_a_quote_that_never_closes_refuses_the_file_and_names_the_line(bench: Bench) -> None:
    bench.text(
        "reviews.csv", f'{REVIEWS}\nr1,p0,5,T,B,2026-02-01\nr2,p0,5,"T,B,2026-02-01\nr3,p0,5,T,B,2026-02-01\n'
    )
    with pytest.raises(
        LandingRejected, match=r"reviews\.csv .*opens a quote in the record of line 3 and never closes it"
    ):
        bench.load()
    assert bench.raw("reviews") == []


def test_a_csv_header_that_names_a_column_twice_is_refused(bench: Bench) -> None:
    bench.text("orders/2.csv", "order_id,customer_id,ordered_at,order_id\no1,c0,2026-02-01,o2\n")
    with pytest.raises(LandingRejected, match="'order_id' twice"):
        bench.load()


def test_bytes_that_are_not_utf8_refuse_the_file_with_offset_and_line(bench: Bench) -> None:
    bench.text("reviews.csv", f"{REVIEWS}\nr1,p0,5,Caf".encode() + b"\xe9,B,2026-02-01\n")
    with pytest.raises(LandingRejected, match=r"byte 0xe9 at offset \d+, line 2 \(perhaps Latin-1"):
        bench.load()
    assert bench.landed("reviews.csv")["status"] == "rejected"


def test_a_file_in_utf16_is_refused_and_named_so(bench: Bench) -> None:
    bench.text("reviews.csv", f"{REVIEWS}\nr1,p0,5,T,B,2026-02-01\n".encode("utf-16"))
    with pytest.raises(LandingRejected, match=r"offset 0, line 1 \(it begins as UTF-16 does\)"):
        bench.load()


def test_bad_bytes_far_into_a_file_keep_nothing_of_what_came_before(bench: Bench) -> None:
    lines = "".join(f"r{i},p0,5,T,é{i},2026-02-01\n" for i in range(60_000)).encode()
    bench.text("reviews.csv", f"{REVIEWS}\n".encode() + lines + b"rx,p0,5,T,\xff,2026-02-01\n")
    with pytest.raises(LandingRejected, match="line 60002"):
        bench.load()
    assert bench.raw("reviews") == []


def test_nul_bytes_in_a_csv_are_set_aside(bench: Bench) -> None:
    bench.toml(LENIENT)
    bench.text(
        "reviews.csv",
        f"{REVIEWS}\nr\x001,p0,5,T,B,2026-02-01\nr2,p0,5,T,a\x00b,2026-02-01\nr3,p0,5,T,B,2026-02-01\n",
    )
    bench.load()
    assert bench.aside() == [
        ("reviews.csv", 2, "bad_id", "review_id"),
        ("reviews.csv", 3, "nul_byte", "body"),
    ]


def test_a_text_of_ten_megabytes_is_set_aside_and_the_night_goes_on(bench: Bench) -> None:
    bench.toml(LENIENT)
    bench.put("products/2.csv", [{"product_id": "p1", "title": "T", "price": 1, "description": "x" * 10_000_000},
                                 {"product_id": "p2", "title": "T", "price": 1, "description": "x" * 2_000_000}])  # fmt: skip
    bench.load()
    assert bench.aside() == [("products/2.csv", 2, "text_too_long", "description")]
    [row] = bench.ask("select payload from ops.quarantine")
    assert len(row["payload"]) < 400 and "(10000000 characters)" in row["payload"]
    assert len(bench.raw("products", "product_id")) == 2


def test_json_lines_that_are_no_objects_are_set_aside(bench: Bench) -> None:
    bench.toml(LENIENT)
    good = '{"article_id":"a%d","title":"T","body":"B","updated_at":"2026-02-01"}\n'
    bad = [
        "{broken\n", "[1,2]\n", "5\n", '{"article_id":NaN}\n', '{"article_id":"a9","title":"\\ud800","body":"B"}\n',
        '{"article_id":"a8","title":{"en":"T"},"body":"B"}\n', "[" * 100_000 + "\n",
    ]  # fmt: skip
    bench.text("articles.jsonl", "\ufeff" + good % 1 + "\n" + "".join(bad) + good % 2)
    bench.load()
    assert [(line, rule) for _, line, rule, _ in bench.aside()] == [
        (i, "malformed_line") for i in range(3, 10)
    ]
    assert bench.raw("articles", "article_id, _line") == [
        {"article_id": "a1", "_line": 1},
        {"article_id": "a2", "_line": 10},
    ]
    assert bench.landed("articles.jsonl")["rows_in"] == 9


def test_json_objects_may_come_as_objects_or_as_text(bench: Bench) -> None:
    bench.text(
        "products/2.jsonl",
        '{"product_id":"p1","title":"T","attributes":{"Größe":"5","n":1.10}}\n{"product_id":"p2","title":"T","attributes":"{\\"a\\": 1}"}\n',
    )
    schema = pa.schema([("product_id", pa.string()), ("title", pa.string()), ("price", pa.float64()),
                        ("attributes", pa.struct([("size", pa.string())]))])  # fmt: skip
    pq.write_table(
        pa.Table.from_pylist([{"product_id": "p3", "title": "T", "attributes": {"size": "L"}}], schema),
        bench.folder / "products" / "1.parquet",
    )
    bench.load()
    assert bench.ask("select attributes from raw.products where product_id > 'p0' order by product_id") == [
        {"attributes": '{"Größe": "5", "n": "1.10"}'},
        {"attributes": '{"a": 1}'},
        {"attributes": '{"size":"L"}'},
    ]


def test_parquet_types_of_other_writers_fit(bench: Bench) -> None:
    bench.toml('[accept]\norders = ["order_id", "customer_id"]\n')
    table = pa.table({
        "order_id": pa.array([1, 2], pa.int64()),
        "customer_id": pa.array([17850.0, 17851.0], pa.float64()),
        "ordered_at": pa.array([datetime(2026, 2, 1, 10, tzinfo=UTC)] * 2, pa.timestamp("ms", "Europe/Berlin")),
        "channel": pa.array(["web", "web"]).dictionary_encode(),
        "discount": pa.array([1, 2], pa.int32()),
        "__index_level_0__": pa.array([0, 1]),
    })  # fmt: skip
    (bench.folder / "orders").mkdir()
    pq.write_table(table, bench.folder / "orders" / "2.parquet")
    bench.load()
    assert bench.ask("select order_id, customer_id, ordered_at, channel, discount::int as d, _extra from raw.orders where order_id < 'o' order by 1") == [
        {"order_id": "1", "customer_id": "17850", "ordered_at": datetime(2026, 2, 1, 10), "channel": "web", "d": 1, "_extra": None},
        {"order_id": "2", "customer_id": "17851", "ordered_at": datetime(2026, 2, 1, 10), "channel": "web", "d": 2, "_extra": None},
    ]  # fmt: skip


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
def test_a_parquet_file_cut_in_the_middle_is_refused_by_name(bench: Bench, keep: float) -> None:
    whole = bench.put("orders/2.parquet", orders(500, first=1)).read_bytes()
    bench.text("orders/2.parquet", whole[: int(len(whole) * keep)])
    with pytest.raises(
        LandingRejected, match=r"orders/2\.parquet .*is no whole Parquet file .*Copy it again"
    ):
        bench.load()
    row = bench.landed("orders/2.parquet")
    assert (row["status"], row["rows_in"]) == ("rejected", 0)
    assert "is no whole Parquet file" in row["note"]


def test_a_parquet_file_with_a_broken_page_keeps_nothing(bench: Bench) -> None:
    path = bench.put("orders/2.parquet", orders(5000, first=1))
    broken = bytearray(path.read_bytes())
    broken[100:400] = b"\xff" * 300
    bench.text("orders/2.parquet", bytes(broken))
    with pytest.raises(LandingRejected, match=r"orders/2\.parquet"):
        bench.load()
    assert len(bench.raw("orders")) == 1


@pytest.mark.parametrize("name", ["orders/2.csv.gz", "orders/2.jsonl.gz"])
def test_a_gzip_file_that_was_cut_is_refused(bench: Bench, name: str) -> None:
    whole = bench.put(name, orders(500, first=1)).read_bytes()
    bench.text(name, whole[: len(whole) // 2])
    with pytest.raises(LandingRejected, match="is no whole gzip file"):
        bench.load()
    assert len(bench.raw("orders")) == 1


def test_a_gzip_ending_on_a_plain_file_is_refused(bench: Bench) -> None:
    bench.text("orders/2.csv.gz", "order_id,customer_id,ordered_at\n")
    with pytest.raises(LandingRejected, match="is no whole gzip file"):
        bench.load()


def test_a_gzip_file_that_is_not_utf8_names_the_place_in_its_content(bench: Bench) -> None:
    bench.text("orders/2.csv.gz", gzip.compress(b"order_id,customer_id,ordered_at\no\xe91,c0,2026-02-01\n"))
    with pytest.raises(LandingRejected, match="byte 0xe9 at offset 33, line 2"):
        bench.load()
