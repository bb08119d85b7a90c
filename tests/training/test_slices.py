"""Who belongs to which slice, on shops short enough to read."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from nightmarket.errors import ModelRefused
from nightmarket.ranking import Catalogue, Histories, Interactions
from nightmarket.training import slices
from nightmarket.training.examples import Questions
from tests.ranking.purchases import purchases


def asked(
    table: pa.Table, targets: dict[str, str], extra: tuple[str, ...] = ()
) -> tuple[Questions, Interactions]:
    """Questions about some customers after all of the table was learnt."""
    catalogue = Catalogue.of([*table["product_id"].to_pylist(), *targets.values(), *extra])
    learnt = Interactions.of(table, catalogue=catalogue)
    histories = Histories.of(table, catalogue, list(targets))
    return Questions(histories, catalogue.codes(list(targets.values()))), learnt


def inside(masks: slices.Masks, questions: Questions) -> dict[str, list[str]]:
    ids = questions.histories.customer_ids
    return {name: [ids[n] for n in np.flatnonzero(mask)] for name, mask in masks.items()}


def test_customers_are_new_after_one_order_and_unknown_before_it() -> None:
    table = purchases({"once": [["a", "b"]], "twice": ["a", "a"], "more": ["a", "b", "c"]})
    questions, learnt = asked(table, {"once": "c", "twice": "c", "more": "d", "nobody": "a"})
    found = inside(slices.of(questions, learnt), questions)
    # who bought the same thing twice has a history of one product, and two orders
    assert found["new_customers"] == ["once"] and found["unknown_customers"] == ["nobody"]


def test_products_are_new_for_thirty_days_and_unseen_until_somebody_buys_them() -> None:
    table = purchases({"x": ["old", *["old"] * 9, "fresh"], "y": ["old"] * 41})
    # the last purchase is on day 40: fresh was first bought on day 10, which is 30 days ago
    questions, learnt = asked(table, {"x": "old", "y": "fresh", "z": "never"})
    found = inside(slices.of(questions, learnt), questions)
    assert found["unseen_products"] == ["z"] and found["new_products"] == ["z"]
    later = table.set_column(
        table.column_names.index("ordered_at"), "ordered_at",
        pa.array([t + timedelta(seconds=p == "fresh") for t, p in zip(table["ordered_at"].to_pylist(), table["product_id"].to_pylist(), strict=True)], pa.timestamp("us")),
    )  # fmt: skip
    questions, learnt = asked(later, {"x": "old", "y": "fresh", "z": "never"})
    assert inside(slices.of(questions, learnt), questions)["new_products"] == ["y", "z"]


def test_the_long_tail_is_what_eighty_percent_of_purchases_leave() -> None:
    table = purchases({f"c{n}": ["a"] for n in range(6)} | {"d": ["b"], "e": ["b"], "f": ["c"], "g": ["d"]})
    # a 6, b 2, c 1, d 1: a and b are 80 %
    questions, learnt = asked(table, {"f": "a", "g": "b", "c0": "c", "c1": "d", "c2": "never"})
    assert inside(slices.of(questions, learnt), questions)["long_tail"] == ["c0", "c1", "c2"]


def test_heavy_buyers_are_the_longest_histories_and_never_more_than_a_tenth() -> None:
    sizes = {f"c{n:02d}": n + 1 for n in range(20)}
    table = purchases({c: [f"p{i:02d}" for i in range(size)] for c, size in sizes.items()})
    questions, learnt = asked(table, dict.fromkeys(sizes, "z"))
    assert inside(slices.of(questions, learnt), questions)["heavy_buyers"] == ["c18", "c19"]
    alike = purchases({c: ["a", "b"] for c in sizes})
    questions, learnt = asked(alike, dict.fromkeys(sizes, "z"))
    assert inside(slices.of(questions, learnt), questions)["heavy_buyers"] == []


def test_a_locale_with_enough_questions_is_a_slice_and_the_others_are_not() -> None:
    customers = {f"c{n}": ["a"] for n in range(5)}
    questions, learnt = asked(purchases(customers), dict.fromkeys(customers, "b"))
    locales = {"c0": "zh-CN", "c1": "zh-CN", "c2": "zh-CN", "c3": "en-GB", "c4": None, "other": "en-GB"}
    found = inside(slices.of(questions, learnt, locales=locales, least=3), questions)
    assert found["locale:zh-CN"] == ["c0", "c1", "c2"]
    assert [name for name in found if name.startswith("locale")] == ["locale:zh-CN"]
    assert slices.meaning("locale:zh-CN") == "customers whose locale is zh-CN"


def test_who_refused_training_is_a_slice_only_when_asked() -> None:
    questions, learnt = asked(purchases({"x": ["a"], "y": ["a"]}), {"x": "b", "y": "b"})
    assert inside(slices.of(questions, learnt, refused={"y", "q"}), questions)["training_refused"] == ["y"]
    assert inside(slices.of(questions, learnt), questions)["training_refused"] == []


def test_no_questions_and_no_purchases_have_all_slices_empty() -> None:
    catalogue = Catalogue.of(["a"])
    nothing = Interactions.of(purchases({}), catalogue=catalogue)
    for customers in ([], ["x"]):
        histories = Histories.of(purchases({}), catalogue, customers)
        found = slices.of(Questions(histories, np.zeros(len(customers), np.int32)), nothing)
        assert list(found) == list(slices.MEANINGS)
        assert {name for name, mask in found.items() if mask.any()} == (
            {"unknown_customers", "new_products", "unseen_products", "long_tail"} if customers else set()
        )


def test_questions_of_another_catalogue_are_refused() -> None:
    questions, _ = asked(purchases({"x": ["a"]}), {"x": "b"})
    with pytest.raises(ModelRefused, match="coded with another catalogue"):
        slices.of(questions, Interactions.of(purchases({"x": ["a"]})))
