"""Who gets a list tonight, of which kind, in which language, and the digest of what it is made from.

Here: whose traits may be looked at, who may be written to, and a digest a customer without looking at customers one by
one. Not here: the lists (lists), and what else a digest must change with (its `base`).
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket import lake, warehouse
from nightmarket.products.recommendations.reasons import LANGUAGES

FALLBACKS = ("", "bot", "profiling_refused", "no_history")
"""Why a customer gets the list that is made without anybody's traits; "" for a list of their own."""


def known(day: date, base: str, *, exposures_count: bool) -> pa.Table:
    """A row a customer, by id: `customer_id`, `fallback`, `language` (indices), `by_email`, `input_hash`.

    Bots and customers who refused profiling get no list of their own, nor do those who never bought. Who refused marketing
    is not written to.

    Args:
        base: a digest of everything that shapes all lists.
        exposures_count: whether what was shown to a customer lately changes their list.
    """
    features = lake.read(
        "customer_features", day, ["customer_id", "locale", "is_bot", "profiling", "marketing"]
    )
    ids = features["customer_id"]
    history = _of(ids, lake.digests("purchases", day, by="customer_id", columns=("product_id", "ordered_at")))
    shown = ""
    if exposures_count:
        columns = ("product_id", "placement", "shown_on", "shown")
        shown = pc.fill_null(_of(ids, lake.digests("exposures", day, by="customer_id", columns=columns)), "")
    fallback = np.select(
        [_flags(features["is_bot"]), _flags(pc.equal(features["profiling"], "refused")), _flags(pc.is_null(history))],
        [1, 2, 3], 0,
    )  # fmt: skip
    language = _flags(pc.starts_with(pc.utf8_lower(features["locale"]), "zh")).astype(np.int8)
    by_email = ~_flags(pc.equal(features["marketing"], "refused"))
    # Customers alike in all but their history share the first half of the digest: a dozen digests for all of them.
    alike = np.ravel_multi_index((fallback, language, by_email), (len(FALLBACKS), len(LANGUAGES), 2))
    halves = [warehouse.digest(base, n)[:32] for n in range(len(FALLBACKS) * len(LANGUAGES) * 2)]
    own = pc.if_else(
        pa.array(fallback == 0), pc.binary_join_element_wise(pc.fill_null(history, ""), shown, ""), ""
    )
    return pa.table({
        "customer_id": ids, "fallback": pa.array(fallback.astype(np.int8)), "language": pa.array(language),
        "by_email": pa.array(by_email),
        "input_hash": pc.binary_join_element_wise(pa.array(halves).take(pa.array(alike)), own, ""),
    })  # fmt: skip


def _of(ids: pa.ChunkedArray, digests: pa.Table) -> pa.ChunkedArray:
    return digests["digest"].take(pc.index_in(ids, value_set=digests["customer_id"]))


def _flags(values: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(values, False).to_numpy(), bool)
