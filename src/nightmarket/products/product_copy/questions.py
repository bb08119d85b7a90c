"""Questions about copy for people who decide on a page, and what becomes of their answers.

A question is all that somebody needs to decide: what waits, what readers see now, which fact bears each sentence, and why a
person is asked. An answer is a decision like one of the command line. Not here: the decisions themselves (`desk`), what a
night makes of them (`reviews`), and the page that asks (Airflow's, by `orchestration`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

from nightmarket import guard, lake, ledger
from nightmarket.errors import ReviewRefused
from nightmarket.ledger import Outcome
from nightmarket.products.product_copy import desk, policies, reviews
from nightmarket.products.product_copy.desk import Entry
from nightmarket.products.product_copy.reviews import PENDING, Key, Row
from nightmarket.settings import get_settings

APPROVE, REJECT, EDIT = "Approve", "Reject", "Edit"
OPTIONS = (APPROVE, REJECT, EDIT)
DEADLINE = "the deadline"
"""Who rejected a text that nobody decided about in time; stands where else the reviewer's name does."""


@dataclass(frozen=True)
class Question:
    """What a person is asked about one text.

    Attributes:
        about: which version of which text, for `take_down`.
        subject: the question in a line of plain text.
        body: Markdown; words of the shop are escaped in it and are neither links nor layout.
        text: the description, for a person to edit.
        days: how long the question stands, at least 1.
    """

    about: str
    subject: str
    body: str
    text: str
    days: int

    as_dict = asdict


def unanswered(asked: Collection[str]) -> tuple[list[Question], Outcome]:
    """Questions about the texts that wait and that nobody decided about, those that waited longest first.

    At most `copy_questions_per_night`; the outcome counts the rest. `asked` are the `about` of questions that stand already.
    """
    waiting = [entry for entry in desk.listed(PENDING) if entry.review is None]
    new = [entry for entry in waiting if _about(entry.row) not in asked]
    now = new[: get_settings().copy_questions_per_night]
    notes = [(f"{len(now)} to decide about", True), (f"{len(waiting) - len(new)} asked about before", len(waiting) > len(new)),
             (f"{len(new) - len(now)} wait for another night's questions", len(new) > len(now))]  # fmt: skip
    outcome = Outcome(
        rows_in=len(waiting), rows_out=len(now), note="; ".join(n for n, holds in notes if holds)
    )
    if not now:
        return [], outcome
    packs, last_night = guard.shop_packs(), lake.latest("products") or date.max
    sheets = reviews.sheets_of(desk.catalogue(), {entry.row["product_id"] for entry in now})
    questions = []
    for entry in now:
        sheet = sheets.get(entry.row["product_id"])
        pack = policies.pack_of(sheet, packs, entry.row["channel"]) if sheet else None
        days = (entry.until - last_night).days if entry.until else 1
        subject = f"{entry.row['product_id']}: {entry.row['title']} ({_which(entry.row)})"
        text = entry.row["description"] or ""
        questions.append(Question(_about(entry.row), subject, _body(entry, pack), text, max(days, 1)))
    return questions, outcome


def take_down(
    *, about: str | None, choice: str, by: str | None, at: datetime, text: str | None = None, reason: str | None = None
) -> Outcome:  # fmt: skip
    """Write an answer into `ops.copy_reviews`, once however often it is called.

    A default is only written while nobody decided about that version and it still waits.

    Args:
        about: of the question that the person saw, as the form returned it.
        choice: one of OPTIONS.
        by: the person's name; None: nobody answered in time, and REJECT was chosen by default.
        at: when (UTC); an answer that was taken down is known again by it.
        text: the description as the form returned it; None: it was left empty.

    Raises:
        ReviewRefused: the version was superseded, text and choice contradict each other, or the facts do not bear an edit.
            Nothing was written down, and the text goes on waiting.
    """
    key, version = _key_of(about)
    product, channel, locale = key
    decision, who = choice.lower(), by or DEADLINE
    said = ledger.newest(
        "copy_reviews", 100, product_id=product, channel=channel, locale=locale, version=version
    )
    answered = at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at
    if any(row["at"] >= answered and (row["decision"], row["reviewer"]) == (decision, who) for row in said):
        return Outcome(rows_in=1, note=f"{decision}: taken down before")
    named: dict[str, Any] = {"reviewer": who, "channel": channel, "locale": locale, "version": version}
    if by is None:
        return _by_default(product, named, is_decided=bool(said))
    words = _lines(text)
    is_new = bool(words) and words != _lines(_waiting_text(key, version))
    if choice == APPROVE and is_new:
        raise ReviewRefused(
            f"The text of product {product} was changed in the form, but `{APPROVE}` publishes it as it was written. Choose "
            f"`{EDIT}` for the changed words, or leave the text as it is."
        )
    if choice == EDIT and not is_new:
        raise ReviewRefused(
            f"`{EDIT}` was chosen, but the form has no other words for product {product}. Write them there, or choose "
            f"`{APPROVE}`."
        )
    if choice == APPROVE:
        desk.approve(product, reason=reason or "", **named)
    elif choice == EDIT:
        desk.edit(product, "\n".join(words), reason=reason or "", **named)
    else:
        desk.reject(product, reason=reason or "", **named)
    return Outcome(rows_in=1, rows_out=1, note=decision)


def _by_default(product: str, named: dict[str, Any], *, is_decided: bool) -> Outcome:
    """Reject what nobody decided about; where the night or a person was faster there is nothing to do."""
    reason = f"nobody decided within {get_settings().copy_review_days} days"
    if is_decided:
        return Outcome(rows_in=1, note="decided meanwhile")
    try:
        desk.reject(product, reason=reason, **named)
    except ReviewRefused:
        return Outcome(rows_in=1, note="superseded meanwhile")
    return Outcome(rows_in=1, rows_out=1, note=f"reject: {reason}")


def _waiting_text(key: Key, version: int) -> str | None:
    """The description that waits. A version that is gone has none: `desk` refuses the decision and says what became of it."""
    waiting = [entry.row for entry in desk.listed(PENDING, key[0]) if reviews.key_of(entry.row) == key]
    return next((row["description"] for row in waiting if row["version"] == version), None)


# --- which text -------------------------------------------------------------------------------------------------------


def _about(row: Row) -> str:
    return json.dumps([*reviews.key_of(row), row["version"]], ensure_ascii=False)


def _key_of(about: str | None) -> tuple[Key, int]:
    try:
        product, channel, locale, version = json.loads(about or "")
        return (str(product), str(channel), str(locale)), int(version)
    except (ValueError, TypeError) as error:
        raise ReviewRefused(
            f"The answer does not say which text it is about (`about` is {about!r}): send the form's `about` back as it was."
        ) from error


def _which(row: Row) -> str:
    return f"{row['channel']}, {row['locale']}, version {row['version']}"


# --- what a person reads ----------------------------------------------------------------------------------------------


def _body(entry: Entry, pack: guard.Pack | None) -> str:
    row = entry.row
    parts = ["### Waits for a decision", *_quoted(row), "### What readers see now"]
    if entry.shown is not None:
        parts += [f"Version {entry.shown['version']}, until somebody decides:", *_quoted(entry.shown)]
    else:
        parts += ["Nothing: this text would be the first."]
    borne = [claim for claim in entry.claims if claim["verdict"] == "supported"]
    left_out = [claim for claim in entry.claims if claim["verdict"] != "supported"]
    parts += ["### What it says, and the fact that bears it", *_borne(borne)]
    if left_out:
        parts += ["### What was left out of it", _listed(f"{_plain(c['claim'])} ({c['verdict']}: {_plain(c['evidence'])})" for c in left_out)]  # fmt: skip
    parts += ["### Why you are asked", _why(row, pack)]
    ends = f"A text that nobody decided about is rejected by the night of {entry.until}. The next night applies a decision."
    return "\n\n".join([*parts, ends])


def _quoted(row: Row) -> list[str]:
    """A text as readers see it."""
    bullets = [f"- {_plain(line)}" for line in json.loads(row["bullets"] or "[]")]
    lines = [f"**{_plain(row['title'])}**", *(_plain(line) for line in _lines(row["description"]))]
    told = "\n>\n".join(f"> {line}" for line in lines)
    told += "".join([f"\n>\n> {bullets[0]}", *(f"\n> {line}" for line in bullets[1:])] if bullets else [])
    beside = [f"AI label: {_plain(desk.label(row))}."]
    if row["meta_description"]:
        beside.insert(0, f"For search engines: {_plain(row['meta_description'])}")
    return [told, *beside]


def _borne(claims: Collection[Row]) -> list[str]:
    """By sentence its claims and their evidence."""
    by_sentence: dict[str, list[Row]] = {}
    for claim in claims:
        by_sentence.setdefault(claim["sentence"] or "", []).append(claim)
    lines = []
    for sentence, told in by_sentence.items():
        facts = dict.fromkeys(f"{_plain(claim['claim'])} ← {_plain(claim['evidence'])}" for claim in told)
        lines.append("\n".join([f"- {_plain(sentence)}", *(f"  - {fact}" for fact in facts)]))
    return ["\n".join(lines)] if lines else ["No claim is recorded."]


def _why(row: Row, pack: guard.Pack | None) -> str:
    rule = pack.origins.get(("risk", "")) if pack is not None and pack.risk == "high" else None
    risk = (
        f"Policy pack **{_plain(rule.name)}** says that a wrong word does harm here (high risk)."
        if rule
        else "When it was written, its policy pack said high risk; today's does not."
    )
    by = f"{_plain(row['model_name'])} {_plain(row['model_version'])}".strip()
    return f"{risk} Written because: {_plain(row['change_cause'])}. By: {by}."


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _lines(text: str | None) -> list[str]:
    return [" ".join(line.split()) for line in (text or "").splitlines() if line.strip()]


# A page makes links of these even where their punctuation is escaped; an invisible joiner (U+2060) inside ends that.
_LINKED = re.compile(r"(https?:|ftp:|mailto:|xmpp:|www)(?=[/.\w])|(?=@)", re.IGNORECASE)


def _plain(words: Any) -> str:
    """Words as Markdown that shows exactly them: no link, image, HTML or layout; one line."""
    line = _LINKED.sub(lambda found: f"{found[0]}\u2060", " ".join(str(words or "").split()))
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", line)
