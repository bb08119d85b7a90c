"""Personal lists: a customer's purchases to candidates, to slots, to rows, a partition of customers at a time.

Customers who get a list without anybody's traits get the twin's, with the reason why. Products that are archived, drafts,
out of stock, or bought before never appear. Not here: whose lists are made (people, touched), how a model ranks (ranking),
what rules do (merchandising).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightmarket import lake
from nightmarket.merchandising import Candidates
from nightmarket.products.recommendations import people, placements, reasons, slots
from nightmarket.products.recommendations.serving import Serving
from nightmarket.products.recommendations.shelf import Opened, Shelf
from nightmarket.ranking import Histories, Lists, Popularity
from nightmarket.settings import get_settings

NEW_PRODUCTS = 5
"""Products that nobody bought yet which exploration may choose from, the newest."""


@dataclass(frozen=True)
class Scoring:
    """From customers with their purchases to rows of `outputs.recommendations`; runs in whatever process it is sent to.

    Attributes:
        new: ids of products that nobody bought yet.
        lengths: placement -> length of a list.
    """

    shelf: Shelf
    serving: Serving
    new: tuple[str, ...]
    lengths: tuple[tuple[str, int], ...]
    exploration: float
    seed: int

    def __call__(self, customers: pa.Table) -> pa.Table:
        """The rows of some customers (customer_id, language, by_email, input_hash, product_id and ordered_at as lists)."""
        shelf, ranker, popularity = self.shelf.open(), self.serving.ranker(), self.serving.popularity()
        ids: list[str] = customers["customer_id"].to_pylist()
        purchases = _flat(customers)
        model = ranker.catalogue
        histories = Histories.of(purchases, model, ids)
        # What was bought and the model never learnt from is known as bought all the same.
        seen = Histories.of(purchases, shelf.catalogue, ids)
        codes = shelf.codes_of(model)
        allowed = shelf.allowed(model, *(name for name, _ in self.lengths))
        best = ranker.recommend(histories, max(n for _, n in self.lengths) + slots.BESIDE, allowed=allowed)
        held = slots.candidates(best, histories, popularity, codes, allowed=allowed)
        sources = (ranker.kind, Popularity.kind, "new_product")
        exposures = _shown(self.shelf.exposures.path, ids) if self.shelf.exposures.rows else None
        parts = []
        for placement, k in self.lengths:
            rows = np.arange(len(ids))
            if placement == placements.EMAIL:
                rows = np.flatnonzero(customers["by_email"].to_numpy())
            block = Candidates(held.products[rows], held.scores[rows], held.sources[rows])
            block = placements.varied(block, placement, shelf)
            if self.exploration > 0:
                block = slots.with_new(block, _unseen_new(shelf, self.new), k)
            bought = seen.rows(rows)
            made = shelf.book.apply(
                block, placement, k, customer_ids=[ids[r] for r in rows], exposures=exposures,
                exploration=self.exploration, seed=self.seed, day=self.shelf.day, seen=(bought.offsets, bought.items),
            )  # fmt: skip
            parts.append((placement, rows, slots.filled(made, shelf, sources)))
        causes = self._causes(histories, parts, codes, shelf)
        return pa.concat_tables([
            self._rows(customers, placement, rows, found, cause, shelf)
            for (placement, rows, found), cause in zip(parts, causes, strict=True)
        ])  # fmt: skip

    def _causes(
        self, histories: Histories, parts: Sequence[tuple[str, NDArray[np.int64], slots.Filled]],
        codes: NDArray[np.int32], shelf: Opened,
    ) -> list[NDArray[np.int32]]:  # fmt: skip
        """What caused each filled slot, in the shop's codes: one question to the model for all placements."""
        widths = [n for _, n in self.lengths]
        if not self.serving.reasons_hold:
            return [np.full((len(found.row), reasons.CAUSES), -1, np.int32) for _, _, found in parts]
        back = np.full(len(shelf.catalogue) + 1, -1, np.int32)
        back[codes[codes >= 0]] = np.flatnonzero(codes >= 0)
        asked = np.full((len(histories), sum(widths)), -1, np.int32)
        starts = np.cumsum([0, *widths[:-1]])
        for start, (_, rows, found) in zip(starts, parts, strict=True):
            own = (found.source == slots.RANKED) & ~found.is_exploration & ~found.is_forward
            asked[rows[found.row[own]], start + found.place[own]] = back[found.product[own]]
        answer = self.serving.ranker().because(
            histories, Lists(asked, np.zeros(asked.shape, np.float32)), reasons.CAUSES
        )
        answer = np.where(answer >= 0, codes[np.maximum(answer, 0)] if len(codes) else -1, -1).astype(
            np.int32
        )
        return [
            answer[rows[found.row], start + found.place]
            for start, (_, rows, found) in zip(starts, parts, strict=True)
        ]

    def _rows(
        self, customers: pa.Table, placement: str, rows: NDArray[np.int64], found: slots.Filled,
        causes: NDArray[np.int32], shelf: Opened,
    ) -> pa.Table:  # fmt: skip
        at = pa.array(rows[found.row])
        personal, n = found.source == slots.RANKED, len(found.row)
        by_rule = found.is_forward | (found.source < 0)
        code = np.select(
            [found.is_exploration, by_rule, found.source == slots.NEW, found.source == slots.POPULAR, causes[:, 0] >= 0],
            [reasons.EXPLORED, reasons.PROMOTED, reasons.EXPLORED, reasons.POPULAR, reasons.BOUGHT], reasons.FOR_YOU,
        ).astype(np.int8)  # fmt: skip
        language = customers["language"].to_numpy()[rows[found.row]]
        codes, texts, because = reasons.told(language, code, causes, shelf.catalogue.product_ids, shelf.title)
        why_not = pa.array(("list_filled", "new_product", "rule"), pa.string())
        other = pa.array(np.where(by_rule, 2, found.source - 1), mask=personal)
        return pa.table({
            "customer_id": customers["customer_id"].combine_chunks().take(at),
            "placement": pa.array([placement] * n, pa.string()), **found.columns,
            "is_personalised": pa.array(personal), "fallback_reason": why_not.take(other),
            "reason_code": codes, "reason_text": texts, "because_product_ids": because,
            "input_hash": customers["input_hash"].combine_chunks().take(at),
            "model_name": pa.array([self.serving.name] * n, pa.string()),
            "model_version": pa.array([self.serving.version] * n, pa.string()),
        })  # fmt: skip


def personal(shelf: Shelf, serving: Serving, customers: pa.Table) -> pa.Table:
    """The lists of these customers (rows of `people.known`), ranked from their own purchases."""
    settings = get_settings()
    purchases = lake.read("purchases", shelf.day, ["customer_id", "product_id", "ordered_at"])
    scoring = Scoring(
        shelf, serving, new_products(shelf, purchases["product_id"]),
        tuple((name, placements.length(name, settings)) for name in (placements.HOME, placements.EMAIL)),
        settings.exploration_share, settings.seed,
    )  # fmt: skip
    asked = _with_purchases(customers, purchases)
    del purchases
    scratch = Path(tempfile.mkdtemp(prefix=".lists-", dir=settings.state))
    try:
        pq.write_table(asked, scratch / "customers.parquet")
        _map(scoring, scratch / "customers.parquet", scratch / "rows")
        return pq.read_table(scratch / "rows", partitioning=None)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def none() -> pa.Table:
    """No rows, with columns enough for whoever counts them."""
    names = ("customer_id", "input_hash", "model_name", "model_version")
    return pa.table({name: pa.array([], pa.string()) for name in names})


def without_traits(twin: pa.Table, customers: pa.Table) -> pa.Table:
    """The twin's lists for these customers (rows of `people.known`), each saying why they have no list of their own."""
    parts = []
    for placement in (placements.HOME, placements.EMAIL):
        shown = twin.filter(pc.equal(twin["placement"], placement)).combine_chunks()
        who = customers.filter(customers["by_email"]) if placement == placements.EMAIL else customers
        who = who.combine_chunks()
        n, k = who.num_rows, shown.num_rows
        slot, at = pa.array(np.tile(np.arange(k), n)), pa.array(np.repeat(np.arange(n), k))
        rows = shown.take(slot)
        code = np.array([reasons.CODES.index(c) for c in shown["reason_code"].to_pylist()], np.int8)
        codes, texts, because = reasons.told(
            who["language"].to_numpy().repeat(k), np.tile(code, n), np.full((n * k, reasons.CAUSES), -1, np.int32),
            (), lambda _: "",
        )  # fmt: skip
        why = pa.array(people.FALLBACKS, pa.string()).take(who["fallback"]).combine_chunks()
        columns = {
            "customer_id": who["customer_id"].take(at), **{name: rows[name] for name in _AS_IN_TWIN},
            "is_exploration": pa.array(np.zeros(n * k, np.bool_)), "is_personalised": pa.array(np.zeros(n * k, np.bool_)),
            "fallback_reason": why.take(at), "reason_code": codes, "reason_text": texts, "because_product_ids": because,
            "input_hash": who["input_hash"].take(at), "model_name": rows["model_name"],
            "model_version": rows["model_version"],
        }  # fmt: skip
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


_AS_IN_TWIN = (
    "placement", "rank", "product_id", "score", "candidate_source", "rank_before_rules", "rules_applied", "propensity",
)  # fmt: skip


def new_products(shelf: Shelf, bought: pa.ChunkedArray) -> tuple[str, ...]:
    """The newest products on sale that nobody bought yet; where the shop gives no dates, the last by id."""
    table = shelf.open().table
    unbought = table.filter(
        pc.and_(table["is_available"], pc.invert(pc.is_in(table["product_id"], value_set=pc.unique(bought))))
    )
    if "created_at" not in unbought.column_names:
        unbought = unbought.append_column("created_at", pa.nulls(unbought.num_rows, pa.timestamp("us")))
    order = [("created_at", "descending"), ("product_id", "descending")]
    ranked = unbought.select(["product_id", "created_at"]).sort_by(order)
    return tuple(ranked["product_id"].slice(0, NEW_PRODUCTS).to_pylist())


def _map(scoring: Scoring, source: Path, target: Path) -> int:
    from nightmarket import compute

    return compute.map_partitions(scoring, source, target, rows=get_settings().partition_customers)


def _with_purchases(customers: pa.Table, purchases: pa.Table) -> pa.Table:
    """Customers, by id, with what they bought and when as lists; both tables are in the order of ids."""
    ids = customers["customer_id"].combine_chunks()
    of = pc.index_in(purchases["customer_id"], value_set=ids)
    kept = purchases.filter(pc.is_valid(of)).combine_chunks()
    rows = np.asarray(pc.drop_null(of).to_numpy(), np.int64)
    ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(ids)))]).astype(np.int32)
    listed = {
        name: pa.ListArray.from_arrays(pa.array(ends), kept[name].combine_chunks())
        for name in ("product_id", "ordered_at")
    }
    return customers.append_column("product_id", listed["product_id"]).append_column(
        "ordered_at", listed["ordered_at"]
    )


def _flat(customers: pa.Table) -> pa.Table:
    """Purchases as rows again."""
    bought = customers["product_id"].combine_chunks()
    return pa.table({
        "customer_id": customers["customer_id"].combine_chunks().take(pc.list_parent_indices(bought)),
        "product_id": pc.list_flatten(bought),
        "ordered_at": pc.list_flatten(customers["ordered_at"].combine_chunks()),
    })  # fmt: skip


def _shown(path: Path, ids: Sequence[str]) -> pa.Table:
    """The exposures of some customers, whose ids ascend; of a long file only the part where they stand is read."""
    span = [("customer_id", ">=", ids[0]), ("customer_id", "<=", ids[-1])]
    return pq.read_table(path, filters=span, partitioning=None)


def _unseen_new(shelf: Opened, new: tuple[str, ...]) -> NDArray[np.int32]:
    codes = shelf.catalogue.codes(list(new))
    return codes[codes >= 0]
