"""What must not be said in a shop, by language: superlatives, guarantees, health claims, price promises, contact data."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from nightmarket.guard.text import Finding, personal

_FILES = ("policy.toml", "attributes.toml")
POLICY_VERSION = hashlib.sha256(
    b"\0".join(files("nightmarket.guard").joinpath(name).read_bytes() for name in _FILES)
).hexdigest()[:12]
"""Digest of the rules; it is written into every row that they judged."""

_LINK = re.compile(
    r"(?:https?://|www\.)\S+|\b[\w-]{2,}\.(?:com|net|org|co\.uk|cn|com\.cn|shop|store|io|info|biz|top|xyz)\b(?:/\S*)?",
    re.IGNORECASE,
)
_MONEY = re.compile(
    r"[$€£¥￥₹]\s?\d[\d.,]*|\b\d[\d.,]*\s?(?:dollars?|euros?|pounds? sterling|usd|eur|gbp|cny|rmb)\b"
    r"|\d[\d.,]*\s?(?:元|块钱|人民币)|\b\d{1,3}\s?(?:%|percent)\s?(?:off|discount)\b|\d(?:\.\d)?\s?折",
    re.IGNORECASE,
)
_HANDLE = re.compile(r"(?:微信|wechat|whatsapp|telegram|qq|line id)\s*[:：号]?\s*[\w-]{4,}", re.IGNORECASE)


def banned(text: str, locale: str | None, *, names: Sequence[str] = ()) -> list[Finding]:
    """Phrases in `text` that must not go out in the language of `locale`, in order, the longest at each place.

    `names` are the product's own name and brand: words that a policy leaves to names are no finding inside one.
    Links, contact data and amounts of money are findings in every language.
    """
    low = text.casefold() if len(text.casefold()) == len(text) else text.lower()
    inside = _spans(low, [name.lower() for name in names if name])
    found = [Finding("contact", m.start(), m.end(), m[0]) for p in (_LINK, _HANDLE) for m in p.finditer(text)]
    found += [Finding("contact", f.start, f.end, f.text, f.kind) for f in personal(text)]
    found += [Finding("price", m.start(), m.end(), m[0]) for m in _MONEY.finditer(text)]
    for kind, pattern, kept, in_names in _patterns(language(locale)):
        # Most texts hold no phrase of most rules: what would pardon one is looked for where there is one.
        if not (spans := [match.span() for match in pattern.finditer(low)]):
            continue
        pardoned = _spans(low, kept) + (inside if in_names else [])
        found += [
            Finding(kind, *span, text[span[0] : span[1]]) for span in spans if not _within(span, pardoned)
        ]
    found.sort(key=lambda finding: (finding.start, -finding.end))
    kept_findings: list[Finding] = []
    for finding in found:
        if not kept_findings or finding.start >= kept_findings[-1].end:
            kept_findings.append(finding)
    return kept_findings


def language(locale: str | None) -> str:
    """`zh` for any Chinese locale, `en` for everything else."""
    return "zh" if locale and locale.lower().startswith("zh") else "en"


def house_words(locale: str | None) -> frozenset[str]:
    """Words (English) or phrases (Chinese) that make no claim."""
    words = _policy()["house_words"][language(locale)]
    return frozenset(words.split() if isinstance(words, str) else words)


@lru_cache(maxsize=1)
def _policy() -> dict[str, Any]:
    return tomllib.loads(files("nightmarket.guard").joinpath("policy.toml").read_text("utf-8"))


@lru_cache(maxsize=2)
def _patterns(lang: str) -> list[tuple[str, re.Pattern[str], list[str], bool]]:
    """One pattern a rule. A Chinese text is held against the English phrases too: shops mix them."""
    made = []
    for rule in _policy()["banned"]:
        phrases = [*rule.get("en", ()), *(rule.get("zh", ()) if lang == "zh" else ())]
        if not phrases:
            continue
        longest_first = sorted(phrases, key=lambda phrase: (-len(phrase), phrase))
        pattern = re.compile("|".join(_bounded(phrase) for phrase in longest_first))
        made.append(
            (rule["kind"], pattern, [p.lower() for p in rule.get("except", ())], bool(rule.get("in_names")))
        )
    return made


def _bounded(phrase: str) -> str:
    """A phrase as whole words: letters of the same alphabet may not touch it."""
    body = re.escape(phrase.lower()).replace(r"\ ", r"\s+")
    before = r"(?<![a-z0-9])" if phrase[0].isascii() and phrase[0].isalnum() else ""
    after = r"(?![a-z0-9])" if phrase[-1].isascii() and phrase[-1].isalnum() else ""
    return f"{before}{body}{after}"


def _spans(text: str, phrases: Sequence[str]) -> list[tuple[int, int]]:
    return [m.span() for phrase in phrases for m in re.finditer(re.escape(phrase), text)]


def _within(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    return any(start <= span[0] and span[1] <= end for start, end in others)
