"""What all tests share: a fresh home each, and a tiny shop in the landing contract.

The network is off for everything but this machine: a test that reaches out fails.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings as hypothesis_settings

from nightmarket.settings import Settings

# How long an example takes on a busy machine is no promise of what it tests.
hypothesis_settings.register_profile("tests", deadline=None)
hypothesis_settings.load_profile("tests")

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Importing Airflow writes its configuration there; the default is the user's home.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="nightmarket-airflow-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

_connect = socket.socket.connect


def _connect_here_only(self: socket.socket, address: object) -> None:
    if isinstance(address, tuple) and str(address[0]) not in {"127.0.0.1", "::1", "localhost"}:
        raise OSError(f"A test tried to reach {address[0]}: tests stay on this machine.")
    _connect(self, address)  # type: ignore[arg-type]


socket.socket.connect = _connect_here_only  # type: ignore[method-assign]

# A .env of whoever runs the tests says nothing about what they promise.
Settings.model_config["env_file"] = None

_LONGEST_FIRST = (
    "test_scheduler.py", "test_nights.py", "test_follow_events.py", "test_cli.py", "test_transform.py", "test_quality.py",
    "test_copy_reviews.py", "test_copy_writing.py", "test_copy_policies.py", "test_product_copy.py", "test_bake_off.py", "test_suites.py",
    "test_finetune.py", "test_tracking.py", "test_project.py", "test_demo.py", "test_recommendations.py", "test_profiles.py",
    "test_faults.py", "test_recommendation_slots.py", "test_preferences.py", "test_sequential.py", "test_review_copy.py",
    "test_copy_questions.py", "test_finetune_writer.py", "test_peers.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that two processes end together; within a file nothing moves."""
    place = {name: number for number, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, as `--dist loadfile`, but the DAG tests stay together: they share an Airflow, its database and a dbt manifest."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class TogetherByHome(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/dags" if nodeid.startswith("tests/dags/") else str(super()._split_scope(nodeid))

    return TogetherByHome(config, log)


TINY_DAY = date(2026, 3, 2)
"""The default day of the tiny shop: the day after its last order."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home of its own for one test; the shop is `demo` until the test chooses another."""
    from nightmarket import encoder
    from nightmarket.settings import get_settings

    for name in list(os.environ):
        if name.startswith("NIGHTMARKET_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NIGHTMARKET_HOME", str(tmp_path / "var"))
    encoder.as_of(None)  # the night of an earlier test in this process chose another
    get_settings.cache_clear()
    yield tmp_path / "var"
    get_settings.cache_clear()


def choose(patch: pytest.MonkeyPatch, **values: str) -> None:
    """Give settings other values for as long as `patch` holds, by their names without `NIGHTMARKET_`."""
    from nightmarket.settings import get_settings

    for name, value in values.items():
        patch.setenv(f"NIGHTMARKET_{name}", value)
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MLflow's empty store: making its tables takes seconds, copying them nothing."""
    import logging

    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    folder = tmp_path_factory.mktemp("registry")
    mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_registered_models()
    return folder


@pytest.fixture
def registry(home: Path, empty_registry: Path) -> Path:
    """A fresh home whose MLflow store is there and empty; returns the store's file."""
    import shutil

    from nightmarket.settings import get_settings

    folder = get_settings().state / "mlflow"
    folder.mkdir(parents=True)
    shutil.copy(empty_registry / "mlflow.db", folder / "mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def tiny_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A landing folder: 50 customers, 24 products in 4 categories, 60 days, all with a taste for two categories."""
    return write_tiny_shop(tmp_path_factory.mktemp("landing") / "tiny")


@pytest.fixture
def tiny(home: Path, tiny_shop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home whose shop is the tiny shop; returns the shop's folder."""
    from nightmarket.settings import get_settings

    monkeypatch.setenv("NIGHTMARKET_SHOP", str(tiny_shop))
    get_settings.cache_clear()
    return tiny_shop


def write_tiny_shop(folder: Path, *, customers: int = 50, days: int = 60, seed: int = 3) -> Path:
    """Write the tiny shop into `folder`; the same arguments give the same files."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    categories = {
        "Kitchen > Coffee": [("Filter Papers", 4.5), ("House Blend Coffee 500 g", 12.9), ("Pour-over Kettle", 49.0),
                             ("Milk Frother", 19.0), ("Coffee Grinder", 59.0), ("Cold Brew Jug", 24.5)],
        "Outdoor > Camping": [("Two-person Tent", 129.0), ("Sleeping Mat", 34.0), ("Gas Stove", 45.0),
                              ("Head Torch", 22.0), ("Dry Bag 20 l", 15.0), ("Enamel Mug", 8.0)],
        "Home > Bath": [("Bath Towel", 18.0), ("Bath Mat", 21.0), ("Soap Dish", 7.0), ("Hand Towel", 9.0),
                        ("Linen Robe", 79.0), ("Bath Salts 400 g", 11.0)],
        "家居 > 茶具": [("龙泉青瓷茶杯", 68.0), ("竹制茶盘", 128.0), ("紫砂茶壶 300毫升", 258.0), ("玻璃公道杯", 39.0),
                    ("茶叶罐", 45.0), ("便携旅行茶具", 99.0)],
    }  # fmt: skip
    products, by_category = [], {}
    for c, (category, items) in enumerate(categories.items()):
        for i, (title, price) in enumerate(items):
            product_id = f"p{c}{i}"
            by_category.setdefault(c, []).append(product_id)
            products.append({
                "product_id": product_id, "title": title, "description": f"{title}.", "brand": ["Alder", "Brook", "Cove", "青禾"][c],
                "category": category, "price": price, "attributes": json.dumps({"Colour": "blue"} if c < 3 else {"颜色": "青色"}, ensure_ascii=False),
                "stock": 0 if (c, i) == (1, 5) else 20, "status": "archived" if (c, i) == (0, 5) else "active",
                "locale": "zh" if c == 3 else "en",
            })  # fmt: skip
    end = datetime(2026, 3, 1, 12)
    people, orders, items = [], [], []
    for n in range(customers):
        customer_id = f"c{n:03d}"
        people.append({
            "customer_id": customer_id, "created_at": end - timedelta(days=days + 30), "locale": "zh" if n % 5 == 4 else "en",
            "country": "CN" if n % 5 == 4 else "GB", "email": f"{customer_id}@example.com", "name": f"Name {n}",
        })  # fmt: skip
        if n == customers - 1 and customers > 1:
            continue  # one customer who never bought
        taste = [n % 4, (n + 1) % 4]
        for o in range(rng.randint(2, 7)):
            order_id = f"o{n:03d}-{o}"
            at = end - timedelta(days=rng.randint(0, days), hours=rng.randint(0, 10))
            orders.append(
                {
                    "order_id": order_id,
                    "customer_id": customer_id,
                    "ordered_at": at,
                    "status": "placed",
                    "channel": "web",
                }
            )
            for line in range(rng.randint(1, 3)):
                product = rng.choice(by_category[rng.choice(taste)])
                price = next(p["price"] for p in products if p["product_id"] == product)
                items.append({
                    "order_id": order_id, "line": line + 1, "product_id": product, "quantity": rng.randint(1, 2),
                    "unit_price": price, "refunded_quantity": 0,
                })  # fmt: skip
    if orders:
        orders[-1]["ordered_at"] = end
    for name, rows in {
        "products": products,
        "customers": people,
        "orders": orders,
        "order_items": items,
    }.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    (folder / "shop.toml").write_text(
        'name = "Tiny"\ncurrency = "GBP"\ntime_zone = "Europe/London"\nlocales = ["en", "zh"]\n'
    )
    return folder
