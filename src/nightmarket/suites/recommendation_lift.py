"""What is expected of the measured lift before it is published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.suites import Suite, holds, one_of, present, unique, within

if TYPE_CHECKING:
    import pandas as pd


def derive(rows: pd.DataFrame, day: date, context: Mapping[str, Any]) -> pd.DataFrame:
    """Whether the numbers of a row fit each other."""
    import pandas as pd

    gap = (rows["own_hit_rate"] - rows["default_hit_rate"] - rows["lift"]).abs()
    inside = (rows["lift_low"] <= rows["lift"] + 1e-9) & (rows["lift"] <= rows["lift_high"] + 1e-9)
    return rows.assign(
        adds_up=gap.lt(1e-9),
        is_inside=inside,
        lists_are_earlier=pd.to_datetime(rows["lists_from"]) < pd.Timestamp(day),
    )


SUITE = Suite(
    table="recommendation_lift",
    grain="placement",
    derive=derive,
    reads=("own_hit_rate", "default_hit_rate", "lift", "lift_low", "lift_high", "lists_from"),
    checks=(
        *present("placement", "lists_from", "customers", "lift", "input_hash",
                 why="A measure must say of what, since when and over how many."),
        one_of("placement", ("home", "email"), why="Only these placements have lists of a customer's own."),
        unique("placement", why="Two measures of one placement cannot both be right."),
        within("customers", 1, None, why="A measure over nobody is none."),
        within("own_hit_rate", 0, 1, why="It is a share."),
        within("default_hit_rate", 0, 1, why="It is a share."),
        holds("adds_up", "the lift is the difference of the two shares", why="Somebody will check, and trust nothing after."),
        holds("is_inside", "the lift lies in its interval", why="A bootstrap's bounds lie around its mean."),
        holds("lists_are_earlier", "no list is judged by what it could know",
              why="A list of the day itself or later may have seen the purchase."),
    ),
)  # fmt: skip
