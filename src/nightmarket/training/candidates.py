"""Which base models a shop wants compared, from the file `writers.toml` in its folder; without one the packaged writer alone.

Here: reading and checking the file. Not here: trying them (bake_off).
"""

from __future__ import annotations

import tomllib
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from nightmarket.errors import CandidatesRefused
from nightmarket.guard import shop_policy

FILE = "writers.toml"
# What a kind is found by; the others have no meaning for it.
_WHERE = {"packaged": (), "folder": ("path",), "hub": ("model", "revision"), "endpoint": ("url", "model")}
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")]


class Candidate(BaseModel):
    """A base model that may become the shop's writer.

    Attributes:
        name: what scorecards call it.
        kind: `packaged`, a `folder` of safetensors, a model of the Hugging Face `hub`, or an `endpoint`.
        path, model, revision, url: where it is; `revision` is the 40 digits of a commit.
        price_in, price_out: of an endpoint, money for a million tokens.
        price_per_hour: of what is run here, money for an hour of this machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Name
    kind: Literal["packaged", "folder", "hub", "endpoint"]
    path: Path | None = None
    model: str | None = None
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    url: str | None = None
    price_in: Decimal = Field(Decimal(0), ge=0)
    price_out: Decimal = Field(Decimal(0), ge=0)
    price_per_hour: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _is_found(self) -> Candidate:
        needed = _WHERE[self.kind]
        missing = [key for key in needed if getattr(self, key) is None]
        if missing:
            raise ValueError(f"a candidate of kind `{self.kind}` needs {' and '.join(missing)}")
        others = {key for keys in _WHERE.values() for key in keys} - set(needed)
        idle = [key for key in sorted(others) if getattr(self, key) is not None]
        if idle:
            raise ValueError(f"`{idle[0]}` has no meaning for a candidate of kind `{self.kind}`")
        return self

    @property
    def source(self) -> str:
        """What `llm.NetworkGenerator` opens it by; of a folder or a model of the hub."""
        return str(self.path) if self.kind == "folder" else f"{self.model}@{self.revision}"


PACKAGED = Candidate(name="packaged", kind="packaged")


def candidates_file() -> Path:
    """Where this shop's file stands, whether it is there or not: beside its `policy.toml`."""
    return shop_policy().with_name(FILE)


def read(file: Path | None = None) -> tuple[Candidate, ...]:
    """The candidates of a file, in its order; of the shop's own, if none is named. A folder is relative to the file.

    Raises:
        CandidatesRefused: the file cannot be used; lists every problem.
    """
    if file is None:
        file = candidates_file()
        if not file.exists():
            return (PACKAGED,)
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CandidatesRefused([f"{file} cannot be read: {error.strerror or error}."]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CandidatesRefused(
            [f"{file} is not TOML: {error}. Correct it there; save it as UTF-8."]
        ) from error
    listed = told.get("candidate")
    problems = [f"{file}: there is no key `{key}`; use [[candidate]]." for key in told if key != "candidate"]
    if not isinstance(listed, list) or not listed:
        raise CandidatesRefused([*problems, f"{file}: name at least one [[candidate]]."])
    found = []
    for number, entry in enumerate(listed, start=1):
        try:
            candidate = Candidate.model_validate(entry)
        except ValidationError as error:
            problems += [
                _said(file, number, entry, problem["loc"], problem["msg"]) for problem in error.errors()
            ]
            continue
        if candidate.path is not None:
            whole = (file.parent / candidate.path.expanduser()).resolve()
            candidate = candidate.model_copy(update={"path": whole})
            if not whole.is_dir():
                problems.append(f"{file}: candidate `{candidate.name}`: {whole} is no folder.")
        found.append(candidate)
    twice = [name for name, count in Counter(c.name for c in found).items() if count > 1]
    problems += [f"{file}: two candidates have the name `{name}`: rename one." for name in twice]
    if problems:
        raise CandidatesRefused(problems)
    return tuple(found)


def _said(file: Path, number: int, entry: object, where: tuple[int | str, ...], what: str) -> str:
    name = entry.get("name", number) if isinstance(entry, dict) else number
    key = f" `{'.'.join(map(str, where))}`" if where else ""
    return f"{file}: candidate `{name}`:{key} {what.removeprefix('Value error, ')}."
