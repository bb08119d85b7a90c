"""Purchases split by time into what a ranker learns from and what it must foresee, frozen in the lake.

Each customer's last order that brought a product new to them is the test: one such product is held out, drawn by seed
where the order has several, and nothing the customer bought from then on may be learnt from. The order before it, by the
same rule, is for tuning. What a customer buys again is never a target: lists never hold what was bought before.
Nothing is learnt from customers who refused training. Not here: whose purchases are there at all (the mart `purchases`:
no bots, nobody who refused profiling).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightmarket import lake, warehouse
from nightmarket.lake import Manifest
from nightmarket.ranking import Catalogue, Histories, Interactions, learnable

NAME = "training_purchases"
KEY = ("customer_id", "ordered_at", "order_id", "product_id")
Stage = Literal["validation", "test"]
# What may be learnt from before each question is asked.
_LEARNT = {"validation": ("train",), "test": ("train", "validation", "validation_order")}


@dataclass(frozen=True)
class Questions:
    """For some customers, the product each bought next: `targets` are codes, `histories` what came before."""

    histories: Histories
    targets: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.targets)


class Examples:
    """A day's frozen examples. The catalogue is that of all purchases, so codes mean the same in every split."""

    def __init__(self, purchases: pa.Table) -> None:
        self.purchases = purchases

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue.of(self.purchases["product_id"])

    @cached_property
    def customers(self) -> int:
        """How many customers bought something."""
        return int(pc.count_distinct(self.purchases["customer_id"]).as_py())

    def everything(self) -> Interactions:
        """All purchases, held-out ones too: what a model that serves is fitted on."""
        return Interactions.of(self.purchases, catalogue=self.catalogue)

    def before(self, stage: Stage) -> Interactions:
        """What may be learnt from before the questions of `stage` are asked."""
        learnt = pc.is_in(self.purchases["split"], value_set=pa.array(_LEARNT[stage]))
        return Interactions.of(self.purchases.filter(learnt), catalogue=self.catalogue)

    def questions(self, stage: Stage, most: int | None = None) -> Questions:
        """The questions of a stage, customers ascending; at most `most`, of customers drawn by a digest of their ids."""
        asked = self.purchases.filter(pc.equal(self.purchases["split"], stage))
        customers = asked["customer_id"].to_pylist()
        kept = np.arange(len(customers))
        if most is not None and len(customers) > most:
            drawn = np.array([zlib.crc32(customer.encode()) for customer in customers])
            kept = np.sort(np.lexsort((kept, drawn))[:most])
        targets = self.catalogue.codes(asked["product_id"])[kept]
        learnt = pc.is_in(self.purchases["split"], value_set=pa.array(_LEARNT[stage]))
        chosen = [customers[i] for i in kept]
        return Questions(Histories.of(self.purchases.filter(learnt), self.catalogue, chosen), targets)


def freeze(day: date, *, seed: int) -> tuple[Manifest, bool]:
    """Split the day's extract `purchases` and write it to the lake; says whether it had to be made.

    The same purchases and seed give the same rows; when they already stand there nothing is written.
    """
    source = lake.require("purchases", day)
    inputs = warehouse.digest("split-2", source.content_hash, seed)
    note = lake.folder(NAME, day) / "made_from.json"
    found = lake.manifest(NAME, day)
    if found is not None and note.exists() and json.loads(note.read_text()).get("inputs") == inputs:
        return found, False
    columns = ["customer_id", "product_id", "order_id", "ordered_at", "quantity"]
    purchases = lake.read("purchases", day, [*columns, "may_train"])
    purchases = learnable(purchases).select(columns)
    table = purchases.append_column("split", pa.array(split(purchases, seed=seed), pa.string()))
    written = lake.write(NAME, day, table, key=KEY)
    note.write_text(json.dumps({"inputs": inputs}))
    return written, True


def load(day: date) -> Examples:
    """The examples frozen for a day.

    Raises:
        ExtractMissing: they were never made.
    """
    return Examples(lake.read(NAME, day))


def split(purchases: pa.Table, *, seed: int) -> NDArray[np.str_]:
    """What each purchase is for: `train`, `validation`, `validation_order`, `test` or `test_order`.

    `validation` and `test` mark the held-out products; the `_order` ones are what else was bought in that order or
    after it. Rows must be in order of time within a customer.
    """
    n = purchases.num_rows
    if n == 0:
        return np.zeros(0, "U16")
    customers = purchases["customer_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    products = purchases["product_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    times = purchases["ordered_at"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    ids = _Ids(purchases["customer_id"], purchases["product_id"], seed)
    labels = np.full(n, "train", "U16")
    for stage in ("test", "validation"):
        rows = np.flatnonzero(labels == "train")
        targets, ends = _hold_out(customers[rows], products[rows], times[rows], rows, ids)
        later = times[rows] >= ends[customers[rows]]
        labels[rows[later]] = f"{stage}_order"
        labels[targets] = stage
    return labels


def _hold_out(
    customers: NDArray[np.int32],
    products: NDArray[np.int32],
    times: NDArray[np.int64],
    rows: NDArray[np.int64],
    ids: _Ids,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows held out, and for each customer the instant from which on nothing may be learnt (the end of time: none)."""
    most = int(customers.max()) + 1 if len(customers) else 0
    never = np.iinfo(np.int64).max
    key = customers.astype(np.int64) * (int(products.max()) + 1 if len(products) else 1) + products
    new = np.zeros(len(rows), np.bool_)
    new[_first(key, times)] = True
    began = np.full(most, never)
    np.minimum.at(began, customers, times)
    # A product of the very first order has no history before it: nobody could foresee it.
    able = np.flatnonzero(new & (times > began[customers]))
    ends = np.full(most, -1, np.int64)
    np.maximum.at(ends, customers[able], times[able])
    last = able[times[able] == ends[customers[able]]]
    ends[ends < 0] = never
    order = np.lexsort((ids.drawn(rows[last]), customers[last]))
    _, first = np.unique(customers[last][order], return_index=True)
    return rows[last[order[first]]], ends


def _first(key: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of the earliest entry of each key."""
    order = np.lexsort((np.arange(len(key)), times, key))
    _, first = np.unique(key[order], return_index=True)
    return order[first]


class _Ids:
    """Draws among the products of one order: by a digest of seed and ids, so other customers' purchases do not matter."""

    def __init__(self, customers: pa.ChunkedArray, products: pa.ChunkedArray, seed: int) -> None:
        self.customers, self.products, self.seed = customers, products, seed

    def drawn(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        picked = pa.array(rows, pa.int64())
        pairs = zip(
            self.customers.take(picked).to_pylist(), self.products.take(picked).to_pylist(), strict=True
        )
        return np.array([zlib.crc32(f"{self.seed}\x1f{c}\x1f{p}".encode()) for c, p in pairs], np.int64)
