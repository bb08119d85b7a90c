"""Counts what arrived for a day, beside what the shop's own history makes usual.

Here: rows and age of each landing table against the same weekday of the eight weeks before, in the shop's time zone.
Not here: the judgement (the suite `arrivals`) and its consequences (quality.check_arrivals).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np

from nightmarket import warehouse
from nightmarket.errors import QueryFailed, SettingMissing, WarehouseMissing
from nightmarket.settings import GENERATED_SHOPS, get_settings

WEEKS = 8
LEAST_WEEKDAYS, LEAST_ROWS = 4, 20  # fewer same weekdays, or fewer rows on them, have no "usual"
LEAST_GAP_H = 8.0  # a busy shop's longest gap may be minutes; a night without orders is still no alarm
LEAST_DAYS = 28  # of the last 56: a shop with weekly dates has no daily volume to compare


@dataclass(frozen=True)
class Fact:
    """One measure of one landing table on the day before `day`, against the shop's own history.

    Attributes:
        measure: `volume` (rows of that day) or `freshness` (hours since the last row when the day ends).
        usual: median rows of the same weekday in the eight weeks before, or the longest gap between rows, in hours.
        ratio: observed / usual (a gap counts as eight hours at least), or None where history is too thin to judge.
        first_load: that day came with the shop's very first files: it is history, not an arrival.
    """

    table_name: str
    measure: Literal["volume", "freshness"]
    arrived_on: date
    observed: float
    usual: float | None
    ratio: float | None
    weekdays_seen: int
    days_seen: int
    first_load: bool
    note: str


def volume(day: date) -> list[Fact]:
    """What arrived for the day before `day`, table by table, beside what is usual; for any day of the shop's history."""
    zone = shop_zone()
    arrived_on = day - timedelta(days=1)
    days = [arrived_on - timedelta(days=back) for back in range(WEEKS * 7 + 1)]
    bounds = ", ".join(
        f"({i}, timestamp '{_midnight(d, zone)}', timestamp '{_midnight(d + timedelta(days=1), zone)}')"
        for i, d in enumerate(days)
    )
    start, end, oldest = _midnight(arrived_on, zone), _midnight(day, zone), _midnight(days[-1], zone)
    sources = {
        "orders": "select ordered_at as moment, _batch from raw.orders",
        "order_items": "select o.ordered_at as moment, i._batch "
        "from raw.order_items as i inner join raw.orders as o on o.order_id = i.order_id",
        "events": "select occurred_at as moment, _batch from raw.events",
    }
    facts = []
    for name, select in sources.items():
        counts = warehouse.read(
            f"with arrived as (select moment from ({select}) as all_rows where moment >= ? and moment < ?), "
            f"days (back, day_from, day_to) as (values {bounds}) "
            "select back, count(*) as n from arrived "
            "inner join days on moment >= day_from and moment < day_to group by back",
            [oldest, end],
        )
        by_day = dict(zip(counts["back"].to_pylist(), counts["n"].to_pylist(), strict=True))
        span = warehouse.read(
            f"with arrived as ({select}), first_load as (select min(_batch) as batch from arrived), "
            "moments as (select distinct moment from arrived where moment >= ? and moment < ?), "
            "gaps as (select moment - lag(moment) over (order by moment) as gap from moments) "
            "select (select max(moment) from arrived where moment < ?) as last_at, "
            "(select max(moment) from arrived, first_load where _batch = first_load.batch) as first_load_until, "
            "(select epoch(max(gap)) / 3600 from gaps) as longest_gap",
            [oldest, start, end],
        ).to_pylist()[0]
        facts += _facts(name, arrived_on, end, by_day, span, first_load=_came_first(span, start))
    return facts


def cutoff(day: date) -> datetime:
    """The first moment that a run for `day` does not see: its midnight in the shop's zone, as naive UTC."""
    return _midnight(day, shop_zone())


def closed_days() -> set[date]:
    """Days that `shop.toml` lists under `[arrivals] closed`.

    Raises:
        SettingMissing: one of them is no date.
    """
    path = shop_toml()
    if not path.is_file():
        return set()
    told = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("arrivals", {})
    closed = told.get("closed", []) if isinstance(told, dict) else []
    try:
        return {d if isinstance(d, date) else date.fromisoformat(d) for d in closed}
    except (TypeError, ValueError) as error:
        raise SettingMissing(
            f'{path}: `closed` under [arrivals] is {closed!r}; it must list days, such as ["2026-12-25"].'
        ) from error


def shop_toml() -> Path:
    """Where this shop's `shop.toml` stands, whether it is there or not."""
    settings = get_settings()
    if settings.shop in GENERATED_SHOPS:
        return settings.state / "landing" / settings.shop / "shop.toml"
    return Path(settings.shop).expanduser().resolve() / "shop.toml"


def landed_batch() -> int | None:
    """The number of the last load that landed something."""
    found = warehouse.read("select batch from raw.night")["batch"].to_pylist()
    return found[0] if found else None


def _facts(
    name: str,
    arrived_on: date,
    end: datetime,
    by_day: Mapping[int, int],
    span: Mapping[str, Any],
    *,
    first_load: bool,
) -> list[Fact]:
    rows = by_day.get(0, 0)
    weekdays = [by_day[back] for back in range(7, WEEKS * 7 + 1, 7) if by_day.get(back)]
    days_seen = sum(1 for back in range(1, WEEKS * 7 + 1) if by_day.get(back))
    usual = float(np.median(weekdays)) if weekdays else None
    dense = len(weekdays) >= LEAST_WEEKDAYS and days_seen >= LEAST_DAYS and (usual or 0) >= LEAST_ROWS
    thin = (
        f"too little history to judge ({len(weekdays)} such weekdays and {days_seen} days with rows in {WEEKS} weeks, "
        f"median {usual or 0:.0f})"
    )
    kept: dict[str, Any] = {
        "table_name": name, "arrived_on": arrived_on, "weekdays_seen": len(weekdays), "days_seen": days_seen,
        "first_load": first_load,
    }  # fmt: skip
    weekday = f"{arrived_on:%A}s"
    said = (
        f"{rows:,} rows, usually {usual or 0:,.0f} (median of {len(weekdays)} {weekday})" if dense else thin
    )
    facts = [
        Fact(
            measure="volume", observed=float(rows), usual=usual,
            ratio=rows / usual if dense and usual else None, note=_as_history(said, first_load), **kept,
        )
    ]  # fmt: skip
    last, gap = span["last_at"], span["longest_gap"]
    if last is None:
        return facts
    age = (end - last).total_seconds() / 3600
    said = f"last row {age:.1f} h before the day began, longest gap {gap or 0:.1f} h" if dense else thin
    ratio = age / max(gap, LEAST_GAP_H) if dense and gap else None
    freshness = Fact(
        measure="freshness", observed=age, usual=gap, ratio=ratio, note=_as_history(said, first_load), **kept
    )
    return [*facts, freshness]


def _as_history(said: str, first_load: bool) -> str:
    return f"first load, not judged; {said}" if first_load else said


def _came_first(span: Mapping[str, Any], start: datetime) -> bool:
    until = span["first_load_until"]
    return until is not None and start <= until


def shop_zone() -> ZoneInfo:
    """The zone in which the shop's days begin; UTC before anything landed."""
    try:
        found = warehouse.read("select time_zone from raw.night")["time_zone"].to_pylist()
    except (WarehouseMissing, QueryFailed):
        found = []
    return ZoneInfo(found[0] if found and found[0] else "UTC")


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC).replace(tzinfo=None)
