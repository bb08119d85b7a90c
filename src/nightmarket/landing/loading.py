"""One file into `raw`, whole or not at all.

Here: judging a staged file, setting bad rows aside, replacing rows by key, and loading rows again that waited for a row
they refer to. Not here: reading (reading), the rules themselves (rules), which files (finding).

Each row of a file ends in exactly one place: loaded, unchanged, duplicate (a later line of the file has its key), or
quarantined. The work is set-wise in the engine: 1.5 million lines are judged and loaded in some seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import duckdb

from nightmarket.contracts import JSON, LANDING, LandingTable
from nightmarket.errors import LandingRejected
from nightmarket.landing import columns, records
from nightmarket.landing.finding import LandingFile, Terms
from nightmarket.landing.reading import Staged, stage
from nightmarket.landing.records import PLACE_NAMES, Counts, waiting
from nightmarket.landing.rules import ADVICE, family, fitted, is_id, reference_faults
from nightmarket.settings import get_settings

if TYPE_CHECKING:
    from nightmarket.shops import Shop

log = logging.getLogger("nightmarket.landing")

# Rows that `ops.quarantine` keeps of a refused file, by rule: enough to see what is wrong, not the whole file again.
REFUSED_ROWS_KEPT = 1000
_SHOWN = 200  # characters of a value that a payload shows
_AT_ONCE = 10_000
_LINES_NAMED = 5


@dataclass(frozen=True)
class Load:
    """What stays the same for all files of a load."""

    connection: duckdb.DuckDBPyConnection
    shop: Shop
    terms: Terms
    day: date
    run_id: str
    batch: int


@dataclass(frozen=True)
class Landed:
    """What became of a file."""

    counts: Counts
    notices: tuple[str, ...]


def land(load: Load, file: LandingFile) -> Landed:
    """Load one file in its own transaction.

    Raises:
        LandingRejected: the file cannot be read, its columns do not fit, or too large a share of its rows is bad.
            Nothing of it is kept; `ops.landings` says `rejected`, `ops.quarantine` shows the rows.
    """
    table = LANDING[file.table]
    refused: list[dict[str, object]] = []
    rejected = Counts()
    landing = records.next_landing(load.connection)
    try:
        with transaction(load.connection):
            renames = load.shop.renames.get(table.name, {})
            flat = {c.name for c in table.columns if c.kind != JSON}
            flat = {
                *flat - set(renames.values()),
                *(theirs for theirs, ours in renames.items() if ours in flat),
            }
            staged = stage(load.connection, file, flat=frozenset(flat))
            fit = columns.fit(
                load.connection, file, table, staged, renames=renames,
                accepted=load.terms.accepted.get(table.name, frozenset()),
                before=records.last_schema(load.connection, table.name),
            )  # fmt: skip
            _judge(load, table, fit)
            bad = _one(load.connection, "select count(*) from judged where _rule is not null")
            limit = load.terms.limit(table.name, get_settings().quarantine_limit)
            if bad > limit * staged.rows:
                refused = list(_aside(load.connection, table, fit, staged, at_most=REFUSED_ROWS_KEPT))
                rejected = Counts(rows_in=staged.rows, quarantined=bad)
                raise LandingRejected(_refusal(load.connection, file, staged.rows, bad, limit))
            counts = _keep(load, file, table, landing, staged, fit, bad)
            note = "; ".join(fit.notices)
            records.note_landing(
                load.connection, landing, file, counts, status="loaded", day=load.day, run_id=load.run_id,
                batch=load.batch, schema=fit.schema, note=note,
            )  # fmt: skip
    except LandingRejected as error:
        with transaction(load.connection):
            records.note_landing(
                load.connection, landing, file, rejected, status="rejected", day=load.day, run_id=load.run_id,
                batch=load.batch, schema="", note=str(error),
            )  # fmt: skip
            records.note_quarantine(load.connection, landing, file, refused)
        raise
    notices = list(fit.notices)
    if staged.rows == 0:
        notices.append(f"{file.name} has no rows")
    if counts.quarantined:
        notices.append(
            f"{file.name}: {counts.quarantined} of {counts.rows_in} rows were set aside in ops.quarantine"
        )
    for notice in notices:
        log.warning(notice)
    log.info("landed %s: %s", file.name, counts)
    return Landed(counts, tuple(notices))


def replay(load: Load, table: LandingTable) -> int:
    """Load rows that waited for a row they refer to, where it has come since; returns how many.

    A row that a later delivery replaced in the meantime stays out: it is marked `superseded_at` instead of `replayed_at`.
    """
    connection = load.connection
    if not _one(connection, f"select count(*) from raw.{waiting(table)}"):
        return 0
    still = (
        " or ".join(
            f"({condition})" for _, condition in reference_faults(table, _judged_references(connection))
        )
        or "false"
    )
    same = _same_key(table, "ready", "held")
    with transaction(connection):
        connection.execute(
            f"create or replace temp table ready as select * from raw.{waiting(table)} where not coalesce({still}, false)"
        )
        connection.execute(
            f"create or replace temp table winners as select ready.* from ready "
            f"left join raw.{table.name} as held on {same} "
            "where held._landing is null or (held._landing, held._line) < (ready._landing, ready._line)"
        )
        count = _one(connection, "select count(*) from winners")
        if _one(connection, "select count(*) from ready"):
            now = datetime.now(UTC).replace(tzinfo=None)
            for mark, rows in (("replayed_at", "winners"), ("superseded_at", "ready")):
                connection.execute(
                    f"update ops.quarantine as aside set {mark} = ? from {rows} as moved where aside.landing = moved._landing "
                    "and aside.line = moved._line and aside.replayed_at is null and aside.superseded_at is null",
                    [now],
                )
            connection.execute(
                f"delete from raw.{waiting(table)} using ready where raw.{waiting(table)}._landing = ready._landing "
                f"and raw.{waiting(table)}._line = ready._line"
            )
            connection.execute(
                "update ops.landings set rows_replayed = rows_replayed + moved.n from "
                "(select _landing, count(*) as n from winners group by all) as moved where landing = moved._landing"
            )
        if count:
            connection.execute(f"update winners set _batch = {load.batch}")
            _replace(connection, table, "winners")
            records.note_batch(connection, load.shop, load.day, load.batch)
    return count


def _judge(load: Load, table: LandingTable, fit: columns.Fit) -> None:
    """Fill `judged`: each row's line, typed values, unknown columns, and the first rule it breaks as `rule:column`."""
    values, faults = [], ["when _broken is not null then 'malformed_line:'"]
    wide = _beyond_ascii(
        load.connection, [fit.known[c.name] for c in table.columns if is_id(c) and c.name in fit.known]
    )
    for column in table.columns:
        source = fit.known.get(column.name)
        only_ascii = source is not None and source.slot not in wide
        slot, sql_type = (source.slot, source.sql_type) if source else (None, "")
        fits = fitted(table, column, slot, sql_type, load.day, only_ascii=only_ascii)
        values.append(f"{fits.value} as {column.name}")
        faults += [f"when {condition} then '{rule}:{column.name}'" for rule, condition in fits.faults]
    references = [
        f"when {condition} then 'unknown_reference:{name}'"
        for name, condition in reference_faults(table, _judged_references(load.connection))
    ]
    names = ", ".join(column.name for column in table.columns)
    late = f"case {' '.join(references)} end" if references else "null"
    load.connection.execute(
        f"create or replace temp table judged as select _line, {names}, _extra, coalesce(_early, {late}) as _rule from ("
        f"select _line, {', '.join(values)}, {columns.extra(fit.unknown)} as _extra, "
        f"cast(case {' '.join(faults)} end as varchar) as _early from arrived)"
    )


def _keep(
    load: Load,
    file: LandingFile,
    table: LandingTable,
    landing: int,
    staged: Staged,
    fit: columns.Fit,
    bad: int,
) -> Counts:
    """Write the good rows of `judged` into raw and the others into the quarantine."""
    connection = load.connection
    names = ", ".join(column.name for column in table.columns)
    place = "? as _path, _line, ? as _batch, _extra, ? as _landing"
    told = [file.name, load.batch, landing]
    key = ", ".join(table.key)
    connection.execute(
        f"create or replace temp table fresh as select {names}, {place} from judged where _rule is null "
        f"qualify row_number() over (partition by {key} order by _line desc) = 1",
        told,
    )
    distinct = _one(connection, "select count(*) from fresh")
    if _one(connection, f"select count(*) from (select 1 from raw.{table.name} limit 1)"):
        compared = [*(c.name for c in table.columns if c.name not in table.key), "_extra"]
        equal = " and ".join(f"fresh.{name} is not distinct from held.{name}" for name in compared)
        connection.execute(
            f"delete from fresh using raw.{table.name} as held where {_same_key(table, 'fresh', 'held')} and {equal}"
        )
    loaded = _one(connection, "select count(*) from fresh")
    if loaded:
        _replace(connection, table, "fresh")
        records.note_batch(connection, load.shop, load.day, load.batch)
    for rows in _chunks(_aside(connection, table, fit, staged)):
        records.note_quarantine(connection, landing, file, rows)
    if bad:
        _hold(load, file, table, landing, names)
    return Counts(
        rows_in=staged.rows,
        loaded=loaded,
        unchanged=distinct - loaded,
        duplicate=staged.rows - bad - distinct,
        quarantined=bad,
    )


def _hold(load: Load, file: LandingFile, table: LandingTable, landing: int, names: str) -> None:
    """Keep rows whose only fault is an unknown reference, typed and whole; a later one replaces an earlier one."""
    connection, held = load.connection, f"raw.{waiting(table)}"
    key = ", ".join(table.key)
    connection.execute(
        f"create or replace temp table holding as select {names}, ? as _path, _line, ? as _batch, _extra, ? as _landing "
        "from judged where _rule like 'unknown_reference:%' "
        f"qualify row_number() over (partition by {key} order by _line desc) = 1",
        [file.name, load.batch, landing],
    )
    same = _same_key(table, "holding", held)
    now = datetime.now(UTC).replace(tzinfo=None)
    connection.execute(
        f"update ops.quarantine as aside set superseded_at = ? from (select {held}._landing, {held}._line from {held} "
        f"join holding on {same}) as old where aside.landing = old._landing and aside.line = old._line",
        [now],
    )
    connection.execute(
        "update ops.quarantine as aside set superseded_at = ? where aside.landing = ? and aside.rule = 'unknown_reference' "
        "and aside.line not in (select _line from holding)",
        [now, landing],
    )
    connection.execute(f"delete from {held} using holding where {same}")
    connection.execute(
        f"insert into {held} ({names}, {PLACE_NAMES}) select {names}, {PLACE_NAMES} from holding"
    )


def _replace(connection: duckdb.DuckDBPyConnection, table: LandingTable, rows: str) -> None:
    """Put the rows of a temporary table into raw in place of those with the same keys."""
    target = f"raw.{table.name}"
    names = ", ".join(column.name for column in table.columns)
    connection.execute(f"delete from {target} using {rows} where {_same_key(table, target, rows)}")
    connection.execute(
        f"insert into {target} ({names}, {PLACE_NAMES}) select {names}, {PLACE_NAMES} from {rows}"
    )


def _aside(
    connection: duckdb.DuckDBPyConnection,
    table: LandingTable,
    fit: columns.Fit,
    staged: Staged,
    *,
    at_most: int | None = None,
) -> Iterator[dict[str, object]]:
    """Rows of `judged` that break a rule, as the quarantine wants them; at most so many of each rule."""
    ours = {column.name: name for name, column in fit.known.items()}
    personal = {column.name for column in table.columns if column.personal}
    hidden = frozenset({*personal, *(column.name for column in fit.unknown)})
    shown = "".join(
        f", left(cast({c.slot} as varchar), {_SHOWN}), length(cast({c.slot} as varchar))"
        for c in staged.columns
    )
    cut = f"qualify row_number() over (partition by _rule order by _line) <= {at_most}" if at_most else ""
    cursor = connection.execute(
        f"select _line, _rule, _broken{shown} from judged join arrived using (_line) where _rule is not null {cut} order by _line"
    )
    rows = []
    while piece := cursor.fetchmany(_AT_ONCE):
        for line, ruled, broken, *values in piece:
            rule, _, column = ruled.partition(":")
            told = {
                ours.get(c.name, c.name): (values[2 * i], values[2 * i + 1])
                for i, c in enumerate(staged.columns)
            }
            rows.append({
                "line": line, "rule": rule, "column_name": column or None,
                "payload": broken or records.payload(told, hidden), "what_to_do": _advice(table, rule, column),
            })  # fmt: skip
    yield from rows


def _advice(table: LandingTable, rule: str, column: str) -> str:
    advice = ADVICE[rule]
    if rule == "not_accepted":
        return f"{advice} For {column}: {', '.join(table.column(column).accepted)}."
    if rule == "unknown_reference":
        return f"{advice} {column} refers to {table.column(column).references}."
    return advice


def _refusal(
    connection: duckdb.DuckDBPyConnection, file: LandingFile, rows: int, bad: int, limit: float
) -> str:
    """What the error says of a file with too many bad rows: each rule, how often, where first, and what to do."""
    found = connection.execute(
        "select _rule, count(*) as n, list(_line order by _line)[:?] from judged where _rule is not null "
        "group by _rule order by n desc, _rule",
        [_LINES_NAMED],
    ).fetchall()
    told = []
    for ruled, count, lines in found:
        rule, _, column = ruled.partition(":")
        where = f" in {column}" if column else ""
        more = ", …" if count > len(lines) else ""
        told.append(
            f"{rule}{where}: {count} (lines {', '.join(map(str, lines))}{more}). {_advice(LANDING[file.table], rule, column)}"
        )
    listed = "\n  ".join(told)
    return (
        f"{file.name} (table {file.table}): {bad} of {rows} rows ({bad / rows:.1%}) break the contract, the limit is "
        f'{limit:.1%}. Nothing of the file was kept.\n  {listed}\n  The rows: nightmarket query "select * from ops.quarantine '
        f"where path = '{file.name}'\". Correct the file and run the night again, or raise the limit in shop.toml: "
        f"[limits] {file.table} = {min(1.0, -(-bad * 100 // rows) / 100):.2f}"
    )


def _judged_references(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Tables that this shop delivers: a reference into a table it does not have cannot be judged."""
    asked = " union all ".join(f"select '{name}' where exists (select 1 from raw.{name})" for name in LANDING)
    return [name for (name,) in connection.execute(asked).fetchall()]


def _beyond_ascii(connection: duckdb.DuckDBPyConnection, ids: Sequence[columns.FileColumn]) -> set[str]:
    """Slots of `arrived` whose texts hold more bytes than characters."""
    texts = [f"cast({column.slot} as varchar)" for column in ids if family(column.sql_type) == "text"]
    if not texts:
        return set()
    asked = ", ".join(f"coalesce(bool_or(strlen({text}) <> length({text})), false)" for text in texts)
    answers = connection.execute(f"select {asked} from arrived").fetchone() or ()
    slots = [column.slot for column in ids if family(column.sql_type) == "text"]
    return {slot for slot, is_wide in zip(slots, answers, strict=True) if is_wide}


def _same_key(table: LandingTable, left: str, right: str) -> str:
    return " and ".join(f"{left}.{name} = {right}.{name}" for name in table.key)


def _chunks(rows: Iterator[dict[str, object]]) -> Iterator[Sequence[dict[str, object]]]:
    piece: list[dict[str, object]] = []
    for row in rows:
        piece.append(row)
        if len(piece) == _AT_ONCE:
            yield piece
            piece = []
    yield piece


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    found = connection.execute(sql).fetchone()
    return int(found[0]) if found else 0


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Everything in the block or nothing of it."""
    connection.execute("begin")
    try:
        yield
        connection.execute("commit")
    except BaseException:
        connection.execute("rollback")
        raise
