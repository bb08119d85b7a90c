"""The loop that all products share, run on a product of four lines with the real lake, gate and warehouse."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from nightmarket import lake, products, warehouse
from nightmarket.errors import ExtractMissing, NightmarketError, QualityGateFailed
from nightmarket.ledger import Outcome
from nightmarket.products import Made, Product

DAY, NEXT = date(2026, 3, 2), date(2026, 3, 3)


def pairs_product(calls: list[date], version: str = "1", score: float = 0.5) -> Product:
    """Every product of the extract is similar to `hub`; made again only where its title changed."""

    def make(day: date, run_id: str) -> Made:
        calls.append(day)
        known = {
            row["product_id"]: row["input_hash"]
            for row in products.previous("similar_products", day, ("input_hash",)).to_pylist()
        }
        catalogue = lake.read("products", day).to_pylist()
        touched = [p for p in catalogue if known.get(p["product_id"]) != warehouse.digest(p["title"])]
        rows = pa.Table.from_pylist(
            [
                {
                    "product_id": p["product_id"], "rank": 1, "similar_product_id": "hub", "score": score,
                    "reason_code": "bought_together", "input_hash": warehouse.digest(p["title"]),
                    "model_name": "pairs", "model_version": version,
                }
                for p in touched
            ],
            schema=pa.schema([
                ("product_id", pa.string()), ("rank", pa.int64()), ("similar_product_id", pa.string()),
                ("score", pa.float64()), ("reason_code", pa.string()), ("input_hash", pa.string()),
                ("model_name", pa.string()), ("model_version", pa.string()),
            ]),
        )  # fmt: skip
        return Made({"similar_products": rows}, Outcome(rows_in=len(catalogue), rows_out=rows.num_rows))

    return Product(
        name="pairs", tables=("similar_products",), reads=("products",), version=lambda day: version, make=make,
        context=lambda table, day: {
            "available_products": ["a", "b", "c", "hub"], "product_ids": ["a", "b", "c", "hub"],
        },
    )  # fmt: skip


def catalogue(day: date, titles: dict[str, str]) -> None:
    rows = pa.table({"product_id": list(titles), "title": list(titles.values())})
    lake.write("products", day, rows, key=("product_id",))


def night(product: Product, day: date, run_id: str) -> list[Outcome]:
    return [
        products.generate(product, day, run_id),
        products.check(product, day, run_id),
        products.publish(product, day, run_id),
    ]


def days_published() -> list[tuple[str, date]]:
    rows = warehouse.read("select product_id, day from outputs.similar_products order by all").to_pylist()
    return [(row["product_id"], row["day"]) for row in rows]


def test_a_night_publishes_and_the_same_night_again_does_nothing(home: Path) -> None:
    catalogue(DAY, {"a": "Alpha", "b": "Beta"})
    calls: list[date] = []
    product = pairs_product(calls)
    assert [o.rows_out for o in night(product, DAY, "r1")] == [2, 2, 2]
    assert [o.note for o in night(product, DAY, "r2")] == ["unchanged"] * 3
    assert calls == [DAY]


def test_the_next_day_holds_only_what_was_touched_and_current_holds_all(home: Path) -> None:
    catalogue(DAY, {"a": "Alpha", "b": "Beta"})
    night(pairs_product([]), DAY, "r1")
    catalogue(NEXT, {"a": "Alpha", "b": "Beta, new", "c": "Gamma"})
    night(pairs_product([]), NEXT, "r2")
    assert days_published() == [("a", DAY), ("b", DAY), ("b", NEXT), ("c", NEXT)]
    current = warehouse.read(
        "select product_id, day from outputs.similar_products_current order by all"
    ).to_pylist()
    assert [(row["product_id"], row["day"]) for row in current] == [("a", DAY), ("b", NEXT), ("c", NEXT)]


def test_a_day_whose_inputs_changed_is_made_again_whole(home: Path) -> None:
    catalogue(DAY, {"a": "Alpha", "b": "Beta"})
    night(pairs_product([]), DAY, "r1")
    catalogue(DAY, {"a": "Alpha", "c": "Gamma"})
    night(pairs_product([]), DAY, "r2")
    assert days_published() == [("a", DAY), ("c", DAY)]


def test_a_gate_that_fails_keeps_yesterdays_rows(home: Path) -> None:
    catalogue(DAY, {"a": "Alpha", "b": "Beta"})
    night(pairs_product([]), DAY, "r1")
    catalogue(NEXT, {"a": "Alpha, new"})
    broken = pairs_product([], version="2", score=float("nan"))
    products.generate(broken, NEXT, "r2")
    with pytest.raises(QualityGateFailed, match="similar_products"):
        products.check(broken, NEXT, "r2")
    assert days_published() == [("a", DAY), ("b", DAY)]


def test_rows_made_from_other_inputs_are_not_published(home: Path) -> None:
    catalogue(DAY, {"a": "Alpha"})
    product = pairs_product([])
    products.generate(product, DAY, "r1")
    catalogue(DAY, {"a": "Alpha", "b": "Beta"})
    with pytest.raises(NightmarketError, match="changed after its rows were made"):
        products.publish(product, DAY, "r1")


def test_a_day_without_its_extract_says_what_to_run(home: Path) -> None:
    with pytest.raises(ExtractMissing, match="build_warehouse"):
        products.generate(pairs_product([]), DAY, "r1")


def test_rows_that_did_not_pass_their_gate_are_not_published(home: Path) -> None:
    catalogue(DAY, {"a": "Alpha"})
    product = pairs_product([])
    products.generate(product, DAY, "r1")
    with pytest.raises(NightmarketError, match="did not pass their gate"):
        products.publish(product, DAY, "r1")
    assert warehouse_is_empty()


def warehouse_is_empty() -> bool:
    return warehouse.published("similar_products", DAY) is None
