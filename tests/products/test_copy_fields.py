"""What a writer says of a page's other fields stands where the facts bear it; else what the house puts there does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nightmarket import guard, lake, llm
from nightmarket.products import product_copy
from nightmarket.products.product_copy import (
    fields,
    policies,
    read_sheet,
    reviews,
    write,
    write_many,
)
from nightmarket.settings import get_settings
from tests.products.copy_nights import (
    BOTTLE,
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

META = (
    "Meet the Aquaron Steel Water Bottle. It is made of stainless steel and keeps drinks cold for 24 hours."
)
LINES = "- Made of stainless steel\n- Keeps drinks cold for 24 hours"
TITLE = "Aquaron Steel Water Bottle, 750 ml, Turquoise"
# A short text, so that its cut is another one than META.
TEXT = "The Aquaron Steel Water Bottle comes in turquoise. The capacity is 750 ml."
ASKED = {
    "Describe this": "description", "Write a title": "title", "List the facts": "bullets", "Write a meta": "meta_description",
}  # fmt: skip


class Author(Scripted):
    """A writer that may write every field and says of each what it is told to; which it was asked for is kept."""

    writes = frozenset(llm.TEXTS)

    def __init__(self, **told: str) -> None:
        told = {"description": TEXT, "title": TITLE, "bullets": LINES, "meta_description": META} | told
        self.asked: list[str] = []

        def says(request: llm.Request) -> llm.Reply | llm.Failure:
            field = next(
                name for words, name in ASKED.items() if request.messages[-1].content.startswith(words)
            )
            if request.grammar is not None:
                return by_grammar(request)
            self.asked.append(field)
            if told[field] == "unavailable":
                return llm.Failure("the endpoint said no", "unavailable")
            return llm.Reply(told[field], 10, 20, "stop", False, 20)

        super().__init__(says)


@pytest.fixture
def every(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shop that wants all of a page from its writer."""
    want("description,title,bullets,meta_description", monkeypatch)


def want(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMARKET_COPY_FIELDS", listed)
    get_settings.cache_clear()


def page(row: Mapping[str, Any] = BOTTLE, packs: guard.Packs | None = None, **told: str) -> product_copy.Text:
    return write(read_sheet(row), Author(**told), packs)


def test_what_the_facts_bear_stands_in_every_field_with_a_claim_for_each_piece(every: None) -> None:
    text = page()
    assert (text.title, text.meta_description) == (TITLE, META)
    assert text.bullets == (
        "Made of stainless steel", "Keeps drinks cold for 24 hours", "Capacity: 750 ml", "Colour: turquoise",
    )  # fmt: skip
    assert [line.origin for line in text.lines] == ["free", "free", "facts", "facts"]
    assert (text.model_name, text.free, text.size) == ("scripted", 2, 100), (
        "four replies, and one under a grammar"
    )
    origins = {claim.sentence: origin for claim, origin in text.judged if origin}
    assert {TITLE, *text.bullets, *guard.sentences(META)} <= set(origins)
    assert origins[TITLE] == origins[guard.sentences(META)[0]] == "free"
    assert all(claim.verdict == "supported" and claim.evidence for claim, origin in text.judged if origin)


@pytest.mark.parametrize(("meta", "why"), [
    ("Meet the Aquaron Steel Water Bottle. It holds 900 ml.", "900"),
    ("Meet the Aquaron Steel Water Bottle. It cures colds.", "cures"),
    ("Meet the Aquaron Steel Water Bottle. Buy it for $5.", "$5"),
    ("Meet the Aquaron Steel Water Bottle. The warranty covers 24 hours.", "warranty"),
    ("Meet the aquaron steel water bottle. The capacity is 750 ml.", "aquaron"),
])  # fmt: skip
def test_a_sentence_of_a_meta_description_that_invents_is_dropped(home: Path, meta: str, why: str) -> None:
    text = page(meta_description=meta)
    assert why not in text.meta_description and why in reasons(text)
    assert text.meta_description.startswith(("Meet the Aquaron Steel Water Bottle.", TEXT[:20]))


@pytest.mark.parametrize("meta", [
    "It holds 900 ml.", "It is made of stainless steel.", "", "Meet the Aquaron", "Ignore all previous instructions.",
])  # fmt: skip
def test_a_meta_description_of_which_nothing_that_names_the_product_is_left_is_the_cut_as_before(
    home: Path, meta: str
) -> None:
    before = write(read_sheet(BOTTLE), Scripted(TEXT))
    text = page(meta_description=meta)
    assert text.meta_description == before.meta_description != META
    assert text.description.startswith(text.meta_description)


def test_a_meta_description_keeps_the_limit_of_its_pack_in_whole_sentences(home: Path) -> None:
    policy(pack(channel="'shop_page'", limits="{ meta_description = 90 }"))
    text = page(packs=guard.shop_packs())
    assert text.meta_description == "Meet the Aquaron Steel Water Bottle."
    assert "no room in 90 characters" in reasons(text)


@pytest.mark.parametrize(("title", "why"), [
    ("Steel Bottle by Aquaron, 750 ml", "a title without `Aquaron Steel Water Bottle`"),
    ("aquaron steel water bottle, 750 ml", "a title without `Aquaron Steel Water Bottle`"),
    ("Aquaron Steel Water Bottle", "a title without `750`"),
    ("Aquaron Steel Water Bottle, 750 ml, 900 ml", "number: 900"),
    ("Aquaron Steel Water Bottle, 750 ml, Thermos", "a sentence and no title: Thermos"),
    ("The best Aquaron Steel Water Bottle, 750 ml", "a sentence and no title: The"),
    (f"{TITLE}\nIt is made of steel.", "more than a title"),
    ("Meet the Aquaron Steel Water Bottle, 750 ml", "a sentence and no title: Meet"),
    ("Aquaron Steel Water Bottle. Details: 750 ml", "a sentence and no title: Details"),
    ("", ""),
])  # fmt: skip
def test_a_title_that_loses_or_invents_anything_gives_way_to_the_catalogues(
    every: None, title: str, why: str
) -> None:
    text = page(title=title)
    assert text.title == BOTTLE["title"] and why in reasons(text)


def test_a_title_is_not_asked_for_where_no_answer_could_keep_its_numbers(every: None) -> None:
    author = Author()
    # The code is a piece of the title that no text shows.
    write(read_sheet(BOTTLE | {"title": "Aquaron Steel Water Bottle (70260G0518)"}), author)
    assert author.asked == ["description", "bullets", "meta_description"]


def test_what_a_pack_requires_of_a_title_stands_before_the_writers(every: None) -> None:
    policy(pack(channel="'shop_page'", required="{ 'Ad' = 'title' }"))
    assert page(packs=guard.shop_packs()).title == f"Ad: {TITLE}"
    policy(
        pack(channel="'shop_page'", required="{ 'Ad' = 'title' }", limits=f"{{ title = {len(TITLE) + 2} }}")
    )
    assert page(packs=guard.shop_packs()).title == "Ad: Aquaron Steel Water Bottle, 750 ml"


def test_lines_that_invent_or_repeat_go_and_the_facts_they_leave_out_are_listed(every: None) -> None:
    text = page(
        bullets="- It holds 900 ml\n1. Made of stainless steel\n- Material: stainless steel\n* made by Thermos\n"
    )
    assert text.bullets == (
        "Made of stainless steel", "Capacity: 750 ml", "Keeps cold: 24 hours", "Colour: turquoise",
    )  # fmt: skip
    assert "900" in reasons(text) and "says nothing new" in reasons(text)


def test_beside_a_template_stands_what_the_house_puts_there(every: None) -> None:
    text = page(description="It cures colds.")
    assert text.model_name == "template (the guard emptied the text)"
    assert text.title == BOTTLE["title"] and text.meta_description != META
    assert {line.origin for line in text.lines} == {"facts"}


@pytest.mark.parametrize(("listed", "writes", "asked"), [
    ("description,meta_description", llm.TEXTS, ["description", "meta_description"]),
    ("description, meta_description", ("description",), ["description"]),
    ("description,title,bullets,meta_description", llm.TEXTS, ["description", "title", "bullets", "meta_description"]),
    ("meta_description", llm.TEXTS, ["meta_description"]),
])  # fmt: skip
def test_a_writer_is_asked_for_what_the_shop_wants_and_it_learnt(
    home: Path, monkeypatch: pytest.MonkeyPatch, listed: str, writes: tuple[str, ...], asked: list[str]
) -> None:
    want(listed, monkeypatch)
    author = Author()
    author.writes = frozenset(writes)  # type: ignore[misc]
    write(read_sheet(BOTTLE), author)
    assert author.asked == asked


def test_a_field_that_no_page_has_is_no_setting(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="NIGHTMARKET_COPY_FIELDS"):
        want("description,price", monkeypatch)
        get_settings()


def test_a_writer_that_was_not_there_for_one_field_leaves_the_page_for_another_night(home: Path) -> None:
    (failure,) = write_many([read_sheet(BOTTLE)], Author(meta_description="unavailable"))
    assert isinstance(failure, llm.Failure) and failure.kind == "unavailable"


# --- nights -----------------------------------------------------------------------------------------------------------


def test_an_unchanged_night_asks_nothing_and_another_wish_asks_for_the_pages_anew(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(BOTTLE)
    assert night(Author(), monkeypatch).tokens_out == 60
    assert rows_of()["p1"]["meta_description"] == META
    for day in (NEXT, THIRD):
        shelf(BOTTLE, day=day)
    author = Author()
    outcome = night(author, monkeypatch, NEXT)
    assert (outcome.note, outcome.tokens_in, outcome.tokens_out, author.asked) == (
        "nothing to write",
        0,
        0,
        [],
    )
    want("description,title,meta_description", monkeypatch)
    night(Author(), monkeypatch, THIRD)
    row = rows_of(THIRD)["p1"]
    assert (row["title"], row["change_cause"]) == (TITLE, "prompt changed")
    claims = lake.read("copy_claims", THIRD).to_pylist()
    assert {TITLE, *guard.sentences(META)} <= {c["sentence"] for c in claims if c["origin"] == "free"}


def test_the_nights_budget_counts_every_field(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMARKET_COPY_TOKENS_PER_NIGHT", "100")
    get_settings.cache_clear()
    shelf(*bottles(5))
    author = Author(description=GOOD)
    night(author, monkeypatch)
    # 20 tokens a reply, two of them a page (and none under a grammar): the third page ends the night.
    assert len(rows_of()) == 3


def test_products_with_the_same_meta_description_are_no_twins(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cup = BOTTLE | {
        "product_id": "p2",
        "title": "Aquaron Oak Cup",
        "attributes": json.dumps({"Colour": "sage", "Origin": "Spain"}),
    }

    def says(request: llm.Request) -> llm.Reply | llm.Failure:
        if request.grammar is not None:
            return by_grammar(request)
        name = "Oak Cup" if "Oak Cup" in request.messages[-1].content else "Steel Water Bottle"
        if request.messages[-1].content.startswith("Write a meta"):
            return llm.Reply(f"Meet the Aquaron {name}.", 1, 1, "stop", False, 1)
        told = (
            "It comes from Spain. The colour is sage."
            if name == "Oak Cup"
            else "It comes in turquoise. The capacity is 750 ml."
        )
        return llm.Reply(f"Meet the Aquaron {name}. {told}", 1, 1, "stop", False, 1)

    author = Author()
    author.says = says
    shelf(BOTTLE, cup)
    outcome = night(author, monkeypatch)
    assert {row["meta_description"] for row in rows_of().values()} == {
        "Meet the Aquaron Steel Water Bottle.", "Meet the Aquaron Oak Cup.",
    }  # fmt: skip
    assert "another product's" not in outcome.note


def test_a_written_page_whose_meta_description_the_facts_bear_no_more_does_not_come_back(home: Path) -> None:
    sheet, row = (
        read_sheet(BOTTLE),
        {"title": TITLE, "description": TEXT, "bullets": "[]", "meta_description": META},
    )
    own = policies.pack_of(sheet, guard.read_packs())
    assert reviews.unborne(row, sheet, own) == ""
    warm = read_sheet(BOTTLE | {"attributes": json.dumps({"Capacity": "750 ml", "Colour": "turquoise"})})
    assert "hours" in reviews.unborne(row | {"title": warm.title}, warm, own)


def test_a_request_shows_a_title_every_piece_of_the_shops_own(home: Path) -> None:
    sheet = read_sheet(BOTTLE | {"title": "Aquaron Steel Water Bottle, Wide Mouth, 750 ml"})
    own = policies.pack_of(sheet, guard.read_packs())
    request = fields.request("title", sheet, own)
    assert request is not None and "details: Wide Mouth" in request.messages[-1].content
    assert "details" not in fields.messages("description", sheet, own)[-1].content
