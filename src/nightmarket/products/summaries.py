"""Summaries of customers: the template's, and of the most valuable a writer's, held against the facts that it was shown.

The vocabulary is closed: what is neither a name, a number or a day of the facts nor a word of `_WORDS` is a fault, so that
nothing about a person can be inferred. Cadence, count and day are those of all orders, and no clause ties one of them to a name
or to another. English alone; the template (profile_summary) says every other language, and stands wherever a text fails. Not
here: which customers are made anew (profiles), and training pairs (training.summary_pairs).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from nightmarket import guard, llm
from nightmarket.products.profile_summary import Facts, day_of, names_of, summarise, tellable
from nightmarket.prompts import render
from nightmarket.settings import get_settings

log = logging.getLogger(__name__)

SUMMARY = "summary"
TEMPLATE = "profile_summary"
MOST_TOKENS = 96
LONGEST = 300
"""Characters of a summary that somebody reads at a glance; the template needs some 150."""
MOST_SENTENCES = 2
# Words that say nothing beside what the facts say. "First", "always", "only" and "since" do, and are not among them.
_WORDS = frozenset(
    """
a an and the of on in at by from or so to with was is has have had it they their them this customer shopper
order orders ordered ordering buy buys bought buying purchase purchases purchased place places placed placing come comes came back
one time times last latest most mostly often usually mainly far now total all about around roughly every day days
""".split()  # noqa: SIM905
)
_SHOWN = ("orders", "last order", "orders about every", "most often bought", "most bought brand")
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DAY = re.compile(rf"\b(?:\d{{1,2}} (?:{_MONTHS}) \d{{4}}|(?:{_MONTHS}) \d{{1,2}}, \d{{4}})\b")
_CADENCE = re.compile(r"\bevery (?:([\d,]+) days|(day))\b")
_COUNT = re.compile(r"\b(?:(\d[\d,]*|one|two) (orders?|times?|purchases?)|(once|twice))\b", re.IGNORECASE)
_SMALL = {"one": 1, "two": 2, "once": 1, "twice": 2}
# What stands in a text for what was found in it: one private character each.
_CATEGORY, _BRAND, _ON, _OFTEN, _MANY = "\ue000", "\ue001", "\ue002", "\ue003", "\ue004"
_NAMED = f"[{_CATEGORY}{_BRAND}]"
# "Tea and coffee" is one clause, "every 24 days and buys mostly tea" are two.
_CLAUSES = re.compile(rf"[,;.]|\band\b(?!\s*{_NAMED})")
_MADE = re.compile(rf"(?:\b(?:from|by)\b|\bof\b|\bbrand\b)\s*(?:the\s+)?{_BRAND}")
# Where nothing that makes things follows, a writer has lost its thread: "usually from the order of 4 orders so far".
_FROM_NOTHING = re.compile(rf"\bfrom\b(?!\s*(?:the\s+)?{_BRAND})", re.IGNORECASE)
_MADE_OF_A_SHELF = re.compile(rf"\b(?:from|by)\s+{_CATEGORY}")


@dataclass(frozen=True)
class Summary:
    """What is told of a customer; `by` is the writer, or None where it is the template's."""

    text: str
    by: str | None
    is_due: bool = False  # the writer was not there: worth asking for another night
    tokens_in: int = 0
    tokens_out: int = 0
    cost: Decimal = Decimal(0)


def sum_up(
    told: Sequence[tuple[Facts, str] | None], worth: Sequence[float], day: date
) -> list[Summary | None]:
    """A summary of each of these facts in their locale, None where there are none.

    The template says it, and of the most valuable customers, up to a night's number, the writer, where it may and what it says
    holds.

    Args:
        worth: of each customer; no number where nothing is known of it.
    """
    made = [Summary(summarise(*row), None) if row else None for row in told]
    most = get_settings().summaries_per_night
    if most == 0:
        return made
    with llm.open_generator(day) as writer:
        able = [n for n, row in enumerate(told) if row and _is_asked(*row, writer)]
        able.sort(key=lambda n: -worth[n] if worth[n] == worth[n] else 0.0)  # without prices by id
        wanted = [(n, row[0], summary.text) for n in able[:most] if (row := told[n]) and (summary := made[n])]
        summaries = write([(facts, template) for _, facts, template in wanted], writer)
    for (n, _, _), summary in zip(wanted, summaries, strict=True):
        made[n] = summary
    return made


def _is_asked(facts: Facts, locale: str, writer: llm.Generator) -> bool:
    """Whether a writer may be asked about a customer: there is something to tell, in a language that can be checked."""
    english = locale.split("-")[0].lower() == "en" and "en" in writer.languages
    return (
        english
        and writer.free
        and SUMMARY in writer.writes
        and facts.orders > 0
        and facts.last_on is not None
    )


def facts_shown(facts: Facts) -> dict[str, str]:
    """What a writer is shown of a customer: counts, a day and names of the catalogue; nothing that says who it is."""
    told = tellable(facts)
    every = told.every_days
    cadence = "" if every is None else "day" if every <= 1 else f"{every} days"
    last = day_of(told.last_on) if told.last_on else ""
    return dict(
        zip(_SHOWN, (f"{told.orders:,}", last, cadence, names_of(told), told.brand or ""), strict=True)
    )


def facts_in(prompt: str) -> Facts:
    """The facts that a prompt shows; two categories come back as the one name that is shown of them."""
    lines = dict(line.split(": ", 1) for line in prompt.splitlines() if line.split(": ", 1)[0] in _SHOWN)
    orders, last, cadence, names, brand = (lines.get(key, "") for key in _SHOWN)
    every = None if not cadence else 1 if cadence == "day" else int(cadence.split(" ")[0])
    last_on = datetime.strptime(last, "%d %B %Y").date() if last else None
    return Facts(int(orders.replace(",", "")), last_on, every, (names,) if names else (), brand or None)


def messages(facts: Facts) -> tuple[llm.Message, ...]:
    """The turns in which a summary is asked for; a night and a training ask alike."""
    return render(TEMPLATE, facts_shown(facts), "en")


def request(facts: Facts) -> llm.Request:
    """What a writer is asked about a customer."""
    return llm.Request(messages(facts), max_tokens=MOST_TOKENS)


def write(wanted: Sequence[tuple[Facts, str]], writer: llm.Generator) -> list[Summary]:
    """A summary of each of these facts by the writer, or the text beside them where what it said fails, in order."""
    replies = writer.attempt([request(facts) for facts, _ in wanted])
    made = []
    for (facts, template), reply in zip(wanted, replies, strict=True):
        if isinstance(reply, llm.Failure):
            made.append(Summary(template, None, is_due=reply.kind != "invalid"))
            continue
        text = " ".join(guard.normalise(reply.text).split())
        found = ["cut off"] if reply.finish_reason == "length" else faults(text, facts)
        if found:
            log.info("a summary was not kept: %s", found[0])
        told, by = (template, None) if found else (text, writer.name)
        cost = writer.spent.prices.cost(reply.tokens_in, reply.tokens_out)
        made.append(Summary(told, by, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out, cost=cost))
    return made


def faults(text: str, facts: Facts) -> list[str]:
    """What is wrong with an English summary of these facts, none of its words beside it; empty where it may be shown.

    It must tell all that they hold, nothing else, and no number, day or cadence of anything but all orders.
    """
    told = tellable(facts)
    if (
        not text
        or len(text) > LONGEST
        or len(guard.sentences(text)) > MOST_SENTENCES
        or not text.endswith(".")
    ):
        return ["not one or two whole sentences"]
    if guard.personal(text) or guard.injection(text):
        return ["personal data, or words to a model"]
    return list(_faults(text, told))


def _faults(text: str, facts: Facts) -> Iterator[str]:
    masked, seen = _masked(text, facts)
    wanted = {_ON, _MANY} | ({_OFTEN} if facts.every_days is not None else set())
    if not wanted <= set(masked):
        yield "a number or day of the facts is left out"
    if seen != {*facts.categories, *([facts.brand] if facts.brand else [])}:
        yield "a name of the facts is left out"
    if any(character.isdigit() for character in masked):
        yield "a number or day that is not in the facts"
    left = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", re.sub("[\ue000-\ue004]", " ", masked))
    if any(word.lower() not in _WORDS or word not in (word.lower(), word.capitalize()) for word in left):
        yield "a word that is not in the facts"
    if re.search(r"[^\w\s,;.'’:\ue000-\ue004-]", masked):
        yield "a sign that is no punctuation of a sentence"
    if any(masked.count(mark) > 1 for mark in (_ON, _OFTEN, _MANY)):
        yield "a number or day of the facts is told twice"
    if _FROM_NOTHING.search(masked):
        yield "something comes from what is no brand"
    if masked.count(_BRAND) != len(_MADE.findall(masked)) or _MADE_OF_A_SHELF.search(masked):
        yield "a name that is told as what it is not"
    for clause in _CLAUSES.split(masked):
        said = {mark for mark in (_ON, _OFTEN, _MANY) if mark in clause}
        words = set(re.findall(r"[a-z]+", clause.lower()))
        if said and re.search(_NAMED, clause):
            yield "a number, day or cadence of all orders told of a name"
        if "every" in words or "days" in words or "day" in words:
            yield "a cadence that is not in the facts"
        # Of one order count and day are those of the same.
        if facts.orders > 1 and (len(said) > 1 or (_ON in said and not words & {"last", "latest"})):
            yield "a day that is not told as that of the last order"


def _masked(text: str, facts: Facts) -> tuple[str, set[str]]:
    """A text with a mark for each fact that stands in it as it is, and which names were found."""
    seen: set[str] = set()
    names = [
        (own, name, _CATEGORY)
        for name in facts.categories
        for own in (name, names_of(Facts(1, categories=(name,))))
    ]
    names += [(facts.brand, facts.brand, _BRAND)] if facts.brand else []
    for own, name, mark in sorted(names, key=lambda entry: -len(entry[0])):
        # "Coffee." at the end of a sentence is the name and an end mark, "Co." with its own stays whole.
        pattern = rf"(?<!\w){re.escape(own)}(?!\w)"
        if re.search(pattern, text):
            text = re.sub(pattern, mark, text)
            seen.add(name)
    days = set()
    if facts.last_on is not None:
        plain = day_of(facts.last_on)
        number, month, year = plain.split(" ")
        days = {plain, f"{month} {number}, {year}"}
    text = _DAY.sub(lambda m: _ON if m[0] in days else m[0], text)
    every = facts.every_days

    def cadence(match: re.Match[str]) -> str:
        said = 1 if match[2] else int(match[1].replace(",", "") or 0)
        return _OFTEN if every is not None and said == max(every, 1) else match[0]

    def count(match: re.Match[str]) -> str:
        word = (match[1] or match[3]).lower()
        said = _SMALL.get(word) or int(word.replace(",", ""))
        return _MANY if said == facts.orders else f"{match[0]} 0"

    return _COUNT.sub(count, _CADENCE.sub(cadence, text)), seen
