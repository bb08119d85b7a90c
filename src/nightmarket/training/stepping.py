"""Steps of a training that can be killed: an optimiser, curves, and a checkpoint it goes on from to the same numbers.

Here: AdamW with warm-up and a falling rate, the seed of each step, losses of steps and of held-out texts. Not here: what
is learnt (pretrain, contrast).
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmarket.settings import get_settings

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Curves = dict[str, list[tuple[int, float]]]
"""By name, what a loss was after so many steps."""

# A kill loses so many steps at most, some 10 s of work.
CHECKPOINT_STEPS = 10
HELD_OUT_LOOKS = 2
"""How often the held-out losses are looked at, beside the look before the first step."""


@dataclass(frozen=True)
class Objective:
    """What is descended.

    Attributes:
        name: of the curves: `<name>.<loss>.train` and `<name>.<loss>.held_out`.
        digest: what decides the numbers beside the network at the start; a checkpoint of another one is not used.
        losses: of the batch of a step, by name; their sum is descended.
        held_out: the same losses on what is never trained on.
        parameters: what learns, by name, and its learning rate.
        learning: told whether dropout is wanted.
        parts: micro-batches whose gradients make a step; `losses` is called with `step * parts + part`.
        looks: how often the held-out losses are looked at, beside the look before the first step.
        patience: steps end after so many looks in a row without a better sum of held-out losses; None: never.
    """

    name: str
    digest: str
    steps: int
    losses: Callable[[int], Mapping[str, Tensor]]
    held_out: Callable[[], Mapping[str, float]]
    parameters: Mapping[str, tuple[Any, float]]
    learning: Callable[[bool], None]
    seed: int
    parts: int = 1
    looks: int = HELD_OUT_LOOKS
    patience: int | None = None


@contextmanager
def scratch(task: str, digest: str) -> Iterator[Path]:
    """The folder of a training of these inputs: kept when it is killed or fails, so that it can go on; removed at its end.

    What another training of the task left is removed at the beginning.
    """
    folder = get_settings().state / "training" / f"{task}-{digest[:12]}"
    for other in folder.parent.glob(f"{task}-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def descend(objective: Objective, checkpoint: Path | None) -> Curves:
    """Take the objective's steps; returns its curves.

    The same objective and start give the same numbers on the same machine and number of threads, killed or not.

    Args:
        checkpoint: the file that keeps the state; None: nothing is kept.
    """
    import torch

    parameters = {name: parameter for name, (parameter, _) in objective.parameters.items()}
    optimiser = torch.optim.AdamW(
        [{"params": [p], "base": rate} for p, rate in objective.parameters.values()], lr=1e-4,
        betas=(0.9, 0.98), weight_decay=0.01,
    )  # fmt: skip
    done, curves = _load(objective, checkpoint, parameters, optimiser)
    if done and _is_spent(objective, curves):
        return curves
    every = max(objective.steps // objective.looks, 1)
    if done == 0:
        _look(objective, curves, 0)
    began = time.perf_counter()
    for step in range(done, objective.steps):
        objective.learning(True)
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * _rate(step, objective.steps)
        with torch.random.fork_rng(devices=[]):
            # Seeded anew each step: a resumed training draws what an uninterrupted one would have drawn.
            torch.manual_seed(objective.seed * 100_003 + step)
            optimiser.zero_grad(set_to_none=True)
            losses: dict[str, Tensor] = {}
            for part in range(objective.parts):
                some = objective.losses(step * objective.parts + part)
                (torch.stack(list(some.values())).sum() / objective.parts).backward()
                for name, loss in some.items():
                    losses[name] = losses.get(name, 0) + loss.detach() / objective.parts
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        for name, loss in losses.items():
            curves.setdefault(f"{objective.name}.{name}.train", []).append((step + 1, float(loss)))
        last = step + 1 == objective.steps
        if (step + 1) % every == 0 or last:
            _look(objective, curves, step + 1)
            last = last or _is_spent(objective, curves)
            told = ", ".join(f"{n} {float(v):.3f}" for n, v in losses.items())
            log.info(
                "%s: step %d of %d, %s, %.1f s", objective.name, step + 1, objective.steps, told,
                time.perf_counter() - began,
            )  # fmt: skip
        if checkpoint is not None and ((step + 1) % CHECKPOINT_STEPS == 0 or last):
            _save(objective, checkpoint, parameters, optimiser, step + 1, curves)
        if last:
            break
    objective.learning(False)
    return curves


def _is_spent(objective: Objective, curves: Curves) -> bool:
    """Whether the held-out losses stopped falling, so often that the objective's patience is over."""
    if objective.patience is None:
        return False
    looks = [
        p
        for name, p in curves.items()
        if name.startswith(f"{objective.name}.") and name.endswith(".held_out")
    ]
    sums = [sum(values) for values in zip(*([v for _, v in p] for p in looks), strict=True)]
    since = len(sums) - 1 - min(range(len(sums)), key=sums.__getitem__)
    return since >= objective.patience


def _look(objective: Objective, curves: Curves, step: int) -> None:
    import torch

    objective.learning(False)
    with torch.no_grad():
        for name, loss in objective.held_out().items():
            curves.setdefault(f"{objective.name}.{name}.held_out", []).append((step, loss))


def _rate(step: int, steps: int) -> float:
    """Up over a tenth of the steps, then down in a straight line to a twentieth."""
    warm = max(steps // 10, 1)
    if step < warm:
        return (step + 1) / warm
    return max(1 - (step - warm) / max(steps - warm, 1), 0.05)


def _save(
    objective: Objective,
    file: Path,
    parameters: Mapping[str, Any],
    optimiser: Any,
    steps: int,
    curves: Curves,
) -> None:
    from safetensors.torch import save_file

    state = {f"network.{name}": p.detach().contiguous() for name, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            state[f"adam.{key}.{name}"] = value.contiguous()
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".new")
    about = {"digest": objective.digest, "steps": str(steps), "curves": json.dumps(curves)}
    save_file(state, scratch, metadata=about)
    scratch.replace(file)


def _load(
    objective: Objective, file: Path | None, parameters: Mapping[str, Any], optimiser: Any
) -> tuple[int, Curves]:
    """Go on from what was kept, if it is of this training; says how many steps are done, with their curves."""
    import torch
    from safetensors import safe_open

    if file is None or not file.exists():
        return 0, {}
    with safe_open(file, "pt") as kept:
        about = kept.metadata() or {}
        if about.get("digest") != objective.digest:
            return 0, {}
        state = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - it is no dictionary
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[f"network.{name}"])
            found = {
                key: state[f"adam.{key}.{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{key}.{name}" in state
            }
            if found:
                optimiser.state[parameter] = found
    curves = {
        name: [(int(s), float(v)) for s, v in points] for name, points in json.loads(about["curves"]).items()
    }
    log.info("%s: goes on after step %s", objective.name, about["steps"])
    return int(about["steps"]), curves
