"""The shop's voice: how its texts sound, as the file `voice.toml` of its folder says.

Here: keys, types and values of the file, and what of it holds in one language. Not here: whether the packs allow what it
says (pack_files), finding avoided words in a text (packs), and how a writer is told of it (prompts).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from nightmarket.guard.text import injection, normalise, personal

OWN_VOICE = "voice.toml"
KEYS = ("tone", "use", "avoid", "examples")
# Entries of a key (in a language), and characters of an entry. Tone, words to use and examples stand in front of every
# product that a writer is asked about: at most some 1,800 characters, of the 4,096 tokens that the packaged writer reads.
MOST = {"tone": (3, 150), "use": (12, 40), "avoid": (500, 60), "examples": (3, 300)}
_MARKS = re.compile(r"[<>]|\[/?INST\]", re.IGNORECASE)


@dataclass(frozen=True)
class Voice:
    """How texts of one language sound.

    Attributes:
        tone: short sentences for a writer.
        use: words and phrases to prefer where they are true, in the shop's spelling.
        avoid: words and phrases that are not said, normalised and in small letters.
        examples: texts that sound right. Their style counts; nothing in them is a fact.
    """

    tone: tuple[str, ...] = ()
    use: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Voices:
    """The voice of a shop: by language, and for all other languages the tone alone."""

    other: Voice = Voice()
    by_language: Mapping[str, Voice] = field(default_factory=dict)

    def of(self, locale: str | None) -> Voice | None:
        """The voice of a locale's language; None where the file says nothing about it."""
        language = re.split("[-_]", locale or "")[0].lower()
        found = self.by_language.get(language, self.other)
        return None if found == Voice() else found


def voices_of(told: Mapping[str, Any], file: str) -> tuple[Voices, list[str]]:
    """The voice of a parsed file, and a sentence for each fault of a key or value by itself."""
    problems: list[str] = []

    def fault(key: str, value: Any, why: str) -> None:
        shown = repr(value)
        problems.append(f"{file}: {key} = {shown if len(shown) <= 120 else f'{shown[:119]}…'}, but {why}.")

    def read(key: str, kind: str, value: Any) -> tuple[str, ...]:
        most, longest = MOST[kind]
        if not isinstance(value, list):
            fault(key, value, 'it must be a list of texts, such as ["one", "two words"]')
            return ()
        if len(value) > most:
            fault(key, value, f"{len(value)} are too many: write at most {most}")
        texts = []
        for entry in value:
            try:
                texts.append(_READ[kind](entry, longest))
            except ValueError as error:
                fault(key, entry, str(error))
        return tuple(dict.fromkeys(texts))

    tone: tuple[str, ...] = ()
    by_language: dict[str, Voice] = {}
    for key, value in told.items():
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            meant = f"did you mean `{near[0]}`? " if near else ""
            fault(key, value, f"there is no such key; {meant}Keys are {', '.join(KEYS)}")
        elif key == "tone":
            tone = read(key, key, [value] if isinstance(value, str) else value)
        elif not isinstance(value, dict):
            fault(key, value, 'it must be a table by language, such as { en = ["one", "two words"] }')
        else:
            for language, listed in value.items():
                if not re.fullmatch(r"[a-z]{2,3}", language):
                    fault(
                        f"{key}.{language}", listed, f"{language!r} is no language: write it as `en` or `zh`"
                    )
                    continue
                texts = read(f"{key}.{language}", key, listed)
                by_language[language] = replace(by_language.get(language, Voice()), **{key: texts})
    toned = {language: replace(voice, tone=tone) for language, voice in by_language.items()}
    return Voices(Voice(tone=tone), toned), problems


# --- values: each returns what a voice holds, or says in ValueError what the value must be -----------------------------------


def _text(value: Any, longest: int) -> str:
    """A text as the shop wrote it, on one line, in which nothing speaks to a model in another's name."""
    if not isinstance(value, str):
        raise ValueError("it must be a text, in quotes")
    text = " ".join(value.split())
    if not any(character.isalnum() for character in text):
        raise ValueError("there are no words: write at least one letter or digit")
    if len(text) > longest:
        raise ValueError(f"{len(text)} characters are too many: write at most {longest}")
    if marks := _MARKS.search(text):
        raise ValueError(f"{marks[0]!r} is a mark of markup or of a chat template: take it out")
    if hidden := [character for character in text if unicodedata.category(character) in _HIDDEN]:
        raise ValueError(f"there is a hidden character (U+{ord(hidden[0]):04X}): take it out")
    plain = normalise(text)
    # A line of its own may open a turn, and an order may be broken over two lines.
    for found in (*injection(value), *injection(plain)):
        raise ValueError(
            f"{found.text.strip()!r} speaks to the model: describe how texts sound, and give no orders"
        )
    for found in personal(plain):
        raise ValueError(f"there is personal data in it ({found.kind}): take it out")
    return text


def _phrase(value: Any, longest: int) -> str:
    """A phrase as texts are searched for it."""
    return normalise(_text(value, longest)).lower()


_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_READ: dict[str, Callable[[Any, int], str]] = {
    "tone": _text, "use": _text, "avoid": _phrase, "examples": _text,
}  # fmt: skip
