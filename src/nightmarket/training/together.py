"""What is bought together, frozen in the lake: pairs an encoder may learn from, and pairs it must foresee.

Two products are a pair when one customer bought them within `NEAR` days, at most `REACH` purchases apart. Pairs that may
be learnt come from purchases of the split `train` alone; a held-out pair is what a customer bought last before the
question, and the product held out. Not here: the split (examples), and texts (passages).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightmarket import lake, warehouse
from nightmarket.ranking import Catalogue, learnable
from nightmarket.training import examples

NAME = "encoder_pairs"
KEY = ("split", "product_id", "other_id")
REACH = 5
NEAR = 90  # days
Stage = Literal["validation", "test"]
_KNOWN = {"validation": ("train",), "test": ("train", "validation", "validation_order")}
_DAY = 86_400_000_000


@dataclass(frozen=True)
class Asked:
    """Held-out pairs as codes: after `queries` came `targets`; `is_new`: nobody had bought the target in training."""

    queries: NDArray[np.int32]
    targets: NDArray[np.int32]
    is_new: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.queries)

    def rows(self, picked: NDArray[np.bool_] | NDArray[np.int64]) -> Asked:
        """Some of them."""
        return Asked(self.queries[picked], self.targets[picked], self.is_new[picked])


class Together:
    """A day's frozen pairs, coded with a catalogue; pairs of products that it lacks are left out."""

    def __init__(self, pairs: pa.Table, catalogue: Catalogue) -> None:
        self.table, self.catalogue = pairs, catalogue

    @cached_property
    def learnt(self) -> NDArray[np.int32]:
        """Pairs that may be learnt from (n x 2), each once, the lower code first."""
        found = self._of("train")
        codes = np.stack([found.queries, found.targets], axis=1)
        return np.unique(np.sort(codes, axis=1), axis=0).astype(np.int32).reshape(-1, 2)

    def asked(self, stage: Stage) -> Asked:
        """The held-out pairs of a stage, one a customer."""
        return self._of(stage)

    def _of(self, split: str) -> Asked:
        rows = self.table.filter(pc.equal(self.table["split"], split))
        queries, targets = (self.catalogue.codes(rows[name]) for name in ("product_id", "other_id"))
        known = (queries >= 0) & (targets >= 0)
        times = np.where(known, rows["times"].to_numpy(), 0) if split != "train" else known.astype(np.int64)
        is_new = np.asarray(rows["is_new"].to_numpy(zero_copy_only=False), np.bool_)
        return Asked(np.repeat(queries, times), np.repeat(targets, times), np.repeat(is_new, times))


def freeze(day: date, *, seed: int) -> tuple[lake.Manifest, bool]:
    """Write the pairs of the day's extract `purchases` to the lake; says whether they had to be made.

    The same purchases and seed give the same rows; when they already stand there nothing is written.
    """
    source = lake.require("purchases", day)
    inputs = warehouse.digest("pairs-1", REACH, NEAR, source.content_hash, seed)
    note = lake.folder(NAME, day) / "made_from.json"
    found = lake.manifest(NAME, day)
    if found is not None and note.exists() and json.loads(note.read_text()).get("inputs") == inputs:
        return found, False
    columns = ["customer_id", "product_id", "order_id", "ordered_at"]
    purchases = learnable(lake.read("purchases", day, [*columns, "may_train"])).select(columns)
    written = lake.write(NAME, day, pairs_of(purchases, seed=seed), key=KEY)
    note.write_text(json.dumps({"inputs": inputs}))
    return written, True


def load(day: date, catalogue: Catalogue) -> Together:
    """The pairs frozen for a day, coded with `catalogue`.

    Raises:
        ExtractMissing: they were never made.
    """
    return Together(lake.read(NAME, day), catalogue)


def pairs_of(purchases: pa.Table, *, seed: int) -> pa.Table:
    """Pairs as rows: `product_id`, `other_id`, `split`, how many `times`, and whether the target `is_new` to training.

    Rows of `purchases` are in order of customer and time.
    """
    split = examples.split(purchases, seed=seed)
    catalogue = Catalogue.of(purchases["product_id"])
    products = catalogue.codes(purchases["product_id"])
    customers = purchases["customer_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    times = purchases["ordered_at"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    train = split == "train"
    known = np.zeros(len(catalogue), np.bool_)
    known[products[train]] = True
    parts = [_part("train", _near(customers[train], products[train], times[train]), known, catalogue)]
    for stage, labels in _KNOWN.items():
        pairs = _held_out(customers, products, times, np.isin(split, labels), split == stage)
        parts.append(_part(stage, pairs, known, catalogue))
    return pa.concat_tables(parts)


def _near(
    customers: NDArray[np.int32], products: NDArray[np.int32], times: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Pairs (the lower code first) of purchases of one customer that are near each other."""
    found = [np.zeros((0, 2), np.int32)]
    for apart in range(1, REACH + 1):
        near = (customers[apart:] == customers[:-apart]) & (products[apart:] != products[:-apart])
        near &= times[apart:] - times[:-apart] <= NEAR * _DAY
        found.append(np.stack([products[:-apart][near], products[apart:][near]], axis=1))
    return np.sort(np.concatenate(found), axis=1)


def _held_out(
    customers: NDArray[np.int32],
    products: NDArray[np.int32],
    times: NDArray[np.int64],
    known: NDArray[np.bool_],
    asked: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """What each customer bought last before the question, and the product held out, where that was near."""
    last = np.full(int(customers.max()) + 1 if len(customers) else 0, -1, np.int64)
    rows = np.flatnonzero(known)
    last[customers[rows]] = rows  # in order of time, so the last one stays
    questions = np.flatnonzero(asked)
    before = last[customers[questions]]
    near = (before >= 0) & (times[questions] - times[before] <= NEAR * _DAY)
    near &= products[before] != products[questions]
    return np.stack([products[before[near]], products[questions[near]]], axis=1)


def _part(split: str, pairs: NDArray[np.int32], known: NDArray[np.bool_], catalogue: Catalogue) -> pa.Table:
    unique, times = np.unique(pairs.reshape(-1, 2), axis=0, return_counts=True)
    ids = pa.array(catalogue.product_ids, pa.string())
    return pa.table({
        "product_id": ids.take(pa.array(unique[:, 0])), "other_id": ids.take(pa.array(unique[:, 1])),
        "split": pa.array([split] * len(unique), pa.string()), "times": pa.array(times, pa.int64()),
        "is_new": pa.array(~known[unique[:, 1]], pa.bool_()),
    })  # fmt: skip
