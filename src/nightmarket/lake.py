"""Parquet between the warehouse and the work: one folder a name and day, written whole or not at all.

A folder `lake/<name>/day=YYYY-MM-DD/` holds `rows.parquet` and `manifest.json` (rows, content hash). Rows are sorted by
their key, so the same rows give the same file and the same hash. Not here: what the rows mean, and the warehouse.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nightmarket.errors import ExtractMissing
from nightmarket.settings import get_settings


@dataclass(frozen=True)
class Manifest:
    """One day of one name in the lake."""

    name: str
    day: date
    rows: int
    content_hash: str
    path: Path


def folder(name: str, day: date) -> Path:
    """Where a day of a name stands, whether it exists or not."""
    return get_settings().state / "lake" / name / f"day={day.isoformat()}"


def write(
    name: str, day: date, table: pa.Table, *, key: Sequence[str], unhashed: Sequence[str] = ()
) -> Manifest:
    """Make `table`, sorted by `key`, the whole of `name` for `day`. Columns in `unhashed` do not enter the hash."""
    ordered = table.sort_by([(column, "ascending") for column in key]) if table.num_rows and key else table
    target = folder(name, day)
    scratch = target.parent / f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    scratch.mkdir(parents=True)
    try:
        content_hash = hash_rows(ordered, unhashed=unhashed)
        pq.write_table(ordered, scratch / "rows.parquet", compression="zstd", row_group_size=250_000)
        (scratch / "manifest.json").write_text(
            json.dumps({"rows": ordered.num_rows, "content_hash": content_hash})
        )
        retired = target.parent / f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        if target.exists():
            target.rename(retired)
        scratch.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Manifest(name, day, ordered.num_rows, content_hash, target / "rows.parquet")


def manifest(name: str, day: date) -> Manifest | None:
    """What stands in the lake for a name and day, or None."""
    path = folder(name, day)
    try:
        found = json.loads((path / "manifest.json").read_text())
    except FileNotFoundError:
        return None
    return Manifest(name, day, found["rows"], found["content_hash"], path / "rows.parquet")


def require(name: str, day: date) -> Manifest:
    """Like `manifest`, but a missing day is an error that says what to run."""
    found = manifest(name, day)
    if found is None:
        raise ExtractMissing(
            f"There is no `{name}` of {day} in the lake ({folder(name, day)}). "
            f"Run build_warehouse for that day first: nightmarket run --day {day} --only build_warehouse"
        )
    return found


def read(name: str, day: date, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a name and day, in the order of their key.

    Raises:
        ExtractMissing: that day was never written.
    """
    table: pa.Table = pq.read_table(
        require(name, day).path, columns=list(columns) if columns else None, partitioning=None
    )
    return table


def columns(name: str, day: date) -> list[str]:
    """The names of the columns of a name and day."""
    return list(pq.read_schema(require(name, day).path).names)


def latest(name: str) -> date | None:
    """The latest day of a name in the lake, or None."""
    days = [
        date.fromisoformat(path.name[4:]) for path in folder(name, date.min).parent.glob("day=????-??-??")
    ]
    return max(days, default=None)


def prune(day: date, keep_days: int) -> int:
    """Remove days more than `keep_days` before `day` and what killed writers left; says how many folders went."""
    gone = 0
    for path in (get_settings().state / "lake").glob("*/*day=*"):
        stamp = path.name.lstrip(".").removeprefix("day=")[:10]
        stale = path.name.startswith(".") and not _writer_lives(path)
        if stale or (not path.name.startswith(".") and (day - date.fromisoformat(stamp)).days > keep_days):
            shutil.rmtree(path, ignore_errors=True)
            gone += 1
    return gone


def hash_rows(table: pa.Table, *, unhashed: Sequence[str] = ()) -> str:
    """A digest of a table's rows, whatever their order; the names of its columns count, `unhashed` ones do not."""
    kept = table.select([name for name in table.column_names if name not in unhashed])
    if kept.num_rows == 0 or not kept.column_names:
        return _sha(",".join(kept.column_names) + f":{kept.num_rows}")
    with _engine(threads=1) as engine:
        engine.register("kept", kept)
        row = engine.execute(
            "select sha256(string_agg(h, '' order by h)) from (select md5(cast(kept as varchar)) as h from kept)"
        ).fetchone()
    return _sha(",".join(kept.column_names) + ":" + str(row[0] if row else ""))


def digests(name: str, day: date, *, by: str, columns: Sequence[str]) -> pa.Table:
    """For each value of `by` a `digest` of the `columns` of its rows, whatever their order; a missing column is empty.

    Made where the file is read, so a million rows cost a second and only their digests come to Python.
    """
    path = require(name, day).path
    held = pq.read_schema(path).names
    there = [c for c in columns if c in held]
    parts = ", ".join(["''", *(f"coalesce(cast({c} as varchar), chr(30))" for c in there)])
    text = f"concat_ws(chr(31), {parts})"
    with _engine(threads=get_settings().threads) as engine:
        engine.execute("set TimeZone = 'UTC'")
        return engine.execute(
            f"select {by}, md5(concat_ws(' ', count(*), sum(md5_number_lower(t)))) as digest "
            f"from (select {by}, {text} as t from read_parquet(?)) group by {by} order by {by}",
            [str(path)],
        ).to_arrow_table()


@lru_cache(maxsize=1)
def _database() -> duckdb.DuckDBPyConnection:
    """DuckDB without a file, one a process: making it takes 20 ms of processor time, a cursor of it hardly any."""
    return duckdb.connect()


# Its threads do not come along into a child that is a copy of this process.
os.register_at_fork(before=_database.cache_clear)


@contextmanager
def _engine(threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB for one question about rows or Parquet; it holds nothing afterwards."""
    with _database().cursor() as engine:
        engine.execute(f"set threads = {threads}")
        yield engine


def _sha(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def _writer_lives(path: Path) -> bool:
    parts = path.name.split(".")
    return len(parts) > 2 and parts[2].isdigit() and Path(f"/proc/{parts[2]}").exists()
