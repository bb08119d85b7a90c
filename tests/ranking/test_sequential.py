"""What the transformer promises beyond every ranker: order, words, going on, and reasons that hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nightmarket import metrics
from nightmarket.errors import ModelRefused
from nightmarket.ranking import Catalogue, Histories, Interactions, ItemToItem, Sequential
from nightmarket.ranking import transformer as network
from tests.ranking.purchases import purchases

CIRCLE = [f"p{n:02d}" for n in range(12)]


def walks(customers: int = 240, seed: int = 3) -> dict[str, list[str | list[str]]]:
    """Customers who walk a circle of products one way; who goes the other way does not exist."""
    random = np.random.default_rng(seed)
    starts = random.integers(12, size=customers)
    return {
        f"c{n:03d}": [CIRCLE[(start + step) % 12] for step in range(int(random.integers(3, 7)))]
        for n, start in enumerate(starts)
    }


def small(**changes: Any) -> Sequential:
    return Sequential(
        **({"dimensions": 32, "epochs": 12, "steps": 20, "fewest": 8, "dropout": 0.1} | changes)
    )


def bits(model: Sequential) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in model.arrays().items()}


def test_it_foresees_the_next_product_where_order_decides() -> None:
    interactions = Interactions.of(purchases(walks()))
    asked = {f"a{n}": [CIRCLE[n], CIRCLE[(n + 1) % 12]] for n in range(12)}
    histories = Histories.of(purchases(asked), interactions.catalogue, list(asked))
    targets = interactions.catalogue.codes([CIRCLE[(n + 2) % 12] for n in range(12)])
    ours = small().fit(interactions).recommend(histories, 3).products
    plain = ItemToItem().fit(interactions).recommend(histories, 3).products
    assert metrics.ndcg(metrics.ranks_of(ours, targets), 1).mean() == 1.0
    assert metrics.ndcg(metrics.ranks_of(plain, targets), 1).mean() < 0.8


def test_a_product_that_nobody_bought_is_recommended_through_its_text() -> None:
    # "new" is told like p05: who comes from p03 and p04 should see both, and nothing of the rest
    def texts(product_ids: Sequence[str]) -> NDArray[np.float32]:
        known = {p: n for n, p in enumerate(CIRCLE)} | {"new": 5}
        return np.eye(12, dtype=np.float32)[[known[p] for p in product_ids]]

    catalogue = Catalogue.of([*CIRCLE, "new"])
    interactions = Interactions.of(purchases(walks()), catalogue=catalogue)
    histories = Histories.of(purchases({"x": ["p03", "p04"]}), catalogue)
    lists = small(texts=texts).fit(interactions).recommend(histories, 2)
    assert {catalogue.product_ids[p] for p in lists.products[0]} == {"p05", "new"}
    blind = small().fit(interactions).recommend(histories, 2)
    assert catalogue.product_ids[blind.products[0, 0]] == "p05"
    # without a text nothing is known of it: not even the end of a list holds it
    everything = small().fit(interactions).recommend(histories, 20)
    assert {catalogue.product_ids[p] for p in everything.products[0] if p >= 0} == set(CIRCLE) - {
        "p03",
        "p04",
    }


def test_scores_are_probabilities_and_an_empty_history_has_none() -> None:
    interactions = Interactions.of(purchases(walks()))
    histories = Histories.of(purchases({"x": ["p01"]}), interactions.catalogue, ["nobody", "x"])
    scores = small(epochs=1).fit(interactions).score(histories)
    assert scores[0].tolist() == [0.0] * 12
    assert scores[1].sum() == pytest.approx(1.0, abs=1e-5) and (scores[1] > 0).all()


def test_a_killed_training_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interactions = Interactions.of(purchases(walks()))
    whole = small(epochs=4).fit(interactions)
    real, done = network._epoch, []

    def killed_in_the_third(*given: Any) -> float:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*given)

    monkeypatch.setattr(network, "_epoch", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        small(epochs=4, checkpoint=tmp_path).fit(interactions)
    epochs: list[int] = []

    def counted(*given: Any) -> float:
        epochs.append(given[7])
        return real(*given)

    monkeypatch.setattr(network, "_epoch", counted)
    resumed = small(epochs=4, checkpoint=tmp_path).fit(interactions)
    assert epochs == [2, 3] and bits(resumed) == bits(whole)
    # State of other purchases is not used.
    epochs.clear()
    small(epochs=4, checkpoint=tmp_path).fit(Interactions.of(purchases(walks(seed=4))))
    assert epochs == [0, 1, 2, 3]


def test_a_warm_start_keeps_what_was_known_and_takes_new_products_in() -> None:
    before = small().fit(Interactions.of(purchases(walks())))
    more = walks(40, seed=9) | {f"n{n}": ["p02", "p03", "fresh"] for n in range(20)}
    interactions = Interactions.of(purchases(more))
    begun = small(epochs=2, start=before).fit(interactions)
    asked = Histories.of(purchases({"x": ["p06", "p07"], "y": ["p02", "p03"]}), interactions.catalogue)
    best = begun.recommend(asked, 2).products
    names = [[interactions.catalogue.product_ids[p] for p in row] for row in best]
    assert names[0][0] == "p08" and "fresh" in names[1]
    alone = Interactions.of(purchases({"x": ["p06"]}), catalogue=interactions.catalogue)
    assert np.array_equal(small(start=begun).fit(alone).table, begun.table)
    with pytest.raises(ModelRefused, match="same recipe"):
        small(dimensions=16, start=before).fit(interactions)


def test_a_warm_start_on_few_fresh_customers_reads_them_and_some_others_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = small().fit(Interactions.of(purchases(walks())))
    read: list[tuple[int, int, float]] = []

    def spy(recipe: Any, told: Any, *args: Any, **kwargs: Any) -> Any:
        read.append((len(told), recipe.epochs, recipe.learning_rate))
        return kept(recipe, told, *args, **kwargs)

    kept = network.train
    monkeypatch.setattr(network, "train", spy)
    monkeypatch.setattr(Sequential, "REPLAYED", 3)
    grown = Interactions.of(purchases(walks() | {"new1": ["p01", "p02"], "new2": ["p03", "p04"]}))
    warm = small(start=before, fresh=["new1", "new2"]).fit(grown)
    assert read == [(8, 1, pytest.approx(0.0004))]
    asked = Histories.of(purchases({"x": ["p06", "p07"]}), grown.catalogue)
    assert warm.recommend(asked, 1).products[0, 0] == grown.catalogue.codes(["p08"])[0]


def test_the_products_named_as_causes_lower_the_score_more_than_the_others() -> None:
    interactions = Interactions.of(purchases(walks()))
    model = small().fit(interactions)
    histories = interactions.histories()
    lists = model.recommend(histories, 3)
    causes = model.because(histories, lists, 1)
    checked = 0
    for row in range(0, len(histories), 7):
        items = histories.items[histories.offsets[row] : histories.offsets[row + 1]].tolist()
        cause = int(causes[row, 0, 0])
        if cause < 0 or len(items) < 2:
            continue
        whole = model.score(histories.slice(row, row + 1))[0, lists.products[row, 0]]
        drops = {
            item: whole
            - model.score(histories.without(np.array([row]), np.array([n])))[0, lists.products[row, 0]]
            for n, item in enumerate(items)
        }
        assert drops[cause] == pytest.approx(max(drops.values()), abs=1e-4)
        checked += 1
    assert checked > 20


def test_a_history_without_one_of_its_products() -> None:
    catalogue = Catalogue.of(["a", "b", "c"])
    histories = Histories.of(purchases({"x": ["a", "b", "c"], "y": ["b"]}), catalogue)
    found = histories.without(np.array([0, 0, 1]), np.array([0, 2, 0]))
    assert found.offsets.tolist() == [0, 2, 4, 4]
    assert [catalogue.product_ids[i] for i in found.items] == ["b", "a", "c", "b"]


def test_a_large_catalogue_is_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MOST_COMPARED", 6)
    interactions = Interactions.of(purchases(walks()))
    histories = Histories.of(purchases({"x": ["p03", "p04"]}), interactions.catalogue)
    best = small().fit(interactions).recommend(histories, 1).products[0, 0]
    assert interactions.catalogue.product_ids[best] == "p05"
