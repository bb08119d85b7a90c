"""Who is better, for whom, and is that certain? The shelf, a candidate and the champion on the same frozen examples; the gate.

The rules stand in docs/decisions/0006-when-a-ranker-is-promoted.md and 0010-how-a-ranker-is-judged.md. Here: measuring a
model, the gate's limits, and the verdict. Not here: fitting and tuning (finetune), who is in a slice (slices), writing
verdicts down (tracking, ledger).
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightmarket import metrics
from nightmarket.ranking import Histories, Interactions, Lists, Popularity, Ranker
from nightmarket.settings import Settings
from nightmarket.training.examples import Questions
from nightmarket.training.slices import LOCALE, Masks, meaning

LENGTH = 20
"""Products a list when lists are compared."""
MEASURE = "ndcg_10"
# With fewer held-out purchases an interval says more about luck than about models.
LEAST_EXAMPLES = 50
LEAST_IN_SLICE = 30
LIMITS: Mapping[str, float | None] = {
    # A share of the reference's own mean in that slice, since slices differ tenfold in how hard they are. A slice refuses
    # when all of the interval lies below it: with 30 examples that takes a collapse, with 3,000 a loss of some percent.
    "new_customers": 0.10,  # most customers of a young shop, and those who decide on one visit whether there is a second
    "unknown_customers": 0.10,  # popularity serves them for every model, so any difference is a fault
    "heavy_buyers": 0.10,  # a tenth of the customers, often half of the revenue
    "training_refused": 0.10,  # who refuses training must not get worse lists for it
    LOCALE: 0.10,  # a language is not to pay for another one's gain
    # Whoever bets on the tail loses the head: a blend 23 % better over all was 20 % worse here (12 to 27) on 22,000
    # customers of a beauty shop. A list of bestsellers loses all of it.
    "long_tail": 0.30,
    "new_products": 0.30,  # as the long tail
    "unseen_products": None,  # only a model that reads texts lists them at all: reported, no limit
}
"""By how much of the reference's mean a slice may be worse; None: reported only."""
# Of the shelf's item-to-item. Half as many products in lists, or lists twice as popular as its own: such a model is
# on its way to a page of bestsellers, which looks good on purchases that bestseller pages had made, and sells nothing new.
LEAST_COVERAGE = 0.5
MOST_POPULARITY = 2.0
SUMMARY_CHARACTERS = 5_000
"""A run's tag holds 8,000 characters, a version's of older MLflow servers 5,000."""
_WARM_ROWS = 16
_HISTORY_READ = 100  # latest products of a history that its own popularity and categories are read from


@dataclass(frozen=True)
class Score:
    """How one model did: averages by name, and the gate's measure for each example.

    Attributes:
        ranks: the place of each example's target in its list, -1 when it is not there.
        lists: what was listed for each example, filled up with popular products.
        promised: the chance that each list holds its target, as other customers' scores tell it; None: not asked for.
        problems: what makes the model unfit to serve whatever its averages are.
    """

    averages: dict[str, float]
    gains: NDArray[np.float64]
    ranks: NDArray[np.int64] | None = None
    lists: Lists | None = None
    promised: NDArray[np.float64] | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Budgets:
    """What a ranker may cost: megabytes of its arrays, and milliseconds to make one customer's list."""

    max_mb: float = 2048.0
    max_ms_per_customer: float = 20.0

    @classmethod
    def of(cls, settings: Settings) -> Budgets:
        """The budgets that are set."""
        return cls(settings.ranker_max_mb, settings.ranker_max_ms_per_customer)


@dataclass(frozen=True)
class InTime:
    """The same comparison on the split by the clock: all fitted before the cut, asked about what came after it."""

    candidate: Score
    shelf: Mapping[str, Score]
    slices: Masks = field(default_factory=dict)


def measure(
    ranker: Ranker,
    popularity: Popularity,
    questions: Questions,
    *,
    learnt: Interactions | None = None,
    categories: NDArray[np.integer[Any]] | None = None,
) -> Score:
    """Ask a model all questions: full ranking of the catalogue, products bought before left out.

    What is measured is what would be served: places the model leaves empty hold the most popular products.

    Args:
        learnt: what it was fitted on. With it everything is measured: the same lists with products bought before left in
            (`_unmasked`), novelty, popularity, calibration, size and speed. Without it, as tuning asks: accuracy only.
        categories: a code a product of the catalogue, -1 for none: diversity and mix of categories, too.
    """
    if learnt is not None:
        ranker.recommend(questions.histories.slice(0, min(_WARM_ROWS, len(questions))), LENGTH)
    began = time.perf_counter()
    plain = ranker.recommend(questions.histories, LENGTH)
    seconds = time.perf_counter() - began
    lists, _ = popularity.fill(plain, questions.histories)
    ranks = metrics.ranks_of(lists.products, questions.targets)
    averages = {
        f"{name}_{k}": _mean(function(ranks, k))
        for k in (5, 10, 20)
        for name, function in (("ndcg", metrics.ndcg), ("recall", metrics.recall))
    }
    averages["mrr_20"] = _mean(metrics.reciprocal_rank(ranks))
    averages["coverage_20"] = metrics.coverage(lists.products, len(ranker.catalogue))
    gains = metrics.ndcg(ranks, 10)
    if learnt is None:
        return Score(averages, gains, ranks, lists)
    learnt.catalogue.require(ranker.catalogue.digest, "What the model learnt")
    averages |= _unmasked(ranker, popularity, questions)
    averages |= _likeness(lists.products, questions.histories, learnt, categories)
    promised, averages["ece_20"] = _promised(lists, questions)
    numbers, problems = _numbers(ranker, plain)
    averages["size_mb"] = numbers / 2**20
    if len(questions):
        averages["ms_per_customer"] = 1000 * seconds / len(questions)
        averages["customers_per_second"] = len(questions) / max(seconds, 1e-9)
    return Score(averages, gains, ranks, lists, promised, problems)


def report(
    *,
    candidate: Score,
    shelf: Mapping[str, Score],
    champion: tuple[str, Score] | None,
    kept_recipe: bool,
    seed: int,
    slices: Masks | None = None,
    in_time: InTime | None = None,
    budgets: Budgets | None = None,
) -> dict[str, Any]:
    """The gate's verdict with everything it rests on, as plain JSON values (what is not a finite number is None).

    `promote` is true when all of this holds:

    - the candidate's paired 95 % interval of NDCG@10 lies above 0 against every model of the shelf, on at least
      `LEAST_EXAMPLES` examples;
    - where there is a champion, the candidate is either better than its recipe on the same examples (interval above 0) or
      is that recipe on fresh data (`kept_recipe`): a tie keeps the champion;
    - no slice with at least `LEAST_IN_SLICE` examples is certainly worse than its limit (`LIMITS`) against the champion's
      recipe, or the best of the shelf where there is none;
    - on the split by time it is not certainly worse than the best of the shelf;
    - its numbers are finite, its size and speed within `budgets`, and it lists not much less, nor much more popular
      products, than item-to-item.

    Args:
        champion: the champion's version, and its recipe fitted and measured on these examples.
        slices: masks over the examples (`slices.of`).
        in_time: the same models on the split by time.
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
    reference = (f"the recipe of version {champion[0]}", champion[1]) if champion else _best(shelf)
    sliced = _sliced(candidate, reference, slices or {}, seed)
    reasons += [r["refusal"] for r in sliced if r["refusal"]]
    timed, refused = _timed(in_time, seed) if in_time is not None else (None, [])
    reasons += [*refused, *_unfit(candidate, shelf.get("item_to_item"), budgets or Budgets())]
    won = "better than " + ", ".join(f"{c['against']} ({c['mean']:+.4f})" for c in against if c["low"] > 0)
    if champion is not None and kept_recipe:
        won += f"; the recipe of version {champion[0]} on fresh purchases"
    found = {
        "measure": MEASURE, "examples": len(candidate.gains), "promote": not reasons,
        "reason": "; ".join(reasons) if reasons else won, "champion": champion[0] if champion else None,
        "kept_recipe": kept_recipe, "candidate": _rounded(candidate.averages),
        "shelf": {name: _rounded(score.averages) for name, score in sorted(shelf.items())}, "comparisons": against,
        "slices": sliced, "in_time": timed, "problems": list(candidate.problems),
        "budgets": {"max_mb": (budgets or Budgets()).max_mb, "max_ms_per_customer": (budgets or Budgets()).max_ms_per_customer},
    }  # fmt: skip
    return dict(_plain(found))


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a report fits a tag of MLflow: at most `SUMMARY_CHARACTERS` as JSON. The verdict is always whole."""
    names = (
        "ndcg_10",
        "recall_10",
        "ndcg_10_unmasked",
        "coverage_20",
        "novelty_20",
        "ece_20",
        "ms_per_customer",
    )

    def few(averages: Mapping[str, float]) -> dict[str, float]:
        return {name: averages[name] for name in names if name in averages}

    kept = {
        **{name: report[name] for name in ("measure", "examples", "promote", "champion", "kept_recipe")},
        "reason": report["reason"] if len(report["reason"]) <= 1_000 else report["reason"][:999] + "…",
        "candidate": few(report["candidate"]),
        "comparisons": [{k: c[k] for k in ("against", "mean", "low", "high")} for c in report["comparisons"]],
        "shelf": {name: few(averages) for name, averages in report["shelf"].items()},
        "slices": {r["slice"]: [r["examples"], r["ours"], r["theirs"]] for r in report.get("slices", [])},
    }  # fmt: skip
    for name in ("slices", "shelf", "comparisons"):
        if len(json.dumps(kept, indent=1, sort_keys=True)) <= SUMMARY_CHARACTERS:
            break
        del kept[name]
    return kept


def certainly_better(ours: Score, theirs: Score, seed: int) -> bool:
    """Does the paired 95 % interval of the gate's measure lie above 0?"""
    return metrics.paired_interval(ours.gains, theirs.gains, seed=seed).low > 0


def _comparison(name: str, ours: Score, theirs: Score, seed: int) -> dict[str, Any]:
    return _paired(name, ours.gains, theirs.gains, seed)


def _paired(name: str, ours: NDArray[np.float64], theirs: NDArray[np.float64], seed: int) -> dict[str, Any]:
    interval = metrics.paired_interval(ours, theirs, seed=seed)
    return {
        "against": name, "ours": _mean(ours), "theirs": _mean(theirs), "mean": interval.mean,
        "low": interval.low, "high": interval.high, "examples": interval.n,
    }  # fmt: skip


def _best(shelf: Mapping[str, Score]) -> tuple[str, Score]:
    name = max(sorted(shelf), key=lambda n: _mean(shelf[n].gains))
    return name, shelf[name]


def _sliced(candidate: Score, reference: tuple[str, Score], masks: Masks, seed: int) -> list[dict[str, Any]]:
    """A row a slice that has examples: the candidate against the reference there, its limit, and why it refuses ("" when it does not)."""
    rows: list[dict[str, Any]] = []
    against, theirs = reference
    for name, mask in masks.items():
        n = int(mask.sum())
        if n == 0:
            continue
        row: dict[str, Any] = {
            "slice": name, "meaning": meaning(name),
            **_paired(against, candidate.gains[mask], theirs.gains[mask], seed), "limit": None, "refusal": "",
        }  # fmt: skip
        share = LIMITS.get(LOCALE if name.startswith(LOCALE) else name)
        if share is not None and n >= LEAST_IN_SLICE:
            row["limit"] = -share * row["theirs"]
            if row["high"] < row["limit"]:
                row["refusal"] = (
                    f"certainly worse for {name} than {against} ({row['mean']:+.4f}, 95 % up to {row['high']:+.4f}, "
                    f"limit {row['limit']:+.4f}, {n} purchases)"
                )
        if candidate.promised is not None and candidate.ranks is not None:
            row["recall_20"] = _mean(metrics.recall(candidate.ranks, LENGTH)[mask])
            row["promised_recall_20"] = _mean(candidate.promised[mask])
        rows.append(row)
    return rows


def _timed(in_time: InTime, seed: int) -> tuple[dict[str, Any], list[str]]:
    """The split by time in the report, and why it refuses: certainly worse than the best of the shelf."""
    candidate, (name, theirs) = in_time.candidate, _best(in_time.shelf)
    against = [_comparison(each, candidate, score, seed) for each, score in sorted(in_time.shelf.items())]
    found = {
        "examples": len(candidate.gains), "candidate": _rounded(candidate.averages),
        "shelf": {each: _rounded(score.averages) for each, score in sorted(in_time.shelf.items())},
        "comparisons": against, "slices": _sliced(candidate, (name, theirs), in_time.slices, seed),
    }  # fmt: skip
    judged = next(c for c in against if c["against"] == name)
    if len(candidate.gains) < LEAST_EXAMPLES or not judged["high"] < 0:
        return found, []
    return found, [
        f"certainly worse than {name} on the split by time ({judged['mean']:+.4f}, 95 % up to {judged['high']:+.4f})"
    ]


def _unfit(candidate: Score, plain: Score | None, budgets: Budgets) -> list[str]:
    """Why a model cannot serve whatever it scored: broken numbers, cost, and lists that are too narrow or too popular."""
    reasons, ours = list(candidate.problems), candidate.averages
    reasons += [f"{name} is not a finite number" for name, value in ours.items() if not np.isfinite(value)]
    for name, most in (("size_mb", budgets.max_mb), ("ms_per_customer", budgets.max_ms_per_customer)):
        if ours.get(name, 0.0) > most:
            reasons.append(f"{name} is {ours[name]:,.1f}, the budget {most:g}")
    theirs = plain.averages if plain is not None else {}
    least = LEAST_COVERAGE * theirs.get("coverage_20", 0.0)
    if ours.get("coverage_20", least) < least:
        reasons.append(
            f"lists {ours['coverage_20']:.1%} of products, less than half of item_to_item's {theirs['coverage_20']:.1%}"
        )
    most = MOST_POPULARITY * theirs.get("popularity_20", np.inf)
    if ours.get("popularity_20", 0.0) > most:
        reasons.append(
            f"what it lists has {ours['popularity_20']:,.1f} buyers on average, more than {MOST_POPULARITY:g} times "
            f"item_to_item's {theirs['popularity_20']:,.1f}"
        )
    return reasons


def _unmasked(ranker: Ranker, popularity: Popularity, questions: Questions) -> dict[str, float]:
    """Accuracy when products bought before may be listed: some published tables are made so."""
    seen = ranker.recommend(questions.histories, LENGTH, exclude_seen=False)
    seen, _ = popularity.fill(seen, questions.histories, exclude_seen=False)
    ranks = metrics.ranks_of(seen.products, questions.targets)
    return {
        "ndcg_10_unmasked": _mean(metrics.ndcg(ranks, 10)), "recall_10_unmasked": _mean(metrics.recall(ranks, 10)),
    }  # fmt: skip


def _likeness(
    lists: NDArray[np.int32], histories: Histories, learnt: Interactions, categories: NDArray[np.integer[Any]] | None
) -> dict[str, float]:  # fmt: skip
    """What the lists are like: novelty, popularity against the histories' own, and categories where they are known."""
    size, customers = len(learnt.catalogue), len(np.unique(learnt.customers))
    pairs = np.unique(learnt.customers.astype(np.int64) * max(size, 1) + learnt.products)
    buyers = np.bincount(pairs % max(size, 1), minlength=size)
    own = _latest(histories)
    ours, theirs = (metrics.average_popularity(each, buyers) for each in (lists, own))
    found = {
        "novelty_20": metrics.novelty(lists, buyers, customers),
        "popularity_20": _mean(ours[np.isfinite(ours)]),
        "popularity_lift_20": metrics.popularity_lift(ours, theirs),
        "gini_20": metrics.gini(np.bincount(lists[lists >= 0], minlength=size)),
    }
    if categories is not None and (categories >= 0).any():
        found["diversity_20"] = metrics.diversity(lists, categories)
        found["category_divergence_20"] = metrics.mix_divergence(lists, own, categories)
    return found


def _latest(histories: Histories) -> NDArray[np.int32]:
    """The latest products of each history as a table, -1 where there are no more."""
    places = histories.places()
    kept = places < _HISTORY_READ
    rows = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
    width = min(int(np.diff(histories.offsets).max(initial=0)), _HISTORY_READ)
    table = np.full((len(histories), width), -1, np.int32)
    table[rows[kept], places[kept]] = histories.items[kept]
    return table


def _promised(lists: Lists, questions: Questions) -> tuple[NDArray[np.float64], float]:
    """For each example the chance that its list holds the target, and the calibration error of the listed products.

    A score is no probability. What is measured is whether it can be read as one: each half of the customers is read with
    the other half's map from scores to what came true. A score that means something else for long histories than for
    short ones keeps its error however it is mapped.
    """
    outcomes = lists.products == questions.targets[:, None]
    half = np.array([zlib.crc32(c.encode()) % 2 == 0 for c in questions.histories.customer_ids], np.bool_)
    listed = lists.products >= 0
    chances = np.zeros(lists.products.shape)
    for mine in (half, ~half):
        theirs = ~mine[:, None] & listed
        chances[mine] = metrics.probabilities_of(
            lists.scores[theirs], outcomes[theirs], lists.scores[mine].ravel()
        ).reshape(-1, lists.products.shape[1])
    chances[~listed] = 0
    return chances.sum(axis=1), metrics.calibration_error(chances[listed], outcomes[listed])


def _numbers(ranker: Ranker, lists: Lists) -> tuple[int, tuple[str, ...]]:
    """The bytes of a model's arrays, and what is not finite among them or in its scores."""
    problems, total = [], 0
    for name, array in [*sorted(ranker.arrays().items()), ("scores", lists.scores)]:
        total += array.nbytes if name != "scores" else 0
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            problems.append(f"{name}: {int((~np.isfinite(array)).sum()):,} numbers are not finite")
    return total, tuple(problems)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _rounded(averages: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in averages.items()}


def _plain(value: Any) -> Any:
    """The same as JSON knows it: no numbers that are not finite, none of numpy's."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
