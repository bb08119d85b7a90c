"""Everything this package raises on purpose.

NightmarketError
├── SettingMissing        a setting has no value or a wrong one; names the variable
├── ShopNotFound          the shop's folder or its required tables are not there
├── LandingRejected       a landing file breaks the contract; nothing of it is kept
├── TransformFailed       dbt built a model wrongly or a test of it failed
├── QualityGateFailed     data broke its suite; carries the failed checks and where the rows are
├── WarehouseBusy         another process kept the warehouse for longer than we wait
├── WarehouseMissing      nothing was built yet for this shop
├── QueryFailed           a statement handed to the warehouse is wrong
├── PublishConflict       somebody else published this day since the run began
├── ExtractMissing        a day's extract is not in the lake
├── ModelNotFound         no such model or version in the registry
├── ModelRefused          weights or artefacts do not have the digest or form they must have
├── RuleRefused           rules of the shop cannot hold together; lists every problem
├── PolicyRefused         a file of policy packs or of the voice is wrong or contradicts itself; lists every problem
├── CandidatesRefused     a file of candidate writers is wrong; lists every problem
├── ReviewRefused         a decision about copy cannot be taken; says why, and nothing was written down
├── ComputeFailed         partitions cannot be read, run or put together
├── TrainingStopped       a process of a training ended before its end, or learns something else
├── ReplyInvalid          a model's reply does not fit its form
└── NightFailed           a DAG run of the night did not succeed

A message says what happened, with which values, and what to do. Callers catch by meaning.
`retry_helps` tells the orchestrator whether the same task could succeed a moment later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class NightmarketError(Exception):
    """Base of all errors that this package raises on purpose."""

    retry_helps = False


class SettingMissing(NightmarketError):
    """A setting has no value, or one that cannot be used."""


class ShopNotFound(NightmarketError):
    """The shop's folder, or one of the tables it must have, is not there."""


class LandingRejected(NightmarketError):
    """A landing file breaks the contract: nothing of it was kept."""


class TransformFailed(NightmarketError):
    """A dbt model could not be built, or a test of it failed."""


class QualityGateFailed(NightmarketError):
    """Data broke its suite. What depends on it must stop; what is published stays.

    Attributes:
        table: the table whose rows were checked.
        checks: the names of the failed checks.
        where: how to look at the rows (a query or a path).
    """

    def __init__(self, table: str, checks: Sequence[str], where: str) -> None:
        self.table = table
        self.checks = tuple(checks)
        self.where = where
        super().__init__(
            f"The gate of table `{table}` failed: {', '.join(self.checks)}. "
            f"What was published before stays as it is. The rows: {where}"
        )

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return (type(self), (self.table, self.checks, self.where))


class WarehouseBusy(NightmarketError):
    """Another process kept the warehouse for longer than we wait."""

    retry_helps = True


class WarehouseMissing(NightmarketError):
    """Nothing was built yet for this shop."""


class QueryFailed(NightmarketError):
    """A statement handed to the warehouse is wrong."""


class PublishConflict(NightmarketError):
    """Somebody else published this day since this run began; this run changed nothing."""


class ExtractMissing(NightmarketError):
    """A day's extract is not in the lake."""


class ModelNotFound(NightmarketError):
    """No such model, version or alias in the registry."""


class ModelRefused(NightmarketError):
    """Weights or artefacts do not have the digest or the form they must have."""


class _FileRefused(NightmarketError):
    """What the shop wrote down for itself is wrong; all of it is told at once.

    Attributes:
        problems: what is wrong, a sentence each, with where it stands and what to do.
    """

    what: ClassVar[str]

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        listed = "".join(f"\n- {problem}" for problem in self.problems)
        super().__init__(
            f"The {self.what} cannot be used, {len(self.problems)} "
            f"{'problem' if len(self.problems) == 1 else 'problems'}:{listed}"
        )

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return (type(self), (self.problems,))


class RuleRefused(_FileRefused):
    """Rules of the shop are wrong or contradict each other. Nothing was arranged by them."""

    what = "rules for recommendations"


class PolicyRefused(_FileRefused):
    """Policy packs or the shop's voice are wrong or contradict each other. No text was judged by them."""

    what = "policy packs and the voice"


class CandidatesRefused(_FileRefused):
    """A file of candidate writers is wrong. None of them was tried."""

    what = "candidates of writers.toml"


class ReviewRefused(NightmarketError):
    """A decision about copy cannot be taken: no such text, or words that the facts do not bear. Nothing was written down."""


class ComputeFailed(NightmarketError):
    """Partitions cannot be read, run where the settings say, or put together."""


class TrainingStopped(NightmarketError):
    """A process of a training ended before its end, or they do not learn the same; a checkpoint keeps what was learnt."""

    retry_helps = True


class ReplyInvalid(NightmarketError):
    """A model's reply does not fit its form."""


class NightFailed(NightmarketError):
    """A DAG run of the night did not succeed."""
