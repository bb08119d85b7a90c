"""Whose lists must be made anew: new inputs, something listed that is gone, or a list that grew old.

Here: comparing tonight's digests with those of the rows in force, in the warehouse and in arrays, so that a night on which
hardly anything changed costs hardly anything. Not here: what goes into a digest (people, similar, twin).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightmarket import lake, warehouse
from nightmarket.contracts import OUTPUTS
from nightmarket.errors import WarehouseMissing
from nightmarket.settings import get_settings

_NONE = pa.schema([("key", pa.string()), ("input_hash", pa.string()), ("stale", pa.bool_())])


def nights_before(day: date) -> dict[str, date]:
    """For each output table that was ever published before `day`, the last day that was, in one question."""
    try:
        found = warehouse.read(
            "select table_name, max(day) as day from ops.publications where superseded_at is null and day < ? group by all",
            [day],
        )
    except WarehouseMissing:
        return {}
    return dict(zip(found["table_name"].to_pylist(), found["day"].to_pylist(), strict=True))


def in_force(table: str, day: date, listed: str, nights: Mapping[str, date]) -> pa.Table:
    """The lists in force before `day`, a row a key: `key`, `input_hash`, and `stale`.

    Stale is a list that was made `lists_expire_after_days` ago or earlier, or that holds (in the column `listed`) a product
    which may not be shown any more. `nights` is what `nights_before` said.
    """
    if table not in nights:
        return _NONE.empty_table()
    (key,) = OUTPUTS[table].current_key
    oldest = day - timedelta(days=get_settings().lists_expire_after_days)
    # Looking for the few products that are gone is cheaper than looking up every listed one.
    return warehouse.read(
        f"with latest as (select {key} as key, max(day) as day from outputs.{table} where day < $1 group by all), "
        "shown as (select product_id from read_parquet($2) where is_available), "
        f"gone as (select {listed} as product_id from outputs.{table} group by all "
        f"having {listed} not in (select product_id from shown)), "
        f"broken as (select distinct rows.{key} as key from outputs.{table} as rows "
        f"inner join latest on rows.{key} = latest.key and rows.day = latest.day "
        f"where rows.{listed} in (select product_id from gone)) "
        "select latest.key, rows.input_hash, latest.day <= $3 or broken.key is not null as stale "
        f"from latest inner join (select distinct {key}, day, input_hash from outputs.{table} where rank = 1) as rows "
        f"on rows.{key} = latest.key and rows.day = latest.day left join broken on broken.key = latest.key",
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
