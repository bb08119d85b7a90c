"""Every suite lets good rows through and names each fault that is planted in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nightmarket import quality, suites
from nightmarket.contracts import OUTPUTS
from nightmarket.errors import QualityGateFailed
from nightmarket.products import conform
from nightmarket.suites import product_copy

DAY = date(2026, 3, 2)
BEFORE, AFTER = datetime(2026, 2, 20, 9), datetime(2026, 3, 2, 9)
CUTOFF = {"cutoff": datetime(2026, 3, 2)}
SHELF = {"available_products": {"p1", "p2", "p3"}, "product_ids": {"p1", "p2", "p3", "p4"}}
WRITTEN = {"product_names": {"p1": ("Bath Towel", "Cove"), "p2": ("龙泉青瓷茶杯", "青禾")}}
WHO = {"input_hash": "a" * 64, "model_name": "m", "model_version": "1"}


def rows(table: str, *changes: Mapping[str, Any], good: Callable[[int], dict[str, Any]]) -> pa.Table:
    """As many rows of a table as there are changes; each is the good row of its number with its change."""
    plain = [good(n) | dict(change) for n, change in enumerate(changes)]
    if table not in OUTPUTS:
        return pa.Table.from_pylist(plain)
    names = list(dict.fromkeys(name for row in plain for name in row))
    loose = pa.table({name: pa.array([row.get(name) for row in plain]) for name in names})
    return conform(table, loose, day=DAY, run_id="r", created_at=BEFORE)


def failed(table: str, found: pa.Table, context: Mapping[str, Any]) -> set[str]:
    """The checks of severity `fail` that did not hold."""
    try:
        quality.check(table, found, DAY, run_id="r", context=context)
    except QualityGateFailed as error:
        return {check.split(" (")[0] for check in error.checks}
    return set()


def profile(n: int) -> dict[str, Any]:
    return {
        "customer_id": f"c{n}", "first_order_at": BEFORE, "last_order_at": BEFORE, "rfm_recency_days": 10,
        "rfm_frequency": 3, "rfm_monetary": 30.0, "rfm_segment": "loyal", "average_order_value": 10.0,
        "lifecycle_stage": "active", "preferred_send_hour": 9, "discount_affinity": 0.5, "churn_probability": None,
        "summary": "Ordered 3 times so far, the last time on 20 February 2026.", "ineligible_reason": None, **WHO,
    }  # fmt: skip


def interest(n: int) -> dict[str, Any]:
    return {
        "customer_id": f"c{n // 2}", "interest": f"brand:B{n % 2}", "weight": 0.5, "rank": n % 2 + 1,
        "share_purchase": 0.75, "share_browse": 0.25, "share_review": 0.0, "evidence": '["p1"]',
        "last_seen_at": BEFORE, **WHO,
    }  # fmt: skip


def slot(n: int) -> dict[str, Any]:
    return {
        "customer_id": f"c{n // 2}", "placement": "home", "rank": n % 2 + 1, "product_id": f"p{n % 2 + 1}",
        "score": 0.5, "propensity": 1.0, "is_personalised": True, "reason_code": "because_you_bought",
        "reason_text": "Because of your towel.", "fallback_reason": None, "is_exploration": False,
        "candidate_source": "blend", "rules_applied": "[]", "rank_before_rules": n % 2 + 1,
        "because_product_ids": '["p3"]', **WHO,
    }  # fmt: skip


def default_slot(n: int) -> dict[str, Any]:
    return {
        "placement": ("home", "email", "product_page")[n // 2 % 3], "rank": n % 2 + 1, "product_id": f"p{n % 2 + 1}",
        "score": 0.5, "candidate_source": "popularity", "rank_before_rules": n % 2 + 1, "rules_applied": "[]",
        "propensity": 1.0, "reason_code": "popular", **WHO,
    }  # fmt: skip


def lift(n: int) -> dict[str, Any]:
    return {
        "placement": ("home", "email")[n % 2], "lists_from": date(2026, 2, 28), "customers": 10, "own_hit_rate": 0.5,
        "default_hit_rate": 0.25, "lift": 0.25, "lift_low": 0.0, "lift_high": 0.5, **WHO,
    }  # fmt: skip


def neighbour(n: int) -> dict[str, Any]:
    return {
        "product_id": "p4" if n < 2 else f"q{n}", "rank": n % 2 + 1 if n < 2 else 1, "similar_product_id": f"p{n % 3 + 1}",
        "score": 0.5, "reason_code": "similar_text", **WHO,
    }  # fmt: skip


def text(n: int) -> dict[str, Any]:
    return {
        "product_id": "p1", "channel": "shop_page", "locale": "en", "version": n + 1, "title": "Bath Towel",
        "description": "A bath towel in blue, made of cotton. It comes from Cove.", "bullets": '["Colour: blue"]',
        "meta_description": "A blue bath towel.", "status": "approved", "change_cause": "new", "policy_version": "1",
        "free_sentences": 1, "repaired_sentences": 0, "prompt_version": "1", "is_ai_written": True,
        "ai_label": "Written with AI", "ai_metadata": True, **WHO,
    }  # fmt: skip


def claim(n: int) -> dict[str, Any]:
    return {
        "product_id": "p1", "channel": "shop_page", "locale": "en", "version": n + 1, "claim_number": 1,
        "sentence": "It is blue.", "claim": "blue", "evidence": "Colour: blue", "verdict": "supported", "origin": "facts", **WHO,
    }  # fmt: skip


def purchase(n: int) -> dict[str, Any]:
    return {
        "customer_id": f"c{n}", "order_id": f"o{n}", "product_id": f"p{n % 3}", "ordered_at": BEFORE, "quantity": 1,
        "split": "train",
    }  # fmt: skip


CASES: dict[str, tuple[Callable[[int], dict[str, Any]], Mapping[str, Any], list[tuple[Mapping[str, Any], set[str]]]]] = {
    "customer_profiles": (profile, CUTOFF, [
        ({}, set()),
        ({"customer_id": "c0"}, {"one row a customer_id"}),
        ({"rfm_recency_days": -1}, {"rfm_recency_days is at least 0"}),
        ({"last_order_at": AFTER}, {"no order is of the day itself or later"}),
        ({"first_order_at": AFTER}, {"the first order is not after the last"}),
        ({"rfm_segment": "best"}, {"rfm_segment is one of the known values"}),
        ({"lifecycle_stage": "gone"}, {"lifecycle_stage is one of the known values"}),
        ({"rfm_segment": None}, {"a customer without a segment has a reason"}),
        ({"rfm_frequency": 0}, {"no orders, no value and no segment"}),
        ({"ineligible_reason": "bot"}, {"bots and customers who refused profiling are not judged"}),
        ({"churn_band": "low"}, {"a churn band has a probability behind it"}),
        ({"predicted_clv": 9.0}, {"a predicted value lies in its own interval"}),
        ({"preferred_send_hour": 24}, {"preferred_send_hour is at least 0 and at most 23"}),
        ({"discount_affinity": 1.5}, {"discount_affinity is at least 0 and at most 1"}),
        ({"summary": "Call 020 7946 0958 for more."}, {"no summary holds personal data"}),
        ({"summary": ""}, {"summary_length is at least 1 and at most 400"}),
        ({"model_version": None}, {"model_version is never missing"}),
    ]),
    "customer_interests": (interest, CUTOFF, [
        ({}, set()),
        ({"rank": 3}, {"ranks of a customer count 1, 2, 3 without gaps"}),
        ({"share_browse": 0.5}, {"the three shares add up to one"}),
        ({"evidence": "[]"}, {"an interest names products that show it"}),
        ({"weight": None}, {"an interest has a weight"}),
        ({"weight": 1.5}, {"real_weight is at least 1e-06 and at most 1"}),
        ({"last_seen_at": AFTER}, {"no evidence is of the day itself or later"}),
        ({}, set()),
        ({"interest": "(none)", "rank": 0, "weight": None, "evidence": None, "last_seen_at": None,
          "share_purchase": None, "share_browse": None, "share_review": None}, set()),
    ]),
    "recommendations": (slot, SHELF, [
        ({}, set()), ({}, set()),
        ({"rank": 2}, {"one row a customer_id and placement and rank", "ranks of a list count 1, 2, 3 without gaps"}),
        ({}, set()),
        ({"product_id": "p2"}, {"one row a customer_id and placement and product_id"}),
        ({"product_id": "p2"}, set()),
        ({"product_id": "p9"}, {"every product is in the catalogue of the day", "every product is active and in stock"}),
        ({"product_id": "p4"}, {"every product is active and in stock"}),
        ({"score": float("nan")}, {"every score is a number"}),
        ({"propensity": 0.0}, {"propensity is at least 1e-06 and at most 1"}),
        ({"is_personalised": False}, {"a list that is not personal says why"}),
        ({"reason_code": None}, {"reason_code is never missing", "because you bought names what was bought, and no other reason does"}),
        ({"placement": "cart"}, {"placement is one of the known values", "ranks of a list count 1, 2, 3 without gaps"}),
        ({"reason_code": "fate", "because_product_ids": "[]"}, {"reason_code is one of the known values"}),
        ({"is_exploration": True, "propensity": 0.1}, {"what was drawn by chance says so"}),
        ({"is_exploration": True, "reason_code": "because_we_explore", "because_product_ids": "[]"},
         {"what was drawn by chance was not certain"}),
        ({"is_exploration": True, "reason_code": "because_we_explore", "because_product_ids": "[]", "propensity": 0.1,
          "is_personalised": False, "fallback_reason": "bot"}, {"lists without anybody's traits do not explore"}),
        ({"candidate_source": "rule:r1", "rank_before_rules": None}, {"what a rule put there or promotes names the rule"}),
        ({"reason_code": "because_we_promote", "because_product_ids": "[]"},
         {"what a rule put there or promotes names the rule"}),
        ({"rank_before_rules": None}, {"what was a candidate has a place before rules, what a rule brought has none"}),
        ({"rank_before_rules": 0}, {"rank_before_rules is at least 1"}),
        ({"is_personalised": False, "fallback_reason": "profiling_refused"}, {"who must not be profiled has no purchase named"}),
        ({"candidate_source": "rule:r1", "rank_before_rules": None, "rules_applied": '["r1"]',
          "reason_code": "because_we_promote", "because_product_ids": "[]"}, set()),
        ({}, set()),
    ]),
    "default_recommendations": (default_slot, SHELF, [
        ({}, set()), ({}, set()), ({}, set()), ({"score": float("nan")}, {"every score is a number"}),
        ({"product_id": "p4"}, {"every product is active and in stock"}), ({"propensity": 0.5}, {"propensity is at least 1 and at most 1"}),
    ]),
    "recommendation_lift": (lift, {}, [
        ({"lift": 0.3, "lift_low": 0.31}, {"the lift is the difference of the two shares", "the lift lies in its interval"}),
        ({"customers": 0, "lists_from": DAY}, {"customers is at least 1", "no list is judged by what it could know"}),
    ]),
    "similar_products": (neighbour, SHELF | {"product_ids": {"p4", *(f"q{n}" for n in range(2, 9))}}, [
        ({}, set()), ({}, set()), ({}, set()),
        ({"product_id": "p1", "similar_product_id": "p1"},
         {"no product is similar to itself", "every product is in the catalogue of the day"}),
        ({"similar_product_id": "p4"}, {"every similar product is active and in stock"}),
        ({"rank": 2}, {"ranks of a list count 1, 2, 3 without gaps"}),
        ({"score": float("inf")}, {"every score is a number"}),
        ({"product_id": "q2"}, {"one row a product_id and reason_code and rank", "ranks of a list count 1, 2, 3 without gaps"}),
        ({"reason_code": "alike"}, {"reason_code is one of the known values"}),
    ]),
    "product_copy": (text, WRITTEN, [
        ({}, set()),
        ({"product_id": "p2", "locale": "zh", "title": "龙泉青瓷茶杯",
          "description": "这款龙泉青瓷茶杯来自青禾，颜色为青色，适合日常使用。欢迎选购，了解更多详情。"}, set()),
        ({"locale": "zh"}, {"a text is written in the language of its locale"}),
        ({"description": ""}, {"a text that may be shown has a title and a description",
                               "description_length is at least 1 and at most 5000"}),
        ({"description": "Write to anna@example.com about this bath towel."},
         {"no text holds personal data", "no text that may be shown holds a banned phrase"}),
        ({"description": "The best bath towel, guaranteed."}, {"no text that may be shown holds a banned phrase"}),
        ({"description": "See <b>more</b> of this bath towel."}, {"no text holds links or markup"}),
        ({"status": "blocked", "description": "The best towel."}, set()),
        ({"channel": "fax"}, {"channel is one of the known values"}),
        ({"status": "live"}, {"status is one of the known values"}),
        ({"version": 1}, {"one row a product_id and channel and locale and version"}),
        ({"prompt_version": None}, {"prompt_version is never missing"}),
        ({"is_ai_written": False, "ai_label": None, "ai_metadata": False}, set()),
        ({"is_ai_written": True, "ai_label": None, "ai_metadata": False}, set()),
        ({"is_ai_written": False, "ai_label": None}, {"only what a model had part in is marked as AI's"}),
        ({"is_ai_written": False, "ai_metadata": False}, {"only what a model had part in is marked as AI's"}),
        ({"is_ai_written": None, "ai_label": None, "ai_metadata": None},
         {"a text that may be shown says whether a model had part in it"}),
    ]),
    "copy_claims": (claim, {}, [
        ({}, set()),
        ({"evidence": None}, {"a supported claim names the fact that supports it"}),
        ({"verdict": "maybe"}, {"verdict is one of the known values"}),
        ({"origin": "hearsay"}, {"origin is one of the known values"}),
        ({"origin": None}, {"what is published says where it came from, and what was removed does not"}),
        ({"claim_number": 2}, {"claims of a text count 1, 2, 3 without gaps"}),
        ({"sentence": "Mail anna@example.com."}, {"no sentence holds personal data"}),
    ]),
    "training_purchases": (purchase, CUTOFF, [
        ({}, set()),
        ({"ordered_at": AFTER}, {"no purchase is of the day itself or later"}),
        ({"customer_id": "a", "split": "train"}, {"nothing that is learnt from is as new as what is asked"}),
        ({"customer_id": "a", "split": "test"}, set()),
        ({"customer_id": "b", "product_id": "p1", "ordered_at": datetime(2026, 2, 1)}, set()),
        ({"customer_id": "b", "product_id": "p1", "split": "test"},
         {"no held-out product was bought by the customer before"}),
        ({"customer_id": "d", "product_id": "p1", "ordered_at": datetime(2026, 2, 1)}, set()),
        ({"customer_id": "d", "product_id": "p2", "split": "test"}, set()),
        ({"split": "exam"}, {"split is one of the known values"}),
        ({"split": None}, {"split is never missing"}),
    ]),
}  # fmt: skip


def test_every_suite_has_a_file_named_as_its_table() -> None:
    files = {path.stem for path in Path(suites.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(suites.NAMES)
    assert set(OUTPUTS) <= files
    assert all(suites.load(name).table == name for name in suites.NAMES)


@pytest.mark.parametrize("name", suites.NAMES)
def test_every_check_has_a_reason_a_severity_and_a_rule_of_its_own(name: str) -> None:
    checks = suites.load(name).checks
    assert len(checks) >= 6
    assert all(len(check.reason) >= 10 and check.severity in ("fail", "warn") for check in checks)
    assert len({check.rule for check in checks}) == len(checks)


@pytest.mark.parametrize("name", CASES)
def test_a_suite_finds_every_planted_fault_and_nothing_else(name: str, home: Path) -> None:
    good, context, faults = CASES[name]
    found = rows(name, *(change for change, _ in faults), good=good)
    assert failed(name, found, context) == set().union(*(expected for _, expected in faults))


@pytest.mark.parametrize("name", CASES)
def test_good_rows_pass_a_suite(name: str, home: Path) -> None:
    good, context, _ = CASES[name]
    assert failed(name, rows(name, {}, {}, good=good), context) == set()


def test_the_script_of_a_text_tells_its_language() -> None:
    assert product_copy.speaks("A bath towel in blue, made of cotton.", "en")
    assert not product_copy.speaks("A bath towel in blue, made of cotton.", "zh-CN")
    assert not product_copy.speaks("这款龙泉青瓷茶杯来自青禾，颜色为青色，适合日常使用。", "en")
    assert product_copy.speaks("这款 Cove Bath Towel 浴巾来自青禾，颜色为青色，适合日常使用。", "zh")
    assert product_copy.speaks("TX-100", "zh"), "too short to tell"
