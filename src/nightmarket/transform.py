"""From `raw` to marts: run the dbt project, know whether it must run, lay the marts out in the lake.

Here: dbt's environment, manifest and build, and the extracts. Not here: what a mart means (dbt/models, which also holds
the tests of what is true inside the warehouse), and how Airflow shows the models (orchestration).

A build takes what `raw.night` says: its day, and what was loaded until then. dbt itself records in `intermediate.built`
that all models were built and all data tests passed, in the warehouse that it speaks of; so it does not matter who ran it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from nightmarket import lake, warehouse
from nightmarket.errors import QueryFailed, TransformFailed, WarehouseMissing
from nightmarket.ledger import Outcome
from nightmarket.settings import Settings, get_settings

MARTS: dict[str, tuple[str, ...]] = {
    "customers": ("customer_id",),
    "products": ("product_id",),
    "order_items": ("order_id", "line"),
    "purchases": ("customer_id", "ordered_at", "order_id", "product_id"),
    "customer_features": ("customer_id",),
    "customer_affinities": ("customer_id", "dimension", "value"),
    "recommendation_rules": ("rule_id",),
    "exposures": ("customer_id", "product_id", "placement", "shown_on"),
}
"""The marts, each with the key its extract is sorted by."""

# Cosmos passes --no-static-parser; a partial parse made without it would be thrown away.
_FLAGS = ("--no-static-parser", "--log-level", "none", "--log-level-file", "info", "--no-use-colors")
# Two models at a time, each with two threads: 18 s for 1.5 million order lines on two cores, 24 s one by one.
_MODELS_AT_A_TIME = 2
_TOLD = 5


def environment(settings: Settings | None = None) -> dict[str, str]:
    """The variables that dbt needs to build this shop's warehouse; whoever starts dbt hands it these and no others."""
    settings = settings or get_settings()
    state = settings.state / "dbt"
    return {
        "DBT_PROJECT_DIR": str(_project(settings)),
        "DBT_PROFILES_DIR": str(_project(settings)),
        "DBT_TARGET_PATH": str(state / "target"),
        "DBT_LOG_PATH": str(state / "logs"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "NIGHTMARKET_DBT_DIGEST": project_digest(),
        "NIGHTMARKET_DBT_THREADS": str(_MODELS_AT_A_TIME),
        "NIGHTMARKET_WAREHOUSE_PATH": str(warehouse.path()),
        "NIGHTMARKET_WAREHOUSE_THREADS": str(min(2, os.cpu_count() or 1)),
        "NIGHTMARKET_WAREHOUSE_MEMORY": settings.warehouse_memory,
    }


def manifest_path() -> Path:
    """Where the manifest stands that `parse` makes."""
    return Path(environment()["DBT_TARGET_PATH"]) / "manifest.json"


def parse() -> Path:
    """Make the manifest that Cosmos draws its tasks from, and the partial parse that the next build starts from.

    Raises:
        TransformFailed: the project cannot be parsed; says where.
    """
    _invoke("parse")
    _parsed().write_text(project_digest())
    return manifest_path()


def ensure_manifest() -> Path:
    """The manifest of the project as it is now; parses only when a file of the project changed since the last time."""
    made = _parsed()
    if manifest_path().exists() and made.exists() and made.read_text() == project_digest():
        return manifest_path()
    return parse()


def project_digest() -> str:
    """A digest of the dbt project's files: another one means other rules, so everything is built again."""
    return _digest_of(_project(get_settings()))


def fingerprint() -> str | None:
    """A digest of what a build now would depend on: the night, what was loaded, the project. None before the first load."""
    night = _night()
    return warehouse.digest(*night.values(), project_digest()) if night else None


def needs_build() -> bool:
    """Whether the marts are not those of the night's day, of the last load and of this project.

    Also true after a build that failed or was killed. Reads the readers' copy, so it never waits.
    """
    return _finished() is None


def build(day: date, *, run_id: str = "", full_refresh: bool = False) -> Outcome:
    """Build every model and run every data test for `day`, in this process; unit tests belong to `make test`.

    Customers that nothing touched since the last build keep their rows. A second build changes nothing. A build that
    fails leaves the lake, and so every reader of extracts, with what it had. `Outcome.rows_in` are the customers of the
    warehouse, `rows_out` those whose rows were made anew.

    Args:
        run_id: the run that asked, for dbt's log.
        full_refresh: make every row anew, whatever was touched.

    Raises:
        TransformFailed: a model or test failed (names it, what it said, where its SQL is), or the last load was for
            another day.
        WarehouseMissing: nothing was loaded yet.
    """
    _require_night(day)
    # The manifest is written by `parse`; writing it again costs 0.8 s of a night in which nothing else happens.
    command = ["build", "--exclude-resource-type", "unit_test", "--no-write-json"]
    try:
        results = _invoke(*command, *(["--full-refresh"] if full_refresh else []))
    finally:
        refresh()  # also when it failed: then readers, and `needs_build`, see that the marts are not finished
    counts: dict[str, int] = {}
    for result in results:
        kind = str(result.node.resource_type)
        counts[kind] = counts.get(kind, 0) + 1
    customers, made = _touched()
    return Outcome(
        rows_in=customers,
        rows_out=made,
        note=f"{counts.get('model', 0)} models, {counts.get('test', 0)} data tests; "
        f"{made:,} of {customers:,} customers made anew",
    )


def build_part(day: date, marts: Sequence[str], *, run_id: str = "") -> Outcome:
    """Build some marts and the tables they are made from for `day`, with their data tests, between two nights.

    The others stay as the last night left them, so afterwards `needs_build` says that the marts are not those of one
    day, and the next night builds them all. A mart that this project does not have is passed over. `Outcome.rows_in` are
    the customers of the warehouse.

    Raises:
        TransformFailed: a model or test failed, the last load was for another day, or the project is not the one that
            the last night built with.
        WarehouseMissing: nothing was loaded yet.
    """
    _require_night(day)
    built_by = {
        row["project"] for row in _rows("select distinct project from intermediate.built__customer_features")
    }
    if built_by != {project_digest()}:
        raise TransformFailed(
            f"The dbt project is not the one that the last night built shop `{get_settings().shop}` with: its tables must "
            f"be made anew, which is a night's work. Run it: nightmarket run --day {day}"
        )
    there = [mart for mart in marts if _model(mart)]
    # Views are as the night made them. Only tests whose other models are built here too can be judged now.
    chosen = ["--select", *(f"+{mart}" for mart in there), "--exclude", "config.materialized:view"]
    command = ["build", "--exclude-resource-type", "unit_test", "--no-write-json", *chosen]
    try:
        results = _invoke(*command, "--indirect-selection", "buildable")
    finally:
        refresh()
    kinds = [str(result.node.resource_type) for result in results]
    customers, _ = _touched()
    return Outcome(
        rows_in=customers,
        note=f"{kinds.count('model')} models, {kinds.count('test')} data tests",
    )


def extract_part(day: date, marts: Sequence[str]) -> Outcome:
    """Write some marts, as `build_part` left them, into the lake as `day`. The next night's `extract` writes them anew.

    Raises:
        TransformFailed: the last load was for another day.
    """
    _require_night(day)
    written = [warehouse.extract(mart, day, key=MARTS[mart]) for mart in marts if mart in MARTS]
    rows = sum(manifest.rows for manifest in written)
    return Outcome(rows_in=rows, rows_out=rows, note=f"{len(written)} marts")


def refresh() -> None:
    """Show readers what dbt built; needed after a build that another process ran (Cosmos)."""
    with warehouse.writer():
        pass


@contextmanager
def held_open() -> Iterator[None]:
    """Keep the warehouse open in this process while dbt builds in it, so that opening it costs dbt nothing.

    dbt opens and closes it for each model and each test. Where it is open already with the same options, a build of the
    smallest shop takes 8.5 s of processor time instead of 10.5.

    Raises:
        WarehouseBusy: another process kept the warehouse for longer than `warehouse_wait_s`.
    """
    variables = environment()
    with warehouse.held_open(
        threads=variables["NIGHTMARKET_WAREHOUSE_THREADS"],
        memory_limit=variables["NIGHTMARKET_WAREHOUSE_MEMORY"],
    ):
        yield


def extract(day: date, *, run_id: str = "") -> Outcome:
    """Write every mart into the lake as `day`, and remove days of the lake that are older than `keep_days`.

    A second extract of the same build writes nothing. `rows_out` are the rows written.

    Raises:
        TransformFailed: the marts are not built for `day`.
    """
    if needs_build():  # built by another process since the readers' copy was made, or not at all
        refresh()
    built = _finished()
    night = _night()
    if built is None or night is None or night["day"] != day:
        raise TransformFailed(
            f"The marts are not those of {day}: the warehouse was loaded for {night['day'] if night else 'no day'} and "
            f"{'its build is not finished' if built is None else 'built for that'}. Run build_warehouse for {day}: "
            f"nightmarket run --day {day} --only build_warehouse"
        )
    noted = _extracted()
    if noted.get(day.isoformat()) == built and all(lake.manifest(mart, day) for mart in MARTS):
        rows = sum(found.rows for mart in MARTS if (found := lake.manifest(mart, day)))
        return Outcome(rows_in=rows, note="unchanged")
    rows = sum(warehouse.extract(mart, day, key=key).rows for mart, key in MARTS.items())
    lake.prune(day, get_settings().keep_days)
    kept = {d: b for d, b in noted.items() if lake.manifest("customers", date.fromisoformat(d))}
    _write(_extracted_path(), json.dumps(kept | {day.isoformat(): built}, indent=1, sort_keys=True))
    customers, made = _touched()
    return Outcome(
        rows_in=rows, rows_out=rows, note=f"{len(MARTS)} marts; {made:,} of {customers:,} customers made anew"
    )


def _model(mart: str) -> bool:
    return any(_project(get_settings()).glob(f"models/**/{mart}.sql"))


def _project(settings: Settings) -> Path:
    return settings.project / "dbt"


def _parsed() -> Path:
    return get_settings().state / "dbt" / "parsed"


def _extracted_path() -> Path:
    return get_settings().state / "dbt" / "extracted.json"


def _extracted() -> dict[str, str]:
    """The build that each day's extracts were written from."""
    try:
        return dict(json.loads(_extracted_path().read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)


@lru_cache(maxsize=4)
def _digest_of(project: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(project.rglob("*")):
        if path.suffix in (".sql", ".yml", ".md") and path.is_file():
            whole.update(path.relative_to(project).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def _rows(sql: str) -> list[dict[str, Any]]:
    try:
        return warehouse.read(sql).to_pylist()
    except (WarehouseMissing, QueryFailed):  # nothing was loaded, or nothing was built yet
        return []


def _night() -> dict[str, Any] | None:
    found = _rows("select day, batch, time_zone from raw.night")
    return found[0] if found else None


def _finished() -> str | None:
    """The id of the build that made the marts of the night as it is, or None."""
    night = _night()
    built = _rows("select day, batch, time_zone, project, invocation_id from intermediate.built")
    if night is None or len(built) != 1:
        return None
    fits = all(built[0][name] == value for name, value in night.items())
    return str(built[0]["invocation_id"]) if fits and built[0]["project"] == project_digest() else None


def _touched() -> tuple[int, int]:
    """How many customers the warehouse has, and how many of them the last build made anew."""
    found = _rows(
        "select count(*) as customers, count(*) filter (where invocation_id = (select max(invocation_id) from "
        "intermediate.built)) as made from intermediate.built__customer_features"
    )
    return (int(found[0]["customers"]), int(found[0]["made"])) if found else (0, 0)


def _require_night(day: date) -> None:
    night = _night()
    if night is None:
        raise WarehouseMissing(
            f"Nothing was loaded for shop `{get_settings().shop}` yet, so there is nothing to build from. Run the whole "
            f"DAG: nightmarket run --day {day} --only build_warehouse"
        )
    if night["day"] != day:
        raise TransformFailed(
            f"The last load was for {night['day']}, not for {day}: marts are as of the loaded day. Run build_warehouse for "
            f"{day}: nightmarket run --day {day} --only build_warehouse"
        )


@contextmanager
def _dbt_environment(extra: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(extra)
    try:
        yield
    finally:
        for name in extra:
            os.environ.pop(name, None)
        os.environ.update({name: before[name] for name in extra if name in before})


def _invoke(*command: str) -> Sequence[Any]:
    """Run dbt in this process; returns its results, or raises TransformFailed with what went wrong first."""
    from dbt.cli.main import dbtRunner

    variables = environment()
    for name in ("DBT_TARGET_PATH", "DBT_LOG_PATH"):
        Path(variables[name]).mkdir(parents=True, exist_ok=True)
    where = ("--project-dir", variables["DBT_PROJECT_DIR"], "--profiles-dir", variables["DBT_PROFILES_DIR"])
    with _dbt_environment(variables), held_open() if command[0] == "build" else nullcontext():
        ran = dbtRunner().invoke(
            [*command, *where, "--profile", "nightmarket", "--target", "duckdb", *_FLAGS]
        )
    log = Path(variables["DBT_LOG_PATH"]) / "dbt.log"
    if ran.exception is not None:
        raise TransformFailed(
            f"dbt {command[0]} stopped: {ran.exception} The whole log: {log}"
        ) from ran.exception
    results = list(getattr(ran.result, "results", None) or [])
    if not ran.success:
        raise TransformFailed(_told(results, Path(variables["DBT_TARGET_PATH"]), log))
    return results


def _told(results: Sequence[Any], target: Path, log: Path) -> str:
    """What failed, one paragraph each: the node, what it said, where its SQL is, and what depended on it."""
    failed = [r for r in results if str(r.status) in ("error", "fail", "runtime error")]
    skipped = sum(str(r.status) == "skipped" for r in results)
    lines = [f"dbt could not make the marts: {len(failed)} failed, {skipped} skipped because of it."]
    for result in failed[:_TOLD]:
        node = result.node
        sql = getattr(node, "compiled_path", None)
        said = " ".join(str(result.message or "").split())
        lines.append(
            f"- {node.resource_type} `{node.name}` ({node.original_file_path}): {said}"
            + (
                f" SQL: {(target.parent / sql) if sql and not Path(sql).is_absolute() else sql}"
                if sql
                else ""
            )
        )
    if len(failed) > _TOLD:
        lines.append(f"- and {len(failed) - _TOLD} more")
    lines.append(f"Extracts and published tables stay as they are. The whole log: {log}")
    return "\n".join(lines)
