"""Every DAG end to end on the tiny shop, in this process: real landing, dbt, gates, models and publishing."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nightmarket.night import DAGS
from tests.conftest import choose
from tests.dags.conftest import dag_bag

DAY = date(2026, 3, 2)


def run_dag(dag_id: str) -> Any:
    return dag_bag().dags[dag_id].test(run_conf={"day": DAY.isoformat()})


def states(dag_run: Any) -> dict[str, str]:
    return {ti.task_id: str(ti.state) for ti in dag_run.get_task_instances()}


def ops_runs() -> pa.Table:
    from nightmarket import ledger

    return ledger.rows("runs")


@pytest.fixture(scope="module")
def night(dag_home: Path, airflow_database: None) -> dict[str, Any]:
    """The six DAG runs of one night, in order; it writes about four products, which is as good as all."""
    with pytest.MonkeyPatch.context() as patch:
        choose(patch, COPY_PRODUCTS_PER_NIGHT="4")
        return {dag_id: run_dag(dag_id) for dag_id in DAGS}


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_task_of_the_dag_succeeds_for_the_day_asked_for(night: dict[str, Any], dag_id: str) -> None:
    assert str(night[dag_id].state) == "success"
    assert set(states(night[dag_id]).values()) == {"success"}
    rows = [
        row
        for row in ops_runs().to_pylist()
        if row["run_id"] == night[dag_id].run_id and row["dag_id"] == dag_id
    ]
    assert {row["day"] for row in rows} == {DAY}
    assert {row["state"] for row in rows} == {"success"}


def test_every_model_of_dbt_is_a_task_and_one_build_did_the_work_of_all(night: dict[str, Any]) -> None:
    tasks = states(night["build_warehouse"])
    models = {path.stem for path in (Path(__file__).parents[2] / "dbt" / "models").rglob("*.sql")}
    assert len(models) >= 20
    assert {
        task.removeprefix("dbt.").removesuffix("_run") for task in tasks if task.endswith("_run")
    } == models
    builds = [r for r in ops_runs().to_pylist() if r["task_id"] == "dbt" and r["dag_id"] == "build_warehouse"]
    assert len(builds) == 1
    built, tested = (int(words.split()[0]) for words in builds[0]["note"].split(", "))
    assert built == len(models)
    assert tested > 50  # in the same build: a test that fails stops what depends on its model


def test_between_tasks_travel_days_names_and_counts_never_rows(night: dict[str, Any]) -> None:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        found = [
            (x.task_id, x.value)
            for x in session.query(XComModel).filter(
                XComModel.key == "return_value", XComModel.dag_id.in_(DAGS)
            )
        ]
    steps = {task: value for task, value in found if not task.startswith("dbt")}
    assert {"land", "extract", "train", "publish"} <= set(steps)
    assert all(len(str(value)) < 2500 for value in steps.values())
    for customer in ("c001@example.com", "Name 1"):
        assert customer not in str(found)


def test_a_second_build_of_the_same_day_skips_dbt_and_goes_on(night: dict[str, Any]) -> None:
    again = run_dag("build_warehouse")
    tasks = states(again)
    assert str(again.state) == "success"
    assert tasks["extract"] == "success"
    assert tasks["dbt.dbt_producer_watcher"] == "skipped"
    assert {state for task, state in tasks.items() if task.endswith("_run")} == {"skipped"}


def test_a_failed_gate_stops_its_dag_without_a_retry_and_leaves_the_published_day(
    night: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightmarket import products, warehouse
    from nightmarket.errors import QualityGateFailed

    before = warehouse.published("customer_profiles", DAY)
    assert before is not None

    def refuse(*_: object) -> None:
        raise QualityGateFailed("customer_profiles", ["no negative value"], "nightmarket query 'select 1'")

    monkeypatch.setattr(products, "check", refuse)
    failed = run_dag("refresh_profiles")
    tasks = {ti.task_id: ti for ti in failed.get_task_instances()}
    assert str(tasks["check"].state) == "failed"
    assert tasks["check"].try_number == 1
    assert str(tasks["publish"].state) == "upstream_failed"
    assert warehouse.published("customer_profiles", DAY) == before
    last = [row for row in ops_runs().to_pylist() if row["task_id"] == "check"][-1]
    assert last["state"] == "failed"
    assert "no negative value" in last["error"]
