"""What is expected of a night's lists before they are published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.suites import Suite, holds, is_counting, mean_within, present, unique, within

if TYPE_CHECKING:
    import pandas as pd


def derive(rows: pd.DataFrame, day: date, context: Mapping[str, Any]) -> pd.DataFrame:
    """`context["available_products"]`: ids that may be shown; `context["product_ids"]`: every id of the catalogue."""
    cold = ~rows["is_personalised"].fillna(False).astype(bool)
    share = rows.groupby("product_id", sort=False, observed=True)["product_id"].transform("size") / max(
        len(rows), 1
    )
    return rows.assign(
        rank_is_complete=is_counting(rows, ["customer_id", "placement"], "rank"),
        is_known=rows["product_id"].isin(context["product_ids"]),
        is_available=rows["product_id"].isin(context["available_products"]),
        score_is_finite=rows["score"].notna() & rows["score"].abs().lt(float("inf")),
        fallback_is_explained=~cold | rows["fallback_reason"].notna(),
        share_of_all_slots=share,
    )


SUITE = Suite(
    table="recommendations",
    grain="place in a customer's list",
    derive=derive,
    reads=("customer_id", "placement", "rank", "product_id", "score", "is_personalised", "fallback_reason"),
    needs=("available_products", "product_ids"),
    group="customer_id",
    text=("reason_text",),
    checks=(
        *present("customer_id", "placement", "rank", "product_id", "reason_code", "is_personalised", "input_hash",
                 "model_name", "model_version", why="A slot must say for whom, where, what, why and by which model."),
        unique("customer_id", "placement", "rank", why="Two products cannot stand in one place."),
        unique("customer_id", "placement", "product_id", why="The same product twice wastes a slot and looks broken."),
        holds("rank_is_complete", "ranks of a list count 1, 2, 3 without gaps",
              why="The shop shows the first n; a gap means that rows were lost."),
        holds("is_known", "every product is in the catalogue of the day",
              why="An unknown id means that model and catalogue do not fit: every row may be a wrong product."),
        holds("is_available", "every product is active and in stock",
              why="A removed or sold-out product in a message costs trust and support tickets."),
        holds("score_is_finite", "every score is a number", why="NaN sorts anywhere: the model is broken."),
        within("propensity", 0.000001, 1,
               why="Off-policy measurement divides by it; zero or more than one makes it worthless."),
        holds("fallback_is_explained", "a list that is not personal says why",
              why="An analyst must be able to tell a cold customer from a broken model."),
        mean_within("share_of_all_slots", 0, 0.25, "no handful of products fills a quarter of all places",
                    why="Small shops and cold starts do this too; in a grown shop it is a ranker that collapsed."),
    ),
)  # fmt: skip
