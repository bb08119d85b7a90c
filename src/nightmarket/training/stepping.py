"""Steps of a training that can be killed: an optimiser, curves, and a checkpoint it goes on from to the same numbers.

Here: AdamW with warm-up and a falling rate, the seed of each step, losses of steps and of held-out texts, the state that
was best on these, what is told meanwhile. Not here: what is learnt (pretrain, contrast, writer).
"""

from __future__ import annotations

import json
import logging
import math
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
PROGRESS_S = 10.0
"""Seconds between two lines about how far a training is, beside the line of each look."""


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
        patience: steps end after so many looks in a row without a better sum of held-out losses, and what learns is then
            as it was at the best look, the one before the first step included; None: never, and it stays as it is.
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
    done, curves, best = _load(objective, checkpoint, parameters, optimiser)
    every = max(objective.steps // objective.looks, 1)
    if done == 0:
        began = time.perf_counter()
        _look(objective, curves, 0, parameters, best)
        log.info("%s", _progress(objective, curves, 0, time.perf_counter() - began, 0))
    began = told_at = time.perf_counter()
    for step in range(done, objective.steps):
        if _is_spent(objective, curves):
            break
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
        looks = (step + 1) % every == 0 or last
        if looks:
            _look(objective, curves, step + 1, parameters, best)
            last = last or _is_spent(objective, curves)
        now = time.perf_counter()
        if looks or now - told_at >= PROGRESS_S:
            told_at = now
            log.info(
                "%s", _progress(objective, curves, step + 1, now - began, 0 if last else step + 1 - done)
            )
        if checkpoint is not None and ((step + 1) % CHECKPOINT_STEPS == 0 or last):
            _save(objective, checkpoint, parameters, optimiser, step + 1, curves, best)
    objective.learning(False)
    if best:
        _restore(parameters, best)
        log.info("%s: the state after step %d is kept", objective.name, best_step(curves, objective.name))
    return curves


def best_step(curves: Curves, name: str) -> int:
    """After how many steps of an objective the sum of its held-out losses was lowest, the first where several are equal.

    Without held-out losses: after the last step.
    """
    sums = _held_out(curves, name)
    if not sums:
        return max((p[-1][0] for n, p in curves.items() if n.startswith(f"{name}.")), default=0)
    return min(sums, key=lambda look: look[1])[0]


def _held_out(curves: Curves, name: str) -> list[tuple[int, float]]:
    """The sum of an objective's held-out losses at each look; what is no number is no loss to keep."""
    looks = [p for n, p in curves.items() if n.startswith(f"{name}.") and n.endswith(".held_out")]
    return [
        (points[0][0], total if math.isfinite(total := sum(value for _, value in points)) else math.inf)
        for points in zip(*looks, strict=True)
    ]


def _is_spent(objective: Objective, curves: Curves) -> bool:
    """Whether the held-out losses stopped falling, so often that the objective's patience is over."""
    if objective.patience is None:
        return False
    best = best_step(curves, objective.name)
    return sum(step > best for step, _ in _held_out(curves, objective.name)) >= objective.patience


def _look(
    objective: Objective, curves: Curves, step: int, parameters: Mapping[str, Any], best: dict[str, Tensor]
) -> None:
    """Write the held-out losses down, and keep what learns where they were never so low."""
    import torch

    objective.learning(False)
    with torch.no_grad():
        for name, loss in objective.held_out().items():
            curves.setdefault(f"{objective.name}.{name}.held_out", []).append((step, loss))
    if objective.patience is not None and best_step(curves, objective.name) == step:
        best.update({name: parameter.detach().clone() for name, parameter in parameters.items()})


def _progress(objective: Objective, curves: Curves, step: int, seconds: float, here: int) -> str:
    """How far it is, for people. `here`: the steps that took these seconds; 0: nothing is said of what is left."""
    last = {
        n.removeprefix(f"{objective.name}."): p[-1]
        for n, p in curves.items()
        if n.startswith(f"{objective.name}.")
    }
    losses = [f"{n.removesuffix('.train')} {v:.3f}" for n, (_, v) in last.items() if n.endswith(".train")]
    losses += [
        f"{n.removesuffix('.held_out')} held out {v:.3f}"
        for n, (at, v) in last.items()
        if n.endswith(".held_out") and at == step
    ]
    told = ", ".join([f"{objective.name}: step {step} of {objective.steps}", *losses, _span(seconds)])
    if not here:
        return told
    about = "some" if objective.patience is None else "up to"
    return f"{told}, {about} {_span(seconds / here * (objective.steps - step))} left"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


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
    best: Mapping[str, Tensor],
) -> None:
    from safetensors.torch import save_file

    state = {f"network.{name}": p.detach().contiguous() for name, p in parameters.items()}
    state |= {f"best.{name}": numbers.contiguous() for name, numbers in best.items()}
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
) -> tuple[int, Curves, dict[str, Tensor]]:
    """Go on from what was kept, if it is of this training; says how many steps are done, their curves, the best state."""
    from safetensors import safe_open

    if file is None or not file.exists():
        return 0, {}, {}
    with safe_open(file, "pt") as kept:
        about = kept.metadata() or {}
        if about.get("digest") != objective.digest:
            return 0, {}, {}
        state = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - it is no dictionary
    _restore(parameters, {name: state[f"network.{name}"] for name in parameters})
    for name, parameter in parameters.items():
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
    log.info("%s: goes on after step %s of %d", objective.name, about["steps"], objective.steps)
    best = {name: state[f"best.{name}"] for name in parameters if f"best.{name}" in state}
    return int(about["steps"]), curves, best


def _restore(parameters: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
