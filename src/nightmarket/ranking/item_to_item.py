"""Bought together: how often one product is bought with, or after, another, against how often by chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from nightmarket.ranking.base import Linear, Part, csr, keep_greatest
from nightmarket.ranking.interactions import HISTORY_CAP, Catalogue, Histories, Interactions

if TYPE_CHECKING:
    import scipy.sparse as sp

# Pairs held before they are summed into the matrix: 16 million pairs are about 200 MB.
_PAIRS_AT_ONCE = 16_000_000
# A shop whose histories are long for its size is read at shorter distances: near pairs first, until there are this many.
_MOST_PAIRS = 20_000_000


class ItemToItem(Linear):
    """Co-purchases divided by the square root of both products' buyers (each plus `shrink`).

    With the defaults it is plain cosine co-occurrence with a faded history, the shelf's model. With `reach` below 1
    pairs far apart in orders count less, with `backward` below 1 a product bought *after* another speaks less for it
    than one bought before: follow-ups.

    Args:
        half_life: orders after which a product of the history counts half; None: never.
        reach: what a pair counts for each order that lies between, 0 to 1.
        backward: what a pair counts from the later product to the earlier, 0 to 1.
        window: a product is paired with at most this many that follow it in a history, which bounds the work to
            purchases x window.
        shrink: buyers added to each product, so that a pair seen once is no certainty.
        neighbours: products kept for each product.
    """

    kind = "item_to_item"

    def __init__(
        self, half_life: float | None = 2.0, *, reach: float = 1.0, backward: float = 1.0, window: int = 50,
        shrink: float = 20.0, neighbours: int = 100,
    ) -> None:  # fmt: skip
        self.half_life, self.reach, self.backward = half_life, reach, backward
        self.window, self.shrink, self.neighbours = window, shrink, neighbours
        self.catalogue = Catalogue(())
        self.matrix = csr(np.zeros(0), np.zeros(0), np.zeros(1), 0)

    def fit(self, interactions: Interactions) -> Self:
        import scipy.sparse as sp

        self.catalogue = interactions.catalogue
        size = len(self.catalogue)
        histories = interactions.histories()
        buyers = np.bincount(histories.items, minlength=size).astype(np.float32)
        pairs = sp.csr_matrix((size, size), dtype=np.float32)
        for some in self._pairs(histories, size):
            pairs = pairs + some
        if self.backward == 1:
            pairs = pairs + pairs.T.tocsr()
        root = np.sqrt(buyers + np.float32(self.shrink))
        rows = np.repeat(np.arange(size), np.diff(pairs.indptr))
        pairs.data /= root[rows] * root[pairs.indices]
        self.matrix = keep_greatest(pairs, self.neighbours)
        return self

    def parts(self) -> list[Part]:
        return [Part(self.matrix, self.half_life)]

    def params(self) -> dict[str, Any]:
        return {
            "half_life": self.half_life, "reach": self.reach, "backward": self.backward, "window": self.window,
            "shrink": self.shrink, "neighbours": self.neighbours,
        }  # fmt: skip

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"data": self.matrix.data, "indices": self.matrix.indices, "indptr": self.matrix.indptr}

    @classmethod
    def restore(
        cls, catalogue: Catalogue, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        model = cls(**params)
        model.catalogue = catalogue
        model.matrix = csr(arrays["data"], arrays["indices"], arrays["indptr"], len(catalogue))
        return model

    def _pairs(self, histories: Histories, size: int) -> Iterator[sp.csr_matrix]:
        """Weighted pairs (from, to) of products in the same history, summed some million at a time.

        With `backward` = 1 only one direction of each pair: the other is the same.
        """
        row = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
        inside = histories.places() < HISTORY_CAP
        held: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
        count = total = 0
        for distance in range(1, self.window + 1):
            same = (row[distance:] == row[:-distance]) & inside[distance:]
            if not same.any() or total > _MOST_PAIRS:
                break
            earlier, later = histories.items[distance:][same], histories.items[:-distance][same]
            apart = histories.ages[distance:][same] - histories.ages[:-distance][same]
            forth = (self.reach ** np.maximum(apart - 1, 0)).astype(np.float32)
            held.append((earlier, later, forth))
            if self.backward < 1:
                held.append((later, earlier, np.where(apart == 0, forth, forth * np.float32(self.backward))))
            count, total = count + len(earlier), total + len(earlier)
            if count > _PAIRS_AT_ONCE // 2:
                yield _summed(held, size)
                held, count = [], 0
        if held:
            yield _summed(held, size)


def _summed(held: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]], size: int) -> sp.csr_matrix:
    import scipy.sparse as sp

    rows, columns, values = (np.concatenate(part) for part in zip(*held, strict=True))
    summed = sp.csr_matrix((values, (rows, columns)), shape=(size, size))
    summed.eliminate_zeros()
    return summed
