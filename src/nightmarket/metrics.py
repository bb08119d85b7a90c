"""How good are ranked lists? Pure functions over arrays: no files, no models, no clock.

Every ranking measure takes `ranks`: for each example, the place of the held-out product in its list, 0 for the first,
-1 when the list does not hold it. With one held-out product an example, recall is the share of lists that hold it.

What lists are like beside that (novelty, popularity, diversity, category mix, calibration) takes `lists`: int32 codes of
products, rows x places, -1 for an empty place, which never counts. Every function says what nothing gives.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_COUNTS_AT_ONCE = 4_000_000  # numbers in a block of category counts: 32 MB


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


def tied_rank(scores: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """The place of each row's target when ties are broken by chance: how many score more, plus half of those that tie.

    0 for the only best. A model that scores all n products alike gets (n - 1) / 2, not 0: no order of the catalogue
    flatters it. A target whose score is not a number stands last. No rows give no ranks.
    """
    own = np.take_along_axis(scores, targets[:, None].astype(np.int64), axis=1)
    greater, equal = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    ranks = greater + (equal - 1) / 2.0
    return np.where(np.isnan(own[:, 0]), scores.shape[1] - 1.0, ranks)


def novelty(lists: NDArray[np.int32], buyers: NDArray[np.integer[Any]], customers: int) -> float:
    """How unexpected what is listed is: the mean of -log2(share of customers who bought it), in bits.

    Self-information after Zhou et al., "Solving the apparent diversity-accuracy dilemma" (PNAS 2010). 0 when everybody
    bought all that is listed, at most log2(customers): a product that nobody bought counts as bought by one. Nothing
    listed, or no customers: 0.
    """
    listed = lists[lists >= 0]
    if not len(listed) or customers <= 0:
        return 0.0
    share = np.clip(buyers[listed] / customers, 1 / customers, 1.0)
    return float(-np.log2(share).mean() + 0.0)


def average_popularity(lists: NDArray[np.int32], buyers: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """The mean number of buyers of each row's products; NaN for a row that lists nothing.

    Its mean over rows is the average recommendation popularity of Yin et al. (VLDB 2012).
    """
    held = lists >= 0
    counts, places = np.where(held, buyers[np.maximum(lists, 0)] if len(buyers) else 0, 0), held.sum(axis=1)
    return np.where(places > 0, counts.sum(axis=1) / np.maximum(places, 1), np.nan)


def popularity_lift(ours: NDArray[np.float64], own: NDArray[np.float64]) -> float:
    """How much more popular what customers are shown is than what they buy: mean of `ours` / mean of `own` - 1.

    Popularity lift of Abdollahpouri et al., "The connection between popularity bias, calibration, and fairness in
    recommendation" (RecSys 2020), with all customers as one group. Both arrays are average popularities a customer
    (`average_popularity`) of lists and of histories; a customer without either (NaN) is left out. 0: as popular as the
    histories; 1: twice as popular; above -1. Nobody left: 0.
    """
    both = np.isfinite(ours) & np.isfinite(own)
    base = float(own[both].mean()) if both.any() else 0.0
    return float(ours[both].mean()) / base - 1 if base > 0 else 0.0


def gini(exposures: NDArray[np.number[Any]]) -> float:
    """How unequally products are shown: 0 when each as often, 1 - 1/n when one of n has all of it.

    The Gini index over all products of the catalogue, those never listed included. No products or no exposure: 0.
    """
    counts = np.sort(exposures.astype(np.float64))
    n, total = len(counts), float(counts.sum())
    if n == 0 or total <= 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ counts / (n * total))


def diversity(lists: NDArray[np.int32], categories: NDArray[np.integer[Any]]) -> float:
    """Of two products of one list, how often their categories differ: 0 all of one category, 1 no two alike.

    Intra-list diversity of Smyth and McClave (ICCBR 2001) with a distance of 0 or 1, averaged over lists. `categories`
    has a code a product, -1 for none; products without a category and lists with fewer than two others are left out.
    No list left: 0.
    """
    found = []
    for counts, _ in _mixes(categories, lists, lists):
        held = counts.sum(axis=1)
        kept = held >= 2
        counts, held = counts[kept], held[kept]
        alike = (counts * (counts - 1)).sum(axis=1)
        found.append(1 - alike / (held * (held - 1)))
    return _mean(found)


def mix_divergence(
    lists: NDArray[np.int32],
    histories: NDArray[np.int32],
    categories: NDArray[np.integer[Any]],
    *,
    alpha: float = 0.01,
) -> float:
    """How far the categories of lists are from those of the histories: KL(history || list), in nats, mean over rows.

    Steck, "Calibrated recommendations" (RecSys 2018), equation 6, all places weighing the same: the list's share is mixed
    with `alpha` of the history's, so that a category that is missing counts at most log(1 / alpha). 0: the same mix;
    4.6 for nothing in common at 0.01. `histories` has a row a list, -1 for nothing. Rows without a category on either
    side are left out. No row left: 0.
    """
    found = []
    for shown, own in _mixes(categories, lists, histories):
        kept = (own.sum(axis=1) > 0) & (shown.sum(axis=1) > 0)
        p = own[kept] / own[kept].sum(axis=1, keepdims=True)
        q = (1 - alpha) * shown[kept] / shown[kept].sum(axis=1, keepdims=True) + alpha * p
        terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, q, 1)), 0.0)
        found.append(terms.sum(axis=1))
    return _mean(found)


def _mixes(
    categories: NDArray[np.integer[Any]], *tables: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.float64], ...]]:
    """How many products of each category the rows of each table hold (rows x categories), some rows at a time."""
    size = int(categories.max(initial=-1)) + 1
    step = max(1, _COUNTS_AT_ONCE // max(size, 1))
    for begin in range(0, len(tables[0]) if size else 0, step):
        counted = []
        for table in tables:
            some = table[begin : begin + step]
            codes = np.where(some >= 0, categories[np.maximum(some, 0)], -1)
            row, place = np.nonzero(codes >= 0)
            counts = np.bincount(row * size + codes[row, place], minlength=len(some) * size)
            counted.append(counts.reshape(len(some), size).astype(np.float64))
        yield tuple(counted)


def _mean(parts: list[NDArray[np.float64]]) -> float:
    values = np.concatenate(parts) if parts else np.zeros(0)
    return float(values.mean()) if len(values) else 0.0


class Bin(NamedTuple):
    """Predictions of about the same size: their mean, how often it came true, and how many they are."""

    predicted: float
    observed: float
    n: int


def calibration_bins(
    probabilities: NDArray[np.floating[Any]], outcomes: NDArray[Any], *, bins: int = 10
) -> list[Bin]:
    """Predictions in bins of equal mass, lowest first; equal predictions always share a bin. Nothing gives no bins."""
    n = len(probabilities)
    if n == 0:
        return []
    order = np.argsort(probabilities, kind="stable")
    p, y = probabilities[order].astype(np.float64), outcomes[order].astype(np.float64)
    edges = np.linspace(0, n, min(bins, n) + 1).round().astype(np.int64)[1:-1]
    # An edge inside a run of equal predictions moves to where the run begins: the order inside it means nothing.
    edges = np.unique(np.concatenate([[0], np.searchsorted(p, p[edges], side="left"), [n]]))
    return [
        Bin(float(p[a:b].mean()), float(y[a:b].mean()), int(b - a))
        for a, b in itertools.pairwise(edges.tolist())
    ]


def calibration_error(
    probabilities: NDArray[np.floating[Any]], outcomes: NDArray[Any], *, bins: int = 10
) -> float:
    """How far predicted probabilities are from what happened: the mean of |predicted - observed| over bins, by mass.

    Expected calibration error with bins of equal mass (Nguyen and O'Connor, EMNLP 2015): bins of equal width would put
    nearly all of a recommender's small probabilities into the first. 0 to 1; nothing predicted: 0.
    """
    found = calibration_bins(probabilities, outcomes, bins=bins)
    total = sum(b.n for b in found)
    return sum(abs(b.predicted - b.observed) * b.n for b in found) / total if total else 0.0


def probabilities_of(
    scores: NDArray[np.floating[Any]],
    outcomes: NDArray[Any],
    asked: NDArray[np.floating[Any]],
    *,
    bins: int = 200,
) -> NDArray[np.float64]:
    """What the scores `asked` promise, if they mean what `scores` with these outcomes meant.

    Isotonic regression (Zadrozny and Elkan, KDD 2002) over bins of equal mass, straight lines between their means: a
    greater score never promises less. Nothing learnt from: 0.
    """
    from scipy.optimize import isotonic_regression

    learnt = calibration_bins(scores, outcomes, bins=bins)
    if not learnt:
        return np.zeros(len(asked))
    observed = np.array([b.observed for b in learnt])
    fitted = isotonic_regression(observed, weights=np.array([b.n for b in learnt], np.float64)).x
    return np.interp(asked, [b.predicted for b in learnt], fitted)


def overlap(ours: NDArray[np.int32], theirs: NDArray[np.int32]) -> NDArray[np.float64]:
    """For each row, the share of the longer list that stands in both, whatever the order: 1 the same products.

    Two empty lists are the same: 1.
    """
    both = (_same(ours, theirs)).any(axis=2).sum(axis=1)
    longer = np.maximum((ours >= 0).sum(axis=1), (theirs >= 0).sum(axis=1))
    return np.where(longer > 0, both / np.maximum(longer, 1), 1.0)


def rank_biased_overlap(
    ours: NDArray[np.int32], theirs: NDArray[np.int32], *, persistence: float = 0.9
) -> NDArray[np.float64]:
    """For each row, how alike two ranked lists are, the first places weighing most: 1 the same, 0 nothing in common.

    Extrapolated rank-biased overlap of Webber, Moffat and Zobel (TOIS 2010), equation 32, with the agreement at a depth
    taken as 2 x common / (both lengths at that depth), so that short lists can be equal. With a persistence of 0.9 the
    first ten places have 86 % of the weight. Both lists have as many places; two empty lists are the same: 1.
    """
    rows, depth = ours.shape
    if depth == 0:
        return np.ones(rows)
    places = np.arange(1, depth + 1)
    # Common products at depth d: matches whose later place is at most d.
    row, mine, other = np.nonzero(_same(ours, theirs))
    found = np.bincount(row * depth + np.maximum(mine, other), minlength=rows * depth)
    common = found.reshape(rows, depth).cumsum(axis=1)
    lengths = np.minimum((ours >= 0).sum(axis=1)[:, None], places) + np.minimum(
        (theirs >= 0).sum(axis=1)[:, None], places
    )
    agreement = np.where(lengths > 0, 2 * common / np.maximum(lengths, 1), 1.0)
    weights = (1 - persistence) * persistence ** (places - 1)
    return agreement @ weights + agreement[:, -1] * persistence**depth


def _same(ours: NDArray[np.int32], theirs: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Rows x places of ours x places of theirs: the same product there?"""
    return (ours[:, :, None] == theirs[:, None, :]) & (ours >= 0)[:, :, None]
