"""What people decided about texts, and the rows that a night makes of it.

A decision speaks of one version of a text (`ops.copy_reviews`) and counts in the first night whose rows are made after it,
while that version still waits or is still shown. No row is changed: what is decided becomes a new version. Not here: taking
decisions down (`desk`), and texts that are written anew (`product_copy`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from nightmarket import guard, ledger, warehouse
from nightmarket.contracts import output_columns
from nightmarket.products.product_copy import policies, writing
from nightmarket.products.product_copy.facts import read_sheets
from nightmarket.products.product_copy.sheet import Removed, Sheet
from nightmarket.products.product_copy.text import (
    CHANNEL_FIELDS,
    MOST_LINES,
    Text,
    compose,
    faults,
    judge,
)
from nightmarket.settings import get_settings

Key = tuple[str, str, str]
"""Product, channel, locale."""
Row = Mapping[str, Any]
PENDING, APPROVED, PUBLISHED, BLOCKED, RETIRED = "pending", "approved", "published", "blocked", "retired"
SHOWN = (APPROVED, PUBLISHED)
TOLD = ("title", "description", "bullets", "meta_description")


@dataclass
class Decided:
    """Rows of the texts that were decided about, their claims, and how many of each kind."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    keys: set[Key] = field(default_factory=set)


@dataclass(frozen=True)
class _Question:
    """A text about which something was decided: its rows, whole, and the decision; None: nobody decided in time."""

    key: Key
    last: Row
    shown: Row | None
    review: Row | None
    versions: Mapping[int, Row]

    @property
    def row(self) -> Row:
        """What the decision speaks of."""
        if self.review is not None and self.shown and self.review["version"] == self.shown["version"]:
            return self.shown
        return self.last

    @property
    def said(self) -> str:
        if self.review is None:
            return f"rejected: nobody decided within {get_settings().copy_review_days} days"
        words = {"approve": "approved", "reject": "rejected", "edit": "edited", "rollback": "rolled back"}
        why = f": {self.review['reason']}" if self.review["reason"] else ""
        return f"{words[self.review['decision']]} by {self.review['reviewer']}{why}"

    def again(self, row: Row, cause: str, **changes: Any) -> dict[str, Any]:
        """A text as a new version, behind the last one and made of the same inputs: it is not written again for them."""
        return dict(row) | {
            "version": self.last["version"] + 1,
            "supersedes": self.last["version"],
            "input_hash": self.last["input_hash"],
            "change_cause": cause,
            "reviewer": self.review["reviewer"] if self.review else None,
            "reviewed_at": self.review["at"] if self.review else None,
        } | changes  # fmt: skip


@dataclass(frozen=True)
class _Answer:
    """What becomes of a decision.

    Attributes:
        what: to count.
        row: of the text; None: the decision does not hold any more.
        made: the text, where it is new.
        restated: the version whose text, and so whose claims, stand again.
    """

    what: str
    row: dict[str, Any] | None = None
    made: Text | None = None
    restated: int | None = None


def key_of(row: Row) -> Key:
    return row["product_id"], row["channel"], row["locale"]


def latest(rows: Iterable[Row]) -> tuple[dict[Key, Row], dict[Key, Row]]:
    """Of rows with rising versions the last of each text, and the one that readers see."""
    last: dict[Key, Row] = {}
    shown: dict[Key, Row] = {}
    for row in rows:
        last[key_of(row)] = row
        if row["status"] in SHOWN:
            shown[key_of(row)] = row
        elif row["status"] != PENDING:
            shown.pop(key_of(row), None)
    return last, shown


def decide(
    last: Mapping[Key, Row], shown: Mapping[Key, Row], day: date, catalogue: pa.Table, packs: guard.Packs, *,
    stale: Collection[Key], breached: Collection[Key], gone: Collection[Key],
) -> Decided:  # fmt: skip
    """What the decisions that are there make of the texts before a night.

    `stale`: texts whose facts, policy or writer changed: a decision for one of them holds while today's facts bear it.
    `breached`: those of which what is shown must not be shown any more. `gone`: those that leave the shelf tonight.
    """
    reviews = last_words()
    earliest = day - timedelta(days=get_settings().copy_review_days)
    asked: dict[Key, Row | None] = {}
    for key, row in last.items():
        versions = [row["version"], *([shown[key]["version"]] if key in shown else [])]
        review = next((reviews[key, v] for v in versions if (key, v) in reviews), None)
        overdue = row["status"] == PENDING and row["day"] <= earliest
        if key not in gone and row["status"] in (PENDING, *SHOWN) and (review is not None or overdue):
            asked[key] = review
    decided = Decided()
    if not asked:
        return decided
    texts, sheets = history(asked, day), sheets_of(catalogue, {key[0] for key in asked})
    origin: dict[tuple[Key, int], int] = {}
    for key, review in asked.items():
        versions_of, number = texts[key], shown[key]["version"] if key in shown else None
        question = _Question(
            key,
            versions_of[last[key]["version"]],
            versions_of[number] if number else None,
            review,
            versions_of,
        )
        sheet = sheets.get(key[0])
        if sheet is None:
            continue
        pack = policies.pack_of(sheet, packs, key[1])
        answer = _answer(question, sheet, pack, stale=key in stale, breached=key in breached)
        decided.counts[answer.what] += 1
        if answer.row is None:
            continue
        decided.keys.add(key)
        decided.rows.append(answer.row)
        if answer.made is not None:
            decided.claims += claim_rows(answer.made, answer.row)
        elif answer.restated is not None:
            origin[key, answer.restated] = answer.row["version"]
    decided.claims += claims_again(origin, decided.rows, day)
    return decided


def _answer(asked: _Question, sheet: Sheet, pack: guard.Pack, *, stale: bool, breached: bool) -> _Answer:
    row, review = asked.row, asked.review
    decision = review["decision"] if review else "reject"
    if review is not None and decision == "approve":
        if stale and unborne(row, sheet, pack):
            return _Answer("approved, but the facts of today do not bear it")
        stands = asked.again(row, asked.said, status=APPROVED, **policies.mark(row, pack))
        return _Answer("approved", stands, restated=row["version"])
    if review is not None and decision == "edit":
        made = edited(review["text"], sheet, pack)
        if isinstance(made, str):
            return _Answer("edited, but the facts of today do not bear it")
        return _Answer("edited", asked.again(row, asked.said, **_of_edit(made, row)), made)
    if row["status"] == PENDING:
        if breached:
            return _Answer("rejected, and what is shown must go")
        if asked.shown is None:
            return _Answer("rejected", asked.again(row, asked.said, status=BLOCKED))
        number = asked.shown["version"]
        cause = f"{asked.said}; version {number} stands"
        back = asked.again(asked.shown, cause, **policies.mark(asked.shown, pack))
        return _Answer("rejected", back, restated=number)
    for earlier in earlier_texts(row, asked.versions.values()):
        if not unborne(earlier, sheet, pack):
            cause = f"{asked.said}; version {earlier['version']} stands again"
            mark = policies.mark(earlier, pack)
            back = asked.again(earlier, cause, policy_version=policies.version_of(pack), **mark)
            what = "rolled back" if decision == "rollback" else "rejected"
            return _Answer(what, back, restated=earlier["version"])
    if decision == "rollback":
        return _Answer("not rolled back: no earlier text that the facts of today bear")
    return _Answer("rejected", asked.again(row, asked.said, status=BLOCKED))


def earlier_texts(row: Row, versions: Iterable[Row]) -> list[Row]:
    """What readers saw before a version and reads differently, the newest first."""
    earlier = [
        old
        for old in versions
        if old["version"] < row["version"] and old["status"] in SHOWN and not same_text(old, row)
    ]
    return sorted(earlier, key=lambda old: -old["version"])


def same_text(one: Row, other: Row) -> bool:
    return all((one[name] or "") == (other[name] or "") for name in TOLD)


# --- what the facts bear ----------------------------------------------------------------------------------------------


def edited(text: str, sheet: Sheet, pack: guard.Pack) -> Text | str:
    """A person's description of a product as a text, or why it cannot be published."""
    held, removed = policies.hold(sheet, pack), list[Removed]()
    kept = judge(_pieces(text, pack), held, pack, removed, origin="edited")
    if removed:
        return "; ".join(f"{gone.value} ({gone.reason})" for gone in removed)
    bullets = judge(writing.bullets(held), held, pack, [], origin="facts", field="facts")
    made = compose(held, pack, kept, bullets, ())
    if made.blocked:
        return made.blocked
    if lost := [sentence.text for sentence in kept if sentence not in made.body]:
        return f"it is too long for {pack.channel}: no room is left for `{lost[0]}`"
    return made


def unborne(row: Row, sheet: Sheet, pack: guard.Pack) -> str:
    """What today's facts and policy do not bear of a text that was written before; empty when all of it may stand."""
    held, removed = policies.hold(sheet, pack), list[Removed]()
    required = tuple(pack.required)
    pieces = [piece for piece in _pieces(row["description"], pack) if not piece.startswith(required)]
    if (row["title"] or "") not in (held.title, held.name):
        wrong = guard.unsupported(row["title"] or "", held.evidence, held.locale)
        removed += [Removed("title", row["title"], str(found), "unsupported") for found in wrong]
    judge(pieces, held, pack, removed, origin="template")
    bullets = json.loads(row["bullets"] or "[]")
    shown = [line for line in bullets if not line.startswith(required)]
    judge(shown, held, pack, removed, origin="facts", field="facts")
    meta = row["meta_description"] or ""
    if not (row["description"] or "").startswith(meta):  # else it is a cut of what was judged
        judge(guard.sentences(meta), held, pack, removed, origin="template", field="meta_description")
    if removed:
        return f"{removed[0].value} ({removed[0].reason})"
    title, body = CHANNEL_FIELDS[pack.channel]
    told = {title: row["title"] or "", body: row["description"] or ""}
    told |= {"bullets": "\n".join(bullets)} if bullets else {}
    told |= {"meta_description": meta} if meta else {}
    found = faults(told, held, pack)
    return policies.said(found[0]) if found else ""


def _pieces(text: str | None, pack: guard.Pack) -> list[str]:
    lines = [" ".join(line.split()) for line in (text or "").split("\n") if line.strip()]
    return lines if pack.channel in MOST_LINES else [s for line in lines for s in guard.sentences(line)]


def _of_edit(made: Text, row: Row) -> dict[str, Any]:
    return {
        "title": made.title,
        "description": made.description,
        "bullets": json.dumps(list(made.bullets), ensure_ascii=False),
        "meta_description": made.meta_description or None,
        "status": APPROVED,
        "policy_version": policies.version_of(made.pack),
        "free_sentences": 0,
        "repaired_sentences": sum(sentence.origin != "edited" for sentence in made.body),
        "model_name": "person",
        "model_version": f"edit of version {row['version']}",
    } | policies.label(False, made.pack)


def sheets_of(catalogue: pa.Table, wanted: Collection[str]) -> dict[str, Sheet]:
    """The facts of some products of a catalogue."""
    found = read_sheets(catalogue, lambda product: product["product_id"] in wanted)
    return {product["product_id"]: sheet for product, sheet in found}


# --- rows -------------------------------------------------------------------------------------------------------------


def last_words() -> dict[tuple[Key, int], Row]:
    """By text and version the last decision about it."""
    return {(key_of(row), row["version"]): row for row in ledger.rows("copy_reviews").to_pylist()}


def history(keys: Collection[Key], day: date) -> dict[Key, dict[int, dict[str, Any]]]:
    """All versions of texts that were published before a day, whole, by number."""
    found: dict[Key, dict[int, dict[str, Any]]] = {key: {} for key in keys}
    for row in _rows_of("product_copy", keys, day):
        if key_of(row) in found:
            found[key_of(row)][row["version"]] = row
    return found


def claims_again(
    wanted: Mapping[tuple[Key, int], int], rows: Sequence[Row], day: date
) -> list[dict[str, Any]]:
    """The claims of texts that stand again: by text and version, the number under which they stand tonight."""
    hashes = {(key_of(row), row["version"]): row["input_hash"] for row in rows}
    found: dict[tuple[Key, int, int], dict[str, Any]] = {}
    for claim in _rows_of("copy_claims", {key for key, _ in wanted}, day):
        key, old = key_of(claim), claim["version"]
        if (number := wanted.get((key, old))) is not None:
            found[key, old, claim["claim_number"]] = claim | {
                "version": number, "input_hash": hashes.get((key, number), claim["input_hash"]),
            }  # fmt: skip
    return list(found.values())


def claim_rows(text: Text, row: Row) -> list[dict[str, Any]]:
    """The claims of a row's text."""
    shared = {
        name: row[name]
        for name in ("product_id", "channel", "locale", "version", "input_hash", "prompt_version", "model_name",
                     "model_version")
    }  # fmt: skip
    return [
        shared
        | {
            "claim_number": index,
            "sentence": claim.sentence or None,
            "claim": claim.claim,
            "attribute": claim.attribute,
            "value": claim.value,
            "evidence": claim.evidence,
            "verdict": claim.verdict,
            "origin": origin,
        }
        for index, (claim, origin) in enumerate(text.judged, start=1)
    ]


def _rows_of(table: str, keys: Collection[Key], day: date) -> list[dict[str, Any]]:
    """Every published row of these products before a day, older days first."""
    if not keys:
        return []
    listed = ", ".join(column.name for column in output_columns(table))
    return warehouse.read(
        f"select {listed} from outputs.{table} where day < ? and list_contains(?, product_id) order by day, version",
        [day, sorted({key[0] for key in keys})],
    ).to_pylist()
