"""From sheets to texts: what a writer is asked about many products at once, and what is made of its replies.

A writer that may write freely (`free = True`) is asked for its own words; facts that these leave out are added in house
phrasings. Any other writer chooses among house phrasings under a grammar. Where nothing is left, the template stands. A
product has at most two rounds, one where the writer keeps no grammar; those of all products are asked together. Not here: which products, budgets, rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from nightmarket import guard, llm
from nightmarket.products.product_copy import freely, policies, writing
from nightmarket.products.product_copy.sheet import Removed, Sheet
from nightmarket.products.product_copy.text import Origin, Sentence, Text, compose, judge
from nightmarket.prompts import PROMPT_VERSION, render

log = logging.getLogger(__name__)

MOST_TOKENS = freely.MOST_TOKENS


@dataclass
class _Draft:
    """A text while it is asked for."""

    sheet: Sheet
    pack: guard.Pack
    plan: writing.Plan
    removed: list[Removed]
    reason: str = ""  # why the template stands
    kept: list[Sentence] = field(default_factory=list)
    is_free: bool = False
    asked: llm.Request | None = None
    missing: writing.Plan | None = None
    failure: llm.Failure | None = None
    spent: list[llm.Reply] = field(default_factory=list)


def write(sheet: Sheet, writer: llm.Generator, packs: guard.Packs | None = None) -> Text:
    """Write about one product; nothing leaves that the guard does not support. Without a writer, the template stands."""
    (text,) = write_many([sheet], writer, packs)
    return by_template(sheet, packs) if isinstance(text, llm.Failure) else text


def write_many(
    sheets: Sequence[Sheet], writer: llm.Generator, packs: guard.Packs | None = None
) -> list[Text | llm.Failure]:
    """A text for each sheet, in order; a failure where the writer was not there to ask, which another night may be."""
    packs = packs or guard.read_packs()
    drafts = [_draft(sheet, packs, writer) for sheet in sheets]
    _round(drafts, writer, _first)
    for draft in drafts:
        if draft.is_free and draft.kept:
            _look_for_missing(draft, writer)
    _round(drafts, writer, _second)
    return [draft.failure or _finished(draft, writer) for draft in drafts]


def by_template(
    sheet: Sheet, packs: guard.Packs | None = None, reason: str = "the writer was unavailable"
) -> Text:
    """The text of a sheet without a writer."""
    pack = policies.pack_of(sheet, packs or guard.read_packs())
    held = policies.hold(sheet, pack)
    removed = list(held.removed)
    return _finished(_Draft(held, pack, writing.plan(held, removed, pack), removed, reason), None)


def _draft(sheet: Sheet, packs: guard.Packs, writer: llm.Generator) -> _Draft:
    pack = policies.pack_of(sheet, packs)
    held = policies.hold(sheet, pack)
    removed = list(held.removed)
    draft = _Draft(held, pack, writing.plan(held, removed, pack), removed)
    language = sheet.locale.split("-")[0].lower()
    if language not in writer.languages:
        draft.reason = f"the writer does not write {language}"
    elif writer.free and draft.plan.body:
        draft.is_free, draft.asked = True, freely.request(held, pack)
    elif draft.plan.is_choice:
        draft.asked = _by_grammar(held, draft.plan, pack)
    else:
        draft.reason = "nothing to choose"
    return draft


def _by_grammar(sheet: Sheet, plan: writing.Plan, pack: guard.Pack) -> llm.Request:
    return llm.Request(
        messages=render("product_copy", writing.own_facts(sheet), sheet.locale, pack.voice),
        grammar=writing.grammar(plan),
        max_tokens=MOST_TOKENS,
    )


def _round(
    drafts: Sequence[_Draft], writer: llm.Generator, read: Callable[[_Draft, llm.Reply | None], None]
) -> None:
    """Ask what is to be asked of all drafts together, and hand each its outcome."""
    waiting = [(draft, draft.asked) for draft in drafts if draft.asked]
    if not waiting:
        return
    outcomes = writer.attempt([request for _, request in waiting])
    for (draft, _), outcome in zip(waiting, outcomes, strict=True):
        draft.asked = None
        if isinstance(outcome, llm.Failure) and outcome.kind != "invalid":
            draft.failure = outcome
            continue
        if isinstance(outcome, llm.Reply):
            draft.spent.append(outcome)
        else:
            log.warning("product %s: %s", draft.sheet.product_id, outcome.reason)
        read(draft, outcome if isinstance(outcome, llm.Reply) else None)


def _first(draft: _Draft, reply: llm.Reply | None) -> None:
    if reply is None:
        draft.reason = "the writer gave no text"
    elif draft.is_free:
        draft.kept = freely.read(reply, draft.sheet, draft.pack, draft.removed)
    elif reply.finish_reason != "stop":
        draft.reason = "the writer's text was cut"
    else:
        draft.kept = _judged(guard.sentences(reply.text), draft, "repaired")
    if not draft.kept:
        draft.reason = draft.reason or "the guard emptied the text"


def _second(draft: _Draft, reply: llm.Reply | None) -> None:
    if reply is not None and reply.finish_reason == "stop":
        _add(draft, guard.sentences(reply.text))


def _look_for_missing(draft: _Draft, writer: llm.Generator) -> None:
    draft.missing = writing.rest(draft.sheet, _told(draft), draft.pack)
    if draft.missing.is_choice and writer.keeps_grammars:
        draft.asked = _by_grammar(draft.sheet, draft.missing, draft.pack)


def _told(draft: _Draft) -> frozenset[str]:
    """The attributes that are told; the title only where what was said of it names the product: "Details: 8 x 10" does not."""
    told = frozenset().union(*(sentence.told for sentence in draft.kept))
    name = {word for word in draft.sheet.name.lower().split() if len(word) > 2} or {draft.sheet.name.lower()}
    said = " ".join(
        (claim.value or "").lower() for s in draft.kept for claim in s.claims if claim.attribute == "title"
    )
    return told if any(word in said for word in name) else told - {"title"}


def _add(draft: _Draft, told: Sequence[str]) -> None:
    """Put house sentences beside free ones: one that names the product in front where none did, the others behind."""
    known = {sentence.text for sentence in draft.kept}
    added = [s for s in _judged(told, draft, "repaired") if s.text not in known]
    named = bool({"name", "title"} & _told(draft))
    lead = [] if named else [s for s in added[:1] if {"name", "title"} & s.told]
    draft.kept = [*lead, *draft.kept, *added[len(lead) :]]


def _judged(told: Sequence[str], draft: _Draft, origin: Origin) -> list[Sentence]:
    return judge(told, draft.sheet, draft.pack, draft.removed, origin=origin)


def _finished(draft: _Draft, writer: llm.Generator | None) -> Text:
    sheet, pack = draft.sheet, draft.pack
    if draft.missing is not None and not draft.reason:
        # What no choice was left for, and what a writer that keeps no grammar has not told: the first phrasing.
        left = writing.rest(sheet, _told(draft), pack)
        _add(draft, guard.sentences(writing.template(left)))
    kept = draft.kept
    if draft.reason or not kept or writer is None:
        kept = _judged(guard.sentences(writing.template(draft.plan)), draft, "template")
    bullets = judge(writing.bullets(sheet), sheet, pack, draft.removed, origin="facts", field="facts")
    text = compose(sheet, pack, _most_telling(kept, pack), bullets, draft.removed)
    by_model = writer is not None and not draft.reason
    return replace(
        text,
        model_name=writer.name if writer is not None and by_model else f"template ({draft.reason})",
        model_version=writer.version if writer is not None and by_model else PROMPT_VERSION,
        is_ai_written=by_model,
        tokens_in=sum(reply.tokens_in for reply in draft.spent),
        tokens_out=sum(reply.tokens_out for reply in draft.spent),
        size=sum(reply.size for reply in draft.spent),
        tonight=(
            sum(reply.tonight[0] for reply in draft.spent),
            sum(reply.tonight[1] for reply in draft.spent),
        ),
    )


def _most_telling(kept: Sequence[Sentence], pack: guard.Pack) -> list[Sentence]:
    """Sentences without those that tell nothing, from the last on, while they are more than the description holds."""
    most, left = pack.limits.get("description"), list(kept)
    for sentence in reversed(kept):
        if most is None or sum(len(s.text) + 1 for s in left) <= most:
            break
        if not sentence.told:
            left.remove(sentence)
    return left
