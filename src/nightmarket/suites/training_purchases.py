"""What is expected of the purchases that a ranker is trained on, as built for a day.

dbt proves the mart they come from (keys, references, kept quantities); this proves what the border adds: that the
extract is of this day, that the split hides its answers, and that there is enough to learn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.suites import (
    Suite,
    distinct_at_least,
    holds,
    mean_within,
    one_of,
    present,
    rows_between,
)

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "validation_order", "test", "test_order")
LEAST_CUSTOMERS = 30  # a paired bootstrap over fewer says nothing
LEAST_PRODUCTS = 2  # nothing to rank below that


def derive(rows: pd.DataFrame, day: date, context: Mapping[str, Any]) -> pd.DataFrame:
    """`context["cutoff"]` is the day's midnight in the shop's zone, as naive UTC."""
    bought = rows.groupby("product_id", sort=False, observed=True)["customer_id"].nunique()
    everybody = max(rows["customer_id"].nunique(), 1)
    return rows.assign(
        is_before_day=rows["ordered_at"] < context["cutoff"],
        is_learnt_before_it_is_asked=_comes_before(rows, "train", "validation")
        & _comes_before(rows, "train", "test")
        & _comes_before(rows, "validation", "test"),
        answer_is_new=_is_new(rows),
        reach=rows["product_id"].map(bought) / everybody,
    )


def _comes_before(rows: pd.DataFrame, earlier: str, later: str) -> pd.Series:
    """Whether a row of the stage `earlier` is older than everything of the stage `later` of the same customer."""
    asked = rows["ordered_at"].where(rows["split"].str.startswith(later))
    since = asked.groupby(rows["customer_id"], sort=False).transform("min")
    return ~rows["split"].str.startswith(earlier) | since.isna() | (rows["ordered_at"] < since)


def _is_new(rows: pd.DataFrame) -> pd.Series:
    """Whether a held-out purchase is the customer's first of that product; true for all other rows."""
    pair = ["customer_id", "product_id"]
    held_out = rows["split"].isin(["validation", "test"])
    same = rows[[*pair, "ordered_at"]].merge(rows.loc[held_out, pair].drop_duplicates(), on=pair)
    first = same.groupby(pair, sort=False)["ordered_at"].min().rename("first_at").reset_index()
    first_at = rows[pair].merge(first, on=pair, how="left")["first_at"].set_axis(rows.index)
    return ~held_out | (rows["ordered_at"] == first_at)


SUITE = Suite(
    table="training_purchases",
    grain="purchase",
    derive=derive,
    reads=("customer_id", "product_id", "ordered_at", "split"),
    needs=("cutoff",),
    group="customer_id",
    may_be_empty=False,
    checks=(
        rows_between(1, None, "there is something to learn from",
                     why="A model trained on nothing would be registered as if it knew the shop."),
        *present("split", why="A purchase that is for nothing is lost or learnt by accident."),
        holds("is_before_day", "no purchase is of the day itself or later",
              why="A purchase from the future leaks the answer into training: the score would be a lie."),
        one_of("split", SPLITS, why="What a purchase is for decides who may see it."),
        holds("is_learnt_before_it_is_asked", "nothing that is learnt from is as new as what is asked",
              why="Learning from the day of the answer, or later, is knowing it."),
        holds("answer_is_new", "no held-out product was bought by the customer before",
              why="Lists never hold what was bought before, so such a question cannot be answered."),
        distinct_at_least("customer_id", LEAST_CUSTOMERS, f"at least {LEAST_CUSTOMERS} customers bought something",
                          why="With fewer the comparison with the champion is noise; the gate will then promote nothing."),
        distinct_at_least("product_id", LEAST_PRODUCTS, f"at least {LEAST_PRODUCTS} products were bought",
                          why="One product cannot be ranked."),
        mean_within("reach", 0.0, 0.5, "purchases are not all of products that everybody buys",
                    why="A bag or a shipping line in half of the baskets crowds out every other product."),
    ),
)  # fmt: skip
