"""dbt under Airflow against plain `dbt build` of the same project on the same warehouse.

    python bench/dbt.py --home DIR --shop demo

Takes the last night of that home that built (its task group `dbt`: from the first task's start to the last task's end,
by Airflow's own database), then runs `dbt build --full-refresh` on a copy of the warehouse with the same profile.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GROUP = """
select run_id, (julianday(max(end_date)) - julianday(min(start_date))) * 86400, count(*)
from task_instance where dag_id = 'build_warehouse' and task_id like 'dbt.%' and state = 'success'
group by run_id order by min(start_date) limit 1
"""


def main() -> None:
    """Print both wall times and their ratio."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--home", type=Path, required=True)
    options.add_argument("--shop", default="demo")
    chosen = options.parse_args()
    os.environ |= {"NIGHTMARKET_HOME": str(chosen.home), "NIGHTMARKET_SHOP": chosen.shop}
    from nightmarket import transform, warehouse
    from nightmarket.settings import get_settings

    with sqlite3.connect(get_settings().state / "airflow" / "airflow.db") as connection:
        run_id, under_airflow, tasks = connection.execute(GROUP).fetchone()
    source = warehouse.path()
    work = Path(tempfile.mkdtemp(prefix="nightmarket-dbt-"))
    os.environ["NIGHTMARKET_HOME"] = str(work)
    get_settings.cache_clear()
    warehouse.path().parent.mkdir(parents=True)
    shutil.copyfile(source, warehouse.path())
    project = ROOT / "dbt"
    command = [
        str(Path(sys.executable).parent / "dbt"), "build", "--full-refresh", "--project-dir", str(project),
        "--profiles-dir", str(project), "--exclude-resource-type", "unit_test", "--no-use-colors",
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(
        command, env=dict(os.environ) | transform.environment(), capture_output=True, text=True
    )
    plain = time.perf_counter() - started
    shutil.rmtree(work, ignore_errors=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:])
    print(
        f"under Airflow ({run_id}, {tasks} tasks): {under_airflow:.1f} s; plain dbt build: {plain:.1f} s; ratio {under_airflow / plain:.2f}"
    )


if __name__ == "__main__":
    main()
