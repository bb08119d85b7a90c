"""Shadow lists and what a page says about them, on lists short enough to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from nightmarket.errors import ModelRefused
from nightmarket.ranking import Catalogue, Histories, Interactions, ItemToItem, Popularity, Ranker
from nightmarket.training import shadow
from tests.ranking.purchases import purchases, shop


class Fixed(Ranker):
    """A model that says to everybody the same: scores by product id."""

    kind = "fixed"

    def __init__(self, scores: dict[str, float]) -> None:
        self.catalogue, self.values = Catalogue.of(list(scores)), scores

    def fit(self, interactions: Interactions) -> Self:
        return self

    def score(self, histories: Histories) -> NDArray[np.float32]:
        row = np.array([self.values[p] for p in self.catalogue.product_ids], np.float32)
        return np.tile(row, (len(histories), 1))

    def params(self) -> dict[str, Any]:
        return {}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    @classmethod
    def restore(
        cls, catalogue: Catalogue, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        raise NotImplementedError


def popular(model: Ranker, **counts: float) -> Popularity:
    found = Popularity()
    found.catalogue = model.catalogue
    found.counts = np.array([counts.get(p, 0.0) for p in model.catalogue.product_ids], np.float32)
    return found


def histories(model: Ranker, bought: dict[str, list[str | list[str]]]) -> Histories:
    return Histories.of(purchases(bought), model.catalogue, list(bought))


OLD = Fixed({"a": 4, "b": 3, "c": 2, "gone": 5})
NEW = Fixed({"a": 4, "b": 3, "c": 2, "d": 5})
EVERYBODY: dict[str, list[str | list[str]]] = {f"c{n:02d}": ["a"] if n < 10 else [] for n in range(20)}


def test_shadow_lists_stand_beside_the_place_the_champion_gave() -> None:
    rows, report = shadow.shadow(NEW, OLD, popular(NEW), histories(NEW, {"x": ["a"]}), 3)
    # a was bought. new: d b c; old: gone b c, though `gone` is no product of the challenger's
    assert rows.to_pylist() == [
        {"customer_id": "x", "rank": 1, "product_id": "d", "score": 5.0, "is_filled": False, "champion_rank": None},
        {"customer_id": "x", "rank": 2, "product_id": "b", "score": 3.0, "is_filled": False, "champion_rank": 2},
        {"customer_id": "x", "rank": 3, "product_id": "c", "score": 2.0, "is_filled": False, "champion_rank": 3},
    ]  # fmt: skip
    diff = report["diff"]
    assert (
        diff["overlap"] == pytest.approx(2 / 3) and diff["first_changed"] == 1.0 and diff["unchanged"] == 0.0
    )
    assert report["coverage_before"] == report["coverage_after"] == 3 / 5


def test_who_gains_and_who_loses_exposure_is_counted_in_customers() -> None:
    _, report = shadow.shadow(NEW, OLD, popular(NEW), histories(NEW, EVERYBODY), 2)
    # ten bought a: gone b -> d b; ten did not: gone a -> d a
    assert report["diff"]["gain"] == [{"product_id": "d", "before": 0, "after": 20, "change": 20}]
    assert report["diff"]["lose"] == [{"product_id": "gone", "before": 20, "after": 0, "change": -20}]


def test_groups_come_by_how_much_they_change_and_small_ones_not_at_all() -> None:
    asked = histories(NEW, EVERYBODY | {"few": ["a", "b"]})
    first = np.arange(len(asked)) < 12
    _, report = shadow.shadow(NEW, OLD, popular(NEW), asked, 3, slices={"new_customers": first})
    found = [(s["slice"], s["customers"]) for s in report["diff"]["slices"]]
    assert sorted(found) == [("1 product", 10), ("new_customers", 12), ("no purchases", 10)]
    changes = [s["rank_biased_overlap"] for s in report["diff"]["slices"]]
    assert changes == sorted(changes)


def test_the_same_model_changes_nothing() -> None:
    _, report = shadow.shadow(NEW, NEW, popular(NEW), histories(NEW, EVERYBODY), 3)
    diff = report["diff"]
    assert (diff["overlap"], diff["rank_biased_overlap"], diff["first_changed"], diff["unchanged"]) == (
        pytest.approx(1.0), pytest.approx(1.0), 0.0, 1.0,
    )  # fmt: skip
    assert diff["gain"] == diff["lose"] == []


def test_without_a_champion_there_are_lists_and_no_comparison() -> None:
    rows, report = shadow.shadow(NEW, None, popular(NEW), histories(NEW, {"x": ["a"]}), 2)
    assert rows["product_id"].to_pylist() == ["d", "b"] and rows["champion_rank"].null_count == 2
    assert report["diff"] is None and report["coverage_after"] == 0.5
    assert "Nothing serves yet" in shadow.page(report, {})


def test_only_allowed_products_are_listed_and_popular_ones_fill_the_rest() -> None:
    quiet = Fixed({"a": 1, "b": 0, "c": 0, "d": 0})
    rows, _ = shadow.shadow(
        quiet, OLD, popular(quiet, b=2, c=5, d=9), histories(quiet, {"x": []}), 3, allowed_ids=["a", "b", "c", "gone"]
    )  # fmt: skip
    assert [(r["product_id"], r["is_filled"], r["champion_rank"]) for r in rows.to_pylist()] == [
        ("a", False, 2), ("c", True, None), ("b", True, 3),
    ]  # fmt: skip


def test_nobody_to_ask_gives_an_empty_table_and_a_page() -> None:
    rows, report = shadow.shadow(NEW, OLD, popular(NEW), histories(NEW, {}), 3)
    assert rows.num_rows == 0 and rows.schema == shadow.SCHEMA and report["customers"] == 0
    assert "0 customers" in shadow.page(report, {})


def test_histories_of_another_catalogue_are_refused() -> None:
    with pytest.raises(ModelRefused, match="another catalogue"):
        shadow.shadow(NEW, OLD, popular(NEW), histories(OLD, {"x": ["a"]}), 3)


def test_blocks_of_customers_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    interactions = Interactions.of(shop())
    model, plain = ItemToItem(half_life=1.0).fit(interactions), ItemToItem(half_life=20.0).fit(interactions)
    asked, filler = interactions.histories(), Popularity().fit(interactions)
    whole = shadow.shadow(model, plain, filler, asked, 10)
    monkeypatch.setattr(shadow, "_AT_ONCE", 7)
    parts = shadow.shadow(model, plain, filler, asked, 10)
    assert parts[0].equals(whole[0]) and parts[1] == whole[1]


class Reader(HTMLParser):
    """What a page holds: its tags and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


EVIL = "<script>alert('x')</script> & \"<img src=x onerror=y>\"\x00"


def test_a_page_quotes_titles_and_loads_nothing() -> None:
    _, report = shadow.shadow(NEW, OLD, popular(NEW), histories(NEW, EVERYBODY), 2)
    page = shadow.page(report, {"d": EVIL}, challenger="version 4 <b>", champion="version 3")
    found = Reader(page)
    assert not {"script", "img", "link", "iframe", "b><"} & {tag for tag, _ in found.tags}
    assert EVIL.replace("\x00", " ") in "".join(found.texts) and "gone" in found.texts
    assert not any("src" in attrs or "href" in attrs for _, attrs in found.tags)
    assert page.startswith("<!doctype html>") and "http://" not in page and "https://" not in page


def test_no_report_and_no_page_names_a_customer() -> None:
    asked = histories(NEW, {f"customer-{n}": ["a"] for n in range(30)})
    rows, report = shadow.shadow(
        NEW, OLD, popular(NEW), asked, 3, slices={"heavy_buyers": np.ones(30, np.bool_)}
    )
    assert "customer-7" in rows["customer_id"].to_pylist()
    assert "customer-" not in json.dumps(report, allow_nan=False) + shadow.page(report, {})
