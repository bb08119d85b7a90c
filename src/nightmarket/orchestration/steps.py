"""Assets, defaults, pools, the day of a run, and how a step becomes a task.

Not here: dbt's build as tasks (dbt), asking people (people) and a provider (provider).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any

from airflow.sdk import (
    Asset,
    CronPartitionTimetable,
    CronTriggerTimetable,
    Param,
    PartitionedAssetTimetable,
    PartitionedAtRuntime,
    get_current_context,
    task,
)
from airflow.sdk.exceptions import AirflowFailException

from nightmarket import ledger
from nightmarket.errors import NightmarketError
from nightmarket.ledger import Outcome
from nightmarket.night import call
from nightmarket.settings import get_settings

WAREHOUSE = "warehouse"
"""Pool of one slot: the tasks that write the warehouse take turns instead of failing on its lock."""
POOLS = {WAREHOUSE: 1}

DEFAULTS: dict[str, Any] = {
    "owner": "nightmarket",
    "retries": 1,
    "retry_delay": timedelta(seconds=5),
    "execution_timeout": timedelta(minutes=30),
}
DAY = {
    "day": Param(
        None,
        type=["null", "string"],
        format="date",
        description="Run for this day: it sees events before the day's midnight in the shop's time zone.",
    )
}
COMMON: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1),
    "catchup": False,
    "max_active_runs": 1,
    "default_args": DEFAULTS,
    "params": DAY,
}
"""What every DAG of the night has in common; the rest stands in its file."""


def _asset(group: str, name: str) -> Asset:
    return Asset(name=name, uri=f"nightmarket://{group}/{name}", group=group)


CUSTOMERS = _asset("marts", "customers")
PRODUCTS = _asset("marts", "products")
ORDER_ITEMS = _asset("marts", "order_items")
PURCHASES = _asset("marts", "purchases")
CUSTOMER_FEATURES = _asset("marts", "customer_features")
CUSTOMER_AFFINITIES = _asset("marts", "customer_affinities")
RECOMMENDATION_RULES = _asset("marts", "recommendation_rules")
EXPOSURES = _asset("marts", "exposures")
MARTS = (
    CUSTOMERS, PRODUCTS, ORDER_ITEMS, PURCHASES, CUSTOMER_FEATURES, CUSTOMER_AFFINITIES, RECOMMENDATION_RULES, EXPOSURES,
)  # fmt: skip

RANKER = _asset("models", "ranking")
ENCODER = _asset("models", "encoder")
WRITER = _asset("models", "writer")

CUSTOMER_PROFILES = _asset("outputs", "customer_profiles")
CUSTOMER_INTERESTS = _asset("outputs", "customer_interests")
RECOMMENDATIONS = _asset("outputs", "recommendations")
SIMILAR_PRODUCTS = _asset("outputs", "similar_products")
DEFAULT_RECOMMENDATIONS = _asset("outputs", "default_recommendations")
RECOMMENDATION_LIFT = _asset("outputs", "recommendation_lift")
LISTS = (RECOMMENDATIONS, SIMILAR_PRODUCTS, DEFAULT_RECOMMENDATIONS, RECOMMENDATION_LIFT)
PRODUCT_COPY = _asset("outputs", "product_copy")
COPY_CLAIMS = _asset("outputs", "copy_claims")

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def every_night() -> CronPartitionTimetable | PartitionedAtRuntime:
    """The night's own schedule: a run a day by cron, whose partition is that day; without a cron only when asked."""
    return _by_day(get_settings().schedule)


def once_a_week() -> CronPartitionTimetable | PartitionedAtRuntime:
    """The schedule of what is tuned rarely: a run by cron, for the day it begins on; without a cron only when asked."""
    return _by_day(get_settings().writer_schedule)


def when_asked() -> PartitionedAtRuntime:
    """The schedule of what runs when somebody asks, for a day."""
    return PartitionedAtRuntime()


def _by_day(cron: str) -> CronPartitionTimetable | PartitionedAtRuntime:
    return CronPartitionTimetable(cron, timezone="UTC", key_format="%Y-%m-%d") if cron else when_asked()


def between_nights() -> CronTriggerTimetable | None:
    """The schedule of what looks for new files between two nights; None (only when asked) without a cron."""
    cron = get_settings().follow_schedule
    return CronTriggerTimetable(cron, timezone="UTC") if cron else None


def after(*assets: Asset) -> PartitionedAssetTimetable:
    """Run for a day once all of `assets` have that day."""
    wanted = assets[0] if len(assets) == 1 else assets[0] & assets[1]
    for asset in assets[2:]:
        wanted = wanted & asset
    return PartitionedAssetTimetable(assets=wanted)


def run_day(context: Mapping[str, Any] | None = None) -> date:
    """The day that the current DAG run of a night is for; the only place that decides it.

    The day asked for (`params.day`), else the run's partition, else the day that the triggering asset carries, else
    the date of the run itself.
    """
    context = get_current_context() if context is None else context
    asked = (context.get("params") or {}).get("day")
    if asked:
        return date.fromisoformat(str(asked))
    run = context["dag_run"]
    if key := getattr(run, "partition_key", None):
        return date.fromisoformat(str(key)[:10])
    events = context.get("triggering_asset_events") or {}
    days = [
        event.extra["day"] for asset in events for event in events[asset] if (event.extra or {}).get("day")
    ]
    if days:
        return date.fromisoformat(str(max(days)))
    moment: datetime = getattr(run, "logical_date", None) or run.run_after
    return moment.date()


def coming_day(context: Mapping[str, Any]) -> date:
    """The day that a run between two nights is for: the day asked for (`params.day`), else that of the coming night."""
    from nightmarket import microbatch

    asked = (context.get("params") or {}).get("day")
    return microbatch.required_day(date.fromisoformat(str(asked)) if asked else None)


def new_files(task_id: str) -> Any:
    """A task that skips what follows while no landing file is new; it leaves no row in `ops.runs`, and takes a second."""

    def look() -> bool:
        from nightmarket import microbatch

        asked = (get_current_context().get("params") or {}).get("day")
        return microbatch.has_work(date.fromisoformat(str(asked)) if asked else None)

    return task.short_circuit(task_id=task_id)(look)()


def step(
    task_id: str, verb: Callable[..., Outcome], *, outlets: Sequence[Asset] = (),
    day_of: Callable[[Mapping[str, Any]], date] = run_day, **arguments: Any,
) -> Any:  # fmt: skip
    """A task that runs `verb(day, run_id)`, or `verb(day)`, for the day of its DAG run.

    `day_of` tells that day from the run's context. The try is recorded in `ops.runs`. What it returns are counts, never rows. An asset in `outlets` gets an event that
    carries the day, so that what waits for it runs for the same day. Errors that trying again cannot help (a failed
    gate, a broken file) fail the task at once.
    """

    def run() -> dict[str, Any]:
        context = get_current_context()
        day = day_of(context)
        with a_try(context, day) as record:
            outcome = call(verb, day, str(context["run_id"]))
            record(outcome)
        for asset in outlets:
            event = context["outlet_events"][asset]
            event.extra.update({"day": day.isoformat(), "rows_out": outcome.rows_out})
            event.add_partitions(day.isoformat())
        return {"day": day.isoformat(), **outcome.as_dict()}

    return task(task_id=task_id, outlets=list(outlets), **arguments)(run)()


@contextmanager
def a_try(context: Mapping[str, Any], day: date) -> Iterator[Callable[[Outcome], None]]:
    """Record a try of the current task in `ops.runs`; an error that trying again cannot help fails it at once."""
    instance = context["ti"]
    name = instance.task_id if instance.map_index < 0 else f"{instance.task_id}[{instance.map_index}]"
    one_thread()
    try:
        with ledger.task(instance.dag_id, name, str(context["run_id"]), day) as record:
            yield record
    except NightmarketError as error:
        if error.retry_helps:
            raise
        raise AirflowFailException(str(error)) from error


def one_thread() -> None:
    """Tasks run side by side, so each keeps to the threads it was given."""
    threads = str(get_settings().threads)
    for name in _ONE_THREAD:
        os.environ[name] = threads
