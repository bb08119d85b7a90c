"""A load that is killed leaves whole files or nothing of them, and the next one completes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from nightmarket import warehouse

from .hand_landing import Bench, orders

FILES, ROWS = 12, 200
_LOAD = "import datetime; from nightmarket import landing; print('go', flush=True); landing.load_night(datetime.date(2026, 3, 2), 'r')"


@pytest.fixture
def many(bench: Bench) -> Iterator[Bench]:
    for i in range(FILES):
        bench.put(f"orders/{i:02d}.csv", orders(ROWS, first=1 + i * ROWS))
    yield bench


def test_a_kill_at_any_moment_leaves_whole_files_or_nothing(many: Bench) -> None:
    moments = random.Random(5)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _LOAD], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0.1, 1.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with warehouse.writer() as connection:
            if not connection.execute(
                "select 1 from duckdb_tables() where table_name = 'landings'"
            ).fetchone():
                continue
            loaded = connection.execute(
                "select path, rows_loaded from ops.landings where status = 'loaded' and table_name = 'orders' order by 1"
            ).fetchall()
            found = connection.execute(
                "select _path, count(*) from raw.orders group by 1 order by 1"
            ).fetchall()
            assert found == loaded
    many.load()
    rows = many.ask("select count(*) as rows, count(distinct order_id) as ids from raw.orders")
    assert rows == [{"rows": FILES * ROWS + 1, "ids": FILES * ROWS + 1}]
    assert many.ask("select count(*) as n, count(distinct path) as paths from ops.landings") == [
        {"n": FILES + 3, "paths": FILES + 3}
    ]
