"""The loop that all products share: generate to scratch, check, publish. A product is data and one function.

Here: skipping what did not change, provenance, fencing, the order of steps. Not here: what a profile, a list or a text
is (a module each), and who calls the steps (Airflow's DAGs, the command line).

**Touched keys.** Every row carries `input_hash`, a digest of what it was made from. On a day only keys whose digest
differs from the latest row published *before* that day are made again, so a second run of a day makes the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from nightmarket import lake, warehouse
from nightmarket.contracts import OUTPUTS, UNHASHED, output_columns
from nightmarket.errors import NightmarketError, WarehouseMissing
from nightmarket.ledger import Outcome

_KINDS = {
    "VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "DECIMAL(18,4)": pa.decimal128(18, 4),
    "TIMESTAMP": pa.timestamp("us"), "DATE": pa.date32(), "BOOLEAN": pa.bool_(),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What a product made for a day: rows of each of its tables (without provenance), and counts.

    `rows[table]` has the columns of the table's contract except `day, run_id, created_at`; `model_name` and
    `model_version` are columns of the rows.
    """

    rows: Mapping[str, pa.Table]
    outcome: Outcome


@dataclass(frozen=True)
class Product:
    """A product of the night.

    Attributes:
        name: the DAG's noun, for messages.
        tables: the output tables it writes, all of them together.
        reads: names of the lake extracts that `make` reads.
        version: a digest of everything else that decides its rows (model, prompt, policy, settings); called anew
            each night and cheap.
        make: (day, run_id) -> Made; reads only the lake, the registry and earlier published rows.
        context: table -> what its suite must know beside the rows (allowed ids, for example).
    """

    name: str
    tables: tuple[str, ...]
    reads: tuple[str, ...]
    version: Callable[[date], str]
    make: Callable[[date, str], Made]
    context: Callable[[str, date], Mapping[str, object]] | None = None


def generate(product: Product, day: date, run_id: str) -> Outcome:
    """Make the day's rows of a product into the lake; does nothing when its inputs are those of the live version."""
    inputs = _inputs_hash(product, day)
    if _is_live(product, day, inputs):
        return Outcome(note="unchanged")
    fence = warehouse.fence(product.tables, day)
    made = product.make(day, run_id)
    now = datetime.now(UTC).replace(tzinfo=None)
    for table in product.tables:
        contract = OUTPUTS[table]
        rows = conform(table, made.rows[table], day=day, run_id=run_id, created_at=now)
        lake.write(table, day, rows, key=contract.key, unhashed=UNHASHED)
    _plan_path(product, day).write_text(json.dumps({"inputs": inputs, "fence": fence, "run_id": run_id}))
    return made.outcome


def check(product: Product, day: date, run_id: str) -> Outcome:
    """Hold each scratch table against its suite.

    Raises:
        QualityGateFailed: names the table, the checks and where the rows are; nothing was published.
    """
    if _is_live(product, day, _inputs_hash(product, day)):
        return Outcome(note="unchanged")
    from nightmarket import quality

    rows = 0
    for table in product.tables:
        scratch = lake.read(table, day)
        context = product.context(table, day) if product.context else {}
        quality.check(table, scratch, day, run_id=run_id, context=context)
        rows += scratch.num_rows
    plan = json.loads(_plan_path(product, day).read_text())
    _plan_path(product, day).write_text(json.dumps(plan | {"checked": _scratch_hashes(product, day)}))
    return Outcome(rows_in=rows, rows_out=rows)


def publish(product: Product, day: date, run_id: str) -> Outcome:
    """Make the checked scratch the day of all tables of a product, in one transaction."""
    inputs = _inputs_hash(product, day)
    if _is_live(product, day, inputs):
        return Outcome(note="unchanged")
    plan = json.loads(_plan_path(product, day).read_text())
    if plan["inputs"] != inputs:
        raise NightmarketError(
            f"The inputs of {product.name} of {day} changed after its rows were made; run its `generate` again."
        )
    if plan.get("checked") != _scratch_hashes(product, day):
        raise NightmarketError(
            f"The rows of {product.name} of {day} did not pass their gate; run its `check` first."
        )
    manifests = {table: lake.require(table, day) for table in product.tables}
    done = warehouse.publish(manifests, day, run_id=run_id, inputs_hash=inputs, fence=plan["fence"])
    changed = sum(p.rows for p in done if p.changed)
    note = "" if any(p.changed for p in done) else "the same rows as before"
    return Outcome(rows_in=sum(p.rows for p in done), rows_out=changed, note=note)


def previous(table: str, day: date, columns: tuple[str, ...]) -> pa.Table:
    """The latest rows of each key published before `day`: the given columns and the key's; empty at the first night."""
    contract = OUTPUTS[table]
    latest = ", ".join(contract.current_key)
    listed = ", ".join(dict.fromkeys((*contract.current_key, *contract.key, *columns)))
    same = " and ".join(f"t.{c} = l.{c}" for c in contract.current_key)
    schema = pa.schema([(c.name, _KINDS[c.sql_type]) for c in output_columns(table)])
    empty = pa.table({name: pa.array([], schema.field(name).type) for name in listed.split(", ")})
    try:
        known = warehouse.has_output(table)
    except WarehouseMissing:
        known = False
    if not known:
        return empty
    return warehouse.read(
        f"with l as (select {latest}, max(day) as day from {contract.qualified} where day < ? group by {latest}) "
        f"select {', '.join('t.' + c for c in listed.split(', '))} from {contract.qualified} t "
        f"join l on {same} and t.day = l.day order by all",
        [day],
    )


def conform(table: str, rows: pa.Table, *, day: date, run_id: str, created_at: datetime) -> pa.Table:
    """Rows with the contract's columns in the contract's order and types; provenance added, absent columns null."""
    constants = {"day": day, "run_id": run_id, "created_at": created_at}
    columns, fields = [], []
    for column in output_columns(table):
        kind = _KINDS[column.sql_type]
        if column.name in constants:
            values: pa.Array | pa.ChunkedArray = pa.array([constants[column.name]] * rows.num_rows, kind)
        elif column.name in rows.column_names:
            values = rows[column.name].cast(kind)
        else:
            values = pa.nulls(rows.num_rows, kind)
        columns.append(values)
        fields.append(pa.field(column.name, kind))
    unknown = set(rows.column_names) - {c.name for c in output_columns(table)}
    if unknown:
        raise NightmarketError(
            f"Rows of outputs.{table} have columns the contract lacks: {', '.join(sorted(unknown))}."
        )
    return pa.table(columns, schema=pa.schema(fields))


def _inputs_hash(product: Product, day: date) -> str:
    reads = [f"{name}={lake.require(name, day).content_hash}" for name in product.reads]
    before = [f"{table}<{digest}" for table, digest in _histories(product.tables, day).items()]
    return warehouse.digest(product.name, day, product.version(day), *reads, *before)


def _histories(tables: tuple[str, ...], day: date) -> dict[str, str]:
    """By table a digest of the versions published before `day`: touched keys are judged against them."""
    rows = _live("day < ?", day)
    digests = {}
    for table in tables:
        mine = [row for row in rows if row["table_name"] == table]
        digests[table] = warehouse.digest(*(r["day"] for r in mine), *(r["content_hash"] for r in mine))
    return digests


def _is_live(product: Product, day: date, inputs: str) -> bool:
    live = {row["table_name"]: row["inputs_hash"] for row in _live("day = ?", day)}
    return all(live.get(table) == inputs for table in product.tables)


def _live(which: str, day: date) -> list[dict[str, Any]]:
    """Live publications of all tables by day, in one question: each costs a tenth of a second."""
    try:
        return warehouse.read(
            "select table_name, day, content_hash, inputs_hash from ops.publications "
            f"where {which} and superseded_at is null order by day",
            [day],
        ).to_pylist()
    except WarehouseMissing:
        return []


def _scratch_hashes(product: Product, day: date) -> dict[str, str]:
    return {table: lake.require(table, day).content_hash for table in product.tables}


def _plan_path(product: Product, day: date) -> Path:
    return lake.folder(product.tables[0], day) / "plan.json"
