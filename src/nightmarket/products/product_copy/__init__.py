"""Shop copy of products, written from their own facts: changed products first, up to a budget a night.

The packaged writer chooses among house phrasings under a grammar made of a product's facts; the guard reads every
sentence; what it finds goes out, and where nothing is left the template stands. Each published sentence has its claims
with their evidence. Not here: cleaning facts (`facts`, `titles`), phrasing (`writing`), the shared steps (`products`).

Rows of a night are those of written products, and of products that left the shelf: their copy is retired. The rest keep
their copy, or wait for the next night.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightmarket import guard, lake, llm, products
from nightmarket.errors import ReplyInvalid
from nightmarket.ledger import Outcome
from nightmarket.products import Made, Product
from nightmarket.products.product_copy import writing
from nightmarket.products.product_copy.facts import read_sheet
from nightmarket.products.product_copy.sheet import Removed, Sheet
from nightmarket.prompts import PROMPT_VERSION, render
from nightmarket.settings import get_settings
from nightmarket.warehouse import digest

log = logging.getLogger(__name__)

CHANNEL = "shop_page"
# Raise it when code here changes what is written from the same facts, prompt and policy.
RECIPE = "2"
MOST_TOKENS = 400
PROGRESS_EVERY = 10

_COPY = (
    "product_id", "channel", "locale", "title", "description", "bullets", "meta_description", "status", "change_cause",
    "policy_version", "input_hash", "prompt_version", "model_name", "model_version",
)  # fmt: skip
_COPY_NUMBERS = ("version", "free_sentences", "repaired_sentences", "supersedes")
_CLAIM = (
    "product_id", "channel", "locale", "sentence", "claim", "attribute", "value", "evidence", "verdict", "input_hash",
    "prompt_version", "model_name", "model_version",
)  # fmt: skip
_CLAIM_NUMBERS = ("version", "claim_number")
_BEFORE = ("input_hash", "prompt_version", "policy_version", "model_name", "model_version", "title", "status")
RETIRED = "retired"


@dataclass(frozen=True)
class Text:
    """What was written of a sheet, before it becomes rows; `claims` are of what is published, then of what was removed."""

    description: str
    sentences: tuple[str, ...]
    bullets: tuple[str, ...]
    meta_description: str
    claims: tuple[guard.Claim, ...]
    repaired: int
    model_name: str
    model_version: str
    tokens_in: int = 0
    tokens_out: int = 0
    size: int = 0


@dataclass(frozen=True)
class _Due:
    """A product whose copy is to be written: its sheet, why, and what it replaces."""

    sheet: Sheet
    input_hash: str
    before: Mapping[str, Any] | None
    rank: tuple[int, int, str]


def make(day: date, run_id: str) -> Made:
    """Rows of the products whose copy is written tonight; the outcome's note counts those that wait."""
    settings = get_settings()
    catalogue = lake.read("products", day)
    before = {
        (row["product_id"], row["locale"]): row
        for row in products.previous("product_copy", day, _BEFORE).to_pylist()
        if row["channel"] == CHANNEL
    }
    retired = _retired(catalogue, day, before)
    with llm.open_generator() as writer:
        due = _due(catalogue, day, writer, before)
        copies: list[dict[str, Any]] = []
        claims: list[dict[str, Any]] = []
        spent = Counter[str]()
        started = time.monotonic()
        old_claims = _told_before(day) if any(d.before for d in due) else {}
        for entry in due:
            if (
                len(copies) >= settings.copy_products_per_night
                or spent["size"] >= settings.copy_tokens_per_night
            ):
                break
            text = write(entry.sheet, writer)
            spent.update(tokens_in=text.tokens_in, tokens_out=text.tokens_out, size=text.size)
            copy, its_claims = _rows(
                entry, text, old_claims.get((entry.sheet.product_id, entry.sheet.locale), {})
            )
            copies.append(copy)
            claims += its_claims
            if len(copies) % PROGRESS_EVERY == 0:
                log.info("%d of %d texts, %.0f s", len(copies), len(due), time.monotonic() - started)
    waiting = len(due) - len(copies)
    by_writer = sum(copy["model_name"] == writer.name for copy in copies)
    note = (
        f"{by_writer} by {writer.name}, {len(copies) - by_writer} by template"
        if copies
        else "nothing to write"
    )
    if waiting:
        note += f"; {waiting} carried over"
    if retired:
        note += f"; {len(retired)} retired"
    return Made(
        rows={
            "product_copy": _table([*copies, *retired], _COPY, _COPY_NUMBERS),
            "copy_claims": _table(claims, _CLAIM, _CLAIM_NUMBERS),
        },
        outcome=Outcome(
            rows_in=catalogue.num_rows,
            rows_out=len(copies) + len(retired),
            tokens_in=spent["tokens_in"],
            tokens_out=spent["tokens_out"],
            note=note,
        ),
    )


def version(day: date) -> str:
    """A digest of everything beside the facts that decides a night's rows."""
    settings = get_settings()
    budget = f"{settings.copy_products_per_night}/{settings.copy_tokens_per_night}"
    return digest(RECIPE, PROMPT_VERSION, guard.POLICY_VERSION, llm.SMOLLM2.digest, budget)


def write(sheet: Sheet, writer: llm.Generator) -> Text:
    """Write about one product; nothing leaves that the guard does not support."""
    removed = list(sheet.removed)
    made = writing.plan(sheet, removed)
    text, reply, reason = writing.template(made), None, "nothing to choose"
    language = sheet.locale.split("-")[0].lower()
    if language not in writer.languages:
        reason = f"the writer does not write {language}"
    elif made.is_choice:
        request = llm.Request(
            messages=render("product_copy", writing.own_facts(sheet), sheet.locale),
            grammar=writing.grammar(made),
            max_tokens=MOST_TOKENS,
        )
        try:
            reply = writer.generate([request])[0]
            reason = "" if reply.finish_reason == "stop" else "the writer's text was cut"
        except ReplyInvalid as error:
            log.warning("product %s gets the template: %s", sheet.product_id, error)
            reason = "the writer gave no text"
    kept, claims = _judge(guard.sentences(reply.text), sheet, removed) if reply and not reason else ([], [])
    if not kept:
        reason = reason or "the guard emptied the text"
        kept, claims = _judge(guard.sentences(text), sheet, removed)
    bullets, bullet_claims = _judge(writing.bullets(sheet), sheet, removed)
    claims += [claim for claim in bullet_claims if claim.sentence not in kept]
    claims += [
        guard.Claim(
            "", f"{gone.attribute}: {gone.value}", gone.attribute, gone.value, gone.reason, gone.verdict
        )
        for gone in dict.fromkeys(removed)
    ]
    joint = "" if language == "zh" else " "
    meta = writing.meta_description(kept, sheet.locale)
    if guard.banned(meta, sheet.locale, names=sheet.names):
        meta = ""  # cut through a name that was whole in its sentence
    return Text(
        description=joint.join(kept),
        sentences=tuple(kept),
        bullets=tuple(bullets),
        meta_description=meta,
        claims=tuple(claims),
        repaired=len(kept),
        model_name=f"template ({reason})" if reason else writer.name,
        model_version=PROMPT_VERSION if reason else writer.version,
        tokens_in=reply.tokens_in if reply else 0,
        tokens_out=reply.tokens_out if reply else 0,
        size=reply.size if reply else 0,
    )


def _judge(told: Iterable[str], sheet: Sheet, removed: list[Removed]) -> tuple[list[str], list[guard.Claim]]:
    """The sentences that may go out with their claims; of the others, what was wrong goes into `removed`."""
    kept: list[str] = []
    claims: list[guard.Claim] = []
    for sentence in told:
        found = guard.claims(sentence, sheet.evidence, sheet.locale)
        wrong = [claim for claim in found if claim.verdict != "supported"]
        if sentence in kept:
            continue
        if wrong:
            removed += [Removed("sentence", c.claim, f"in: {sentence}"[:200], c.verdict) for c in wrong]
        elif said := guard.banned(sentence, sheet.locale, names=sheet.names):
            removed += [
                Removed("sentence", f"{f.kind}: {f.text}", f"in: {sentence}"[:200], "banned") for f in said
            ]
        else:
            kept.append(sentence)
            claims += found
    return kept, claims


def _retired(
    catalogue: pa.Table, day: date, before: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows that take the copy of products down that are not for sale any more; the text stays for the record."""
    statuses = _column(catalogue, "status") or [None] * catalogue.num_rows
    states = dict(zip(_column(catalogue, "product_id"), statuses, strict=True))
    shelf = {product for product, state in states.items() if _is_for_sale(state)}
    gone = {key for key, old in before.items() if key[0] not in shelf and old["status"] != RETIRED}
    if not gone:
        return []
    old_rows = products.previous("product_copy", day, (*_COPY, *_COPY_NUMBERS)).to_pylist()
    return [
        row
        | {
            "status": RETIRED,
            # No sheet has this digest, so a product that comes back is written anew.
            "input_hash": digest(RETIRED),
            "change_cause": f"the product is {states.get(row['product_id']) or 'not in the catalogue'}",
            "version": row["version"] + 1,
            "supersedes": row["version"],
        }
        for row in old_rows
        if row["channel"] == CHANNEL and (row["product_id"], row["locale"]) in gone
    ]


def _is_for_sale(status: str | None) -> bool:
    """A shop that says nothing of a product sells it."""
    return (status or "active") == "active"


def _due(
    catalogue: pa.Table, day: date, writer: llm.Generator, before: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[_Due]:
    """Products whose copy is missing or stale, in the order of the queue: stale, then new by purchases, then by id."""
    bought = _bought(day) if len(before) < catalogue.num_rows else {}
    due = []
    tops = {str(path or "").split(">")[0].strip().lower() for path in _column(catalogue, "category")}
    wanted = [
        c
        for c in ("product_id", "title", "brand", "category", "attributes", "status", "locale", "description")
        if c in catalogue.column_names
    ]
    for product in catalogue.select(wanted).to_pylist():
        if not _is_for_sale(product.get("status")):
            continue
        sheet = read_sheet(product, not_brands=tops)
        hashed = input_hash(sheet, writer.version)
        old = before.get((sheet.product_id, sheet.locale))
        if old is not None and old["input_hash"] == hashed:
            continue
        rank = (0 if old else 1, -bought.get(sheet.product_id, 0), sheet.product_id)
        due.append(_Due(sheet, hashed, old, rank))
    return sorted(due, key=lambda entry: entry.rank)


def _column(catalogue: pa.Table, name: str) -> list[Any]:
    values: list[Any] = catalogue[name].to_pylist() if name in catalogue.column_names else []
    return values


def input_hash(sheet: Sheet, model_version: str) -> str:
    """A digest of all that decides a product's copy. Facts that are never told (stock codes, price, description) do not enter."""
    facts = [(fact.attribute, fact.value) for fact in sheet.facts]
    removed = [
        (gone.attribute, gone.value, gone.verdict)
        for gone in sheet.removed
        if gone.attribute != "description"
    ]
    told = [sheet.title, sheet.name, sheet.details, sheet.brand, sheet.category, facts, removed]
    return digest(
        json.dumps(told, ensure_ascii=False),
        sheet.locale,
        PROMPT_VERSION,
        guard.POLICY_VERSION,
        model_version,
        RECIPE,
    )


def _bought(day: date) -> dict[str, int]:
    """Purchases of each product so far."""
    counted = pc.value_counts(lake.read("purchases", day, ["product_id"])["product_id"])
    return {row["values"]: row["counts"] for row in counted.to_pylist()}


def _told_before(day: date) -> dict[tuple[str, str], dict[str, str]]:
    """What the live copy says of each attribute, by product and locale."""
    told: dict[tuple[str, str], dict[str, str]] = {}
    columns = ("attribute", "value", "verdict")
    for row in products.previous("copy_claims", day, columns).to_pylist():
        if row["attribute"] and row["verdict"] == "supported" and row["channel"] == CHANNEL:
            told.setdefault((row["product_id"], row["locale"]), {})[row["attribute"]] = row["value"]
    return told


def _cause(entry: _Due, text: Text, told: Mapping[str, str]) -> str:
    """Why the copy was written, with the names of what changed."""
    old = entry.before
    if old is None:
        return "new product"
    if old["status"] == RETIRED:
        return "for sale again"
    causes = []
    now = {
        claim.attribute: claim.value
        for claim in text.claims
        if claim.attribute and claim.verdict == "supported"
    }
    changed = [a for a in sorted({*told, *now}) if told.get(a) != now.get(a) and a not in ("title", "name")]
    names = [a if a in ("brand", "category") else f"attributes.{a}" for a in changed]
    if old["title"] != entry.sheet.title:
        names.insert(0, "title")
    if old["policy_version"] != guard.POLICY_VERSION:
        causes.append("policy changed")
    if old["prompt_version"] != PROMPT_VERSION:
        causes.append("prompt changed")
    if old["model_name"] != text.model_name and not causes:
        causes.append(f"model changed: {old['model_name']} to {text.model_name}")
    elif old["model_version"] != text.model_version and not causes:
        causes.append("model changed")
    if not causes or "title" in names:
        # After another prompt other facts may be told, so only a title is proof that facts changed too.
        causes.insert(0, f"facts changed: {', '.join(names)}" if names else "facts changed")
    return "; ".join(causes)


def _rows(entry: _Due, text: Text, told: Mapping[str, str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    sheet = entry.sheet
    number = (entry.before["version"] + 1) if entry.before else 1
    shared = {
        "product_id": sheet.product_id,
        "channel": CHANNEL,
        "locale": sheet.locale,
        "version": number,
        "input_hash": entry.input_hash,
        "prompt_version": PROMPT_VERSION,
        "model_name": text.model_name,
        "model_version": text.model_version,
    }
    copy = shared | {
        "title": sheet.title or None,
        "description": text.description or None,
        "bullets": json.dumps(list(text.bullets), ensure_ascii=False),
        "meta_description": text.meta_description or None,
        # A product of which nothing may be said has no copy to show: a person has to look at its title.
        "status": "published" if sheet.title and text.description else "blocked",
        "change_cause": _cause(entry, text, told),
        "policy_version": guard.POLICY_VERSION,
        "free_sentences": 0,
        "repaired_sentences": text.repaired,
        "supersedes": number - 1 if entry.before else None,
    }
    claims = [
        shared
        | {
            "claim_number": index,
            "sentence": claim.sentence or None,
            "claim": claim.claim,
            "attribute": claim.attribute,
            "value": claim.value,
            "evidence": claim.evidence,
            "verdict": claim.verdict,
        }
        for index, claim in enumerate(text.claims, start=1)
    ]
    return copy, claims


def _table(rows: Sequence[Mapping[str, Any]], texts: Sequence[str], numbers: Sequence[str]) -> pa.Table:
    schema = pa.schema([(name, pa.string()) for name in texts] + [(name, pa.int64()) for name in numbers])
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


PRODUCT = Product(
    name="product_copy",
    tables=("product_copy", "copy_claims"),
    reads=("products", "purchases"),
    version=version,
    make=make,
)
