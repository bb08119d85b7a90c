"""Facts beside texts: what a writer is tuned on, frozen for a day and split by product.

A pair is a product's facts as a live request shows them and a description that says them: sentences of the house in an
order of their own, with those of the shop's own sentences that its facts bear. Every sentence was held against the facts,
the shop's packs and its voice, so nothing is learnt that a night would take out. Products that are nearly the same are on
one side. Beside descriptions stand pairs of other texts (field_pairs, summary_pairs), fewer of them. Not here: the network
(writer), checking texts that a writer made (products.product_copy).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket import guard, lake
from nightmarket.guard.claims import OWN
from nightmarket.products.product_copy import fields, policies, writing
from nightmarket.products.product_copy.facts import read_sheets
from nightmarket.products.product_copy.sheet import Sheet
from nightmarket.training.passages import sentences

NAME = "writing_pairs"
SIDES = ("train", "validation", "test")
# Of ten groups of near-duplicates one is looked at while tuning, and one judges once.
_TENTHS = {0: "test", 1: "validation"}
MOST_PRODUCTS = 1_200
"""Products whose pairs are frozen at most: more than a training's steps can see."""
TEXTS_A_PRODUCT = 2
OWN_SENTENCES = 2
"""Sentences of the shop's own description that a text takes at most."""
_MASK = [
    "a",
    "an",
    "the",
    "of",
    "for",
    "with",
    "and",
    "or",
    "in",
    "to",
    "set",
    "pack",
    "piece",
    "pieces",
    "count",
    "pcs",
    "black",
    "white",
    "red",
    "blue",
    "green",
    "yellow",
    "pink",
    "purple",
    "grey",
    "gray",
    "brown",
    "orange",
    "silver",
    "gold",
    "small",
    "medium",
    "large",
    "mini",
    "xl",
    "xs",
    "new",
]


@dataclass(frozen=True)
class Pair:
    """What is asked (the prompt's turns) and what a good answer is.

    Attributes:
        product_id: of whom; of a customer's summary a digest of its facts, as nobody's id is learnt from.
        side: one of `SIDES`.
        field: which of `llm.TEXTS` it is.
    """

    product_id: str
    side: str
    messages: tuple[tuple[str, str], ...]
    text: str
    field: str = "description"


def freeze(day: date, found: Sequence[Pair]) -> tuple[lake.Manifest, bool]:
    """Write pairs into the lake as the day's; says whether they are new."""
    rows = [
        {"product_id": p.product_id, "side": p.side, "field": p.field, "text": p.text,
         "messages": json.dumps(p.messages, ensure_ascii=False)}
        for p in found
    ]  # fmt: skip
    schema = pa.schema([(name, pa.string()) for name in ("product_id", "side", "field", "messages", "text")])
    before = lake.manifest(NAME, day)
    lake.write(NAME, day, pa.Table.from_pylist(rows, schema=schema), key=("product_id", "field", "text"))
    manifest = lake.require(NAME, day)
    return manifest, before is None or before.content_hash != manifest.content_hash


def load(day: date) -> list[Pair]:
    """The pairs that `freeze` wrote for a day."""
    return [
        Pair(
            row["product_id"],
            row["side"],
            tuple((role, text) for role, text in json.loads(row["messages"])),
            row["text"],
            row["field"],
        )
        for row in lake.read(NAME, day).to_pylist()
    ]


def made(products: pa.Table, *, seed: int, languages: frozenset[str]) -> list[Pair]:
    """Descriptions of the products that have facts to tell in a language of the writer, at most `MOST_PRODUCTS` of them."""
    found: list[Pair] = []
    seen: set[str] = set()
    packs = guard.shop_packs()
    for row, sheet in sheets(products, languages):
        side, random = side_of(sheet), draws(seed, sheet.product_id)
        pack = policies.pack_of(sheet, packs)
        turns = prompt(sheet, pack)
        for _ in range(TEXTS_A_PRODUCT if side == "train" else 1):
            text = told(sheet, row.get("description"), random, pack)
            # A text that two products share would stand on both sides.
            if text and text not in seen:
                seen.add(text)
                found.append(Pair(sheet.product_id, side, turns, text))
    return found


def prompt(sheet: Sheet, pack: guard.Pack, field: str = fields.DESCRIPTION) -> tuple[tuple[str, str], ...]:
    """The turns in which a night asks for a field of a sheet that is held against its pack, in the shop's voice."""
    return tuple((message.role, message.content) for message in fields.messages(field, sheet, pack))


def draws(seed: int, what: str) -> np.random.Generator:
    """Draws of something's own: what is drawn for it does not depend on what stands beside it."""
    return np.random.default_rng([seed, int(hashlib.sha256(what.encode()).hexdigest()[:8], 16)])


def is_written(locale: str, languages: frozenset[str]) -> bool:
    """Whether a text of a locale is in one of some languages."""
    return locale.split("-")[0].lower() in languages


def sheets(products: pa.Table, languages: frozenset[str]) -> Iterator[tuple[dict[str, Any], Sheet]]:
    """Products with what a night would say of them, in an order that a digest of their ids gives, where they have a name."""
    packs = guard.shop_packs()
    ids = products["product_id"].to_pylist()
    drawn = sorted(range(len(ids)), key=lambda n: hashlib.sha256(str(ids[n]).encode()).digest())
    read = read_sheets(products.take(pa.array(drawn, pa.int64())), lambda _: True)
    held = ((row, policies.hold(sheet, policies.pack_of(sheet, packs))) for row, sheet in read)
    named = ((r, s) for r, s in held if s.name and is_written(s.locale, languages))
    return islice(named, MOST_PRODUCTS)


def told(sheet: Sheet, description: str | None, random: np.random.Generator, pack: guard.Pack) -> str:
    """One description: a lead, the facts in an order and phrasing that `random` draws, sentences of the shop, an end."""
    plan = writing.plan(sheet, [], pack)
    if not plan.body:
        return ""

    def drawn(part: writing.Part) -> str:
        return part.alternatives[int(random.integers(len(part.alternatives)))]

    body = [drawn(part) for part in plan.body]
    body += own_sentences(sheet, description, pack)
    body = [body[n] for n in random.permutation(len(body))]
    parts = [drawn(plan.lead), *body, drawn(plan.end)]
    joint = "" if sheet.locale.startswith("zh") else " "
    return joint.join(dict.fromkeys(part for part in parts if part))


def own_sentences(sheet: Sheet, description: str | None, pack: guard.Pack) -> list[str]:
    """Sentences of the shop's own description that say something, and nothing that facts or policy do not bear."""
    kept = []
    for sentence in sentences(description):
        if not sentence[-1:] or sentence[-1] not in ".!?。！？" or not sentence[:1].isupper():
            continue
        claims = guard.claims(sentence, sheet.evidence, sheet.locale)
        if (
            all(c.verdict == "supported" for c in claims)
            and any(c.attribute and c.attribute not in OWN for c in claims)
            and not policies.breaches("description", sentence, sheet, pack)
        ):
            kept.append(sentence)
    return kept[:OWN_SENTENCES]


def group_of(sheet: Sheet) -> str:
    """What near-duplicates share: the brand and the first words of the name that say what it is.

    Colours, sizes and numbers are not among them.
    """
    words = [
        w for w in re.findall(r"[^\W\d_]+", f"{sheet.brand or ''} {sheet.name}".lower()) if w not in _MASK
    ]
    return " ".join(dict.fromkeys(words[:5])) or sheet.product_id


def side_of(sheet: Sheet) -> str:
    """On which side a product is; a digest of its group decides."""
    return side_of_group(group_of(sheet))


def side_of_group(group: str) -> str:
    """On which side all of a group are."""
    return _TENTHS.get(int(hashlib.sha256(f"side\x1f{group}".encode()).hexdigest()[:8], 16) % 10, "train")


def on(side: str, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of one side, in their order."""
    return [pair for pair in pairs if pair.side == side]


def of(field: str, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of one kind of text, in their order."""
    return [pair for pair in pairs if pair.field == field]


def counts(pairs: Sequence[Pair]) -> Mapping[str, int]:
    """Pairs by side."""
    return {side: len(on(side, pairs)) for side in SIDES}
