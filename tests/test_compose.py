"""The scale-out deployment: it parses, binds to loopback, has no secrets of its own, and sets what programs know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from nightmarket.settings import Settings

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yaml").read_text()
SERVICES = {
    "postgres", "redis", "mlflow", "migrate", "api-server", "scheduler", "dag-processor", "triggerer", "worker",
}  # fmt: skip
# What the official images, redis-cli and Airflow's Celery provider (not in the lock: it is for scale-out alone) document.
OFFICIAL = {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "REDISCLI_AUTH", "AIRFLOW_HOME"}
CELERY = {"BROKER_URL", "RESULT_BACKEND", "WORKER_CONCURRENCY"}


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load(TEXT)


def test_the_deployment_has_every_service_of_the_scale_out_column(compose: dict) -> None:
    assert set(compose["services"]) == SERVICES


def test_every_published_port_is_bound_to_loopback(compose: dict) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_secret_comes_from_the_environment_and_is_required_there() -> None:
    secret = re.compile(r"\$\{(\w*(?:PASSWORD|SECRET|KEY)\w*)([^}]*)\}")
    uses = secret.findall(TEXT)
    required = {name for name, rest in uses if rest.startswith(":?")}
    assert required == {
        "POSTGRES_PASSWORD", "REDIS_PASSWORD", "AIRFLOW_FERNET_KEY", "AIRFLOW_SECRET_KEY", "AIRFLOW_JWT_SECRET",
    }  # fmt: skip
    assert {name for name, _ in uses} == required
    assert all(not rest.startswith((":-", "-")) for _, rest in uses)


def test_no_password_is_written_down(compose: dict) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD$|SECRET|_KEY$", name):
                assert str(value).startswith("${"), name
            assert not re.search(r"://[^:/]*:[^$@/][^@]*@", str(value)), name


def test_every_variable_that_it_sets_is_known_to_the_program_that_reads_it(compose: dict) -> None:
    import mlflow.environment_variables as mlflow_variables
    from airflow.configuration import conf
    from cosmos import settings as cosmos_settings

    ours = {f"NIGHTMARKET_{name.upper()}" for name in Settings.model_fields}
    names = {name for service in compose["services"].values() for name in service.get("environment", {})}
    assert len(names) > 20
    for name in names - OFFICIAL - ours:
        if name.startswith("AIRFLOW__"):
            _, section, option = name.split("__")
            if section == "CELERY":
                assert option in CELERY, name
            elif section == "COSMOS":
                assert hasattr(cosmos_settings, option.lower()), name
            else:
                assert option.lower() in conf.configuration_description[section.lower()]["options"], name
        else:
            assert hasattr(mlflow_variables, name), name


def test_the_image_installs_the_lock_and_the_extras_of_pyproject(compose: dict) -> None:
    recipe = compose["x-image"]["build"]["dockerfile_inline"]
    assert "--no-deps -r requirements.txt" in recipe
    project = (ROOT / "pyproject.toml").read_text()
    for pin in re.findall(r'"([a-z0-9-]+==[0-9.]+)"', recipe):
        assert pin in project or pin.startswith("redis=="), pin


def test_the_example_environment_lists_every_setting_and_every_secret() -> None:
    example = (ROOT / ".env.example").read_text()
    for name, field in Settings.model_fields.items():
        assert f"NIGHTMARKET_{name.upper()}=" in example
        assert str(field.description) in example
    for name in re.findall(r"\$\{(\w+):\?", TEXT):
        assert f"{name}=" in example
    assert "AIRFLOW_ADMIN_PASSWORD=" in example


def test_settings_in_the_file_reach_the_containers_and_the_file_itself_no_image(compose: dict) -> None:
    airflow = SERVICES - {"postgres", "redis", "mlflow"}
    assert len(airflow) == 6
    for name in airflow:
        assert compose["services"][name]["env_file"] == [{"path": ".env", "required": False}], name
    assert {".env", "var/", ".venv/", ".git/"} <= set((ROOT / ".dockerignore").read_text().splitlines())
