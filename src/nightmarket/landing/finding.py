"""Which files of a shop's folder must be loaded, and what the shop agreed to beside the contract.

Here: names, stamps, content hashes, `[limits]` and `[accept]` of `shop.toml`. Not here: what stands in a file (reading).
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from nightmarket.contracts import LANDING
from nightmarket.errors import LandingRejected, SettingMissing

if TYPE_CHECKING:
    from nightmarket.shops import Shop

# Names that other programs give to files they have not finished.
UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".filepart", ".swp", "~")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class LandingFile:
    """A file that was not loaded yet: `name` is its path inside the shop's folder, `sha256` that of its bytes."""

    table: str
    path: Path
    name: str
    sha256: str
    stamp: str
    size: int

    @property
    def at_rest_since(self) -> float:
        """When the file came to be as it is, where it is (seconds since 1970): written, renamed or moved there."""
        return int(self.stamp.split(":")[2]) / 1e9


@dataclass(frozen=True)
class Terms:
    """What a shop's `shop.toml` agrees to: bad shares by table, and columns whose change is meant, by table."""

    limits: Mapping[str, float]
    accepted: Mapping[str, frozenset[str]]

    def limit(self, table: str, default: float) -> float:
        return self.limits.get(table, default)


def terms_of(shop: Shop) -> Terms:
    """`[limits] order_items = 0.05` and `[accept] orders = ["channel"]` of the shop's `shop.toml`.

    Raises:
        SettingMissing: a section names no table of the contract, or holds something else than a share or a list.
    """
    path = shop.folder / "shop.toml"
    told = tomllib.loads(path.read_text(encoding="utf-8-sig")) if path.exists() else {}
    limits: dict[str, float] = {}
    for table, share in _section(path, told, "limits").items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise SettingMissing(f"{path}: [limits] {table} = {share!r}, but a limit is a share from 0 to 1.")
        limits[table] = float(share)
    accepted: dict[str, frozenset[str]] = {}
    for table, columns in _section(path, told, "accept").items():
        if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
            raise SettingMissing(
                f'{path}: [accept] {table} = {columns!r}, but it is a list of columns: ["channel"].'
            )
        accepted[table] = frozenset(columns)
    return Terms(limits, accepted)


def pending(
    shop: Shop, table: str, loaded: Mapping[str, set[str]], stamps: Mapping[str, set[str]]
) -> Iterator[LandingFile]:
    """Files of a table that were never loaded, in the order they arrived; each is hashed when its turn comes.

    `loaded[table]` holds content hashes, `stamps[name]` the stamps of loaded files: a file whose size, times and inode
    are those of a loaded one is not read again. The hash is the truth: a copy of a loaded file is not loaded either.

    Raises:
        LandingRejected: a file cannot be opened.
    """
    for path in shop.files(table):
        if _is_unfinished(path):
            continue
        name = path.relative_to(shop.folder).as_posix()
        try:
            stamp = _stamp(path)
            if stamp in stamps.get(name, ()):
                continue
            digest = _sha256(path)
            size = path.stat().st_size
        except OSError as error:
            raise LandingRejected(
                f"{name}: the file cannot be read ({error.strerror or error}). Give the user that runs the night the "
                f"right to read it, or take it out of {shop.folder}. Nothing of it was kept."
            ) from error
        if digest in loaded.get(table, ()):
            continue
        yield LandingFile(table, path, name, digest, stamp, size)


def unread_notices(shop: Shop) -> list[str]:
    """A sentence for each file or folder of the shop that no table reads."""
    notices = []
    for path in shop.unread():
        if _is_unfinished(path) or path.name.startswith("_"):
            continue
        near = get_close_matches(path.name.split(".")[0].lower(), LANDING, n=1)
        hint = f" (did you mean `{near[0]}`?)" if near else ""
        notices.append(
            f"{path.relative_to(shop.folder).as_posix()} is no file of the landing contract and was not read{hint}"
        )
    folders = sorted(
        path for path in shop.folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))
    )
    for folder in folders:
        if folder.name not in LANDING:
            notices.append(f"the folder {folder.name}/ is no table of the landing contract and was not read")
            continue
        inner = sorted(
            path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))
        )
        notices += [f"{folder.name}/{path.name}/ is a folder in a folder and was not read" for path in inner]
    return notices


def _section(path: Path, told: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = told.get(name, {})
    if not isinstance(section, dict):
        raise SettingMissing(f"{path}: `{name}` must be a section [{name}] with a line a table.")
    unknown = [table for table in section if table not in LANDING]
    if unknown:
        raise SettingMissing(
            f"{path}: [{name}] {unknown[0]} is no table of the contract. Those are {', '.join(LANDING)}."
        )
    return section


def _is_unfinished(path: Path) -> bool:
    return path.name.lower().endswith(UNFINISHED)


def _stamp(path: Path) -> str:
    """Size, times and inode. The change time cannot be set by hand, so an edit that restores the rest still shows."""
    told = path.stat()
    return f"{told.st_size}:{told.st_mtime_ns}:{told.st_ctime_ns}:{told.st_ino}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
