"""Purchases split by time into what a ranker learns from and what it must foresee, frozen in the lake.

Each customer's last order that brought a product new to them is the test: one such product is held out, drawn by seed
where the order has several, and nothing the customer bought from then on may be learnt from. The order before it, by the
same rule, is for tuning. What a customer buys again is never a target: lists never hold what was bought before.

Beside that split by customer stands one by the clock: `time_cut` gives the instant where the last purchases begin, and
nothing from then on is learnt by anybody. It is what a night in that moment would have known; a customer's own last order
may lie long before what other customers had bought by then.

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
_NEVER = int(np.iinfo(np.int64).max)
# What may be learnt from before each question is asked.
_LEARNT = {"validation": ("train",), "test": ("train", "validation", "validation_order")}


@dataclass(frozen=True)
class Questions:
    """For some customers, the product each bought next: `targets` are codes, `histories` what came before."""

    histories: Histories
    targets: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def is_unknown(self) -> NDArray[np.bool_]:
        """A flag a question: is there nothing at all before it? Only a split by time asks about such customers."""
        return np.diff(self.histories.offsets) == 0

    def rows(self, picked: NDArray[np.int64]) -> Questions:
        """Some of the questions, in the order given."""
        return Questions(self.histories.rows(picked), self.targets[picked])


class Examples:
    """A day's frozen examples. The catalogue is that of all purchases, so codes mean the same in every split."""

    def __init__(self, purchases: pa.Table, *, catalogue: Catalogue | None = None) -> None:
        self.purchases = purchases
        self._given = catalogue

    @cached_property
    def catalogue(self) -> Catalogue:
        return self._given or Catalogue.of(self.purchases["product_id"])

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
        kept = _drawn_customers(customers, most)
        targets = self.catalogue.codes(asked["product_id"])[kept]
        learnt = pc.is_in(self.purchases["split"], value_set=pa.array(_LEARNT[stage]))
        chosen = [customers[i] for i in kept]
        return Questions(Histories.of(self.purchases.filter(learnt), self.catalogue, chosen), targets)

    def time_cut(self, share: float = 0.1) -> int:
        """The instant (microseconds since 1970) at which the last `share` of purchases begins.

        Purchases of that very instant lie after it, so where times are days a little more than `share` does. Without
        purchases it is the end of time.
        """
        times = np.sort(_times(self.purchases))
        return int(times[int(np.floor((1 - share) * len(times)))]) if len(times) and share > 0 else _NEVER

    def before_time(self, cut: int) -> Interactions:
        """What anybody bought before an instant: all that may be learnt for the questions of the split by time."""
        earlier = self.purchases.filter(pa.array(_times(self.purchases) < cut))
        return Interactions.of(earlier, catalogue=self.catalogue)

    def until(self, cut: int, *, seed: int) -> Examples:
        """These examples as they would have been frozen at an instant, coded alike: tune on them for the split by time."""
        earlier = self.purchases.filter(pa.array(_times(self.purchases) < cut))
        if "split" in earlier.column_names:
            earlier = earlier.drop_columns(["split"])
        labels = pa.array(split(earlier, seed=seed), pa.string())
        return Examples(earlier.append_column("split", labels), catalogue=self.catalogue)

    def questions_in_time(self, cut: int, *, seed: int, most: int | None = None) -> Questions:
        """The first product new to each customer that they bought from an instant on, customers ascending.

        One is drawn by seed where that order has several. The histories end before the instant for everybody: what a
        customer bought between it and the target is not told either. A customer who only came after it is asked about
        with an empty history (`Questions.is_unknown`): what serves then is popularity.
        """
        times = _times(self.purchases)
        customers = self.purchases["customer_id"].combine_chunks().dictionary_encode()
        codes = customers.indices.to_numpy()
        products = self.catalogue.codes(self.purchases["product_id"])
        key = codes.astype(np.int64) * max(len(self.catalogue), 1) + products
        first = _first(key, times)
        first = first[times[first] >= cut]
        begin = np.full(len(customers.dictionary), _NEVER)
        np.minimum.at(begin, codes[first], times[first])
        able = first[times[first] == begin[codes[first]]]
        ids = _Ids(self.purchases["customer_id"], self.purchases["product_id"], seed)
        order = np.lexsort((ids.drawn(able), codes[able]))
        _, one = np.unique(codes[able][order], return_index=True)
        names = customers.dictionary.to_pylist()
        asked = sorted(able[order[one]].tolist(), key=lambda row: names[codes[row]])
        chosen = [names[codes[row]] for row in asked]
        kept = _drawn_customers(chosen, most)
        earlier = self.purchases.filter(pa.array(times < cut))
        histories = Histories.of(earlier, self.catalogue, [chosen[i] for i in kept])
        return Questions(histories, products[np.array(asked, np.int64)[kept]])


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


def load(day: date, *, catalogue: Catalogue | None = None) -> Examples:
    """The examples frozen for a day, coded with `catalogue` (by default the products that were bought).

    Raises:
        ExtractMissing: they were never made.
    """
    return Examples(lake.read(NAME, day), catalogue=catalogue)


def shuffle_ties(purchases: pa.Table, *, seed: int) -> pa.Table:
    """The same purchases with every product an order of its own: those of one customer and instant in an order drawn
    by seed, a microsecond apart.

    Where times are days, a "last purchase" within a day is an accident of the file. Here no file order ever counts:
    products of one instant are one order, one of them is held out and none of them is learnt. Published tables do
    otherwise: they hold out the last line and tell the lines before it, of the same day too. This is that protocol without
    its accident, for comparison with such tables. Rows come out in order of customer and time.
    """
    if purchases.num_rows == 0:
        return purchases
    customers = purchases["customer_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    times = _times(purchases)
    rows = np.arange(purchases.num_rows)
    drawn = _mixed(_Ids(purchases["customer_id"], purchases["product_id"], seed).drawn(rows))
    order = np.lexsort((rows, drawn, times, customers))
    customers, times = customers[order], times[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (customers[1:] != customers[:-1]) | (times[1:] != times[:-1])
    begins = np.flatnonzero(new)
    nth = np.arange(len(order)) - np.repeat(begins, np.diff(np.append(begins, len(order))))
    kind = purchases.schema.field("ordered_at").type
    moved = pa.array(times + nth, pa.int64()).cast(pa.timestamp("us")).cast(kind)
    shuffled = purchases.take(pa.array(order)).set_column(
        purchases.column_names.index("ordered_at"), "ordered_at", moved
    )
    return shuffled.sort_by([("customer_id", "ascending"), ("ordered_at", "ascending")])


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
    times = _times(purchases)
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
    key = customers.astype(np.int64) * (int(products.max()) + 1 if len(products) else 1) + products
    new = np.zeros(len(rows), np.bool_)
    new[_first(key, times)] = True
    began = np.full(most, _NEVER)
    np.minimum.at(began, customers, times)
    # A product of the very first order has no history before it: nobody could foresee it.
    able = np.flatnonzero(new & (times > began[customers]))
    ends = np.full(most, -1, np.int64)
    np.maximum.at(ends, customers[able], times[able])
    last = able[times[able] == ends[customers[able]]]
    ends[ends < 0] = _NEVER
    order = np.lexsort((ids.drawn(rows[last]), customers[last]))
    _, first = np.unique(customers[last][order], return_index=True)
    return rows[last[order[first]]], ends


def _times(purchases: pa.Table) -> NDArray[np.int64]:
    """When each purchase was made, in microseconds since 1970."""
    found: NDArray[np.int64] = purchases["ordered_at"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    return found


def _drawn_customers(customers: Sequence[str], most: int | None) -> NDArray[np.int64]:
    """The places of at most `most` customers, drawn by a digest of their ids, in the order they came."""
    kept = np.arange(len(customers))
    if most is None or len(customers) <= most:
        return kept
    drawn = np.array([zlib.crc32(customer.encode()) for customer in customers])
    return np.sort(np.lexsort((kept, drawn))[:most])


def _first(key: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of the earliest entry of each key."""
    order = np.lexsort((np.arange(len(key)), times, key))
    _, first = np.unique(key[order], return_index=True)
    return order[first]


def _mixed(digests: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Checksums spread over 64 bits (the finaliser of SplitMix64).

    A checksum is linear: another seed turns over the same bits of all of them, and of six orders of three products only
    four would ever be drawn. To draw one of several, that does no harm.
    """
    z = digests.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


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
