"""Two views as one probability: what comes next by the transformer, and what the linear blend says goes with the history.

Each view is first made a share of its row, so neither has to know the scale on which the other scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from nightmarket.errors import ModelRefused
from nightmarket.ranking import sequential as by_order
from nightmarket.ranking.base import ByDeletion, Lists, lookup, nested, within
from nightmarket.ranking.blend import Blend
from nightmarket.ranking.interactions import Catalogue, Histories, Interactions
from nightmarket.ranking.sequential import Sequential
from nightmarket.ranking.topk import best_of

if TYPE_CHECKING:
    import scipy.sparse as sp


class Mixture(ByDeletion):
    """`share` of the probability of `sequential`, the rest of the blend's scores as shares of their row."""

    kind = "mixture"

    def __init__(self, sequential: Sequential, blend: Blend, share: float = 0.5) -> None:
        self.sequential, self.blend, self.share = sequential, blend, share
        self.catalogue = sequential.catalogue

    def fit(self, interactions: Interactions) -> Self:
        self.sequential.fit(interactions)
        self.blend.fit(interactions)
        self.catalogue = interactions.catalogue
        return self

    def score(self, histories: Histories) -> NDArray[np.float32]:
        next_up, together = self.views(histories)
        together *= 1 - self.share
        together += self.share * next_up
        return together

    def views(self, histories: Histories) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The transformer's probabilities and the blend's shares of a block of histories (rows x products each)."""
        shares = np.maximum(self.blend.score(histories), 0)
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-9)
        return self.sequential.score(histories), shares

    def scores_of(self, histories: Histories, products: NDArray[np.int32]) -> NDArray[np.float32]:
        if len(self.catalogue) <= by_order.DENSE:
            return super().scores_of(histories, products)
        shares, whole = self._shares(histories)
        rows = np.repeat(np.arange(len(products)), products.shape[1])
        found = lookup(shares, rows, products.reshape(-1)).reshape(products.shape) * whole[:, None]
        return found + np.float32(self.share) * self.sequential.scores_of(histories, products)

    def _shares(self, histories: Histories) -> tuple[sp.csr_matrix, NDArray[np.float32]]:
        """The blend's scores above 0, columns in order, and what makes each row's (1 - share) of a whole."""
        sums = self.blend._sums(histories)
        sums.sort_indices()
        np.maximum(sums.data, 0, out=sums.data)
        total = np.maximum(np.asarray(sums.sum(axis=1)).ravel(), 1e-9)
        return sums, ((1 - self.share) / total).astype(np.float32)

    def _width(self) -> int:
        return min(len(self.catalogue), by_order.DENSE)

    def _best(self, block: Histories, k: int, exclude_seen: bool, allowed: NDArray[np.bool_] | None) -> Lists:
        """A product on the list is among the `k` likeliest, or the blend speaks for it.

        Of the latter a row has about a thousand; the transformer is asked about those alone that could still be listed
        with the probability of the last of the likeliest.
        """
        if not k or len(self.catalogue) <= by_order.DENSE:
            return super()._best(block, k, exclude_seen, allowed)
        size, rows = len(self.catalogue), np.arange(len(block))
        vectors = self.sequential.told(block)
        likely, sums = self.sequential.likeliest(block, vectors, k, exclude_seen, allowed)
        found = likely.products >= 0
        chances = np.where(found, np.exp(likely.scores - sums[:, None]), 0) * np.float32(self.share)
        shares, whole = self._shares(block)
        row = np.repeat(rows, np.diff(shares.indptr))
        spoken = shares.data * whole[row]
        keys = row * size + shares.indices
        open_ = spoken > 0
        if allowed is not None:
            open_ &= allowed[shares.indices]
        if exclude_seen:
            at, hit = _places(keys, np.repeat(rows, np.diff(block.offsets)) * size + block.items)
            open_[at[hit]] = False
        likely_row = np.nonzero(found)[0]
        code, score = likely.products[found], chances[found]
        at, hit = _places(keys, likely_row * size + code)
        score[hit] += spoken[at[hit]]
        open_[at[hit]] = False
        # A list is no worse than the best of what is known so far: the others count with what the blend alone says.
        row, other, spoken = row[open_], shares.indices[open_], spoken[open_]
        columns, codes = np.concatenate([likely_row, row]), np.concatenate([code, other])
        least = best_of(columns, codes, np.concatenate([score, spoken]), len(block), k)[1][:, -1]
        able = spoken + chances[:, -1][row] * np.float32(1.0001) >= least[row]
        row, other = row[able], other[able]
        said = self.sequential.chances(vectors, sums, row, other)
        columns, codes = np.concatenate([likely_row, row]), np.concatenate([code, other])
        scores = np.concatenate([score, spoken[able] + np.float32(self.share) * said])
        above = scores > 0
        return Lists(*best_of(columns[above], codes[above], scores[above], len(block), k)[:2])

    def params(self) -> dict[str, Any]:
        return {
            "share": self.share,
            "sequential": self.sequential.params(),
            "blend": self.blend.params(),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        return nested({"sequential": self.sequential, "blend": self.blend})

    @classmethod
    def restore(
        cls, catalogue: Catalogue, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        if not 0 <= params["share"] <= 1:
            raise ModelRefused(f"The share of a mixture is {params['share']}, which is not between 0 and 1.")
        sequential = Sequential.restore(catalogue, params["sequential"], within(arrays, "sequential"))
        model = cls(
            sequential, Blend.restore(catalogue, params["blend"], within(arrays, "blend")), params["share"]
        )
        model.catalogue = catalogue
        return model


def _places(
    keys: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where ascending `keys` hold each of `wanted`, and whether they do."""
    at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    return at, (keys[at] == wanted) if len(keys) else np.zeros(len(wanted), np.bool_)
