"""The fields of a shop page beside its description in a writer's own words: title, bullets, meta description.

Each is held against the facts, the pack and the shop's spelling as sentences of a description are, and against what its place
asks for. What fails is recorded and goes, and what the house puts there stands: the catalogue's own name, lines of facts, the
first sentences of the description. Not here: the description (`freely`), who is asked and when (`asking`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from nightmarket import guard, llm
from nightmarket.guard.policy import language
from nightmarket.products.product_copy import freely, writing
from nightmarket.products.product_copy.sheet import Removed, Sheet
from nightmarket.products.product_copy.text import Sentence, gone, joined, judge
from nightmarket.prompts import render
from nightmarket.settings import get_settings

DESCRIPTION = "description"
BESIDE = ("title", "bullets", "meta_description")
"""What a writer may be asked for beside a description, in this order."""
MOST_TOKENS: Mapping[str, int] = MappingProxyType({"title": 96, "bullets": 240, "meta_description": 120})
# Tokens over what a limit of characters holds, so that a writer may end its last sentence and is judged by that.
_SLACK = 12
_NUMBER = re.compile(r"\d+(?:[.,/]\d+)*")
_MARK = re.compile(r"^\s*(?:[-*•–·‣]|\d{1,2}[.)])\s+")
_WORD = re.compile(r"[^\W\d_]+")
_JOINING = frozenset({"and", "by", "for", "from", "in", "made", "of", "with"})
_QUOTES = "\"'“”‘’«»"


def wanted(writer: llm.Generator) -> tuple[str, ...]:
    """The fields that a writer writes in its own words: what the shop wants, of what the writer may be asked for."""
    if not writer.free:
        return ()
    listed = {name.strip() for name in get_settings().copy_fields.split(",")} & writer.writes
    return tuple(field for field in (DESCRIPTION, *BESIDE) if field in listed)


def messages(field: str, sheet: Sheet, pack: guard.Pack) -> tuple[llm.Message, ...]:
    """The turns in which a field of a sheet is asked for, in the shop's voice; a night and a training ask alike."""
    if field == DESCRIPTION:
        return freely.messages(sheet, pack)
    return render(f"product_{field}", _facts_shown(field, sheet), sheet.locale, pack.voice)


def _facts_shown(field: str, sheet: Sheet) -> dict[str, str]:
    """What a writer is shown for a field: a title is made of pieces of the shop's own, so it is shown all of these."""
    shown = writing.own_facts(sheet)
    if field == "title" and sheet.details:
        shown["details"] = ", ".join(sheet.details)
    return shown


def request(field: str, sheet: Sheet, pack: guard.Pack) -> llm.Request | None:
    """What a free writer is asked for beside a description; None where no answer could stand."""
    if field == "title" and not _can_be_titled(sheet, pack):
        return None
    if field == "bullets" and not writing.worth_telling(sheet.facts):
        return None
    limits = {
        "title": pack.limits.get("title"), "meta_description": pack.limits.get("meta_description"),
        "bullets": pack.limits.get("bullet", 0) * pack.limits.get("bullets", 0) or None,
    }  # fmt: skip
    most, limit = MOST_TOKENS[field], limits[field]
    if limit is not None:
        most = min(most, int(limit / freely.CHARACTERS_PER_TOKEN[language(sheet.locale)]) + _SLACK)
    return llm.Request(messages=messages(field, sheet, pack), max_tokens=most)


def read(
    field: str, reply: llm.Reply, sheet: Sheet, pack: guard.Pack, removed: list[Removed]
) -> tuple[Sentence, ...]:
    """What of a reply may stand in a field: a title, lines, or sentences; empty where the house's own is better.

    Why something does not stand goes into `removed`.
    """
    if field == "title":
        return _title(reply, sheet, pack, removed)
    if field == "bullets":
        return _bullets(reply, sheet, pack, removed)
    return _meta(reply, sheet, pack, removed)


def _meta(reply: llm.Reply, sheet: Sheet, pack: guard.Pack, removed: list[Removed]) -> tuple[Sentence, ...]:
    """Whole sentences that fit, where they name the product."""
    most, kept = pack.limits.get("meta_description"), list[Sentence]()
    for sentence in freely.read(reply, sheet, pack, removed, field="meta_description"):
        if most is not None and len(joined([*(s.text for s in kept), sentence.text], pack)) > most:
            removed.append(gone(sentence.text, f"no room in {most} characters", "unsupported"))
            break
        kept.append(sentence)
    if kept and not any({"name", "title"} & s.told for s in kept):
        removed.append(gone(kept[0].text, "a meta description that does not name the product", "unsupported"))
        return ()
    return tuple(kept)


def _bullets(
    reply: llm.Reply, sheet: Sheet, pack: guard.Pack, removed: list[Removed]
) -> tuple[Sentence, ...]:
    """Lines that each tell a fact which no line before told."""
    told = [_MARK.sub("", guard.normalise(line)).strip() for line in reply.text.splitlines()]
    if reply.finish_reason == "length" and told:
        removed.append(gone(told.pop(), "cut off", "unsupported"))
    lines = [line for line in dict.fromkeys(told) if line and not _refused(line, sheet, removed)]
    kept: list[Sentence] = []
    known: set[str] = set()
    for line in judge(lines, sheet, pack, removed, origin="free", field="bullets"):
        if line.told - {"name", "category"} <= known:
            removed.append(gone(line.text, "says nothing new", "unsupported"))
            continue
        known |= line.told
        kept.append(line)
    return tuple(kept)


def _title(reply: llm.Reply, sheet: Sheet, pack: guard.Pack, removed: list[Removed]) -> tuple[Sentence, ...]:
    """A title with the product's name as it is, and every number and the brand of the shop's own."""
    told = [line for line in map(guard.normalise, reply.text.splitlines()) if line]
    if not told:
        return ()
    title = told[0].strip(_QUOTES + " ")
    title = title if title.endswith("..") else title.removesuffix(".")
    lost = _lost(title, sheet)
    if len(told) > 1 or reply.finish_reason == "length":
        removed.append(gone(title, "more than a title", "unsupported"))
    elif word := _said(title, sheet):
        removed.append(gone(title, f"a sentence and no title: {word}", "unsupported"))
    elif lost:
        removed.append(gone(title, f"a title without `{lost}`", "unsupported"))
    elif not _refused(title, sheet, removed):
        return tuple(judge([title], sheet, pack, removed, origin="free", field="title"))
    return ()


def _can_be_titled(sheet: Sheet, pack: guard.Pack) -> bool:
    """Whether what a writer is shown holds all that the shop's own title must not lose."""
    shown = " ".join(_facts_shown("title", sheet).values())
    fits = len(sheet.name) <= pack.limits.get("title", len(sheet.name))
    return bool(sheet.name) and fits and not _lost(shown, sheet)


def _lost(title: str, sheet: Sheet) -> str:
    """What of the shop's own title another one lacks: name, brand, or a number, which tells variants apart."""
    if sheet.name not in title:
        return sheet.name
    if sheet.brand and sheet.brand in sheet.title and sheet.brand not in title:
        return sheet.brand
    numbers = set(_NUMBER.findall(title))
    return next((number for number in _NUMBER.findall(sheet.title) if number not in numbers), "")


def _said(title: str, sheet: Sheet) -> str:
    """A word that makes a sentence of a title ("Meet the kettle", "Kettle. Details: red"): none of the facts has it."""
    own = {word for value in sheet.evidence.values() for word in _WORD.findall(value.lower())}
    return next((word for word in _WORD.findall(title) if word.lower() not in own | _JOINING), "")


def _refused(line: str, sheet: Sheet, removed: list[Removed]) -> bool:
    """Whether a line is not how the shop says it; why not goes into `removed`."""
    fault = freely.fault(line, sheet)
    if fault:
        removed.append(gone(line, *fault))
    return bool(fault)
