"""What the shop's policy packs make of a product: its pack, the certificates it carries, its sheet without what must not
be said, and the breaches of a piece of text.

Here: from a sheet and a pack to what may stand. Not here: the packs themselves (`guard`) and what becomes of a text that
breaks one (`product_copy`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from nightmarket import guard
from nightmarket.guard.claims import plain_key
from nightmarket.guard.pack_files import PACKAGED
from nightmarket.guard.packs import bounded
from nightmarket.products.product_copy.sheet import Removed, Sheet
from nightmarket.prompts import PROMPT_VERSION, manner
from nightmarket.warehouse import digest

SHOP_PAGE = "shop_page"
_KEYS = frozenset(
    {"certification", "certifications", "certificate", "certificates", "certified", "认证", "认证标准", "证书", "资质认证"}
)  # fmt: skip
# Words of a certificate in a shop's data, and the name that packs.toml gives it. Any other certificate goes by its own
# words ("Rainforest Alliance" is `rainforest_alliance`).
_CERTIFICATES = {
    "organic": "organic", "有机": "organic", "soil association": "organic",
    "waterproof": "waterproof", "防水": "waterproof",
    "gluten free": "gluten_free", "无麸质": "gluten_free",
    "fair trade": "fair_trade", "fairtrade": "fair_trade", "公平贸易": "fair_trade",
    "fsc": "fsc", "kosher": "kosher", "犹太洁食": "kosher", "halal": "halal", "清真": "halal",
    "cruelty free": "cruelty_free", "leaping bunny": "cruelty_free", "零残忍": "cruelty_free",
    "hypoallergenic": "hypoallergenic", "低致敏": "hypoallergenic",
    "dermatologically tested": "dermatologically_tested", "dermatologist tested": "dermatologically_tested",
    "antibacterial": "antibacterial", "抗菌": "antibacterial", "food grade": "food_grade", "食品级": "food_grade",
    "flame retardant": "flame_retardant", "fireproof": "flame_retardant", "阻燃": "flame_retardant",
    "compostable": "compostable", "可堆肥": "compostable", "carbon neutral": "carbon_neutral", "碳中和": "carbon_neutral",
    "energy star": "energy_star", "绿色食品": "green_food",
}  # fmt: skip
# A certificate that is denied, awaited or over is not carried.
_NOT_CARRIED = re.compile(
    r"\b(?:no|not|non|none|without|pending|applied|expired|withdrawn|in progress|in conversion)\b|[无非未不没]|申请|过期|转换",
    re.IGNORECASE,
)
_SAYS_SOMETHING = re.compile(r"[^\W\d_]{2}|[\u3400-\u9fff]")


def rules_digest(packs: guard.Packs) -> str:
    """A digest of all rules of a shop and its voice; the names of packs do not enter."""
    languages = sorted(packs.voices.by_language)
    voices = [(language, packs.voices.of(language)) for language in ("", *languages)]
    return digest(
        *(
            json.dumps(
                [rule.channel, rule.locale, rule.category, rule.said], default=list, ensure_ascii=False
            )
            for rule in packs.rules
        ),
        *(f"{language} {_voice_version(voice)}" for language, voice in voices if voice is not None),
    )


def channels(packs: guard.Packs) -> tuple[str, ...]:
    """The channels that a shop wants copy for: its pages, and those that its own packs speak of."""
    own = {rule.channel for rule in packs.rules if rule.file != PACKAGED}
    return tuple(channel for channel in guard.CHANNELS if channel == SHOP_PAGE or channel in own)


def pack_of(sheet: Sheet, packs: guard.Packs, channel: str = SHOP_PAGE) -> guard.Pack:
    """The rules for a product's text on a channel."""
    return packs.pack(channel, sheet.locale, sheet.filed)


def version_of(pack: guard.Pack) -> str:
    """What a row says of the policy that judged it: the phrases banned everywhere and the rules of its pack."""
    return digest(guard.POLICY_VERSION, pack.version)[:12]


def prompt_version(pack: guard.Pack, way: str) -> str:
    """What a row says of how its text is asked for: the templates, house phrasings and `way` and, behind `+`, the shop's voice.

    `way` tells apart what else decides it: the fields that are asked for, and how answers are made into a text.
    """
    asked = digest(PROMPT_VERSION, way)[:12]
    return asked if pack.voice is None else f"{asked}+{_voice_version(pack.voice)}"


def _voice_version(voice: guard.Voice) -> str:
    return digest(manner(voice), *sorted(voice.avoid))[:12]


def label(is_ai_written: bool, pack: guard.Pack) -> dict[str, Any]:
    """The columns that say how a text is marked: by its pack where a model had part in it, else not at all."""
    return {
        "is_ai_written": is_ai_written,
        "ai_label": pack.ai_label.text or None if is_ai_written else None,
        "ai_metadata": is_ai_written and pack.ai_label.metadata,
    }


def mark(row: Mapping[str, Any], pack: guard.Pack) -> dict[str, Any]:
    """`label` for the text of a row that stands again."""
    known = row["is_ai_written"]
    # Rows of before there were labels say it by their writer alone.
    return label(
        known if known is not None else not row["model_name"].startswith(("template", "person")), pack
    )


def check(told: Mapping[str, str], sheet: Sheet, pack: guard.Pack) -> list[guard.Breach]:
    """What a product's texts break, by field."""
    return guard.check(told, pack, certificates=sheet.certificates, names=sheet.names, facts=sheet.own)


def certificates(attributes: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The certificates that attributes say a product carries, by the names that packs use.

    Only attributes that are called certificates count: "Certification: EU organic" carries `organic` and `eu_organic`, a
    material "organic cotton" carries nothing.
    """
    carried: set[str] = set()
    for key, value in attributes:
        if plain_key(key) not in _KEYS:
            continue
        for piece in re.split(r"[,;|/、，；\n]|\band\b|和|及", guard.normalise(value).lower()):
            words = " ".join(re.sub(r"[-_]", " ", piece).split())
            if not words:
                continue
            carried.add("_".join(re.findall(r"\w+", words)))
            if _NOT_CARRIED.search(words.replace("无麸质", "").replace("零残忍", "")):
                continue
            carried |= {
                name for said, name in _CERTIFICATES.items() if re.search(bounded(said), words, re.IGNORECASE)
            }
    return frozenset(carried)


def breaches(field: str, text: str, sheet: Sheet, pack: guard.Pack) -> list[guard.Breach]:
    """What a piece of a field breaks; what the whole field must have is not asked of a piece."""
    return [breach for breach in check({field: text}, sheet, pack) if breach.kind != "required"]


def said(breach: guard.Breach) -> str:
    """A breach in a few words that name the phrase: for causes and reasons."""
    if breach.kind in _WHY:
        return f"`{breach.text.lower()}` {_WHY[breach.kind]} ({breach.pack})"
    return f"{breach.kind} in {breach.field}, `{breach.text[:40]}` ({breach.pack})"


_WHY = {
    "forbidden": "must not be said here",
    "certificate": "needs a certificate",
    "required": "must be said here",
    "avoided": "is avoided by the shop's voice",
}


def hold(sheet: Sheet, pack: guard.Pack) -> Sheet:
    """A sheet without what its pack does not allow; what went out stands in `removed` with the pack that says so.

    Of title and name the words go, of everything else the whole piece.
    """
    told = [sheet.title, sheet.name, sheet.brand or "", sheet.category or "", *sheet.details]
    told += [f"{fact.label}: {fact.value}" for fact in sheet.facts]
    if not _refused("\n".join(told), sheet, pack):
        return sheet
    removed = list(sheet.removed)

    def stays(attribute: str, value: str, shown: str | None = None) -> bool:
        found = _refused(shown or value, sheet, pack)
        removed.extend(Removed(attribute, value, said(breach), "banned") for breach in found[:1])
        return not found

    title = _taken_out(sheet.title, sheet, pack, removed)
    name = _taken_out(sheet.name, sheet, pack, []) or title
    parts = [part for part in (sheet.category or "").split(" > ") if part and stays("category", part)]
    return replace(
        sheet,
        title=title,
        name=name,
        details=tuple(detail for detail in sheet.details if stays("title", detail)),
        brand=sheet.brand if sheet.brand and stays("brand", sheet.brand) else None,
        category=" > ".join(parts) or None,
        leaf=sheet.leaf if sheet.leaf in parts else None,
        facts=tuple(f for f in sheet.facts if stays(f.attribute, f.value, f"{f.label}: {f.value}")),
        removed=tuple(dict.fromkeys(removed)),
    )


def _refused(text: str, sheet: Sheet, pack: guard.Pack) -> list[guard.Breach]:
    found = breaches("facts", text, sheet, pack)
    return [breach for breach in found if breach.kind in ("forbidden", "certificate", "characters")]


def _taken_out(text: str, sheet: Sheet, pack: guard.Pack, removed: list[Removed]) -> str:
    """A title or name without refused words and characters; empty when that leaves no word."""
    for _ in range(12):
        found = _refused(text, sheet, pack)
        if not found:
            break
        breach = found[0]
        removed.append(Removed("title", breach.text, said(breach), "banned"))
        if breach.kind == "characters":
            text = "".join(" " if character in breach.text else character for character in text)
        else:
            ways = [
                f"{text[: m.start()].rstrip()} {text[m.end() :].lstrip()}"
                for m in re.finditer(bounded(breach.text), text, re.IGNORECASE)
            ]
            # Of two places only one may be at fault ("organic glass, organic cotton").
            text = min(ways, key=lambda way: len(_refused(way, sheet, pack)), default="")
        text = re.sub(r"\(\s*\)|\[\s*\]|（\s*）", " ", text)
        text = re.sub(r"\s*([,，、;；|-])(?:\s*[,，、;；|-])+", r"\1", " ".join(text.split()))
        text = text.strip(" ,，、;；|-–—&:：")
    if _refused(text, sheet, pack) or not _SAYS_SOMETHING.search(text):
        return ""
    return text
