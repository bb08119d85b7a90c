"""Lists, scores and reasons beyond the size up to which all scores are made at once: the same as with all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nightmarket.ranking import Blend, Ease, Histories, Interactions, ItemToItem, Mixture, Ranker, sequential
from nightmarket.ranking.topk import top_by_softmax
from tests.ranking.purchases import purchases, shop
from tests.ranking.test_every_model import small


@pytest.fixture(scope="module", params=["sequential", "mixture", "mostly the blend"])
def fitted(request: Any) -> tuple[Ranker, Interactions]:
    interactions = Interactions.of(shop(customers=150, products=300))
    model: Ranker = small(epochs=1)
    if request.param != "sequential":
        share = 0.5 if request.param == "mixture" else 0.01
        model = Mixture(small(epochs=1), Blend(Ease(l2=5.0), ItemToItem(reach=0.8, backward=0.2), 0.3), share)
    return model.fit(interactions), interactions


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("able", [1.0, 0.6, 0.02])
@pytest.mark.parametrize("k", [1, 20, 400])
def test_lists_are_those_of_all_scores(
    fitted: tuple[Ranker, Interactions],
    monkeypatch: pytest.MonkeyPatch,
    exclude_seen: bool,
    able: float,
    k: int,
) -> None:
    model, interactions = fitted
    histories = interactions.histories()
    allowed = None if able == 1 else np.random.default_rng(3).random(len(interactions.catalogue)) < able
    expected = model.recommend(histories, k, exclude_seen=exclude_seen, allowed=allowed)
    monkeypatch.setattr(sequential, "DENSE", 10)
    found = model.recommend(histories, k, exclude_seen=exclude_seen, allowed=allowed)
    assert np.allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-9)
    # Where two products differ, their scores are equal to rounding.
    differ = found.products != expected.products
    assert differ.mean() < 0.002
    assert ((found.products >= 0) == (expected.products >= 0)).all()


def test_reasons_are_those_of_all_scores(
    fitted: tuple[Ranker, Interactions], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, interactions = fitted
    histories = interactions.histories()
    lists = model.recommend(histories, 10)
    expected = model.because(histories, lists)
    scores = np.take_along_axis(model.score(histories), lists.products, 1)
    monkeypatch.setattr(sequential, "DENSE", 10)
    assert np.allclose(model.scores_of(histories, lists.products), scores, rtol=1e-4, atol=1e-9)  # type: ignore[attr-defined]
    assert (model.because(histories, lists) == expected).mean() > 0.995


def test_a_customer_without_purchases_has_no_list_and_no_scores(
    fitted: tuple[Ranker, Interactions], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = fitted
    monkeypatch.setattr(sequential, "DENSE", 10)
    nobody = Histories.of(purchases({}), model.catalogue, ["nobody", "no one"])
    assert model.recommend(nobody, 4).products.tolist() == [[-1] * 4] * 2
    assert model.scores_of(nobody, np.zeros((2, 3), np.int32)).tolist() == [[0.0] * 3] * 2  # type: ignore[attr-defined]


def test_probabilities_add_up_whatever_may_be_listed_and_however_large_the_scores() -> None:
    random = np.random.default_rng(4)
    queries = random.normal(size=(40, 8)).astype(np.float32) * 10
    items = random.normal(size=(5000, 8)).astype(np.float32) * 3
    heard, allowed = random.random(5000) < 0.9, random.random(5000) < 0.5
    lists, sums = top_by_softmax(queries, items, 5, allowed=allowed, heard=heard)
    exact = queries.astype(np.float64) @ items.astype(np.float64).T
    most = exact[:, heard].max(axis=1)
    assert np.allclose(sums, most + np.log(np.exp(exact[:, heard] - most[:, None]).sum(axis=1)), atol=1e-3)
    best = np.where(heard & allowed, exact, -np.inf).argmax(axis=1)
    assert lists.products[:, 0].tolist() == best.tolist()
