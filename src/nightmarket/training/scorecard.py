"""Who is better, and is that certain? The shelf, a candidate and the champion on the same frozen examples; the gate.

The rules stand in docs/decisions/0006-when-a-ranker-is-promoted.md. Not here: fitting and tuning (finetune), writing
verdicts down (tracking, ledger).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightmarket import metrics
from nightmarket.ranking import Popularity, Ranker
from nightmarket.training.examples import Questions

LENGTH = 20
"""Products a list when lists are compared."""
MEASURE = "ndcg_10"
# With fewer held-out purchases an interval says more about luck than about models.
LEAST_EXAMPLES = 50


@dataclass(frozen=True)
class Score:
    """How one model did: averages by name, and the gate's measure for each example."""

    averages: dict[str, float]
    gains: NDArray[np.float64]


def measure(ranker: Ranker, popularity: Popularity, questions: Questions) -> Score:
    """Ask a model all questions: full ranking of the catalogue, products bought before left out.

    What is measured is what would be served: places the model leaves empty hold the most popular products.
    """
    lists = ranker.recommend(questions.histories, LENGTH)
    lists, _ = popularity.fill(lists, questions.histories)
    ranks = metrics.ranks_of(lists.products, questions.targets)
    averages = {
        f"{name}_{k}": _mean(function(ranks, k))
        for k in (5, 10, 20)
        for name, function in (("ndcg", metrics.ndcg), ("recall", metrics.recall))
    }
    averages["mrr_20"] = _mean(metrics.reciprocal_rank(ranks))
    averages["coverage_20"] = metrics.coverage(lists.products, len(ranker.catalogue))
    return Score(averages, metrics.ndcg(ranks, 10))


def report(
    *,
    candidate: Score,
    shelf: Mapping[str, Score],
    champion: tuple[str, Score] | None,
    kept_recipe: bool,
    seed: int,
) -> dict[str, Any]:
    """The gate's verdict with everything it rests on, as plain values.

    `promote` is true when the candidate's paired 95 % interval of NDCG@10 lies above 0 against every model of the shelf,
    on at least `LEAST_EXAMPLES` examples, and, where there is a champion, it is either better than the champion's recipe
    on the same examples (interval above 0) or is that recipe on fresh data (`kept_recipe`).

    Args:
        champion: the champion's version, and its recipe fitted and measured on these examples.
    """
    against = [_comparison(name, candidate, score, seed) for name, score in sorted(shelf.items())]
    reasons = []
    if len(candidate.gains) < LEAST_EXAMPLES:
        reasons.append(f"only {len(candidate.gains)} held-out purchases, {LEAST_EXAMPLES} are needed")
    reasons += [
        f"not certainly better than {c['against']} ({c['mean']:+.4f}, 95 % from {c['low']:+.4f} to {c['high']:+.4f})"
        for c in against
        if not c["low"] > 0
    ]
    if champion is not None:
        version, score = champion
        against.append(_comparison(f"the recipe of version {version}", candidate, score, seed))
        if not kept_recipe and not against[-1]["low"] > 0:
            reasons.append(f"not certainly better than the recipe of version {version}")
    won = "better than " + ", ".join(f"{c['against']} ({c['mean']:+.4f})" for c in against if c["low"] > 0)
    if champion is not None and kept_recipe:
        won += f"; the recipe of version {champion[0]} on fresh purchases"
    return {
        "measure": MEASURE, "examples": len(candidate.gains), "promote": not reasons,
        "reason": "; ".join(reasons) if reasons else won, "champion": champion[0] if champion else None,
        "kept_recipe": kept_recipe, "candidate": _rounded(candidate.averages),
        "shelf": {name: _rounded(score.averages) for name, score in sorted(shelf.items())}, "comparisons": against,
    }  # fmt: skip


def certainly_better(ours: Score, theirs: Score, seed: int) -> bool:
    """Does the paired 95 % interval of the gate's measure lie above 0?"""
    return metrics.paired_interval(ours.gains, theirs.gains, seed=seed).low > 0


def _comparison(name: str, ours: Score, theirs: Score, seed: int) -> dict[str, Any]:
    interval = metrics.paired_interval(ours.gains, theirs.gains, seed=seed)
    return {
        "against": name, "ours": _mean(ours.gains), "theirs": _mean(theirs.gains), "mean": interval.mean,
        "low": interval.low, "high": interval.high, "examples": interval.n,
    }  # fmt: skip


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _rounded(averages: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in averages.items()}
