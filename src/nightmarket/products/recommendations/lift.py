"""What personal lists bring over their twin: who bought something new, and in which of the two lists it stood.

A purchase is held against the lists that were published for an earlier day than the one it was made on, the customer's own
and the placement's twin, so no list is judged by what it could know. Not here: how lists are made, and what an analyst
makes of propensities.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket import lake, metrics, warehouse
from nightmarket.settings import get_settings

TABLE = "recommendation_lift"
NAME, VERSION = "lift over the twin", "1"
# A shop that comes back after a long break is judged on its last days: what is older was for other lists.
LONGEST_DAYS = 62

_SQL = """
with days (bought_on, begins, ends) as (values {days}),
bought as (
    select customer_id, product_id, min(ordered_at) as bought_at
    from read_parquet(?) group by customer_id, product_id having min(ordered_at) >= ?
),
dated as (
    select customer_id, product_id, bought_on
    from bought inner join days on bought_at >= begins and bought_at < ends
),
in_force as (
    select dated.customer_id, dated.product_id, dated.bought_on, max(rows.day) as day
    from dated
    inner join outputs.recommendations as rows on rows.customer_id = dated.customer_id and rows.day < dated.bought_on
    group by all
),
own as (
    select in_force.customer_id, in_force.product_id, in_force.bought_on, rows.placement, in_force.day,
           bool_or(rows.product_id = in_force.product_id) as hit
    from in_force
    inner join outputs.recommendations as rows
        on rows.customer_id = in_force.customer_id and rows.day = in_force.day
    group by all having bool_or(rows.is_personalised)
),
twins as (
    select own.placement, own.bought_on, max(rows.day) as day
    from (select distinct placement, bought_on from own) as own
    inner join outputs.default_recommendations as rows
        on rows.placement = own.placement and rows.day < own.bought_on
    group by all
),
twin as (
    select twins.placement, twins.bought_on, rows.product_id
    from twins
    inner join outputs.default_recommendations as rows
        on rows.placement = twins.placement and rows.day = twins.day
)
select own.placement, own.customer_id, max(own.hit::int) as own,
       max((twin.product_id is not null)::int) as twin, min(own.day) as lists_from
from own
inner join twins on twins.placement = own.placement and twins.bought_on = own.bought_on
left join twin
    on twin.placement = own.placement and twin.bought_on = own.bought_on and twin.product_id = own.product_id
group by own.placement, own.customer_id order by all
"""


def rows(day: date, nights: Mapping[str, date]) -> pa.Table:
    """A row a placement: the share of customers whose new purchase stood in their own list, and in the twin.

    Counted are customers with a personal list who bought, since the night before, a product for the first time. No rows
    before there was an earlier night whose lists a purchase could come after.
    """
    found = _customers(day, nights)
    made = []
    if found is None:
        return _SCHEMA.empty_table()
    for placement in sorted(set(found["placement"].to_pylist())):
        part = found.filter(pc.equal(found["placement"], placement))
        own, twin = (np.asarray(part[name].to_numpy(), np.float64) for name in ("own", "twin"))
        lift = metrics.paired_interval(own, twin, seed=get_settings().seed)
        made.append({
            "placement": placement, "lists_from": min(part["lists_from"].to_pylist()), "customers": len(own),
            "own_hit_rate": float(own.mean()), "default_hit_rate": float(twin.mean()),
            "lift": lift.mean, "lift_low": lift.low, "lift_high": lift.high,
            "input_hash": warehouse.digest(VERSION, day, placement, own.tolist(), twin.tolist()),
            "model_name": NAME, "model_version": VERSION,
        })  # fmt: skip
    return pa.Table.from_pylist(made, schema=_SCHEMA)


def _customers(day: date, nights: Mapping[str, date]) -> pa.Table | None:
    """A row a customer and placement: did a new purchase stand in the own list, and in the twin? None: no earlier night."""
    if "recommendations" not in nights or "default_recommendations" not in nights:
        return None
    from nightmarket.quality.arrivals import shop_zone

    zone = shop_zone()

    def midnight(of: date) -> datetime:
        return datetime.combine(of, time.min, zone).astimezone(UTC).replace(tzinfo=None)

    first = max(nights["recommendations"], day - timedelta(days=LONGEST_DAYS))
    days = [first + timedelta(days=n) for n in range((day - first).days)]
    spans = ", ".join(
        f"(date '{d}', timestamp '{midnight(d)}', timestamp '{midnight(d + timedelta(days=1))}')"
        for d in days
    )
    return warehouse.read(
        _SQL.format(days=spans), [str(lake.require("purchases", day).path), midnight(first)]
    )


_SCHEMA = pa.schema([
    ("placement", pa.string()), ("lists_from", pa.date32()), ("customers", pa.int64()), ("own_hit_rate", pa.float64()),
    ("default_hit_rate", pa.float64()), ("lift", pa.float64()), ("lift_low", pa.float64()), ("lift_high", pa.float64()),
    ("input_hash", pa.string()), ("model_name", pa.string()), ("model_version", pa.string()),
])  # fmt: skip
