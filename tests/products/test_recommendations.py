"""A night of lists with the real lake, registry, gate and warehouse: who gets what, why, and what is left alone."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from nightmarket import encoder, lake, ranking, warehouse
from nightmarket.products import recommendations
from nightmarket.products.recommendations import lists, people, serving
from nightmarket.products.recommendations.shelf import Shelf
from nightmarket.ranking import Blend, Ease, ItemToItem
from nightmarket.settings import get_settings
from tests.products.list_shop import (
    ARCHIVED,
    DAY,
    FRESH,
    NEXT,
    SOLD_OUT,
    SPECIAL,
    crown,
    extracts,
    made_on,
    night,
    of,
    rows,
)  # fmt: skip
from tests.ranking.purchases import purchases, shop


@pytest.fixture
def bought(registry: Path, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    """The purchases of 90 customers of 30 products, and the day's extracts; nothing is left to chance, or read."""
    monkeypatch.setenv("NIGHTMARKET_EXPLORATION_SHARE", "0")
    monkeypatch.setenv("NIGHTMARKET_TEXTS_EMBEDDED_PER_NIGHT", "0")
    get_settings.cache_clear()
    table = shop(customers=90)
    extracts(DAY, table)
    return table


def test_a_night_of_lists(bought: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """One night in one shop, looked at from all sides: making it takes seconds."""
    monkeypatch.setenv("NIGHTMARKET_TEXTS_EMBEDDED_PER_NIGHT", "99")
    get_settings.cache_clear()
    night(DAY, gate=True)
    _everybody_has_a_list_without_what_they_bought_or_cannot_buy(bought)
    _reasons_quote_what_was_really_bought(bought)
    _who_must_not_be_profiled_gets_what_is_popular()
    _every_product_on_sale_has_neighbours()
    _without_a_champion_the_shelf_says_so()
    _the_same_night_again_changes_nothing()


def _everybody_has_a_list_without_what_they_bought_or_cannot_buy(bought: pa.Table) -> None:
    everything = rows("recommendations")
    assert {r["customer_id"] for r in everything} == {*bought["customer_id"].to_pylist(), *SPECIAL}
    mine = set(zip(bought["customer_id"].to_pylist(), bought["product_id"].to_pylist(), strict=True))
    assert not mine & {(r["customer_id"], r["product_id"]) for r in everything}
    assert not {ARCHIVED, SOLD_OUT} & {r["product_id"] for r in everything}
    assert {r["placement"] for r in everything} == {"home", "email"}
    assert max(len(of(c)) for c in ("c0000", "cold")) == 20
    assert max(len(of(c, "email")) for c in ("c0000", "cold")) == 6
    for row in everything:
        assert (row["propensity"], row["is_exploration"], row["rules_applied"]) == (1.0, False, "[]")
        assert row["placement"] == "email" or row["rank_before_rules"] == row["rank"]
        assert row["is_personalised"] is (row["fallback_reason"] is None)


def _reasons_quote_what_was_really_bought(bought: pa.Table) -> None:
    mine = set(zip(bought["customer_id"].to_pylist(), bought["product_id"].to_pylist(), strict=True))
    personal = rows("recommendations", "is_personalised")
    assert len(personal) > 100
    for row in personal:
        causes = json.loads(str(row["because_product_ids"]))
        assert 1 <= len(causes) <= 3 and all((row["customer_id"], c) in mine for c in causes)
        english, chinese = f"Because you bought Lamp {causes[0]}", f"因为您购买过Lamp {causes[0]}"
        assert row["reason_text"] == (chinese if str(row["customer_id"]).endswith("7") else english)
        assert row["reason_code"] == "because_you_bought"
    popular = rows("recommendations", "not is_personalised and customer_id like 'c0%'")
    assert {r["fallback_reason"] for r in popular} <= {"list_filled"}
    assert all(r["because_product_ids"] == "[]" and r["candidate_source"] == "popularity" for r in popular)


def _who_must_not_be_profiled_gets_what_is_popular() -> None:
    lists = {c: of(c) for c in SPECIAL}
    reasons = {c: {r["fallback_reason"] for r in found} for c, found in lists.items()}
    assert reasons == {"cold": {"no_history"}, "robot": {"bot"}, "refuser": {"profiling_refused"}}
    assert len({tuple(r["product_id"] for r in found) for found in lists.values()}) == 1
    assert lists["cold"][0]["reason_text"] == "Popular with other customers"
    assert lists["refuser"][0]["reason_text"] == "其他顾客也在购买"
    assert lists["cold"][0]["score"] >= lists["cold"][1]["score"] > 0  # type: ignore[operator]


def _every_product_on_sale_has_neighbours() -> None:
    everything = rows("similar_products")
    on_sale = {f"p{n:03d}" for n in range(30)} - {ARCHIVED, SOLD_OUT} | {FRESH}
    assert {r["product_id"] for r in everything} == on_sale
    assert {r["similar_product_id"] for r in everything} <= on_sale
    assert all(r["product_id"] != r["similar_product_id"] for r in everything)


def _without_a_champion_the_shelf_says_so() -> None:
    assert {(r["model_name"], len(str(r["model_version"]))) for r in rows("recommendations")} == {
        ("item_to_item", 12)
    }


def _the_same_night_again_changes_nothing() -> None:
    assert [outcome.note for outcome in night(DAY, gate=True)] == ["unchanged"] * 3


def test_with_a_champion_only_what_was_touched_is_made_again(
    bought: pa.Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crown(monkeypatch, tmp_path, Blend(Ease(), ItemToItem()), bought)
    night(DAY)
    assert {r["model_name"] for r in rows("recommendations")} == {"nightmarket.ranking"}
    assert {r["model_version"] for r in rows("recommendations")} == {"9"}

    # c0001 buys again; a product of somebody's list is sold out; nobody else is touched
    sold_out = str(of("c0005")[0]["product_id"])
    holders = {r["customer_id"] for r in rows("recommendations", f"product_id = '{sold_out}'")}
    table = pa.concat_tables([bought, purchases({"c0001": ["p000"] * 50}).slice(49)])
    extracts(
        NEXT,
        table.sort_by([("customer_id", "ascending"), ("ordered_at", "ascending")]),
        gone=(ARCHIVED, SOLD_OUT, sold_out),
    )
    night(NEXT)
    assert made_on(NEXT) == holders | {"c0001"}
    assert len(holders) < 80
    assert not rows("recommendations", f"product_id = '{sold_out}'")
    assert not rows("similar_products", f"similar_product_id = '{sold_out}' and product_id <> '{sold_out}'")
    counts = warehouse.read(
        "select count(*) = count(distinct (customer_id, placement, rank)) as whole from outputs.recommendations_current"
    )
    assert pc.all(counts["whole"]).as_py()


def test_a_customer_who_refuses_profiling_loses_the_personal_list_the_next_night(bought: pa.Table) -> None:
    night(DAY)
    assert any(r["is_personalised"] for r in of("c0001"))
    extracts(NEXT, bought, special=SPECIAL | {"c0001": (False, "refused", "en")})
    night(NEXT)
    assert {(r["is_personalised"], r["fallback_reason"]) for r in of("c0001")} == {
        (False, "profiling_refused")
    }
    # the same shelf, because the same purchases: nobody else was made again
    assert made_on(NEXT) == {"c0001"}


def test_who_refused_training_gets_a_list_of_their_own_that_no_model_learnt_from(registry: Path) -> None:
    own = purchases({"private": ["p000", "p001", "secret"]}, refused={"private"})
    extracts(DAY, pa.concat_tables([shop(customers=90), own]))
    night(DAY)
    listed = of("private")
    assert listed[0]["is_personalised"] and {r["product_id"] for r in listed}.isdisjoint({"p000", "p001"})
    assert not rows("recommendations", "product_id = 'secret'")
    assert {r["reason_code"] for r in rows("similar_products", "product_id = 'secret'")} == {"similar_text"}


def test_a_shop_without_orders_or_products_publishes_no_rows(registry: Path) -> None:
    nothing = purchases({})
    extracts(DAY, nothing, special={})
    lake.write("products", DAY, pa.table({
        "product_id": pa.array([], pa.string()), "title": pa.array([], pa.string()), "is_available": pa.array([], pa.bool_()),
    }), key=("product_id",))  # fmt: skip
    lake.write("customer_features", DAY, pa.table({
        "customer_id": pa.array(["x"]), "is_bot": pa.array([False]), "marketing": pa.array([None], pa.string()), "profiling": pa.array([None], pa.string()),
        "locale": pa.array([None], pa.string()),
    }), key=("customer_id",))  # fmt: skip
    assert [outcome.rows_out for outcome in night(DAY)] == [0, 0, 0]


def test_who_refused_marketing_gets_no_message_and_loses_the_list_of_messages_the_next_night(
    bought: pa.Table,
) -> None:
    extracts(DAY, bought, no_mail=["c0002", "refuser"])
    night(DAY)
    assert of("c0001", "email") and not of("c0002", "email") and not of("refuser", "email")
    assert of("c0002") and of("refuser")
    extracts(NEXT, bought, no_mail=["c0001", "c0002", "refuser"])
    night(NEXT)
    assert made_on(NEXT) == {"c0001"}
    assert of("c0001") and not of("c0001", "email")


def test_a_message_holds_at_most_two_products_of_a_category(bought: pa.Table) -> None:
    shelves = ("Bath", "Light")
    extracts(DAY, bought, categories=shelves)
    night(DAY)
    shelf = {
        p: shelves[i % 2]
        for i, p in enumerate(sorted({*bought["product_id"].to_pylist(), ARCHIVED, SOLD_OUT, FRESH}))
    }
    for customer in ("c0000", "c0001", "cold"):
        listed = [shelf[r["product_id"]] for r in of(customer, "email")]
        assert sorted(listed) == ["Bath", "Bath", "Light", "Light"]


def test_a_list_is_made_anew_when_it_is_old_whatever_changed(bought: pa.Table) -> None:
    night(DAY)
    for days, customers, products, placements in ((13, 0, 0, 0), (14, 93, 28, 3)):
        later = DAY + timedelta(days=days)
        extracts(later, bought)
        made = recommendations.make(later, "r").rows
        assert pc.count_distinct(made["recommendations"]["customer_id"]).as_py() == customers
        assert pc.count_distinct(made["similar_products"]["product_id"]).as_py() == products
        assert pc.count_distinct(made["default_recommendations"]["placement"]).as_py() == placements


def test_while_nobody_is_touched_no_model_is_loaded_and_no_text_is_looked_at(
    bought: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMARKET_TEXTS_EMBEDDED_PER_NIGHT", "99")
    get_settings.cache_clear()
    night(DAY)
    serving._loaded.cache_clear()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(ranking, "load", never)
    for name in ("embed", "embedded", "embed_products"):
        monkeypatch.setattr(encoder, name, never)
    extracts(NEXT, bought)
    assert {table.num_rows for table in recommendations.make(NEXT, "r").rows.values()} == {0}
    extracts(NEXT, bought, gone=("p000",))
    with pytest.raises(AssertionError, match="loaded"):
        recommendations.make(NEXT, "r")


def test_lists_do_not_depend_on_who_is_scored_beside_whom_nor_in_which_process(
    bought: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    monkeypatch.setenv("NIGHTMARKET_EXPLORATION_SHARE", "0.5")
    get_settings.cache_clear()
    shelf, serves = Shelf.of(DAY), serving.current(DAY)
    everybody = people.known(DAY, "base", exposures_count=False)
    own = everybody.filter(pc.equal(everybody["fallback"], 0))
    whole = lists.personal(shelf, serves, own)
    assert whole.num_rows > 1000 and pc.any(whole["is_exploration"]).as_py()
    parts = [lists.personal(shelf, serves, own.slice(at, 7)) for at in range(0, own.num_rows, 7)]
    order = [("customer_id", "ascending"), ("placement", "ascending"), ("rank", "ascending")]
    assert pa.concat_tables(parts).sort_by(order).equals(whole.sort_by(order))
    scoring = lists.Scoring(shelf, serves, (), (("home", 5),), 0.0, 7)
    assert pickle.loads(pickle.dumps(scoring)) == scoring and len(pickle.dumps(scoring)) < 3000


def test_a_digest_tells_every_change_of_what_was_bought_and_nothing_else(registry: Path) -> None:
    def digests(histories: dict[str, list[str]]) -> dict[str, str]:
        extracts(DAY, purchases(histories))  # type: ignore[arg-type]
        found = people.known(DAY, "base", exposures_count=False)
        return dict(zip(found["customer_id"].to_pylist(), found["input_hash"].to_pylist(), strict=True))

    before = digests({"a": ["x", "y"], "b": ["x", "y"], "c": ["x", "x"], "d": ["x"]})
    after = digests({"a": ["x", "y"], "b": ["y", "x"], "c": ["x", "x", "x"], "d": ["x"]})
    assert {c for c in before if before[c] != after[c]} == {"b", "c"}
    assert before["a"] == before["b"] and before["c"] != before["d"] and before["cold"] != before["robot"]


def test_what_was_bought_is_handed_on_customer_by_customer(registry: Path) -> None:
    table = purchases({"b": ["x", "y"], "c": ["z"], "e": ["x"]})
    asked = pa.table({"customer_id": ["a", "b", "d", "e"]})
    found = lists._with_purchases(asked, table)
    assert found["product_id"].to_pylist() == [[], ["x", "y"], [], ["x"]]
    assert lists._flat(found)["customer_id"].to_pylist() == ["b", "b", "e"]
    path = registry.parent / "x.parquet"
    pq.write_table(found, path)
    assert lists._flat(pq.read_table(path)).num_rows == 3


def test_a_table_of_an_earlier_release_gains_the_columns_that_its_contract_has_now(bought: pa.Table) -> None:
    night(DAY)
    with warehouse.writer() as connection:
        connection.execute("drop view outputs.similar_products_current")
        connection.execute("alter table outputs.similar_products drop column rules_applied")
    extracts(NEXT, bought, gone=(ARCHIVED, SOLD_OUT, "p000"))
    night(NEXT)
    assert {r["rules_applied"] for r in rows("similar_products", f"day = '{NEXT}'")} == {"[]"}
    assert {r["rules_applied"] for r in rows("similar_products", f"day = '{DAY}'")} == {None}
