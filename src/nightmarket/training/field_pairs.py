"""Pairs of the fields of a shop page beside its description: facts and a title, lines, or a meta description.

A text is pieces of the shop's own title, or house phrasings, drawn anew for each product; it is kept where the night that
reads a writer's reply (`products.product_copy.fields`) would publish it whole. A product is on the side of its description.
Not here: descriptions and how many pairs of each there are (pairs, curriculum), summaries (summary_pairs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from nightmarket import guard, llm
from nightmarket.products.product_copy import fields, policies, writing
from nightmarket.products.product_copy.sheet import Sheet
from nightmarket.products.product_copy.text import joined
from nightmarket.training import pairs
from nightmarket.training.pairs import Pair

TRIES = 6
"""Texts drawn for a product and a field until one may be published; a title with an odd piece is helped by another draw."""


def made(
    products: pa.Table, most: Mapping[tuple[str, str], int], *, seed: int, languages: frozenset[str]
) -> Iterator[Pair]:
    """Pairs of each field, of products that have one to tell, in the order in which descriptions are drawn.

    Args:
        most: by field and side how many pairs are wanted; none of what is not named.
    """
    packs, left = guard.shop_packs(), dict(most)
    for _, sheet in pairs.sheets(products, languages):
        if not any(left.values()):
            return
        pack, side = policies.pack_of(sheet, packs), pairs.side_of(sheet)
        # A product with nothing but a name gets its page without a writer.
        wanted = [field for field in fields.BESIDE if left.get((field, side), 0) > 0]
        if not wanted or not writing.plan(sheet, [], pack).body:
            continue
        for field in wanted:
            if text := told(field, sheet, pairs.draws(seed, f"{field}\x1f{sheet.product_id}"), pack):
                left[field, side] -= 1
                yield Pair(sheet.product_id, side, pairs.prompt(sheet, pack, field), text, field)


def told(field: str, sheet: Sheet, random: np.random.Generator, pack: guard.Pack) -> str:
    """A text for a field as a night would take it; empty where there is none to draw, or nothing that may stand."""
    if fields.request(field, sheet, pack) is None:
        return ""
    draw = {"title": _title, "bullets": _bullets, "meta_description": _meta}[field]
    for _ in range(TRIES):
        if (text := draw(sheet, random, pack)) and stands(field, text, sheet, pack):
            return text
    return ""


def stands(field: str, text: str, sheet: Sheet, pack: guard.Pack) -> bool:
    """Whether a night would publish all of a text as a field of a page."""
    kept = fields.read(field, llm.Reply(text, 0, 0, "stop", False, 0), sheet, pack, [])
    whole = (
        "\n".join(f"- {s.text}" for s in kept) if field == "bullets" else joined([s.text for s in kept], pack)
    )
    return bool(kept) and whole == text


def _title(sheet: Sheet, random: np.random.Generator, pack: guard.Pack) -> str:
    """The name behind its brand, then other pieces of the shop's own title and up to two values, in an order that is drawn."""
    name, brand = sheet.name, sheet.brand or ""
    head = f"{brand} {name}" if brand and brand.lower() not in name.lower() else name
    # In a title nothing stands beside a value: "red" says what it is, "24 hours" does not.
    facts = [
        f.value for f in writing.worth_telling(sheet.facts) if f.kind and f.kind.plain and len(f.value) <= 24
    ]
    details = list(sheet.details)
    drawn = [facts[n] for n in random.permutation(len(facts))[:2]] if random.random() < 0.7 else []
    rest = list(dict.fromkeys(piece for piece in [*details, *drawn] if piece.lower() not in head.lower()))
    if len(rest) > 1 and random.random() < 0.5:
        rest = [rest[n] for n in random.permutation(len(rest))]
    return ", ".join([head, *rest])


def _bullets(sheet: Sheet, random: np.random.Generator, pack: guard.Pack) -> str:
    """A line of each fact, most often not the plain one, which stands there anyway where a writer writes none."""
    parts = writing.lines(sheet, pack)[: pack.limits.get("bullets")]
    said = [part.alternatives[int(random.integers(max(len(part.alternatives) - 1, 1)))] for part in parts]
    if len(said) > 1 and random.random() < 0.5:
        said = [said[n] for n in random.permutation(len(said))]
    return "\n".join(f"- {line}" for line in said)


def _meta(sheet: Sheet, random: np.random.Generator, pack: guard.Pack) -> str:
    """A lead that names the product, and a sentence of facts that fits behind it."""
    plan = writing.plan(sheet, [], pack)

    def drawn(part: writing.Part) -> str:
        return part.alternatives[int(random.integers(len(part.alternatives)))]

    lead = drawn(plan.lead)
    for n in random.permutation(len(plan.body)):
        whole = joined([lead, drawn(plan.body[n])], pack)
        if len(whole) <= pack.limits.get("meta_description", len(whole)):
            return whole
    return lead
