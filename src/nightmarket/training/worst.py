"""The worst answers of a ranker, slice by slice, as a page to read: what was bought, what was listed, what came next.

A number says that a slice is bad, an example says why. No customer is named: an example is products and places. Not here:
who is in a slice (slices), and what follows from it (scorecard).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightmarket import metrics
from nightmarket.ranking import Ranker
from nightmarket.training import pages
from nightmarket.training.examples import Questions
from nightmarket.training.scorecard import Score
from nightmarket.training.slices import Masks, meaning

SHOWN = 5
"""Examples a slice."""
LISTED = 10
"""Places of a list, and latest products of a history, that are shown."""
# Among so many of the greatest losses the shown ones are drawn: always the same five would be the same oddities.
_POOL = 50


@dataclass(frozen=True)
class Example:
    """One bad answer: codes of products, and places counted from 1 (0: not among those listed)."""

    history: tuple[int, ...]
    bought: int
    target: int
    listed: tuple[int, ...]
    place: int
    place_of_all: float
    other_place: int | None


def examples(
    score: Score,
    questions: Questions,
    masks: Masks,
    ranker: Ranker,
    *,
    seed: int,
    against: Score | None = None,
    shown: int = SHOWN,
) -> dict[str, list[Example]]:
    """For each slice with questions a few of those that were answered worst, drawn by seed among the worst.

    With `against` (the champion's recipe, or the best of the shelf) the loss is what that model gained and this one did
    not; without it, what is missing to the first place. Among equal losses a rarer hit counts as much as another.
    """
    if score.lists is None or score.ranks is None:
        return {}
    best = against.gains if against is not None else np.ones(len(score.gains))
    loss = best - score.gains
    chosen: dict[str, NDArray[np.int64]] = {}
    for name, mask in masks.items():
        inside = np.flatnonzero(mask & (loss > 0))
        if len(inside):
            # A seed of its own for each slice, so that another slice beside it changes nothing here.
            random = np.random.default_rng([seed, *name.encode()])
            inside = inside[np.lexsort((random.random(len(inside)), -loss[inside]))[:_POOL]]
            chosen[name] = np.sort(random.choice(inside, min(shown, len(inside)), replace=False))
    rows = np.unique(np.concatenate(list(chosen.values()))) if chosen else np.zeros(0, np.int64)
    asked = questions.rows(rows)
    places = _places_of_all(ranker, asked)
    made = {int(row): _example(score, against, asked, n, int(row), places[n]) for n, row in enumerate(rows)}
    return {name: [made[int(row)] for row in picked] for name, picked in chosen.items()}


def page(
    found: Mapping[str, list[Example]],
    product_ids: tuple[str, ...],
    titles: Mapping[str, str],
    *,
    model: str,
    against: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> str:
    """The examples as one HTML file. Titles are quoted as they are; a product without one is shown by its id.

    Args:
        model, against: what the two models are called.
        sizes: how many questions each slice has.
    """

    def name(product: int) -> str:
        return pages.text(titles.get(product_ids[product]) or product_ids[product])

    body = [
        '<p class="quiet">For each slice some of the worst answers, drawn among the worst. Left what the customer had '
        "bought, the latest first; right what was listed, the best first. "
        + (f"A loss is what {pages.text(against)} found and this model did not." if against else "")
        + "</p>"
    ]
    for slice_, some in found.items():
        size = f"{sizes[slice_]:,} questions: " if sizes and slice_ in sizes else ""
        body.append(pages.heading(slice_, f"{size}{meaning(slice_)}"))
        body += [_article(example, name, against) for example in some]
    if not found:
        body.append("<p>No question was answered worse than it could be.</p>")
    return pages.document(f"Worst answers of {model}", body)


def _places_of_all(ranker: Ranker, asked: Questions) -> NDArray[np.float64]:
    """The target's place among all products not bought before, ties in their middle; 1 is the first."""
    if not len(asked):
        return np.zeros(0)
    scores = np.array(ranker.score(asked.histories), np.float64)
    rows = np.repeat(np.arange(len(asked)), np.diff(asked.histories.offsets))
    own = scores[np.arange(len(asked)), asked.targets].copy()
    scores[rows, asked.histories.items] = -np.inf
    scores[np.arange(len(asked)), asked.targets] = own
    return metrics.tied_rank(scores, asked.targets) + 1


def _example(
    score: Score, against: Score | None, asked: Questions, n: int, row: int, place_of_all: float
) -> Example:
    assert score.lists is not None and score.ranks is not None
    h = asked.histories
    items = h.items[h.offsets[n] : h.offsets[n + 1]]
    listed = score.lists.products[row][:LISTED]
    other = int(against.ranks[row]) + 1 if against is not None and against.ranks is not None else None
    return Example(
        tuple(items[:LISTED].tolist()), len(items), int(asked.targets[n]), tuple(listed[listed >= 0].tolist()),
        int(score.ranks[row]) + 1, float(place_of_all), other,
    )  # fmt: skip


def _article(example: Example, name: Any, against: str | None) -> str:
    hit = ' class="hit"'

    def lines(products: tuple[int, ...]) -> str:
        return "".join(
            f"<li{hit if product == example.target else ''}>{name(product)}</li>" for product in products
        )

    place = f"in place {example.place}" if example.place else "not among those listed"
    told = f"Bought next: {name(example.target)}"
    where = f"{place}; in place {example.place_of_all:,.0f} of all products"
    if example.other_place is not None:
        where += f"; {against or 'the other model'} had it " + (
            f"in place {example.other_place}" if example.other_place else "not among those listed"
        )
    more = example.bought - len(example.history)
    rest = f'<p class="quiet">and {more:,} before them</p>' if more else ""
    history = (
        f"<ol>{lines(example.history)}</ol>{rest}" if example.history else '<p class="quiet">nothing</p>'
    )
    return (
        f'<article><p class="told">{told}</p><p class="quiet">{pages.text(where)}</p>'
        f'<div class="columns"><div><p class="quiet">had bought</p>{history}</div>'
        f'<div><p class="quiet">was listed</p><ol>{lines(example.listed)}</ol></div></div></article>'
    )
