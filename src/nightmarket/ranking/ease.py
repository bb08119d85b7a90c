"""EASE: the best linear item-to-item weights in closed form (Steck 2019), with a history that fades.

One dense inverse over the most bought products. Not here: products outside that bound, which item-to-item covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nightmarket.errors import ModelRefused
from nightmarket.ranking.base import Linear, Part, coded, csr
from nightmarket.ranking.interactions import Catalogue, Interactions

# Rows of the dense matrix that are worked on at once where a copy is needed.
_ROWS = 512


class Ease(Linear):
    """Weights B that minimise |X - XB|² + l2 |B|² with a zero diagonal; X: who bought what.

    Args:
        l2: regularisation; more for fewer purchases a product.
        half_life: orders after which a product of the history counts half; None: never.
        max_items: only the most bought products take part; memory is 4 x max_items² bytes (256 MB for 8,000).
        neighbours: weights kept for each product, by size.
    """

    kind = "ease"

    def __init__(
        self,
        l2: float = 100.0,
        half_life: float | None = 2.0,
        *,
        max_items: int = 8000,
        neighbours: int = 200,
    ) -> None:
        self.l2, self.half_life, self.max_items, self.neighbours = l2, half_life, max_items, neighbours
        self.catalogue = Catalogue(())
        self.matrix = csr(np.zeros(0), np.zeros(0), np.zeros(1), 0)

    def fit(self, interactions: Interactions) -> Self:
        from threadpoolctl import threadpool_limits

        self.catalogue = interactions.catalogue
        size = len(self.catalogue)
        bought = coded(interactions.histories(), size, None)
        buyers = np.bincount(bought.indices, bought.data, size)
        taking_part = np.lexsort((np.arange(size), -buyers))[: self.max_items]
        items = np.sort(taking_part[buyers[taking_part] > 0])
        # One thread: the sums of a matrix product then always run in the same order.
        with threadpool_limits(1):
            weights = self._weights(bought[:, items]) if len(items) else np.zeros((0, 0), np.float32)
        kept = min(self.neighbours, max(len(items) - 1, 0))
        counts = np.zeros(size, np.int64)
        indices = np.zeros((len(items), kept), np.int32)
        values = np.zeros((len(items), kept), np.float32)
        for begin in range(0, len(items), _ROWS):
            rows = weights[begin : begin + _ROWS]
            largest = (
                np.sort(np.argpartition(-np.abs(rows), kept - 1, axis=1)[:, :kept], axis=1) if kept else None
            )
            if largest is not None:
                indices[begin : begin + len(rows)] = items[largest]
                values[begin : begin + len(rows)] = np.take_along_axis(rows, largest, axis=1)
        counts[items] = kept
        self.matrix = csr(
            values.reshape(-1), indices.reshape(-1), np.concatenate([[0], np.cumsum(counts)]), size
        )
        return self

    def parts(self) -> list[Part]:
        return [Part(self.matrix, self.half_life)]

    def params(self) -> dict[str, Any]:
        return {
            "l2": self.l2, "half_life": self.half_life, "max_items": self.max_items, "neighbours": self.neighbours,
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

    def _weights(self, bought: Any) -> NDArray[np.float32]:
        """The dense weights of the products that take part, computed in place in one square array."""
        from scipy.linalg import lapack

        n = bought.shape[1]
        gram = np.zeros((n, n), np.float32)
        other = bought.T.tocsr()
        for begin in range(0, n, _ROWS):
            gram[begin : begin + _ROWS] = (other[begin : begin + _ROWS] @ bought).toarray()
        gram[np.diag_indices(n)] += np.float32(self.l2)
        # LAPACK works on columns: the transposed view of a symmetric matrix is itself, so nothing is copied.
        factor, failed = lapack.spotrf(gram.T, lower=1, clean=0, overwrite_a=1)
        if failed:
            raise ModelRefused(
                f"EASE with l2 = {self.l2} has no inverse on this shop (pivot {failed}); raise l2."
            )
        inverse, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
        inverse = inverse.T  # row-major again, the upper triangle is filled
        for begin in range(0, n, _ROWS):
            end = min(begin + _ROWS, n)
            inverse[end:, begin:end] = inverse[begin:end, end:].T
            square = inverse[begin:end, begin:end]
            square[:] = np.triu(square) + np.triu(square, 1).T
        diagonal = np.diag(inverse).copy()
        inverse /= -diagonal[None, :]
        inverse[np.diag_indices(n)] = 0
        return inverse  # type: ignore[no-any-return]
