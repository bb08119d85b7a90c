"""Where landing files come from: the generated `demo`, `completejourney`, or any folder in the landing contract.

Here: finding or making a shop's files, what `shop.toml` says, and the shop's default day. Not here: reading rows, checking
them, quarantine (landing), and the columns of the contract (contracts).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from nightmarket.contracts import LANDING
from nightmarket.errors import SettingMissing, ShopNotFound
from nightmarket.settings import slug_of

if TYPE_CHECKING:
    from nightmarket.shops.demo import Demo

__all__ = ["ENDINGS", "Shop", "default_day", "format_of", "open_shop", "slug_of"]

# What a file's ending says about its format; each may be followed by `.gz`, except Parquet, which compresses itself.
ENDINGS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
# What a shop's folder holds beside data: what the shop says of itself, and its policy packs and its voice (guard).
OWN_WORDS = ("shop.toml", "policy.toml", "voice.toml")
REQUIRED = ("products", "orders", "order_items")


@dataclass(frozen=True)
class Shop:
    """A shop as landing reads it.

    Attributes:
        source: what was asked for: `demo`, `completejourney`, or a path.
        folder: where the landing files stand.
        currency: ISO 4217 code of all money in the files, or None where `shop.toml` does not say.
        time_zone: IANA name of the zone in which the shop's days begin.
        locales: languages of the shop, its main one first.
        renames: by table, the name of a column in the shop's files → its name in the contract.
    """

    name: str
    slug: str
    source: str
    folder: Path
    currency: str | None = None
    time_zone: str = "UTC"
    locales: tuple[str, ...] = ("en",)
    renames: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    def files(self, table: str) -> list[Path]:
        """The landing files of a table in the order they arrived: `orders.parquet`, then those of `orders/` by name.

        Names are compared without their endings, so that `2026-11.parquet` comes before `2026-11-19.csv`.
        """
        single = [path for path in _visible(self.folder) if _stem(path) == table and format_of(path)]
        many = [path for path in _visible(self.folder / table) if format_of(path)]
        return sorted(single, key=lambda p: p.name) + sorted(many, key=lambda p: (_stem(p), p.name))

    def column_in_files(self, table: str, column: str) -> str:
        """The name that a column of the contract has in this shop's files."""
        renamed = {ours: theirs for theirs, ours in self.renames.get(table, {}).items()}
        return renamed.get(column, column)

    def unread(self) -> list[Path]:
        """Files in the shop's folder that no table reads: an unknown name or ending. Nothing is passed over silently."""
        known = {path for table in LANDING for path in self.files(table)}
        found = [*_visible(self.folder), *(p for table in LANDING for p in _visible(self.folder / table))]
        return sorted(path for path in found if path not in known and path.name not in OWN_WORDS)


def open_shop(source: str, *, landing_root: Path, day: date | None = None, demo: Demo | None = None) -> Shop:
    """The shop named by `source`, with every file there that a run for `day` reads.

    `demo` and `completejourney` are made under `landing_root/<source>` when they are not there yet: files that exist are
    never written again. The demo has files for all events strictly before `day`; without a day, its history. A folder is
    opened in place and never written to. `demo` (a `Demo`) asks for a generated shop of another size.

    Raises:
        ShopNotFound: no such folder, or it lacks products, orders or order_items; says what was found.
        SettingMissing: `shop.toml` cannot be used; says where and why.
    """
    if source == "demo":
        from nightmarket.shops.demo import Demo, make

        return _described(source, make(demo or Demo(), landing_root / "demo", day=day))
    if source == "completejourney":
        from nightmarket.shops import completejourney

        return _described(source, completejourney.make(landing_root / "completejourney"))
    folder = Path(source).expanduser().resolve()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ShopNotFound(
            f"Shop `{source}`: {folder} {what}. Give `demo`, `completejourney`, or the path of a folder with landing "
            f"files ({', '.join(REQUIRED)}; see docs/decisions and the README's section on your own shop)."
        )
    shop = _described(source, folder)
    missing = [table for table in REQUIRED if not shop.files(table)]
    if missing:
        found = sorted(
            p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith(".")
        )
        raise ShopNotFound(
            f"Shop `{source}`: {folder} has no {' and no '.join(missing)}. A shop needs {', '.join(REQUIRED)}, each as one "
            f"file (`orders.parquet`) or a folder of files (`orders/2026-11-22.csv`) ending in .parquet, .csv or .jsonl "
            f"(.gz allowed). Found: {', '.join(found[:12]) or 'nothing'}{' …' if len(found) > 12 else ''}."
        )
    return shop


def default_day(shop: Shop) -> date:
    """The day after the shop's last event, in its own time zone: the night that a run without a day is for.

    Files that cannot be read and dates outside the years 1990 to 2100 are passed over: landing reports them. A shop
    without any event takes the day after its newest customer, consent or product.

    Raises:
        ShopNotFound: nothing in the shop has a date; asks for a day.
    """
    from nightmarket.shops.last_event import day_after_last_event

    return day_after_last_event(shop)


def format_of(path: Path) -> str | None:
    """`parquet`, `csv` or `jsonl` by the file's ending, or None where the ending is none of the contract's."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings[-1:] == [".gz"]:
        return ENDINGS.get(endings[-2]) if len(endings) > 1 and endings[-2] != ".parquet" else None
    return ENDINGS.get(endings[-1]) if endings else None


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return name.rpartition(".")[0] or name


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def _described(source: str, folder: Path) -> Shop:
    """The shop of a folder, with what its `shop.toml` says, if there is one."""
    path = folder / "shop.toml"
    told: dict[str, Any] = {}
    if path.exists():
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingMissing(
                f"{path} is not TOML: {error}. It may hold name, currency, time_zone, locales."
            ) from error
    values: dict[str, Any] = {"name": folder.name}
    for key, kind in (("name", str), ("currency", str), ("time_zone", str), ("locales", list)):
        if key in told:
            if not isinstance(told[key], kind) or not told[key]:
                wanted = "a list of texts" if kind is list else "a text"
                raise SettingMissing(f"{path}: `{key}` is {told[key]!r}, and must be {wanted}.")
            values[key] = tuple(map(str, told[key])) if kind is list else told[key]
    try:
        ZoneInfo(values.get("time_zone", "UTC"))
    except (KeyError, ValueError, OSError) as error:
        raise SettingMissing(
            f"{path}: `time_zone` is {values['time_zone']!r}, which is no IANA zone such as Europe/London."
        ) from error
    return Shop(slug=slug_of(source), source=source, folder=folder, renames=_renames(path, told), **values)


def _renames(path: Path, told: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """`[renames.orders]` with lines `"Order No" = "order_id"`: the shop's own name, then the contract's."""
    section = told.get("renames", {})
    if not isinstance(section, dict):
        raise SettingMissing(f"{path}: `renames` must be tables such as [renames.orders].")
    renames: dict[str, dict[str, str]] = {}
    for table, pairs in section.items():
        if table not in LANDING or not isinstance(pairs, dict):
            raise SettingMissing(
                f"{path}: [renames.{table}] is no table of the contract. Those are {', '.join(LANDING)}."
            )
        columns = {column.name for column in LANDING[table].columns}
        for theirs, ours in pairs.items():
            if ours not in columns:
                turned = " The shop's own name comes first." if theirs in columns else ""
                raise SettingMissing(
                    f"{path}: [renames.{table}] {theirs!r} = {ours!r}, but {table} has no column {ours!r}.{turned} "
                    f"Its columns are {', '.join(sorted(columns))}."
                )
        if len(set(pairs.values())) < len(pairs):
            raise SettingMissing(f"{path}: [renames.{table}] gives one column of the contract two names.")
        renames[table] = dict(pairs)
    return renames
