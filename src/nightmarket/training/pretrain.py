"""Continued pre-training of the encoder on the shop's own texts: masked tokens, and which sentence comes next.

Devlin et al. (2018), with the packaged encoder as the start and only its top learning. Both losses are curves of their
own, on what is trained and on texts of products that are held out. Not here: texts and masks (passages), steps and
checkpoints (stepping).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nightmarket import warehouse
from nightmarket.training import passages
from nightmarket.training.bert import LENGTH, Bert
from nightmarket.training.passages import Documents, Neighbours
from nightmarket.training.stepping import Curves, Objective, descend

if TYPE_CHECKING:
    from torch import Tensor

PAIRS = 16
"""Pairs of sentences a step."""
HELD_OUT_PAIRS = 32
RATE = 5e-5
HEADS_RATE = 2e-3  # heads begin from nothing
TEXTS = 4_000
"""Products whose texts are read at most: more than a training's steps can see."""


def pretrain(
    bert: Bert, texts: Documents, *, steps: int, seed: int, checkpoint: Path | None = None
) -> Curves:
    """Tune the network in place; returns the curves of `masked_token` and `next_sentence`.

    Needs texts of two products on both sides of `Documents.halves`; says nothing and learns nothing otherwise.
    """
    learnt, held_out = texts.halves()
    if min(len(set(learnt.owners)), len(set(held_out.owners))) < 2:
        return {}
    words = _words(bert)
    fixed = [
        _prepared(bert, passages.neighbours(held_out, PAIRS, random), random, words)
        for random in [np.random.default_rng([seed, 1, n]) for n in range(HELD_OUT_PAIRS // PAIRS)]
    ]

    def losses(step: int) -> Mapping[str, Tensor]:
        random = np.random.default_rng([seed, 0, step])
        return _losses(bert, _prepared(bert, passages.neighbours(learnt, PAIRS, random), random, words))

    def look() -> Mapping[str, float]:
        seen = [_losses(bert, batch) for batch in fixed]
        return {name: float(np.mean([float(s[name]) for s in seen])) for name in seen[0]}

    rates = {n: (p, RATE) for n, p in bert.layers().items()}
    rates |= {n: (p, HEADS_RATE) for n, p in bert.heads().items()}
    digest = warehouse.digest(
        "pretrain-1", texts.sentences, texts.owners, steps, seed, PAIRS, LENGTH, RATE, HEADS_RATE
    )
    objective = Objective("pretrain", digest, steps, losses, look, rates, bert.learning, seed)
    return descend(objective, checkpoint)


def _words(bert: Bert) -> Any:
    """Pieces that a word may be replaced with: no special ones and no unused ones."""
    special = set(bert.tokenizer.all_special_ids)
    return np.array(
        [i for word, i in sorted(bert.tokenizer.get_vocab().items(), key=lambda e: e[1])
         if i not in special and not word.startswith("[unused")], np.int64,
    )  # fmt: skip


def _prepared(
    bert: Bert, pairs: Neighbours, random: np.random.Generator, words: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch after the trunk: states, mask, the pieces asked for (-100: none), and 0 where the second follows, else 1."""
    import torch

    told = bert.tokenizer(
        list(pairs.first), list(pairs.second), truncation="longest_first", max_length=LENGTH, padding=True,
        return_special_tokens_mask=True, return_token_type_ids=True, return_attention_mask=True, return_tensors="np",
    )  # fmt: skip
    ids = np.asarray(told["input_ids"], np.int64)
    able = np.asarray(told["special_tokens_mask"]) == 0
    hidden, asked = passages.masked(ids, able, random, mask=bert.tokenizer.mask_token_id, words=words)
    mask = torch.from_numpy(np.asarray(told["attention_mask"], np.int64))
    kinds = torch.from_numpy(np.asarray(told["token_type_ids"], np.int64))
    states = bert.trunk(torch.from_numpy(hidden), mask, kinds)
    return states, mask, torch.from_numpy(asked), torch.from_numpy((~pairs.follows).astype(np.int64))


def _losses(bert: Bert, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    import torch.nn.functional as F

    states, mask, asked, other = batch
    seen = bert.top(states, mask)
    network = bert.network
    guessed = network.cls.predictions(seen[asked >= 0])
    follows = network.cls.seq_relationship(network.bert.pooler(seen))
    return {
        "masked_token": F.cross_entropy(guessed, asked[asked >= 0]),
        "next_sentence": F.cross_entropy(follows, other),
    }
