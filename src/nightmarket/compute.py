"""One function over many rows, a partition at a time: in this process, or with the same lines on Ray.

Here: how partitions are cut, run and put together, and Ray. Not here: what is done to a partition (the caller's function,
which must not care where it runs) and what becomes of the rows.

On Ray each partition is a task of one core and one thread, a bounded number of them under way; tables travel through
Ray's object store, so its machines need no common disk. A cluster is found by `RAY_ADDRESS`, as Ray does it; without one
a Ray of this machine lives as long as the call.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightmarket.errors import ComputeFailed
from nightmarket.settings import get_settings

Function = Callable[[pa.Table], pa.Table]

# Partitions under way or waiting for a core, for each core of Ray: one at work and one at hand.
AHEAD = 2


def map_partitions(function: Function, source: Path, target: Path, *, rows: int) -> int:
    """Write what `function` makes of each partition of `source` into the folder `target`; returns the rows written.

    The setting `compute_engine` says where; rows and their order are the same everywhere. Memory holds one partition and
    what is made of it (on Ray: two of each a core). `target` is written whole or not at all and replaces what stood
    there: a Parquet file a partition, `part-00000.parquet` on. A source without rows gives one file without rows, made by
    `function` from an empty table, so columns are always known.

    Args:
        function: gives tables of one schema; picklable for Ray, and without a memory of partitions before.
        source: a Parquet file, or a folder of them, which are read in the order of their names.
        rows: rows of a partition at most; a partition never holds rows of two files.

    Raises:
        ComputeFailed: no such source, tables of different columns, or Ray is asked for and not installed.
    """
    if rows < 1:
        raise ComputeFailed(f"A partition of {rows} rows cannot be made; ask for 1 or more.")
    files = _files(source)
    scratch = target.parent / f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    retired = scratch.with_name(f"{scratch.name}.old")
    scratch.mkdir(parents=True)
    try:
        engine = _on_ray if get_settings().compute_engine == "ray" else _here
        written = _write(engine(function, _partitions(files, rows)), scratch)
        if target.exists():
            target.rename(retired)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)
    return written


def _files(source: Path) -> list[Path]:
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not files or not files[0].exists():
        raise ComputeFailed(f"There is no Parquet file at {source}.")
    return files


def _partitions(files: list[Path], rows: int) -> Iterator[pa.Table]:
    empty, some = None, False
    for path in files:
        with pq.ParquetFile(path) as file:
            empty = file.schema_arrow.empty_table() if empty is None else empty
            for batch in file.iter_batches(batch_size=rows):
                if batch.num_rows:
                    some = True
                    yield pa.Table.from_batches([batch])
    if not some:
        yield empty


def _here(function: Function, partitions: Iterator[pa.Table]) -> Iterator[pa.Table]:
    return map(function, partitions)


def _on_ray(function: Function, partitions: Iterator[pa.Table]) -> Iterator[pa.Table]:
    try:
        import ray
    except ImportError as error:
        raise ComputeFailed(
            "NIGHTMARKET_COMPUTE_ENGINE is `ray`, but Ray is not installed here. Install the extra, "
            "pip install 'nightmarket[ray]', or set it to `local`."
        ) from error
    with _cluster(ray) as cores:
        # Ray gives a task of one core one OpenMP thread, which BLAS and torch obey.
        task = ray.remote(num_cpus=1, max_retries=1)(_call)
        packed = ray.put(function)
        under_way: deque[Any] = deque()
        try:
            for partition in partitions:
                if len(under_way) >= AHEAD * cores:
                    yield _result(ray, under_way.popleft())
                under_way.append(task.remote(packed, partition))
            while under_way:
                yield _result(ray, under_way.popleft())
        finally:
            for waiting in under_way:
                ray.cancel(waiting, force=True)


def _call(function: Function, partition: pa.Table) -> pa.Table:
    return function(partition)


def _result(ray: Any, reference: Any) -> pa.Table:
    """What a task made; an error of the function comes as it would in this process."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


@contextmanager
def _cluster(ray: Any) -> Iterator[int]:
    """The cores of the Ray in use, which is one that runs already or one of this call."""
    running = ray.is_initialized()
    if not running:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if not running:
            ray.shutdown()


def _write(tables: Iterator[pa.Table], folder: Path) -> int:
    first = next(tables)
    written = 0
    for number, table in enumerate(chain([first], tables)):
        if table.schema != first.schema:
            raise ComputeFailed(
                f"Partition {number} has the columns {_columns(table)}, the first one {_columns(first)}. The function "
                f"must give one schema."
            )
        pq.write_table(table, folder / f"part-{number:05d}.parquet", compression="zstd")
        written += table.num_rows
    return written


def _columns(table: pa.Table) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in table.schema)
