"""Real shops load as they are, with the default limit."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from nightmarket import landing, warehouse
from nightmarket.settings import get_settings

SHOPS = Path(__file__).resolve().parents[3] / "shared" / "landing"


@pytest.mark.parametrize(
    ("shop", "counts"),
    [
        ("office", {"products": 3459, "orders": 22447, "order_items": 22447}),
        ("toys_uk", {"products": 1148, "orders": 1818, "order_items": 1818, "reviews": 1818}),
    ],
)
def test_a_real_shop_loads_whole(
    home: Path, monkeypatch: pytest.MonkeyPatch, shop: str, counts: dict[str, int]
) -> None:
    if not (SHOPS / shop).exists():
        pytest.skip(f"{SHOPS / shop} is not on this machine")
    monkeypatch.setenv("NIGHTMARKET_SHOP", str(SHOPS / shop))
    get_settings.cache_clear()
    landing.load_night(date(2019, 1, 1), "run")
    rows = warehouse.read("select table_name, rows_loaded, rows_in from ops.landings").to_pylist()
    assert {row["table_name"]: row["rows_loaded"] for row in rows} == counts
    assert all(row["rows_in"] == row["rows_loaded"] for row in rows)
