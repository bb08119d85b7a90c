"""What only Airflow can load: links from a task to its MLflow run and Data Docs, and a listener for failures.

The listener writes each failed task, with the table, checks and rows of a failed gate, as one JSON line to
`logs/failures.jsonl`: the terminal that started the night reads it there. Not here: what a task does.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink
from sqlalchemy import event
from sqlalchemy.engine import Engine

from nightmarket import night
from nightmarket.night import failure_of
from nightmarket.scheduler.processes import failure_file, served
from nightmarket.settings import get_settings

GATES = frozenset({"check_arrivals", "build_examples", "check"})
LEARNERS = frozenset({"train", "promote"})


@event.listens_for(Engine, "connect")
def _sync_at_checkpoints(connection: Any, _: object) -> None:
    """Airflow's SQLite need not wait for the disk at every commit: its write-ahead log survives any crash of ours."""
    if "sqlite" in type(connection).__module__:
        connection.execute("pragma synchronous = normal")


class DataDocs(BaseOperatorLink):
    """From a gate to the report of its checks."""

    name = "Data Docs"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        if ti_key.task_id not in GATES:
            return ""
        return served("data_docs") or (get_settings().state / "gx").as_uri()


class MlflowRun(BaseOperatorLink):
    """From a learner to the MLflow run it wrote, or to the champion's when it kept that."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        server = served("mlflow") or get_settings().tracking_uri or ""
        if ti_key.task_id not in LEARNERS or not server.startswith("http"):
            return ""
        from nightmarket import tracking

        known = tracking.versions("ranking")
        ours = [v for v in known if v.tags.get("run_id") == ti_key.run_id]
        kept = [v for v in known if "champion" in v.aliases]
        return server + tracking.run_url((ours or kept)[-1].run_id, "ranking") if ours or kept else server


class Failures:
    """Writes what failed to where the night's terminal looks."""

    @hookimpl
    def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:
        cause = getattr(error, "__cause__", None) or error
        if not isinstance(cause, BaseException):
            cause = RuntimeError(str(cause))
        failure = failure_of(task_instance.dag_id, task_instance.task_id, cause)
        told = {
            "dag_id": failure.dag_id, "task_id": failure.task_id, "run_id": task_instance.run_id,
            "try": getattr(task_instance, "try_number", None), "message": failure.message[:4000],
            "table": failure.table, "checks": failure.checks, "where": failure.where,
        }  # fmt: skip
        path: Path = failure_file(get_settings())
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(told, ensure_ascii=False) + "\n")


class Preload:
    """Imports once what the processes forked from the scheduler and the DAG processor would import again, each of them.

    A task's process then begins in 0.2 s instead of 0.8 s, and a gate or the dbt build saves the 3 s that its library
    takes. The scheduler has that time: it waits for the API server, which starts more slowly.
    """

    @hookimpl
    def on_starting(self, component: Any) -> None:
        if type(component).__name__ != "Job":
            return
        import_module("nightmarket.orchestration")
        import_module("cosmos.operators.watcher")
        night.steps()
        if "scheduler" in sys.argv[:2]:
            import_module("great_expectations")
            import_module("dbt.cli.main")


class NightmarketPlugin(AirflowPlugin):
    name = "nightmarket"
    global_operator_extra_links: ClassVar[list[Any]] = [DataDocs(), MlflowRun()]
    listeners: ClassVar[list[Any]] = [Failures(), Preload()]
