"""People decide about copy: what is risky waits for them, what they say is what readers see, and nothing is lost."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from nightmarket import guard, lake, ledger, llm, products, warehouse
from nightmarket.cli import app
from nightmarket.errors import ReviewRefused
from nightmarket.products.product_copy import PRODUCT, desk, policies
from nightmarket.products.product_copy.facts import read_sheet
from nightmarket.products.product_copy.reviews import edited, unborne
from nightmarket.settings import get_settings

DAY = date(2026, 3, 2)
SPOON = {
    "product_id": "p1", "title": "Aquaron Weaning Spoon", "brand": "Aquaron", "category": "Baby > Feeding",
    "attributes": json.dumps({"Colour": "turquoise", "Material": "silicone"}), "locale": "en", "status": "active",
}  # fmt: skip
MUG = SPOON | {"product_id": "p2", "title": "Aquaron Steel Mug", "category": "Kitchen > Mugs"}
SAGE = SPOON | {"attributes": json.dumps({"Colour": "sage", "Material": "silicone"})}
WORDS = "The Aquaron Weaning Spoon comes in turquoise. It is made of silicone."


class Mute:
    """A writer that writes no language: every text is the template's."""

    name, version, languages, free, keeps_grammars = "mute", "v1", frozenset[str](), False, True
    spent = llm.Spent()
    writes = frozenset[str]()

    def close(self) -> None: ...
    def __enter__(self) -> Mute:
        return self

    def __exit__(self, *error: object) -> None: ...


@pytest.fixture(autouse=True)
def mute(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "open_generator", lambda day=None: Mute())


def night(number: int, *rows: dict[str, Any], gate: bool = False) -> Any:
    """A night with this catalogue: `number` days after the first."""
    day = DAY + timedelta(days=number)
    columns = ("product_id", "title", "brand", "category", "attributes", "locale", "status", "description")
    listed = pa.Table.from_pylist(
        [{name: row.get(name) for name in columns} for row in rows],
        schema=pa.schema([(name, pa.string()) for name in columns]),
    )
    lake.write("products", day, listed, key=["product_id"])
    lake.write("purchases", day, pa.table({"product_id": pa.array([], pa.string())}), key=["product_id"])
    outcome = products.generate(PRODUCT, day, f"r{number}")
    if outcome.note != "unchanged":
        if gate:
            products.check(PRODUCT, day, f"r{number}")
        path = products._plan_path(PRODUCT, day)
        passed = {"checked": products._scratch_hashes(PRODUCT, day)}
        path.write_text(json.dumps(json.loads(path.read_text()) | passed))
        products.publish(PRODUCT, day, f"r{number}")
    return outcome


def texts(product: str = "p1") -> list[tuple[int, str, str]]:
    """Version, status and cause of what `product_copy_current` has of a product."""
    rows = warehouse.read(
        "select version, status, change_cause from outputs.product_copy_current where product_id = ? order by version",
        [product],
    ).to_pylist()
    return [(row["version"], row["status"], row["change_cause"]) for row in rows]


def seen(product: str = "p1") -> str | None:
    """The description that readers see."""
    rows = warehouse.read(
        "select description from outputs.product_copy_current "
        "where product_id = ? and status in ('approved', 'published')",
        [product],
    )["description"].to_pylist()
    assert len(rows) <= 1
    return rows[0] if rows else None


def claimed(product: str = "p1") -> dict[int, set[str]]:
    """By version the sentences that have supported claims, of what is current."""
    found: dict[int, set[str]] = {}
    for row in warehouse.read(
        "select version, sentence from outputs.copy_claims_current where product_id = ? and verdict = 'supported'",
        [product],
    ).to_pylist():
        found.setdefault(row["version"], set()).add(row["sentence"])
    return found


def approved_spoon() -> None:
    """Two nights after which readers see the turquoise spoon, approved."""
    night(0, SPOON)
    desk.approve("p1", reviewer="anna")
    night(1, SPOON)


# --- risk decides -----------------------------------------------------------------------------------------------------


def test_a_new_text_of_high_risk_waits_and_one_of_low_risk_is_published() -> None:
    outcome = night(0, SPOON, MUG)
    assert texts() == [(1, "pending", "new product")] and seen() is None
    assert texts("p2") == [(1, "published", "new product")]
    assert outcome.note == "0 by mute, 2 by template; 1 wait for a person"


def test_what_readers_saw_stands_beside_a_changed_text_that_waits() -> None:
    approved_spoon()
    before = seen()
    night(2, SAGE, gate=True)
    assert texts() == [
        (2, "approved", "approved by anna"),
        (3, "pending", "facts changed: attributes.Colour"),
    ]
    assert before is not None and "turquoise" in before and seen() == before
    # What is shown and what waits have their claims both.
    assert sorted(claimed()) == [2, 3]
    assert set(guard.sentences(before)) <= claimed()[2]
    assert any("sage" in sentence for sentence in claimed()[3])


def test_a_text_that_waits_is_not_written_again_and_the_night_has_no_rows() -> None:
    approved_spoon()
    night(2, SAGE)
    outcome = night(3, SAGE)
    assert (outcome.rows_out, outcome.note) == (0, "nothing to write")
    assert [status for _, status, _ in texts()] == ["approved", "pending"]


def test_facts_that_change_while_a_text_waits_make_a_new_one_and_what_is_shown_stays() -> None:
    approved_spoon()
    night(2, SAGE)
    night(3, SPOON | {"attributes": json.dumps({"Colour": "rose", "Material": "silicone"})})
    assert [(version, status) for version, status, _ in texts()] == [(2, "approved"), (4, "pending")]
    assert "turquoise" in (seen() or "") and sorted(claimed()) == [2, 4]


def test_the_same_words_after_another_policy_need_no_person(monkeypatch: pytest.MonkeyPatch) -> None:
    approved_spoon()
    before = seen()
    monkeypatch.setattr(guard, "POLICY_VERSION", "another")
    night(2, SPOON)
    assert texts() == [(3, "published", "policy changed")] and seen() == before


def test_a_shown_text_that_the_policy_forbids_is_taken_down_while_the_new_one_waits(home: Path) -> None:
    approved_spoon()
    rules = '[[pack]]\nname = "no silicone"\ncategory = "Baby"\nforbidden = ["silicone"]\nrisk = "high"\n'
    own = guard.pack_files.shop_policy()
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(rules)
    night(2, SPOON, gate=True)
    cause = "must not stay until the new text is approved: `silicone` must not be said here (no silicone)"
    assert texts() == [(3, "blocked", cause), (4, "pending", "policy changed")]
    assert seen() is None
    desk.approve("p1", reviewer="anna")
    night(3, SPOON, gate=True)
    assert texts() == [(5, "approved", "approved by anna")] and "silicone" not in (seen() or "silicone")


def test_a_product_that_leaves_the_shelf_is_retired_with_what_waits() -> None:
    approved_spoon()
    night(2, SAGE)
    night(3, SAGE | {"status": "archived"})
    assert texts() == [(4, "retired", "the product is archived")] and seen() is None
    night(4, SAGE | {"status": "archived"})
    assert texts() == [(4, "retired", "the product is archived")]


# --- decisions --------------------------------------------------------------------------------------------------------


def test_an_approved_text_is_shown_as_a_new_version_that_names_who_approved() -> None:
    night(0, SPOON)
    desk.approve("p1", reviewer="anna", reason="checked the label")
    assert seen() is None, "nothing changes before the next night"
    assert night(1, SPOON).note == "nothing to write; 1 approved"
    assert texts() == [(2, "approved", "approved by anna: checked the label")]
    row = warehouse.read("select * from outputs.product_copy_current").to_pylist()[0]
    assert (row["reviewer"], row["supersedes"], row["model_name"]) == (
        "anna", 1, "template (the writer does not write en)",
    )  # fmt: skip
    assert row["reviewed_at"] is not None and "turquoise" in row["description"]
    assert set(guard.sentences(row["description"])) <= claimed()[2]


def test_an_applied_decision_is_applied_once() -> None:
    approved_spoon()
    assert night(2, SPOON).rows_out == 0
    assert texts() == [(2, "approved", "approved by anna")]


def test_the_same_night_again_makes_the_same_rows() -> None:
    approved_spoon()
    day = DAY + timedelta(days=1)
    before = lake.manifest("product_copy", day), lake.manifest("copy_claims", day)
    assert night(1, SPOON).note == "unchanged"
    lake.write("products", day, lake.read("products", day).slice(0, 1), key=["product_id"])
    again = PRODUCT.make(day, "r9").rows["product_copy"].to_pylist()
    assert [(row["version"], row["status"]) for row in again] == [(2, "approved")]
    assert (lake.manifest("product_copy", day), lake.manifest("copy_claims", day)) == before


def test_a_rejected_text_leaves_what_was_shown_and_is_not_written_again_from_the_same_facts() -> None:
    approved_spoon()
    before = seen()
    night(2, SAGE)
    desk.reject("p1", reviewer="ben", reason="it is green")
    night(3, SAGE, gate=True)
    assert texts() == [(4, "approved", "rejected by ben: it is green; version 2 stands")]
    assert seen() == before and set(guard.sentences(before or "")) <= claimed()[4]
    assert night(4, SAGE).rows_out == 0
    night(5, SPOON | {"attributes": json.dumps({"Colour": "rose", "Material": "silicone"})})
    assert [(version, status) for version, status, _ in texts()] == [(4, "approved"), (5, "pending")]


def test_a_rejected_first_text_is_blocked_and_not_written_again() -> None:
    night(0, SPOON)
    desk.reject("p1", reviewer="ben", reason="no")
    night(1, SPOON)
    assert texts() == [(2, "blocked", "rejected by ben: no")]
    assert night(2, SPOON).rows_out == 0


def test_past_the_deadline_a_text_is_rejected_by_default() -> None:
    approved_spoon()
    night(2, SAGE)
    assert night(4, SAGE).rows_out == 0
    night(5, SAGE)
    assert texts() == [(4, "approved", "rejected: nobody decided within 3 days; version 2 stands")]


def test_the_last_decision_before_the_night_counts() -> None:
    night(0, SPOON)
    desk.reject("p1", reviewer="ben", reason="no")
    desk.approve("p1", reviewer="anna", reason="yes")
    night(1, SPOON)
    assert texts() == [(2, "approved", "approved by anna: yes")]
    assert ledger.rows("copy_reviews")["decision"].to_pylist() == ["reject", "approve"]


def test_an_approval_waits_where_the_facts_changed_and_the_new_text_is_asked_about() -> None:
    night(0, SPOON)
    desk.approve("p1", reviewer="anna")
    assert "1 approved, but the facts of today do not bear it" in night(1, SAGE).note
    assert texts() == [(2, "pending", "facts changed: attributes.Colour")] and seen() is None


def test_an_approval_holds_where_the_facts_still_bear_it_and_the_next_night_writes_the_new_text() -> None:
    night(0, SPOON)
    desk.approve("p1", reviewer="anna")
    more = SPOON | {
        "attributes": json.dumps({"Colour": "turquoise", "Material": "silicone", "Age": "6 months"})
    }
    night(1, more)
    assert texts() == [(2, "approved", "approved by anna")]
    night(2, more)
    assert [(version, status) for version, status, _ in texts()] == [(2, "approved"), (3, "pending")]


# --- edits ------------------------------------------------------------------------------------------------------------


def test_an_edited_text_is_published_with_claims_and_kept_as_a_pair() -> None:
    night(0, SPOON)
    written = warehouse.read("select description from outputs.product_copy_current")["description"][0].as_py()
    desk.edit("p1", WORDS, reviewer="anna", reason="plainer")
    night(1, SPOON, gate=True)
    assert texts() == [(2, "approved", "edited by anna: plainer")] and seen() == WORDS
    assert set(guard.sentences(WORDS)) <= claimed()[2]
    row = warehouse.read("select * from outputs.product_copy_current").to_pylist()[0]
    assert (row["model_name"], row["model_version"]) == ("person", "edit of version 1")
    assert (row["is_ai_written"], row["ai_label"], row["ai_metadata"]) == (False, None, False)
    assert row["meta_description"] == WORDS and row["free_sentences"] == 0
    origins = warehouse.read(
        "select distinct origin from outputs.copy_claims_current where origin is not null"
    )
    assert sorted(origins["origin"].to_pylist()) == ["edited", "facts"]
    pairs = warehouse.read(
        "select text, instead_of from ops.copy_reviews where decision = 'edit'"
    ).to_pylist()
    assert pairs == [{"text": WORDS, "instead_of": written}]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("The Aquaron Weaning Spoon comes in gold.", "gold"),
        ("The best Aquaron Weaning Spoon.", "best"),
        ("The Aquaron Weaning Spoon is for anna@example.com.", r"contact: \[email\]"),
        ("", "nothing is known that may be said"),
    ],
)
def test_an_edit_that_the_facts_do_not_bear_is_refused_and_not_written_down(words: str, why: str) -> None:
    night(0, SPOON)
    with pytest.raises(ReviewRefused, match=why):
        desk.edit("p1", words, reviewer="anna")
    assert ledger.rows("copy_reviews").num_rows == 0


def test_an_edit_that_is_too_long_is_refused_rather_than_cut() -> None:
    sheet = read_sheet(SPOON)
    pack = policies.pack_of(sheet, guard.read_packs())
    many = " ".join(f"{'Here ' * n}it is made of silicone." for n in range(60))
    assert "too long" in str(edited(many, sheet, pack)) or "length" in str(edited(many, sheet, pack))


# --- rolling back -----------------------------------------------------------------------------------------------------


def shown_sage() -> None:
    """The spoon was turquoise and silicone, then only silicone, approved both."""
    approved_spoon()
    desk.edit("p1", "The Aquaron Weaning Spoon is made of silicone.", reviewer="anna")
    night(2, SPOON)


def test_a_rollback_puts_the_text_before_back_as_a_new_version() -> None:
    shown_sage()
    rows, without = desk.rollback(product="p1", reviewer="ben", reason="too short")
    assert (len(rows), without) == (1, [])
    night(3, SPOON, gate=True)
    assert texts() == [(4, "approved", "rolled back by ben: too short; version 2 stands again")]
    assert "turquoise" in (seen() or "") and set(guard.sentences(seen() or "")) <= claimed()[4]
    assert night(4, SPOON).rows_out == 0, "what was rolled back is not written again from the same facts"


def test_a_rollback_to_what_the_facts_of_today_do_not_bear_is_not_made() -> None:
    shown_sage()
    night(3, SAGE)
    desk.reject("p1", reviewer="ben", reason="no")
    night(4, SAGE)
    before = seen()
    desk.rollback(product="p1", reviewer="ben", reason="too short")
    outcome = night(5, SAGE)
    assert outcome.note.endswith("1 not rolled back: no earlier text that the facts of today bear")
    assert seen() == before == "The Aquaron Weaning Spoon is made of silicone."


def test_texts_of_a_category_or_a_model_version_roll_back_together() -> None:
    night(0, MUG, MUG | {"product_id": "p3", "title": "Aquaron Tin Mug"})
    for product, name in (("p2", "Steel"), ("p3", "Tin")):
        desk.edit(product, f"The Aquaron {name} Mug comes in turquoise.", reviewer="anna")
    night(1, MUG, MUG | {"product_id": "p3", "title": "Aquaron Tin Mug"})
    with pytest.raises(ReviewRefused, match="No text that readers see fits"):
        desk.rollback(category="Kitchen > Mug", reviewer="ben", reason="all wrong")
    rows, _ = desk.rollback(
        category="kitchen", model_version="edit of version 1", reviewer="ben", reason="wrong"
    )
    assert [row["product_id"] for row in rows] == ["p2", "p3"]
    night(2, MUG, MUG | {"product_id": "p3", "title": "Aquaron Tin Mug"})
    assert (
        texts("p2") == texts("p3") == [(3, "published", "rolled back by ben: wrong; version 1 stands again")]
    )


def test_a_text_without_an_earlier_one_is_told_and_stays() -> None:
    night(0, MUG)
    rows, without = desk.rollback(product="p2", reviewer="ben", reason="no")
    assert (rows, [row["version"] for row in without]) == ([], [1])
    assert ledger.rows("copy_reviews").num_rows == 0


def test_an_old_text_is_held_against_the_facts_of_today() -> None:
    night(0, SPOON)
    row = warehouse.read("select * from outputs.product_copy_current").to_pylist()[0]
    sheet, other = read_sheet(SPOON), read_sheet(SAGE)
    pack = policies.pack_of(sheet, guard.read_packs())
    assert unborne(row, sheet, pack) == ""
    assert "turquoise" in unborne(row, other, pack)


# --- the list and the commands ----------------------------------------------------------------------------------------


def test_a_new_text_does_not_read_like_one_that_stands_from_an_earlier_night() -> None:
    # By their ids both would be told in the same words.
    first, second = (MUG | {"product_id": f"m{n}", "title": f"Aquaron Mug {n}"} for n in (1, 7))
    night(0, first)
    assert seen("m1") == "Say hello to the Aquaron Mug 1. It is made of silicone and comes in turquoise."
    outcome = night(1, first, second)
    assert "1 told another way, not to read like another product's" in outcome.note
    assert seen("m7") == "Take a look at the Aquaron Mug 7. It is made of silicone and comes in turquoise."


def nightmarket(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "DAY": ""})


def test_the_list_has_what_waits_and_a_sample_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    mugs = [MUG | {"product_id": f"m{n}", "title": f"Aquaron Mug {n}"} for n in range(12)]
    night(0, SPOON, *mugs)
    monkeypatch.setenv("NIGHTMARKET_COPY_REVIEW_SHARE", "0")
    get_settings.cache_clear()
    assert [entry.row["product_id"] for entry in desk.listed()] == ["p1"]
    monkeypatch.setenv("NIGHTMARKET_COPY_REVIEW_SHARE", "0.42")
    get_settings.cache_clear()
    assert [entry.row["product_id"] for entry in desk.listed()] == ["p1", "m0", "m3", "m5", "m6"]
    desk.approve("m0", reviewer="anna")
    assert [entry.row["product_id"] for entry in desk.listed()] == ["p1", "m3", "m5", "m6"]


def test_a_text_is_listed_with_its_evidence_its_cause_and_what_is_shown_instead() -> None:
    approved_spoon()
    night(2, SAGE)
    said = nightmarket("copy", "list", "--status", "pending")
    assert said.exit_code == 0
    assert "p1  shop_page  en  version 3  pending since 2026-03-04" in said.output
    assert "cause     facts changed: attributes.Colour" in said.output
    assert "AI label  none: no model had part in it" in said.output
    assert "<- attributes.Colour" in said.output and "shown now" in said.output
    assert "until     the night of 2026-03-07" in said.output and "1 texts" in said.output


def test_the_commands_write_down_who_decided_what_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "anna")
    night(0, SPOON, MUG)
    assert "The next night applies it." in nightmarket("copy", "approve", "p1").output
    assert nightmarket("copy", "reject", "p1", "--reason", "no").exit_code == 0
    assert (
        nightmarket("copy", "edit", "p2", "--text", "The Aquaron Steel Mug comes in turquoise.").exit_code
        == 0
    )
    night(1, SPOON, MUG)
    assert nightmarket("copy", "rollback", "--product", "p2", "--reason", "dull").exit_code == 0
    rows = ledger.rows("copy_reviews").to_pylist()
    assert [(row["product_id"], row["version"], row["decision"], row["reviewer"], row["reason"]) for row in rows] == [
        ("p1", 1, "approve", "anna", None), ("p1", 1, "reject", "anna", "no"), ("p2", 1, "edit", "anna", None),
        ("p2", 2, "rollback", "anna", "dull"),
    ]  # fmt: skip


def test_what_cannot_be_decided_is_a_sentence_and_exit_1() -> None:
    night(0, SPOON)
    for arguments, told in (
        (("approve", "p9"), "Product p9 has no text that waits or is shown"),
        (("edit", "p1", "--text", "It is gold."), "gold"),
        (("rollback", "--reason", "no"), "--product, --category or --model-version"),
    ):
        said = nightmarket("copy", *arguments)
        assert said.exit_code == 1 and "ReviewRefused" in said.stderr and told in said.stderr
    assert nightmarket("copy", "reject", "p1").exit_code == 2, "a reason is asked for"


def test_a_product_with_several_texts_asks_which_one_is_edited() -> None:
    own = guard.pack_files.shop_policy()
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text('[[pack]]\nname = "mail"\nchannel = "email"\nlimits = { subject = 60 }\n')
    night(0, SPOON)
    with pytest.raises(ReviewRefused, match="email en, shop_page en"):
        desk.edit("p1", WORDS, reviewer="anna")
    desk.edit("p1", WORDS, reviewer="anna", channel="email")
    desk.approve("p1", reviewer="anna", channel="shop_page")
    night(1, SPOON)
    rows = warehouse.read("select channel, status, description from outputs.product_copy_current").to_pylist()
    assert {row["channel"]: row["status"] for row in rows} == {"email": "approved", "shop_page": "approved"}
    assert next(row["description"] for row in rows if row["channel"] == "email") == WORDS
