"""Asks people about product copy that waits for them, in Airflow's *Required Actions*, and takes their decisions down.

Texts whose policy pack says high risk wait; each is asked about once, with what readers see now, the fact behind every
sentence, and why. Approve, Reject or Edit goes into `ops.copy_reviews` at once, as from `nightmarket copy`, and the next night
applies it. An answer speaks of the version that was shown. Unanswered, a text is rejected after
`NIGHTMARKET_COPY_REVIEW_DAYS`. No night waits for this; runs of several days wait side by side. Paused until unpaused.

**Reads** `outputs.product_copy`, `outputs.copy_claims` · **Writes** `ops.copy_reviews`

**If it fails**: nothing was written down and the text goes on waiting. `take_down` says why: the facts do not bear an edit, or
the text was superseded. Clear its `ask` with what follows to answer again, decide with `nightmarket copy`, or leave it: the
next run asks anew.
"""

from __future__ import annotations

from airflow.sdk import dag

from nightmarket.orchestration import COMMON, PRODUCT_COPY, RUNS_OF_PEOPLE, after, decided, to_decide
from nightmarket.products.product_copy import questions


@dag(
    schedule=after(PRODUCT_COPY),
    is_paused_upon_creation=True,
    tags=["product_copy", "tier-3"],
    doc_md=__doc__,
    **COMMON | RUNS_OF_PEOPLE,
)
def review_copy() -> None:
    waiting = to_decide("list_waiting", questions.unanswered)
    decided(waiting, questions.take_down, options=questions.OPTIONS, default=questions.REJECT)


review_copy()
