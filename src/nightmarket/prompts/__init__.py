"""What a model is asked: templates, and `render`, which training examples and live requests share.

A template is a text file of turns (`--- system`, `--- user`). Facts are data: they are written as `key: value` lines with
the marks of chat templates taken out, and never become part of the instructions. The shop's voice, which was checked when it
was read, is a part of them. The house phrasings that grammars and templates are built from stand beside it
(`phrases.en.toml`, `phrases.zh.toml`, `summaries.en.toml`). Not here: who is asked (`llm`).
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from string import Template
from typing import Any

from nightmarket.errors import NightmarketError
from nightmarket.guard import Voice
from nightmarket.llm import Message

_FOLDER = files("nightmarket.prompts")
_LANGUAGES = {"en": "English", "zh": "Chinese"}
MOST_FACT_CHARACTERS = 200


def _digest(*beginnings: str) -> str:
    found = sorted((f.name, f.read_bytes()) for f in _FOLDER.iterdir() if f.name.startswith(beginnings))
    return hashlib.sha256(b"\0".join(name.encode() + b"\0" + body for name, body in found)).hexdigest()[:12]


PROMPT_VERSION = _digest("product_", "phrases.")
"""Digest of all templates and phrasings of product copy; it is written into every row that they made."""
SUMMARY_VERSION = _digest("profile_", "summaries.")
"""The same of customers' summaries: another way to sum up makes no product's copy due."""


def render(
    name: str, facts: Mapping[str, str], locale: str, voice: Voice | None = None
) -> tuple[Message, ...]:
    """The turns of the template `name` with `facts` filled in, in their order, and the shop's voice in the system turn.

    Raises:
        NightmarketError: there is no such template.
    """
    lines = "\n".join(f"{_line(key)}: {_line(value)}" for key, value in facts.items() if value)
    language = _LANGUAGES.get(locale.split("-")[0].lower(), "English")
    sound = manner(voice)
    return tuple(
        Message(
            role,
            Template(text).substitute(facts=lines, language=language) + (sound if role == "system" else ""),
        )
        for role, text in _template(name)
    )


def manner(voice: Voice | None) -> str:
    """What a writer is told of a voice, behind the system turn; empty where there is nothing to tell.

    What it avoids is not told: a small writer says the words that it reads. Its words are no template file, since those
    enter `PROMPT_VERSION` and so the copy of shops without a voice.
    """
    if voice is None:
        return ""
    lines = [f"Tone: {' '.join(voice.tone)}"] if voice.tone else []
    if voice.use:
        lines.append(f"Where they are true, prefer these words: {', '.join(voice.use)}.")
    if voice.examples:
        lines.append("Texts about other things, for their style alone; take no fact from them:")
        lines += [f"- {text}" for text in voice.examples]
    return "".join(f"\n{line}" for line in lines)


def phrases(locale: str) -> Mapping[str, Mapping[str, list[str]]]:
    """The house phrasings of a language: section (a kind of attribute, `lead`, `end`, `pairs`) to form to phrases."""
    return _phrases("zh" if locale.lower().startswith("zh") else "en")


def summaries() -> Mapping[str, Mapping[str, list[str]]]:
    """The house phrasings of a customer's summary in English: by case (`once`, `some`, `steady`) its parts and their ways."""
    return _file("summaries.en")


@lru_cache(maxsize=8)
def vocabulary(name: str) -> frozenset[str]:
    """A list of English words that phrasing turns on: `nouns`, `mass`, `paired`, `attributes`."""
    return frozenset(_file("phrases.en")["words"][name].split())


@lru_cache(maxsize=2)
def _phrases(language: str) -> Mapping[str, Mapping[str, list[str]]]:
    return {section: forms for section, forms in _file(f"phrases.{language}").items() if section != "words"}


@lru_cache(maxsize=3)
def _file(name: str) -> dict[str, Any]:
    return tomllib.loads(_FOLDER.joinpath(f"{name}.toml").read_text("utf-8"))


@lru_cache(maxsize=16)
def _template(name: str) -> tuple[tuple[str, str], ...]:
    path = _FOLDER.joinpath(f"{name}.txt")
    if not path.is_file():
        known = ", ".join(sorted(f.name[:-4] for f in _FOLDER.iterdir() if f.name.endswith(".txt")))
        raise NightmarketError(f"There is no prompt template `{name}`; there are: {known}.")
    turns = re.split(r"^--- (system|user|assistant)\n", path.read_text("utf-8"), flags=re.MULTILINE)
    return tuple((role, text.strip()) for role, text in zip(turns[1::2], turns[2::2], strict=True))


def _line(text: str) -> str:
    """A fact as one short line that holds no mark of a chat template."""
    plain = re.sub(r"<\|.*?\|>|\[/?INST\]|<</?SYS>>", " ", text)
    return " ".join(plain.replace("<|", " ").replace("|>", " ").split())[:MOST_FACT_CHARACTERS]
