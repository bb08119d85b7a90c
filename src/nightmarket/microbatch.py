"""A micro-batch between two nights: new landing files become lists of the customers they touch, minutes after they came.

Here: whether there is anything to do and for which day, the night's own steps on a part of it, and how long an event
waited for its list (`ops.reactions`). Not here: what a step does (landing, transform, products), when it runs (Airflow's
DAG `follow_events`, the command line), and everything that only a night does: the arrivals gate, training, profiles, copy.

A micro-batch is an early, partial run of the *coming* night's day, which is the day after the last night that published
lists. That night makes the day anew and replaces it, whatever micro-batches left; until then their lists are the latest.
It must have the warehouse and the day's scratch for itself: whoever calls `follow` sees to that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from nightmarket import lake, landing, ledger, products, quality, transform, warehouse
from nightmarket.contracts import LANDING
from nightmarket.errors import NightFailed, NightmarketError
from nightmarket.ledger import Outcome
from nightmarket.night import call
from nightmarket.settings import get_settings

if TYPE_CHECKING:
    from nightmarket.shops import Shop

DAG = "follow_events"
LAST_OF_NIGHT = ("refresh_recommendations", "publish")
"""The task of a night after which its day's lists are there."""
BEFORE_LISTS = ("build_warehouse", "finetune_models", "refresh_recommendations")
"""The DAGs of a night that write what a micro-batch writes: while they work, it steps aside."""

# A file that is still being written is no file yet; one that grows for longer is taken as it is, as a night would.
AT_REST_S, PATIENCE_S = 2.0, 20.0
# A failed micro-batch is tried again without new files so often: a kill heals, a broken rule does not fill the log.
TRIES = 3
# Between two tasks of a night lies the scheduler's time alone; a try that runs for longer than any may was killed.
QUIET, LONGEST_TRY = timedelta(minutes=2), timedelta(hours=1)


@dataclass(frozen=True)
class Reaction:
    """What a micro-batch did, and how long what it reacted to had waited. The columns of `ops.reactions`."""

    files: int = 0
    rows: int = 0
    customers_touched: int = 0
    customers_listed: int = 0
    event_to_list_p50_s: float | None = None
    event_to_list_p95_s: float | None = None
    file_to_list_s: float | None = None


def coming_day() -> date | None:
    """The day of the night that comes next: after the last that published lists. None before the first night."""
    last = ledger.latest_day(*LAST_OF_NIGHT)
    return last + timedelta(days=1) if last else None


def required_day(asked: date | None = None) -> date:
    """The day to work for: the one asked for, else the coming one.

    Raises:
        NightFailed: no night was run yet, or the day asked for has been published by its night.
    """
    coming = coming_day()
    if coming is None:
        shop = get_settings().shop
        raise NightFailed(
            f"No night of shop `{shop}` has published lists yet, so there is none to follow. Run one first: "
            f"make nightly SHOP={shop}"
        )
    if asked is not None and asked < coming:
        raise NightFailed(
            f"The night of {asked}, or a later one, has published its lists; a micro-batch works for a day still to come "
            f"({coming} or later). To make {asked} again, run its night: nightmarket run --day {asked}"
        )
    return asked or coming


def has_work(day: date | None = None) -> bool:
    """Whether files came that no load brought yet, or the last micro-batch for the day did not get to its end.

    Waits until files at hand have been at rest for two seconds, at most twenty. Imports nothing heavy, loads nothing.
    """
    day = day or coming_day()
    if day is None:
        return False
    shop, deadline = _shop(), time.monotonic() + PATIENCE_S
    while (files := landing.fresh(shop)) and time.monotonic() < deadline:
        wait = AT_REST_S - (time.time() - max(file.at_rest_since for file in files))
        if wait <= 0:
            break
        time.sleep(min(wait, AT_REST_S))
    return bool(files) or 0 < len(_unfinished(day)) < TRIES


def night_at_work() -> str | None:
    """What a night is doing that a micro-batch would get in the way of, as a sentence; None while there is no night.

    Told from `ops.runs`, so it also knows of a night between two tasks. A night that failed, was killed or stopped short
    of lists two minutes ago is over.
    """
    begun = ledger.newest("runs", 1, dag_id=BEFORE_LISTS[0], task_id="land")
    if not begun:
        return None
    day, since = begun[0]["day"], begun[0]["id"]
    tries = [
        row
        for dag in BEFORE_LISTS
        for row in ledger.newest("runs", 20, dag_id=dag, day=day)
        if row["id"] >= since
    ]
    if any((row["dag_id"], row["task_id"], row["state"]) == (*LAST_OF_NIGHT, "success") for row in tries):
        return None
    now = _now()
    for row in tries:
        if row["state"] == "running" and now - row["started_at"] < LONGEST_TRY:
            return f"the night of {day} is at {row['dag_id']}.{row['task_id']}"
    last = max(tries, key=lambda row: row["id"])
    ended = last["started_at"] + timedelta(seconds=last["duration_s"] or 0)
    if last["state"] == "success" and now - ended < QUIET:
        return f"the night of {day} has just done {last['dag_id']}.{last['task_id']}"
    return None


def take_turn(day: date, run_id: str) -> Outcome:
    """`follow`, unless a night is at work: then nothing, and the next turn finds the same files."""
    if at_work := night_at_work():
        return Outcome(note=f"stepped aside: {at_work}")
    return follow(day, run_id)


def follow(day: date, run_id: str) -> Outcome:
    """One micro-batch for `day`, which no night has published yet. Does nothing when no file is new.

    Lands new files, builds the marts that lists are made from, makes the lists of touched customers, checks and publishes
    them as a night does, and writes into `ops.reactions` how long it took from event and file to list. Each step is a row
    of `ops.runs`. A failed step ends it: what was published stays, and a later micro-batch takes up what is unfinished.
    `Outcome.rows_in` are the rows that landed, `rows_out` the customers with another list than before.

    Raises:
        NightFailed: no night was run yet, or the day's own night has published: an early run never comes after.
        NightmarketError: what the steps raise.
    """
    required_day(day)
    shop, behind = _shop(), _unfinished(day)
    if not behind and not landing.fresh(shop):
        return Outcome(note="nothing new")
    ledger.reaction(run_id, day, started_at=_now(), published_at=None)
    did = partial(_step, day=day, run_id=run_id)
    landed = did("land", partial(landing.load, shop))
    listed = _make_lists(did, day) if landed.rows_out or behind else []
    published_at = _now()
    reaction = _measured([run_id, *(row["run_id"] for row in behind)], day, listed, published_at)
    ledger.reaction(run_id, day, published_at=published_at, **asdict(reaction))
    return Outcome(rows_in=reaction.rows, rows_out=reaction.customers_listed, note=sentence(reaction))


def keep_following(
    turn: Callable[[], str | None], every_s: float, stop: threading.Event, tell: Callable[[str], None]
) -> None:
    """Take a turn every so many seconds until asked to stop; a turn at work is finished first.

    Tells what a turn did, and what kept it from doing it; the same hindrance is told once until something else happens.
    """
    hindrance = ""
    while not stop.is_set():
        try:
            told = turn()
        except NightmarketError as error:
            again, hindrance = hindrance, f"{type(error).__name__}: {error}"
            told = None if again == hindrance else hindrance
        else:
            hindrance = ""
        if told:
            tell(told)
        stop.wait(every_s)


def sentence(reaction: Reaction) -> str:
    """What a micro-batch did, in a line for people."""
    told = [
        f"{reaction.files} file{'' if reaction.files == 1 else 's'}",
        f"{reaction.rows:,} rows",
        f"{reaction.customers_touched:,} customers touched",
        f"{reaction.customers_listed:,} with another list",
    ]
    if reaction.file_to_list_s is not None:
        told.append(f"{reaction.file_to_list_s:.1f} s from file to list")
    if reaction.event_to_list_p50_s is not None and reaction.event_to_list_p95_s is not None:
        told.append(
            f"event to list {_span(reaction.event_to_list_p50_s)} (median), "
            f"{_span(reaction.event_to_list_p95_s)} (95 %)"
        )
    return ", ".join(told)


def _make_lists(did: Callable[..., Outcome], day: date) -> list[str]:
    """From raw to published lists; the customers who have another list than before."""
    from nightmarket.products.recommendations import PRODUCT

    did("dbt", partial(transform.build_part, marts=PRODUCT.reads))
    did("extract", partial(transform.extract_part, marts=PRODUCT.reads))
    did("generate", partial(products.generate, PRODUCT))
    did("check", partial(products.check, PRODUCT))
    listed = _with_another_list(day)
    did("publish", partial(products.publish, PRODUCT))
    return listed


def _step(name: str, verb: Callable[..., Outcome], *, day: date, run_id: str) -> Outcome:
    with ledger.task(DAG, name, run_id, day) as record:
        outcome = call(verb, day, run_id)
        record(outcome)
    return outcome


def _with_another_list(day: date) -> list[str]:
    """Customers whose rows in the day's scratch are not those that are live; asked before they are published."""
    found = warehouse.read(
        "select distinct made.customer_id from read_parquet(?) as made "
        "left join outputs.recommendations_current as live on live.customer_id = made.customer_id "
        "and live.placement = made.placement and live.rank = made.rank "
        "where live.product_id is distinct from made.product_id or live.input_hash is distinct from made.input_hash",
        [str(lake.require("recommendations", day).path)],
    )
    return [str(customer) for customer in found["customer_id"].to_pylist()]


def _measured(run_ids: Sequence[str], day: date, listed: Sequence[str], published_at: datetime) -> Reaction:
    """What these runs landed, for whom, and how long it had waited at `published_at`."""
    runs = ", ".join("?" * len(run_ids))
    landings = f"select * from ops.landings where status = 'loaded' and run_id in ({runs})"
    files = warehouse.read(
        "select count(*) as files, coalesce(sum(rows_loaded + rows_replayed), 0) as rows, "
        f"min(cast(split_part(stamp, ':', 3) as bigint)) / 1e9 as oldest from ({landings})",
        run_ids,
    ).to_pylist()[0]
    brought = f"_batch in (select batch from ({landings}))"
    about = " union all ".join(
        f"select customer_id from raw.{name} where {brought}" for name in _OF_CUSTOMERS
    ) + (
        " union all select orders.customer_id from raw.order_items as items "
        f"inner join raw.orders as orders on orders.order_id = items.order_id where items.{brought}"
    )
    touched = warehouse.read(
        f"select count(distinct customer_id) as n from ({about})", list(run_ids) * (len(_OF_CUSTOMERS) + 1)
    )
    waited = warehouse.read(
        "with happened as ("
        f"select customer_id, ordered_at as happened_at from raw.orders where {brought} union all "
        f"select customer_id, occurred_at from raw.events where {brought}) "
        "select quantile_cont(epoch(? - happened_at), 0.5) as p50, quantile_cont(epoch(? - happened_at), 0.95) as p95 "
        "from happened where happened_at < ? and customer_id in (select unnest(cast(? as varchar[])))",
        [*run_ids, *run_ids, published_at, published_at, quality.cutoff(day), list(listed)],
    ).to_pylist()[0]
    oldest = files["oldest"]
    return Reaction(
        files=int(files["files"]), rows=int(files["rows"]), customers_touched=int(touched["n"][0].as_py()),
        customers_listed=len(listed), event_to_list_p50_s=waited["p50"], event_to_list_p95_s=waited["p95"],
        file_to_list_s=published_at.replace(tzinfo=UTC).timestamp() - oldest if oldest else None,
    )  # fmt: skip


_OF_CUSTOMERS = tuple(
    table.name for table in LANDING.values() if any(column.name == "customer_id" for column in table.columns)
)


def _unfinished(day: date) -> list[dict[str, Any]]:
    """The micro-batches for `day` since the last one that got to its end, newest first."""
    rows = ledger.newest("reactions", TRIES + 1, day=day)
    ended = next((place for place, row in enumerate(rows) if row["published_at"]), len(rows))
    return rows[:ended]


def _shop() -> Shop:
    """The shop with the files that are there: a generated shop's next days are made by its nights, or `prepare`."""
    from nightmarket.shops import open_shop

    settings = get_settings()
    return open_shop(settings.shop, landing_root=settings.state / "landing")


def _span(seconds: float) -> str:
    if abs(seconds) < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if abs(seconds) < 7200 else f"{seconds / 3600:,.0f} h"


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
