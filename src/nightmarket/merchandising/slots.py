"""Candidates and slots: what goes into an arrangement and what comes out, as arrays with a row a list.

Not here: how one becomes the other (arrange).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nightmarket.errors import ModelRefused


@dataclass(frozen=True)
class Candidates:
    """What rankers and fallbacks propose for a block of lists, best first.

    Attributes:
        products: rows x m, codes into the book's `product_ids`; -1 where there is none.
        scores: rows x m, finite where there is a product. A list may join several scales (a model, then a fallback).
        sources: rows x m, an index into the caller's own tuple of names; carried along.
    """

    products: NDArray[np.int32]
    scores: NDArray[np.float32]
    sources: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.products)

    def slice(self, begin: int, end: int) -> Candidates:
        """Rows `begin` to `end`."""
        return Candidates(self.products[begin:end], self.scores[begin:end], self.sources[begin:end])

    def check(self, products: int) -> None:
        """See that the arrays fit each other and a catalogue of so many products.

        Raises:
            ModelRefused: they do not, or a score is NaN or infinite; says where.
        """
        shape = self.products.shape
        if len(shape) != 2 or self.scores.shape != shape or self.sources.shape != shape:
            raise ModelRefused(
                f"Candidates have products of shape {shape}, scores of {self.scores.shape} and sources of "
                f"{self.sources.shape}; all three must be rows x candidates."
            )
        if self.products.size and (self.products.max() >= products or self.products.min() < -1):
            raise ModelRefused(
                f"Candidates hold product codes from {self.products.min()} to {self.products.max()}, but the rules know "
                f"{products} products. Make the rules and the candidates from the same catalogue."
            )
        bad = np.argwhere(~np.isfinite(self.scores) & (self.products >= 0))
        if len(bad):
            row, column = bad[0].tolist()
            raise ModelRefused(
                f"{len(bad)} candidates have a score that is not finite, the first is {self.scores[row, column]} at row "
                f"{row}, place {column + 1}. The model must not serve; nothing was arranged."
            )


@dataclass(frozen=True)
class Slots:
    """What is shown: rows x k.

    Attributes:
        products: codes, -1 for an empty slot; empty slots stand last.
        scores: what the candidates' source said, whatever rules did; 0 where a rule put in what was no candidate.
        sources: the candidate's source; -1: put there by a rule and was no candidate.
        rank_before: 1-based place among the candidates before any rule; 0: was no candidate.
        rules: bit i is set when rule i of the book (`RuleBook.rule_ids[i]`) touched this slot.
        is_exploration: drawn from the pool, in place of the regular product.
        propensity: the chance of this product in this slot under the serving policy, in (0, 1]; 1 for an empty slot.
    """

    products: NDArray[np.int32]
    scores: NDArray[np.float32]
    sources: NDArray[np.int8]
    rank_before: NDArray[np.int32]
    rules: NDArray[np.int64]
    is_exploration: NDArray[np.bool_]
    propensity: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.products)

    @classmethod
    def joined(cls, parts: list[Slots], k: int) -> Slots:
        """The rows of several blocks, one after the other."""
        if not parts:
            kinds = (np.int32, np.float32, np.int8, np.int32, np.int64, np.bool_, np.float64)
            return cls(*(np.zeros((0, k), kind) for kind in kinds))
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))
