"""Starts the other processes of a training, and ends them with it.

The process that trains is the first one: it keeps its log, its peak memory and its MLflow run. The others run the function
that it names, find it by a file in the training's folder, and speak over the loopback interface alone. Several machines are
a launcher's matter (torchrun): it starts this module everywhere, and nothing is started here. Not here: what the processes
say to each other (peers), and what they do (finetune_writer).

    torchrun --nnodes 2 --nproc-per-node 1 ... -m nightmarket.training.launch nightmarket.training.finetune_writer:everywhere 2026-03-02
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nightmarket.errors import TrainingStopped
from nightmarket.training import peers

log = logging.getLogger(__name__)

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
GRACE_S = 10.0
"""Seconds that a process has to end by itself: longer than the others need to see that one is gone."""


@contextmanager
def helped(processes: int, function: str, arguments: Sequence[str], *, folder: Path) -> Iterator[None]:
    """While the block runs, this is the first of `processes`; the others run `function` and have ended when it is left.

    In a process that a launcher made one of several, nothing is started: the others are there.

    Args:
        function: `module:function`, called with `arguments`; it does what the first process says (`peers.told_by_first`)
            until that says None.
        folder: on a disk of this machine, where they find each other and the others write what they say.

    Raises:
        TrainingStopped: one of the others ended before the block; says which, how, and its last words.
    """
    if processes < 2 or peers.count() > 1:
        yield
        return
    import torch.distributed as dist

    place = folder / "processes"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with _loopback():
        others = [_started(place, n, processes, function, arguments) for n in range(1, processes)]
        try:
            store = dist.FileStore(str(place / "meeting"), processes)
            while not store.check([f"here-{n}" for n in range(1, processes)]):
                if any(other.poll() is not None for other in others):
                    raise _stopped(others, place)
                time.sleep(0.05)
            peers.join(store, rank=0, count=processes)
            log.info("%d processes train together", processes)
            yield
            peers.told_by_first(lambda: None)
            if _lost(others):
                raise _stopped(others, place)
        except RuntimeError as error:
            # What torch says of a connection is that it was closed; why, the process that closed it knows.
            if _lost(others):
                raise _stopped(others, place) from error
            raise
        finally:
            peers.leave()
            for other in others:
                if other.poll() is None:
                    other.kill()
                other.wait()
    shutil.rmtree(place, ignore_errors=True)


def _started(
    place: Path, number: int, processes: int, function: str, arguments: Sequence[str]
) -> subprocess.Popen[bytes]:
    met = ["--store", str(place / "meeting"), "--rank", str(number), "--processes", str(processes)]
    with (place / f"{number}.log").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "nightmarket.training.launch", *met, function, *arguments],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip


@contextmanager
def _loopback() -> Iterator[None]:
    """gloo and NCCL listen where these say; without them on what the machine's name resolves to."""
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, LOOPBACK) | before)
    try:
        yield
    finally:
        for name in names:
            if name not in before:
                os.environ.pop(name, None)


def _lost(others: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Waits until all ended, `GRACE_S` at most; whether one ended as it should not."""
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until and any(other.poll() is None for other in others):
        time.sleep(0.05)
    return any(other.poll() for other in others)


def _stopped(others: Sequence[subprocess.Popen[bytes]], place: Path) -> TrainingStopped:
    """The error of a process that ended: of one that was killed before one that noticed."""
    statuses = [(other.poll(), n) for n, other in enumerate(others, start=1)]
    status, number = min((status, n) for status, n in statuses if status is not None)
    how = f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
    lines = (place / f"{number}.log").read_text(errors="replace").strip().splitlines()
    words = f": {lines[-1].strip()}" if lines and status > 0 else ""
    return TrainingStopped(
        f"Process {number} of the {len(others) + 1} of this training {how}{words}. The others were ended. Run it again: "
        f"it goes on from its last checkpoint, also with another NIGHTMARKET_WRITER_PROCESSES."
    )


def main(given: Sequence[str] | None = None) -> None:
    """Join the other processes, and run a function with them."""
    parser = argparse.ArgumentParser(prog="python -m nightmarket.training.launch", description=__doc__)
    parser.add_argument("--store", help="a file where processes of this machine meet; without it the environment of a launcher says")  # fmt: skip
    parser.add_argument("--rank", type=int, default=-1)
    parser.add_argument("--processes", type=int, default=-1)
    parser.add_argument("function", help="module:function, called in every process")
    parser.add_argument("arguments", nargs="*")
    told = parser.parse_args(given)
    module, _, name = told.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    store: Any = None
    if told.store:
        import torch.distributed as dist

        store = dist.FileStore(told.store, told.processes)
        store.set(f"here-{told.rank}", "")
    else:
        logging.basicConfig(level=logging.INFO)
    peers.join(store, rank=told.rank, count=told.processes)
    try:
        function(*told.arguments)
    finally:
        peers.leave()


if __name__ == "__main__":
    main()
