"""Reasons are tested by deletion: a ranker that names its causes passes, one that names others does not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nightmarket.ranking import Histories, Interactions, ItemToItem, Lists
from nightmarket.training import faithfulness
from tests.ranking.purchases import purchases, shop


class Misleading(ItemToItem):
    """Names the products of a history that did least for a score."""

    def because(self, histories: Histories, lists: Lists, top: int = 3) -> NDArray[np.int32]:
        found = super().because(histories, lists, 1)
        wrong = np.full((*lists.products.shape, top), -1, np.int32)
        for row in range(len(histories)):
            items = histories.items[histories.offsets[row] : histories.offsets[row + 1]]
            for place in range(lists.products.shape[1]):
                others = [i for i in items if i != found[row, place, 0]]
                wrong[row, place, :1] = others[:1] if others else -1
        return wrong


def test_true_reasons_cost_more_than_random_ones_and_wrong_ones_do_not() -> None:
    interactions = Interactions.of(shop(customers=200, products=60))
    histories = interactions.histories()
    true = faithfulness.measure(ItemToItem().fit(interactions), histories, seed=7)
    wrong = faithfulness.measure(Misleading().fit(interactions), histories, seed=7)
    assert true.lists > 100 and true.share > 0.9 and true.drop_named > true.drop_random > 0
    assert wrong.share < 0.5


def test_the_same_seed_gives_the_same_measure() -> None:
    interactions = Interactions.of(shop(customers=80, products=30))
    model = ItemToItem().fit(interactions)
    one, two = (faithfulness.measure(model, interactions.histories(), seed=3, most=20) for _ in range(2))
    assert one == two and one.lists <= 20


def test_histories_with_nothing_else_to_take_out_are_not_compared() -> None:
    interactions = Interactions.of(purchases({"a": ["x"], "b": ["y"], "c": []}))
    found = faithfulness.measure(ItemToItem().fit(interactions), interactions.histories(), seed=7)
    assert found == pytest.approx((0.0, 0.0, 0.0, 0))
