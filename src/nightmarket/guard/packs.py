"""Policy packs: the rules for a text by channel, locale and category, and what a text breaks of them.

A rule of a file speaks of all texts that its selectors fit; a pack is what the fitting rules say together, with the shop's
voice in the text's language. Here: merging rules into a pack, holding texts against it, fitting sentences into its lengths.
Not here: reading and checking files (pack_files, voice), phrases banned everywhere (policy), whether the product's facts
bear a sentence (claims), and what is done about a breach (products).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

from nightmarket.errors import PolicyRefused
from nightmarket.guard.policy import banned, language
from nightmarket.guard.text import normalise
from nightmarket.guard.voice import OWN_VOICE, Voice, Voices

# The parts of a text that each channel shows.
FIELDS: dict[str, tuple[str, ...]] = {
    "shop_page": ("title", "description", "bullets", "meta_description"),
    "email": ("subject", "headline", "line", "body"),
    "push": ("headline", "line"),
    "search_ad": ("headline", "line"),
}
CHANNELS = tuple(FIELDS)
# Parts that hold several texts, one a line, and the limit that each of these has.
LINES = {"bullets": "bullet", "line": "line"}
ANY_FIELD = "any"
# Sets of characters by what they are, and by their script. Blanks are always allowed, marks on letters with any letter.
KINDS_OF_CHARACTERS = ("letters", "digits", "punctuation", "symbols", "emoji")
SCRIPTS = {
    "LATIN": "latin", "FULLWIDTH LATIN": "latin", "CJK": "han", "IDEOGRAPHIC": "han", "HIRAGANA": "kana",
    "KATAKANA": "kana", "HALFWIDTH KATAKANA": "kana", "HANGUL": "hangul", "CYRILLIC": "cyrillic", "GREEK": "greek", "ARABIC": "arabic",
    "HEBREW": "hebrew", "THAI": "thai", "DEVANAGARI": "devanagari",
}  # fmt: skip
CHARACTER_SETS = (*KINDS_OF_CHARACTERS, *dict.fromkeys(SCRIPTS.values()))
ROW_KEY = ("product_id", "channel", "locale")
# Texts in these states are shown to nobody.
_HIDDEN = frozenset({"retired", "blocked"})
# Two packs of the same rules may only have two versions when this differs: raise it when rules come to mean something else.
_MEANING = "packs-1"

Kind = Literal["length", "count", "banned", "forbidden", "certificate", "required", "characters", "avoided"]
Characters = str | tuple[str, ...] | None


@dataclass(frozen=True)
class AiLabel:
    """How a text that a model wrote is marked: words beside it (empty: none), and a flag in its metadata.

    Whoever shows the text puts the words there; `check` does not look for them inside the text.
    """

    text: str = ""
    metadata: bool = False


@dataclass(frozen=True)
class Breach:
    """Something in a text that its pack does not allow.

    Attributes:
        kind: `length` and `count` (too much), `banned` (policy.toml), `forbidden` (a pack), `certificate` (a phrase whose
            certificate the product does not carry), `required` (a phrase that is not there), `characters`, `avoided` (a
            phrase that the shop's voice avoids).
        field: the part of the text, or `any` for a required phrase that no part has.
        text: the words, or what is over the limit of a length.
        detail: what is wrong, for people.
        pack: the name of the pack whose rule it is, or `policy.toml`, or `voice.toml`.
    """

    kind: Kind
    field: str
    text: str
    detail: str
    pack: str


@dataclass(frozen=True)
class Rule:
    """One `[[pack]]` of a file: for which texts, and what it says; `said` holds checked values by key."""

    name: str
    file: str
    said: Mapping[str, Any]
    channel: str | None = None
    locale: tuple[str, ...] = ()
    category: tuple[str, ...] = ()

    @property
    def specificity(self) -> tuple[int, int, bool]:
        """General rules before specific ones. Two that fit one text are equal only where their selectors are."""
        return (len(self.category), len(self.locale), self.channel is not None)

    def fits(self, channel: str, locale: tuple[str, ...], category: tuple[str, ...]) -> bool:
        return (
            self.channel in (None, channel)
            and self.locale == locale[: len(self.locale)]
            and self.category == category[: len(self.category)]
        )


@dataclass(frozen=True)
class Pack:
    """The rules in effect for the texts of one channel, locale and category.

    Attributes:
        limits: most characters of a field, and most bullets; only fields that the channel shows.
        forbidden: phrases that must not stand there, beside those of policy.toml.
        certificates: phrase → the certificate that a product must carry for it.
        exceptions: phrases in which a forbidden or certified one is meant otherwise.
        required: phrase → the field that must have it, or `any`.
        characters: a regex class, names of CHARACTER_SETS, or None where all may stand.
        risk: `high` where a wrong word does harm.
        voice: how the texts sound, or None where the shop says nothing about it.
        merged: names of the packs behind it, from general to specific.
        origins: the rule that said it, by (key, phrase or field).
    """

    channel: str
    locale: str
    category: str
    limits: Mapping[str, int]
    forbidden: frozenset[str]
    certificates: Mapping[str, str]
    exceptions: frozenset[str]
    required: Mapping[str, str]
    characters: Characters
    ai_label: AiLabel
    risk: Literal["low", "high"]
    voice: Voice | None = None
    merged: tuple[str, ...] = field(default=(), compare=False)
    origins: Mapping[tuple[str, str], Rule] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def version(self) -> str:
        """A digest of exactly the rules in effect: names of packs, their order, their files and the voice do not enter."""
        rules = [
            _MEANING, sorted(self.limits.items()), sorted(self.forbidden), sorted(self.certificates.items()),
            sorted(self.exceptions), sorted(self.required.items()),
            self.characters if self.characters is None or isinstance(self.characters, str) else sorted(self.characters),
            self.ai_label.text, self.ai_label.metadata, self.risk,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(rules, ensure_ascii=False).encode()).hexdigest()[:12]

    def told(self) -> list[tuple[str, str, str]]:
        """Its rules for people: what, value, and the pack that says so."""
        rows: list[tuple[str, str, str]] = [("risk", self.risk, self._origin("risk"))]
        rows += [(f"most of {name}", str(most), self._origin("limits", name)) for name, most in sorted(self.limits.items())]  # fmt: skip
        if self.characters is not None:
            allowed = self.characters if isinstance(self.characters, str) else ", ".join(self.characters)
            rows.append(("characters", allowed, self._origin("characters")))
        rows += [("required", f"{phrase} ({where})", self._origin("required", phrase)) for phrase, where in sorted(self.required.items())]  # fmt: skip
        rows += [("forbidden", phrase, self._origin("phrases", phrase)) for phrase in sorted(self.forbidden)]
        rows += [(f"needs {carried}", phrase, self._origin("phrases", phrase)) for phrase, carried in sorted(self.certificates.items())]  # fmt: skip
        rows += [("except", phrase, self._origin("except", phrase)) for phrase in sorted(self.exceptions)]
        rows.append(("AI label, words", self.ai_label.text or "none", self._origin("ai_label", "text")))
        marked = "yes" if self.ai_label.metadata else "no"
        rows.append(("AI label, metadata", marked, self._origin("ai_label", "metadata")))
        voice = self.voice or Voice()
        said = {"tone": voice.tone, "use": voice.use, "avoid": voice.avoid, "example": voice.examples}
        return rows + [(what, value, OWN_VOICE) for what, listed in said.items() for value in listed]

    def prefers(self, text: str) -> bool:
        """Whether a text has a word or phrase that the voice prefers."""
        words = _pattern_of(self.voice.use, text) if self.voice else None
        return words is not None and words.search(text) is not None

    def _origin(self, key: str, of: str = "") -> str:
        rule = self.origins.get((key, of))
        return rule.name if rule else ""

    @cached_property
    def _meanings(self) -> dict[str, tuple[str | None, str]]:
        """Of each phrase the certificate it needs (None: forbidden), and the pack that says so."""
        needed = dict.fromkeys(self.forbidden) | dict(self.certificates)
        return {p.casefold(): (carried, self._origin("phrases", p)) for p, carried in needed.items()}


@dataclass(frozen=True, eq=False)
class Packs:
    """All rules of a shop, the packaged ones first, and its voice; see `read_packs`."""

    rules: tuple[Rule, ...]
    voices: Voices = field(default_factory=Voices)
    _made: dict[tuple[str, str, tuple[str, ...]], Pack] = field(default_factory=dict, repr=False)

    def pack(self, channel: str, locale: str | None, category: str | None) -> Pack:
        """The rules that fit, merged from general to specific; of two with equal selectors the later in the files wins.

        Order: depth of the category, then of the locale (none, language, region), then with a channel. So only rules
        with equal selectors depend on where they stand. Phrases add up; all other keys replace, field by field.

        Raises:
            PolicyRefused: there is no such channel.
        """
        if channel not in FIELDS:
            raise PolicyRefused([f"There is no channel {channel!r}; there are {', '.join(CHANNELS)}."])
        parts, path = locale_parts(locale), category_path(category)
        key = (channel, "-".join(parts), path)
        if key not in self._made:
            fitting = [rule for rule in self.rules if rule.fits(channel, parts, path)]
            merged = merge(fitting, channel, locale or "", category or "")
            self._made[key] = replace(merged, voice=self.voices.of(locale))
        return self._made[key]


def merge(rules: Iterable[Rule], channel: str, locale: str, category: str) -> Pack:
    """What rules that fit a text say together."""
    ordered = sorted(rules, key=lambda rule: rule.specificity)
    limits: dict[str, int] = {}
    phrases: dict[str, str | None] = {}  # the certificate it needs, or None: forbidden
    required: dict[str, str] = {}
    exceptions: set[str] = set()
    values: dict[str, Any] = {}
    label: dict[str, Any] = {}
    origins: dict[tuple[str, str], Rule] = {}
    shown = {*FIELDS[channel], *(LINES[name] for name in FIELDS[channel] if name in LINES)}
    for rule in ordered:
        said = rule.said
        lifted = said.get("lifted", ())
        phrases = {phrase: carried for phrase, carried in phrases.items() if phrase not in lifted}
        required = {phrase: where for phrase, where in required.items() if phrase.lower() not in lifted}
        told: dict[str, dict[str, Any]] = {
            "limits": {k: v for k, v in said.get("limits", {}).items() if k in shown},
            "phrases": dict.fromkeys(said.get("forbidden", ())) | dict(said.get("certificates", {})),
            "required": {k: v for k, v in said.get("required", {}).items() if v == ANY_FIELD or v in shown},
            "except": dict.fromkeys(said.get("except", ())),
            "ai_label": said.get("ai_label", {}),
        }
        limits |= told["limits"]
        phrases |= told["phrases"]
        required |= told["required"]
        exceptions |= told["except"].keys()
        label |= told["ai_label"]
        origins |= {(key, of): rule for key, entries in told.items() for of in entries}
        for key in ("characters", "risk"):
            if key in said:
                values[key] = said[key]
                origins[key, ""] = rule
    return Pack(
        channel=channel,
        locale=locale,
        category=category,
        limits=limits,
        forbidden=frozenset(phrase for phrase, carried in phrases.items() if carried is None),
        certificates={phrase: carried for phrase, carried in phrases.items() if carried is not None},
        exceptions=frozenset(exceptions),
        required=required,
        characters=values.get("characters"),
        ai_label=AiLabel(**label),
        risk=values.get("risk", "low"),
        merged=tuple(rule.name for rule in ordered),
        origins=origins,
    )


# --- texts ------------------------------------------------------------------------------------------------------------


def check(
    texts: Mapping[str, str], pack: Pack, *, certificates: frozenset[str] = frozenset(), names: Sequence[str] = (),
    facts: Sequence[str] = (),
) -> list[Breach]:  # fmt: skip
    """What a whole text breaks, field by field, then what is missing; a text that may go out has no breach.

    `texts` are the parts by field (`bullets` and `line`: one a line). A field without a limit is held against the phrases
    and characters alone. `certificates` are those that the product carries. `names` are its own name and brand: inside
    them words may stand that policy.toml leaves to names; what a pack forbids or certifies counts in names as well.
    `facts` are whatever else the catalogue says of it: inside these and its names may stand what the voice avoids.
    """
    breaches: list[Breach] = []
    # Line by line: a phrase does not begin in one bullet and end in the next.
    plain = {name: "\n".join(map(normalise, text.split("\n"))) for name, text in texts.items()}
    for name, text in texts.items():
        breaches += _too_much(name, text, pack)
        if refused := refused_characters(text, pack.characters):
            pack_name = pack._origin("characters")
            breaches.append(Breach("characters", name, refused[:20], f"{len(refused)} characters not allowed", pack_name))  # fmt: skip
        for found in banned(plain[name], pack.locale, names=names):
            # A title is the catalogue's own: a long article number in it is no telephone number.
            if name != "title" or found.kind != "contact":
                breaches.append(Breach("banned", name, found.text, found.kind, "policy.toml"))
        breaches += phrase_breaches(name, plain[name], pack, {carried.casefold() for carried in certificates})
        breaches += _avoided(name, plain[name], pack, (*names, *facts))
    for phrase, where in pack.required.items():
        looked = list(plain.values()) if where == ANY_FIELD else [plain.get(where, "")]
        if not any(re.search(bounded(phrase), text, re.IGNORECASE) for text in looked):
            origin = pack._origin("required", phrase)
            breaches.append(Breach("required", where, phrase, f"`{phrase}` must stand in it", origin))
    return breaches


def fit(field: str, sentences: Sequence[str], pack: Pack) -> str:
    """As many whole sentences from the first on as the field holds, else the first one cut between two words.

    A cut never parts a number from its unit; where there is no place to cut, nothing is left. Of `bullets`, the lines
    that fit. A field without a limit holds everything.
    """
    told = [sentence for sentence in sentences if sentence]
    if field == "bullets":
        most = pack.limits.get("bullet")
        fitting = [line for line in told if most is None or len(line) <= most]
        return "\n".join(fitting[: pack.limits.get("bullets")])
    joint = "" if language(pack.locale) == "zh" else " "
    most = pack.limits.get(field)
    if most is None:
        return joint.join(told)
    text = ""
    for sentence in told:
        longer = f"{text}{joint}{sentence}" if text else sentence
        if len(longer) > most:
            break
        text = longer
    return text or (_cut(told[0], most) if told else "")


def rescan(
    rows: Iterable[Mapping[str, Any]], pack_of: Callable[[Mapping[str, Any]], Pack]
) -> list[tuple[tuple[str, ...], list[Breach]]]:
    """The rows of published copy that break their packs of today, in their order, with their breaches.

    A row has `product_id`, `channel`, `locale` (its key) and the channel's fields as `outputs.product_copy` has them:
    `bullets` is a JSON list. It may also have `certificates`, `names` and `facts`, what `check` is to know of the product,
    and `status`: texts that are retired or blocked are passed over.
    """
    found = []
    for row in rows:
        if row.get("status") in _HIDDEN:
            continue
        pack = pack_of(row)
        texts = {name: row[name] for name in FIELDS[pack.channel] if row.get(name)}
        if "bullets" in texts:
            texts["bullets"] = "\n".join(" ".join(line.split()) for line in json.loads(texts["bullets"]))
        carried = frozenset(row.get("certificates") or ())
        names, facts = tuple(row.get("names") or ()), tuple(row.get("facts") or ())
        if breaches := check(texts, pack, certificates=carried, names=names, facts=facts):
            found.append((tuple(str(row[part]) for part in ROW_KEY), breaches))
    return found


# --- selectors and characters, also for those who read files --------------------------------------------------------------


def locale_parts(locale: str | None) -> tuple[str, ...]:
    """`zh_CN` → ("zh", "cn")."""
    return tuple((locale or "").replace("_", "-").lower().split("-")) if locale else ()


def category_path(category: str | None) -> tuple[str, ...]:
    """`Food >  Tea` → ("food", "tea"): compared without regard to case and to spaces."""
    parts = (" ".join(part.split()).casefold() for part in (category or "").split(">"))
    return tuple(part for part in parts if part)


def refused_characters(text: str, allowed: Characters) -> str:
    """The characters of a text that are not allowed, each once."""
    if allowed is None:
        return ""
    return "".join(c for c in dict.fromkeys(text) if not c.isspace() and not _is_allowed(c, allowed))


def bounded(phrase: str) -> str:
    """The pattern of a phrase as whole words of any alphabet; Chinese and Japanese have no blanks, so theirs match anywhere."""
    body = re.escape(phrase).replace(r"\ ", r"\s+")
    before = f"(?<!{_SPACED})" if re.match(_SPACED, phrase) else ""
    after = f"(?!{_SPACED})" if re.match(_SPACED, phrase[-1:]) else ""
    return f"{before}{body}{after}"


_SPACED = r"[^\W_\u3040-\u30ff\u3400-\u9fff]"  # a letter or digit of a script that parts words by blanks
_UNSPACED = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uff65]")
_EMOJI = re.compile(
    "[\u20e3\u231a\u231b\u23e9-\u23ff\u2600-\u27bf\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299\ufe0f"
    "\U0001f000-\U0001faff\U000e0020-\U000e007f]"
)
# "Not organic", "Waterproof: no", 不防水: who denies it does not claim it.
_DENIED = re.compile(r"(?:n[o'’]t |\bnon[- ]|不是?|并?非|未)$", re.IGNORECASE)
_DENIAL = re.compile(r"\s*[:：]\s*(?:no(?:ne)?\b|否|不|无)", re.IGNORECASE)
_BARE_NUMBER = re.compile(r"(?<![A-Za-z\d.,])\d[\d.,]*$")


@lru_cache(maxsize=8192)
def _is_allowed(character: str, allowed: str | tuple[str, ...]) -> bool:
    if isinstance(allowed, str):
        return re.fullmatch(allowed, character) is not None
    return not _sets_of(character).isdisjoint(allowed)


def _sets_of(character: str) -> frozenset[str]:
    """The sets of CHARACTER_SETS that a character belongs to; a control character belongs to none."""
    if _EMOJI.match(character):
        return frozenset({"emoji"})
    category = unicodedata.category(character)
    if category[0] == "M" or character in "\u200c\u200d":
        return frozenset({"letters", *SCRIPTS.values()})
    if category[0] == "L":
        name = unicodedata.name(character, "")
        return frozenset({"letters", *(ours for start, ours in SCRIPTS.items() if name.startswith(start))})
    kinds = {"N": "digits", "P": "punctuation", "S": "symbols"}
    return frozenset({kinds[category[0]]}) if category[0] in kinds else frozenset()


# --- the parts of a check ---------------------------------------------------------------------------------------------


def _too_much(name: str, text: str, pack: Pack) -> Iterable[Breach]:
    lines = text.split("\n") if name in LINES else [text]
    limit = LINES.get(name, name)
    if (most := pack.limits.get(limit)) is not None:
        for line in lines:
            if len(line) > most:
                origin = pack._origin("limits", limit)
                yield Breach("length", name, line[most:], f"{len(line)} of {most} characters", origin)
    lines = [line for line in lines if line.strip()]
    if name == "bullets" and len(lines) > (most := pack.limits.get(name, len(lines))):
        beyond = "\n".join(lines[most:])
        yield Breach("count", name, beyond, f"{len(lines)} of {most} bullets", pack._origin("limits", name))


def phrase_breaches(name: str, text: str, pack: Pack, carried: set[str]) -> Iterable[Breach]:
    """Forbidden and certified phrases, the longest at each place."""
    phrases = _pattern_of({*pack.forbidden, *pack.certificates}, text)
    if phrases is None:
        return
    for match in _outside(phrases, pack.exceptions, text):
        phrase = " ".join(match[0].split()).casefold()
        certificate, origin = pack._meanings.get(phrase, (None, ""))
        if certificate is None:
            yield Breach("forbidden", name, match[0], f"`{phrase}` must not be said here", origin)
        elif certificate.casefold() not in carried and not _is_denied(text, match):
            yield Breach("certificate", name, match[0], f"needs the certificate `{certificate}`", origin)


def _avoided(name: str, text: str, pack: Pack, own: Sequence[str]) -> Iterable[Breach]:
    """Phrases that the voice avoids; what the catalogue says of the product (`own`) is nobody's choice of words."""
    phrases = _pattern_of(pack.voice.avoid, text) if pack.voice else None
    if phrases is None:
        return
    told = [value for value in map(normalise, own) if phrases.search(value)]
    for match in _outside(phrases, [*pack.exceptions, *told], text):
        yield Breach("avoided", name, match[0], f"the shop's voice avoids `{match[0].lower()}`", OWN_VOICE)


def _outside(phrases: re.Pattern[str], others: Iterable[str], text: str) -> Iterable[re.Match[str]]:
    """Where phrases stand in a text, but not inside one of the others."""
    low = text.casefold()
    there = [re.compile(bounded(other), re.IGNORECASE) for other in others if other.casefold() in low]
    pardoned = [match.span() for pattern in there for match in pattern.finditer(text)]
    for match in phrases.finditer(text):
        if not any(start <= match.start() and match.end() <= end for start, end in pardoned):
            yield match


def _pattern_of(phrases: Iterable[str], text: str) -> re.Pattern[str] | None:
    """A pattern of the phrases that may stand in a text, the longest first; None where none does, as in nearly all texts."""
    low = text.casefold()
    there = sorted((p for p in phrases if p.casefold() in low), key=lambda phrase: (-len(phrase), phrase))
    return re.compile("|".join(map(bounded, there)), re.IGNORECASE) if there else None


def _is_denied(text: str, match: re.Match[str]) -> bool:
    before = text[max(0, match.start() - 6) : match.start()]
    return bool(_DENIED.search(before) or _DENIAL.match(text, match.end()))


def _cut(text: str, most: int) -> str:
    for end in range(min(most, len(text) - 1), 0, -1):
        before, after = text[end - 1], text[end]
        if not (before.isspace() or after.isspace() or _UNSPACED.match(before) or _UNSPACED.match(after)):
            continue
        head = text[:end].rstrip(" ,;:&|-–—(，、；：（")
        if head and not _BARE_NUMBER.search(head):
            return head
    return ""
