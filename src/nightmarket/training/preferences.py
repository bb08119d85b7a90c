"""What people would rather say: edits of reviewers as two answers to one prompt, frozen for a day.

An edit of a shop page counts while its words may still go out: the product is in the mart, today's facts and policy bear
them, and neither text holds personal data or speaks to a model. Its side is that of the product's pairs, so what judges is
never learnt from. Not here: taking edits down (products.product_copy.desk), and the loss (writer.prefer).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa

from nightmarket import guard, lake
from nightmarket.products.product_copy import policies, reviews
from nightmarket.training import pairs
from nightmarket.training.pairs import Pair

NAME = "writing_preferences"
_COLUMNS = ("product_id", "side", "messages", "chosen", "rejected")


@dataclass(frozen=True)
class Preference:
    """What a person wants said, and what was said before, as answers to the same prompt."""

    chosen: Pair
    rejected: Pair

    @property
    def side(self) -> str:
        """On which of `pairs.SIDES` it is."""
        return self.chosen.side


def freeze(day: date, *, languages: frozenset[str]) -> lake.Manifest:
    """Write the edits that count now into the lake, as the day's."""
    rows = [
        {
            "product_id": p.chosen.product_id, "side": p.side, "chosen": p.chosen.text, "rejected": p.rejected.text,
            "messages": json.dumps(p.chosen.messages, ensure_ascii=False),
        }
        for p in made(lake.read("products", day), reviews.last_words().values(), languages=languages)
    ]  # fmt: skip
    schema = pa.schema([(name, pa.string()) for name in _COLUMNS])
    key = ("product_id", "chosen", "rejected")
    return lake.write(NAME, day, pa.Table.from_pylist(rows, schema=schema), key=key)


def load(day: date) -> list[Preference]:
    """The edits that `freeze` wrote for a day."""
    found = []
    for row in lake.read(NAME, day).to_pylist():
        turns = tuple((role, text) for role, text in json.loads(row["messages"]))
        chosen, rejected = (
            Pair(row["product_id"], row["side"], turns, row[name]) for name in ("chosen", "rejected")
        )
        found.append(Preference(chosen, rejected))
    return found


def made(
    products: pa.Table, decisions: Iterable[Mapping[str, Any]], *, languages: frozenset[str]
) -> list[Preference]:
    """The edits among `decisions` that count, each once.

    Args:
        products: rows of the mart `products`.
        decisions: rows of `ops.copy_reviews`, the last one about each version of a text.
    """
    packs = guard.shop_packs()
    edits = [
        row
        for row in decisions
        if row["decision"] == "edit"
        and row["channel"] == policies.SHOP_PAGE
        and pairs.is_written(row["locale"], languages)
    ]
    sheets = reviews.sheets_of(products, {row["product_id"] for row in edits})
    found: dict[Preference, None] = {}
    for row in edits:
        sheet = sheets.get(row["product_id"])
        if sheet is None or sheet.locale != row["locale"]:
            continue
        pack = policies.pack_of(sheet, packs)
        held = policies.hold(sheet, pack)
        chosen, rejected = (_own_words(row[name], pack) for name in ("text", "instead_of"))
        if not held.name or chosen == rejected or not _may_be_read(chosen) or not _may_be_read(rejected):
            continue
        if isinstance(reviews.edited(chosen, sheet, pack), str):
            continue
        side, turns = pairs.side_of(held), pairs.prompt(held, pack)
        both = (Pair(sheet.product_id, side, turns, text) for text in (chosen, rejected))
        found[Preference(*both)] = None
    return list(found)


def on(side: str, preferences: Sequence[Preference]) -> list[Preference]:
    """Those of one side, in their order."""
    return [p for p in preferences if p.side == side]


def lacks(preferences: Sequence[Preference], needed: int) -> str:
    """What learning from them would lack, in words; empty when there is enough.

    One of each held-out side is needed: the validation side says when to stop, the test side what came of it.
    """
    counts = {side: len(on(side, preferences)) for side in pairs.SIDES}
    if counts["train"] < needed:
        return f"{counts['train']} edits of people to learn from, {needed} are needed"
    if not (counts["validation"] and counts["test"]):
        return (
            f"{counts['validation']} and {counts['test']} edits of people are held out, one of each is needed"
        )
    return ""


def _own_words(text: str | None, pack: guard.Pack) -> str:
    """A description without what a pack puts in front of every text: no writer is asked for that."""
    required = {_bare(sentence) for phrase in pack.required for sentence in guard.sentences(phrase)}
    return " ".join(s for s in guard.sentences(text or "") if _bare(s) not in required)


def _bare(sentence: str) -> str:
    return sentence.rstrip(".!?")


def _may_be_read(text: str) -> bool:
    return bool(text) and not guard.personal(text) and not guard.injection(text)
