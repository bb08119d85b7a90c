"""What every DAG promises: it parses, it is wiring, it has an owner, and it says what to do when it fails."""

from __future__ import annotations

import ast
import time
from datetime import timedelta
from pathlib import Path

import pytest

from nightmarket.night import AFTER, DAGS, FOR_PEOPLE, WHEN_ASKED
from tests.dags.conftest import ROOT, dag_bag

FILES = sorted((ROOT / "dags").glob("*.py"))
LONGEST = 55


@pytest.fixture(scope="module")
def dags(dag_home: Path, airflow_database: None) -> dict:
    bag = dag_bag()
    assert bag.import_errors == {}
    return dict(bag.dags)


def test_the_files_give_the_dags_of_a_night_and_those_beside_it_each_named_as_its_file(
    dags: dict,
) -> None:
    assert WHEN_ASKED == ("finetune_writer", "bake_off")
    assert FOR_PEOPLE == ("review_copy",)
    others = {"follow_events", "ask_in_batch"}
    assert {path.stem for path in FILES} == {*DAGS, *WHEN_ASKED, *FOR_PEOPLE, *others}
    assert set(dags) == {*DAGS, *WHEN_ASKED, *FOR_PEOPLE, *others}
    assert all(Path(dag.fileloc).stem == dag_id for dag_id, dag in dags.items())


def test_every_dag_has_an_owner_retries_with_a_delay_a_timeout_and_runs_one_day_at_a_time(dags: dict) -> None:
    for dag in dags.values():
        assert dag.catchup is False
        assert dag.max_active_runs == (100 if dag.dag_id in FOR_PEOPLE else 1)
        for task in dag.tasks:
            assert task.owner == "nightmarket", task.task_id
            assert task.execution_timeout is not None, task.task_id
            # A provider answers a batch within a day; the task that waits for it holds no worker.
            most = 26 if type(task).__name__ == "AskProvider" else 1
            assert task.execution_timeout <= timedelta(hours=most), task.task_id
            if not task.task_id.startswith("dbt."):
                assert task.retries == 1, task.task_id
                assert timedelta(seconds=5) <= task.retry_delay <= timedelta(seconds=30), task.task_id


def test_every_dag_says_what_it_reads_and_writes_and_what_to_do_when_it_fails(dags: dict) -> None:
    for dag in dags.values():
        for promise in ("**Reads**", "**Writes**", "**If it fails**:"):
            assert promise in (dag.doc_md or ""), (dag.dag_id, promise)


def test_every_dag_has_a_tier_and_a_subject_as_tags(dags: dict) -> None:
    subjects = {"warehouse", "models", "profiles", "recommendations", "product_copy"}
    for dag in dags.values():
        assert len(dag.tags & {"tier-1", "tier-2", "tier-3"}) == 1
        assert len(dag.tags & subjects) == 1
        assert dag.tags <= subjects | {"tier-1", "tier-2", "tier-3"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dag_file_is_short_and_holds_wiring_alone(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST
    tree = ast.parse(text)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert [function.name for function in functions] == [path.stem]
    forbidden = ast.If | ast.For | ast.While | ast.Try | ast.Lambda | ast.FunctionDef | ast.With
    inner = [node for node in ast.walk(functions[0]) if node is not functions[0]]
    assert not [type(node).__name__ for node in inner if isinstance(node, forbidden)]
    assert len(functions[0].body) <= 6


def test_the_tasks_of_a_dag_are_the_steps_that_the_command_line_runs(dags: dict) -> None:
    from nightmarket.night import steps

    for dag_id, verbs in steps().items():
        tasks = [task.task_id for task in dags[dag_id].topological_sort()]
        ours = ["dbt" if t.endswith("dbt_producer_watcher") else t for t in tasks if t != "dbt_needed"]
        assert [t for t in ours if not t.startswith("dbt.")] == list(verbs), dag_id


def test_every_outlet_has_one_producer_and_every_schedule_waits_for_assets_that_somebody_produces(
    dags: dict,
) -> None:
    makers: dict[str, list[str]] = {}
    for dag in dags.values():
        for task in dag.tasks:
            for asset in task.outlets:
                makers.setdefault(asset.name, []).append(f"{dag.dag_id}.{task.task_id}")
    assert len(makers) == 19
    assert all(len(who) == 1 for who in makers.values()), makers
    after: dict[str, set[str]] = {}
    for dag in dags.values():
        condition = getattr(dag.timetable, "asset_condition", None)
        waits = {asset.name for asset in getattr(condition, "objects", [condition]) if asset is not None}
        assert waits <= set(makers), dag.dag_id
        after[dag.dag_id] = {makers[name][0].split(".")[0] for name in waits}
    assert after.pop("follow_events") == set()
    assert after.pop("ask_in_batch") == {"refresh_product_copy"}
    assert after.pop("review_copy") == {"refresh_product_copy"}
    assert after == {dag_id: set(before) for dag_id, before in AFTER.items()}


def test_an_outlet_stands_on_the_last_task_of_its_dag_so_that_only_checked_data_goes_on(dags: dict) -> None:
    assert [task.outlets for task in dags["bake_off"].tasks] == [[], []]  # it makes nothing that serves
    for dag_id in {*DAGS, *WHEN_ASKED} - {"bake_off"}:
        assert {t.task_id for t in dags[dag_id].tasks if t.outlets} == {
            t.task_id for t in dags[dag_id].leaves if not t.task_id.startswith("dbt.")
        }


def test_of_a_night_only_its_root_has_a_schedule_of_its_own_and_its_partition_is_a_day(dags: dict) -> None:
    from datetime import UTC, datetime

    partitioned = {dag_id: type(dag.timetable).__name__ for dag_id, dag in dags.items()}
    assert partitioned.pop("build_warehouse") == "CronPartitionTimetable"
    assert partitioned.pop("follow_events") == "CronTriggerTimetable"
    assert partitioned.pop("finetune_writer") == "CronPartitionTimetable"
    assert partitioned.pop("bake_off") == "PartitionedAtRuntime"
    assert set(partitioned.values()) == {"PartitionedAssetTimetable"}
    from airflow.serialization.serialized_objects import DagSerialization

    timetable = DagSerialization.from_dict(DagSerialization.to_dict(dags["build_warehouse"])).timetable
    runs = list(
        timetable.iter_partition_dagrun_infos(
            earliest=datetime(2026, 11, 21, tzinfo=UTC), latest=datetime(2026, 11, 23, tzinfo=UTC)
        )
    )
    assert [run.partition_key for run in runs] == ["2026-11-21", "2026-11-22"]


def test_what_writes_the_warehouse_takes_turns_in_a_pool_of_one_slot(dags: dict) -> None:
    from nightmarket.orchestration import POOLS
    from nightmarket.scheduler import POOLS as MADE

    assert MADE == POOLS == {"warehouse": 1}
    writers = {
        f"{dag.dag_id}.{task.task_id}"
        for dag in dags.values()
        for task in dag.tasks
        if task.pool == "warehouse"
    }
    assert writers == {
        "build_warehouse.land", "build_warehouse.dbt.dbt_producer_watcher", "build_warehouse.extract",
        "refresh_profiles.publish", "refresh_recommendations.publish", "refresh_product_copy.publish",
        "follow_events.follow",
    }  # fmt: skip


def test_what_runs_between_two_nights_is_paused_until_somebody_asks_and_starts_nothing_of_a_night(
    dags: dict,
) -> None:
    assert dags["finetune_writer"].is_paused_upon_creation is True
    assert dags["bake_off"].is_paused_upon_creation is True
    assert str(dags["finetune_writer"].timetable.expression) == "0 6 * * 0"
    assert dags["review_copy"].is_paused_upon_creation is True
    follow = dags["follow_events"]
    assert follow.is_paused_upon_creation is True
    assert [task.task_id for task in follow.topological_sort()] == ["look", "follow"]
    assert [task.outlets for task in follow.tasks] == [[], []]
    assert follow.timetable.expression == "*/5 * * * *"
    ask = dags["ask_in_batch"]
    assert ask.is_paused_upon_creation is True
    assert [task.task_id for task in ask.topological_sort()] == ["gather", "ask", "keep"]
    assert [task.outlets for task in ask.tasks] == [[], [], []]


def test_all_dags_parse_within_their_budget(dags: dict) -> None:
    began = time.perf_counter()
    dag_bag()
    assert time.perf_counter() - began < 5.0


def test_parsing_the_dags_imports_no_heavy_library(dag_home: Path) -> None:
    import subprocess
    import sys

    heavy = [
        "torch",
        "transformers",
        "sentence_transformers",
        "mlflow",
        "great_expectations",
        "pandas",
        "scipy",
        "sklearn",
        "dbt",
    ]
    program = (
        "import runpy, sys\n"
        f"for path in {[str(path) for path in FILES]!r}: runpy.run_path(path)\n"
        f"print('heavy:', *sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].split() == ["heavy:"]
