"""The three steps on a small shop, with the real lake, gate and registry: a champion, a refusal, a skip, a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nightmarket import lake, ledger, ranking, tracking
from nightmarket.errors import ExtractMissing
from nightmarket.ranking import Mixture, Popularity
from nightmarket.settings import get_settings
from nightmarket.training import finetune
from tests.ranking.purchases import purchases, shop

DAY = date(2026, 3, 2)
KEY = ("customer_id", "ordered_at", "order_id", "product_id")


@pytest.fixture(autouse=True)
def _small(registry: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NIGHTMARKET_EASE_MAX_ITEMS", "50")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def extract(day: date, table: pa.Table) -> None:
    lake.write("purchases", day, table, key=KEY)
    ids = sorted(set(table["product_id"].to_pylist()))
    lake.write("products", day, pa.table({"product_id": ids}), key=("product_id",))


def walkers(customers: int = 300) -> pa.Table:
    """Customers who walk an aisle in order: what comes next tells more than what goes together."""
    return shop(customers=customers, products=60)


def night(day: date) -> list[str]:
    return [
        step(day, f"run-{day}").note for step in (finetune.build_examples, finetune.train, finetune.promote)
    ]


def decisions() -> list[tuple[str | None, str]]:
    return [(r["to_version"], r["decision"]) for r in ledger.rows("promotions").to_pylist()]


def test_a_shop_with_a_pattern_gets_a_champion_with_its_card_and_report() -> None:
    extract(DAY, walkers())
    assert night(DAY)[2].startswith("version 1 is champion: better than item_to_item")
    held = tracking.champion("ranking")
    assert held is not None and isinstance(ranking.load(held.path / "ranker"), Mixture)
    assert isinstance(ranking.load(held.path / "popularity"), Popularity)
    assert decisions() == [("1", "promoted")]
    report = json.loads(held.tags["gate_report"])
    assert report["promote"] and report["examples"] == held.metrics["examples"] > 200
    assert held.metrics["ndcg_10"] > held.metrics["item_to_item.ndcg_10"] > held.metrics["popularity.ndcg_10"]
    assert held.params["ranker"]["blend"]["ease"]["max_items"] == 50
    _again(held)
    _not_yet(held)
    _refreshed(held)


def _again(held: tracking.Version) -> None:
    """The same night again: nothing is trained, nothing is written down."""
    notes = night(DAY)
    assert notes[:2] == ["champion kept (version 1): trained on these purchases already (version 1)"] * 2
    assert notes[2] == "champion: version 1" and decisions() == [("1", "promoted")]
    assert len(tracking.versions("ranking")) == 1


def _not_yet(held: tracking.Version) -> None:
    """The next day brings too little to train again; a day before never trains."""
    more = pa.concat_tables([walkers(), purchases({"new": ["p001", "p002", "p003"]})])
    extract(DAY + timedelta(days=1), more)
    share = 3 / walkers().num_rows
    assert night(DAY + timedelta(days=1))[1] == (
        f"champion kept (version 1): {share:.1%} new purchases since version 1, 1 days ago"
    )
    extract(DAY - timedelta(days=1), purchases({"x": ["p001"]}))
    assert "was trained for a later day" in night(DAY - timedelta(days=1))[1]
    assert len(tracking.versions("ranking")) == 1


def _refreshed(held: tracking.Version) -> None:
    """A week later training is due; a tie keeps the champion's recipe and refreshes its data."""
    week = DAY + timedelta(days=7)
    extract(week, pa.concat_tables([walkers(), purchases({"new": ["p001", "p002", "p003"]})]))
    assert night(week)[2].startswith("version 2 is champion")
    fresh = tracking.champion("ranking")
    assert fresh is not None and [v.aliases for v in tracking.versions("ranking")] == [
        ("previous",),
        ("champion",),
    ]
    report = json.loads(fresh.tags["gate_report"])
    assert report["champion"] == "1" and report["comparisons"][-1]["against"] == "the recipe of version 1"
    assert report["kept_recipe"] and fresh.params["ranker"] == held.params["ranker"]


def test_a_shop_without_a_pattern_keeps_the_shelf_and_the_refusal_is_written_down() -> None:
    random = np.random.default_rng(2)
    extract(
        DAY, purchases({f"c{n:03d}": [f"p{p:02d}" for p in random.integers(40, size=5)] for n in range(150)})
    )
    assert "refused: not certainly better" in night(DAY)[2]
    assert tracking.champion("ranking") is None and decisions() == [("1", "refused")]
    kept = tracking.versions("ranking")[0]
    assert kept.tags["shelf"] == "yes" and ranking.load(kept.path / "item_to_item").kind == "item_to_item"
    assert night(DAY)[2] == "no champion: the shelf serves" and decisions() == [("1", "refused")]


def test_a_shop_of_one_customer_and_an_empty_one_learn_nothing() -> None:
    extract(DAY, purchases({"x": [["p1", "p2"]]}))
    assert night(DAY) == [
        "", "too little to learn from: no customer came back for another product", "no champion: the shelf serves",
    ]  # fmt: skip
    extract(DAY, purchases({}))
    assert night(DAY)[:2] == [
        "no purchases yet: nothing to learn from",
        "no purchases yet: recommendations use the shelf",
    ]
    assert tracking.versions("ranking") == []


def test_a_day_without_extracts_says_what_to_run() -> None:
    with pytest.raises(ExtractMissing, match="build_warehouse"):
        finetune.build_examples(DAY, "r")


def test_killed_between_any_two_steps_the_next_night_ends_with_one_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extract(DAY, walkers(120))
    finetune.build_examples(DAY, "r")
    for seam in ("_log_model", "_ensure_model", "_set_alias"):
        with monkeypatch.context() as patch:
            patch.setattr(tracking, seam, _dies_after(getattr(tracking, seam)))
            with pytest.raises(KeyboardInterrupt):
                finetune.train(DAY, "r")
    finetune.train(DAY, "r")
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_move", _dies_after(tracking._move))
        patch.setattr(tracking.ledger, "promotion", _dies_after(tracking.ledger.promotion))
        with pytest.raises(KeyboardInterrupt):
            finetune.promote(DAY, "r")
    finetune.promote(DAY, "r")
    finetune.promote(DAY, "r")
    assert len(tracking.versions("ranking")) == 1 and len(decisions()) == 1


def test_a_champion_chosen_by_hand_since_the_measurement_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    extract(DAY, walkers(120))
    finetune.build_examples(DAY, "r")
    finetune.train(DAY, "r")
    _, client = tracking._mlflow()
    other = client.create_model_version(
        "nightmarket.ranking", tracking.versions("ranking")[0].path.as_uri(), None
    )
    client.set_registered_model_alias("nightmarket.ranking", "champion", other.version)
    assert "became champion after version 1 was measured" in finetune.promote(DAY, "r").note
    held = tracking.champion("ranking")
    assert held is not None and held.version == "2"
    assert [(r["to_version"], r["actor"], r["decision"]) for r in ledger.rows("promotions").to_pylist()] == [
        ("2", "mlflow", "promoted"),
        ("1", "gate", "refused"),
    ]


def _dies_after(function):  # type: ignore[no-untyped-def]
    """The same function, killed right after it did its work."""

    def dying(*args: object, **kwargs: object) -> None:
        function(*args, **kwargs)
        raise KeyboardInterrupt

    return dying
