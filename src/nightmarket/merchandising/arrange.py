"""From candidates to slots, for a block of lists at once.

Here: what each action does to a list, in which order, and what the pool of exploration is. Not here: reading and checking
rules (rules), which are in force and what they match (book), the draws (explore).

The order of an arrangement: `boost` and `bury` re-rank; `filter` and `frequency_cap` leave candidates out; pins take their
slots; promotions reserve theirs; the rest is filled best first under the caps. Where two rules want one slot the higher
priority wins; at equal priority what keeps out (`filter`, `frequency_cap`, `cap`) wins over what puts in (`pin`, then
`promote`), and after that the lower rule id. Everything runs over arrays of lists x candidates: the loops are over
candidates and rules, never over customers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
from numpy.typing import NDArray

from nightmarket.merchandising.explore import explore, keyed, mixed
from nightmarket.merchandising.slots import Candidates, Slots

# A promotion that finds too few candidates tries so many products of the catalogue before a list goes without: whom a
# thousand of them cannot be shown to, because they are bought or listed already, needs no promotion.
CATALOGUE_TRIED = 1000
_FREE, _NOTHING = -1, -2  # of a column: no rule leaves it out; there is no candidate


@dataclass(frozen=True)
class Pin:
    """A product and its place (from 0) in every list."""

    rule: int
    priority: int
    product: int
    place: int


@dataclass(frozen=True)
class Promotion:
    """Products that hold at least a share of the slots; `able` are those it may put in, by code."""

    rule: int
    priority: int
    share: float
    able: NDArray[np.bool_]

    @cached_property
    def in_order(self) -> NDArray[np.int64]:
        """What is tried when the candidates have none: the catalogue's order."""
        return np.flatnonzero(self.able)[:CATALOGUE_TRIED]


@dataclass(frozen=True)
class Cap:
    """At most `limit` products of a group in a list; `groups` has each product's group, -1: not capped."""

    rule: int
    priority: int
    limit: int
    groups: NDArray[np.int32]


@dataclass(frozen=True)
class Plan:
    """The rules of one placement, compiled against the catalogue; pins and promotions in the order in which they choose.

    Attributes:
        factors: what each product's score is multiplied by, or None where no rule does.
        marks: bits of the rules that multiply it, or None.
        filtered: the rule that filters each product, -1 for none, or None where no rule does.
        priorities: of each rule of the book.
    """

    factors: NDArray[np.float64] | None
    marks: NDArray[np.int64] | None
    filtered: NDArray[np.int16] | None
    priorities: NDArray[np.int64]
    pins: tuple[Pin, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    caps: tuple[Cap, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """Pairs of a list and a product, in the order of lists, each with the rule that says so (-1 where none does)."""

    rows: NDArray[np.int64]
    products: NDArray[np.int64]
    rules: NDArray[np.int16]

    @classmethod
    def none(cls) -> Pairs:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int16))

    def slice(self, begin: int, end: int) -> Pairs:
        """The pairs of rows `begin` to `end`, which then count from 0."""
        low, high = np.searchsorted(self.rows, [begin, end])
        return Pairs(self.rows[low:high] - begin, self.products[low:high], self.rules[low:high])

    def of(self, product: int) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
        """The lists that are paired with a product, and by which rule."""
        order, products = self._by_product
        low, high = np.searchsorted(products, [product, product + 1])
        return self.rows[order[low:high]], self.rules[order[low:high]]

    @cached_property
    def _by_product(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.argsort(self.products, kind="stable")
        return order, self.products[order]


@dataclass
class _Block:
    """Lists in the making: a row a list, a column a product that may stand in it.

    The first columns are the candidates in the order of their scores after `boost` and `bury`; those behind are for what
    pins and promotions bring in from elsewhere.

    Attributes:
        products: rows x columns, -1 where there is none.
        groups: for each cap, the columns' groups.
        out: the rule that leaves a column out of the list, or _FREE, or _NOTHING.
        seen: columns that no rule may put in.
        taken: columns that are in the list.
        held: columns of the list that pins and promotions hold.
        pinned: rows x k, the column that a pin put into a slot, -1 for none.
        marks: bits of the rules that touched a column.
        candidates: how many columns are candidates.
    """

    products: NDArray[np.int32]
    groups: list[NDArray[np.int32]]
    out: NDArray[np.int16]
    seen: NDArray[np.bool_]
    taken: NDArray[np.bool_]
    held: NDArray[np.bool_]
    pinned: NDArray[np.int64]
    marks: NDArray[np.int64]
    candidates: int


def arrange(
    plan: Plan, candidates: Candidates, k: int, *, tired: Pairs, seen: Pairs, share: float, keys: NDArray[np.uint64],
    product_keys: NDArray[np.uint64],
) -> Slots:  # fmt: skip
    """The `k` slots of each list of a block.

    Args:
        tired: what was shown to a list's customer often enough, with the frequency cap that says so.
        seen: what no rule may put into a list.
        share: the chance with which a free slot explores.
        keys: one number a list: its draws follow from it and from what the list chooses among, by `product_keys`.
    """
    place = np.cumsum(candidates.products >= 0, axis=1)
    products = np.where(_repeated(candidates.products), np.int32(-1), candidates.products)
    order = _order(products, candidates.scores, plan.factors)
    products, scores, sources, place = (
        np.take_along_axis(a, order, axis=1) for a in (products, candidates.scores, candidates.sources, place)
    )
    block = _begun(plan, products, k, tired, seen)
    for nth, pin in enumerate(plan.pins):
        _pin(plan, block, pin, block.candidates + nth, tired, seen)
    capped = _fill(plan, block, k)
    if plan.promotions:
        alone = block.taken
        block.taken = block.held.copy()
        spare = block.candidates + len(plan.pins)
        for promotion in plan.promotions:
            _promote(plan, block, promotion, k, alone, spare, tired, seen)
            spare += _wanted(promotion, k)
        capped = _fill(plan, block, k)
    pool = _pool(plan, block) if share > 0 else np.zeros(block.products.shape, np.bool_)
    _mark(plan, block, capped)
    chosen = _placed(block, k)
    filled = chosen >= 0
    held = filled & np.take_along_axis(block.held, np.maximum(chosen, 0), axis=1)
    keys = _keys(block, chosen, pool, keys, product_keys)
    shown, explores, propensity = explore(chosen, ~held, pool, share=share, keys=keys)
    at = np.maximum(shown, 0)
    is_candidate = filled & (shown < block.candidates)
    inside = np.minimum(at, max(block.candidates - 1, 0))

    def told(values: NDArray[np.generic], nothing: int) -> NDArray[np.generic]:
        if not block.candidates:
            return np.full(shown.shape, nothing, values.dtype)
        return np.where(is_candidate, np.take_along_axis(values, inside, axis=1), values.dtype.type(nothing))

    return Slots(
        products=np.where(filled, np.take_along_axis(block.products, at, axis=1), np.int32(-1)),
        scores=told(scores, 0),  # type: ignore[arg-type]
        sources=told(sources, -1),  # type: ignore[arg-type]
        rank_before=told(place, 0).astype(np.int32),
        rules=np.where(filled, np.take_along_axis(block.marks, at, axis=1), 0),
        is_exploration=explores,
        propensity=propensity,
    )


def _repeated(products: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Candidates that stand further up in their list already."""
    order = np.argsort(products, axis=1, kind="stable")
    sorted_ = np.take_along_axis(products, order, axis=1)
    again = np.zeros(products.shape, np.bool_)
    np.put_along_axis(
        again, order[:, 1:], (sorted_[:, 1:] == sorted_[:, :-1]) & (sorted_[:, 1:] >= 0), axis=1
    )
    return again


def _order(
    products: NDArray[np.int32], scores: NDArray[np.float32], factors: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """The candidates' order after `boost` and `bury`, nothing last; theirs where no rule multiplies."""
    there = products >= 0
    if factors is None:
        return np.argsort(~there, axis=1, kind="stable")
    even = _evened(scores.astype(np.float64), there)
    factor = np.where(there, factors[np.maximum(products, 0)], 1.0)
    # A score below zero (a log-probability) rises when it is divided.
    weighed = np.where(even >= 0, even * factor, even / factor)
    return np.argsort(np.where(there, -weighed, np.inf), axis=1, kind="stable")


def _evened(scores: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scores on one scale that falls along each list.

    A list joins scales: where a score is above the one before it another source begins, and its scores are brought down so
    that it begins where the one before ended. Ratios within a source stay, so a factor means the same everywhere.
    """
    even = np.zeros(scores.shape)
    rows = len(scores)
    ratio, shift = np.ones(rows), np.zeros(rows)
    last, low = np.full(rows, np.inf), np.full(rows, np.inf)
    for column in range(scores.shape[1]):
        here, score = there[:, column], np.where(there[:, column], scores[:, column], 0.0)
        begins = here & (score > last)
        by_ratio = begins & (low > 0) & (score > 0)
        ratio = np.where(begins, np.where(by_ratio, low / np.where(by_ratio, score, 1.0), 1.0), ratio)
        shift = np.where(begins, np.where(by_ratio, 0.0, score - np.where(begins, low, 0.0)), shift)
        even[:, column] = np.where(here, ratio * score - shift, 0.0)
        last, low = np.where(here, score, last), np.where(here, even[:, column], low)
    return even


def _begun(plan: Plan, products: NDArray[np.int32], k: int, tired: Pairs, seen: Pairs) -> _Block:
    rows, candidates = products.shape
    more = len(plan.pins) + sum(_wanted(promotion, k) for promotion in plan.promotions)
    # One column more than needed: then there always is one, also without candidates and rules.
    whole = np.full((rows, candidates + more + 1), -1, np.int32)
    whole[:, :candidates] = products
    there, codes = whole >= 0, np.maximum(whole, 0)
    out = np.where(there, np.int16(_FREE), np.int16(_NOTHING))
    if plan.filtered is not None:
        out = np.where(there, plan.filtered[codes], out)
    pair, column = np.nonzero(products[tired.rows] == tired.products[:, None])
    row, rule = tired.rows[pair], tired.rules[pair]
    standing = out[row, column]
    wins = (standing == _FREE) | (plan.priorities[rule] > plan.priorities[standing])
    out[row[wins], column[wins]] = rule[wins]
    is_seen = np.zeros(whole.shape, np.bool_)
    if more:
        pair, column = np.nonzero(products[seen.rows] == seen.products[:, None])
        is_seen[seen.rows[pair], column] = True
    return _Block(
        products=whole,
        groups=[np.where(there, cap.groups[codes], np.int32(-1)) for cap in plan.caps],
        out=out,
        seen=is_seen,
        taken=np.zeros(whole.shape, np.bool_),
        held=np.zeros(whole.shape, np.bool_),
        pinned=np.full((rows, k), -1, np.int64),
        marks=np.zeros(whole.shape, np.int64)
        if plan.marks is None
        else np.where(there, plan.marks[codes], 0),
        candidates=candidates,
    )


def _wanted(promotion: Promotion, k: int) -> int:
    return min(k, ceil(promotion.share * k - 1e-9))


def _may(
    plan: Plan, block: _Block, wanted: NDArray[np.bool_], column: int, priority: int
) -> NDArray[np.bool_]:
    """Of the wanted rows, those whose candidate in a column a rule of that priority may put in, whatever weaker rules say."""
    rows = np.flatnonzero(wanted)
    out = block.out[rows, column]
    weaker = (out >= 0) & (plan.priorities[np.maximum(out, 0)] < priority)
    able = ((out == _FREE) | weaker) & ~block.taken[rows, column] & ~block.seen[rows, column]
    able &= _full(plan, block, rows, column, priority) < 0
    found = np.zeros(len(wanted), np.bool_)
    found[rows[able]] = True
    return found


def _full(
    plan: Plan, block: _Block, rows: NDArray[np.int64], column: int, priority: int | None = None
) -> NDArray[np.int16]:
    """The cap that has no room left for a row's product in a column, -1 for none; caps below `priority` do not count."""
    found = np.full(len(rows), -1, np.int16)
    if not len(rows):
        return found
    taken = block.taken[rows]
    for cap, groups in zip(plan.caps, block.groups, strict=True):
        if priority is None or cap.priority >= priority:
            group = groups[rows, column]
            members = np.count_nonzero((groups[rows] == group[:, None]) & taken, axis=1)
            found[(found < 0) & (group >= 0) & (members >= cap.limit)] = cap.rule
    return found


def _bring(
    plan: Plan, block: _Block, rows: NDArray[np.bool_], column: int, product: int, priority: int, *, tired: Pairs, seen: Pairs
) -> NDArray[np.bool_]:  # fmt: skip
    """Put a product that is no candidate of these rows into a column of theirs, where nothing forbids it; says where."""
    able = rows & ~(block.products == product).any(axis=1)
    able[seen.of(product)[0]] = False
    row, rule = tired.of(product)
    able[row[plan.priorities[rule] >= priority]] = False
    for cap, groups in zip(plan.caps, block.groups, strict=True):
        group = cap.groups[product]
        if cap.priority >= priority and group >= 0:
            able &= np.count_nonzero((groups == group) & block.taken, axis=1) < cap.limit
    block.products[able, column] = product
    for cap, groups in zip(plan.caps, block.groups, strict=True):
        groups[able, column] = cap.groups[product]
    return able


def _pin(plan: Plan, block: _Block, pin: Pin, spare: int, tired: Pairs, seen: Pairs) -> None:
    """Let a pin take its slot in every list where no pin before it has it and nothing of its priority forbids it."""
    if pin.place >= block.pinned.shape[1]:
        return
    open_ = block.pinned[:, pin.place] < 0
    for column in np.flatnonzero((block.products == pin.product).any(axis=0)).tolist():
        here = open_ & (block.products[:, column] == pin.product)
        here = _may(plan, block, here, column, pin.priority)
        _hold(block, here, column, pin)
    brought = _bring(plan, block, open_, spare, pin.product, pin.priority, tired=tired, seen=seen)
    _hold(block, brought, spare, pin)


def _hold(block: _Block, rows: NDArray[np.bool_], column: int, pin: Pin) -> None:
    block.taken[rows, column] = block.held[rows, column] = True
    block.pinned[rows, pin.place] = column
    block.marks[rows, column] |= np.int64(1) << np.int64(pin.rule)


def _promote(
    plan: Plan, block: _Block, promotion: Promotion, k: int, alone: NDArray[np.bool_], spare: int, tired: Pairs, seen: Pairs
) -> None:  # fmt: skip
    """Reserve a promotion's slots: what is listed anyway first, then further candidates, then the catalogue."""
    able = promotion.able[np.maximum(block.products, 0)] & (block.products >= 0)
    need = _wanted(promotion, k) - np.count_nonzero(able & block.held, axis=1)
    need = np.minimum(need, k - np.count_nonzero(block.held, axis=1))
    bit = np.int64(1) << np.int64(promotion.rule)
    for listed in (True, False):
        for column in range(block.candidates):
            wanted = (need > 0) & able[:, column] & (alone[:, column] == listed)
            if wanted.any():
                wanted = _may(plan, block, wanted, column, promotion.priority)
                block.taken[wanted, column] = block.held[wanted, column] = True
                need = need - wanted
                if not listed:
                    block.marks[wanted, column] |= bit
    used = np.full(len(need), spare)
    for product in promotion.in_order.tolist():
        if not (need > 0).any():
            break
        for column in np.unique(used[need > 0]).tolist():
            rows = (need > 0) & (used == column)
            brought = _bring(plan, block, rows, column, product, promotion.priority, tired=tired, seen=seen)
            block.taken[brought, column] = block.held[brought, column] = True
            block.marks[brought, column] |= bit
            need, used = need - brought, used + brought


def _fill(plan: Plan, block: _Block, k: int) -> NDArray[np.int16]:
    """Take the best candidates for the slots that are left; returns the cap that passed over a column, -1 for none."""
    left = k - np.count_nonzero(block.taken, axis=1)
    capped = np.full(block.products.shape, -1, np.int16)
    if not plan.caps:
        able = (block.out == _FREE) & ~block.taken
        block.taken = block.taken | (able & (np.cumsum(able, axis=1) <= left[:, None]))
        return capped
    for column in range(block.candidates):
        wanted = (left > 0) & (block.out[:, column] == _FREE) & ~block.taken[:, column]
        if not (left > 0).any():
            break
        rows = np.flatnonzero(wanted)
        capped[rows, column] = full = _full(plan, block, rows, column)
        block.taken[rows[full < 0], column] = True
        left[rows[full < 0]] -= 1
    return capped


def _pool(plan: Plan, block: _Block) -> NDArray[np.bool_]:
    """Candidates that a list has no slot for, best first and only so many that every cap holds with all of them in."""
    able = (block.out == _FREE) & ~block.taken
    if not plan.caps:
        return able
    kept = block.taken
    block.taken = kept.copy()
    for column in range(block.candidates):
        rows = np.flatnonzero(able[:, column])
        block.taken[rows[_full(plan, block, rows, column) < 0], column] = True
    pool = block.taken & ~kept
    block.taken = kept
    return pool


def _mark(plan: Plan, block: _Block, capped: NDArray[np.int16]) -> None:
    """Say of each column which rules left out a better candidate, so that it stands higher than it would."""
    gone = np.where((block.out >= 0) & ~block.taken, block.out, capped)
    columns = np.arange(block.products.shape[1])
    for rule in np.unique(gone[gone >= 0]).tolist():
        hit = gone == rule
        first = np.where(hit.any(axis=1), hit.argmax(axis=1), len(columns))
        moved = (columns[None, :] > first[:, None]) & ~block.held & (columns < block.candidates)[None, :]
        block.marks[moved] |= np.int64(1) << np.int64(rule)


def _placed(block: _Block, k: int) -> NDArray[np.int64]:
    """The column in each slot: pins at their places, the others around them in their order, empty slots last."""
    is_pinned = np.zeros(block.products.shape, np.bool_)
    row, slot = np.nonzero(block.pinned >= 0)
    is_pinned[row, block.pinned[row, slot]] = True
    others = block.taken & ~is_pinned
    row, column = np.nonzero(others)
    in_order = np.full((len(others), k), -1, np.int64)
    in_order[row, (np.cumsum(others, axis=1) - 1)[row, column]] = column
    free = block.pinned < 0
    nth = np.maximum(np.cumsum(free, axis=1) - 1, 0)
    chosen = np.where(free, np.take_along_axis(in_order, nth, axis=1), block.pinned)
    return np.take_along_axis(chosen, np.argsort(chosen < 0, axis=1, kind="stable"), axis=1)


def _keys(
    block: _Block, chosen: NDArray[np.int64], pool: NDArray[np.bool_], keys: NDArray[np.uint64],
    product_keys: NDArray[np.uint64],
) -> NDArray[np.uint64]:  # fmt: skip
    """A list's own number, of its key and of what it chooses among: another list or pool draws anew, another day does not."""
    if not pool.any():
        return keys
    numbers = np.where(block.products >= 0, product_keys[np.maximum(block.products, 0)], np.uint64(0))
    listed = np.take_along_axis(numbers, np.maximum(chosen, 0), axis=1)
    drawn = np.where(pool, mixed(numbers), np.uint64(0)).sum(axis=1, dtype=np.uint64)
    return keyed(keys, *np.where(chosen >= 0, listed, np.uint64(0)).T, drawn)
