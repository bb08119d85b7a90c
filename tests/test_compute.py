"""Partitions in this process and on Ray: the same rows in the same order, whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from nightmarket import compute
from nightmarket.errors import ComputeFailed, ModelRefused
from nightmarket.settings import get_settings


def numbers(path: Path, values: list[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"n": pa.array(values, pa.int64())}), path, row_group_size=7)
    return path


def squared(table: pa.Table) -> pa.Table:
    return pa.table({"square": pc.multiply(table["n"], table["n"])})


def odd_twice(table: pa.Table) -> pa.Table:
    return pa.table(
        {"n": [n for n in table["n"].to_pylist() if n % 2 for _ in range(2)]}, pa.schema([("n", pa.int64())])
    )


def test_rows_keep_their_order_and_no_partition_is_larger_than_asked(home: Path, tmp_path: Path) -> None:
    sizes: list[int] = []

    def counted(table: pa.Table) -> pa.Table:
        sizes.append(table.num_rows)
        return squared(table)

    source = numbers(tmp_path / "in.parquet", list(range(25)))
    assert compute.map_partitions(counted, source, tmp_path / "out", rows=10) == 25
    assert sizes == [10, 10, 5]
    assert pq.read_table(tmp_path / "out")["square"].to_pylist() == [n * n for n in range(25)]
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == [
        "part-00000.parquet", "part-00001.parquet", "part-00002.parquet",
    ]  # fmt: skip


def test_a_folder_is_read_in_the_order_of_its_names(home: Path, tmp_path: Path) -> None:
    numbers(tmp_path / "in/b.parquet", [3, 4])
    numbers(tmp_path / "in/a.parquet", [1, 2])
    assert compute.map_partitions(odd_twice, tmp_path / "in", tmp_path / "out", rows=100) == 4
    assert pq.read_table(tmp_path / "out")["n"].to_pylist() == [1, 1, 3, 3]


def test_a_source_without_rows_gives_columns_without_rows(home: Path, tmp_path: Path) -> None:
    source = numbers(tmp_path / "in.parquet", [])
    assert compute.map_partitions(squared, source, tmp_path / "out", rows=10) == 0
    assert pq.read_table(tmp_path / "out").schema == pa.schema([("square", pa.int64())])


def test_what_stood_there_is_replaced_whole(home: Path, tmp_path: Path) -> None:
    source = numbers(tmp_path / "in.parquet", list(range(30)))
    compute.map_partitions(squared, source, tmp_path / "out", rows=5)
    compute.map_partitions(odd_twice, source, tmp_path / "out", rows=30)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "var") == ["in.parquet", "out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["part-00000.parquet"]


def test_a_partition_that_fails_leaves_what_stood_there_and_no_scratch(home: Path, tmp_path: Path) -> None:
    def fails(table: pa.Table) -> pa.Table:
        if 20 in table["n"].to_pylist():
            raise ModelRefused("20 is not for us.")
        return table

    source = numbers(tmp_path / "in.parquet", list(range(30)))
    compute.map_partitions(squared, source, tmp_path / "out", rows=30)
    with pytest.raises(ModelRefused, match="20 is not for us"):
        compute.map_partitions(fails, source, tmp_path / "out", rows=10)
    assert pq.read_table(tmp_path / "out").column_names == ["square"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "var") == ["in.parquet", "out"]


def test_tables_of_different_columns_are_refused(home: Path, tmp_path: Path) -> None:
    def fickle(table: pa.Table) -> pa.Table:
        return table if 0 in table["n"].to_pylist() else table.rename_columns(["m"])

    source = numbers(tmp_path / "in.parquet", list(range(20)))
    with pytest.raises(ComputeFailed, match="Partition 1 has the columns m int64, the first one n int64"):
        compute.map_partitions(fickle, source, tmp_path / "out", rows=10)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rows", [0, -1])
def test_partitions_without_rows_cannot_be_asked_for(home: Path, tmp_path: Path, rows: int) -> None:
    with pytest.raises(ComputeFailed, match="ask for 1 or more"):
        compute.map_partitions(squared, numbers(tmp_path / "in.parquet", [1]), tmp_path / "out", rows=rows)


def test_a_source_that_is_not_there_is_named(home: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for source in (tmp_path / "in", tmp_path / "none.parquet"):
        with pytest.raises(ComputeFailed, match=source.name):
            compute.map_partitions(squared, source, tmp_path / "out", rows=5)


def test_without_ray_the_message_names_the_extra(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMARKET_COMPUTE_ENGINE", "ray")
    get_settings.cache_clear()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ComputeFailed, match=r"nightmarket\[ray\]"):
        compute.map_partitions(squared, numbers(tmp_path / "in.parquet", [1]), tmp_path / "out", rows=5)
    assert not (tmp_path / "out").exists()


ON_RAY = """
import os, sys
from pathlib import Path
import pyarrow as pa
from nightmarket import compute
from nightmarket.errors import ModelRefused

def worked(table):
    import torch
    assert torch.get_num_threads() == 1
    return table.append_column("worker", pa.array([os.getpid()] * table.num_rows))

def fails(table):
    if 40 in table["n"].to_pylist():
        raise ModelRefused("40 is not for us.")
    return table

source, target = Path(sys.argv[1]), Path(sys.argv[2])
print(compute.map_partitions(worked, source, target, rows=10))
try:
    compute.map_partitions(fails, source, target, rows=10)
except ModelRefused as error:
    print(error)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is an extra, and not installed here."
)
def test_on_ray_the_rows_are_the_same_in_the_same_order_and_errors_are_the_functions_own(
    home: Path, tmp_path: Path
) -> None:
    # In a process of its own: Ray talks to this machine by its address, which tests may not.
    source = numbers(tmp_path / "in.parquet", list(range(95)))
    given = {**os.environ, "NIGHTMARKET_COMPUTE_ENGINE": "ray"}
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        given.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY, str(source), str(tmp_path / "out")],
        env=given, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["95", "40 is not for us."]
    made = pq.read_table(tmp_path / "out")
    assert made["n"].to_pylist() == list(range(95))
    assert os.getpid() not in made["worker"].to_pylist()
