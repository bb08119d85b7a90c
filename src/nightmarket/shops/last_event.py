"""When the last thing happened in a shop, read straight from its landing files before any of them is loaded.

Tolerant on purpose: a broken file or an impossible date must not keep a night from starting, because landing is the one
that reports it. Not here: any judgement of rows.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb

from nightmarket.errors import ShopNotFound
from nightmarket.shops import Shop, format_of

EVENTS = {
    "orders": ("ordered_at",),
    "events": ("occurred_at",),
    "reviews": ("created_at",),
    "tickets": ("opened_at", "closed_at"),
    "ticket_messages": ("sent_at",),
}
# What is left to go by in a shop where nothing has happened yet.
OTHERWISE = {
    "consents": ("effective_at",),
    "experiments": ("exposed_at",),
    "customers": ("created_at",),
    "products": ("updated_at", "created_at"),
}
FIRST_YEAR, LAST_YEAR = 1990, 2100
# The engine sets aside sixteen times as much. A longer line is passed over.
_LONGEST_LINE = 16 * 2**20


def day_after_last_event(shop: Shop) -> date:
    """See `shops.default_day`."""
    with duckdb.connect() as connection:
        connection.execute("set threads = 1; set TimeZone = 'UTC'; set memory_limit = '1GB'")
        for tables in (EVENTS, OTHERWISE):
            moments = [
                moment
                for table, columns in tables.items()
                for path in shop.files(table)
                for column in columns
                if (moment := _latest(connection, path, shop.column_in_files(table, column))) is not None
            ]
            if moments:
                return max(moments).astimezone(shop.zone).date() + timedelta(days=1)
    raise ShopNotFound(
        f"Shop `{shop.source}`: no order, event, review, customer or product in {shop.folder} has a date between "
        f"{FIRST_YEAR} and {LAST_YEAR}, so the day to run cannot be told. Give one: DAY=2026-11-22 (or --day)."
    )


def _latest(connection: duckdb.DuckDBPyConnection, path: Path, column: str) -> datetime | None:
    """The latest possible moment in a column of a file (UTC); None when there is none or the file cannot be read."""
    name = '"' + column.replace('"', '""') + '"'
    reader = {
        "parquet": "read_parquet(?)",
        "csv": f"read_csv(?, all_varchar = true, header = true, delim = ',', quote = '\"', escape = '\"', "
        f"ignore_errors = true, null_padding = true, parallel = false, max_line_size = {_LONGEST_LINE})",
        "jsonl": f"read_json(?, format = 'newline_delimited', columns = {{{name}: 'VARCHAR'}}, "
        f"ignore_errors = true, maximum_object_size = {_LONGEST_LINE})",
    }[format_of(path) or "parquet"]
    query = (
        f"select max(epoch_us(moment)) from (select try_cast({name} as timestamptz) as moment from {reader}) "
        f"where moment >= timestamptz '{FIRST_YEAR}-01-01' and moment < timestamptz '{LAST_YEAR + 1}-01-01'"
    )
    try:
        row = connection.execute(query, [str(path)]).fetchone()
    except duckdb.OutOfMemoryException:
        raise  # a day told from half of the files would be a wrong one
    except (duckdb.Error, UnicodeDecodeError):
        return None
    return (
        datetime.fromtimestamp(0, UTC) + timedelta(microseconds=row[0])
        if row and row[0] is not None
        else None
    )
