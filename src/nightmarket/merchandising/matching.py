"""Which products of a catalogue a rule speaks of, and in which groups a cap counts them.

Brands, categories and attributes are compared as people mean them: without regard to case and to spaces around them. Not
here: what a rule does with the products.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nightmarket.merchandising.rules import Rule


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The mart `products` in the order of `product_ids`; what the mart does not know is not available and has no facts."""

    product_ids: tuple[str, ...]
    rows: pa.Table

    @classmethod
    def of(cls, products: pa.Table, product_ids: Sequence[str]) -> Catalogue:
        ids = pa.array(product_ids, pa.string())
        places = pc.index_in(ids, value_set=products["product_id"].combine_chunks().cast(pa.string()))
        kept = [
            name
            for name in ("is_available", "brand", "category", "attributes")
            if name in products.column_names
        ]
        return cls(tuple(product_ids), products.select(kept).take(places))

    def __len__(self) -> int:
        return len(self.product_ids)

    @cached_property
    def available(self) -> NDArray[np.bool_]:
        """What may be recommended."""
        told = pc.fill_null(self.rows["is_available"], False)
        return np.asarray(told.to_numpy(), np.bool_)

    def matches(self, rule: Rule) -> NDArray[np.bool_]:
        """The products that a rule speaks of: all its selectors must fit, and without one it speaks of all."""
        found = np.ones(len(self), np.bool_)
        if rule.product_id is not None:
            found &= np.asarray(
                pc.equal(pa.array(self.product_ids, pa.string()), rule.product_id).to_numpy(
                    zero_copy_only=False
                )
            )
        if rule.brand is not None:
            brand = plain(rule.brand)
            found &= self._where("brand", lambda text: plain(text) == brand)
        if rule.category is not None:
            path = shelf(rule.category)
            found &= self._where("category", lambda text: f"{shelf(text)} > ".startswith(f"{path} > "))
        if rule.attribute is not None:
            name, _, value = rule.attribute.partition("=")
            found &= self._where("attributes", lambda text: _has(text, plain(name), plain(value)))
        return found

    def groups(self, rule: Rule) -> NDArray[np.int32]:
        """The group in which a cap counts each product, -1 where it counts none."""
        mine = self.matches(rule)
        if rule.per is None:
            return np.where(mine, np.int32(0), np.int32(-1))
        codes, texts = self._coded(rule.per)
        same = {text: i for i, text in reversed(list(enumerate(map(shelf, texts))))}
        numbers = np.array([same[shelf(text)] for text in texts] or [-1], np.int32)
        return np.where(mine & (codes >= 0), numbers[np.maximum(codes, 0)], np.int32(-1)).astype(np.int32)

    def names(self, column: str) -> NDArray[Any]:
        """Each product's brand or category as the shop writes it; empty where it has none."""
        codes, texts = self._coded(column)
        return np.where(codes >= 0, np.array([*texts, ""], object)[codes], "")

    def _where(self, column: str, fits: Callable[[str], bool]) -> NDArray[np.bool_]:
        """Products whose text fits; each different text is asked once."""
        codes, texts = self._coded(column)
        fit = np.array([*map(fits, texts), False])
        found: NDArray[np.bool_] = fit[codes]
        return found

    def _coded(self, column: str) -> tuple[NDArray[np.int64], list[str]]:
        if column not in self.rows.column_names:
            return np.full(len(self), -1), []
        coded = self.rows[column].combine_chunks().dictionary_encode()
        codes = pc.fill_null(coded.indices.cast(pa.int64()), -1)
        return np.asarray(codes.to_numpy(zero_copy_only=False)), coded.dictionary.to_pylist()


def plain(text: str) -> str:
    """A text as it is compared."""
    return re.sub(r"\s+", " ", text).strip().casefold()


def shelf(path: str) -> str:
    """A path of the shelves as it is compared; `A>B` is `A > B`."""
    return " > ".join(plain(step) for step in path.split(">"))


def _has(attributes: str, name: str, value: str) -> bool:
    """Whether a product's attributes (JSON) say so; a list says each of its values."""
    try:
        told = json.loads(attributes)
    except ValueError:
        return False
    if not isinstance(told, dict):
        return False
    for key, values in told.items():
        if plain(str(key)) == name and any(
            _as_typed(v) == value for v in (values if isinstance(values, list) else [values])
        ):
            return True
    return False


def _as_typed(value: object) -> str:
    """A value as a person would type it: `true` for true, `5` for 5.0."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else plain(str(value))
