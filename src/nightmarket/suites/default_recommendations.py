"""What is expected of the lists that need nobody's traits before they are published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.contracts import PLACEMENTS
from nightmarket.suites import Suite, holds, is_counting, one_of, present, unique, within

if TYPE_CHECKING:
    import pandas as pd


def derive(rows: pd.DataFrame, day: date, context: Mapping[str, Any]) -> pd.DataFrame:
    """`context["available_products"]`: ids that may be shown; `context["product_ids"]`: every id of the catalogue."""
    return rows.assign(
        rank_is_complete=is_counting(rows, ["placement"], "rank"),
        is_available=rows["product_id"].isin(context["available_products"]),
        score_is_finite=rows["score"].notna() & rows["score"].abs().lt(float("inf")),
    )


SUITE = Suite(
    table="default_recommendations",
    grain="place in a placement's own list",
    derive=derive,
    reads=("placement", "rank", "product_id", "score"),
    needs=("available_products",),
    group="placement",
    checks=(
        *present("placement", "rank", "product_id", "candidate_source", "reason_code", "input_hash", "model_name",
                 why="A slot must say where, what, why and by which model."),
        one_of("placement", PLACEMENTS, why="Nobody shows a list of another name."),
        one_of("reason_code", ("popular", "because_we_promote"),
               why="A list without anybody's traits can have no other reason."),
        unique("placement", "rank", why="Two products cannot stand in one place."),
        unique("placement", "product_id", why="The same product twice wastes a slot."),
        holds("rank_is_complete", "ranks of a list count 1, 2, 3 without gaps",
              why="The shop shows the first n; a gap means that rows were lost."),
        holds("is_available", "every product is active and in stock", why="Everybody without a list of their own sees it."),
        holds("score_is_finite", "every score is a number", why="NaN sorts anywhere: the counts are broken."),
        within("propensity", 1, 1, why="A list that is the same for everybody leaves nothing to chance."),
    ),
)  # fmt: skip
