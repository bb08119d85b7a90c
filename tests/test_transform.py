"""Building the marts and laying them out: when a build is needed, what it says when it fails, what the lake gets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from nightmarket import lake, transform, warehouse
from nightmarket.errors import TransformFailed, WarehouseMissing
from nightmarket.settings import get_settings

TINY_DAY = date(2026, 3, 2)


@pytest.fixture(scope="module")
def built(tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny shop, landed and built once for this file; a test that spoils it puts it right again."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("NIGHTMARKET_"):
                patch.delenv(name)
        patch.setenv("NIGHTMARKET_HOME", str(tmp_path_factory.mktemp("transform") / "var"))
        patch.setenv("NIGHTMARKET_SHOP", str(tiny_shop))
        get_settings.cache_clear()
        _land(TINY_DAY)
        assert transform.needs_build()
        transform.build(TINY_DAY)
        yield get_settings().state
    get_settings.cache_clear()


def _land(day: date) -> None:
    from nightmarket import landing

    landing.load_night(day, "r1")


def _write(sql: str) -> None:
    with warehouse.writer() as connection:
        connection.execute(sql)


def test_a_shop_without_a_load_needs_a_build_and_says_what_to_run_first(home: Path) -> None:
    assert transform.needs_build()
    assert transform.fingerprint() is None
    with pytest.raises(WarehouseMissing, match="--only build_warehouse"):
        transform.build(date(2026, 3, 2))


def test_every_mart_is_laid_out_by_its_key_and_a_second_extract_writes_nothing(built: Path) -> None:
    first = transform.extract(TINY_DAY)
    assert first.rows_out > 0
    rows = {mart: lake.read(mart, TINY_DAY) for mart in transform.MARTS}
    assert rows["customers"].num_rows == 50
    assert rows["customer_features"].num_rows == 50
    assert rows["products"].num_rows == 24
    for mart, key in transform.MARTS.items():
        keys = [tuple(row[k] for k in key) for row in rows[mart].select(list(key)).to_pylist()]
        assert keys == sorted(set(keys)), mart
    again = transform.extract(TINY_DAY)
    assert (again.rows_out, again.note) == (0, "unchanged")


def test_another_day_needs_a_build_and_cannot_be_built_before_it_is_loaded(built: Path) -> None:
    with pytest.raises(TransformFailed, match="The last load was for 2026-03-02, not for 2026-03-03"):
        transform.build(date(2026, 3, 3))
    _write("update raw.night set day = date '2026-03-03'")
    assert transform.needs_build()
    with pytest.raises(TransformFailed, match="its build is not finished"):
        transform.extract(date(2026, 3, 3))
    _write("update raw.night set day = date '2026-03-02'")
    assert not transform.needs_build()


def test_the_same_night_built_anew_gives_the_same_extracts(built: Path) -> None:
    transform.extract(TINY_DAY)
    before = {mart: lake.require(mart, TINY_DAY).content_hash for mart in transform.MARTS}
    everybody = transform.build(TINY_DAY, full_refresh=True)
    assert (everybody.rows_in, everybody.rows_out) == (50, 50)
    assert transform.extract(TINY_DAY).rows_out > 0
    assert {mart: lake.require(mart, TINY_DAY).content_hash for mart in transform.MARTS} == before


def test_a_build_makes_anew_whom_the_load_touched_and_a_second_nobody(built: Path) -> None:
    assert not transform.needs_build()
    _write(
        "update raw.order_items set refunded_quantity = 1, _batch = 2 where order_id = 'o003-0' and line = 1"
    )
    _write("update raw.night set batch = 2")
    assert transform.needs_build()
    touched = transform.build(TINY_DAY)
    assert (touched.rows_in, touched.rows_out) == (50, 1)
    assert touched.note.endswith("1 of 50 customers made anew")
    assert not transform.needs_build()
    assert transform.build(TINY_DAY).rows_out == 0


def test_a_build_that_fails_says_what_and_where_and_keeps_the_lake_as_it_was(built: Path) -> None:
    transform.extract(TINY_DAY)
    before = {mart: lake.require(mart, TINY_DAY).content_hash for mart in transform.MARTS}

    _write(
        "update raw.order_items set product_id = 'nowhere', _batch = 9 where order_id = 'o001-0' and line = 1"
    )
    with pytest.raises(TransformFailed) as failed:
        transform.build(TINY_DAY)
    message = str(failed.value)
    assert "test `relationships_order_items_product_id__product_id__ref_products_`" in message
    assert "(models/marts/core/order_items.yml): Got 1 result" in message
    assert Path(message.split("SQL: ")[1].split()[0]).is_file()

    assert transform.needs_build()
    with pytest.raises(TransformFailed, match="not those of"):
        transform.extract(TINY_DAY)
    assert {mart: lake.require(mart, TINY_DAY).content_hash for mart in transform.MARTS} == before

    _write("update raw.night set time_zone = 'Nowhere/Else'")
    with pytest.raises(TransformFailed, match=r"model `customers` .*: .*Unknown TimeZone 'Nowhere/Else'"):
        transform.build(TINY_DAY)

    _write("update raw.order_items set product_id = 'p00', _batch = 10 where product_id = 'nowhere'")
    _write("update raw.night set time_zone = 'Europe/London'")
    transform.build(TINY_DAY)
    assert not transform.needs_build()


def test_the_manifest_is_made_once_for_a_project(built: Path) -> None:
    path = transform.ensure_manifest()
    made = path.stat().st_mtime_ns
    assert path == built / "dbt" / "target" / "manifest.json"
    assert transform.ensure_manifest().stat().st_mtime_ns == made


def test_dbt_gets_its_variables_from_the_settings_and_leaves_the_environment_as_it_was(built: Path) -> None:
    variables = transform.environment()
    assert variables["NIGHTMARKET_WAREHOUSE_PATH"] == str(built / "warehouse.duckdb")
    assert variables["DBT_TARGET_PATH"] == str(built / "dbt" / "target")
    assert variables["DBT_LOG_PATH"] == str(built / "dbt" / "logs")
    before = dict(os.environ)
    with transform._dbt_environment({**variables, "NIGHTMARKET_ONLY_INSIDE": "1"}):
        assert os.environ["NIGHTMARKET_WAREHOUSE_PATH"] == str(built / "warehouse.duckdb")
        assert os.environ["NIGHTMARKET_ONLY_INSIDE"] == "1"
    assert dict(os.environ) == before
