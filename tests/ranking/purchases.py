"""Small tables of purchases for the rankers' tests."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

START = datetime(2026, 1, 1)


def purchases(histories: dict[str, list[str | list[str]]], refused: Collection[str] = ()) -> pa.Table:
    """A table of purchases: each customer's orders, a day apart; an order is a product or a list of products.

    Customers in `refused` do not want models to learn from them.
    """
    rows = [
        {
            "customer_id": customer, "product_id": product, "order_id": f"{customer}-{n}",
            "ordered_at": START + timedelta(days=n), "quantity": 1.0, "may_train": customer not in refused,
        }
        for customer, orders in histories.items()
        for n, order in enumerate(orders)
        for product in ([order] if isinstance(order, str) else order)
    ]  # fmt: skip
    kinds = [("customer_id", pa.string()), ("product_id", pa.string()), ("order_id", pa.string()),
             ("ordered_at", pa.timestamp("us")), ("quantity", pa.float64()),
             ("may_train", pa.bool_())]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))


def shop(customers: int = 120, products: int = 30, seed: int = 5) -> pa.Table:
    """Purchases with a pattern: a customer walks through one of three aisles, mostly to the next product."""
    random = np.random.default_rng(seed)
    aisle_size = products // 3
    histories: dict[str, list[str | list[str]]] = {}
    for customer in range(customers):
        aisle, at = customer % 3, int(random.integers(aisle_size))
        walk: list[str | list[str]] = []
        for _ in range(int(random.integers(2, 9))):
            walk.append(
                f"p{aisle * aisle_size + at:03d}"
                if random.random() < 0.85
                else f"p{random.integers(products):03d}"
            )
            at = (at + 1) % aisle_size
        histories[f"c{customer:04d}"] = walk
    return purchases(histories)
