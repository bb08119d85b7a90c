"""Writes one profile a customer, with their interests, from the day's customer features.

Only customers whose facts changed since their last profile get a new one. A writer sums up the most valuable of them
where `NIGHTMARKET_SUMMARIES_PER_NIGHT` lets it, from the same facts and held against them; else a template does.

**Reads** `marts.customers`, `marts.customer_features`, `marts.customer_affinities` · **Writes**
`outputs.customer_profiles`, `outputs.customer_interests`

**If it fails**: yesterday's profiles stay live. `check` names the table, the check and where the rows are: look there,
mend the mart or the rule, and clear the DAG run. It replaces the day's rows, so nothing doubles.
"""

from __future__ import annotations

from functools import partial

from airflow.sdk import dag

from nightmarket import products
from nightmarket.orchestration import (
    COMMON,
    CUSTOMER_AFFINITIES,
    CUSTOMER_FEATURES,
    CUSTOMER_INTERESTS,
    CUSTOMER_PROFILES,
    CUSTOMERS,
    WAREHOUSE,
    after,
    step,
)
from nightmarket.products.profiles import PRODUCT


@dag(
    schedule=after(CUSTOMERS, CUSTOMER_FEATURES, CUSTOMER_AFFINITIES),
    tags=["profiles", "tier-1"],
    doc_md=__doc__,
    **COMMON,
)
def refresh_profiles() -> None:
    generate = step("generate", partial(products.generate, PRODUCT))
    check = step("check", partial(products.check, PRODUCT))
    publish = step(
        "publish",
        partial(products.publish, PRODUCT),
        outlets=[CUSTOMER_PROFILES, CUSTOMER_INTERESTS],
        pool=WAREHOUSE,
    )

    generate >> check >> publish


refresh_profiles()
