"""Files of policy packs: the packaged `packs.toml` and a shop's own `policy.toml`, read and checked as a whole, together
with the shop's `voice.toml`.

Here: keys, types and values of a pack, and packs and a voice that cannot hold together. Not here: merging and what a pack
does to a text (packs), keys and values of a voice (voice). A file with a problem is refused whole: half of a policy is no policy.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from nightmarket.errors import PolicyRefused
from nightmarket.guard.packs import (
    ANY_FIELD,
    CHANNELS,
    CHARACTER_SETS,
    FIELDS,
    LINES,
    SCRIPTS,
    Breach,
    Pack,
    Packs,
    Rule,
    bounded,
    category_path,
    check,
    locale_parts,
    merge,
    phrase_breaches,
    refused_characters,
)
from nightmarket.guard.policy import banned, language
from nightmarket.guard.text import normalise
from nightmarket.guard.voice import OWN_VOICE, Voices, voices_of
from nightmarket.settings import GENERATED_SHOPS, get_settings

PACKAGED = "packs.toml"
OWN = "policy.toml"
_FIELD_NAMES = tuple(dict.fromkeys(name for names in FIELDS.values() for name in names))
_LIMITS = tuple(dict.fromkeys([*_FIELD_NAMES, *LINES.values()]))
# What the gate of the published table lets through; a longer text would stop the night.
_MOST = {"title": 200, "meta_description": 160, "bullets": 50}
_MOST_CHARACTERS = 5000
# A text in a language without a letter of its script cannot be written.
_PROBES = {"zh": "的一是不了人我在有他这为之大来以个中上们", "en": "etaoinshrdluETAOINSHRDLU"}


def shop_packs() -> Packs:
    """The packs of the chosen shop: the packaged ones, and those of `policy.toml` in its folder, and the voice of
    `voice.toml` there, each if it is there.

    Raises:
        PolicyRefused: a file cannot be used; lists every problem.
    """
    return read_packs(*(path if path.exists() else None for path in (shop_policy(), shop_voice())))


def shop_policy() -> Path:
    """Where this shop's `policy.toml` stands, whether it is there or not: beside its `shop.toml`."""
    return _beside_the_shop(OWN)


def shop_voice() -> Path:
    """Where this shop's `voice.toml` stands, whether it is there or not: beside its `shop.toml`."""
    return _beside_the_shop(OWN_VOICE)


def _beside_the_shop(name: str) -> Path:
    settings = get_settings()
    if settings.shop in GENERATED_SHOPS:
        return settings.state / "landing" / settings.shop / name
    return Path(settings.shop).expanduser().resolve() / name


def read_packs(file: Path | None = None, voice: Path | None = None) -> Packs:
    """The packaged packs, followed by those of a file, with the voice of another.

    Raises:
        PolicyRefused: a file cannot be read, a key or value of it is wrong, or packs and voice contradict each other; lists
            every problem with file, pack, key, value and what to do.
    """
    own: list[Rule] = []
    voices, problems = Voices(), list[str]()
    if file is not None:
        told, found = _parsed(file, "a file of packs")
        own, wrong = rules_of(told, str(file))
        problems += found + wrong
    if voice is not None:
        told, found = _parsed(voice, "a file of a voice")
        voices, wrong = voices_of(told, str(voice))
        problems += found + wrong
    packs = Packs((*_packaged(), *own), voices)
    # They are held against each other only when each is right by itself: half a pack contradicts what it should not.
    if not problems and file is not None:
        problems += _contradictions(packs.rules)
    if not problems and voice is not None:
        problems += _against(packs, str(voice))
    if problems:
        raise PolicyRefused(list(dict.fromkeys(problems)))
    return packs


def _parsed(file: Path, what: str) -> tuple[dict[str, Any], list[str]]:
    """What a file says, or why it cannot be read."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig")), []
    except OSError as error:
        return {}, [f"{file} cannot be read ({error.strerror or error}): name {what}."]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return {}, [f"{file} is not TOML: {error}. Correct it there; save it as UTF-8."]


@lru_cache(maxsize=1)
def _packaged() -> tuple[Rule, ...]:
    told = tomllib.loads(files("nightmarket.guard").joinpath(PACKAGED).read_text("utf-8"))
    rules, problems = rules_of(told, PACKAGED)
    if problems:
        raise PolicyRefused(problems)
    return tuple(rules)


def rules_of(told: Mapping[str, Any], file: str) -> tuple[list[Rule], list[str]]:
    """The rules of a parsed file, and a sentence for each fault of one by itself."""
    problems = [
        f"{file}: `{key}` is no part of a file of packs. Write each pack as [[pack]], its phrases under `forbidden`."
        for key in told
        if key != "pack"
    ]
    listed = told.get("pack", [])
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        return [], [*problems, f"{file}: `pack` must be a list of tables. Write [[pack]], with two brackets."]
    rules: list[Rule] = []
    for number, entry in enumerate(listed, start=1):
        name = entry.get("name")
        if not isinstance(name, str) or not name.strip():
            problems.append(
                f"{file}: pack {number}: name = {name!r}, but each pack needs a name for messages to point at."
            )
            continue
        if any(rule.name == name for rule in rules):
            problems.append(
                f"{file}: pack `{name}`: name = {name!r} is taken by an earlier pack. Give each a name of its own."
            )
            continue
        rule, found = _rule(name, file, entry)
        problems += found
        rules.append(rule)
    return rules, problems


def _short(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 120 else f"{told[:119]}…"


def _rule(name: str, file: str, entry: Mapping[str, Any]) -> tuple[Rule, list[str]]:
    said: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in entry.items():
        if key == "name":
            continue
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1)
            meant = f"Did you mean `{near[0]}`? " if near else ""
            problems.append(
                f"{file}: pack `{name}`: {key} = {_short(value)}, but there is no such key. {meant}Keys are name, {', '.join(_KEYS)}."
            )
            continue
        try:
            said[key] = _KEYS[key](value)
        except ValueError as error:
            problems.append(f"{file}: pack `{name}`: {key} = {_short(value)}, but {error}.")
    channel, locale, category = (said.pop(key, None) for key in ("channel", "locale", "category"))
    rule = Rule(name, file, said, channel, locale or (), category or ())
    return rule, [*problems, *_faults(rule)]


def _faults(rule: Rule) -> Iterable[str]:
    """What is wrong between the keys of one rule."""
    where = f"{rule.file}: pack `{rule.name}`"
    both = sorted({*rule.said.get("forbidden", ())} & {*rule.said.get("certificates", {})})
    for phrase in both:
        yield f"{where}: forbidden = {phrase!r}, but `certificates` allows it with a certificate. Keep one of the two."
    if rule.channel is None:
        return
    shown = {*FIELDS[rule.channel], *(LINES[name] for name in FIELDS[rule.channel] if name in LINES)}
    fields = f"{rule.channel} has {', '.join(sorted(shown))}"
    for limit in rule.said.get("limits", {}):
        if limit not in shown:
            yield f"{where}: limits = {limit!r}, but {fields}. Take the limit away, or correct the channel."
    for phrase, field in rule.said.get("required", {}).items():
        if field != ANY_FIELD and field not in FIELDS[rule.channel]:
            yield f"{where}: required = {phrase!r} in {field!r}, but {fields}. Name one of these, or `{ANY_FIELD}`."


# --- packs that cannot hold together --------------------------------------------------------------------------------------


def _contradictions(rules: Sequence[Rule]) -> Iterable[str]:
    """Problems of every pack that can come about: each channel, and each locale and category that a rule names."""
    locales = sorted({(), *(rule.locale for rule in rules)})
    by_category: dict[tuple[str, ...], list[Rule]] = {(): []}
    for rule in rules:
        by_category.setdefault(rule.category, []).append(rule)
    for channel in CHANNELS:
        for locale in locales:
            for category in sorted(by_category):
                # Only rules of the category's own path can fit: a shop may have a pack for each of a thousand categories.
                path = [category[:depth] for depth in range(len(category) + 1)]
                near = [rule for part in path for rule in by_category.get(part, ())]
                fitting = [rule for rule in near if rule.fits(channel, locale, category)]
                yield from _impossible(merge(fitting, channel, "-".join(locale), " > ".join(category)))


def _impossible(pack: Pack) -> Iterable[str]:
    def where(key: str, of: str = "") -> str:
        rule = pack.origins[key, of]
        return f"{rule.file}: pack `{rule.name}`"

    target = f"{pack.channel}, {pack.locale or 'any locale'}, {pack.category or 'any category'}"
    probe = _PROBES[language(pack.locale)] if pack.locale[:2] in _PROBES else ""
    if probe and len(refused_characters(probe, pack.characters)) == len(probe):
        script = "Chinese" if language(pack.locale) == "zh" else "Latin"
        yield (
            f"{where('characters')}: characters = {_told(pack.characters)}, but no {script} letter is in it, so nothing could be "
            f"written for locale {pack.locale}. Add them, or give the pack a `locale`."
        )
    for phrase, field in pack.required.items():
        here = f"{where('required', phrase)}: required = {phrase!r}"
        for breach in phrase_breaches("", phrase, pack, set()):
            other = breach.text.lower()
            carried = pack.certificates.get(other)
            what = "forbids" if carried is None else f"allows only with the certificate `{carried}`"
            yield (
                f"{here}, but {where('phrases', other)} {what} {other!r}. Take one away, or write "
                f"lifted = [{other!r}] in the pack that requires it."
            )
        for found in banned(phrase, pack.locale):
            yield (
                f"{here}, but {found.text!r} is banned everywhere ({found.kind}). Require other words, or give the pack the "
                f"`locale` for which they are meant."
            )
        if refused := refused_characters(phrase, pack.characters):
            yield (
                f"{here}, but {where('characters')} does not allow {refused!r} ({target}). Allow them, or require other words."
            )
        most = pack.limits.get(LINES.get(field, field))
        if most is not None and len(phrase) > most:
            yield (
                f"{here}, which has {len(phrase)} characters, but {where('limits', LINES.get(field, field))} allows {most} in "
                f"`{field}` ({target}). Raise the limit, or require fewer words."
            )


def _told(characters: str | tuple[str, ...] | None) -> str:
    return repr(characters) if isinstance(characters, str) else repr(list(characters or ()))


# --- a voice that says what it must not -----------------------------------------------------------------------------------


def _against(packs: Packs, file: str) -> Iterable[str]:
    """What a voice says that it avoids itself or that the packs without a category do not allow."""
    for spoken, voice in packs.voices.by_language.items():
        regions = {"-".join(rule.locale) for rule in packs.rules if rule.locale[:1] == (spoken,)}
        for locale in sorted({spoken, *regions}):
            pack = packs.pack("shop_page", locale, None)
            for key, field, texts in (
                ("use", "facts", voice.use),
                ("examples", "description", voice.examples),
            ):
                for text in texts:
                    for breach in check({field: text}, pack):
                        # A preferred word may need a certificate: it is preferred where a product carries it.
                        if breach.kind != "required" and (key, breach.kind) != ("use", "certificate"):
                            yield f"{file}: {key}.{spoken} = {_short(text)}, but {_refused(breach, spoken)}."
        for rule in packs.rules:
            for required in rule.said.get("required", {}) if rule.locale[:1] in ((), (spoken,)) else ():
                for phrase in voice.avoid:
                    if re.search(bounded(phrase), required, re.IGNORECASE):
                        yield (
                            f"{file}: avoid.{spoken} = {phrase!r}, but {rule.file}: pack `{rule.name}` requires "
                            f"{required!r}. Take one away."
                        )


def _refused(breach: Breach, spoken: str) -> str:
    if breach.kind == "avoided":
        return f"{breach.text!r} is avoided; take it away here or from avoid.{spoken}"
    where = "policy.toml" if breach.kind == "banned" else f"pack `{breach.pack}`"
    return f"{breach.text!r} breaks {where} ({breach.detail}); write other words"


# --- values, key by key: each returns what a rule holds, or says in ValueError what the value must be -----------------------


def _channel(value: Any) -> str:
    if value not in CHANNELS:
        raise ValueError(
            f"there is no such channel; write one of {', '.join(CHANNELS)}, or leave the key out for all"
        )
    return str(value)


def _locale(value: Any) -> tuple[str, ...]:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*", value):
        raise ValueError('it must be a language or a locale, such as "zh" or "en-GB"')
    return locale_parts(value)


def _category(value: Any) -> tuple[str, ...]:
    if not isinstance(value, str) or not category_path(value):
        raise ValueError('it must be a category with all below it, such as "Food" or "Food > Tea"')
    return category_path(value)


def _limits(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise ValueError("it must be a table, such as { title = 60 }")
    for name, most in value.items():
        if name not in _LIMITS:
            raise ValueError(f"{name!r} has no limit; limits are {', '.join(_LIMITS)}")
        least, greatest = int(name != "bullets"), _MOST.get(name, _MOST_CHARACTERS)
        if isinstance(most, bool) or not isinstance(most, int) or not least <= most <= greatest:
            nothing = "; with 0 nothing could be written" if most == 0 else ""
            raise ValueError(f"{name} must be a whole number from {least} to {greatest}{nothing}")
    return dict(value)


def _phrase(value: Any) -> str:
    phrase = normalise(value) if isinstance(value, str) else ""
    if not any(c.isalnum() for c in phrase):
        raise ValueError(f"{value!r} is no phrase: write words, at least one letter or digit")
    return phrase


def _phrases(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError('it must be a list of phrases, such as ["one", "two words"]')
    return tuple(_phrase(entry).lower() for entry in value)


def _certificates(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(
            'it must be a table of phrases with their certificate, such as { "organic" = "organic" }'
        )
    for phrase, name in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(
                f"the certificate of {phrase!r} is {name!r}; write its name with letters, digits and _, such as eu_organic"
            )
    return {_phrase(phrase).lower(): name for phrase, name in value.items()}


def _required(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(
            f'it must be a table of phrases with their field, such as {{ "Ad" = "{ANY_FIELD}" }}'
        )
    for phrase, field in value.items():
        if field not in (ANY_FIELD, *_FIELD_NAMES):
            raise ValueError(
                f"the field of {phrase!r} is {field!r}; write {ANY_FIELD}, {', '.join(_FIELD_NAMES)}"
            )
    return {_phrase(phrase): field for phrase, field in value.items()}


def _characters(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(
                f'it is no regular expression ({error}); write one class in brackets, such as "[A-Za-z0-9.,]"'
            ) from error
        if not re.fullmatch(r"\[\^?\]?(?:\\.|[^\]\\])*\]", value, re.DOTALL):
            raise ValueError(
                f'it must be one class in brackets, such as "[A-Za-z0-9.,]", or a list of {", ".join(CHARACTER_SETS)}'
            )
        if not re.search(value, _letters()):
            raise ValueError(
                "it allows no letter, so nothing could be written; add letters, such as A-Za-z or \\u4e00-\\u9fff"
            )
        return value
    names = value if isinstance(value, list) else [value]
    unknown = [name for name in names if name not in CHARACTER_SETS]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} names no characters; write a class in brackets, or a list of {', '.join(CHARACTER_SETS)}"
        )
    if not {"letters", *SCRIPTS.values()} & {*names}:
        raise ValueError("it allows no letter, so nothing could be written; add letters, latin or han")
    return tuple(names)


@lru_cache(maxsize=1)
def _letters() -> str:
    return "".join(filter(str.isalpha, map(chr, range(0x10000))))


def _ai_label(value: Any) -> dict[str, Any]:
    kinds = {"text": str, "metadata": bool}
    if not isinstance(value, dict) or not all(
        key in kinds and isinstance(entry, kinds[key]) for key, entry in value.items()
    ):
        raise ValueError(
            'it must be { text = "words, or nothing for none", metadata = true or false }, or one of both'
        )
    return dict(value)


def _risk(value: Any) -> str:
    if value not in ("low", "high"):
        raise ValueError("the risk is `low` or `high`")
    return str(value)


_KEYS: dict[str, Callable[[Any], Any]] = {
    "channel": _channel, "locale": _locale, "category": _category, "limits": _limits, "forbidden": _phrases,
    "certificates": _certificates, "except": _phrases, "lifted": _phrases, "required": _required,
    "characters": _characters, "ai_label": _ai_label, "risk": _risk,
}  # fmt: skip
