"""What was planted in the demo shop, so that tests can look for it: ids, days and sizes, never read by the product.

`truth` is what stands before the first day; `happened` simulates the history and says where its effects came down.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from nightmarket.contracts import LANDING
from nightmarket.shops.demo import FORMATS, SENT_AGAIN, chunks, planted, sent_again, table_rows
from nightmarket.shops.demo_days import BROKEN_SHARE, PURPOSES, Days
from nightmarket.shops.demo_voices import CARDS
from nightmarket.shops.demo_world import (
    BUNDLE_RATE,
    EXPERIMENT,
    LEAVES,
    LIFT,
    MONTHS,
    NEVER,
    SALES,
    SEASONS,
    WEEKDAYS,
    Demo,
    World,
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """Effects of a demo shop by id. Factors multiply an average day's orders, or a product's share of them."""

    demo: Demo
    bot_customer: str
    bot_days: tuple[date, ...]
    churners: dict[str, date]  # the first day on which they order no more
    cold_customers: frozenset[str]
    bundles: tuple[tuple[str, ...], ...]
    bundle_rate: float
    weekday_factors: tuple[float, ...]  # Monday first
    month_factors: tuple[float, ...]  # January first
    sale_factors: dict[tuple[int, int], float]  # (month, day)
    category_seasons: dict[str, dict[int, float]]  # category path: {month: factor}
    broken_day: date
    broken_share: float
    experiment: str
    experiment_lift: float
    experiment_days: tuple[date, date]
    treated: frozenset[str]  # of all exposed customers, who got the treatment
    untreated: frozenset[str]
    archived: dict[str, date]
    drafts: frozenset[str]
    sold_out: dict[str, date]
    unsold: frozenset[str]  # new, on sale from the first day after the history
    twins: tuple[tuple[str, str], ...]  # nearly the same title
    banned_claims: dict[str, str]  # product: phrase in its description


@dataclass(frozen=True)
class Happened:
    """Where effects came down in the history's files."""

    late_refunds: dict[str, date]  # whole orders: the day on which they were delivered again as refunded
    partial_refunds: dict[str, date]  # orders of which one line came back
    quarantined: tuple[tuple[str, tuple[str, ...], str], ...]  # (table, key, rule)
    sent_again: tuple[tuple[str, str], ...]  # (file, its copy)
    personal_reviews: frozenset[str]
    personal_tickets: frozenset[str]
    injected_reviews: frozenset[str]
    injected_tickets: frozenset[str]
    refused: dict[str, frozenset[str]]  # purpose: customers whose last word is no
    erasures: frozenset[str]


def truth(demo: Demo | None = None) -> Truth:
    """What was planted in a demo shop; the default one without an argument. Costs under a second."""
    demo = demo or Demo()
    world = _world(demo)
    people = world.customers
    named = list(enumerate(world.products))[: demo.products]
    pid, cid, on = world.product_id, world.customer_id, demo.date_of
    first, last = demo.experiment_days
    exposed = [i for i in range(demo.customers) if people.exposed[i] < NEVER]
    return Truth(
        demo=demo,
        bot_customer=cid(world.bot),
        bot_days=tuple(on(n) for n in demo.bot_days),
        churners={cid(i): on(int(n)) for i, n in enumerate(people.churn) if n < NEVER},
        cold_customers=frozenset(
            cid(i)
            for i in range(demo.customers)
            if people.rate[i] == 0 and people.period[i] == 0 and i != world.bot
        ),
        bundles=tuple(tuple(pid(p) for p in bundle) for bundle in world.bundles),
        bundle_rate=BUNDLE_RATE,
        weekday_factors=WEEKDAYS,
        month_factors=MONTHS,
        sale_factors=dict(SALES),
        category_seasons={leaf.path: SEASONS[leaf.key] for leaf in LEAVES if leaf.key in SEASONS},
        broken_day=on(demo.broken_day),
        broken_share=BROKEN_SHARE,
        experiment=EXPERIMENT,
        experiment_lift=LIFT,
        experiment_days=(on(first), on(last)),
        treated=frozenset(cid(i) for i in exposed if people.treated[i]),
        untreated=frozenset(cid(i) for i in exposed if not people.treated[i]),
        archived={pid(i): on(p.archived) for i, p in named if p.archived < NEVER},
        drafts=frozenset(pid(i) for i, p in named if p.draft),
        sold_out={pid(i): on(p.sold_out) for i, p in named if p.sold_out < NEVER},
        unsold=frozenset(pid(i) for i, p in named if p.sold_from > 0),
        twins=tuple((pid(p.twin_of), pid(i)) for i, p in named if p.twin_of is not None),
        banned_claims={pid(i): p.banned for i, p in named if p.banned},
    )


@lru_cache(maxsize=2)
def happened(demo: Demo) -> Happened:
    """Where the effects came down in a demo's history; simulates it (some 3 s at full size)."""
    days = Days(_world(demo))
    refunds: dict[bool, dict[str, date]] = {True: {}, False: {}}
    for day in range(demo.days):
        for lag, index, whole in days.refunds(day):
            if day + lag < demo.days:
                refunds[whole][days.order_id(day, index)] = demo.date_of(day + lag)
    bad, personal = [], {"reviews": set[str](), "tickets": set[str]()}
    injected = {"reviews": set[str](), "tickets": set[str]()}
    refused: dict[str, dict[str, str]] = {purpose: {} for purpose in PURPOSES}
    erasures = set()
    looked_at = ("reviews", "tickets", "consents", "privacy_requests")
    for number, chunk in enumerate(chunks(demo, demo.days - 1)):
        # Rows that break the contract stand in the first two files.
        rows = table_rows(days, chunk, tuple(LANDING) if number < 2 else looked_at)
        for table, found in rows.items():
            key = LANDING[table].key
            bad += [
                (table, tuple(str(row[k]) for k in key), rule)
                for row, rule in planted(demo, chunk, table, found)
            ]
        for table in ("reviews", "tickets"):
            for row in rows[table]:
                row_id = row[LANDING[table].key[0]]
                if any(
                    mark in row["body"] for mark in ("@example.", "+65 5", "+44 7700", "13800138000", *CARDS)
                ):
                    (injected if "deals.example.net" in row["body"] else personal)[table].add(row_id)
                if "without restrictions" in row["body"]:
                    injected[table].add(row_id)
        for row in rows["consents"]:
            refused[row["purpose"]][row["customer_id"]] = row["state"]
        erasures |= {row["customer_id"] for row in rows["privacy_requests"] if row["kind"] == "erase"}
    again = sent_again(demo)
    return Happened(
        late_refunds=refunds[True],
        partial_refunds=refunds[False],
        quarantined=tuple(bad),
        sent_again=tuple(
            (f"{table}/{again.name}.{kind}", f"{table}/{again.name}-sent-again.{kind}")
            for table in SENT_AGAIN
            for kind in [FORMATS.get(table, "parquet")]
        ),
        personal_reviews=frozenset(personal["reviews"]),
        personal_tickets=frozenset(personal["tickets"]),
        injected_reviews=frozenset(injected["reviews"]),
        injected_tickets=frozenset(injected["tickets"]),
        refused={
            purpose: frozenset(c for c, state in last.items() if state == "refused")
            for purpose, last in refused.items()
        },
        erasures=frozenset(erasures),
    )


@lru_cache(maxsize=4)
def _world(demo: Demo) -> World:
    return World(demo, demo.days - 1)
