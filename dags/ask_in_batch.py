"""Sends what the night's writer has no reply to to a provider's batch API, and stores the answers for the next night.

About half the price of asking at once, and an answer within a day; until then live copy stays and a template stands in for what
is missing. With `NIGHTMARKET_GENERATOR=batch`, and paused until unpaused; it needs the extra `batch` and Airflow's
triggerer. A batch that is under way is waited for, whichever run sent it, and nothing is bought twice.

**Reads** the outbox of the shop's writer · **Writes** its store of replies, from which the next night writes

**If it fails**: the copy that is live stays. `ask` tells what the provider said; mend that and clear the failed task, or
leave it to the run of the next night. Both go on with the same batch. `keep` counts what was answered and what was not, and
why, in `ops.runs`; what has no answer is asked again when the next night wants it.
"""

from __future__ import annotations

from airflow.sdk import dag

from nightmarket.llm import batch
from nightmarket.orchestration import COMMON, PRODUCT_COPY, after, ask_provider, step


@dag(
    schedule=after(PRODUCT_COPY),
    is_paused_upon_creation=True,
    tags=["product_copy", "tier-3"],
    doc_md=__doc__,
    **COMMON,
)
def ask_in_batch() -> None:
    gather = step("gather", batch.gather)
    ask = ask_provider("ask")
    keep = step("keep", batch.keep)

    gather >> ask >> keep


ask_in_batch()
