"""What policy packs ask of copy: labels of who wrote it, words, lengths and channels, also when they change."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from nightmarket import guard, lake, products, warehouse
from nightmarket.products.product_copy import PRODUCT, policies, write
from nightmarket.products.product_copy.facts import read_sheet
from nightmarket.settings import get_settings
from tests.products.copy_nights import (
    BOTTLE,
    CHANNELS,
    DAY,
    GOOD,
    NEXT,
    THIRD,
    Scripted,
    bottles,
    failing,
    night,
    pack,
    policy,
    rows_of,
    said,
    shelf,
)

# --- who wrote it, for those who read it ------------------------------------------------------------------------------


def marks(day: date = DAY) -> dict[str, tuple[Any, ...]]:
    return {
        product: (row["is_ai_written"], row["ai_label"], row["ai_metadata"])
        for product, row in rows_of(day).items()
    }


def test_what_a_writer_wrote_or_chose_is_marked_as_its_pack_says_and_what_none_wrote_is_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(pack(category="'Plain'", ai_label="{ text = '', metadata = false }"))
    free, other, plain, bare = (
        row | {"product_id": name} for name, row in zip("abcd", bottles(4), strict=True)
    )
    shelf(free, other, plain | {"category": "Plain"}, bare | {"locale": "fr"})
    night(Scripted(failing("invalid")), monkeypatch)
    assert marks() == {
        "a": (True, "Written with AI", True), "b": (False, None, False), "c": (True, None, False), "d": (False, None, False),
    }  # fmt: skip


def test_a_label_that_changed_is_on_every_live_text_in_the_next_night_whatever_the_budget(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(*bottles(3))
    night(Scripted(GOOD), monkeypatch)
    policy(pack(locale="'en'", ai_label="{ text = 'Drafted with AI' }"))
    monkeypatch.setenv("NIGHTMARKET_COPY_PRODUCTS_PER_NIGHT", "1")
    get_settings.cache_clear()
    shelf(*bottles(3), day=NEXT)
    outcome = night(Scripted(GOOD), monkeypatch, NEXT)
    assert "2 carried over; 2 got another AI label" in outcome.note
    assert set(marks(NEXT).values()) == {(True, "Drafted with AI", True)} and len(marks(NEXT)) == 3
    rows = rows_of(NEXT)
    assert {row["change_cause"] for row in rows.values()} == {"policy changed", "AI label changed"}
    assert {(row["version"], row["supersedes"], row["status"]) for row in rows.values()} == {
        (2, 1, "published")
    }
    # What is said of each sentence goes with it, and the two are still due.
    claims = [c for c in lake.read("copy_claims", NEXT).to_pylist() if c["version"] == 2]
    assert {claim["product_id"] for claim in claims} == {"b00", "b01", "b02"}
    shelf(*bottles(3), day=THIRD)
    assert night(Scripted(GOOD), monkeypatch, THIRD).note.split("; ")[:2] == [
        "1 by scripted, 0 by template", "1 carried over",
    ]  # fmt: skip


def test_copy_of_a_release_without_labels_gets_them_in_the_next_night(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(*bottles(2))
    night(Scripted(failing("invalid")), monkeypatch)
    with warehouse.writer() as connection:
        connection.execute("drop view outputs.product_copy_current")
        for column in ("is_ai_written", "ai_label", "ai_metadata"):
            connection.execute(f"alter table outputs.product_copy drop column {column}")
    found = warehouse.read("select product_id, is_ai_written, ai_label from outputs.product_copy order by 1")
    assert found["ai_label"].to_pylist() == [None, None]
    shelf(*bottles(2), day=NEXT)
    assert night(Scripted(GOOD), monkeypatch, NEXT).note == "nothing to write; 2 got another AI label"
    assert marks(NEXT) == {"b00": (True, "Written with AI", True), "b01": (False, None, False)}
    assert {row["change_cause"] for row in rows_of(NEXT).values()} == {"AI label added"}
    shelf(*bottles(2), day=THIRD)
    assert night(Scripted(GOOD), monkeypatch, THIRD).note == "nothing to write"


# --- policy packs -----------------------------------------------------------------------------------------------------


def test_a_certified_word_needs_the_products_own_certificate() -> None:
    tea = {"title": "Organic Green Tea", "brand": "Leaf", "category": "Food > Tea"}
    plain = said("", **tea, attributes=json.dumps({"Pack size": "50 g", "Leaf grade": "whole"}))
    assert plain.title == "Green Tea" and "rganic" not in plain.description + " ".join(plain.bullets)
    assert any(gone.value == "Organic" and "certificate" in gone.reason for gone in plain.removed)
    certified = said("", **tea, attributes=json.dumps({"Pack size": "50 g", "Certification": "EU organic"}))
    assert certified.title == "Organic Green Tea" and "Organic Green Tea" in certified.description


@pytest.mark.parametrize(("attributes", "carried"), [
    ([("Certification", "EU organic")], {"organic", "eu_organic"}),
    ([("certifications", "USDA Organic, Fairtrade and FSC 100%")], {"organic", "fair_trade", "fsc", "usda_organic", "fairtrade", "fsc_100"}),
    ([("认证", "有机、绿色食品")], {"organic", "green_food", "有机", "绿色食品"}),
    ([("Certificate", "Rainforest Alliance")], {"rainforest_alliance"}),
    ([("Certification", "not organic")], {"not_organic"}),
    ([("Certification", "organic (pending)")], {"organic_pending"}),
    ([("Material", "organic cotton"), ("Waterproof", "yes")], set()),
    ([], set()),
])  # fmt: skip
def test_certificates_are_what_attributes_of_that_name_say(
    attributes: list[tuple[str, str]], carried: set[str]
) -> None:
    assert policies.certificates(attributes) == carried


def test_what_a_pack_forbids_stays_out_of_free_sentences_and_house_phrasings(home: Path) -> None:
    policy(pack(category="'Kitchen'", forbidden="['turquoise', 'meet the', 'comes in']"))
    packs = guard.shop_packs()
    for row in bottles(6):
        text = write(read_sheet(row), Scripted(f"{GOOD} It is the real turquoise thing."), packs)
        whole = "\n".join([text.title, text.description, *text.bullets, text.meta_description]).lower()
        assert not any(phrase in whole for phrase in ("turquoise", "meet the", "comes in"))
        assert not text.blocked and "24 hours" in whole
    assert write(read_sheet(BOTTLE | {"category": "Garden"}), Scripted(GOOD), packs).description == GOOD


def test_lengths_and_required_words_of_a_pack_hold_in_every_field(home: Path) -> None:
    policy(pack(
        channel="'shop_page'", required="{ 'Sample' = 'description', 'Ad' = 'title' }",
        limits="{ title = 24, description = 80, bullet = 20, bullets = 2, meta_description = 40 }",
    ))  # fmt: skip
    text = write(read_sheet(BOTTLE), Scripted(GOOD), guard.shop_packs())
    assert (text.title, text.blocked) == ("Ad: Aquaron Steel Water", "")
    assert text.description == "Sample. The Aquaron Steel Water Bottle comes in turquoise."
    assert text.bullets == ("Capacity: 750 ml", "Keeps cold: 24 hours")
    assert len(text.meta_description) <= 40
    assert text.body[0].claims[0].evidence == "policy pack for shop_page"


@pytest.mark.parametrize("rules", [
    {"forbidden": "['aquaron', 'steel', 'water', 'bottle', 'ml', '750']"},
    {"characters": "'[A-Za-z]'", "locale": "'en'"},
    {"limits": "{ description = 1 }", "channel": "'shop_page'"},
    {"limits": "{ title = 1 }", "channel": "'shop_page'"},
])  # fmt: skip
def test_a_pack_that_leaves_nothing_blocks_the_product_and_says_why(
    home: Path, monkeypatch: pytest.MonkeyPatch, rules: dict[str, str]
) -> None:
    policy(pack(**rules))
    shelf(BOTTLE)
    night(Scripted(GOOD), monkeypatch)
    row = rows_of()["p1"]
    assert row["status"] == "blocked"
    assert row["change_cause"].startswith("new product; blocked: `")


def test_another_rule_for_one_category_rewrites_that_category_only(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lamp = BOTTLE | {"product_id": "p2", "title": "Aquaron Lamp", "category": "Lamps"}
    shelf(BOTTLE, lamp)
    night(Scripted(GOOD), monkeypatch)
    policy(pack(category="'Lamps'", forbidden="['dazzling']"))
    shelf(BOTTLE, lamp, day=NEXT)
    night(Scripted(GOOD), monkeypatch, NEXT)
    assert {p: r["change_cause"] for p, r in rows_of(NEXT).items()} == {"p2": "policy changed"}


def test_live_copy_that_a_new_pack_forbids_is_rewritten_first_or_taken_down(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMARKET_COPY_PRODUCTS_PER_NIGHT", "5")
    get_settings.cache_clear()
    green = {"attributes": json.dumps({"Colour": "sage", "Capacity": "750 ml"})}
    rows = [b | green for b in bottles(3)] + bottles(5)[3:]
    shelf(*rows)
    night(Scripted(""), monkeypatch)
    monkeypatch.setenv("NIGHTMARKET_COPY_PRODUCTS_PER_NIGHT", "1")
    get_settings.cache_clear()
    policy(pack(forbidden="['turquoise']"))
    shelf(*rows, day=NEXT)
    outcome = night(Scripted(""), monkeypatch, NEXT)
    second = rows_of(NEXT)
    assert sorted(second) == ["b03", "b04"], "all five are stale, the two that breach come first"
    assert second["b03"]["status"] == "published" and "turquoise" not in second["b03"]["description"]
    assert (second["b04"]["status"], second["b04"]["version"]) == ("blocked", 2)
    assert second["b04"]["change_cause"] == "policy changed: `turquoise` must not be said here (ours)"
    assert outcome.note == "0 by scripted, 1 by template; 4 carried over; 1 taken down"
    shelf(*rows, day=THIRD)
    night(Scripted(""), monkeypatch, THIRD)
    third = rows_of(THIRD)["b04"]
    assert (third["status"], third["version"], third["change_cause"]) == ("published", 3, "policy changed")


def test_copy_that_breaches_is_not_kept_for_want_of_a_writer(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(BOTTLE)
    night(Scripted(GOOD), monkeypatch)
    policy(pack(forbidden="['turquoise']"))
    shelf(BOTTLE, day=NEXT)
    night(Scripted(failing("unavailable", of="Bottle")), monkeypatch, NEXT)
    row = rows_of(NEXT)["p1"]
    assert row["status"] == "published" and "turquoise" not in row["description"]
    assert row["model_name"] == "template (the writer was unavailable)"


def test_copy_that_is_only_too_long_stays_until_it_is_rewritten(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(*bottles(2))
    night(Scripted(GOOD), monkeypatch)
    monkeypatch.setenv("NIGHTMARKET_COPY_PRODUCTS_PER_NIGHT", "1")
    get_settings.cache_clear()
    policy(pack(channel="'shop_page'", limits="{ description = 100 }"))
    shelf(*bottles(2), day=NEXT)
    night(Scripted(GOOD), monkeypatch, NEXT)
    assert list(rows_of(NEXT)) == ["b00"] and len(rows_of(NEXT)["b00"]["description"]) <= 100


# --- channels --------------------------------------------------------------------------------------------------------


def channels_of(day: date = DAY) -> dict[str, dict[str, Any]]:
    return {row["channel"]: row for row in lake.read("product_copy", day).to_pylist()}


def test_a_shop_gets_copy_for_the_channels_that_its_own_packs_speak_of(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(BOTTLE)
    night(Scripted(GOOD), monkeypatch)
    assert list(channels_of()) == ["shop_page"]
    policy(CHANNELS)
    shelf(BOTTLE, day=NEXT)
    night(Scripted(GOOD), monkeypatch, NEXT)
    made = channels_of(NEXT)
    assert {c: (r["title"], r["description"], r["status"]) for c, r in made.items()} == {
        "email": ("Ad: Aquaron Steel Water Bottle", "The Aquaron Steel Water Bottle comes in turquoise.", "published"),
        "push": (
            "Aquaron Steel Water Bottle",
            "It is made of stainless steel and keeps drinks cold for 24 hours. The capacity is 750 ml.", "published",
        ),
        "search_ad": (
            "Aquaron Steel Water Bottle",
            "The Aquaron Steel Water Bottle comes in turquoise.\n"
            "It is made of stainless steel and keeps drinks cold for 24 hours.", "published",
        ),
    }  # fmt: skip
    assert all(row["change_cause"] == "new product" and row["bullets"] == "[]" for row in made.values())
    claims = lake.read("copy_claims", NEXT).to_pylist()
    for channel, row in made.items():
        told = {c["sentence"] for c in claims if c["channel"] == channel and c["verdict"] == "supported"}
        assert all(
            sentence in told for line in row["description"].split("\n") for sentence in guard.sentences(line)
        )
    products.check(PRODUCT, NEXT, "r9")


def test_a_channel_that_no_pack_speaks_of_any_more_is_retired(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(CHANNELS)
    shelf(BOTTLE)
    night(Scripted(GOOD), monkeypatch)
    assert sorted(channels_of()) == ["email", "push", "search_ad", "shop_page"]
    guard.shop_policy().unlink()
    shelf(BOTTLE, day=NEXT)
    night(Scripted(GOOD), monkeypatch, NEXT)
    gone = channels_of(NEXT)
    assert {c: r["status"] for c, r in gone.items()} == {c: "retired" for c in ("email", "push", "search_ad")}
    assert gone["push"]["change_cause"] == "no pack of the shop speaks of push any more"


def test_chinese_mail_and_ads_say_that_they_are_advertising(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(CHANNELS.replace('required = { "Ad" = "subject" }\n', ""))
    cup = BOTTLE | {
        "title": "龙泉青瓷茶杯 200毫升", "brand": "青禾", "category": "家居 > 茶具", "locale": "zh",
        "attributes": json.dumps({"材质": "青瓷", "容量": "200毫升", "产地": "浙江龙泉"}),
    }  # fmt: skip
    shelf(cup)
    night(Scripted("这款龙泉青瓷茶杯来自青禾。采用青瓷制成。"), monkeypatch)
    made = channels_of()
    assert made["email"]["title"] == "广告：龙泉青瓷茶杯" and made["email"]["status"] == "published"
    assert made["search_ad"]["description"].startswith("广告。\n")
    assert len(made["search_ad"]["title"]) <= 15
