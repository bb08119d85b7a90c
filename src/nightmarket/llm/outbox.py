"""Requests that wait for a provider's batch, and those that are in one, by the digest that their replies are stored by.

A request waits until a batch takes it, and is in that batch until its results are settled; then it is gone, or it waits
again. There is one batch at a time, so that no request can be in two. Not here: replies (`replies`), asking (`batch`).
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from nightmarket.llm.asked import Message, Request

MOST_TRIES = 3
"""Batches that a request may spoil by itself before it is given up; their tokens are paid for."""
MOST_REQUESTS = 10_000
"""Requests of one batch. Providers take 50,000, and 200 MB; ours have some 2 kB each."""


@dataclass(frozen=True)
class Batch:
    """Requests that are asked together.

    Attributes:
        name: its own, whoever asks it and however often.
        model: the model's name at the provider.
        asked: digest and request, in the order in which they are sent.
    """

    name: str
    model: str
    asked: tuple[tuple[str, Request], ...]


class Outbox:
    """The outbox in one SQLite file. Safe to kill and to share between processes; deleting it forgets a batch that is paid
    for, nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, requests: Mapping[str, Request], *, model: str, version: str, day: date) -> frozenset[str]:
        """Write down what the night of `day` wants, by digest; returns those that are given up.

        What is there already stays as it is, and is wanted by this night too.
        """
        if not requests:
            return frozenset()
        with self._transaction() as tx:
            tx.executemany(
                "insert into asked (digest, model, version, request, day) values (?, ?, ?, ?, ?) "
                "on conflict (digest) do update set day = max(day, excluded.day)",
                [
                    (key, model, version, json.dumps(asdict(request), ensure_ascii=False), day.isoformat())
                    for key, request in requests.items()
                ],
            )
            rows = tx.execute("select digest from asked where tries >= ?", (MOST_TRIES,)).fetchall()
        return frozenset(key for (key,) in rows) & frozenset(requests)

    def waiting(self) -> list[str]:
        """The digests of what no batch has taken, without those given up."""
        with self._transaction() as tx:
            rows = tx.execute(
                "select digest from asked where batch is null and tries < ?", (MOST_TRIES,)
            ).fetchall()
        return [key for (key,) in rows]

    def batch(self) -> Batch | None:
        """The batch that was taken and is not settled, or None."""
        if not self._path.exists():
            return None
        with self._transaction() as tx:
            return _batch(tx)

    def take(
        self, *, version: str, day: date, most: Callable[[Sequence[Request]], int] = len
    ) -> Batch | None:
        """The batch that is not settled; where there is none, a new one of what waits; None where nothing does.

        Only what the latest night wanted is taken, and only of the model `version`: of other nights and models what waits
        is forgotten, because nobody would read the reply. `day` names the batch. `most` says of what waits, in its order,
        how many from the first on may be taken.
        """
        with self._transaction() as tx:
            if under_way := _batch(tx):
                return under_way
            tx.execute(
                "delete from asked where version <> ? or day < (select max(day) from asked where version = ?)",
                (version, version),
            )
            name = f"{day}-{secrets.token_hex(4)}"
            rows = tx.execute(
                "select rowid, request from asked where tries < ? order by rowid limit ?",
                (MOST_TRIES, MOST_REQUESTS),
            ).fetchall()
            taken = rows[: most([_request(text) for _, text in rows])]
            tx.executemany("update asked set batch = ? where rowid = ?", [(name, row) for row, _ in taken])
            return _batch(tx)

    def forget(self, keys: Collection[str]) -> None:
        """Take out what has a reply by now and is in no batch."""
        with self._transaction() as tx:
            tx.executemany("delete from asked where digest = ? and batch is null", [(key,) for key in keys])

    def settle(self, name: str, *, answered: Collection[str], spoilt: Collection[str]) -> int:
        """End a batch: what was answered is gone, the rest waits again, of which `spoilt` has one try less.

        Returns how many were given up by that.
        """
        with self._transaction() as tx:
            tx.executemany(
                "delete from asked where digest = ? and batch = ?", [(key, name) for key in answered]
            )
            tx.executemany(
                "update asked set tries = tries + 1 where digest = ? and batch = ?",
                [(key, name) for key in spoilt],
            )
            (given_up,) = tx.execute(
                "select count(*) from asked where batch = ? and tries >= ?", (name, MOST_TRIES)
            ).fetchone()
            tx.execute("update asked set batch = null where batch = ?", (name,))
        return int(given_up)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute(
                "create table if not exists asked (digest text primary key, model text not null, version text not null, "
                "request text not null, day text not null, tries integer not null default 0, batch text)"
            )
            # Of two processes that look whether there is a batch, the second sees that of the first.
            connection.execute("begin immediate")
            try:
                yield connection
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")


def _batch(tx: sqlite3.Connection) -> Batch | None:
    rows = tx.execute(
        "select batch, model, digest, request from asked where batch is not null order by rowid"
    ).fetchall()
    if not rows:
        return None
    return Batch(rows[0][0], rows[0][1], tuple((row[2], _request(row[3])) for row in rows))


def _request(text: str) -> Request:
    fields = json.loads(text)
    return Request(**fields | {"messages": tuple(Message(*turn) for turn in fields["messages"])})
