"""Beside descriptions a writer learns every other text that a night asks for, as a night asks, and nothing a night would refuse."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nightmarket import guard, lake, llm
from nightmarket.llm import tuned
from nightmarket.products import profiles, summaries
from nightmarket.products.product_copy import policies
from nightmarket.products.profile_summary import Facts
from nightmarket.training import curriculum, field_pairs, pairs, proof, summary_pairs
from tests.training.tiny_writer import catalogue, plain_shop

DAY = date(2026, 3, 2)
ENGLISH = frozenset({"en"})
BESIDE = ("title", "bullets", "meta_description")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[pairs.Pair]:
    """The pairs of a day of a shop that has a catalogue and knows no customer."""
    with plain_shop(tmp_path_factory.mktemp("curriculum")):
        return curriculum.pairs_of(DAY, catalogue(), seed=7, languages=ENGLISH)


def test_every_text_is_learnt_and_descriptions_are_two_thirds(found: list[pairs.Pair]) -> None:
    train = Counter(pair.field for pair in pairs.on("train", found))
    assert set(train) == set(llm.TEXTS)
    assert train["description"] > 0.65 * train.total() and sum(curriculum.SHARES.values()) <= 0.5
    assert pairs.of("description", found) == found[: len(pairs.of("description", found))]


def test_no_product_and_no_customer_is_on_two_sides(found: list[pairs.Pair]) -> None:
    sides: dict[str, set[str]] = {}
    for pair in found:
        sides.setdefault(pair.product_id, set()).add(pair.side)
    assert {len(of) for of in sides.values()} == {1}
    groups: dict[str, set[str]] = {}
    for pair in pairs.of("summary", found):
        facts = summaries.facts_in(pair.messages[-1][1])
        groups.setdefault(summary_pairs.group_of(facts), set()).add(pair.side)
    assert len(groups) > 5 and {len(of) for of in groups.values()} == {1}


def test_a_pair_asks_as_a_night_asks_and_a_night_would_publish_all_of_its_text(
    found: list[pairs.Pair],
) -> None:
    sheets = {sheet.product_id: sheet for _, sheet in pairs.sheets(catalogue(), ENGLISH)}
    packs = guard.read_packs()
    for pair in found:
        if pair.field in BESIDE:
            sheet = sheets[pair.product_id]
            pack = policies.pack_of(sheet, packs)
            assert field_pairs.stands(pair.field, pair.text, sheet, pack), pair
            assert pair.messages == pairs.prompt(sheet, pack, pair.field)
            assert "7946" not in pair.text and "cures" not in pair.text
    metas = [pair.text for pair in pairs.of("meta_description", found)]
    assert all(len(text) <= 155 for text in metas) and len({text.split(" the ")[0] for text in metas}) > 2
    for pair in pairs.of("summary", found):
        facts = summaries.facts_in(pair.messages[-1][1])
        assert summaries.faults(pair.text, facts) == [] and pair.messages == tuple(
            map(tuple, summaries.messages(facts))
        )


def test_a_text_that_a_night_would_cut_is_no_pair(home: Path) -> None:
    (sheet,) = (sheet for _, sheet in pairs.sheets(catalogue().slice(0, 1), ENGLISH))
    pack = policies.pack_of(sheet, guard.read_packs())
    for field, text in (
        ("meta_description", f"Meet the {sheet.name}. It holds 900 ml."), ("title", f"{sheet.name}, 900 ml"),
        ("bullets", "- Made of steel\n- Holds 900 ml"), ("meta_description", "It is made of steel."),
    ):  # fmt: skip
        assert not field_pairs.stands(field, text, sheet, pack), field


def test_facts_of_customers_are_told_without_who_they_are_and_with_other_days(home: Path) -> None:
    known = [
        Facts(3 + n % 9, date(2026, 2, 1 + n % 28), 5 + n, (f"Shelf {'abcdefgh'[n % 8]}",), None)
        for n in range(80)
    ]
    made = list(summary_pairs.made(known, catalogue(), DAY, seed=7))
    assert len(made) > 60 and made == list(summary_pairs.made(known[::-1], catalogue(), DAY, seed=7))
    told = [summaries.facts_in(pair.messages[-1][1]) for pair in made]
    assert {(facts.orders, facts.every_days) for facts in told} <= {
        (facts.orders, facts.every_days) for facts in known
    }
    days = {facts.last_on for facts in told}
    assert all(day and day < date(2026, 2, 28) for day in days) and len(days) > 40


def test_who_refused_profiling_is_learnt_from_no_more_than_a_bot(home: Path) -> None:
    from tests.products.test_profiles import AFFINITIES, FEATURES, customer, sign

    assert profiles.known_facts(DAY) == []
    rows = [
        customer("a", 4),
        customer("no", 5, profiling="refused"),
        customer("bot", 900, is_bot=True),
        customer("cold", 0),
    ]
    lake.write("customer_features", DAY, pa.Table.from_pylist(rows, schema=FEATURES), key=("customer_id",))
    liked = pa.Table.from_pylist([sign("a", "category", "Kitchen > Coffee", 3)], schema=AFFINITIES)
    lake.write("customer_affinities", DAY, liked, key=("customer_id", "dimension", "value"))
    assert profiles.known_facts(DAY) == [Facts(4, datetime(2026, 2, 27).date(), 10, ("Coffee",), None)]


def test_pairs_come_back_from_the_lake_as_they_were(home: Path, found: list[pairs.Pair]) -> None:
    assert pairs.freeze(DAY, found)[1]
    assert sorted(map(repr, pairs.load(DAY))) == sorted(map(repr, found))
    assert not pairs.freeze(DAY, found)[1]


# --- what a writer says that it learnt --------------------------------------------------------------------------------


def test_a_writer_that_does_not_say_what_it_learnt_learnt_descriptions(home: Path, tmp_path: Path) -> None:
    tuned.write(tmp_path, {"model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((2, 576))}, scale=1.0)
    page = tmp_path / "writer.json"
    old = {name: value for name, value in json.loads(page.read_text()).items() if name != "writes"}
    page.write_text(json.dumps(old))
    first = tuned.writer(tmp_path, name="old")
    assert llm.LocalGenerator(tuned=first).writes == {"description"}
    tuned.says(tmp_path, ["description", "summary"])
    second = tuned.writer(tmp_path, name="new")
    assert llm.LocalGenerator(tuned=second).writes == {"description", "summary"}
    assert first.digest == second.digest and llm.LocalGenerator().writes == frozenset()


def test_texts_with_too_few_pairs_are_not_learnt(found: list[pairs.Pair]) -> None:
    assert curriculum.learnt(pairs.of("description", found)) == ["description"]
    few = [
        *pairs.of("description", found),
        *pairs.on("train", pairs.of("title", found))[: curriculum.LEAST_LEARNT - 1],
    ]
    assert curriculum.learnt(few) == ["description"]


def test_the_share_that_stands_is_of_what_a_writer_says_itself(home: Path, found: list[pairs.Pair]) -> None:
    by_prompt = {pair.messages: pair.text for pair in found}

    class Parrot:
        languages, spent = ENGLISH, llm.Spent()

        def __init__(self, lies: bool) -> None:
            self.lies, self.name = lies, "parrot"

        def attempt(self, requests: list[llm.Request]) -> list[llm.Reply]:
            texts = [by_prompt[tuple(map(tuple, request.messages))] for request in requests]
            return [llm.Reply("99 lies." if self.lies else text, 1, 1, "stop", False, 1) for text in texts]

    for field in ("meta_description", "summary"):
        some = pairs.of(field, found)[:4]
        assert proof.share_that_stands(some, catalogue(), Parrot(False)) == 1.0, field  # type: ignore[arg-type]
        assert proof.share_that_stands(some, catalogue(), Parrot(True)) == 0.0, field  # type: ignore[arg-type]
