"""The worst answers: chosen by loss and seed, told in products and places, never in customers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from nightmarket.ranking import Interactions, ItemToItem, Popularity
from nightmarket.training import examples, scorecard, worst
from nightmarket.training.examples import Examples, Questions
from nightmarket.training.scorecard import Score
from tests.ranking.purchases import purchases, shop
from tests.training.test_shadow import EVIL, Reader


def asked() -> tuple[Interactions, Questions, ItemToItem, Popularity]:
    table = shop(customers=150)
    frozen = Examples(table.append_column("split", pa.array(examples.split(table, seed=7), pa.string())))
    learnt = frozen.before("test")
    return learnt, frozen.questions("test"), ItemToItem().fit(learnt), Popularity().fit(learnt)


def test_an_example_tells_history_list_target_and_places() -> None:
    learnt = Interactions.of(purchases({
        "1": [["a", "b"]], "2": [["a", "b"]], "3": ["c", "d"], "4": ["d"], "5": ["e"],
    }))  # fmt: skip
    model, popular = ItemToItem(shrink=0).fit(learnt), Popularity().fit(learnt)
    questions = Questions(
        Interactions.of(purchases({"x": ["e", "a"]}), catalogue=learnt.catalogue).histories(),
        learnt.catalogue.codes(["c"]),
    )
    score = scorecard.measure(model, popular, questions)
    found = worst.examples(score, questions, {"long_tail": np.array([True])}, model, seed=7)["long_tail"][0]
    names = learnt.catalogue.product_ids
    assert [names[p] for p in found.history] == ["a", "e"] and names[found.target] == "c"
    # b goes with a; d has two buyers and c one, and fill up. By score alone c and d tie behind b: places 2 and 3
    assert [names[p] for p in found.listed] == ["b", "d", "c"] and found.place == 3
    assert found.place_of_all == 2.5 and found.other_place is None and found.bought == 2


def test_the_worst_are_those_that_lose_most_and_none_that_lose_nothing() -> None:
    _, questions, model, popular = asked()
    score = scorecard.measure(model, popular, questions)
    # the later a question stands, the less it loses; its rank says which one it was
    n = len(questions)
    told = replace(score, gains=np.arange(n) / n, ranks=np.arange(n))
    assert n > 60
    found = [
        worst.examples(told, questions, {"s": np.ones(n, np.bool_)}, model, seed=seed)["s"]
        for seed in range(30)
    ]
    chosen = {example.place for some in found for example in some}
    assert all(len(some) == 5 for some in found) and max(chosen) <= 50 and len(chosen) > 40
    perfect = score.gains == 1
    assert perfect.any() and worst.examples(score, questions, {"s": perfect}, model, seed=7) == {}
    nobody = np.zeros(len(questions), np.bool_)
    assert worst.examples(score, questions, {"s": nobody}, model, seed=7) == {}


def test_against_another_model_the_loss_is_what_that_one_found() -> None:
    _, questions, model, popular = asked()
    ours = scorecard.measure(popular, popular, questions)
    theirs = scorecard.measure(model, popular, questions)
    everybody = np.ones(len(questions), np.bool_)
    found = worst.examples(ours, questions, {"s": everybody}, popular, seed=7, against=theirs)["s"]
    assert all(e.other_place and (e.place == 0 or e.place > e.other_place) for e in found)


def test_the_choice_depends_on_the_seed_and_on_nothing_else() -> None:
    _, questions, model, popular = asked()
    score = scorecard.measure(model, popular, questions)
    everybody = np.ones(len(questions), np.bool_)
    alone = worst.examples(score, questions, {"s": everybody}, model, seed=7)
    beside = worst.examples(score, questions, {"r": everybody, "s": everybody}, model, seed=7)
    assert beside["s"] == alone["s"]
    assert worst.examples(score, questions, {"s": everybody}, model, seed=8)["s"] != alone["s"]


def test_a_score_without_lists_has_no_examples_and_a_page_all_the_same() -> None:
    learnt, questions, model, _ = asked()
    plain = Score({}, np.zeros(len(questions)))
    found = worst.examples(plain, questions, {"s": np.ones(len(questions), np.bool_)}, model, seed=7)
    assert found == {}
    assert "No question was answered worse" in worst.page(found, learnt.catalogue.product_ids, {}, model="m")


def test_the_page_quotes_titles_names_no_customer_and_loads_nothing() -> None:
    learnt, questions, model, popular = asked()
    score = scorecard.measure(model, popular, questions)
    masks = {"heavy_buyers": np.ones(len(questions), np.bool_)}
    found = worst.examples(score, questions, masks, model, seed=7)
    titles = dict.fromkeys(learnt.catalogue.product_ids, EVIL)
    page = worst.page(
        found, learnt.catalogue.product_ids, titles, model="version 4", sizes={"heavy_buyers": len(questions)}
    )
    read = Reader(page)
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in read.tags}
    assert not any("src" in attrs or "href" in attrs for _, attrs in read.tags)
    assert sum(text == EVIL.replace("\x00", " ") for text in read.texts) > 10
    assert not any(customer in page for customer in questions.histories.customer_ids)
    assert f"{len(questions):,} questions: the 10% of customers" in page
    # where it stands in the list, the product that came next is marked
    assert ('class="hit"' in page) == any(0 < e.place <= 10 for e in found["heavy_buyers"])
