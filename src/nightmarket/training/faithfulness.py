"""Are a ranker's reasons its reasons? Taking out what it names must cost a score more than taking out something else.

A deletion test (Samek et al., 2017; for lists: Tran et al., 2021): of the products of a history that are named as the
causes of a listed product, all are taken out at once and the list is scored again; so are as many others drawn from the
same history. Not here: how a model finds its causes (ranking), whether they are shown (products/recommendations).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightmarket.ranking import Histories, Ranker
from nightmarket.ranking.base import blocks

LISTED = 5
"""Places of a list that are tested."""
NAMED = 3
LEAST_SHARE = 0.9
"""Reasons of a version are shown when for at least this share of lists they cost more than a random choice."""


class Faithfulness(NamedTuple):
    """`share` of lists whose named causes cost more score than as many random products of the same history.

    `drop_named` and `drop_random` are mean losses of a listed product's score as parts of it; `lists` were compared:
    those whose history holds more than what was named.
    """

    share: float
    drop_named: float
    drop_random: float
    lists: int


def measure(ranker: Ranker, histories: Histories, *, seed: int, most: int = 1000) -> Faithfulness:
    """Test the reasons of at most `most` lists, of rows drawn by seed. Nothing to compare: a share of 0 over 0 lists."""
    random = np.random.default_rng(seed)
    sizes = np.diff(histories.offsets)
    able = np.flatnonzero(sizes >= 2)
    rows = np.sort(random.permutation(able)[:most])
    asked = histories.rows(rows)
    lists = ranker.recommend(asked, LISTED)
    causes = ranker.because(asked, lists, NAMED)
    row, place = np.nonzero((lists.products >= 0) & (causes[:, :, 0] >= 0))
    pairs = asked.rows(row)
    owner = np.repeat(np.arange(len(pairs)), np.diff(pairs.offsets))
    named = (pairs.items[:, None] == causes[row, place][owner]).any(axis=1)
    count = np.bincount(owner, named, len(pairs)).astype(np.int64)
    drawn = _drawn(owner, count, random)
    target = lists.products[row, place]
    whole = lists.scores[row, place].astype(np.float64)
    lost_named = (whole - _scores(ranker, pairs.dropping(named), target)) / np.maximum(whole, 1e-12)
    lost_drawn = (whole - _scores(ranker, pairs.dropping(drawn), target)) / np.maximum(whole, 1e-12)
    # Where everything is named there is nothing else to take out.
    fair = count < np.diff(pairs.offsets)
    of_list = np.bincount(row[fair], minlength=len(rows))
    difference = np.bincount(row[fair], (lost_named - lost_drawn)[fair], len(rows))
    compared = of_list > 0
    if not compared.any():
        return Faithfulness(0.0, 0.0, 0.0, 0)
    return Faithfulness(
        float((difference[compared] > 0).mean()), float(lost_named[fair].mean()), float(lost_drawn[fair].mean()),
        int(compared.sum()),
    )  # fmt: skip


def _drawn(
    owner: NDArray[np.int64], count: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.bool_]:
    """Flags as many items of each owner as `count` says, drawn at random."""
    order = np.lexsort((random.random(len(owner)), owner))
    nth = np.arange(len(owner)) - np.searchsorted(owner[order], owner[order], side="left")
    flags = np.zeros(len(owner), np.bool_)
    flags[order[nth < count[owner[order]]]] = True
    return flags


def _scores(ranker: Ranker, histories: Histories, targets: NDArray[np.int32]) -> NDArray[np.float64]:
    """The score of one product a row."""
    found = np.zeros(len(targets))
    for begin, end in blocks(len(targets), len(ranker.catalogue)):
        dense = ranker.score(histories.slice(begin, end))
        found[begin:end] = dense[np.arange(end - begin), targets[begin:end]]
    return found
