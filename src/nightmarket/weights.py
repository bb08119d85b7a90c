"""Where packaged weights stand, and proof that they are the ones we know.

A package is used as a box: its file is found without importing it, and its digest is compared with the pinned one each
time weights are about to be loaded (0.1 s for 100 MB, so nothing is remembered that could go stale). Not here: loading
them (`llm`, `encoder`).
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from nightmarket.errors import ModelRefused


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
