"""Contrastive tuning: products that are bought together come nearer than products that are not.

InfoNCE with the other pairs of a batch as negatives (van den Oord et al., 2018), both ways round. A product in the batch
that goes with the query by any learnt pair is no negative, nor is the query itself; pairs of popular products are drawn
less often, in proportion to how often they would be in a batch. Not here: which pairs there are (together).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nightmarket import warehouse
from nightmarket.training.bert import LENGTH, Texts
from nightmarket.training.stepping import Curves, Objective, descend

if TYPE_CHECKING:
    from torch import Tensor

PAIRS = 24
"""Pairs a step, so 23 negatives each way."""
HELD_OUT_PAIRS = 24
TEMPERATURE = 0.05
RATE = 2e-4


def tune(
    texts: Texts,
    pairs: NDArray[np.int32],
    held_out: NDArray[np.int32],
    *,
    steps: int,
    seed: int,
    name: str = "contrast",
    checkpoint: Path | None = None,
) -> Curves:
    """Tune the network of `texts` in place; returns the curve of its loss.

    Args:
        pairs: rows of `texts` that go together (n x 2), each pair once.
        held_out: pairs of the same kind, for the loss that is looked at alone.
    """
    if len(pairs) < 2:
        return {}
    n = len(texts)
    codes = pairs.astype(np.int64)
    known = np.sort(np.concatenate([codes[:, 0] * n + codes[:, 1], codes[:, 1] * n + codes[:, 0]]))
    chance = weights(pairs, n)
    drawn = np.random.default_rng([seed, 2])
    order = drawn.permutation(len(held_out))
    looked = held_out[np.sort(order[:HELD_OUT_PAIRS])].astype(np.int64)
    looks = [part for part in np.array_split(looked, max(len(looked) // PAIRS, 1)) if len(part) > 1]

    def losses(step: int) -> Mapping[str, Tensor]:
        random = np.random.default_rng([seed, 3, step])
        rows = random.choice(len(codes), min(PAIRS, len(codes)), replace=False, p=chance)
        turned = random.random(len(rows)) < 0.5
        batch = np.where(turned[:, None], codes[rows][:, ::-1], codes[rows])
        return {"info_nce": info_nce(texts, batch, known)}

    def look() -> Mapping[str, float]:
        found = [float(info_nce(texts, part, known)) for part in looks]
        return {"info_nce": float(np.mean(found))} if found else {}

    rates = {key: (parameter, RATE) for key, parameter in texts.bert.layers().items()}
    digest = warehouse.digest(
        "contrast-1", name, _sha(pairs), _sha(held_out), texts.digest, _sha_of_state(texts), steps, seed, PAIRS,
        TEMPERATURE, LENGTH, RATE,
    )  # fmt: skip
    objective = Objective(name, digest, steps, losses, look, rates, texts.bert.learning, seed)
    return descend(objective, checkpoint)


def weights(pairs: NDArray[np.int32], products: int) -> NDArray[np.float64]:
    """The chance of each pair to be drawn: one over the root of how many pairs each of its products is in."""
    counts = np.bincount(pairs.ravel(), minlength=products).astype(np.float64)
    chance: NDArray[np.float64] = 1 / np.sqrt(counts[pairs[:, 0]] * counts[pairs[:, 1]])
    return chance / chance.sum()


def no_negatives(batch: NDArray[np.int64], known: NDArray[np.int64], products: int) -> NDArray[np.bool_]:
    """Which of the other pairs' second products are no negatives of each first product (rows x rows).

    Those that are the first product itself, its own second product again, or go with it by a pair in `known` (sorted
    `first * products + second`, both ways round).
    """
    first, second = batch[:, 0], batch[:, 1]
    key = first[:, None] * products + second[None, :]
    at = np.searchsorted(known, key)
    goes_with = known[np.minimum(at, len(known) - 1)] == key if len(known) else np.zeros(key.shape, np.bool_)
    excused = goes_with | (first[:, None] == second[None, :]) | (second[:, None] == second[None, :])
    np.fill_diagonal(excused, False)
    return excused


def info_nce(texts: Texts, batch: NDArray[np.int64], known: NDArray[np.int64]) -> Tensor:
    """The mean loss of both ways round for a batch of pairs."""
    import torch
    import torch.nn.functional as F

    rows, where = np.unique(batch, return_inverse=True)
    vectors = texts.pooled(rows)
    at = torch.from_numpy(where.reshape(batch.shape))
    likeness = vectors[at[:, 0]] @ vectors[at[:, 1]].t() / TEMPERATURE
    wanted = torch.arange(len(batch))
    total = []
    for scores, way in ((likeness, batch), (likeness.t(), batch[:, ::-1])):
        excused = torch.from_numpy(no_negatives(np.ascontiguousarray(way), known, len(texts)))
        total.append(F.cross_entropy(scores.masked_fill(excused, -1e4), wanted))
    return torch.stack(total).mean()


def _sha(pairs: NDArray[np.int32]) -> str:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(pairs).tobytes()).hexdigest()


def _sha_of_state(texts: Texts) -> str:
    """A digest of the layers a tuning starts from: another start is another training."""
    import hashlib

    digest = hashlib.sha256()
    for parameter in texts.bert.layers().values():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()
