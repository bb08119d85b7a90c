"""Random tables with random poison, in every format: counts add up and raw is what a plain reading gives."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightmarket import landing, warehouse

from .hand_landing import DAY, Bench

IDS = ["r1", "r2", "r3", "r 4", "r-5/ä", None, "", " r6", "r\u202e7", "r'8", "r😀", "r\x00"]
GOOD_IDS = {"r1", "r2", "r3", "r 4", "r-5/ä"}
RATINGS = [None, "0", "4.5", "5", "5.01", "-1", "NaN", "1e308", "four", ""]
BODIES = ["fine", "", "two\nlines", "a,b", 'a "quote"', "nul\x00", "\u202e", None, "x" * 300]
TIMES = ["2026-02-01T10:00:00Z", "2026-02-01T10:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T00:00:00Z", "2026-02-30T00:00:00Z",
         "soon", None, ""]  # fmt: skip

ROW = st.fixed_dictionaries({
    "review_id": st.sampled_from(IDS), "product_id": st.sampled_from(["p0", "p0", "p0", "p9"]),
    "rating": st.sampled_from(RATINGS), "body": st.sampled_from(BODIES), "created_at": st.sampled_from(TIMES),
})  # fmt: skip


def is_good(row: dict[str, Any], form: str) -> bool:
    body = row["body"]
    return (
        row["review_id"] in GOOD_IDS
        and row["product_id"] == "p0"
        and row["rating"] in (None, "", "0", "4.5", "5")
        and (body is not None or form == "csv")
        and "\x00" not in (body or "")
        and row["created_at"] == "2026-02-01T10:00:00Z"
    )


def expected(files: list[tuple[str, list[dict[str, Any]]]]) -> dict[str, tuple[Any, ...]]:
    """What raw must hold: for each key its last good row, in the order of the files."""
    held: dict[str, tuple[Any, ...]] = {}
    for form, rows in files:
        for row in rows:
            if is_good(row, form):
                rating = float(row["rating"]) if row["rating"] else None
                held[row["review_id"]] = (
                    row["product_id"],
                    rating,
                    row["body"] or "",
                    datetime(2026, 2, 1, 10),
                )
    return held


def write(bench: Bench, number: int, form: str, rows: list[dict[str, Any]]) -> None:
    path = bench.folder / "reviews" / f"{number}.{form}"
    path.parent.mkdir(exist_ok=True)
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in rows[0]])), path)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        bench.put(f"reviews/{number}.csv", rows)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    files=st.lists(
        st.tuples(st.sampled_from(["csv", "jsonl", "parquet"]), st.lists(ROW, min_size=1, max_size=12)),
        min_size=1,
        max_size=3,
    )
)
def test_no_row_is_lost_and_raw_is_what_a_plain_reading_gives(
    bench: Bench, files: list[tuple[str, list[dict[str, Any]]]]
) -> None:
    with warehouse.writer() as connection:  # each example begins without reviews
        if connection.execute(
            "select 1 from duckdb_tables() where table_name = 'waiting_reviews'"
        ).fetchone():
            connection.execute(
                "delete from raw.reviews; delete from raw.waiting_reviews; delete from ops.quarantine"
            )
            connection.execute("delete from ops.landings where table_name = 'reviews'")
    for old in (bench.folder / "reviews").glob("*"):
        old.unlink()
    bench.toml('[limits]\nreviews = 1.0\n[accept]\nreviews = ["created_at", "rating", "body", "review_id"]\n')
    for number, (form, rows) in enumerate(files):
        write(bench, number, form, rows)
    landing.load_night(DAY, "run")
    found = warehouse.read(
        "select review_id, product_id, rating, body, created_at from raw.reviews"
    ).to_pylist()
    assert {row.pop("review_id"): tuple(row.values()) for row in found} == expected(files)
    landed = {row["path"]: row for row in bench.ask("from ops.landings where table_name = 'reviews'")}
    aside = [path for path, *_ in bench.aside()]
    for number, (form, rows) in enumerate(files):
        row = landed.get(f"reviews/{number}.{form}")
        if row is None:  # two files with the same bytes are one delivery
            assert files.index((form, rows)) < number
            continue
        bad = sum(not is_good(r, form) for r in rows)
        kept = row["rows_loaded"] + row["rows_unchanged"] + row["rows_duplicate"]
        assert (row["rows_in"], row["rows_quarantined"], kept) == (len(rows), bad, len(rows) - bad)
        assert aside.count(row["path"]) == bad
