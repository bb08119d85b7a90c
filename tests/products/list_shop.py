"""A small shop for the tests of lists: its day's extracts, whole nights, and what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest

from nightmarket import lake, products, quality, tracking, warehouse
from nightmarket.ledger import Outcome
from nightmarket.products import recommendations
from nightmarket.ranking import Interactions, Popularity, Ranker
from tests.merchandising.shop import COLUMNS as RULE_COLUMNS

DAY = date(2026, 3, 2)
NEXT = DAY + timedelta(days=1)
ARCHIVED, SOLD_OUT, FRESH = "p003", "p014", "p999"
SPECIAL = {"cold": (False, None, "en"), "robot": (True, None, "en"), "refuser": (False, "refused", "zh-CN")}
ALIKE = ("Home > Light", "Home > Bath", "Garden", "Kitchen")


def extracts(
    day: date, table: pa.Table, *, gone: Sequence[str] = (ARCHIVED, SOLD_OUT), title: str = "Lamp",
    rules: Sequence[Mapping[str, Any]] = (), shown: Sequence[tuple[str, str]] = (), no_mail: Sequence[str] = (),
    special: Mapping[str, tuple[bool, str | None, str]] = SPECIAL, categories: Sequence[str] = ALIKE,
) -> None:  # fmt: skip
    """Write the extracts of a day: who bought what, what is on sale, who the customers are, and what the shop wants.

    Args:
        rules: rules in the words of tests/merchandising/shop.py.
        shown: customers and products; each was shown on the home page nine times the day before.
        no_mail: customers who refused marketing.
        categories: in turn those of the products.
    """
    ids = sorted({*table["product_id"].to_pylist(), ARCHIVED, SOLD_OUT, FRESH})
    lake.write("purchases", day, table, key=("customer_id", "ordered_at", "order_id", "product_id"))
    catalogue = pa.table({
        "product_id": ids, "title": [f"{title} {p}\n" for p in ids], "brand": ["Alder"] * len(ids),
        "category": [categories[i % len(categories)] for i in range(len(ids))],
        "is_available": [p not in gone for p in ids],
    })  # fmt: skip
    lake.write("products", day, catalogue, key=("product_id",))
    known: dict[str, Any] = {
        c: (False, None, "zh" if c.endswith("7") else None) for c in table["customer_id"].to_pylist()
    } | dict(special)
    features = pa.table({
        "customer_id": list(known), "is_bot": [v[0] for v in known.values()],
        "profiling": pa.array([v[1] for v in known.values()], pa.string()),
        "marketing": pa.array(["refused" if c in no_mail else None for c in known], pa.string()),
        "locale": pa.array([v[2] for v in known.values()], pa.string()),
    })  # fmt: skip
    lake.write("customer_features", day, features, key=("customer_id",))
    wishes = [{"owner": "ann", **rule, "rule_id": rule.get("id", f"r{i}")} for i, rule in enumerate(rules)]
    wishes = [{name: rule.get(name) for name in RULE_COLUMNS.names} for rule in wishes]
    lake.write(
        "recommendation_rules", day, pa.Table.from_pylist(wishes, schema=RULE_COLUMNS), key=("rule_id",)
    )
    eve = datetime.combine(day, datetime.min.time()) - timedelta(hours=9)
    lake.write("exposures", day, pa.table({
        "customer_id": pa.array([c for c, _ in shown], pa.string()),
        "product_id": pa.array([p for _, p in shown], pa.string()),
        "placement": pa.array(["home"] * len(shown), pa.string()),
        "shown_on": pa.array([eve.date()] * len(shown), pa.date32()), "shown": pa.array([9] * len(shown), pa.int64()),
        "last_shown_at": pa.array([eve] * len(shown), pa.timestamp("us")),
    }), key=("customer_id", "product_id"))  # fmt: skip


def night(day: date, *, gate: bool = False) -> list[Outcome]:
    """Generate, check and publish the lists of a day; the gate, which takes seconds, only looks where it is asked to."""
    with nullcontext() if gate else patch.object(quality, "check"):
        return [
            step(recommendations.PRODUCT, day, f"run-{day}")
            for step in (products.generate, products.check, products.publish)
        ]


def rows(table: str, where: str = "true") -> list[dict[str, Any]]:
    """What readers see of a table now."""
    return warehouse.read(f"select * from outputs.{table}_current where {where} order by all").to_pylist()


def of(customer: str, placement: str = "home") -> list[dict[str, Any]]:
    """A customer's list, best first."""
    found = rows("recommendations", f"customer_id = '{customer}' and placement = '{placement}'")
    return sorted(found, key=lambda row: row["rank"])


def made_on(day: date, key: str = "customer_id", table: str = "recommendations") -> set[str]:
    """Whose lists were made for a day."""
    found = warehouse.read(f"select distinct {key} as key from outputs.{table} where day = '{day}'")
    return set(found["key"].to_pylist())


def crown(
    monkeypatch: pytest.MonkeyPatch, folder: Path, ranker: Ranker, bought: pa.Table,
    metrics: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """Make a ranker, fitted on these purchases, the champion, as the registry would name it."""
    import json

    interactions = Interactions.of(bought)
    ranker.fit(interactions).save(folder / "ranker")
    Popularity().fit(interactions).save(folder / "popularity")
    held = tracking.Version(
        "ranking",
        "9",
        ("champion",),
        folder,
        "run",
        datetime(2026, 3, 1),
        {"metrics": json.dumps(dict(metrics or {}))},
    )
    monkeypatch.setattr(tracking, "champion", lambda task: held if task == "ranking" else None)
