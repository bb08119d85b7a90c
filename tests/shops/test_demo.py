"""The demo shop: the same files for whoever makes them, every planted effect in them, texts like a shop's."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightmarket.contracts import LANDING
from nightmarket.errors import ShopNotFound
from nightmarket.merchandising import RuleBook
from nightmarket.merchandising.simulate import read_file
from nightmarket.shops import Shop, default_day, open_shop
from nightmarket.shops.demo import Demo, chunks
from nightmarket.shops.demo_truth import Truth, happened, truth

SMALL = Demo(customers=200, products=80, days=40)
ZONE = "Asia/Singapore"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return open_shop("demo", landing_root=tmp_path_factory.mktemp("small"), demo=SMALL)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The demo as everybody gets it."""
    return open_shop("demo", landing_root=tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def planted() -> Truth:
    return truth()


@pytest.fixture(scope="module")
def sql(full: Shop) -> duckdb.DuckDBPyConnection:
    """The full shop's files as views, the latest row of each key."""
    connection = duckdb.connect()
    connection.execute(f"set threads = 1; set TimeZone = '{ZONE}'")
    for table in LANDING.values():
        parts = []
        for number, path in enumerate(full.files(table.name)):
            columns = ", ".join(c.name for c in table.columns)
            read = {
                ".parquet": f"read_parquet('{path}')",
                ".jsonl": f"read_json('{path}', format = 'newline_delimited')",
            }.get(
                path.suffix if path.suffix != ".gz" else Path(path.stem).suffix,
                f"read_csv('{path}', all_varchar = true, header = true, quote = '\"', escape = '\"')",
            )
            parts.append(f"select {columns}, {number} as file from (select * from {read})")
        union = " union all by name ".join(f"select columns(*)::varchar from ({part})" for part in parts)
        key = ", ".join(table.key)
        connection.execute(
            f"create table {table.name} as select distinct on ({key}) * from ({union}) order by {key}, file::int desc"
        )
    return connection


def rows(path: Path) -> list[dict[str, str]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def contents(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_two_generations_are_byte_for_byte_the_same(small: Shop, tmp_path: Path) -> None:
    again = open_shop("demo", landing_root=tmp_path, demo=SMALL)
    assert len(contents(again.folder)) > 40
    assert contents(again.folder) == contents(small.folder)


def test_another_seed_gives_another_shop(small: Shop, tmp_path: Path) -> None:
    other = open_shop("demo", landing_root=tmp_path, demo=Demo(seed=8, customers=200, products=80, days=40))
    assert (
        contents(other.folder)["orders/2026-10.parquet"] != contents(small.folder)["orders/2026-10.parquet"]
    )


def test_later_days_leave_earlier_files_untouched_and_can_be_made_in_any_steps(
    small: Shop, tmp_path: Path
) -> None:
    stepwise = open_shop("demo", landing_root=tmp_path / "a", demo=SMALL).folder
    stamps = {p: p.stat().st_mtime_ns for p in stepwise.rglob("*") if p.is_file()}
    for step in (1, 2, 3):
        open_shop("demo", landing_root=tmp_path / "a", day=SMALL.end + timedelta(days=1 + step), demo=SMALL)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    at_once = open_shop("demo", landing_root=tmp_path / "b", day=SMALL.end + timedelta(days=4), demo=SMALL)
    assert contents(at_once.folder) == contents(stepwise)
    assert (stepwise / "orders" / "2026-11-24.parquet").exists()
    assert default_day(at_once) == date(2026, 11, 25)


def test_a_file_that_is_missing_is_made_again_as_it_was(tmp_path: Path) -> None:
    tiny = Demo(customers=60, products=50, days=20)
    folder = open_shop("demo", landing_root=tmp_path, demo=tiny).folder
    before = contents(folder)
    (folder / "orders" / "2026-11-21.parquet").unlink()
    open_shop("demo", landing_root=tmp_path, demo=tiny)
    assert contents(folder) == before


def test_a_folder_with_another_demo_is_refused(small: Shop) -> None:
    with pytest.raises(ShopNotFound, match="another demo shop"):
        open_shop("demo", landing_root=small.folder.parent, demo=Demo())


def test_a_day_far_in_the_future_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShopNotFound, match="2027-12-26"):
        open_shop("demo", landing_root=tmp_path, day=date(2031, 1, 1))


def test_months_share_a_file_and_the_last_days_have_their_own() -> None:
    names = [chunk.name for chunk in chunks(Demo(), 181)]
    assert names == [
        "2026-05", "2026-06", "2026-07", "2026-08", "2026-09", "2026-10", "2026-11-01_to_18", "2026-11-19", "2026-11-20",
        "2026-11-21", "2026-11-22", "2026-11-23",
    ]  # fmt: skip
    assert names == sorted(names)


def test_all_thirteen_tables_have_files_in_every_format_of_the_contract(full: Shop) -> None:
    assert len(LANDING) == 13
    endings = {table: {"".join(p.suffixes[-2:]) for p in full.files(table)} for table in LANDING}
    assert all(endings.values())
    assert {".parquet", ".csv", ".jsonl", ".csv.gz", ".jsonl.gz"} <= {
        e for found in endings.values() for e in found
    }
    assert full.unread() == []
    assert max(len(full.files(table)) for table in LANDING) <= 11
    assert default_day(full) == date(2026, 11, 22)


def test_the_shops_people_have_rules_that_fit_its_products_and_can_go_live(full: Shop) -> None:
    (path,) = full.files("recommendation_rules")
    found = rows(path)
    assert [(row["rule_id"], row["action"]) for row in found] == [
        ("brands-mixed", "cap"), ("candle-season", "boost"), ("mooncakes-over", "bury"), ("kopi-lane-launch", "promote"),
    ]  # fmt: skip
    assert all(row["owner"] and row["reason"] for row in found)
    files = [pq.read_table(p, partitioning=None) for p in full.files("products")]
    columns = ["product_id", "brand", "category", "attributes"]
    products = pa.concat_tables([file.select(columns) for file in files]).group_by("product_id").aggregate(
        [(name, "max") for name in columns[1:]]
    ).rename_columns(columns)  # fmt: skip
    products = products.append_column("is_available", pa.array([True] * products.num_rows))
    book = RuleBook.of(read_file(path), products, products["product_id"].to_pylist(), date(2026, 11, 22))
    assert len(book.rule_ids) == 4 and book.warnings == ()


def test_the_shop_has_the_size_that_it_says(sql: duckdb.DuckDBPyConnection) -> None:
    def count(table: str) -> int:
        return sql.sql(f"select count(*) from {table}").fetchone()[0]  # type: ignore[index]

    assert count("customers") == 2000
    assert count("products where product_id < 'P9'") == 600
    assert 18_000 < count("orders") < 28_000
    assert 60_000 < count("order_items") < 95_000
    assert count("events") > 120_000
    assert count("reviews") > 2_000 and count("tickets") > 600 and count("ticket_messages") > 1_500
    assert count("articles") == 17
    share = sql.sql("select avg((locale = 'zh')::int) from customers").fetchone()[0]  # type: ignore[index]
    assert 0.25 < share < 0.35


def test_a_day_touches_about_a_twentieth_of_the_customers(sql: duckdb.DuckDBPyConnection) -> None:
    busy = sql.sql("""
        select median(n) from (
            select count(distinct customer_id) as n from (
                select customer_id, ordered_at::timestamptz::date as day from orders where year(ordered_at::timestamptz) = 2026
                union all select customer_id, occurred_at::timestamptz::date from events where event_type <> 'message_sent'
            ) group by day)
    """).fetchone()[0]  # type: ignore[index]
    assert 80 < busy < 180


def test_churners_stop_and_cold_customers_never_start(sql: duckdb.DuckDBPyConnection, planted: Truth) -> None:
    last = dict(
        sql.sql(
            "select customer_id, max(ordered_at::timestamptz::date) from orders where year(ordered_at::timestamptz) = 2026 group by 1"
        ).fetchall()
    )
    assert len(planted.churners) > 100 and len(planted.cold_customers) > 100
    assert all(last[c] < stopped for c, stopped in planted.churners.items() if c in last)
    assert sum(c in last for c in planted.churners) > 100
    assert not planted.cold_customers & set(last)


def test_bundles_are_bought_together_far_more_often_than_by_chance(
    sql: duckdb.DuckDBPyConnection, planted: Truth
) -> None:
    baskets: dict[str, set[str]] = {}
    for order_id, product_id in sql.sql("select order_id, product_id from order_items").fetchall():
        baskets.setdefault(order_id, set()).add(product_id)
    single = Counter(p for basket in baskets.values() for p in basket)
    assert len(planted.bundles) >= 15 and {len(b) for b in planted.bundles} == {2, 3}
    for bundle in planted.bundles:
        a, b = bundle[:2]
        together = sum(a in basket and b in basket for basket in baskets.values())
        assert together > 5 * single[a] * single[b] / len(baskets)
        assert together > 0.4 * single[a]


def test_moon_cakes_sell_in_september_and_weekends_are_busy(
    sql: duckdb.DuckDBPyConnection, planted: Truth
) -> None:
    path = "礼品 > 节令 > 月饼与礼盒"
    assert planted.category_seasons[path][9] == 9.0
    share = dict(
        sql.sql(f"""
        select month(o.ordered_at::timestamptz), avg((p.category = '{path}')::int)
        from order_items join orders o using (order_id) join products p using (product_id)
        where year(o.ordered_at::timestamptz) = 2026 group by 1
    """).fetchall()
    )
    assert share[9] > 5 * share[6]
    perday = dict(
        sql.sql(f"""
        select isodow(day), avg(n) from (select ordered_at::timestamptz::date as day, count(*) as n from orders
        where customer_id <> '{planted.bot_customer}' and year(ordered_at::timestamptz) = 2026 group by 1) group by 1
    """).fetchall()
    )
    assert perday[6] > 1.15 * perday[2]


def test_the_bot_orders_hundreds_of_times_on_its_days_and_never_else(
    sql: duckdb.DuckDBPyConnection, planted: Truth
) -> None:
    found = sql.sql(
        f"select ordered_at::timestamptz::date, count(*) from orders where customer_id = '{planted.bot_customer}' group by 1"
    ).fetchall()
    assert {day for day, _ in found} == set(planted.bot_days)
    assert all(n > 200 for _, n in found)


def test_the_broken_day_has_less_than_a_tenth_of_the_usual_orders(
    sql: duckdb.DuckDBPyConnection, planted: Truth
) -> None:
    counts = dict(sql.sql("select ordered_at::timestamptz::date, count(*) from orders group by 1").fetchall())
    same_weekday = [counts[planted.broken_day - timedelta(weeks=w)] for w in (1, 2, 3, 4)]
    assert 0 < counts[planted.broken_day] < 0.1 * min(same_weekday)


def test_the_treatment_raises_orders_by_about_its_true_effect(
    sql: duckdb.DuckDBPyConnection, planted: Truth
) -> None:
    rate = {
        v: n
        for v, n in sql.sql("""
        select variant, avg(n) from (
            select e.customer_id, any_value(variant) as variant, count(order_id) as n from experiments e left join orders o
            on o.customer_id = e.customer_id and o.ordered_at::timestamptz >= e.exposed_at::timestamptz
            and o.ordered_at::timestamptz::date <= date '2026-11-13' group by 1) group by 1
    """).fetchall()
    }
    assert planted.experiment_lift == 0.30 and planted.experiment_days[1] == date(2026, 11, 13)
    assert 0.1 < rate["treatment"] / rate["control"] - 1 < 0.55
    variants = sql.sql("select customer_id, variant from experiments").fetchall()
    assert {c for c, v in variants if v == "treatment"} == planted.treated
    assert {c for c, v in variants if v == "control"} == planted.untreated


def test_refunds_come_in_later_files_as_the_same_orders(small: Shop) -> None:
    told = happened(SMALL)
    assert told.late_refunds and told.partial_refunds
    seen: dict[str, list[tuple[str, str]]] = {}
    for path in small.files("orders"):
        for order_id, status in duckdb.sql(f"select order_id, status from read_parquet('{path}')").fetchall():
            seen.setdefault(order_id, []).append((path.name, status))
    assert {o for o, found in seen.items() if found[-1][1] == "refunded"} == set(told.late_refunds)
    assert any({status for _, status in found} == {"placed", "refunded"} for found in seen.values())
    lines = duckdb.sql(
        f"select distinct order_id from read_parquet('{small.folder}/order_items/*.parquet') where refunded_quantity > 0"
    ).fetchall()
    assert {o for (o,) in lines} == set(told.late_refunds) | set(told.partial_refunds)


def test_a_file_and_some_rows_are_delivered_twice(small: Shop) -> None:
    again = happened(SMALL).sent_again
    assert {name.split("/")[0] for name, _ in again} == {"orders", "reviews"}
    for name, copy in again:
        assert (small.folder / name).read_bytes() == (small.folder / copy).read_bytes()
    days = [
        duckdb.sql(f"from read_parquet('{small.folder}/orders/2026-11-{day}.parquet')").fetchall()
        for day in (20, 21)
    ]
    assert len(set(days[0]) & set(days[1])) == 3


def test_rows_that_break_the_contract_stay_below_the_limit(full: Shop) -> None:
    bad = happened(Demo()).quarantined
    assert Counter(table for table, _, _ in bad) == {
        "products": 1,
        "orders": 2,
        "order_items": 3,
        "events": 2,
        "reviews": 1,
    }
    assert {rule for _, _, rule in bad} == {
        "out_of_range",
        "impossible_date",
        "unknown_reference",
        "not_accepted",
    }
    for path in full.files("order_items"):
        wrong, n = duckdb.sql(
            f"select count(*) filter (unit_price < 0 or product_id > 'P9'), count(*) from read_parquet('{path}')"
        ).fetchone()  # type: ignore[misc]
        assert wrong <= 0.005 * n
    years = duckdb.sql(
        f"select distinct year(ordered_at) from read_parquet('{full.folder}/orders/*.parquet')"
    ).fetchall()
    assert {year for (year,) in years} == {1, 2026, 9999}


def test_products_that_cannot_be_bought_are_there_and_not_bought(
    sql: duckdb.DuckDBPyConnection, planted: Truth
) -> None:
    state = {
        p: (status, int(stock))
        for p, status, stock in sql.sql("select product_id, status, stock from products").fetchall()
    }
    last = dict(
        sql.sql(
            "select product_id, max(ordered_at::timestamptz::date) from order_items join orders using (order_id) where year(ordered_at::timestamptz) = 2026 group by 1"
        ).fetchall()
    )
    assert len(planted.archived) == len(planted.drafts) == 10 and len(planted.sold_out) == 20
    assert {p for p, (status, _) in state.items() if status == "archived"} == set(planted.archived)
    assert {p for p, (status, _) in state.items() if status == "draft"} == planted.drafts
    assert {p for p, (_, stock) in state.items() if stock == 0} == set(planted.sold_out)
    assert all(last[p] < day for p, day in (planted.archived | planted.sold_out).items() if p in last)
    assert planted.unsold and not (planted.drafts | planted.unsold) & set(last)
    assert planted.unsold <= set(state)


def test_twins_have_nearly_the_same_title(sql: duckdb.DuckDBPyConnection, planted: Truth) -> None:
    titles = dict(sql.sql("select product_id, title from products").fetchall())
    assert len(planted.twins) == 6
    for one, other in planted.twins:
        assert titles[one] != titles[other]
        assert sorted(re.sub(r"[\s,&]|and", "", titles[one])) == sorted(
            re.sub(r"[\s,&]|and", "", titles[other])
        )


def test_banned_claims_stand_in_the_descriptions_that_truth_names(
    sql: duckdb.DuckDBPyConnection, planted: Truth
) -> None:
    described = dict(sql.sql("select product_id, coalesce(description, '') from products").fetchall())
    assert len(planted.banned_claims) == 10
    for phrase in planted.banned_claims.values():
        assert {p for p, text in described.items() if phrase in text} == {
            p for p, said in planted.banned_claims.items() if said == phrase
        }


def test_personal_data_and_instructions_stand_in_reviews_and_tickets(sql: duckdb.DuckDBPyConnection) -> None:
    told = happened(Demo())
    reviews = dict(sql.sql("select review_id, body from reviews").fetchall())
    tickets = dict(sql.sql("select ticket_id, body from tickets").fetchall())
    assert len(told.personal_reviews) > 20 and len(told.personal_tickets) > 20
    pattern = re.compile(
        r"@example\.(com|net|org)|\+65 5|\+44 7700 900|13800138000|4111 1111|5555 5555|4242 4242"
    )
    assert {
        r for r, text in reviews.items() if pattern.search(text) and r not in told.injected_reviews
    } == told.personal_reviews
    assert {t for t, text in tickets.items() if pattern.search(text)} == told.personal_tickets
    assert len(told.injected_reviews) == 2 and len(told.injected_tickets) == 1
    assert any("Ignore all previous instructions" in reviews[r] for r in told.injected_reviews)
    assert any("忽略以上所有指令" in reviews[r] for r in told.injected_reviews)
    assert all("without restrictions" in tickets[t] for t in told.injected_tickets)


def test_some_customers_refuse_and_some_ask_for_erasure(sql: duckdb.DuckDBPyConnection) -> None:
    told = happened(Demo())
    last = sql.sql("""
        select purpose, customer_id from consents
        qualify row_number() over (partition by purpose, customer_id order by effective_at::timestamptz desc) = 1 and state = 'refused'
    """).fetchall()
    assert {(purpose, c) for purpose, found in told.refused.items() for c in found} == set(last)
    assert len(told.refused["marketing"]) > len(told.refused["profiling"]) > 100
    asked = {
        c for (c,) in sql.sql("select customer_id from privacy_requests where kind = 'erase'").fetchall()
    }
    assert asked == told.erasures and asked


def test_tickets_have_line_breaks_and_some_are_still_open(
    small: Shop, sql: duckdb.DuckDBPyConnection
) -> None:
    bodies = [row["body"] for path in small.files("tickets") for row in rows(path)]
    assert any("\n" in body for body in bodies)
    first_open = sql.sql("select count(*) from tickets where closed_at is null").fetchone()[0]  # type: ignore[index]
    assert 0 < first_open < 40


def test_every_reference_is_known_but_the_planted_ones(sql: duckdb.DuckDBPyConnection) -> None:
    expected = {"order_items.product_id": 2, "events.customer_id": 1}
    for table in LANDING.values():
        for column in table.columns:
            if column.references:
                key = LANDING[column.references].key[0]
                lost = sql.sql(
                    f"select count(*) from {table.name} where {column.name} is not null and {column.name} not in (select {key} from {column.references})"
                ).fetchone()[0]  # type: ignore[index]
                assert lost == expected.get(f"{table.name}.{column.name}", 0), f"{table.name}.{column.name}"


def test_texts_read_like_a_shops_in_both_languages(sql: duckdb.DuckDBPyConnection) -> None:
    texts = {
        "title": "select title, locale from products", "description": "select description, locale from products",
        "review": "select body, locale from reviews", "ticket": "select body, locale from tickets", "article": "select body, locale from articles",
    }  # fmt: skip
    for name, query in texts.items():
        found = [(text, locale) for text, locale in sql.sql(query).fetchall() if text]
        assert {locale for _, locale in found} == {"en", "zh"}
        for text, locale in found:
            assert not re.search(
                r"lorem|ipsum|placeholder|foo\b|\bTODO|xxx|\{|\}|\bProduct \d|None|nan\b", text
            ), (name, text)
            assert not re.search(r"\b[Aa] [aeio][a-z]", text.split("Ignore")[0]) or name != "description", (
                name,
                text,
            )
            if locale == "zh":
                assert re.search(r"[\u4e00-\u9fff]", text), (name, text)
            elif name in ("title", "description", "article"):
                assert not re.search(r"[\u4e00-\u9fff]", text), (name, text)
    titles = [t for (t,) in sql.sql("select title from products").fetchall()]
    assert len(set(titles)) >= 600
    assert sql.sql("select count(distinct body) / count(*) from reviews").fetchone()[0] > 0.5  # type: ignore[index]
    attributes = [json.loads(a) for (a,) in sql.sql("select attributes from products").fetchall()]
    assert all(len(a) >= 2 for a in attributes)
