"""What is expected of a night's product copy before it is published.

Claims are held against the product's facts where they are made (guard.py) and in the suite `copy_claims`; this suite
looks at what any text of the shop must be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.suites import Suite, holds, one_of, present, unique, within

if TYPE_CHECKING:
    import pandas as pd

CHANNELS = ("shop_page", "email", "push", "search_ad")
STATUSES = ("blocked", "pending", "approved", "published", "retired")
_SHOWN = ("title", "description", "bullets", "meta_description")
_HAN = re.compile(r"[\u3400-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")
# Product and brand names stay in their own script inside a text of another language.
LEAST_HAN, MOST_HAN = 0.2, 0.3


def speaks(text: str, locale: str) -> bool:
    """Whether a text is written in the script of a locale: Han for Chinese, anything else for other languages."""
    letters = len(_LETTER.findall(text))
    if letters < 20:  # too short to tell: a model number, a size
        return True
    share = len(_HAN.findall(text)) / letters
    return share >= LEAST_HAN if locale.lower().startswith("zh") else share <= MOST_HAN


def derive(rows: pd.DataFrame, day: date, context: Mapping[str, Any]) -> pd.DataFrame:
    """Lengths and flags of the text; blocked and retired texts are kept for the record and may be anything."""
    shown = ~rows["status"].isin(["blocked", "retired"])
    # The title is the catalogue's own name of the product: a long article number in it is no telephone number.
    written = rows["description"].fillna("")
    for column in ("bullets", "meta_description"):
        written = written + "\n" + rows[column].fillna("")
    locales = rows["locale"].fillna("")
    names = [context["product_names"].get(product, ()) for product in rows["product_id"]]
    spoken = [
        speaks(text, locale) for text, locale in zip(rows["description"].fillna(""), locales, strict=True)
    ]
    personal = [context["has_personal_data"](text) for text in written]
    banned = [context["banned_phrases"](*row) for row in zip(written, locales, names, strict=True)]
    flags = rows.assign(spoken=spoken, personal=personal, banned=banned)
    return rows.assign(
        title_length=rows["title"].str.len().where(shown),
        description_length=rows["description"].str.len().where(shown),
        meta_length=rows["meta_description"].str.len().where(shown),
        shown_has_text=(rows["title"].fillna("").str.strip() != "")
        & (rows["description"].fillna("").str.strip() != "")
        | ~shown,
        speaks_its_locale=flags["spoken"] | ~shown,
        has_no_personal_data=~flags["personal"] | ~shown,
        has_no_banned_phrase=~flags["banned"] | ~shown,
        says_who_wrote=rows["is_ai_written"].notna() | ~shown,
        is_marked_rightly=rows["is_ai_written"].eq(True)
        | (rows["ai_label"].isna() & ~rows["ai_metadata"].eq(True)),
        has_no_markup=~written.str.contains(r"<[a-zA-Z/]|https?://|\bwww\.|\]\(", regex=True) | ~shown,
    )


SUITE = Suite(
    table="product_copy",
    grain="text of a product, channel and locale",
    derive=derive,
    reads=("product_id", *_SHOWN, "status", "locale", "is_ai_written", "ai_label", "ai_metadata"),
    needs=("has_personal_data", "banned_phrases", "product_names"),
    group="product_id",
    text=_SHOWN,
    checks=(
        *present("product_id", "channel", "locale", "version", "status", "policy_version", "change_cause", "input_hash",
                 "prompt_version", "model_name", why="A text must say of what, for where, why now and what wrote it."),
        unique("product_id", "channel", "locale", "version", why="Two texts of one version cannot be told apart."),
        one_of("status", STATUSES, why="The shop serves by status."),
        one_of("channel", CHANNELS, why="The shop asks for a text by its channel."),
        within("version", 1, None, why="Versions count from 1."),
        within("title_length", 1, 200, why="Longer titles are cut by every channel."),
        within("description_length", 1, 5000, why="Longer is a runaway generation, not a description."),
        within("meta_length", 1, 160, severity="warn", why="Search engines cut it there; unpleasant, not wrong."),
        holds("shown_has_text", "a text that may be shown has a title and a description",
              why="An empty page loses the sale that the old text would have made."),
        holds("speaks_its_locale", "a text is written in the language of its locale",
              why="Customers cannot read it."),
        holds("has_no_personal_data", "no text holds personal data",
              why="It was in a review or a ticket and must never be in a shop window."),
        holds("has_no_banned_phrase", "no text that may be shown holds a banned phrase",
              why="Banned claims are the shop's legal risk."),
        holds("has_no_markup", "no text holds links or markup",
              why="A link or a tag comes from injected instructions, not from product facts."),
        holds("says_who_wrote", "a text that may be shown says whether a model had part in it",
              why="Whoever shows it has to mark what AI wrote."),
        holds("is_marked_rightly", "only what a model had part in is marked as AI's",
              why="A mark on a person's words is as untrue as none on a model's."),
        within("free_sentences", 0, None, why="Sentences are counted."),
        within("repaired_sentences", 0, None, why="Sentences are counted."),
    ),
)  # fmt: skip
