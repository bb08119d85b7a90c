"""From a sheet of facts to sentences: the house phrasings that fit, a grammar of them, and the text without a writer.

A part of a text is a set of alternatives that all say the same. The grammar lets a writer choose among them and order
them; the template takes the first of each. Every alternative was held against the facts before it is offered, so
whatever is chosen is supported. Which alternatives a product is offered turns with its id, so neighbours on a shelf do
not begin alike. Not here: budgets, rows (`product_copy`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nightmarket import guard
from nightmarket.grammar import quote
from nightmarket.guard.claims import plain_key, truth
from nightmarket.guard.policy import language
from nightmarket.products.product_copy.facts import has_unit
from nightmarket.products.product_copy.policies import breaches
from nightmarket.products.product_copy.sheet import Fact, Removed, Sheet
from nightmarket.prompts import phrases, vocabulary

Number = Literal["one", "many"] | None

MOST_TOLD = 5
# Orders of more parts than this multiply faster than they change how a text reads.
MOST_REORDERED = 4

_COUNTED = frozenset(
    {"pieces", "quantity", "count", "number of items", "number of pieces", "units per pack", "pack count"}
)
_NOT_A_NOUN = re.compile(
    r"(?:with|without|by|from|in|for|on|no|none|not|free|all)\b|[不无有可未比含]", re.IGNORECASE
)
_HAN = re.compile(r"[\u3400-\u9fff]")
_SUBJECT = re.compile(r"^(?:It is|They are|It|They) (?=\w)")


@dataclass(frozen=True)
class Part:
    """Sentences that say the same of a product, the template's choice first; `""` means that it may be left out."""

    alternatives: tuple[str, ...]


NOTHING = Part(("",))


@dataclass(frozen=True)
class Plan:
    """A text before it is written: how it begins, what it tells in any order, how it may end."""

    lead: Part
    body: tuple[Part, ...]
    end: Part
    locale: str

    @property
    def is_choice(self) -> bool:
        """Whether there is anything to choose."""
        return bool(self.body) and any(len(part.alternatives) > 1 for part in (self.lead, *self.body))


def plan(sheet: Sheet, removed: list[Removed], pack: guard.Pack | None = None) -> Plan:
    """Every supported way to tell a sheet in the house's words. Facts that no phrasing supports go into `removed`.

    With a pack, only what it allows is offered.
    """
    if not sheet.name:
        # What has no name gets no text; the row is blocked.
        return Plan(NOTHING, (), NOTHING, sheet.locale)
    # A shop in a language without phrasings of its own gets labels and values, not sentences in a foreign one.
    is_spoken, spoken, number = _voice(sheet)
    turn = turn_of(sheet)
    lead = _checked(_leads(sheet, spoken, number) if is_spoken else [f"{sheet.name}."], sheet, pack)
    begin = _turned(lead, turn, pack, most=3) or (f"{sheet.name}.",)
    body = _body(sheet, spoken, number, turn, removed, pack)
    ends: list[str] = []
    if is_spoken and body:
        forms = spoken["end"]
        said = _checked([*forms.get(number or "any", forms["any"])], sheet, pack)
        ends = list(_turned(said, turn // 7, pack, most=1))
    # One text in three ends with an invitation: on every page it would be noise.
    end = Part((ends[0], "") if ends and turn % 3 == 0 else ("",))
    return Plan(Part(begin), tuple(body), end, sheet.locale)


def rest(sheet: Sheet, told: Collection[str], pack: guard.Pack | None = None) -> Plan:
    """What a text that tells some attributes still lacks: the facts worth telling, and a lead when it names no product."""
    whole = plan(sheet, [], pack)
    named = bool({"name", "title"} & set(told))
    if not whole.body:
        return Plan(NOTHING if named else whole.lead, (), NOTHING, sheet.locale)
    _, spoken, number = _voice(sheet)
    body = _body(sheet, spoken, number, turn_of(sheet), [], pack, told=told)
    return Plan(NOTHING if named else whole.lead, tuple(body), NOTHING, sheet.locale)


def turn_of(sheet: Sheet) -> int:
    """A number of the product that decides where its alternatives begin."""
    return int(hashlib.sha256(sheet.product_id.encode()).hexdigest()[:8], 16)


def _voice(sheet: Sheet) -> tuple[bool, Mapping[str, Mapping[str, list[str]]], Number]:
    """Whether the house has phrasings in the sheet's language, which, and the number of the product."""
    is_spoken = sheet.locale.split("-")[0].lower() in {"en", "zh"}
    number = number_of(sheet.name, sheet.brand) if language(sheet.locale) == "en" else "one"
    return is_spoken, phrases(sheet.locale) if is_spoken else {}, number


def template(made: Plan) -> str:
    """The text without a writer: the first alternative of each part."""
    return _join(
        [made.lead.alternatives[0], *(part.alternatives[0] for part in made.body), made.end.alternatives[0]],
        made.locale,
    )


def grammar(made: Plan) -> str:
    """GBNF of all texts of a plan: a lead, every part of the body once in any order, an end.

    Up to four parts come in any order (a rule for each set that is left); further ones follow in theirs.
    """
    gap = "" if language(made.locale) == "zh" else " "
    if made.lead == NOTHING and made.body:
        # What is added to a text begins with its first sentence: without a lead there is no blank before it.
        made = Plan(made.body[0], made.body[1:], made.end, made.locale)
    rules = [f"lead ::= {_choice(made.lead.alternatives)}"]
    free, fixed = made.body[:MOST_REORDERED], made.body[MOST_REORDERED:]
    for index, part in enumerate(made.body):
        # The blank belongs to the sentence after it: a writer's tokens begin with theirs.
        rules.append(f"p{index} ::= {_choice([gap + text for text in part.alternatives])}")
    tail = "".join(f" p{MOST_REORDERED + n}" for n in range(len(fixed)))
    endings = [quote(gap + text) if text else '""' for text in made.end.alternatives]
    rules.append(f"end ::= {' | '.join(endings)}")
    everything = tuple(range(len(free)))
    waiting, known = [everything], {everything}
    while waiting:
        left = waiting.pop(0)
        ways = []
        for index in left:
            rest = tuple(i for i in left if i != index)
            ways.append(f"p{index} {_set_name(rest)}" if rest else f"p{index}")
            if rest and rest not in known:
                known.add(rest)
                waiting.append(rest)
        if left:
            rules.append(f"{_set_name(left)} ::= {' | '.join(ways)}")
    root = "root ::= lead" + (f" {_set_name(everything)}" if free else "") + tail + " end"
    return "\n".join([root, *rules])


def bullets(sheet: Sheet) -> list[str]:
    """Facts as short lines, then other pieces of the title."""
    colon = "：" if language(sheet.locale) == "zh" else ": "
    lines = [
        f"{_capital(label(fact, sheet.locale))}{colon}{_shown(fact, sheet.locale)}" for fact in sheet.facts
    ]
    lines += [_capital(detail) for detail in sheet.details]
    return list(dict.fromkeys(lines))


def lines(sheet: Sheet, pack: guard.Pack | None = None) -> list[Part]:
    """Of each fact worth telling the ways to say it as a short line, the plain one ("Colour: red") last; each supported.

    A line has no end mark and begins with what it says: "Made of steel", where a sentence says "It is made of steel."
    """
    is_spoken, spoken, number = _voice(sheet)
    made = []
    for fact in worth_telling(sheet.facts):
        told = _tellings(fact, sheet, spoken, number) if is_spoken else []
        ways = [_capital(_SUBJECT.sub("", text).rstrip(".。")) for text in told]
        ways += bullets(replace(sheet, facts=(fact,), details=()))
        if checked := _checked(ways, sheet, pack):
            made.append(Part(tuple(checked)))
    return made


def worth_telling(facts: Sequence[Fact]) -> list[Fact]:
    """What is not there ("batteries required: no") is worth a line in a list, a sentence only when nothing else is."""
    return ([fact for fact in facts if truth(fact.value) is not False] or list(facts))[:MOST_TOLD]


# --- the parts --------------------------------------------------------------------------------------------------------


def _leads(sheet: Sheet, spoken: Mapping[str, Mapping[str, list[str]]], number: Number) -> list[str]:
    forms = spoken["lead"]
    noun = number is not None
    brand = sheet.brand if sheet.brand and _joined(sheet.brand) not in _joined(sheet.name) else None
    leaf = (
        sheet.leaf
        if sheet.leaf and sheet.leaf.lower() not in sheet.name.lower() and len(sheet.leaf.split()) < 4
        else None
    )
    if language(sheet.locale) == "zh":
        wanted = forms["noun_brand"] if brand else forms["noun"]
        wanted = [*wanted, *(forms["leaf"] if leaf and not brand else ())]
    elif noun:
        wanted = (
            forms["noun_brand"] if brand else [*forms["noun"], *(forms["one"] if number == "one" else ())]
        )
    elif brand:
        wanted = forms["name_brand"]
    else:
        wanted = [*(forms["leaf"] if leaf else ()), *forms["name"]]
    if noun and re.match(r"(?:the|a|an|my|your|our)\b", sheet.name, re.IGNORECASE):
        wanted = forms["name_brand"] if brand else forms["name"]
    name = sheet.name
    if (
        noun
        and not re.search(r"[A-Z]", name[1:])
        and name.split(" ")[0].lower() not in (sheet.brand or "").lower()
    ):
        # "Garden tools" is how the title begins, not how the thing is called; "Lego bricks" keeps its capital.
        name = name[:1].lower() + name[1:]
    words = {"name": name, "a_name": f"{article(name)} {name}", "brand": brand or "", "leaf": leaf or ""}
    return [_inflected(phrase, number).format(**words) for phrase in wanted]


def _body(
    sheet: Sheet,
    spoken: Mapping[str, Mapping[str, list[str]]],
    number: Number,
    turn: int,
    removed: list[Removed],
    pack: guard.Pack | None,
    *,
    told: Collection[str] | None = None,
) -> list[Part]:
    """A part for each fact worth telling that is not `told`; of a whole text also one for the details of the title."""
    made: list[tuple[Fact, list[str]]] = []
    for fact in sheet.facts:
        ways = _checked(_tellings(fact, sheet, spoken, number), sheet, pack)
        if ways:
            made.append((fact, ways))
        else:
            removed.append(
                Removed(fact.attribute, fact.value, "no sentence of it is supported", "unsupported")
            )
    telling = [
        fact for fact in worth_telling([fact for fact, _ in made]) if fact.attribute not in (told or ())
    ]
    worth = [(fact, ways) for fact, ways in made if fact in telling]
    parts: list[Part] = []
    used: set[str] = set()
    for fact, ways in worth:
        if fact.attribute in used:
            continue
        used.add(fact.attribute)
        offered = list(_turned(ways, turn, pack, most=2))
        for other, other_ways in worth:
            if other.attribute in used:
                continue
            pair = _checked(_paired(fact, other, spoken, number), sheet, pack)
            if pair:
                used.add(other.attribute)
                apart = _join([offered[0], other_ways[0]], sheet.locale)
                offered = [*_turned(pair, turn, pack, most=1), apart]
                break
        parts.append(Part(tuple(offered)))
    if told is None and len(parts) < 3 and sheet.details and spoken:
        listed: list[str] = []
        for detail in sheet.details:
            if len(", ".join([*listed, detail])) <= 90:
                listed.append(detail)
        if listed:
            joint = "，" if language(sheet.locale) == "zh" else ", "
            said = [form.format(value=_clause(joint.join(listed))) for form in spoken["details"]["any"]]
            if checked := _checked(said, sheet, pack):
                parts.append(Part(_turned(checked, turn, pack, most=2)))
    return parts


def _tellings(
    fact: Fact, sheet: Sheet, spoken: Mapping[str, Mapping[str, list[str]]], number: Number
) -> list[str]:
    """All phrasings of one fact, the plainest last."""
    name = label(fact, sheet.locale)
    colon = "：" if language(sheet.locale) == "zh" else ": "
    stop = "。" if language(sheet.locale) == "zh" else "."
    plain = f"{_capital(name)}{colon}{_shown(fact, sheet.locale)}{stop}"
    if not spoken:
        return [plain]
    words = {
        "key": name,
        "Key": _capital(name),
        "value": _clause(fact.value, fact.kind.name if fact.kind else None),
    }
    forms = spoken.get(fact.kind.name, {}) if fact.kind else {}
    answer = truth(fact.value)
    if answer is not None:
        wanted = forms.get("yes" if answer else "no", ())
        return (
            [*(_fill(wanted, words, number)), plain]
            if not wanted
            else _fill(wanted, words, number) or [plain]
        )
    if fact.kind and fact.kind.unit and not has_unit(fact.value, fact.kind.unit):
        return [plain]
    forms = dict(forms)
    if plain_key(fact.attribute) in _COUNTED and re.fullmatch(r"\d+(?: pieces)?", fact.value):
        forms["any"] = forms.get("count", forms.get("any", []))
    if "recommended" in name:
        forms["any"] = forms.get("advised", forms.get("any", []))
    if fact.value.lower() == "free" and name.isascii():
        return [f"{_capital(name)}-free."]
    if plain_key(fact.attribute) not in forms.get("number_keys", [plain_key(fact.attribute)]):
        forms["number"] = []
    told = _fill([*forms.get("number", ()), *forms.get("any", ())], words, number)
    can_be = (
        len(fact.value.split()) <= 4
        and "," not in fact.value
        and (not name.isascii() or name.split()[-1] in vocabulary("attributes"))
    )
    if not told and can_be:
        told = _fill(spoken["generic"]["short"], words, number)
    return [text for text in told if _reads_well(text, name, words["value"])] or [plain]


def _reads_well(text: str, name: str, value: str) -> bool:
    """Whether "the style is with chilli" and "the colour is seven colours" were avoided."""
    if not re.search(rf"\bis {re.escape(value)}|为{re.escape(value)}", text):
        return True
    return not _NOT_A_NOUN.match(value) and not (name.isascii() and name.split()[-1] in value.lower())


def _paired(
    fact: Fact, other: Fact, spoken: Mapping[str, Mapping[str, list[str]]], number: Number
) -> list[str]:
    if not fact.kind or not other.kind or not spoken:
        return []
    for first, second in ((fact, other), (other, fact)):
        assert first.kind and second.kind
        forms = spoken["pairs"].get(f"{first.kind.name}+{second.kind.name}")
        both_yes = truth(first.value) is True and truth(second.value) is True
        amounts = all(f.kind and (not f.kind.unit or has_unit(f.value, f.kind.unit)) for f in (first, second))
        if forms and amounts and (both_yes or (truth(first.value) is None and truth(second.value) is None)):
            words = {
                "first": _clause(first.value, first.kind.name),
                "second": _clause(second.value, second.kind.name),
            }
            return _fill(forms, words, number)
    return []


def _fill(forms: Sequence[str], words: Mapping[str, str], number: Number) -> list[str]:
    return [
        _inflected(form, number).format(**words) for form in forms if number is not None or "[" not in form
    ]


def _checked(told: Sequence[str], sheet: Sheet, pack: guard.Pack | None) -> list[str]:
    """The sentences that the guard and the pack let through."""
    return [
        text
        for text in dict.fromkeys(told)
        if not guard.unsupported(text, sheet.evidence, sheet.locale)
        and (pack is None or not breaches("description", text, sheet, pack))
    ]


def _turned(told: Sequence[str], turn: int, pack: guard.Pack | None, *, most: int) -> tuple[str, ...]:
    """At most so many, from the turn's own on; those with a word that the shop's voice prefers come first."""
    start = turn % len(told) if told else 0
    turned = [*told[start:], *told[:start]]
    if pack is not None:
        turned.sort(key=lambda text: not pack.prefers(text))
    return tuple(turned[:most])


# --- words ------------------------------------------------------------------------------------------------------------


def number_of(name: str, brand: str | None = None) -> Number:
    """Whether an English name is that of one thing or of many; None when that cannot be told from its last word."""
    if brand and name.lower().startswith(brand.lower()):
        name = name[len(brand) :]
    head = re.split(r"\s(?:for|with|of|in|by|from|and|&|to|on|without)\s", name.lower())[0]
    if re.search(r"\s(?:and|&)\s", name.lower()):
        return None
    words = re.findall(r"[a-z]+", head)
    if not words or not name.isascii():
        return None
    last = words[-1]
    if last in vocabulary("paired"):
        return "many"
    if last in vocabulary("nouns"):
        return "one"
    if last.endswith("s") and {last[:-1], last[:-2], f"{last[:-3]}y"} & vocabulary("nouns"):
        return "many"
    return None


def article(name: str) -> str:
    """`a` or `an`, by the sound that a name begins with; `some` before what is not counted or has no singular."""
    words = re.findall(r"[a-z]+", name.lower())
    if words and (words[-1] in vocabulary("mass") or words[-1] in vocabulary("paired")):
        return "some"
    first = re.split(r"[\s-]", name)[0]
    low = first.lower()
    if re.match(r"(?:8|11|18)(?!\d)|8\d", low):
        return "an"
    if low[:1].isdigit():
        return "a"
    if first == "LED" or (
        first.isupper()
        and len(first) <= 4
        and first.isalpha()
        and not re.search(r"[AEIOU]", first[1:])
        and first not in {"USB"}
    ):
        return "an" if first[0] in "AEFHILMNORSX" else "a"
    if re.match(r"(?:hour|honest|heir|honou?r)", low):
        return "an"
    if re.match(r"(?:uni(?!n|m)|use|usb|u-|euro|ewe|one\b|once|ufo)", low):
        return "a"
    return "an" if low[:1] in tuple("aeiou") else "a"


def label(fact: Fact, locale: str) -> str:
    """How an attribute is called in the language of a text: its own name, or the kind's where that is in another script."""
    is_zh = language(locale) == "zh"
    if fact.kind and bool(_HAN.search(fact.attribute)) != is_zh:
        return next((key for key in fact.kind.keys if bool(_HAN.search(key)) == is_zh), fact.label)
    # A label that is a preposition says too little by itself.
    name = fact.attribute if is_zh else fact.label
    return "suitable for" if name == "for" else name


def _shown(fact: Fact, locale: str) -> str:
    answer = truth(fact.value)
    if answer is None or _HAN.search(fact.value):
        return fact.value
    return ("是" if answer else "否") if language(locale) == "zh" else ("yes" if answer else "no")


def _clause(value: str, kind: str | None = None) -> str:
    """A value inside a sentence: words that are only capitalised because they stood alone lose it."""
    if (
        kind in {"origin", "compatibility", "connection", "size", "languages", "port"}
        or not value[:1].isupper()
    ):
        return value
    words = value.split()
    plain = re.fullmatch(r"[A-Z][a-z]+(?:[-'][a-zA-Z]+)*", words[0].strip(",")) is not None
    if kind is None or not plain:
        return value
    return " ".join(w.lower() if re.fullmatch(r"[A-Z][a-z]+[,;]?", w) else w for w in words)


def _inflected(phrase: str, number: Number) -> str:
    return re.sub(r"\[([^|\]]*)\|([^\]]*)\]", lambda m: m[2] if number == "many" else m[1], phrase)


def _joined(text: str) -> str:
    return "".join(text.lower().split())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _join(texts: Sequence[str], locale: str) -> str:
    return ("" if language(locale) == "zh" else " ").join(text for text in texts if text)


def _set_name(left: Sequence[int]) -> str:
    return "r" + "-".join(map(str, left))


def _choice(alternatives: Sequence[str]) -> str:
    return " | ".join(quote(text) for text in alternatives)


def own_facts(sheet: Sheet) -> dict[str, str]:
    """The facts that a writer is shown: those that it may tell, for each costs as much as a sentence."""
    shown = {"title": sheet.name, "brand": sheet.brand or "", "category": sheet.leaf or ""}
    if sheet.details and len(sheet.facts) < 3:
        # Where a catalogue has titles alone, what else the title says is all there is to tell.
        shown["details"] = ", ".join(sheet.details)
    told = {label(fact, sheet.locale): fact.value for fact in worth_telling(sheet.facts)}
    return {key: value for key, value in shown.items() if value} | told
