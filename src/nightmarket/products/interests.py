"""What a customer is interested in, counted from what was bought, looked at and reviewed, with the evidence.

Here: signs of interest turned into weights and preferences. Not here: which signs there are (dbt's
`customer_affinities`), and which customers are made anew (profiles).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from nightmarket import warehouse
from nightmarket.suites.customer_interests import MOST as MOST_INTERESTS

if TYPE_CHECKING:
    import pandas as pd

LEAST_PURCHASES, LEAST_SHARE, MOST_PREFERRED = 2, 0.1, 3

# What a sign of interest counts: a purchase is worth three views. One view shows nothing; three views do.
PURCHASE, REVIEW, VIEW = 3.0, 2.0, 1.0
LEAST_SIGNS = 3.0


def preferred(affinities: pa.Table, dimension: str) -> dict[str, list[tuple[str, float]]]:
    """By customer the most bought values of a dimension with their share of the customer's purchases in it, best first.

    A value needs two purchases and a tenth of them; at most three are named.
    """
    frame = affinities.select(["customer_id", "dimension", "value", "purchases", "last_seen_at"]).to_pandas()
    frame = frame[frame["dimension"] == dimension]
    share = frame["purchases"] / frame.groupby("customer_id", sort=False)["purchases"].transform("sum")
    frame = frame.assign(share=share.round(4))
    frame = frame[(frame["purchases"] >= LEAST_PURCHASES) & (frame["share"] >= LEAST_SHARE)]
    frame = frame.sort_values(
        ["customer_id", "purchases", "last_seen_at", "value"], ascending=[True, False, False, True]
    )
    frame = frame[frame.groupby("customer_id", sort=False).cumcount() < MOST_PREFERRED]
    found: dict[str, list[tuple[str, float]]] = {}
    for customer, value, part in zip(frame["customer_id"], frame["value"], frame["share"], strict=True):
        found.setdefault(customer, []).append((value, part))
    return found


def interests(affinities: pa.Table) -> pd.DataFrame:
    """One row an interest: `category:…` or `brand:…`, its weight among the customer's own, and where it shows.

    A purchase counts 3, a review 2, a view 1; less than 3 in all is no interest. `weight` is the share of what all the
    customer's signs of that dimension count. At most ten interests a customer, ranked by weight.
    """
    frame = affinities.select(
        ["customer_id", "dimension", "value", "purchases", "views", "reviews", "last_seen_at", "evidence"]
    ).to_pandas()
    bought, viewed, told = frame["purchases"] * PURCHASE, frame["views"] * VIEW, frame["reviews"] * REVIEW
    signs = bought + viewed + told
    total = signs.groupby([frame["customer_id"], frame["dimension"]], sort=False).transform("sum")
    frame = frame.assign(
        interest=frame["dimension"] + ":" + frame["value"],
        signs=signs,
        weight=(signs / total).round(6),
        share_purchase=(bought / signs).round(6),
        share_browse=(viewed / signs).round(6),
        share_review=(told / signs).round(6),
    )
    frame = frame[frame["signs"] >= LEAST_SIGNS]
    frame = frame.sort_values(
        ["customer_id", "weight", "signs", "last_seen_at", "interest"],
        ascending=[True, False, False, False, True],
    )
    frame["rank"] = frame.groupby("customer_id", sort=False).cumcount() + 1
    return frame[frame["rank"] <= MOST_INTERESTS].reset_index(drop=True)


def digests(affinities: pa.Table, columns: Sequence[str]) -> dict[str, str]:
    """By customer a digest of these columns of its affinities; rows come sorted by their key."""
    lists = [affinities[c].to_pylist() for c in columns]
    grouped: dict[str, list[str]] = {}
    for customer, *values in zip(affinities["customer_id"].to_pylist(), *lists, strict=True):
        grouped.setdefault(customer, []).append("\x1e".join(map(str, values)))
    return {customer: warehouse.digest(*rows) for customer, rows in grouped.items()}
