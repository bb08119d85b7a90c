"""Between two nights: new files become lists within minutes, and the night after is as it would have been without that."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightmarket.contracts import OUTPUTS, UNHASHED
from nightmarket.errors import NightFailed, QualityGateFailed
from nightmarket.settings import get_settings
from tests.conftest import write_tiny_shop
from tests.products.list_shop import crown

pytestmark = pytest.mark.slow

LAST, COMING = date(2026, 3, 2), date(2026, 3, 3)
ROOT = Path(__file__).parents[2]


@dataclass
class Story:
    """One shop, two ways from one night to the next: straight, and with micro-batches between."""

    idle: dict[str, str]  # states of the DAG's tasks when nothing was new
    before: dict[
        str, tuple[date, list[str]]
    ]  # day and products of every customer's list after the first night
    failed: dict[str, Any]  # what a micro-batch left that could not build
    done: dict[str, Any]  # what the DAG's run after it left
    lists: dict[str, tuple[date, list[str]]]
    reactions: list[dict[str, Any]]
    straight: dict[str, pa.Table]
    between: dict[str, pa.Table]
    late: str  # what a micro-batch for the day says when its night is over


def _put(shop: Path, name: str, lines: list[str]) -> None:
    heads = {
        "orders": "order_id,customer_id,ordered_at,status,channel",
        "order_items": "order_id,line,product_id,quantity,unit_price,refunded_quantity",
    }
    path = shop / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([heads[name.split("/")[0]], *lines]) + "\n")


def _first_files(shop: Path) -> None:
    """Two customers buy on the day before the coming night; the third order is of the day itself and not seen yet."""
    _put(shop, "orders/1.csv", [
        "n1,c000,2026-03-02T10:00:00Z,placed,web", "n2,c001,2026-03-02T11:00:00Z,placed,web",
        "n3,c002,2026-03-03T00:30:00Z,placed,web",
    ])  # fmt: skip
    _put(shop, "order_items/1.csv", ["n1,1,p23,1,39.0,0", "n1,2,p24,1,45.0,0", "n2,1,p31,2,128.0,0", "n3,1,p32,1,258.0,0"])  # fmt: skip


def _second_files(shop: Path) -> None:
    """Another customer buys, and a line of the first file comes again, given back."""
    _put(shop, "orders/2.csv", ["n4,c003,2026-03-02T15:00:00Z,placed,web"])
    _put(shop, "order_items/2.csv", ["n4,1,p02,1,49.0,0", "n1,2,p24,1,45.0,1"])


def _night(day: date) -> None:
    from nightmarket import night

    report = night.run(day, ["build_warehouse", "refresh_recommendations"], lambda *_: None)
    assert report.succeeded, report.failures


def _first_night(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """A night whose champion was fitted at once, and whose texts are read by a stand-in: both take a minute."""
    from nightmarket import encoder, lake, night
    from nightmarket.ranking import ItemToItem

    patch.setattr(encoder, "_encode", _vectors)
    assert night.run(LAST, ["build_warehouse"], lambda *_: None).succeeded
    crown(patch, folder, ItemToItem(), lake.read("purchases", LAST))
    assert night.run(LAST, ["refresh_recommendations"], lambda *_: None).succeeded


def _vectors(texts: list[str]) -> np.ndarray:
    """A unit vector for each text, the same one each time."""
    drawn = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=384) for text in texts]
    return np.array([row / np.linalg.norm(row) for row in drawn], np.float32)


def _published() -> dict[str, pa.Table]:
    """Every row of every output and every extract of the coming day, without what tells who made it and when."""
    from nightmarket import lake, transform, warehouse

    tables = {
        name: warehouse.read(f"select * exclude ({', '.join(UNHASHED)}) from outputs.{name} order by all")
        for name in OUTPUTS
        if warehouse.published(name, LAST)
    }
    live = "select table_name, day, rows, content_hash from ops.publications where superseded_at is null order by all"
    return tables | {"publications": warehouse.read(live)} | {
        f"lake.{mart}": lake.read(mart, COMING) for mart in transform.MARTS
    }  # fmt: skip


def _follow_dag() -> Any:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(ROOT / "dags" / "follow_events.py")
    assert bag.import_errors == {}
    return bag.dags["follow_events"].test(run_conf={"day": COMING.isoformat()})


def _states(run: Any) -> dict[str, str]:
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}


def _lists() -> dict[str, tuple[date, list[str]]]:
    from nightmarket import warehouse

    rows = warehouse.read(
        "select customer_id, any_value(day) as day, list(product_id order by rank) as products "
        "from outputs.recommendations_current where placement = 'home' group by customer_id"
    ).to_pylist()
    return {row["customer_id"]: (row["day"], row["products"]) for row in rows}


def _refuse(day: date, marts: object) -> None:
    raise QualityGateFailed("recommendations", ["a planted failure"], "nightmarket query 'select 1'")


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory, dag_home: Path, airflow_database: None
) -> Iterator[Story]:
    from nightmarket import ledger, microbatch, transform

    root = tmp_path_factory.mktemp("follow")
    shop = write_tiny_shop(root / "tiny")
    parsed = get_settings().state / "dbt"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("NIGHTMARKET_")]:
            patch.delenv(name)
        patch.setenv("NIGHTMARKET_SHOP", str(shop))
        patch.setenv("NIGHTMARKET_HOME", str(root / "var"))
        patch.setattr(microbatch, "AT_REST_S", 0.0)
        get_settings.cache_clear()
        shutil.copytree(parsed, get_settings().state / "dbt")
        _first_night(patch, root / "champion")
        shutil.copytree(root / "var", root / "straight", symlinks=True)

        idle, before = _states(_follow_dag()), _lists()
        _first_files(shop)
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(transform, "build_part", _refuse)  # after landing
            with pytest.raises(QualityGateFailed):
                microbatch.follow(COMING, "broken")
        failed = {"work": microbatch.has_work(COMING), "lists": _lists()}
        _second_files(shop)
        done = {
            "states": _states(_follow_dag()),
            "runs": ledger.newest("runs", 7, dag_id="follow_events"),
            "again": microbatch.follow(COMING, "idle").note,
        }
        lists, reactions = _lists(), ledger.rows("reactions").to_pylist()
        _night(COMING)
        between = _published()
        with pytest.raises(NightFailed) as late:
            microbatch.follow(COMING, "late")

        patch.setenv("NIGHTMARKET_HOME", str(root / "straight"))
        get_settings.cache_clear()
        _night(COMING)
        straight = _published()
        yield Story(idle, before, failed, done, lists, reactions, straight, between, str(late.value))
    get_settings.cache_clear()


def test_a_look_that_finds_nothing_new_skips_the_rest_and_leaves_no_row(story: Story) -> None:
    assert story.idle == {"look": "success", "follow": "skipped"}
    assert story.done["again"] == "nothing new"
    assert len(story.reactions) == 2


def test_the_lists_of_touched_customers_are_live_at_once_and_no_other_list_moved(story: Story) -> None:
    assert story.done["states"] == {"look": "success", "follow": "success"}
    assert len(story.lists) == 50
    moved = {customer for customer, made in story.lists.items() if made != story.before[customer]}
    assert moved == {customer for customer, (day, _) in story.lists.items() if day == COMING}
    assert moved == {"c000", "c001", "c003"}
    bought = {"c000": "p23", "c001": "p31", "c003": "p02"}
    assert [c for c, product in bought.items() if product in story.lists[c][1]] == []


def test_each_step_is_a_row_of_the_ledger_for_the_coming_nights_day(story: Story) -> None:
    steps = [(row["task_id"], row["state"], row["day"]) for row in reversed(story.done["runs"])]
    names = ("follow", "land", "dbt", "extract", "generate", "check", "publish")
    assert steps == [(name, "success", COMING) for name in names]


def test_what_failed_leaves_the_lists_as_they_were_and_the_next_one_takes_up_what_it_had_landed(
    story: Story,
) -> None:
    assert story.failed == {"work": True, "lists": story.before}
    broken, mended = story.reactions
    assert (broken["run_id"], broken["published_at"]) == ("broken", None)
    assert (mended["files"], mended["rows"]) == (4, 10)


def test_how_long_event_and_file_waited_is_stored_and_an_event_that_the_day_does_not_see_does_not_count(
    story: Story,
) -> None:
    row = story.reactions[1]
    assert row["day"] == COMING
    assert (row["customers_touched"], row["customers_listed"]) == (4, 3)
    assert 0 < row["file_to_list_s"] < 600
    # Orders of 10:00, 11:00 and 15:00; the one of the next day would bring the median to 13:00.
    middle = (row["published_at"] - datetime(2026, 3, 2, 11)).total_seconds()
    assert row["event_to_list_p50_s"] == pytest.approx(middle, abs=1)
    assert row["event_to_list_p95_s"] == pytest.approx(middle + 0.9 * 3600, abs=1)


def test_the_night_after_publishes_to_the_byte_what_it_would_have_without_micro_batches(story: Story) -> None:
    assert set(story.between) == set(story.straight)
    assert {"recommendations", "similar_products", "publications", "lake.customer_features"} <= set(
        story.between
    )
    assert story.between["recommendations"].num_rows > 1000
    for name, rows in story.straight.items():
        assert story.between[name].equals(rows), name


def test_an_early_run_never_comes_after_its_night(story: Story) -> None:
    assert "2026-03-03" in story.late
    assert "2026-03-04 or later" in story.late
