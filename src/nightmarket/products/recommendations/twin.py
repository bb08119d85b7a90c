"""The twin of every placement: what it shows when nobody's traits are looked at.

What sells, arranged by the shop's rules, without exploration. It serves customers who refused profiling, bots and those who
never bought, and it is what personal lists are measured against (lift). Not here: personal lists (lists).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
import pyarrow as pa

from nightmarket import products, warehouse
from nightmarket.contracts import OUTPUTS, PLACEMENTS
from nightmarket.merchandising import Slots
from nightmarket.products.recommendations import placements, reasons, slots, touched
from nightmarket.products.recommendations.serving import Serving
from nightmarket.products.recommendations.shelf import Shelf
from nightmarket.ranking import Histories, Lists, Popularity
from nightmarket.settings import get_settings

TABLE = "default_recommendations"
_NOBODY = "(nobody's traits)"


def lists(
    shelf: Shelf, serving: Serving, base: str, *, nights: Mapping[str, date], asked: bool
) -> tuple[pa.Table, pa.Table]:
    """Rows of the placements whose twin must be made anew, and the twin in force tonight, all placements.

    The latter is only looked up where it is `asked` for.
    """
    before = touched.in_force(TABLE, shelf.day, "product_id", nights)
    keys = pa.array(PLACEMENTS, pa.string())
    hashes = pa.array([warehouse.digest(base, placement) for placement in PLACEMENTS], pa.string())
    anew = touched.compared(keys, hashes, before)
    if len(anew):
        # All of them: what one customer sees in two places then comes from one night.
        made = _made(shelf, serving, dict(zip(PLACEMENTS, hashes.to_pylist(), strict=True)))
        return made, made
    columns = (*(c.name for c in OUTPUTS[TABLE].columns), "model_name", "model_version")
    return _SCHEMA.empty_table(), products.previous(
        TABLE, shelf.day, columns
    ) if asked else _SCHEMA.empty_table()


def _made(shelf: Shelf, serving: Serving, hashes: dict[str, str]) -> pa.Table:
    parts = []
    for placement, input_hash in hashes.items():
        found = slots.filled(arranged(shelf, serving, placement), shelf.open(), ("", Popularity.kind))
        n = len(found.row)
        code = np.where(found.is_forward | (found.source < 0), reasons.PROMOTED, reasons.POPULAR)
        parts.append(pa.table({
            "placement": pa.array([placement] * n, pa.string()), **found.columns,
            "reason_code": pa.array(reasons.CODES, pa.string()).take(pa.array(code)),
            "input_hash": pa.array([input_hash] * n, pa.string()),
            "model_name": pa.array([serving.name] * n, pa.string()),
            "model_version": pa.array([serving.version] * n, pa.string()),
        }).drop_columns(["is_exploration"]))  # fmt: skip
    return pa.concat_tables(parts)


def arranged(shelf: Shelf, serving: Serving, placement: str) -> Slots:
    """The slots of a placement's twin: one list."""
    opened, popularity = shelf.open(), serving.popularity()
    k = placements.length(placement, get_settings())
    model = popularity.catalogue
    codes = opened.codes_of(model)
    allowed = opened.allowed(model, placement)
    nobody = Histories(
        (_NOBODY,), np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), model.digest
    )
    width = k + slots.BESIDE
    nothing = Lists(np.full((1, width), -1, np.int32), np.zeros((1, width), np.float32))
    held = slots.candidates(nothing, nobody, popularity, codes, allowed=allowed)
    return opened.book.apply(
        placements.varied(held, placement, opened), placement, k, customer_ids=[_NOBODY], exposures=None,
        exploration=0.0, seed=0, day=shelf.day,
    )  # fmt: skip


_SCHEMA = pa.schema([
    ("placement", pa.string()), ("rank", pa.int64()), ("product_id", pa.string()),
    ("score", pa.float64()), ("candidate_source", pa.string()),
    ("rank_before_rules", pa.int64()), ("rules_applied", pa.string()),
    ("propensity", pa.float64()), ("reason_code", pa.string()),
    ("input_hash", pa.string()), ("model_name", pa.string()),
    ("model_version", pa.string()),
])  # fmt: skip
