"""What is expected of the lists of similar products before they are published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.suites import Suite, holds, is_counting, one_of, present, unique, within

if TYPE_CHECKING:
    import pandas as pd


def derive(rows: pd.DataFrame, day: date, context: Mapping[str, Any]) -> pd.DataFrame:
    """`context["available_products"]`: ids that may be shown; `context["product_ids"]`: every id of the catalogue."""
    return rows.assign(
        rank_is_complete=is_counting(rows, ["product_id", "reason_code"], "rank"),
        is_another=rows["product_id"] != rows["similar_product_id"],
        is_known=rows["product_id"].isin(context["product_ids"]),
        is_available=rows["similar_product_id"].isin(context["available_products"]),
        score_is_finite=rows["score"].notna() & rows["score"].abs().lt(float("inf")),
    )


SUITE = Suite(
    table="similar_products",
    grain="place in a product's list",
    derive=derive,
    reads=("product_id", "similar_product_id", "rank", "score", "reason_code"),
    needs=("available_products", "product_ids"),
    group="product_id",
    checks=(
        *present("product_id", "rank", "similar_product_id", "reason_code", "input_hash", "model_name",
                 why="A place must say of what, what, why and by which model."),
        one_of("reason_code", ("bought_together", "similar_text"), why="The page asks for its two lists by these names."),
        unique("product_id", "reason_code", "rank", why="Two products cannot stand in one place."),
        unique("product_id", "reason_code", "similar_product_id", why="The same product twice in a list wastes a place."),
        within("rank_before_rules", 1, None, why="Places count from 1; what was no candidate has none."),
        holds("rank_is_complete", "ranks of a list count 1, 2, 3 without gaps",
              why="The shop shows the first n; a gap means that rows were lost."),
        holds("is_another", "no product is similar to itself", why="It is already on the page."),
        holds("is_known", "every product is in the catalogue of the day", why="Model and catalogue do not fit."),
        holds("is_available", "every similar product is active and in stock",
              why="A sold-out neighbour sends the customer away."),
        holds("score_is_finite", "every score is a number", why="NaN sorts anywhere: the model is broken."),
    ),
)  # fmt: skip
