"""The processes of an Airflow of our own: its environment, its database, its start, its end, its REST API.

Why components and not `airflow standalone`: killed, it leaves its children behind. Each component leads a session of its
own, its tasks belong to that session whatever happens to their parents, and ending the session ends them all; a
watchdog does so when this command itself is killed. Not here: what runs in it (following, dags/).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from nightmarket.errors import NightFailed
from nightmarket.night import FOR_PEOPLE
from nightmarket.scheduler import watchdog
from nightmarket.settings import Settings, from_file, get_settings

COMPONENTS = ("api-server", "scheduler", "dag-processor")
"""No triggerer: no task of the night defers. `make up` starts one where a writer is asked in batches."""
BATCH_CONNECTION = "AIRFLOW_CONN_NIGHTMARKET_BATCH"
"""The connection of `ask_in_batch`; a test holds it together with orchestration, which only Airflow's processes import."""
# Their runs wait for people or for a provider: an Airflow that ended did not kill them.
_OUTLIVE = (*FOR_PEOPLE, "ask_in_batch")
PARALLELISM = 4
START_LIMIT_S = 180.0


@dataclass
class Airflow:
    """The processes of a running Airflow and the way to speak to it."""

    settings: Settings
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _pipe: IO[bytes] | None = None
    _token: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, environment: Mapping[str, str], beside: Mapping[str, list[str]]) -> None:
        """Start all components, and the commands `beside` them, at once; their output goes to `logs/`."""
        home, logs = airflow_home(self.settings), log_folder(self.settings)
        logs.mkdir(parents=True, exist_ok=True)
        guard = subprocess.Popen(
            [sys.executable, watchdog.__file__], stdin=subprocess.PIPE, start_new_session=True, cwd=home
        )
        self._pipe = guard.stdin
        assert self._pipe is not None
        options = {"api-server": ["--workers", "1"], "scheduler": ["--skip-serve-logs"]}
        commands = {
            name: [sys.executable, "-m", "airflow", name, *options.get(name, [])] for name in COMPONENTS
        }
        for name, command in (commands | dict(beside)).items():
            with (logs / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    command,
                    env=dict(environment), cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
            self.processes[name] = process
            self._pipe.write(f"{process.pid}\n".encode())
            self._pipe.flush()
        _write_private(
            home / "processes.json",
            json.dumps(
                {
                    "port": self.port,
                    "command": os.getpid(),
                    "sessions": [p.pid for p in self.processes.values()],
                }
            ),
        )

    def check_alive(self) -> None:
        """Raise NightFailed when a component has ended by itself."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                log = log_folder(self.settings) / f"{name}.log"
                raise NightFailed(
                    f"{name} ended by itself (exit status {process.returncode}). Its log {log} ends with:\n"
                    + tail(log)
                )

    def wait_ready(self, dag_ids: set[str], since: datetime) -> None:
        """Return when the API answers and all of `dag_ids` have been parsed since the start."""
        deadline = time.monotonic() + START_LIMIT_S
        warm = False
        while True:
            self.check_alive()
            missing: set[str] = set(dag_ids)
            try:
                health = self.get("/api/v2/monitor/health", anonymous=True)
                if not warm:
                    # The tasks' API builds itself at its first call (4 s): do that while the DAGs are being parsed.
                    warm = True
                    threading.Thread(target=self._warm_up, daemon=True).start()
                if health["scheduler"]["status"] == "healthy":
                    errors = self.get("/api/v2/importErrors?limit=100")["import_errors"]
                    fresh = [e for e in errors if moment(e["timestamp"]) >= since]
                    if fresh:
                        told = "\n".join(f"{e['filename']}:\n{e['stack_trace']}" for e in fresh)
                        raise NightFailed(f"Airflow could not read these DAG files:\n{told}")
                    dags = self.get("/api/v2/dags?limit=100&exclude_stale=false")["dags"]
                    missing -= {
                        d["dag_id"]
                        for d in dags
                        if d["last_parsed_time"] and moment(d["last_parsed_time"]) >= since
                    }
                    if not missing:
                        return
            except (urllib.error.URLError, OSError, KeyError):
                pass  # not listening yet
            if time.monotonic() > deadline:
                waiting = f"for the DAGs {', '.join(sorted(missing))}" if self._token else "for its API"
                raise NightFailed(
                    f"Airflow was not ready after {START_LIMIT_S:.0f} s (waiting {waiting}). "
                    f"Look into {log_folder(self.settings)}."
                )
            time.sleep(0.2)

    def stop(self) -> None:
        """End every process of this Airflow, tasks included. Safe to call twice."""
        watchdog.end([process.pid for process in self.processes.values()])
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
        if self._pipe is not None:
            self._pipe.close()
        (airflow_home(self.settings) / "processes.json").unlink(missing_ok=True)

    def get(self, path: str, *, anonymous: bool = False) -> Any:
        return self._call("GET", path, None, anonymous)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        return self._call("POST", path, body, False)

    def patch(self, path: str, body: Mapping[str, object]) -> Any:
        return self._call("PATCH", path, body, False)

    def _warm_up(self) -> None:
        with contextlib.suppress(urllib.error.URLError, OSError, ValueError):
            self.get("/execution/health", anonymous=True)

    def _call(self, method: str, path: str, body: Mapping[str, object] | None, anonymous: bool) -> Any:
        headers = {"Content-Type": "application/json"}
        if not anonymous:
            headers["Authorization"] = f"Bearer {self._login()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        with _OPENER.open(request, timeout=30) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def _login(self) -> str:
        if self._token is None:
            given = {"username": "admin", "password": _secrets(self.settings)["password"]}
            request = urllib.request.Request(
                f"{self.url}/auth/token",
                data=json.dumps(given).encode(),
                headers={"Content-Type": "application/json"},
            )
            with _OPENER.open(request, timeout=30) as reply:
                self._token = json.loads(reply.read())["access_token"]
        return self._token


# A proxy in the environment must not stand between us and 127.0.0.1.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def airflow_home(settings: Settings) -> Path:
    """Where Airflow's database, secrets and process file stand."""
    return settings.state / "airflow"


def log_folder(settings: Settings) -> Path:
    """Where the components and the tasks write their logs."""
    return settings.state / "logs"


def failure_file(settings: Settings) -> Path:
    """Where the plugin's listener writes what failed, one JSON object a line."""
    return log_folder(settings) / "failures.jsonl"


def served_file(settings: Settings) -> Path:
    """Where `make up` writes the addresses it serves at."""
    return airflow_home(settings) / "served.json"


def served(name: str) -> str | None:
    """The address at which `make up` serves `airflow`, `mlflow` or `data_docs` now, or None."""
    try:
        found: dict[str, str] = json.loads(served_file(get_settings()).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found.get(name)


def environment(settings: Settings, port: int, *, schedule: str, parse_every_s: int) -> dict[str, str]:
    """The environment of Airflow's processes and tasks: one machine, loopback, SQLite, nothing sent out."""
    home, secret = airflow_home(settings), _secrets(settings)
    # Components and tasks stand in Airflow's home, where no .env is.
    inherited = from_file() | {
        k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW__", "PYTHONDONTWRITE"))
    }
    airflow = {
        "CORE__DAGS_FOLDER": settings.project / "dags",
        "CORE__PLUGINS_FOLDER": settings.project / "plugins",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": PARALLELISM,
        "CORE__FERNET_KEY": secret["fernet_key"],
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": home / "passwords.json",
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "API__HOST": "127.0.0.1",
        "API__PORT": port,
        "API__BASE_URL": f"http://127.0.0.1:{port}",
        "API__WORKERS": 1,
        "API__SECRET_KEY": secret["secret_key"],
        "API__EXPOSE_CONFIG": False,
        "API_AUTH__JWT_SECRET": secret["jwt_secret"],
        "LOGGING__BASE_LOG_FOLDER": log_folder(settings) / "tasks",
        "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": log_folder(settings) / "dag_processor",
        # The default naps of a second between loops would be most of a quick task's time.
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.1,
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 120,
        # A supervisor that sees its task's sockets close before the process is gone sleeps for this long: 5 s by
        # default, in one task out of five here, with its worker idle meanwhile.
        "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
        "DAG_PROCESSOR__REFRESH_INTERVAL": parse_every_s,
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": parse_every_s,
        "COSMOS__ENABLE_TELEMETRY": False,
        "COSMOS__CACHE_DIR": home / "cosmos",
        "COSMOS__ENABLE_CACHE_PACKAGE_LOCKFILE": False,
    }
    ours = {
        "AIRFLOW_HOME": home,
        "NIGHTMARKET_HOME": settings.home.expanduser().resolve(),
        "NIGHTMARKET_SHOP": settings.shop,
        "NIGHTMARKET_PROJECT": settings.project,
        "NIGHTMARKET_SCHEDULE": schedule,
        # Where no night comes by the clock, nothing else does: `make nightly`, and looking and retrying alone.
        "NIGHTMARKET_FOLLOW_SCHEDULE": settings.follow_schedule if schedule else "",
        "NO_PROXY": "127.0.0.1,localhost",
        "DO_NOT_TRACK": 1,
        "DBT_SEND_ANONYMOUS_USAGE_STATS": False,
        "GX_ANALYTICS_ENABLED": False,
        "MLFLOW_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": 1,
        "TOKENIZERS_PARALLELISM": False,
    }
    if settings.generator == "batch" and BATCH_CONNECTION not in inherited:
        key = settings.endpoint_key.get_secret_value().strip() if settings.endpoint_key else ""
        # Without a password the client would look for OPENAI_API_KEY, which is meant for something else.
        provider = {"conn_type": "pydanticai", "host": settings.endpoint_url, "password": key or "none"}
        ours[BATCH_CONNECTION] = json.dumps(provider)
    settled = {f"AIRFLOW__{name}": value for name, value in airflow.items()} | ours
    return inherited | {name: str(value) for name, value in settled.items()}


def migrate(settings: Settings, environment: Mapping[str, str]) -> bool:
    """Bring Airflow's database to this Airflow's version; done once a version. True when there was work."""
    home = airflow_home(settings)
    marker, wanted = home / "migrated", version("apache-airflow-core")
    database = home / "airflow.db"
    if database.exists() and marker.exists() and marker.read_text() == wanted:
        return False
    log = log_folder(settings) / "migrate.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=dict(environment),
            cwd=home,
            stdout=out,
            stderr=out,
        )
    if done.returncode:
        raise NightFailed(f"Airflow's database {database} could not be made. {log} ends with:\n{tail(log)}")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        # Readers and the one writer do not wait for each other, and a commit costs one sync instead of two.
        connection.execute("pragma journal_mode=wal")
    marker.write_text(wanted)
    return True


def forget_killed_runs(settings: Settings) -> int:
    """Fail what a killed night left running in Airflow's database, before a scheduler could go on with it.

    Half-arrived asset events go too: tonight's DAGs wait for tonight's events. What waits for people or for a provider's batch
    was not killed: it is meant to outlive an Airflow, and goes on where it stood. Returns how many DAG runs it failed.
    """
    database = airflow_home(settings) / "airflow.db"
    if not database.exists():
        return 0
    now = datetime.now(UTC).isoformat(sep=" ")
    killed = f"dag_id not in ({', '.join('?' * len(_OUTLIVE))})"
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        runs = connection.execute(
            "update dag_run set state = 'failed', end_date = coalesce(end_date, ?) where state in ('running', 'queued') "
            f"and {killed}",
            [now, *_OUTLIVE],
        ).rowcount
        connection.execute(
            "update task_instance set state = 'failed', end_date = coalesce(end_date, ?) where state in "
            "('running', 'queued', 'scheduled', 'restarting', 'up_for_retry', 'up_for_reschedule', 'deferred') "
            f"and {killed}",
            [now, *_OUTLIVE],
        )
        connection.execute(
            "delete from partitioned_asset_key_log where asset_partition_dag_run_id in "
            "(select id from asset_partition_dag_run where created_dag_run_id is null)"
        )
        connection.execute("delete from asset_partition_dag_run where created_dag_run_id is null")
        connection.execute("delete from asset_dag_run_queue")
    return int(runs)


def end_leftovers(settings: Settings) -> int:
    """End processes of an Airflow whose command was killed before its watchdog could act; says how many there were."""
    path = airflow_home(settings) / "processes.json"
    try:
        sessions = json.loads(path.read_text())["sessions"]
    except (FileNotFoundError, ValueError, KeyError):
        return 0
    import psutil

    ours = []
    for pid in watchdog.members(sessions):
        with contextlib.suppress(psutil.Error):
            if "airflow" in " ".join(psutil.Process(pid).cmdline()):
                ours.append(os.getsid(pid))
    watchdog.end(set(ours))
    path.unlink(missing_ok=True)
    return len(ours)


@contextlib.contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the lock of this home while the block runs: one night, one Airflow at a time.

    Raises:
        NightFailed: another command holds it; says which process.
    """
    home = settings.home.expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "night.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise NightFailed(
                f"Another night, or `make up`, is at work in {home} (process {lock.read().strip() or 'unknown'}). Wait for "
                f"it, stop it (Ctrl-C in its terminal, or `make down`), or use another home with NIGHTMARKET_HOME."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def running(
    settings: Settings, *, schedule: str = "", parse_every_s: int = 3600, port: int | None = None,
    beside: Mapping[str, list[str]] | None = None,
) -> Iterator[Airflow]:  # fmt: skip
    """A running Airflow of this shop; every process of it has ended when the block is left, however it is left."""
    home = airflow_home(settings)
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    airflow = Airflow(settings, port or free_port())
    settled = environment(settings, airflow.port, schedule=schedule, parse_every_s=parse_every_s)
    migrate(settings, settled)
    forget_killed_runs(settings)
    with _signals_raise():
        try:
            airflow.start(settled, beside or {})
            yield airflow
        finally:
            with _signals_wait():
                airflow.stop()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log)"


def _secrets(settings: Settings) -> dict[str, str]:
    """Airflow's secrets, made at first need and readable by this user alone."""
    path = airflow_home(settings) / "secrets.json"
    if not path.exists():
        import base64

        made = {
            "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "secret_key": secrets.token_urlsafe(32),
            "jwt_secret": secrets.token_urlsafe(48),
            "password": secrets.token_urlsafe(12),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_private(path.parent / "passwords.json", json.dumps({"admin": made["password"]}) + "\n")
        _write_private(path, json.dumps(made))
    found: dict[str, str] = json.loads(path.read_text())
    return found


def _write_private(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    scratch.replace(path)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that what was started is stopped."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or SIGHUP sets while the block runs, so that it can end in order.

    A second Ctrl-C ends it at once.
    """
    stop = threading.Event()

    def ask(number: int, _: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt("a second Ctrl-C")
        stop.set()

    before = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """A second Ctrl-C must not interrupt the stopping."""
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
