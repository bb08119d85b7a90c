"""The gate's rules, on scores written by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightmarket.ranking import Interactions, ItemToItem, Popularity
from nightmarket.settings import Settings
from nightmarket.training import examples, scorecard
from nightmarket.training.examples import Examples, Questions
from nightmarket.training.scorecard import Budgets, InTime, Score
from tests.ranking.purchases import purchases, shop


def score(gain: float, n: int = 200) -> Score:
    """Every third customer's gain is `gain`, the others' is 0."""
    gains = np.where(np.arange(n) % 3 == 0, gain, 0.0)
    return Score({"ndcg_10": float(gains.mean())}, gains)


def judge(
    candidate: Score, shelf: Score, champion: Score | None = None, *, kept: bool = False, **more: Any
) -> dict[str, Any]:
    return scorecard.report(
        candidate=candidate, shelf={"popularity": score(0.0, len(candidate.gains)), "item_to_item": shelf},
        champion=("3", champion) if champion else None, kept_recipe=kept, seed=7, **more,
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


def halves(first: float, second: float, n: int = 400, **averages: float) -> Score:
    """The first half of the customers gain one thing on average, the second half another, each with some spread."""
    gains = np.concatenate([np.full(n // 2, first), np.full(n // 2, second)])
    gains = gains + np.where(np.arange(n) % 2 == 0, 0.01, -0.01)
    return Score({"ndcg_10": float(gains.mean()), **averages}, gains)


FIRST = np.arange(400) < 200


def test_a_slice_that_is_certainly_worse_than_its_limit_refuses_a_better_average() -> None:
    candidate, shelf = halves(0.2, 0.9), halves(0.3, 0.3)
    assert judge(candidate, shelf)["promote"] is True
    report = judge(candidate, shelf, slices={"new_customers": FIRST})
    assert report["promote"] is False
    assert report["reason"] == (
        "certainly worse for new_customers than item_to_item "
        "(-0.1000, 95 % up to -0.1000, limit -0.0300, 200 purchases)"
    )


def test_a_slice_within_its_limit_and_one_without_a_limit_refuse_nothing() -> None:
    shelf = halves(0.3, 0.3)
    assert judge(halves(0.275, 0.9), shelf, slices={"new_customers": FIRST})["promote"] is True
    worse = judge(halves(0.0, 0.9), shelf, slices={"unseen_products": FIRST})
    assert worse["promote"] is True and worse["slices"][0]["limit"] is None
    # the long tail may give up more than new customers may, a locale as much as they
    assert judge(halves(0.22, 0.9), shelf, slices={"long_tail": FIRST})["promote"] is True
    assert judge(halves(0.22, 0.9), shelf, slices={"locale:zh-CN": FIRST})["promote"] is False


def test_a_slice_of_few_examples_is_reported_and_does_not_judge() -> None:
    few = np.arange(400) < 29
    report = judge(
        halves(0.0, 0.9), halves(0.3, 0.3), slices={"new_customers": few, "heavy_buyers": ~FIRST & FIRST}
    )
    assert report["promote"] is True
    assert [(s["slice"], s["examples"], s["limit"]) for s in report["slices"]] == [
        ("new_customers", 29, None)
    ]
    assert (
        judge(halves(0.0, 0.9), halves(0.3, 0.3), slices={"new_customers": np.arange(400) < 30})["promote"]
        is False
    )


def test_slices_are_held_against_the_champions_recipe_where_there_is_one() -> None:
    report = judge(halves(0.4, 0.9), halves(0.3, 0.3), halves(0.6, 0.6), slices={"heavy_buyers": FIRST})
    assert report["slices"][0]["against"] == "the recipe of version 3"
    assert report["reason"].startswith("certainly worse for heavy_buyers than the recipe of version 3")
    kept = judge(
        halves(0.6, 0.6), halves(0.3, 0.3), halves(0.6, 0.6), kept=True, slices={"heavy_buyers": FIRST}
    )
    assert kept["promote"] is True


def test_numbers_that_are_not_finite_refuse() -> None:
    good = halves(0.6, 0.6)
    broken = Score(good.averages, good.gains, problems=("ease.data: 3 numbers are not finite",))
    assert judge(broken, halves(0.3, 0.3))["reason"] == "ease.data: 3 numbers are not finite"
    odd = Score(good.averages | {"novelty_20": float("nan")}, good.gains)
    report = judge(odd, halves(0.3, 0.3))
    assert (
        report["reason"] == "novelty_20 is not a finite number" and report["candidate"]["novelty_20"] is None
    )


def test_size_and_speed_beyond_the_budget_refuse() -> None:
    shelf, fast = halves(0.3, 0.3), halves(0.6, 0.6, size_mb=2048.0, ms_per_customer=20.0)
    assert judge(fast, shelf)["promote"] is True
    report = judge(halves(0.6, 0.6, size_mb=2049.0, ms_per_customer=31.4), shelf)
    assert report["reason"] == "size_mb is 2,049.0, the budget 2048; ms_per_customer is 31.4, the budget 20"
    assert judge(fast, shelf, budgets=Budgets(max_mb=100))["promote"] is False
    assert Budgets.of(Settings(_env_file=None)) == Budgets()  # type: ignore[call-arg]


def test_lists_of_few_or_of_popular_products_refuse() -> None:
    shelf = halves(0.3, 0.3, coverage_20=0.8, popularity_20=50.0)
    assert judge(halves(0.6, 0.6, coverage_20=0.4, popularity_20=100.0), shelf)["promote"] is True
    report = judge(halves(0.6, 0.6, coverage_20=0.39, popularity_20=101.0), shelf)
    assert report["reason"] == (
        "lists 39.0% of products, less than half of item_to_item's 80.0%; what it lists has 101.0 buyers on average, "
        "more than 2 times item_to_item's 50.0"
    )


def test_the_split_by_time_refuses_what_is_certainly_worse_there() -> None:
    good, shelf = halves(0.6, 0.6), halves(0.3, 0.3)

    def timed(candidate: Score) -> dict[str, Any]:
        theirs = {"item_to_item": shelf, "popularity": halves(0.0, 0.0)}
        return judge(good, shelf, in_time=InTime(candidate, theirs, {"unknown_customers": FIRST}))

    assert timed(halves(0.3, 0.3))["promote"] is True  # no better is not worse
    # worse on average, and by chance: half of the customers lose as much as the others gain, and a little more
    assert timed(halves(0.19, 0.4))["in_time"]["comparisons"][0]["mean"] == pytest.approx(-0.005)
    assert timed(halves(0.19, 0.4))["promote"] is True
    report = timed(halves(0.29, 0.29))
    assert report["promote"] is False
    assert (
        report["reason"]
        == "certainly worse than item_to_item on the split by time (-0.0100, 95 % up to -0.0100)"
    )
    assert (
        report["in_time"]["examples"] == 400
        and report["in_time"]["slices"][0]["slice"] == "unknown_customers"
    )
    assert (
        judge(good, shelf, in_time=InTime(halves(0.1, 0.1, 40), {"item_to_item": halves(0.3, 0.3, 40)}))[
            "promote"
        ]
        is True
    )


def test_every_report_is_plain_json_and_its_summary_fits_a_tag() -> None:
    masks = {f"locale:{'x' * 20}{n}": FIRST for n in range(150)}
    report = judge(halves(0.2, 0.9), halves(0.3, 0.3), slices=masks)
    assert len(report["reason"]) > 5_000
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    small = scorecard.summary(report)
    assert len(json.dumps(small, indent=1, sort_keys=True)) <= scorecard.SUMMARY_CHARACTERS
    assert (
        small["promote"] is False
        and small["reason"].startswith("certainly worse for locale:")
        and "slices" not in small
    )
    usual = scorecard.summary(judge(halves(0.6, 0.6), halves(0.3, 0.3), slices={"long_tail": FIRST}))
    assert usual["slices"]["long_tail"][0] == 200 and usual["comparisons"][0]["against"] == "item_to_item"
    empty = Score({}, np.zeros(0))
    nobody = scorecard.report(
        candidate=empty, shelf={"popularity": empty}, champion=None, kept_recipe=False, seed=7
    )
    assert nobody["promote"] is False and json.dumps(nobody, allow_nan=False) and scorecard.summary(nobody)


def frozen() -> Examples:
    table = shop(customers=240)
    labels = examples.split(table, seed=7)
    return Examples(table.append_column("split", pa.array(labels, pa.string())))


def test_with_what_was_learnt_everything_is_measured_and_accuracy_is_the_same() -> None:
    all_of_it = frozen()
    learnt, asked = all_of_it.before("test"), all_of_it.questions("test")
    model, popular = ItemToItem().fit(learnt), Popularity().fit(learnt)
    categories = np.arange(len(all_of_it.catalogue)) // 10
    plain = scorecard.measure(model, popular, asked)
    full = scorecard.measure(model, popular, asked, learnt=learnt, categories=categories)
    assert plain.averages.items() <= full.averages.items() and plain.gains.tolist() == full.gains.tolist()
    assert set(full.averages) - set(plain.averages) == {
        "ndcg_10_unmasked", "recall_10_unmasked", "novelty_20", "popularity_20", "popularity_lift_20", "gini_20",
        "diversity_20", "category_divergence_20", "ece_20", "size_mb", "ms_per_customer", "customers_per_second",
    }  # fmt: skip
    # what was bought before takes places from what comes next
    assert full.averages["ndcg_10_unmasked"] < full.averages["ndcg_10"]
    assert 0 < full.averages["ms_per_customer"] < 20 and 0 < full.averages["size_mb"] < 1
    assert full.problems == () and full.lists is not None and full.lists.products.shape == (len(asked), 20)
    # promised and kept, over all customers
    assert full.promised is not None
    assert full.promised.mean() == pytest.approx(full.averages["recall_20"], abs=0.06)
    assert full.averages["ece_20"] < 0.05


def test_a_model_with_a_broken_number_has_a_problem() -> None:
    all_of_it = frozen()
    learnt = all_of_it.before("test")
    popular = Popularity().fit(learnt)
    broken = Popularity().fit(learnt)
    broken.counts = broken.counts.copy()
    broken.counts[3] = np.nan
    found = scorecard.measure(broken, popular, all_of_it.questions("test"), learnt=learnt)
    assert "counts: 1 numbers are not finite" in found.problems


def test_no_questions_are_measured_as_nothing() -> None:
    learnt = frozen().before("test")
    model, popular = ItemToItem().fit(learnt), Popularity().fit(learnt)
    nobody = Questions(learnt.histories().slice(0, 0), np.zeros(0, np.int32))
    found = scorecard.measure(model, popular, nobody, learnt=learnt, categories=np.zeros(30, np.int32))
    assert found.averages["ndcg_10"] == found.averages["novelty_20"] == found.averages["ece_20"] == 0.0
    assert "ms_per_customer" not in found.averages


def test_what_scores_promise_is_read_from_other_customers() -> None:
    all_of_it = frozen()
    learnt, asked = all_of_it.before("test"), all_of_it.questions("test")
    model, popular = ItemToItem().fit(learnt), Popularity().fit(learnt)
    first = scorecard.measure(model, popular, asked, learnt=learnt).promised
    assert first is not None
    # one customer's target, swapped for one that is not listed: that customer's own promise stays as it was
    swapped = asked.targets.copy()
    lists = model.recommend(asked.histories, 20).products
    row = int(np.flatnonzero((lists == asked.targets[:, None]).any(axis=1))[0])
    swapped[row] = asked.histories.items[asked.histories.offsets[row]]
    again = scorecard.measure(model, popular, Questions(asked.histories, swapped), learnt=learnt).promised
    assert again is not None and again[row] == first[row] and (again != first).any()
