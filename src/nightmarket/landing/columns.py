"""Do a file's columns fit the contract, and the files before it?

Here: renames, missing and unknown columns, drift of a column's type or presence between files of a table. Not here:
values (rules). A change that nobody agreed to stops the load before any row of the file lands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import duckdb

from nightmarket.contracts import JSON, TIME, LandingTable
from nightmarket.errors import LandingRejected
from nightmarket.landing.finding import LandingFile
from nightmarket.landing.reading import FileColumn, Staged
from nightmarket.landing.rules import ZONED, family


@dataclass(frozen=True)
class Fit:
    """A file's columns by what becomes of them.

    Attributes:
        known: contract column → the file's column.
        unknown: columns that are kept aside in `_extra`.
        schema: what the next file of the table is compared with, as JSON.
        notices: sentences for people.
    """

    known: Mapping[str, FileColumn]
    unknown: tuple[FileColumn, ...]
    schema: str
    notices: tuple[str, ...]


def fit(
    connection: duckdb.DuckDBPyConnection, file: LandingFile, table: LandingTable, staged: Staged, *,
    renames: Mapping[str, str], accepted: frozenset[str], before: str | None,
) -> Fit:  # fmt: skip
    """Match the columns of `arrived` with the contract and with `before`, the schema of the table's last file.

    Raises:
        LandingRejected: a required column is missing, two columns have one meaning, or a column changed since `before`;
            names the column and what to do.
    """
    known, unknown = _match(file, table, staged, renames)
    nothing_read = staged.format == "jsonl" and not staged.columns  # JSON Lines has no header
    if staged.columns or (staged.rows and not nothing_read):
        _require(file, table, staged, known, renames)
    last = json.loads(before) if before else None
    types = _types(connection, table, staged, known, unknown)
    notices = [
        f"{file.name}: the column `{c.name}` is not in the contract; kept aside in raw.{table.name}._extra"
        for c in unknown
    ]
    if staged.rows and not nothing_read:
        if last:
            _compare(file, table, staged, types, last, accepted)
            notices += [
                f"{file.name}: the column `{name}` is new"
                for name in types
                if name not in last["columns"] and name in known
            ]
        held = last["columns"] if last else {}
        # A column without a value tells no type: what was known of it stays known.
        columns = {name: held.get(name, kind) if kind == "null" else kind for name, kind in types.items()}
        schema = json.dumps({"format": staged.format, "columns": columns}, ensure_ascii=False, sort_keys=True)
    else:
        schema = before or ""
    return Fit(known, unknown, schema, tuple(notices))


def extra(unknown: tuple[FileColumn, ...]) -> str:
    """SQL of the JSON object of a row's unknown columns; absent values are left out, and no values give null."""
    if not unknown:
        return "cast(null as varchar)"
    pairs = ", ".join(f"'{c.name.replace(chr(39), chr(39) * 2)}', {c.slot}" for c in unknown)
    return f"nullif(cast(json_merge_patch('{{}}', json_object({pairs})) as varchar), '{{}}')"


def _match(
    file: LandingFile, table: LandingTable, staged: Staged, renames: Mapping[str, str]
) -> tuple[dict[str, FileColumn], tuple[FileColumn, ...]]:
    contract = {column.name for column in table.columns}
    known: dict[str, FileColumn] = {}
    unknown = []
    for column in staged.columns:
        name = renames.get(column.name, column.name)
        if name not in contract:
            unknown.append(column)
        elif name in known:
            raise LandingRejected(
                f"{file.name} (table {table.name}): the columns `{known[name].name}` and `{column.name}` both mean "
                f"`{name}`. Take one away, or its line in [renames.{table.name}] of shop.toml. Nothing of the file was kept."
            )
        else:
            known[name] = column
    return known, tuple(unknown)


def _require(
    file: LandingFile,
    table: LandingTable,
    staged: Staged,
    known: Mapping[str, FileColumn],
    renames: Mapping[str, str],
) -> None:
    missing = [c.name for c in table.columns if (c.required or c.name in table.key) and c.name not in known]
    if not missing:
        return
    there = [column.name for column in staged.columns]
    spare = {name.lower(): name for name in there if renames.get(name, name) not in known}
    hints = []
    for name in missing:
        near = get_close_matches(name, spare, n=1, cutoff=0.55)
        if near:
            hints.append(
                f'did you mean `{spare[near[0]]}`? Then add to shop.toml: [renames.{table.name}] "{spare[near[0]]}" = "{name}"'
            )
    if len(there) == 1 and any(sign in there[0] for sign in ";\t|"):
        hints.append("the header has no comma: the contract's CSV is separated by commas")
    listed = ", ".join(f"`{name}`" for name in missing)
    hint = " " + "; ".join(hints) + "." if hints else ""
    raise LandingRejected(
        f"{file.name} (table {table.name}) lacks the required column {listed}.{hint} Its columns are: "
        f"{', '.join(there)[:300]}. Nothing of the file was kept."
    )


def _types(
    connection: duckdb.DuckDBPyConnection, table: LandingTable, staged: Staged, known: Mapping[str, FileColumn],
    unknown: tuple[FileColumn, ...],
) -> dict[str, str]:  # fmt: skip
    """The sort of each column by its contract name (or its own); `null` where no row has a value."""
    named = {**known, **{c.name: c for c in unknown}}
    if not named or not staged.rows:
        return {}
    kinds = {column.name: column.kind for column in table.columns}
    asked: list[str] = []
    for name, column in named.items():
        if staged.format == "parquet":
            asked.append(f"any_value({column.slot}) is not null, null")
        elif kinds.get(name) == TIME:
            zoned = f"regexp_full_match({column.slot}, '{ZONED}')"
            asked.append(
                f"count(nullif({column.slot}, '')) > 0, bool_and({zoned}) filter ({column.slot} <> '')"
            )
        else:
            asked.append(f"count(nullif({column.slot}, '')) > 0, null")
    answers = connection.execute(f"select {', '.join(asked)} from arrived").fetchone() or ()
    types = {}
    for i, (name, column) in enumerate(named.items()):
        has_value, is_zoned = answers[2 * i], answers[2 * i + 1]
        if not has_value:
            types[name] = "null"
        elif staged.format == "parquet":
            types[name] = family(column.sql_type)
        elif kinds.get(name) == TIME:
            types[name] = "zoned time" if is_zoned else "naive time"
        else:
            types[name] = column.found or "any"
    return types


def _compare(
    file: LandingFile, table: LandingTable, staged: Staged, types: Mapping[str, str], last: Mapping[str, object],
    accepted: frozenset[str],
) -> None:  # fmt: skip
    columns = last["columns"]
    assert isinstance(columns, dict)
    kinds = {column.name: column.kind for column in table.columns}
    changes: dict[str, str] = {}
    for name, old in columns.items():
        if name not in kinds:
            continue
        if name not in types:
            # JSON Lines leaves out what has no value, so there an absent column says nothing.
            if old != "null" and staged.format != "jsonl":
                changes[name] = "is gone"
        elif _is_change(kinds[name], old, types[name], same_format=last["format"] == staged.format):
            changes[name] = f"was {old} and is {types[name]}"
    changes = {name: change for name, change in changes.items() if name not in accepted}
    if not changes:
        return
    told = "; ".join(f"the column `{name}` {change}" for name, change in changes.items())
    fresh = [name for name in types if name not in columns and name not in kinds]
    renamed = ""
    if fresh and any(change == "is gone" for change in changes.values()):
        gone = next(name for name, change in changes.items() if change == "is gone")
        renamed = f' If `{fresh[0]}` is its new name, add to shop.toml: [renames.{table.name}] "{fresh[0]}" = "{gone}".'
    listed = ", ".join(f'"{name}"' for name in changes)
    raise LandingRejected(
        f"{file.name} (table {table.name}) is not like the files before it: {told}.{renamed} If the change is meant, add to "
        f"shop.toml: [accept] {table.name} = [{listed}]. Nothing of the file was kept."
    )


def _is_change(kind: str, old: str, new: str, *, same_format: bool) -> bool:
    """Whether a column's values could mean something else than before."""
    if "null" in (old, new) or old == new:
        return False
    if kind == TIME:
        # A time that lost its zone would silently be read as UTC; one that gained it says more than before.
        less = {"zoned time": ("naive time", "date"), "naive time": ("date",)}.get(old, ())
        return new in less or (
            same_format and "time" in old and new not in ("zoned time", "naive time", "date")
        )
    if not same_format or kind == JSON or {old, new} <= {"whole", "number"}:
        return False
    return old != new and "any" not in (old, new)
