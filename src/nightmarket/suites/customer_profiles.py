"""What is expected of a night's customer profiles before they are published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.suites import Suite, holds, one_of, present, unique, within

if TYPE_CHECKING:
    import pandas as pd

SEGMENTS = (
    "champions", "loyal", "potential_loyalists", "new_customers", "promising", "need_attention", "about_to_sleep",
    "at_risk", "cannot_lose", "hibernating", "lost",
)  # fmt: skip
STAGES = ("prospect", "new", "active", "at_risk", "lapsed")
_JUDGEMENTS = ("rfm_segment", "lifecycle_stage", "expected_date_of_next_order", "churn_band", "predicted_clv")


def derive(rows: pd.DataFrame, day: date, context: Mapping[str, Any]) -> pd.DataFrame:
    """Flags for the rules that speak of more than one column, and for the text."""
    ordered = rows["rfm_frequency"].fillna(0) > 0
    reason = rows["ineligible_reason"].fillna("").astype("object")
    judged = rows[list(_JUDGEMENTS)].notna().any(axis=1)
    band = rows["churn_band"].isna() | rows["churn_probability"].notna()
    interval = rows["predicted_clv"].isna() | (
        (rows["predicted_clv_p10"] <= rows["predicted_clv"])
        & (rows["predicted_clv"] <= rows["predicted_clv_p90"])
    )
    told = rows["summary"].isna()
    told |= ~rows["summary"].fillna("").map(context["has_personal_data"]).astype(bool)
    return rows.assign(
        orders_in_order=(rows["first_order_at"] <= rows["last_order_at"]) | ~ordered,
        is_before_day=(rows["last_order_at"] < context["cutoff"]) | rows["last_order_at"].isna(),
        nothing_from_nothing=ordered
        | rows[["rfm_monetary", "average_order_value", "rfm_segment"]].isna().all(axis=1),
        nulls_have_a_reason=(reason != "") | rows["rfm_segment"].notna(),
        excluded_are_not_judged=~reason.str.contains("bot|refused", regex=True) | ~judged,
        bands_have_a_model=band,
        interval_holds=interval,
        summary_is_clean=told,
        summary_length=rows["summary"].str.len(),
    )


SUITE = Suite(
    table="customer_profiles",
    grain="customer",
    derive=derive,
    reads=(*_JUDGEMENTS, "ineligible_reason", "churn_probability", "predicted_clv_p10", "predicted_clv_p90", "summary",
           "rfm_frequency", "rfm_monetary", "average_order_value", "first_order_at", "last_order_at"),
    needs=("cutoff", "has_personal_data"),
    group="customer_id",
    text=("summary",),
    checks=(
        *present("customer_id", "input_hash", "model_name", "model_version",
                 why="A row must say whom it is about and what made it."),
        unique("customer_id", why="Two profiles of one customer contradict each other."),
        within("rfm_recency_days", 0, None, why="A last order after the day is knowledge from the future."),
        within("rfm_frequency", 0, None, why="Orders are counted from none."),
        within("average_days_between_orders", 0, None, why="Time between orders does not run backwards."),
        within("rfm_monetary", 0, None, severity="warn",
               why="More refunded than paid happens with late refunds of a shop's first days; rare, so look at it."),
        within("discount_affinity", 0, 1, why="A share lies between none and all."),
        within("churn_probability", 0, 1, why="A probability."),
        within("preferred_send_hour", 0, 23, why="An hour of the day."),
        within("summary_length", 1, 400, why="One sentence; an empty one is worse than none."),
        one_of("rfm_segment", SEGMENTS, why="Campaigns are set up by these names."),
        one_of("lifecycle_stage", STAGES, why="Campaigns are set up by these names."),
        one_of("price_tier", ("low", "mid", "high"), why="The tiers of the products mart."),
        one_of("churn_band", ("low", "medium", "high"), why="The bands that analysts know."),
        holds("orders_in_order", "the first order is not after the last", why="Time runs forwards."),
        holds("is_before_day", "no order is of the day itself or later", why="Knowledge from the future."),
        holds("nothing_from_nothing", "no orders, no value and no segment",
              why="A number without evidence is invented."),
        holds("nulls_have_a_reason", "a customer without a segment has a reason",
              why="An analyst must be able to tell abstaining from a bug."),
        holds("excluded_are_not_judged", "bots and customers who refused profiling are not judged",
              why="A refusal is the customer's right; a bot's habits are nobody's."),
        holds("bands_have_a_model", "a churn band has a probability behind it", why="A band without a model is invented."),
        holds("interval_holds", "a predicted value lies in its own interval", why="Else the interval is wrong."),
        holds("summary_is_clean", "no summary holds personal data",
              why="Summaries are read by many people and by models."),
    ),
)  # fmt: skip
