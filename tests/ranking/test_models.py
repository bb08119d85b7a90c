"""What each ranker says, on shops small enough to work it out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nightmarket.errors import ModelRefused
from nightmarket.ranking import Blend, Ease, Histories, Interactions, ItemToItem, Popularity
from nightmarket.ranking.base import csr, keep_greatest
from tests.ranking.purchases import purchases, shop


def test_popularity_counts_a_buyer_once_and_less_when_long_ago() -> None:
    table = purchases({"x": ["a", "a", "a"], "y": ["b"], "z": ["b"]})
    model = Popularity(half_life_days=1.0).fit(Interactions.of(table))
    # a: one buyer, today. b: two buyers, two days before that: a quarter each.
    assert model.counts.tolist() == [1.0, 0.5]


def test_popular_products_fill_what_a_model_left_empty() -> None:
    table = purchases({"x": ["a"], "y": ["a", "b"], "z": ["a", "b", "c"]})
    interactions = Interactions.of(table)
    model = Popularity(half_life_days=1e9).fit(interactions)
    histories = Histories.of(table, interactions.catalogue, ["x", "new"])
    lists = (
        ItemToItem(shrink=0)
        .fit(Interactions.of(purchases({}), catalogue=interactions.catalogue))
        .recommend(histories, 2)
    )
    filled, which = model.fill(lists, histories)
    assert filled.products.tolist() == [[1, 2], [0, 1]] and which.all()
    allowed = np.array([False, True, True])
    assert model.fill(lists, histories, allowed=allowed)[0].products.tolist() == [[1, 2], [1, 2]]


def test_bought_together_is_a_cosine_with_shrunk_buyers() -> None:
    table = purchases({"x": [["a", "b"]], "y": [["a", "b"]], "z": [["a", "c"]]})
    model = ItemToItem(half_life=None, shrink=1.0).fit(Interactions.of(table))
    # a has 3 buyers, b 2, c 1: 2 / sqrt(4 * 3) and 1 / sqrt(4 * 2)
    assert model.matrix.toarray() == pytest.approx(
        np.array([[0, 2 / 12**0.5, 1 / 8**0.5], [2 / 12**0.5, 0, 0], [1 / 8**0.5, 0, 0]]), rel=1e-6
    )


def test_follow_ups_know_before_from_after() -> None:
    table = purchases({"x": ["a", "b", "c"]})
    model = ItemToItem(reach=0.5, backward=0.1, shrink=0.0).fit(Interactions.of(table))
    # forth: neighbours 1, one order between them 0.5; back: a tenth of that
    assert model.matrix.toarray() == pytest.approx(
        np.array([[0, 1, 0.5], [0.1, 0, 1], [0.05, 0.1, 0]]), rel=1e-6
    )


def test_products_of_one_order_go_together_both_ways() -> None:
    model = ItemToItem(backward=0.0, shrink=0.0).fit(Interactions.of(purchases({"x": [["a", "b"]]})))
    assert model.matrix.toarray().tolist() == [[0, 1], [1, 0]]


def test_ease_is_the_closed_form() -> None:
    table = shop(customers=60, products=12)
    interactions = Interactions.of(table)
    bought = np.zeros((60, len(interactions.catalogue)))
    bought[interactions.customers, interactions.products] = 1
    inverse = np.linalg.inv(bought.T @ bought + 3.0 * np.eye(bought.shape[1]))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    found = Ease(l2=3.0, neighbours=100).fit(interactions).matrix.toarray()
    assert found == pytest.approx(expected, abs=1e-5)


def test_ease_beyond_its_bound_keeps_the_most_bought() -> None:
    interactions = Interactions.of(shop())
    model = Ease(l2=3.0, max_items=10).fit(interactions)
    buyers = np.bincount(interactions.histories().items)
    taking_part = {int(i) for i in np.unique(model.matrix.indices)}
    assert len(taking_part) == 10
    assert min(buyers[list(taking_part)]) >= max(b for i, b in enumerate(buyers) if i not in taking_part)


def test_ease_in_rows_of_several_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    interactions = Interactions.of(shop())
    whole = Ease(l2=3.0).fit(interactions).matrix.toarray()
    monkeypatch.setattr("nightmarket.ranking.ease._ROWS", 7)
    assert Ease(l2=3.0).fit(interactions).matrix.toarray() == pytest.approx(whole, abs=1e-6)


def test_a_blend_is_the_weighted_sum_of_its_parts() -> None:
    interactions = Interactions.of(shop())
    histories = interactions.histories()
    ease, follow = Ease(l2=5.0).fit(interactions), ItemToItem(reach=0.8, backward=0.2).fit(interactions)
    blend = Blend(Ease(l2=5.0), ItemToItem(reach=0.8, backward=0.2), 0.3).fit(interactions)
    assert blend.score(histories) == pytest.approx(
        ease.score(histories) + 0.3 * follow.score(histories), abs=1e-6
    )


def test_a_blend_can_be_made_again_from_its_parameters() -> None:
    blend = Blend(Ease(l2=5.0, half_life=3.0), ItemToItem(reach=0.8), 0.7)
    assert Blend.of(blend.params()).params() == blend.params()


def test_lists_of_many_blocks_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    interactions = Interactions.of(shop())
    blend = Blend(Ease(l2=5.0), ItemToItem(), 0.3).fit(interactions)
    histories = interactions.histories()
    one = blend.recommend(histories, 5)
    causes = blend.because(histories, one)
    monkeypatch.setattr("nightmarket.ranking.base.BLOCK_SCORES", 100)
    many = blend.recommend(histories, 5)
    assert one.products.tolist() == many.products.tolist() and one.scores.tolist() == many.scores.tolist()
    assert blend.because(histories, many).tolist() == causes.tolist()


def test_a_matrix_with_a_number_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ModelRefused, match="not finite"):
        csr(np.array([np.nan]), np.array([0]), np.array([0, 1]), 1)


def test_a_matrix_that_points_outside_its_catalogue_is_refused() -> None:
    with pytest.raises(ModelRefused, match="outside"):
        csr(np.array([1.0]), np.array([5]), np.array([0, 1, 1]), 2)


def test_each_row_keeps_its_greatest_by_size_and_the_lower_product_of_equals() -> None:
    matrix = csr(np.array([1, -3, 1, 2, 0]), np.array([0, 1, 2, 0, 1]), np.array([0, 3, 5, 5]), 3)
    kept = keep_greatest(matrix, 2)
    assert kept.toarray().tolist() == [[1, -3, 0], [2, 0, 0], [0, 0, 0]]
