"""Shop copy of products, written from their own facts: what breaks a policy first, then changed products, up to a budget a
night.

A writer chooses among house phrasings under a grammar made of a product's facts, or writes freely where it may; the guard
reads every sentence against the facts and the shop's policy packs; what it finds goes out, and where nothing is left the
template stands. Each published sentence has its claims with their evidence. Not here: cleaning facts (`facts`, `titles`),
phrasing (`writing`), asking (`asking`, `freely`, `fields`), what a text may be (`text`, `policies`), texts that read alike
(`twins`), what people decided (`reviews`, `desk`), which texts are due (`due`) and why (`causes`), the shared
steps (`products`).

What a policy pack calls high risk waits for a person (`pending`); what readers saw before stands beside it, as it was. So a
night may publish two rows of a text, of which one is shown.

Rows of a night are those of written products, of products that left the shelf (their copy is retired), of live copy that
a changed policy forbids and the budget did not reach (it is taken down), and of what people decided. The rest keep their
copy, or wait for the next night.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa

from nightmarket import guard, lake, llm, products
from nightmarket.ledger import Outcome
from nightmarket.products import Made, Product
from nightmarket.products.product_copy import causes, fields, policies, reviews, twins
from nightmarket.products.product_copy.asking import MOST_TOKENS, by_template, write, write_many
from nightmarket.products.product_copy.due import (
    RECIPE,
    TAKEN_DOWN,
    Before,
    Due,
    Page,
    due_texts,
    is_for_sale,
)
from nightmarket.products.product_copy.facts import read_sheet, read_sheets
from nightmarket.products.product_copy.policies import SHOP_PAGE
from nightmarket.products.product_copy.reviews import BLOCKED, PENDING, PUBLISHED, RETIRED, Key, key_of
from nightmarket.products.product_copy.sheet import Sheet
from nightmarket.products.product_copy.text import Text, retold
from nightmarket.prompts import PROMPT_VERSION
from nightmarket.settings import get_settings
from nightmarket.warehouse import digest

__all__ = ["PRODUCT", "Text", "by_template", "make", "read_sheet", "write", "write_many"]

log = logging.getLogger(__name__)

CHUNK = 16
PROGRESS_EVERY = 10

_COPY = (
    "product_id", "channel", "locale", "title", "description", "bullets", "meta_description", "status", "change_cause",
    "policy_version", "reviewer", "input_hash", "prompt_version", "model_name", "model_version", "ai_label",
)  # fmt: skip
_COPY_NUMBERS = ("version", "free_sentences", "repaired_sentences", "supersedes")
_COPY_FLAGS = ("is_ai_written", "ai_metadata")
_CLAIM = (
    "product_id", "channel", "locale", "sentence", "claim", "attribute", "value", "evidence", "verdict", "origin",
    "input_hash", "prompt_version", "model_name", "model_version",
)  # fmt: skip
_CLAIM_NUMBERS = ("version", "claim_number")
_BEFORE = (
    "input_hash", "prompt_version", "policy_version", "model_name", "model_version", "title", "description", "status", "day",
    "is_ai_written", "ai_label", "ai_metadata",
)  # fmt: skip
# A digest that no sheet has: what comes back is due again.
_GONE = digest(RETIRED)


@dataclass(frozen=True)
class _Written:
    """What was written of a product; `provisional`: a template until the writer is there again."""

    due: Due
    pages: tuple[Page, ...]
    text: Text
    provisional: bool


@dataclass
class _Night:
    """What a night has written so far, and what keeps its copy because the writer was not there."""

    written: list[_Written]
    kept: list[Due]
    spent: Counter[str]
    cost: Decimal = Decimal(0)


def make(day: date, run_id: str) -> Made:
    """Rows of the products whose copy is written tonight; the outcome's note counts those that wait."""
    catalogue = lake.read("products", day)
    packs = guard.shop_packs()
    before, shown = reviews.latest(products.previous("product_copy", day, _BEFORE).to_pylist())
    retired = _retired(catalogue, day, before, packs)
    with llm.open_generator(day) as writer:
        due = due_texts(catalogue, day, writer, before, packs)
        decided = reviews.decide(
            before, shown, day, catalogue, packs,
            stale={e.key(page) for e in due for page in e.pages},
            breached={e.key(page) for e in due for page in e.pages if page.breach},
            gone={key_of(row) for row in retired},
        )  # fmt: skip
        due = _without(due, decided.keys)
        night = _written(due, writer, packs)
    old_claims = causes.told_before(day) if any(p.before for w in night.written for p in w.pages) else {}
    copies: list[dict[str, Any]] = []
    claims: list[dict[str, Any]] = []
    live = _live_texts(night.written, shown, packs, day)
    beside: list[dict[str, Any]] = []
    carried: dict[tuple[Key, int], int] = {}
    shelf, alike = twins.Shelf.of(_standing(catalogue, shown, night.written)), Counter[str]()
    for written in night.written:
        text, had_twin, has_twin = written.text, False, False
        if not text.blocked:
            text, had_twin, has_twin = twins.place(text, shelf)
        alike.update(reordered=int(had_twin and not has_twin), alike=int(has_twin))
        for page in written.pages:
            told = old_claims.get(written.due.key(page), {})
            old = live.get(written.due.key(page))
            made_on = _on(page.channel, text, written.due.sheet, packs)
            made = _rows(written, page, made_on, told, old)
            copies.append(made[0])
            claims += made[1]
            if old is not None and made[0]["status"] == PENDING:
                beside.append(_beside(old, page, made_on.pack))
                if not page.breach:
                    carried[key_of(old), old["version"]] = old["version"]
    reached = {w.due.key(page) for w in night.written for page in w.pages}
    kept = {entry.key(page) for entry in night.kept for page in entry.pages}
    down = {
        e.key(page): page
        for e in due
        for page in e.pages
        if page.breach and e.key(page) not in reached | kept
    }
    taken = _taken_down(down, day)
    others = reached | down.keys() | decided.keys | {key_of(row) for row in retired}
    marked = _marked_anew(due, before, shown, others, catalogue, packs, day)
    carried |= {(key_of(row), row["supersedes"]): row["version"] for row in marked}
    claims += reviews.claims_again(carried, [*beside, *marked], day)
    rows = [*copies, *beside, *retired, *taken, *marked, *decided.rows]
    return Made(
        rows={
            "product_copy": _table(rows, _COPY, _COPY_NUMBERS, ("reviewed_at",), _COPY_FLAGS),
            "copy_claims": _table([*claims, *decided.claims], _CLAIM, _CLAIM_NUMBERS),
        },
        outcome=Outcome(
            rows_in=catalogue.num_rows,
            rows_out=len(rows),
            tokens_in=night.spent["tokens_in"],
            tokens_out=night.spent["tokens_out"],
            cost=float(writer.spent.cost),
            note=_note(copies, writer, {
                "kept, the writer was unavailable": len(night.kept),
                "carried over": len(due) - len(night.written) - len(night.kept),
                "wait for a person": sum(copy["status"] == PENDING for copy in copies),
                **decided.counts,
                "retired": len(retired),
                "taken down": len(taken),
                "got another AI label": len(marked),
                "told another way, not to read like another product's": alike["reordered"],
                "read like another product's": alike["alike"],
            }),
        ),
    )  # fmt: skip


def version(day: date) -> str:
    """A digest of everything beside the facts that decides a night's rows.

    What people decided is not in it, so that nobody's word ends a night that is at work: it counts in the first night whose
    rows are made after it.
    """
    settings = get_settings()
    budget = (
        f"{settings.copy_products_per_night}/{settings.copy_tokens_per_night}/{settings.copy_review_days}"
    )
    with llm.open_generator(day) as writer:
        who, prices = (writer.version, *fields.wanted(writer)), writer.spent.prices
    if settings.copy_cost_per_night is not None and not prices.are_none:
        budget += f"/{settings.copy_cost_per_night}/{prices.price_in}/{prices.price_out}"
    rules = policies.rules_digest(guard.shop_packs())
    return digest(RECIPE, PROMPT_VERSION, guard.POLICY_VERSION, rules, *who, budget)


def _written(due: Sequence[Due], writer: llm.Generator, packs: guard.Packs) -> _Night:
    """Write from the front of the queue up to the budget of products, of tokens or of money.

    Products are asked about side by side, but each counts as if it had been asked alone: which are written does not depend
    on how many are asked at once. What was asked beyond the budget is in the store of replies for the next night, and costs
    nothing there. A try after a crash counts what the night has paid for already, so that it ends at the same product.
    """
    settings = get_settings()
    prices = writer.spent.prices
    money = None if prices.are_none else settings.copy_cost_per_night
    night = _Night([], [], Counter())
    started = time.monotonic()
    most, queue, largest, dearest = settings.copy_products_per_night, list(due), 0, Decimal(0)
    page = MOST_TOKENS + sum(fields.MOST_TOKENS.get(name, 0) for name in fields.wanted(writer))
    is_over = False
    while queue and not is_over:
        left = settings.copy_tokens_per_night - night.spent["size"]
        room = most - len(night.written) - len(night.kept)
        if room <= 0 or left <= 0 or (money is not None and night.cost >= money):
            break
        at_once = min(CHUNK, room, max(1, left // (largest or page)))
        if money is not None:
            one = dearest or prices.cost(page, page)
            at_once = min(at_once, max(1, int((money - night.cost) / one)))
        chunk = queue[:at_once]
        for entry, text in zip(chunk, write_many([e.sheet for e in chunk], writer, packs), strict=True):
            if isinstance(text, Text):
                night.spent.update(tokens_in=text.tokens_in, tokens_out=text.tokens_out)
            # What the money did not reach stays in the queue, as what the tokens did not.
            is_over |= isinstance(text, llm.Failure) and text.kind == "cost"
            is_over |= night.spent["size"] >= settings.copy_tokens_per_night
            is_over |= money is not None and night.cost >= money
            if is_over:
                continue
            queue.pop(0)
            if isinstance(text, Text):
                night.spent["size"] += text.size
                cost = prices.cost(*text.tonight)
                night.cost += cost
                largest, dearest = max(largest, text.size), max(dearest, cost)
                night.written.append(_Written(entry, entry.pages, text, provisional=False))
            else:
                log.warning("product %s: %s", entry.sheet.product_id, text.reason)
                _stand_in(entry, night, packs)
            if len(night.written) % PROGRESS_EVERY == 0:
                log.info(
                    "%d of %d products, %.0f s", len(night.written), len(due), time.monotonic() - started
                )
    return night


def _stand_in(entry: Due, night: _Night, packs: guard.Packs) -> None:
    """Without a writer, copy that may stand stays; what is missing or must not stay is written by template for now."""
    needed = tuple(page for page in entry.pages if not page.is_live or page.breach)
    if needed:
        night.written.append(_Written(entry, needed, by_template(entry.sheet, packs), provisional=True))
    else:
        night.kept.append(entry)


def _without(due: Sequence[Due], decided: Collection[Key]) -> list[Due]:
    """The queue without texts that somebody decided about: what is due of them is written in the next night."""
    left = [replace(e, pages=tuple(p for p in e.pages if e.key(p) not in decided)) for e in due]
    return [entry for entry in left if entry.pages]


def _live_texts(
    written: Sequence[_Written], shown: Before, packs: guard.Packs, day: date
) -> dict[Key, dict[str, Any]]:
    """What readers see of the texts that were written tonight and may have to wait, whole."""
    keys = {
        w.due.key(page)
        for w in written
        for page in w.pages
        if w.due.key(page) in shown and policies.pack_of(w.due.sheet, packs, page.channel).risk == "high"
    }
    return {key: rows[shown[key]["version"]] for key, rows in reviews.history(keys, day).items()}


def _standing(catalogue: pa.Table, shown: Before, written: Sequence[_Written]) -> Iterator[tuple[Sheet, str]]:
    """What readers see on the shop pages of products that nothing is written about tonight, with their sheets."""
    anew = {w.due.sheet.product_id for w in written}
    if not anew:
        return
    ids = {product for product, channel, _ in shown if channel == SHOP_PAGE} - anew
    for _, sheet in read_sheets(catalogue, lambda row: row["product_id"] in ids):
        row = shown.get((sheet.product_id, SHOP_PAGE, sheet.locale))
        if row is not None and row["description"]:
            yield sheet, row["description"]


def _beside(live: Mapping[str, Any], page: Page, pack: guard.Pack) -> dict[str, Any]:
    """The row of what readers see while a new text waits: as it was, or taken down where it must not be said any more."""
    if not page.breach:
        return dict(live) | policies.mark(live, pack)
    assert page.before is not None
    last = dict(live) | {"version": page.before["version"]}
    return _hidden(last, BLOCKED, TAKEN_DOWN, f"must not stay until the new text is approved: {page.breach}")


def _on(channel: str, text: Text, sheet: Sheet, packs: guard.Packs) -> Text:
    """The text of a shop page as a channel shows it."""
    return text if channel == SHOP_PAGE else retold(text, sheet, policies.pack_of(sheet, packs, channel))


def _note(copies: Sequence[Mapping[str, Any]], writer: llm.Generator, counts: Mapping[str, int]) -> str:
    by_writer = sum(copy["model_name"] == writer.name for copy in copies)
    written = f"{by_writer} by {writer.name}, {len(copies) - by_writer} by template"
    spent = writer.spent
    money = [] if spent.prices.are_none else [spent.prices.told(spent.cost)]
    return "; ".join(
        [
            written if copies else "nothing to write",
            *(f"{n} {what}" for what, n in counts.items() if n),
            *money,
        ]
    )


def _retired(catalogue: pa.Table, day: date, before: Before, packs: guard.Packs) -> list[dict[str, Any]]:
    """Rows that take down the copy of products that are not for sale any more, and of channels that are not written any
    more; the text stays for the record."""
    statuses = _column(catalogue, "status") or [None] * catalogue.num_rows
    states = dict(zip(_column(catalogue, "product_id"), statuses, strict=True))
    shelf = {product for product, state in states.items() if is_for_sale(state)}
    wanted = policies.channels(packs)
    causes = {
        key: f"the product is {states.get(key[0]) or 'not in the catalogue'}"
        if key[0] not in shelf
        else f"no pack of the shop speaks of {key[1]} any more"
        for key, old in before.items()
        if (key[0] not in shelf or key[1] not in wanted) and old["status"] != RETIRED
    }
    return [_hidden(row, RETIRED, _GONE, causes[key_of(row)]) for row in _old_rows(causes.keys(), day)]


def _taken_down(pages: Mapping[Key, Page], day: date) -> list[dict[str, Any]]:
    """Rows that take live copy down which says what the policy of today forbids; its product comes first in the next night."""
    rows = []
    for row in _old_rows(pages.keys(), day):
        page = pages[key_of(row)]
        # Another prompt makes no word wrong.
        what = " and ".join(w for w in causes.changed(row, page) if w != "prompt") or "facts"
        rows.append(_hidden(row, BLOCKED, TAKEN_DOWN, f"{what} changed: {page.breach}"))
    return rows


def _marked_anew(
    due: Sequence[Due], before: Before, shown: Before, others: Collection[Key], catalogue: pa.Table, packs: guard.Packs,
    day: date,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows that mark live copy as its pack of today says, where the night did not write it: a mark does not wait for the
    budget. A text of which another version waits for a person is marked with what becomes of that."""
    live = {key: row for key, row in shown.items() if key not in others and before[key] is row}
    # Any other pack makes its texts due. Rows of before there were labels have none, due or not.
    sheets = {entry.key(page): entry.sheet for entry in due for page in entry.pages}
    bare = {key for key, row in live.items() if row["is_ai_written"] is None and key not in sheets}
    known = reviews.sheets_of(catalogue, {key[0] for key in bare}) if bare else {}
    sheets |= {key: known[key[0]] for key in bare if key[0] in known}
    marks: dict[Key, dict[str, Any]] = {}
    for key in sorted(live.keys() & sheets.keys()):
        row, pack = live[key], policies.pack_of(sheets[key], packs, key[1])
        if (mark := policies.mark(row, pack)).items() - dict(row).items():
            marks[key] = mark
    rows = []
    for key, versions in reviews.history(marks.keys(), day).items():
        last = live[key]["version"]
        cause = "AI label added" if live[key]["is_ai_written"] is None else "AI label changed"
        again = {"version": last + 1, "supersedes": last, "change_cause": cause}
        rows.append(versions[last] | marks[key] | again)
    return rows


def _old_rows(keys: Collection[Key], day: date) -> list[dict[str, Any]]:
    """The latest rows of texts, whole: what readers see rather than what waits, under the number of the last."""
    if not keys:
        return []
    found: dict[Key, dict[str, Any]] = {}
    for row in products.previous("product_copy", day, (*_COPY, *_COPY_NUMBERS, *_COPY_FLAGS)).to_pylist():
        if (key := key_of(row)) in keys:
            waits = row["status"] == PENDING and key in found
            found[key] = found[key] | {"version": row["version"]} if waits else row
    return list(found.values())


def _hidden(row: Mapping[str, Any], status: str, input_hash: str, cause: str) -> dict[str, Any]:
    """A row that shows the same text no more."""
    return dict(row) | {
        "status": status,
        "input_hash": input_hash,
        "change_cause": cause,
        "version": row["version"] + 1,
        "supersedes": row["version"],
        "reviewer": None,
    }


def _column(catalogue: pa.Table, name: str) -> list[Any]:
    values: list[Any] = catalogue[name].to_pylist() if name in catalogue.column_names else []
    return values


def _rows(
    written: _Written, page: Page, text: Text, told: Mapping[str, str], live: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of a text and its claims; `live`: what readers see of a text of high risk."""
    sheet = written.due.sheet
    number = (page.before["version"] + 1) if page.before else 1
    cause = causes.cause(page, text, told)
    telling = {
        "title": text.title or None,
        "description": text.description or None,
        "bullets": json.dumps(list(text.bullets), ensure_ascii=False),
        "meta_description": text.meta_description or None,
    }
    # A product of which nothing may be said has no copy to show: a person has to look at it.
    status = BLOCKED if text.blocked else PUBLISHED
    if status == PUBLISHED and text.pack.risk == "high":
        status = PUBLISHED if live and reviews.same_text(live, telling) else PENDING
    if status == PENDING and live and page.breach:
        number += 1  # the row that takes the live text down comes before
    shared = {
        "product_id": sheet.product_id,
        "channel": page.channel,
        "locale": sheet.locale,
        "version": number,
        # What stands in for a writer that was not there is due again.
        "input_hash": digest(page.input_hash, "provisional") if written.provisional else page.input_hash,
        "prompt_version": page.prompt_version,
        "model_name": text.model_name,
        "model_version": text.model_version,
    }
    copy = shared | telling | {
        "status": status,
        "change_cause": f"{cause}; blocked: {text.blocked}" if text.blocked else cause,
        "policy_version": page.policy_version,
        "free_sentences": text.free,
        "repaired_sentences": text.repaired,
        "supersedes": number - 1 if page.before else None,
    } | policies.label(text.is_ai_written, text.pack)  # fmt: skip
    return copy, reviews.claim_rows(text, shared)


def _table(
    rows: Sequence[Mapping[str, Any]], texts: Sequence[str], numbers: Sequence[str], times: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> pa.Table:  # fmt: skip
    kinds = (
        (texts, pa.string()), (numbers, pa.int64()), (times, pa.timestamp("us")), (flags, pa.bool_()),
    )  # fmt: skip
    schema = pa.schema([(name, kind) for names, kind in kinds for name in names])
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


PRODUCT = Product(
    name="product_copy",
    tables=("product_copy", "copy_claims"),
    reads=("products", "purchases"),
    version=version,
    make=make,
)
