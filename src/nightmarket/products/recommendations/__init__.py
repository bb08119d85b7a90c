"""Lists for every placement: each customer's own, what goes with each product, and the twin that needs nobody's traits.

The champion proposes, the shop's rules arrange, a small share of slots explores, and every slot says how it came to be.
Here: the product as the loop sees it, and what makes all lists stale. Not here: how each table is made (a module each), how
models rank (ranking), which one is champion (tracking), the loop around (products).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket import encoder, lake, warehouse
from nightmarket.ledger import Outcome
from nightmarket.products import Made, Product
from nightmarket.products.recommendations import (
    lift,
    lists,
    people,
    placements,
    serving,
    similar,
    touched,
    twin,
)
from nightmarket.products.recommendations.serving import Serving
from nightmarket.products.recommendations.shelf import Shelf
from nightmarket.settings import Settings, get_settings

# Two rows of the same inputs may only differ when this does: raise it when lists or texts are made differently.
MAKING = "lists-2"


def version(day: date) -> str:
    """A digest of the model that would serve and of the settings that shape lists; asks the registry, loads nothing."""
    settings = get_settings()
    encoder.as_of(day)
    return warehouse.digest(
        MAKING, serving.label(), similar.encoder_digest(), *_shaping(settings), settings.lists_expire_after_days,
        settings.texts_embedded_per_night,
    )  # fmt: skip


def make(day: date, run_id: str) -> Made:
    """The lists of touched customers and products: whose inputs changed since the last night they were made in.

    No model is loaded while nobody is touched.

    Raises:
        RuleRefused: the shop's rules cannot hold together; nothing is made, and what was published stays.
    """
    serves, shelf = serving.current(day), Shelf.of(day)
    nights = touched.nights_before(day)
    book = shelf.open().book
    base = warehouse.digest(
        MAKING, serves.name, serves.version, serves.reasons_hold, book.digest, *_shaping(get_settings())
    )
    customers, asked = _touched(shelf, base, nights)
    cold = customers.filter(pc.not_equal(customers["fallback"], 0))
    own = customers.filter(pc.equal(customers["fallback"], 0))
    defaults, in_force = twin.lists(shelf, serves, base, nights=nights, asked=bool(cold.num_rows))
    parts = [lists.without_traits(in_force, cold)] if cold.num_rows else []
    parts += [lists.personal(shelf, serves, own)] if own.num_rows else []
    made = pa.concat_tables(parts) if parts else lists.none()
    alike = similar.lists(shelf, serves, base, nights=nights)
    measured = lift.rows(day, nights)
    rows = {
        "recommendations": made, similar.TABLE: alike.rows, twin.TABLE: defaults, lift.TABLE: measured,
    }  # fmt: skip
    outcome = Outcome(
        rows_in=asked + alike.asked,
        rows_out=sum(table.num_rows for table in rows.values()),
        note=_note(serves, customers.num_rows, alike),
    )
    return Made(rows, outcome)


def context(table: str, day: date) -> dict[str, object]:
    """What the suites must know: which products there are, and which may be shown."""
    if table == lift.TABLE:
        return {}
    catalogue = lake.read("products", day, ["product_id", "is_available"])
    return {
        "available_products": catalogue.filter(catalogue["is_available"])["product_id"].to_pylist(),
        "product_ids": catalogue["product_id"].to_pylist(),
    }


def _shaping(settings: Settings) -> tuple[object, ...]:
    """The settings that decide what lists look like."""
    return (
        settings.recommendations_per_customer, settings.similar_per_product, settings.exploration_share, settings.seed,
    )  # fmt: skip


def _touched(shelf: Shelf, base: str, nights: Mapping[str, date]) -> tuple[pa.Table, int]:
    """The customers whose lists are made anew (rows of `people.known`), and how many were looked at."""
    book = shelf.open().book
    counted = any(book.counts_showings(placement) for placement in (placements.HOME, placements.EMAIL))
    everybody = people.known(shelf.day, base, exposures_count=counted)
    before = touched.in_force("recommendations", shelf.day, "product_id", nights)
    anew: np.ndarray = touched.compared(everybody["customer_id"], everybody["input_hash"], before)
    return everybody.take(pa.array(anew)).combine_chunks(), everybody.num_rows


def _note(serves: Serving, customers: int, alike: similar.Similar) -> str:
    products = pc.count_distinct(alike.rows["product_id"]).as_py()
    waiting = f"; {alike.waiting} product texts wait for another night" if alike.waiting else ""
    return f"{serves.name} {serves.version}: {customers} customers, {products} products{waiting}"


PRODUCT = Product(
    name="recommendations",
    tables=("recommendations", "similar_products", "default_recommendations", "recommendation_lift"),
    reads=("purchases", "products", "customer_features", "recommendation_rules", "exposures"),
    version=version, make=make, context=context,
)  # fmt: skip
