"""Who bought what, when, as whole numbers: the only form in which rankers see a shop.

`Catalogue` maps product ids to codes and has a digest; whatever was coded with another catalogue is refused.
`Interactions` are purchases in order of time, `Histories` what a ranker scores: each customer's distinct products, the
latest first. Not here: which purchases may be used (the mart `purchases` says so) and how they are split (training).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightmarket.errors import ModelRefused

# A ranker looks at no more than this many of a customer's latest distinct products: a reseller with a million purchases
# then costs as much as a heavy household. What lies further back is still known as bought and never recommended.
HISTORY_CAP = 500

Texts = Callable[[Sequence[str]], NDArray[np.float32]]
"""Product ids to vectors of their texts, a row each; a product without a text has zeros."""


def learnable(purchases: pa.Table) -> pa.Table:
    """The purchases that a ranker may be fitted on: those whose `may_train` holds. Histories are asked about with all."""
    return purchases.filter(purchases["may_train"])


@dataclass(frozen=True)
class Catalogue:
    """Product ids in ascending order; the code of a product is its place."""

    product_ids: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Tells two catalogues apart: codes mean the same products only under the same digest."""
        return hashlib.sha256("\x1f".join(self.product_ids).encode()).hexdigest()

    @cached_property
    def _array(self) -> pa.Array:
        return pa.array(self.product_ids, pa.string())

    def __len__(self) -> int:
        return len(self.product_ids)

    @classmethod
    def of(cls, product_ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> Catalogue:
        """The catalogue of these ids, whatever their order and however often they occur."""
        values = (
            product_ids
            if isinstance(product_ids, (pa.Array, pa.ChunkedArray))
            else pa.array(product_ids, pa.string())
        )
        return cls(tuple(sorted(v for v in pc.unique(values).to_pylist() if v is not None)))

    def codes(self, product_ids: pa.Array | pa.ChunkedArray | Sequence[str]) -> NDArray[np.int32]:
        """The codes of product ids; -1 for a product that is not in the catalogue."""
        values = (
            product_ids
            if isinstance(product_ids, (pa.Array, pa.ChunkedArray))
            else pa.array(product_ids, pa.string())
        )
        if len(self) == 0 or len(values) == 0:
            return np.full(len(values), -1, np.int32)
        found = pc.fill_null(pc.index_in(values, value_set=self._array), -1)
        return np.asarray(
            found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy(),
            np.int32,
        )

    def mask(self, product_ids: pa.Array | pa.ChunkedArray | Sequence[str]) -> NDArray[np.bool_]:
        """A flag a product of the catalogue: is it among these ids?"""
        flags = np.zeros(len(self), np.bool_)
        codes = self.codes(product_ids)
        flags[codes[codes >= 0]] = True
        return flags

    def require(self, digest: str, what: str) -> None:
        """Refuse `what` when it was coded with another catalogue.

        Raises:
            ModelRefused: names both digests.
        """
        if digest != self.digest:
            raise ModelRefused(
                f"{what} was coded with another catalogue ({digest[:12]}) than the model ({self.digest[:12]}, "
                f"{len(self)} products). Code it with the model's own catalogue: Histories.of(purchases, model.catalogue)."
            )


@dataclass(frozen=True)
class Histories:
    """Each customer's distinct products, the latest first, as one flat array with offsets.

    Attributes:
        customer_ids: one id a row.
        offsets: int64, rows + 1; row r owns `items[offsets[r]:offsets[r + 1]]`.
        items: int32 codes of products; within a row no code twice.
        ages: int32, how many of the customer's orders came after the last one that held the product.
        digest: digest of the catalogue that gave the codes.
    """

    customer_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    ages: NDArray[np.int32]
    digest: str

    def __len__(self) -> int:
        return len(self.customer_ids)

    @classmethod
    def of(
        cls, purchases: pa.Table, catalogue: Catalogue, customer_ids: Sequence[str] | None = None
    ) -> Histories:
        """The histories in a table of purchases (customer_id, product_id, ordered_at), a row a customer.

        Products outside the catalogue are left out. `customer_ids` fixes rows and their order; a customer without
        purchases has an empty row. By default every customer of the table, ids ascending.
        """
        return Interactions.of(purchases, catalogue=catalogue, customer_ids=customer_ids).histories()

    @classmethod
    def single(cls, codes: NDArray[np.int32], catalogue: Catalogue) -> Histories:
        """Histories of one product each: what goes with this product?"""
        n = len(codes)
        ids = tuple(catalogue.product_ids[c] for c in codes)
        return cls(
            ids,
            np.arange(n + 1, dtype=np.int64),
            codes.astype(np.int32),
            np.zeros(n, np.int32),
            catalogue.digest,
        )

    def rows(self, picked: NDArray[np.int64]) -> Histories:
        """The histories of some rows, in the order given."""
        lengths = (self.offsets[1:] - self.offsets[:-1])[picked]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = (
            np.arange(offsets[-1])
            - np.repeat(offsets[:-1], lengths)
            + np.repeat(self.offsets[:-1][picked], lengths)
        )
        ids = tuple(self.customer_ids[i] for i in picked)
        return Histories(ids, offsets, self.items[places], self.ages[places], self.digest)

    def slice(self, begin: int, end: int) -> Histories:
        """Rows `begin` to `end`, without copying what they hold."""
        first, last = self.offsets[begin], self.offsets[end]
        return Histories(
            self.customer_ids[begin:end], self.offsets[begin : end + 1] - first, self.items[first:last],
            self.ages[first:last], self.digest,
        )  # fmt: skip

    def without(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> Histories:
        """For each of `rows` (which may repeat) its history without the product at that place, 0 being the latest."""
        picked = self.rows(rows)
        gone = np.zeros(len(picked.items), np.bool_)
        gone[picked.offsets[:-1] + places] = True
        return picked.dropping(gone)

    def dropping(self, gone: NDArray[np.bool_]) -> Histories:
        """The same rows without the items that are flagged."""
        kept = np.concatenate([[0], np.cumsum(~gone)]).astype(np.int64)
        return Histories(
            self.customer_ids, kept[self.offsets], self.items[~gone], self.ages[~gone], self.digest
        )

    def places(self) -> NDArray[np.int64]:
        """How many later products stand before each item in its own row: 0 for the latest."""
        return np.arange(len(self.items)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))

    def weights(self, half_life: float | None, cap: int = HISTORY_CAP) -> NDArray[np.float32]:
        """What each item counts: halved every `half_life` orders (None: not at all), 0 beyond the latest `cap`."""
        decayed = np.ones(len(self.items)) if half_life is None else np.exp2(-self.ages / half_life)
        return np.where(self.places() < cap, decayed, 0.0).astype(np.float32)


@dataclass(frozen=True)
class Interactions:
    """Purchases, coded, in order of customer and time: what rankers are fitted on.

    Attributes:
        catalogue: what the product codes mean.
        customer_ids: what the customer codes mean.
        customers, products: int32 codes, one a purchase.
        times: int64 microseconds since 1970 (UTC).
        quantities: float32 units bought.
    """

    catalogue: Catalogue
    customer_ids: tuple[str, ...]
    customers: NDArray[np.int32]
    products: NDArray[np.int32]
    times: NDArray[np.int64]
    quantities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.customers)

    @classmethod
    def of(
        cls,
        purchases: pa.Table,
        *,
        catalogue: Catalogue | None = None,
        customer_ids: Sequence[str] | None = None,
    ) -> Interactions:
        """Code a table of purchases (customer_id, product_id, ordered_at, quantity?), in whatever order it comes.

        Args:
            catalogue: code with this one, leaving out products it does not have; by default the products bought.
            customer_ids: keep only these customers, in this order; by default all, ids ascending.
        """
        catalogue = catalogue or Catalogue.of(purchases["product_id"])
        products = catalogue.codes(purchases["product_id"])
        if customer_ids is None:
            customer_ids = sorted(v for v in pc.unique(purchases["customer_id"]).to_pylist() if v is not None)
        if len(customer_ids) and purchases.num_rows:
            found = pc.fill_null(
                pc.index_in(purchases["customer_id"], value_set=pa.array(customer_ids, pa.string())), -1
            )
            customers = np.asarray(found.to_numpy(), np.int32)
        else:
            customers = np.full(purchases.num_rows, -1, np.int32)
        times = purchases["ordered_at"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        if "quantity" in purchases.column_names:
            quantities = purchases["quantity"].cast(pa.float32()).to_numpy()
        else:
            quantities = np.ones(purchases.num_rows, np.float32)
        kept = (customers >= 0) & (products >= 0)
        customers, products, times, quantities = (
            customers[kept],
            products[kept],
            times[kept],
            quantities[kept],
        )
        order = np.lexsort((products, times, customers))
        return cls(
            catalogue, tuple(customer_ids), customers[order], products[order], times[order], quantities[order]
        )  # fmt: skip

    def histories(self) -> Histories:
        """Each customer's distinct products, the latest first (same time: lower product id first)."""
        n, ages = len(self.customer_ids), self._ages()
        # Latest first within a customer, then the first occurrence of each product is its last purchase.
        order = np.lexsort((self.products, ages, self.customers))
        customers, products = self.customers[order].astype(np.int64), self.products[order]
        key = customers * max(len(self.catalogue), 1) + products
        _, first = np.unique(key, return_index=True)
        first.sort()
        counts = np.bincount(customers[first], minlength=n) if n else np.zeros(0, np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Histories(
            self.customer_ids, offsets, products[first], ages[order][first], self.catalogue.digest
        )

    def _ages(self) -> NDArray[np.int32]:
        """For each purchase, how many later instants this customer bought at."""
        if len(self) == 0:
            return np.zeros(0, np.int32)
        new = np.ones(len(self), np.int64)
        new[1:] = (self.customers[1:] != self.customers[:-1]) | (self.times[1:] != self.times[:-1])
        instant = np.cumsum(new)
        last = np.searchsorted(self.customers, np.arange(len(self.customer_ids)), side="right") - 1
        return (instant[last][self.customers] - instant).astype(np.int32)
