"""Whether a sentence says only what the facts say, and of the attribute that they say it of.

A sentence is read as values (pieces of facts) and cues (words that speak of a kind of attribute, `attributes.toml`).
Each cue must have a value of its own kind beside it, each value must stand alone or beside its own cue, and what is
left over must be house words. This closes the vocabulary: a word, number or name that is neither fact, cue nor house
word is unsupported. Numbers and names count with their unit, in the spelling of the facts.

Facts are a mapping from attribute to value; `title`, `brand` and `category` are the product's own columns, anything
else an attribute as the shop calls it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

from nightmarket.guard.policy import banned, house_words, language
from nightmarket.guard.text import Finding, injection

Verdict = Literal["supported", "unsupported", "misbound", "banned"]
OWN = ("title", "name", "brand", "category")
"""Facts that name the product: their words may stand in any sentence, and bind to nothing."""

_TOKEN = re.compile(r"\d+(?:[.,/:x×-]\d+)*|[^\W\d_]+(?:['’-][^\W\d_]+)*", re.UNICODE)
_LATIN = re.compile(r"[a-z\u00c0-\u024f]")
_HAN = re.compile(r"[\u3400-\u9fff]")
_YES = frozenset({"yes", "true", "是", "有", "支持", "可", "可以"})
_NO = frozenset({"no", "false", "否", "不支持", "不可", "不可以"})
_NEGATIONS = {
    "en": re.compile(r"\b(?:no|not|without|never|n't)\b|: no\b"),
    "zh": re.compile(r"[不无未非没否]"),
}
# "Dr. Who" and "e.l.f. Cosmetics" go on; "approx. 5 g" goes on before a small letter or a digit only.
_GOES_ON = re.compile(r"(?:\b(?:st|dr|mr|mrs|ms|vs|no|nr|vol|jr|mt)|(?:\b\w\.)+\w)\.$", re.IGNORECASE)
_MAY_GO_ON = re.compile(
    r"\b(?:approx|incl|excl|max|min|inc|ltd|co|ed|fl|oz|pt|ft|in|lb|pcs)\.$", re.IGNORECASE
)


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of attribute; see `attributes.toml`."""

    name: str
    keys: tuple[str, ...]
    cues: Mapping[str, tuple[str, ...]]
    order: int
    unit: str | None
    plain: bool
    flag: bool
    silent: bool


@dataclass(frozen=True)
class Claim:
    """One thing a sentence says: of which attribute, which value, where that stands, and whether it may go out."""

    sentence: str
    claim: str
    attribute: str | None
    value: str | None
    evidence: str | None
    verdict: Verdict


@dataclass(frozen=True)
class _Mark:
    start: int
    end: int
    what: str  # a kind's name for cues, an attribute for values
    is_cue: bool
    text: str


# --- kinds of attributes ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def kinds() -> Mapping[str, Kind]:
    """All kinds by name."""
    raw: dict[str, dict[str, Any]] = tomllib.loads(
        files("nightmarket.guard").joinpath("attributes.toml").read_text("utf-8")
    )
    return {
        name: Kind(
            name=name,
            keys=tuple(row["keys"]),
            cues={"en": tuple(row.get("cues_en", ())), "zh": tuple(row.get("cues_zh", ()))},
            order=row.get("order", 60),
            unit=row.get("unit"),
            plain=row.get("plain", False),
            flag=row.get("flag", False),
            silent=row.get("silent", False),
        )
        for name, row in raw.items()
    }


def kind_of(attribute: str) -> Kind | None:
    """The kind of an attribute by the name the shop gives it, or None when that name is not known."""
    return _keys().get(plain_key(attribute))


def plain_key(attribute: str) -> str:
    """An attribute's name as words: lower case, no underscores, no "(s)", camel case opened."""
    opened = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", attribute)
    return " ".join(re.sub(r"\(s\)|[_\-/:]+", " ", opened).lower().split())


@lru_cache(maxsize=1)
def _keys() -> Mapping[str, Kind]:
    return {key: kind for kind in kinds().values() for key in kind.keys}


def truth(value: str) -> bool | None:
    """What a yes-or-no value says; None when it says something else."""
    low = value.strip().lower().rstrip(".")
    return True if low in _YES else False if low in _NO else None


# --- sentences --------------------------------------------------------------------------------------------------------


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with its end mark; decimals and common abbreviations do not end one."""
    parts: list[str] = []
    start = 0
    for match in re.finditer(r"[.!?]+[\"')\]]*(?=\s|$)|[。！？；]+", text):
        piece = text[start : match.end()].strip()
        after = text[match.end() :].lstrip()[:1]
        if (
            match[0] == "."
            and after
            and (_GOES_ON.search(piece) or (_MAY_GO_ON.search(piece) and not after.isupper()))
        ):
            continue
        if piece:
            parts.append(piece)
        start = match.end()
    if rest := text[start:].strip():
        parts.append(rest)
    return parts


def unsupported(text: str, facts: Mapping[str, str], locale: str | None = "en") -> list[Finding]:
    """What in `text` the facts do not support, sentence by sentence; empty when all of it may go out.

    Kinds of finding: `number`, `word`, `misbound`, `missing` (a cue whose attribute the facts lack), `contradiction`
    (a yes said as no), the kinds of `banned`, and `injection:…`. Positions are in `text`.
    """
    found = []
    cursor = 0
    for sentence in sentences(text):
        offset = text.index(sentence, cursor)
        cursor = offset + len(sentence)
        findings, _ = _read(sentence, facts, language(locale))
        found += [Finding(f.kind, f.start + offset, f.end + offset, f.text, f.detail) for f in findings]
    return found


def claims(sentence: str, facts: Mapping[str, str], locale: str | None = "en") -> list[Claim]:
    """Every claim of one sentence with its verdict: one a fact it tells, one a fault; at least one.

    A sentence may go out when all its claims are `supported`. One that tells no fact has the claim "says nothing of
    the product".
    """
    findings, told = _read(sentence, facts, language(locale))
    made = []
    for finding in findings:
        verdict: Verdict = (
            "misbound" if finding.kind == "misbound"
            else "unsupported" if finding.kind in {"number", "word", "missing", "contradiction"}
            else "banned"
        )  # fmt: skip
        made.append(
            Claim(
                sentence,
                f"{finding.kind}: {finding.text}",
                None,
                finding.text,
                finding.detail or None,
                verdict,
            )
        )
    if made:
        return made
    for attribute, said in told.items():
        where = (
            "title" if attribute == "name" else attribute if attribute in OWN else f"attributes.{attribute}"
        )
        value = said if attribute in OWN else facts[attribute]
        made.append(Claim(sentence, f"{attribute}: {value}", attribute, value, where, "supported"))
    return made or [Claim(sentence, "says nothing of the product", None, None, "house words", "supported")]


# --- reading one sentence ---------------------------------------------------------------------------------------------


def _read(sentence: str, facts: Mapping[str, str], lang: str) -> tuple[list[Finding], dict[str, str]]:
    """Findings of a sentence, and the attributes it tells with the words it tells them in."""
    names = [facts[own] for own in OWN if own in facts]
    out = [*banned(sentence, lang, names=names), *injection(sentence)]
    low = sentence.lower()
    if len(low) != len(sentence):
        # A few letters change their length in lower case; positions must hold.
        low = sentence
    values = _values(low, facts, lang)
    cues = _cues(low, facts, lang, [v for v in values if v.what in OWN and len(v.text) > 1])
    # "Height" in "caffeine: high" and 高 in 高白瓷 are pieces of values, not cues.
    cues = [
        c for c in cues if not any(v.start <= c.start and c.end <= v.end for v in values if v.what not in OWN)
    ]
    values = [v for v in values if v.what in OWN or not any(_overlap(v, c) for c in cues)]
    attributes = {(v.start, v.end) for v in values if v.what not in OWN}
    told: dict[str, str] = {}
    for value in values:
        # The name is a piece of the title: one claim is enough. So is a number of the title that an attribute has too.
        if value.what not in OWN or (
            (value.start, value.end) not in attributes and not (value.what == "title" and "name" in told)
        ):
            told.setdefault(value.what, sentence[value.start : value.end])
    if "name" in told:
        told.pop("title", None)
    out += _bind(cues, [v for v in values if v.what not in OWN], facts, low, lang, told)
    out += _leftovers(sentence, low, [*values, *cues], facts, lang)
    return sorted(out, key=lambda f: (f.start, f.end)), told


def _values(low: str, facts: Mapping[str, str], lang: str) -> list[_Mark]:
    """Where facts stand in the sentence: whole values, the longest first; of the title also runs of two words or more."""
    marks: list[_Mark] = []
    taken: list[tuple[int, int]] = []
    wanted: list[tuple[str, str]] = []
    for attribute, value in facts.items():
        whole = value.lower().strip(" .")
        if attribute == "category":
            wanted += [(attribute, part.strip().lower()) for part in value.split(">") if part.strip()]
        elif whole and truth(whole) is None:
            wanted.append((attribute, whole))
        if attribute == "title":
            wanted += [(attribute, run) for run in _runs(whole, lang)]
    # A value that two attributes share belongs to both: the marks lie on each other.
    wanted.sort(key=lambda pair: -len(pair[1]))
    length = None
    fresh: list[tuple[int, int]] = []
    for attribute, whole in wanted:
        if whole not in low:
            continue
        if length != len(whole):
            taken, fresh, length = taken + fresh, [], len(whole)
        for match in re.finditer(_edges(whole), low):
            if all(match.end() <= start or match.start() >= end for start, end in taken):
                marks.append(_Mark(match.start(), match.end(), attribute, False, match[0]))
                fresh.append(match.span())
    return sorted(set(marks), key=lambda m: (m.start, m.end, m.what))


def _runs(title: str, lang: str) -> list[str]:
    """Pieces of a title that a sentence may use as the name: between commas and brackets, and runs from its start."""
    pieces = [p.strip(" .") for p in re.split(r"[,;|()\[\]，；（）【】]|\s[-–—]\s", title)]
    words = title.split()
    heads = [" ".join(words[:n]).strip(" ,.;:-–—&(") for n in range(1 if lang == "zh" else 2, len(words))]
    return [p for p in dict.fromkeys([*pieces, *heads]) if len(p) > 1]


def _edges(phrase: str) -> str:
    """A pattern for a phrase as whole words; in Chinese text, letters and digits end where Han characters begin."""
    before = after = ""
    if phrase[0].isdigit():
        before = r"(?<![a-z0-9])(?<!\d[.,/])"
    elif _LATIN.match(phrase[0]):
        before = r"(?<![a-z\u00c0-\u024f0-9])"
    if phrase[-1].isdigit():
        after = r"(?![a-z0-9])(?![.,/]\d)"
    elif _LATIN.match(phrase[-1]):
        after = r"(?![a-z\u00c0-\u024f0-9])"
    return before + re.escape(phrase) + after


def _cues(low: str, facts: Mapping[str, str], lang: str, names: Sequence[_Mark]) -> list[_Mark]:
    """Words that speak of a kind of attribute, the longest at each place; none inside the product's own name."""
    wanted = [(cue, kind.name) for kind in kinds().values() for cue in kind.cues[lang]]
    wanted += [(plain_key(a), a) for a in facts if a not in OWN and kind_of(a) is None]
    wanted += [
        (key, kind.name)
        for a in facts
        if a not in OWN and (kind := kind_of(a)) is not None
        for key in (plain_key(a), *kind.keys)
    ]
    wanted.sort(key=lambda pair: -len(pair[0]))
    marks: list[_Mark] = []
    # An attribute may be called "for" or "type": such a word alone speaks of nothing.
    mute = house_words("en")
    for cue, kind_name in wanted:
        if cue not in low or cue in mute:
            continue
        for match in re.finditer(_edges(cue), low):
            mark = _Mark(match.start(), match.end(), kind_name, True, cue)
            if any(_overlap(mark, name) for name in names):
                continue
            if any(
                _overlap(mark, other) and (other.start, other.end) != (mark.start, mark.end)
                for other in marks
            ):
                continue
            marks.append(mark)
    return sorted(marks, key=lambda m: (m.start, m.end, m.what))


def _bind(
    cues: Sequence[_Mark],
    values: Sequence[_Mark],
    facts: Mapping[str, str],
    low: str,
    lang: str,
    told: dict[str, str],
) -> list[Finding]:
    """Each cue with the value beside it, each value with the cue beside it."""
    out: list[Finding] = []
    bound: set[tuple[int, int]] = set()
    places = sorted({(c.start, c.end) for c in cues})
    for start, end in places:
        speaks_of = {c.what for c in cues if (c.start, c.end) == (start, end)}
        text = low[start:end]
        following = [v for v in values if v.start >= end and not any(end <= s < v.start for s, _ in places)]
        preceding = [v for v in values if v.end <= start and not any(v.end <= s < start for s, _ in places)]
        flags = [
            a for a in facts if a not in OWN and _kind_name(a) in speaks_of and truth(facts[a]) is not None
        ]
        beside = _nearest(following, first=True) or _nearest(preceding, first=False)
        # "Battery life is 40 hours": the value may stand two cues on ("drinks" "cold" "for").
        if not beside:
            beside = _nearest([v for v in values if v.start >= end], first=True)
        if any(_kind_name(v.what) in speaks_of for v in beside):
            bound |= {(v.start, v.end) for v in beside}
        elif others := [v for v in _nearest(preceding, first=False) if _kind_name(v.what) in speaks_of]:
            bound |= {(v.start, v.end) for v in others}
        elif flags:
            said_no = bool(_NEGATIONS[lang].search(low)) and not re.search(r"\bno\.? \d", low)
            if any(truth(facts[a]) == said_no for a in flags):
                out.append(Finding("contradiction", start, end, text, f"{flags[0]} is {facts[flags[0]]}"))
            else:
                told |= {a: facts[a] for a in flags}
        elif beside:
            owner = beside[0].what
            out.append(
                Finding("misbound", start, end, f"{text} … {beside[0].text}", f"{beside[0].text} is {owner}")
            )
        else:
            out.append(
                Finding("missing", start, end, text, f"no fact of {' or '.join(sorted(speaks_of))} beside it")
            )
    for value in values:
        kind = kind_of(value.what)
        if (
            (value.start, value.end) in bound
            or (kind is not None and kind.plain)
            or _stands_alone(value, values, low)
        ):
            continue
        out.append(
            Finding("misbound", value.start, value.end, value.text, f"nothing says that this is {value.what}")
        )
    return out


def _stands_alone(value: _Mark, values: Sequence[_Mark], low: str) -> bool:
    """Whether a value without a cue is told as what it is: its label before it, or another attribute's that needs none."""
    before = low[: value.start]
    twin = [v for v in values if (v.start, v.end) == (value.start, value.end) and v is not value]
    if any((kind := kind_of(v.what)) is not None and kind.plain for v in twin):
        return True
    return bool(re.fullmatch(r"[^:：]{1,40}[:：]\s*", before)) and plain_key(
        before.rstrip(":： ")
    ) == plain_key(value.what)


def _nearest(values: Sequence[_Mark], *, first: bool) -> list[_Mark]:
    if not values:
        return []
    place = min((v.start, v.end) for v in values) if first else max((v.start, v.end) for v in values)
    return [v for v in values if (v.start, v.end) == place]


def _kind_name(attribute: str) -> str:
    kind = kind_of(attribute)
    return kind.name if kind else attribute


def _leftovers(
    sentence: str, low: str, marks: Sequence[_Mark], facts: Mapping[str, str], lang: str
) -> list[Finding]:
    """Words and numbers that are neither value, cue nor house word."""
    covered = [False] * len(low)
    for mark in marks:
        covered[mark.start : mark.end] = [True] * (mark.end - mark.start)
    out = []
    if lang == "zh":
        for phrase in sorted(house_words("zh"), key=lambda p: (-len(p), p)):
            for match in re.finditer(re.escape(phrase), low):
                if not any(covered[match.start() : match.end()]):
                    covered[match.start() : match.end()] = [True] * len(phrase)
    own_words = _own_words(facts)
    for match in re.finditer(r"[\u3400-\u9fff]+", low) if lang == "zh" else ():
        left = [i for i in range(*match.span()) if not covered[i]]
        if left:
            out.append(
                Finding("word", left[0], left[-1] + 1, sentence[left[0] : left[-1] + 1], "not in the facts")
            )
    for match in _TOKEN.finditer(low):
        word = match[0]
        if all(covered[i] or not low[i].isalnum() for i in range(*match.span())) or (
            lang == "zh" and _HAN.search(word)
        ):
            continue
        if any(c.isdigit() for c in word):
            if not _number_of_title(low, match, facts):
                out.append(
                    Finding(
                        "number", *match.span(), sentence[match.start() : match.end()], "not in the facts"
                    )
                )
        elif word not in own_words and (lang == "zh" or word not in house_words("en")):
            out.append(
                Finding("word", *match.span(), sentence[match.start() : match.end()], "not in the facts")
            )
    return out


def _number_of_title(low: str, match: re.Match[str], facts: Mapping[str, str]) -> bool:
    """Whether a number stands in the title with the same word after it ("2 person")."""
    after = re.match(r"[\s-]*([^\W\d_]+)?", low[match.end() :])
    unit = after[1] if after and after[1] else ""
    title = facts.get("title", "").lower()
    return bool(re.search(rf"(?<![\w.,/]){re.escape(match[0])}[\s-]*{re.escape(unit)}(?![\w])", title))


def _own_words(facts: Mapping[str, str]) -> frozenset[str]:
    """Words of the product's own names; they may stand in any sentence."""
    return frozenset(
        w for own in OWN if own in facts for w in _TOKEN.findall(facts[own].lower()) if not w[0].isdigit()
    )


def _overlap(a: _Mark, b: _Mark) -> bool:
    return a.start < b.end and b.start < a.end
