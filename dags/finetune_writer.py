"""Tunes the packaged writer on the shop's own texts and lets the gate decide whether it may write freely.

Continued pre-training on catalogue text, then pairs of facts and text, then what people edited where there is enough of
it, as low-rank adapters; compared with the packaged writer on products that nobody learnt from. Once a champion serves,
product copy is its own sentences, each with its proof. Beside descriptions it learns titles, bullets, meta descriptions
and summaries of customers, and says which of them it may be asked for.
It runs once a week by `NIGHTMARKET_WRITER_SCHEDULE`, or when asked; some 20 minutes. Nothing waits for it.

**Reads** `marts.products`, `marts.customer_features`, `marts.customer_affinities`, `ops.copy_reviews` · **Writes** experiment `writer` and model `nightmarket.writer` in MLflow

**If it fails**: the writer that served keeps serving. `train` and `promote` can be cleared and run again: a training
that was killed goes on from its checkpoint, and the same inputs make no second version.
"""

from __future__ import annotations

from airflow.sdk import dag

from nightmarket.orchestration import COMMON, WRITER, once_a_week, step
from nightmarket.training import finetune_writer as writer


@dag(
    schedule=once_a_week(),
    is_paused_upon_creation=True,
    tags=["models", "tier-3"],
    doc_md=__doc__,
    **COMMON,
)
def finetune_writer() -> None:
    build_examples = step("build_examples", writer.build_examples)
    train = step("train", writer.train)
    promote = step("promote", writer.promote, outlets=[WRITER])

    build_examples >> train >> promote


finetune_writer()
