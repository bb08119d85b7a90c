"""Settings: one reader of the environment, and a file that lists them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nightmarket.errors import SettingMissing
from nightmarket.settings import ROOT, Settings, choose_shop, get_settings, slug_of


def test_the_example_file_lists_every_setting_and_no_other(home: Path) -> None:
    listed = set(
        re.findall(r"^#? ?NIGHTMARKET_([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    )
    assert listed == {name.upper() for name in Settings.model_fields}


def test_every_setting_says_what_it_is() -> None:
    assert len(Settings.model_fields) > 10
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_wrong_value_names_the_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMARKET_THREADS", "many")
    get_settings.cache_clear()
    with pytest.raises(SettingMissing, match="NIGHTMARKET_THREADS='many'"):
        get_settings()


def test_shops_never_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "My Shop").mkdir(parents=True)
    first, second = slug_of(str(tmp_path / "a" / "My Shop")), slug_of(str(tmp_path / "b" / "My Shop"))
    assert slug_of("demo") == "demo" and slug_of("completejourney") == "completejourney"
    assert first != second and re.fullmatch(r"my_shop-[0-9a-f]{6}", first)


def test_choosing_a_shop_moves_all_state(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMARKET_SHOP", "demo")
    before = get_settings().state
    after = choose_shop(str(tmp_path)).state
    assert before == (home / "shops" / "demo").resolve() and after != before
