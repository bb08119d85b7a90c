"""The arrangement of one list written out with plain lists: slow, short, and made apart from the real one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nightmarket.merchandising import RuleBook


@dataclass(frozen=True)
class Arranged:
    """The regular list, what may be drawn in its place, and what pins and promotions hold."""

    listed: list[int]
    pool: list[int]
    held: list[int]


def arranged(
    book: RuleBook, candidates: Sequence[int], k: int, *, tired: Mapping[int, int], seen: Collection[int]
) -> Arranged:
    """The `home` list of a book without boosts; `tired` gives the frequency cap of each product shown often enough."""
    rules = book.rules
    assert book.catalogue is not None
    available = book.catalogue.available

    def of(action: str) -> list[int]:
        mine = [i for i, r in enumerate(rules) if r.action == action and "home" in r.placements]
        return sorted(mine, key=lambda i: rules[i].order)

    caps = [(i, book.catalogue.groups(rules[i])) for i in of("cap")]

    def left_out(product: int) -> int | None:
        found = [rules[i].priority for i in of("filter") if book.matches[i][product]]
        if product in tired:
            found.append(rules[tired[product]].priority)
        return max(found, default=None)

    def has_room(product: int, among: Collection[int], priority: int | None = None) -> bool:
        return all(
            groups[product] < 0 or sum(groups[p] == groups[product] for p in among) < (rules[i].value or 0)
            for i, groups in caps
            if priority is None or rules[i].priority >= priority
        )

    def may(product: int, priority: int) -> bool:
        against = left_out(product)
        return (
            bool(available[product])
            and product not in held
            and product not in seen
            and (against is None or against < priority)
            and has_room(product, held, priority)
        )

    def filled() -> list[int]:
        found = list(held)
        for p in proposed:
            if len(found) < k and p not in found and left_out(p) is None and has_room(p, found):
                found.append(p)
        return found

    proposed = list(dict.fromkeys(p for p in candidates if p >= 0))
    held: list[int] = []
    pinned: dict[int, int] = {}
    for i in of("pin"):
        for p in np.flatnonzero(book.matches[i]).tolist():
            place = int(rules[i].value or 0) - 1
            if place < k and place not in pinned and may(p, rules[i].priority):
                pinned[place] = p
                held.append(p)
    alone = filled()
    for i in of("promote"):
        able = [
            p for p in np.flatnonzero(book.matches[i]).tolist()
            if not any(book.matches[f][p] and rules[f].priority >= rules[i].priority for f in of("filter"))
        ]  # fmt: skip
        need = math.ceil((rules[i].value or 0) * k - 1e-9) - sum(p in able and available[p] for p in held)
        need = min(need, k - len(held))
        for p in [*(p for p in proposed if p in alone), *(p for p in proposed if p not in alone), *able]:
            if need > 0 and p in able and may(p, rules[i].priority):
                held.append(p)
                need -= 1
    chosen = filled()
    others = [p for p in proposed if p in chosen and p not in pinned.values()]
    others += [p for p in chosen if p not in proposed and p not in pinned.values()]
    slots = [pinned[s] if s in pinned else (others.pop(0) if others else -1) for s in range(k)]
    slots = [p for p in slots if p >= 0]
    pool: list[int] = []
    for p in proposed:
        if p not in chosen and left_out(p) is None and has_room(p, [*chosen, *pool]):
            pool.append(p)
    return Arranged(slots + [-1] * (k - len(slots)), pool, held)
