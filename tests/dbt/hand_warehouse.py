"""A warehouse whose raw tables a test writes by hand, night by night."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb

from nightmarket import transform, warehouse
from nightmarket.contracts import LANDING

Rows = Sequence[Mapping[str, Any]]


@dataclass
class Raw:
    """The raw schema as landing leaves it: one row a key, a later row replaces it and carries the later batch."""

    batch: int = 0
    day: date = date(2026, 3, 1)
    zone: str = "Europe/London"

    def create(self) -> None:
        with warehouse.writer() as connection:
            for schema in ("staging", "intermediate", "marts", "raw"):
                connection.execute(f"drop schema if exists {schema} cascade")
                connection.execute(f"create schema {schema}")
            for table in LANDING.values():
                columns = ", ".join(f"{c.name} {c.sql_type}" for c in table.columns)
                connection.execute(
                    f"create table raw.{table.name} "
                    f"({columns}, _path varchar, _line bigint, _batch bigint, _extra varchar)"
                )
            connection.execute(
                "create table raw.night (day date, time_zone varchar, currency varchar, shop varchar, batch bigint)"
            )
            connection.execute("insert into raw.night values (?, ?, 'GBP', 'Hand', 0)", [self.day, self.zone])

    def land(self, day: date, *, removed: Mapping[str, Sequence[str]] | None = None, **tables: Rows) -> None:
        """Land rows for a night; `removed` names first key columns' values whose rows disappear."""
        self.batch, self.day = self.batch + 1, day
        with warehouse.writer() as connection:
            for table, values in (removed or {}).items():
                for value in values:
                    connection.execute(f"delete from raw.{table} where {LANDING[table].key[0]} = ?", [value])
            for table, rows in tables.items():
                for row in rows:
                    self._replace(connection, table, row)
            connection.execute("update raw.night set day = ?, batch = ?", [day, self.batch])

    def _replace(self, connection: duckdb.DuckDBPyConnection, table: str, row: Mapping[str, Any]) -> None:
        key = LANDING[table].key
        connection.execute(
            f"delete from raw.{table} where " + " and ".join(f"{k} = ?" for k in key), [row[k] for k in key]
        )
        full = {**row, "_path": f"{table}.csv", "_line": 1, "_batch": self.batch}
        connection.execute(
            f"insert into raw.{table} ({', '.join(full)}) values ({', '.join('?' * len(full))})",
            list(full.values()),
        )


def run_models(*select: str, full_refresh: bool = False) -> None:
    """Build models without tests: all, or those selected (`TABLES` leaves out views, which a night does not change)."""
    flags = ["--select", " ".join(select)] if select else []
    transform._invoke("run", "--no-write-json", *flags, *(["--full-refresh"] if full_refresh else []))
    transform.refresh()


TABLES = ("int_customers__digested", "marts")


def marts() -> dict[str, list[tuple[Any, ...]]]:
    """Every mart, sorted, as Python values."""
    return {
        mart: [
            tuple(row.values())
            for row in warehouse.read(f"select * from marts.{mart} order by all").to_pylist()
        ]
        for mart in transform.MARTS
    }


def marts_made_anew() -> dict[str, list[tuple[Any, ...]]]:
    """What a full build of the same raw tables gives; the warehouse is left as it was."""
    path = warehouse.path()
    aside = path.with_suffix(".aside")
    shutil.copyfile(path, aside)
    try:
        run_models(*TABLES, full_refresh=True)
        return marts()
    finally:
        aside.replace(path)
        transform.refresh()
