"""Two views as one probability: what comes next by the transformer, and what the linear blend says goes with the history.

Each view is first made a share of its row, so neither has to know the scale on which the other scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nightmarket.errors import ModelRefused
from nightmarket.ranking.base import ByDeletion, nested, within
from nightmarket.ranking.blend import Blend
from nightmarket.ranking.interactions import Catalogue, Histories, Interactions
from nightmarket.ranking.sequential import Sequential


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
