"""The one door to the warehouse: read it, extract a mart as of a day, publish a day of an output table.

Here: connections, engine, types, transactions, the readers' copy. Not here: what rows mean (products), whether they
are good (quality), how marts are made (dbt).

The embedded engine is one DuckDB file with one writer at a time. Writers queue on a file lock. When a writer is done,
the file is copied beside it and swapped in by a rename: readers open that copy, so they never wait for a writer,
never lock anybody out, and never see half of a transaction. The copy costs about 0.2 s for 100 MB.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nightmarket import ledger
from nightmarket.contracts import OUTPUTS, PROVENANCE, UNHASHED, output_columns
from nightmarket.errors import NightmarketError, PublishConflict, QueryFailed, WarehouseBusy, WarehouseMissing
from nightmarket.lake import Manifest
from nightmarket.lake import write as _write_lake
from nightmarket.settings import get_settings

SCHEMAS = ("raw", "staging", "intermediate", "marts", "outputs", "reports", "ops")

_PUBLICATIONS = """
create table if not exists ops.publications (
    table_name varchar not null, day date not null, version bigint not null, run_id varchar not null,
    rows bigint not null, content_hash varchar not null, inputs_hash varchar,
    published_at timestamp not null, superseded_at timestamp, primary key (table_name, day, version)
)"""


@dataclass(frozen=True)
class Publication:
    """One version of one day of a published table; `changed` is False when the day already held these very rows."""

    table: str
    day: date
    version: int
    rows: int
    content_hash: str
    inputs_hash: str | None
    run_id: str
    changed: bool = True


def path() -> Path:
    """The DuckDB file that writers open."""
    return get_settings().state / "warehouse.duckdb"


@contextmanager
def writer(timeout_s: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """The one read-write connection; waits for its turn and refreshes the readers' copy when the block ends.

    Transactions are the caller's: what it commits stays, also when the block raises afterwards.

    Raises:
        WarehouseBusy: another process kept the warehouse for longer than `timeout_s`.
    """
    settings = get_settings()
    limit = settings.warehouse_wait_s if timeout_s is None else timeout_s
    settings.state.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + limit
    with (settings.state / "warehouse.lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _wait_or_give_up(deadline, limit)
        connection = _open(deadline, limit)
        try:
            for schema in SCHEMAS:
                connection.execute(f"create schema if not exists {schema}")
            connection.execute(_PUBLICATIONS)
            yield connection
        finally:
            try:
                _refresh_readers(connection)
            finally:
                connection.close()


@contextmanager
def held_open(**options: str) -> Iterator[None]:
    """Keep the warehouse's file open for others of this process that open it with the same options of the engine.

    Raises:
        WarehouseBusy: another process kept the warehouse for longer than `warehouse_wait_s`.
    """
    limit = get_settings().warehouse_wait_s
    connection = _open(time.monotonic() + limit, limit, **options)
    try:
        yield
    finally:
        connection.close()


def read(sql: str, params: Sequence[object] = ()) -> pa.Table:
    """Run one reading statement against everything published and built so far; never waits, never locks.

    `raw, staging, intermediate, marts, outputs, reports` are those of the last finished writer; `ops.runs`,
    `ops.gates`, `ops.promotions`, `ops.reactions` and `ops.copy_reviews` are of this moment.

    Raises:
        WarehouseMissing: this shop has no warehouse yet.
        QueryFailed: the statement is wrong, or tries to write.
    """
    for asked in (sql, None):
        with _reader(asked) as connection:
            try:
                return connection.execute(sql, list(params)).to_arrow_table()
            except duckdb.Error as error:
                # Asked again with every table in sight, so that the message names those that are there.
                if asked is None:
                    raise QueryFailed(f"The warehouse refused the statement: {error}") from error
    raise AssertionError("unreachable")


def has_output(table: str) -> bool:
    """Whether an output table was ever published.

    Raises:
        WarehouseMissing: this shop has no warehouse yet.
    """
    return _copy().holds("outputs", table)


def extract(relation: str, day: date, *, key: Sequence[str]) -> Manifest:
    """Write the mart `relation` as it stands into the lake as `day` of the same name, sorted by `key`."""
    rows = read(f"select * from marts.{relation}")
    return _write_lake(relation, day, rows, key=key)


def published(table: str, day: date) -> Publication | None:
    """The live version of a day of an output table, or None; read from the readers' copy."""
    try:
        found = read(
            "select version, rows, content_hash, inputs_hash, run_id from ops.publications "
            "where table_name = ? and day = ? and superseded_at is null",
            [table, day],
        ).to_pylist()
    except WarehouseMissing:
        return None
    if not found:
        return None
    row = found[0]
    return Publication(
        table,
        day,
        row["version"],
        row["rows"],
        row["content_hash"],
        row["inputs_hash"],
        row["run_id"],
        changed=False,
    )


def fence(tables: Sequence[str], day: date) -> dict[str, int]:
    """The live versions of a day (0 where there is none): hand it to `publish`, which refuses if they moved since.

    A writer that was killed between its commit and the readers' copy is caught up with first.
    """
    if path().exists() and not _copy_is_current():
        with writer():
            pass
    return {table: (found.version if (found := published(table, day)) else 0) for table in tables}


def publish(
    manifests: Mapping[str, Manifest], day: date, *, run_id: str, inputs_hash: str, fence: Mapping[str, int]
) -> list[Publication]:
    """Make each scratch manifest the whole of `day` in its output table, all of them in one transaction.

    A second run of a day leaves what the first left: when the day already holds these very rows nothing is written
    and `changed` is False. Readers see the old day of all tables or the new day of all.

    Raises:
        PublishConflict: the day was published with other rows since `fence` was taken; nothing was changed.
    """
    done: list[Publication] = []
    with writer() as connection:
        connection.execute("begin")
        try:
            for table, manifest in manifests.items():
                done.append(
                    _publish_table(connection, table, manifest, day, run_id, inputs_hash, fence.get(table, 0))
                )
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise
    return done


def digest(*parts: object) -> str:
    """A stable digest of values that print the same everywhere."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).hexdigest()


def _publish_table(
    connection: duckdb.DuckDBPyConnection, table: str, manifest: Manifest, day: date, run_id: str, inputs_hash: str,
    expected: int,
) -> Publication:  # fmt: skip
    contract = OUTPUTS[table]
    _ensure_output(connection, table)
    live = connection.execute(
        "select version, content_hash, rows, run_id from ops.publications "
        "where table_name = ? and day = ? and superseded_at is null",
        [table, day],
    ).fetchone()
    version, live_hash = (live[0], live[1]) if live else (0, None)
    if live_hash == manifest.content_hash:
        connection.execute(
            "update ops.publications set inputs_hash = ? where table_name = ? and day = ? and version = ?",
            [inputs_hash, table, day, version],
        )
        return Publication(
            table, day, version, manifest.rows, manifest.content_hash, inputs_hash, run_id, False
        )
    if version != expected:
        raise PublishConflict(
            f"outputs.{table} of {day} is at version {version} (run {live[3] if live else '-'}), but this run "
            f"({run_id}) began at version {expected}: another run published in between. Nothing was changed; "
            f"run the day again if its inputs changed."
        )
    names = [column.name for column in output_columns(table)]
    present = set(pq.read_schema(manifest.path).names)
    missing = [name for name in names if name not in present]
    if missing:
        raise NightmarketError(
            f"Scratch {manifest.path} of outputs.{table} lacks the columns {', '.join(missing)}."
        )
    listed = ", ".join(names)
    now = datetime.now(UTC).replace(tzinfo=None)
    connection.execute(f"delete from {contract.qualified} where day = ?", [day])
    connection.execute(
        f"insert into {contract.qualified} ({listed}) select {listed} from read_parquet(?) order by all",
        [str(manifest.path)],
    )
    connection.execute(
        "update ops.publications set superseded_at = ? where table_name = ? and day = ? and superseded_at is null",
        [now, table, day],
    )
    top = connection.execute(
        "select coalesce(max(version), 0) from ops.publications where table_name = ? and day = ?",
        [table, day],
    ).fetchone()
    fresh = (top[0] if top else 0) + 1
    connection.execute(
        "insert into ops.publications values (?, ?, ?, ?, ?, ?, ?, ?, null)",
        [table, day, fresh, run_id, manifest.rows, manifest.content_hash, inputs_hash, now],
    )
    return Publication(table, day, fresh, manifest.rows, manifest.content_hash, inputs_hash, run_id, True)


def _ensure_output(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    contract = OUTPUTS[table]
    columns = ", ".join(
        f"{c.name} {c.sql_type}{' not null' if c.required else ''}" for c in contract.columns + PROVENANCE
    )
    connection.execute(f"create table if not exists {contract.qualified} ({columns})")
    # A table of an earlier release lacks what its contract has gained since; the rows there have nothing to say of it.
    for column in contract.columns + PROVENANCE:
        connection.execute(
            f"alter table {contract.qualified} add column if not exists {column.name} {column.sql_type}"
        )
    latest = ", ".join(contract.current_key)
    same = " and ".join(f"later.{c} = rows.{c}" for c in contract.current_key)
    connection.execute(
        f"create or replace view {contract.qualified}_current as select rows.* from {contract.qualified} as rows "
        f"join (select {latest}, max(day) as day from {contract.qualified} group by {latest}) as later "
        f"on {same} and later.day = rows.day"
    )


def _open(deadline: float, limit: float, **options: str) -> duckdb.DuckDBPyConnection:
    settings = get_settings()
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": settings.threads,
        "memory_limit": settings.warehouse_memory,
    }
    while True:
        try:
            connection = duckdb.connect(str(path()), config=config | options)
            connection.execute("set TimeZone = 'UTC'")
            return connection
        except duckdb.IOException as error:
            if "lock" not in str(error).lower():
                raise
            _wait_or_give_up(deadline, limit)


def _wait_or_give_up(deadline: float, limit: float) -> None:
    if time.monotonic() > deadline:
        raise WarehouseBusy(
            f"Another process kept {path()} for more than {limit:.0f} s. Look for a running night (`nightmarket doctor`), "
            f"or wait longer with NIGHTMARKET_WAREHOUSE_WAIT_S."
        )
    time.sleep(0.1)


def _readers() -> Path:
    return get_settings().state / "readers"


def _stamp() -> str:
    """What changes with every change of the warehouse's file: a commit stands in the log beside it until a checkpoint."""
    state, log = path().stat(), path().with_name(f"{path().name}.wal")
    return f"{state.st_mtime_ns} {state.st_size} {log.stat().st_size if log.exists() else 0}"


def _copy_is_current() -> bool:
    folder = _readers()
    try:
        return (folder / "warehouse.duckdb").exists() and (folder / "copied").read_text() == _stamp()
    except FileNotFoundError:
        return False


def _refresh_readers(connection: duckdb.DuckDBPyConnection) -> None:
    """Copy the file while this connection holds it, then swap the copy in by a rename; nothing when nothing changed."""
    connection.execute("checkpoint")
    if _copy_is_current():
        return
    folder = _readers()
    folder.mkdir(exist_ok=True)
    state = path().stat()
    for left in folder.glob(".*.duckdb"):  # only a killed writer leaves one; the lock is ours
        left.unlink(missing_ok=True)
    fresh = folder / f".{uuid.uuid4().hex}.duckdb"
    try:
        shutil.copyfile(path(), fresh)
        fresh.replace(folder / "warehouse.duckdb")
        (folder / "copied").write_text(_stamp())
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise NightmarketError(
            f"The readers' copy of {path()} ({state.st_size / 2**20:.0f} MB) could not be written to {folder}: "
            f"{error}. Readers keep the old one; free some space and run the night again."
        ) from error


# A statement that asks which tables there are must see them all.
_ABOUT_TABLES = re.compile(r"information_schema|duckdb_|pragma|\b(show|describe|summarize)\b", re.IGNORECASE)


class _Copy:
    """The readers' copy as one file of it was, open for all questions of this process until the next one is there.

    Opening it anew for each question took 50 ms of processor time, 2 ms of which were the question. Views are made when
    a question first names their table. What a question leaves behind it is its own: ledgers and settings are those of
    its cursor, and it cannot write.
    """

    def __init__(self, file: tuple[str, int, int], threads: int) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._shown: set[str] = set()
        self._columns: set[tuple[str, str]] | None = None
        self._connection = duckdb.connect(":memory:", config={"threads": threads})
        escaped = file[0].replace("'", "''")
        self._connection.execute(f"attach '{escaped}' as warehouse (read_only)")
        for schema in SCHEMAS:
            self._connection.execute(f"create schema {schema}")
        self._tables = self._connection.execute(
            "select schema_name, table_name from duckdb_tables() where database_name = 'warehouse' and not internal "
            "union all select schema_name, view_name from duckdb_views() "
            "where database_name = 'warehouse' and not internal"
        ).fetchall()

    def holds(self, schema: str, name: str) -> bool:
        """Whether this table or view is there."""
        return (schema, name) in self._tables

    def ask(self, sql: str | None) -> duckdb.DuckDBPyConnection:
        """A connection with a view of each table that the statement may name, or of all."""
        every = sql is None or _ABOUT_TABLES.search(sql) is not None
        words = (sql or "").lower()
        cursor = self._connection.cursor()
        cursor.execute("set TimeZone = 'UTC'")
        ledgers = [name for name in ledger.TABLES if every or name in words]
        for name in ledgers:  # a name of this cursor alone
            cursor.register(f"_{name}", ledger.rows(name))
        with self._lock:
            for schema, name in self._tables:
                if schema in SCHEMAS and (every or name.lower() in words):
                    also = self._lacking(name) if schema == "outputs" else ""
                    self._show(cursor, f'{schema}."{name}"', f'*{also} from warehouse.{schema}."{name}"')
            for name in ledgers:
                self._show(cursor, f"ops.{name}", f"* from _{name}")
        cursor.execute("begin transaction read only")
        return cursor

    def holds_much(self) -> bool:
        """Whether what was read of the file fills more memory than a later question is worth."""
        with self._lock:
            held = self._connection.execute("select sum(memory_usage_bytes) from duckdb_memory()").fetchone()
        return bool(held and int(held[0] or 0) > _HELD_BYTES)

    def _show(self, cursor: duckdb.DuckDBPyConnection, name: str, columns: str) -> None:
        if name not in self._shown:
            cursor.execute(f"create view {name} as select {columns}")
            self._shown.add(name)

    def _lacking(self, name: str) -> str:
        """Of an output table of an earlier release or its view, the columns that its contract has gained since: no row
        says anything of them. The next publication adds them to the table."""
        if (table := name.removesuffix("_current")) not in OUTPUTS:
            return ""
        if self._columns is None:
            self._columns = set(
                self._connection.execute(
                    "select table_name, column_name from duckdb_columns() "
                    "where database_name = 'warehouse' and schema_name = 'outputs'"
                ).fetchall()
            )
        gained = [c for c in output_columns(table) if (name, c.name) not in self._columns]
        return "".join(f", null::{c.sql_type} as {c.name}" for c in gained)


_HELD_BYTES = 64 * 2**20
_opened: dict[str, _Copy] = {}
_opening = threading.Lock()


def _forget() -> None:
    """Close the readers' copy of this process; a question that is under way keeps it open until it is answered."""
    with _opening:
        _opened.clear()


# DuckDB's threads do not come along into a child that is a copy of this process.
os.register_at_fork(before=_forget)


def _copy() -> _Copy:
    """The readers' copy as it stands now."""
    settings = get_settings()
    path = _readers() / "warehouse.duckdb"
    try:
        state = path.stat()
    except FileNotFoundError:
        raise WarehouseMissing(
            f"Shop `{settings.shop}` has no warehouse yet ({path} is not there). Run a night first: "
            f"make nightly SHOP={settings.shop}"
        ) from None
    # While it is open no other file gets its number.
    file = (str(path), state.st_ino, state.st_mtime_ns)
    with _opening:
        held = _opened.get("copy")
        if held is None or held.file != file:
            held = _opened["copy"] = _Copy(file, settings.threads)
        return held


@contextmanager
def _reader(sql: str | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the readers' copy with a view of each table; given a statement, of those that it may name."""
    held = _copy()
    connection = held.ask(sql)
    try:
        yield connection
    finally:
        connection.close()
    if held.holds_much():
        _forget()


__all__ = [
    "UNHASHED", "Publication", "digest", "extract", "fence", "path", "publish", "published", "read", "writer",
]  # fmt: skip
