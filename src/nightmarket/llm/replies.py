"""Every reply that was paid for, by the digest of model, prompt and parameters: a retry buys nothing twice."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from nightmarket.llm.asked import Reply


class ReplyStore:
    """Replies by digest in one SQLite file. Safe to kill and to share between processes; deleting it costs tokens only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, key: str) -> Reply | None:
        """The stored reply, with nothing left to pay, or None."""
        if not self._path.exists():
            return None
        with closing(self._connect()) as connection:
            row = connection.execute(
                "select text, tokens_in, tokens_out, finish_reason from replies where digest = ?", (key,)
            ).fetchone()
        if row is None:
            return None
        reply = Reply(row[0], row[1], row[2], row[3], cached=False, size=row[2])
        return replace(reply, tokens_in=0, tokens_out=0, cached=True)

    def keep(self, key: str, model: str, reply: Reply) -> None:
        """Store a reply; the first one of a digest stays."""
        with closing(self._connect()) as connection, connection:
            connection.execute(
                "insert or ignore into replies (digest, model, text, tokens_in, tokens_out, finish_reason) "
                "values (?, ?, ?, ?, ?, ?)",
                (key, model, reply.text, reply.tokens_in, reply.tokens_out, reply.finish_reason),
            )

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=30)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute(
            "create table if not exists replies (digest text primary key, model text not null, text text not null, "
            "tokens_in integer not null, tokens_out integer not null, finish_reason text not null)"
        )
        return connection
