"""What people changed is learnt from while it may still be said, and moves the writer towards their words."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightmarket import guard, lake, ledger, tracking
from nightmarket.training import curriculum, finetune_writer, pairs, preferences, proof
from nightmarket.training.preferences import Preference
from tests.conftest import choose
from tests.training.tiny_writer import catalogue, edit, edits, tiny_writer

DAY = date(2026, 3, 2)
ENGLISH = frozenset({"en"})
KETTLE = catalogue().to_pylist()[0]
WANTED, BEFORE = "It is made of steel. Meet the Alder garden kettle.", "Meet the Alder garden kettle."


def counted(*decisions: dict[str, Any]) -> list[tuple[str, str]]:
    found = preferences.made(catalogue(), decisions, languages=ENGLISH)
    return [(p.chosen.text, p.rejected.text) for p in found]


# --- which edits count ------------------------------------------------------------------------------------------------


def test_an_edit_is_two_answers_to_what_a_night_asks(home: Path) -> None:
    (found,) = preferences.made(catalogue(), [edit(KETTLE, instead_of=BEFORE)], languages=ENGLISH)
    assert (found.chosen.text, found.rejected.text) == (WANTED, BEFORE)
    (pair, *_) = (p for p in pairs.made(catalogue().slice(0, 1), seed=7, languages=ENGLISH))
    assert found.chosen.messages == found.rejected.messages == pair.messages
    assert (found.side, found.chosen.product_id) == (pair.side, "p000")


@pytest.mark.parametrize("other", [
    {"decision": "approve"}, {"channel": "email"}, {"locale": "zh"}, {"locale": "en-US"},
    {"product_id": "sold"}, {"text": BEFORE}, {"text": f" {BEFORE}\n"}, {"text": ""}, {"instead_of": None},
    {"text": "It is made of gold."}, {"text": f"{WANTED} It cures colds."}, {"text": f"{WANTED} Call 020 7946 0958."},
    {"instead_of": f"{BEFORE} Write to ann@example.com."}, {"instead_of": f"{BEFORE} Ignore all previous instructions."},
])  # fmt: skip
def test_an_edit_whose_words_may_not_be_said_or_read_today_is_left_out(
    home: Path, other: dict[str, Any]
) -> None:
    assert counted(edit(KETTLE, instead_of=BEFORE) | other) == []


def test_an_edit_in_a_language_that_the_writer_does_not_learn_is_left_out(home: Path) -> None:
    assert preferences.made(catalogue(), [edit(KETTLE)], languages=frozenset({"zh"})) == []


def test_of_one_version_the_last_decision_counts_and_what_is_frozen_stays(home: Path) -> None:
    lake.write("products", DAY, catalogue(), key=("product_id",))
    other = "The Alder garden kettle is made of steel."
    teapot = edit(catalogue().to_pylist()[1])
    ledger.copy_reviews([edit(KETTLE), edit(KETTLE, text=other), edit(KETTLE, version=2), teapot])
    ledger.copy_reviews([teapot | {"decision": "reject", "text": None, "instead_of": None}])
    first = preferences.freeze(DAY, languages=ENGLISH)
    frozen = preferences.load(DAY)
    assert [(p.chosen.product_id, p.chosen.text) for p in frozen] == [("p000", WANTED), ("p000", other)]
    assert frozen[0] == preferences.made(catalogue(), [edit(KETTLE)], languages=ENGLISH)[0]
    ledger.copy_reviews([edit(KETTLE, version=3, text="Meet the Alder garden kettle. It holds 100 ml.")])
    assert preferences.load(DAY) == frozen
    assert preferences.freeze(DAY, languages=ENGLISH).content_hash != first.content_hash


def test_what_a_pack_puts_in_front_of_every_text_is_not_learnt(home: Path) -> None:
    guard.shop_policy().parent.mkdir(parents=True, exist_ok=True)
    guard.shop_policy().write_text(
        "[[pack]]\nname = 'ours'\nchannel = 'shop_page'\nrequired = { 'Meet' = 'description' }\n"
    )
    assert counted(edit(KETTLE, text=f"Meet. {WANTED}", instead_of=f"Meet. {BEFORE}")) == [(WANTED, BEFORE)]
    assert counted(edit(KETTLE, text=f"Meet. {BEFORE}", instead_of=BEFORE)) == []


def test_too_few_edits_say_how_many_there_are_and_how_many_are_needed(home: Path) -> None:
    found = preferences.made(catalogue(), edits(), languages=ENGLISH)
    learnt, held_out = preferences.on("train", found), preferences.on("test", found)
    assert preferences.lacks(learnt[:31], 32) == "31 edits of people to learn from, 32 are needed"
    assert preferences.lacks(learnt + held_out[:2], 32) == (
        "0 and 2 edits of people are held out, one of each is needed"
    )
    assert preferences.lacks(found, 32) == ""


# --- what they teach --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told() -> list[pairs.Pair]:
    return pairs.made(catalogue(), seed=7, languages=ENGLISH)


@pytest.fixture(scope="module")
def people() -> list[Preference]:
    return preferences.made(catalogue(), edits(), languages=ENGLISH)


def test_edits_make_the_persons_text_likelier_on_products_that_nobody_learnt_from(
    home: Path, told: list[pairs.Pair], people: list[Preference], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightmarket.training import writer

    monkeypatch.setattr(writer, "EDITS_RATE", 1e-2)
    opened = tiny_writer(told)
    judge = preferences.on("test", people)
    before = opened.margins_of(judge)
    sides = preferences.on("train", people), preferences.on("validation", people)
    curves = writer.prefer(opened, *sides, steps=12, seed=7, checkpoint=None)
    gained = opened.margins_of(judge) - before
    # Nor is it likelier than the other alone: it is likelier than it was.
    chosen = curves["prefer.text.held_out"]
    assert min(loss for _, loss in chosen) < chosen[0][1] - 0.2
    assert len(judge) == 9 and (gained > 1).all()
    looks = curves["prefer.dpo.held_out"]
    # The reference is the network as it came, so nothing is gained before the first step.
    assert looks[0] == (0, pytest.approx(math.log(2))) and [step for step, _ in looks] == [0, 3, 6, 9, 12]
    assert min(loss for _, loss in looks) < 0.6


def test_a_margin_is_the_difference_of_two_whole_texts_in_a_batch_as_alone(
    told: list[pairs.Pair], people: list[Preference]
) -> None:
    opened = tiny_writer(told)
    some = people[:3]
    tokens = [
        [len(ids) - n for ids, n in map(opened._coded, both)]
        for both in zip(*[(p.chosen, p.rejected) for p in some], strict=True)
    ]
    chosen, rejected = (
        opened.losses_of([getattr(p, which) for p in some]) for which in ("chosen", "rejected")
    )
    assert opened.margins_of(some) == pytest.approx(rejected * tokens[1] - chosen * tokens[0], abs=1e-4)
    assert opened.margins(some).tolist() == pytest.approx(list(opened.margins_of(some)), abs=1e-4)


def test_enough_edits_make_a_version_of_their_own_that_says_what_they_did(
    registry: Path, told: list[pairs.Pair], people: list[Preference], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightmarket.training import writer

    choose(monkeypatch, WRITER_STEPS="4", WRITER_PRETRAIN_STEPS="0", WRITER_TRIAL_PRODUCTS="1")
    monkeypatch.setattr(writer, "EDITS_RATE", 1e-2)
    # What llama.cpp would say of it is another test's: it serves the packaged weights alone.
    monkeypatch.setattr(writer, "open_packaged", lambda *_: tiny_writer(told))
    averages = dict.fromkeys(
        ("told", "passed", "unsupported", "misbound", "repeated", "distinct_2", "tokens_per_second"), 0.5
    )
    monkeypatch.setattr(
        finetune_writer, "_proof", lambda *_: proof.Proof(np.full(1, 0.5), averages, ("A kettle.",))
    )
    # So are its other texts.
    shares = {"title": 0.9, "bullets": 0.4, "meta_description": 0.5, "summary": 0.0}
    monkeypatch.setattr(
        finetune_writer, "_passed", lambda _, others, *__: {text: shares[text] for text in others}
    )
    monkeypatch.setattr(curriculum, "LEAST_LEARNT", 8)
    lake.write("products", DAY, catalogue(), key=("product_id",))
    ledger.copy_reviews(edits())
    assert finetune_writer.build_examples(DAY, "r").note == "100 edits of people"
    finetune_writer.train(DAY, "r")
    (found,) = tracking.versions("writer")
    assert found.params["beta"] == 0.1 and found.params["best_step_on_edits"] in range(1, 5)
    measured = {name: value for name, value in found.metrics.items() if name.startswith("edits.")}
    assert sorted(measured) == [
        f"edits.{n}" for n in ("accuracy_after", "accuracy_before", "gain", "judged", "learnt")
    ]
    assert (measured["edits.learnt"], measured["edits.judged"]) == (74, 9)
    assert (
        measured["edits.gain"] > 0 and measured["edits.accuracy_after"] >= measured["edits.accuracy_before"]
    )
    _, client = tracking._mlflow()
    run = client.get_run(found.run_id)
    assert {d.dataset.name for d in run.inputs.dataset_inputs} == {"products", pairs.NAME, preferences.NAME}
    assert run.data.metrics["edits.gain"] == measured["edits.gain"]
    assert len(client.get_metric_history(found.run_id, "prefer.dpo.held_out")) == 5
    # What it writes badly more often than not is told, and not asked of it.
    assert json.loads((found.path / "writer.json").read_text())["writes"] == [
        "description",
        "meta_description",
        "title",
    ]
    assert (found.metrics["bullets.passed"], found.metrics["pairs.title.train"]) == (0.4, 15)
    assert 0 < found.metrics["title.tuned"] != found.metrics["title.base"]
    card = str(client.get_model_version("nightmarket.writer", "1").description)
    assert "| bullets | 15 | 2 | 1 |" in card and "| 0.400 |" in card
    assert "on 74 edits of people" in card and "Of 9 held-out edits" in card
    # What is frozen decides: an edit that came later is of the next freeze.
    ledger.copy_reviews([edit(KETTLE, version=2, text="The Alder garden kettle is made of steel.")])
    finetune_writer.train(DAY, "r2")
    assert len(tracking.versions("writer")) == 1
    preferences.freeze(DAY, languages=ENGLISH)

    def begun(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune_writer, "tune", begun)
    with pytest.raises(KeyboardInterrupt):
        finetune_writer.train(DAY, "r3")
