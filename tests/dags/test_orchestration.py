"""The day of a run has one order of precedence, and errors that trying again cannot help fail a task at once."""

from __future__ import annotations

from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from nightmarket.orchestration import MARTS, after, run_day


def context(**parts: Any) -> dict[str, Any]:
    run = SimpleNamespace(
        partition_key=parts.get("key"), logical_date=None, run_after=datetime(2026, 5, 4, 23, 30, tzinfo=UTC)
    )
    events = {MARTS[0]: [SimpleNamespace(extra={"day": day}) for day in parts.get("events", [])]}
    return {"params": {"day": parts.get("asked")}, "dag_run": run, "triggering_asset_events": events}


def test_the_day_asked_for_comes_before_everything() -> None:
    assert run_day(context(asked="2026-05-01", key="2026-05-02", events=["2026-05-03"])) == date(2026, 5, 1)


def test_without_a_day_asked_for_the_partition_decides() -> None:
    assert run_day(context(key="2026-05-02", events=["2026-05-03"])) == date(2026, 5, 2)
    assert run_day(context(key="2026-05-02T00:00:00")) == date(2026, 5, 2)


def test_without_a_partition_the_latest_day_of_the_triggering_assets_decides() -> None:
    assert run_day(context(events=["2026-05-03", "2026-05-02"])) == date(2026, 5, 3)


def test_at_last_the_date_of_the_run_itself_decides() -> None:
    assert run_day(context()) == date(2026, 5, 4)
    assert run_day({"params": {}, "dag_run": context()["dag_run"], "triggering_asset_events": {}}) == date(
        2026, 5, 4
    )


def test_a_day_that_is_no_date_is_an_error_and_not_another_day() -> None:
    with pytest.raises(ValueError, match="yesterday"):
        run_day(context(asked="yesterday"))


def test_a_dag_waits_for_all_of_its_assets() -> None:
    condition = after(*MARTS[:3]).asset_condition
    assert type(condition).__name__ == "AssetAll"
    assert [asset.name for asset in condition.objects] == ["customers", "products", "order_items"]
