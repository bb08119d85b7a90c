"""A product's facts, cleaned: what a text about it may say, and what was taken out and why.

Values are kept in the shop's spelling or dropped. Descriptions are free text from outside and are not facts: they enter
nothing. Not here: titles (`titles`), phrasing (`writing`) and what a published sentence may hold (`guard`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from nightmarket import guard
from nightmarket.guard.claims import OWN, Verdict, kind_of, kinds, plain_key, truth
from nightmarket.guard.policy import language
from nightmarket.products.product_copy.policies import certificates
from nightmarket.products.product_copy.sheet import Fact, Removed, Sheet
from nightmarket.products.product_copy.titles import clean_title, cut, sayable, split_title

_READ = (
    "product_id", "title", "brand", "category", "attributes", "status", "locale", "description",
)  # fmt: skip
MOST_VALUE_CHARACTERS = 80
MOST_FACTS = 6
MOST_HEARD = 5
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


def read_sheets(
    catalogue: pa.Table, wanted: Callable[[Mapping[str, Any]], bool]
) -> Iterator[tuple[dict[str, Any], Sheet]]:
    """The rows of the mart `products` that are wanted, in their order, each with its sheet."""
    paths = catalogue["category"].to_pylist() if "category" in catalogue.column_names else []
    departments = {str(path or "").split(">")[0].strip().lower() for path in paths}
    for product in catalogue.select([c for c in _READ if c in catalogue.column_names]).to_pylist():
        if wanted(product):
            yield product, read_sheet(product, not_brands=departments)


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
    name = sayable(name, title, lang, names, removed)
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
        filed=product.get("category"),
        certificates=certificates(_pairs(product.get("attributes"))),
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
    # Also as it came: marks of chat templates are markup, and gone from the value.
    if guard.injection(f"{attribute}: {value}") or guard.injection(raw):
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
    # "15 cm MaterialPlastic": the next field's label, with its value run on.
    begun = {word.lower() for word in re.findall(r"\b([A-Z][a-z]+)(?=[A-Z][a-z])", value)}
    return any(label in low for label in _long_labels()) or any(
        not begun.isdisjoint(kind.keys) for kind in kinds().values()
    )


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
