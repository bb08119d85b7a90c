"""From sheets to texts: what a writer is asked about many products at once, and what is made of its replies.

A writer that may write freely (`free = True`) is asked for its own words; facts that these leave out are added in house
phrasings, and beside the description it is asked for what else of the page it may write. Any other writer chooses among house
phrasings under a grammar. Where nothing is left, the template stands. A product has at most two rounds, one where the writer
keeps no grammar; those of all products are asked together. Not here: which products, budgets, rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nightmarket import guard, llm
from nightmarket.products.product_copy import fields, freely, policies, writing
from nightmarket.products.product_copy.fields import DESCRIPTION
from nightmarket.products.product_copy.sheet import Removed, Sheet
from nightmarket.products.product_copy.text import Origin, Sentence, Text, compose, judge
from nightmarket.prompts import PROMPT_VERSION

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
    asked: dict[str, llm.Request] = field(default_factory=dict)  # by field
    # What else of the page the writer wrote.
    written: dict[str, tuple[Sentence, ...]] = field(default_factory=dict)
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
        if draft.is_free and draft.kept and not draft.failure:
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
    language, wanted = sheet.locale.split("-")[0].lower(), fields.wanted(writer)
    if language not in writer.languages:
        draft.reason = f"the writer does not write {language}"
    elif DESCRIPTION in wanted and draft.plan.body:
        draft.is_free, draft.asked[DESCRIPTION] = True, freely.request(held, pack)
    elif draft.plan.is_choice:
        draft.asked[DESCRIPTION] = _by_grammar(held, draft.plan, pack)
    else:
        draft.reason = "nothing to choose"
    if draft.asked:
        asked = {name: fields.request(name, held, pack) for name in wanted if name != DESCRIPTION}
        draft.asked |= {name: request for name, request in asked.items() if request is not None}
    return draft


def _by_grammar(sheet: Sheet, plan: writing.Plan, pack: guard.Pack) -> llm.Request:
    return llm.Request(
        messages=freely.messages(sheet, pack),
        grammar=writing.grammar(plan),
        max_tokens=MOST_TOKENS,
    )


def _round(
    drafts: Sequence[_Draft], writer: llm.Generator, read: Callable[[_Draft, llm.Reply | None], None]
) -> None:
    """Ask what is to be asked of all drafts together, and hand each its outcome; other fields are read alike in any round.

    A writer that was not there for one field was not there for the page: what it said of the others is in the store.
    """
    # Field by field: a runtime evaluates the shared head of neighbouring prompts once.
    waiting = [
        (d, name, d.asked[name]) for name in (DESCRIPTION, *fields.BESIDE) for d in drafts if name in d.asked
    ]
    if not waiting:
        return
    outcomes = writer.attempt([request for _, _, request in waiting])
    for (draft, name, _), outcome in zip(waiting, outcomes, strict=True):
        del draft.asked[name]
        if isinstance(outcome, llm.Failure) and outcome.kind != "invalid":
            draft.failure = outcome
            continue
        if isinstance(outcome, llm.Reply):
            draft.spent.append(outcome)
        else:
            log.warning("product %s: %s", draft.sheet.product_id, outcome.reason)
        reply = outcome if isinstance(outcome, llm.Reply) else None
        if name == DESCRIPTION:
            read(draft, reply)
        elif reply is not None:
            draft.written[name] = fields.read(name, reply, draft.sheet, draft.pack, draft.removed)


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
        draft.asked[DESCRIPTION] = _by_grammar(draft.sheet, draft.missing, draft.pack)


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
    # Whoever a row names wrote all of it: beside a template stands what the house puts there.
    by_model = writer is not None and not draft.reason
    written = draft.written if by_model else {}
    text = _composed(draft, kept, written)
    if text.blocked and any(written.values()):
        text = _composed(draft, kept, {})
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


def _composed(draft: _Draft, kept: Sequence[Sentence], written: Mapping[str, tuple[Sentence, ...]]) -> Text:
    sheet, pack = draft.sheet, draft.pack
    lines = list(written.get("bullets", ()))
    told = frozenset().union(*(line.told for line in lines))
    house = judge(writing.bullets(sheet), sheet, pack, draft.removed, origin="facts", field="facts")
    # Facts that no line of the writer tells stand behind its own as the house lists them.
    lines += [line for line in house if not lines or not line.told <= told]
    return compose(
        sheet, pack, _most_telling(kept, pack), lines, draft.removed,
        headline=written.get("title", ()), meta=written.get("meta_description", ()),
    )  # fmt: skip


def _most_telling(kept: Sequence[Sentence], pack: guard.Pack) -> list[Sentence]:
    """Sentences without those that tell nothing, from the last on, while they are more than the description holds."""
    most, left = pack.limits.get("description"), list(kept)
    for sentence in reversed(kept):
        if most is None or sum(len(s.text) + 1 for s in left) <= most:
            break
        if not sentence.told:
            left.remove(sentence)
    return left
