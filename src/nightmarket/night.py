"""A night as a list: which steps, in which order, for which shop and day; and what it says at its end.

Here: choosing and remembering the shop, the steps of each DAG by name, running them in this one process
(`nightmarket run`), and the report that both ways of running print. Not here: what a step does, how DAGs are wired
(dags/, and a test holds the names together), and Airflow (scheduler, orchestration).
"""

from __future__ import annotations

import inspect
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket import ledger
from nightmarket.errors import NightFailed, NightmarketError, QualityGateFailed
from nightmarket.ledger import Outcome
from nightmarket.settings import Settings, choose_shop, get_settings

if TYPE_CHECKING:
    from rich.table import Table

DAGS = (
    "build_warehouse", "finetune_models", "refresh_profiles", "refresh_recommendations", "refresh_product_copy",
    "finetune_encoder",
)  # fmt: skip
"""The DAGs of a night in the order in which one process runs them."""

WHEN_ASKED = ("finetune_writer", "bake_off")
"""DAGs that are part of no night, and run in one process when they are named."""

FOR_PEOPLE = ("review_copy",)
"""DAGs that wait for people for days: they have no place in one process, and outlast the end of their Airflow."""

IN_AIRFLOW_ALONE: Mapping[str, str] = {
    "review_copy": "It waits for people; here, `nightmarket copy list` shows what waits for them.",
    "ask_in_batch": "It waits for a provider.",
    "follow_events": "Here, `nightmarket follow` does the same until it is stopped, `--once` a single time.",
}
"""DAGs that one process does not run, and why or what does."""

AFTER: Mapping[str, tuple[str, ...]] = {
    "build_warehouse": (),
    "finetune_models": ("build_warehouse",),
    "refresh_profiles": ("build_warehouse",),
    "refresh_recommendations": ("build_warehouse", "finetune_models"),
    "refresh_product_copy": ("build_warehouse",),
    "finetune_encoder": ("build_warehouse",),
    "finetune_writer": (),
    "bake_off": (),
}
"""Which DAGs must have succeeded before one can begin; the assets say the same to Airflow."""


@dataclass(frozen=True)
class Failure:
    """What went wrong in a night, for people: the task, the error, and where to look."""

    dag_id: str
    task_id: str
    message: str
    table: str | None = None
    checks: tuple[str, ...] = ()
    where: str | None = None
    log: str | None = None


@dataclass
class Report:
    """How a night went, DAG by DAG."""

    day: date
    run_ids: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        return not self.failures and all(state == "success" for state in self.states.values())


def prepare(shop: str | None, day: date | None) -> tuple[Settings, date]:
    """Choose the shop, make or find its landing files, decide the day, and remember the shop as the last one run.

    Raises:
        ShopNotFound: no such shop, or it lacks tables it must have.
    """
    from nightmarket import shops

    settings = choose_shop(shop)
    root = settings.state / "landing"
    root.mkdir(parents=True, exist_ok=True)
    opened = shops.open_shop(settings.shop, landing_root=root, day=day)
    chosen = day or shops.default_day(opened)
    remember(settings)
    return settings, chosen


def remember(settings: Settings) -> None:
    """Make this shop the one that `nightmarket query` and `var/lake` show."""
    home = settings.home.expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    (home / "current").write_text(settings.shop + "\n")
    (settings.state / "lake").mkdir(parents=True, exist_ok=True)
    link, scratch = home / "lake", home / f".lake.{os.getpid()}"
    if link.exists() and not link.is_symlink():
        return  # somebody keeps files of that name there
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(Path("shops") / settings.slug / "lake")
    scratch.replace(link)


def last_shop(home: Path) -> str | None:
    """The shop of the last night in this home, or None before the first."""
    try:
        return (home.expanduser() / "current").read_text().strip() or None
    except FileNotFoundError:
        return None


def steps() -> dict[str, dict[str, Callable[..., Outcome]]]:
    """The steps of each DAG in order, each a function of the day, and of the run's id where it takes one."""
    from nightmarket import landing, products, quality, transform
    from nightmarket.products import product_copy, profiles, recommendations
    from nightmarket.training import bake_off, finetune, finetune_encoder, finetune_writer

    def loop(module: object) -> dict[str, Callable[..., Outcome]]:
        product: products.Product = module.PRODUCT  # type: ignore[attr-defined]
        return {
            "generate": partial(products.generate, product),
            "check": partial(products.check, product),
            "publish": partial(products.publish, product),
        }

    def training(module: Any) -> dict[str, Callable[..., Outcome]]:
        return {"build_examples": module.build_examples, "train": module.train, "promote": module.promote}

    def dbt(day: date, run_id: str) -> Outcome:
        return transform.build(day, run_id=run_id) if transform.needs_build() else Outcome(note="unchanged")

    return {
        "build_warehouse": {
            "land": landing.load_night,
            "check_arrivals": quality.check_arrivals,
            "dbt": dbt,
            "extract": transform.extract,
        },
        "finetune_models": training(finetune),
        "refresh_profiles": loop(profiles),
        "refresh_recommendations": loop(recommendations),
        "refresh_product_copy": loop(product_copy),
        "finetune_encoder": training(finetune_encoder),
        "finetune_writer": training(finetune_writer),
        "bake_off": {"build_examples": finetune_writer.build_examples, "compare": bake_off.compare},
    }


def run(day: date, only: Sequence[str], tell: Callable[[str, str, str, float, Outcome], None]) -> Report:
    """Run the night's steps in this process; a DAG that fails stops what depends on it, the others go on.

    Args:
        only: the DAGs to run; what they read must be there already. Empty: all of them.
        tell: called at the end of each step with (DAG, step, state, seconds, outcome).

    Raises:
        NightFailed: `only` names something that is no DAG, or one of `IN_AIRFLOW_ALONE`.
    """
    if waits := sorted({*only} & {*IN_AIRFLOW_ALONE}):
        raise NightFailed(
            " ".join(
                f"{dag} runs in Airflow alone (`make up`, unpause it). {IN_AIRFLOW_ALONE[dag]}"
                for dag in waits
            )
        )
    unknown = sorted({*only} - {*DAGS, *WHEN_ASKED})
    if unknown:
        raise NightFailed(
            f"There is no DAG {', '.join(unknown)}. The DAGs are {', '.join((*DAGS, *WHEN_ASKED))}."
        )
    wanted = [dag for dag in (*DAGS, *WHEN_ASKED) if dag in (only or DAGS)]
    run_id = f"run__{day}__{datetime.now(UTC):%Y%m%dT%H%M%S}"
    report, todo = Report(day), steps()
    for dag in wanted:
        report.run_ids[dag] = run_id
        began = time.perf_counter()
        if any(report.states.get(before, "success") != "success" for before in AFTER[dag]):
            report.states[dag] = "not started"
            continue
        report.states[dag] = "success"
        for name, verb in todo[dag].items():
            clock, outcome = time.perf_counter(), Outcome()
            try:
                with ledger.task(dag, name, run_id, day) as record:
                    outcome = call(verb, day, run_id)
                    record(outcome)
            except Exception as error:  # noqa: BLE001 - a bug in one DAG must not hide how the others went
                report.states[dag] = "failed"
                report.failures.append(failure_of(dag, name, error, _written_down(dag, name, run_id, error)))
            tell(dag, name, report.states[dag], time.perf_counter() - clock, outcome)
            if report.states[dag] == "failed":
                break
        report.seconds[dag] = time.perf_counter() - began
    return report


def call(verb: Callable[..., Outcome], day: date, run_id: str) -> Outcome:
    """Call a step's verb with the day, and with the run's id when it takes one."""
    takes_run = "run_id" in inspect.signature(verb).parameters
    return verb(day, run_id=run_id) if takes_run else verb(day)


def failure_of(dag_id: str, task_id: str, error: BaseException, log: str | None = None) -> Failure:
    """What an error says, with the table, the checks and the rows where it is a gate's."""
    if isinstance(error, QualityGateFailed):
        return Failure(dag_id, task_id, str(error), error.table, error.checks, error.where, log)
    message = str(error) if isinstance(error, NightmarketError) else f"{type(error).__name__}: {error}"
    return Failure(dag_id, task_id, message, log=log)


def _written_down(dag_id: str, task_id: str, run_id: str, error: Exception) -> str | None:
    """An error that nobody raised on purpose is ours: its traceback goes to a file, whose path is returned."""
    if isinstance(error, NightmarketError):
        return None
    path = get_settings().state / "logs" / "run" / f"{run_id}.{dag_id}.{task_id}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(traceback.format_exception(error)))
    return str(path)


def published_table(report: Report) -> Table:
    """What is live for the night's day, and whether this night changed it."""
    from rich.table import Table

    from nightmarket import warehouse
    from nightmarket.errors import QueryFailed, WarehouseMissing

    table = Table(title=f"Published for {report.day}", title_justify="left")
    for name in ("table", "day", "rows", "", "content hash"):
        table.add_column(name, justify="right" if name == "rows" else "left")
    try:
        rows = warehouse.read(
            "select table_name, day, rows, content_hash, run_id from ops.publications "
            "where day = ? and superseded_at is null order by table_name",
            [report.day],
        ).to_pylist()
    except (WarehouseMissing, QueryFailed):
        rows = []
    ours = set(report.run_ids.values())
    for row in rows:
        state = "changed" if row["run_id"] in ours else "unchanged"
        table.add_row(
            f"outputs.{row['table_name']}",
            str(row["day"]),
            f"{row['rows']:,}",
            state,
            row["content_hash"][:12],
        )
    return table


def dag_table(report: Report) -> Table:
    """How long each DAG took, how much of that its tasks worked, and how it ended."""
    from rich.table import Table

    table = Table(title="DAGs", title_justify="left")
    for name in ("DAG", "state", "took", "work", "rows out"):
        table.add_column(name, justify="right" if name in {"took", "work", "rows out"} else "left")
    ours = set(report.run_ids.items())
    done = [r for r in ledger.rows("runs").to_pylist() if (r["dag_id"], r["run_id"]) in ours]
    for dag, state in report.states.items():
        mine = [r for r in done if r["dag_id"] == dag]
        work = sum(r["duration_s"] or 0 for r in mine)
        took = report.seconds.get(dag)
        table.add_row(
            dag, state, f"{took:.1f} s" if took is not None else "", f"{work:.1f} s" if mine else "",
            f"{mine[-1]['rows_out'] or 0:,}" if mine else "",
        )  # fmt: skip
    return table


def where_to_look(settings: Settings) -> list[tuple[str, str]]:
    """Names and places to look at after a night."""
    home = settings.home.expanduser()
    given = "" if settings.shop in {"demo", last_shop(home)} else f" --shop {settings.shop}"
    places = [
        (
            "Query",
            f'.venv/bin/nightmarket query "select * from outputs.recommendations_current limit 5"{given}',
        ),
        ("Data Docs", str(_data_docs(settings))),
        ("MLflow", "make up (runs, models and reports on loopback)"),
        ("Extracts", str(home / "lake")),
        ("Logs", str(settings.state / "logs")),
    ]
    return [(name, place.replace(str(Path.cwd()) + "/", "")) for name, place in places]


def _data_docs(settings: Settings) -> Path:
    found = sorted((settings.state / "gx").rglob("index.html"), key=lambda p: len(p.parts))
    return found[0] if found else settings.state / "gx"
