"""A product's title: cleaned, cut, and taken apart into the name that sentences use and the details beside it.

Titles are cut, never invented. What is taken out goes into the caller's list with its reason. Not here: other facts (facts).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nightmarket import guard
from nightmarket.products.product_copy.sheet import Removed

# No channel shows more; what a pack allows less of is cut for it.
MOST_TITLE_CHARACTERS = 150
MOST_NAME_CHARACTERS = 80
_HAN = re.compile(r"[\u3400-\u9fff]")


def clean_title(raw: str, lang: str, brand: str | None, removed: list[Removed]) -> str:
    """A title without markup, shouting, promises or contact data, at most 150 characters long."""
    if marked := guard.injection(raw):
        # As it came: marks of chat templates are markup, and what follows them would stay without them.
        removed.append(Removed("title", guard.normalise(raw[marked[0].start :])[:200], "speaks to a model", "unsupported"))  # fmt: skip
        raw = raw[: marked[0].start]
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
    return cut(" ".join(title.split()).strip(" ,;|-–—&"), MOST_TITLE_CHARACTERS)


def sayable(name: str, title: str, lang: str, names: Sequence[str], removed: list[Removed]) -> str:
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

    return re.sub(r"[^\W\d_]+(?:['’][^\W\d_]+)?", quiet, title)


def cut(text: str, most: int) -> str:
    """`text`, or as many whole words of it as fit into `most` characters."""
    if len(text) <= most:
        return text
    head = text[:most]
    # The cut may already stand between two words; Chinese has no blanks to cut at.
    if not text[most].isspace() and " " in head and not _HAN.match(text[most]):
        head = head[: head.rindex(" ")]
    return without_loose_end(head)


def without_loose_end(text: str) -> str:
    """A text that was cut, without the words and marks that lead on to what is gone."""
    words = text.split(" ")
    # "with 1000" leads on as "with" does; "LaserJet 4000" does not.
    while len(words) > 1 and (_is_loose(words[-1]) or (_is_loose(words[-2]) and _NUMBER.match(words[-1]))):
        words.pop()
    return " ".join(words).rstrip(" ,;:-–—&(，、：；")


def _shortened(name: str) -> str:
    """A name of at most 12 words and 80 characters that does not end in the middle of what it has or is for."""
    short = cut(name, min(MOST_NAME_CHARACTERS, len(" ".join(name.split(" ")[:12]))))
    words, left = short.split(" "), name[len(short) :].split()
    if not left or _is_loose(left[0]):
        return short
    # "… Phone with Enhanced Noise", of "with Enhanced Noise Reduction", says something else.
    joined = [n for n, word in enumerate(words) if word.lower() in _JOINING and n >= _LEAST_WORDS]
    return without_loose_end(" ".join(words[: joined[-1]])) if joined else short


_LEAST_WORDS = 3
_JOINING = frozenset({"with", "and", "for", "&", "+"})
_LOOSE = frozenset(
    {"", "with", "and", "for", "of", "the", "in", "a", "an", "to", "by", "or", "is", "are", "from"}
)
_NUMBER = re.compile(r"[\d.,/#x×-]+$")


def _is_loose(word: str) -> bool:
    return word.lower().strip(",;:.&") in _LOOSE


_PACK = re.compile(
    r"^(?:(?:pack|box|set|case|bundle|lot)s? of \d+|\d+[ -]?(?:pack|count|ct|pcs|pieces?|pc|per pack|/pack|box|set)s?)$",
    re.IGNORECASE,
)
# A piece with a word in it that is not the rest of a sentence.
_DETAIL = re.compile(
    r"(?!(?:for|with|and|of|by|in|as|use|includes?|requires?)\b)(?=.*[^\W\d_]).{2,40}$", re.IGNORECASE
)
_CODE = re.compile(r"^[A-Z0-9#/._-]*\d[A-Z0-9#/._-]*$")


# What parts the pieces of a title. A comma inside a number ("3,000 labels") does not.
_BETWEEN = re.compile(r"(?<!\d),|,(?!\d)|[;|()\[\]，；（）【】]|\s[-–—]+|--+")


def _bare(piece: str) -> str:
    """A piece without the marks around it; an inch mark behind a number belongs to the number."""
    piece = piece.strip(" .,;:-–—|“”!")
    is_whole = piece.count('"') == 2 and not (piece[0] == piece[-1] == '"')
    return piece if is_whole or re.search(r"\d\"$", piece) else piece.strip(' .,;:-–—|"“”!')


def split_title(title: str, brand: str | None, told: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The name that sentences use, and the pieces of a title that are worth telling beside it and what is `told`."""
    # An end mark inside a name would end the sentence that it stands in: "Scene It? Squabble" is one name.
    plain = re.sub(r"[!?！？]+", "", title)
    pieces = [_bare(p) for p in _BETWEEN.split(plain)]
    pieces = [q.strip(" .") for p in pieces for q in guard.sentences(p)]
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
    name = name or plain
    short = _bare(_shortened(name)).strip(" '") or title
    known = {(brand or "").lower(), "single", *(value.lower() for value in told)}
    return short, [d for d in details if d.lower() not in known and d.lower() not in short.lower()]
