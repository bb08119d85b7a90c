"""The queue of a night: which texts are missing or stale, why, and in which order they are written.

A text is stale when what it was made from changed (`input_hash`). Not here: writing them, and budgets (`product_copy`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightmarket import guard, lake, llm, products
from nightmarket.products.product_copy import fields, policies
from nightmarket.products.product_copy.facts import read_sheets
from nightmarket.products.product_copy.policies import SHOP_PAGE
from nightmarket.products.product_copy.reviews import BLOCKED, RETIRED, SHOWN, Key, key_of
from nightmarket.products.product_copy.sheet import Sheet
from nightmarket.products.product_copy.text import CHANNEL_FIELDS, is_of_name
from nightmarket.warehouse import digest

# Raise it when code here changes what is written from the same facts, prompt and policy.
RECIPE = "5"
# A digest that no sheet has: what carries it is due again.
TAKEN_DOWN = digest("taken down")
Before = Mapping[Key, Mapping[str, Any]]


@dataclass(frozen=True)
class Page:
    """A text of a product that is to be written: for which channel, by which policy, and what it replaces."""

    channel: str
    input_hash: str
    policy_version: str
    prompt_version: str
    before: Mapping[str, Any] | None
    breach: str = ""  # what the live text says against the policy of today

    @property
    def is_live(self) -> bool:
        return self.before is not None and self.before["status"] not in (RETIRED, BLOCKED)


@dataclass(frozen=True)
class Due:
    """A product of which at least one text is to be written."""

    sheet: Sheet
    pages: tuple[Page, ...]
    rank: tuple[int, int, str]

    def key(self, page: Page) -> Key:
        return self.sheet.product_id, page.channel, self.sheet.locale


def due_texts(
    catalogue: pa.Table, day: date, writer: llm.Generator, before: Before, packs: guard.Packs
) -> list[Due]:
    """Products whose copy is missing or stale, in the order of the queue.

    First live copy that says what its pack of today forbids, with what was taken down for it; then live copy that is only too
    long for it, then other stale copy, then new products by purchases, then by id.
    """
    wanted_on, who = policies.channels(packs), writer.version
    way = digest(RECIPE, *fields.wanted(writer))
    bought = _bought(day) if len(before) < catalogue.num_rows * len(wanted_on) else {}
    due: list[Due] = []
    for product, sheet in read_sheets(catalogue, lambda row: is_for_sale(row.get("status"))):
        pages = tuple(_pages(sheet, who, way, before, packs, wanted_on))
        if pages:
            place = min(_place(page) for page in pages)
            due.append(Due(sheet, pages, (place, -bought.get(product["product_id"], 0), sheet.product_id)))
    return sorted(_rescanned(due, day, packs), key=lambda entry: entry.rank)


def _pages(
    sheet: Sheet, who: str, way: str, before: Before, packs: guard.Packs, channels: Sequence[str]
) -> Iterator[Page]:
    """The texts of a product that are missing or stale."""
    pack = policies.pack_of(sheet, packs)
    prompt = policies.prompt_version(pack, way)
    of_page = input_hash(sheet, who, prompt, pack)
    for channel in channels:
        version = policies.version_of(policies.pack_of(sheet, packs, channel))
        hashed = of_page if channel == SHOP_PAGE else digest(of_page, channel, version)
        old = before.get((sheet.product_id, channel, sheet.locale))
        if old is None or old["input_hash"] != hashed:
            yield Page(channel, hashed, version, prompt, old)


def _place(page: Page) -> int:
    """Which part of the queue a text stands in, breaches apart."""
    return 3 if page.before is None else 0 if page.before["input_hash"] == TAKEN_DOWN else 2


def _rescanned(due: Sequence[Due], day: date, packs: guard.Packs) -> list[Due]:
    """The queue with the breaches of live texts. Every pack that changed has made its products due."""
    live = {entry.key(page): entry.sheet for entry in due for page in entry.pages if page.is_live}
    if not live:
        return list(due)
    columns = ("title", "description", "bullets", "meta_description", "status")
    rows = []
    for row in products.previous("product_copy", day, columns).to_pylist():
        if (sheet := live.get(key_of(row))) is None or row["status"] not in SHOWN:
            continue
        title, body = CHANNEL_FIELDS[row["channel"]]
        told = {title: row["title"], body: row["description"]}
        rows.append(
            row | told | {"certificates": sheet.certificates, "names": sheet.names, "facts": sheet.own}
        )
    found: dict[Key, list[guard.Breach]] = {}
    for (product, channel, locale), breaches in guard.rescan(
        rows, lambda row: policies.pack_of(live[key_of(row)], packs, row["channel"])
    ):
        if mine := [breach for breach in breaches if not is_of_name(breach, channel)]:
            found[product, channel, locale] = mine
    return [_ranked(entry, found) if found else entry for entry in due]


def _ranked(entry: Due, found: Mapping[Key, Sequence[guard.Breach]]) -> Due:
    """A product at the place in the queue that the breaches of its live texts give it."""
    place, pages = entry.rank[0], []
    for page in entry.pages:
        breaches = found.get(entry.key(page), ())
        # A text that is too long is no wrong word: it is rewritten early, and stays until then.
        said = [breach for breach in breaches if breach.kind not in ("length", "count")]
        place = min(place, 0 if said else 1 if breaches else place)
        pages.append(replace(page, breach=policies.said(said[0])) if said else page)
    return replace(entry, pages=tuple(pages), rank=(place, *entry.rank[1:]))


def is_for_sale(status: str | None) -> bool:
    """A shop that says nothing of a product sells it."""
    return (status or "active") == "active"


def input_hash(sheet: Sheet, who: str, prompt_version: str, pack: guard.Pack) -> str:
    """A digest of all that decides a product's copy; `who` is the writer's version.

    Facts that are never told (stock codes, price, description) do not enter.
    """
    facts = [(fact.attribute, fact.value) for fact in sheet.facts]
    removed = [
        (gone.attribute, gone.value, gone.verdict)
        for gone in sheet.removed
        if gone.attribute != "description"
    ]
    told = [
        sheet.title,
        sheet.name,
        sheet.details,
        sheet.brand,
        sheet.category,
        facts,
        removed,
        sorted(sheet.certificates),
    ]
    return digest(
        json.dumps(told, ensure_ascii=False),
        sheet.locale,
        prompt_version,
        policies.version_of(pack),
        who,
    )


def _bought(day: date) -> dict[str, int]:
    """Purchases of each product so far."""
    counted = pc.value_counts(lake.read("purchases", day, ["product_id"])["product_id"])
    return {row["values"]: row["counts"] for row in counted.to_pylist()}
