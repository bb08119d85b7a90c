"""What is expected of a night's lists before they are published: that they can be shown, and that each slot's ledger is true."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.suites import Suite, holds, is_counting, mean_within, one_of, present, unique, within

if TYPE_CHECKING:
    import pandas as pd

REASONS = ("because_you_bought", "for_you", "because_we_promote", "because_we_explore", "popular")


def derive(rows: pd.DataFrame, day: date, context: Mapping[str, Any]) -> pd.DataFrame:
    """`context["available_products"]`: ids that may be shown; `context["product_ids"]`: every id of the catalogue."""
    cold = ~rows["is_personalised"].fillna(False).astype(bool)
    explores = rows["is_exploration"].fillna(False).astype(bool)
    by_rule = rows["candidate_source"].fillna("").str.startswith("rule")
    no_rule, reason = rows["rules_applied"].fillna("[]").eq("[]"), rows["reason_code"]
    has_cause = ~rows["because_product_ids"].fillna("[]").eq("[]")
    nobody = rows["fallback_reason"].isin(["bot", "profiling_refused", "no_history"])
    share = rows.groupby("product_id", sort=False, observed=True)["product_id"].transform("size") / max(
        len(rows), 1
    )
    return rows.assign(
        rank_is_complete=is_counting(rows, ["customer_id", "placement"], "rank"),
        is_known=rows["product_id"].isin(context["product_ids"]),
        is_available=rows["product_id"].isin(context["available_products"]),
        score_is_finite=rows["score"].notna() & rows["score"].abs().lt(float("inf")),
        fallback_is_explained=~cold | rows["fallback_reason"].notna(),
        exploration_is_told=~explores | reason.eq("because_we_explore"),
        exploration_is_uncertain=~explores | rows["propensity"].lt(1),
        only_own_lists_explore=~explores | ~nobody,
        rule_is_told=~(by_rule & no_rule) & ~(reason.eq("because_we_promote") & no_rule),
        place_before_is_told=by_rule == rows["rank_before_rules"].isna(),
        cause_is_told=has_cause == reason.eq("because_you_bought"),
        traits_are_left_alone=~nobody | ~has_cause,
        share_of_all_slots=share,
    )


SUITE = Suite(
    table="recommendations",
    grain="place in a customer's list",
    derive=derive,
    reads=("customer_id", "placement", "rank", "product_id", "score", "is_personalised", "fallback_reason",
           "is_exploration", "candidate_source", "rules_applied", "rank_before_rules", "propensity", "reason_code",
           "because_product_ids"),
    needs=("available_products", "product_ids"),
    group="customer_id",
    text=("reason_text",),
    checks=(
        *present("customer_id", "placement", "rank", "product_id", "candidate_source", "rules_applied", "propensity",
                 "is_exploration", "reason_code", "is_personalised", "input_hash", "model_name", "model_version",
                 why="A slot must say for whom, where, what, why, how likely and by which model."),
        one_of("placement", ("home", "email"), why="Nobody shows a list of another name."),
        one_of("reason_code", REASONS, why="Shops translate and count reasons by these codes."),
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
        within("rank_before_rules", 1, None, why="Places count from 1; what was no candidate has none."),
        holds("fallback_is_explained", "a list that is not personal says why",
              why="An analyst must be able to tell a cold customer from a broken model."),
        holds("exploration_is_told", "what was drawn by chance says so", why="A reason that is not the real one is a lie."),
        holds("exploration_is_uncertain", "what was drawn by chance was not certain",
              why="A draw with propensity 1 means that propensities are wrong everywhere."),
        holds("only_own_lists_explore", "lists without anybody's traits do not explore",
              why="All of those customers would be shown the same experiment."),
        holds("rule_is_told", "what a rule put there or promotes names the rule",
              why="The shop must be able to ask who wanted this."),
        holds("place_before_is_told", "what was a candidate has a place before rules, what a rule brought has none",
              why="Who gains and loses by a rule is counted with it."),
        holds("cause_is_told", "because you bought names what was bought, and no other reason does",
              why="A cause beside another reason is decoration."),
        holds("traits_are_left_alone", "who must not be profiled has no purchase named", why="They said no."),
        mean_within("share_of_all_slots", 0, 0.25, "no handful of products fills a quarter of all places",
                    why="Small shops and cold starts do this too; in a grown shop it is a ranker that collapsed."),
    ),
)  # fmt: skip
