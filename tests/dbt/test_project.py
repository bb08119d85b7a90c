"""The dbt project as a whole: what it consists of, what every mart promises, and that its own tests pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hand_shop import FIRST_NIGHT, first_night
from hand_warehouse import Raw

from nightmarket import transform, warehouse
from nightmarket.contracts import LANDING
from nightmarket.settings import ROOT

STAGING = {
    "stg_shop__night", "stg_shop__products", "stg_shop__customers", "stg_shop__orders", "stg_shop__order_items",
    "stg_shop__events", "stg_shop__reviews", "stg_shop__tickets", "stg_shop__ticket_messages", "stg_shop__articles",
    "stg_shop__consents", "stg_shop__experiments", "stg_shop__privacy_requests", "stg_shop__recommendation_rules",
}  # fmt: skip
INTERMEDIATE = {
    "int_products__shelved", "int_customers__flagged_bots", "int_customers__consented", "int_customers__digested",
}  # fmt: skip
MARTS = {
    "customers", "products", "order_items", "purchases", "customer_features", "customer_affinities",
    "recommendation_rules", "exposures",
}  # fmt: skip
EXPOSURES = {
    "build_warehouse", "finetune_models", "refresh_profiles", "refresh_recommendations", "refresh_product_copy",
    "finetune_encoder",
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest(dbt_home: Path) -> dict[str, Any]:
    return json.loads(transform.ensure_manifest().read_text())  # type: ignore[no-any-return]


def _models(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {n["name"]: n for n in manifest["nodes"].values() if n["resource_type"] == "model"}


def test_the_project_consists_of_these_models_in_these_schemas(manifest: dict[str, Any]) -> None:
    schemas: dict[str, set[str]] = {}
    for model in _models(manifest).values():
        schemas.setdefault(model["schema"], set()).add(model["name"])
    assert schemas == {"staging": STAGING, "intermediate": INTERMEDIATE, "marts": MARTS}


def test_staging_has_a_view_of_every_landing_table_and_nothing_joins_there(manifest: dict[str, Any]) -> None:
    assert {f"stg_shop__{table}" for table in LANDING} | {"stg_shop__night"} == STAGING
    for name in STAGING:
        model = _models(manifest)[name]
        assert model["config"]["materialized"] == "view"
        assert model["depends_on"]["nodes"] == [f"source.nightmarket.shop.{name.removeprefix('stg_shop__')}"]


def test_every_mart_has_a_contract_a_grain_described_columns_and_tests(manifest: dict[str, Any]) -> None:
    tested = {
        parent.split(".")[-1]
        for n in manifest["nodes"].values()
        if n["resource_type"] == "test"
        for parent in n["depends_on"]["nodes"]
    }
    unit_tested = {n["model"] for n in manifest["unit_tests"].values()}
    assert tested >= MARTS and unit_tested >= MARTS
    for name in sorted(MARTS):
        mart = _models(manifest)[name]
        assert mart["config"]["contract"]["enforced"], name
        assert "One row a " in mart["description"], name
        for column in mart["columns"].values():
            assert column["description"] and column["data_type"], (name, column["name"])


def test_every_model_and_source_is_described(manifest: dict[str, Any]) -> None:
    assert [m["name"] for m in _models(manifest).values() if not m["description"]] == []
    assert len(manifest["sources"]) == 14
    assert [s["name"] for s in manifest["sources"].values() if not s["description"]] == []


def test_every_dag_that_reads_marts_has_an_exposure(manifest: dict[str, Any]) -> None:
    exposures = {e["name"]: e for e in manifest["exposures"].values()}
    assert set(exposures) == EXPOSURES
    assert all(
        e["owner"]["name"] and e["description"] and e["depends_on"]["nodes"] for e in exposures.values()
    )


def test_the_exposed_dags_exist(manifest: dict[str, Any]) -> None:
    dags = {path.stem for path in (ROOT / "dags").glob("*.py")}
    assert dags >= EXPOSURES


def test_an_exposure_names_the_marts_that_its_product_reads(manifest: dict[str, Any]) -> None:
    from nightmarket.products import product_copy, profiles, recommendations

    exposed = {
        e["name"]: {ref.split(".")[-1] for ref in e["depends_on"]["nodes"]}
        for e in manifest["exposures"].values()
    }
    assert exposed["build_warehouse"] == MARTS
    assert exposed["refresh_profiles"] == set(profiles.PRODUCT.reads)
    assert exposed["refresh_recommendations"] == set(recommendations.PRODUCT.reads)
    assert exposed["refresh_product_copy"] == set(product_copy.PRODUCT.reads)


def test_extracts_are_the_marts_and_their_keys_are_columns(manifest: dict[str, Any]) -> None:
    assert set(transform.MARTS) == MARTS
    for mart, key in transform.MARTS.items():
        assert set(key) <= set(_models(manifest)[mart]["columns"])


def test_all_models_build_and_all_data_tests_and_unit_tests_pass(raw: Raw) -> None:
    raw.land(FIRST_NIGHT, **first_night())
    results = transform._invoke("build", "--no-write-json")
    transform.refresh()
    passed = [r for r in results if str(r.status) in ("success", "pass")]
    kinds = {k: sum(str(r.node.resource_type) == k for r in passed) for k in ("model", "test", "unit_test")}
    assert kinds["model"] == 26
    assert kinds["test"] >= 60
    assert kinds["unit_test"] >= 26
    assert not transform.needs_build()

    # No personal column leaves raw, in any schema that is built from it.
    personal = {c.name for c in LANDING["customers"].columns if c.personal}
    assert personal == {"email", "name", "phone", "attributes"}
    columns = warehouse.read(
        "select distinct table_schema, table_name, column_name from information_schema.columns "
        "where table_schema in ('staging', 'intermediate', 'marts')"
    ).to_pylist()
    assert len(columns) > 150
    assert [c for c in columns if c["column_name"] in {"email", "phone", "name"}] == []
    assert [
        c for c in columns if c["table_name"] == "stg_shop__customers" and c["column_name"] in personal
    ] == []

    # And the marts say what the hand-written shop says.
    ann = warehouse.read("select * from marts.customer_features where customer_id = 'ann'").to_pylist()[0]
    assert (ann["orders"], ann["units"], float(ann["net_revenue"])) == (2, 7, 96.0)
    assert ann["average_days_between_orders"] == 31.0
    assert (
        ann["preferred_send_hour"] == 9
    )  # ordered twice at 9, opened twice at 18: of equal hours the earlier
    cleo = warehouse.read("select * from marts.order_items where order_id = 'c1' order by line").to_pylist()
    assert [float(row["net_amount"]) for row in cleo] == [44.7018, 7.2982]
    assert warehouse.read("select count(*) as n from marts.customers where is_bot").to_pylist() == [{"n": 0}]
    quiet = warehouse.read(
        "select * from marts.customer_affinities where customer_id = 'quiet' order by dimension"
    )
    assert [(r["dimension"], r["value"], r["views"], r["evidence"]) for r in quiet.to_pylist()] == [
        ("brand", "Brook", 1, '["tent"]'),
        ("category", "Outdoor > Camping", 1, '["tent"]'),
    ]


def test_the_documentation_can_be_generated(raw: Raw) -> None:
    raw.land(FIRST_NIGHT)
    transform._invoke("docs", "generate", "--no-compile")
    assert (transform.manifest_path().parent / "catalog.json").exists()


def test_the_project_holds_nothing_that_dbt_writes() -> None:
    assert [
        name for name in ("target", "logs", "dbt_packages", ".user.yml") if (ROOT / "dbt" / name).exists()
    ] == []
