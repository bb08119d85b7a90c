"""Gates: verdicts are written down, failing rows can be looked at, and what arrived is held against its own history."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightmarket import lake, landing, ledger, quality, shops
from nightmarket.errors import QualityGateFailed, SettingMissing
from nightmarket.settings import choose_shop, get_settings
from nightmarket.shops.demo import Demo
from nightmarket.shops.demo_truth import truth

DAY = date(2026, 3, 2)  # a Monday: what arrived on Sunday, 1 March, is judged


def claims(*verdicts: str, sentence: str = "Holds 300 ml.") -> pa.Table:
    """Claims of one text, each about the same sentence."""
    n = len(verdicts)
    return pa.table({
        "product_id": ["p1"] * n, "channel": ["shop_page"] * n, "locale": ["en"] * n, "version": [1] * n,
        "claim_number": list(range(1, n + 1)), "sentence": [sentence] * n, "claim": ["300 ml"] * n,
        "attribute": ["capacity"] * n, "value": ["300 ml"] * n, "evidence": ["capacity: 300 ml"] * n,
        "verdict": list(verdicts), "origin": ["facts" if v == "supported" else None for v in verdicts],
    })  # fmt: skip


def gates() -> list[dict[str, object]]:
    return [dict(row) for row in ledger.rows("gates").to_pylist()]


# Verdicts.


def test_good_rows_pass_and_the_verdict_stands_in_the_ledger(home: Path) -> None:
    verdict = quality.check("copy_claims", claims("supported", "banned"), DAY, run_id="r1")
    assert (verdict.verdict, verdict.rows, verdict.findings) == ("pass", 2, ())
    row = gates()[0]
    assert (row["table_name"], row["day"], row["run_id"], row["suite"]) == (
        "copy_claims",
        DAY,
        "r1",
        "copy_claims",
    )
    assert (row["verdict"], row["failed_checks"], row["rows"]) == ("pass", "[]", 2)


def test_a_failing_gate_says_which_table_which_check_and_where_the_rows_are(home: Path) -> None:
    with pytest.raises(QualityGateFailed) as caught:
        quality.check("copy_claims", claims("supported", "perhaps"), DAY, run_id="r1")
    assert caught.value.table == "copy_claims"
    assert caught.value.checks == ("verdict is one of the known values (1 of 2 rows)",)
    assert "nightmarket query" in caught.value.where and "rejected_copy_claims" in caught.value.where
    finding = json.loads(str(gates()[0]["failed_checks"]))[0]
    assert finding["column"] == "verdict" and finding["severity"] == "fail" and finding["failing_rows"] == 1
    assert finding["reason"] == "Reviewers filter by it."
    assert Path(finding["where"]) == lake.folder("rejected_copy_claims", DAY) / "rows.parquet"


def test_rejected_rows_hold_the_failing_rows_and_no_personal_data(home: Path) -> None:
    rows = claims("supported", "perhaps", sentence="Write to anna.smith@example.com about it.")
    with pytest.raises(QualityGateFailed):
        quality.check("copy_claims", rows, DAY, run_id="r1")
    kept = lake.read("rejected_copy_claims", DAY).to_pylist()
    assert {row["failed_check"] for row in kept} == {
        "verdict is one of the known values", "no sentence holds personal data",
    }  # fmt: skip
    assert {row["sentence"] for row in kept} == {"Write to [email] about it."}
    everything = json.dumps(gates(), default=str) + "".join(
        path.read_text() for path in (get_settings().state / "gx").rglob("*.html")
    )
    assert "anna.smith" not in everything


def test_a_passing_run_removes_the_rejected_rows_of_the_failed_one(home: Path) -> None:
    with pytest.raises(QualityGateFailed):
        quality.check("copy_claims", claims("perhaps"), DAY, run_id="r1")
    quality.check("copy_claims", claims("supported"), DAY, run_id="r2")
    assert lake.manifest("rejected_copy_claims", DAY) is None
    assert [row["verdict"] for row in gates()] == ["fail", "pass"]


def test_a_warning_is_written_down_and_does_not_stop(home: Path) -> None:
    rows = purchases(3)
    verdict = quality.check(
        "training_purchases", rows, DAY, run_id="r1", context={"cutoff": datetime(2026, 3, 2)}
    )
    assert verdict.verdict == "warn"
    assert [(f.severity, f.check, f.observed) for f in verdict.findings] == [
        ("warn", "at least 30 customers bought something", "3"),
        ("warn", "at least 2 products were bought", "1"),
        ("warn", "purchases are not all of products that everybody buys", "1"),
    ]
    assert gates()[0]["verdict"] == "warn"


def test_no_rows_pass_where_a_quiet_night_is_good_and_fail_where_it_is_not(home: Path) -> None:
    verdict = quality.check("copy_claims", claims(), DAY, run_id="r1")
    assert (verdict.verdict, verdict.note) == ("pass", "no rows to check")
    with pytest.raises(QualityGateFailed, match="there is something to learn from"):
        quality.check("training_purchases", purchases(0), DAY, run_id="r1")


def test_a_missing_column_fails_by_name(home: Path) -> None:
    with pytest.raises(QualityGateFailed, match="no verdict"):
        quality.check("copy_claims", claims("supported").drop_columns(["verdict"]), DAY, run_id="r1")


def test_an_unknown_suite_names_those_that_there_are(home: Path) -> None:
    with pytest.raises(KeyError, match="copy_claims"):
        quality.check("copy_claim", claims("supported"), DAY, run_id="r1")


def test_a_table_too_long_is_judged_on_whole_groups_and_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "MOST_ROWS", 40)
    rows = purchases(100)
    verdict = quality.check(
        "training_purchases", rows, DAY, run_id="r1", context={"cutoff": datetime(2026, 3, 2)}
    )
    assert verdict.note == "looked at 34 of 100 rows: all rows of every 3th customer_id"
    assert gates()[0]["note"] == verdict.note


def test_nothing_is_imported_until_rows_must_be_looked_at() -> None:
    program = (
        "import sys; from nightmarket import quality; from nightmarket.products import profiles; "
        "print([m for m in ('great_expectations', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Data Docs.


def test_data_docs_hold_the_newest_validations_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality.reports, "KEPT_REPORTS", 3)
    for n in range(5):
        quality.check("copy_claims", claims("supported"), DAY + timedelta(days=n), run_id="r")
    root = get_settings().state / "gx"
    assert quality.docs_url() == (root / "data_docs" / "index.html").as_uri()
    assert (root / "data_docs" / "index.html").exists()
    days = {path.parent.parent.name for path in (root / "data_docs" / "validations").rglob("*.html")}
    assert days == {"2026-03-04", "2026-03-05", "2026-03-06"}


def test_processes_that_check_at_once_all_get_their_report(home: Path) -> None:
    program = (
        "import sys; from datetime import date; from pathlib import Path; import pyarrow.parquet as pq; "
        "import great_expectations; from nightmarket import quality; Path(sys.argv[1] + '.ready').touch(); "
        "[quality.check('copy_claims', pq.read_table(sys.argv[1]), date(2026, 3, n), run_id='r') for n in range(1, 5)]"
    )
    rows = home.parent / "rows.parquet"
    pq.write_table(claims("supported"), rows)
    other = subprocess.Popen([sys.executable, "-c", program, str(rows)])
    while not Path(f"{rows}.ready").exists():
        assert other.poll() is None
        time.sleep(0.05)
    for n in range(1, 5):
        quality.check("copy_claims", claims("supported"), date(2026, 4, n), run_id="r")
    assert other.wait(timeout=120) == 0
    assert len(gates()) == 8
    pages = list((get_settings().state / "gx" / "data_docs" / "validations").rglob("*.html"))
    assert len(pages) == 8


# Arrivals.


def test_the_first_load_is_history_and_not_an_arrival(home: Path, tmp_path: Path) -> None:
    deliver(tmp_path, {day: 30 for day in days_before(DAY, 60)})
    outcome = quality.check_arrivals(DAY, run_id="r1")
    assert outcome.rows_in == 60
    assert "first load, not judged" in outcome.note
    assert gates()[0]["verdict"] == "pass"


def test_a_usual_day_passes_and_is_not_looked_at_again_until_something_lands(
    home: Path, tmp_path: Path
) -> None:
    deliver(tmp_path, {day: 30 for day in days_before(DAY - timedelta(days=1), 60)})
    deliver(tmp_path, {DAY - timedelta(days=1): 28})
    outcome = quality.check_arrivals(DAY, run_id="r1")
    assert "orders volume: 28 rows, usually 30 (median of 8 Sundays)" in outcome.note
    assert quality.check_arrivals(DAY, run_id="r2").note == "nothing landed since this day passed"
    assert [row["verdict"] for row in gates()] == ["pass", "pass"]
    assert "nothing landed" in str(gates()[1]["note"])
    deliver(tmp_path, {DAY: 30})
    assert quality.check_arrivals(DAY, run_id="r3").note != "nothing landed since this day passed"


def test_a_tenth_of_the_usual_orders_stops_the_night_until_the_rest_lands(home: Path, tmp_path: Path) -> None:
    sunday = DAY - timedelta(days=1)
    deliver(tmp_path, {day: 40 for day in days_before(sunday, 60)})
    deliver(tmp_path, {sunday: 2})
    for _ in range(2):
        with pytest.raises(QualityGateFailed) as caught:
            quality.check_arrivals(DAY, run_id="r1")
        assert caught.value.table == "arrivals"
        assert "orders of 2026-03-01: 2 rows, usually 40 (median of 8 Sundays)" in caught.value.checks[0]
        assert "ops.gates" in caught.value.where and "[arrivals]" in caught.value.where
    deliver(tmp_path, {sunday: 38}, start=2)
    assert quality.check_arrivals(DAY, run_id="r2").rows_in == 80
    assert [row["verdict"] for row in gates()] == ["fail", "fail", "pass"]


def test_a_day_without_any_order_stops_the_night(home: Path, tmp_path: Path) -> None:
    deliver(tmp_path, {day: 40 for day in days_before(DAY - timedelta(days=1), 60)})
    with pytest.raises(QualityGateFailed, match="orders and their lines arrived at all"):
        quality.check_arrivals(DAY, run_id="r1")


def test_a_closed_day_of_the_shop_is_not_judged(home: Path, tmp_path: Path) -> None:
    folder = deliver(tmp_path, {day: 40 for day in days_before(DAY - timedelta(days=1), 60)})
    with (folder / "shop.toml").open("a") as toml:
        toml.write('[arrivals]\nclosed = ["2026-03-01"]\n')
    outcome = quality.check_arrivals(DAY, run_id="r1")
    assert outcome.note == "2026-03-01 is a closed day in shop.toml"
    (folder / "shop.toml").write_text('[arrivals]\nclosed = ["Christmas"]\n')
    deliver(tmp_path, {DAY: 40})
    with pytest.raises(SettingMissing, match="Christmas"):
        quality.check_arrivals(DAY, run_id="r2")


def test_half_of_the_usual_warns_and_goes_on(home: Path, tmp_path: Path) -> None:
    sunday = DAY - timedelta(days=1)
    deliver(tmp_path, {day: 40 for day in days_before(sunday, 60)})
    deliver(tmp_path, {sunday: 12})
    outcome = quality.check_arrivals(DAY, run_id="r1")
    assert outcome.note.startswith("warn")
    finding = json.loads(str(gates()[0]["failed_checks"]))[0]
    assert finding["severity"] == "warn"
    assert finding["observed"].startswith("orders of 2026-03-01: 12 rows, usually 40 (median of 8 Sundays)")


def test_weekdays_are_held_against_the_same_weekday(home: Path, tmp_path: Path) -> None:
    sunday = DAY - timedelta(days=1)
    quiet = {day: 25 if day.weekday() == 6 else 400 for day in days_before(sunday, 60)}
    deliver(tmp_path, quiet)
    deliver(tmp_path, {sunday: 24})
    assert quality.check_arrivals(DAY, run_id="r1").note.startswith("orders volume: 24 rows, usually 25")


def test_a_shop_with_weekly_dates_has_too_little_history_to_judge(home: Path, tmp_path: Path) -> None:
    sunday = DAY - timedelta(days=1)
    deliver(tmp_path, {sunday - timedelta(weeks=week): 500 for week in range(1, 9)})
    outcome = quality.check_arrivals(DAY, run_id="r1")
    assert "too little history to judge (8 such weekdays and 8 days with rows in 8 weeks" in outcome.note
    assert gates()[0]["verdict"] == "pass"


def test_days_are_those_of_the_shops_own_time_zone(home: Path, tmp_path: Path) -> None:
    deliver(tmp_path, {day: 30 for day in days_before(DAY, 60)}, zone="Asia/Shanghai", hour=20)
    facts = {(fact.table_name, fact.measure): fact for fact in quality.volume(DAY)}
    # 20:00 UTC is the next morning in Shanghai, so the last orders are of the day itself and not seen yet.
    assert facts["orders", "volume"].observed == 30
    assert facts["orders", "freshness"].observed == pytest.approx(0.67, abs=0.01)
    assert quality.cutoff(DAY) == datetime(2026, 3, 1, 16)


def test_orders_that_stop_at_breakfast_warn_although_their_number_is_usual(
    home: Path, tmp_path: Path
) -> None:
    sunday = DAY - timedelta(days=1)
    deliver(tmp_path, {day: 30 for day in days_before(sunday, 60)}, spread=24)
    deliver(tmp_path, {sunday: 25}, spread=6)
    quality.check_arrivals(DAY, run_id="r1")
    finding = json.loads(str(gates()[0]["failed_checks"]))[0]
    assert finding["check"] == "the last row is no older than one and a half of the longest gaps"
    assert finding["observed"].startswith(
        "orders of 2026-03-01: last row 18.2 h before the day began, longest gap 0.8 h"
    )


@pytest.mark.slow
def test_the_planted_broken_day_of_the_demo_is_seen_and_its_other_days_are_not(home: Path) -> None:
    settings, small = choose_shop("demo"), Demo(customers=500, days=100)
    shop = shops.open_shop("demo", landing_root=settings.state / "landing", demo=small)
    landing.load(shop, shops.default_day(shop), run_id="r1")
    broken = truth(small).broken_day

    def orders(arrived_on: date) -> quality.Fact:
        return quality.volume(arrived_on + timedelta(days=1))[0]

    assert (orders(broken).table_name, orders(broken).measure) == ("orders", "volume")
    ratio = orders(broken).ratio
    assert ratio is not None and ratio < 0.1
    others = [orders(broken + timedelta(days=n)).ratio for n in (-7, -2, -1, 1, 2, 7)]
    assert all(other is not None and 0.4 < other < 3 for other in others)


def days_before(day: date, count: int) -> list[date]:
    return [day - timedelta(days=back) for back in range(count, 0, -1)]


def purchases(customers: int) -> pa.Table:
    ids = [f"c{n}" for n in range(customers)]
    return pa.table({
        "customer_id": pa.array(ids, pa.string()),
        "product_id": pa.array([f"p{n % 7}" if customers > 30 else "p1" for n in range(customers)], pa.string()),
        "order_id": pa.array([f"o{n}" for n in range(customers)], pa.string()),
        "ordered_at": pa.array([datetime(2026, 2, 1)] * customers, pa.timestamp("us")),
        "quantity": pa.array([1] * customers, pa.int64()),
        "split": pa.array(["train"] * customers, pa.string()),
    })  # fmt: skip


def deliver(
    root: Path, counts: dict[date, int], *, zone: str = "UTC", hour: int = 0, spread: int = 20, start: int = 0
) -> Path:
    """Land orders of one line, so many a day and spread over some hours of it, into a shop folder; returns the folder."""
    folder = root / "landing"
    name = f"{min(counts)}-{start}.parquet"
    orders, lines = [], []
    for day, count in counts.items():
        for n in range(start, start + count):
            at = datetime(day.year, day.month, day.day, hour) + timedelta(hours=spread * (n - start) / count)
            orders.append({"order_id": f"{day}-{n}", "customer_id": f"c{n}", "ordered_at": at})
            lines.append({"order_id": f"{day}-{n}", "line": 1, "product_id": "p1", "quantity": 1})
    for table, rows in {"orders": orders, "order_items": lines}.items():
        (folder / table).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / table / name)
    pq.write_table(pa.table({"product_id": ["p1"], "title": ["Bath Towel"]}), folder / "products.parquet")
    if not (folder / "shop.toml").exists():
        (folder / "shop.toml").write_text(f'name = "Daily"\ntime_zone = "{zone}"\n')
    settings = choose_shop(str(folder))
    shop = shops.open_shop(settings.shop, landing_root=settings.state / "landing")
    landing.load(shop, max(counts) + timedelta(days=1), run_id="load")
    return folder
