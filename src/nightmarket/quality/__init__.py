"""Gates: holds a table against its suite, writes the verdict down, and stops the night when it fails.

Here: verdicts in `ops.gates`, where the failing rows are, what a suite must know beside the rows, and the judgement of
what arrived. `arrivals` counts what arrived; `reports` runs suites and keeps Data Docs: it is the only importer of
Great Expectations (4 s), and is called when rows must really be looked at.
Not here: what is expected of a table (suites/), and truths inside the warehouse (dbt tests).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightmarket import guard, lake, ledger, suites
from nightmarket.errors import QualityGateFailed
from nightmarket.ledger import Outcome
from nightmarket.quality import reports
from nightmarket.quality.arrivals import Fact, closed_days, cutoff, landed_batch, shop_toml, volume
from nightmarket.quality.reports import Finding, docs_url

if TYPE_CHECKING:
    import pandas as pd

    from nightmarket.suites import Suite

__all__ = ["Fact", "Finding", "Verdict", "check", "check_arrivals", "cutoff", "docs_url", "volume"]

# Frames of two million rows and ten columns take about 1.5 GB. Longer tables are judged on whole groups of rows
# (all rows of every n-th customer or product), and the verdict says so.
MOST_ROWS = 2_000_000
MOST_REJECTED = 1_000  # failing rows kept in the lake: enough to see what is wrong


@dataclass(frozen=True)
class Verdict:
    """What a gate found. `verdict` is the worst severity of its findings, or `pass`."""

    table: str
    day: date
    suite: str
    verdict: Literal["pass", "warn", "fail"]
    findings: tuple[Finding, ...] = ()
    rows: int = 0
    note: str = ""
    rejected: Path | None = None


def check(
    suite: str, rows: pa.Table, day: date, *, run_id: str, context: Mapping[str, Any] | None = None
) -> Verdict:
    """Hold `rows` against the suite of that name and write the verdict into `ops.gates`.

    `context` gives what the suite needs beside the rows (`Suite.needs`); what is missing there is looked up: the day's
    midnight, the catalogue of the day's extract, the rules of guard.py. A table without rows passes where the suite
    allows it. Failing rows are kept as `rejected_<table>` of the day in the lake, scrubbed, at most a thousand.

    Raises:
        QualityGateFailed: a check of severity `fail` did not hold.
    """
    spec = suites.load(suite)
    if rows.num_rows == 0 and spec.may_be_empty:
        return _settle(Verdict(spec.table, day, suite, "pass", note="no rows to check"), run_id)
    findings, note, rejected = _judge(spec, rows, day, run_id, dict(context or {}))
    verdict = Verdict(
        spec.table, day, suite, _worst(findings), tuple(findings), rows.num_rows, note, rejected
    )
    return _settle(verdict, run_id)


def check_arrivals(day: date, *, run_id: str) -> Outcome:
    """Judge what arrived for the day before `day`: its volume and freshness against the same weekdays before.

    Not judged, with a note in `ops.gates`: the first load of a shop, a shop with too little history, and days that
    `shop.toml` lists under `[arrivals] closed`. A day that passed is not looked at again until something lands; a day
    that failed fails again.

    Raises:
        QualityGateFailed: orders or their lines are missing or below a tenth of the usual, or far too old.
    """
    batch = landed_batch()
    before = _last_pass(day, batch)
    if before is not None:
        note = f"batch={batch}; nothing landed since this day passed"
        ledger.gate(
            "arrivals", day, run_id=run_id, suite="arrivals", verdict=before, failed=[], rows=0, note=note
        )
        return Outcome(note="nothing landed since this day passed")
    facts = volume(day)
    arrived_on = day - timedelta(days=1)
    rows_in = int(sum(fact.observed for fact in facts if fact.measure == "volume"))
    if arrived_on in closed_days():
        note = f"{arrived_on} is a closed day in shop.toml"
        judged: list[Fact] = []
    else:
        judged = [fact for fact in facts if fact.ratio is not None and not fact.first_load]
        note = "; ".join(f"{fact.table_name} {fact.measure}: {fact.note}" for fact in facts)
    if judged:
        table = pa.Table.from_pylist([asdict(fact) for fact in judged])
        findings, _, _ = _judge(suites.load("arrivals"), table, day, run_id, {}, keep_rows=False)
        findings = [_told(finding, judged) for finding in findings]
    else:
        findings = []
    worst = _worst(findings)
    verdict = Verdict("arrivals", day, "arrivals", worst, tuple(findings), rows_in, f"batch={batch}; {note}")
    _settle(verdict, run_id)
    return Outcome(rows_in=rows_in, rows_out=rows_in, note=note if worst == "pass" else f"{worst}: {note}")


def _worst(findings: Sequence[Finding]) -> Literal["pass", "warn", "fail"]:
    return "fail" if any(f.severity == "fail" for f in findings) else "warn" if findings else "pass"


def _settle(verdict: Verdict, run_id: str) -> Verdict:
    """Write a verdict down, and raise when it is a failure."""
    ledger.gate(
        verdict.table, verdict.day, run_id=run_id, suite=verdict.suite, verdict=verdict.verdict,
        failed=[asdict(finding) for finding in verdict.findings], rows=verdict.rows, note=verdict.note,
    )  # fmt: skip
    if verdict.verdict != "fail":
        return verdict
    query = (
        f"nightmarket query \"select failed_checks from ops.gates where table_name = '{verdict.table}' "
        f"and day = '{verdict.day}' and verdict = 'fail'\""
    )
    where = query
    if verdict.rejected is not None:
        where = f"nightmarket query \"select * from '{verdict.rejected}'\" (what was found: {query})"
    elif verdict.table == "arrivals":
        where = f"{query}. If the shop was closed, add the day to `closed` under [arrivals] in {shop_toml()}"
    failed = [f"{f.check} ({f.observed})" for f in verdict.findings if f.severity == "fail"]
    raise QualityGateFailed(verdict.table, failed, where)


def _judge(
    spec: Suite, rows: pa.Table, day: date, run_id: str, context: dict[str, Any], *, keep_rows: bool = True
) -> tuple[list[Finding], str, Path | None]:
    """Run a suite over rows: what did not hold, a note about sampling, and where the failing rows are."""
    missing = [name for name in spec.reads if name not in rows.column_names]
    if missing:
        return [_absent(missing, rows.num_rows)], "", None
    positions, note = _sampled(spec, rows)
    seen = rows if positions is None else rows.take(positions)
    frame = _frame(seen.select(_columns(spec, seen)))
    for name in spec.needs:
        if name not in context:
            context[name] = _NEEDS[name](day)
    if spec.derive is not None:
        frame = spec.derive(frame, day, context)
    looked_at = list(dict.fromkeys(c for check in spec.checks for c in check.columns))
    missing = [name for name in looked_at if name not in frame.columns]
    if missing:
        return [_absent(missing, rows.num_rows)], "", None
    frame = frame[looked_at]
    findings, bad = reports.run(spec, frame, day)
    folder = lake.folder(f"rejected_{spec.table}", day)
    shutil.rmtree(folder, ignore_errors=True)
    if not bad or not keep_rows:
        return findings, note, None
    rejected = _keep_rejected(spec, seen, day, bad)
    return [replace(f, where=str(rejected)) if f.severity == "fail" else f for f in findings], note, rejected


def _absent(columns: Sequence[str], rows: int) -> Finding:
    return Finding(
        "every column that the suite looks at is there", "fail", ", ".join(columns), f"no {', '.join(columns)}",
        "all of them", rows, "What is not there cannot be checked.", "",
    )  # fmt: skip


def _told(finding: Finding, facts: Sequence[Fact]) -> Finding:
    """A finding about arrivals, told with the numbers of the tables that broke it."""
    measure = "freshness" if "age" in finding.column else "volume"
    vital = finding.column.endswith("_vital") or finding.column == "arrived_when_usual"
    about = [f for f in facts if f.measure == measure and (f.table_name in _vital() or not vital)]
    broken = [f for f in about if not _usual(finding.column, f)] or about
    observed = "; ".join(f"{f.table_name} of {f.arrived_on}: {f.note}" for f in broken)
    return replace(finding, observed=observed)


def _usual(column: str, fact: Fact) -> bool:
    from nightmarket.suites import arrivals

    ratio = fact.ratio or 0.0
    if fact.measure == "freshness":
        return ratio <= (arrivals.STOP_GAPS if column.endswith("_vital") else arrivals.WARN_GAPS)
    if column == "arrived_when_usual":
        return fact.observed > 0
    if column == "share_of_usual":
        return arrivals.WARN_BELOW <= ratio <= arrivals.WARN_ABOVE
    return ratio >= arrivals.STOP_BELOW


def _vital() -> tuple[str, ...]:
    from nightmarket.suites import arrivals

    return arrivals.VITAL


def _keep_rejected(spec: Suite, rows: pa.Table, day: date, bad: Mapping[str, Sequence[int]]) -> Path:
    """Write the first failing rows of each rule into the lake, free text scrubbed."""
    share = max(MOST_REJECTED // len(bad), 1)
    picked = [(rule, position) for rule, positions in bad.items() for position in positions[:share]]
    taken = rows.take(pa.array([position for _, position in picked], pa.int64()))
    for name in spec.text:
        if name in taken.column_names:
            clean = [
                None if text is None else guard.scrub(guard.normalise(text))
                for text in taken[name].to_pylist()
            ]
            taken = taken.set_column(taken.column_names.index(name), name, pa.array(clean, pa.string()))
    taken = taken.add_column(0, "failed_check", pa.array([rule for rule, _ in picked], pa.string()))
    return lake.write(f"rejected_{spec.table}", day, taken, key=()).path


def _columns(spec: Suite, rows: pa.Table) -> list[str]:
    """Columns of the rows that a suite looks at: only these become a frame."""
    named = [*(c for check in spec.checks for c in check.columns), *spec.reads]
    return [c for c in dict.fromkeys(named) if c in rows.column_names]


def _sampled(spec: Suite, rows: pa.Table) -> tuple[pa.Array | None, str]:
    """Positions of the rows to look at (None: all), in whole groups, and a note that says what was left out."""
    if rows.num_rows <= MOST_ROWS:
        return None, ""
    step = -(-rows.num_rows // MOST_ROWS)
    if spec.group is None:
        chosen = np.arange(0, rows.num_rows, step)
        what = f"every {step}th row"
    else:
        codes = pc.dictionary_encode(rows[spec.group].combine_chunks()).indices.to_numpy(zero_copy_only=False)
        chosen = np.flatnonzero(codes % step == 0)
        what = f"all rows of every {step}th {spec.group}"
    return pa.array(chosen), f"looked at {len(chosen):,} of {rows.num_rows:,} rows: {what}"


def _frame(rows: pa.Table) -> pd.DataFrame:
    for n, column in enumerate(rows.schema):
        if pa.types.is_decimal(column.type):
            rows = rows.set_column(n, column.name, rows[column.name].cast(pa.float64()))
        elif pa.types.is_date(column.type):
            rows = rows.set_column(n, column.name, rows[column.name].cast(pa.timestamp("us")))
        elif pa.types.is_null(column.type):
            rows = rows.set_column(n, column.name, rows[column.name].cast(pa.string()))
    return rows.to_pandas()


# Context of suites: what is looked up when the caller did not give it.


def _has_personal_data(_: date) -> Callable[[str], bool]:
    return lambda text: bool(guard.personal(guard.normalise(text)))


def _banned_phrases(_: date) -> Callable[[str, str, Sequence[str]], bool]:
    return lambda text, locale, names: bool(guard.banned(guard.normalise(text), locale, names=names))


def _product_names(day: date) -> dict[str, tuple[str, ...]]:
    rows = lake.read("products", day, ["product_id", "title", "brand"]).to_pylist()
    return {row["product_id"]: tuple(name for name in (row["title"], row["brand"]) if name) for row in rows}


def _available(day: date) -> set[str]:
    products = lake.read("products", day, ["product_id", "is_available"])
    return set(products.filter(products["is_available"])["product_id"].to_pylist())


def _catalogue(day: date) -> set[str]:
    return set(lake.read("products", day, ["product_id"])["product_id"].to_pylist())


_NEEDS: dict[str, Callable[[date], Any]] = {
    "cutoff": lambda day: cutoff(day),
    "available_products": _available,
    "product_ids": _catalogue,
    "has_personal_data": _has_personal_data,
    "banned_phrases": _banned_phrases,
    "product_names": _product_names,
}


def _last_pass(day: date, batch: int | None) -> Literal["pass", "warn"] | None:
    """The verdict of this day's last gate, if it let the night go on and nothing landed since."""
    gates = ledger.rows("gates").to_pylist()
    mine = [gate for gate in gates if gate["table_name"] == "arrivals" and gate["day"] == day]
    if not mine or mine[-1]["verdict"] == "fail" or batch is None:
        return None
    note = mine[-1]["note"] or ""
    return mine[-1]["verdict"] if note.split(";")[0] == f"batch={batch}" else None
