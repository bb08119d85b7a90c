"""The promises of the lake: a day of a name is whole or absent, and the same rows are the same content."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightmarket import lake
from nightmarket.errors import ExtractMissing

DAY = date(2026, 3, 2)


def test_rows_come_back_sorted_by_their_key(home: Path) -> None:
    lake.write("things", DAY, pa.table({"id": ["b", "a"], "n": [2, 1]}), key=("id",))
    assert lake.read("things", DAY).to_pylist() == [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
    assert lake.read("things", DAY, ["n"]).column_names == ["n"]


def test_a_missing_day_says_what_to_run(home: Path) -> None:
    with pytest.raises(ExtractMissing, match="nightmarket run --day 2026-03-02 --only build_warehouse"):
        lake.read("things", DAY)
    assert lake.manifest("things", DAY) is None


def test_writing_a_day_again_replaces_it_and_leaves_nothing_behind(home: Path) -> None:
    lake.write("things", DAY, pa.table({"id": ["a", "b"]}), key=("id",))
    again = lake.write("things", DAY, pa.table({"id": ["c"]}), key=("id",))
    assert lake.read("things", DAY).to_pylist() == [{"id": "c"}]
    assert [p.name for p in again.path.parent.parent.iterdir()] == ["day=2026-03-02"]


@given(st.lists(st.tuples(st.integers(0, 5), st.text(max_size=4)), max_size=8), st.randoms())
def test_the_content_hash_is_that_of_the_rows_whatever_their_order(rows: list, random: object) -> None:
    def table(values: list) -> pa.Table:
        return pa.table(
            {
                "n": pa.array([a for a, _ in values], pa.int64()),
                "t": pa.array([b for _, b in values], pa.string()),
            }
        )

    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert lake.hash_rows(table(rows)) == lake.hash_rows(table(shuffled))
    assert lake.hash_rows(table([*rows, (9, "more")])) != lake.hash_rows(table(rows))


def test_a_child_that_is_a_copy_of_this_process_hashes_rows_too() -> None:
    rows = pa.table({"n": [1, 2, 3]})
    told = lake.hash_rows(rows)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        # DuckDB's threads stay with the parent: its engine would hang here sooner or later.
        makes_its_own = lake._database.cache_info().currsize == 0
        os._exit(0 if makes_its_own and lake.hash_rows(rows) == told else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lake.hash_rows(rows) == told


def test_threads_of_a_process_hash_their_own_rows_at_once() -> None:
    tables = [pa.table({"n": list(range(n, n + 2000))}) for n in range(16)]
    alone = [lake.hash_rows(table) for table in tables]
    assert len(set(alone)) == 16
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lake.hash_rows, tables)) == alone


def test_columns_that_say_when_do_not_enter_the_hash() -> None:
    first, second = pa.table({"id": ["a"], "run_id": ["1"]}), pa.table({"id": ["a"], "run_id": ["2"]})
    assert lake.hash_rows(first) != lake.hash_rows(second)
    assert lake.hash_rows(first, unhashed=("run_id",)) == lake.hash_rows(second, unhashed=("run_id",))


def test_pruning_keeps_the_days_asked_for_and_removes_what_killed_writers_left(home: Path) -> None:
    for day in (date(2026, 2, 1), date(2026, 2, 20), DAY):
        written = lake.write("things", day, pa.table({"id": ["a"]}), key=("id",))
    (written.path.parent.parent / ".day=2026-03-02.999999999.dead").mkdir()
    assert lake.prune(DAY, keep_days=14) == 2
    assert sorted(p.name for p in written.path.parent.parent.iterdir()) == [
        "day=2026-02-20",
        "day=2026-03-02",
    ]
