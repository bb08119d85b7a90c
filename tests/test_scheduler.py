"""A night under a real Airflow: it starts, runs the whole chain from one trigger, tells what happened, and leaves
nothing running, whoever ends it and however."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import pytest

from nightmarket.errors import NightFailed
from nightmarket.scheduler import following, watchdog
from nightmarket.scheduler.following import Night
from nightmarket.scheduler.processes import (
    airflow_home,
    end_leftovers,
    environment,
    forget_killed_runs,
    free_port,
    only_one,
    tail,
)
from nightmarket.settings import Settings, get_settings

DAY = date(2026, 3, 2)


class TestLock:
    def test_one_night_at_a_time_and_the_second_is_told_which_process_holds_the_home(
        self, home: Path
    ) -> None:
        settings = get_settings()
        with (
            only_one(settings),
            pytest.raises(NightFailed, match=rf"process {os.getpid()}.*make down.*NIGHTMARKET_HOME"),
            only_one(settings),
        ):
            pass
        with only_one(settings):
            pass


class TestEnvironment:
    def test_airflow_listens_on_loopback_alone_and_nothing_is_sent_out(self, home: Path) -> None:
        settled = environment(get_settings(), 12345, schedule="", parse_every_s=30)
        assert settled["AIRFLOW__API__HOST"] == "127.0.0.1"
        assert settled["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:12345/execution/"
        assert settled["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
        assert settled["AIRFLOW__COSMOS__ENABLE_TELEMETRY"] == "False"
        assert settled["DO_NOT_TRACK"] == "1"

    def test_every_option_that_it_sets_is_one_that_airflow_or_cosmos_has(self, home: Path) -> None:
        from airflow.configuration import conf
        from cosmos import settings as cosmos_settings

        names = [
            name
            for name in environment(get_settings(), 1, schedule="", parse_every_s=1)
            if "AIRFLOW__" in name
        ]
        assert len(names) > 20
        for name in names:
            _, section, option = name.lower().split("__")
            known = conf.configuration_description.get(section, {}).get("options", {})
            assert option in known or hasattr(cosmos_settings, option), name

    def test_what_stands_in_the_file_of_settings_reaches_tasks_which_start_in_another_folder(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / ".env").write_text(
            "POSTGRES_PASSWORD=not-ours\nNIGHTMARKET_COPY_PRODUCTS_PER_NIGHT=3\nNIGHTMARKET_SEED=1\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setitem(Settings.model_config, "env_file", ".env")
        monkeypatch.setenv("NIGHTMARKET_SEED", "2")
        get_settings.cache_clear()
        settled = environment(get_settings(), 1, schedule="", parse_every_s=1)
        assert settled["NIGHTMARKET_COPY_PRODUCTS_PER_NIGHT"] == "3"
        assert settled["NIGHTMARKET_SEED"] == "2"
        assert "POSTGRES_PASSWORD" not in settled

    def test_secrets_are_made_once_and_readable_by_their_owner_alone(self, home: Path) -> None:
        settings = get_settings()
        first = environment(settings, 1, schedule="", parse_every_s=1)
        assert (
            environment(settings, 2, schedule="", parse_every_s=1)["AIRFLOW__API__SECRET_KEY"]
            == (first["AIRFLOW__API__SECRET_KEY"])
        )
        for name in ("secrets.json", "passwords.json"):
            assert (airflow_home(settings) / name).stat().st_mode & 0o777 == 0o600
        assert len(first["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 64
        assert first["AIRFLOW__CORE__FERNET_KEY"] != first["AIRFLOW__API__SECRET_KEY"]


class TestWatchdog:
    # A parent in a session of its own that starts a child in another process group, ignores SIGTERM, and waits.
    STUBBORN = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], process_group=0)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", self.STUBBORN], start_new_session=True, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def reap(self, *processes: subprocess.Popen[str]) -> None:
        for process in processes:
            process.wait(timeout=5)
            assert process.stdout is not None
            process.stdout.close()

    def test_ending_a_session_ends_its_children_in_other_process_groups_and_those_that_ignore_sigterm(
        self,
    ) -> None:
        process = self.start()
        assert len(watchdog.members([process.pid])) == 2
        watchdog.end([process.pid], patience_s=0.3)
        assert watchdog.members([process.pid]) == []
        self.reap(process)

    def test_children_of_a_killed_parent_are_still_found(self) -> None:
        process = self.start()
        process.kill()
        process.wait()
        assert len(watchdog.members([process.pid])) == 1
        watchdog.end([process.pid], patience_s=0.3)
        assert watchdog.members([process.pid]) == []
        self.reap(process)

    def test_when_the_command_is_killed_the_watchdog_ends_what_it_started(self) -> None:
        process = self.start()
        command = subprocess.Popen(
            [
                sys.executable, "-c",
                "import subprocess, sys, time\n"
                "guard = subprocess.Popen([sys.executable, sys.argv[1]], stdin=subprocess.PIPE, start_new_session=True)\n"
                "guard.stdin.write(sys.argv[2].encode() + b'\\n'); guard.stdin.flush()\n"
                "print('told', flush=True); time.sleep(600)",
                watchdog.__file__, str(process.pid),
            ],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert command.stdout is not None
        assert command.stdout.readline() == "told\n"
        assert len(watchdog.members([process.pid])) == 2
        command.kill()
        command.wait()
        deadline = time.monotonic() + 10
        while watchdog.members([process.pid]) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert watchdog.members([process.pid]) == []
        self.reap(process, command)

    def test_the_next_start_ends_what_a_night_left_but_no_stranger_who_has_its_number(
        self, home: Path
    ) -> None:
        settings = get_settings()
        stranger = self.start()
        airflow_home(settings).mkdir(parents=True)
        (airflow_home(settings) / "processes.json").write_text(json.dumps({"sessions": [stranger.pid]}))
        assert end_leftovers(settings) == 0
        assert psutil.pid_exists(stranger.pid)
        watchdog.end([stranger.pid], patience_s=0.3)
        self.reap(stranger)


class Story:
    """An Airflow that tells a story: each call of the runs' list is the next page of it."""

    def __init__(self, pages: list[dict[str, str]]) -> None:
        self.pages = pages

    def get(self, path: str) -> Any:
        if "taskInstances" in path:
            return {"task_instances": [], "total_entries": 0}
        page = self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]
        runs = [
            {
                "dag_id": dag_id, "dag_run_id": f"run-of-{dag_id}", "state": state, "partition_key": DAY.isoformat(),
                "start_date": "2026-03-02T01:00:00Z", "end_date": "2026-03-02T01:00:05Z",
            }
            for dag_id, state in page.items()
        ]  # fmt: skip
        return {"dag_runs": runs}


def followed(*pages: dict[str, str]) -> Night:
    night = Night(Story(list(pages)), DAY, "root", ("root", "model", "lists", "texts"))  # type: ignore[arg-type]
    night.upstream = {"model": {"root"}, "lists": {"root", "model"}, "texts": {"root"}}
    for _ in pages:
        night.follow()
    return night


class TestFollowing:
    def test_a_night_is_over_when_every_dag_has_run(self) -> None:
        night = followed(
            {"root": "running"}, {"root": "success", "model": "running"},
            {"root": "success", "model": "success", "lists": "success", "texts": "success"},
        )  # fmt: skip
        assert night.over
        assert night.succeeded
        assert night.dags["lists"].seconds == 5.0

    def test_what_waits_for_a_failed_dag_cannot_come_also_through_another(self) -> None:
        night = followed({"root": "failed"})
        assert {dag.dag_id: dag.state for dag in night.dags.values()} == {
            "root": "failed", "model": "not started", "lists": "not started", "texts": "not started",
        }  # fmt: skip
        assert night.over
        assert not night.succeeded

    def test_what_does_not_wait_for_the_failed_dag_is_waited_for(self) -> None:
        night = followed({"root": "success", "model": "failed"})
        assert night.dags["lists"].state == "not started"
        assert night.dags["texts"].state == "waiting"
        assert not night.over

    def test_a_dag_whose_inputs_are_there_and_that_never_comes_is_given_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(following, "QUIET_LIMIT_S", -1.0)
        night = followed({"root": "success"}, {"root": "success"})
        assert night.dags["texts"].state == "not started"
        assert night.over

    def test_runs_of_other_days_are_not_this_night(self) -> None:
        night = Night(Story([{"root": "success"}]), date(2026, 3, 3), "root", ("root",))  # type: ignore[arg-type]
        night.follow()
        assert night.dags["root"].state == "waiting"


@pytest.fixture(scope="module")
def a_night(
    tmp_path_factory: pytest.TempPathFactory, tiny_shop: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One night of the tiny shop by the command that `make nightly` calls, on a machine that has never run one."""
    home = tmp_path_factory.mktemp("nightly") / "var"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NIGHTMARKET_", "AIRFLOW"))}
    done = subprocess.run(
        [sys.executable, "-m", "nightmarket.cli", "nightly", "--shop", str(tiny_shop)],
        env=env | {"NIGHTMARKET_HOME": str(home), "COLUMNS": "200"}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    return home, done


@pytest.mark.slow
class TestNightly:
    def test_one_command_runs_the_whole_night_and_says_what_was_published(self, a_night: Any) -> None:
        _, done = a_night
        assert done.returncode == 0, done.stdout + done.stderr
        for table in (
            "customer_profiles", "customer_interests", "recommendations", "similar_products", "product_copy",
            "copy_claims",
        ):  # fmt: skip
            assert f"outputs.{table}" in done.stdout
        assert done.stdout.count("│ success") == 6
        assert "nightmarket query" in done.stdout

    def test_every_step_of_every_dag_is_told_when_it_ends_and_stands_in_ops_runs(
        self, a_night: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home, done = a_night
        monkeypatch.setenv("NIGHTMARKET_HOME", str(home))
        shop = (home / "current").read_text().strip()
        listed = subprocess.run(
            [
                sys.executable, "-m", "nightmarket.cli", "query", "--shop", shop,
                "select dag_id || '.' || task_id as step, state, day from ops.runs",
            ],
            capture_output=True, text=True, env=os.environ | {"NIGHTMARKET_HOME": str(home)},
        )  # fmt: skip
        for step in (
            "build_warehouse.land", "build_warehouse.check_arrivals", "build_warehouse.dbt", "build_warehouse.extract",
            "finetune_models.build_examples", "finetune_models.train", "finetune_models.promote",
            "refresh_profiles.generate", "refresh_recommendations.check", "refresh_product_copy.publish",
        ):  # fmt: skip
            dag, task = step.split(".")
            assert step in listed.stdout
            assert any(dag in line and task in line for line in done.stdout.splitlines()), step
        assert "19 rows" in listed.stdout
        assert listed.stdout.count("success") == 19
        assert listed.stdout.count(str(DAY)) == 19

    def test_nothing_of_it_is_left_running(self, a_night: Any) -> None:
        home, _ = a_night
        left = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            with_home = str(home) in f"{process.info['cwd']} {process.info['cmdline']}"
            left += [process.info["cmdline"]] if with_home else []
        assert left == []
        assert not list(home.glob("shops/*/airflow/processes.json"))

    def test_a_night_by_hand_does_not_start_nights_by_the_clock(self, a_night: Any) -> None:
        home, _ = a_night
        (database,) = home.glob("shops/*/airflow/airflow.db")
        with closing(sqlite3.connect(database)) as connection:
            paused = dict(
                connection.execute("select dag_id, is_paused from dag where is_stale = 0").fetchall()
            )
        assert paused == {
            "build_warehouse": 1, "finetune_models": 0, "refresh_profiles": 0, "refresh_recommendations": 0,
            "refresh_product_copy": 0, "finetune_encoder": 0, "follow_events": 1, "finetune_writer": 1, "bake_off": 1,
            "ask_in_batch": 1,
            "review_copy": 1,
        }  # fmt: skip

    def test_what_a_killed_night_left_running_is_failed_before_the_next(
        self, a_night: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home, _ = a_night
        monkeypatch.setenv("NIGHTMARKET_HOME", str(home))
        monkeypatch.setenv("NIGHTMARKET_SHOP", (home / "current").read_text().strip())
        get_settings.cache_clear()
        settings = get_settings()
        with closing(sqlite3.connect(airflow_home(settings) / "airflow.db")) as connection, connection:
            connection.execute("update dag_run set state = 'running' where dag_id = 'refresh_profiles'")
            connection.execute("update task_instance set state = 'queued' where dag_id = 'refresh_profiles'")
        assert forget_killed_runs(settings) == 1
        with closing(sqlite3.connect(airflow_home(settings) / "airflow.db")) as connection:
            states = connection.execute(
                "select distinct state from task_instance where dag_id = 'refresh_profiles'"
            )
            assert states.fetchall() == [("failed",)]
        assert forget_killed_runs(settings) == 0
        get_settings.cache_clear()


def test_the_tail_of_a_log_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert tail(tmp_path / "none.log") == "(no log)"


def test_a_free_port_is_free() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))


def test_sigterm_ends_a_night_like_ctrl_c() -> None:
    from nightmarket.scheduler.processes import _signals_raise

    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), _signals_raise():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
