"""What a writer is tuned on: descriptions, and beside them fewer pairs of every other text that it may be asked for.

Descriptions are at least two thirds of what is learnt, whatever else there is: they are what the gate judges, and what a page needs.
Not here: how pairs are made (pairs, field_pairs, summary_pairs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from math import ceil
from types import MappingProxyType

import pyarrow as pa

from nightmarket import llm
from nightmarket.products import profiles
from nightmarket.training import field_pairs, pairs, summary_pairs
from nightmarket.training.pairs import Pair

SHARES: Mapping[str, float] = MappingProxyType(
    {"meta_description": 0.12, "bullets": 0.1, "title": 0.1, "summary": 0.18}
)
"""Pairs of a text for each description, at most, on each side; together one half, for every other pair takes a place from
descriptions: see docs/measurements.md."""
LEAST_LEARNT = 16
"""Pairs of a text below which a writer has not learnt to write it, and is not asked for it."""


def pairs_of(day: date, products: pa.Table, *, seed: int, languages: frozenset[str]) -> list[Pair]:
    """The pairs of a day: descriptions, then the others, fields in turn."""
    found = pairs.made(products, seed=seed, languages=languages)
    room = {
        (text, side): ceil(share * count)
        for text, share in SHARES.items()
        for side, count in pairs.counts(found).items()
    }
    beside = [*field_pairs.made(products, room, seed=seed, languages=languages)]
    if "en" in languages:
        beside += summary_pairs.made(profiles.known_facts(day), products, day, seed=seed)
    for text, side in room:
        found += pairs.on(side, pairs.of(text, beside))[: room[text, side]]
    return found


def learnt(frozen: Sequence[Pair]) -> list[str]:
    """The texts of which there are enough pairs to learn from, in the order of `llm.TEXTS`."""
    train = pairs.on("train", frozen)
    return [text for text in llm.TEXTS if text == "description" or len(pairs.of(text, train)) >= LEAST_LEARNT]


def counts(frozen: Sequence[Pair]) -> dict[str, Mapping[str, int]]:
    """By text, the pairs by side."""
    return {text: pairs.counts(some) for text in llm.TEXTS if (some := pairs.of(text, frozen))}
