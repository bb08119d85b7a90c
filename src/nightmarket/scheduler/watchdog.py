"""Kills the processes of a night when the command that started them is gone, however it went.

Run as a process of its own: its standard input is a pipe whose other end the command holds, so the pipe closes when the
command ends, also by `kill -9`. Each line on it is the id of a session to end. Not here: an orderly stop (scheduler).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

import psutil


def members(sessions: Iterable[int]) -> list[int]:
    """The processes that belong to the given sessions, whoever their parent is now."""
    wanted, found = set(sessions), []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) in wanted and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except (OSError, psutil.Error):
            continue
    return found


def end(sessions: Iterable[int], *, patience_s: float = 1.5) -> None:
    """End all processes of the sessions: ask first, and kill what is left after `patience_s`."""
    sessions = list(sessions)
    for wanted, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 2.0), (signal.SIGKILL, 2.0)):
        left = members(sessions)
        for pid in left:
            try:
                os.kill(pid, wanted)
            except OSError:
                continue
        deadline = time.monotonic() + wait_s
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = members(sessions)
        if not left:
            return


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sessions = [int(line) for line in sys.stdin if line.strip().isdigit()]
    end(sessions, patience_s=1.0)


if __name__ == "__main__":
    _main()
