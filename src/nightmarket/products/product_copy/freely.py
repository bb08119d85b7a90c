"""Free writing with proof: a writer's own sentences about a product, of which those stay that the facts bear.

A sentence stays when the guard supports all it claims, its pack allows it, it is whole, spells names as the shop does, and
says something that no sentence before it said. The others are recorded and go. Not here: what is added for facts that were
left out (`asking`, in house phrasings).
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Sequence

from nightmarket import guard, llm
from nightmarket.guard.claims import OWN, Verdict
from nightmarket.guard.policy import house_words, language
from nightmarket.products.product_copy import writing
from nightmarket.products.product_copy.sheet import Removed, Sheet
from nightmarket.products.product_copy.text import CHANNEL_FIELDS, Sentence, gone, judge
from nightmarket.prompts import render

MOST_TOKENS = 400
# Characters that a token of English or Chinese stands for, rarely fewer.
CHARACTERS_PER_TOKEN = {"en": 3.0, "zh": 0.7}
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
# "AT&T" is one name, and "at" in it is not the word that may be spelt as it likes.
_JOINED = re.compile(r"[^\W_]+(?:['’.&+-][^\W_]+)*")
_WHOLE = re.compile(r"[.!?。！？][\"')\]”’]*$")
_MAKER = re.compile(r"\b(?i:by|from)\s+(?:the\s+)?([A-Z][\w&'’.-]*(?:\s+(?:&\s+)?[A-Z][\w&'’.-]*)*)")

_RANGE = re.compile(r"\s+range\b")
# "From Alder: the kettle.", and what is ours. A category may have commas.
_SOURCE = re.compile(r"From\s+([^:]+):")
_OURS = re.compile(r"\b(by|from)\s+our\s+([^.:;]+)", re.IGNORECASE)


def messages(sheet: Sheet, pack: guard.Pack) -> tuple[llm.Message, ...]:
    """The turns in which a description of a sheet is asked for, in the shop's voice, freely or under a grammar."""
    return render("product_copy", writing.own_facts(sheet), sheet.locale, pack.voice)


def request(sheet: Sheet, pack: guard.Pack) -> llm.Request:
    """What a free writer is asked about a product: as many tokens as the description may need."""
    most = pack.limits.get(CHANNEL_FIELDS[pack.channel][1], MOST_TOKENS * 3)
    needed = int(most / CHARACTERS_PER_TOKEN[language(sheet.locale)])
    return llm.Request(
        messages=messages(sheet, pack),
        max_tokens=max(16, min(MOST_TOKENS, needed)),
    )


def read(
    reply: llm.Reply, sheet: Sheet, pack: guard.Pack, removed: list[Removed], *, field: str = ""
) -> list[Sentence]:
    """The sentences of a reply that may be published, in its order; of the others, why not goes into `removed`.

    Args:
        field: that they are for; empty: the description.
    """
    # Line by line: a heading or a list has no end marks that would part it from the next sentence.
    told = [s for line in reply.text.splitlines() for s in guard.sentences(guard.normalise(line))]
    if reply.finish_reason == "length" and told:
        # Also where it seems to end: "0." may have been 0.75 l.
        removed.append(gone(told.pop(), "cut off", "unsupported"))
    whole: list[str] = []
    for text in dict.fromkeys(told):
        if not _is_whole(text, sheet):
            removed.append(gone(text, "no whole sentence", "unsupported"))
        elif found := fault(text, sheet):
            removed.append(gone(text, *found))
        else:
            whole.append(text)
    return _without_repetition(judge(whole, sheet, pack, removed, origin="free", field=field), removed)


def fault(text: str, sheet: Sheet) -> tuple[str, Verdict] | None:
    """Why a piece of a text is not how the shop says it, and what kind of fault that is."""
    if word := misspelt(text, sheet):
        return f"not how the shop spells it: {word}", "unsupported"
    if twice := _stutter(text, sheet):
        return f"says twice what the shop says once: {twice}", "unsupported"
    if maker := _another_source(text, sheet) or _another_maker(text, sheet):
        return f"not who makes it: {maker}", "misbound"
    return None


def misspelt(text: str, sheet: Sheet) -> str | None:
    """The first word of the product's own names that a sentence spells otherwise than the shop, or None.

    Words of the brand and codes ("TX-100", "LED") stand as they are in the facts. A word with a capital may lose it
    ("steel bottle"), a small one may gain it, and none is shouted.
    """
    brand = {word.lower() for word in _WORD.findall(sheet.brand or "")}
    spelt: dict[str, set[str]] = {}
    for attribute, value in sheet.evidence.items():
        for word in {*_WORD.findall(value), *_JOINED.findall(value)}:
            forms = spelt.setdefault(word.lower(), set())
            forms.add(word)
            plain = word.islower() or (word[:1].isupper() and word[1:].islower())
            if plain and (word.lower() not in brand or attribute not in OWN):
                forms |= {word.lower(), word[:1].upper() + word[1:].lower()}
    house = house_words(sheet.locale)
    for word in dict.fromkeys([*_JOINED.findall(text), *_WORD.findall(text)]):
        allowed = spelt.get(word.lower())
        if allowed is None or word in allowed:
            continue
        if word.lower() in house and (word.islower() or word == word.capitalize()):
            continue
        return word
    return None


def _is_whole(text: str, sheet: Sheet) -> bool:
    """Whether it ends with an end mark and begins like a sentence, or with the product's own name.

    "From Alder: the kettle." is a house phrasing; "From the kettle." says nothing.
    """
    if not _WHOLE.search(text) or (text.startswith("From ") and ":" not in text):
        return False
    first = text.lstrip("\"'“‘(")
    own = tuple(word for word in (sheet.name, sheet.brand) if word)
    return first.startswith(own) or not first[:1].islower()


def _stutter(text: str, sheet: Sheet) -> str | None:
    """Two neighbouring words that a sentence says more often than the title, or one word twice running where no fact does: a
    writer that lost its thread."""
    house = house_words(sheet.locale)
    title = Counter(_neighbours(sheet.title))
    known = {pair for value in sheet.evidence.values() for pair in _neighbours(value)}
    for pair, count in Counter(_neighbours(text)).items():
        if count > max(title[pair], 1) and pair in known and not house.issuperset(pair):
            return " ".join(pair)
        if pair[0] == pair[1] and pair not in known:
            return " ".join(pair)
    return None


def _neighbours(text: str) -> list[tuple[str, str]]:
    return list(itertools.pairwise(word.lower() for word in _WORD.findall(text)))


def _another_source(text: str, sheet: Sheet) -> str | None:
    """What a sentence says that the product is from, or by, that is neither its brand nor a range of the shop.

    "From our Card Games range" is where it stands. "By our card games" makes a category its maker, and "From Tin Kettle: blue."
    the product itself.
    """
    own = {w.lower() for said in (sheet.brand, sheet.category) for w in _WORD.findall(said or "")}
    for match in _OURS.finditer(text):
        named, is_range, _ = match[2].lower().partition(" range")
        in_category = {*_WORD.findall(named)} <= own | house_words("en")
        is_range_of_ours = match[1].lower() == "from" and is_range and in_category
        if not is_range_of_ours and match[0].lower() not in sheet.title.lower():
            return f"our {match[2]}"
    if (sheet.name and text.startswith(sheet.name)) or _OURS.match(text):
        return None
    brand = (sheet.brand or "").lower().removeprefix("the ")
    source = _SOURCE.match(text)
    return source[1] if source and source[1].lower().removeprefix("the ") != brand else None


def _another_maker(text: str, sheet: Sheet) -> str | None:
    """A name after "by" or "from" that is not the brand: words of a title may stand anywhere, but make no maker.

    The name goes on as long as words are capitalised: of "From Big Brother" the first word could be said of anything. A
    category makes nothing either: "From our Card Games range" is where it stands, "by Card Games" is not.
    """
    brand = {word.lower() for word in _WORD.findall(sheet.brand or "")}
    words_of = {
        attribute: {w.lower() for w in _WORD.findall(value)} for attribute, value in sheet.evidence.items()
    }
    values = {word for attribute, words in words_of.items() if attribute not in OWN for word in words}
    for match in _MAKER.finditer(text):
        words = {word.lower() for word in _WORD.findall(match[1])}
        # What begins with the brand or the product's own name may go on with it.
        if match[1].startswith(tuple(own for own in (sheet.brand, sheet.name) if own)):
            continue
        place = words_of.get("category", set()) if _RANGE.match(text, match.end()) else set()
        if words <= brand | values | house_words("en") | place:
            continue
        if " ".join(match[0].lower().rstrip(".").split()) in sheet.title.lower():
            continue
        return match[1].rstrip(".")
    return None


def _without_repetition(kept: Sequence[Sentence], removed: list[Removed]) -> list[Sentence]:
    """The sentences that say something new: the same words or the same claims again go, and so does what says nothing of
    the product ("See more in our shop.") unless it answers a question ("Looking for a kettle? Here it is.")."""
    told: set[tuple[str | None, str]] = set()
    said: set[str] = set()
    new: list[Sentence] = []
    for sentence in kept:
        claims = {(claim.attribute, (claim.value or "").lower()) for claim in sentence.claims}
        words = " ".join(_WORD.findall(sentence.text.lower())) or sentence.text
        answers = bool(new) and new[-1].text.endswith("?")
        if not any(attribute for attribute, _ in claims) and not answers:
            removed.append(gone(sentence.text, "says nothing of the product", "unsupported"))
            continue
        if words in said or all(claim in told or _is_part_of_a_name(claim, told) for claim in claims):
            removed.append(gone(sentence.text, "says nothing new", "unsupported"))
            continue
        said.add(words)
        told |= claims
        new.append(sentence)
    return new


def _is_part_of_a_name(claim: tuple[str | None, str], told: Collection[tuple[str | None, str]]) -> bool:
    """Whether what is said of the title stands in what was said of it before."""
    names = ("title", "name")
    return claim[0] in names and any(claim[1] in value for attribute, value in told if attribute in names)
