"""Airflow's and MLflow's pages and the Data Docs on loopback, until stopped.

Here: starting and stopping what serves them. Not here: the night on the terminal (the package). Airflow asks for a
password, MLflow and the Data Docs do not: all three listen on 127.0.0.1 alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nightmarket.errors import NightFailed
from nightmarket.scheduler.processes import (
    PARALLELISM,
    airflow_home,
    end_leftovers,
    log_folder,
    only_one,
    running,
    served_file,
)
from nightmarket.settings import get_settings

if TYPE_CHECKING:
    from rich.console import Console


def up(port: int, console: Console) -> None:
    """Serve until Ctrl-C, SIGTERM or `down`. Airflow listens on `port`, MLflow and Data Docs on the next two.

    The DAGs run here too: on their schedule once unpaused, or when triggered on their page.

    Raises:
        NightFailed: a night is at work in this home, or a server ended by itself.
    """
    from nightmarket import tracking, transform

    settings = get_settings()
    with only_one(settings):
        end_leftovers(settings)
        log_folder(settings).mkdir(parents=True, exist_ok=True)
        airflow_home(settings).mkdir(parents=True, exist_ok=True)
        transform.ensure_manifest()
        docs = settings.state / "gx"
        docs.mkdir(parents=True, exist_ok=True)
        beside = {
            "mlflow": [
                sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking.uri(),
                "--host", "127.0.0.1", "--port", str(port + 1), "--workers", "1",
            ],
            "data_docs": [
                sys.executable, "-m", "http.server", str(port + 2), "--bind", "127.0.0.1", "--directory", str(docs),
            ],
        }  # fmt: skip
        if settings.generator == "batch":
            beside["triggerer"] = [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"]
        addresses = {
            "airflow": f"http://127.0.0.1:{port}",
            "mlflow": f"http://127.0.0.1:{port + 1}",
            "data_docs": f"http://127.0.0.1:{port + 2}",
        }
        with running(
            settings, schedule=settings.schedule, parse_every_s=30, port=port, beside=beside
        ) as airflow:
            served_file(settings).write_text(json.dumps(addresses))
            try:
                _tell(addresses, console)
                while True:
                    airflow.check_alive()
                    time.sleep(1)
            finally:
                served_file(settings).unlink(missing_ok=True)


def down() -> str:
    """Stop what `up` started; says what was done."""
    settings = get_settings()
    lock = settings.home.expanduser().resolve() / "night.lock"
    try:
        with only_one(settings):
            left = end_leftovers(settings)
            return f"Nothing was up; {left} processes left over were ended." if left else "Nothing was up."
    except NightFailed:
        if not served_file(settings).exists():
            raise
        pid = int(lock.read_text().strip())
        os.kill(pid, signal.SIGTERM)
        for _ in range(150):
            if not served_file(settings).exists():
                return "Stopped."
            time.sleep(0.1)
        raise NightFailed(
            f"Process {pid} did not stop within 15 s; look at it, then `kill -9 {pid}`."
        ) from None


def _tell(addresses: Mapping[str, str], console: Console) -> None:
    settings = get_settings()
    password = airflow_home(settings) / "passwords.json"
    console.print(f"Airflow    {addresses['airflow']}   user admin, password in {password}", highlight=False)
    console.print(f"MLflow     {addresses['mlflow']}", highlight=False)
    console.print(f"Data Docs  {addresses['data_docs']}", highlight=False)
    console.print(
        f"They need some 20 s to answer; up to {PARALLELISM} tasks run at once. Logs: {log_folder(settings)}. "
        f"Stop with Ctrl-C or `make down`.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
