"""Whose lists must be made anew: new inputs, something listed that is gone, or a list that grew old.

Here: comparing tonight's digests with those of the rows in force, in the warehouse and in arrays, so that a night on which
hardly anything changed costs hardly anything. Not here: what goes into a digest (people, similar, twin).
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightmarket import lake, warehouse
from nightmarket.contracts import OUTPUTS
from nightmarket.errors import WarehouseMissing
from nightmarket.settings import get_settings

_NONE = pa.table({
    "key": pa.array([], pa.string()), "input_hash": pa.array([], pa.string()), "stale": pa.array([], pa.bool_()),
})  # fmt: skip


def is_published(table: str) -> bool:
    """Whether an output table exists."""
    try:
        found = warehouse.read(
            "select count(*) as n from information_schema.tables where table_schema = 'outputs' and table_name = ?",
            [table],
        )
    except WarehouseMissing:
        return False
    return bool(found["n"][0].as_py())


def in_force(table: str, day: date, listed: str) -> pa.Table:
    """The lists in force before `day`, a row a key: `key`, `input_hash`, and `stale`.

    Stale is a list that was made more than `lists_expire_after_days` ago, or that holds (in the column `listed`) a product
    which may not be shown any more.
    """
    if not is_published(table):
        return _NONE
    (key,) = OUTPUTS[table].current_key
    oldest = day - timedelta(days=get_settings().lists_expire_after_days)
    return warehouse.read(
        f"with latest as (select {key} as key, max(day) as day from outputs.{table} where day < $1 group by all), "
        "shown as (select product_id from read_parquet($2) where is_available) "
        "select latest.key, min(rows.input_hash) as input_hash, "
        "bool_or(shown.product_id is null) or latest.day <= $3 as stale "
        f"from latest join outputs.{table} as rows on rows.{key} = latest.key and rows.day = latest.day "
        f"left join shown on shown.product_id = rows.{listed} group by latest.key, latest.day",
        [day, str(lake.require("products", day).path), oldest],
    )


def compared(
    keys: pa.Array | pa.ChunkedArray, hashes: pa.Array | pa.ChunkedArray, before: pa.Table
) -> NDArray[np.int64]:
    """The places of the keys whose lists are not in force as they must be: other inputs, stale, or none at all."""
    at = pc.index_in(keys, value_set=before["key"])
    same = pc.equal(before["input_hash"].take(at), hashes)
    holds = pc.and_(pc.fill_null(same, False), pc.invert(pc.fill_null(before["stale"].take(at), True)))
    return np.flatnonzero(
        ~np.asarray(
            holds.to_numpy(zero_copy_only=False) if isinstance(holds, pa.Array) else holds.to_numpy(), bool
        )
    )


def in_order(keys: pa.Array | pa.ChunkedArray, before: pa.Table) -> pa.ChunkedArray:
    """The digests in force of these keys, null where there is none."""
    return before["input_hash"].take(pc.index_in(keys, value_set=before["key"]))
