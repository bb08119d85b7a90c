"""Compares base models for the shop's writer on the shop's own held-out products, and recommends one.

Candidates stand in `writers.toml` in the shop's folder; without it the packaged writer is tried alone. Each writes as it came and
after tuning on 16, 64 and 256 pairs. It runs when asked, some 15 minutes a small candidate on two cores; nothing waits for it.

**Reads** `marts.products` · **Writes** experiment `bake_off` in MLflow (`scorecard.html` among its files)

**If it fails**: nothing that serves depends on it. `compare` can be cleared and run again: it goes on behind the last
point that was whole. A candidate that cannot be opened or does not fit the memory has a line that says so.
"""

from __future__ import annotations

from airflow.sdk import dag

from nightmarket.orchestration import COMMON, step, when_asked
from nightmarket.training import bake_off as comparison
from nightmarket.training import finetune_writer as writer


@dag(
    schedule=when_asked(),
    is_paused_upon_creation=True,
    tags=["models", "tier-3"],
    doc_md=__doc__,
    **COMMON,
)
def bake_off() -> None:
    build_examples = step("build_examples", writer.build_examples)
    compare = step("compare", comparison.compare)

    build_examples >> compare


bake_off()
