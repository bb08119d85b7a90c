"""Texts of different products that read alike: caught by what is left of them without names and values, and told in
another order or with another beginning.

Two texts are twins when the sets of their five-word runs overlap to nine tenths or more (Jaccard). Sets that do must share a
run among the first tenth of each in one order, so only texts that share one there are compared. Texts that are the same
without names and values are one on the shelf: a catalogue has few that are not.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, permutations
from math import ceil

from nightmarket import guard
from nightmarket.products.product_copy.sheet import Sheet
from nightmarket.products.product_copy.text import Sentence, Text, faults, fields, judge, reordered
from nightmarket.products.product_copy.writing import plan, turn_of

ALIKE = 0.9
WORDS = 5
MOST_ORDERS = 120
_TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+|▪")


class Shelf:
    """Texts by their runs of words; asks in about the time of one look-up whether a new one has a twin."""

    def __init__(self) -> None:
        self._texts: set[frozenset[int]] = set()
        self._by_run: dict[int, list[frozenset[int]]] = {}

    @classmethod
    def of(cls, standing: Iterable[tuple[Sheet, str]]) -> Shelf:
        """The shelf of descriptions that readers see, each with the sheet of its product."""
        shelf = cls()
        for sheet, description in standing:
            shelf.add(runs_of(description, sheet))
        return shelf

    def has_twin(self, runs: frozenset[int]) -> bool:
        """Whether a text on the shelf overlaps with these runs to `ALIKE`."""
        if runs in self._texts:
            return True
        seen: set[frozenset[int]] = set()
        for run in _first(runs):
            for other in self._by_run.get(run, ()):
                if other in seen:
                    continue
                seen.add(other)
                shared = len(runs & other)
                if shared >= ALIKE * (len(runs) + len(other) - shared):
                    return True
        return False

    def add(self, runs: frozenset[int]) -> None:
        """Put a text on the shelf."""
        if runs in self._texts:
            return
        self._texts.add(runs)
        for run in _first(runs):
            self._by_run.setdefault(run, []).append(runs)


def place(text: Text, shelf: Shelf) -> tuple[Text, bool, bool]:
    """A text on the shelf, told another way where it would have had a twin; whether it had, and still has.

    Which way comes first is the product's own turn, so the same night makes the same texts.
    """
    own = runs_of(_joined(text.body), text.sheet)
    if not shelf.has_twin(own):
        shelf.add(own)
        return text, False, False
    for order in islice(_ways(text), MOST_ORDERS):
        runs = runs_of(_joined(order), text.sheet)
        if shelf.has_twin(runs):
            continue
        other = reordered(text, order)
        if not faults(fields(other), text.sheet, text.pack):
            shelf.add(runs)
            return other, True, False
    return text, True, True


def runs_of(description: str, sheet: Sheet) -> frozenset[int]:
    """The five-word runs of a description with names and values masked, as numbers."""
    masked = description
    names = (sheet.title, sheet.name, sheet.brand, sheet.leaf, *sheet.details)
    wanted = {part for part in (*names, *(fact.value for fact in sheet.facts)) if part}
    if wanted:
        pattern = "|".join(re.escape(part) for part in sorted(wanted, key=lambda part: (-len(part), part)))
        masked = re.sub(pattern, " ▪ ", masked, flags=re.IGNORECASE)
    words = _TOKEN.findall(masked.lower())
    runs = (" ".join(words[n : n + WORDS]) for n in range(max(1, len(words) - WORDS + 1)))
    return frozenset(zlib.crc32(run.encode()) for run in runs)


def _joined(body: Sequence[Sentence]) -> str:
    return " ".join(sentence.text for sentence in body)


def _first(runs: frozenset[int]) -> list[int]:
    return sorted(runs)[: len(runs) - ceil(ALIKE * len(runs)) + 1]


def _ways(text: Text) -> Iterator[list[Sentence]]:
    """Other ways to tell a text: other orders; then, where a house phrasing begins it, other beginnings in any order."""
    yield from _orders(text.body, text.sheet)
    if not text.body or text.body[0].origin == "free":
        return
    first, *others = text.body
    for lead in plan(text.sheet, [], text.pack).lead.alternatives:
        # A phrasing of two sentences begins no text that had one: what follows would be told twice.
        judged = judge([lead], text.sheet, text.pack, [], origin=first.origin)
        if (
            judged
            and lead != first.text
            and len(guard.sentences(lead)) == 1
            and {"name", "title"} & first.told
        ):
            yield [*judged, *others]
            yield from _orders([*judged, *others], text.sheet)


def _orders(told: Sequence[Sentence], sheet: Sheet) -> Iterator[list[Sentence]]:
    """Other orders of the sentences between the first, which names the product, and an invitation at the end."""
    body = list(told)
    front = next((n + 1 for n, s in enumerate(body) if {"name", "title"} & s.told), 1)
    back = len(body) - 1 if len(body) > front and not body[-1].told else len(body)
    middle = body[front:back]
    orders = list(islice(permutations(middle), 1, MOST_ORDERS // 4))
    start = turn_of(sheet) % len(orders) if orders else 0
    for order in [*orders[start:], *orders[:start]]:
        yield [*body[:front], *order, *body[back:]]
