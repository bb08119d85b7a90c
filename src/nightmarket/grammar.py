"""Grammars made of literals only, walked instead of sampled.

In such a GBNF most characters are forced: only where alternatives part has a model a choice. `walk` asks for one token at
each parting and hands the forced text over as prompt, which llama.cpp evaluates about three times as fast as it samples;
the tail after the last choice costs nothing. Not here: grammars with classes or repetition (llama.cpp samples those).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_RULE = re.compile(r"^([a-z][\w-]*) ::= (.*)$")
_SYMBOL = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([a-z][\w-]*)|(\|))')
MOST_PATHS = 500


@dataclass(frozen=True)
class Literal:
    """A piece of text that a grammar asks for as it stands."""

    text: str


Symbol = Literal | str
Rules = Mapping[str, tuple[tuple[Symbol, ...], ...]]
_Path = tuple[str, tuple[Symbol, ...]]


def parse(text: str) -> Rules | None:
    """The rules of a GBNF in which every rule is one line of literals and names; None for any other grammar."""
    rules: dict[str, tuple[tuple[Symbol, ...], ...]] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        rule = _RULE.match(line)
        ways = _ways(rule[2]) if rule else None
        if rule is None or ways is None:
            return None
        rules[rule[1]] = ways
    known = all(isinstance(s, Literal) or s in rules for ways in rules.values() for way in ways for s in way)
    return rules if "root" in rules and known and not _is_recursive(rules) else None


def _ways(body: str) -> tuple[tuple[Symbol, ...], ...] | None:
    ways: list[list[Symbol]] = [[]]
    position = 0
    body = body.rstrip()
    while position < len(body):
        found = _SYMBOL.match(body, position)
        if not found:
            return None
        position = found.end()
        if found[3]:
            ways.append([])
        elif found[2]:
            ways[-1].append(found[2])
        else:
            ways[-1].append(Literal(re.sub(r"\\(.)", r"\1", found[1])))
    return tuple(map(tuple, ways))


def _is_recursive(rules: Rules) -> bool:
    def reaches(name: str, above: frozenset[str]) -> bool:
        if name in above:
            return True
        return any(reaches(s, above | {name}) for way in rules[name] for s in way if isinstance(s, str))

    return reaches("root", frozenset())


def matches(rules: Rules, text: str) -> bool:
    """Whether `text` is one of the grammar's texts, from its first character to its last."""

    def after(symbol: Symbol, starts: frozenset[int]) -> frozenset[int]:
        if isinstance(symbol, Literal):
            return frozenset(at + len(symbol.text) for at in starts if text.startswith(symbol.text, at))
        ends: frozenset[int] = frozenset()
        for way in rules[symbol]:
            at = starts
            for part in way:
                at = after(part, at)
            ends |= at
        return ends

    return len(text) in after("root", frozenset({0}))


def walk(rules: Rules, choose: Callable[[str, Sequence[str]], str]) -> str:
    """The text of a grammar, with every parting of ways decided by `choose`.

    `choose(said, ways)` gets the text so far and how it may go on, and gives back the beginning of one way, at least a
    character of it, or "" to end where a way is empty.
    """
    said = ""
    paths = _open([("", ("root",))], rules)
    while True:
        common = _common([pending for pending, _ in paths])
        if len(paths) > 1:
            # Words are chosen whole: a model reads "The" and then picks " weight", never "The w" and then "eight".
            common = common[: common.rfind(" ")] if " " in common else ""
        if common:
            said += common
            paths = _open([(pending[len(common) :], rest) for pending, rest in paths], rules)
            continue
        if len(paths) == 1 or all(not pending for pending, _ in paths):
            return said
        taken = choose(said, list(dict.fromkeys(pending for pending, _ in paths)))
        if not taken and any(not pending for pending, _ in paths):
            return said
        following = [(pending[len(taken) :], rest) for pending, rest in paths if pending.startswith(taken)]
        if not taken or not following:
            # Half a character of a script with long characters: the first way is as good as any.
            taken = next(pending for pending, _ in paths if pending)
            following = [
                (pending[len(taken) :], rest) for pending, rest in paths if pending.startswith(taken)
            ]
        said += taken
        paths = _open(following, rules)


def _open(paths: Sequence[_Path], rules: Rules) -> list[_Path]:
    """Paths whose text is a literal or the end: names are replaced by their ways."""
    opened: dict[_Path, None] = {}
    waiting = list(paths)
    while waiting:
        pending, rest = waiting.pop(0)
        if pending or not rest:
            opened[(pending, rest)] = None
        elif isinstance(rest[0], Literal):
            # Literals in a row are one text, so that a choice is made between whole sentences.
            text, further = rest[0].text, rest[1:]
            waiting.insert(0, (text, further))
            if not text and not further:
                waiting.pop(0)
                opened[("", ())] = None
        else:
            waiting[:0] = [("", (*way, *rest[1:])) for way in rules[rest[0]]]
        if len(opened) > MOST_PATHS:
            raise ValueError(f"The grammar leaves more than {MOST_PATHS} ways at once.")
    return list(opened)


def _common(texts: Sequence[str]) -> str:
    shortest, longest = min(texts), max(texts)
    for index, character in enumerate(shortest):
        if longest[index] != character:
            return shortest[:index]
    return shortest


def alternatives(texts: Sequence[str]) -> str:
    """GBNF of exactly these texts."""
    return "root ::= " + " | ".join(quote(text) for text in texts)


def quote(text: str) -> str:
    """A text as a literal of GBNF; what cannot be printed becomes a blank."""
    body = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else " " for c in body) + '"'
