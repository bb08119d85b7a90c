"""Writes titles and descriptions for new and changed products, out of their own facts, with every claim checked.

A night has a budget of products and tokens; what does not fit is carried over to the next. A sentence that the
product's facts do not support is not published; where none is left, a template of the facts stands in. What else of a page
a writer writes is `NIGHTMARKET_COPY_FIELDS`.

**Reads** `marts.products` · **Writes** `outputs.product_copy`, `outputs.copy_claims`

**If it fails**: the copy that is live stays. `check` names the table, the check and where the rows are; `generate` can be
cleared as often as needed, texts that were written are not written again.
"""

from __future__ import annotations

from functools import partial

from airflow.sdk import dag

from nightmarket import products
from nightmarket.orchestration import COMMON, COPY_CLAIMS, PRODUCT_COPY, PRODUCTS, WAREHOUSE, after, step
from nightmarket.products.product_copy import PRODUCT


@dag(schedule=after(PRODUCTS), tags=["product_copy", "tier-2"], doc_md=__doc__, **COMMON)
def refresh_product_copy() -> None:
    generate = step("generate", partial(products.generate, PRODUCT))
    check = step("check", partial(products.check, PRODUCT))
    publish = step(
        "publish", partial(products.publish, PRODUCT), outlets=[PRODUCT_COPY, COPY_CLAIMS], pool=WAREHOUSE
    )

    generate >> check >> publish


refresh_product_copy()
