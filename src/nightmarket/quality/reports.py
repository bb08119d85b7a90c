"""Runs a suite with Great Expectations and keeps its Data Docs: one file context a shop, used by one process at a time.

Not here: verdicts and what follows from them, and any table's rows beyond the frame that is handed in.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nightmarket.settings import get_settings

if TYPE_CHECKING:
    import pandas as pd

    from nightmarket.suites import Check, Suite

KEPT_REPORTS = 60  # about ten nights of Data Docs, 3 MB
MOST_POSITIONS = 1_000  # failing rows named a check

_CONFIG = """\
# Written anew before each use: nothing here is kept from run to run but validations/ and data_docs/.
config_version: 4.0
analytics_enabled: false
progress_bars: {globally: false}
plugins_directory: plugins/
stores:
  expectations_store: {class_name: ExpectationsStore, store_backend: {class_name: InMemoryStoreBackend}}
  validation_results_store:
    class_name: ValidationResultsStore
    store_backend: {class_name: TupleFilesystemStoreBackend, base_directory: validations/}
  checkpoint_store: {class_name: CheckpointStore, store_backend: {class_name: InMemoryStoreBackend}}
  validation_definition_store:
    {class_name: ValidationDefinitionStore, store_backend: {class_name: InMemoryStoreBackend}}
expectations_store_name: expectations_store
validation_results_store_name: validation_results_store
checkpoint_store_name: checkpoint_store
data_docs_sites:
  nightmarket:
    class_name: SiteBuilder
    show_how_to_buttons: false
    store_backend: {class_name: TupleFilesystemStoreBackend, base_directory: data_docs/}
    site_index_builder: {class_name: DefaultSiteIndexBuilder}
"""


@dataclass(frozen=True)
class Finding:
    """A check that did not hold: what was seen, what should have been, and in how many rows."""

    check: str
    severity: Literal["fail", "warn"]
    column: str
    observed: str
    expected: str
    failing_rows: int | None
    reason: str
    expectation: str
    where: str = ""


def run(spec: Suite, frame: pd.DataFrame, day: date) -> tuple[list[Finding], dict[str, list[int]]]:
    """What of a suite does not hold in a frame, and by rule of severity `fail` the first positions of rows that break it.

    The validation is kept, with the newest others, and its page of Data Docs is built.
    """
    gx = _great_expectations()
    from great_expectations import expectations as gxe
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    findings: list[Finding] = []
    bad: dict[str, list[int]] = {}
    with _gx_context() as context:
        batches = context.data_sources.add_or_update_pandas("night").add_dataframe_asset(spec.table)
        batch = batches.add_batch_definition_whole_dataframe("day")
        expectations = [
            getattr(gxe, check.expect)(
                **check.arguments, meta={"n": n}, notes=f"{check.rule}. {check.reason}",
                severity="critical" if check.severity == "fail" else "warning",
            )
            for n, check in enumerate(spec.checks)
        ]  # fmt: skip
        suite = context.suites.add_or_update(gx.ExpectationSuite(name=spec.table, expectations=expectations))
        definition = context.validation_definitions.add_or_update(
            gx.ValidationDefinition(name=spec.table, data=batch, suite=suite)
        )
        parameters = {"dataframe": frame}
        run_id = RunIdentifier(run_name=day.isoformat(), run_time=datetime.now(UTC))
        result = definition.run(
            batch_parameters=parameters,
            result_format={"result_format": "BASIC", "partial_unexpected_count": 5},
            run_id=run_id,
        )
        for one in result.results:
            if one.success:
                continue
            check = spec.checks[one.expectation_config.meta["n"]]
            findings.append(_finding(check, one, len(frame)))
            if check.severity == "fail" and len(bad) < 20:
                again = batch.get_batch(parameters).validate(
                    expectations[one.expectation_config.meta["n"]], result_format="COMPLETE"
                )
                listed = again.result.get("unexpected_index_list") or []
                if listed:
                    bad[check.rule] = [int(i) for i in listed[:MOST_POSITIONS]]
        _forget_old_reports()
        name = ExpectationSuiteIdentifier(spec.table)
        made = [name, ValidationResultIdentifier(name, run_id, f"night-{spec.table}")]
        # Only the new pages: all 60 would cost 5 s a check.
        context.build_data_docs(
            resource_identifiers=made if (_gx_root() / "data_docs" / "index.html").exists() else None
        )
    order = {check.rule: n for n, check in enumerate(spec.checks)}
    return sorted(findings, key=lambda f: (f.severity != "fail", order[f.check])), bad


def docs_url() -> str:
    """Where the Data Docs of this shop begin, whether they were built yet or not."""
    return (_gx_root() / "data_docs" / "index.html").as_uri()


def _finding(check: Check, result: Any, rows: int) -> Finding:
    seen = result.result or {}
    failing = seen.get("unexpected_count")
    if failing is not None:
        observed = f"{failing:,} of {rows:,} rows"
    elif "observed_value" in seen:
        value = seen["observed_value"]
        observed = f"{value:,.4g}" if isinstance(value, float) else f"{value}"
    else:
        errors = [
            e.get("exception_message", "")
            for e in (result.exception_info or {}).values()
            if isinstance(e, dict)
        ]
        observed = f"could not be checked: {' '.join(errors)[:200]}"
    wanted = {k: v for k, v in check.arguments.items() if not k.startswith("column") and v is not None}
    expected = ", ".join(f"{k} {v}" for k, v in wanted.items()) or check.rule
    return Finding(
        check.rule,
        check.severity,
        ", ".join(check.columns),
        observed,
        expected,
        failing,
        check.reason,
        check.expect,
    )


def _gx_root() -> Path:
    return get_settings().state / "gx"


def _great_expectations() -> Any:
    import logging

    import great_expectations

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    return great_expectations


@contextmanager
def _gx_context() -> Iterator[Any]:
    """A file context with a fresh configuration; other processes of this shop wait for their turn.

    A configuration kept from an earlier process names batches of frames that are gone, and fails with "Could not find
    batch definition"; so only results and pages are kept.
    """
    root = _gx_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scratch = root / f".great_expectations.{os.getpid()}.yml"
        scratch.write_text(_CONFIG)
        scratch.replace(root / "great_expectations.yml")
        yield _great_expectations().get_context(mode="file", context_root_dir=str(root))


def _forget_old_reports() -> None:
    """Keep the newest validations and their pages, so that Data Docs stay small and quick to build."""
    root = _gx_root()
    results = sorted((root / "validations").rglob("*.json"), key=lambda p: (p.stat().st_mtime_ns, str(p)))
    for old in results[:-KEPT_REPORTS]:
        page = root / "data_docs" / "validations" / old.relative_to(root / "validations").with_suffix(".html")
        for path in (old, page):
            path.unlink(missing_ok=True)
            for folder in (path.parent, path.parent.parent):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
