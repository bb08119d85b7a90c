"""What a slot of a list records: the product, where it came from, what rules did to it, and how likely it was.

Here: candidates of a block of lists, and filled slots as columns. Not here: how slots are filled (merchandising), for whom
(lists, twin, similar), and sentences (reasons).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightmarket.merchandising import Candidates, Slots
from nightmarket.products.recommendations.shelf import Opened
from nightmarket.ranking import Histories, Lists, Popularity

RANKED, POPULAR, NEW = 0, 1, 2
"""Sources of candidates: the model, what sells, and what nobody bought yet. -1: a rule put it there."""
BESIDE = 40
"""Candidates beyond the length of a list: what rules and exploration choose from."""


def candidates(
    best: Lists, histories: Histories, popularity: Popularity, codes: NDArray[np.int32], *, allowed: NDArray[np.bool_],
) -> Candidates:  # fmt: skip
    """A model's lists, filled with what sells, in the shop's codes; `codes` has one for each product of the model.

    A popular product's score is its share of the most popular one's buyers; the source says which scale it is.
    """
    lists, filled = popularity.fill(best, histories, allowed=allowed)
    share = popularity.counts / max(float(popularity.counts.max(initial=0)), 1e-9)
    there, product = lists.products >= 0, np.maximum(lists.products, 0)
    if not len(codes):
        return Candidates(lists.products, lists.scores, np.where(there, RANKED, -1).astype(np.int8))
    return Candidates(
        products=np.where(there, codes[product], np.int32(-1)).astype(np.int32),
        scores=np.where(filled, share[product], lists.scores).astype(np.float32),
        sources=np.where(filled, POPULAR, RANKED).astype(np.int8),
    )


def with_new(held: Candidates, new: NDArray[np.int32], k: int) -> Candidates:
    """Candidates with products that nobody bought yet behind them, in lists that have at least `k` others.

    They are there to be tried: what stands in the first `k` is never moved by them.
    """
    if not len(new):
        return held
    enough = (held.products >= 0).sum(axis=1) >= k
    again = (held.products[:, :, None] == new[None, None, :]).any(axis=1)
    more = np.where(enough[:, None] & ~again, new[None, :], np.int32(-1)).astype(np.int32)
    return Candidates(
        np.concatenate([held.products, more], axis=1),
        np.concatenate([held.scores, np.zeros(more.shape, np.float32)], axis=1),
        np.concatenate([held.sources, np.full(more.shape, NEW, np.int8)], axis=1),
    )


def at_most(held: Candidates, groups: NDArray[np.int32], most: int) -> Candidates:
    """Candidates without those of which a better `most` of the same group stand in their list; group -1 is no group."""
    if not len(groups):
        return held
    group = np.where(held.products >= 0, groups[np.maximum(held.products, 0)], -1)
    order = np.argsort(group, axis=1, kind="stable")
    ordered = np.take_along_axis(group, order, axis=1)
    width = group.shape[1]
    begins = np.ones(group.shape, np.bool_)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(begins, np.arange(width), 0), axis=1)
    nth = np.empty_like(order)
    np.put_along_axis(nth, order, np.arange(width)[None, :] - first, axis=1)
    kept = (group < 0) | (nth < most)
    return Candidates(np.where(kept, held.products, np.int32(-1)), held.scores, held.sources)


@dataclass(frozen=True)
class Filled:
    """The slots of a block of lists that hold something, list by list in the order of ranks.

    Attributes:
        row, place: which list, and which slot of it (from 0).
        product, source: the product's code, and an index of sources (-1: a rule's).
        is_forward: a rule brought it here, or further up.
        columns: what the ledger of slots says of each, ready for an output table.
    """

    row: NDArray[np.int64]
    place: NDArray[np.int64]
    product: NDArray[np.int32]
    source: NDArray[np.int8]
    is_forward: NDArray[np.bool_]
    is_exploration: NDArray[np.bool_]
    columns: dict[str, pa.Array]


def filled(slots: Slots, shelf: Opened, sources: tuple[str, ...]) -> Filled:
    """The filled slots of a block; `sources` names what `Slots.sources` points into."""
    row, place = np.nonzero(slots.products >= 0)
    product, source = slots.products[row, place], slots.sources[row, place]
    before, rules = slots.rank_before[row, place], slots.rules[row, place]
    explores = slots.is_exploration[row, place]
    forward = ((rules & shelf.forward) != 0) & ((source < 0) | (place + 1 < before)) & ~explores
    ids = shelf.book.rule_ids
    different, which = np.unique(rules, return_inverse=True)
    named = [[ids[bit] for bit in range(len(ids)) if mask >> bit & 1] for mask in different.tolist()]
    by_rule = [f"rule:{found[0]}" if len(found) == 1 else "rule" for found in named]
    codes = pa.array(np.where(source >= 0, source, len(sources) + which.reshape(-1)))
    columns = {
        "rank": pa.array(place + 1, pa.int64()),
        "product_id": shelf.table["product_id"].combine_chunks().take(pa.array(product)),
        "score": pa.array(slots.scores[row, place].astype(np.float64)),
        "candidate_source": pa.array([*sources, *by_rule], pa.string()).take(codes),
        "rank_before_rules": pa.array(before.astype(np.int64), mask=before == 0),
        "rules_applied": pa.array([json.dumps(found) for found in named], pa.string()).take(pa.array(which.reshape(-1))),
        "propensity": pa.array(slots.propensity[row, place]),
        "is_exploration": pa.array(explores),
    }  # fmt: skip
    return Filled(row, place, product, source, forward, explores, columns)
