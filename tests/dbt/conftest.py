"""One parse of dbt's project and one home for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hand_warehouse import Raw

from nightmarket.settings import get_settings


@pytest.fixture(scope="session")
def dbt_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for all tests of this folder: dbt's parse costs seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("NIGHTMARKET_"):
                patch.delenv(name)
        home = tmp_path_factory.mktemp("dbt") / "var"
        patch.setenv("NIGHTMARKET_HOME", str(home))
        get_settings.cache_clear()
        yield home
    get_settings.cache_clear()


@pytest.fixture
def raw(dbt_home: Path, monkeypatch: pytest.MonkeyPatch) -> Raw:
    """Empty raw tables, and nothing built."""
    monkeypatch.setenv("NIGHTMARKET_HOME", str(dbt_home))
    get_settings.cache_clear()
    raw = Raw()
    raw.create()
    return raw
