"""From a shop's files to `raw`: contract, quarantine, each file at most once.

`load` brings every file that was not loaded yet into the warehouse, referenced tables first, each file in a transaction
of its own. A row that breaks a rule goes to `ops.quarantine` with file, line, rule and what to do; a file with too many
such rows is refused whole. Not here: where files come from (shops), volumes and freshness (quality), what rows mean (dbt).

reading   a file's rows as they are · columns   do its columns fit · rules   what a value must be
loading   judge, set aside, replace by key, replay · finding   which files · records   the tables written
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from nightmarket import warehouse
from nightmarket.contracts import LANDING
from nightmarket.errors import LandingRejected, QueryFailed, WarehouseMissing
from nightmarket.landing import finding, loading, records
from nightmarket.landing.finding import LandingFile
from nightmarket.landing.loading import log
from nightmarket.ledger import Outcome
from nightmarket.settings import get_settings

if TYPE_CHECKING:
    from nightmarket.shops import Shop

__all__ = ["fresh", "load", "load_night"]

_NOTICES_TOLD = 8


def load(shop: Shop, day: date, *, run_id: str) -> Outcome:
    """Bring every new file of a shop into `raw` and make `raw.night` say `day`.

    Raw holds one row a key: a later row replaces an earlier one, an identical one changes nothing. Rows that wait for a
    row they refer to are tried again. A second call changes nothing; a kill leaves whole files or nothing of them.
    `Outcome.rows_in` are the rows of the new files, `rows_out` those that were loaded or replayed.

    Raises:
        LandingRejected: a file breaks the contract (names file, rules, lines, what to do), or the shop is empty. Files
            before it stay loaded; the others were not tried.
        SettingMissing: `shop.toml` cannot be used.
        WarehouseBusy: another process kept the warehouse.
    """
    terms = finding.terms_of(shop)
    notices = finding.unread_notices(shop)
    for notice in notices:
        log.warning(notice)
    rows_in = rows_out = aside = files = replayed = 0
    with warehouse.writer() as connection:
        with loading.transaction(connection):
            records.prepare(connection)
        hashes, stamps = records.landed(connection)
        run = loading.Load(connection, shop, terms, day, run_id, records.next_batch(connection))
        for table in LANDING.values():
            for file in finding.pending(shop, table.name, hashes, stamps):
                landed = loading.land(run, file)
                hashes.setdefault(table.name, set()).add(file.sha256)
                files += 1
                rows_in += landed.counts.rows_in
                rows_out += landed.counts.loaded
                aside += landed.counts.quarantined
                notices += landed.notices
            if files:
                replayed += loading.replay(run, table)
            if (
                table.required
                and not connection.execute(f"select 1 from raw.{table.name} limit 1").fetchone()
            ):
                raise LandingRejected(_empty(shop, table.name))
        records.note_night(connection, shop, day)
    return Outcome(rows_in=rows_in, rows_out=rows_out + replayed, note=_note(files, aside, replayed, notices))


def load_night(day: date, run_id: str) -> Outcome:
    """`load` for the shop of the settings; what a DAG's task and the command line call.

    Raises:
        ShopNotFound: the shop's folder, or a table it must have, is not there.
    """
    from nightmarket.shops import open_shop

    settings = get_settings()
    shop = open_shop(settings.shop, landing_root=settings.state / "landing", day=day)
    return load(shop, day, run_id=run_id)


def fresh(shop: Shop) -> list[LandingFile]:
    """The files that a load would bring, as readers know the warehouse; it never waits and writes nothing.

    A file that was refused is not fresh while it is as it was: only something new can change what becomes of it.

    Raises:
        LandingRejected: a file cannot be opened.
    """
    try:
        told = warehouse.read("select table_name, path, sha256, stamp, status from ops.landings").to_pylist()
    except (WarehouseMissing, QueryFailed):  # nothing was landed yet
        told = []
    hashes: dict[str, set[str]] = {}
    stamps: dict[str, set[str]] = {}
    for row in told:
        stamps.setdefault(row["path"], set()).add(row["stamp"])
        if row["status"] == "loaded":
            hashes.setdefault(row["table_name"], set()).add(row["sha256"])
    return [file for table in LANDING for file in finding.pending(shop, table, hashes, stamps)]


def _empty(shop: Shop, table: str) -> str:
    there = (
        ", ".join(path.relative_to(shop.folder).as_posix() for path in shop.files(table))
        or f"no file of {table}"
    )
    return (
        f"The shop {shop.name} is empty: no row of `{table}` was ever loaded from {shop.folder} ({there}). A shop needs "
        f"products, orders and order_items. Deliver a file of {table} with rows, then run the night again; what is "
        "published stays as it is."
    )


def _note(files: int, aside: int, replayed: int, notices: list[str]) -> str:
    """Counts and notices in one line: what travels to the next task and into `ops.runs`."""
    told = [f"{files} new file{'' if files == 1 else 's'}"]
    if aside:
        told.append(f"{aside} rows set aside in ops.quarantine")
    if replayed:
        told.append(f"{replayed} rows replayed")
    more = [f"and {len(notices) - _NOTICES_TOLD} more notices"] if len(notices) > _NOTICES_TOLD else []
    return "; ".join([*told, *notices[:_NOTICES_TOLD], *more])
