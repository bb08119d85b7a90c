"""A real Airflow for one shop: started, watched and stopped by us, with nothing left running afterwards.

Here: the night under Airflow as a person sees it (`nightly`). Beneath: Airflow's processes and API (processes), following
a night (following), and what ends everything when this command is killed (watchdog). Not here: what the DAGs do
(dags/, orchestration), the same night in one process (night). Nothing here imports Airflow: processes and HTTP only.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from nightmarket import night
from nightmarket.night import AFTER, DAGS, Failure, Report
from nightmarket.scheduler.following import Night
from nightmarket.scheduler.processes import (
    Airflow,
    airflow_home,
    asked_to_stop,
    end_leftovers,
    environment,
    failure_file,
    free_port,
    log_folder,
    migrate,
    only_one,
    running,
)
from nightmarket.settings import Settings, choose_shop

if TYPE_CHECKING:
    from rich.console import Console

POOLS = {"warehouse": 1}
"""As in orchestration, which only Airflow's processes import; a test holds the two together."""


def nightly(shop: str | None, day: date | None, console: Console) -> Report:
    """Run one whole night under a real Airflow, telling its progress on `console`.

    Raises:
        NightFailed: Airflow itself could not run; a DAG that failed is in the report instead.
        ShopNotFound: no such shop.
    """
    began = time.perf_counter()
    settings = choose_shop(shop)
    with only_one(settings):
        if left := end_leftovers(settings):
            console.print(f"Ended {left} processes that a killed night had left.")
        settings, day = _prepare(settings, shop, day, console)
        failures = failure_file(settings)
        failures.unlink(missing_ok=True)
        console.print(f"Night of {day} for shop {settings.shop}. Starting Airflow ...")
        since = datetime.now(UTC)
        with running(settings) as airflow:
            airflow.wait_ready(set(DAGS), since)
            up = time.perf_counter()
            console.print(f"Airflow {airflow.url} is ready after {up - began:.1f} s.")
            tonight = Night(airflow, day, DAGS[0], DAGS)
            try:
                tonight.begin(POOLS)
                _follow(tonight, console)
            finally:
                tonight.end()
            over = time.perf_counter()
        report = _report(settings, tonight)
    report.phases = {"start": up - began, "night": over - up, "stop": time.perf_counter() - over}
    return report


def _prepare(
    settings: Settings, shop: str | None, day: date | None, console: Console
) -> tuple[Settings, date]:
    """Landing files and the day on one side; Airflow's database and dbt's manifest on the other, at the same time."""
    from nightmarket import transform

    def base() -> None:
        migrate(settings, environment(settings, free_port(), schedule="", parse_every_s=3600))

    (log_folder(settings)).mkdir(parents=True, exist_ok=True)
    airflow_home(settings).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as aside:
        migrated = aside.submit(base)
        prepared = night.prepare(shop, day)
        transform.ensure_manifest()
        migrated.result()
    return prepared


def _follow(tonight: Night, console: Console) -> None:
    clock = time.perf_counter()
    dbt: dict[str, int] = {}
    with _spinner(console) as spin:
        while True:
            tonight.airflow.check_alive()
            for dag_id, task_id, record in tonight.follow():
                if _is_model(task_id) and record["state"] != "failed":
                    dbt[record["state"]] = dbt.get(record["state"], 0) + 1
                    continue
                if task_id == "extract" and dbt:
                    counts = ", ".join(f"{n} {state}" for state, n in sorted(dbt.items()))
                    _tell(console, clock, dag_id, "dbt models", counts, None)
                _tell(console, clock, dag_id, task_id, record["state"], record["duration"])
            if tonight.over:
                return
            spin(", ".join(tonight.running_tasks()[:4]) or "waiting for Airflow")
            time.sleep(0.5)


def _is_model(task_id: str) -> bool:
    return task_id.startswith("dbt.") and "producer" not in task_id


def _tell(
    console: Console, clock: float, dag_id: str, task_id: str, state: str, seconds: float | None
) -> None:
    colour = {"success": "green", "failed": "red", "upstream_failed": "red"}.get(state, "dim")
    took = f"{seconds:6.1f} s" if seconds is not None else ""
    console.print(
        f"[dim]{time.perf_counter() - clock:6.1f} s[/]  {dag_id:<23} {task_id:<22} [{colour}]{state}[/] {took}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


@contextlib.contextmanager
def _spinner(console: Console) -> Iterator[Any]:
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as status:
        yield lambda text: status.update(text)


def _report(settings: Settings, tonight: Night) -> Report:
    report = Report(tonight.day)
    for dag in tonight.dags.values():
        report.states[dag.dag_id] = dag.state
        if dag.run_id:
            report.run_ids[dag.dag_id] = dag.run_id
        if dag.seconds is not None:
            report.seconds[dag.dag_id] = dag.seconds
    told = {(f.dag_id, f.task_id): f for f in _told_failures(settings, set(report.run_ids.values()))}
    for dag in tonight.dags.values():
        for task_id, record in dag.tasks.items():
            if record["state"] != "failed":
                continue
            log = _task_log(settings, dag.dag_id, dag.run_id, task_id, record["try_number"])
            known = told.get((dag.dag_id, task_id))
            message = (
                known.message
                if known
                else "the task's process ended without telling why (killed, or out of memory)"
            )
            report.failures.append(
                Failure(
                    dag.dag_id, task_id, message, known.table if known else None, known.checks if known else (),
                    known.where if known else None, log,
                )
            )  # fmt: skip
    return report


def _told_failures(settings: Settings, run_ids: set[str]) -> list[Failure]:
    """What the plugin's listener wrote about the tasks that failed, the last try of each last."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in failure_file(settings).read_text().splitlines():
            with contextlib.suppress(ValueError, KeyError):
                told = json.loads(line)
                if told["run_id"] in run_ids:
                    found.append(
                        Failure(
                            told["dag_id"], told["task_id"], told["message"], told.get("table"),
                            tuple(told.get("checks") or ()), told.get("where"),
                        )
                    )  # fmt: skip
    return found


def _task_log(settings: Settings, dag_id: str, run_id: str, task_id: str, attempt: int) -> str:
    folder = log_folder(settings) / "tasks" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
    return str(folder / f"attempt={attempt}.log")


__all__ = ["AFTER", "POOLS", "Airflow", "asked_to_stop", "nightly", "only_one", "running"]
