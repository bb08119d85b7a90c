"""An Airflow of its own for the DAG tests: its home and database are made once, before anything imports Airflow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_AIRFLOW_HOME = Path(os.environ["AIRFLOW_HOME"])  # of this test run, made by tests/conftest.py

os.environ.update(
    AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
    AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_AIRFLOW_HOME / 'airflow.db'}",
    AIRFLOW__COSMOS__ENABLE_TELEMETRY="False",
    AIRFLOW__COSMOS__CACHE_DIR=str(_AIRFLOW_HOME / "cosmos"),
    DBT_SEND_ANONYMOUS_USAGE_STATS="False",
)


@pytest.fixture(scope="package")
def dag_home(tmp_path_factory: pytest.TempPathFactory, tiny_shop: Path) -> Iterator[Path]:
    """A home for all DAG tests, whose shop is the tiny shop; the landing files are there, nothing has been run."""
    from nightmarket import night, transform
    from nightmarket.settings import get_settings

    home = tmp_path_factory.mktemp("dags") / "var"
    before = {name: os.environ.get(name) for name in ("NIGHTMARKET_HOME", "NIGHTMARKET_SHOP")}
    os.environ.update(NIGHTMARKET_HOME=str(home), NIGHTMARKET_SHOP=str(tiny_shop))
    get_settings.cache_clear()
    night.prepare(str(tiny_shop), None)
    transform.ensure_manifest()
    yield home
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    get_settings.cache_clear()


@pytest.fixture(scope="package")
def airflow_database(dag_home: Path) -> None:
    from airflow.utils.db import initdb

    initdb()


def dag_bag():  # type: ignore[no-untyped-def]
    """All DAGs, read from their files anew: `dag.test()` leaves its params on the DAG object."""
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(ROOT / "dags")
