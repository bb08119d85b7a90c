"""A file of rules before it goes live: who gains, who loses, what never fires, and nothing is published by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nightmarket import warehouse
from nightmarket.cli import app
from nightmarket.errors import NightmarketError, RuleRefused
from nightmarket.merchandising import simulate
from nightmarket.settings import get_settings
from tests.merchandising.shop import DAY, applied, book, candidates

HEADER = "rule_id,action,placement,brand,value,owner,priority\n"


def changes(effects: simulate.Effects, kind: str) -> dict[str, tuple[int, int, int]]:
    rows = [row for row in effects.rows.to_pylist() if row["kind"] == kind]
    return {row["name"]: (row["slots_before"], row["slots_after"], row["lists"]) for row in rows}


def test_slots_and_exposure_are_counted_before_and_after_by_product_brand_and_shelf() -> None:
    rules = book(
        {"action": "filter", "brand": "Brook"}, {"action": "boost", "product_id": "p8", "value": 1.1},
        {"action": "filter", "brand": "Cedar", "placement": "email"},
    )  # fmt: skip
    proposed = candidates([0, 1, 3, 4], [3, 0, 6, 7])
    after = applied(rules, proposed, 3)
    effects = simulate.compare(proposed.products[:, :3], after, rules, "home")
    assert effects.lists == 2 and effects.changed == 1
    assert changes(effects, "product") == {"p1": (1, 0, 1), "p3": (2, 2, 1)}
    assert changes(effects, "brand") == {"Brook": (1, 0, 1), "Alder": (5, 5, 1)}
    assert effects.fired == {"r0": 1, "r1": 0} and effects.silent == ("r1",)
    gained = next(row for row in effects.rows.to_pylist() if row["name"] == "p3")
    assert gained["exposure_after"] - gained["exposure_before"] == pytest.approx(1 / np.log2(3) - 1 / 2)
    assert simulate.silence([effects]) == ["Rule `r1` touches no slot."]
    assert effects.told(1).num_rows == 3


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A warehouse with a catalogue, two published lists and one rule, made by hand."""
    monkeypatch.setenv("NIGHTMARKET_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("NIGHTMARKET_SHOP", str(tmp_path))
    get_settings.cache_clear()
    with warehouse.writer() as connection:
        for sql in (
            f"create or replace table raw.night as select date '{DAY}' as day",
            "create table marts.products as select 'p' || i as product_id, case when i < 2 then 'Alder' else 'Brook' end "
            "as brand, 'Kitchen' as category, '{}' as attributes, true as is_available from range(5) as t(i)",
            "create table marts.recommendation_rules as select 'old' as rule_id, null::date as ends_on",
            "create table outputs.recommendations_current as select 'c' || c as customer_id, 'home' as placement, r + 1 as rank, "
            "'p' || r as product_id, 1.0 / (r + 1) as score, r + 1 as rank_before_rules from range(2) as a(c), range(3) as b(r)",
        ):
            connection.execute(sql)
    yield tmp_path
    get_settings.cache_clear()


def run(shop: Path, *arguments: str) -> tuple[int, str]:
    said = CliRunner().invoke(
        app, ["rules", *arguments, "--shop", str(shop)], env={"COLUMNS": "200", "DAY": ""}
    )
    return said.exit_code, said.output + said.stderr


def test_a_file_is_checked_against_the_shops_products(shop: Path) -> None:
    file = shop / "rules.csv"
    file.write_text(HEADER + "a,filter,,Alder,,ann,\nb,boost,,Birch,2,ann,\n")
    code, said = run(shop, "check", str(file))
    assert code == 0 and "2 rules in force, none wrong." in said
    assert "Rule `b` matches no product (brand `Birch`): it has no effect." in said
    assert "Rule `old` is in the warehouse and not in the file: it goes on." in said
    file.write_text(HEADER + "a,filter,,Alder,,ann,\nb,filter,,brook,,ann,\nc,boost,,Alder,0.5,ann,\n")
    code, said = run(shop, "check", str(file))
    assert code == 1
    assert "2 problems" in said and "a factor above 1" in said and "leave no available product at all" in said


def test_a_simulation_shows_and_writes_who_gains_and_publishes_nothing(shop: Path) -> None:
    file, to = shop / "rules.csv", shop / "out" / "effects.csv"
    file.write_text(
        HEADER + "a,boost,home,Brook,9,ann,\nb,boost,email,Alder,9,ann,\nc,bury,,Birch,0.5,ann,\n"
    )
    before = warehouse.read("select * from outputs.recommendations_current order by all")
    code, said = run(shop, "simulate", str(file), "--to", str(to))
    assert code == 0 and "home: 2 of 2 lists change" in said and "email" not in said
    assert "Rule a touches 2 slots." in said and "Rule c touches 0 slots." in said
    assert "Rule `c` touches no slot." in said and simulate.APPROXIMATE[:30] in said
    lines = to.read_text().splitlines()
    assert (
        lines[0].replace('"', "")
        == "placement,kind,name,slots_before,slots_after,exposure_before,exposure_after,lists"
    )
    assert [line.replace('"', "").split(",")[:5] for line in lines[1:3]] == [
        ["home", "product", "p2", "2", "2"], ["home", "product", "p0", "2", "2"],
    ]  # fmt: skip
    assert warehouse.read("select * from outputs.recommendations_current order by all").equals(before)


def test_what_cannot_be_simulated_is_said(shop: Path) -> None:
    with pytest.raises(RuleRefused, match=r"nowhere\.csv cannot be read"):
        simulate.read_file(shop / "nowhere.csv")
    with pytest.raises(NightmarketError, match="No recommendations are published yet"):
        simulate.report([], None)
    with pytest.raises(NightmarketError, match=r"ends in \.csv"):
        effects = simulate.compare(
            np.full((1, 2), -1, np.int32), applied(book(), candidates([]), 2), book(), "home"
        )
        simulate.report([effects], Path("effects.txt"))


@pytest.mark.parametrize("name", ["rules.csv", "rules.jsonl", "rules.parquet"])
def test_files_of_every_format_read_alike(tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / name
    if name.endswith("csv"):
        path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b'a,boost,,"Alder, Sons",1.5,ann,\n')
    elif name.endswith("jsonl"):
        path.write_text('{"rule_id": "a", "action": "boost", "brand": "Alder, Sons", "value": 1.5}\n')
    else:
        pq.write_table(
            pa.table({"rule_id": ["a"], "action": ["boost"], "brand": ["Alder, Sons"], "value": [1.5]}), path
        )
    from nightmarket.merchandising.rules import read

    rules, problems = read(simulate.read_file(path), DAY)
    assert problems == [] and [(r.rule_id, r.brand, r.value) for r in rules] == [("a", "Alder, Sons", 1.5)]
