"""New products borrow from those like them: who lends, how much, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from nightmarket.ranking import Blend, Catalogue, Ease, Histories, Interactions, ItemToItem
from nightmarket.ranking.borrowing import lending, with_borrowed
from tests.ranking.purchases import purchases

VECTORS = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [0, 0]], np.float32)
"""Products 0, 1 and 3 are told alike, 2 otherwise, 4 not at all."""


def test_an_unbought_product_borrows_the_mean_of_its_nearest_by_how_alike_they_are() -> None:
    lent = lending(VECTORS, np.array([9, 9, 9, 0, 0])).toarray()
    # Three lenders, one of them not alike: two thirds are borrowed, from two products.
    assert np.allclose(lent[:, 3], [1 / 3, 1 / 3, 0, 0, 0], atol=1e-4)
    assert not lent[:, [0, 1, 2, 4]].any() and not lent[[2, 3, 4]].any()


def test_with_purchases_of_its_own_a_product_borrows_less_and_then_nothing() -> None:
    sums = [float(lending(VECTORS, np.array([9, 9, 9, n, 0])).toarray()[:, 3].sum()) for n in (0, 1, 4, 5)]
    # Once bought it is a lender, too: two alike among four, halved by its one buyer, a fifth with four.
    assert np.allclose(sums, [2 / 3, 1 / 4, 1 / 10, 0])


def test_what_speaks_against_a_product_is_not_borrowed_and_old_weights_stay() -> None:
    matrix = sp.csr_matrix(
        np.array([[0, 0.5, 0, 0], [0, 0, -0.4, 0], [0.2, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    )
    lent = sp.csr_matrix(np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], np.float32))
    total = with_borrowed(matrix, lent, 10).toarray()
    assert np.allclose(total[:, :3], matrix.toarray()[:, :3]) and np.allclose(total[:, 3], [0.5, 0, 0, 0])


def test_a_blend_with_texts_recommends_what_nobody_bought_and_one_without_does_not() -> None:
    catalogue = Catalogue.of(["bag", "cup", "mug", "tea"])

    def texts(product_ids: Sequence[str]) -> NDArray[np.float32]:
        told = {"bag": [0, 1, 0], "cup": [1, 0, 0], "mug": [1, 0, 0], "tea": [0, 0, 1]}
        return np.array([told[p] for p in product_ids], np.float32)

    bought = Interactions.of(
        purchases({f"c{n}": ["tea", "cup"] for n in range(20)} | {f"d{n}": ["bag"] for n in range(5)}),
        catalogue=catalogue,
    )
    asked = Histories.of(purchases({"x": ["tea"]}), catalogue)
    lists = {
        told is not None: [
            catalogue.product_ids[p]
            for p in Blend(Ease(1.0), ItemToItem(), 0.3, texts=told)
            .fit(bought)
            .recommend(asked, 4)
            .products[0]
            if p >= 0
        ]
        for told in (texts, None)
    }
    assert lists == {True: ["cup", "mug"], False: ["cup"]}
