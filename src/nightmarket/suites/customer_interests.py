"""What is expected of a night's customer interests before they are published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.suites import Suite, holds, is_counting, present, unique, within

if TYPE_CHECKING:
    import pandas as pd

MOST = 10  # interests a customer
WITHDRAWN = (
    "(none)"  # stands for a customer whose earlier interests no longer hold, so that they are not current
)


def derive(rows: pd.DataFrame, day: date, context: Mapping[str, Any]) -> pd.DataFrame:
    """Flags for the rules that speak of a whole customer or of more than one column."""
    real = rows["interest"] != WITHDRAWN
    shares = rows[["share_purchase", "share_browse", "share_review"]].sum(axis=1)
    return rows.assign(
        rank_is_complete=is_counting(rows, ["customer_id"], "rank") | ~real,
        shares_are_whole=(shares - 1).abs().lt(0.001) | ~real,
        has_evidence=(rows["evidence"].fillna("[]").str.len() > 2) | ~real,
        real_weight=rows["weight"].where(real),
        weight_is_there=rows["weight"].notna() | ~real,
        is_before_day=(rows["last_seen_at"] < context["cutoff"]) | ~real,
    )


SUITE = Suite(
    table="customer_interests",
    grain="interest of a customer",
    derive=derive,
    reads=("customer_id", "interest", "rank", "weight", "share_purchase", "share_browse", "share_review", "evidence",
           "last_seen_at"),
    needs=("cutoff",),
    group="customer_id",
    checks=(
        *present("customer_id", "interest", "rank", "input_hash", "model_name",
                 why="A row must say whose interest in what, and what made it."),
        unique("customer_id", "interest", why="An interest counted twice outweighs the others."),
        holds("rank_is_complete", "ranks of a customer count 1, 2, 3 without gaps",
              why="Readers take the first n; a gap means that rows were lost."),
        within("rank", 0, MOST, why="Ten interests are a person; fifty are a list of what there is."),
        holds("weight_is_there", "an interest has a weight", why="Readers sort by it."),
        within("real_weight", 0.000001, 1, why="A share of the customer's own attention."),
        within("share_purchase", 0, 1, why="A share lies between none and all."), within("share_browse", 0, 1, why="A share lies between none and all."),
        within("share_review", 0, 1, why="A share lies between none and all."),
        holds("shares_are_whole", "the three shares add up to one", why="Else a source is lost or counted twice."),
        holds("has_evidence", "an interest names products that show it", why="An interest without evidence is a guess."),
        holds("is_before_day", "no evidence is of the day itself or later", why="Knowledge from the future."),
    ),
)  # fmt: skip
