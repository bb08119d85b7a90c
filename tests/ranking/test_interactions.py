"""Codes of customers and products, histories, and what happens to ids that do not fit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nightmarket.errors import ModelRefused
from nightmarket.ranking import Catalogue, Histories, Interactions, learnable
from tests.ranking.purchases import purchases


def items_of(histories: Histories, row: int, catalogue: Catalogue) -> list[str]:
    return [
        catalogue.product_ids[i] for i in histories.items[histories.offsets[row] : histories.offsets[row + 1]]
    ]


def test_a_catalogue_is_the_same_whatever_the_order_of_its_ids() -> None:
    assert Catalogue.of(["b", "a", "b"]).digest == Catalogue.of(["a", "b"]).digest
    assert Catalogue.of(["a", "b"]).digest != Catalogue.of(["a", "b", "c"]).digest
    assert Catalogue.of(["ab", "c"]).digest != Catalogue.of(["a", "bc"]).digest


def test_unknown_products_have_code_minus_one() -> None:
    catalogue = Catalogue.of(["a", "c"])
    assert catalogue.codes(["c", "b", "a"]).tolist() == [1, -1, 0]
    assert catalogue.mask(["c", "b"]).tolist() == [False, True]
    assert Catalogue(()).codes(["a"]).tolist() == [-1]


def test_a_foreign_digest_is_refused_with_both_digests() -> None:
    with pytest.raises(ModelRefused, match="another catalogue"):
        Catalogue.of(["a"]).require(Catalogue.of(["b"]).digest, "A history")


def test_a_history_has_each_product_once_the_latest_first() -> None:
    table = purchases({"x": ["a", "b", "a", "c"], "y": ["b"]})
    found = Interactions.of(table).histories()
    catalogue = Catalogue.of(["a", "b", "c"])
    assert items_of(found, 0, catalogue) == ["c", "a", "b"]
    assert found.ages.tolist() == [0, 1, 2, 0]  # a was last bought one order ago, b two
    assert items_of(found, 1, catalogue) == ["b"]


def test_products_of_one_order_have_the_same_age() -> None:
    found = Interactions.of(purchases({"x": [["b", "a"], ["d", "c"]]})).histories()
    assert found.items.tolist() == [2, 3, 0, 1]
    assert found.ages.tolist() == [0, 0, 1, 1]


def test_the_order_of_rows_does_not_matter() -> None:
    table = purchases({"x": ["a", "b"], "y": ["b", "c"]})
    shuffled = table.take([3, 0, 2, 1])
    first, second = Interactions.of(table).histories(), Interactions.of(shuffled).histories()
    assert first.items.tolist() == second.items.tolist()
    assert first.offsets.tolist() == second.offsets.tolist()


def test_asked_customers_come_in_the_order_asked_also_those_without_purchases() -> None:
    catalogue = Catalogue.of(["a", "b"])
    found = Histories.of(purchases({"x": ["a"], "y": ["b", "zzz"]}), catalogue, ["y", "nobody", "x"])
    assert [items_of(found, row, catalogue) for row in range(3)] == [["b"], [], ["a"]]
    assert len(found) == 3


def test_a_history_fades_by_half_lives_and_ends_at_the_cap() -> None:
    found = Interactions.of(purchases({"x": ["a", "b", "c"]})).histories()
    assert found.weights(1.0).tolist() == [1.0, 0.5, 0.25]
    assert found.weights(None, cap=2).tolist() == [1.0, 1.0, 0.0]


def test_rows_can_be_picked_and_sliced() -> None:
    found = Interactions.of(purchases({"x": ["a", "b"], "y": ["c"], "z": ["a"]})).histories()
    picked = found.rows(np.array([2, 0]))
    assert picked.customer_ids == ("z", "x") and picked.items.tolist() == [0, 1, 0]
    part = found.slice(1, 3)
    assert (
        part.customer_ids == ("y", "z")
        and part.items.tolist() == [2, 0]
        and part.offsets.tolist() == [0, 1, 2]
    )


def test_a_shop_without_purchases_has_no_rows() -> None:
    empty = purchases({})
    found = Interactions.of(empty)
    assert len(found) == 0 and len(found.catalogue) == 0 and len(found.histories()) == 0
    assert len(Histories.of(empty, Catalogue.of(["a"]), ["x"])) == 1


def test_purchases_of_one_instant_are_told_apart_by_product_not_by_row() -> None:
    table = purchases({"x": [["c", "a", "b"]]})
    assert Interactions.of(table.take([2, 1, 0])).histories().items.tolist() == [0, 1, 2]
    assert isinstance(table, pa.Table)


def test_what_models_may_not_learn_from_is_left_out_of_interactions_and_stays_in_histories() -> None:
    table = purchases({"x": ["a", "b"], "y": ["c", "a"]}, refused={"y"})
    found = Interactions.of(learnable(table))
    assert (found.customer_ids, found.catalogue.product_ids) == (("x",), ("a", "b"))
    asked = Histories.of(table, found.catalogue, ["y"])
    assert [found.catalogue.product_ids[code] for code in asked.items.tolist()] == ["a"]
