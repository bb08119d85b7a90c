"""What a slot records, and reasons that are true: rules, exploration, new products, causes, sentences."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from nightmarket import quality
from nightmarket.errors import RuleRefused
from nightmarket.merchandising import Candidates
from nightmarket.products import recommendations
from nightmarket.products.recommendations import reasons, serving, slots
from nightmarket.ranking import Blend, Ease, Histories, Interactions, ItemToItem
from nightmarket.ranking.base import ByDeletion
from nightmarket.settings import get_settings
from tests.products.list_shop import DAY, FRESH, NEXT, SPECIAL, crown, extracts, made_on, night, of
from tests.ranking.purchases import shop


@pytest.fixture
def bought(registry: Path, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    """The purchases of 60 customers of 30 products, and the day's extracts; no text is read."""
    monkeypatch.setenv("NIGHTMARKET_TEXTS_EMBEDDED_PER_NIGHT", "0")
    explore(monkeypatch, 0)
    table = shop(customers=60)
    extracts(DAY, table)
    return table


def explore(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setenv("NIGHTMARKET_EXPLORATION_SHARE", str(share))
    get_settings.cache_clear()


def made(table: str = "recommendations") -> list[dict[str, Any]]:
    """The rows of a table that the day's night would publish, held against its suite."""
    from nightmarket.products import conform

    found = recommendations.make(DAY, "r").rows[table]
    whole = conform(table, found, day=DAY, run_id="r", created_at=None)  # type: ignore[arg-type]
    quality.check(table, whole, DAY, run_id="r", context=recommendations.context(table, DAY))
    return found.to_pylist()


def test_every_slot_says_what_the_model_wanted_and_which_rules_touched_it(bought: pa.Table) -> None:
    extracts(DAY, bought, rules=[
        {"id": "top", "action": "pin", "product_id": FRESH, "value": 1.0, "placement": "home"},
        {"id": "up", "action": "boost", "product_id": "p002", "value": 50.0},
        {"id": "off", "action": "filter", "product_id": "p005"},
    ])  # fmt: skip
    found = made()
    own = [r for r in found if r["customer_id"] not in SPECIAL]
    assert "p005" not in {r["product_id"] for r in found}
    first = [r for r in own if r["placement"] == "home" and r["rank"] == 1]
    assert len(first) == 60 and {r["product_id"] for r in first} == {FRESH}
    for row in first:
        assert (row["candidate_source"], row["rank_before_rules"], row["rules_applied"]) == (
            "rule:top",
            None,
            '["top"]',
        )
        assert (row["is_personalised"], row["fallback_reason"]) == (False, "rule")
        assert (row["reason_code"], row["because_product_ids"]) == ("because_we_promote", "[]")
    lifted = [r for r in own if r["product_id"] == "p002" and r["rank_before_rules"] > r["rank"]]
    assert lifted and {r["reason_code"] for r in lifted} == {"because_we_promote"}
    assert {r["reason_text"] for r in lifted} == {"Because we feature it in our shop", "我们推荐这款商品"}
    assert all("up" in json.loads(r["rules_applied"]) for r in lifted)
    kept = [r for r in own if r["rules_applied"] == "[]"]
    assert kept and not {r["reason_code"] for r in kept} & {"because_we_promote", "because_we_explore"}
    twin = [r for r in found if r["customer_id"] == "cold" and r["placement"] == "home"]
    assert twin[0]["product_id"] == FRESH and {r["fallback_reason"] for r in twin} == {"no_history"}


def test_rules_that_cannot_hold_stop_the_night_and_yesterdays_lists_stay(bought: pa.Table) -> None:
    night(DAY)
    before = of("c0001")
    pin = {"action": "pin", "value": 1.0, "placement": "home"}
    extracts(
        NEXT, bought, rules=[pin | {"id": "a", "product_id": "p001"}, pin | {"id": "b", "product_id": "p002"}]
    )
    with pytest.raises(RuleRefused) as refused:
        night(NEXT)
    assert "`a`" in str(refused.value) and "`b`" in str(refused.value)
    assert of("c0001") == before and made_on(NEXT) == set()


def test_rules_that_leave_nothing_to_show_are_refused_and_name_the_filters(bought: pa.Table) -> None:
    extracts(
        DAY, bought, rules=[{"id": "all-off", "action": "filter", "brand": "Alder", "placement": "email"}]
    )
    with pytest.raises(RuleRefused, match=r"all-off.*leave no available product"):
        night(DAY)


def test_a_filter_of_half_the_catalogue_leaves_lists_full(bought: pa.Table) -> None:
    extracts(DAY, bought, rules=[{"id": "half", "action": "filter", "category": "Home"}])
    lengths = Counter(r["customer_id"] for r in made() if r["placement"] == "home")
    assert min(lengths.values()) > 5
    assert not [r for r in made("similar_products") if r["similar_product_id"] == "p000"]


def test_a_changed_rule_makes_all_lists_anew_and_one_that_only_changed_its_owner_none(
    bought: pa.Table,
) -> None:
    rule = {"id": "up", "action": "boost", "product_id": "p002", "value": 2.0}
    extracts(DAY, bought, rules=[rule])
    night(DAY)
    extracts(NEXT, bought, rules=[rule | {"owner": "ben"}])
    assert recommendations.make(NEXT, "r").rows["recommendations"].num_rows == 0
    extracts(NEXT, bought, rules=[rule | {"value": 3.0}])
    assert len(set(recommendations.make(NEXT, "r").rows["recommendations"]["customer_id"].to_pylist())) == 63


def test_who_was_shown_a_product_often_enough_gets_a_list_without_it_and_nobody_else_is_touched(
    bought: pa.Table,
) -> None:
    rules = [{"id": "enough", "action": "frequency_cap", "value": 3.0, "within_days": 7}]
    extracts(DAY, bought, rules=rules)
    night(DAY)
    tired = of("c0003")[0]["product_id"]
    extracts(NEXT, bought, rules=rules, shown=[("c0003", tired), ("cold", tired)])
    found = recommendations.make(NEXT, "r").rows["recommendations"].to_pylist()
    assert {r["customer_id"] for r in found} == {"c0003"}
    assert tired not in {r["product_id"] for r in found}


def test_exploration_says_so_knows_its_chance_and_leaves_lists_without_traits_alone(
    bought: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    explore(monkeypatch, 0.3)
    found = made()
    tried = [r for r in found if r["is_exploration"]]
    assert len(tried) > 20
    for row in tried:
        assert (row["reason_code"], row["because_product_ids"]) == ("because_we_explore", "[]")
        assert 0 < row["propensity"] <= 0.3
        assert row["reason_text"] in ("Because we try something new with you", "我们想向您介绍新品")
    assert not [
        r for r in found if r["customer_id"] in SPECIAL and (r["is_exploration"] or r["propensity"] != 1)
    ]
    regular = {r["propensity"] for r in found if not r["is_exploration"] and r["customer_id"] not in SPECIAL}
    assert regular <= {1.0, 0.7}
    assert found == made(), "the same night again draws the same"


def test_a_product_that_nobody_bought_yet_is_tried_and_never_listed_otherwise(
    bought: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FRESH not in {r["product_id"] for r in made()}
    explore(monkeypatch, 0.5)
    fresh = [r for r in made() if r["product_id"] == FRESH]
    assert fresh and {(r["candidate_source"], r["is_exploration"], r["fallback_reason"]) for r in fresh} == {
        ("new_product", True, "new_product")
    }


def test_removing_the_named_cause_lowers_the_score(
    bought: pa.Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = Blend(Ease(), ItemToItem())
    crown(monkeypatch, tmp_path, model, bought)
    found = [r for r in made() if r["reason_code"] == "because_you_bought" and r["customer_id"] == "c0004"]
    one = Histories.of(bought, model.catalogue, ["c0004"])
    whole = model.score(one)[0]
    assert found
    for row in found:
        (target,) = model.catalogue.codes([row["product_id"]])
        assert row["score"] == pytest.approx(whole[target], rel=1e-5)
        for cause in json.loads(row["because_product_ids"]):
            place = np.flatnonzero(one.items == model.catalogue.codes([cause])[0])
            assert model.score(one.without(np.zeros(1, np.int64), place))[0, target] < whole[target]


class Opaque(ByDeletion):
    """A ranker whose score is no sum: the greatest link from the history, with item-to-item's form on disk."""

    kind: ClassVar[str] = "opaque"

    def __init__(self) -> None:
        self.inner = ItemToItem()

    def fit(self, interactions: Interactions) -> Opaque:
        self.inner.fit(interactions)
        self.catalogue = interactions.catalogue
        return self

    def score(self, histories: Histories) -> Any:
        return np.tanh(self.inner.score(histories))

    def params(self) -> dict[str, Any]:
        return self.inner.params()

    def arrays(self) -> dict[str, Any]:
        return self.inner.arrays()

    @classmethod
    def restore(cls, catalogue: Any, params: Any, arrays: Any) -> Opaque:
        model = cls()
        model.inner = ItemToItem.restore(catalogue, params, arrays)
        model.catalogue = catalogue
        return model


@pytest.mark.parametrize(
    ("metrics", "code"),
    [({}, "for_you"), ({"faithfulness": 0.89}, "for_you"), ({"faithfulness": 0.9}, "because_you_bought")],
)
def test_causes_of_a_model_that_is_no_sum_are_shown_only_when_they_were_measured_to_be_true(
    bought: pa.Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, metrics: dict[str, float], code: str
) -> None:
    from nightmarket.ranking import MODELS

    monkeypatch.setitem(MODELS, "opaque", Opaque)
    crown(monkeypatch, tmp_path, Opaque(), bought, metrics)
    personal = [
        r for r in recommendations.make(DAY, "r").rows["recommendations"].to_pylist() if r["is_personalised"]
    ]
    assert {r["reason_code"] for r in personal} == {code}
    assert (code == "for_you") == all(r["because_product_ids"] == "[]" for r in personal)


def test_a_linear_model_that_measured_badly_shows_no_causes_either(
    bought: pa.Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crown(monkeypatch, tmp_path, ItemToItem(), bought, {"faithfulness": 0.5})
    assert not serving.current(DAY).reasons_hold


@pytest.mark.parametrize(
    ("language", "code", "causes", "text"),
    [
        ("en", "because_you_bought", ["a", "b"], "Because you bought Blue Lamp"),
        ("zh", "because_you_bought", ["b"], "因为您购买过Blue Lamp"),
        ("en", "because_you_bought", ["a"], None),
        ("en", "for_you", [], "Chosen for you from what you bought"),
        ("zh", "for_you", [], "根据您的购买记录为您挑选"),
        ("en", "because_we_promote", ["b"], "Because we feature it in our shop"),
        ("zh", "because_we_promote", [], "我们推荐这款商品"),
        ("en", "because_we_explore", [], "Because we try something new with you"),
        ("zh", "because_we_explore", [], "我们想向您介绍新品"),
        ("en", "popular", [], "Popular with other customers"),
        ("zh", "popular", [], "其他顾客也在购买"),
    ],
)
def test_because_you_and_because_we_are_different_sentences(
    language: str, code: str, causes: list[str], text: str | None
) -> None:
    found = reasons.sentence(
        language, reasons.CODES.index(code), causes, {"a": "", "b": "Blue Lamp"}.__getitem__
    )
    assert found == (text, json.dumps(causes) if code == "because_you_bought" else "[]")


def test_titles_are_quoted_in_one_line_and_cut_at_a_word() -> None:
    assert reasons.line("Blue\x00\n  Lamp") == "Blue Lamp"
    cut = reasons.line("Wonderful " * 12)
    assert cut == "Wonderful " * 6 + "Wonderful…" and len(cut) <= 80
    assert reasons.line(None) == ""


def test_variety_keeps_the_best_of_each_group_and_what_has_none() -> None:
    held = Candidates(
        np.array([[0, 1, 2, 3, 4, -1], [3, 2, 1, 0, -1, -1]], np.int32),
        np.ones((2, 6), np.float32),
        np.zeros((2, 6), np.int8),
    )
    groups = np.array([7, 7, 7, 8, -1], np.int32)
    assert slots.at_most(held, groups, 2).products.tolist() == [[0, 1, -1, 3, 4, -1], [3, 2, 1, -1, -1, -1]]


def test_new_products_stand_behind_full_lists_only_and_never_twice() -> None:
    held = Candidates(
        np.array([[5, 6, 7], [5, -1, -1]], np.int32), np.ones((2, 3), np.float32), np.zeros((2, 3), np.int8)
    )
    found = slots.with_new(held, np.array([9, 6], np.int32), 2)
    assert found.products.tolist() == [[5, 6, 7, 9, -1], [5, -1, -1, -1, -1]]
    assert found.sources[0].tolist() == [0, 0, 0, slots.NEW, slots.NEW]
