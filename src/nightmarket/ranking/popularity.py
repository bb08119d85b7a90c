"""Most bought lately: the first model of the shelf, and what fills lists where no history speaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nightmarket.ranking.base import Lists, Ranker
from nightmarket.ranking.interactions import Catalogue, Histories, Interactions

_DAY_US = 86_400_000_000


class Popularity(Ranker):
    """Buyers of each product, a buyer counting half for every `half_life_days` since they last bought it."""

    kind = "popularity"

    def __init__(self, half_life_days: float = 60.0) -> None:
        self.half_life_days = half_life_days
        self.catalogue = Catalogue(())
        self.counts = np.zeros(0, np.float32)

    def fit(self, interactions: Interactions) -> Self:
        self.catalogue = interactions.catalogue
        size = len(self.catalogue)
        if len(interactions) == 0:
            self.counts = np.zeros(size, np.float32)
            return self
        # One vote a customer and product, at its last purchase: nobody makes a product popular alone.
        key = interactions.customers.astype(np.int64) * max(size, 1) + interactions.products
        _, last = np.unique(key[::-1], return_index=True)
        last = len(key) - 1 - last
        days = (interactions.times.max() - interactions.times[last]) / _DAY_US
        votes = np.exp2(-days / self.half_life_days)
        self.counts = np.bincount(interactions.products[last], votes, size).astype(np.float32)
        return self

    def score(self, histories: Histories) -> NDArray[np.float32]:
        return np.tile(self.counts, (len(histories), 1))

    def fill(
        self,
        lists: Lists,
        histories: Histories,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exclude_seen: bool = True,
    ) -> tuple[Lists, NDArray[np.bool_]]:
        """Put the most popular products where `lists` has none; says which slots were filled.

        A product is never listed twice, nor one of the row's history, nor one that is not allowed. Filled slots score 0.
        """
        self.catalogue.require(histories.digest, "A history")
        products, scores = lists.products.copy(), lists.scores.copy()
        filled = np.zeros(products.shape, np.bool_)
        order = np.lexsort((np.arange(len(self.counts)), -self.counts))
        order = order[(self.counts[order] > 0) & (allowed[order] if allowed is not None else True)].astype(
            np.int32
        )
        k = products.shape[1]
        for row in np.flatnonzero((products < 0).any(axis=1)):
            known = products[row][products[row] >= 0]
            seen = (
                histories.items[histories.offsets[row] : histories.offsets[row + 1]]
                if exclude_seen
                else known[:0]
            )
            # At most k + seen products must be looked at to find k new ones.
            head = order[: k + len(seen)]
            fresh = head[~np.isin(head, seen) & ~np.isin(head, known)][: k - len(known)]
            products[row, len(known) : len(known) + len(fresh)] = fresh
            filled[row, len(known) : len(known) + len(fresh)] = True
        return Lists(products, scores), filled

    def params(self) -> dict[str, Any]:
        return {"half_life_days": self.half_life_days}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"counts": self.counts}

    @classmethod
    def restore(
        cls, catalogue: Catalogue, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        model = cls(**params)
        model.catalogue, model.counts = catalogue, arrays["counts"]
        return model
