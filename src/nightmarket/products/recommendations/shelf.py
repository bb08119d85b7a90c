"""What the night's lists choose from and obey: the day's catalogue, what may be shown, and the shop's rules.

A `Shelf` names extracts by path and digest, so it is small, picklable, and read once a process. Not here: what a rule does
to a list (merchandising).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightmarket import lake
from nightmarket.lake import Manifest
from nightmarket.merchandising import RuleBook
from nightmarket.products.recommendations import reasons
from nightmarket.ranking import Catalogue

# Actions that bring a product forward. The others leave products out, and what stays moves up by itself.
_FORWARD = ("pin", "promote", "boost")
FEW = 10
"""Filtered products that candidates can spare."""
_COLUMNS = (
    "product_id", "title", "brand", "category", "price_tier", "attributes", "is_available", "created_at",
)  # fmt: skip


@dataclass(frozen=True)
class Shelf:
    """The day's products and rules, by the files they stand in."""

    day: date
    products: Manifest
    rules: Manifest
    exposures: Manifest

    @classmethod
    def of(cls, day: date) -> Shelf:
        """The shelf of a day whose extracts stand in the lake."""
        return cls(
            day, *(lake.require(name, day) for name in ("products", "recommendation_rules", "exposures"))
        )

    def open(self) -> Opened:
        """The products and rules themselves, read once a process.

        Raises:
            RuleRefused: the rules contradict each other or cannot be understood; names every problem.
        """
        return _opened(self)


@dataclass(frozen=True, eq=False)
class Opened:
    """Products and rules in memory.

    Attributes:
        day: the night they are of.
        catalogue: every product of the shop; the codes of lists and rules are its places.
        table: the products' columns, a row a code.
        book: the rules in force.
    """

    day: date
    catalogue: Catalogue
    table: pa.Table
    book: RuleBook

    @cached_property
    def is_available(self) -> NDArray[np.bool_]:
        """A flag a product: may it be shown?"""
        return np.asarray(self.table["is_available"].to_numpy(), bool)

    @cached_property
    def categories(self) -> NDArray[np.int32]:
        """A code a product for its category, -1 where the shop gives none."""
        if "category" not in self.table.column_names:
            return np.full(len(self.catalogue), -1, np.int32)
        values = self.table["category"].combine_chunks()
        coded = pc.index_in(values, value_set=pc.unique(values).drop_null())
        return np.asarray(pc.fill_null(coded, -1).to_numpy(zero_copy_only=False), np.int32)

    @cached_property
    def forward(self) -> np.int64:
        """The bits of rules that bring products forward."""
        bits = (1 << bit for bit, rule in enumerate(self.book.rules) if rule.action in _FORWARD)
        return np.int64(sum(bits))

    def allowed(self, model: Catalogue, *placements: str) -> NDArray[np.bool_]:
        """A flag a product of a model's catalogue: may it be a candidate in any of these placements?

        What a filter leaves out stays a candidate while it is little, so that the ledger shows what the rule did; where a
        filter leaves out more than there are candidates to spare, lists would run short.
        """
        able = self.is_available.copy()
        gone = np.logical_and.reduce([self.book.removed(p) for p in placements])
        if gone.sum() > FEW:
            able &= ~gone
        codes = self.codes_of(model)
        return np.where(codes >= 0, able[np.maximum(codes, 0)], False) if len(able) else codes >= 0

    def title(self, product_id: str) -> str:
        """A product's title as a sentence can carry it; "" for none."""
        found = self._lines.get(product_id)
        if found is None:
            found = self._lines[product_id] = reasons.line(self._titles.get(product_id))
        return found

    def codes_of(self, model: Catalogue) -> NDArray[np.int32]:
        """For each product of a model's catalogue its code here, -1 where the shop has it no more."""
        return self.catalogue.codes(model.product_ids)

    @cached_property
    def _lines(self) -> dict[str, str]:
        return {}

    @cached_property
    def _titles(self) -> dict[str, str | None]:
        return dict(zip(self.catalogue.product_ids, self.table["title"].to_pylist(), strict=True))


@lru_cache(maxsize=1)
def _opened(shelf: Shelf) -> Opened:
    held = pq.read_schema(shelf.products.path).names
    table = pq.read_table(
        shelf.products.path, columns=[c for c in _COLUMNS if c in held], partitioning=None
    ).combine_chunks()
    ids: Sequence[str] = table["product_id"].to_pylist()
    rules = pq.read_table(shelf.rules.path, partitioning=None)
    book = RuleBook.of(rules, table, ids, shelf.day) if rules.num_rows else RuleBook.empty(ids)
    return Opened(shelf.day, Catalogue(tuple(ids)), table, book)
