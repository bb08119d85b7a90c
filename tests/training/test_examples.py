"""The split of purchases by time, on histories short enough to read."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa

from nightmarket import lake
from nightmarket.training import examples
from nightmarket.training.examples import Examples
from tests.ranking.purchases import purchases, shop

DAY = date(2026, 3, 2)


def labels(table: pa.Table, seed: int = 7) -> list[tuple[str, str]]:
    split = examples.split(table, seed=seed).tolist()
    return list(zip(table["product_id"].to_pylist(), split, strict=True))


def test_the_last_purchase_is_the_test_and_the_one_before_it_validation() -> None:
    assert labels(purchases({"x": ["a", "b", "c", "d"]})) == [
        ("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test"),
    ]  # fmt: skip


def test_what_was_bought_before_is_never_a_target_and_nothing_after_a_target_is_learnt() -> None:
    # the last new product is c; a is bought again with it and after it
    assert labels(purchases({"x": ["a", "b", ["a", "c"], "a"]})) == [
        ("a", "train"), ("b", "validation"), ("a", "test_order"), ("c", "test"), ("a", "test_order"),
    ]  # fmt: skip


def test_one_product_of_an_order_is_held_out_and_the_others_are_not_learnt_either() -> None:
    found = dict(labels(purchases({"x": ["a", ["b", "c", "d"]]})))
    assert sorted(found.values()) == ["test", "test_order", "test_order", "train"]


def test_the_drawn_product_depends_on_the_seed_not_on_other_customers() -> None:
    one = {"x": ["a", ["b", "c", "d", "e", "f"]]}
    alone = labels(purchases(one))
    with_others = labels(purchases({**one, "y": ["b", "c", "q"], "z": [["c", "d"]]}))[:6]
    assert alone == with_others
    drawn = {next(p for p, label in labels(purchases(one), seed) if label == "test") for seed in range(20)}
    assert len(drawn) > 2


def test_customers_who_came_once_are_learnt_from_and_not_asked() -> None:
    table = purchases({"x": [["a", "b"]], "y": ["a"], "z": ["a", "a"]})
    assert {label for _, label in labels(table)} == {"train"}
    assert len(Examples(table.append_column("split", pa.array(["train"] * 5))).questions("test")) == 0


def test_a_shop_without_purchases_has_no_rows() -> None:
    assert len(examples.split(purchases({}), seed=7)) == 0


def test_questions_come_with_what_was_known_before_them() -> None:
    table = purchases({"x": ["a", "b", "c", "d"], "y": ["a", "d"]})
    frozen = Examples(table.append_column("split", pa.array(examples.split(table, seed=7))))
    names = frozen.catalogue.product_ids
    asked = frozen.questions("test")
    assert asked.histories.customer_ids == ("x", "y") and [names[t] for t in asked.targets] == ["d", "d"]
    assert [names[i] for i in asked.histories.items] == ["c", "b", "a", "a"]
    tuning = frozen.questions("validation")
    assert tuning.histories.customer_ids == ("x",) and [names[t] for t in tuning.targets] == ["c"]
    assert [names[i] for i in tuning.histories.items] == ["b", "a"]
    # x: a, b and y: a; the d that y bought next is asked about later, so nobody learns it now
    assert (
        len(frozen.before("validation")) == 3
        and len(frozen.before("test")) == 4
        and len(frozen.everything()) == 6
    )


def test_a_future_purchase_planted_in_the_table_changes_nothing_learnt_before_it() -> None:
    table = shop()
    plain = Examples(table.append_column("split", pa.array(examples.split(table, seed=7))))
    labels_ = examples.split(table, seed=7).tolist()
    # what was held out for the test is swapped for a product nobody knows: what is learnt must not move
    swapped = [
        p if s not in {"test", "test_order"} else "planted"
        for p, s in zip(table["product_id"].to_pylist(), labels_, strict=True)
    ]
    other = table.set_column(1, "product_id", pa.array(swapped)).append_column("split", pa.array(labels_))
    ours, theirs = plain.before("test"), Examples(other).before("test")
    assert [ours.catalogue.product_ids[p] for p in ours.products] == [
        theirs.catalogue.product_ids[p] for p in theirs.products
    ]
    assert ours.times.tolist() == theirs.times.tolist()


def test_fewer_customers_are_always_the_same_ones() -> None:
    table = shop()
    frozen = Examples(table.append_column("split", pa.array(examples.split(table, seed=7))))
    few = frozen.questions("test", most=10)
    assert (
        len(few) == 10
        and few.histories.customer_ids == frozen.questions("test", most=10).histories.customer_ids
    )
    everybody = dict(
        zip(
            frozen.questions("test").histories.customer_ids,
            frozen.questions("test").targets.tolist(),
            strict=True,
        )
    )
    assert all(
        everybody[c] == t for c, t in zip(few.histories.customer_ids, few.targets.tolist(), strict=True)
    )


def test_frozen_examples_are_made_once_for_the_same_purchases_and_seed(home: Path) -> None:
    key = ("customer_id", "ordered_at", "order_id", "product_id")
    lake.write("purchases", DAY, shop(), key=key)
    first, made = examples.freeze(DAY, seed=7)
    again, made_again = examples.freeze(DAY, seed=7)
    assert (made, made_again) == (True, False) and again.content_hash == first.content_hash
    assert examples.load(DAY).purchases.num_rows == first.rows == shop().num_rows
    other, made_other = examples.freeze(DAY, seed=8)
    assert made_other and other.rows == first.rows


def test_who_refused_training_is_neither_learnt_from_nor_asked_about(home: Path) -> None:
    table = purchases({"x": ["a", "b", "c"], "y": ["a", "b", "c"]}, refused={"y"})
    lake.write("purchases", DAY, table, key=("customer_id", "ordered_at", "order_id", "product_id"))
    examples.freeze(DAY, seed=7)
    assert set(examples.load(DAY).purchases["customer_id"].to_pylist()) == {"x"}
