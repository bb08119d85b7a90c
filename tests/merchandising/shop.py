"""A catalogue of twelve products and rules written as people write them, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket.merchandising import Candidates, RuleBook, Slots

DAY = date(2026, 11, 22)
BRANDS = ["Alder", "Brook", "Cedar"]
SHELVES = ["Kitchen > Coffee", "Kitchen > Knives", "Garden"]
PRODUCTS = pa.table({
    "product_id": [f"p{i}" for i in range(12)],
    "brand": [BRANDS[i % 3] if i != 11 else None for i in range(12)],
    "category": [SHELVES[i // 4] for i in range(12)],
    "attributes": ['{"Colour": "blue", "sizes": [5.0, "XL"], "organic": true}' if i in (2, 7) else "{}" for i in range(12)],
    "is_available": [i != 9 for i in range(12)],
})  # fmt: skip
IDS: list[str] = PRODUCTS["product_id"].to_pylist()
COLUMNS = pa.schema([
    ("rule_id", pa.string()), ("action", pa.string()), ("placement", pa.string()), ("product_id", pa.string()),
    ("brand", pa.string()), ("category", pa.string()), ("attribute", pa.string()), ("value", pa.float64()),
    ("per", pa.string()), ("within_days", pa.int64()), ("owner", pa.string()), ("reason", pa.string()),
    ("starts_on", pa.date32()), ("ends_on", pa.date32()), ("priority", pa.int64()),
])  # fmt: skip


def table(*rules: Mapping[str, Any]) -> pa.Table:
    """Rules as the mart has them; `id` stands for rule_id."""
    rows = [{"owner": "ann", **rule, "rule_id": rule.get("id", f"r{i}")} for i, rule in enumerate(rules)]
    return pa.Table.from_pylist(
        [{name: row.get(name) for name in COLUMNS.names} for row in rows], schema=COLUMNS
    )


def book(*rules: Mapping[str, Any], products: pa.Table = PRODUCTS, day: date = DAY) -> RuleBook:
    return RuleBook.of(table(*rules), products, products["product_id"].to_pylist(), day)


def candidates(*rows: Sequence[int], scores: Sequence[Sequence[float]] | None = None) -> Candidates:
    """Lists of codes; scores fall from 1 in equal steps where none are given."""
    products = np.array(rows, np.int32).reshape(len(rows), -1)
    falling = np.linspace(1, 0.1, products.shape[1]) if products.shape[1] else np.zeros(0)
    told = np.tile(falling, (len(rows), 1)) if scores is None else np.array(scores)
    return Candidates(products, told.astype(np.float32), np.zeros(products.shape, np.int8))


def applied(rules: RuleBook, proposed: Candidates, k: int, placement: str = "home", **more: Any) -> Slots:
    told: dict[str, Any] = {
        "customer_ids": [f"c{i}" for i in range(len(proposed))], "exposures": None, "exploration": 0.0, "seed": 7, "day": DAY,
    }  # fmt: skip
    return rules.apply(proposed, placement, k, **{**told, **more})


def listed(slots: Slots, row: int = 0) -> list[int]:
    return [int(p) for p in slots.products[row]]


def shown(*rows: tuple[str, str, str, date, int]) -> pa.Table:
    """Rows of the mart `exposures`."""
    columns = list(zip(*rows, strict=True)) if rows else [[], [], [], [], []]
    kinds = (pa.string(), pa.string(), pa.string(), pa.date32(), pa.int64())
    names = ("customer_id", "product_id", "placement", "shown_on", "shown")
    return pa.table([pa.array(list(c), k) for c, k in zip(columns, kinds, strict=True)], names=list(names))
