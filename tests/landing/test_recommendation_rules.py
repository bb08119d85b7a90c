"""A file of rules lands like any other: typed by hand, wrong cells set aside, and a wrong file refused whole."""

from __future__ import annotations

from datetime import datetime

import pytest

from nightmarket.errors import LandingRejected

from .hand_landing import Bench

FILE = """\
rule_id,action,placement,product_id,brand,value,per,within_days,owner,starts_on,ends_on,priority
good,boost,home,,Alder,1.5,,,ann,2026-03-01,2026-04-01,
later,pin,,not-there-yet,,1,,,ann,,,7
action,boots,home,,Alder,1.5,,,ann,,,
place,boost,attic,,Alder,1.5,,,ann,,,
days,frequency_cap,,,,3,,29,ann,,,
owner,boost,,,Alder,1.5,,,,,,
date,boost,,,Alder,1.5,,,ann,2026-02-30,,
number,boost,,,Alder,"1,5",,,ann,,,
per,cap,,,,3,colour,,ann,,,
"""


def test_wrong_cells_are_set_aside_with_their_rule_and_the_others_land(bench: Bench) -> None:
    bench.toml("[limits]\nrecommendation_rules = 1\n")
    bench.text("recommendation_rules.csv", FILE)
    bench.load()
    assert bench.raw("recommendation_rules", "rule_id, product_id, value, starts_on, ends_on, priority") == [
        {"rule_id": "good", "product_id": None, "value": 1.5, "starts_on": datetime(2026, 3, 1),
         "ends_on": datetime(2026, 4, 1), "priority": None},
        {"rule_id": "later", "product_id": "not-there-yet", "value": 1.0, "starts_on": None, "ends_on": None, "priority": 7},
    ]  # fmt: skip
    assert [(rule, column) for _, _, rule, column in bench.aside()] == [
        ("not_accepted", "action"), ("not_accepted", "placement"), ("out_of_range", "within_days"),
        ("missing_value", "owner"), ("impossible_date", "starts_on"), ("wrong_type", "value"), ("not_accepted", "per"),
    ]  # fmt: skip


def test_without_leave_a_file_with_a_wrong_rule_is_refused_whole(bench: Bench) -> None:
    bench.text("recommendation_rules.csv", "\n".join(FILE.splitlines()[:4]) + "\n")
    with pytest.raises(LandingRejected, match="not_accepted"):
        bench.load()
    assert bench.raw("recommendation_rules") == []


def test_a_rule_that_is_delivered_again_replaces_itself_and_one_left_out_stays(bench: Bench) -> None:
    head = FILE.splitlines()[0]
    bench.text(
        "recommendation_rules/1.csv", f"{head}\na,boost,,,Alder,1.5,,,ann,,,\nb,filter,,,Brook,,,,ann,,,\n"
    )
    bench.load()
    bench.text("recommendation_rules/2.csv", f"{head}\na,boost,,,Alder,2,,,ann,,2026-03-05,\n")
    bench.load()
    assert bench.raw("recommendation_rules", "rule_id, value, ends_on") == [
        {"rule_id": "a", "value": 2.0, "ends_on": datetime(2026, 3, 5)},
        {"rule_id": "b", "value": None, "ends_on": None},
    ]  # fmt: skip
