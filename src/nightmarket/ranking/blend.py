"""The candidate: EASE for what belongs together, item-to-item follow-ups for what comes next, one weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nightmarket.errors import ModelRefused
from nightmarket.ranking.base import Linear, Part, nested, within
from nightmarket.ranking.borrowing import lending, with_borrowed
from nightmarket.ranking.ease import Ease
from nightmarket.ranking.interactions import Catalogue, Interactions, Texts
from nightmarket.ranking.item_to_item import ItemToItem


class Blend(Linear):
    """EASE plus `weight` times item-to-item. Both are on the scale of a share, so no row needs normalising.

    Follow-ups cover the products beyond EASE's bound, and the order of purchases, which EASE does not see. With `texts`
    products that hardly anybody bought yet borrow from those like them; `texts` is not saved with the model.
    """

    kind = "blend"

    def __init__(
        self, ease: Ease, item_to_item: ItemToItem, weight: float = 0.3, *, texts: Texts | None = None
    ) -> None:
        self.ease, self.item_to_item, self.weight, self.texts = ease, item_to_item, weight, texts
        self.catalogue = ease.catalogue

    def fit(self, interactions: Interactions) -> Self:
        self.ease.fit(interactions)
        self.item_to_item.fit(interactions)
        self.catalogue = interactions.catalogue
        if self.texts is not None:
            buyers = np.bincount(interactions.histories().items, minlength=len(self.catalogue))
            lent = lending(self.texts(self.catalogue.product_ids), buyers)
            for part in (self.ease, self.item_to_item):
                part.matrix = with_borrowed(part.matrix, lent, part.neighbours)
        return self

    def parts(self) -> list[Part]:
        return [
            *self.ease.parts(),
            *(Part(p.matrix, p.half_life, p.weight * self.weight) for p in self.item_to_item.parts()),
        ]

    def params(self) -> dict[str, Any]:
        return {"weight": self.weight, "ease": self.ease.params(), "item_to_item": self.item_to_item.params()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return nested({"ease": self.ease, "item_to_item": self.item_to_item})

    @classmethod
    def of(cls, params: Mapping[str, Any], texts: Texts | None = None) -> Self:
        """An unfitted blend with the parameters that `params()` gave."""
        return cls(
            Ease(**params["ease"]), ItemToItem(**params["item_to_item"]), params["weight"], texts=texts
        )

    @classmethod
    def restore(
        cls, catalogue: Catalogue, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        if not np.isfinite(params["weight"]):
            raise ModelRefused("The weight of a blend is not a number.")
        ease = Ease.restore(catalogue, params["ease"], within(arrays, "ease"))
        return cls(
            ease,
            ItemToItem.restore(catalogue, params["item_to_item"], within(arrays, "item_to_item")),
            params["weight"],
        )
