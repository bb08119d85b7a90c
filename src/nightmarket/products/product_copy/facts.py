"""A product's facts, cleaned: what a text about it may say, and what was taken out and why.

Titles are cut, never invented; values are kept in the shop's spelling or dropped. Descriptions are free text from
outside and are not facts: they enter nothing. Not here: phrasing (`writing`) and what a published sentence may hold
(`guard`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nightmarket import guard
from nightmarket.guard.claims import OWN, Kind, Verdict, kind_of, kinds, plain_key, truth
from nightmarket.guard.policy import language

MOST_VALUE_CHARACTERS = 80
MOST_FACTS = 6
MOST_HEARD = 5
MOST_NAME_CHARACTERS = 80
_SKIPPED_KEYS = frozenset(
    {
        "brand",
        "manufacturer",
        "title",
        "name",
        "product name",
        "category",
        "description",
        "品牌",
        "名称",
        "标题",
        "类目",
    }
)
_UNKNOWN = frozenset(
    {"", "n/a", "na", "null", "unknown", "-", "--", "tbd", "other", "不详", "暂无", "未知", "见详情"}
)
_MARKUP = re.compile(r"[{}]|;\s*[\w-]+\s*:|\b[\w-]+\s*:\s*[\w#%. -]+;|</?\w+")
_GLUED = re.compile(r"[a-z]{3,}\d|[a-z][A-Z]{2,}|\b[A-Z]?[a-z]+[A-Z][a-z]+\d|^/")
_HAN = re.compile(r"[\u3400-\u9fff]")

_UNITS: dict[str, dict[str, float]] = {
    "volume": {"ml": 1, "cl": 10, "dl": 100, "l": 1000, "litre": 1000, "litres": 1000, "liter": 1000, "liters": 1000, "毫升": 1, "升": 1000},
    "mass": {"mg": 0.001, "g": 1, "kg": 1000, "lb": 453.6, "lbs": 453.6, "pounds": 453.6, "oz": 28.35, "ounce": 28.35, "ounces": 28.35, "克": 1, "千克": 1000, "公斤": 1000, "斤": 500},
    "power": {"w": 1, "kw": 1000, "watt": 1, "watts": 1, "瓦": 1, "千瓦": 1000},
    "voltage": {"v": 1, "volt": 1, "volts": 1, "伏": 1},
    "time": {"h": 60, "hr": 60, "hrs": 60, "hour": 60, "hours": 60, "min": 1, "minute": 1, "minutes": 1, "day": 1440, "days": 1440, "week": 10080, "weeks": 10080, "month": 43800, "months": 43800, "year": 525600, "years": 525600, "小时": 60, "分钟": 1, "天": 1440, "个月": 43800, "年": 525600, "周": 10080},
    "length": {"mm": 1, "cm": 10, "m": 1000, "in": 25.4, "inch": 25.4, "inches": 25.4, "ft": 304.8, "feet": 304.8, "毫米": 1, "厘米": 10, "米": 1000, "英寸": 25.4},
}  # fmt: skip
_CONTRADICTED_BY_TITLE = ("volume", "power", "voltage", "mass")


@dataclass(frozen=True)
class Fact:
    """An attribute as the shop calls it, its value as the shop writes it, and its kind where that is known."""

    attribute: str
    value: str
    kind: Kind | None

    @property
    def label(self) -> str:
        return plain_label(self.attribute)


@dataclass(frozen=True)
class Removed:
    """Something of the product's own data that must not be said: of which attribute, what, why."""

    attribute: str
    value: str
    reason: str
    verdict: Verdict


@dataclass(frozen=True)
class Sheet:
    """All that may be said of a product in one language.

    Attributes:
        title: the shop's own, cleaned; empty when nothing of it may stand.
        name: the piece of the title that sentences use.
        details: other pieces of the title, in their order ("Black", "12 Count").
        brand, leaf: brand, and the last part of the category; or None.
        facts: attributes worth telling, the most telling first.
        removed: what was taken out.
        names: title and brand as the catalogue has them. Words that a policy leaves to names may stand inside these
            only: a piece of a title is no name.
    """

    product_id: str
    locale: str
    title: str
    name: str
    details: tuple[str, ...]
    brand: str | None
    category: str | None
    leaf: str | None
    facts: tuple[Fact, ...]
    removed: tuple[Removed, ...]
    names: tuple[str, ...] = ()

    @property
    def evidence(self) -> dict[str, str]:
        """The facts as the guard reads them."""
        own = {"title": self.title, "name": self.name, "brand": self.brand, "category": self.category}
        return {key: value for key, value in own.items() if value} | {
            f.attribute: f.value for f in self.facts
        }


def plain_label(attribute: str) -> str:
    """How an attribute is called in a sentence: small letters, but acronyms stay."""
    opened = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", attribute)
    words = re.sub(r"\(s\)|[_\-/:]+", " ", opened).split()
    return " ".join(
        w if len(w) > 1 and w.isupper() and len(words) * len(w) < 16 else w.lower() for w in words
    )


def read_sheet(product: Mapping[str, Any], *, not_brands: Container[str] = ()) -> Sheet:
    """The sheet of one row of the mart `products`. Never fails: what cannot be read is not a fact.

    `not_brands` are names, in small letters, that some sources put where a brand belongs (the shop's departments).
    """
    removed: list[Removed] = []
    raw_title = str(product.get("title") or "")
    locale = product.get("locale") or ("zh" if len(_HAN.findall(raw_title)) * 3 > len(raw_title) else "en")
    lang = language(locale)
    raw_brand = str(product.get("brand") or "")
    names = tuple(name for name in (raw_title, raw_brand) if name)
    brand = _plain(raw_brand, 60)
    if brand and (guard.banned(brand, lang, names=names) or guard.injection(brand)):
        removed.append(Removed("brand", brand, "says what must not be said", "banned"))
        brand = None
    if brand and brand.lower() in not_brands:
        removed.append(Removed("brand", brand, "a department of the shop, not a brand", "unsupported"))
        brand = None
    parts = [p for p in (_plain(part, 60) for part in str(product.get("category") or "").split(">")) if p]
    parts = [p for p in parts if not guard.banned(p, lang, names=names) and not guard.injection(p)]
    title = clean_title(raw_title, lang, brand, removed)
    facts = _facts(product.get("attributes"), lang, brand, removed)
    title, facts = _settle(title, facts, removed)
    facts = _without_the_obvious(facts)
    facts.sort(key=lambda fact: (fact.kind.order if fact.kind else 50, fact.attribute))
    removed += _heard(product.get("description"), lang, [title, brand or ""])
    name, details = split_title(title, brand, [fact.value for fact in facts])
    name = _sayable(name, title, lang, names, removed)
    details = [detail for detail in details if not guard.banned(detail, lang, names=names)]
    return Sheet(
        product_id=str(product["product_id"]),
        locale=locale,
        title=title,
        name=name,
        details=tuple(details),
        brand=brand,
        category=" > ".join(parts) or None,
        leaf=parts[-1] if parts else None,
        facts=tuple(facts[:MOST_FACTS]),
        removed=tuple(dict.fromkeys(removed)),
        names=names,
    )


def _heard(description: object, lang: str, names: Sequence[str]) -> list[Removed]:
    """What a description says that copy must not. It is no source of copy; reviewers see what the shop claims."""
    text = guard.normalise(str(description or ""))
    found = guard.banned(text, lang, names=[n for n in names if n])
    heard = [
        Removed("description", f.text, f"{f.kind} phrase", "banned")
        for f in found
        if f.kind not in ("contact", "puffery")
    ]
    heard += [
        Removed("description", f"[{f.detail or f.kind}]", "contact data", "unsupported")
        for f in found
        if f.kind == "contact"
    ]
    told = [
        Removed("description", guard.scrub(f.text)[:120], "speaks to a model", "unsupported")
        for f in guard.injection(text)
    ]
    return [*heard[:MOST_HEARD], *told[:MOST_HEARD]]


# --- title ------------------------------------------------------------------------------------------------------------


def clean_title(raw: str, lang: str, brand: str | None, removed: list[Removed]) -> str:
    """A title without markup, shouting, promises or contact data, at most as long as the policy allows."""
    title = re.sub(r"([!?*~★☆✨\-_=]){2,}", r"\1", guard.normalise(raw)).strip(" !*~★☆-–—,;:|")
    if found := guard.injection(title):
        removed.append(Removed("title", title[found[0].start :][:200], "speaks to a model", "unsupported"))
        title = title[: found[0].start]
    # Brands and names carry words that we would not say ourselves; `banned` knows which may stay in a name.
    title = _without_banned(title, lang, None, brand or "", removed)
    title = re.sub(r"\(\s*\)|\[\s*\]|（\s*）", " ", title)
    if _HAN.search(title):
        title = re.sub(r"(?<=[\u3400-\u9fff]) (?=[\u3400-\u9fff])", "", title)
    if title.isupper() and len(re.findall(r"[A-Z]", title)) > 5:
        title = _unshout(title)
    return cut(" ".join(title.split()).strip(" ,;|-–—&"), guard.limits().title)


def _sayable(name: str, title: str, lang: str, names: Sequence[str], removed: list[Removed]) -> str:
    """The name that sentences use without the words that only a whole title may hold; empty when nothing is left."""
    if not guard.banned(name, lang, names=names):
        return name
    short = re.sub(r"\s+", " ", _without_banned(name, lang, names, "", removed)).strip(" ,;|-–—&.\"'")
    if re.search(r"[^\W\d_]{4}|[\u3400-\u9fff]{2}", short):
        return short
    return "" if guard.banned(title, lang, names=names) else title


def _without_banned(
    text: str, lang: str, names: Sequence[str] | None, brand: str, removed: list[Removed]
) -> str:
    """A title or a piece of it without banned phrases outside `names` (None: the text itself) and `brand`."""
    for _ in range(8):
        found = [
            f
            for f in guard.banned(text, lang, names=[text] if names is None else names)
            if f.text.lower() not in brand.lower()
        ]
        if not found:
            break
        removed += [
            Removed("title", f.text, f"{f.kind} phrase", "unsupported" if f.kind == "contact" else "banned")
            for f in found
        ]
        for finding in reversed(found):
            text = f"{text[: finding.start].rstrip()} {text[finding.end :].lstrip()}"
        text = re.sub(r"\s*([,，、;；!！|-])(?:\s*[,，、;；!！|-])+", r"\1", text).strip(
            " ,，、;；!！|-–—&:："
        )
    return text


def _unshout(title: str) -> str:
    """A title that is all capitals with capitals at the beginning of words; short codes and numbers stay."""
    units = {"OZ", "CT", "LB", "ML", "GAL", "PK", "FL", "IN", "G", "KG"}

    def quiet(match: re.Match[str]) -> str:
        word = match[0]
        before = title[: match.start()].rstrip()[-1:]
        return (
            word.lower()
            if word in units and before.isdigit()
            else word
            if len(word) < 3
            else word.capitalize()
        )

    return re.sub(r"[A-Z]+(?:['’][A-Z]+)?", quiet, title)


def cut(text: str, most: int) -> str:
    """`text`, or as many whole words of it as fit into `most` characters."""
    if len(text) <= most:
        return text
    head = text[:most]
    # The cut may already stand between two words; Chinese has no blanks to cut at.
    if not text[most].isspace() and " " in head and not _HAN.match(text[most]):
        head = head[: head.rindex(" ")]
    words = head.split(" ")
    while len(words) > 1 and words[-1].lower().strip(",;:.&") in {
        "",
        "with",
        "and",
        "for",
        "of",
        "the",
        "in",
        "a",
        "an",
        "to",
        "by",
        "or",
        "is",
        "are",
        "from",
    }:
        words.pop()
    return " ".join(words).rstrip(" ,;:-–—&(，、：；")


_PACK = re.compile(
    r"^(?:(?:pack|box|set|case|bundle|lot)s? of \d+|\d+[ -]?(?:pack|count|ct|pcs|pieces?|pc|per pack|/pack|box|set)s?)$",
    re.IGNORECASE,
)
# A piece with a word in it that is not the rest of a sentence.
_DETAIL = re.compile(r"(?!(?:for|with|and|of|by|in|use|includes?)\b)(?=.*[^\W\d_]).{2,40}$", re.IGNORECASE)
_CODE = re.compile(r"^[A-Z0-9#/._-]*\d[A-Z0-9#/._-]*$")


def split_title(title: str, brand: str | None, told: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The name that sentences use, and the pieces of a title that are worth telling beside it and what is `told`."""
    pieces = [p.strip(' .,;:-–—|"“”!') for p in re.split(r"[,;|()\[\]，；（）【】]|\s[-–—]+|--+", title)]
    pieces = [q.strip(" .!") for p in pieces for q in guard.sentences(p)]
    # In Chinese a blank stands before the size: "茶杯 200毫升".
    pieces = [q for p in pieces for q in (re.split(r"\s+(?=\d)", p) if _HAN.search(p) else [p]) if q]
    # "Laminating - 5 Mil Clear Pouches": a lone word before a longer piece is a heading, not the name.
    if len(pieces) > 1 and re.fullmatch(r"[A-Za-z]+", pieces[0]) and len(pieces[1].split()) > 2:
        pieces = pieces[1:]
    name = ""
    details: list[str] = []
    for piece in pieces:
        is_name = not _PACK.match(piece) and not _CODE.match(piece) and piece.lower() != (brand or "").lower()
        if not name and is_name:
            name = piece
        elif (
            _DETAIL.match(piece)
            and not _CODE.match(piece)
            and piece.lower() not in {d.lower() for d in details}
        ):
            details.append(piece)
    name = name or title
    short = cut(name, min(MOST_NAME_CHARACTERS, len(" ".join(name.split(" ")[:12]))))
    # An end mark inside a name would end the sentence that it stands in.
    short = re.sub(r"[!?！？]+", "", short).strip(" .\"'") or title
    known = {(brand or "").lower(), "single", *(value.lower() for value in told)}
    return short, [d for d in details if d.lower() not in known and d.lower() not in short.lower()]


# --- attributes -------------------------------------------------------------------------------------------------------


def _facts(raw: object, lang: str, brand: str | None, removed: list[Removed]) -> list[Fact]:
    made: list[Fact] = []
    seen: dict[str, Fact] = {}
    for key, value in _pairs(raw):
        attribute = guard.normalise(key).strip(" .:：")
        name = plain_key(attribute)
        kind = kind_of(attribute)
        if (
            not name
            or name in _SKIPPED_KEYS
            or attribute in OWN
            or len(attribute) > 40
            or (kind and kind.silent)
        ):
            continue
        clean = _value(attribute, value, lang, removed)
        if clean is None or clean.lower() == (brand or "").lower():
            continue
        if kind and kind.flag and truth(clean) is None:
            kind = None
        if other := seen.get(name):
            if other.value.lower() != clean.lower() and other in made:
                made.remove(other)
                why = f"{other.attribute} says {other.value}, {attribute} says {clean}"
                removed.append(Removed(attribute, clean, why, "unsupported"))
            continue
        fact = Fact(attribute, clean, kind)
        seen[name] = fact
        made.append(fact)
    return made


def _without_the_obvious(facts: list[Fact]) -> list[Fact]:
    """Facts without those that another one makes silly: no batteries included where none are required, one piece."""
    told = {fact.kind.name: fact.value for fact in facts if fact.kind}
    silly = {kind for kind in ("puzzle_pieces", "pack", "pages") if told.get(kind) in {"1", "single"}}
    if truth(told.get("batteries_required", "")) is False:
        silly.add("batteries_included")
    return [fact for fact in facts if not fact.kind or fact.kind.name not in silly]


def _pairs(raw: object) -> Iterator[tuple[str, str]]:
    """Attributes as text, from JSON of any shape; lists are joined, {value, unit} is put together."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except ValueError:
            return
    if not isinstance(raw, Mapping):
        return
    for key, value in raw.items():
        text = _text(value)
        if text is not None:
            yield str(key), text


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return f"{value:g}" if abs(value) < 1e15 else None
    if (
        isinstance(value, list)
        and 0 < len(value) <= 6
        and all(isinstance(v, str | int | float) for v in value)
    ):
        parts = [part for v in value if (part := _text(v))]
        joint = "、" if any(_HAN.search(p) for p in parts) else ", "
        if joint == "、" or len(parts) < 2:
            return joint.join(parts)
        return f"{', '.join(parts[:-1])} and {parts[-1]}"
    if isinstance(value, Mapping) and set(value) == {"value", "unit"}:
        amount = _text(value["value"])
        return f"{amount} {value['unit']}" if amount else None
    return None


def _value(attribute: str, raw: str, lang: str, removed: list[Removed]) -> str | None:
    """A value that can stand in a sentence, or None; why it cannot goes into `removed` where a reader would miss it."""
    # Sources glue fields together with runs of blanks: the first is the value.
    first = re.split(r"\s{3,}|[\n\r\t]", raw.strip()[:2000])[0]
    value = guard.normalise(first).replace(". (", " (").strip(" .,;:：。，；")
    if not _MARKUP.search(first) and (value.lower() in _UNKNOWN or plain_key(value) == plain_key(attribute)):
        return None
    fault = _fault(attribute, first, value, lang)
    if fault is not None:
        removed.append(Removed(attribute, guard.scrub(value)[:120], *fault))
        return None
    if re.search(r"[.!?。！？]\s|[。！？]", value):
        value = guard.sentences(value)[0].strip(" .!?。！？")
    return value


def _fault(attribute: str, raw: str, value: str, lang: str) -> tuple[str, Verdict] | None:
    """Why a value is no fact that can be told, and what kind of fault that is."""
    if _MARKUP.search(raw) and (not value or re.search(r"[{};]|\bstyle\b", value)):
        return "markup, not a fact", "unsupported"
    if guard.injection(f"{attribute}: {value}"):
        return "speaks to a model", "unsupported"
    if found := guard.banned(f"{attribute}: {value}", lang):
        return f"{found[0].kind} phrase", "unsupported" if found[0].kind == "contact" else "banned"
    if len(value) > MOST_VALUE_CHARACTERS:
        return "too long for a fact", "unsupported"
    if _GLUED.search(value) or _holds_label(value):
        return "fields run together", "unsupported"
    if lang == "en" and (_HAN.search(value) or _HAN.search(attribute)):
        return "in another language", "unsupported"
    if _is_reversed(value):
        return "a range that ends where it begins, or before", "unsupported"
    return None


def _holds_label(value: str) -> bool:
    low = value.lower()
    return any(label in low for label in _long_labels())


def _long_labels() -> tuple[str, ...]:
    labels = [key for kind in kinds().values() for key in kind.keys if " " in key and len(key) > 9]
    return (
        *labels,
        "material composition",
        "material typ",
        "control type",
        "number of pieces",
        "part number",
        "click here",
    )


def _is_reversed(value: str) -> bool:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*[-–]\s*(\d+(?:\.\d+)?)\s*[^\d]*", value)
    return bool(match) and float(match[1]) >= float(match[2])  # type: ignore[index]


# --- contradictions ---------------------------------------------------------------------------------------------------


def amounts(text: str, dimension: str) -> list[tuple[float, str]]:
    """Amounts of a dimension in a text, in its base unit, each with how it is written."""
    units = _UNITS[dimension]
    pattern = "|".join(sorted(map(re.escape, units), key=lambda u: (-len(u), u)))
    found = []
    for match in re.finditer(
        rf"(?<![\w.,/])(\d+(?:[.,]\d+)?)\s*-?({pattern})(?![a-zA-Z])", text, re.IGNORECASE
    ):
        # 1,200 ml is a thousand, 1,5 l is one and a half.
        number = match[1].replace(",", "") if re.search(r",\d{3}$", match[1]) else match[1].replace(",", ".")
        found.append((float(number) * units[match[2].lower()], match[0]))
    return found


def _settle(title: str, facts: list[Fact], removed: list[Removed]) -> tuple[str, list[Fact]]:
    """Title and facts without amounts that contradict each other."""
    kept = []
    for fact in facts:
        dimension = fact.kind.unit if fact.kind else None
        is_content = bool(fact.kind and fact.kind.name == "net_content")
        if is_content:
            dimension = next((d for d in ("mass", "volume") if amounts(fact.value, d)), None)
        if dimension not in _CONTRADICTED_BY_TITLE or dimension is None:
            kept.append(fact)
            continue
        told, titled = amounts(fact.value, dimension), amounts(title, dimension)
        agrees = any(abs(a - b) <= 0.02 * max(a, b) for a, _ in told for b, _ in titled)
        # A parcel weighs more than what is in it: that is no contradiction, but it would read like one.
        if not told or not titled or agrees:
            kept.append(fact)
            continue
        why = f"title says {titled[0][1]}, {fact.attribute} says {fact.value}"
        removed.append(Removed(fact.attribute, fact.value, why, "unsupported"))
        if is_content or dimension != "mass" or told[0][0] < titled[0][0]:
            removed.append(Removed("title", titled[0][1], why, "unsupported"))
            for _, written in titled:
                title = " ".join(title.replace(written, " ").split()).strip(" ,;|-–—&(")
    return re.sub(r"\s*,(?:\s*,)+|\(\s*\)", ",", title).strip(" ,"), kept


def _plain(raw: object, most: int) -> str | None:
    text = cut(guard.normalise(str(raw or "")), most).strip(" .,;:|-")
    return text if text and text.lower() not in _UNKNOWN | {"generic", "unbranded", "no brand"} else None


def has_unit(value: str, dimension: str) -> bool:
    """Whether a value holds an amount of a dimension ("40 x 30 x 8 cm" does)."""
    if re.search(
        r"[一二两三四五六七八九十半]+(?:年|个月|天|小时|分钟|周)" if dimension == "time" else r"(?!)", value
    ):
        return True
    return bool(amounts(re.sub(r"\d+(?:\.\d+)?\s*[x×*]\s*", "", value, flags=re.IGNORECASE), dimension))
