"""Ledgers that many processes append to at once: task tries, gate verdicts, promotions, reactions to new files, and what
people decided about copy.

They stand in SQLite (write-ahead log, so readers and writers never wait long) or any database SQLAlchemy knows by
`NIGHTMARKET_LEDGER_URI`. Not here: landings, quarantine and publications, which must be written in the same
transaction as the rows they speak of and so stand in the warehouse. `warehouse.read` shows all of them as `ops.*`.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

import psutil
import pyarrow as pa
import sqlalchemy as sa

from nightmarket.errors import NightmarketError
from nightmarket.settings import get_settings

_META = sa.MetaData()
RUNS = sa.Table(
    "runs", _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dag_id", sa.String, nullable=False), sa.Column("task_id", sa.String, nullable=False),
    sa.Column("run_id", sa.String, nullable=False), sa.Column("day", sa.Date),
    sa.Column("state", sa.String, nullable=False),  # running, success, failed
    sa.Column("started_at", sa.DateTime, nullable=False), sa.Column("duration_s", sa.Float),
    sa.Column("rows_in", sa.BigInteger), sa.Column("rows_out", sa.BigInteger), sa.Column("peak_mb", sa.Float),
    sa.Column("tokens_in", sa.BigInteger), sa.Column("tokens_out", sa.BigInteger), sa.Column("cost", sa.Float),
    sa.Column("note", sa.Text), sa.Column("error", sa.Text),
)  # fmt: skip
GATES = sa.Table(
    "gates", _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("table_name", sa.String, nullable=False), sa.Column("day", sa.Date), sa.Column("run_id", sa.String),
    sa.Column("suite", sa.String, nullable=False), sa.Column("verdict", sa.String, nullable=False),
    sa.Column("failed_checks", sa.Text), sa.Column("rows", sa.BigInteger), sa.Column("checked_at", sa.DateTime),
    sa.Column("note", sa.Text),
)  # fmt: skip
PROMOTIONS = sa.Table(
    "promotions", _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task", sa.String, nullable=False), sa.Column("from_version", sa.String),
    sa.Column("to_version", sa.String), sa.Column("actor", sa.String), sa.Column("reason", sa.Text),
    sa.Column("gate_report", sa.Text), sa.Column("at", sa.DateTime), sa.Column("decision", sa.String),
)  # fmt: skip
REACTIONS = sa.Table(
    "reactions", _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("day", sa.Date, nullable=False, comment="The coming night's day, for which the lists were made."),
    sa.Column("run_id", sa.String, nullable=False, comment="The micro-batch; its steps stand in ops.runs."),
    sa.Column("files", sa.BigInteger, comment="Landing files that it loaded, of all tables."),
    sa.Column("rows", sa.BigInteger, comment="Rows of these files that changed something in raw."),
    sa.Column("customers_touched", sa.BigInteger, comment="Customers of whom these rows tell."),
    sa.Column(
        "customers_listed", sa.BigInteger, comment="Customers whose list it made another one than they had before."
    ),
    sa.Column(
        "event_to_list_p50_s", sa.Float,
        comment="Median seconds from the own time of an order or event of these customers to published_at. Files of "
        "long ago give days or years: there file_to_list_s is the delay.",
    ),
    sa.Column("event_to_list_p95_s", sa.Float, comment="As before, for the slowest twentieth."),
    sa.Column(
        "file_to_list_s", sa.Float,
        comment="Seconds from the moment a file came to rest in the landing folder to published_at, of the file that "
        "waited longest.",
    ),
    sa.Column("started_at", sa.DateTime, nullable=False, comment="When it began (UTC)."),
    sa.Column(
        "published_at", sa.DateTime, comment="When readers saw the lists (UTC); null: it failed, or it is at work."
    ),
)  # fmt: skip
COPY_REVIEWS = sa.Table(
    "copy_reviews", _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("product_id", sa.String, nullable=False), sa.Column("channel", sa.String, nullable=False),
    sa.Column("locale", sa.String, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False, comment="The version that the decision speaks of."),
    sa.Column("decision", sa.String, nullable=False, comment="`approve`, `reject`, `edit` or `rollback`."),
    sa.Column("text", sa.Text, comment="Of an edit: the description as the person wants it."),
    sa.Column("instead_of", sa.Text, comment="Of an edit: the description that was there."),
    sa.Column("reviewer", sa.String, nullable=False, comment="Who typed the command (the machine's user) or answered (Airflow's); `the deadline` where nobody did in time."),
    sa.Column("reason", sa.Text), sa.Column("at", sa.DateTime, nullable=False, comment="When (UTC)."),
)  # fmt: skip
TABLES = {
    "runs": RUNS, "gates": GATES, "promotions": PROMOTIONS, "reactions": REACTIONS, "copy_reviews": COPY_REVIEWS,
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a step did, in counts: the only thing that travels between tasks beside the day.

    `cost` is money in `NIGHTMARKET_ENDPOINT_CURRENCY`; an amount to be read, which decides nothing.
    """

    rows_in: int = 0
    rows_out: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def task(dag_id: str, task_id: str, run_id: str, day: date) -> Iterator[Callable[[Outcome], None]]:
    """Record one try of a task in `ops.runs`, also when it raises or its process is killed (state stays `running`).

    Yields a function that takes the task's `Outcome`. Peak memory is that of this process and its children while the
    task ran, sampled five times a second.
    """
    started = datetime.now(UTC).replace(tzinfo=None)
    clock = time.perf_counter()
    engine = _engine()
    with engine.begin() as tx:
        # A try that was killed never said how it ended; its next try says so.
        tx.execute(
            RUNS.update()
            .where(
                RUNS.c.dag_id == dag_id,
                RUNS.c.task_id == task_id,
                RUNS.c.day == day,
                RUNS.c.state == "running",
            )
            .values(state="lost")
        )
        result = tx.execute(
            RUNS.insert().values(
                dag_id=dag_id, task_id=task_id, run_id=run_id, day=day, state="running", started_at=started
            )
        )
        row_id = result.inserted_primary_key[0] if result.inserted_primary_key else None
    outcome = Outcome()

    def record(value: Outcome) -> None:
        nonlocal outcome
        outcome = value

    values: dict[str, Any] = {}
    with _peak_memory() as peak_mb:
        try:
            yield record
            values = {"state": "success"}
        except BaseException as error:
            text = str(error) if isinstance(error, NightmarketError) else f"{type(error).__name__}: {error}"
            values = {"state": "failed", "error": text[:4000]}
            raise
        finally:
            values |= outcome.as_dict() | {"duration_s": time.perf_counter() - clock, "peak_mb": peak_mb()}
            with engine.begin() as tx:
                tx.execute(RUNS.update().where(RUNS.c.id == row_id).values(**values))


def gate(
    table: str, day: date, *, run_id: str, suite: str, verdict: str, failed: object, rows: int, note: str = ""
) -> None:
    """Record a gate's verdict (`pass`, `warn` or `fail`) in `ops.gates`; `failed` is stored as JSON."""
    with _engine().begin() as tx:
        tx.execute(
            GATES.insert().values(
                table_name=table, day=day, run_id=run_id, suite=suite, verdict=verdict,
                failed_checks=json.dumps(failed, default=str, ensure_ascii=False), rows=rows,
                checked_at=datetime.now(UTC).replace(tzinfo=None), note=note,
            )
        )  # fmt: skip


def promotion(
    task: str, *, from_version: str | None, to_version: str | None, actor: str, reason: str,
    gate_report: Mapping[str, object] | None, decision: str,
) -> None:  # fmt: skip
    """Record in `ops.promotions` who became champion, or was refused, and why."""
    with _engine().begin() as tx:
        tx.execute(
            PROMOTIONS.insert().values(
                task=task, from_version=from_version, to_version=to_version, actor=actor, reason=reason,
                gate_report=json.dumps(gate_report, default=str, ensure_ascii=False) if gate_report else None,
                at=datetime.now(UTC).replace(tzinfo=None), decision=decision,
            )
        )  # fmt: skip


def copy_reviews(decisions: Sequence[Mapping[str, object]]) -> None:
    """Record in `ops.copy_reviews` what a person decided about texts, all of it or nothing."""
    at = datetime.now(UTC).replace(tzinfo=None)
    with _engine().begin() as tx:
        for decision in decisions:
            tx.execute(COPY_REVIEWS.insert().values(**decision, at=at))


def reaction(run_id: str, day: date, **values: object) -> None:
    """Write what a micro-batch knows of itself into its row of `ops.reactions`; the first call gives `started_at`."""
    mine = (REACTIONS.c.run_id == run_id) & (REACTIONS.c.day == day)
    with _engine().begin() as tx:
        if not tx.execute(REACTIONS.update().where(mine).values(**values)).rowcount:
            tx.execute(REACTIONS.insert().values(run_id=run_id, day=day, **values))


def newest(table: str, at_most: int, **equal: object) -> list[dict[str, Any]]:
    """The last rows of a ledger in which columns have these values, newest first, each with its `id`."""
    ledger = TABLES[table]
    asked = sa.select(ledger).where(*(ledger.c[name] == value for name, value in equal.items()))
    with _engine().connect() as connection:
        found = connection.execute(asked.order_by(ledger.c.id.desc()).limit(at_most)).mappings().all()
    return [dict(row) for row in found]


def latest_day(dag_id: str, task_id: str) -> date | None:
    """The latest day for which a task succeeded, or None where it never did."""
    wanted = (RUNS.c.dag_id == dag_id, RUNS.c.task_id == task_id, RUNS.c.state == "success")
    with _engine().connect() as connection:
        return connection.execute(sa.select(sa.func.max(RUNS.c.day)).where(*wanted)).scalar_one_or_none()


def rows(table: str) -> pa.Table:
    """A whole ledger (a name of `TABLES`) in the order it was written."""
    ledger = TABLES[table]
    columns = [c for c in ledger.columns if c.name != "id"]
    with _engine().connect() as connection:
        found = connection.execute(sa.select(*columns).order_by(ledger.c.id)).all()
    kinds = {
        sa.Date: pa.date32(),
        sa.DateTime: pa.timestamp("us"),
        sa.Float: pa.float64(),
        sa.BigInteger: pa.int64(),
    }
    fields = [pa.field(c.name, kinds.get(type(c.type), pa.string())) for c in columns]
    return pa.table(
        [pa.array([row[i] for row in found], field.type) for i, field in enumerate(fields)],
        schema=pa.schema(fields),
    )


def _engine() -> sa.Engine:
    settings = get_settings()
    return _engine_of(settings.ledger_uri or f"sqlite:///{settings.state / 'ops.sqlite'}")


@lru_cache(maxsize=4)
def _engine_of(uri: str) -> sa.Engine:
    if uri.startswith("sqlite:///"):
        from pathlib import Path

        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(uri, connect_args={"timeout": 30}, poolclass=sa.NullPool)

        @sa.event.listens_for(engine, "connect")
        def _wal(connection: Any, _: object) -> None:
            connection.execute("pragma journal_mode=wal")
            connection.execute("pragma synchronous=normal")
    else:
        engine = sa.create_engine(uri, pool_pre_ping=True)
    _META.create_all(engine)
    return engine


@contextmanager
def _peak_memory() -> Iterator[Callable[[], float]]:
    """Yields a function that gives the greatest memory in MB of this process tree since the block began."""
    process, seen, done = psutil.Process(), [0.0], threading.Event()

    def sample() -> None:
        total = 0
        for member in [process, *process.children(recursive=True)]:
            try:
                total += member.memory_info().rss
            except psutil.Error:
                continue
        seen[0] = max(seen[0], total / 2**20)

    def watch() -> None:
        while not done.wait(0.2):
            sample()

    watcher = threading.Thread(target=watch, daemon=True)
    sample()
    watcher.start()
    try:
        yield lambda: max(seen[0], 0.0)
    finally:
        done.set()
        watcher.join(timeout=1)


def peak_rss_mb() -> float:
    """Greatest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**10 if sys.platform != "darwin" else peak / 2**20
