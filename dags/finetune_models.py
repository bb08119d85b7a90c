"""Trains the shop's ranker on the day's purchases, measures it, and makes it champion if it earned that.

A night whose purchases hardly changed keeps its champion. A challenger is scored on each customer's held-out last
purchase against popularity, item-to-item and the champion; the gate decides, and `ops.promotions` says why.

**Reads** `marts.purchases`, `marts.products` · **Writes** experiment `ranking` and model `nightmarket.ranking` in MLflow

**If it fails**: the champion stays, but tonight's recommendations wait for this DAG. `build_examples` names the check
that the training set broke; `train` and `promote` can be cleared and run again, which makes no second version.
"""

from __future__ import annotations

from airflow.sdk import dag

from nightmarket.orchestration import COMMON, PRODUCTS, PURCHASES, RANKER, after, step
from nightmarket.training import finetune


@dag(schedule=after(PURCHASES, PRODUCTS), tags=["models", "tier-2"], doc_md=__doc__, **COMMON)
def finetune_models() -> None:
    build_examples = step("build_examples", finetune.build_examples)
    train = step("train", finetune.train)
    promote = step("promote", finetune.promote, outlets=[RANKER])

    build_examples >> train >> promote


finetune_models()
