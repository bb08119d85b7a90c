"""Where packaged weights stand, proof that they are the ones we know, and what was tuned from them.

A package is used as a box: its file is found without importing it, and its digest is compared with the pinned one each
time weights are about to be loaded (0.1 s for 100 MB, so nothing is remembered that could go stale). Not here: loading
them (`llm`, `encoder`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket.errors import ModelRefused

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Weights:
    """A file of weights inside an installed package: `file` is relative to the package's folder."""

    name: str
    package: str
    file: str
    sha256: str

    @property
    def digest(self) -> str:
        """The pinned digest, short: what input hashes and stores are keyed by. Costs nothing."""
        return self.sha256[:12]

    def locate(self) -> Path:
        """The file, wherever the package is installed; nothing of the package is executed.

        Raises:
            ModelRefused: the package or the file is not there.
        """
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise ModelRefused(
                f"The weights of {self.name} are not installed: the package `{self.package}` is missing. "
                f"Install requirements.txt again."
            )
        path = Path(spec.origin).parent / self.file
        if not path.is_file():
            raise ModelRefused(
                f"The weights of {self.name} are not at {path}. Install `{self.package}` again."
            )
        return path

    def verify(self) -> Path:
        """The file, after its whole content was found to have the pinned digest.

        Raises:
            ModelRefused: the file is missing, or holds something else.
        """
        return verify(self.locate(), self.sha256, name=self.name)


@dataclass(frozen=True)
class Tuned:
    """How numbers that were tuned from packaged weights stand in a folder: safetensors, and a page that says whose they are.

    Attributes:
        base: the packaged weights that they belong to.
        task: of the registry; the step `finetune_<task>` makes them.
        file, page: names in the folder.
    """

    base: Weights
    task: str
    file: str
    page: str

    def write(self, folder: Path, numbers: Mapping[str, np.ndarray], **more: object) -> None:
        """Write numbers by name, as fp32 (those of 16 bits as they are), and the page with their digest and `more`."""
        import numpy as np
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        kept = {n: np.ascontiguousarray(a, np.float16 if a.dtype == np.float16 else np.float32) for n, a in numbers.items()}  # fmt: skip
        save_file(kept, folder / self.file)
        with (folder / self.file).open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        about = {"base": self.base.name, "base_sha256": self.base.sha256, "sha256": sha256, **more}
        (folder / self.page).write_text(json.dumps(about, indent=1, sort_keys=True))

    def about(self, folder: Path) -> dict[str, Any]:
        """What the page says.

        Raises:
            ModelRefused: there is none, or the numbers belong to other packaged weights.
        """
        try:
            told = dict(json.loads((folder / self.page).read_text()))
        except (FileNotFoundError, ValueError) as error:
            raise ModelRefused(
                f"{folder} holds no tuned {self.task}: {error}. Go back to the one before: nightmarket rollback {self.task}"
            ) from error
        if told.get("base_sha256") != self.base.sha256:
            raise ModelRefused(
                f"The tuned {self.task} in {folder} belongs to other packaged weights "
                f"({str(told.get('base_sha256'))[:12]}, here {self.base.digest}). Train it again: nightmarket run --only "
                f"finetune_{self.task}"
            )
        return told

    def verify(self, folder: Path) -> Path:
        """The file of numbers, when it is the one that the page was written for.

        Raises:
            ModelRefused: as `about`; or the file holds something else.
        """
        return verify(folder / self.file, self.about(folder)["sha256"], name=f"the tuned {self.task}")


def verify(path: Path, sha256: str, *, name: str) -> Path:
    """`path`, if its content has the digest `sha256`.

    Raises:
        ModelRefused: it has another one; says both.
    """
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise ModelRefused(
            f"The weights of {name} at {path} have the digest {found}, expected {sha256}. "
            f"They were not loaded. Install the pinned package again."
        )
    return path
