"""A small shop whose files a test writes itself, and what became of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightmarket import landing, warehouse
from nightmarket.ledger import Outcome
from nightmarket.settings import get_settings

DAY = date(2026, 3, 2)
AT = datetime(2026, 3, 1, 12)


def orders(count: int, *, first: int = 0, **other: Any) -> list[dict[str, Any]]:
    """Orders o0, o1, … of customer c0."""
    return [
        {"order_id": f"o{i}", "customer_id": "c0", "ordered_at": "2026-03-01T12:00:00Z"} | other
        for i in range(first, first + count)
    ]


@dataclass
class Bench:
    """A shop's folder with a product, an order and its item, and questions about what was loaded."""

    folder: Path

    def put(self, name: str, rows: list[dict[str, Any]]) -> Path:
        """Write rows as the file `name` says: Parquet, CSV or JSON Lines, gzip by `.gz`."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = name.removesuffix(".gz")
        if plain.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), path)
            return path
        if plain.endswith(".csv"):
            out = io.StringIO()
            header = list(dict.fromkeys(key for row in rows for key in row))
            writer = csv.DictWriter(out, header)
            writer.writeheader()
            writer.writerows(rows)
            text = out.getvalue()
        else:
            text = "".join(json.dumps(row, default=str) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    def text(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def toml(self, text: str) -> None:
        (self.folder / "shop.toml").write_text(text)

    def load(self, day: date = DAY) -> Outcome:
        return landing.load_night(day, "run")

    def ask(self, sql: str) -> list[dict[str, Any]]:
        return warehouse.read(sql).to_pylist()

    def raw(self, table: str, columns: str = "*") -> list[dict[str, Any]]:
        return self.ask(f"select {columns} from raw.{table} order by all")

    def aside(self) -> list[tuple[str, int | None, str, str | None]]:
        """(path, line, rule, column) of every row that was set aside."""
        rows = self.ask("select path, line, rule, column_name from ops.quarantine order by landing, line")
        return [tuple(row.values()) for row in rows]  # type: ignore[misc]

    def landed(self, path: str) -> dict[str, Any]:
        """The last landing of a path; checks that its rows add up."""
        row = self.ask(f"select * from ops.landings where path = '{path}' order by landing desc limit 1")[0]
        if row["status"] == "loaded":
            kept = (
                row["rows_loaded"] + row["rows_unchanged"] + row["rows_duplicate"] + row["rows_quarantined"]
            )
            assert row["rows_in"] == kept
        return row


@pytest.fixture
def bench(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    folder = tmp_path / "shop"
    folder.mkdir()
    monkeypatch.setenv("NIGHTMARKET_SHOP", str(folder))
    get_settings.cache_clear()
    shop = Bench(folder)
    shop.put("products.parquet", [{"product_id": "p0", "title": "Mug", "price": 8.0}])
    shop.put("orders.parquet", [{"order_id": "o0", "customer_id": "c0", "ordered_at": AT}])
    shop.put("order_items.parquet", [{"order_id": "o0", "line": 1, "product_id": "p0", "quantity": 1}])
    return shop
