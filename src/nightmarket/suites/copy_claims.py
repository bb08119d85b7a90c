"""What is expected of the claims of a night's product copy before they are published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.suites import Suite, holds, is_counting, one_of, present, unique

if TYPE_CHECKING:
    import pandas as pd

VERDICTS = ("supported", "unsupported", "misbound", "banned")
ORIGINS = ("free", "repaired", "template", "facts", "edited")


def derive(rows: pd.DataFrame, day: date, context: Mapping[str, Any]) -> pd.DataFrame:
    """Flags for the rules that speak of more than one column."""
    supported = rows["verdict"] == "supported"
    return rows.assign(
        published_has_origin=supported == rows["origin"].notna(),
        support_has_evidence=~supported | (rows["evidence"].fillna("").str.len() > 0),
        claims_count_up=is_counting(rows, ["product_id", "channel", "locale", "version"], "claim_number"),
        has_no_personal_data=~rows["sentence"].fillna("").map(context["has_personal_data"]).astype(bool),
    )


SUITE = Suite(
    table="copy_claims",
    grain="claim of a text",
    derive=derive,
    reads=("product_id", "channel", "locale", "version", "claim_number", "verdict", "evidence", "sentence", "origin"),
    needs=("has_personal_data",),
    group="product_id",
    text=("sentence", "claim", "value", "evidence"),
    checks=(
        *present("product_id", "channel", "locale", "version", "claim_number", "claim", "verdict",
                 why="A claim must say of which text it is and how it was judged."),
        unique("product_id", "channel", "locale", "version", "claim_number", why="A claim is judged once."),
        one_of("verdict", VERDICTS, why="Reviewers filter by it."),
        one_of("origin", ORIGINS, why="Reviewers look first at what a model said in its own words."),
        holds("published_has_origin", "what is published says where it came from, and what was removed does not",
              why="A sentence of unknown origin cannot be counted or reviewed."),
        holds("claims_count_up", "claims of a text count 1, 2, 3 without gaps", why="A gap means a lost claim."),
        holds("support_has_evidence", "a supported claim names the fact that supports it",
              why="Support that cannot be shown is an opinion."),
        holds("has_no_personal_data", "no sentence holds personal data", why="Reviewers and reports read it."),
    ),
)  # fmt: skip
