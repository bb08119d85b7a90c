"""The tables of the warehouse that landing writes: `raw`, `ops.landings`, `ops.quarantine`, and the night's row.

Here: their shapes, and one function a kind of write. Everything runs inside the caller's transaction. Not here: what is
loaded or set aside (loading).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from nightmarket.contracts import LANDING, LandingTable
from nightmarket.landing.finding import LandingFile

if TYPE_CHECKING:
    from nightmarket.shops import Shop

# `_landing` is the number of the landing that brought the row: of two rows with a key the later one stays.
PLACE = "_path varchar, _line bigint, _batch bigint, _extra varchar, _landing bigint"
PLACE_NAMES = "_path, _line, _batch, _extra, _landing"
_OWN_TABLES = """
create table if not exists raw.night (day date, time_zone varchar, currency varchar, shop varchar, batch bigint);
create table if not exists ops.landings (
    landing bigint, table_name varchar, path varchar, sha256 varchar, status varchar, rows_in bigint, rows_loaded bigint,
    rows_unchanged bigint, rows_duplicate bigint, rows_quarantined bigint, rows_replayed bigint, loaded_at timestamp,
    day date, run_id varchar, batch bigint, schema varchar, note varchar, stamp varchar
);
create table if not exists ops.quarantine (
    landing bigint, table_name varchar, path varchar, line bigint, rule varchar, column_name varchar, payload varchar,
    what_to_do varchar, seen_at timestamp, replayed_at timestamp, superseded_at timestamp
)"""


@dataclass(frozen=True)
class Counts:
    """What became of a file's rows: `rows_in` is the sum of the other four."""

    rows_in: int = 0
    loaded: int = 0
    unchanged: int = 0
    duplicate: int = 0
    quarantined: int = 0


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Make every table that is not there, and add columns that the contract gained."""
    connection.execute(_OWN_TABLES)
    there: dict[str, set[str]] = {}
    for name, column in connection.execute(
        "select table_name, column_name from duckdb_columns() where schema_name = 'raw' and database_name = current_database()"
    ).fetchall():
        there.setdefault(name, set()).add(column)
    for table in LANDING.values():
        for name in (table.name, waiting(table)):
            if name not in there:
                columns = ", ".join(f"{c.name} {c.sql_type}" for c in table.columns)
                connection.execute(f"create table raw.{name} ({columns}, {PLACE})")
                continue
            for column in table.columns:
                if column.name not in there[name]:
                    connection.execute(f"alter table raw.{name} add column {column.name} {column.sql_type}")


def waiting(table: LandingTable) -> str:
    """The table in `raw` that holds, whole and typed, the rows that wait for a row they refer to."""
    return f"waiting_{table.name}"


def landed(connection: duckdb.DuckDBPyConnection) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Content hashes of loaded files by table, and stamps of loaded files by path."""
    hashes: dict[str, set[str]] = {}
    stamps: dict[str, set[str]] = {}
    for table, path, sha256, stamp in connection.execute(
        "select table_name, path, sha256, stamp from ops.landings where status = 'loaded'"
    ).fetchall():
        hashes.setdefault(table, set()).add(sha256)
        stamps.setdefault(path, set()).add(stamp)
    return hashes, stamps


def last_schema(connection: duckdb.DuckDBPyConnection, table: str) -> str | None:
    """The schema of the last loaded file of a table that had rows."""
    found = connection.execute(
        "select schema from ops.landings where table_name = ? and status = 'loaded' and schema <> '' "
        "order by landing desc limit 1",
        [table],
    ).fetchone()
    return found[0] if found else None


def next_landing(connection: duckdb.DuckDBPyConnection) -> int:
    found = connection.execute("select coalesce(max(landing), 0) + 1 from ops.landings").fetchone()
    return int(found[0]) if found else 1


def note_landing(
    connection: duckdb.DuckDBPyConnection, landing: int, file: LandingFile, counts: Counts, *, status: str, day: date,
    run_id: str, batch: int, schema: str, note: str,
) -> None:  # fmt: skip
    """Write a file's row; what an earlier, rejected try of the same path left is replaced."""
    for left in ("ops.quarantine", "ops.landings"):
        connection.execute(
            f"delete from {left} where landing in "
            "(select landing from ops.landings where table_name = ? and path = ? and status = 'rejected' and landing <> ?)",
            [file.table, file.name, landing],
        )
    connection.execute(
        "insert into ops.landings values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?)",
        [landing, file.table, file.name, file.sha256, status, counts.rows_in, counts.loaded, counts.unchanged,
         counts.duplicate, counts.quarantined, _now(), day, run_id, batch, schema, note, file.stamp],
    )  # fmt: skip


def note_quarantine(
    connection: duckdb.DuckDBPyConnection,
    landing: int,
    file: LandingFile,
    rows: Iterable[Mapping[str, object]],
) -> None:
    """Write rows that were set aside: `line, rule, column_name, payload, what_to_do` of each."""
    listed = list(rows)
    if not listed:
        return
    kinds = {"line": pa.int64()} | {n: pa.string() for n in ("rule", "column_name", "payload", "what_to_do")}
    connection.register(
        "_aside", pa.table({n: pa.array([row[n] for row in listed], kind) for n, kind in kinds.items()})
    )
    connection.execute(
        "insert into ops.quarantine select ?, ?, ?, line, rule, column_name, payload, what_to_do, ?, null, null from _aside",
        [landing, file.table, file.name, _now()],
    )
    connection.unregister("_aside")


def next_batch(connection: duckdb.DuckDBPyConnection) -> int:
    """The number that rows of this load carry: one more than that of the last load that landed something."""
    found = connection.execute("select coalesce(max(batch), 0) + 1 from raw.night").fetchone()
    return int(found[0]) if found else 1


def note_batch(connection: duckdb.DuckDBPyConnection, shop: Shop, day: date, batch: int) -> None:
    """Say in `raw.night` that rows of `batch` are there; the first batch of a shop makes the row."""
    if connection.execute("select 1 from raw.night").fetchone():
        connection.execute("update raw.night set batch = ? where batch <> ?", [batch, batch])
    else:
        connection.execute(
            "insert into raw.night values (?, ?, ?, ?, ?)",
            [day, shop.time_zone, shop.currency, shop.name, batch],
        )


def note_night(connection: duckdb.DuckDBPyConnection, shop: Shop, day: date) -> None:
    """Make `raw.night` say which day the warehouse is for, and whose."""
    told = [day, shop.time_zone, shop.currency, shop.name]
    now = connection.execute("select day, time_zone, currency, shop from raw.night").fetchone()
    if now is None:
        connection.execute("insert into raw.night values (?, ?, ?, ?, 0)", told)
    elif list(now) != told:
        connection.execute("update raw.night set day = ?, time_zone = ?, currency = ?, shop = ?", told)


def payload(values: Mapping[str, tuple[str | None, int | None]], hidden: frozenset[str]) -> str:
    """A row as JSON for the quarantine: long values cut, personal and unknown ones only measured.

    `values` gives a value's beginning and its whole length; columns in `hidden` show the length alone.
    """
    shown: dict[str, object] = {}
    for name, (text, length) in values.items():
        if text is None or length is None:
            continue
        if name in hidden:
            shown[name] = f"[hidden, {length} characters]"
        else:
            shown[name] = text if length <= len(text) else f"{text}… ({length} characters)"
    return json.dumps(shown, ensure_ascii=False)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
