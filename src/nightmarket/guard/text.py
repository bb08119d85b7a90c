"""Text from outside made plain: hidden characters and markup gone, personal data replaced, instructions found."""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

# Longer texts are cut before anything looks at them: a bomb costs no more than a long review.
MOST_CHARACTERS = 20_000


@dataclass(frozen=True)
class Finding:
    """Something in a text: what kind, where (`start` to `end`, characters), the words, and what is wrong with them."""

    kind: str
    start: int
    end: int
    text: str
    detail: str = ""


# --- plain text -------------------------------------------------------------------------------------------------------

# Kept as they are: NFKC would make 10² into 102, 1½ into 11⁄2 and ™ into TM.
_KEPT = frozenset("²³¹⁰⁴⁵⁶⁷⁸⁹½¼¾⅓⅔⅛⅜⅝⅞™℠№…·")
_BLOCKS = re.compile(
    r"<(script|style|head|template|svg|iframe)\b[^>]*>.*?(</\1\s*>|$)", re.IGNORECASE | re.DOTALL
)
_COMMENT = re.compile(r"<!--.*?(-->|$)", re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z!?|][^<>]*>|</?[a-zA-Z][^<>]*$")
_MARKDOWN_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_MARKDOWN_LINK = re.compile(r"\[([^\[\]]*)\]\([^()]*\)")
_LOOKALIKES = str.maketrans(
    "аеорсхуіјѕԁһԛԝАВЕКМНОРСТХУІЅЈαορνικτχΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcxyijsdhqwABEKMHOPCTXYISJaopviktxABEZHIKMNOPTYX",
)
_WORD = re.compile(r"[^\W\d_]+")


def normalise(text: str) -> str:
    """One line of plain text: no markup, no hidden, joining or direction characters, no look-alike letters.

    Compatible characters become one (full-width digits, ligatures); superscripts, fractions and ™ stay. Texts longer
    than 20,000 characters are cut. Doing it twice changes nothing.
    """
    plain = text[:MOST_CHARACTERS]
    for _ in range(20):
        again = _once(plain)[:MOST_CHARACTERS].strip()
        if again == plain:
            return plain
        plain = again
    # Layers on layers are no text: without these three nothing is left that could unfold.
    return normalise(re.sub(r"[<>&]", " ", plain))


def _once(text: str) -> str:
    text = html.unescape(text)
    text = "".join(_visible(character) for character in text)
    text = unicodedata.normalize("NFC", text)
    for pattern in (_COMMENT, _BLOCKS, _MARKDOWN_IMAGE):
        text = pattern.sub(" ", text)
    text = _MARKDOWN_LINK.sub(r" \1 ", text)
    text = _TAG.sub(" ", text)
    text = _WORD.sub(lambda word: _one_script(word[0]), text)
    return " ".join(text.split())


def _visible(character: str) -> str:
    if character in _KEPT:
        return character
    if character.isspace():
        return " "
    category = unicodedata.category(character)
    if (
        category in {"Cc", "Cf", "Cs", "Co", "Cn"}
        or 0xFE00 <= ord(character) <= 0xFE0F
        or character in "\u115f\u1160\u3164\uffa0\u034f"
    ):
        return ""
    return unicodedata.normalize("NFKC", character)


def _one_script(word: str) -> str:
    """A word that mixes Latin with Cyrillic or Greek letters, in Latin: the mixture is a disguise."""
    if word.isascii():
        return word
    latin = any("a" <= c.lower() <= "z" for c in word)
    disguised = word.translate(_LOOKALIKES)
    return disguised if latin and disguised != word else word


def escape(text: str) -> str:
    """Text for an HTML page: what could be markup is written out."""
    return html.escape(text, quote=True)


# --- personal data ----------------------------------------------------------------------------------------------------

_EMAIL = re.compile(r"[\w.+%'-]{1,64}\s?(?:@|\(at\)|\[at\])\s?[\w-]{1,63}(?:\.[\w-]{1,63})+")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{2,4}){3,8}\b")
_CARD = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d])")
_CHINESE_ID = re.compile(
    r"(?<!\d)\d{6}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?!\w)"
)
_PHONE = re.compile(
    r"(?<![\w.])(?:\+|00)\d{1,3}[ .()-]{0,2}\d(?:[ .()/-]{0,2}\d){6,12}(?!\w)"  # international
    r"|(?<![\w.])\(\d{2,5}\)[ .-]?\d{3,4}[ .-]?\d{3,4}(?!\w)"  # (020) 7946 0958
    r"|(?<![\w.])1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\w)"  # Chinese mobile
    r"|(?<![\w.])0\d{2,4}[ .-]?\d{3,4}[ .-]?\d{3,4}(?!\w)"  # national, with its zero
    r"|(?<![\w.-])\d{3}[ .-]\d{3}[ .-]\d{4}(?![\w-])"  # 555-010-1234
)
_ADDRESS = re.compile(
    r"(?<![\w.])\d{1,5}[a-zA-Z]?,? (?:[A-Z][a-z'’]+ ){1,3}"
    r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Close|Court|Terrace|Square|Crescent|Boulevard|Blvd)\b\.?"
    r"|[\u4e00-\u9fff]{2,8}(?:省|市|区|县)[\u4e00-\u9fff]{1,12}(?:路|街|道|巷)\s?\d{1,5}\s?(?:号|弄)(?:\s?\d{1,4}\s?(?:室|号楼|单元))*"
)


def scrub(text: str) -> str:
    """`text` with personal data replaced by what it was: `[email]`, `[iban]`, `[card]`, `[id]`, `[phone]`, `[address]`.

    Names stay: telling them from words needs a model. Hand it normalised text, so that nothing hides in full-width
    digits. Doing it twice changes nothing.
    """
    while found := personal(text):
        for finding in reversed(found):
            text = f"{text[: finding.start]}[{finding.kind}]{text[finding.end :]}"
    return text


def personal(text: str) -> list[Finding]:
    """Personal data in `text`, in order, without overlaps."""
    taken: list[Finding] = []
    for finding in _candidates(text):
        if all(finding.end <= other.start or finding.start >= other.end for other in taken):
            taken.append(finding)
    return sorted(taken, key=lambda finding: finding.start)


def _candidates(text: str) -> Iterator[Finding]:
    for kind, pattern in (
        ("email", _EMAIL), ("iban", _IBAN), ("id", _CHINESE_ID), ("card", _CARD), ("phone", _PHONE), ("address", _ADDRESS),
    ):  # fmt: skip
        for match in pattern.finditer(text):
            if kind == "iban" and not _is_iban(match[0]):
                continue
            if kind == "card" and not _is_card(match[0]):
                continue
            yield Finding(kind, match.start(), match.end(), match[0])


def _is_card(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits))]
    return len(set(digits)) > 1 and sum(doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    packed = re.sub(r"[ -]", "", text)
    if not 15 <= len(packed) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in packed[4:] + packed[:4])) % 97 == 1


# --- injected instructions --------------------------------------------------------------------------------------------

_INJECTIONS = (
    ("override", r"\b(?:ignore|disregard|forget|override|bypass)\b[^.!?\n]{0,40}\b(?:previous|prior|above|earlier|all|your|the|any|system)\b[^.!?\n]{0,30}\b(?:instructions?|prompts?|rules?|guidelines?|directions?|messages?|context)\b"),
    ("override", r"(?:忽略|无视|忘记|忘掉|跳过)[^。！？]{0,12}(?:指令|指示|提示|规则|要求|设定|内容)"),
    ("role", r"\b(?:you are now|from now on,? you|act as (?:an?|the|if)|pretend (?:to be|you are)|roleplay as|switch to developer mode|jailbreak)\b"),
    ("role", r"(?:你现在是|从现在开始，?你|假装你是|扮演)"),
    ("prompt", r"\b(?:system prompt|hidden prompt|initial prompt|prompt injection|reveal (?:your|the) (?:prompt|instructions|rules))\b"),
    ("prompt", r"(?:系统提示词?|提示词泄露)"),
    ("marks", r"<\|[^|<>]{1,30}\|>|\[/?INST\]|<<SYS>>|^\s*#{2,}\s*(?:instruction|system|assistant)\b|(?:^|[\n.!?])\s*(?:system|assistant|developer)\s*:"),
    ("order", r"\b(?:instead,? (?:write|say|reply|respond|output|print)|write exactly|say exactly|respond only with|output only|repeat after me|do not mention|note to (?:the )?(?:ai|model|assistant|bot|llm))\b"),
    ("order", r"(?:请输出|请回复以下|只回复|改为输出|(?:给|致)(?:AI|人工智能|模型|机器人)的)"),
)  # fmt: skip
_INJECTION_PATTERNS = tuple(
    (kind, re.compile(pattern, re.IGNORECASE | re.MULTILINE)) for kind, pattern in _INJECTIONS
)
_ENCODED = re.compile(r"(?<![\w+/])[A-Za-z0-9+/]{24,}={0,2}(?![\w+/])")


def injection(text: str) -> list[Finding]:
    """Words in `text` that speak to a model instead of people, base64 of readable text included; in order."""
    found = [
        Finding(f"injection:{kind}", match.start(), match.end(), match[0])
        for kind, pattern in _INJECTION_PATTERNS
        for match in pattern.finditer(text[:MOST_CHARACTERS])
    ]
    for match in _ENCODED.finditer(text[:MOST_CHARACTERS]):
        if (decoded := _decoded(match[0])) is not None:
            found.append(Finding("injection:encoded", match.start(), match.end(), match[0], decoded[:80]))
    return sorted(found, key=lambda finding: (finding.start, finding.end))


def _decoded(text: str) -> str | None:
    body = text.rstrip("=")
    try:
        words = base64.b64decode(body + "=" * (-len(body) % 4), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    return words if words.isprintable() and " " in words else None
