"""Ranks products for every customer with the champion, and lists similar products, each with its reason.

Sold-out, archived and already bought products are left out; customers without a history get what sells. Waits for
`finetune_models` of the same day, so that a new champion serves the night it was promoted.

**Reads** `marts.customers`, `marts.products`, `marts.purchases`, the champion of `nightmarket.ranking` · **Writes**
`outputs.recommendations`, `outputs.similar_products`

**If it fails**: yesterday's lists stay live. `check` names the table, the check and where the rows are. A champion that
ranks badly is taken back with `nightmarket rollback ranking --reason ...`; then clear the DAG run.
"""

from __future__ import annotations

from functools import partial

from airflow.sdk import dag

from nightmarket import products
from nightmarket.orchestration import (
    COMMON,
    CUSTOMERS,
    PRODUCTS,
    PURCHASES,
    RANKER,
    RECOMMENDATIONS,
    SIMILAR_PRODUCTS,
    WAREHOUSE,
    after,
    step,
)
from nightmarket.products.recommendations import PRODUCT


@dag(
    schedule=after(RANKER, CUSTOMERS, PRODUCTS, PURCHASES),
    tags=["recommendations", "tier-1"],
    doc_md=__doc__,
    **COMMON,
)
def refresh_recommendations() -> None:
    generate = step("generate", partial(products.generate, PRODUCT))
    check = step("check", partial(products.check, PRODUCT))
    publish = step(
        "publish",
        partial(products.publish, PRODUCT),
        outlets=[RECOMMENDATIONS, SIMILAR_PRODUCTS],
        pool=WAREHOUSE,
    )

    generate >> check >> publish


refresh_recommendations()
