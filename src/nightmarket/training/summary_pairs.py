"""Pairs of what a shop knows of a customer's orders and a summary of it.

Facts are those of the shop's own customers who did not refuse profiling; where there are few, drawn from the catalogue's names.
No pair says whose facts they are, and each day of an order is moved, so that nobody's order is learnt. Customers with the same
preferences are on one side. Not here: what may be said of a customer (products.summaries), pairs of products (pairs).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket.products import summaries
from nightmarket.products.profile_summary import Facts, day_of, names_of, tellable
from nightmarket.prompts import summaries as phrasings
from nightmarket.training import pairs
from nightmarket.training.pairs import Pair

LEAST_CUSTOMERS = 60
"""Customers with orders below which facts are drawn: fewer are hardly on all sides."""
DRAWN = 240
MOST_MOVED = 400
"""Days by which an order is moved at most, back in time."""
_NAMES = 40


def made(known: Sequence[Facts], products: pa.Table, day: date, *, seed: int) -> Iterator[Pair]:
    """A pair for each of these customers' facts, in an order that digests give; of drawn facts where they are too few.

    Args:
        known: facts of customers (`profiles.known_facts`).
        products: rows of the mart `products`; brands and categories of drawn facts are theirs.
    """
    facts = list(known) if len(known) >= LEAST_CUSTOMERS else [*known, *drawn(products, day, seed=seed)]
    seen: set[str] = set()
    for what, own in sorted((_digest(own), own) for own in map(tellable, facts) if own.last_on is not None):
        random = pairs.draws(seed, what)
        moved = (
            replace(own, last_on=own.last_on - timedelta(days=int(random.integers(1, MOST_MOVED))))
            if own.last_on
            else own
        )
        side = pairs.side_of_group(group_of(own))
        turns = tuple((message.role, message.content) for message in summaries.messages(moved))
        for _ in range(pairs.TEXTS_A_PRODUCT if side == "train" else 1):
            text = told(moved, random)
            if text not in seen and not summaries.faults(text, moved):
                seen.add(text)
                yield Pair(what, side, turns, text, summaries.SUMMARY)


def drawn(products: pa.Table, day: date, *, seed: int) -> list[Facts]:
    """Facts that no customer has: numbers drawn, names of the catalogue's most frequent categories and brands."""
    random = np.random.default_rng([seed, 3])
    categories = [path.split(" > ")[-1] for path in _frequent(products, "category")]
    brands = _frequent(products, "brand")
    found = []
    for _ in range(DRAWN):
        orders = int(1 + random.geometric(0.25))
        last_on = day - timedelta(days=int(random.integers(1, MOST_MOVED)))
        every = int(random.integers(1, 120)) if orders > 2 else None
        picked = [categories[n] for n in random.permutation(len(categories))[: int(random.integers(3))]]
        brand = brands[int(random.integers(len(brands)))] if brands and random.random() < 0.5 else None
        found.append(
            Facts(orders if random.random() < 0.8 else 1, last_on, every, tuple(dict.fromkeys(picked)), brand)
        )
    return [replace(facts, every_days=None) if facts.orders < 3 else facts for facts in found]


def told(facts: Facts, random: np.random.Generator) -> str:
    """A summary in house phrasings that `random` draws."""
    case = "once" if facts.orders == 1 else "some" if facts.every_days is None else "steady"
    assert facts.last_on is not None
    every = facts.every_days or 0
    words = {
        "on": day_of(facts.last_on), "days": "day" if every <= 1 else f"{every} days", "orders": f"{facts.orders:,} orders",
        "times": "twice" if facts.orders == 2 else f"{facts.orders:,} times", "names": names_of(facts), "brand": facts.brand or "",
    }  # fmt: skip
    said = ""
    for part, ways in phrasings()[case].items():
        if words.get(part, "told"):
            said += ways[int(random.integers(len(ways)))].format(**words)
    return said


def group_of(facts: Facts) -> str:
    """What near-duplicates share: what is bought; where nothing is preferred, how often."""
    liked = "\x1f".join([*sorted(facts.categories), facts.brand or ""]).lower().strip("\x1f")
    return liked or f"{facts.orders} orders"


def _digest(facts: Facts) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _frequent(products: pa.Table, column: str) -> list[str]:
    if column not in products.column_names:
        return []
    counted = pc.value_counts(products[column].drop_null()).to_pylist()
    ordered = sorted(counted, key=lambda row: (-row["counts"], row["values"]))
    return [row["values"] for row in ordered[:_NAMES]]
