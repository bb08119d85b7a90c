"""The gate's rules, on scores written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nightmarket.ranking import Interactions, ItemToItem, Popularity
from nightmarket.training import scorecard
from nightmarket.training.examples import Questions
from nightmarket.training.scorecard import Score
from tests.ranking.purchases import purchases


def score(gain: float, n: int = 200) -> Score:
    """Every third customer's gain is `gain`, the others' is 0."""
    gains = np.where(np.arange(n) % 3 == 0, gain, 0.0)
    return Score({"ndcg_10": float(gains.mean())}, gains)


def judge(
    candidate: Score, shelf: Score, champion: Score | None = None, *, kept: bool = False
) -> dict[str, object]:
    return scorecard.report(
        candidate=candidate, shelf={"popularity": score(0.0, len(candidate.gains)), "item_to_item": shelf},
        champion=("3", champion) if champion else None, kept_recipe=kept, seed=7,
    )  # fmt: skip


def test_certainly_better_than_the_whole_shelf_is_promoted() -> None:
    report = judge(score(0.6), score(0.3))
    assert report["promote"] is True
    assert str(report["reason"]).startswith("better than item_to_item (+0.1005), popularity")


def test_as_good_as_one_of_the_shelf_is_refused() -> None:
    report = judge(score(0.6), score(0.6))
    assert report["promote"] is False
    assert (
        report["reason"] == "not certainly better than item_to_item (+0.0000, 95 % from +0.0000 to +0.0000)"
    )


def test_too_few_held_out_purchases_refuse_whatever_they_say() -> None:
    report = judge(score(1.0, 49), score(0.1, 49))
    assert report["promote"] is False and report["reason"] == "only 49 held-out purchases, 50 are needed"


def test_a_new_recipe_that_ties_with_the_champions_is_refused() -> None:
    report = judge(score(0.6), score(0.3), score(0.6))
    assert (
        report["promote"] is False and report["reason"] == "not certainly better than the recipe of version 3"
    )


def test_the_champions_recipe_on_fresh_purchases_needs_no_more_than_the_shelf() -> None:
    report = judge(score(0.6), score(0.3), score(0.6), kept=True)
    assert report["promote"] is True and str(report["reason"]).endswith(
        "the recipe of version 3 on fresh purchases"
    )
    assert judge(score(0.3), score(0.3), score(0.3), kept=True)["promote"] is False


def test_a_better_recipe_than_the_champions_is_promoted() -> None:
    report = judge(score(0.6), score(0.3), score(0.4))
    assert report["promote"] is True and "the recipe of version 3 (+0.0670)" in str(report["reason"])


def test_what_is_measured_is_what_would_be_served() -> None:
    table = purchases({"x": [["a", "b"]], "y": [["a", "b"]], "z": ["c"], "w": ["c"], "v": ["c"]})
    interactions = Interactions.of(table)
    model, popular = ItemToItem(shrink=0).fit(interactions), Popularity().fit(interactions)
    histories = Interactions.of(
        purchases({"q": ["a"], "r": ["a"]}), catalogue=interactions.catalogue
    ).histories()
    found = scorecard.measure(model, popular, Questions(histories, np.array([1, 2], np.int32)))
    # b was bought with a: first. c was not: it stands second, as the most popular product left.
    assert found.gains.tolist() == pytest.approx([1.0, 0.6309297535714575])
    assert found.averages["recall_5"] == 1.0 and found.averages["coverage_20"] == pytest.approx(2 / 3)
