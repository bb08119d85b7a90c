"""Where people look at copy and decide about it: the review list, and decisions taken down for the next night.

On the list is what waits for a person, and a sample of what was published without one. Decisions stand in
`ops.copy_reviews`; the last one about a version counts. Not here: what a night makes of them (`reviews`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from nightmarket import guard, lake, ledger, warehouse
from nightmarket.contracts import output_columns
from nightmarket.errors import ReviewRefused, WarehouseMissing
from nightmarket.products.product_copy import policies, reviews
from nightmarket.products.product_copy.reviews import PENDING, PUBLISHED, SHOWN, Key, Row
from nightmarket.settings import get_settings
from nightmarket.warehouse import digest


@dataclass(frozen=True)
class Entry:
    """A text on the list.

    Attributes:
        row: the text, as `outputs.product_copy` has it.
        shown: of a text that waits, what readers see until then.
        claims: what its sentences say, with the evidence, and what was removed.
        review: the decision that the next night will apply.
        until: of a text that waits, the night that rejects it when nobody decided.
    """

    row: Row
    shown: Row | None
    claims: tuple[Row, ...]
    review: Row | None
    until: date | None


def listed(status: str | None = None, product: str | None = None) -> list[Entry]:
    """The texts of a status; without one, those that a person should look at: what waits first, then the sample."""
    rows = _current("product_copy", product)
    last, shown = reviews.latest(rows)
    said = reviews.last_words()
    wanted = []
    for row in rows:
        key = reviews.key_of(row)
        waits = row["status"] == PENDING
        if status is not None:
            fits = row["status"] == status
        elif product is not None:
            fits = waits or row["status"] in SHOWN
        else:
            fits = waits or (last[key] is row and in_sample(row) and (key, row["version"]) not in said)
        if fits:
            wanted.append(row)
    wanted.sort(key=lambda row: (row["status"] != PENDING, row["day"], *reviews.key_of(row)))
    claims: dict[tuple[Key, int], list[Row]] = {}
    if wanted:
        for claim in _current("copy_claims", product):
            claims.setdefault((reviews.key_of(claim), claim["version"]), []).append(claim)
    days = timedelta(days=get_settings().copy_review_days)
    return [
        Entry(
            row,
            shown.get(reviews.key_of(row)) if row["status"] == PENDING else None,
            tuple(claims.get((reviews.key_of(row), row["version"]), ())),
            said.get((reviews.key_of(row), row["version"])),
            row["day"] + days if row["status"] == PENDING else None,
        )
        for row in wanted
    ]


def told(entry: Entry) -> list[str]:
    """A text as lines for a person: the text, what is shown instead, what it claims by which fact, why it was written."""
    row = entry.row
    lines = [
        f"{row['product_id']}  {row['channel']}  {row['locale']}  version {row['version']}  {row['status']} since {row['day']}",
        f"  cause     {row['change_cause']}",
        f"  by        {row['model_name']} {row['model_version']}",
        f"  AI label  {label(row)}",
        f"  title     {row['title']}",
        f"  text      {row['description']}",
    ]
    lines += [f"  bullet    {line}" for line in json.loads(row["bullets"] or "[]")]
    lines += [f"  search    {row['meta_description']}"] if row["meta_description"] else []
    if entry.shown is not None:
        lines.append(f"  shown now {entry.shown['description']} (version {entry.shown['version']})")
    for claim in entry.claims:
        what = claim["sentence"] or claim["claim"]
        lines.append(f"  {claim['verdict']:<9} {what} <- {claim['evidence']}")
    if entry.until is not None:
        lines.append(f"  until     the night of {entry.until}, which rejects it where nobody decided")
    if entry.review is not None:
        lines.append(
            f"  decided   {entry.review['decision']} by {entry.review['reviewer']}; the next night applies it"
        )
    return lines


def label(row: Row) -> str:
    """How a text is marked as written by a model, in a few words."""
    if not row["is_ai_written"]:
        return (
            "none: no model had part in it"
            if row["is_ai_written"] is False
            else "not known before the next night"
        )
    return f"{row['ai_label'] or 'no words'}{', and in metadata' if row['ai_metadata'] else ''}"


def in_sample(row: Row) -> bool:
    """Whether a text that was published without a person is one of those that a person should look at."""
    if row["status"] != PUBLISHED or row["reviewer"]:
        return False
    drawn = int(digest("copy review", *reviews.key_of(row), row["version"])[:8], 16) / 2**32
    return drawn < get_settings().copy_review_share


def approve(
    product: str, *, reviewer: str, reason: str = "", channel: str | None = None, locale: str | None = None,
    version: int | None = None,
) -> list[Row]:  # fmt: skip
    """Let the texts of a product stand that wait (or, where none waits, that are shown).

    With `version`, only a text of that number is decided about.

    Raises:
        ReviewRefused: no such text, or it has been superseded.
    """
    return _decide("approve", _asked(product, channel, locale, version), reviewer, reason)


def reject(
    product: str, *, reviewer: str, reason: str, channel: str | None = None, locale: str | None = None,
    version: int | None = None,
) -> list[Row]:  # fmt: skip
    """Refuse the texts of a product that wait (or, where none waits, that are shown); `version` as in `approve`."""
    return _decide("reject", _asked(product, channel, locale, version), reviewer, reason)


def edit(
    product: str, text: str, *, reviewer: str, reason: str = "", channel: str | None = None, locale: str | None = None,
    version: int | None = None,
) -> Row:  # fmt: skip
    """Publish another description instead of the one that waits or is shown; `version` as in `approve`.

    Raises:
        ReviewRefused: the product has several texts, or its facts and its policy do not bear the words.
    """
    rows = _asked(product, channel, locale, version)
    if len(rows) > 1:
        several = ", ".join(f"{row['channel']} {row['locale']}" for row in rows)
        raise ReviewRefused(f"Product {product} has several texts ({several}): say --channel and --locale.")
    sheet = reviews.sheets_of(catalogue(), {product}).get(product)
    if sheet is None:
        raise ReviewRefused(f"Product {product} is not in the catalogue any more: its copy is retired.")
    pack = policies.pack_of(sheet, guard.shop_packs(), rows[0]["channel"])
    made = reviews.edited(text, sheet, pack)
    if isinstance(made, str):
        raise ReviewRefused(f"The facts and the policy of product {product} do not bear this text: {made}.")
    instead_of = rows[0]["description"]
    return _decide("edit", rows, reviewer, reason, text=made.description, instead_of=instead_of)[0]


def rollback(
    *, reviewer: str, reason: str, product: str | None = None, category: str | None = None,
    model_version: str | None = None,
) -> tuple[list[Row], list[Row]]:  # fmt: skip
    """Put the text before back, of all shown texts that fit every selector: those decided about, and those that have none.

    Raises:
        ReviewRefused: no selector, or no shown text fits.
    """
    if product is None and category is None and model_version is None:
        raise ReviewRefused("Say what to roll back: --product, --category or --model-version.")
    rows = [row for row in _current("product_copy", product) if row["status"] in SHOWN]
    if model_version is not None:
        rows = [row for row in rows if row["model_version"] == model_version]
    if category is not None:
        inside = _inside(category)
        rows = [row for row in rows if row["product_id"] in inside]
    if not rows:
        raise ReviewRefused("No text that readers see fits.")
    texts = reviews.history({reviews.key_of(row) for row in rows}, date.max)
    with_earlier: list[Row] = []
    without: list[Row] = []
    for row in rows:
        has_one = reviews.earlier_texts(row, texts[reviews.key_of(row)].values())
        (with_earlier if has_one else without).append(row)
    return _decide("rollback", with_earlier, reviewer, reason), without


def _decide(decision: str, rows: Sequence[Row], reviewer: str, reason: str, **more: object) -> list[Row]:
    names = ("product_id", "channel", "locale", "version")
    common = {"decision": decision, "reviewer": reviewer, "reason": reason.strip() or None, **more}
    ledger.copy_reviews([{name: row[name] for name in names} | common for row in rows])
    return list(rows)


def _asked(product: str, channel: str | None, locale: str | None, version: int | None) -> list[Row]:
    """The texts of a product that a decision speaks of: those that wait, else those that are shown."""
    rows: list[Row] = [
        row
        for row in _current("product_copy", product)
        if (channel is None or row["channel"] == channel) and (locale is None or row["locale"] == locale)
    ]
    if version is not None and rows and not any(row["version"] == version for row in rows):
        now = ", ".join(f"version {row['version']} ({row['status']})" for row in rows)
        raise ReviewRefused(
            f"Version {version} of the text of product {product} was superseded: now there is {now}. See `copy list`."
        )
    rows = [row for row in rows if version is None or row["version"] == version]
    waiting = [row for row in rows if row["status"] == PENDING]
    asked = waiting or [row for row in rows if row["status"] in SHOWN]
    if not asked:
        where = f" on {channel}" if channel else ""
        raise ReviewRefused(f"Product {product} has no text{where} that waits or is shown. See `copy list`.")
    return asked


def _inside(category: str) -> set[str]:
    """Products of a category and all below it, as the shop writes its paths."""
    wanted = _parts(category)
    listed = catalogue()
    pairs = zip(listed["product_id"].to_pylist(), listed["category"].to_pylist(), strict=True)
    return {product for product, path in pairs if _parts(path)[: len(wanted)] == wanted}


def _parts(path: str | None) -> list[str]:
    return [part.strip().lower() for part in (path or "").split(">")]


def catalogue() -> pa.Table:
    """The products of the last night."""
    day = lake.latest("products")
    if day is None:
        raise ReviewRefused("No night of this shop is in the lake: run one first.")
    return lake.read("products", day)


def _current(table: str, product: str | None) -> list[dict[str, Any]]:
    """The latest rows of all texts, or of those of one product."""
    if not warehouse.has_output(table):
        raise WarehouseMissing(f"Shop `{get_settings().shop}` has no copy yet: run a night first.")
    names = ", ".join(column.name for column in output_columns(table))
    where, params = ("where product_id = ?", [product]) if product is not None else ("", [])
    return warehouse.read(
        f"select {names} from outputs.{table}_current {where} order by product_id, channel, locale, version"
        + (", claim_number" if table == "copy_claims" else ""),
        params,
    ).to_pylist()
