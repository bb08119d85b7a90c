"""The demo shop's landing files: months for the history, a file a day for its last days and every day after.

A file is made once, from the seed and its days alone: whoever makes it and whenever, it has the same rows, and a file that
exists is never written again. Not here: what happens in the shop (demo_world, demo_days), what tests may expect
(demo_truth).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightmarket.contracts import FLOAT, LANDING, MONEY, TIME, WHOLE
from nightmarket.errors import ShopNotFound
from nightmarket.shops.demo_days import Days, Row, Rows
from nightmarket.shops.demo_world import Demo, World

__all__ = ["Chunk", "Demo", "chunks", "make", "planted"]

TOML = """\
# A generated shop with known truth: see src/nightmarket/shops/demo_truth.py.
name = "Nanyang Home 南洋家"
currency = "SGD"
time_zone = "Asia/Singapore"
locales = ["en", "zh"]
"""
# What the shop's people want of recommendations; {year} is that of the last day of the history.
RULES_FILE = "recommendation_rules.csv"
RULES = """\
rule_id,action,placement,product_id,brand,category,attribute,value,per,within_days,owner,reason,starts_on,ends_on,priority
brands-mixed,cap,,,,,,3,brand,,Merchandising,No list is one brand's shop window,,,
candle-season,boost,,,,Home > Fragrance > Candles,,1.3,,,Wei Ling,Gifts for the end of the year,{year}-11-15,{year}-12-31,
mooncakes-over,bury,,,,礼品 > 节令 > 月饼与礼盒,,0.3,,,Wei Ling,The festival is over,{year}-10-10,{year}-12-31,
kopi-lane-launch,promote,home,,Kopi Lane,,,0.05,,,Daniel,Launch agreed with the maker,,,
"""
SINGLE_DAYS = 3  # of the history, so that its end already looks like the days that follow
FURTHEST = 400  # days that the shop goes on after its history
# All formats of the contract occur; what is not named here is Parquet. Reviews of single days come as CSV.
FORMATS = {
    "reviews": "jsonl.gz", "tickets": "csv", "ticket_messages": "csv.gz", "articles": "jsonl", "consents": "csv",
    "experiments": "csv", "privacy_requests": "jsonl",
}  # fmt: skip
SENT_AGAIN = ("orders", "reviews")  # tables of which the second month arrives once more under another name
BAD_SHARE = 0.005  # at most so many rows of a file break the contract: half of the default limit
_YEAR_9999, _YEAR_1 = 253_402_214_400_000_000, -62_135_596_800_000_000
_LOCAL = timezone(timedelta(hours=8))


@dataclass(frozen=True)
class Chunk:
    """The days `first` to `last` that share a file; `name` is the file's name without its ending."""

    name: str
    first: int
    last: int
    is_single: bool


def chunks(demo: Demo, until: int) -> list[Chunk]:
    """How days 0 to `until` are cut into files. More days never change earlier chunks."""
    found: list[Chunk] = []
    months = max(0, demo.days - SINGLE_DAYS)
    first = 0
    while first < months:
        start = demo.date_of(first)
        last = first
        while last + 1 < months and demo.date_of(last + 1).month == start.month:
            last += 1
        whole = demo.date_of(last + 1).month != start.month
        name = f"{start:%Y-%m}" if whole else f"{start:%Y-%m-%d}_to_{demo.date_of(last):%d}"
        found.append(Chunk(name, first, last, is_single=False))
        first = last + 1
    return found + [
        Chunk(demo.date_of(n).isoformat(), n, n, is_single=True) for n in range(months, until + 1)
    ]


def make(demo: Demo, folder: Path, *, day: date | None = None) -> Path:
    """The shop's folder with files for its history, and for every later event strictly before `day`.

    Raises:
        ShopNotFound: another demo stands in the folder, or `day` lies too far after the history.
    """
    furthest = demo.end + timedelta(days=FURTHEST)
    if day is not None and day > furthest:
        raise ShopNotFound(
            f"Shop `demo` goes on until {furthest}, and {day} was asked for. Give an earlier DAY."
        )
    _claim(demo, folder)
    if not (folder / RULES_FILE).exists():
        _write(folder / RULES_FILE, RULES.format(year=demo.end.year).encode())
    until = max(demo.days - 1, demo.number(day) - 1 if day else 0)
    missing = [chunk for chunk in chunks(demo, until) if not _is_complete(folder, chunk)]
    if missing:
        days = Days(World(demo, missing[-1].last))
        for chunk in missing:
            _write_chunk(folder, days, chunk)
    return folder


def planted(demo: Demo, chunk: Chunk, table: str, rows: list[Row]) -> list[tuple[Row, str]]:
    """The rows of a file that break the contract, each with the rule it breaks; none in single days or in small files."""
    where = 0 if table == "products" else 1
    if (
        chunk.is_single
        or not rows
        or [c.first for c in chunks(demo, demo.days - 1)].index(chunk.first) != where
    ):
        return []
    row, stamp = rows[0], f"{demo.date_of(chunk.first):%y%m%d}"
    cases: dict[str, list[tuple[Row, str]]] = {
        "products": [({**row, "product_id": "P9990", "price": -4.9}, "out_of_range")],
        "orders": [
            ({**row, "order_id": f"N{stamp}-9901", "ordered_at": _YEAR_9999}, "impossible_date"),
            ({**row, "order_id": f"N{stamp}-9902", "ordered_at": _YEAR_1}, "impossible_date"),
        ],
        "order_items": [
            ({**row, "line": 91, "unit_price": -12.5}, "out_of_range"),
            ({**row, "line": 92, "product_id": "P9901"}, "unknown_reference"),
            ({**row, "line": 93, "product_id": "P9902"}, "unknown_reference"),
        ],
        "events": [
            ({**row, "event_id": f"E{stamp}-99901", "customer_id": "C99901"}, "unknown_reference"),
            ({**row, "event_id": f"E{stamp}-99902", "event_type": "page_scrolled"}, "not_accepted"),
        ],
        "reviews": [
            (
                {**row, "review_id": f"R{stamp}-9801", "created_at": f"{demo.start.year}-02-30T10:00:00Z"},
                "impossible_date",
            )
        ],
    }
    return cases.get(table, [])[: int(len(rows) * BAD_SHARE)]


def sent_again(demo: Demo) -> Chunk:
    """The chunk whose files of `SENT_AGAIN` arrive twice: the second one of the history."""
    return chunks(demo, demo.days - 1)[:2][-1]


def table_rows(days: Days, chunk: Chunk, tables: Collection[str] = tuple(LANDING)) -> Rows:
    """The good rows of a chunk by table: one row a key, the latest where a key came more than once."""
    rows: Rows = {table: [] for table in LANDING if table in tables}
    for number in range(chunk.first, chunk.last + 1):
        for table, more in days.rows(number, tables).items():
            rows[table] += more
    return {table: _last_of_each_key(found, LANDING[table].key) for table, found in rows.items()}


def _claim(demo: Demo, folder: Path) -> None:
    """Mark the folder as this demo's, or say whose it is."""
    mark = folder / ".made" / "demo.json"
    wanted = json.dumps({**asdict(demo), "end": demo.end.isoformat()}, sort_keys=True)
    if mark.exists():
        if mark.read_text() != wanted:
            raise ShopNotFound(
                f"{folder} holds another demo shop ({mark.read_text()}). Remove the folder, or use another NIGHTMARKET_HOME."
            )
        return
    _write(folder / "shop.toml", TOML.encode())
    _write(mark, wanted.encode())


def _is_complete(folder: Path, chunk: Chunk) -> bool:
    mark = folder / ".made" / chunk.name
    return mark.exists() and all((folder / name).exists() for name in mark.read_text().splitlines())


def _write_chunk(folder: Path, days: Days, chunk: Chunk) -> None:
    made = []
    for table, rows in table_rows(days, chunk).items():
        if not rows:
            continue
        rows = rows + [bad for bad, _ in planted(days.demo, chunk, table, rows)]
        kind = "csv" if table == "reviews" and chunk.is_single else FORMATS.get(table, "parquet")
        names = [f"{table}/{chunk.name}.{kind}"]
        if table in SENT_AGAIN and chunk == sent_again(days.demo):
            names.append(f"{table}/{chunk.name}-sent-again.{kind}")
        content = None
        for name in names:
            if not (folder / name).exists():
                content = content or _encoded(table, rows, kind)
                _write(folder / name, content)
        made += names
    _write(folder / ".made" / chunk.name, "\n".join(made).encode())


def _last_of_each_key(rows: list[Row], key: tuple[str, ...]) -> list[Row]:
    latest = {tuple(row[column] for column in key): row for row in rows}
    return list(latest.values())


def _encoded(table: str, rows: list[Row], kind: str) -> bytes:
    columns = LANDING[table].columns
    if kind == "parquet":
        types = {WHOLE: pa.int64(), FLOAT: pa.float64(), MONEY: pa.float64(), TIME: pa.timestamp("us", "UTC")}
        arrays = [pa.array([row[c.name] for row in rows], types.get(c.kind, pa.string())) for c in columns]
        money = pa.decimal128(12, 2)
        arrays = [
            a.cast(money, safe=False) if c.kind == MONEY else a for a, c in zip(arrays, columns, strict=True)
        ]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(arrays, names=[c.name for c in columns]), sink, compression="zstd")
        return bytes(sink.getvalue())
    times = {c.name for c in columns if c.kind == TIME}
    zone = _LOCAL if kind.startswith("csv") else UTC
    told = [
        {name: _iso(value, zone) if name in times else value for name, value in row.items()} for row in rows
    ]
    text = io.StringIO(newline="")
    if kind.startswith("csv"):
        writer = csv.DictWriter(text, [c.name for c in columns], lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(told)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in told)
    content = text.getvalue().encode()
    return gzip.compress(content, 6, mtime=0) if kind.endswith(".gz") else content


def _iso(value: Any, zone: timezone) -> Any:
    """Local time with its offset in CSV, UTC with Z in JSON Lines; texts and nulls as they are."""
    if not isinstance(value, int):
        return value
    moment = datetime.fromtimestamp(value // 1_000_000, zone)
    return moment.isoformat().replace("+00:00", "Z")


def _write(path: Path, content: bytes) -> None:
    """The file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
