"""Every reply that was paid for, by the digest of model, prompt and parameters: a retry buys nothing twice.

Each has the night that paid for it, so that what a night may cost holds for all its tries together.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from datetime import date
from pathlib import Path

from nightmarket.llm.asked import Reply


class ReplyStore:
    """Replies by digest in one SQLite file. Safe to kill and to share between processes; deleting it costs tokens only."""

    def __init__(self, path: Path, night: date | None = None) -> None:
        """`night`: the day for which replies are asked; None where nobody counts money by nights."""
        self._path = path
        self._night = night.isoformat() if night else None

    def find(self, key: str) -> Reply | None:
        """The stored reply, with nothing left to pay, or None."""
        if not self._path.exists():
            return None
        with closing(self._connect()) as connection:
            row = connection.execute(
                "select text, tokens_in, tokens_out, finish_reason, night from replies where digest = ?",
                (key,),
            ).fetchone()
        if row is None:
            return None
        is_tonights = self._night is not None and row[4] == self._night
        reply = Reply(row[0], 0, 0, row[3], cached=True, size=row[2])
        return replace(reply, earlier=(row[1], row[2])) if is_tonights else reply

    def keep(self, key: str, model: str, reply: Reply) -> None:
        """Store a reply; the first one of a digest stays."""
        with closing(self._connect()) as connection, connection:
            connection.execute(
                "insert or ignore into replies (digest, model, text, tokens_in, tokens_out, finish_reason, night) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                (key, model, reply.text, reply.tokens_in, reply.tokens_out, reply.finish_reason, self._night),
            )

    def paid(self, model: str) -> tuple[int, int]:
        """Tokens in and out of the stored replies of a model that this night has paid for so far."""
        if self._night is None or not self._path.exists():
            return 0, 0
        with closing(self._connect()) as connection:
            row = connection.execute(
                "select coalesce(sum(tokens_in), 0), coalesce(sum(tokens_out), 0) from replies "
                "where night = ? and model = ?",
                (self._night, model),
            ).fetchone()
        return int(row[0]), int(row[1])

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=30)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute(
            "create table if not exists replies (digest text primary key, model text not null, text text not null, "
            "tokens_in integer not null, tokens_out integer not null, finish_reason text not null, night text)"
        )
        if "night" not in {row[1] for row in connection.execute("pragma table_info(replies)")}:
            # A store of an earlier release. Another process may have been quicker.
            with suppress(sqlite3.OperationalError):
                connection.execute("alter table replies add column night text")
        return connection
