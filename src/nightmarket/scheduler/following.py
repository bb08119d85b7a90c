"""One night under Airflow: triggered at its root and followed until no DAG of it can come any more.

What depends on what is read from Airflow itself (assets and who makes them), so it cannot differ from the DAGs. Not
here: Airflow's processes (processes) and what is printed (the package).
"""

from __future__ import annotations

import contextlib
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from nightmarket.scheduler.processes import Airflow, moment

QUIET_LIMIT_S = 120.0
"""A DAG whose inputs are all there, and that has not begun after this long, will not."""

_OVER = {"success", "failed", "skipped", "upstream_failed", "removed"}


@dataclass
class DagRun:
    """One DAG of the night as Airflow tells it."""

    dag_id: str
    run_id: str = ""
    state: str = "waiting"
    started_at: datetime | None = None
    ended_at: datetime | None = None
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()

    @property
    def over(self) -> bool:
        return self.state in {"success", "failed", "not started"}


class Night:
    """The night of one day: triggered at its root, followed until no DAG of it can come any more."""

    def __init__(self, airflow: Airflow, day: date, root: str, dag_ids: tuple[str, ...]) -> None:
        self.airflow = airflow
        self.day = day
        self.root = root
        self.dags = {dag_id: DagRun(dag_id) for dag_id in dag_ids}
        self.upstream: dict[str, set[str]] = {}
        self._begun = datetime.now(UTC)
        self._ready_at: dict[str, float] = {}
        self._root_was_paused = False

    def begin(self, pools: Mapping[str, int]) -> None:
        """Make the pools, unpause the DAGs, and trigger the root for the day."""
        known = {pool["name"]: pool["slots"] for pool in self.airflow.get("/api/v2/pools?limit=100")["pools"]}
        for name, slots in pools.items():
            body = {
                "name": name,
                "slots": slots,
                "description": "The warehouse has one writer at a time.",
                "include_deferred": False,
            }
            if name not in known:
                self.airflow.post("/api/v2/pools", body)
            elif known[name] != slots:
                self.airflow.patch(f"/api/v2/pools/{name}", body)
        for dag in self.airflow.get("/api/v2/dags?limit=100&exclude_stale=false")["dags"]:
            if dag["dag_id"] in self.dags and dag["is_paused"]:
                self._root_was_paused |= dag["dag_id"] == self.root
                self.airflow.patch(f"/api/v2/dags/{dag['dag_id']}", {"is_paused": False})
        for asset in self.airflow.get("/api/v2/assets?limit=100")["assets"]:
            for consumer in asset["scheduled_dags"]:
                makers = {task["dag_id"] for task in asset["producing_tasks"]}
                self.upstream.setdefault(consumer["dag_id"], set()).update(makers)
        self._begun = datetime.now(UTC)
        run_id = f"night__{self.day}__{self._begun:%Y%m%dT%H%M%S}"
        self.airflow.post(
            f"/api/v2/dags/{self.root}/dagRuns",
            {
                "dag_run_id": run_id,
                "logical_date": None,
                "partition_key": self.day.isoformat(),
                "conf": {"day": self.day.isoformat()},
            },
        )

    def end(self) -> None:
        """Leave the root paused if it was: whether nights run by the clock is for the shop to say, in Airflow."""
        if self._root_was_paused:
            with contextlib.suppress(OSError):  # a night that lost its Airflow says so itself
                self.airflow.patch(f"/api/v2/dags/{self.root}", {"is_paused": True})

    def follow(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Ask Airflow once; returns (DAG, task, its record) of the tasks that ended since the last time."""
        since = urllib.parse.quote(self._begun.isoformat())
        for run in self.airflow.get(
            f"/api/v2/dags/~/dagRuns?run_after_gte={since}&limit=100&order_by=run_after"
        )["dag_runs"]:
            dag = self.dags.get(run["dag_id"])
            if (
                dag is None
                or run["partition_key"] != self.day.isoformat()
                or dag.run_id not in {"", run["dag_run_id"]}
            ):
                continue
            dag.run_id, dag.state = run["dag_run_id"], run["state"]
            dag.started_at, dag.ended_at = _moment(run["start_date"]), _moment(run["end_date"])
        ended: list[tuple[str, str, dict[str, Any]]] = []
        for dag in self.dags.values():
            if dag.run_id and not (
                dag.over and dag.tasks and all(t["state"] in _OVER for t in dag.tasks.values())
            ):
                ended += self._follow_tasks(dag)
        self._give_up_on_what_cannot_come()
        return ended

    @property
    def over(self) -> bool:
        return all(dag.over for dag in self.dags.values())

    @property
    def succeeded(self) -> bool:
        return all(dag.state == "success" for dag in self.dags.values())

    def running_tasks(self) -> list[str]:
        return [
            f"{dag.dag_id}.{name}"
            for dag in self.dags.values()
            for name, t in dag.tasks.items()
            if t["state"] == "running"
        ]

    def _follow_tasks(self, dag: DagRun) -> list[tuple[str, str, dict[str, Any]]]:
        path = f"/api/v2/dags/{dag.dag_id}/dagRuns/{urllib.parse.quote(dag.run_id)}/taskInstances?limit=100"
        found: list[dict[str, Any]] = []
        while True:
            page = self.airflow.get(f"{path}&offset={len(found)}")
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                break
        ended = []
        for instance in found:
            before = dag.tasks.get(instance["task_id"], {}).get("state")
            if instance["state"] in _OVER and before not in _OVER:
                ended.append((dag.dag_id, instance["task_id"], instance))
            dag.tasks[instance["task_id"]] = instance
        return sorted(ended, key=lambda e: str(e[2]["end_date"]))

    def _give_up_on_what_cannot_come(self) -> None:
        moved = True
        while moved:
            moved = False
            for dag in self.dags.values():
                makers = [self.dags[m] for m in self.upstream.get(dag.dag_id, ()) if m in self.dags]
                if dag.run_id or dag.over or dag.dag_id == self.root or not makers:
                    continue
                if any(maker.state in {"failed", "not started"} for maker in makers):
                    dag.state, moved = "not started", True
                elif all(maker.state == "success" for maker in makers):
                    ready = self._ready_at.setdefault(dag.dag_id, time.monotonic())
                    if time.monotonic() - ready > QUIET_LIMIT_S:
                        dag.state, moved = "not started", True


def _moment(text: str | None) -> datetime | None:
    return moment(text) if text else None
