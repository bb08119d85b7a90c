"""Did tuning pay? Held-out bought-together pairs, found again by text: measures, the ablation in words, the verdict.

For each pair the products of the trial are ranked by how near their text's vector is to the query's; what counts is the
place of the product that was bought next. Not here: training (pretrain, contrast), and writing verdicts down (tracking).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightmarket import metrics
from nightmarket.training.together import Asked

MEASURE = "mrr"
# With fewer held-out pairs an interval says more about luck than about encoders.
LEAST_EXAMPLES = 50
PACKAGED = "packaged"
VARIANTS = {
    "pretrained": "pre-training on the shop's texts",
    "contrast": "contrastive tuning on what is bought together",
    "both": "both, one after the other",
}
"""What is tried, beside the packaged encoder as it came, in words."""


@dataclass(frozen=True)
class Score:
    """How one encoder did: averages by name, and the reciprocal rank of each pair."""

    averages: dict[str, float]
    gains: NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """The products that are ranked (codes of the catalogue, ascending), and the pairs asked among them (places)."""

    products: NDArray[np.int64]
    validation: Asked
    test: Asked


def trial(validation: Asked, test: Asked, products: int, *, most: int) -> Trial:
    """Choose at most `most` products to rank, and the held-out pairs whose two products are among them.

    A catalogue of at most `most` products is ranked whole. Of a larger one, products of drawn pairs are taken first
    (four in five places, a pair of each stage in turn) and then any; the draw is by digests of codes.
    """
    if products <= most:
        chosen = np.arange(products)
    else:
        taken: dict[int, None] = {}
        orders = [
            _drawn(stage.queries.astype(np.int64) * products + stage.targets) for stage in (test, validation)
        ]
        for turn in range(max(len(order) for order in orders)):
            for stage, order in zip((test, validation), orders, strict=True):
                if turn < len(order) and len(taken) + 2 <= most * 4 // 5:
                    taken[int(stage.queries[order[turn]])] = None
                    taken[int(stage.targets[order[turn]])] = None
        for code in _drawn(np.arange(products)).tolist():
            if len(taken) == most:
                break
            taken[code] = None
        chosen = np.array(sorted(taken), np.int64)
    place = np.full(products, -1, np.int64)
    place[chosen] = np.arange(len(chosen))
    return Trial(chosen, _within(validation, place), _within(test, place))


def score(vectors: NDArray[np.float32], asked: Asked) -> Score:
    """Rank all products for each pair's query, the query itself left out; equal products share the middle place."""
    ranks = np.empty(len(asked), np.float64)
    for begin in range(0, len(asked), 512):
        rows = asked.rows(np.arange(begin, min(begin + 512, len(asked))))
        near = vectors[rows.queries] @ vectors.T
        each = np.arange(len(rows))
        near[each, rows.queries] = -np.inf
        wanted = near[each, rows.targets][:, None]
        ranks[begin : begin + len(rows)] = (near > wanted).sum(1) + ((near == wanted).sum(1) - 1) / 2
    gains = 1 / (ranks + 1)
    inside = (ranks < 10).astype(np.float64)
    new = asked.is_new
    averages = {
        "mrr": _mean(gains), "recall_10": _mean(inside), "new_products.mrr": _mean(gains[new]),
        "new_products.recall_10": _mean(inside[new]), "new_products.examples": float(new.sum()),
    }  # fmt: skip
    return Score(averages, gains)


def best(scores: Mapping[str, Score]) -> str:
    """The variant with the highest measure; of equal ones the first of `VARIANTS`."""
    known = [name for name in VARIANTS if name in scores]
    return max(known, key=lambda name: scores[name].averages[MEASURE])


def report(
    scores: Mapping[str, Score], chosen: str, *, champion: tuple[str, Score] | None, seed: int
) -> dict[str, Any]:
    """The gate's verdict on the variant `chosen`, with everything it rests on, as plain values.

    `promote` is true when its paired 95 % interval of the measure lies above 0 against the packaged encoder, and against
    the champion where there is one, on at least `LEAST_EXAMPLES` pairs.

    Args:
        scores: of the packaged encoder and of each variant, on the same held-out pairs.
        champion: its version and score on these pairs.
    """
    ours = scores[chosen]
    against = [_comparison("the packaged encoder", ours, scores[PACKAGED], seed)]
    if champion is not None:
        against.append(_comparison(f"version {champion[0]}", ours, champion[1], seed))
    reasons = []
    if len(ours.gains) < LEAST_EXAMPLES:
        reasons.append(f"only {len(ours.gains)} held-out pairs, {LEAST_EXAMPLES} are needed")
    reasons += [
        f"not certainly better than {c['against']} ({c['mean']:+.4f}, 95 % from {c['low']:+.4f} to {c['high']:+.4f})"
        for c in against
        if not c["low"] > 0
    ]
    won = "better than " + ", ".join(f"{c['against']} ({c['mean']:+.4f})" for c in against)
    ablation = [
        {"variant": name} | _comparison("the packaged encoder", scores[name], scores[PACKAGED], seed)
        for name in VARIANTS
        if name in scores
    ]
    if {"both", "contrast"} <= set(scores):
        step = _comparison("contrast", scores["both"], scores["contrast"], seed)
        ablation.append({"variant": "both"} | step)
    return {
        "measure": MEASURE, "examples": len(ours.gains), "promote": not reasons, "variant": chosen,
        "reason": "; ".join(reasons) if reasons else won, "champion": champion[0] if champion else None,
        "comparisons": against, "ablation": ablation, "paid": paid(ablation),
        "scores": {n: {k: round(v, 6) for k, v in s.averages.items()} for n, s in scores.items()},
    }  # fmt: skip


def paid(ablation: Sequence[Mapping[str, Any]]) -> str:
    """The ablation in words: for each thing tried, whether it certainly helped, certainly hurt, or neither.

    On fewer than `LEAST_EXAMPLES` pairs it is not said.
    """
    told = []
    for row in ablation:
        what = VARIANTS[row["variant"]]
        if row["against"] == "contrast":
            what = "pre-training before the contrastive tuning, against that alone"
        if row["examples"] < LEAST_EXAMPLES:
            verdict = f"{row['examples']} pairs are too few to say"
        else:
            verdict = "paid" if row["low"] > 0 else "hurt" if row["high"] < 0 else "did not certainly pay"
        told.append(
            f"{what}: {verdict} ({row['mean']:+.4f}, 95 % from {row['low']:+.4f} to {row['high']:+.4f})"
        )
    return "; ".join(told)


def _comparison(name: str, ours: Score, theirs: Score, seed: int) -> dict[str, Any]:
    interval = metrics.paired_interval(ours.gains, theirs.gains, seed=seed)
    return {
        "against": name, "ours": _mean(ours.gains), "theirs": _mean(theirs.gains), "mean": interval.mean,
        "low": interval.low, "high": interval.high, "examples": interval.n,
    }  # fmt: skip


def _within(asked: Asked, place: NDArray[np.int64]) -> Asked:
    kept = asked.rows((place[asked.queries] >= 0) & (place[asked.targets] >= 0))
    return Asked(place[kept.queries].astype(np.int32), place[kept.targets].astype(np.int32), kept.is_new)


def _drawn(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of keys in an order that depends on each key alone."""
    return np.lexsort((keys, np.array([zlib.crc32(str(key).encode()) for key in keys.tolist()], np.int64)))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0
