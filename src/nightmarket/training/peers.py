"""Processes that take the steps of one training together: who this one is, what the first says, what all add up.

A process that stands alone is the first of one, and needs nothing of this. Here: torch.distributed, over NCCL where each
process has a card of its own and over gloo elsewhere. Not here: how processes are started (launch), and what they learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def rank() -> int:
    """Which of the processes this is, from 0."""
    return _group().get_rank() if _group() else 0


def count() -> int:
    """How many processes there are."""
    return _group().get_world_size() if _group() else 1


def join(store: Any = None, *, rank: int = -1, count: int = -1) -> None:
    """Become one of several processes; returns when all have.

    Args:
        store: torch's, where they find each other; None: where a launcher's environment says (`RANK`, `WORLD_SIZE`,
            `MASTER_ADDR`, `MASTER_PORT`), which also says `rank` and `count`.
    """
    import torch
    import torch.distributed as dist

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if cards:
        torch.cuda.set_device((rank if store is not None else dist.get_node_local_rank(0)) % cards)
    # A launcher is asked for one process a card; NCCL takes no two on the same.
    apart = cards > 0 and dist.is_nccl_available() and count <= cards
    backend = "cpu:gloo,cuda:nccl" if apart else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count)


def leave() -> None:
    """Stand alone again."""
    if group := _group():
        group.destroy_process_group()


def told_by_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, in every one; the others wait for it."""
    group = _group()
    if group is None:
        return make()
    told: list[Any] = [make() if rank() == 0 else None]
    group.broadcast_object_list(told, src=0)
    return told[0]  # type: ignore[no-any-return]


def gathered(mine: T) -> list[T]:
    """What each process has, in their order."""
    group = _group()
    if group is None:
        return [mine]
    found: list[Any] = [None] * count()
    group.all_gather_object(found, mine)
    return found


def added(mine: Mapping[str, float]) -> dict[str, float]:
    """Numbers of all processes added up by name."""
    found: dict[str, float] = {}
    for theirs in gathered(mine):
        for name, number in theirs.items():
            found[name] = found.get(name, 0.0) + number
    return found


def add_gradients(parameters: Iterable[Any]) -> None:
    """Give each parameter the gradient that all processes found for it together; a process without one found zeros."""
    group = _group()
    if group is None:
        return
    import torch

    under_way = []
    for parameter in parameters:
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = found.contiguous()
        under_way.append(group.all_reduce(parameter.grad, async_op=True))
    for work in under_way:
        work.wait()


def _group() -> Any:
    """torch.distributed, where several processes stand together."""
    import torch.distributed as dist

    return dist if dist.is_available() and dist.is_initialized() else None
