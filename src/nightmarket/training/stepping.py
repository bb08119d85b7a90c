"""Steps of a training that can be killed: an optimiser, curves, and a checkpoint it goes on from to the same numbers.

Here: AdamW with warm-up and a falling rate, the seed of each micro-batch, losses of steps and of held-out texts, the state
that was best on these, what is told meanwhile. Where several processes stand together, the micro-batches of a step are
shared out among them. Not here: what is learnt (pretrain, contrast, writer), and other processes (peers, launch).
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

from nightmarket.errors import TrainingStopped
from nightmarket.settings import get_settings
from nightmarket.training import peers

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Curves = dict[str, list[tuple[int, float]]]
"""By name, what a loss was after so many steps."""

CHECKPOINT_STEPS = 10
"""Steps between two checkpoints at least: what a kill loses."""
CHECKPOINT_SHARE = 0.05
"""Share of the time that writing checkpoints may take; where one takes longer, there are fewer.

Weights, two moments of Adam and the best state so far are 80 MB of adapters and 2.2 GB of all weights of the writer.
"""
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
        losses: of a micro-batch, by name; their sum is descended.
        held_out: the same losses on what is never trained on.
        parameters: what learns, by name, and its learning rate.
        learning: told whether dropout is wanted.
        parts: micro-batches whose gradients make a step; `losses` is called with `step * parts + part`. Of several processes
            each makes its share of them, so that their number does not change what is learnt.
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

    The same objective and start give the same numbers on the same machine and number of threads, killed or not. Several
    processes (`peers`) give those of one but for the order in which gradients are added up; the first of them looks at
    what is held out, writes checkpoints and tells.

    Args:
        checkpoint: the file that keeps the state, which all processes see; None: nothing is kept. While steps are taken it
            holds what learns, Adam's moments and the best state; at the end what learns alone.

    Raises:
        TrainingStopped: the processes do not learn the same.
    """
    import torch

    parameters = {name: parameter for name, (parameter, _) in objective.parameters.items()}
    optimiser = torch.optim.AdamW(
        [{"params": [p], "base": rate} for p, rate in objective.parameters.values()], lr=1e-4,
        betas=(0.9, 0.98), weight_decay=0.01,
    )  # fmt: skip
    cards = sorted({p.device.index for p in parameters.values() if p.device.type == "cuda"})
    done, curves, best = _load(objective, checkpoint, parameters, optimiser)
    _agree(objective, done)
    first = peers.rank() == 0
    every = max(objective.steps // objective.looks, 1)
    if done == 0:
        began = time.perf_counter()
        _look(objective, curves, 0, parameters, best)
        if first:
            log.info("%s", _progress(objective, curves, 0, time.perf_counter() - began, 0))
    began = told_at = saved_at = time.perf_counter()
    step, saving = done, 0.0
    while step < objective.steps and not _is_spent(objective, curves):
        objective.learning(True)
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * _rate(step, objective.steps)
        optimiser.zero_grad(set_to_none=True)
        losses: dict[str, float] = {}
        for part in range(step * objective.parts + peers.rank(), (step + 1) * objective.parts, peers.count()):
            with torch.random.fork_rng(devices=cards):
                # Seeded anew each time: a resumed training draws what an uninterrupted one would have drawn.
                torch.manual_seed(objective.seed * 100_003 + part)
                some = objective.losses(part)
                (torch.stack(list(some.values())).sum() / objective.parts).backward()
            for name, loss in some.items():
                losses[name] = losses.get(name, 0.0) + float(loss.detach()) / objective.parts
        peers.add_gradients(parameters.values())
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        for name, number in peers.added(losses).items():
            curves.setdefault(f"{objective.name}.{name}.train", []).append((step + 1, number))
        step += 1
        last = step == objective.steps
        looks = step % every == 0 or last
        if looks:
            _look(objective, curves, step, parameters, best)
            last = last or _is_spent(objective, curves)
        if not first:
            continue
        now = time.perf_counter()
        if looks or now - told_at >= PROGRESS_S:
            told_at = now
            log.info("%s", _progress(objective, curves, step, now - began, 0 if last else step - done))
        if checkpoint is None or last or step % CHECKPOINT_STEPS:
            continue
        if now - saved_at >= saving / CHECKPOINT_SHARE:
            _save(objective, checkpoint, parameters, step, curves, best, optimiser)
            saved_at = time.perf_counter()
            saving = saved_at - now
    objective.learning(False)
    if best:
        _restore(parameters, best)
        if first:
            log.info("%s: the state after step %d is kept", objective.name, best_step(curves, objective.name))
    if checkpoint is not None and first and step > done:
        _save(objective, checkpoint, parameters, step, curves)
    return curves


def _agree(objective: Objective, done: int) -> None:
    """Raises TrainingStopped: processes learn different things, or begin at different steps."""
    told = peers.gathered((objective.name, objective.digest, done))
    if len(set(told)) > 1:
        said = "; ".join(f"process {n}: {name} {digest[:12]} after step {step}" for n, (name, digest, step) in enumerate(told))  # fmt: skip
        raise TrainingStopped(
            f"The processes of the training do not learn the same ({said}). They must have the same settings and packages, "
            f"and see the same home ({get_settings().home.expanduser().resolve()}): on several machines on a common disk."
        )


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
        # One looks for all: what ends the steps is the same number everywhere.
        for name, loss in peers.told_by_first(objective.held_out).items():
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
    steps: int,
    curves: Curves,
    best: Mapping[str, Tensor] | None = None,
    optimiser: Any = None,
) -> None:
    """Keep what learns; with what it needs to go on, where that is given."""
    from safetensors.torch import save_file

    state = {f"network.{name}": p.detach().contiguous() for name, p in parameters.items()}
    state |= {f"best.{name}": numbers.contiguous() for name, numbers in (best or {}).items()}
    for name, parameter in parameters.items():
        for key, value in (optimiser.state.get(parameter, {}) if optimiser else {}).items():
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
    moments = {
        place: {key: state[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        for place, name in enumerate(parameters)
        if f"adam.step.{name}" in state
    }
    # The optimiser takes them to where its parameters are: a file has them on the processor.
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
    curves = {
        name: [(int(s), float(v)) for s, v in points] for name, points in json.loads(about["curves"]).items()
    }
    if peers.rank() == 0:
        log.info("%s: goes on after step %s of %d", objective.name, about["steps"], objective.steps)
    best = {name: state[f"best.{name}"] for name in parameters if f"best.{name}" in state}
    return int(about["steps"]), curves, best


def _restore(parameters: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
