"""Which questions belong together: customers and products for whom a ranker may be bad while its average is good.

Here: named masks over questions, from what was learnt before they were asked. Not here: limits and verdicts (scorecard),
examples to look at (worst).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from nightmarket.ranking import Interactions
from nightmarket.training.examples import Questions

Masks = Mapping[str, NDArray[np.bool_]]
"""A flag a question, by name of slice; slices overlap."""

NEW_DAYS = 30
"""A product is new for so many days after it was first bought."""
HEAD_SHARE = 0.8
"""The products that make up this share of purchases are the head; the others are the long tail."""
HEAVY_SHARE = 0.1
"""Heavy buyers are at most this share of those asked."""
LOCALE = "locale:"

MEANINGS = {
    "new_customers": "customers with one order so far",
    "unknown_customers": "customers without any order so far: popularity serves them",
    "new_products": f"the product was first bought in the last {NEW_DAYS} days, or never before",
    "unseen_products": "nobody had bought the product before",
    "long_tail": f"the product is not among those that make up {HEAD_SHARE:.0%} of purchases",
    "heavy_buyers": f"the {HEAVY_SHARE:.0%} of customers who had bought most different products",
    "training_refused": "customers from whom nothing may be learnt",
}
_DAY_US = 86_400_000_000


def of(
    questions: Questions,
    learnt: Interactions,
    *,
    locales: Mapping[str, str | None] | None = None,
    refused: Collection[str] = (),
    least: int = 30,
) -> dict[str, NDArray[np.bool_]]:
    """The slices of some questions, by name; those of `MEANINGS` are always there, if need be with nobody in them.

    Args:
        learnt: what could be learnt before the questions: "new", "seen" and "popular" are as of then.
        locales: customer id -> locale, for a slice `locale:<locale>` of each with at least `least` questions.
        refused: ids of customers who refused training; they are asked about nowhere unless somebody asks them on purpose.
    """
    histories, targets = questions.histories, questions.targets
    learnt.catalogue.require(histories.digest, "The questions' histories")
    orders = _orders(learnt, histories.customer_ids)
    size = len(learnt.catalogue)
    bought = np.bincount(learnt.products, minlength=size)
    first = np.full(size, np.iinfo(np.int64).max)
    np.minimum.at(first, learnt.products, learnt.times)
    since = int(learnt.times.max()) - NEW_DAYS * _DAY_US if len(learnt) else 0
    masks = {
        # The history says whether anything is told of a customer; what they bought again counts as an order too.
        "new_customers": (orders == 1) & ~questions.is_unknown,
        "unknown_customers": questions.is_unknown,
        "new_products": first[targets] > since,
        "unseen_products": bought[targets] == 0,
        "long_tail": ~_head(bought)[targets],
        "heavy_buyers": _heavy(np.diff(histories.offsets)),
        "training_refused": np.array([c in refused for c in histories.customer_ids], np.bool_),
    }
    if locales is not None:
        theirs = np.array([locales.get(c) or "" for c in histories.customer_ids], object)
        masks |= {
            f"{LOCALE}{locale}": theirs == locale
            for locale in sorted(set(theirs.tolist()) - {""})
            if int((theirs == locale).sum()) >= least
        }
    return masks


def meaning(name: str) -> str:
    """One line that says who is in a slice."""
    if name.startswith(LOCALE):
        return f"customers whose locale is {name.removeprefix(LOCALE)}"
    return MEANINGS.get(name, name)


def _orders(learnt: Interactions, customer_ids: tuple[str, ...]) -> NDArray[np.int64]:
    """How many orders (instants) of each of these customers were learnt from."""
    n = len(learnt)
    new = np.ones(n, np.bool_)
    if n:
        new[1:] = (learnt.customers[1:] != learnt.customers[:-1]) | (learnt.times[1:] != learnt.times[:-1])
    counts = np.bincount(learnt.customers[new], minlength=len(learnt.customer_ids))
    known = {customer: int(count) for customer, count in zip(learnt.customer_ids, counts, strict=True)}
    return np.array([known.get(customer, 0) for customer in customer_ids], np.int64)


def _head(bought: NDArray[np.int64]) -> NDArray[np.bool_]:
    """A flag a product: is it among the fewest that make up `HEAD_SHARE` of purchases? Ties: the lower code."""
    order = np.lexsort((np.arange(len(bought)), -bought))
    total = np.cumsum(bought[order])
    head = np.zeros(len(bought), np.bool_)
    if len(total) and total[-1]:
        head[order[: int(np.searchsorted(total, HEAD_SHARE * total[-1])) + 1]] = True
    return head


def _heavy(lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The longest histories: never more than the share, whatever ties."""
    n = len(lengths)
    return lengths > (np.sort(lengths)[n - int(n * HEAVY_SHARE) - 1] if n else 0)
