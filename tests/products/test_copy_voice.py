"""The shop's voice in its copy: what is avoided is said by nobody, and another voice makes its language due."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nightmarket import guard, llm
from nightmarket.products import product_copy
from nightmarket.products.product_copy import policies, reviews, write, writing
from nightmarket.products.product_copy.facts import read_sheet
from nightmarket.products.product_copy.text import retold
from nightmarket.settings import get_settings
from tests.products.copy_nights import (
    BOTTLE,
    CHANNELS,
    GOOD,
    NEXT,
    THIRD,
    Scripted,
    bottles,
    by_grammar,
    night,
    pack,
    policy,
    reasons,
    rows_of,
    shelf,
)


def voice(text: str) -> guard.Packs:
    path = guard.shop_voice()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return guard.shop_packs()


AVOID = "avoid.en = ['comes in', 'drinks', 'colour', 'meet', 'steel', 'aquaron', 'details']\n"


def test_what_a_voice_avoids_is_said_by_nobody_and_on_no_channel(home: Path) -> None:
    policy(CHANNELS)
    packs = voice(AVOID)
    blind = Scripted("The Aquaron Steel Water Bottle comes in turquoise. The capacity is 750 ml.")
    for text in (
        *(write(read_sheet(row), blind, packs) for row in bottles(4)),
        *(product_copy.by_template(read_sheet(row), packs) for row in bottles(4)),
    ):
        told = [retold(text, text.sheet, policies.pack_of(text.sheet, packs, c)) for c in guard.CHANNELS[1:]]
        for shown in (text, *told):
            whole = "\n".join([shown.description, *shown.bullets, shown.meta_description]).lower()
            assert not any(word in whole for word in ("comes in", "drinks", "colour", "meet", "details"))
            assert not shown.blocked and "Aquaron Steel Water Bottle" in shown.title
        assert "stainless steel" in text.description and "Material: stainless steel" in text.bullets
    assert "in: The Aquaron Steel Water Bottle comes in turquoise." in reasons(
        write(read_sheet(BOTTLE), blind, packs)
    )


def test_a_title_that_is_cut_is_still_the_products_name(home: Path) -> None:
    policy(pack(channel="'shop_page'", limits="{ title = 20 }"))
    text = write(read_sheet(BOTTLE), Scripted(GOOD), voice("avoid.en = ['steel']"))
    assert (text.title, text.blocked) == ("Aquaron Steel Water", "")


def test_house_phrasings_with_an_avoided_word_are_not_offered_and_those_with_a_preferred_one_come_first(
    home: Path,
) -> None:
    def leads(packs: guard.Packs) -> set[str]:
        plans = [
            writing.plan(sheet, [], policies.pack_of(sheet, packs)) for sheet in map(read_sheet, bottles(6))
        ]
        return {plan.lead.alternatives[0].split(" the ")[0] for plan in plans}

    assert len(leads(guard.shop_packs())) > 2
    assert leads(voice("use.en = ['Discover']")) == {"Discover"}
    assert "Discover" not in leads(voice("avoid.en = ['discover']"))


def test_a_persons_words_are_held_against_the_voice(home: Path) -> None:
    sheet, text = read_sheet(BOTTLE), "The Aquaron Steel Water Bottle comes in turquoise."
    pack = policies.pack_of(sheet, voice(AVOID))
    assert "avoided: comes in" in str(reviews.edited(text, sheet, pack))
    row = {"title": sheet.title, "description": text, "bullets": "[]", "meta_description": None}
    assert reviews.unborne(row, sheet, pack).startswith("avoided: comes in")
    assert not reviews.unborne(
        row | {"description": f"{sheet.name} is made of stainless steel."}, sheet, pack
    )


def test_a_writer_is_asked_in_the_voice_freely_and_under_a_grammar(home: Path) -> None:
    packs = voice("tone = 'Plain.'\nexamples.en = ['A kettle that sings holds 9 litres.']")
    asked: list[llm.Request] = []

    def says(request: llm.Request) -> llm.Reply:
        asked.append(request)
        return by_grammar(request) if request.grammar else llm.Reply(
            "It holds 9 litres. The capacity is 750 ml.", 1, 1, "stop", False, 1
        )  # fmt: skip

    text = write(read_sheet(BOTTLE), Scripted(says), packs)
    assert [request.grammar is None for request in asked] == [True, False]
    assert all("\nTone: Plain.\n" in request.messages[0].content for request in asked)
    assert "9 litres" not in text.description, "an example is no fact"
    assert "The capacity is 750 ml." in text.description


def test_another_voice_makes_the_copy_of_its_language_due_and_the_same_one_costs_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (BOTTLE, BOTTLE | {"product_id": "p2", "locale": "zh-CN", "title": "水瓶"})
    shelf(*rows)
    night(Scripted(GOOD), monkeypatch)
    (plain,) = {row["prompt_version"] for row in rows_of().values()}
    assert re.fullmatch("[0-9a-f]{12}", plain)
    voice("use.en = ['turquoise']")
    shelf(*rows, day=NEXT)
    night(Scripted(GOOD), monkeypatch, NEXT)
    second = rows_of(NEXT)
    assert {p: r["change_cause"] for p, r in second.items()} == {"p1": "voice changed"}
    assert re.fullmatch(rf"{plain}\+[0-9a-f]{{12}}", second["p1"]["prompt_version"])
    assert second["p1"]["policy_version"] == rows_of()["p1"]["policy_version"]
    shelf(*rows, day=THIRD)
    writer = Scripted(GOOD)
    assert night(writer, monkeypatch, THIRD).note == "nothing to write" and writer.batches == []
    voice("tone = 'Plain.'\nuse.en = ['turquoise']")
    night(Scripted(GOOD), monkeypatch, THIRD)
    assert {p: r["change_cause"] for p, r in rows_of(THIRD).items()} == dict.fromkeys(
        ("p1", "p2"), "voice changed"
    )


def test_a_file_without_a_word_leaves_every_input_as_it_was(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(BOTTLE)
    night(Scripted(GOOD), monkeypatch)
    voice("tone = []\n[avoid]\nen = []\n")
    assert night(Scripted(GOOD), monkeypatch).note == "unchanged"


def test_live_copy_with_a_word_that_is_avoided_now_is_rewritten_first_or_taken_down(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        b | {"attributes": json.dumps({"Colour": "sage", "Capacity": "750 ml"})} for b in bottles(3)
    ] + bottles(5)[3:]
    shelf(*rows)
    night(Scripted("The material is stainless steel."), monkeypatch)
    monkeypatch.setenv("NIGHTMARKET_COPY_PRODUCTS_PER_NIGHT", "1")
    get_settings.cache_clear()
    voice("avoid.en = ['material is', 'sage']")
    shelf(*rows, day=NEXT)
    night(Scripted(""), monkeypatch, NEXT)
    second = rows_of(NEXT)
    assert {p: (r["status"], r["change_cause"]) for p, r in second.items()} == {
        "b03": ("published", "voice changed"),
        "b04": ("blocked", "voice changed: `material is` is avoided by the shop's voice (voice.toml)"),
    }
    assert "material is" not in second["b03"]["description"].lower()
