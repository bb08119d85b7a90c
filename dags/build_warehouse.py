"""Turns the shop's landing files into the day's marts, and lays them out for everything that comes after.

Files that arrived are checked and loaded once each; dbt builds what they changed; the marts are written to the lake as
that day. What is wrong in a file is kept in `ops.quarantine`.

**Reads** the shop's landing files · **Writes** `raw`, `staging`, `intermediate`, `marts`, and an extract of each mart

**If it fails**: what was published stays live, and nothing downstream starts. `land` names the file and the rule (mend
the file, or remove it, and run the day again); `check_arrivals` names the table whose volume or freshness is off; in
`dbt` the first red model or the log of `dbt_producer_watcher` has the error. Any task can be cleared: a file is loaded
once and a day's extract is replaced, so nothing doubles.
"""

from __future__ import annotations

from airflow.sdk import dag

from nightmarket import landing, quality, transform
from nightmarket.orchestration import COMMON, MARTS, WAREHOUSE, dbt_build, every_night, step


@dag(schedule=every_night(), tags=["warehouse", "tier-1"], doc_md=__doc__, **COMMON)
def build_warehouse() -> None:
    land = step("land", landing.load_night, pool=WAREHOUSE)
    check_arrivals = step("check_arrivals", quality.check_arrivals)
    dbt_needed, dbt = dbt_build("dbt")
    extract = step("extract", transform.extract, outlets=MARTS, pool=WAREHOUSE, trigger_rule="none_failed")

    land >> check_arrivals >> dbt_needed >> dbt >> extract


build_warehouse()
