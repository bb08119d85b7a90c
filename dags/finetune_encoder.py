"""Tunes the text encoder on the shop's own catalogue and on what is bought together, and says whether that paid.

Masked-token and next-sentence pre-training and contrastive tuning are compared, alone and together, with the packaged
encoder on held-out pairs; only what is certainly better becomes champion, and serves from the next night on. It runs
again when the last training is 30 days old or a fifth of the catalogue is new. Nothing waits for it.

**Reads** `marts.products`, `marts.purchases` · **Writes** experiment `encoder` and model `nightmarket.encoder` in MLflow

**If it fails**: the encoder that served keeps serving. `train` and `promote` can be cleared and run again: a training
that was killed goes on from its checkpoint, and the same inputs make no second version.
"""

from __future__ import annotations

from airflow.sdk import dag

from nightmarket.orchestration import COMMON, ENCODER, PRODUCTS, PURCHASES, after, step
from nightmarket.training import finetune_encoder as encoder


@dag(schedule=after(PURCHASES, PRODUCTS), tags=["models", "tier-3"], doc_md=__doc__, **COMMON)
def finetune_encoder() -> None:
    build_examples = step("build_examples", encoder.build_examples)
    train = step("train", encoder.train)
    promote = step("promote", encoder.promote, outlets=[ENCODER])

    build_examples >> train >> promote


finetune_encoder()
