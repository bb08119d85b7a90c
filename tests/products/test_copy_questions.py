"""A question about copy shows what somebody needs to decide; an answer decides about that version, once, or about nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from markdown_it import MarkdownIt

from nightmarket import ledger
from nightmarket.errors import ReviewRefused
from nightmarket.products.product_copy import desk, questions
from nightmarket.settings import get_settings
from tests.products.test_copy_reviews import (  # noqa: F401 - `mute` is the writer of all these nights
    MUG,
    SAGE,
    SPOON,
    WORDS,
    approved_spoon,
    mute,
    night,
    texts,
)

ABOUT = '["p1", "shop_page", "en", 1]'


def asked(*before: str) -> list[questions.Question]:
    return questions.unanswered(before)[0]


def answer(choice: str, about: str | None = ABOUT, **more: Any) -> str:
    """The note of an answer that Anna gave just now."""
    given = {"by": "anna", "at": datetime.now(UTC)} | more
    return questions.take_down(about=about, choice=choice, **given).note


def decisions() -> list[tuple[int, str, str, str | None]]:
    rows = ledger.rows("copy_reviews").to_pylist()
    return [(row["version"], row["decision"], row["reviewer"], row["reason"]) for row in rows]


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_a_question_has_the_text_what_readers_see_the_fact_behind_each_sentence_and_why_a_person_is_asked() -> (
    None
):
    approved_spoon()
    night(2, SAGE)
    (question,) = asked()
    assert question.about == '["p1", "shop_page", "en", 3]'
    assert question.subject == "p1: Aquaron Weaning Spoon (shop_page, en, version 3)"
    assert question.text == "Meet the Aquaron Weaning Spoon. Made of silicone, in sage. Order yours today."
    waits, shown, borne, why = question.body.split("### ")[1:]
    assert waits.startswith("Waits for a decision\n\n> **Aquaron Weaning Spoon**\n>\n> Meet the Aquaron")
    assert "> - Colour\\: sage" in waits
    assert "\n\nAI label: none\\: no model had part in it." in waits
    assert "Version 2, until somebody decides" in shown and "turquoise" in shown
    assert "- Made of silicone\\, in sage\\.\n  - Material\\: silicone ← attributes\\.Material\n" in borne
    assert "  - Colour\\: sage ← attributes\\.Colour" in borne
    assert "Policy pack **baby** says that a wrong word does harm here" in why
    assert "Written because: facts changed\\: attributes\\.Colour." in why
    assert "is rejected by the night of 2026-03-07" in why


def test_a_first_text_says_that_readers_see_nothing_yet() -> None:
    night(0, SPOON)
    assert "Nothing: this text would be the first." in asked()[0].body


def test_words_of_the_shop_are_shown_as_they_stand_and_are_neither_link_nor_layout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    night(0, SPOON)
    (entry,) = desk.listed("pending")
    words = (
        "[Win](https://evil.example) ![x](//evil.example/p.png) <img src=x> <b>&amp; `q` *now* a@evil.example"
    )
    more = "# Head\n- list\n1. one\n> quote\nhttps://evil.example www.evil.example"
    row = dict(entry.row) | {"title": words, "description": more, "meta_description": words}
    claim = dict(entry.claims[0]) | {"sentence": words, "claim": words, "evidence": words}
    monkeypatch.setattr(desk, "listed", lambda status: [replace(entry, row=row, claims=(claim,))])
    (question,) = asked()
    page = MarkdownIt("commonmark").render(question.body)
    assert re.findall(r"<(?!/?(?:h3|p|blockquote|strong|ul|li)\b)[^>]*>", page) == []
    assert page.count("<h3>") == 4 and "<p># Head</p>\n<p>- list</p>\n<p>1. one</p>" in page
    # A page may make links of bare addresses too, after all escapes are gone.
    read = page.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert re.findall(r"https?://|www\.|[-.\w+]@[-\w]", read) == []
    assert read.replace("\u2060", "").count(words) == 5


def test_asked_are_those_who_waited_longest_and_nobody_decided_about_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoons = [SPOON | {"product_id": f"p{n}", "title": f"Aquaron Spoon {n}"} for n in (1, 2, 3)]
    night(0, spoons[1], spoons[2])
    night(1, *spoons, MUG | {"product_id": "m1"})
    desk.approve("p2", reviewer="anna")
    found, outcome = questions.unanswered(())
    assert [(question.about, question.days) for question in found] == [
        ('["p3", "shop_page", "en", 1]', 2), ('["p1", "shop_page", "en", 1]', 3),
    ]  # fmt: skip
    assert (outcome.rows_in, outcome.rows_out, outcome.note) == (2, 2, "2 to decide about")
    monkeypatch.setenv("NIGHTMARKET_COPY_QUESTIONS_PER_NIGHT", "1")
    get_settings.cache_clear()
    assert questions.unanswered(())[1].note == "1 to decide about; 1 wait for another night's questions"
    found, outcome = questions.unanswered([found[0].about])
    assert [question.about for question in found] == [ABOUT]
    assert outcome.note == "1 to decide about; 1 asked about before"


# --- what an answer decides -------------------------------------------------------------------------------------------


def test_answers_are_decisions_under_the_name_of_who_gave_them() -> None:
    night(0, SPOON)
    assert answer("Approve", text=asked()[0].text, reason="looks right") == "approve"
    assert answer("Edit", text=WORDS) == "edit"
    assert answer("Reject", by="ben", reason="no") == "reject"
    assert decisions() == [(1, "approve", "anna", "looks right"), (1, "edit", "anna", None), (1, "reject", "ben", "no")]  # fmt: skip
    assert ledger.rows("copy_reviews")["text"].to_pylist() == [None, WORDS, None]


def test_an_answer_is_taken_down_once_and_does_not_come_back_over_a_later_one() -> None:
    night(0, SPOON)
    at = datetime.now(UTC)
    answer("Approve", at=at)
    desk.reject("p1", reviewer="ben", reason="no")
    assert answer("Approve", at=at) == "approve: taken down before"
    assert [decision for _, decision, *_ in decisions()] == ["approve", "reject"]
    night(1, SPOON)
    assert answer("Approve", at=at) == "approve: taken down before", "the text is gone by now"
    assert texts() == [(2, "blocked", "rejected by ben: no")]


def test_an_answer_about_a_superseded_version_hits_no_other() -> None:
    night(0, SPOON)
    night(1, SAGE)
    with pytest.raises(ReviewRefused, match=r"Version 1 .* superseded: now there is version 2 \(pending\)"):
        answer("Approve")
    with pytest.raises(ReviewRefused, match="superseded"):
        answer("Edit", text=WORDS)
    assert decisions() == []
    answer("Approve", '["p1", "shop_page", "en", 2]')
    night(2, SAGE)
    night(3, SPOON)
    assert [(version, status) for version, status, _ in texts()] == [(3, "approved"), (4, "pending")]
    answer("Reject", '["p1", "shop_page", "en", 3]')
    assert decisions() == [(2, "approve", "anna", None), (3, "reject", "anna", None)]


def test_nobody_answering_in_time_is_a_rejection_that_says_so() -> None:
    night(0, SPOON)
    assert answer("Reject", by=None) == "reject: nobody decided within 3 days"
    assert decisions() == [(1, "reject", "the deadline", "nobody decided within 3 days")]
    night(1, SPOON)
    assert texts() == [(2, "blocked", "rejected by the deadline: nobody decided within 3 days")]


def test_a_default_yields_to_whoever_decided_and_to_the_night_that_was_faster() -> None:
    night(0, SPOON)
    desk.approve("p1", reviewer="anna")
    assert answer("Reject", by=None) == "decided meanwhile"
    night(1, SAGE)
    night(4, SAGE)
    assert texts() == [(3, "blocked", "rejected: nobody decided within 3 days")]
    assert answer("Reject", '["p1", "shop_page", "en", 2]', by=None) == "superseded meanwhile"
    assert decisions() == [(1, "approve", "anna", None)]


def test_what_contradicts_itself_or_the_facts_is_refused_and_the_text_goes_on_waiting() -> None:
    night(0, SPOON)
    (question,) = asked()
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("Edit", {"text": "The Aquaron Weaning Spoon comes in gold."}, "gold"),
        ("Edit", {"text": None}, "no other words"),
        ("Edit", {"text": f"  {question.text.replace(' ', '  ')}\n"}, "no other words"),
        ("Approve", {"text": WORDS}, "was changed in the form"),
        ("Approve", {"about": None}, "does not say which text"),
        ("Approve", {"about": '["p1", "shop_page", "en"]'}, "does not say which text"),
    ]
    for choice, form, why in refused:
        with pytest.raises(ReviewRefused, match=why):
            answer(choice, **form)
    assert decisions() == [] and asked() == [question]
