"""The split by the clock, shuffled ties, and the leakage tests of both splits: the future changes nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket.ranking import Ease, Interactions, ItemToItem, Popularity, Ranker
from nightmarket.training import examples, scorecard
from nightmarket.training.examples import Examples, Questions
from tests.ranking.purchases import START, purchases, shop


def frozen(table: pa.Table, seed: int = 7) -> Examples:
    return Examples(table.append_column("split", pa.array(examples.split(table, seed=seed), pa.string())))


def instant(days: float) -> int:
    return int((START + timedelta(days=days) - datetime(1970, 1, 1)) / timedelta(microseconds=1))


def asked(questions: Questions, names: tuple[str, ...]) -> dict[str, tuple[str, list[str]]]:
    """Customer -> the product asked for and what is told of the history, latest first."""
    h = questions.histories
    return {
        customer: (names[questions.targets[n]], [names[i] for i in h.items[h.offsets[n] : h.offsets[n + 1]]])
        for n, customer in enumerate(h.customer_ids)
    }


def fitted(learnt: Interactions) -> list[Ranker]:
    return [Popularity().fit(learnt), ItemToItem().fit(learnt), Ease(max_items=50).fit(learnt)]


def bits(learnt: Interactions, questions: Questions) -> list[Any]:
    """Everything that is fitted, asked and scored, as bytes."""
    models = fitted(learnt)
    popularity = models[0]
    assert isinstance(popularity, Popularity)
    found: list[Any] = [questions.targets.tobytes(), questions.histories.customer_ids]
    found += [getattr(questions.histories, name).tobytes() for name in ("offsets", "items", "ages")]
    for model in models:
        found += [(name, array.tobytes()) for name, array in sorted(model.arrays().items())]
        lists = model.recommend(questions.histories, 20)
        score = scorecard.measure(model, popularity, questions)
        found += [lists.products.tobytes(), lists.scores.tobytes(), score.gains.tobytes()]
    return found


def added(table: pa.Table, rows: list[tuple[str, str, datetime]]) -> pa.Table:
    """The table with more purchases, in the order of its key."""
    more = pa.Table.from_pylist(
        [
            {"customer_id": c, "product_id": p, "order_id": f"{c}-planted-{n}", "ordered_at": at, "quantity": 9.0,
             "may_train": True}
            for n, (c, p, at) in enumerate(rows)
        ],
        schema=table.schema,
    )  # fmt: skip
    return pa.concat_tables([table, more]).sort_by(
        [(name, "ascending") for name in ("customer_id", "ordered_at", "order_id", "product_id")]
    )


def test_the_cut_is_where_the_last_share_of_purchases_begins() -> None:
    ten = frozen(purchases({"x": [f"p{n}" for n in range(10)]}))
    assert ten.time_cut(0.1) == instant(9) and ten.time_cut(0.3) == instant(7)
    # five purchases of one day cannot be parted: they lie after the cut together
    day = frozen(purchases({"x": ["a", "b", "c", "d", "e", ["f", "g", "h", "i", "j"]]}))
    assert day.time_cut(0.1) == instant(5) and len(day.before_time(instant(5))) == 5


def test_nothing_at_or_after_the_cut_is_learnt_by_anybody() -> None:
    table = frozen(purchases({"x": ["a", "b", "c"], "y": ["d", "e"]}))
    learnt = table.before_time(instant(1))
    assert [table.catalogue.product_ids[p] for p in learnt.products] == ["a", "d"]


def test_the_target_is_the_first_product_new_to_the_customer_after_the_cut() -> None:
    table = frozen(purchases({"x": ["a", "b", "a", "c", "d"], "y": ["a", "b"], "z": ["a", "b", "a", "b"]}))
    found = asked(table.questions_in_time(instant(2), seed=7), table.catalogue.product_ids)
    # y did not come again, z bought nothing new; x bought a again, then c
    assert found == {"x": ("c", ["b", "a"])}


def test_one_product_of_an_order_is_drawn_by_seed_and_nothing_between_cut_and_target_is_told() -> None:
    table = frozen(purchases({"x": ["a", "b", "a", ["c", "d", "e", "f"]]}))
    names = table.catalogue.product_ids
    found = [asked(table.questions_in_time(instant(2), seed=seed), names)["x"] for seed in range(20)]
    assert {target for target, _ in found} == {"c", "d", "e", "f"}
    assert {tuple(history) for _, history in found} == {("b", "a")}


def test_who_only_came_after_the_cut_is_asked_about_and_marked() -> None:
    late: dict[str, list[str | list[str]]] = {"a": ["p", "p", "p", "q"], "b": ["p", "q"]}
    table = purchases(late)
    moved = table.filter(pa.array([c == "b" for c in table["customer_id"].to_pylist()]))
    both = added(
        table.filter(pa.array([c == "a" for c in table["customer_id"].to_pylist()])),
        [(r["customer_id"], r["product_id"], r["ordered_at"] + timedelta(days=2)) for r in moved.to_pylist()],
    )
    found = frozen(both).questions_in_time(instant(2), seed=7)
    assert asked(found, ("p", "q")) == {"a": ("q", ["p"]), "b": ("p", [])}
    assert found.is_unknown.tolist() == [False, True]


def test_a_shop_without_purchases_asks_and_learns_nothing_in_time() -> None:
    empty = frozen(purchases({}))
    cut = empty.time_cut()
    assert len(empty.before_time(cut)) == 0 and len(empty.questions_in_time(cut, seed=7)) == 0
    assert empty.until(cut, seed=7).purchases.num_rows == 0


def test_tuning_for_the_split_in_time_sees_the_shop_as_it_was() -> None:
    table = frozen(shop())
    cut = table.time_cut(0.3)
    then = table.until(cut, seed=7)
    assert then.catalogue is table.catalogue and len(then.everything()) == len(table.before_time(cut))
    assert then.questions("validation").histories.digest == table.catalogue.digest
    assert then.purchases["ordered_at"].to_numpy().max() < np.datetime64(cut, "us")


def test_fewer_questions_in_time_are_always_of_the_same_customers() -> None:
    table = frozen(shop())
    cut = table.time_cut(0.3)
    whole = asked(table.questions_in_time(cut, seed=7), table.catalogue.product_ids)
    few = asked(table.questions_in_time(cut, seed=7, most=10), table.catalogue.product_ids)
    assert len(few) == 10 < len(whole) and few.items() <= whole.items()


def test_planted_purchases_after_the_cut_change_nothing_fitted_asked_or_scored() -> None:
    table = shop()
    ours = frozen(table)
    cut = ours.time_cut(0.3)
    plain = ours.questions_in_time(cut, seed=7)
    late, customers = START + timedelta(days=50), plain.histories.customer_ids
    # what is bought after the target, by those who are asked, in masses: new to them, and bought again
    planted = [(c, f"p{n % 30:03d}", late + timedelta(days=n)) for c in customers[:20] for n in range(30)]
    theirs = frozen(added(table, planted))
    assert theirs.purchases.num_rows == table.num_rows + 600 and theirs.catalogue == ours.catalogue
    assert bits(ours.before_time(cut), plain) == bits(
        theirs.before_time(cut), theirs.questions_in_time(cut, seed=7)
    )
    # a purchase before the cut does change what is fitted: the comparison sees something
    seen = frozen(added(table, [(customers[0], "p001", START)]))
    assert bits(seen.before_time(cut), plain) != bits(ours.before_time(cut), plain)


def test_a_product_that_only_the_future_knows_scores_nothing_and_moves_no_list() -> None:
    table = shop()
    ours = frozen(table)
    cut = ours.time_cut(0.3)
    late, (one, two, *_) = (
        START + timedelta(days=50),
        ours.questions_in_time(cut, seed=7).histories.customer_ids,
    )
    theirs = frozen(added(table, [(one, "a-new-one", late), (two, "zz-new-one", late)]))
    lists = []
    for each in (ours, theirs):
        questions = each.questions_in_time(cut, seed=7)
        names = (*each.catalogue.product_ids, "")
        for model in fitted(each.before_time(cut)):
            found = model.recommend(questions.histories, 20)
            lists.append(([[names[p] for p in row] for row in found.products], found.scores.tobytes()))
    assert lists[:3] == lists[3:]


def test_planted_purchases_after_the_held_out_one_change_nothing_of_the_split_by_customer() -> None:
    table = shop()
    ours = frozen(table)
    late = START + timedelta(days=50)
    bought: dict[str, list[str]] = {}
    for row in table.to_pylist():
        bought.setdefault(row["customer_id"], []).append(row["product_id"])
    again = ours.questions("test").histories.customer_ids
    # everybody buys again, many times, what they had bought: nothing new, so the question stays the same
    planted = [(c, p, late + timedelta(days=n)) for c in again for n, p in enumerate(bought[c] * 3)]
    theirs = frozen(added(table, planted))
    assert theirs.purchases.num_rows > 3 * table.num_rows
    for stage in ("validation", "test"):
        assert bits(ours.before(stage), ours.questions(stage)) == bits(
            theirs.before(stage), theirs.questions(stage)
        )


def test_a_shuffled_tie_makes_every_product_an_order_of_its_own() -> None:
    table = purchases({"x": ["a", ["b", "c", "d"]], "y": ["b"]})
    orders = set()
    for seed in range(30):
        found = examples.shuffle_ties(table, seed=seed)
        assert found.schema == table.schema and found["customer_id"].to_pylist() == ["x"] * 4 + ["y"]
        assert found["product_id"].to_pylist()[0] == "a"
        times = found["ordered_at"].to_pylist()[1:4]
        assert times == [START + timedelta(days=1, microseconds=n) for n in range(3)]
        orders.add(tuple(found["product_id"].to_pylist()[1:4]))
        labels = examples.split(found, seed=7).tolist()
        assert labels == ["train", "train", "validation", "test", "train"]
    assert len(orders) == 6  # all orders of three come up
    assert examples.shuffle_ties(purchases({}), seed=1).num_rows == 0


def test_shuffled_ties_are_the_same_for_a_seed_whoever_else_buys() -> None:
    one = examples.shuffle_ties(purchases({"x": ["a", ["b", "c", "d", "e"]]}), seed=3)
    more = examples.shuffle_ties(purchases({"a": [["b", "c"]], "x": ["a", ["b", "c", "d", "e"]]}), seed=3)
    assert more["product_id"].to_pylist()[2:] == one["product_id"].to_pylist()
