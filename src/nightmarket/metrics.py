"""How good are ranked lists? Pure functions over arrays: no files, no models, no clock.

Every ranking measure takes `ranks`: for each example, the place of the held-out product in its list, 0 for the first,
-1 when the list does not hold it. With one held-out product an example, recall is the share of lists that hold it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Interval(NamedTuple):
    """A mean with the bounds of its 95 % bootstrap interval, over `n` examples."""

    mean: float
    low: float
    high: float
    n: int


def ranks_of(lists: NDArray[np.int32], targets: NDArray[np.int32]) -> NDArray[np.int64]:
    """The place of each row's target in its list, -1 when it is not there."""
    if lists.shape[1] == 0:
        return np.full(len(lists), -1, np.int64)
    hit = lists == targets[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1)


def ndcg(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Normalised discounted gain at `k`, an example each: 1 for the first place, 1/log2(place + 1) after it."""
    inside = (ranks >= 0) & (ranks < k)
    return np.where(inside, 1 / np.log2(np.where(inside, ranks, 0) + 2.0), 0.0)


def recall(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """1 where the target is among the first `k`, else 0."""
    return ((ranks >= 0) & (ranks < k)).astype(np.float64)


def reciprocal_rank(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 for the first place, 1/2 for the second, 0 when the list does not hold the target."""
    return np.where(ranks >= 0, 1 / (np.maximum(ranks, 0) + 1.0), 0.0)


def coverage(lists: NDArray[np.int32], products: int) -> float:
    """The share of all products that stands in at least one list."""
    return float(len(np.unique(lists[lists >= 0])) / products) if products else 0.0


def paired_interval(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], *, seed: int, resamples: int = 1000
) -> Interval:
    """How much better `ours` is than `theirs` on the same examples: mean difference and its 95 % bootstrap interval.

    Resampling whole examples keeps each pair together, so what is hard for both models cancels out. The same arrays
    and seed give the same interval. No examples: a mean of 0 with infinite bounds.
    """
    difference = ours - theirs
    n = len(difference)
    if n == 0:
        return Interval(0.0, -np.inf, np.inf, 0)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, 2_000_000 // n)
    for begin in range(0, resamples, step):
        end = min(begin + step, resamples)
        means[begin:end] = difference[random.integers(0, n, (end - begin, n))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high), n)
