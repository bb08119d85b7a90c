"""The promises of the one door to the warehouse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightmarket import lake, ledger, warehouse
from nightmarket.contracts import OUTPUTS, UNHASHED
from nightmarket.errors import PublishConflict, QueryFailed, WarehouseBusy, WarehouseMissing
from nightmarket.lake import Manifest
from nightmarket.products import conform

DAY = date(2026, 3, 2)
TABLE = "similar_products"


def scratch(pairs: list[tuple[str, str]], day: date = DAY, run_id: str = "r1") -> Manifest:
    rows = pa.table(
        {
            "product_id": pa.array([a for a, _ in pairs], pa.string()),
            "rank": pa.array(range(1, len(pairs) + 1), pa.int64()),
            "similar_product_id": pa.array([b for _, b in pairs], pa.string()),
            "model_name": pa.array(["m"] * len(pairs), pa.string()),
            "model_version": pa.array(["1"] * len(pairs), pa.string()),
        }
    )
    made = conform(TABLE, rows, day=day, run_id=run_id, created_at=datetime(2026, 3, 2))
    return lake.write(TABLE, day, made, key=OUTPUTS[TABLE].key, unhashed=UNHASHED)


def publish(pairs: list[tuple[str, str]], day: date = DAY, run_id: str = "r1") -> warehouse.Publication:
    fence = warehouse.fence([TABLE], day)
    return warehouse.publish(
        {TABLE: scratch(pairs, day, run_id)}, day, run_id=run_id, inputs_hash="i", fence=fence
    )[0]


def published_pairs(table: str = "outputs.similar_products") -> list[tuple[str, str]]:
    rows = warehouse.read(f"select product_id, similar_product_id from {table} order by all").to_pylist()
    return [(row["product_id"], row["similar_product_id"]) for row in rows]


def test_a_shop_without_a_night_says_what_to_run(home: Path) -> None:
    with pytest.raises(WarehouseMissing, match="make nightly SHOP=demo"):
        warehouse.read("select 1")


def test_a_published_day_can_be_read_and_is_in_the_ledger(home: Path) -> None:
    publish([("a", "b"), ("c", "d")])
    assert published_pairs() == [("a", "b"), ("c", "d")]
    ledger_rows = warehouse.read("select table_name, version, rows, run_id from ops.publications").to_pylist()
    assert ledger_rows == [{"table_name": TABLE, "version": 1, "rows": 2, "run_id": "r1"}]


def test_a_second_run_of_a_day_leaves_what_the_first_left(home: Path) -> None:
    first = publish([("a", "b")])
    second = publish([("a", "b")], run_id="r2")
    assert (first.changed, second.changed) == (True, False)
    rows = warehouse.read("select run_id from outputs.similar_products").to_pylist()
    assert rows == [{"run_id": "r1"}]
    assert warehouse.read("select count(*) as n from ops.publications")["n"][0].as_py() == 1


def test_other_rows_replace_the_whole_day_and_the_old_version_stays_in_the_ledger(home: Path) -> None:
    publish([("a", "b"), ("c", "d")])
    publish([("a", "x")], run_id="r2")
    assert published_pairs() == [("a", "x")]
    versions = warehouse.read(
        "select version, superseded_at is null as live from ops.publications order by version"
    ).to_pylist()
    assert versions == [{"version": 1, "live": False}, {"version": 2, "live": True}]


def test_another_day_is_left_alone_and_current_shows_the_latest_of_each_key(home: Path) -> None:
    publish([("a", "b"), ("c", "d")], date(2026, 3, 1))
    publish([("a", "z")], date(2026, 3, 2))
    assert published_pairs() == [("a", "b"), ("a", "z"), ("c", "d")]
    assert published_pairs("outputs.similar_products_current") == [("a", "z"), ("c", "d")]


def test_a_run_that_was_overtaken_changes_nothing(home: Path) -> None:
    fence = warehouse.fence([TABLE], DAY)
    publish([("a", "b")], run_id="winner")
    late = scratch([("a", "late")], run_id="zombie")
    with pytest.raises(PublishConflict, match=r"version 1 \(run winner\)"):
        warehouse.publish({TABLE: late}, DAY, run_id="zombie", inputs_hash="i", fence=fence)
    assert published_pairs() == [("a", "b")]


def test_a_writer_killed_between_its_commit_and_the_copy_is_caught_up_with(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish([("a", "first")])
    with monkeypatch.context() as killed:
        killed.setattr(warehouse, "_refresh_readers", lambda connection: None)
        publish([("a", "second")], run_id="killed")
    assert published_pairs() == [("a", "first")]
    assert warehouse.fence([TABLE], DAY) == {TABLE: 2}
    assert published_pairs() == [("a", "second")]


def test_a_failure_half_way_through_several_tables_changes_none(home: Path) -> None:
    good = scratch([("a", "b")])
    broken = Manifest("customer_interests", DAY, 1, "h", good.path)  # lacks the columns of its table
    with pytest.raises(Exception, match="lacks the columns"):
        warehouse.publish(
            {TABLE: good, "customer_interests": broken}, DAY, run_id="r", inputs_hash="i", fence={}
        )
    assert warehouse.published(TABLE, DAY) is None


def test_readers_read_while_a_writer_is_busy(home: Path) -> None:
    publish([("a", "b")])
    with warehouse.writer() as connection:
        connection.execute("begin")
        connection.execute("delete from outputs.similar_products")
        assert published_pairs() == [("a", "b")]
        connection.execute("rollback")


def test_a_writer_that_wrote_nothing_copies_nothing(home: Path) -> None:
    publish([("a", "b")])
    copy = home / "shops" / "demo" / "readers" / "warehouse.duckdb"
    before = copy.stat().st_ino
    with warehouse.writer():
        pass
    assert copy.stat().st_ino == before
    publish([("a", "c")])
    assert copy.stat().st_ino != before


def test_a_writer_that_waits_too_long_says_so(home: Path) -> None:
    with warehouse.writer(), pytest.raises(WarehouseBusy, match="kept"), warehouse.writer(timeout_s=0.2):
        pass


def test_a_question_leaves_nothing_behind_for_the_next(home: Path) -> None:
    publish([("a", "b")])
    for statement in ("create table left_behind (a int)", "create or replace view ops.runs as select 1 as a"):
        with pytest.raises(QueryFailed, match="read-only"):
            warehouse.read(statement)
    warehouse.read("set TimeZone = 'Asia/Shanghai'")
    zone = warehouse.read("select current_setting('TimeZone') as zone")
    assert zone.to_pylist() == [{"zone": "UTC"}]


def test_the_ledgers_are_of_this_moment_while_the_copy_stays_open(home: Path) -> None:
    publish([("a", "b")])
    asked = "select count(*) as n from ops.gates"
    assert warehouse.read(asked)["n"].to_pylist() == [0]
    ledger.gate("t", DAY, run_id="r", suite="s", verdict="pass", failed=[], rows=1)
    assert warehouse.read(asked)["n"].to_pylist() == [1]


def test_a_child_that_is_a_copy_of_this_process_reads_too(home: Path) -> None:
    publish([("a", "b")])
    assert published_pairs() == [("a", "b")]
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        # DuckDB's threads stay with the parent: what it had open would hang here sooner or later.
        opens_its_own = len(warehouse._opened) == 0
        os._exit(0 if opens_its_own and published_pairs() == [("a", "b")] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert published_pairs() == [("a", "b")]


def test_a_copy_of_which_much_was_read_is_not_kept_open(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish([("a", "b")])
    published_pairs()
    assert len(warehouse._opened) == 1
    monkeypatch.setattr(warehouse, "_HELD_BYTES", -1)
    assert published_pairs() == [("a", "b")]
    assert len(warehouse._opened) == 0


def test_a_wrong_statement_and_a_writing_one_are_refused(home: Path) -> None:
    publish([("a", "b")])
    with pytest.raises(QueryFailed, match="nowhere"):
        warehouse.read("select * from nowhere")
    with pytest.raises(QueryFailed):
        warehouse.read("delete from warehouse.outputs.similar_products")
    assert published_pairs() == [("a", "b")]


def test_ledgers_are_visible_at_once(home: Path) -> None:
    publish([("a", "b")])
    with ledger.task("refresh_profiles", "generate", "run-1", DAY) as record:
        record(ledger.Outcome(rows_in=5, rows_out=2, note="three unchanged"))
    row = warehouse.read(
        "select dag_id, task_id, day, state, rows_in, rows_out, note from ops.runs"
    ).to_pylist()
    assert row == [
        {"dag_id": "refresh_profiles", "task_id": "generate", "day": DAY, "state": "success",
         "rows_in": 5, "rows_out": 2, "note": "three unchanged"}
    ]  # fmt: skip


def test_a_task_that_raises_is_recorded_as_failed_with_its_message(home: Path) -> None:
    with pytest.raises(QueryFailed), ledger.task("d", "t", "r", DAY):
        raise QueryFailed("no such mart")
    assert ledger.rows("runs").select(["state", "error"]).to_pylist() == [
        {"state": "failed", "error": "no such mart"}
    ]


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_at_any_moment_of_publishing_leaves_one_whole_version(home: Path, moment: int) -> None:
    publish([("old", str(i)) for i in range(500)])
    code = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, "tests")
        from test_warehouse import publish
        print("go", flush=True)
        for n in range(50):
            publish([("new", str(i + n)) for i in range(500)], run_id=f"k{n}")
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        env=dict(os.environ),
    )
    assert child.stdout and child.stdout.readline() == b"go\n"
    time.sleep(0.02 + 0.09 * moment)
    child.send_signal(signal.SIGKILL)
    child.wait()
    seen = published_pairs()
    assert len(seen) == 500 and len({a for a, _ in seen}) == 1
    publish([("after", str(i)) for i in range(500)], run_id="after")
    assert {a for a, _ in published_pairs()} == {"after"}
    live = warehouse.read("select count(*) as n from ops.publications where superseded_at is null")["n"][
        0
    ].as_py()
    assert live == 1
    copies = [p.name for p in (home / "shops" / "demo" / "readers").iterdir()]
    assert sorted(copies) == ["copied", "warehouse.duckdb"]


@given(
    nights=st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.tuples(st.sampled_from("abcd"), st.text("xyz'\"\x00é", max_size=3)), max_size=6)),
        min_size=1, max_size=6,
    )
)  # fmt: skip
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_published_in_whatever_order_a_day_holds_the_last_rows_given_for_it(
    home: Path, nights: list[tuple[int, list[tuple[str, str]]]]
) -> None:
    oracle: dict[date, list[tuple[str, str]]] = {}
    for n, (offset, pairs) in enumerate(nights):
        day = date(2030, 1, 1 + offset)
        with warehouse.writer() as connection:
            exists = connection.execute(
                "select count(*) from information_schema.tables where table_schema='outputs'"
            ).fetchone()
            if n == 0 and exists and exists[0]:
                connection.execute("delete from outputs.similar_products")
                connection.execute("delete from ops.publications")
        publish(pairs, day, run_id=f"n{n}")
        oracle[day] = pairs
    expected = sorted(pair for pairs in oracle.values() for pair in pairs)
    assert sorted(published_pairs()) == expected
