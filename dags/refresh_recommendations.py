"""Ranks products for touched customers with the champion, arranges them by the shop's rules, and lists similar products.

Sold-out, archived and already bought products are left out; who has no history or refused profiling gets the twin, which
the lift is measured against. Waits for `finetune_models`, so that a new champion serves the night it was promoted.

**Reads** `marts.customers`, `marts.products`, `marts.purchases`, `marts.recommendation_rules`, `marts.exposures`, the
champion of `nightmarket.ranking` · **Writes** `outputs.recommendations`, `outputs.similar_products`,
`outputs.default_recommendations`, `outputs.recommendation_lift`

**If it fails**: yesterday's lists stay live. `check` names the table, the check and where the rows are; refused rules are
named by `generate`. A champion that ranks badly is taken back with `nightmarket rollback ranking --reason ...`.
"""

from __future__ import annotations

from functools import partial

from airflow.sdk import dag

from nightmarket import products
from nightmarket.orchestration import (
    COMMON,
    CUSTOMERS,
    LISTS,
    PRODUCTS,
    PURCHASES,
    RANKER,
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
        outlets=LISTS,
        pool=WAREHOUSE,
    )

    generate >> check >> publish


refresh_recommendations()
